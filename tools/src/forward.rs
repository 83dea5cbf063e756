//! `forward ...`, `hold-music`, `srtp`: asks control for rules, or tells it some.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::admin::text;
use crate::cli::{ForwardCommand, HoldMusic, Set, Srtp, Tenant};
use crate::order::ask;

/// Shows or changes forwarding rules.
pub fn run(command: &ForwardCommand) -> Result<ExitCode, String> {
    match command {
        ForwardCommand::List(list) => told(&list.of, "forwards", None, lines),
        ForwardCommand::Set(set) => {
            let (when, to) = set.rule();
            let mut body = json!({ "when": when, "to": to });
            if when == "no_answer" {
                body["after_s"] = set.after.into();
            }
            told(&set.of, &format!("forwards/{}", set.number), Some(body), |_| words(set))
        }
        ForwardCommand::Remove(remove) => {
            let body = json!({ "when": remove.when });
            let path = format!("forwards/{}/remove", remove.number);
            told(&remove.of, &path, Some(body), |answer| {
                format!("{} removed", text(&answer["removed"]))
            })
        }
    }
}

/// Sets what held parties hear.
pub fn hold_music(music: &HoldMusic) -> Result<ExitCode, String> {
    let body = json!({ "prompt": music.prompt });
    told(&music.of, "hold-music", Some(body), |answer| match &answer["hold_music"] {
        Value::Null => "held parties hear nothing".to_owned(),
        prompt => format!("held parties hear {}", text(prompt)),
    })
}

/// Sets whether phones, or the peers of a trunk, speak SRTP.
pub fn srtp(srtp: &Srtp) -> Result<ExitCode, String> {
    let body = json!({ "policy": srtp.policy, "trunk": srtp.trunk });
    told(&srtp.of, "srtp", Some(body), |answer| {
        let whose = match &answer["trunk"] {
            Value::Null => "the phones".to_owned(),
            trunk => format!("trunk {}", text(trunk)),
        };
        format!("SRTP of {whose}: {}", text(&answer["policy"]))
    })
}

fn told(
    of: &Tenant,
    path: &str,
    body: Option<Value>,
    words: impl FnOnce(&Value) -> String,
) -> Result<ExitCode, String> {
    let path = format!("/v1/tenants/{}/{path}", of.name);
    ask(&of.view.at, of.view.json, &path, body, words)
}

fn words(set: &Set) -> String {
    let (when, to) = set.rule();
    format!("calls to {} go to {to}: {when}", set.number)
}

fn lines(answer: &Value) -> String {
    let rules = answer["forwards"].as_array().map_or(&[][..], Vec::as_slice);
    let line = |rule: &Value| {
        let after = match rule["after_s"].as_u64() {
            Some(seconds) => format!(" after {seconds} s"),
            None => String::new(),
        };
        let [number, when, to] = ["number", "when", "to"].map(|field| text(&rule[field]));
        format!("{number:<12} {when:<12} {to}{after}")
    };
    match rules {
        [] => "no rules".to_owned(),
        rules => rules.iter().map(line).collect::<Vec<_>>().join("\n"),
    }
}

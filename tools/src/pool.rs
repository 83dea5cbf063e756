//! `pool ...`: shows the slots of the pool, and orders CCBs from it and back.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::admin::text;
use crate::cli::PoolCommand;
use crate::order::ask;

/// Shows or orders.
pub fn run(command: &PoolCommand) -> Result<ExitCode, String> {
    match command {
        PoolCommand::List(list) => ask(&list.view.at, list.view.json, "/v1/pool", None, lines),
        PoolCommand::Apply(apply) => {
            let body = json!({ "ccb": apply.ccb });
            let words = |answer: &Value| format!("CCB {} is taken into use", answer["ccb"]);
            ask(&apply.view.at, apply.view.json, "/v1/pool/apply", Some(body), words)
        }
        PoolCommand::Release(release) => {
            let path = format!("/v1/pool/{}/release", release.ccb);
            let body = json!({ "within_s": release.within });
            let words = |answer: &Value| format!("CCB {} drains and goes back", answer["ccb"]);
            ask(&release.view.at, release.view.json, &path, Some(body), words)
        }
    }
}

fn lines(answer: &Value) -> String {
    let slots = answer["slots"].as_array().map_or(&[][..], Vec::as_slice);
    let line = |slot: &Value| {
        let left = match slot["stopped_within_s"].as_u64() {
            Some(seconds) => format!("  stopped within {seconds} s"),
            None => String::new(),
        };
        let [ccb, state, status] = ["ccb", "state", "status"].map(|field| text(&slot[field]));
        format!("{ccb:>5}  {state:<9} {status:<9} {:>6}/{}{left}", slot["logins"], slot["capacity"])
    };
    match slots {
        [] => "no slots: the pool is empty".to_owned(),
        slots => {
            let head = "  CCB  slot      status    logins".to_owned();
            let lines = std::iter::once(head).chain(slots.iter().map(line));
            lines.collect::<Vec<_>>().join("\n")
        }
    }
}

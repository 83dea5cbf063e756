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
            let kind = if apply.agent_proxy { "agent_proxy" } else { "ccb" };
            let body = json!({ "kind": kind, "number": apply.number });
            let words = |answer: &Value| format!("{} is taken into use", name(answer));
            ask(&apply.view.at, apply.view.json, "/v1/pool/apply", Some(body), words)
        }
        PoolCommand::Release(release) => {
            let kind = if release.agent_proxy { "agent_proxy/" } else { "" };
            let path = format!("/v1/pool/{kind}{}/release", release.number);
            let body = json!({ "within_s": release.within });
            let words = |answer: &Value| format!("{} drains and goes back", name(answer));
            ask(&release.view.at, release.view.json, &path, Some(body), words)
        }
    }
}

fn name(slot: &Value) -> String {
    match slot["agent_proxy"].as_u64() {
        Some(number) => format!("AgentProxy {number}"),
        None => format!("CCB {}", slot["ccb"]),
    }
}

fn lines(answer: &Value) -> String {
    let slots = answer["slots"].as_array().map_or(&[][..], Vec::as_slice);
    let line = |slot: &Value| {
        let has = match slot["kind"] == "agent_proxy" {
            true => {
                let http = slot["http"].as_array().map_or(&[][..], Vec::as_slice);
                let http: Vec<String> = http.iter().map(text).collect();
                format!("{} logins/s  {}", slot["logins"], http.join(" "))
            }
            false => {
                let left = match slot["stopped_within_s"].as_u64() {
                    Some(seconds) => format!(", stopped within {seconds} s"),
                    None => String::new(),
                };
                let [logins, capacity] = ["logins", "capacity"].map(|field| &slot[field]);
                format!("{logins} of {capacity} logins, {} calls{left}", slot["calls"])
            }
        };
        let blade = slot["blade"].as_str().unwrap_or("-");
        let [state, status] = ["state", "status"].map(|field| text(&slot[field]));
        format!("{:<14}  {blade:<16}  {state:<9} {status:<9} {has}", name(slot))
    };
    match slots {
        [] => "no slots: the pool is empty".to_owned(),
        slots => {
            let head = "slot            blade             state     status".to_owned();
            let lines = std::iter::once(head).chain(slots.iter().map(line));
            lines.collect::<Vec<_>>().join("\n")
        }
    }
}

//! `blades`: the blades that meet on the bus and their CCBs.

use std::process::ExitCode;

use serde_json::Value;

use crate::admin::text;
use crate::cli::View;
use crate::order::ask;

/// Shows them.
pub fn run(options: &View) -> Result<ExitCode, String> {
    ask(&options.at, options.json, "/v1/blades", None, lines)
}

fn lines(answer: &Value) -> String {
    if answer["bus"].is_null() {
        return "alone: [control] names no bus".to_owned();
    }
    let bus = if answer["connected"] == true { "there" } else { "gone; this blade works alone" };
    let mut lines = vec![format!(
        "bus: {bus}; this is blade {}; leader: {}; CCBs by {}; {} homes",
        text(&answer["name"]),
        answer["leader"].as_str().unwrap_or("none"),
        text(&answer["strategy"]),
        answer["homes"],
    )];
    for blade in answer["blades"].as_array().map_or(&[][..], Vec::as_slice) {
        let leads = if blade["leads"] == true { ", leads" } else { "" };
        let proxy = match blade["agent_proxy_number"].as_u64() {
            Some(number) => format!(", AgentProxy {number}"),
            None => String::new(),
        };
        lines.push(format!(
            "blade {}: heard {} ms ago, {} logins/s{leads}{proxy}",
            text(&blade["blade"]),
            blade["age_ms"],
            blade["logins_s"],
        ));
        for ccb in blade["ccbs"].as_array().map_or(&[][..], Vec::as_slice) {
            lines.push(format!(
                "  CCB {}: {}, {} online, {} phones, {} granted of {}, {} calls",
                ccb["ccb"],
                text(&ccb["status"]),
                ccb["online"],
                ccb["phones"],
                ccb["granted"],
                ccb["capacity"],
                ccb["calls"],
            ));
        }
    }
    lines.join("\n")
}

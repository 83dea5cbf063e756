//! `queues`, `queue ...`: shows the queues, and asks control to change them.

use std::process::ExitCode;

use serde_json::{Value, json};

use crate::admin::text;
use crate::cli::{QueueCommand, SetQueue, Tenant, View};
use crate::order::ask;
use crate::show::columns;

/// Shows the queues.
pub fn list(view: &View) -> Result<ExitCode, String> {
    ask(&view.at, view.json, "/v1/queues", None, table)
}

/// Changes them, or an agent's seat.
pub fn run(command: &QueueCommand) -> Result<ExitCode, String> {
    match command {
        QueueCommand::Set(set) => {
            let path = format!("queues/{}", set.queue);
            told(&set.of, &path, body_of(set), |_| format!("queue {} is set", set.queue))
        }
        QueueCommand::Remove(remove) => {
            let path = format!("queues/{}/remove", remove.queue);
            told(&remove.of, &path, json!({}), |_| format!("queue {} is removed", remove.queue))
        }
        QueueCommand::Ready(seat) => {
            let path = format!("seats/{}", seat.number);
            let words = |_: &Value| format!("{} is ready", seat.number);
            told(&seat.of, &path, json!({ "state": "ready" }), words)
        }
        QueueCommand::NotReady(seat) => {
            let path = format!("seats/{}", seat.number);
            let body = json!({ "state": "not_ready", "reason": seat.reason });
            told(&seat.of, &path, body, |_| format!("{} is not ready", seat.number))
        }
    }
}

fn body_of(set: &SetQueue) -> Value {
    json!({
        "skills": set.skills,
        "ring_s": set.ring,
        "after_call_s": set.after_call,
        "max_wait_s": set.max_wait,
        "max_callers": set.max_callers,
        "overflow": set.overflow,
        "prompt": set.prompt,
        "priority": set.priority,
    })
}

fn told(
    of: &Tenant,
    path: &str,
    body: Value,
    words: impl FnOnce(&Value) -> String,
) -> Result<ExitCode, String> {
    let path = format!("/v1/tenants/{}/{path}", of.name);
    ask(&of.view.at, of.view.json, &path, Some(body), words)
}

fn table(answer: &Value) -> String {
    let head = [
        "TENANT",
        "QUEUE",
        "WAITING",
        "OFFERED",
        "LONGEST",
        "READY",
        "BUSY",
        "JOINED",
        "CONNECTED",
        "ABANDONED",
        "OVERFLOWED",
        "SKILLS",
    ];
    let mut table = vec![head.map(str::to_owned).to_vec()];
    let queues = answer["queues"].as_array().map_or(&[][..], Vec::as_slice);
    for queue in queues {
        let longest_s = queue["longest_wait_ms"].as_f64().unwrap_or(0.0) / 1_000.0;
        let mut row: Vec<String> = ["tenant", "queue", "waiting", "offered"]
            .iter()
            .map(|name| text(&queue[*name]))
            .collect();
        row.push(format!("{longest_s:.1} s"));
        let counts =
            ["agents_idle", "agents_busy", "joined", "connected", "abandoned", "overflowed"];
        row.extend(counts.iter().map(|name| text(&queue[*name])));
        let skills = queue["skills"].as_array().map_or(&[][..], Vec::as_slice);
        row.push(skills.iter().map(text).collect::<Vec<_>>().join(" "));
        table.push(row);
    }
    match queues {
        [] => "no queues".to_owned(),
        _ => columns(&table),
    }
}

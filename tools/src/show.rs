//! `status`, `agents` and `calls`: one look, as a table or as JSON.

use std::fmt::Write as _;
use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;
use std::sync::Arc;

use abi::Region;
use serde_json::{Value, json};

use crate::admin::{ask, text};
use crate::cli;
use crate::config::Config;
use crate::http::{HttpError, Server};
use crate::place;
use crate::view::{self, View};

/// Counters that stand in the table's own lines.
const HEADLINES: [&str; 6] = [
    "calls_now",
    "calls_started",
    "calls_answered",
    "calls_failed",
    "registrations",
    "ports_in_use",
];

/// What `status` exits with when control is away and only the shared memory speaks.
const CONTROL_AWAY: u8 = 3;

/// Who answered.
enum From {
    Control,
    Memory,
}

/// `status`: from control, else from the regions.
pub fn status(options: &cli::View) -> Result<ExitCode, String> {
    let from = look(options, "/v1/status", status_text, view::read, |views| {
        let mut text = String::new();
        for view in views {
            text += &view_text(view);
        }
        text
    })?;
    Ok(match from {
        From::Control => ExitCode::SUCCESS,
        From::Memory => ExitCode::from(CONTROL_AWAY),
    })
}

/// `agents`: from control, else from the regions.
pub fn agents(options: &cli::View) -> Result<ExitCode, String> {
    look(options, "/v1/agents", agents_text, view::read_with_agents, |views| {
        let mut rows = vec![header(&[
            "TENANT", "NUMBER", "STATE", "CCB", "LOCATION", "PHONE", "SINCE", "NAME",
        ])];
        for view in views {
            for agent in &view.logged_in {
                rows.push(vec![
                    agent.tenant.clone(),
                    agent.number.clone(),
                    agent.state.to_owned(),
                    view.ccb.to_string(),
                    agent.location.clone(),
                    agent.phone.clone().unwrap_or_default(),
                    format!("{} s", agent.age_s),
                    agent.name.clone(),
                ]);
            }
        }
        let count = rows.len() - 1;
        format!("{}{count} logged in", columns(&rows))
    })
    .map(|_| ExitCode::SUCCESS)
}

/// `calls`: from control, else from the regions.
pub fn calls(options: &cli::View) -> Result<ExitCode, String> {
    look(options, "/v1/calls", calls_text, view::read, |views| {
        let mut rows = vec![header(&["CCB", "CALL", "STATE", "AGE", "CALLED", "PARTIES"])];
        for view in views {
            for call in &view.calls {
                let legs: Vec<String> = call
                    .legs
                    .iter()
                    .map(|leg| {
                        format!("{} ({} in, {} out)", leg.number, leg.packets_in, leg.packets_out)
                    })
                    .collect();
                rows.push(vec![
                    view.ccb.to_string(),
                    call.call.clone(),
                    call.state.to_owned(),
                    format!("{} s", call.age_s),
                    call.called.clone(),
                    legs.join(" - "),
                ]);
            }
        }
        columns(&rows)
    })
    .map(|_| ExitCode::SUCCESS)
}

/// Asks control and prints its answer; when it is away, what the regions say.
fn look(
    options: &cli::View,
    path: &str,
    print: impl Fn(&Value) -> String,
    read: impl Fn(&Arc<Region>) -> View,
    without: impl Fn(&[View]) -> String,
) -> Result<From, String> {
    let config = place::find(&options.at)?;
    let admin = Server::Unix(config.control.admin.clone());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    match runtime.block_on(ask(&admin, path)) {
        Ok(answer) => {
            match options.json {
                true => say(&answer.to_string())?,
                false => say(print(&answer).trim_end())?,
            }
            Ok(From::Control)
        }
        Err(HttpError::Broken(why)) => Err(format!("control at {admin}: {why}")),
        Err(HttpError::Away(error)) => {
            let (views, unseen) = views(&config, read);
            if views.is_empty() {
                let unseen = unseen.join("; ");
                return Err(format!("nothing runs: control at {admin}: {error}; {unseen}"));
            }
            let text = without(&views);
            if options.json {
                say(&json!({ "control": "away", "ccbs": views, "unseen": unseen }).to_string())?;
            } else {
                say(&format!("control is away ({error}); this is what the shared memory says"))?;
                unseen.iter().try_for_each(|why| say(why))?;
                say(text.trim_end())?;
            }
            Ok(From::Memory)
        }
    }
}

/// Prints a line; a reader that has seen enough, such as `head`, is no fault, a full disk is.
pub fn say(text: &str) -> Result<(), String> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{text}").and_then(|()| out.flush()) {
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        written => written.map_err(|error| format!("standard output: {error}")),
    }
}

/// What each region says, and why some say nothing.
fn views(config: &Config, read: impl Fn(&Arc<Region>) -> View) -> (Vec<View>, Vec<String>) {
    let (mut views, mut unseen) = (Vec::new(), Vec::new());
    for ccb in &config.ccbs {
        match view::open(ccb) {
            Ok(region) => views.push(read(&region)),
            Err(error) => unseen.push(format!("CCB {}: {error}", ccb.number)),
        }
    }
    (views, unseen)
}

fn status_text(status: &Value) -> String {
    let mut out = format!(
        "control: pid {}, up {} s, {} agents online, logins: {} granted, {} refused, {} throttled\n",
        status["pid"],
        status["uptime_s"],
        status["online"],
        status["logins_ok"],
        status["logins_refused"],
        status["logins_throttled"],
    );
    for ccb in rows(&status["ccbs"]) {
        let _ = writeln!(
            out,
            "CCB {}: {}, data plane pid {}, incarnation {}, {} online, {} phones without a desk, \
             {} calls, {} leases held",
            ccb["ccb"],
            text(&ccb["status"]),
            text(&ccb["data_plane_pid"]),
            text(&ccb["incarnation"]),
            ccb["online"],
            ccb["phones"],
            ccb["calls"],
            text(&ccb["leases_held"]),
        );
        let workers: Vec<(String, &Value)> = rows(&ccb["workers"])
            .iter()
            .map(|worker| (worker["worker"].to_string(), &worker["counters"]))
            .collect();
        out += &counters_text(&workers);
    }
    out
}

fn view_text(view: &View) -> String {
    let life = if view.data_plane.alive { "alive" } else { "gone" };
    let mut out = format!(
        "CCB {}: data plane pid {} {life}, {}, incarnation {}, heartbeat {} ms ago, {} logged in, \
         {} registered, {} calls\n",
        view.ccb,
        view.data_plane.pid,
        view.data_plane.state,
        view.data_plane.incarnation,
        view.data_plane.heartbeat_ms,
        view.agents,
        view.registered,
        view.calls.len(),
    );
    let counters: Vec<(String, Value)> = view
        .workers
        .iter()
        .map(|worker| (worker.worker.to_string(), json!(worker.counters)))
        .collect();
    let workers: Vec<(String, &Value)> =
        counters.iter().map(|(worker, counters)| (worker.clone(), counters)).collect();
    out += &counters_text(&workers);
    out
}

/// The counters, a column for each worker; those that are 0 everywhere are left out.
fn counters_text(workers: &[(String, &Value)]) -> String {
    let count = |counters: &Value, name: &str| counters[name].as_u64().unwrap_or(0);
    let mut names: Vec<&str> = HEADLINES.to_vec();
    for (_, counters) in workers {
        let all = counters.as_object().into_iter().flatten();
        for (name, _) in all.filter(|(_, value)| value.as_u64() != Some(0)) {
            if !names.contains(&name.as_str()) {
                names.push(name);
            }
        }
    }
    let mut head = vec!["  counter".to_owned()];
    head.extend(workers.iter().map(|(worker, _)| format!("worker {worker}")));
    let mut table = vec![head];
    for name in names {
        let mut row = vec![format!("  {name}")];
        row.extend(workers.iter().map(|(_, counters)| count(counters, name).to_string()));
        table.push(row);
    }
    columns(&table)
}

fn agents_text(answer: &Value) -> String {
    let mut table = vec![header(&[
        "TENANT", "AGENT", "NUMBER", "STATE", "CCB", "LOCATION", "PHONE", "LEASE", "SINCE", "NAME",
    ])];
    for agent in rows(&answer["agents"]) {
        let mut row: Vec<String> =
            ["tenant", "agent", "number", "state", "ccb", "location", "phone", "lease"]
                .iter()
                .map(|name| text(&agent[*name]))
                .collect();
        row.push(format!("{} s", agent["age_s"]));
        row.push(text(&agent["name"]));
        table.push(row);
    }
    let count = table.len() - 1;
    format!("{}{count} logged in", columns(&table))
}

fn calls_text(answer: &Value) -> String {
    let mut table =
        vec![header(&["CCB", "CALL", "SERIAL", "STATE", "PARTIES (packets in, out, lost)"])];
    for call in rows(&answer["calls"]) {
        let legs: Vec<String> = rows(&call["legs"])
            .iter()
            .map(|leg| {
                format!(
                    "{} ({}, {}, {})",
                    text(&leg["number"]),
                    leg["packets_in"],
                    leg["packets_out"],
                    leg["lost"]
                )
            })
            .collect();
        let mut row: Vec<String> =
            ["ccb", "call", "serial", "state"].iter().map(|name| text(&call[*name])).collect();
        row.push(legs.join(" - "));
        table.push(row);
    }
    let count = table.len() - 1;
    format!("{}{count} calls", columns(&table))
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn header(names: &[&str]) -> Vec<String> {
    names.iter().map(|name| (*name).to_owned()).collect()
}

/// Lines of aligned columns: numbers to the right, all else to the left.
pub fn columns(table: &[Vec<String>]) -> String {
    let count = table.iter().map(Vec::len).max().unwrap_or(0);
    let widest = |column: usize| {
        let cells = table.iter().filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let numeric = |column: usize| {
        let mut cells = table.iter().skip(1).filter_map(|row| row.get(column));
        column > 0 && table.len() > 1 && cells.all(|cell| cell.parse::<f64>().is_ok())
    };
    let shape: Vec<(usize, bool)> = (0..count).map(|at| (widest(at), numeric(at))).collect();
    let mut text = String::new();
    for row in table {
        let mut line = String::new();
        for (cell, (width, right)) in row.iter().zip(&shape) {
            let _ = match right {
                true => write!(line, "{cell:>width$}  "),
                false => write!(line, "{cell:<width$}  "),
            };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned() {
        let table = [
            vec!["name".into(), "n".into()],
            vec!["a".into(), "10".into()],
            vec!["longer".into(), "5".into()],
        ];
        assert_eq!(columns(&table), "name     n\na       10\nlonger   5\n");
    }

    #[test]
    fn control_s_answers_become_tables() {
        let status = json!({
            "pid": 7, "uptime_s": 3, "online": 2,
            "logins_ok": 2, "logins_refused": 1, "logins_throttled": 0,
            "ccbs": [{
                "ccb": 1, "status": "normal", "data_plane_pid": 8, "incarnation": 1, "online": 2,
                "phones": 0, "calls": 1, "leases_held": 2,
                "workers": [
                    {"worker": 0, "counters": {"rtp_received": 5, "drop_sip_malformed": 0}},
                    {"worker": 1, "counters": {"rtp_received": 7}},
                ],
            }],
        });
        let text = status_text(&status);
        assert!(text.contains("logins: 2 granted, 1 refused, 0 throttled"), "{text}");
        assert!(text.contains("CCB 1: normal, data plane pid 8"), "{text}");
        let line = text.lines().find(|line| line.contains("rtp_received")).unwrap();
        assert_eq!(line.split_whitespace().collect::<Vec<_>>(), ["rtp_received", "5", "7"]);
        assert!(!text.contains("drop_sip_malformed"));

        let agents = json!({"agents": [{
            "tenant": "demo", "agent": "1001", "number": "1001", "state": "online", "ccb": 1,
            "location": "local", "phone": null, "lease": "free", "age_s": 4, "name": "Agent 1001",
        }]});
        let text = agents_text(&agents);
        assert!(text.contains("online") && text.ends_with("1 logged in"), "{text}");
    }
}

//! `status`, `agents` and `calls`: one look, as a table or as JSON.

use std::collections::BTreeMap;
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
pub const CONTROL_AWAY: u8 = 3;

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

/// `leases`: from control; without it nobody knows what is asked for, and the words say who is held.
pub fn leases(options: &cli::View) -> Result<ExitCode, String> {
    look(options, "/v1/leases", leases_text, view::read, |views| {
        let held = views.iter().map(|view| format!("CCB {}: {} held", view.ccb, view.leases_held));
        held.collect::<Vec<_>>().join("\n")
    })
    .map(|_| ExitCode::SUCCESS)
}

/// `calls`: from control, else from the regions.
pub fn calls(options: &cli::View) -> Result<ExitCode, String> {
    look(options, "/v1/calls", calls_text, view::read, |views| {
        let calls = views.iter().flat_map(|view| {
            view.calls.iter().map(|call| {
                let mut shown = json!(call);
                shown["ccb"] = view.ccb.into();
                shown["duration_ms"] = (call.age_s * 1_000).into();
                shown
            })
        });
        calls_text(&json!({ "calls": calls.collect::<Vec<_>>() }))
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
    out += &records_line(&status["records"]);
    if status["directory"]["state"] == "away" {
        let place = text(&status["directory"]["place"]);
        out += &format!("directory: AWAY, {place}; nobody can log in\n");
    }
    out += &bus_line(&status["bus"], &status["blade"]);
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
        let total = |name: &str| ccb["counters"][name].as_u64().unwrap_or(0);
        out += &media_line(total, ccb["spool"]["state"].as_str().unwrap_or(""));
        out += &trunks_line(rows(&ccb["trunks"]));
        let workers: Vec<(String, &Value)> = rows(&ccb["workers"])
            .iter()
            .map(|worker| (worker["worker"].to_string(), &worker["counters"]))
            .collect();
        out += &counters_text(&workers);
    }
    out
}

/// How it goes with other blades; nothing when there are none to be.
fn bus_line(bus: &Value, blade: &Value) -> String {
    if bus.is_null() {
        return String::new();
    }
    let state = match (bus["connected"] == true, blade["confirmed"] == true) {
        (false, _) => "gone, this blade works alone",
        (true, true) => "there",
        (true, false) => "there, not heard since a pause",
    };
    let leader = blade["leader"].as_str().unwrap_or("none");
    let grants = match (bus["grants"]["p50_us"].as_u64(), bus["grants"]["p99_us"].as_u64()) {
        (Some(p50), Some(p99)) => format!("; grants in {p50} us, 99 % in {p99} us"),
        _ => String::new(),
    };
    format!(
        "bus: {state}; blade {}, leader {leader}, {} blades, {} homes; {} losses, {} unanswered, \
         {} dropped{grants}\n",
        text(&blade["name"]),
        blade["blades_seen"],
        blade["homes"],
        bus["losses"],
        bus["unanswered"],
        ["drop_garbled", "drop_full", "drop_away"]
            .iter()
            .filter_map(|name| bus[name].as_u64())
            .sum::<u64>(),
    )
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
    let total = |name: &str| {
        view.workers.iter().filter_map(|worker| worker.counters.get(name)).sum::<u64>()
    };
    out += &media_line(total, "");
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
        "TENANT", "AGENT", "NUMBER", "STATE", "SEAT", "CCB", "LOCATION", "PHONE", "LEASE", "SINCE",
        "NAME",
    ])];
    for agent in rows(&answer["agents"]) {
        let mut row: Vec<String> =
            ["tenant", "agent", "number", "state", "seat", "ccb", "location", "phone", "lease"]
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

fn leases_text(answer: &Value) -> String {
    let mut table =
        vec![header(&["TENANT", "NUMBER", "OWNER", "HOLDER", "PURPOSE", "STATE", "FENCE", "AGE"])];
    for lease in rows(&answer["leases"]) {
        let cells = ["tenant", "number", "owner", "holder", "purpose", "state", "fence"];
        let mut row: Vec<String> = cells.iter().map(|name| text(&lease[*name])).collect();
        row.push(format!("{:.1} s", lease["age_ms"].as_f64().unwrap_or(0.0) / 1e3));
        table.push(row);
    }
    let count = table.len() - 1;
    format!("{}{count} hosted over CCBs", columns(&table))
}

/// A line for each leg, and what they have in common.
fn calls_text(answer: &Value) -> String {
    let mut table = vec![header(&[
        "CCB", "CALL", "STATE", "AGE", "LEG", "NUMBER", "IN", "OUT", "LOST", "JITTER", "RTT",
        "MOS", "PATH",
    ])];
    let mut paths: BTreeMap<String, u64> = BTreeMap::new();
    let (mut received, mut lost) = (0, 0);
    let calls = rows(&answer["calls"]);
    for call in calls {
        let mut head: Vec<String> =
            ["ccb", "call", "state"].iter().map(|name| text(&call[*name])).collect();
        head.push(format!("{} s", call["duration_ms"].as_u64().unwrap_or(0) / 1_000));
        for leg in rows(&call["legs"]) {
            let mut row = std::mem::replace(&mut head, vec![String::new(); 4]);
            row.extend(leg_cells(leg));
            table.push(row);
            received += leg["packets_in"].as_u64().unwrap_or(0);
            lost += leg["lost"].as_u64().unwrap_or(0);
            *paths.entry(text(&leg["path"])).or_default() += 1;
        }
        if head.iter().any(|cell| !cell.is_empty()) {
            table.push(head);
        }
    }
    paths.retain(|path, _| !["", "none"].contains(&path.as_str()));
    let paths: Vec<_> = paths.iter().map(|(path, count)| format!("{count} by {path}")).collect();
    let streams = if paths.is_empty() { "none".to_owned() } else { paths.join(", ") };
    let calls = calls.len();
    let loss = percent(lost, received);
    format!("{}{calls} calls; streams: {streams}; {lost} packets lost ({loss})", columns(&table))
}

fn leg_cells(leg: &Value) -> Vec<String> {
    let ms = |value: &Value| {
        value.as_u64().map_or(String::new(), |us| format!("{:.1} ms", us as f64 / 1e3))
    };
    let count = |name: &str| leg[name].as_u64().unwrap_or(0);
    let (received, lost) = (count("packets_in"), count("lost"));
    let path = match leg["path_reason"].as_str() {
        None | Some("") => text(&leg["path"]),
        Some(why) => format!("{} ({why})", text(&leg["path"])),
    };
    vec![
        text(&leg["leg"]),
        text(&leg["number"]),
        received.to_string(),
        count("packets_out").to_string(),
        if lost == 0 { "0".into() } else { format!("{lost} ({})", percent(lost, received)) },
        ms(&leg["jitter_us"]),
        ms(&leg["round_trip_us"]),
        leg["mos"].as_f64().map_or(String::new(), |mos| format!("{mos:.2}")),
        path,
    ]
}

/// How call records do; nothing where none are kept.
fn records_line(records: &Value) -> String {
    let count = |name: &str| records[name].as_u64().unwrap_or(0);
    match records["state"].as_str() {
        None => String::new(),
        Some("writing") => format!("call records: {} lines written\n", count("written")),
        Some(state) => format!(
            "call records: {}, {} writes failed, {} calls wait, {} lines written\n",
            state.to_uppercase(),
            count("failed"),
            count("waiting"),
            count("written"),
        ),
    }
}

/// How much of what was sent is lost.
fn percent(lost: u64, received: u64) -> String {
    format!("{:.2} %", 100.0 * lost as f64 / (lost + received).max(1) as f64)
}

/// Which of the watched trunks answer; nothing where none is watched.
fn trunks_line(trunks: &[Value]) -> String {
    if trunks.is_empty() {
        return String::new();
    }
    let state = |trunk: &Value| match (trunk["up"] == true, trunk["why"].as_str()) {
        (true, _) => "up".to_owned(),
        (false, Some(why)) => format!("DOWN ({why})"),
        (false, None) => "DOWN".to_owned(),
    };
    let doubt =
        |trunk: &Value| if trunk["unverified"] == true { ", CERTIFICATE NOT VERIFIED" } else { "" };
    let shown =
        |trunk: &Value| format!("{} {}{}", text(&trunk["address"]), state(trunk), doubt(trunk));
    format!("trunks: {}\n", trunks.iter().map(shown).collect::<Vec<_>>().join(", "))
}

/// What becomes of media: which way streams take, what is recorded and mixed, how the spool does.
fn media_line(count: impl Fn(&str) -> u64, spool: &str) -> String {
    let lost = count("spool_lost");
    let trouble = match (spool, lost) {
        ("" | "writing", 0) => String::new(),
        ("" | "writing", lost) => format!("; the spool lost {lost} bytes"),
        (state, lost) => format!("; THE SPOOL IS {}, {lost} bytes lost", state.to_uppercase()),
    };
    let srtp = match count("streams_srtp") {
        0 => String::new(),
        legs => format!(", {legs} with SRTP"),
    };
    format!(
        "  media: {} streams in the process, {} by XDP, {} legs recorded, {} in mixes{srtp}{trouble}\n",
        count("streams_in_process"),
        count("streams_xdp"),
        count("recordings_now"),
        count("mixed_now"),
    )
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
            "records": {"state": "failing", "failed": 3, "waiting": 2, "written": 8},
            "ccbs": [{
                "ccb": 1, "status": "normal", "data_plane_pid": 8, "incarnation": 1, "online": 2,
                "phones": 0, "calls": 1, "leases_held": 2, "spool": {"state": "slow"},
                "trunks": [{"address": "10.0.0.1:5060", "up": true},
                    {"address": "10.0.0.2:5060", "up": false, "why": "no answer",
                     "unverified": true}],
                "counters": {"streams_in_process": 4, "streams_xdp": 6, "streams_srtp": 3, "recordings_now": 2,
                    "spool_lost": 9},
                "workers": [
                    {"worker": 0, "counters": {"rtp_received": 5, "drop_sip_malformed": 0}},
                    {"worker": 1, "counters": {"rtp_received": 7}},
                ],
            }],
        });
        let text = status_text(&status);
        assert!(text.contains("logins: 2 granted, 1 refused, 0 throttled"), "{text}");
        let records = "call records: FAILING, 3 writes failed, 2 calls wait, 8 lines written";
        assert!(text.contains(records), "{text}");
        assert!(text.contains("CCB 1: normal, data plane pid 8"), "{text}");
        let trunks = "trunks: 10.0.0.1:5060 up, 10.0.0.2:5060 DOWN (no answer), \
                      CERTIFICATE NOT VERIFIED\n";
        assert!(text.contains(trunks), "{text}");
        let media = "media: 4 streams in the process, 6 by XDP, 2 legs recorded, 0 in mixes, 3 with SRTP; \
                     THE SPOOL IS SLOW, 9 bytes lost";
        assert!(text.contains(media), "{text}");
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
    #[test]
    fn each_leg_shows_its_quality_and_its_path() {
        let leg = |leg: u32, path: &str, why: &str| {
            json!({"leg": leg, "number": format!("100{leg}"), "packets_in": 99, "packets_out": 98,
                "lost": leg, "jitter_us": 1_540, "round_trip_us": null, "mos": 4.4, "path": path,
                "path_reason": why})
        };
        let legs = [leg(0, "xdp", ""), leg(1, "io_uring", "recording")];
        let call = json!({"ccb": 1, "call": "5.3", "state": "answered", "duration_ms": 61_000,
            "legs": legs});
        let asked =
            json!({"ccb": 1, "call": "6.1", "state": "asked", "duration_ms": 0, "legs": []});
        let text = calls_text(&json!({ "calls": [call, asked] }));
        let lines: Vec<Vec<&str>> =
            text.lines().map(|line| line.split_whitespace().collect()).collect();
        let expected = "1 5.3 answered 61 s 0 1000 99 98 0 1.5 ms 4.40 xdp";
        assert_eq!(lines[1].join(" "), expected);
        let expected = "1 1001 99 98 1 (1.00 %) 1.5 ms 4.40 io_uring (recording)";
        assert_eq!(lines[2].join(" "), expected);
        assert_eq!(lines[3].join(" "), "1 6.1 asked 0 s");
        let total = "2 calls; streams: 1 by io_uring, 1 by xdp; 1 packets lost (0.50 %)";
        assert!(text.ends_with(total), "{text}");
        assert!(
            calls_text(&json!({ "calls": [] }))
                .ends_with("0 calls; streams: none; 0 packets lost (0.00 %)")
        );
    }
}

//! `jackfield load` on both sides of ours: agents who log in, register, and call each other.

use std::path::Path;
use std::time::Duration;

use house_bench::lab::{Lab, SBC};
use house_bench::{load, report};

use crate::peers::{AGENTS, HTTP_PORT};
use crate::sipp::{Outcome, Plan};

/// Calls that are made before those that count: what is made once is made by then.
pub const FEW: u32 = 50;

/// Logs all agents in, and lets them make so many calls. With what came of them, from the first call to the last: the
/// time that these processes had a CPU, and how long that was.
pub fn call(
    lab: &Lab,
    program: &Path,
    plan: &Plan,
    calls: u32,
    peer: &[u32],
) -> Result<(Outcome, Duration, Duration), String> {
    let mut command = lab.on_generator(Path::new("taskset"));
    command.args(["-c", "1"]).arg(program).arg("load");
    command.args(["--http", &format!("{SBC}:{HTTP_PORT}"), "--agents", &AGENTS.to_string()]);
    command.args(["--calls", &calls.to_string(), "--rate", &plan.rate.to_string()]);
    command.args(["--duration", &format!("{:.3}", f64::from(plan.hold_ms) / 1e3), "--ring", "0"]);
    let spent = |load| (report::cpu(peer), report::cpu(&[load]));
    let limit = Duration::from_secs(u64::from(plan.seconds) + 180);
    let done = load::run(&mut command, &lab.folder.join("load.txt"), limit, spent)?;
    let mut outcome = read(&done.text, calls)
        .ok_or_else(|| format!("no report of a load: {} {}", done.said, done.text))?;
    let [before, after] = done.read;
    outcome.cpu = after.1.saturating_sub(before.1);
    Ok((outcome, after.0.saturating_sub(before.0), done.time))
}

/// The table that a load prints.
fn read(text: &str, calls: u32) -> Option<Outcome> {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let completed: u64 = value("hung up as planned")?.parse().ok()?;
    let ends = |name: &str| {
        let delays = value(name)?.split(", ").filter_map(|one| one.parse().ok());
        let delays: Vec<f64> = delays.collect();
        <[f64; 3]>::try_from(delays).ok()
    };
    let [p50, _, p99] = ends("set-up p50, p95, p99 ms")?;
    Some(Outcome {
        completed,
        failed: u64::from(calls).saturating_sub(completed),
        retransmissions: value("SIP sent again")?.parse().ok()?,
        delay_ms: [p50, p99],
        in_peer_ms: ends("of it in the blade, ms"),
        ..Outcome::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let text = "logged in  2 in 0.1 s\nhung up as planned        40\n\
                    set-up p50, p95, p99 ms   0.31, 0.50, 1.20\n\
                    of it in the blade, ms    0.21, 0.40, 0.70\nSIP sent again            3\n";
        let outcome = read(text, 41).expect("whole");
        assert_eq!((outcome.completed, outcome.failed, outcome.retransmissions), (40, 1, 3));
        assert_eq!(
            (outcome.delay_ms, outcome.in_peer_ms),
            ([0.31, 1.20], Some([0.21, 0.40, 0.70]))
        );
        assert!(read("", 1).is_none());
    }
}

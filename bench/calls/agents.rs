//! `jackfield load` on both sides of ours: agents who log in, register, and call each other.

use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use house_bench::lab::{Lab, SBC};
use house_bench::report;

use crate::peers::{AGENTS, HTTP_PORT};
use crate::sipp::{Outcome, Plan};

/// Calls of the run whose cost is taken off: what logins and registrations cost is in it.
pub const FEW: u32 = 200;

/// Logs all agents in, and lets them make so many calls.
pub fn call(lab: &Lab, program: &Path, plan: &Plan, calls: u32) -> Result<Outcome, String> {
    let mut command = lab.on_generator(Path::new("taskset"));
    command.args(["-c", "1"]).arg(program).arg("load");
    command.args(["--http", &format!("{SBC}:{HTTP_PORT}"), "--agents", &AGENTS.to_string()]);
    command.args(["--calls", &calls.to_string(), "--rate", &plan.rate.to_string()]);
    command.args(["--duration", &format!("{:.3}", f64::from(plan.hold_ms) / 1e3), "--ring", "0"]);
    let file = lab.folder.join("load.txt");
    let failed = |error: std::io::Error| format!("{}: {error}", file.display());
    let output = std::fs::File::create(&file).map_err(failed)?;
    command.stdin(Stdio::null()).stdout(output).stderr(Stdio::null());
    let mut child = command.spawn().map_err(|error| format!("jackfield load: {error}"))?;
    let end = Instant::now() + Duration::from_secs(u64::from(plan.seconds) + 180);
    let mut cpu = Duration::ZERO;
    while child.try_wait().map_err(failed)?.is_none() {
        cpu = cpu.max(report::cpu(&[child.id()]));
        if Instant::now() > end {
            let _ = child.kill();
            let _ = child.wait();
            return Err("jackfield load does not end".to_owned());
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    let text = std::fs::read_to_string(&file).map_err(failed)?;
    let mut outcome = read(&text, calls).ok_or_else(|| format!("no report of a load: {text}"))?;
    outcome.cpu = cpu;
    Ok(outcome)
}

/// The table that a load prints.
fn read(text: &str, calls: u32) -> Option<Outcome> {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let completed: u64 = value("hung up as planned")?.parse().ok()?;
    let ends = |name: &str| {
        let delays = value(name)?.split(", ").filter_map(|one| one.parse().ok());
        let delays: Vec<f64> = delays.collect();
        Some([*delays.first()?, *delays.get(2)?])
    };
    Some(Outcome {
        completed,
        failed: u64::from(calls).saturating_sub(completed),
        retransmissions: value("SIP sent again")?.parse().ok()?,
        delay_ms: ends("set-up p50, p95, p99 ms")?,
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
        assert_eq!((outcome.delay_ms, outcome.in_peer_ms), ([0.31, 1.20], Some([0.21, 0.70])));
        assert!(read("", 1).is_none());
    }
}

//! SIPp on both sides of Kamailio.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use house_bench::lab::{Lab, PHONES, Running, SBC, TRUNK};

/// Where calls end.
pub const CALLEE_PORT: u16 = 5080;
const CALLER_PORT: u16 = 5070;
const START_LIMIT: Duration = Duration::from_secs(10);

/// How many calls.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// A second.
    pub rate: u32,
    /// For so long.
    pub seconds: u32,
    /// Each stands for so long.
    pub hold_ms: u32,
}

/// What came of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Calls that went by the book.
    pub completed: u64,
    /// Calls that did not.
    pub failed: u64,
    /// Messages that the caller sent again.
    pub retransmissions: u64,
    /// From INVITE to 200: the median and the 99th percentile.
    pub delay_ms: [f64; 2],
    /// The median, the 95th and the 99th percentile of that for which no caller and no called one had to answer, by the
    /// kernel's receive timestamps; none where it is not known.
    pub in_peer_ms: Option<[f64; 3]>,
    /// The caller's own time on a CPU.
    pub cpu: Duration,
}

fn command(lab: &Lab) -> Command {
    let mut command = lab.on_generator(Path::new("taskset"));
    command.args(["-c", "1", "sipp"]);
    command
}

/// Answers calls until it is dropped.
pub fn callee(lab: &Lab) -> Result<Running, String> {
    let mut command = command(lab);
    command.arg("-sf").arg(scenario(lab, "callee", include_str!("callee.xml"))?);
    command.args(["-i", PHONES, "-p", &CALLEE_PORT.to_string(), "-nostdin"]);
    let mut callee = lab.start(&mut command, "callee")?;
    let pid = callee.pid();
    callee.wait_for(START_LIMIT, move |_| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/net/udp")).ok()?;
        text.contains(&format!(":{CALLEE_PORT:04X} ")).then_some(())
    })?;
    Ok(callee)
}

/// Makes calls, all of them.
pub fn caller(lab: &Lab, plan: &Plan, name: &str) -> Result<Outcome, String> {
    let calls = plan.rate * plan.seconds;
    let (stats, delays) = (lab.folder.join(format!("{name}.csv")), lab.folder.clone());
    let mut command = command(lab);
    command.arg(format!("{SBC}:5060")).arg("-sf");
    command.arg(scenario(lab, "caller", include_str!("caller.xml"))?);
    command.args(["-s", "9000", "-i", TRUNK, "-nostdin"]);
    command.args(["-p", &CALLER_PORT.to_string(), "-r", &plan.rate.to_string()]);
    command.args(["-m", &calls.to_string(), "-d", &plan.hold_ms.to_string(), "-l", "100000"]);
    command.args(["-timeout", &(plan.seconds + 60).to_string(), "-recv_timeout", "20000"]);
    command.args(["-trace_stat", "-fd", "1", "-stf"]).arg(&stats);
    command.args(["-trace_rtt", "-rtt_freq", "1"]).current_dir(&delays);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _ = std::fs::remove_file(&stats);
    let mut child = command.spawn().map_err(|error| format!("sipp: {error}"))?;
    let pid = child.id();
    let end = Instant::now() + Duration::from_secs(u64::from(plan.seconds) + 120);
    let mut cpu = Duration::ZERO;
    loop {
        if let Some(spent) = schedstat(pid) {
            cpu = spent;
        }
        match child.try_wait() {
            Ok(Some(_)) => break,
            Ok(None) if Instant::now() < end => std::thread::sleep(Duration::from_millis(50)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err("sipp does not end".to_owned());
            }
        }
    }
    let mut outcome = read_stats(&stats)?;
    outcome.cpu = cpu;
    let file = lab.folder.join(format!("caller_{pid}_rtt.csv"));
    outcome.delay_ms = read_delays(&std::fs::read_to_string(file).unwrap_or_default());
    Ok(outcome)
}

fn scenario(lab: &Lab, name: &str, text: &str) -> Result<PathBuf, String> {
    let file = lab.folder.join(format!("{name}.xml"));
    std::fs::write(&file, text).map_err(|error| format!("{}: {error}", file.display()))?;
    Ok(file)
}

fn schedstat(pid: u32) -> Option<Duration> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/schedstat")).ok()?;
    text.split_whitespace().next()?.parse().ok().map(Duration::from_nanos)
}

/// The last line of SIPp's statistics, by the names of its columns.
fn read_stats(file: &Path) -> Result<Outcome, String> {
    let text =
        std::fs::read_to_string(file).map_err(|error| format!("{}: {error}", file.display()))?;
    stats(&text).ok_or_else(|| format!("{}: no statistics of SIPp 3.6", file.display()))
}

fn stats(text: &str) -> Option<Outcome> {
    let mut lines = text.lines();
    let names: Vec<&str> = lines.next()?.split(';').collect();
    let values: Vec<&str> = lines.last()?.split(';').collect();
    let value = |name: &str| -> Option<u64> {
        let place = names.iter().position(|known| *known == name)?;
        values.get(place)?.parse().ok()
    };
    Some(Outcome {
        completed: value("SuccessfulCall(C)")?,
        failed: value("FailedCall(C)")?,
        retransmissions: value("Retransmissions(C)")?,
        ..Outcome::default()
    })
}

/// Lines of time, delay in milliseconds, and the name of what was measured.
fn read_delays(text: &str) -> [f64; 2] {
    let mut delays: Vec<f64> =
        text.lines().filter_map(|line| line.split(';').nth(1)?.parse().ok()).collect();
    delays.sort_by(f64::total_cmp);
    let at = |part: f64| {
        let place = (delays.len() as f64 * part) as usize;
        delays.get(place.min(delays.len().saturating_sub(1))).copied().unwrap_or(0.0)
    };
    [at(0.5), at(0.99)]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statistics_are_read_by_their_names() {
        let text = "StartTime;SuccessfulCall(P);SuccessfulCall(C);FailedCall(C);Retransmissions(C);\n\
                    a;1;1;0;0;\nb;2;30;1;4;\n";
        let outcome = stats(text).expect("whole");
        assert_eq!((outcome.completed, outcome.failed, outcome.retransmissions), (30, 1, 4));
        assert!(stats("a;b\n1;2\n").is_none());
    }

    #[test]
    fn delays_are_ranked() {
        let text: String = (0..100).map(|n| format!("1;{}.5;1\n", 99 - n)).collect();
        assert_eq!(read_delays(&text), [50.5, 99.5]);
        assert_eq!(read_delays("Date_ms;response_time_ms;rtd_no\n"), [0.0, 0.0]);
    }
}

//! Calls of `jackfield load` between agents of one blade, or of two, and what they cost.

use std::process::Command;
use std::time::Duration;

use house_bench::lab::Lab;
use house_bench::load;

use crate::site::{HTTP_PORT, Site, Spent, between};

/// How long a load may take beyond its calls: logins, registrations.
const LIMIT: Duration = Duration::from_secs(240);

/// Which calls.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// `within` or `across`.
    pub pairs: &'static str,
    /// Agents, half of them callers.
    pub agents: u32,
    /// How many.
    pub calls: u32,
    /// A second.
    pub rate: u32,
    /// How long each stands, in seconds.
    pub hold_s: f64,
    /// With RTP both ways.
    pub media: bool,
}

/// What came of them.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// Calls that went by the book.
    pub completed: u32,
    /// From INVITE to 200, in milliseconds: the median and the 99th percentile.
    pub set_up_ms: [f64; 2],
    /// CPU time from the first call to the last, without what the processes spend when nobody calls.
    pub spent: Spent,
    /// RTP packets sent and received, when there were any.
    pub rtp: [u64; 2],
}

impl Outcome {
    /// CPU time of all processes a call, in milliseconds.
    pub fn ms_a_call(&self) -> f64 {
        let all: Duration = self.spent.values().sum();
        all.as_secs_f64() * 1e3 / f64::from(self.completed.max(1))
    }
}

/// Lets agents log in and call each other; `idle` is what each process spends in a second without that.
pub fn run(lab: &Lab, site: &Site, plan: &Plan, idle: &Spent) -> Result<Outcome, String> {
    let mut command = Command::new(site.program());
    command.args(["load", "--pairs", plan.pairs, "--ring", "0"]);
    command.args(["--http", &format!("127.0.0.1:{HTTP_PORT}")]);
    command.args(["--agents", &plan.agents.to_string(), "--calls", &plan.calls.to_string()]);
    command.args(["--rate", &plan.rate.to_string(), "--duration", &plan.hold_s.to_string()]);
    if plan.media {
        command.arg("--rtp");
    }
    let file = lab.folder.join("load.txt");
    let done = load::run(&mut command, &file, LIMIT, |_| site.spent())?;
    let mut outcome = read(&done.text)
        .ok_or_else(|| format!("no report of a load: {} {}", done.said, done.text))?;
    let [before, after] = &done.read;
    outcome.spent = without_idle(between(before, after), idle, done.time);
    if outcome.completed < plan.calls {
        eprintln!("  {} of {} calls went as planned: {}", outcome.completed, plan.calls, done.said);
    }
    Ok(outcome)
}

fn without_idle(all: Spent, idle: &Spent, time: Duration) -> Spent {
    let rest = |(name, spent): (String, Duration)| {
        let idle = idle.get(&name).copied().unwrap_or_default();
        (name, spent.saturating_sub(idle.mul_f64(time.as_secs_f64())))
    };
    all.into_iter().map(rest).collect()
}

/// The table that a load prints.
fn read(text: &str) -> Option<Outcome> {
    let value = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    let count = |name: &str| value(name).and_then(|text| text.parse().ok()).unwrap_or(0);
    let delays = value("set-up p50, p95, p99 ms")?;
    let delays: Vec<f64> = delays.split(", ").filter_map(|one| one.parse().ok()).collect();
    Some(Outcome {
        completed: value("hung up as planned")?.parse().ok()?,
        set_up_ms: [*delays.first()?, *delays.get(2)?],
        spent: Spent::new(),
        rtp: [count("RTP sent"), count("RTP received")],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_read() {
        let text = "hung up as planned        40\nset-up p50, p95, p99 ms   0.31, 0.50, 1.20\n\
                    RTP sent                  12\nRTP received              11\n";
        let outcome = read(text).expect("whole");
        assert_eq!((outcome.completed, outcome.set_up_ms), (40, [0.31, 1.20]));
        assert_eq!(outcome.rtp, [12, 11]);
        assert!(read("").is_none());
    }

    #[test]
    fn what_is_spent_anyhow_is_no_cost_of_calls() {
        let spent = |ms| Spent::from([("control 1".to_owned(), Duration::from_millis(ms))]);
        let rest = without_idle(spent(100), &spent(20), Duration::from_secs(2));
        assert_eq!(rest, spent(60));
        assert_eq!(without_idle(spent(1), &spent(20), Duration::from_secs(2)), spent(0));
    }
}

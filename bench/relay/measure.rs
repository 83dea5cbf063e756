//! What is measured of each relay.

use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::limits;
use crate::relays::{self, Relay, Started};
use crate::table::{Better, Table};
use house_bench::lab::{self, Lab};

/// The rate at which delays are measured.
pub const DELAY_RATE: u32 = 100_000;
/// The rate at which calls only have to have seen packets.
const MEMORY_RATE: u32 = 40_000;
/// Memory is looked at after so long: the transactions of the set-up are over by then (RFC 3261, 32 s), and
/// the calls stand.
const MEMORY_SECONDS: u32 = 40;
/// The rate that a bypass must bear besides the others.
pub const BYPASS_RATE: u32 = 300_000;
/// Agents of the churn, two for each call, and calls started a second.
const CHURN_AGENTS: u32 = 400;
const CHURN_RATE: u32 = 300;
/// Of a call of the churn, answer to hang-up.
const CHURN_SECONDS: &str = "0.3";
/// Calls before the churn is accounted: what grows once, has grown then.
const CHURN_WARM_UP: u32 = 2_000;
/// What the generator says of calls that failed.
const PLANNED: &str = "calls went as planned";

/// How much of everything.
pub struct Plan {
    quick: bool,
    rates: Vec<u32>,
    seconds: u32,
    repeat: u32,
    calls: u32,
    memory_calls: u32,
    churn: u32,
}

impl Plan {
    /// All, or a quick look.
    pub fn new(quick: bool, calls: u32, memory_calls: u32, churn: u32) -> Plan {
        let rates = vec![50_000, 100_000, 150_000];
        if quick {
            return Plan {
                quick,
                rates,
                seconds: 2,
                repeat: 1,
                calls,
                memory_calls,
                churn: churn.min(3_000),
            };
        }
        Plan { quick, rates, seconds: 10, repeat: 3, calls, memory_calls, churn }
    }

    /// The same with measurements that last so long.
    pub fn lasting(self, seconds: u32) -> Plan {
        Plan { seconds, ..self }
    }

    /// Calls while CPU time, delays and limits are measured.
    pub fn calls(&self) -> u32 {
        self.calls
    }

    /// How long each measurement lasts, in seconds, and how often each is made.
    pub fn windows(&self) -> (u32, u32) {
        (self.seconds, self.repeat)
    }
}

/// One relay's rows.
pub fn measure(
    lab: &Lab,
    program: &Path,
    relay: Relay,
    plan: &Plan,
    core: usize,
    table: &mut Table,
) -> Result<(), String> {
    let agents = plan.calls.max(plan.memory_calls).max(CHURN_AGENTS);
    let mut bench = Bench { lab, program, relay, core, table };
    // A relay of its own for each: nothing that one left is in the next.
    lab.take_sockets()?;
    bench.costs(&relays::start(lab, relay, agents)?, plan)?;
    bench.delays(&relays::start(lab, relay, agents)?, plan)?;
    if relay == Relay::Nobody {
        return Ok(());
    }
    if plan.memory_calls > 0 {
        bench.memory(&relays::start(lab, relay, agents)?, plan)?;
    }
    if !plan.quick {
        limits::measure(lab, &mut bench, plan)?;
        lab.take_sockets()?;
    }
    if plan.churn > 0 && matches!(relay, Relay::Jackfield(_)) {
        bench.churn(&relays::start(lab, relay, agents)?, plan)?;
    }
    Ok(())
}

/// One relay that is measured.
pub struct Bench<'a> {
    /// Where.
    pub lab: &'a Lab,
    /// The generator.
    pub program: &'a Path,
    /// What.
    pub relay: Relay,
    /// The core of the generator.
    pub core: usize,
    /// Where its rows go.
    pub table: &'a mut Table,
}

/// The row of the interrupt time that a packet costs on the generator's core with no relay.
fn baseline(rate_kpps: f64) -> String {
    format!("softirq of the generator alone, {rate_kpps:.0} kpps")
}

impl Bench<'_> {
    /// CPU time a packet at each rate, and the highest rate.
    fn costs(&mut self, relay: &Started, plan: &Plan) -> Result<(), String> {
        let mut rates = plan.rates.clone();
        // What the generator alone costs is taken off at each rate, so it is measured at each.
        if self.relay.is_bypass() || self.relay == Relay::Nobody {
            rates.push(BYPASS_RATE);
        }
        let rates: Vec<String> = rates.iter().map(u32::to_string).collect();
        let mut flags = vec!["--rate-pps".to_owned(), rates.join(",")];
        flags.extend(["--repeat".into(), plan.repeat.to_string()]);
        flags.extend(["--seconds".into(), plan.seconds.to_string()]);
        let report = self.load(relay, plan.calls, &flags)?;
        let rows = report["rows"].as_array().cloned().unwrap_or_default();
        for repeats in rows.chunks(plan.repeat as usize) {
            self.cost_rows(repeats);
        }
        Ok(())
    }

    fn cost_rows(&mut self, repeats: &[Value]) {
        let Some(first) = repeats.first() else { return };
        let rate = first["rate_pps"].as_f64().unwrap_or(0.0) / 1e3;
        let middle = |name: &str| median(repeats.iter().filter_map(|row| row[name].as_f64()));
        if self.relay == Relay::Nobody {
            let own = middle("softirq_us");
            self.add(baseline(rate), own, format!("{own:.2} us"), Better::Neither);
            return;
        }
        let lost = median(repeats.iter().filter_map(|row| row["lost_percent"].as_f64()));
        let note = if lost > 0.01 { format!(" ({lost:.2} % lost)") } else { String::new() };
        let watched = middle("watched_us");
        let shown = format!("{watched:.2} us{note}");
        self.add(format!("CPU of the relay a packet, {rate:.0} kpps"), watched, shown, Better::Low);
        let seconds = first["seconds"].as_f64().unwrap_or(1.0);
        let spent = median(repeats.iter().filter_map(|row| row["spent"]["watched_s"].as_f64()));
        let share = spent * 100.0 / seconds;
        let what = format!("share of a core, {rate:.0} kpps");
        self.add(what, share, format!("{share:.1} %"), Better::Low);
        let Some(alone) = self.table.value(&baseline(rate), Relay::Nobody.name()) else {
            return eprintln!("  no measurement of the generator alone at {rate:.0} kpps");
        };
        let machine = middle("machine_us") - alone;
        let what = format!("CPU of the machine a packet, {rate:.0} kpps");
        self.add(what, machine, format!("{machine:.2} us{note}"), Better::Low);
    }

    /// Delay by the kernel's timestamps.
    fn delays(&mut self, relay: &Started, plan: &Plan) -> Result<(), String> {
        let mut flags = vec!["--stamp".to_owned(), "--rate-pps".into(), DELAY_RATE.to_string()];
        flags.extend(["--repeat".into(), plan.repeat.to_string()]);
        flags.extend(["--seconds".into(), plan.seconds.to_string()]);
        let report = self.load(relay, plan.calls, &flags)?;
        let rows = report["rows"].as_array().cloned().unwrap_or_default();
        for (place, name) in ["p50", "p99", "p99.9"].into_iter().enumerate() {
            let delay = median(rows.iter().filter_map(|row| row["delay_us"][place].as_f64()));
            let what = format!("delay {name}, {} kpps", DELAY_RATE / 1_000);
            let better = match self.relay {
                Relay::Nobody => Better::Neither,
                _ => Better::Low,
            };
            self.add(what, delay, format!("{delay:.0} us"), better);
        }
        if let Some(set_up) = report["set_up_ms"][0].as_f64() {
            let what = "INVITE to 200, p50".to_owned();
            self.add(what, set_up, format!("{set_up:.1} ms"), Better::Low);
        }
        Ok(())
    }

    /// Memory a call.
    fn memory(&mut self, relay: &Started, plan: &Plan) -> Result<(), String> {
        let (rate, seconds) = (MEMORY_RATE.to_string(), MEMORY_SECONDS.to_string());
        let flags = ["--rate-pps".to_owned(), rate, "--seconds".to_owned(), seconds];
        let report = self.load(relay, plan.memory_calls, &flags)?;
        let calls = f64::from(plan.memory_calls);
        let each = |name: &str| {
            let at = |when: &str| report[when][name].as_f64().unwrap_or(0.0);
            (at("with_calls") - at("before")) / calls
        };
        let (own, kernel) = (each("resident_kib"), each("kernel_kib"));
        let what = format!("memory of the process a call, {} calls", plan.memory_calls);
        self.add(what, own, format!("{own:.1} KiB"), Better::Low);
        let what = format!("and with the kernel's, {} calls", plan.memory_calls);
        self.add(what, own + kernel, format!("{:.1} KiB", own + kernel), Better::Low);
        let count = |when: &str| report[when]["descriptors"].as_u64().unwrap_or(0);
        let shown = format!("{} / {} / {}", count("before"), count("with_calls"), count("after"));
        self.add("descriptors before / with / after".into(), 0.0, shown, Better::Neither);
        Ok(())
    }

    /// What many calls leave behind.
    fn churn(&mut self, relay: &Started, plan: &Plan) -> Result<(), String> {
        let pid = relay.pid.unwrap_or_default();
        self.calls(relay, CHURN_WARM_UP)?;
        let before = holdings(pid);
        let note = self.calls(relay, plan.churn)?;
        let after = holdings(pid);
        self.add(format!("churn of {} calls", plan.churn), 0.0, note, Better::Neither);
        let grown = after.0 as f64 - before.0 as f64;
        let shown = format!("{grown:+.0} KiB ({} to {})", before.0, after.0);
        self.add(format!("memory after {} calls", plan.churn), grown, shown, Better::Neither);
        let shown = format!("{} to {}", before.1, after.1);
        let what = format!("descriptors after {} calls", plan.churn);
        self.add(what, after.1 as f64 - before.1 as f64, shown, Better::Neither);
        Ok(())
    }

    /// Calls of agents with each other, as many as that; how they went.
    fn calls(&self, relay: &Started, calls: u32) -> Result<String, String> {
        let mut command = self.lab.on_generator(self.program);
        command.args(["load", "--agents", &CHURN_AGENTS.to_string()]);
        command.args(["--calls", &calls.to_string(), "--rate", &CHURN_RATE.to_string()]);
        command.args(["--duration", CHURN_SECONDS, "--ring", "0"]);
        // The AgentProxy; these callers log in.
        command.args(relay.flags.iter().take(2));
        match run(&mut command) {
            Ok(_) => Ok("all as planned".to_owned()),
            // On a busy machine some do not go as planned; what they leave behind counts all the more.
            Err(why) if why.contains(PLANNED) => Ok(why.replace("jackfield: ", "")),
            Err(why) => Err(why),
        }
    }

    /// What the generator says of a relay that runs.
    pub fn load(&self, relay: &Started, calls: u32, flags: &[String]) -> Result<Value, String> {
        let mut command = self.lab.on_generator(self.program);
        command.args(["load", "--json", "--core", &self.core.to_string()]);
        // Losses are in the table, and no failure.
        command.args(["--calls", &calls.to_string()]).args(flags).args(&relay.flags);
        if let Some(pid) = relay.pid {
            command.args(["--watch", &pid.to_string()]);
        }
        let output = run(&mut command)?;
        serde_json::from_str(&output).map_err(|error| format!("the generator: {error}"))
    }

    /// Adds a row of this relay.
    pub fn add(&mut self, what: String, value: f64, shown: String, better: Better) {
        eprintln!("  {what}: {shown}");
        self.table.add(what, self.relay.name(), value, shown, better);
    }
}

/// The output of a command; one that printed a report may also say that packets were lost.
fn run(command: &mut Command) -> Result<String, String> {
    let output = lab::output(command)?;
    if output.status.success() || output.stdout.starts_with(b"{") {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
}

/// The one in the middle; 0 of none.
pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

/// Resident memory in KiB, and descriptors.
fn holdings(pid: u32) -> (u64, usize) {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let memory = line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0);
    (memory, std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_middle_of_three() {
        assert_eq!(median([3.0, 1.0, 2.0].into_iter()), 2.0);
        assert_eq!(median(std::iter::empty()), 0.0);
    }
}

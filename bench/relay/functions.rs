//! What recordings and mixes cost a call: the CPU time of the worker, of the spool's thread and of control
//! while calls are only relayed, while both directions of each are recorded, and while each is a mix of its two
//! legs, in turns. Relaying itself costs the worker far more than recording does, so that its row is as good
//! as the machine is quiet; the thread's and control's are not disturbed by it.

use std::path::Path;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::measure::median;
use crate::relays::{self, Relay, Started};
use crate::table::{Better, Table};
use house_bench::lab::{self, Lab, Running};

/// As `--only` calls it, and the table.
pub const NAME: &str = "recording";
/// The media path; a call that is recorded or mixed goes through the process on each of them.
const MEDIA: &str = "io_uring";
/// How the names of the spools' threads begin.
const SPOOL: &str = "spool";
const CALLS_A_SECOND: u32 = 50;
/// How long all calls may take until they stand, or until a state of all of them shows.
const LIMIT: Duration = Duration::from_secs(60);
const ASK_EVERY: Duration = Duration::from_millis(200);
/// After the last order, before the account: playout delays have settled, and files are open.
const SETTLE: Duration = Duration::from_secs(2);

/// One row for each function and who works for it.
pub fn measure(
    lab: &Lab,
    program: &Path,
    calls: u32,
    seconds: u32,
    repeat: u32,
    table: &mut Table,
) -> Result<(), String> {
    let relay = relays::start(lab, Relay::Jackfield(MEDIA), calls * 2)?;
    let bench = Bench { lab, program, relay, calls, seconds };
    // Held until all is measured.
    let _load = bench.load()?;
    let [mut relayed, mut recorded, mut mixed] = [const { Vec::new() }; 3];
    for turn in 1..=repeat {
        relayed.push(bench.account());
        bench.mix_all()?;
        mixed.push(bench.account());
        bench.leave_all()?;
        bench.order_all(&["record"], "recordings_now", u64::from(calls))?;
        recorded.push(bench.account());
        bench.order_all(&["record", "--stop"], "recordings_now", 0)?;
        bench.wait_for_files((turn * calls) as usize)?;
    }
    for (what, accounts) in [("recorded", &recorded), ("mixed", &mixed)] {
        for (thread, name) in THREADS.into_iter().enumerate() {
            let middle = |of: &[Account]| median(of.iter().map(|account| account[thread]));
            let before = middle(&relayed);
            let more = middle(accounts) - before;
            let what = format!("{name}, a {what} call and second ({calls} calls)");
            let shown = format!("{more:.1} us (relayed {before:.1})");
            eprintln!("  {what}: {shown}");
            table.add(what, NAME, more, shown, Better::Low);
        }
    }
    Ok(())
}

struct Bench<'a> {
    lab: &'a Lab,
    program: &'a Path,
    relay: Started,
    calls: u32,
    seconds: u32,
}

/// Who works.
const THREADS: [&str; 3] = ["worker", "spool", "control"];
/// What each spends on a call a second, in microseconds.
type Account = [f64; 3];

impl Bench<'_> {
    /// Calls between agents who talk for longer than all of this takes.
    fn load(&self) -> Result<Running, String> {
        let mut command = self.lab.on_generator(self.program);
        let agents = self.calls * 2;
        command.args(["load", "--agents", &agents.to_string(), "--calls", &self.calls.to_string()]);
        command.args(["--rate", &CALLS_A_SECOND.to_string(), "--duration", "3600", "--ring", "0"]);
        command.args(["--rtp"]).args(self.relay.flags.iter().take(2));
        let mut load = self.lab.start(&mut command, "load")?;
        let wanted = self.calls as usize;
        load.wait_for(LIMIT, |_| (self.standing().len() == wanted).then_some(()))?;
        Ok(load)
    }

    /// The names of the calls that stand.
    fn standing(&self) -> Vec<String> {
        let told = self.ask("calls");
        let calls = told["calls"].as_array().into_iter().flatten();
        calls
            .filter(|call| call["state"] == "answered")
            .filter_map(|call| call["call"].as_str().map(str::to_owned))
            .collect()
    }

    /// Gives an order for each call, and waits until a counter says that all are carried out.
    fn order_all(&self, order: &[&str], counter: &str, wanted: u64) -> Result<(), String> {
        for call in self.standing() {
            self.order(&[&[order[0], call.as_str()], &order[1..]].concat())?;
        }
        self.wait_for(counter, wanted)
    }

    fn mix_all(&self) -> Result<(), String> {
        for (number, call) in (1..).zip(self.standing()) {
            for leg in [0, 1] {
                self.order(&["mix", &format!("{call}:{leg}"), &format!("{number}")])?;
            }
        }
        self.wait_for("mixed_now", u64::from(self.calls) * 2)
    }

    fn leave_all(&self) -> Result<(), String> {
        for call in self.standing() {
            for leg in [0, 1] {
                self.order(&["leave", &format!("{call}:{leg}")])?;
            }
        }
        self.wait_for("mixed_now", 0)
    }

    fn order(&self, arguments: &[&str]) -> Result<(), String> {
        let mut command = self.lab.on_sbc(self.program);
        command.arg("call").args(arguments).arg("--dir").arg(&self.relay.folder);
        let output = lab::output(&mut command)?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("call {}: {}", arguments.join(" "), String::from_utf8_lossy(&output.stderr)))
    }

    fn wait_for(&self, counter: &str, wanted: u64) -> Result<(), String> {
        let end = Instant::now() + LIMIT;
        loop {
            let now = &self.ask("status")["ccbs"][0]["counters"][counter];
            if now.as_u64() == Some(wanted) {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("{counter} is {now}, not {wanted}"));
            }
            // Nobody tells; counters are published twice a second.
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// Waits until control has made the files of so many recordings, and rests.
    fn wait_for_files(&self, wanted: usize) -> Result<(), String> {
        let end = Instant::now() + LIMIT;
        loop {
            let made = finished_in(&self.relay.folder.join("recordings"));
            if made >= wanted {
                return Ok(());
            }
            if Instant::now() > end {
                return Err(format!("{made} of {wanted} recordings"));
            }
            std::thread::sleep(ASK_EVERY);
        }
    }

    /// What `jackfield WHAT --json` prints; null while it fails.
    fn ask(&self, what: &str) -> Value {
        let mut command = self.lab.on_sbc(self.program);
        command.args([what, "--json", "--dir"]).arg(&self.relay.folder);
        let output = lab::output(&mut command).map(|output| output.stdout).unwrap_or_default();
        serde_json::from_slice(&output).unwrap_or_default()
    }

    fn account(&self) -> Account {
        std::thread::sleep(SETTLE);
        let (before, begin) = (self.cpu_times(), Instant::now());
        std::thread::sleep(Duration::from_secs(self.seconds.into()));
        let (after, passed) = (self.cpu_times(), begin.elapsed().as_secs_f64());
        std::array::from_fn(|thread| {
            let spent = after[thread].saturating_sub(before[thread]);
            spent.as_secs_f64() * 1e6 / passed / f64::from(self.calls)
        })
    }

    fn cpu_times(&self) -> [Duration; 3] {
        let is_spool = |name: &str| name.starts_with(SPOOL);
        let data_plane = self.relay.pid.unwrap_or_default();
        [
            cpu_time(data_plane, |name| !is_spool(name)),
            cpu_time(data_plane, is_spool),
            cpu_time(self.relay.control.unwrap_or_default(), |_| true),
        ]
    }
}

/// How many finished recordings lie in a folder.
fn finished_in(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter(|entry| entry.path().extension().is_some_and(|kind| kind == "wav")).count()
}

/// The time that some of a process's threads, by name, were on a CPU; of one that is gone, none.
fn cpu_time(pid: u32, is_wanted: impl Fn(&str) -> bool) -> Duration {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .filter(|task| {
            let name = std::fs::read_to_string(task.path().join("comm")).unwrap_or_default();
            is_wanted(name.trim_end())
        })
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|text| text.split_whitespace().next()?.parse().ok())
        .map(Duration::from_nanos)
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_of_a_busy_thread_is_its_processes() {
        let own = || cpu_time(std::process::id(), |_| true);
        let end = own() + Duration::from_millis(5);
        while own() < end {}
        assert_eq!(cpu_time(std::process::id(), |_| false), Duration::ZERO);
        assert_eq!(cpu_time(0, |_| true), Duration::ZERO);
    }
}

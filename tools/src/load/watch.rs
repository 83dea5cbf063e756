//! What the relay and the machine spend meanwhile, from /proc.

use std::fs;
use std::time::Duration;

use serde::Serialize;

/// One tick of /proc/stat: USER_HZ is 100 on every Linux.
const TICK: Duration = Duration::from_millis(10);

/// CPU time so far.
#[derive(Clone, Debug, Default)]
pub struct Sample {
    /// Of the watched process, all its threads.
    watched: Duration,
    /// Of this process.
    own: Duration,
    /// Of each core.
    cores: Vec<Core>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Core {
    busy: Duration,
    softirq: Duration,
}

/// CPU time between two samples.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spent {
    /// Of the watched process, in seconds.
    pub watched_s: f64,
    /// Of the generator, in seconds; its threads spin, so they are always busy.
    pub generator_s: f64,
    /// Of all cores but the generator's, plus the network interrupts that these served: what a
    /// spinning generator does not account for, in seconds.
    pub machine_s: f64,
    /// The part of `machine_s` that is the interrupts on the generator's cores.
    pub softirq_s: f64,
}

impl Sample {
    /// Now.
    pub fn take(watched: Option<u32>) -> Sample {
        Sample {
            watched: watched.map(run_time).unwrap_or_default(),
            own: run_time(std::process::id()),
            cores: cores(),
        }
    }

    /// What was spent since `earlier`; `own` are the generator's cores.
    pub fn since(&self, earlier: &Sample, own: &[usize]) -> Spent {
        let mut spent = Spent {
            watched_s: self.watched.saturating_sub(earlier.watched).as_secs_f64(),
            generator_s: self.own.saturating_sub(earlier.own).as_secs_f64(),
            ..Spent::default()
        };
        for (number, (now, then)) in self.cores.iter().zip(&earlier.cores).enumerate() {
            let softirq = now.softirq.saturating_sub(then.softirq).as_secs_f64();
            if own.contains(&number) {
                spent.softirq_s += softirq;
                spent.machine_s += softirq;
            } else {
                spent.machine_s += now.busy.saturating_sub(then.busy).as_secs_f64();
            }
        }
        spent
    }
}

/// Says when a process that is to be watched is not there, or ended and is not waited for yet.
pub fn check(pid: u32) -> Result<(), String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The state follows the name, which may hold anything.
    let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    match state {
        None | Some('Z' | 'X') => Err(format!("--watch {pid}: there is no such process")),
        Some(_) => Ok(()),
    }
}

/// The time on a CPU of all threads, exact: utime and stime of /proc/PID/stat are this sum, split by
/// ticks.
fn run_time(pid: u32) -> Duration {
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return Duration::ZERO };
    let nanos = tasks.flatten().filter_map(|task| {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse::<u64>().ok()
    });
    Duration::from_nanos(nanos.sum())
}

/// `cpuN user nice system idle iowait irq softirq steal ...` (proc_stat(5)); steal is nobody's work.
fn cores() -> Vec<Core> {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let is_core = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
    let core = |line: &str| {
        let ticks: Vec<u32> =
            line.split_whitespace().skip(1).filter_map(|ticks| ticks.parse().ok()).collect();
        let at = |place: usize| TICK * ticks.get(place).copied().unwrap_or(0);
        Core { busy: at(0) + at(1) + at(2) + at(5) + at(6), softirq: at(6) }
    };
    text.lines().filter(is_core).map(core).collect()
}

/// Memory and descriptors at one time.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Holdings {
    /// Resident memory of the watched process, in KiB.
    pub resident_kib: u64,
    /// Of it, memory that it shares (the region).
    pub shared_kib: u64,
    /// Kernel memory of the whole machine: slabs, page tables and stacks, in KiB.
    pub kernel_kib: u64,
    /// Descriptors of the watched process.
    pub descriptors: usize,
}

impl Holdings {
    /// Now.
    pub fn take(pid: u32) -> Holdings {
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
        let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
        let kernel = ["Slab:", "KernelStack:", "PageTables:", "Percpu:"];
        Holdings {
            resident_kib: field(&status, "VmRSS:"),
            shared_kib: field(&status, "RssShmem:"),
            kernel_kib: kernel.iter().map(|name| field(&memory, name)).sum(),
            descriptors: fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count),
        }
    }
}

fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_is_seen_to_work() {
        let own = std::process::id();
        let before = Sample::take(Some(own));
        let begun = std::time::Instant::now();
        let mut sum = 0_u64;
        while begun.elapsed() < Duration::from_millis(60) {
            sum = std::hint::black_box(sum.wrapping_add(1));
        }
        let spent = Sample::take(Some(own)).since(&before, &[]);
        assert!(spent.watched_s > 0.005, "{spent:?}");
        let holdings = Holdings::take(own);
        assert!(holdings.resident_kib > 100 && holdings.descriptors > 2, "{holdings:?}");
    }

    #[test]
    fn a_process_that_is_gone_cannot_be_watched() {
        assert_eq!(check(std::process::id()), Ok(()));
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = child.id();
        let is_gone = || check(pid).is_err_and(|why| why.contains(&pid.to_string()));
        while !is_gone() {
            std::thread::yield_now();
        }
        child.wait().unwrap();
        assert!(is_gone());
    }

    #[test]
    fn interrupts_count_on_the_cores_of_the_generator_and_all_work_elsewhere() {
        let core = |busy, softirq| Core {
            busy: Duration::from_secs(busy),
            softirq: Duration::from_secs(softirq),
        };
        let before = Sample { cores: vec![core(1, 1), core(10, 1)], ..Sample::default() };
        let cores = vec![core(4, 2), core(20, 3)];
        let after = Sample { watched: Duration::from_secs(2), cores, ..Sample::default() };
        let spent = after.since(&before, &[1]);
        assert_eq!((spent.watched_s, spent.machine_s, spent.softirq_s), (2.0, 5.0, 2.0));
    }
}

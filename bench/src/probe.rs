//! Whether a core is itself: on a virtual machine the host may slow it down for a tenth of a second and say nothing of it
//! (no steal time), and what is measured meanwhile has a tail that is not its own.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use rustix::thread::{CpuSet, sched_setaffinity};
use rustix::time::{ClockId, clock_gettime};

/// What is timed: multiplications in registers, some 30 us.
const ROUNDS: u32 = 20_000;
const EVERY: Duration = Duration::from_millis(5);

/// Times the same small work again and again, by the time that its thread had the core.
#[derive(Debug)]
pub struct Probe {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<Vec<u32>>>,
}

impl Probe {
    /// Begins on that core; takes 0.6 % of it.
    pub fn start(core: usize) -> Probe {
        let over = Arc::new(AtomicBool::new(false));
        let ends = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            let mut cores = CpuSet::new();
            cores.set(core);
            // A core that is not there shows nothing.
            let _ = sched_setaffinity(None, &cores);
            let mut took = Vec::new();
            while !ends.load(Ordering::Relaxed) {
                took.push(work());
                std::thread::sleep(EVERY);
            }
            took
        });
        Probe { over, thread: Some(thread) }
    }

    /// For what part of the time the core took more than twice as long as mostly, in percent.
    pub fn slow_percent(mut self) -> f64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.take().and_then(|thread| thread.join().ok()).map_or(0.0, slow_percent)
    }
}

fn slow_percent(mut took: Vec<u32>) -> f64 {
    took.sort_unstable();
    let Some(&median) = took.get(took.len() / 2) else { return 0.0 };
    let slow = took.iter().filter(|took| **took > median * 2).count();
    slow as f64 * 100.0 / took.len() as f64
}

/// Its time in microseconds.
fn work() -> u32 {
    let now = || {
        let time = clock_gettime(ClockId::ThreadCPUTime);
        Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
    };
    let begun = now();
    let mut number = black_box(1_u32);
    for _ in 0..ROUNDS {
        number = black_box(number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223));
    }
    u32::try_from((now() - begun).as_micros()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slow_is_more_than_twice_the_median() {
        assert_eq!(slow_percent(vec![30, 31, 30, 29, 60, 30, 30, 150]), 12.5);
        assert_eq!(slow_percent(vec![30, 31, 30, 63, 30, 30, 30, 150]), 25.0);
        assert_eq!(slow_percent(Vec::new()), 0.0);
    }
}

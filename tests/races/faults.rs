//! What goes wrong, one thing after the other.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use base::Rng;
use rustix::process::Signal;

use crate::lab::signal;
use crate::site::{BLADES, Kind, Site};

/// A blade that was dead, paused or alone holds nobody for dead until it has listened for a while.
const LISTENS: Duration = Duration::from_millis(3_500);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// kill -9; it is started again at once.
    KillControl,
    /// SIGSTOP for longer than a reservation lives, then SIGCONT.
    PauseDataPlane,
    /// SIGSTOP for longer than others believe in it, then SIGCONT.
    PauseControl,
    /// kill -9; it is started again at once.
    KillDataPlane,
    /// kill -9 of both processes, which stay dead for a while.
    KillBlade,
    /// kill -9; it is started again at once.
    KillBus,
}

const ALL: [Fault; 6] = [
    Fault::KillControl,
    Fault::PauseDataPlane,
    Fault::PauseControl,
    Fault::KillDataPlane,
    Fault::KillBlade,
    Fault::KillBus,
];

#[derive(Debug)]
pub struct Faults {
    rng: Rng,
    happened: BTreeMap<Fault, u64>,
    turns: usize,
    active: Option<(Fault, u16, Instant)>,
    next_at: Instant,
    /// Its pid, while it is stopped.
    stopped: Option<u32>,
}

impl Faults {
    pub fn new(seed: u64) -> Faults {
        Faults {
            rng: Rng::from_number(seed ^ 0x5eed),
            happened: BTreeMap::new(),
            turns: 0,
            active: None,
            next_at: Instant::now() + Duration::from_secs(1),
            stopped: None,
        }
    }

    /// How many there were.
    pub fn count(&self) -> u64 {
        self.happened.values().sum()
    }

    /// True from when one happens until it is mended.
    pub fn is_active(&self) -> bool {
        self.active.is_some()
    }

    /// True when the next one kills a blade.
    pub fn is_death_next(&self) -> bool {
        ALL[self.turns % ALL.len()] == Fault::KillBlade
    }

    /// True when all kinds happened.
    pub fn is_complete(&self) -> bool {
        self.happened.len() == ALL.len()
    }

    /// Lets happen what is due; the CCB that is dead now for a while. Who dies is the one that has most agents of
    /// others, `busiest`.
    pub fn turn(&mut self, site: &Site, busiest: Option<u16>) -> Option<u16> {
        let now = Instant::now();
        if let Some((_, _, until)) = self.active {
            if now >= until {
                self.mend(site);
            }
            return None;
        }
        if now < self.next_at {
            return None;
        }
        let fault = ALL[self.turns % ALL.len()];
        self.turns += 1;
        let any = 1 + self.rng.below(BLADES.into()) as u16;
        let blade = busiest.filter(|_| fault == Fault::KillBlade).unwrap_or(any);
        let processes = site.processes();
        let pid = |kind: Kind| processes.get(&kind).copied();
        let (lasts, lost) = match fault {
            Fault::KillControl => (self.kill(pid(Kind::Control(blade))), None),
            Fault::KillDataPlane => (self.kill(pid(Kind::DataPlane(blade))), None),
            Fault::KillBus => (self.kill(pid(Kind::Bus)), None),
            Fault::PauseControl => (self.pause(pid(Kind::Control(blade))), None),
            Fault::PauseDataPlane => (self.pause(pid(Kind::DataPlane(blade))), None),
            Fault::KillBlade => {
                site.restarts(false);
                self.kill(pid(Kind::DataPlane(blade)));
                self.kill(pid(Kind::Control(blade)));
                (Duration::from_millis(4_000), Some(blade))
            }
        };
        *self.happened.entry(fault).or_default() += 1;
        self.active = Some((fault, blade, Instant::now() + lasts));
        lost
    }

    fn kill(&mut self, pid: Option<u32>) -> Duration {
        pid.into_iter().for_each(|pid| signal(pid, Signal::KILL));
        Duration::from_millis(500)
    }

    fn pause(&mut self, pid: Option<u32>) -> Duration {
        pid.into_iter().for_each(|pid| signal(pid, Signal::STOP));
        self.stopped = pid;
        Duration::from_millis(1_700 + self.rng.below(2_000))
    }

    fn mend(&mut self, site: &Site) {
        if let Some(pid) = self.stopped.take() {
            signal(pid, Signal::CONT);
        }
        site.restarts(true);
        self.active = None;
        let quiet = Duration::from_millis(200 + self.rng.below(1_500));
        self.next_at = Instant::now() + if self.is_death_next() { LISTENS } else { quiet };
    }

    /// No more.
    pub fn end(&mut self, site: &Site) {
        self.mend(site);
    }
}

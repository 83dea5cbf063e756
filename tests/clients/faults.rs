//! Random faults during steady calls (issue "Many blades", line 3): whatever dies, is cut, stops or fills up, after it
//! no agent is stuck, no lease orphaned, who was not touched goes on talking, and all counts agree.
//!
//! `FAULTS=300 FAULT_SEED=7 cargo test --release -p house-tests --test clients faults -- --nocapture`

mod check;
mod floor;
mod table;

use std::time::{Duration, Instant};

use base::Rng;
use rustix::process::Signal;

use crate::lab::{signal, turn};
use crate::site::{BladeHost, Site};
use check::check;
use floor::Floor;
use table::{Row, Table};

const BLADES: usize = 4;
/// How many faults without `FAULTS`.
const FAULTS: usize = 10;
/// How long the site may take to be whole again after a fault has gone.
const HEALED: Duration = Duration::from_secs(5);
/// How long it is looked at whether it ever is.
const PATIENCE: Duration = Duration::from_secs(40);
/// The longest gap in a call that no fault touches, beside what this machine does to a stream of its own.
const GAP: Duration = Duration::from_millis(40);
/// How long a stopped process is not seen by others: longer than a lease's life.
const LONG_MS: u64 = 1_500;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    KillControl,
    KillDataplane,
    KillBlade,
    KillBus,
    KillDirectory,
    CutCable,
    StopBus,
    PauseControl,
    PauseDataplane,
    FullDisk,
}

impl Kind {
    const ALL: [Kind; 10] = [
        Kind::KillControl,
        Kind::KillDataplane,
        Kind::KillBlade,
        Kind::KillBus,
        Kind::KillDirectory,
        Kind::CutCable,
        Kind::StopBus,
        Kind::PauseControl,
        Kind::PauseDataplane,
        Kind::FullDisk,
    ];

    fn name(self) -> &'static str {
        match self {
            Kind::KillControl => "kill -9 control",
            Kind::KillDataplane => "kill -9 data plane",
            Kind::KillBlade => "kill -9 both",
            Kind::KillBus => "kill -9 NATS",
            Kind::KillDirectory => "kill -9 PostgreSQL",
            Kind::CutCable => "cable cut",
            Kind::StopBus => "NATS paused",
            Kind::PauseControl => "control paused",
            Kind::PauseDataplane => "data plane paused",
            Kind::FullDisk => "directory's disk full",
        }
    }
}

/// One fault: what, at which blade, for how long.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub kind: Kind,
    /// From 1; of the bus and the directory there is one.
    pub blade: usize,
    pub lasts: Duration,
}

impl Fault {
    fn draw(rng: &mut Rng) -> Fault {
        let kind = Kind::ALL[rng.below(Kind::ALL.len() as u64) as usize];
        let blade = 1 + rng.below(BLADES as u64) as usize;
        // As systemd restarts a process: after 100 ms, or late.
        let lasts = Duration::from_millis(100 + rng.below(3_400));
        Fault { kind, blade, lasts }
    }

    /// The blade whose calls it touches.
    pub fn touches(&self) -> Option<usize> {
        let touches = matches!(
            self.kind,
            Kind::KillDataplane | Kind::KillBlade | Kind::CutCable | Kind::PauseDataplane
        );
        touches.then_some(self.blade)
    }

    /// True when calls that it touches may be lost: nobody could be told in time, or everybody had to believe that
    /// the blade is gone.
    pub fn may_lose(&self) -> bool {
        self.kind == Kind::KillBlade || self.lasts >= Duration::from_millis(LONG_MS)
    }

    fn pid(&self, site: &Site) -> u32 {
        let blade = &site.blades[self.blade - 1];
        let process = match self.kind {
            Kind::PauseControl => &blade.control,
            Kind::PauseDataplane => &blade.dataplane,
            _ => &site.bus,
        };
        process.as_ref().expect("it runs").pid()
    }

    fn begin(&self, site: &mut Site, floor: &Floor) {
        let blade = &mut site.blades[self.blade - 1];
        match self.kind {
            Kind::KillControl => blade.kill_control(),
            Kind::KillDataplane => blade.kill_dataplane(),
            Kind::KillBlade => blade.kill(),
            Kind::KillBus => site.kill_bus(),
            Kind::KillDirectory => site.postgres.kill(),
            Kind::CutCable => site.set_cable(self.blade, false),
            Kind::StopBus | Kind::PauseControl | Kind::PauseDataplane => {
                signal(self.pid(site), Signal::STOP);
            }
            Kind::FullDisk => floor.disk.fill(),
        }
    }

    fn end(&self, site: &mut Site, floor: &Floor) {
        match self.kind {
            Kind::KillControl | Kind::KillDataplane | Kind::KillBlade => {
                site.blades[self.blade - 1].start();
            }
            Kind::KillBus => site.start_bus(),
            Kind::KillDirectory => site.postgres.start_again(),
            Kind::CutCable => site.set_cable(self.blade, true),
            Kind::StopBus | Kind::PauseControl | Kind::PauseDataplane => {
                signal(self.pid(site), Signal::CONT);
            }
            Kind::FullDisk => {
                floor.disk.empty();
                site.postgres.see_to_it();
            }
        }
    }
}

/// Line 3, at a size of its own by `FAULTS`.
#[test]
fn random_faults_leave_nobody_stuck() {
    let _turn = turn();
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse().expect("a number"));
    let faults = number("FAULTS").unwrap_or(FAULTS as u64);
    let seed = number("FAULT_SEED").unwrap_or(1);
    let mut rng = Rng::from_number(seed);
    let (mut site, mut floor) = Floor::open(BLADES);
    let mut table = Table::default();
    let begun = Instant::now();
    for place in 0..faults {
        floor.settle(&site);
        let fault = Fault::draw(&mut rng);
        let row = suffer(&mut site, &mut floor, fault);
        println!(
            "{place:3} at {:4} s: {} at {} for {:?}: {}",
            begun.elapsed().as_secs(),
            fault.kind.name(),
            fault.blade,
            fault.lasts,
            row.told()
        );
        let is_stuck = row.is_stuck();
        table.add(fault.kind, row);
        if is_stuck {
            // The rest of the run is worth more on a site that is whole.
            drop(site);
            (site, floor) = Floor::open(BLADES);
        }
    }
    println!("seed {seed}, {} s\n{table}", begun.elapsed().as_secs());
    table.expect_right();
}

/// What a blade said last.
fn tell_logs(blade: &BladeHost) {
    for (what, text) in [("control", blade.log()), ("data plane", blade.dataplane_log())] {
        let lines: Vec<&str> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(12)..].join("\n");
        println!("--- {what} of blade {}\n{last}", blade.number);
    }
}

/// Lets it happen, waits until the site is whole again, and looks what became of the calls.
fn suffer(site: &mut Site, floor: &mut Floor, fault: Fault) -> Row {
    floor.forget_gaps();
    let before = floor.standing();
    fault.begin(site, floor);
    floor.live(site, Instant::now() + fault.lasts);
    fault.end(site, floor);
    let healed = Instant::now();
    let mut row = Row::default();
    loop {
        let wrong = check(site, floor);
        let took = healed.elapsed();
        match wrong {
            None => {
                row.healed = Some(took);
                break;
            }
            Some(why) if took >= PATIENCE => {
                row.faults.push(format!("stuck: {why}"));
                break;
            }
            Some(why) => {
                if took >= HEALED && row.late.is_none() {
                    println!("not healed after {took:?}: {why}");
                    site.blades.iter().for_each(tell_logs);
                    row.late = Some(why);
                }
            }
        }
        floor.live(site, Instant::now() + Duration::from_millis(20));
    }
    floor.judge(&before, fault, &mut row);
    row
}

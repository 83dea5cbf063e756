//! The words that say what a region is and who is at its two ends.

use std::fs;

use base::{Instant, WorkerId};

use crate::bell::Bell;
use crate::plan::Layout;
use crate::sync::{AtomicU64, Ordering};
use crate::table::Part;

pub(crate) const MAGIC: usize = 0;
pub(crate) const VERSION: usize = 1;
pub(crate) const SHAPE: usize = 2;
pub(crate) const TOTAL_BYTES: usize = 3;
pub(crate) const SECRETS_BYTES: usize = 4;
pub(crate) const CREATION: usize = 5;
pub(crate) const INDEX_SEED: usize = 6;
pub(crate) const BOOT: usize = 7;
pub(crate) const LAYOUT: usize = 8;

const DATA_PLANE: usize = 32;
const CONTROL: usize = 48;
const PID: usize = 0;
const STARTED: usize = 1;
const INCARNATION: usize = 2;
const HEARTBEAT: usize = 3;
/// The data plane's state, or whether control is attached.
const STATE: usize = 4;
/// How often control has changed tenants and trunks.
const PROVISION: usize = CONTROL + 5;

/// A pair of cache lines for control's bell, then one for each worker's.
const BELLS: usize = 64;
const BELL_STRIDE: usize = 16;
const WORKER_HEARTBEAT: usize = 1;

/// Words before the bells: they mean the same in every version of the layout, so that incarnations
/// can be carried over from another build's region.
pub(crate) const FIXED_WORDS: usize = BELLS;

/// Words of the header.
pub(crate) fn words(layout: &Layout) -> usize {
    BELLS + (1 + usize::from(layout.workers)) * BELL_STRIDE
}

/// A process of one boot: a process id alone may have been given to another since.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Process {
    /// Its id; 0 is none.
    pub pid: u32,
    /// When it was started, in the kernel's ticks since boot.
    pub start_time: u64,
}

impl Process {
    /// The calling process.
    pub fn current() -> Self {
        let pid = std::process::id();
        Process { pid, start_time: start_time(pid).unwrap_or(0) }
    }

    /// True when this very process runs, as far as /proc tells.
    pub fn is_alive(&self) -> bool {
        self.pid != 0 && start_time(self.pid) == Some(self.start_time)
    }
}

/// Field 22 of /proc/PID/stat; None when there is no such process, or only its zombie.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in field 2 may hold spaces and brackets; it ends at the last bracket.
    let (_, fields) = stat.rsplit_once(')')?;
    let mut fields = fields.split_ascii_whitespace();
    if matches!(fields.next()?, "Z" | "X") {
        return None;
    }
    fields.nth(18)?.parse().ok()
}

/// What the data plane does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u64)]
pub enum DataPlaneState {
    /// It is binding its sockets.
    Starting = 0,
    /// It serves.
    Running = 1,
    /// It takes no new calls (G-09).
    Draining = 2,
    /// It stopped in order.
    Stopped = 3,
}

/// What the header says of the data plane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DataPlaneRecord {
    /// Who it is.
    pub process: Process,
    /// Grows by one with each start; 0 when there was none.
    pub incarnation: u64,
    /// When it last said that it lives.
    pub heartbeat: Instant,
    /// What it does; [`DataPlaneState::Starting`] for a number that means nothing.
    pub state: DataPlaneState,
}

/// What the header says of the control process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ControlRecord {
    /// Who it is.
    pub process: Process,
    /// Grows by one with each start; 0 when there was none.
    pub incarnation: u64,
    /// When it last said that it lives.
    pub heartbeat: Instant,
    /// True while the data plane has its socket.
    pub attached: bool,
}

/// The words that say who is at the two ends.
#[derive(Clone, Copy, Debug)]
pub struct Header<'a> {
    pub(crate) part: Part<'a>,
    pub(crate) workers: u8,
}

impl<'a> Header<'a> {
    /// Drawn when the region was made; another number means another region.
    pub fn creation(&self) -> u64 {
        self.part.words[CREATION].load(Ordering::Relaxed)
    }

    /// What is known of the data plane.
    pub fn data_plane(&self) -> DataPlaneRecord {
        DataPlaneRecord {
            process: self.process(DATA_PLANE),
            incarnation: self.load(DATA_PLANE + INCARNATION),
            heartbeat: Instant::from_nanos(self.load(DATA_PLANE + HEARTBEAT)),
            state: match self.load(DATA_PLANE + STATE) {
                1 => DataPlaneState::Running,
                2 => DataPlaneState::Draining,
                3 => DataPlaneState::Stopped,
                _ => DataPlaneState::Starting,
            },
        }
    }

    /// What is known of the control process.
    pub fn control(&self) -> ControlRecord {
        ControlRecord {
            process: self.process(CONTROL),
            incarnation: self.load(CONTROL + INCARNATION),
            heartbeat: Instant::from_nanos(self.load(CONTROL + HEARTBEAT)),
            attached: self.load(CONTROL + STATE) == 1,
        }
    }

    /// Data plane: `process` starts, and this is its incarnation. Its state is Starting, and
    /// control is not attached to it.
    pub fn start_data_plane(&self, process: Process, now: Instant) -> u64 {
        self.set_control_attached(false);
        self.store(DATA_PLANE + STATE, DataPlaneState::Starting as u64);
        self.start(DATA_PLANE, process, now)
    }

    /// Data plane: what it does.
    pub fn set_data_plane_state(&self, state: DataPlaneState) {
        self.store(DATA_PLANE + STATE, state as u64);
    }

    /// Data plane: it lives.
    pub fn beat_data_plane(&self, now: Instant) {
        self.store(DATA_PLANE + HEARTBEAT, now.as_nanos());
    }

    /// Data plane: this worker lives. It also beats for the data plane.
    pub fn beat_worker(&self, worker: WorkerId, now: Instant) {
        if worker.0 < self.workers {
            self.store(bell_of(worker) + WORKER_HEARTBEAT, now.as_nanos());
            self.beat_data_plane(now);
        }
    }

    /// When `worker` last said that it lives; None when there is no such worker.
    pub fn worker_heartbeat(&self, worker: WorkerId) -> Option<Instant> {
        (worker.0 < self.workers)
            .then(|| Instant::from_nanos(self.load(bell_of(worker) + WORKER_HEARTBEAT)))
    }

    /// Control: `process` starts, and this is its incarnation.
    pub fn start_control(&self, process: Process, now: Instant) -> u64 {
        self.start(CONTROL, process, now)
    }

    /// Control: it lives.
    pub fn beat_control(&self, now: Instant) {
        self.store(CONTROL + HEARTBEAT, now.as_nanos());
    }

    /// Data plane: whether the control process is at the other end of its socket.
    pub fn set_control_attached(&self, attached: bool) {
        self.store(CONTROL + STATE, u64::from(attached));
    }

    /// Control, after it wrote rows of tenants or trunks: whoever keeps a copy is to read them again.
    pub fn provision_changed(&self) {
        // Never 0 again: that is a control that does not say.
        let next = self.load(PROVISION).wrapping_add(1).max(1);
        self.store(PROVISION, next);
    }

    /// A number that is another one after each change of tenants and trunks. It is read before them. Nothing when
    /// control never said.
    pub fn provision(&self) -> Option<u64> {
        Some(self.load(PROVISION)).filter(|number| *number != 0)
    }

    /// The bell of the control process, which all workers ring.
    ///
    /// It may not be used in a read-only mapping, where [`Header::is_writable`] is false.
    pub fn control_bell(&self) -> Bell<'a> {
        self.bell(BELLS)
    }

    /// The bell of `worker`, which the control process rings; None when there is no such worker.
    pub fn worker_bell(&self, worker: WorkerId) -> Option<Bell<'a>> {
        (worker.0 < self.workers).then(|| self.bell(bell_of(worker)))
    }

    /// False in a read-only mapping, where all that writes does nothing.
    pub fn is_writable(&self) -> bool {
        self.part.writable
    }

    fn bell(&self, word: usize) -> Bell<'a> {
        assert!(self.part.writable, "a bell of a region that is mapped read-only");
        Bell::new(&self.part.words[word])
    }

    /// The incarnation is stored last: who sees it sees the process too.
    fn start(&self, record: usize, process: Process, now: Instant) -> u64 {
        self.store(record + PID, u64::from(process.pid));
        self.store(record + STARTED, process.start_time);
        self.store(record + HEARTBEAT, now.as_nanos());
        let incarnation = self.load(record + INCARNATION).wrapping_add(1);
        self.store(record + INCARNATION, incarnation);
        incarnation
    }

    fn process(&self, record: usize) -> Process {
        Process {
            pid: u32::try_from(self.load(record + PID)).unwrap_or(0),
            start_time: self.load(record + STARTED),
        }
    }

    fn load(&self, word: usize) -> u64 {
        self.part.words[word].load(Ordering::Acquire)
    }

    fn store(&self, word: usize, value: u64) {
        if let Some(word) = self.part.to_write(word) {
            word.store(value, Ordering::Release);
        }
    }
}

fn bell_of(worker: WorkerId) -> usize {
    BELLS + (1 + usize::from(worker.0)) * BELL_STRIDE
}

/// Carries the incarnations of a region over to the one that takes its place, so that they only
/// grow.
pub(crate) fn carry_over(from: &[u64; FIXED_WORDS], to: &[AtomicU64]) {
    for word in [DATA_PLANE + INCARNATION, CONTROL + INCARNATION] {
        to[word].store(from[word], Ordering::Relaxed);
    }
}

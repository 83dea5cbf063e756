//! The region: one file in /dev/shm that outlives both processes, and a second one for secrets.
//!
//! ```text
//! word     bytes    what                                     writer
//!    0         0    magic                                    data plane, once
//!    1         8    layout version                           .
//!    2        16    shape (sizes of rows, records, ...)      .
//!    3, 4     24    bytes of this file, of the secrets file  .
//!    5        40    creation nonce                           .
//!    6        48    seed of the index                        .
//!    7        56    boot that its times belong to            .
//!    8..18    64    Layout: ccb workers agents calls_per_worker legs_per_worker
//!                   ring_slots blob_bytes tenants trunks locations
//!   32       256    data plane: pid, start time,             data plane
//!                   incarnation, heartbeat, state
//!   48       384    control: pid, start time,                control
//!                   incarnation, heartbeat, attached,        (attached: data plane)
//!                   changes of tenants and trunks
//!   64       512    control's bell                           control sets, workers clear
//!   80..     640    each worker's bell and heartbeat,        worker sets, control clears
//!                   128 bytes each
//!                   -- from here on in pairs of cache lines, sizes from the layout --
//!                   AgentRow            x agents             control
//!                   its journal                              control
//!                   index words         x 4 agents or more   control
//!                   nonce words         x agents             workers, compare-and-swap
//!                   lease words         x 2 agents           both, compare-and-swap
//!                   RegistrationRow     x agents             the worker that owns the user
//!                   its journals        x workers            that worker
//!                   TenantRow           x tenants            control
//!                   TrunkRow            x trunks             control
//!                   TrunkTlsRow         x trunks             control
//!                   LocationRow         x locations          data plane
//!                   CallRow             x workers x calls    the worker that owns the call
//!                   acknowledged words  x workers x calls    control
//!                   LegRow              x workers x legs     the worker that owns the call
//!                   DialogRow           x workers x legs     the worker that owns the call
//!                   StreamRow           x workers x legs     the worker that owns the call
//!                   counters            x (workers + 2)      that worker; streams; control
//!                   rings               x workers x 2        events: worker to control
//!                                                            commands: control to worker
//!
//! the secrets file, mode 0600
//!    0         0    magic                                    data plane, once
//!    1         8    creation nonce, as in the region         .
//!   16       128    SecretRow           x agents             control
//!                   KeyRow              x workers x legs     the worker that owns the call
//! ```
//!
//! All words are of the machine's own byte order: a region never leaves its machine. A row is a
//! cell (`cell`; with a journal: `journal`), a ring is drawn in `ring`, the lease word in `lease`.
//!
//! The data plane makes the region. It writes both files under other names and renames them, the
//! region last, so nobody maps half of one; pages are allocated by writing them, so a full /dev/shm
//! is an error here and not a fault later. It holds a lock on a third file as long as it lives, and
//! the control process one on a fourth: each ring has one producer and one consumer. Neither takes
//! files that others may have put there (`file`).

use core::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base::WorkerId;

use crate::command::{CommandReceiver, CommandSender};
use crate::counter::Counters;
use crate::event::{EventReceiver, EventSender};
use crate::file::{
    self, ControlLock, Demand, Lock, REGION_MODE, SECRETS_MODE, beside, io_error, read_words,
};
use crate::header::{self, Header};
use crate::index::Index;
use crate::lease::Leases;
use crate::map::Memory;
use crate::plan::{self, BadLayout, LAYOUT_VERSION, Layout, Plan};
use crate::record::{Raw, RegionRing, ring_shape};
use crate::ring::{Reader, Shape};
use crate::row::{
    DialogRow, KeyRow, LocationRow, RegistrationRow, SecretRow, StreamRow, TenantRow, TrunkRow,
    TrunkTlsRow,
};
use crate::sync::{AtomicU64, Ordering};
use crate::table::{Agents, Calls, Legs, Part, Shares, Table};

/// "jackfld" and a line end, in memory order on a little-endian machine.
const MAGIC: u64 = u64::from_le_bytes(*b"jackfld\n");
/// Words of a header that are read before anything is mapped.
const FIRST_WORDS: usize = header::LAYOUT + Layout::WORDS;

/// What a data plane found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opened {
    /// Nothing that it could use; all is zero.
    Created,
    /// The region of an earlier incarnation, as it was left.
    Reattached,
}

/// Why a region could not be opened.
#[derive(Debug)]
pub enum RegionError {
    /// Another data plane has it.
    AlreadyRunning {
        /// Its process id; 0 when it has not said yet.
        pid: u32,
    },
    /// Another control process has it.
    ControlRunning {
        /// Its process id; 0 when it has not said yet.
        pid: u32,
    },
    /// A size is out of its range.
    BadLayout(BadLayout),
    /// The file may be in somebody else's hands; it is neither used nor replaced.
    Untrusted {
        /// Which file.
        path: PathBuf,
        /// The rule that it breaks.
        rule: &'static str,
    },
    /// The file is none of ours, or of another build; a data plane of this build makes a new one.
    Foreign {
        /// Which file.
        path: PathBuf,
        /// What differs.
        what: &'static str,
    },
    /// The kernel refused.
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
}

impl fmt::Display for RegionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RegionError::AlreadyRunning { pid } => {
                write!(f, "a data plane already runs on this region, process {pid}")
            }
            RegionError::ControlRunning { pid } => {
                write!(f, "a control process already runs on this region, process {pid}")
            }
            RegionError::BadLayout(bad) => bad.fmt(f),
            RegionError::Untrusted { path, rule } => {
                write!(f, "{} is not to be trusted: {rule}", path.display())
            }
            RegionError::Foreign { path, what } => {
                write!(f, "{} is no region of this build: {what}", path.display())
            }
            RegionError::Io { what, path, error } => {
                write!(f, "cannot {what} {}: {error}", path.display())
            }
        }
    }
}

impl std::error::Error for RegionError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            RegionError::BadLayout(bad) => Some(bad),
            RegionError::Io { error, .. } => Some(error),
            RegionError::AlreadyRunning { .. }
            | RegionError::ControlRunning { .. }
            | RegionError::Untrusted { .. }
            | RegionError::Foreign { .. } => None,
        }
    }
}

/// How full the rings of a worker are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RingUsage {
    /// Events that wait for the control process.
    pub events: u64,
    /// Commands that wait for the worker.
    pub commands: u64,
    /// The number of the last event.
    pub issued: u64,
}

/// The memory between one data plane and its control process.
#[derive(Debug)]
pub struct Region {
    memory: Memory,
    secrets: Option<Memory>,
    layout: Layout,
    plan: Plan,
    /// Let go of when the memory is.
    _hold: Hold,
}

/// What keeps a second process of the same kind away.
#[derive(Debug)]
enum Hold {
    Nothing,
    DataPlane { _lock: Lock },
    Control { _lock: ControlLock },
}

/// Which of a worker's two rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RingKind {
    Events = 0,
    Commands = 1,
}

impl Region {
    /// A region of this process alone, for simulations. All of it follows from `layout`.
    ///
    /// # Panics
    /// When a size is out of its range, see [`Layout::check`].
    pub fn in_memory(layout: Layout) -> Arc<Region> {
        if let Err(bad) = layout.check() {
            panic!("{bad}");
        }
        let plan = Plan::new(&layout);
        let memory = Memory::heap(plan.total);
        let secrets = Memory::heap(plan.secrets_total);
        let creation = u64::from(layout.ccb.0) + 1;
        let words = first_words(&layout, &plan, Birth { creation, index_seed: creation, boot: 0 });
        fill(memory.words(), &words);
        fill(secrets.words(), &[MAGIC, creation]);
        Arc::new(Region { memory, secrets: Some(secrets), layout, plan, _hold: Hold::Nothing })
    }

    /// Data plane: the region at `path` as an earlier incarnation left it, or a new one when there
    /// is none, or one of another layout, build or boot. It is this process's until it dies. Any
    /// other reason not to open what is there is an error, and leaves it there.
    pub fn open_or_create(
        path: &Path,
        layout: Layout,
    ) -> Result<(Arc<Region>, Opened), RegionError> {
        layout.check().map_err(RegionError::BadLayout)?;
        let lock = Lock::of_data_plane(path)?;
        let old = match Self::map(path, Access::Owner) {
            Ok(region) => Some(region),
            Err(RegionError::Foreign { .. }) => None,
            Err(RegionError::Io { what: "open", error, .. })
                if error.kind() == io::ErrorKind::NotFound =>
            {
                None
            }
            // It may be all right, and its registrations with it; who starts us tries again.
            Err(error) => return Err(error),
        };
        let hold = Hold::DataPlane { _lock: lock };
        if let Some(region) = old
            && region.layout == layout
            && region.boot() == boot()
        {
            // The row that a worker died in may be another worker's by now. That of control is control's for ever.
            region.registrations().mend();
            return Ok((Arc::new(Region { _hold: hold, ..region }), Opened::Reattached));
        }
        create(path, &layout)?;
        let region = Region { _hold: hold, ..Self::map(path, Access::Owner)? };
        Ok((Arc::new(region), Opened::Created))
    }

    /// Control: the region at `path`, with its secrets. As long as it is open no other process has
    /// it as control; this one may open it again, also the one that took its place.
    pub fn open(path: &Path) -> Result<Arc<Region>, RegionError> {
        let region = Self::map(path, Access::Owner)?;
        let hold = Hold::Control { _lock: ControlLock::of_control(path)? };
        Ok(Arc::new(Region { _hold: hold, ..region }))
    }

    /// Tools: the region at `path` without its secrets, in a mapping that cannot be written; all
    /// that writes does nothing there.
    pub fn open_read_only(path: &Path) -> Result<Arc<Region>, RegionError> {
        Self::map(path, Access::Reader).map(Arc::new)
    }

    /// True while `path` is this region; false when it is gone or another took its place.
    pub fn is_current(&self, path: &Path) -> bool {
        let words = file::open(path, Demand::ToRead)
            .ok()
            .and_then(|mut file| read_words::<FIRST_WORDS>(&mut file).ok());
        words.is_some_and(|words| words[header::CREATION] == self.header().creation())
    }

    /// The sizes.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// Who is at the two ends.
    pub fn header(&self) -> Header<'_> {
        let words = &self.memory.words()[..header::words(&self.layout)];
        let part = Part { words, writable: self.memory.is_writable() };
        Header { part, workers: self.layout.workers }
    }

    /// The agents' rows, by number, by user and by slot; written by control.
    #[inline]
    pub fn agents(&self) -> Agents<'_> {
        Agents {
            table: Table::journalled(
                self.part(&self.plan.agents),
                self.part(&self.plan.agent_journal),
            ),
            index: Index {
                part: self.part(&self.plan.index),
                seed: self.memory.words()[header::INDEX_SEED].load(Ordering::Relaxed),
            },
            nonces: self.part(&self.plan.nonces),
        }
    }

    /// The tenants; written by control.
    pub fn tenants(&self) -> Table<'_, TenantRow> {
        Table::new(self.part(&self.plan.tenants))
    }

    /// The trunks; written by control.
    pub fn trunks(&self) -> Table<'_, TrunkRow> {
        Table::new(self.part(&self.plan.trunks))
    }

    /// How TLS is spoken to trunks; written by control.
    pub fn trunk_tls(&self) -> Table<'_, TrunkTlsRow> {
        Table::new(self.part(&self.plan.trunk_tls))
    }

    /// The locations; written by the data plane at its start.
    pub fn locations(&self) -> Table<'_, LocationRow> {
        Table::new(self.part(&self.plan.locations))
    }

    /// Where the agents' phones are; each written by the worker that owns the user, through [`Table::by`].
    pub fn registrations(&self) -> Table<'_, RegistrationRow> {
        Table::journalled(
            self.part(&self.plan.registrations),
            self.part(&self.plan.registration_journals),
        )
    }

    /// Who has each agent; won by anyone.
    #[inline]
    pub fn leases(&self) -> Leases<'_> {
        Leases { part: self.part(&self.plan.leases) }
    }

    /// The calls; each written by the worker that owns it.
    pub fn calls(&self) -> Calls<'_> {
        Calls {
            table: Table::new(self.part(&self.plan.calls)),
            acknowledged: self.part(&self.plan.acknowledged),
            shares: self.shares(self.layout.calls_per_worker),
        }
    }

    /// The legs; each written by the worker that owns the call.
    pub fn legs(&self) -> Legs<'_> {
        Legs {
            table: Table::new(self.part(&self.plan.legs)),
            shares: self.shares(self.layout.legs_per_worker),
        }
    }

    /// The dialogs of the legs, each at its leg's place; written by the worker that owns the call.
    pub fn dialogs(&self) -> Table<'_, DialogRow> {
        Table::new(self.part(&self.plan.dialogs))
    }

    /// The streams of the legs, each at its leg's place; written by the worker that owns the call.
    pub fn streams(&self) -> Table<'_, StreamRow> {
        Table::new(self.part(&self.plan.streams))
    }

    /// What is counted.
    #[inline]
    pub fn counters(&self) -> Counters<'_> {
        Counters { part: self.part(&self.plan.counters), workers: self.layout.workers }
    }

    /// What proves the agents' phones; written by control. In a read-only region it has no rows.
    pub fn secrets(&self) -> Table<'_, SecretRow> {
        Table::new(self.secret_part(&self.plan.secrets))
    }

    /// The keys of encrypted streams, each at its leg's place; written by the worker that owns the call. In a
    /// read-only region it has no rows.
    pub fn keys(&self) -> Table<'_, KeyRow> {
        Table::new(self.secret_part(&self.plan.keys))
    }

    fn secret_part(&self, range: &core::ops::Range<usize>) -> Part<'_> {
        match &self.secrets {
            Some(memory) => {
                let words = &memory.words()[range.clone()];
                Part { words, writable: memory.is_writable() }
            }
            None => Part { words: &[], writable: false },
        }
    }

    /// Worker: the end of its events ring. The caller sees to it that there is one at a time.
    ///
    /// # Panics
    /// As the other three: when there is no such worker or the region is mapped read-only.
    pub fn event_sender(self: &Arc<Self>, worker: WorkerId) -> EventSender {
        EventSender::new(self, worker)
    }

    /// Control: the end of a worker's events ring. The caller sees to it that there is one at a
    /// time.
    pub fn event_receiver(self: &Arc<Self>, worker: WorkerId) -> EventReceiver {
        EventReceiver::new(self, worker)
    }

    /// Control: the end of a worker's commands ring. The caller sees to it that there is one at a
    /// time.
    pub fn command_sender(self: &Arc<Self>, worker: WorkerId) -> CommandSender {
        CommandSender::new(self, worker)
    }

    /// Worker: the end of its commands ring. The caller sees to it that there is one at a time.
    pub fn command_receiver(self: &Arc<Self>, worker: WorkerId) -> CommandReceiver {
        CommandReceiver::new(self, worker)
    }

    /// How full the rings of `worker` are, for tools; all 0 when there is no such worker.
    pub fn ring_usage(self: &Arc<Self>, worker: WorkerId) -> RingUsage {
        if worker.0 >= self.layout.workers {
            return RingUsage::default();
        }
        let end = |kind| Reader::<_, Raw>::attach(self.ring_memory(worker, kind), self.shape());
        let events = end(RingKind::Events);
        RingUsage {
            events: events.waiting(),
            commands: end(RingKind::Commands).waiting(),
            issued: events.issued(),
        }
    }

    #[inline]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        self.memory.words()
    }

    /// A worker's ring, for an end that writes.
    pub(crate) fn ring(self: &Arc<Self>, worker: WorkerId, kind: RingKind) -> (RegionRing, Shape) {
        assert!(self.memory.is_writable(), "an end of a ring of a region that is mapped read-only");
        assert!(worker.0 < self.layout.workers, "worker {worker} is not in the layout");
        (self.ring_memory(worker, kind), self.shape())
    }

    fn ring_memory(self: &Arc<Self>, worker: WorkerId, kind: RingKind) -> RegionRing {
        let nth = usize::from(worker.0) * 2 + kind as usize;
        RegionRing {
            region: Arc::clone(self),
            start: self.plan.rings.start + nth * self.plan.ring_stride,
            words: self.shape().words::<Raw>(),
        }
    }

    fn shape(&self) -> Shape {
        ring_shape(&self.layout)
    }

    fn shares(&self, each: u32) -> Shares {
        Shares { workers: self.layout.workers, each }
    }

    #[inline]
    fn part(&self, range: &core::ops::Range<usize>) -> Part<'_> {
        let words = &self.memory.words()[range.clone()];
        Part { words, writable: self.memory.is_writable() }
    }

    fn boot(&self) -> u64 {
        self.memory.words()[header::BOOT].load(Ordering::Relaxed)
    }

    /// Maps what is there, when all of its header is as this build would have written it.
    fn map(path: &Path, access: Access) -> Result<Region, RegionError> {
        let foreign = |what| RegionError::Foreign { path: path.to_owned(), what };
        let (writable, demand) = match access {
            Access::Owner => (true, Demand::Ours),
            Access::Reader => (false, Demand::ToRead),
        };
        let mut file = file::open(path, demand)?;
        let words: [u64; FIRST_WORDS] = first_of(&mut file, path)?;
        if words[header::MAGIC] != MAGIC {
            return Err(foreign("it does not begin as one"));
        }
        if words[header::VERSION] != LAYOUT_VERSION {
            return Err(foreign("its layout version differs"));
        }
        if words[header::SHAPE] != plan::shape() {
            return Err(foreign("its rows have other sizes"));
        }
        let layout = words[header::LAYOUT..].try_into().ok().and_then(Layout::from_words);
        let layout = layout.ok_or_else(|| foreign("its sizes are out of their ranges"))?;
        let plan = Plan::new(&layout);
        let sizes = [words[header::TOTAL_BYTES], words[header::SECRETS_BYTES]];
        if sizes != [plan.total as u64 * 8, plan.secrets_total as u64 * 8] {
            return Err(foreign("its lengths are not what its sizes need"));
        }
        let length = file.metadata().map_err(|error| io_error("measure", path, error))?.len();
        if length != plan.total as u64 * 8 {
            return Err(foreign("it is not as long as it says"));
        }
        let memory = Memory::map(&file, plan.total, writable)
            .map_err(|error| io_error("map", path, error))?;
        let secrets = match access {
            Access::Owner => Some(map_secrets(path, &plan, words[header::CREATION])?),
            Access::Reader => None,
        };
        Ok(Region { memory, secrets, layout, plan, _hold: Hold::Nothing })
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Access {
    /// One of the two processes.
    Owner,
    /// A tool.
    Reader,
}

/// What is drawn when a region is made.
#[derive(Clone, Copy)]
struct Birth {
    creation: u64,
    index_seed: u64,
    boot: u64,
}

fn first_words(layout: &Layout, plan: &Plan, birth: Birth) -> [u64; FIRST_WORDS] {
    let mut words = [0; FIRST_WORDS];
    words[header::MAGIC] = MAGIC;
    words[header::VERSION] = LAYOUT_VERSION;
    words[header::SHAPE] = plan::shape();
    words[header::TOTAL_BYTES] = plan.total as u64 * 8;
    words[header::SECRETS_BYTES] = plan.secrets_total as u64 * 8;
    words[header::CREATION] = birth.creation;
    words[header::INDEX_SEED] = birth.index_seed;
    words[header::BOOT] = birth.boot;
    words[header::LAYOUT..].copy_from_slice(&layout.to_words());
    words
}

fn fill(memory: &[AtomicU64], words: &[u64]) {
    for (word, value) in memory.iter().zip(words) {
        word.store(*value, Ordering::Relaxed);
    }
}

/// The header of what lies at `path`, when it is a region of any build.
fn left_behind(path: &Path) -> Result<Option<[u64; header::FIXED_WORDS]>, RegionError> {
    let words = file::open(path, Demand::Ours).and_then(|mut file| first_of(&mut file, path));
    match words {
        Ok(words) => Ok((words[header::MAGIC] == MAGIC).then_some(words)),
        Err(RegionError::Foreign { .. }) => Ok(None),
        Err(RegionError::Io { error, .. }) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// The first words of a file at `path`.
fn first_of<const N: usize>(file: &mut File, path: &Path) -> Result<[u64; N], RegionError> {
    read_words(file).map_err(|error| match error.kind() {
        io::ErrorKind::UnexpectedEof => {
            RegionError::Foreign { path: path.to_owned(), what: "it is too short" }
        }
        _ => io_error("read", path, error),
    })
}

/// Makes both files under other names and puts them in their places, the region last.
fn create(path: &Path, layout: &Layout) -> Result<(), RegionError> {
    let old = left_behind(path)?;
    let plan = Plan::new(layout);
    let [creation, index_seed] = entropy()?;
    let birth = Birth { creation, index_seed, boot: boot() };
    let secrets_path = beside(path, "secrets");
    let secrets_new = beside(&secrets_path, "new");
    let secrets = new_file(&secrets_new, plan.secrets_total, SECRETS_MODE)?;
    let region_new = beside(path, "new");
    let region = new_file(&region_new, plan.total, REGION_MODE)?;
    let map = |file, words, path| {
        Memory::map(file, words, true).map_err(|error| io_error("map", path, error))
    };
    fill(map(&secrets, plan.secrets_total, &secrets_new)?.words(), &[MAGIC, creation]);
    let memory = map(&region, plan.total, &region_new)?;
    fill(memory.words(), &first_words(layout, &plan, birth));
    if let Some(old) = old {
        header::carry_over(&old, memory.words());
    }
    for (from, to) in [(&secrets_new, secrets_path.as_path()), (&region_new, path)] {
        std::fs::rename(from, to).map_err(|error| io_error("rename into", to, error))?;
    }
    Ok(())
}

/// A file of `words` words of zero whose pages are all there.
fn new_file(path: &Path, words: usize, mode: u32) -> Result<File, RegionError> {
    let fail = |what| move |error| io_error(what, path, error);
    if let Err(error) = std::fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(io_error("remove", path, error));
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(path)
        .map_err(fail("create"))?;
    let zeros = vec![0; 1 << 20];
    let mut left = words * 8;
    while left > 0 {
        let len = left.min(zeros.len());
        file.write_all(&zeros[..len]).map_err(fail("make room in"))?;
        left -= len;
    }
    Ok(file)
}

fn map_secrets(path: &Path, plan: &Plan, creation: u64) -> Result<Memory, RegionError> {
    let path = beside(path, "secrets");
    let foreign = |what| RegionError::Foreign { path: path.clone(), what };
    let mut file = file::open(&path, Demand::Secret)?;
    let words: [u64; 2] = first_of(&mut file, &path)?;
    if words != [MAGIC, creation] {
        return Err(foreign("it belongs to another region"));
    }
    let length = file.metadata().map_err(|error| io_error("measure", &path, error))?.len();
    if length != plan.secrets_total as u64 * 8 {
        return Err(foreign("it is not as long as the region says"));
    }
    Memory::map(&file, plan.secrets_total, true).map_err(|error| io_error("map", &path, error))
}

fn entropy() -> Result<[u64; 2], RegionError> {
    let path = Path::new("/dev/urandom");
    File::open(path)
        .and_then(|mut file| read_words(&mut file))
        .map_err(|error| io_error("read", path, error))
}

/// A number for this boot: after another boot the times in a region mean nothing. 0 when unknown.
fn boot() -> u64 {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.bytes()
        .filter_map(|byte| char::from(byte).to_digit(16))
        .fold(0, |boot: u64, digit| boot.rotate_left(4) ^ u64::from(digit))
}

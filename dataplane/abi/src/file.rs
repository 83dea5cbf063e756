//! The files of a region: opened so that nobody else's are taken for ours, and locked.
//!
//! /dev/shm is everybody's. Who can put a file, or a link to one, where a region is to lie must not
//! feed us rows or secrets, nor have us write into a file that is something else. So no link is
//! followed, and what was opened is judged by its descriptor, not by its name.

use std::fs::{File, Metadata, OpenOptions, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::OFlags;
use rustix::io::Errno;

use crate::region::RegionError;

pub(crate) const REGION_MODE: u32 = 0o640;
pub(crate) const SECRETS_MODE: u32 = 0o600;

/// Bits of a mode that let the group or others write.
const OTHERS_WRITE: u32 = 0o022;
/// Bits of a mode that let the group or others do anything.
const OTHERS: u32 = 0o077;

/// What a file must be to be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Demand {
    /// Ours, and nobody else writes to it.
    Ours,
    /// Ours, and nobody else's in any way.
    Secret,
    /// A file that is only read, by a tool that trusts none of it: anyone's.
    ToRead,
}

impl Demand {
    /// Judges an open file; the rule that it breaks, if it breaks one.
    fn broken_by(self, file: &Metadata) -> Option<&'static str> {
        if !file.is_file() {
            return Some("it is not a regular file");
        }
        if self == Demand::ToRead {
            return None;
        }
        if file.uid() != rustix::process::geteuid().as_raw() {
            return Some("it belongs to another user");
        }
        if self == Demand::Secret && file.mode() & OTHERS != 0 {
            return Some("its group or others have access to it");
        }
        if file.mode() & OTHERS_WRITE != 0 {
            return Some("its group or others may write to it");
        }
        None
    }
}

/// Opens the file at `path`, to be written unless it is only [`Demand::ToRead`].
pub(crate) fn open(path: &Path, demand: Demand) -> Result<File, RegionError> {
    let mut options = OpenOptions::new();
    options.read(true).write(demand != Demand::ToRead);
    open_judged(path, options, demand)
}

/// Never a link's target, and never a wait for the other end of a pipe.
fn open_judged(path: &Path, mut options: OpenOptions, demand: Demand) -> Result<File, RegionError> {
    let untrusted = |rule| RegionError::Untrusted { path: path.to_owned(), rule };
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = options.custom_flags(flags.bits().cast_signed()).open(path).map_err(|error| {
        match Errno::from_io_error(&error) {
            Some(Errno::LOOP) => untrusted("it is a symbolic link"),
            _ => io_error("open", path, error),
        }
    })?;
    let metadata = file.metadata().map_err(|error| io_error("measure", path, error))?;
    match demand.broken_by(&metadata) {
        Some(rule) => Err(untrusted(rule)),
        None => Ok(file),
    }
}

/// A lock on a file, which the kernel lets go of when this process dies.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Data plane: the lock that one of them has at a time.
    pub(crate) fn of_data_plane(region: &Path) -> Result<Lock, RegionError> {
        let path = beside(region, "lock");
        let file = open_lock(&path)?;
        Self::take(file, &path, |pid| RegionError::AlreadyRunning { pid })
    }

    /// Locks `file` and writes into it who has it; `taken` makes the error when another has.
    fn take(
        mut file: File,
        path: &Path,
        taken: fn(u32) -> RegionError,
    ) -> Result<Lock, RegionError> {
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut pid = String::new();
                let read = file.read_to_string(&mut pid);
                return Err(taken(read.ok().and_then(|_| pid.trim().parse().ok()).unwrap_or(0)));
            }
            Err(TryLockError::Error(error)) => return Err(io_error("lock", path, error)),
        }
        let mut lock = Lock(file);
        lock.sign().map_err(|error| io_error("write", path, error))?;
        Ok(lock)
    }

    fn sign(&mut self) -> io::Result<()> {
        self.0.set_len(0)?;
        self.0.rewind()?;
        writeln!(self.0, "{}", std::process::id())
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // The lock is the open file description's, of which a child between its fork and its exec
        // has a copy: closing ours alone would leave it locked for that moment.
        let _ = self.0.unlock();
    }
}

/// The lock that one control process has at a time. All regions that this process opens at one
/// place share it: it opens the next while the one before still is in use.
#[derive(Debug)]
pub(crate) struct ControlLock(FileId);

/// Device and inode.
type FileId = (u64, u64);

struct Held {
    id: FileId,
    regions: usize,
    _lock: Lock,
}

/// The control locks of this process.
static HELD: Mutex<Vec<Held>> = Mutex::new(Vec::new());

fn held() -> MutexGuard<'static, Vec<Held>> {
    // Nothing panics between two of its states.
    HELD.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ControlLock {
    /// Control: the lock beside `region`, or a share in it when this process has it already.
    pub(crate) fn of_control(region: &Path) -> Result<ControlLock, RegionError> {
        let path = beside(region, "control.lock");
        let mut held = held();
        let file = open_lock(&path)?;
        let metadata = file.metadata().map_err(|error| io_error("measure", &path, error))?;
        let id = (metadata.dev(), metadata.ino());
        if let Some(held) = held.iter_mut().find(|held| held.id == id) {
            held.regions += 1;
        } else {
            let lock = Lock::take(file, &path, |pid| RegionError::ControlRunning { pid })?;
            held.push(Held { id, regions: 1, _lock: lock });
        }
        Ok(ControlLock(id))
    }
}

impl Drop for ControlLock {
    fn drop(&mut self) {
        let mut held = held();
        // The file is let go of before another thread can look for it here.
        held.retain_mut(|held| {
            held.regions -= usize::from(held.id == self.0);
            held.regions > 0
        });
    }
}

fn open_lock(path: &Path) -> Result<File, RegionError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(REGION_MODE);
    open_judged(path, options, Demand::Ours)
}

/// `path` with a dot and `extension` behind its name.
pub(crate) fn beside(path: &Path, extension: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".");
    name.push(extension);
    PathBuf::from(name)
}

pub(crate) fn read_words<const N: usize>(file: &mut File) -> io::Result<[u64; N]> {
    let mut words = [0; N];
    for word in &mut words {
        let mut bytes = [0; 8];
        file.read_exact(&mut bytes)?;
        *word = u64::from_ne_bytes(bytes);
    }
    Ok(words)
}

pub(crate) fn io_error(what: &'static str, path: &Path, error: io::Error) -> RegionError {
    RegionError::Io { what, path: path.to_owned(), error }
}

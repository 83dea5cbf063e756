use std::fs::DirBuilder;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use abi::spool::{BLOCK_STEP, MAX_BLOCK, clock_block};
use base::WorkerId;
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags, fallocate, flock, ftruncate, open};
use rustix::io::{Errno, pwrite};

use super::Sink;
use crate::clock;

/// The length of a segment: some 17 seconds of 200 recordings.
const SEGMENT_BYTES: u64 = 64 << 20;
const MODE: Mode = Mode::from_raw_mode(0o600);

/// Where a worker's segments go, and what they are called:
/// `<start in ms of the calendar>-<incarnation>-<worker>-<number>.spool`, which sorts. Beside them lies
/// `<start>-<incarnation>-<worker>.alive`, locked as long as the writer lives; whoever can lock it knows
/// that nothing comes after the last segment. Neither is ever written over: who takes the segments
/// removes them.
#[derive(Clone, Debug)]
pub struct Place {
    directory: PathBuf,
    stem: String,
    segment_bytes: u64,
}

impl Place {
    /// Makes the directory if it is missing. A later start gets a later name, also when the calendar
    /// was set back.
    pub fn prepare(directory: &Path, incarnation: u64) -> io::Result<impl Fn(WorkerId) -> Place> {
        DirBuilder::new().recursive(true).mode(0o700).create(directory)?;
        let mut start = unix_ns() / 1_000_000;
        for entry in std::fs::read_dir(directory)? {
            let name = entry?.file_name();
            let old = name.to_str().and_then(|name| name.split('-').next()?.parse::<u64>().ok());
            start = start.max(old.map_or(0, |old| old.saturating_add(1)));
        }
        let directory = directory.to_owned();
        Ok(move |worker: WorkerId| Place {
            directory: directory.clone(),
            stem: format!("{start:015}-{incarnation:010}-{:03}", worker.0),
            segment_bytes: SEGMENT_BYTES,
        })
    }

    #[cfg(test)]
    pub(super) fn with_segments_of(mut self, bytes: u64) -> Place {
        self.segment_bytes = bytes;
        self
    }
}

/// Writes blocks into segments, past the page cache where the file system lets it.
#[derive(Debug)]
pub struct Segments {
    place: Place,
    is_direct: bool,
    number: u32,
    open: Option<Segment>,
    buffer: Aligned,
    alive: Option<OwnedFd>,
}

#[derive(Debug)]
struct Segment {
    file: OwnedFd,
    path: PathBuf,
    at: u64,
}

impl Segments {
    /// Segments at `place`; the first is made when there is something to write.
    pub fn new(place: Place) -> Self {
        Segments {
            place,
            is_direct: true,
            number: 0,
            open: None,
            buffer: Aligned::new(),
            alive: None,
        }
    }

    fn segment(&mut self, length: usize) -> io::Result<&mut Segment> {
        let is_full = |open: &Segment| open.at + length as u64 > self.place.segment_bytes;
        if self.open.as_ref().is_some_and(is_full) {
            self.end_segment();
        }
        if self.open.is_none() {
            self.live()?;
            self.open = Some(self.begin_segment()?);
        }
        self.open.as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Locks the file that says that this writer lives. It has its lock before it has its name.
    fn live(&mut self) -> io::Result<()> {
        if self.alive.is_some() {
            return Ok(());
        }
        let name = self.place.directory.join(format!("{}.alive", self.place.stem));
        let fresh = self.place.directory.join(format!(".{}.alive", self.place.stem));
        let flags = OFlags::CREATE | OFlags::RDWR | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let file = open(&fresh, flags, MODE)?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)?;
        std::fs::rename(&fresh, &name)?;
        self.alive = Some(file);
        Ok(())
    }

    fn begin_segment(&mut self) -> io::Result<Segment> {
        self.number += 1;
        let name = format!("{}-{:08}.spool", self.place.stem, self.number);
        let path = self.place.directory.join(name);
        let file = self.create(&path)?;
        let mut segment = Segment { file, path, at: 0 };
        let clock = clock_block(clock::now(), unix_ns());
        let begun = segment
            .allocate(self.place.segment_bytes)
            .and_then(|()| segment.append(self.buffer.holding(&clock)));
        match begun {
            Ok(()) => Ok(segment),
            Err(error) => {
                segment.end(clock.len() as u64);
                Err(error)
            }
        }
    }

    fn create(&mut self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        if self.is_direct {
            match open(path, flags | OFlags::DIRECT, MODE) {
                Err(Errno::INVAL) => {
                    self.is_direct = false;
                    // The kernel makes the file before it refuses the flag.
                    let _ = std::fs::remove_file(path);
                    tracing::info!(
                        directory = %self.place.directory.display(),
                        "the spool goes through the page cache: its file system has no direct writes"
                    );
                }
                opened => return Ok(opened?),
            }
        }
        Ok(open(path, flags, MODE)?)
    }

    fn end_segment(&mut self) {
        if let Some(segment) = self.open.take() {
            segment.end(BLOCK_STEP as u64);
        }
    }
}

impl Segment {
    /// Room on the disk, so that a write does not wait for the file system to find some.
    fn allocate(&self, bytes: u64) -> io::Result<()> {
        match fallocate(&self.file, FallocateFlags::empty(), 0, bytes) {
            Err(Errno::OPNOTSUPP) => Ok(()),
            done => Ok(done?),
        }
    }

    fn append(&mut self, block: &[u8]) -> io::Result<()> {
        loop {
            match pwrite(&self.file, block, self.at) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                // The rest would not be aligned; the block is written anew, elsewhere.
                Ok(written) if written < block.len() => {
                    return Err(io::ErrorKind::WriteZero.into());
                }
                Ok(_) => {
                    self.at += block.len() as u64;
                    return Ok(());
                }
            }
        }
    }

    /// Gives the room back that was not used, or all when there is nothing but the clock in it.
    fn end(self, clock: u64) {
        let ended = if self.at <= clock {
            std::fs::remove_file(&self.path)
        } else {
            ftruncate(&self.file, self.at).map_err(io::Error::from)
        };
        if let Err(error) = ended {
            tracing::debug!(%error, path = %self.path.display(), "the end of a segment");
        }
    }
}

impl Sink for Segments {
    fn write(&mut self, block: &[u8]) -> io::Result<()> {
        self.segment(block.len())?;
        let Some(segment) = &mut self.open else { return Err(io::ErrorKind::NotFound.into()) };
        let written = segment.append(self.buffer.holding(block));
        if written.is_err() {
            // Whatever is wrong with it, the next one may be all right.
            self.end_segment();
        }
        written
    }

    fn close(&mut self) {
        self.end_segment();
        self.alive = None;
    }
}

/// Room for one block at an address that direct writes take.
#[derive(Debug)]
struct Aligned {
    bytes: Vec<u8>,
    skip: usize,
}

impl Aligned {
    fn new() -> Self {
        let bytes = vec![0; MAX_BLOCK + BLOCK_STEP];
        let skip = bytes.as_ptr().align_offset(BLOCK_STEP).min(BLOCK_STEP);
        Aligned { bytes, skip }
    }

    /// A copy of `block`; of a longer one than there is, its beginning.
    fn holding(&mut self, block: &[u8]) -> &[u8] {
        let length = block.len().min(MAX_BLOCK);
        let room = &mut self.bytes[self.skip..self.skip + length];
        room.copy_from_slice(&block[..length]);
        room
    }
}

fn unix_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

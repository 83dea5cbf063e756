use std::collections::{HashMap, HashSet};
use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use abi::spool::{Block, Record, RecordingId, SpoolReader};
use base::Instant;
use rustix::fs::{FlockOperation, OFlags, flock, syncfs};
use serde::{Deserialize, Serialize};

use super::segment::{self, Chunk};
use super::take::{Account, Clock, Place, Take};

/// Recordings of one writer at a time; a worker has no more legs than this that it can record. What
/// belongs to more is left out.
const TAKES: usize = 4_096;
/// Recordings that are remembered as done, against records that come after the end.
const DONE: usize = 4_096;
/// How long a call must be gone before its recording is finished without an end, in milliseconds: what a
/// slow disk holds back has come by then.
const GONE_MS: u64 = 10_000;
/// The longest checkpoint, in bytes: one with all takes, each with more pauses than people make.
const CHECKPOINT_BYTES: u64 = 64 << 20;

/// One worker of one incarnation of a data plane: what it wrote, and what is being made of it.
pub struct Writer {
    spool: PathBuf,
    stem: String,
    recordings: PathBuf,
    segment: u32,
    offset: u64,
    file: Option<File>,
    sequence: u64,
    clock: Clock,
    takes: HashMap<RecordingId, Take>,
    done: HashSet<RecordingId>,
    left_out: u64,
}

/// How things stood before a segment. All before it is in the files of the takes.
#[derive(Default, Serialize, Deserialize)]
struct Checkpoint {
    segment: u32,
    sequence: u64,
    takes: Vec<Account>,
}

impl Writer {
    /// The writer `stem` in the directory `spool`, as the last checkpoint has it.
    pub fn open(spool: &Path, recordings: &Path, stem: &str) -> io::Result<Writer> {
        let mut writer = Writer {
            spool: spool.to_owned(),
            stem: stem.to_owned(),
            recordings: recordings.to_owned(),
            segment: 0,
            offset: 0,
            file: None,
            sequence: 0,
            clock: Clock::default(),
            takes: HashMap::new(),
            done: HashSet::new(),
            left_out: 0,
        };
        let checkpoint = read_checkpoint(&writer.path("taken"))?;
        writer.segment = checkpoint.segment;
        writer.sequence = checkpoint.sequence;
        for account in checkpoint.takes.into_iter().take(TAKES) {
            let id = account.id();
            match Take::reopen(account, writer.place())? {
                Some(take) => {
                    writer.takes.insert(id, take);
                }
                // It was finished after the checkpoint.
                None => {
                    writer.done.insert(id);
                }
            }
        }
        Ok(writer)
    }

    fn path(&self, ending: &str) -> PathBuf {
        self.spool.join(format!("{}.{ending}", self.stem))
    }

    fn segment_path(&self, number: u32) -> PathBuf {
        self.spool.join(format!("{}-{number:08}.spool", self.stem))
    }

    fn place(&self) -> Place<'_> {
        Place { directory: &self.recordings, stem: &self.stem }
    }

    /// Takes all that lies in `segments`, or until `stop`. False when the writer is dead and all is
    /// taken: then nothing is left of it.
    pub fn take(
        &mut self,
        segments: &[u32],
        chunk: &mut Chunk,
        stop: &AtomicBool,
    ) -> io::Result<bool> {
        let is_dead = self.is_dead()?;
        // What a dead one left is all that it ever wrote, but it may have been more than when it lived.
        let found = if is_dead { super::find(&self.spool)?.remove(&self.stem) } else { None };
        let segments = found.as_deref().unwrap_or(segments);
        let last = segments.last().copied();
        for number in segments.iter().copied() {
            if number < self.segment {
                remove(&self.segment_path(number))?;
                continue;
            }
            self.turn_to(number);
            let is_finished = is_dead || Some(number) != last;
            if !self.read(number, is_finished, chunk, stop)? {
                return Ok(true);
            }
            if is_finished {
                self.leave(number)?;
            }
        }
        if is_dead {
            self.bury()?;
        }
        Ok(!is_dead)
    }

    /// A writer holds a lock as long as it lives.
    fn is_dead(&self) -> io::Result<bool> {
        let file = match segment::open(&self.path("alive")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
            file => file?,
        };
        match flock(&file, FlockOperation::NonBlockingLockShared) {
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(false),
            locked => Ok(locked.map(|()| true)?),
        }
    }

    fn turn_to(&mut self, number: u32) {
        if self.segment != number {
            self.segment = number;
            self.offset = 0;
            self.file = None;
        }
    }

    /// Reads on in the segment; false when it was told to stop before the end.
    fn read(
        &mut self,
        number: u32,
        is_finished: bool,
        chunk: &mut Chunk,
        stop: &AtomicBool,
    ) -> io::Result<bool> {
        loop {
            if stop.load(Ordering::Acquire) {
                return Ok(false);
            }
            let file = match self.file.take() {
                Some(file) => file,
                // Writers remove segments that they did not use.
                None => match segment::open(&self.segment_path(number)) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(true),
                    file => file?,
                },
            };
            let bytes = chunk.read(&file, self.offset)?;
            self.file = Some(file);
            let length = bytes.len();
            let mut blocks = SpoolReader::new(bytes);
            for block in blocks.by_ref() {
                self.take_block(&block)?;
            }
            let consumed = blocks.consumed();
            if consumed > 0 {
                self.offset += consumed as u64;
            } else if is_finished && let Some(step) = Chunk::step(length) {
                self.offset += step as u64;
            } else {
                return Ok(true);
            }
        }
    }

    fn take_block(&mut self, block: &Block<'_>) -> io::Result<()> {
        if block.sequence > 0 {
            let lost = block.sequence.saturating_sub(self.sequence.saturating_add(1));
            if lost > 0 {
                self.takes.values_mut().for_each(|take| take.lose_blocks(lost));
            }
            self.sequence = self.sequence.max(block.sequence);
        }
        let mut records = block.records();
        for record in records.by_ref() {
            self.take_record(&record)?;
        }
        if records.left() > 0 {
            tracing::warn!(
                stem = self.stem,
                left = records.left(),
                "bytes of a block are no records"
            );
        }
        Ok(())
    }

    fn take_record(&mut self, record: &Record<'_>) -> io::Result<()> {
        if let Record::Clock { at, unix_ns } = *record {
            self.clock = Clock { at: at.as_nanos(), unix_ns };
        }
        let Some(of) = record.of() else { return Ok(()) };
        if !self.takes.contains_key(&of) {
            if matches!(record, Record::Start { .. }) {
                self.done.remove(&of);
            } else if self.done.contains(&of) {
                return Ok(());
            }
            if self.takes.len() >= TAKES {
                self.left_out += 1;
                if self.left_out.is_power_of_two() {
                    tracing::error!(
                        stem = self.stem,
                        left_out = self.left_out,
                        "too many recordings"
                    );
                }
                return Ok(());
            }
            let take = Take::begin(of, self.place())?;
            self.takes.insert(of, take);
        }
        let Some(take) = self.takes.get_mut(&of) else { return Ok(()) };
        take.gone_since = None;
        take.take(record, self.clock)?;
        if matches!(record, Record::End { .. })
            && let Some(take) = self.takes.remove(&of)
        {
            self.finish(of, take)?;
        }
        Ok(())
    }

    /// Finishes the takes whose call has been gone for [`GONE_MS`], with nothing more of them in the spool:
    /// the block with their end was lost.
    pub fn finish_gone(&mut self, live: &HashSet<u64>, now: Instant) -> io::Result<()> {
        let gone = self.takes.iter_mut().filter_map(|(id, take)| {
            let since = match live.contains(&id.serial) {
                true => None,
                false => Some(take.gone_since.unwrap_or(now)),
            };
            take.gone_since = since;
            since.filter(|at| now.since(*at).as_millis() > u128::from(GONE_MS)).map(|_| *id)
        });
        for id in gone.collect::<Vec<_>>() {
            let Some(take) = self.takes.remove(&id) else { continue };
            tracing::warn!(stem = self.stem, recording = id.number, "a recording has no end");
            self.finish(id, take)?;
        }
        Ok(())
    }

    fn finish(&mut self, id: RecordingId, take: Take) -> io::Result<()> {
        take.finish(self.place())?;
        if self.done.len() >= DONE {
            self.done.clear();
        }
        self.done.insert(id);
        Ok(())
    }

    /// Writes a checkpoint behind the segment, and removes it.
    fn leave(&mut self, number: u32) -> io::Result<()> {
        for take in self.takes.values_mut() {
            take.write_out()?;
        }
        // The disk has the takes before the spool lets go of what is in them.
        syncfs(File::open(&self.recordings)?)?;
        self.segment = number.saturating_add(1);
        self.offset = 0;
        self.file = None;
        let checkpoint = Checkpoint {
            segment: self.segment,
            sequence: self.sequence,
            takes: self.takes.values().map(|take| take.account().clone()).collect(),
        };
        let fresh = self.spool.join(format!(".{}.taken", self.stem));
        // One that a killed process left, or that somebody laid there, is not written into.
        remove(&fresh)?;
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        file.write_all(&serde_json::to_vec(&checkpoint)?)?;
        file.sync_all()?;
        std::fs::rename(&fresh, self.path("taken"))?;
        remove(&self.segment_path(number))
    }

    /// Finishes what a dead writer did not end, and removes what is left of it.
    fn bury(&mut self) -> io::Result<()> {
        for (_, take) in std::mem::take(&mut self.takes) {
            take.finish(self.place())?;
        }
        // The disk has the files before the checkpoint goes that could make them again.
        syncfs(File::open(&self.recordings)?)?;
        // The lock's file is last: as long as it is there the writer is found again.
        remove(&self.path("taken"))?;
        remove(&self.path("alive"))
    }
}

/// The checkpoint in that file. One that is no file of ours or makes no sense counts as none.
fn read_checkpoint(path: &Path) -> io::Result<Checkpoint> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let senseless = |why: &dyn std::fmt::Display| {
        tracing::error!(%why, path = %path.display(), "a checkpoint of recordings makes no sense");
        Ok(Checkpoint::default())
    };
    let file = OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path);
    let file = match file {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Checkpoint::default()),
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error()) => {
            return senseless(&"it is a link");
        }
        file => file?,
    };
    if !file.metadata()?.is_file() {
        return senseless(&"it is no file");
    }
    let mut bytes = Vec::new();
    file.take(CHECKPOINT_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > CHECKPOINT_BYTES {
        return senseless(&"it is too long");
    }
    serde_json::from_slice(&bytes).or_else(|error| senseless(&error))
}

fn remove(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

impl Clock {
    /// Milliseconds since 1970 at a time of the monotonic clock; 0 when the spool had no clock.
    pub fn unix_ms(self, at: Instant) -> u64 {
        let unix = i128::from(self.unix_ns) + i128::from(at.as_nanos()) - i128::from(self.at);
        if self.unix_ns == 0 { 0 } else { u64::try_from(unix / 1_000_000).unwrap_or(0) }
    }
}

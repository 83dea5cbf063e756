//! Call records: a line of JSON for each leg of a finished call, in a file a day.
//!
//! ```text
//! row Ended -> record -> lines written -> synced to the disk -> row acknowledged
//! ```
//! A row is given back only when its lines are safe, so no death loses a record; and what the files
//! hold already is not written again, so nobody is billed twice. A disk that refuses keeps the rows
//! waiting and is tried again; calls go on meanwhile.

use std::collections::HashSet;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, TryRecvError, channel};
use std::time::Duration;

use base::{CallRef, CcbId};
use control_core::{CallRecord, LegRecord};

use crate::clock;

mod line;
#[cfg(test)]
mod tests;

use line::{LegKey, date, key_in, key_of, push_leg_line};
pub use line::{call_json, rfc3339, serial_text};

/// Calls that are written and synced in one go.
const BATCH: usize = 512;
/// How long a record waits for others: a sync costs a quarter of a millisecond of CPU time, however many lines it saves.
const GATHER_MS: u64 = 50;
/// How much of a file's end is searched for lines whose acknowledgement was cut short: those of a batch
/// and of the acknowledgements under way, some 1,600 calls, take a quarter of it.
const TAIL_BYTES: u64 = 16 << 20;
/// How many files are searched: a record is written on the day of its end or, around midnight or after a
/// death, into a later day's file.
const FILES_SEARCHED: usize = 2;
/// How long a write that failed waits for the next try: twice as long each time.
const RETRY_MS: u64 = 500;
/// At most so long.
const LONGEST_RETRY_MS: u64 = 30_000;
/// Records that wait while the disk refuses. What is more stays in its row and is read at control's
/// next start.
const WAITING: u64 = 65_536;
/// What the name of a day's file ends with.
const ENDING: &str = ".jsonl";

/// Where records are handed in.
#[derive(Debug)]
pub struct RecordSender {
    records: Sender<Box<CallRecord>>,
    state: Arc<RecordState>,
}

/// How the writing goes, for status tools.
#[derive(Debug, Default)]
pub struct RecordState {
    /// Lines written and synced.
    pub written: AtomicU64,
    /// Writes that failed.
    pub failed: AtomicU64,
    /// Calls whose lines are not safe yet.
    pub waiting: AtomicU64,
    /// Calls that found no room among those that wait.
    pub left: AtomicU64,
    /// True from a write that failed to the next one that does not.
    pub is_failing: AtomicBool,
}

impl RecordSender {
    /// Hands a record in. It is safe when the function given to [`start`] is called.
    pub fn send(&self, record: Box<CallRecord>) {
        let state = &self.state;
        if state.waiting.fetch_add(1, Ordering::Relaxed) >= WAITING {
            state.waiting.fetch_sub(1, Ordering::Relaxed);
            state.left.fetch_add(1, Ordering::Relaxed);
        } else if self.records.send(record).is_err() {
            tracing::error!("the thread that writes call records is gone");
        }
    }
}

/// The folder of the records, and the file of the day.
struct Folder {
    path: PathBuf,
    /// This machine's name.
    blade: String,
    /// The keys at the end of the newest files when they were opened.
    known: HashSet<LegKey>,
    day: Option<Day>,
}

struct Day {
    date: String,
    path: PathBuf,
    file: File,
    /// Where the last whole line ends. What lies behind it is of a write that failed.
    length: u64,
}

/// Opens the folder, made if it is missing, and starts the thread that writes; `recorded` is called with
/// the calls whose records are safe, once for all that were written together. The thread ends when the sender is dropped.
pub fn start(
    path: &Path,
    state: Arc<RecordState>,
    recorded: impl Fn(Vec<(CcbId, CallRef)>) + Send + 'static,
) -> io::Result<RecordSender> {
    let folder = Folder::open(path)?;
    let (records, receiver) = channel();
    let told = Arc::clone(&state);
    std::thread::Builder::new()
        .name("call-records".into())
        .spawn(move || write_all(folder, &receiver, &told, recorded))?;
    Ok(RecordSender { records, state })
}

fn write_all(
    mut folder: Folder,
    records: &Receiver<Box<CallRecord>>,
    state: &RecordState,
    recorded: impl Fn(Vec<(CcbId, CallRef)>),
) {
    while let Ok(first) = records.recv() {
        std::thread::sleep(Duration::from_millis(GATHER_MS));
        let mut batch = vec![first];
        fill(&mut batch, records);
        let mut wait = Duration::from_millis(RETRY_MS);
        let lines = loop {
            match folder.write(&batch) {
                Ok(lines) => break lines,
                Err(error) => {
                    state.failed.fetch_add(1, Ordering::Relaxed);
                    if !state.is_failing.swap(true, Ordering::Relaxed) {
                        let folder = folder.path.display();
                        tracing::error!(%error, %folder, "call records cannot be written; they wait");
                    }
                }
            }
            // More calls end meanwhile, and may have room in this batch.
            match records.recv_timeout(wait) {
                Ok(record) => {
                    batch.push(record);
                    std::thread::sleep(wait);
                    fill(&mut batch, records);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            wait = (wait * 2).min(Duration::from_millis(LONGEST_RETRY_MS));
        };
        if state.is_failing.swap(false, Ordering::Relaxed) {
            tracing::info!(calls = batch.len(), "call records are written again");
        }
        state.written.fetch_add(lines, Ordering::Relaxed);
        state.waiting.fetch_sub(batch.len() as u64, Ordering::Relaxed);
        // Together, so that the owner is woken once for them.
        recorded(batch.iter().map(|record| (record.ccb, record.call)).collect());
    }
}

#[expect(clippy::vec_box, reason = "records come boxed, and are not moved about again")]
fn fill(batch: &mut Vec<Box<CallRecord>>, records: &Receiver<Box<CallRecord>>) {
    while batch.len() < BATCH {
        match records.try_recv() {
            Ok(record) => batch.push(record),
            Err(TryRecvError::Empty | TryRecvError::Disconnected) => return,
        }
    }
}

impl Folder {
    fn open(path: &Path) -> io::Result<Folder> {
        let mut folder = std::fs::DirBuilder::new();
        folder.recursive(true).mode(0o750).create(path)?;
        let blade = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
        let mut opened = Folder {
            path: path.to_owned(),
            blade: blade.trim_end().to_owned(),
            known: HashSet::new(),
            day: None,
        };
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            names.extend(entry?.file_name().into_string().ok().filter(|name| is_day(name)));
        }
        names.sort_unstable();
        let today = today();
        for name in names.iter().rev().take(FILES_SEARCHED) {
            let day = opened.open_day(name.trim_end_matches(ENDING))?;
            if day.date == today {
                opened.day = Some(day);
            }
        }
        if opened.day.is_none() {
            // A folder that cannot be written to is told at the start, not at the end of a call.
            opened.day = Some(opened.open_day(&today)?);
        }
        Ok(opened)
    }

    /// Opens a day's file, learns what it holds and cuts off half a line: its writer was killed.
    fn open_day(&mut self, date: &str) -> io::Result<Day> {
        let path = self.path.join(format!("{date}{ENDING}"));
        let is_new = !path.exists();
        let mut file =
            OpenOptions::new().read(true).append(true).create(true).mode(0o640).open(&path)?;
        if is_new {
            // The name must be as safe as the lines.
            File::open(&self.path)?.sync_all()?;
        }
        let whole = file.metadata()?.len();
        file.seek(SeekFrom::Start(whole.saturating_sub(TAIL_BYTES)))?;
        let mut tail = Vec::new();
        file.read_to_end(&mut tail)?;
        let torn = tail.iter().rev().take_while(|byte| **byte != b'\n').count();
        let length = whole - torn as u64;
        if torn > 0 {
            file.set_len(length)?;
        }
        let lines = tail[..tail.len() - torn].split(|byte| *byte == b'\n');
        self.known.extend(lines.filter_map(key_in));
        Ok(Day { date: date.to_owned(), path, file, length })
    }

    /// Writes the legs of these calls and waits until they are on the disk; returns how many lines that
    /// took. What an earlier process wrote is left out.
    fn write(&mut self, batch: &[Box<CallRecord>]) -> io::Result<u64> {
        let mut day = match self.day.take() {
            Some(day) if day.date == today() && day.is_there()? => day,
            _ => self.open_day(&today())?,
        };
        let mut text = Vec::new();
        let mut lines = 0;
        // Of a call whose legs found no rows only this much is known.
        let nobody = [LegRecord::default()];
        for record in batch {
            let is_new = |leg: &&_| !self.known.contains(&key_of(record, leg));
            let legs = if record.legs.is_empty() { &nobody[..] } else { &record.legs };
            for leg in legs.iter().filter(is_new) {
                push_leg_line(&mut text, &self.blade, record, leg)?;
                text.push(b'\n');
                lines += 1;
            }
        }
        let written = day.append(&text);
        self.day = Some(day);
        written.map(|()| lines)
    }
}

impl Day {
    /// False when the file was moved away or deleted.
    fn is_there(&self) -> io::Result<bool> {
        let held = self.file.metadata()?;
        match std::fs::metadata(&self.path) {
            Ok(found) => Ok((found.dev(), found.ino()) == (held.dev(), held.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn append(&mut self, lines: &[u8]) -> io::Result<()> {
        if lines.is_empty() {
            return Ok(());
        }
        let written = self.append_whole(lines);
        if written.is_err() {
            // When this fails, too, the next try begins with it.
            let _ = self.file.set_len(self.length);
        }
        written
    }

    fn append_whole(&mut self, lines: &[u8]) -> io::Result<()> {
        if self.file.metadata()?.len() != self.length {
            self.file.set_len(self.length)?;
        }
        self.file.write_all(lines)?;
        // A failed sync may have dropped what it was to write: all of it is written again.
        self.file.sync_data()?;
        self.length += lines.len() as u64;
        Ok(())
    }
}

fn today() -> String {
    date(clock::unix_ms(clock::now()))
}

/// True for the name of a day's file, `2026-01-31.jsonl`.
fn is_day(name: &str) -> bool {
    let date = name.strip_suffix(ENDING).unwrap_or_default();
    date.len() == 10
        && date.bytes().enumerate().all(|(at, byte)| match at {
            4 | 7 => byte == b'-',
            _ => byte.is_ascii_digit(),
        })
}

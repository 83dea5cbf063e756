//! Recordings: follows the spools of the data planes and makes a stereo WAV file of each recording, with
//! an account of it in JSON beside it.
//!
//! ```text
//! spool directory                          recordings directory
//!   <writer>-00000007.spool   blocks         .<serial>-<number>-<writer>.part   being made
//!   <writer>.alive            a lock         <serial>-<number>.wav, .json       done
//!   <writer>.taken            a checkpoint
//! ```
//!
//! A killed process loses nothing, because every step can be done again: samples go to the places that
//! their positions say, and a segment is removed only after a checkpoint behind it. Who starts goes on at
//! the checkpoint; an error is handled in the same way, by starting again there.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::watch;

mod segment;
mod take;
mod writer;

use segment::Chunk;
use writer::Writer;

/// How often the spools are looked at, in milliseconds.
const LOOK_MS: u64 = 200;
/// How long a spool that could not be taken (a full disk) waits for the next try, in looks.
const RETRY_LOOKS: u32 = 5;

/// Where recordings come from and go to.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory for finished recordings; made if it is missing, mode 0700.
    pub directory: PathBuf,
    /// The spool directories of the blade's data planes; they need not exist yet.
    pub spools: Vec<PathBuf>,
}

/// Makes recordings until `stop` becomes true or its sender is dropped. It may end at any moment.
pub async fn follow(config: Config, mut stop: watch::Receiver<bool>) {
    let ended = Ended(Arc::default());
    let flag = Arc::clone(&ended.0);
    let thread = tokio::task::spawn_blocking(move || {
        let mut follower = Follower::new(config);
        while !flag.load(Ordering::Acquire) {
            follower.look(&flag);
            std::thread::sleep(Duration::from_millis(LOOK_MS));
        }
    });
    let _ = stop.wait_for(|stop| *stop).await;
    drop(ended);
    if thread.await.is_err() {
        tracing::error!("the thread that makes recordings panicked");
    }
}

/// Ends the thread also when the task that started it is aborted.
struct Ended(Arc<AtomicBool>);

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// All spools.
struct Follower {
    config: Config,
    writers: BTreeMap<(usize, String), Writer>,
    chunk: Chunk,
    waits: u32,
    has_failed: bool,
}

/// What lies in a spool directory of one writer: the numbers of its segments, in order.
type Found = BTreeMap<String, Vec<u32>>;

impl Follower {
    fn new(config: Config) -> Self {
        let chunk = Chunk::new();
        Follower { config, writers: BTreeMap::new(), chunk, waits: 0, has_failed: false }
    }

    /// Takes all that has been written since the last look, or until `stop`.
    fn look(&mut self, stop: &AtomicBool) {
        if self.waits > 0 {
            self.waits -= 1;
            return;
        }
        let result = make_directory(&self.config.directory)
            .and_then(|()| (0..self.config.spools.len()).try_for_each(|at| self.look_at(at, stop)));
        match result {
            Ok(()) => self.has_failed = false,
            Err(error) => {
                if !std::mem::replace(&mut self.has_failed, true) {
                    tracing::error!(%error, "recordings cannot be made; trying again every second");
                }
                self.waits = RETRY_LOOKS;
            }
        }
    }

    /// One spool directory. What cannot be taken of one writer does not hold the others up.
    fn look_at(&mut self, at: usize, stop: &AtomicBool) -> io::Result<()> {
        let spool = self.config.spools[at].clone();
        let mut result = Ok(());
        for (stem, segments) in find(&spool)? {
            if stop.load(Ordering::Acquire) {
                return Ok(());
            }
            let key = (at, stem);
            let taken = self.take_from(&key, &spool, &segments, stop);
            match taken {
                Ok(true) => {}
                Ok(false) => {
                    self.writers.remove(&key);
                }
                Err(error) => {
                    // Half of a block may have been taken: the checkpoint knows how things stood.
                    self.writers.remove(&key);
                    result = Err(error);
                }
            }
        }
        result
    }

    /// Takes what one writer wrote; false when nothing can come from it any more.
    fn take_from(
        &mut self,
        key: &(usize, String),
        spool: &Path,
        segments: &[u32],
        stop: &AtomicBool,
    ) -> io::Result<bool> {
        if !self.writers.contains_key(key) {
            let writer = Writer::open(spool, &self.config.directory, &key.1)?;
            self.writers.insert(key.clone(), writer);
        }
        match self.writers.get_mut(key) {
            Some(writer) => writer.take(segments, &mut self.chunk, stop),
            None => Ok(true),
        }
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    use std::os::unix::fs::DirBuilderExt as _;
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

/// The writers that left something in `spool`. Only plain files with names of the right form count.
fn find(spool: &Path) -> io::Result<Found> {
    let mut found = Found::new();
    let entries = match std::fs::read_dir(spool) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(found),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let name = entry.file_name();
        let Some((stem, number)) = name.to_str().and_then(parse_name) else { continue };
        // It may be gone by now: writers remove segments that they did not use.
        if !entry.file_type().is_ok_and(|kind| kind.is_file()) {
            continue;
        }
        found.entry(stem.to_owned()).or_default().extend(number);
    }
    for segments in found.values_mut() {
        segments.sort_unstable();
    }
    Ok(found)
}

/// A writer and, of a segment, its number: `<start>-<incarnation>-<worker>[-<number>].<ending>`.
fn parse_name(name: &str) -> Option<(&str, Option<u32>)> {
    let (name, ending) = name.split_once('.')?;
    let (stem, number) = match ending {
        "spool" => {
            let (stem, number) = name.rsplit_once('-')?;
            (stem, Some(number.parse().ok().filter(|_| is_number(number))?))
        }
        "alive" | "taken" => (name, None),
        _ => return None,
    };
    let is_stem = stem.split('-').count() == 3 && stem.split('-').all(is_number);
    is_stem.then_some((stem, number))
}

fn is_number(text: &str) -> bool {
    (1..=20).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests;

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

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use base::Instant;
use tokio::sync::watch;

mod segment;
mod take;
mod writer;

use crate::clock;
use segment::Chunk;
use writer::Writer;

/// How often the spools are looked at, in milliseconds.
const LOOK_MS: u64 = 200;
/// How long a spool that could not be taken (a full disk) waits for the next try, in looks.
const RETRY_LOOKS: u32 = 5;
/// How long a thread that panicked waits for the next one, in milliseconds.
const RESTART_MS: u64 = 1_000;

/// Where recordings come from and go to.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory for finished recordings; made if it is missing, mode 0700.
    pub directory: PathBuf,
    /// The spool directories of the blade's data planes; they need not exist yet.
    pub spools: Vec<PathBuf>,
}

/// The serial numbers of the calls that stand, by the spool directory of their data plane; one that is not
/// known has no entry.
pub type Live = HashMap<PathBuf, HashSet<u64>>;

/// Makes recordings until `stop` becomes true or its sender is dropped. It may end at any moment. A
/// recording whose end the spool lost is finished when its call is gone from `live` for ten seconds.
pub async fn follow(config: Config, live: watch::Receiver<Arc<Live>>, stop: watch::Receiver<bool>) {
    keep_running(stop, move |flag| {
        let mut follower = Follower::new(config.clone());
        while !flag.load(Ordering::Acquire) {
            follower.look(flag);
            let live = Arc::clone(&live.borrow());
            follower.finish_gone(&live, clock::now());
            std::thread::sleep(Duration::from_millis(LOOK_MS));
        }
    })
    .await;
}

/// Has `work` done by a thread until `stop`, which its flag tells it; when the thread panics, by another.
async fn keep_running(
    mut stop: watch::Receiver<bool>,
    work: impl Fn(&AtomicBool) + Send + Sync + 'static,
) {
    let ended = Ended(Arc::default());
    let work = Arc::new(work);
    let stopped = async {
        let _ = stop.wait_for(|stop| *stop).await;
    };
    tokio::pin!(stopped);
    loop {
        let (flag, work) = (Arc::clone(&ended.0), Arc::clone(&work));
        let mut thread = tokio::task::spawn_blocking(move || work(&flag));
        let result = tokio::select! {
            result = &mut thread => result,
            () = &mut stopped => {
                ended.0.store(true, Ordering::Release);
                thread.await
            }
        };
        if result.is_err() {
            tracing::error!("the thread that makes recordings panicked");
        }
        if ended.0.load(Ordering::Acquire) {
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_millis(RESTART_MS)) => {}
            () = &mut stopped => return,
        }
        tracing::warn!("recordings are made again");
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

    /// Finishes recordings whose call is gone; those of a spool that nothing is known of wait.
    fn finish_gone(&mut self, live: &Live, now: Instant) {
        if self.waits > 0 {
            return;
        }
        let spools = &self.config.spools;
        self.writers.retain(|(at, _), writer| {
            let Some(live) = spools.get(*at).and_then(|spool| live.get(spool)) else { return true };
            let finished = writer.finish_gone(live, now);
            finished
                .inspect_err(|error| tracing::error!(%error, "a recording cannot be made"))
                .is_ok()
        });
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

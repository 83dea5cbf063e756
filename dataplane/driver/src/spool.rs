//! A worker's way to the disk: a thread that writes the blocks of the spool, so that no packet waits.
//!
//! ```text
//! worker --write--> queue, 8 MiB at most --> thread --> segments in the spool's directory
//!        <--news--  Writing | Slow | Failed, bytes lost
//! ```
//!
//! What does not fit the queue is lost, counted and told. A write that fails is tried again every
//! second with the same block, so a disk that was full for a moment costs nothing.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Builder, JoinHandle};
use std::time::Duration;

use abi::SpoolState;
use base::Instant;
use crossbeam::queue::ArrayQueue;

use crate::clock;

mod segments;

pub use segments::{Place, Segments};

/// Bytes that wait for the disk, for each worker: two seconds of 200 recordings.
const QUEUE_BYTES: usize = 8 << 20;
/// Blocks that wait for the disk; the bytes bound them sooner, unless each is of the shortest kind.
const QUEUE_BLOCKS: usize = QUEUE_BYTES / abi::spool::BLOCK_STEP;
/// How often a write that failed is tried again, and how often more losses are told, in milliseconds.
const RETRY_MS: u64 = 1_000;

/// Where blocks go. Tests have slow ones.
pub trait Sink: Send + 'static {
    /// Writes a block, all of it or an error.
    fn write(&mut self, block: &[u8]) -> io::Result<()>;
    /// Ends what is being written; nothing comes after it.
    fn close(&mut self);
}

/// A worker's end of its spool.
#[derive(Debug)]
pub struct Spool {
    shared: Arc<Shared>,
    writer: JoinHandle<()>,
    is_slow: bool,
    told: SpoolState,
    told_at: Instant,
    lost: u64,
}

#[derive(Debug)]
struct Shared {
    queue: ArrayQueue<Vec<u8>>,
    /// Bytes in the queue and in the block that is being written.
    waiting: AtomicUsize,
    has_failed: AtomicBool,
    is_closing: AtomicBool,
}

/// A block that was not taken, by its length in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockLost(pub u64);

impl Spool {
    /// Starts the thread that writes to `sink`.
    pub fn start(name: String, sink: impl Sink) -> io::Result<Spool> {
        let shared = Arc::new(Shared {
            queue: ArrayQueue::new(QUEUE_BLOCKS),
            waiting: AtomicUsize::new(0),
            has_failed: AtomicBool::new(false),
            is_closing: AtomicBool::new(false),
        });
        let its = Arc::clone(&shared);
        let writer = Builder::new().name(name).spawn(move || its.serve(sink))?;
        Ok(Spool {
            shared,
            writer,
            is_slow: false,
            told: SpoolState::Writing,
            told_at: Instant::ZERO,
            lost: 0,
        })
    }

    /// Hands a block over; never blocks.
    pub fn write(&mut self, block: Vec<u8>) -> Result<(), BlockLost> {
        let length = block.len();
        let waiting = self.shared.waiting.fetch_add(length, Ordering::AcqRel);
        if waiting + length > QUEUE_BYTES || self.shared.queue.push(block).is_err() {
            self.shared.waiting.fetch_sub(length, Ordering::AcqRel);
            self.is_slow = true;
            self.lost += length as u64;
            return Err(BlockLost(length as u64));
        }
        self.writer.thread().unpark();
        Ok(())
    }

    /// How the spool is and the bytes lost since the last news, when that changed. Ask every cycle.
    pub fn news(&mut self, now: Instant) -> Option<(SpoolState, u64)> {
        if self.is_slow && self.shared.waiting.load(Ordering::Acquire) <= QUEUE_BYTES / 2 {
            self.is_slow = false;
        }
        let state = if self.shared.has_failed.load(Ordering::Acquire) {
            SpoolState::Failed
        } else if self.is_slow {
            SpoolState::Slow
        } else {
            SpoolState::Writing
        };
        let is_due = now.since(self.told_at) >= Duration::from_millis(RETRY_MS);
        if state == self.told && !(self.lost > 0 && is_due) {
            return None;
        }
        self.told = state;
        self.told_at = now;
        Some((state, std::mem::take(&mut self.lost)))
    }

    /// Writes what waits, as far as the disk takes it at once, and ends the thread.
    pub fn close(self) {
        self.shared.is_closing.store(true, Ordering::Release);
        self.writer.thread().unpark();
        if self.writer.join().is_err() {
            tracing::error!("the spool's thread panicked");
        }
    }
}

impl Shared {
    fn serve(&self, mut sink: impl Sink) {
        loop {
            let Some(block) = self.queue.pop() else {
                // The worker closes after its last write.
                if self.is_closing.load(Ordering::Acquire) && self.queue.is_empty() {
                    break;
                }
                thread::park();
                continue;
            };
            if !self.write(&mut sink, &block) {
                break;
            }
            self.waiting.fetch_sub(block.len(), Ordering::AcqRel);
        }
        sink.close();
    }

    /// Writes `block`, however often it takes; false when the spool is closed before that.
    fn write(&self, sink: &mut impl Sink, block: &[u8]) -> bool {
        while let Err(error) = sink.write(block) {
            if !self.has_failed.swap(true, Ordering::AcqRel) {
                tracing::error!(%error, "the spool of recordings cannot be written; trying again every second");
            }
            let again = clock::now() + Duration::from_millis(RETRY_MS);
            loop {
                if self.is_closing.load(Ordering::Acquire) {
                    return false;
                }
                let left = again.since(clock::now());
                if left.is_zero() {
                    break;
                }
                thread::park_timeout(left);
            }
        }
        if self.has_failed.swap(false, Ordering::AcqRel) {
            tracing::info!("the spool of recordings is written again");
        }
        true
    }
}

#[cfg(test)]
mod tests;

//! The doorbell: a consumer says that it is about to sleep, a producer learns whether to wake it.
//!
//! ```text
//! consumer                              producer
//!   asleep = 1                            publish the record
//!   fence(SeqCst)                         fence(SeqCst)
//!   look at the rings once more           asleep == 1 and swapped to 0? then ring
//!   nothing there: block
//! ```
//!
//! One of the two fences comes first, so either the consumer sees the record or the producer sees
//! the sleeper; a wake-up is never lost. The swap lets one producer of many ring. What a killed
//! process leaves in the word does no harm: its successor looks at the rings before it sleeps.

use crate::sync::{AtomicU64, Ordering, fence};

/// Whether the consumer sleeps and must be woken through its eventfd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub enum Wake {
    /// It sleeps (or is about to block), and it is the caller who must ring.
    Needed,
    /// It is awake, or someone else rings.
    NotNeeded,
}

/// The `asleep` word of one consumer.
#[derive(Clone, Copy, Debug)]
pub struct Bell<'a> {
    word: &'a AtomicU64,
}

impl<'a> Bell<'a> {
    /// The bell on `word`.
    pub fn new(word: &'a AtomicU64) -> Self {
        Bell { word }
    }

    /// Consumer: says that it sleeps. It must look at all its rings after this and before it
    /// blocks.
    pub fn sleep(&self) {
        self.word.store(1, Ordering::Relaxed);
        fence(Ordering::SeqCst);
    }

    /// Consumer: says that it is awake, whether it was rung or found something in its last look.
    pub fn awake(&self) {
        self.word.store(0, Ordering::Relaxed);
    }

    /// Producer, after it published: whether the caller must ring.
    #[inline]
    pub fn wake(&self) -> Wake {
        fence(Ordering::SeqCst);
        if self.word.load(Ordering::Relaxed) == 1 && self.word.swap(0, Ordering::Relaxed) == 1 {
            Wake::Needed
        } else {
            Wake::NotNeeded
        }
    }

    /// True while the consumer says that it sleeps.
    pub fn is_asleep(&self) -> bool {
        self.word.load(Ordering::Relaxed) == 1
    }
}

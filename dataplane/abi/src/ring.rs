//! A ring of fixed records with a byte ring beside it: one producer, one consumer, no lock, no
//! wait.
//!
//! ```text
//! word 0   producer's lines   head          records published
//!      1                      blob head     bytes of the blob ring given out
//!      2                      number        the last number given to a record
//!     16   consumer's lines   tail          records consumed
//!     17                      blob tail     bytes of the blob ring given back
//!     18                      seen          the number of the last record consumed
//!     32   slots              number | blob position | blob length | record; a power of two
//!          blob ring          a power of two of bytes, used in whole words
//! ```
//!
//! All of head, tail and the positions only grow; a mask makes places of them.
//!
//! **What a kill leaves.** A record exists from the store of head on and is consumed with the store
//! of tail. So a record is seen once or, when its producer died before head or its consumer died
//! after tail, never by a living reader; it is not seen twice, and not in part.
//! * The producer takes the number first. Dying before head leaves a gap in the numbers, and never
//!   two records with one number. A refused record takes a number too, so the reader sees what it
//!   missed.
//! * The producer stores the blob head before head. Dying between leaves bytes that belong to
//!   nobody; they return with the next record, whose position lies behind them.
//! * The consumer stores tail before the blob tail: the bytes of a record are never given back
//!   while the record is still there. Dying between leaves bytes to be returned with the next
//!   record, and when there is none, the producer sees tail equal to head and knows that all bytes
//!   are free.
//! * The consumer stores `seen` last. Dying before it shows its successor a gap, which is the
//!   truth: a record was consumed and its effect is not known.
//!
//! **What a lie does.** Each end keeps its own words in private memory too and takes a word of the
//! peer's only when it lies in the range that is possible; slots are copied out before they are
//! judged.

use core::fmt;
use core::marker::PhantomData;

use crate::sync::{self, AtomicU64, Ordering, Pod};

const HEAD: usize = 0;
const BLOB_HEAD: usize = 1;
const NUMBER: usize = 2;
const TAIL: usize = 16;
const BLOB_TAIL: usize = 17;
const SEEN: usize = 18;
const SLOTS: usize = 32;

const SLOT_NUMBER: usize = 0;
const SLOT_BLOB: usize = 1;
const SLOT_BLOB_LEN: usize = 2;
/// Words of a slot in front of its record.
pub const SLOT_WORDS: usize = 3;

/// There is no room for a record or for its blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the ring is full")
    }
}

impl std::error::Error for Full {}

/// A record made no sense; it was skipped. The peer is broken or of another build.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Corrupt {
    /// Which part of it.
    pub what: &'static str,
}

impl fmt::Display for Corrupt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "corrupt record: {}", self.what)
    }
}

impl std::error::Error for Corrupt {}

/// How large a ring is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shape {
    /// How many records it holds, a power of two.
    pub slots: u32,
    /// Bytes of the blob ring: 0, or a power of two from 8 on.
    pub blob_bytes: u32,
}

impl Shape {
    /// True when the sizes are what [`Shape`] says.
    pub const fn is_valid(&self) -> bool {
        self.slots.is_power_of_two()
            && (self.blob_bytes == 0 || (self.blob_bytes.is_power_of_two() && self.blob_bytes >= 8))
    }

    /// Words that such a ring of `T` takes.
    pub const fn words<T: Pod>(&self) -> usize {
        SLOTS + self.slots as usize * (SLOT_WORDS + T::WORDS) + self.blob_bytes as usize / 8
    }

    fn slot<T: Pod>(&self, index: u64) -> core::ops::Range<usize> {
        let place = (index & u64::from(self.slots - 1)) as usize;
        let start = SLOTS + place * (SLOT_WORDS + T::WORDS);
        start..start + SLOT_WORDS + T::WORDS
    }

    fn blob<T: Pod>(&self) -> core::ops::Range<usize> {
        let start = SLOTS + self.slots as usize * (SLOT_WORDS + T::WORDS);
        start..start + self.blob_bytes as usize / 8
    }
}

/// Where a ring's words lie; always the same words, and [`Shape::words`] of them.
pub trait Memory {
    /// The words.
    fn words(&self) -> &[AtomicU64];
}

/// How much of a ring a record may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// All of it.
    All,
    /// Three quarters; the last quarter is kept for what must not be lost.
    Most,
    /// Nothing: the record is refused, and its number is taken.
    None,
}

impl Room {
    fn of(self, size: u32) -> u64 {
        match self {
            Room::All => u64::from(size),
            Room::Most => u64::from(size - size / 4),
            Room::None => 0,
        }
    }
}

/// The producing end. There is at most one for a ring at any time.
#[derive(Debug)]
pub struct Writer<M, T> {
    memory: M,
    shape: Shape,
    head: u64,
    number: u64,
    blob_head: u64,
    /// The consumer's words as last seen: it is this far or farther.
    tail: u64,
    blob_tail: u64,
    record: PhantomData<fn(T)>,
}

impl<M: Memory, T: Pod> Writer<M, T> {
    /// The producing end of the ring in `memory`, which goes on where the last one was killed.
    ///
    /// # Panics
    /// When `shape` is not valid or `memory` is not as long as it says.
    pub fn attach(memory: M, shape: Shape) -> Self {
        assert!(shape.is_valid() && memory.words().len() == shape.words::<T>());
        let words = memory.words();
        let head = words[HEAD].load(Ordering::Acquire);
        // Bytes of a record that was never published end on a word's border like all others.
        let blob_head = words[BLOB_HEAD].load(Ordering::Relaxed) & !7;
        let number = words[NUMBER].load(Ordering::Relaxed);
        // As if all were in use; `look` takes what the consumer says if it can be true.
        let tail = head.wrapping_sub(u64::from(shape.slots));
        let blob_tail = blob_head.wrapping_sub(u64::from(shape.blob_bytes));
        let mut writer =
            Writer { memory, shape, head, number, blob_head, tail, blob_tail, record: PhantomData };
        writer.look();
        writer
    }

    /// Publishes `record` with `blob` beside it, and returns the record's number.
    ///
    /// The number is taken also when there is no room. A blob longer than the blob ring never fits.
    #[inline]
    pub fn push(&mut self, record: &T, blob: &[u8], room: Room) -> Result<u64, Full> {
        self.number = self.number.wrapping_add(1);
        // Release: who reads the number also reads the rows that were written before this event.
        self.memory.words()[NUMBER].store(self.number, Ordering::Release);
        if !self.has_room(blob.len(), room) {
            self.look();
            if !self.has_room(blob.len(), room) {
                return Err(Full);
            }
        }
        let words = self.memory.words();
        let slot = &words[self.shape.slot::<T>(self.head)];
        slot[SLOT_NUMBER].store(self.number, Ordering::Relaxed);
        slot[SLOT_BLOB].store(self.blob_head, Ordering::Relaxed);
        slot[SLOT_BLOB_LEN].store(blob.len() as u64, Ordering::Relaxed);
        sync::store(&slot[SLOT_WORDS..], record);
        if !blob.is_empty() {
            write_blob(&words[self.shape.blob::<T>()], self.blob_head, blob);
            self.blob_head = self.blob_head.wrapping_add(whole_words(blob.len()));
            words[BLOB_HEAD].store(self.blob_head, Ordering::Relaxed);
        }
        self.head = self.head.wrapping_add(1);
        words[HEAD].store(self.head, Ordering::Release);
        Ok(self.number)
    }

    /// The number that was given out last; 0 when none was.
    pub fn number(&self) -> u64 {
        self.number
    }

    #[inline]
    fn has_room(&self, blob_len: usize, room: Room) -> bool {
        let used = self.head.wrapping_sub(self.tail);
        let blob_used = self.blob_head.wrapping_sub(self.blob_tail);
        used < room.of(self.shape.slots)
            && (blob_len == 0
                || blob_used.saturating_add(whole_words(blob_len))
                    <= room.of(self.shape.blob_bytes))
    }

    /// Takes over what the consumer says, as far as it can be true.
    #[cold]
    fn look(&mut self) {
        let words = self.memory.words();
        let tail = words[TAIL].load(Ordering::Acquire);
        if tail.wrapping_sub(self.tail) <= self.head.wrapping_sub(self.tail) {
            self.tail = tail;
        }
        let blob_tail = words[BLOB_TAIL].load(Ordering::Acquire);
        if self.tail == self.head {
            // Nothing is in the ring, so no byte is in use, whatever a killed consumer left undone.
            self.blob_tail = self.blob_head;
        } else if blob_tail.is_multiple_of(8)
            && blob_tail.wrapping_sub(self.blob_tail) <= self.blob_head.wrapping_sub(self.blob_tail)
        {
            self.blob_tail = blob_tail;
        }
    }
}

/// What a reader took out of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken<T> {
    /// The record's number.
    pub number: u64,
    /// How many numbers are missing between this record and the one consumed before it, also by an
    /// earlier process: records that were refused, or lost with a process that was killed.
    pub missed: u64,
    /// The record.
    pub record: T,
}

/// The consuming end. There is at most one for a ring at any time.
#[derive(Debug)]
pub struct Reader<M, T> {
    memory: M,
    shape: Shape,
    tail: u64,
    seen: u64,
    /// The producer's word as last seen: it is this far or farther.
    head: u64,
    corrupt: u64,
    record: PhantomData<fn() -> T>,
}

impl<M: Memory, T: Pod> Reader<M, T> {
    /// The consuming end of the ring in `memory`, which goes on where the last one was killed.
    ///
    /// # Panics
    /// When `shape` is not valid or `memory` is not as long as it says.
    pub fn attach(memory: M, shape: Shape) -> Self {
        assert!(shape.is_valid() && memory.words().len() == shape.words::<T>());
        let tail = memory.words()[TAIL].load(Ordering::Acquire);
        let seen = memory.words()[SEEN].load(Ordering::Relaxed);
        let record = PhantomData;
        Reader { memory, shape, tail, seen, head: tail, corrupt: 0, record }
    }

    /// Takes the next record out, and its blob into `blob`, which is cleared first.
    ///
    /// The record is consumed when this returns: a reader killed afterwards does not get it again.
    #[inline]
    pub fn pop(&mut self, blob: &mut Vec<u8>) -> Option<Result<Taken<T>, Corrupt>> {
        blob.clear();
        if self.head == self.tail {
            self.head = self.memory.words()[HEAD].load(Ordering::Acquire);
            if self.head == self.tail {
                return None;
            }
            if self.head.wrapping_sub(self.tail) > u64::from(self.shape.slots) {
                self.tail = self.head;
                self.memory.words()[TAIL].store(self.tail, Ordering::Release);
                return Some(Err(self.corrupted("the producer's index")));
            }
        }
        let words = self.memory.words();
        let slot = &words[self.shape.slot::<T>(self.tail)];
        let number = slot[SLOT_NUMBER].load(Ordering::Relaxed);
        let position = slot[SLOT_BLOB].load(Ordering::Relaxed);
        let blob_len = slot[SLOT_BLOB_LEN].load(Ordering::Relaxed);
        let record = sync::load(&slot[SLOT_WORDS..]);
        let blob_end = self.blob_end(position, blob_len);
        if let Some(end) = blob_end
            && end != position
        {
            read_blob(&words[self.shape.blob::<T>()], position, blob_len as usize, blob);
        }
        self.tail = self.tail.wrapping_add(1);
        words[TAIL].store(self.tail, Ordering::Release);
        let Some(end) = blob_end else {
            return Some(Err(self.corrupted("its blob")));
        };
        words[BLOB_TAIL].store(end, Ordering::Release);
        let missed = number.wrapping_sub(self.seen).wrapping_sub(1);
        self.seen = number;
        words[SEEN].store(number, Ordering::Relaxed);
        // A number that went back is another build's or nobody's; it says nothing about what is
        // missed.
        let missed = if missed > u64::MAX / 2 { 0 } else { missed };
        Some(Ok(Taken { number, missed, record }))
    }

    /// True when there is nothing to take; reads the producer's word, so it serves the last look
    /// before sleeping.
    pub fn is_empty(&self) -> bool {
        self.memory.words()[HEAD].load(Ordering::Acquire) == self.tail
    }

    /// How many records wait.
    pub fn waiting(&self) -> u64 {
        let head = self.memory.words()[HEAD].load(Ordering::Acquire);
        head.wrapping_sub(self.tail).min(u64::from(self.shape.slots))
    }

    /// The number that the producer gave out last. Rows read after this hold at least what the
    /// events up to this number tell.
    pub fn issued(&self) -> u64 {
        self.memory.words()[NUMBER].load(Ordering::Acquire)
    }

    /// The number of the last record that was consumed, by this process or by an earlier one.
    pub fn seen(&self) -> u64 {
        self.seen
    }

    /// How many records this end skipped because they made no sense.
    pub fn corrupt(&self) -> u64 {
        self.corrupt
    }

    /// Counts a record that made no sense to the next layer.
    pub fn corrupted(&mut self, what: &'static str) -> Corrupt {
        self.corrupt += 1;
        Corrupt { what }
    }

    /// Where the blob at `position` ends, if a blob can lie there. How far the position is from the
    /// last one is not judged: producers that were killed may have left any number of bytes between
    /// them.
    #[inline]
    fn blob_end(&self, position: u64, len: u64) -> Option<u64> {
        if !position.is_multiple_of(8) || len > u64::from(self.shape.blob_bytes) {
            return None;
        }
        Some(position.wrapping_add(whole_words(len as usize)))
    }
}

/// Bytes that a blob of `len` takes in the blob ring.
#[inline]
fn whole_words(len: usize) -> u64 {
    (len as u64).next_multiple_of(8)
}

fn write_blob(ring: &[AtomicU64], position: u64, blob: &[u8]) {
    let mask = ring.len() - 1;
    let first = (position / 8) as usize;
    for (i, chunk) in blob.chunks(8).enumerate() {
        let mut bytes = [0; 8];
        bytes[..chunk.len()].copy_from_slice(chunk);
        ring[(first + i) & mask].store(u64::from_ne_bytes(bytes), Ordering::Relaxed);
    }
}

fn read_blob(ring: &[AtomicU64], position: u64, len: usize, blob: &mut Vec<u8>) {
    let mask = ring.len() - 1;
    let first = (position / 8) as usize;
    blob.reserve(len.next_multiple_of(8));
    for i in 0..len.div_ceil(8) {
        let word = ring[(first + i) & mask].load(Ordering::Relaxed);
        blob.extend_from_slice(&word.to_ne_bytes());
    }
    blob.truncate(len);
}

#[cfg(all(test, not(loom)))]
mod tests;

#[cfg(not(loom))]
pub use in_process::{Consumer, Producer, spsc, spsc_with_blob};

#[cfg(not(loom))]
mod in_process {
    use std::sync::Arc;

    use super::{Corrupt, Full, Memory, Pod, Reader, Room, Shape, Taken, Writer};
    use crate::map::Lines;
    use crate::sync::AtomicU64;

    /// The sending half of a ring between two threads of one process.
    #[derive(Debug)]
    pub struct Producer<T>(Writer<Exact, T>);

    /// The receiving half of a ring between two threads of one process.
    #[derive(Debug)]
    pub struct Consumer<T>(Reader<Exact, T>);

    /// Whole lines, of which the ring uses the first words.
    #[derive(Clone, Debug)]
    struct Exact {
        lines: Arc<Lines>,
        words: usize,
    }

    impl Memory for Exact {
        #[inline]
        fn words(&self) -> &[AtomicU64] {
            &self.lines.words()[..self.words]
        }
    }

    /// A ring of `slots` records, a power of two, between two threads.
    ///
    /// # Panics
    /// When `slots` is not a power of two.
    pub fn spsc<T: Pod>(slots: u32) -> (Producer<T>, Consumer<T>) {
        spsc_with_blob(slots, 0)
    }

    /// A ring of `slots` records with `blob_bytes` for what varies in length, both powers of two.
    ///
    /// # Panics
    /// When they are not.
    pub fn spsc_with_blob<T: Pod>(slots: u32, blob_bytes: u32) -> (Producer<T>, Consumer<T>) {
        let shape = Shape { slots, blob_bytes };
        assert!(shape.is_valid(), "a ring's sizes are powers of two");
        let words = shape.words::<T>();
        let memory = Exact { lines: Arc::new(Lines::zeroed(words)), words };
        (Producer(Writer::attach(memory.clone(), shape)), Consumer(Reader::attach(memory, shape)))
    }

    impl<T: Pod> Producer<T> {
        /// Sends `record`.
        #[inline]
        pub fn push(&mut self, record: &T) -> Result<(), Full> {
            self.push_with(record, &[])
        }

        /// Sends `record` and `blob` beside it.
        #[inline]
        pub fn push_with(&mut self, record: &T, blob: &[u8]) -> Result<(), Full> {
            self.0.push(record, blob, Room::All).map(|_| ())
        }
    }

    impl<T: Pod> Consumer<T> {
        /// The next record; its blob, if it has one, is dropped.
        #[inline]
        pub fn pop(&mut self) -> Option<T> {
            let mut blob = Vec::new();
            self.pop_with(&mut blob)
        }

        /// The next record, and its blob in `blob`.
        #[inline]
        pub fn pop_with(&mut self, blob: &mut Vec<u8>) -> Option<T> {
            // Both ends are this process's own code, so nothing is ever corrupt here.
            match self.0.pop(blob)? {
                Ok(Taken { record, .. }) => Some(record),
                Err(Corrupt { .. }) => None,
            }
        }

        /// True when there is nothing to take.
        pub fn is_empty(&self) -> bool {
            self.0.is_empty()
        }
    }
}

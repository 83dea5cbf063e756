//! Tables of rows, each row in a [`cell`] of two copies or, where there are many, in one with a [`journal`].

use core::marker::PhantomData;
use core::ops::{Deref, Range};

use base::{AgentSlot, CallRef, LocationId, WorkerId};

use crate::index::Index;
use crate::row::{AgentRow, CallRow, LegRow};
use crate::sync::{AtomicU64, Ordering, Pod};
use crate::{cell, journal};

/// A row of a table, and what names its place.
pub trait Row: Pod + Default {
    /// What names a row's place.
    type Key: Slot;
    /// Whether it lies in one copy with a journal, not in two copies.
    const IS_JOURNALLED: bool;
}

/// Words that the cell of a row takes.
pub(crate) const fn cell_words<R: Row>() -> usize {
    if R::IS_JOURNALLED { journal::words::<R>() } else { cell::words::<R>() }
}

/// The place of a row.
pub trait Slot: Copy {
    /// The place as a number from 0.
    fn place(self) -> u32;
    /// The slot at `place`.
    fn at(place: u32) -> Self;
}

impl Slot for u32 {
    fn place(self) -> u32 {
        self
    }
    fn at(place: u32) -> Self {
        place
    }
}

impl Slot for AgentSlot {
    fn place(self) -> u32 {
        self.0
    }
    fn at(place: u32) -> Self {
        AgentSlot(place)
    }
}

impl Slot for LocationId {
    fn place(self) -> u32 {
        u32::from(self.0)
    }
    fn at(place: u32) -> Self {
        // A table of locations has at most 255 rows (Layout::locations).
        LocationId(place as u8)
    }
}

/// The words of one part of a region, and whether they may be written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    pub(crate) words: &'a [AtomicU64],
    pub(crate) writable: bool,
}

impl<'a> Part<'a> {
    /// The word at `place`, to be written; None outside the part or in a read-only mapping.
    pub(crate) fn to_write(self, place: usize) -> Option<&'a AtomicU64> {
        self.words.get(place).filter(|_| self.writable)
    }
}

/// Rows of one kind. Each has one writer; anyone reads at any time and never waits.
///
/// Slots may come from the other process: one that is outside reads as None, and is not written.
#[derive(Clone, Copy, Debug)]
pub struct Table<'a, R> {
    part: Part<'a>,
    /// Those of all writers; none where rows lie in two copies.
    journals: &'a [AtomicU64],
    writer: u8,
    row: PhantomData<R>,
}

impl<'a, R: Row> Table<'a, R> {
    const CELL: usize = cell_words::<R>();

    pub(crate) fn new(part: Part<'a>) -> Self {
        debug_assert!(!R::IS_JOURNALLED, "its journals are to be given");
        Table { part, journals: &[], writer: 0, row: PhantomData }
    }

    pub(crate) fn journalled(part: Part<'a>, journals: Part<'a>) -> Self {
        Table { part, journals: journals.words, writer: 0, row: PhantomData }
    }

    /// The same table to be written by `worker`, where each worker writes rows of its own. Whoever asks for none is
    /// worker 0.
    pub fn by(self, worker: WorkerId) -> Self {
        Table { writer: worker.0, ..self }
    }

    /// Finishes the writes that writers died in; to be done by a new incarnation before it writes.
    pub(crate) fn mend(&self) {
        for writer in 0..=u8::MAX {
            let Some(journal) = journal::journal::<R>(self.journals, writer) else { return };
            journal::mend::<R>(self.part.words, journal, writer);
        }
    }

    /// How many rows there are, whatever is in them.
    pub fn len(&self) -> u32 {
        (self.part.words.len() / Self::CELL) as u32
    }

    /// True when there is no row at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// A whole row; None when `slot` is outside the table or (after 10,000 tries) when its writer
    /// does nothing but write it. A row never written is all zeros.
    #[inline]
    pub fn read(&self, slot: R::Key) -> Option<R> {
        self.read_prefix(slot)
    }

    /// The first words of a row.
    #[inline]
    pub(crate) fn read_prefix<P: Pod>(&self, slot: R::Key) -> Option<P> {
        if R::IS_JOURNALLED {
            return journal::read_prefix::<R, P>(self.part.words, self.journals, slot.place());
        }
        cell::read_prefix::<R, P>(self.cell(slot)?)
    }

    /// Writes a row; false, and nothing is done, when `slot` is outside the table or the region is
    /// mapped read-only. The caller is the row's one writer.
    pub fn write(&self, slot: R::Key, row: &R) -> bool {
        if !self.part.writable {
            return false;
        }
        if R::IS_JOURNALLED {
            let own = journal::journal::<R>(self.journals, self.writer);
            return own.is_some_and(|own| {
                journal::write(self.part.words, own, self.writer, slot.place(), row)
            });
        }
        let cell = self.cell(slot);
        if let Some(cell) = cell {
            cell::write(cell, row);
        }
        cell.is_some()
    }

    /// All rows in order, also those that nobody uses.
    pub fn iter(&self) -> impl Iterator<Item = (R::Key, R)> + use<'a, R> {
        self.iter_range(0..self.len())
    }

    /// The rows of some places in order, also those that nobody uses.
    pub fn iter_range(&self, places: Range<u32>) -> impl Iterator<Item = (R::Key, R)> + use<'a, R> {
        let table = Table::<'a, R> { row: PhantomData, ..*self };
        places.filter_map(move |place| {
            let slot = R::Key::at(place);
            table.read(slot).map(|row| (slot, row))
        })
    }

    #[inline]
    fn cell(&self, slot: R::Key) -> Option<&'a [AtomicU64]> {
        let start = (slot.place() as usize).checked_mul(Self::CELL)?;
        self.part.words.get(start..start.checked_add(Self::CELL)?)
    }
}

/// The agents' rows with their index and nonce words.
#[derive(Clone, Copy, Debug)]
pub struct Agents<'a> {
    pub(crate) table: Table<'a, AgentRow>,
    pub(crate) index: Index<'a>,
    pub(crate) nonces: Part<'a>,
}

impl<'a> Deref for Agents<'a> {
    type Target = Table<'a, AgentRow>;

    fn deref(&self) -> &Self::Target {
        &self.table
    }
}

impl<'a> Agents<'a> {
    /// The word that guards an agent's digest nonces against replay (RFC 7616, 3.4.5); any worker
    /// wins it by compare-and-swap. None outside the table or in a read-only mapping.
    pub fn nonce_word(&self, slot: AgentSlot) -> Option<&'a AtomicU64> {
        self.nonces.words.get(slot.0 as usize).filter(|_| self.nonces.writable)
    }
}

/// Which worker's share of a table a place is in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shares {
    pub(crate) workers: u8,
    pub(crate) each: u32,
}

impl Shares {
    fn range(self, worker: WorkerId) -> Range<u32> {
        if worker.0 >= self.workers {
            return 0..0;
        }
        let start = u32::from(worker.0) * self.each;
        start..start + self.each
    }

    fn owner(self, place: u32) -> Option<WorkerId> {
        let worker = place.checked_div(self.each)?;
        u8::try_from(worker).ok().filter(|&worker| worker < self.workers).map(WorkerId)
    }
}

/// The calls' rows with the words by which the control process acknowledges ended ones.
#[derive(Clone, Copy, Debug)]
pub struct Calls<'a> {
    pub(crate) table: Table<'a, CallRow>,
    pub(crate) acknowledged: Part<'a>,
    pub(crate) shares: Shares,
}

/// Set in a word that names a generation, for 0 is one too.
const ACKNOWLEDGED: u64 = 1 << 32;

impl<'a> Deref for Calls<'a> {
    type Target = Table<'a, CallRow>;

    fn deref(&self) -> &Self::Target {
        &self.table
    }
}

impl Calls<'_> {
    /// The places of `worker`; none when there is no such worker.
    pub fn range(&self, worker: WorkerId) -> Range<u32> {
        self.shares.range(worker)
    }

    /// The worker that owns `slot`.
    pub fn owner(&self, slot: u32) -> Option<WorkerId> {
        self.shares.owner(slot)
    }

    /// The call of `call.slot`, when it still is of that generation.
    pub fn find(&self, call: CallRef) -> Option<CallRow> {
        self.read(call.slot).filter(|row| row.generation == call.generation)
    }

    /// Control: its record of the ended `call` is safe, and the row may be used again.
    pub fn acknowledge(&self, call: CallRef) -> bool {
        let Some(word) = self.acknowledged.to_write(call.slot as usize) else {
            return false;
        };
        word.store(ACKNOWLEDGED | u64::from(call.generation), Ordering::Release);
        true
    }

    /// The generation of `slot` that was acknowledged last.
    pub fn acknowledged(&self, slot: u32) -> Option<u32> {
        let word = self.acknowledged.words.get(slot as usize)?.load(Ordering::Acquire);
        (word & ACKNOWLEDGED != 0).then_some(word as u32)
    }

    /// True when the control process acknowledged `call`.
    pub fn is_acknowledged(&self, call: CallRef) -> bool {
        self.acknowledged(call.slot) == Some(call.generation)
    }
}

/// The legs' rows.
#[derive(Clone, Copy, Debug)]
pub struct Legs<'a> {
    pub(crate) table: Table<'a, LegRow>,
    pub(crate) shares: Shares,
}

impl<'a> Deref for Legs<'a> {
    type Target = Table<'a, LegRow>;

    fn deref(&self) -> &Self::Target {
        &self.table
    }
}

impl Legs<'_> {
    /// The places of `worker`; none when there is no such worker.
    pub fn range(&self, worker: WorkerId) -> Range<u32> {
        self.shares.range(worker)
    }

    /// The worker that owns `slot`.
    pub fn owner(&self, slot: u32) -> Option<WorkerId> {
        self.shares.owner(slot)
    }
}

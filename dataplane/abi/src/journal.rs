//! One row in one copy, for tables with a row for each agent: half of what a [`crate::cell`] takes. What a
//! writer is about to write lies in its journal first, so one killed half-way leaves the new row there, and
//! readers never wait.
//!
//! ```text
//! cell:    | mark | the row, n words |        mark: | count, 55 bits | writer, 8 bits | busy, 1 bit |
//! journal: | of   | the row, n words |        of:   | slot + 1, 32 bits | count, low 32 bits |
//! ```
//!
//! There is a journal for each writer of a table. To write, a writer puts the row into its journal, marks the cell
//! as busy with the next count, writes the row into the cell, and takes the busy bit away. Who reads a busy cell
//! takes the row from the journal that the mark names. A reader tries anew only when a write went on meanwhile, so a
//! writer that died or sleeps never holds it up.
//!
//! A journal names a cell that is still busy only when its writer died there. Its next write finishes that cell
//! first; so does [`mend`], which is for a new incarnation before it writes anything, since the cell may have
//! another writer by then.

use crate::sync::{self, AtomicU64, Ordering, Pod, fence};

/// How often a reader tries before it gives up; a writer would have to begin or finish a write in each try.
#[cfg(not(loom))]
const READ_TRIES: u32 = 10_000;
#[cfg(loom)]
const READ_TRIES: u32 = 3;

const BUSY: u64 = 1;
const COUNT: u64 = 1 << 9;

/// Words that a cell of `T` takes, a whole number of 64-byte lines.
pub const fn words<T: Pod>() -> usize {
    (1 + T::WORDS).next_multiple_of(8)
}

/// Words that a journal of `T` takes, pairs of lines so that no two writers share one.
pub const fn journal_words<T: Pod>() -> usize {
    (1 + T::WORDS).next_multiple_of(16)
}

/// Writes the row at `place` of `cells`; `journal` is that of `writer`. False, and nothing is done, when there is
/// no such place. Each journal has one user at any time, and each cell one writer.
pub fn write<T: Pod>(
    cells: &[AtomicU64],
    journal: &[AtomicU64],
    writer: u8,
    place: u32,
    row: &T,
) -> bool {
    mend::<T>(cells, journal, writer);
    let Some(cell) = cell::<T>(cells, place) else { return false };
    let count = cell[0].load(Ordering::Relaxed) / COUNT + 1;
    let mark = count.wrapping_mul(COUNT) | u64::from(writer) << 1;
    journal[0].store(0, Ordering::Release);
    // A reader that sees one of the stores below must also see that the journal was given up.
    fence(Ordering::Release);
    sync::store(&journal[1..], row);
    journal[0].store(of(place, mark), Ordering::Release);
    cell[0].store(mark | BUSY, Ordering::Release);
    // A reader that sees one of the stores below must also see that the cell is busy.
    fence(Ordering::Release);
    sync::store(&cell[1..], row);
    cell[0].store(mark, Ordering::Release);
    journal[0].store(0, Ordering::Release);
    true
}

/// Finishes the write that `writer` died in, if it did. It is to be done before the cell may be written by another.
pub fn mend<T: Pod>(cells: &[AtomicU64], journal: &[AtomicU64], writer: u8) {
    let named = journal[0].load(Ordering::Acquire);
    let Some(place) = u32::try_from(named >> 32).ok().and_then(|place| place.checked_sub(1)) else {
        return;
    };
    let Some(cell) = cell::<T>(cells, place) else { return };
    let mark = cell[0].load(Ordering::Acquire);
    if mark & BUSY == 0 || writer_of(mark) != writer || of(place, mark) != named {
        return;
    }
    sync::store(&cell[1..], &sync::load::<T>(&journal[1..]));
    cell[0].store(mark & !BUSY, Ordering::Release);
}

/// The first words of the row at `place`, as a `P` that is no longer than `T`; None when there is no such place, or
/// when writes went on during each of many tries. `journals` are those of all writers, one behind another.
#[inline]
pub fn read_prefix<T: Pod, P: Pod>(
    cells: &[AtomicU64],
    journals: &[AtomicU64],
    place: u32,
) -> Option<P> {
    const { assert!(P::WORDS <= T::WORDS, "a prefix is no longer than its row") };
    let cell = cell::<T>(cells, place)?;
    for _ in 0..READ_TRIES {
        let mark = cell[0].load(Ordering::Acquire);
        let (whole, seen) = match mark & BUSY {
            0 => (cell, mark),
            _ => (journal::<T>(journals, writer_of(mark))?, of(place, mark)),
        };
        // A busy cell whose journal names another write is busy no more.
        if whole[0].load(Ordering::Acquire) == seen {
            let row = sync::load(&whole[1..]);
            fence(Ordering::Acquire);
            if whole[0].load(Ordering::Relaxed) == seen {
                return Some(row);
            }
        }
        core::hint::spin_loop();
    }
    None
}

/// The journal of `writer` among those of all.
pub fn journal<T: Pod>(journals: &[AtomicU64], writer: u8) -> Option<&[AtomicU64]> {
    let start = usize::from(writer) * journal_words::<T>();
    journals.get(start..start + journal_words::<T>())
}

#[inline]
fn cell<T: Pod>(cells: &[AtomicU64], place: u32) -> Option<&[AtomicU64]> {
    let start = (place as usize).checked_mul(words::<T>())?;
    cells.get(start..start.checked_add(words::<T>())?)
}

#[inline]
fn writer_of(mark: u64) -> u8 {
    (mark >> 1) as u8
}

/// How a journal names the write of `mark` at `place`.
#[inline]
fn of(place: u32, mark: u64) -> u64 {
    (u64::from(place) + 1) << 32 | u64::from((mark / COUNT) as u32)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    type Row = [u64; 3];

    fn zeroed(words: usize) -> Vec<AtomicU64> {
        (0..words).map(|_| AtomicU64::new(0)).collect()
    }

    fn read(cells: &[AtomicU64], journals: &[AtomicU64], place: u32) -> Option<Row> {
        read_prefix::<Row, Row>(cells, journals, place)
    }

    #[test]
    fn rows_are_read_as_written_and_outside_there_are_none() {
        let (cells, journals) = (zeroed(2 * words::<Row>()), zeroed(journal_words::<Row>()));
        assert_eq!(read(&cells, &journals, 1), Some([0; 3]));
        for n in 1..5 {
            assert!(write::<Row>(&cells, &journals, 0, 1, &[n, n + 1, n + 2]));
            assert_eq!(read(&cells, &journals, 1), Some([n, n + 1, n + 2]));
            assert_eq!(read_prefix::<Row, [u64; 1]>(&cells, &journals, 1), Some([n]));
            assert_eq!(read(&cells, &journals, 0), Some([0; 3]));
        }
        assert!(!write(&cells, &journals, 0, 2, &[9u64; 3]));
        assert_eq!(read(&cells, &journals, 2), None);
    }

    /// All words as the two writers of `then` leave them, when the second dies after its `steps`th store.
    fn cut_short(steps: usize) -> (Vec<AtomicU64>, Vec<AtomicU64>) {
        let (cells, journals) = (zeroed(2 * words::<Row>()), zeroed(2 * journal_words::<Row>()));
        let second = journal::<Row>(&journals, 1).expect("there are two");
        write(&cells, second, 1, 0, &[1u64, 2, 3]);
        let (cell, mark) = (&cells[..words::<Row>()], (2 * COUNT) | (1 << 1));
        let row = [4u64, 5, 6];
        let mut stores: Vec<(&AtomicU64, u64)> = vec![(&second[0], 0)];
        stores.extend(second[1..].iter().zip(row));
        stores.extend([(&second[0], of(0, mark)), (&cell[0], mark | BUSY)]);
        stores.extend(cell[1..].iter().zip(row));
        stores.extend([(&cell[0], mark), (&second[0], 0)]);
        for (word, value) in stores.into_iter().take(steps) {
            word.store(value, Ordering::Relaxed);
        }
        (cells, journals)
    }

    #[test]
    fn a_write_cut_short_is_whole_or_was_not() {
        for steps in 0..=11 {
            let (cells, journals) = cut_short(steps);
            let expected = if steps < 6 { [1, 2, 3] } else { [4, 5, 6] };
            assert_eq!(read(&cells, &journals, 0), Some(expected), "after {steps} steps");
            // Another writer's rows do not disturb it, and its own next write finishes it.
            assert!(write(&cells, &journals, 0, 1, &[7u64; 3]));
            assert_eq!(read(&cells, &journals, 0), Some(expected), "after {steps} steps");
            let second = journal::<Row>(&journals, 1).expect("there are two");
            assert!(write(&cells, second, 1, 1, &[8u64; 3]));
            assert_eq!(read(&cells, &journals, 0), Some(expected), "after {steps} steps");
            assert_eq!(cells[0].load(Ordering::Relaxed) & BUSY, 0);
        }
    }

    #[test]
    fn mended_cells_may_have_another_writer() {
        for steps in 0..=11 {
            let (cells, journals) = cut_short(steps);
            let second = journal::<Row>(&journals, 1).expect("there are two");
            mend::<Row>(&cells, second, 1);
            assert!(write(&cells, &journals, 0, 0, &[9u64; 3]));
            mend::<Row>(&cells, second, 1);
            assert!(write(&cells, second, 1, 1, &[8u64; 3]));
            assert_eq!(read(&cells, &journals, 0), Some([9; 3]), "after {steps} steps");
        }
    }
}

//! One row in two copies: a writer killed half-way leaves the last whole one, and readers never
//! wait.
//!
//! ```text
//! | version | copy A, n words | copy B, n words |      version even: A is whole, odd: B is whole
//! ```
//!
//! The one writer fills the copy that nobody reads and then adds one to the version. A reader
//! copies out the current copy and looks at the version again; it tries anew only when a write was
//! *finished* meanwhile, so a writer that died or sleeps never holds it up.

use crate::sync::{self, AtomicU64, Ordering, Pod, fence};

/// How often a reader tries before it gives up; a writer would have to finish a write in each try.
#[cfg(not(loom))]
const READ_TRIES: u32 = 10_000;
#[cfg(loom)]
const READ_TRIES: u32 = 2;

/// Words that a cell of `T` takes, a whole number of 64-byte lines.
pub const fn words<T: Pod>() -> usize {
    (1 + 2 * T::WORDS).next_multiple_of(8)
}

/// Writes `row`. There is one writer for each cell at any time.
#[inline]
pub fn write<T: Pod>(cell: &[AtomicU64], row: &T) {
    let version = cell[0].load(Ordering::Relaxed).wrapping_add(1);
    let start = copy_start::<T>(version);
    let copy = &cell[start..start + T::WORDS];
    // A reader that sees one of the stores below must also see the version stored before this fence
    // by the last write, which retired the copy that is filled now.
    fence(Ordering::Release);
    sync::store(copy, row);
    cell[0].store(version, Ordering::Release);
}

/// A whole row, or None when the writer finished a write during each of many tries.
#[inline]
pub fn read<T: Pod>(cell: &[AtomicU64]) -> Option<T> {
    read_prefix::<T, T>(cell)
}

/// The first words of a row of type `T`, as a `P` that is no longer than `T`.
#[inline]
pub fn read_prefix<T: Pod, P: Pod>(cell: &[AtomicU64]) -> Option<P> {
    const { assert!(P::WORDS <= T::WORDS, "a prefix is no longer than its row") };
    // Copy A begins in the line of the version. Copy B does not, and a reader of cold memory would
    // wait for two lines in turn.
    sync::prefetch(&cell[copy_start::<T>(1)]);
    let mut version = cell[0].load(Ordering::Acquire);
    for _ in 0..READ_TRIES {
        let start = copy_start::<T>(version);
        let row = sync::load(&cell[start..start + P::WORDS]);
        fence(Ordering::Acquire);
        let after = cell[0].load(Ordering::Relaxed);
        if after == version {
            return Some(row);
        }
        version = cell[0].load(Ordering::Acquire);
        core::hint::spin_loop();
    }
    None
}

/// Where the copy of `version` begins.
#[inline]
fn copy_start<T: Pod>(version: u64) -> usize {
    1 + (version & 1) as usize * T::WORDS
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn a_write_cut_short_is_not_seen() {
        let cell: Vec<AtomicU64> = (0..words::<[u64; 3]>()).map(|_| AtomicU64::new(0)).collect();
        assert_eq!(read::<[u64; 3]>(&cell), Some([0; 3]));
        write(&cell, &[1u64, 2, 3]);
        for version in 1..4 {
            let start = copy_start::<[u64; 3]>(version + 1);
            cell[start].store(99, Ordering::Relaxed);
            assert_eq!(read(&cell), Some([version, 2, 3]), "the other copy stays whole");
            write(&cell, &[version + 1, 2, 3]);
        }
        assert_eq!(read_prefix::<[u64; 3], [u64; 2]>(&cell), Some([4, 2]));
    }
}

//! The rows as they lie in memory that the program and the process share.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use super::row::{COUNTERS_WORD, HOP_WORD, Row, WORDS};

/// The mapped array of rows.
pub struct Table {
    map: MmapRaw,
    rows: u32,
}

impl Table {
    /// Maps the array behind `fd`, which holds `rows` rows.
    pub fn map(fd: BorrowedFd<'_>, rows: u32) -> io::Result<Table> {
        let length = rows as usize * size_of::<Row>();
        let map = MmapOptions::new().len(length).map_raw(fd.as_raw_fd())?;
        Ok(Table { map, rows })
    }

    /// How many rows there are.
    pub fn rows(&self) -> u32 {
        self.rows
    }

    /// A row as it is now; the program may be counting in it.
    pub fn read(&self, row: u32) -> Row {
        let mut words = Row::FREE;
        for (word, shared) in words.iter_mut().zip(self.words(row)) {
            *word = shared.load(Ordering::Relaxed);
        }
        Row::from_words(words)
    }

    /// Writes a row that no key leads to.
    pub fn write(&self, row: u32, value: &Row) {
        for (word, shared) in value.words().iter().zip(self.words(row)) {
            shared.store(*word, Ordering::Relaxed);
        }
    }

    /// Frees a row that no key leads to.
    pub fn free(&self, row: u32) {
        for shared in self.words(row) {
            shared.store(0, Ordering::Relaxed);
        }
    }

    /// Writes all of a row but what the program counts in it.
    pub fn write_head(&self, row: u32, value: &Row) {
        let words = value.words();
        for (word, shared) in words.iter().zip(self.words(row)).take(COUNTERS_WORD) {
            shared.store(*word, Ordering::Relaxed);
        }
    }

    /// Changes the next hop of a row, which may be in use.
    pub fn set_hop(&self, row: u32, word: u64) {
        self.words(row)[HOP_WORD].store(word, Ordering::Relaxed);
    }

    fn words(&self, row: u32) -> &[AtomicU64] {
        assert!(row < self.rows, "row {row} of {}", self.rows);
        let first = self.map.as_ptr().cast::<AtomicU64>();
        // SAFETY: the memory is shared with the kernel, hence atomics and no plain slice. The mapping is
        // `rows` rows long (`Table::map`), page-aligned, writable and lives as long as `self`; `row` is
        // checked above, so that the words of this row lie within.
        unsafe { std::slice::from_raw_parts(first.add(row as usize * WORDS), WORDS) }
    }
}

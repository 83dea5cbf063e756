//! The rows, and the way to them by port, as they lie in memory that the program and the process share.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use memmap2::{MmapOptions, MmapRaw};

use super::row::{COUNTED_WORDS, HOP_WORD, PAIRS, Row, SLOTS, WORDS};

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

    /// Writes a row that no port leads to.
    pub fn write(&self, row: u32, value: &Row) {
        for (word, shared) in value.words().iter().zip(self.words(row)) {
            shared.store(*word, Ordering::Relaxed);
        }
    }

    /// Frees a row that no port leads to.
    pub fn free(&self, row: u32) {
        for shared in self.words(row) {
            shared.store(0, Ordering::Relaxed);
        }
    }

    /// Writes all of a row but what the program counts in it.
    pub fn write_head(&self, row: u32, value: &Row) {
        let words = value.words();
        for (index, (word, shared)) in words.iter().zip(self.words(row)).enumerate() {
            if !COUNTED_WORDS.contains(&index) {
                shared.store(*word, Ordering::Relaxed);
            }
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

/// The mapped array of row numbers by port. One thread at a time writes.
pub struct Flows(MmapRaw);

impl Flows {
    /// Maps the array behind `fd`.
    pub fn map(fd: BorrowedFd<'_>) -> io::Result<Flows> {
        let length = PAIRS * SLOTS * size_of::<u32>();
        Ok(Flows(MmapOptions::new().len(length).map_raw(fd.as_raw_fd())?))
    }

    /// Lets the program find `row` by a port, after all that was written to it before; false if as many
    /// rows as can have this port.
    pub fn insert(&self, port: u16, row: u32) -> bool {
        let slots = self.slots(usize::from(port) / 2);
        let free = slots.iter().find(|slot| slot.load(Ordering::Relaxed) == 0);
        if let Some(free) = free {
            free.store(row + 1, Ordering::Release);
        }
        free.is_some()
    }

    /// Lets the program find `row` by a port no more.
    pub fn remove(&self, port: u16, row: u32) {
        for slot in self.slots(usize::from(port) / 2) {
            if slot.load(Ordering::Relaxed) == row + 1 {
                slot.store(0, Ordering::Release);
            }
        }
    }

    /// All rows and their even ports.
    pub fn rows(&self) -> impl Iterator<Item = (u16, u32)> {
        (0..PAIRS).flat_map(|pair| {
            let port = (pair * 2) as u16;
            let slots = self.slots(pair).iter();
            slots.filter_map(move |slot| Some((port, slot.load(Ordering::Relaxed).checked_sub(1)?)))
        })
    }

    fn slots(&self, pair: usize) -> &[AtomicU32] {
        assert!(pair < PAIRS);
        let first = self.0.as_ptr().cast::<AtomicU32>();
        // SAFETY: the memory is shared with the kernel, hence atomics and no plain slice. The mapping holds
        // `PAIRS` times `SLOTS` words (`Flows::map`), is page-aligned, writable and lives as long as
        // `self`; `pair` is checked above, so that the words of this pair lie within.
        unsafe { std::slice::from_raw_parts(first.add(pair * SLOTS), SLOTS) }
    }
}

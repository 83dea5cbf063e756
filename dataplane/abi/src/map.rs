//! Memory that two processes share, or that stands in for it.

use std::fs::File;
use std::io;

use memmap2::{MmapOptions, MmapRaw};

use crate::sync::AtomicU64;

/// Two cache lines, which the hardware fetches as a pair.
const LINE_WORDS: usize = 16;

#[repr(C, align(128))]
#[derive(Debug)]
struct Line([AtomicU64; LINE_WORDS]);

/// Zeroed words on the heap that begin on a pair of cache lines.
#[derive(Debug)]
pub struct Lines(Box<[Line]>);

impl Lines {
    /// At least `words` words of zero.
    pub fn zeroed(words: usize) -> Self {
        let line = || Line([const { AtomicU64::new(0) }; LINE_WORDS]);
        Lines((0..words.div_ceil(LINE_WORDS)).map(|_| line()).collect())
    }

    /// The words.
    #[inline]
    pub fn words(&self) -> &[AtomicU64] {
        let count = self.0.len() * LINE_WORDS;
        // SAFETY: the box holds `len` values of `Line`, which is repr(C) and nothing but
        // `LINE_WORDS` words without padding (16 words of 8 bytes are its alignment of 128), so
        // `count` words lie at its start. They live as long as `self`, which the result borrows.
        unsafe { core::slice::from_raw_parts(self.0.as_ptr().cast::<AtomicU64>(), count) }
    }
}

/// The words of one file, or of the heap.
#[derive(Debug)]
pub(crate) struct Memory {
    backing: Backing,
    writable: bool,
}

#[derive(Debug)]
enum Backing {
    Heap(Lines),
    Mapped(MmapRaw),
}

impl Memory {
    /// Zeroed words on the heap.
    pub(crate) fn heap(words: usize) -> Self {
        Memory { backing: Backing::Heap(Lines::zeroed(words)), writable: true }
    }

    /// The first `words` words of `file`, which must be that long; pages are written back to it.
    pub(crate) fn map(file: &File, words: usize, writable: bool) -> io::Result<Self> {
        let bytes = words * 8;
        let len = file.metadata()?.len();
        if len < bytes as u64 {
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the file is too short"));
        }
        let mut options = MmapOptions::new();
        options.len(bytes);
        let map =
            if writable { options.map_raw(file)? } else { options.map_raw_read_only(file)? };
        Ok(Memory { backing: Backing::Mapped(map), writable })
    }

    /// All words.
    #[inline]
    pub(crate) fn words(&self) -> &[AtomicU64] {
        match &self.backing {
            Backing::Heap(lines) => lines.words(),
            Backing::Mapped(map) => {
                // SAFETY: the mapping is `map.len()` bytes, which `map` made from a whole number of
                // words, begins on a page and lives as long as `self`, which the result borrows.
                // Any bytes are valid words. The other process changes them by atomic stores only,
                // and so does this one. A read-only mapping is read by loads of one word alone
                // (core::sync:: atomic allows those), for every writer asks `is_writable` first.
                // The file is not cut short under us: its owner unlinks it and makes another.
                unsafe {
                    core::slice::from_raw_parts(map.as_ptr().cast::<AtomicU64>(), map.len() / 8)
                }
            }
        }
    }

    /// False when a store would be a fault.
    pub(crate) fn is_writable(&self) -> bool {
        self.writable
    }
}

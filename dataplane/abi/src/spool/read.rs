use super::record::{Record, number};
use super::{BLOCK_STEP, CHECKSUM, LENGTH, MAGIC, MAX_BLOCK, RECORDS, SEQUENCE, USED};

/// A whole block: its checksum is right.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block<'a> {
    /// Its number; 0 is the block that a file begins with.
    pub sequence: u64,
    /// Its length in bytes, a multiple of [`BLOCK_STEP`].
    pub length: usize,
    records: &'a [u8],
}

impl<'a> Block<'a> {
    /// The block that `bytes` begin with; none when there is none, or not all of it.
    pub fn parse(bytes: &'a [u8]) -> Option<Block<'a>> {
        if !bytes.starts_with(&MAGIC) {
            return None;
        }
        let length = usize::try_from(number(bytes, LENGTH, 4)?).ok()?;
        let used = usize::try_from(number(bytes, USED, 4)?).ok()?;
        if length == 0 || length > MAX_BLOCK || !length.is_multiple_of(BLOCK_STEP) {
            return None;
        }
        let bytes = bytes.get(..length)?;
        let records = bytes.get(RECORDS..RECORDS.checked_add(used)?)?;
        if u64::from(crc32fast::hash(&bytes[LENGTH..])) != number(bytes, CHECKSUM, 4)? {
            return None;
        }
        Some(Block { sequence: number(bytes, SEQUENCE, 8)?, length, records })
    }

    /// Its records in order, up to the first that makes no sense (a later version's, or a forgery).
    pub fn records(&self) -> Records<'a> {
        Records { rest: self.records }
    }
}

/// The records of a block.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl Records<'_> {
    /// Bytes that have not been read; after the last record those that make no sense.
    pub fn left(&self) -> usize {
        self.rest.len()
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = Record<'a>;

    fn next(&mut self) -> Option<Record<'a>> {
        let (record, length) = Record::take(self.rest)?;
        self.rest = &self.rest[length..];
        Some(record)
    }
}

/// The whole blocks in a piece of a spool file that begins at a multiple of [`BLOCK_STEP`].
#[derive(Clone, Debug)]
pub struct SpoolReader<'a> {
    bytes: &'a [u8],
    at: usize,
    consumed: usize,
    skipped: usize,
}

impl<'a> SpoolReader<'a> {
    /// The blocks of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        SpoolReader { bytes, at: 0, consumed: 0, skipped: 0 }
    }

    /// Where the last block ended: what lies behind is none, or is not written yet. Who follows a file
    /// that is being written goes on reading there.
    pub fn consumed(&self) -> usize {
        self.consumed
    }

    /// Bytes before the last block that belong to none.
    pub fn skipped(&self) -> usize {
        self.skipped
    }
}

impl<'a> Iterator for SpoolReader<'a> {
    type Item = Block<'a>;

    /// The next whole block. What is none is skipped, [`BLOCK_STEP`] bytes at a time.
    fn next(&mut self) -> Option<Block<'a>> {
        while let Some(rest) = self.bytes.get(self.at..).filter(|rest| !rest.is_empty()) {
            let Some(block) = Block::parse(rest) else {
                self.at += BLOCK_STEP;
                continue;
            };
            self.skipped += self.at - self.consumed;
            self.at += block.length;
            self.consumed = self.at;
            return Some(block);
        }
        None
    }
}

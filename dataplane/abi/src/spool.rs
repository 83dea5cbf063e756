//! The spool: what the workers record, on its way through files to the control process.
//!
//! A worker appends records to a block and hands the block out when it is full or old. A writer puts
//! blocks behind each other into files; whoever reads them takes whole blocks only, so a writer that is
//! killed in the middle of one costs that one.
//!
//! ```text
//! block, a multiple of 4,096 bytes, at most 65,536         record, 32 bytes and its payload
//!   0  magic     "jfspool\x01"                               0  kind      u8
//!   8  checksum  u32   CRC-32 of all that follows            1  side      u8   0 caller, 1 called
//!  12  length    u32   of the block                          2  codec     u8   RTP payload type
//!  16  sequence  u64   1, 2, ... of one writer; a gap is     3  -
//!                      a block that was lost; 0 counts not   4  length    u32  of the payload
//!  24  records   u32   bytes of them                         8  number    u64  of the recording
//!  28  -                                                    16  serial    u64  of the call
//!  32  records, then zeros                                  24  position  u64  in samples, or a time
//! ```
//!
//! All numbers are little-endian: unlike a region, a spool may outlive a boot and leave its machine.

use std::collections::VecDeque;

use base::Instant;

mod read;
mod record;

pub use read::{Block, Records, SpoolReader};
pub use record::{Record, RecordingId, SideCounts, SpoolCodec, SpoolSide};

/// Blocks begin at multiples of this and are multiples of this long: what direct writes ask of disks.
pub const BLOCK_STEP: usize = 4_096;
/// The longest block. It holds about 330 packets of G.711, one second of three calls.
pub const MAX_BLOCK: usize = 65_536;
/// The longest payload of one record, 60 ms of G.711; what is longer becomes several records.
pub const MAX_PAYLOAD: usize = 480;
/// How old the first record of a block may be before [`SpoolWriter::flush`] is due, in milliseconds.
pub const FLUSH_MS: u64 = 200;

const MAGIC: [u8; 8] = *b"jfspool\x01";
const CHECKSUM: usize = 8;
const LENGTH: usize = 12;
const SEQUENCE: usize = 16;
const USED: usize = 24;
const RECORDS: usize = 32;

/// Full blocks that wait to be taken: 1 MiB. The worker takes them after each record, so that there is
/// never more than one.
const FULL_BLOCKS: usize = 16;

/// Appends records to blocks. It knows no file and no clock; there is one for each worker.
#[derive(Debug)]
pub struct SpoolWriter {
    block: Vec<u8>,
    sequence: u64,
    full: VecDeque<Vec<u8>>,
    lost: u64,
}

impl SpoolWriter {
    /// A writer whose next block is the first of its stream.
    pub fn new() -> Self {
        SpoolWriter { block: Vec::new(), sequence: 1, full: VecDeque::new(), lost: 0 }
    }

    /// A recording begins at `now`, which is position 0 of both sides.
    pub fn start(&mut self, of: RecordingId, now: Instant) {
        self.append(&Record::Start { of, at: now });
    }

    /// What came in on `side`: a sample for each byte of `payload`, from `position` on.
    pub fn audio(
        &mut self,
        of: RecordingId,
        side: SpoolSide,
        codec: SpoolCodec,
        position: u64,
        payload: &[u8],
    ) {
        let mut position = position;
        for payload in payload.chunks(MAX_PAYLOAD) {
            self.append(&Record::Audio { of, side, codec, position, payload });
            position = position.saturating_add(payload.len() as u64);
        }
    }

    /// The network lost `samples` of `side` from `position` on.
    pub fn lost(&mut self, of: RecordingId, side: SpoolSide, position: u64, samples: u64) {
        self.append(&Record::Lost { of, side, position, samples });
    }

    /// What is said from `position` on is left out.
    pub fn pause(&mut self, of: RecordingId, position: u64) {
        self.append(&Record::Pause { of, position });
    }

    /// It is recorded again from `position` on.
    pub fn resume(&mut self, of: RecordingId, position: u64) {
        self.append(&Record::Resume { of, position });
    }

    /// The recording ends at `position`, its whole length; `counts` are those of the caller's and the
    /// called side.
    pub fn end(&mut self, of: RecordingId, now: Instant, position: u64, counts: [SideCounts; 2]) {
        self.append(&Record::End { of, at: now, position, counts });
    }

    /// A block that is full. Take them after each record; more than 1 MiB of them is dropped.
    pub fn take_full(&mut self) -> Option<Vec<u8>> {
        self.full.pop_front()
    }

    /// What has been appended, also when it does not fill a block; none when there is nothing. Call it
    /// when [`FLUSH_MS`] have passed, after the last [`SpoolWriter::take_full`].
    pub fn flush(&mut self) -> Option<Vec<u8>> {
        if let Some(full) = self.full.pop_front() {
            return Some(full);
        }
        self.finish()
    }

    /// True when nothing waits for [`SpoolWriter::flush`].
    pub fn is_empty(&self) -> bool {
        self.block.len() <= RECORDS && self.full.is_empty()
    }

    /// Bytes of blocks that were dropped since the last call of this, because nobody took them.
    pub fn take_lost(&mut self) -> u64 {
        std::mem::take(&mut self.lost)
    }

    fn append(&mut self, record: &Record<'_>) {
        if self.block.len() + record.len() > MAX_BLOCK
            && let Some(block) = self.finish()
        {
            if self.full.len() < FULL_BLOCKS {
                self.full.push_back(block);
            } else {
                self.lost += block.len() as u64;
            }
        }
        if self.block.is_empty() {
            self.block.resize(RECORDS, 0);
        }
        record.put(&mut self.block);
    }

    /// A copy of the block as it goes to the disk. The buffer stays, so that what waits for the disk
    /// takes no more memory than it is long.
    fn finish(&mut self) -> Option<Vec<u8>> {
        if self.block.len() <= RECORDS {
            return None;
        }
        let sequence = self.sequence;
        self.sequence += 1;
        let block = seal(&self.block, sequence);
        self.block.clear();
        Some(block)
    }
}

impl Default for SpoolWriter {
    fn default() -> Self {
        Self::new()
    }
}

/// The block that each file begins with: it maps the monotonic times of what follows to the calendar.
/// `unix_ns` is nanoseconds since 1970 at `now`.
pub fn clock_block(now: Instant, unix_ns: u64) -> Vec<u8> {
    let mut block = vec![0; RECORDS];
    Record::Clock { at: now, unix_ns }.put(&mut block);
    seal(&block, 0)
}

fn seal(head_and_records: &[u8], sequence: u64) -> Vec<u8> {
    let length = head_and_records.len().next_multiple_of(BLOCK_STEP);
    let mut block = Vec::with_capacity(length);
    block.extend_from_slice(head_and_records);
    block.resize(length, 0);
    let used = (head_and_records.len() - RECORDS) as u32;
    block[..CHECKSUM].copy_from_slice(&MAGIC);
    block[LENGTH..SEQUENCE].copy_from_slice(&(length as u32).to_le_bytes());
    block[SEQUENCE..USED].copy_from_slice(&sequence.to_le_bytes());
    block[USED..USED + 4].copy_from_slice(&used.to_le_bytes());
    let checksum = crc32fast::hash(&block[LENGTH..]);
    block[CHECKSUM..LENGTH].copy_from_slice(&checksum.to_le_bytes());
    block
}

#[cfg(test)]
mod tests;

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use abi::spool::{BLOCK_STEP, MAX_BLOCK};
use rustix::fs::OFlags;

/// Bytes that are read at once.
const CHUNK_BYTES: usize = 4 * MAX_BLOCK;

/// A buffer for pieces of segments, at an address that direct reads take.
pub struct Chunk {
    bytes: Vec<u8>,
    skip: usize,
}

impl Chunk {
    pub fn new() -> Self {
        let bytes = vec![0; CHUNK_BYTES + BLOCK_STEP];
        let skip = bytes.as_ptr().align_offset(BLOCK_STEP).min(BLOCK_STEP);
        Chunk { bytes, skip }
    }

    /// What `file` holds at `offset`, a multiple of [`BLOCK_STEP`]; short at its end only.
    pub fn read(&mut self, file: &File, offset: u64) -> io::Result<&[u8]> {
        let room = &mut self.bytes[self.skip..self.skip + CHUNK_BYTES];
        let mut length = 0;
        while length < CHUNK_BYTES {
            match file.read_at(&mut room[length..], offset + length as u64) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
                Ok(more) => {
                    length += more;
                    // Only the end of a file is at no multiple; nothing can be read directly behind it.
                    if more == 0 || !length.is_multiple_of(BLOCK_STEP) {
                        break;
                    }
                }
            }
        }
        Ok(&room[..length])
    }

    /// How far to go on in a finished segment when the chunk at hand, of `length` bytes, holds no block:
    /// one that begins near the end of the chunk may go on behind it. None is the segment's end.
    pub fn step(length: usize) -> Option<usize> {
        (length == CHUNK_BYTES).then_some(CHUNK_BYTES - MAX_BLOCK + BLOCK_STEP)
    }
}

/// Opens a segment past the page cache, as it is written: what was read before it was written is then
/// not read again from there. File systems without direct reads are read as usual.
pub fn open(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let open =
        |flags: OFlags| OpenOptions::new().read(true).custom_flags(flags.bits() as i32).open(path);
    match open(flags | OFlags::DIRECT) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => open(flags),
        opened => opened,
    }
}

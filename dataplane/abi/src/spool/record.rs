use base::Instant;

use super::MAX_PAYLOAD;

/// Bytes of a record before its payload.
const HEAD: usize = 32;
const COUNTS: usize = 4 * 8 * 2;

const CLOCK: u8 = 1;
const START: u8 = 2;
const AUDIO: u8 = 3;
const LOST: u8 = 4;
const PAUSE: u8 = 5;
const RESUME: u8 = 6;
const END: u8 = 7;

/// Which recording of which call. Each record carries both, so that a recording has its name also
/// when the block that it began in is lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordingId {
    /// The call serial number.
    pub serial: u64,
    /// The recording's number, from [`crate::MediaOrder::Record`].
    pub number: u64,
}

/// Whose voice it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum SpoolSide {
    /// The caller's; left.
    Caller = 0,
    /// The called party's; right.
    Called = 1,
}

/// What the bytes of a payload are; the numbers are those of RFC 3551.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum SpoolCodec {
    /// G.711 mu-law, one sample a byte, 8,000 a second.
    Pcmu = 0,
    /// G.711 A-law, one sample a byte, 8,000 a second.
    Pcma = 8,
}

/// What became of one side, in samples.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SideCounts {
    /// Handed to the spool, each position once.
    pub received: u64,
    /// Sent, by their sequence numbers, and never received.
    pub lost: u64,
    /// Received once more.
    pub duplicates: u64,
    /// Received too late to be placed.
    pub late: u64,
}

/// What a spool says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// What the calendar said at a time of the monotonic clock.
    Clock {
        /// The monotonic time.
        at: Instant,
        /// Nanoseconds since 1970.
        unix_ns: u64,
    },
    /// A recording begins.
    Start {
        /// Which one.
        of: RecordingId,
        /// When position 0 was.
        at: Instant,
    },
    /// Samples of one side.
    Audio {
        /// Of which recording.
        of: RecordingId,
        /// Of whom.
        side: SpoolSide,
        /// What `payload` is.
        codec: SpoolCodec,
        /// Where its first sample belongs, in samples since the start.
        position: u64,
        /// At most [`MAX_PAYLOAD`] bytes.
        payload: &'a [u8],
    },
    /// The network lost samples.
    Lost {
        /// Of which recording.
        of: RecordingId,
        /// Of whom.
        side: SpoolSide,
        /// Where the first of them belongs.
        position: u64,
        /// How many.
        samples: u64,
    },
    /// Nothing is recorded from here on.
    Pause {
        /// Of which recording.
        of: RecordingId,
        /// From where on, in samples.
        position: u64,
    },
    /// Recorded again from here on.
    Resume {
        /// Of which recording.
        of: RecordingId,
        /// From where on, in samples.
        position: u64,
    },
    /// The recording is over.
    End {
        /// Which one.
        of: RecordingId,
        /// When.
        at: Instant,
        /// How long it is, in samples.
        position: u64,
        /// What became of the caller's and of the called side.
        counts: [SideCounts; 2],
    },
}

impl SpoolSide {
    fn of(number: u8) -> Option<Self> {
        match number {
            0 => Some(SpoolSide::Caller),
            1 => Some(SpoolSide::Called),
            _ => None,
        }
    }
}

impl SpoolCodec {
    /// The codec of a static RTP payload type (RFC 3551, table 4).
    pub fn of_payload_type(number: u8) -> Option<Self> {
        match number {
            0 => Some(SpoolCodec::Pcmu),
            8 => Some(SpoolCodec::Pcma),
            _ => None,
        }
    }
}

/// The fields that all records have.
#[derive(Clone, Copy, Default)]
struct Head {
    kind: u8,
    side: u8,
    codec: u8,
    of: RecordingId,
    position: u64,
}

impl<'a> Record<'a> {
    /// The recording that it is about; a clock is about none.
    pub fn of(&self) -> Option<RecordingId> {
        match *self {
            Record::Clock { .. } => None,
            Record::Start { of, .. }
            | Record::Audio { of, .. }
            | Record::Lost { of, .. }
            | Record::Pause { of, .. }
            | Record::Resume { of, .. }
            | Record::End { of, .. } => Some(of),
        }
    }

    /// Bytes that [`Record::put`] appends.
    pub(super) fn len(&self) -> usize {
        HEAD + match self {
            Record::Clock { .. } | Record::Lost { .. } => 8,
            Record::Audio { payload, .. } => payload.len(),
            Record::End { .. } => 8 + COUNTS,
            Record::Start { .. } | Record::Pause { .. } | Record::Resume { .. } => 0,
        }
    }

    pub(super) fn put(&self, to: &mut Vec<u8>) {
        let head = match *self {
            Record::Clock { at, .. } => {
                Head { kind: CLOCK, position: at.as_nanos(), ..Head::default() }
            }
            Record::Start { of, at } => {
                Head { kind: START, of, position: at.as_nanos(), ..Head::default() }
            }
            Record::Audio { of, side, codec, position, .. } => {
                Head { kind: AUDIO, side: side as u8, codec: codec as u8, of, position }
            }
            Record::Lost { of, side, position, .. } => {
                Head { kind: LOST, side: side as u8, of, position, ..Head::default() }
            }
            Record::Pause { of, position } => Head { kind: PAUSE, of, position, ..Head::default() },
            Record::Resume { of, position } => {
                Head { kind: RESUME, of, position, ..Head::default() }
            }
            Record::End { of, position, .. } => Head { kind: END, of, position, ..Head::default() },
        };
        let payload = self.len() - HEAD;
        to.extend_from_slice(&[head.kind, head.side, head.codec, 0]);
        to.extend_from_slice(&(payload as u32).to_le_bytes());
        for number in [head.of.number, head.of.serial, head.position] {
            to.extend_from_slice(&number.to_le_bytes());
        }
        match *self {
            Record::Clock { unix_ns: number, .. } | Record::Lost { samples: number, .. } => {
                to.extend_from_slice(&number.to_le_bytes());
            }
            Record::Audio { payload, .. } => to.extend_from_slice(payload),
            Record::End { at, counts, .. } => {
                to.extend_from_slice(&at.as_nanos().to_le_bytes());
                for side in counts {
                    for number in [side.received, side.lost, side.duplicates, side.late] {
                        to.extend_from_slice(&number.to_le_bytes());
                    }
                }
            }
            Record::Start { .. } | Record::Pause { .. } | Record::Resume { .. } => {}
        }
    }

    /// The record that `bytes` begin with, and how long it is; none when they make no sense.
    pub(super) fn take(bytes: &'a [u8]) -> Option<(Record<'a>, usize)> {
        let head = bytes.get(..HEAD)?;
        let payload = number(head, 4, 4)?;
        let end = HEAD.checked_add(usize::try_from(payload).ok()?)?;
        let payload = bytes.get(HEAD..end)?;
        let of = RecordingId { number: number(head, 8, 8)?, serial: number(head, 16, 8)? };
        let position = number(head, 24, 8)?;
        let side = SpoolSide::of(head[1]);
        let only = || number(payload, 0, 8).filter(|_| payload.len() == 8);
        let at = Instant::from_nanos(position);
        let record = match head[0] {
            CLOCK => Record::Clock { at, unix_ns: only()? },
            START if payload.is_empty() => Record::Start { of, at },
            AUDIO if payload.len() <= MAX_PAYLOAD => {
                let codec = SpoolCodec::of_payload_type(head[2])?;
                Record::Audio { of, side: side?, codec, position, payload }
            }
            LOST => Record::Lost { of, side: side?, position, samples: only()? },
            PAUSE if payload.is_empty() => Record::Pause { of, position },
            RESUME if payload.is_empty() => Record::Resume { of, position },
            END if payload.len() == 8 + COUNTS => Record::End {
                of,
                at: Instant::from_nanos(number(payload, 0, 8)?),
                position,
                counts: [counts(&payload[8..])?, counts(&payload[8 + COUNTS / 2..])?],
            },
            _ => return None,
        };
        Some((record, end))
    }
}

fn counts(bytes: &[u8]) -> Option<SideCounts> {
    Some(SideCounts {
        received: number(bytes, 0, 8)?,
        lost: number(bytes, 8, 8)?,
        duplicates: number(bytes, 16, 8)?,
        late: number(bytes, 24, 8)?,
    })
}

/// The little-endian number of `length` bytes, at most 8, at `at`.
pub(super) fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let mut number = [0; 8];
    number.get_mut(..length)?.copy_from_slice(bytes.get(at..at.checked_add(length)?)?);
    Some(u64::from_le_bytes(number))
}

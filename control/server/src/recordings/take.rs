use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use abi::spool::{Record, RecordingId, SideCounts, SpoolCodec};
use base::Instant;
use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// Samples a second (G.711).
const RATE: u64 = 8_000;
/// The longest recording, in samples: 24 hours. What lies behind it is left out.
const MAX_SAMPLES: u64 = 24 * 3_600 * RATE;
/// Pauses that are accounted for, each; more are heard as silence all the same.
const PAUSES: usize = 1_000;
/// Samples of both sides that are written at once: a second.
const WINDOW: u64 = 8_192;
/// Bytes of a sample of both sides.
const FRAME: usize = 4;
/// Bytes of a WAV file before the samples.
const HEADER: usize = 44;
/// Files of one name that are told apart; a call and its recording are one, so it is one as a rule.
const NAMES: u32 = 1_000;

/// Where takes go, and whose they are.
#[derive(Clone, Copy)]
pub struct Place<'a> {
    pub directory: &'a Path,
    pub stem: &'a str,
}

/// What a spool's clock said: nanoseconds since 1970 at a monotonic time.
#[derive(Clone, Copy, Default)]
pub struct Clock {
    pub at: u64,
    pub unix_ns: u64,
}

/// All that is known of a recording beside its samples.
#[derive(Clone, Default, Serialize, Deserialize)]
pub struct Account {
    serial: u64,
    number: u64,
    start_unix_ms: Option<u64>,
    end_unix_ms: Option<u64>,
    /// How long it is, in samples.
    samples: u64,
    /// Of the caller's and of the called side.
    sides: [Side; 2],
    /// From and to, in samples; the last one may not have ended.
    pauses: Vec<(u64, Option<u64>)>,
    lost_blocks: u64,
    left_out: u64,
}

/// One side, in samples.
#[derive(Clone, Copy, Default, Serialize, Deserialize)]
struct Side {
    /// Found in the spool.
    written: u64,
    /// Told as lost by records; what the end says counts more.
    lost: u64,
    /// What the end says: received, lost, duplicates, late.
    end: Option<[u64; 4]>,
}

impl Account {
    pub fn id(&self) -> RecordingId {
        RecordingId { serial: self.serial, number: self.number }
    }

    /// True when nothing that the network delivered is missing.
    fn is_complete(&self) -> bool {
        let is_whole =
            |side: &Side| side.end.is_some_and(|[received, ..]| received == side.written);
        self.start_unix_ms.is_some()
            && self.sides.iter().all(is_whole)
            && self.lost_blocks == 0
            && self.left_out == 0
    }

    fn json(&self, stem: &str) -> Value {
        let side = |side: &Side| {
            let [received, lost, duplicates, late] = side.end.unwrap_or([0, side.lost, 0, 0]);
            json!({
                "received": received.max(side.written),
                "written": side.written,
                "lost": lost,
                "duplicates": duplicates,
                "late": late,
            })
        };
        let pauses: Vec<_> = self
            .pauses
            .iter()
            .map(|(from, to)| json!({ "from": from, "to": to.unwrap_or(self.samples) }))
            .collect();
        json!({
            "serial": self.serial,
            "recording": self.number,
            "start_unix_ms": self.start_unix_ms,
            "end_unix_ms": self.end_unix_ms,
            "samples": self.samples,
            "rate": RATE,
            "caller": side(&self.sides[0]),
            "called": side(&self.sides[1]),
            "pauses": pauses,
            "spool_blocks_lost": self.lost_blocks,
            "records_left_out": self.left_out,
            "complete": self.is_complete(),
            "source": stem,
        })
    }
}

/// A recording that is being made.
pub struct Take {
    account: Account,
    part: PathBuf,
    /// Bytes of the file so far.
    length: u64,
    /// Since when its call is gone, with no record of it after that.
    pub gone_since: Option<Instant>,
    /// Two, since one side is a little before the other; the one used last comes first.
    windows: [Option<Window>; 2],
}

/// A second of samples of both sides.
struct Window {
    number: u64,
    bytes: Vec<u8>,
    is_written: bool,
}

impl Take {
    pub fn begin(of: RecordingId, place: Place<'_>) -> io::Result<Take> {
        let account = Account { serial: of.serial, number: of.number, ..Account::default() };
        let part = part(&account, place);
        open(&part, true)?;
        Self::with(account, part)
    }

    /// A take of a checkpoint; none when it is finished.
    pub fn reopen(mut account: Account, place: Place<'_>) -> io::Result<Option<Take>> {
        account.samples = account.samples.min(MAX_SAMPLES);
        account.pauses.truncate(PAUSES);
        let part = part(&account, place);
        match std::fs::symlink_metadata(&part) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
            Ok(_) => Self::with(account, part).map(Some),
        }
    }

    fn with(account: Account, part: PathBuf) -> io::Result<Take> {
        let length = std::fs::symlink_metadata(&part)?.len();
        Ok(Take { account, part, length, gone_since: None, windows: [None, None] })
    }

    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Blocks were lost while it was being recorded; some of them may have been its.
    pub fn lose_blocks(&mut self, blocks: u64) {
        self.account.lost_blocks = self.account.lost_blocks.saturating_add(blocks);
    }

    pub fn take(&mut self, record: &Record<'_>, clock: Clock) -> io::Result<()> {
        let account = &mut self.account;
        match *record {
            Record::Clock { .. } => {}
            Record::Start { at, .. } => account.start_unix_ms = Some(clock.unix_ms(at)),
            Record::Audio { side, codec, position, payload, .. } => {
                return self.place(side as usize, codec, position, payload);
            }
            Record::Lost { side, samples, .. } => {
                let lost = &mut account.sides[side as usize].lost;
                *lost = lost.saturating_add(samples);
            }
            Record::Pause { position, .. } => {
                if account.pauses.len() < PAUSES {
                    account.pauses.push((position, None));
                }
            }
            Record::Resume { position, .. } => {
                if let Some((_, to @ None)) = account.pauses.last_mut() {
                    *to = Some(position);
                }
            }
            Record::End { at, position, counts, .. } => {
                account.end_unix_ms = Some(clock.unix_ms(at));
                account.samples = account.samples.max(position.min(MAX_SAMPLES));
                for (side, end) in account.sides.iter_mut().zip(counts) {
                    let SideCounts { received, lost, duplicates, late } = end;
                    side.end = Some([received, lost, duplicates, late]);
                }
            }
        }
        Ok(())
    }

    fn place(
        &mut self,
        side: usize,
        codec: SpoolCodec,
        position: u64,
        payload: &[u8],
    ) -> io::Result<()> {
        let end = position.saturating_add(payload.len() as u64);
        if end > MAX_SAMPLES {
            self.account.left_out += 1;
            return Ok(());
        }
        self.account.samples = self.account.samples.max(end);
        self.account.sides[side].written += payload.len() as u64;
        let samples = samples(codec);
        let (mut at, mut rest) = (position, payload);
        while !rest.is_empty() {
            let room = (WINDOW - at % WINDOW) as usize;
            let (here, behind) = rest.split_at(room.min(rest.len()));
            let window = self.window(at / WINDOW)?;
            window.is_written = false;
            let first = (at % WINDOW) as usize * FRAME + side * 2;
            let places = window.bytes[first..].chunks_mut(FRAME);
            for (place, code) in places.zip(here) {
                place[..2].copy_from_slice(&samples[usize::from(*code)]);
            }
            at += here.len() as u64;
            rest = behind;
        }
        Ok(())
    }

    /// The window of that number, first in the list.
    fn window(&mut self, number: u64) -> io::Result<&mut Window> {
        let has = |window: &Option<Window>| window.as_ref().is_some_and(|has| has.number == number);
        if !has(&self.windows[0]) {
            self.windows.swap(0, 1);
        }
        if !has(&self.windows[0]) {
            if let Some(old) = &mut self.windows[0] {
                old.write(&self.part, &mut self.length)?;
            }
            let old = self.windows[0].take().map(|old| old.bytes).unwrap_or_default();
            let new = Window::read(number, old, &self.part, self.length)?;
            return Ok(self.windows[0].insert(new));
        }
        self.windows[0].as_mut().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    /// Writes what is not in the file yet.
    pub fn write_out(&mut self) -> io::Result<()> {
        for window in self.windows.iter_mut().flatten() {
            window.write(&self.part, &mut self.length)?;
        }
        Ok(())
    }

    /// Gives the file its header, its account beside it and then its name: as long as the part is there
    /// it is not finished.
    pub fn finish(mut self, place: Place<'_>) -> io::Result<()> {
        self.write_out()?;
        let file = open(&self.part, false)?;
        file.set_len(HEADER as u64 + self.account.samples * FRAME as u64)?;
        file.write_all_at(&header(self.account.samples), 0)?;
        let text = serde_json::to_vec_pretty(&self.account.json(place.stem))?;
        let beside = self.part.with_extension("part.json");
        let mut account = open(&beside, true)?;
        account.set_len(0)?;
        account.write_all(&text)?;
        let (wav, json) = names(&self.account, place)?;
        std::fs::rename(&beside, json)?;
        std::fs::rename(&self.part, wav)
    }
}

impl Window {
    fn read(number: u64, old: Vec<u8>, part: &Path, length: u64) -> io::Result<Window> {
        let mut bytes = old;
        bytes.clear();
        bytes.resize(WINDOW as usize * FRAME, 0);
        let mut window = Window { number, bytes, is_written: true };
        let offset = window.offset();
        if offset < length {
            let here = usize::try_from(length - offset).unwrap_or(usize::MAX);
            let here = here.min(window.bytes.len());
            open(part, false)?.read_exact_at(&mut window.bytes[..here], offset)?;
        }
        Ok(window)
    }

    fn write(&mut self, part: &Path, length: &mut u64) -> io::Result<()> {
        if !self.is_written {
            open(part, false)?.write_all_at(&self.bytes, self.offset())?;
            self.is_written = true;
            *length = (*length).max(self.offset() + self.bytes.len() as u64);
        }
        Ok(())
    }

    fn offset(&self) -> u64 {
        HEADER as u64 + self.number * WINDOW * FRAME as u64
    }
}

/// Files are opened once a second and recording, so that any number of recordings needs no descriptors.
fn open(path: &Path, create: bool) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(create)
        .truncate(false)
        .mode(0o600)
        .custom_flags(flags.bits() as i32)
        .open(path)
}

fn part(account: &Account, place: Place<'_>) -> PathBuf {
    let Account { serial, number, .. } = account;
    place.directory.join(format!(".{serial}-{number}-{}.part", place.stem))
}

/// The names of the finished files. Those of another recording are not written over (a call that
/// outlives its data plane has two of one number); those of this one are: it is made again.
fn names(account: &Account, place: Place<'_>) -> io::Result<(PathBuf, PathBuf)> {
    let stem = format!("{}-{}", account.serial, account.number);
    for copy in 1..=NAMES {
        let name = if copy == 1 { stem.clone() } else { format!("{stem}-{copy}") };
        let path = |ending| place.directory.join(format!("{name}.{ending}"));
        let is_ours = match std::fs::read(path("json")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => true,
            bytes => serde_json::from_slice::<Value>(&bytes?).is_ok_and(|old| {
                old["source"] == place.stem && old["start_unix_ms"] == json!(account.start_unix_ms)
            }),
        };
        if is_ours {
            return Ok((path("wav"), path("json")));
        }
    }
    Err(io::Error::other(format!("{stem}.wav: there are too many of this name")))
}

/// RIFF, PCM of 16 bits, two channels, 8,000 samples a second.
fn header(samples: u64) -> [u8; HEADER] {
    let bytes = u32::try_from(samples * FRAME as u64).unwrap_or(u32::MAX);
    let mut header = [0; HEADER];
    let mut at = 0;
    let mut put = |bytes: &[u8]| {
        header[at..at + bytes.len()].copy_from_slice(bytes);
        at += bytes.len();
    };
    put(b"RIFF");
    put(&(bytes.saturating_add(HEADER as u32 - 8)).to_le_bytes());
    put(b"WAVEfmt ");
    put(&16u32.to_le_bytes());
    put(&[1, 0, 2, 0]);
    put(&(RATE as u32).to_le_bytes());
    put(&(RATE as u32 * FRAME as u32).to_le_bytes());
    put(&[FRAME as u8, 0, 16, 0]);
    put(b"data");
    put(&bytes.to_le_bytes());
    header
}

static MU: [[u8; 2]; 256] = table(true);
static A: [[u8; 2]; 256] = table(false);

/// The samples of a codec's 256 codes, little-endian (ITU-T G.711).
pub fn samples(codec: SpoolCodec) -> &'static [[u8; 2]; 256] {
    match codec {
        SpoolCodec::Pcmu => &MU,
        SpoolCodec::Pcma => &A,
    }
}

const fn table(is_mu: bool) -> [[u8; 2]; 256] {
    let mut table = [[0; 2]; 256];
    let mut code = 0;
    while code < 256 {
        let sample = if is_mu { mu(code as u8) } else { a(code as u8) };
        table[code] = sample.to_le_bytes();
        code += 1;
    }
    table
}

const fn mu(code: u8) -> i16 {
    let code = !code;
    let magnitude = (((((code & 0x0f) as i32) << 3) + 0x84) << ((code >> 4) & 7)) - 0x84;
    (if code & 0x80 != 0 { -magnitude } else { magnitude }) as i16
}

const fn a(code: u8) -> i16 {
    let code = code ^ 0x55;
    let (segment, step) = ((code >> 4) & 7, ((code & 0x0f) as i32) << 4);
    let magnitude = match segment {
        0 => step + 8,
        _ => (step + 0x108) << (segment - 1),
    };
    (if code & 0x80 != 0 { magnitude } else { -magnitude }) as i16
}

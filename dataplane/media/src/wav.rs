//! Sound files: RIFF WAVE (PCM of 8, 16 and 24 bits, G.711) and raw G.711, made into 8,000 samples a second.

use std::fmt;

use crate::codec::Codec;
use crate::tone::SAMPLE_RATE;

mod resample;

/// The longest sound that is read: 10 minutes, 9.6 MB of samples.
pub const SECONDS_MAX: u32 = 600;

/// The rates that are read, in samples a second.
const RATES: std::ops::RangeInclusive<u32> = SAMPLE_RATE..=192_000;

/// Why a file is not read: which field of it breaks which rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WavError {
    /// The field.
    pub field: &'static str,
    /// What the field holds, if it is there.
    pub found: Option<u32>,
    /// What it has to be.
    pub rule: &'static str,
}

impl fmt::Display for WavError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.found {
            Some(found) => write!(f, "{} is {found}: it must be {}", self.field, self.rule),
            None => write!(f, "{}: it must be {}", self.field, self.rule),
        }
    }
}

impl std::error::Error for WavError {}

/// Samples of 16 bits at 8,000 a second of a file: raw G.711 if its name ends in `.ulaw`, `.pcmu`, `.alaw` or
/// `.pcma`, else RIFF WAVE, mono or stereo (mixed down), of 8,000 to 192,000 samples a second.
///
/// # Errors
/// When there is no sound, more than [`SECONDS_MAX`] of it, or a field that is not as described. Sound that
/// is shorter than its header says, as of a writer that was killed, is read as far as it goes.
pub fn read(name: &str, bytes: &[u8]) -> Result<Vec<i16>, WavError> {
    let ending = name.rsplit_once('.').map_or("", |(_, ending)| ending).to_ascii_lowercase();
    let format = match ending.as_str() {
        "ulaw" | "pcmu" => Some(Coding::G711(Codec::Pcmu)),
        "alaw" | "pcma" => Some(Coding::G711(Codec::Pcma)),
        _ => None,
    };
    let (format, data) = match format {
        Some(coding) => (Format { coding, channels: 1, rate: SAMPLE_RATE }, bytes),
        None => parse(bytes)?,
    };
    let frames = data.len() / format.frame_bytes();
    if frames == 0 {
        return Err(wrong("sound", Some(0), "at least one sample"));
    }
    if frames as u64 > u64::from(SECONDS_MAX) * u64::from(format.rate) {
        let seconds = frames as u64 / u64::from(format.rate);
        return Err(wrong("duration in seconds", u32::try_from(seconds).ok(), "600 at most"));
    }
    let samples = format.samples(data);
    if format.rate == SAMPLE_RATE {
        return Ok(samples);
    }
    Ok(resample::to_8_khz(&samples, format.rate))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Coding {
    Pcm8,
    Pcm16,
    Pcm24,
    G711(Codec),
}

#[derive(Clone, Copy, Debug)]
struct Format {
    coding: Coding,
    /// 1 or 2.
    channels: usize,
    rate: u32,
}

impl Format {
    fn frame_bytes(&self) -> usize {
        self.channels
            * match self.coding {
                Coding::Pcm8 | Coding::G711(_) => 1,
                Coding::Pcm16 => 2,
                Coding::Pcm24 => 3,
            }
    }

    /// One channel of 16 bits; bytes after the last whole frame are not read.
    fn samples(&self, data: &[u8]) -> Vec<i16> {
        let data = &data[..data.len() - data.len() % self.frame_bytes()];
        let one: Vec<i16> = match self.coding {
            // 8 bits have no sign, more have.
            Coding::Pcm8 => data.iter().map(|&byte| (i16::from(byte) - 128) << 8).collect(),
            Coding::Pcm16 => {
                data.as_chunks().0.iter().map(|&bytes| i16::from_le_bytes(bytes)).collect()
            }
            Coding::Pcm24 => {
                let (chunks, _) = data.as_chunks::<3>();
                chunks.iter().map(|&[_, low, high]| i16::from_le_bytes([low, high])).collect()
            }
            Coding::G711(codec) => codec.decode(data).collect(),
        };
        if self.channels == 1 {
            return one;
        }
        let (pairs, _) = one.as_chunks::<2>();
        pairs.iter().map(|&[left, right]| left.midpoint(right)).collect()
    }
}

/// The format of a RIFF WAVE file and its sound.
fn parse(bytes: &[u8]) -> Result<(Format, &[u8]), WavError> {
    let (Some(b"RIFF"), Some(b"WAVE")) = (bytes.get(..4), bytes.get(8..12)) else {
        return Err(wrong(
            "file",
            None,
            "RIFF WAVE, or raw G.711 named .ulaw, .pcmu, .alaw or .pcma",
        ));
    };
    let mut rest = &bytes[12..];
    let mut format = None;
    while let Some((&[a, b, c, d, l0, l1, l2, l3], after)) = rest.split_first_chunk::<8>() {
        let length = usize::try_from(u32::from_le_bytes([l0, l1, l2, l3])).unwrap_or(usize::MAX);
        let body = &after[..length.min(after.len())];
        match &[a, b, c, d] {
            b"fmt " => format = Some(parse_format(body)?),
            b"data" => {
                let format = format.ok_or(wrong("format chunk", None, "before the sound"))?;
                // A writer that could not go back left 0 or the largest number: it is all the rest.
                return Ok((format, if length == 0 { after } else { body }));
            }
            _ => {}
        }
        // Chunks begin at even places.
        rest = after.get(length.saturating_add(length % 2)..).unwrap_or_default();
    }
    Err(wrong("data chunk", None, "there"))
}

fn parse_format(body: &[u8]) -> Result<Format, WavError> {
    const PCM: u16 = 1;
    const A_LAW: u16 = 6;
    const MU_LAW: u16 = 7;
    const EXTENSIBLE: u16 = 0xfffe;
    /// What follows the format's number in the identifier of KSDATAFORMAT_SUBTYPE_*.
    const SUBTYPE: &[u8] = b"\x00\x00\x00\x00\x10\x00\x80\x00\x00\xaa\x00\x38\x9b\x71";

    if body.len() < 16 {
        return Err(wrong("format chunk's length", Some(body.len() as u32), "16 bytes or more"));
    }
    let word = |at: usize| u16::from_le_bytes([body[at], body[at + 1]]);
    let rate = u32::from_le_bytes([body[4], body[5], body[6], body[7]]);
    let (mut tag, channels, align, bits) = (word(0), word(2), word(12), word(14));
    if tag == EXTENSIBLE {
        if body.get(26..40) != Some(SUBTYPE) {
            return Err(wrong("extensible format", None, "PCM or G.711"));
        }
        tag = word(24);
    }
    let coding = match (tag, bits) {
        (PCM, 8) => Coding::Pcm8,
        (PCM, 16) => Coding::Pcm16,
        (PCM, 24) => Coding::Pcm24,
        (A_LAW, 8) => Coding::G711(Codec::Pcma),
        (MU_LAW, 8) => Coding::G711(Codec::Pcmu),
        (PCM, _) => return Err(wrong("bits a sample of PCM", Some(bits.into()), "8, 16 or 24")),
        (A_LAW | MU_LAW, _) => return Err(wrong("bits a sample of G.711", Some(bits.into()), "8")),
        _ => return Err(wrong("format", Some(tag.into()), "1 (PCM), 6 (A-law) or 7 (mu-law)")),
    };
    if !(1..=2).contains(&channels) {
        return Err(wrong("number of channels", Some(channels.into()), "1 or 2"));
    }
    if !RATES.contains(&rate) {
        return Err(wrong("sample rate", Some(rate), "8,000 to 192,000 Hz"));
    }
    let format = Format { coding, channels: channels.into(), rate };
    if usize::from(align) != format.frame_bytes() {
        return Err(wrong("block size", Some(align.into()), "the channels' bytes a sample"));
    }
    Ok(format)
}

fn wrong(field: &'static str, found: Option<u32>, rule: &'static str) -> WavError {
    WavError { field, found, rule }
}

#[cfg(test)]
mod tests;

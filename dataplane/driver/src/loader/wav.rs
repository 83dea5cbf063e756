//! WAV files of 16-bit samples at 8 kHz.

/// Why a file holds no sound that can be played.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WavError {
    /// It is no RIFF WAVE file, or ends too early.
    NotWav,
    /// It is not PCM of 16 bits, one channel, 8,000 samples a second.
    Format,
}

/// The samples of the file `name` that holds `bytes`.
pub fn read(_name: &str, bytes: &[u8]) -> Result<Vec<i16>, WavError> {
    if bytes.get(..4) != Some(b"RIFF") || bytes.get(8..12) != Some(b"WAVE") {
        return Err(WavError::NotWav);
    }
    let mut rest = bytes.get(12..).unwrap_or_default();
    let mut is_right = false;
    while let Some((head, body)) = rest.split_at_checked(8) {
        let length = u32::from_le_bytes([head[4], head[5], head[6], head[7]]) as usize;
        let chunk = &body[..length.min(body.len())];
        match &head[..4] {
            b"fmt " => {
                let format = chunk.get(..16).ok_or(WavError::NotWav)?;
                let rate = u32::from_le_bytes([format[4], format[5], format[6], format[7]]);
                is_right = format[..4] == [1, 0, 1, 0] && format[14..] == [16, 0] && rate == 8_000;
            }
            b"data" if is_right => {
                let (samples, _) = chunk.as_chunks::<2>();
                return Ok(samples.iter().map(|sample| i16::from_le_bytes(*sample)).collect());
            }
            b"data" => return Err(WavError::Format),
            _ => {}
        }
        // Chunks begin at even places.
        rest = body.get(length.saturating_add(length & 1)..).unwrap_or_default();
    }
    Err(WavError::NotWav)
}

//! The codecs that media functions speak: G.711, whole frames at a time.

use std::sync::LazyLock;

use crate::g711::{Law, PCMA, PCMU};

/// Samples of a frame that we make: 20 ms at 8,000 samples a second.
pub const FRAME_SAMPLES: usize = 160;
/// How much sound is in a frame that we make, in milliseconds.
pub const FRAME_MS: u64 = 20;

/// A frame that we make: 20 ms of 16-bit samples at 8,000 a second.
pub type Frame = [i16; FRAME_SAMPLES];

/// How sound is coded in RTP. Both have one byte a sample and a clock of 8,000 Hz.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// G.711 mu-law, payload type 0.
    Pcmu,
    /// G.711 A-law, payload type 8.
    Pcma,
}

impl Codec {
    /// The codec of a static RTP payload type (RFC 3551, table 4); none for all others.
    pub fn of_payload_type(payload_type: u8) -> Option<Codec> {
        match payload_type {
            PCMU => Some(Codec::Pcmu),
            PCMA => Some(Codec::Pcma),
            _ => None,
        }
    }

    /// The codec's static RTP payload type.
    pub fn payload_type(self) -> u8 {
        self.law().payload_type()
    }

    /// Codes a frame; the result is the payload of an RTP packet.
    pub fn encode(self, frame: &Frame) -> [u8; FRAME_SAMPLES] {
        let law = self.law();
        frame.map(|sample| law.encode(sample))
    }

    /// The samples of a payload of any length; each byte is one.
    pub fn decode(self, payload: &[u8]) -> impl ExactSizeIterator<Item = i16> + '_ {
        let law = self.law();
        payload.iter().map(move |&code| law.decode(code))
    }

    /// Makes a payload of the codec `to` out of one of this, in place: each code becomes the one whose
    /// sample is nearest.
    pub fn convert(self, to: Codec, payload: &mut [u8]) {
        let table = match (self, to) {
            (Codec::Pcmu, Codec::Pcma) => &MU_TO_A,
            (Codec::Pcma, Codec::Pcmu) => &A_TO_MU,
            _ => return,
        };
        for code in payload {
            *code = table[usize::from(*code)];
        }
    }

    fn law(self) -> Law {
        match self {
            Codec::Pcmu => Law::Mu,
            Codec::Pcma => Law::A,
        }
    }
}

static MU_TO_A: LazyLock<[u8; 256]> = LazyLock::new(|| table(Law::Mu, Law::A));
static A_TO_MU: LazyLock<[u8; 256]> = LazyLock::new(|| table(Law::A, Law::Mu));

fn table(from: Law, to: Law) -> [u8; 256] {
    std::array::from_fn(|code| to.encode(from.decode(code as u8)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tone::{Tone, share};

    #[test]
    fn payload_types_are_static() {
        for codec in [Codec::Pcmu, Codec::Pcma] {
            assert_eq!(Codec::of_payload_type(codec.payload_type()), Some(codec));
        }
        for other in [3, 9, 13, 18, 96, 101] {
            assert_eq!(Codec::of_payload_type(other), None);
        }
    }

    #[test]
    fn a_tone_survives_coding_and_conversion() {
        let mut tone = Tone::new(440, 8_000);
        let frame: Frame = std::array::from_fn(|_| tone.next().expect("a tone has no end"));
        for from in [Codec::Pcmu, Codec::Pcma] {
            for to in [Codec::Pcmu, Codec::Pcma] {
                let mut payload = from.encode(&frame);
                from.convert(to, &mut payload);
                let back: Vec<i16> = to.decode(&payload).collect();
                assert!(share(&back, 440) > 0.99, "{from:?} {to:?}");
                let error = back.iter().zip(&frame).map(|(a, b)| (a - b).abs()).max();
                assert!(error.expect("a frame") <= 512, "{from:?} {to:?}: {error:?}");
            }
        }
    }

    #[test]
    fn converting_there_and_back_moves_no_code_by_more_than_one_step() {
        // G.711, 3.4: mu-law, A-law and mu-law again keeps all but the finest steps.
        for code in 0..=255u8 {
            let mut payload = [code];
            Codec::Pcmu.convert(Codec::Pcma, &mut payload);
            Codec::Pcma.convert(Codec::Pcmu, &mut payload);
            let (before, after) = (Law::Mu.decode(code), Law::Mu.decode(payload[0]));
            let step = (i32::from(before).abs() / 16).max(16);
            assert!((i32::from(before) - i32::from(after)).abs() <= step, "{code:#x}");
        }
    }
}

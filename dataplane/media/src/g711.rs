//! G.711, A-law and mu-law, 8,000 samples of 16 bits a second.

/// Mu-law's RTP payload type (RFC 3551, table 4).
pub const PCMU: u8 = 0;
/// A-law's RTP payload type (RFC 3551, table 4).
pub const PCMA: u8 = 8;

/// The two laws of G.711.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Law {
    /// Mu-law, payload type 0.
    Mu,
    /// A-law, payload type 8.
    A,
}

impl Law {
    /// The law of a static RTP payload type.
    pub fn of_payload_type(payload_type: u8) -> Option<Law> {
        match payload_type {
            PCMU => Some(Law::Mu),
            PCMA => Some(Law::A),
            _ => None,
        }
    }

    /// The law's static RTP payload type.
    pub fn payload_type(self) -> u8 {
        match self {
            Law::Mu => PCMU,
            Law::A => PCMA,
        }
    }

    /// The code of a sample.
    pub fn encode(self, sample: i16) -> u8 {
        match self {
            Law::Mu => mu_encode(sample),
            Law::A => a_encode(sample),
        }
    }

    /// The sample of a code.
    pub fn decode(self, code: u8) -> i16 {
        match self {
            Law::Mu => MU_SAMPLES[usize::from(code)],
            Law::A => A_SAMPLES[usize::from(code)],
        }
    }
}

static MU_SAMPLES: [i16; 256] = samples(Law::Mu);
static A_SAMPLES: [i16; 256] = samples(Law::A);

/// What the encoder adds before it looks for the segment, so that segments begin at powers of two.
const MU_BIAS: i32 = 0x84;
const MU_CLIP: i32 = 32_635;

const fn samples(law: Law) -> [i16; 256] {
    let mut samples = [0; 256];
    let mut code = 0;
    while code < 256 {
        samples[code] = match law {
            Law::Mu => mu_decode(code as u8),
            Law::A => a_decode(code as u8),
        };
        code += 1;
    }
    samples
}

const fn mu_decode(code: u8) -> i16 {
    let code = !code;
    let segment = (code >> 4) & 7;
    let magnitude = ((((code & 0x0f) as i32) << 3) + MU_BIAS) << segment;
    (if code & 0x80 != 0 { MU_BIAS - magnitude } else { magnitude - MU_BIAS }) as i16
}

const fn a_decode(code: u8) -> i16 {
    let code = code ^ 0x55;
    let segment = (code >> 4) & 7;
    let step = ((code & 0x0f) as i32) << 4;
    let magnitude = if segment == 0 { step + 8 } else { (step + 0x108) << (segment - 1) };
    (if code & 0x80 != 0 { magnitude } else { -magnitude }) as i16
}

fn mu_encode(sample: i16) -> u8 {
    let sign = if sample < 0 { 0x80 } else { 0 };
    let magnitude = i32::from(sample).abs().min(MU_CLIP) + MU_BIAS;
    // The magnitude has 8 to 15 bits; segment 0 is the one of 8 bits.
    let segment = 24 - magnitude.leading_zeros() as i32;
    let step = (magnitude >> (segment + 3)) & 0x0f;
    !(sign | (segment << 4) | step) as u8
}

fn a_encode(sample: i16) -> u8 {
    // One's complement, so that the halves mirror each other, as ITU-T G.191 has it.
    let (sign, magnitude) =
        if sample < 0 { (0, !i32::from(sample)) } else { (0x80, i32::from(sample)) };
    let magnitude = magnitude >> 4;
    let code = if magnitude < 16 {
        magnitude
    } else {
        let segment = 28 - magnitude.leading_zeros() as i32;
        (segment << 4) | ((magnitude >> (segment - 1)) & 0x0f)
    };
    (sign | code) as u8 ^ 0x55
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_codes() {
        // ITU-T G.711, tables 1a to 2b, in 16-bit scale.
        for (law, code, sample) in [
            (Law::Mu, 0xff, 0),
            (Law::Mu, 0x7f, 0),
            (Law::Mu, 0x80, 32_124),
            (Law::Mu, 0x00, -32_124),
            (Law::Mu, 0xfe, 8),
            (Law::Mu, 0xef, 132),
            (Law::A, 0xd5, 8),
            (Law::A, 0x55, -8),
            (Law::A, 0xaa, 32_256),
            (Law::A, 0x2a, -32_256),
            (Law::A, 0xc5, 264),
            (Law::A, 0xf5, 528),
        ] {
            assert_eq!(law.decode(code), sample, "{law:?} {code:#x}");
        }
        assert_eq!((Law::Mu.encode(0), Law::A.encode(0)), (0xff, 0xd5));
        assert_eq!((Law::Mu.encode(i16::MIN), Law::A.encode(i16::MIN)), (0x00, 0x2a));
        assert_eq!((Law::Mu.encode(i16::MAX), Law::A.encode(i16::MAX)), (0x80, 0xaa));
    }

    #[test]
    fn every_code_survives_and_every_sample_comes_near() {
        for law in [Law::Mu, Law::A] {
            for code in 0..=255u8 {
                // Mu-law's negative zero becomes the positive one.
                let expected = if (law, code) == (Law::Mu, 0x7f) { 0xff } else { code };
                assert_eq!(law.encode(law.decode(code)), expected, "{law:?} {code:#x}");
            }
            for sample in i16::MIN..=i16::MAX {
                let error = i32::from(law.decode(law.encode(sample))) - i32::from(sample);
                // A step is a sixteenth of its segment; the clipped ends are 644 and 512 away.
                let limit = (i32::from(sample).abs() / 32).max(8) + 8;
                let clipped = i32::from(sample).abs() > 32_000;
                assert!(
                    error.abs() <= limit || clipped && error.abs() <= 644,
                    "{law:?} {sample}: {error}"
                );
            }
        }
    }
}

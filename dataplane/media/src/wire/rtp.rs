//! RTP data packets (RFC 3550, 5.1).
//!
//! ```text
//!  0                   1                   2                   3
//!  0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1 2 3 4 5 6 7 8 9 0 1
//! |V=2|P|X|  CC   |M|     PT      |       sequence number         |
//! |                           timestamp                           |
//! |           synchronization source (SSRC) identifier            |
//! |            contributing source (CSRC) identifiers             |
//! |      defined by profile       |           length              |  where X is set
//! |                        header extension                       |
//! |                     payload ... padding ... n                 |  where P is set
//! ```

/// A valid RTP packet.
#[derive(Clone, Copy, Debug)]
pub struct Rtp<'a> {
    bytes: &'a [u8],
    payload_start: usize,
    payload_end: usize,
}

/// Why bytes are no RTP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RtpError {
    /// Shorter than the fixed header, or than the header's counts and padding say.
    TooShort,
    /// The version is not 2.
    Version,
}

const FIXED: usize = 12;

impl<'a> Rtp<'a> {
    /// Checks `bytes` once.
    #[inline]
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RtpError> {
        let Some(&[first, ..]) = bytes.first_chunk::<FIXED>() else {
            return Err(RtpError::TooShort);
        };
        if first >> 6 != 2 {
            return Err(RtpError::Version);
        }
        let mut payload_start = FIXED + 4 * usize::from(first & 0x0f);
        if first & 0x10 != 0 {
            let Some(&[_, _, high, low]) =
                bytes.get(payload_start..).and_then(|rest| rest.first_chunk())
            else {
                return Err(RtpError::TooShort);
            };
            payload_start += 4 + 4 * usize::from(u16::from_be_bytes([high, low]));
        }
        let padding = match (first & 0x20 != 0, bytes.last()) {
            // "The last octet of the padding contains a count of how many padding octets should be
            // ignored, including itself": so 0 is none that a sender may write.
            (true, Some(&0)) => return Err(RtpError::TooShort),
            (true, Some(&count)) => usize::from(count),
            _ => 0,
        };
        if payload_start + padding > bytes.len() {
            return Err(RtpError::TooShort);
        }
        Ok(Rtp { bytes, payload_start, payload_end: bytes.len() - padding })
    }

    /// The marker bit.
    pub fn marker(&self) -> bool {
        self.bytes[1] & 0x80 != 0
    }

    /// The payload type, 0 to 127.
    pub fn payload_type(&self) -> u8 {
        self.bytes[1] & 0x7f
    }

    /// The sequence number.
    #[inline]
    pub fn sequence(&self) -> u16 {
        u16::from_be_bytes([self.bytes[2], self.bytes[3]])
    }

    /// The timestamp, in units of the payload's clock.
    #[inline]
    pub fn timestamp(&self) -> u32 {
        u32::from_be_bytes([self.bytes[4], self.bytes[5], self.bytes[6], self.bytes[7]])
    }

    /// The synchronization source.
    #[inline]
    pub fn ssrc(&self) -> u32 {
        u32::from_be_bytes([self.bytes[8], self.bytes[9], self.bytes[10], self.bytes[11]])
    }

    /// The contributing sources.
    pub fn csrcs(&self) -> impl Iterator<Item = u32> + 'a {
        let count = usize::from(self.bytes[0] & 0x0f);
        let (words, _) = self.bytes[FIXED..FIXED + 4 * count].as_chunks::<4>();
        words.iter().map(|word| u32::from_be_bytes(*word))
    }

    /// The payload without padding.
    pub fn payload(&self) -> &'a [u8] {
        &self.bytes[self.payload_start..self.payload_end]
    }
}

/// The fixed header of a packet to be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtpHeader {
    /// The marker bit.
    pub marker: bool,
    /// The payload type, 0 to 127.
    pub payload_type: u8,
    /// The sequence number.
    pub sequence: u16,
    /// The timestamp, in units of the payload's clock.
    pub timestamp: u32,
    /// The synchronization source.
    pub ssrc: u32,
}

impl RtpHeader {
    /// How many bytes the header takes.
    pub const LEN: usize = FIXED;

    /// The header's bytes; the payload follows them.
    pub fn bytes(&self) -> [u8; FIXED] {
        let mut bytes = [0; FIXED];
        bytes[0] = 2 << 6;
        bytes[1] = (u8::from(self.marker) << 7) | (self.payload_type & 0x7f);
        bytes[2..4].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[4..8].copy_from_slice(&self.timestamp.to_be_bytes());
        bytes[8..12].copy_from_slice(&self.ssrc.to_be_bytes());
        bytes
    }
}

#[cfg(test)]
mod tests {
    use ::rtp::header::Header;
    use bytes::Bytes;
    use proptest::prelude::*;
    use webrtc_util::marshal::Unmarshal;

    use super::*;

    /// What the rtp crate makes of it, the oracle; it reads extension elements too and refuses odd ones.
    fn unmarshal(bytes: &[u8]) -> Option<Header> {
        Header::unmarshal(&mut Bytes::copy_from_slice(bytes)).ok()
    }

    #[test]
    fn lengths_and_versions() {
        let plain = RtpHeader { marker: true, payload_type: 8, sequence: 7, timestamp: 9, ssrc: 1 };
        let mut packet = plain.bytes().to_vec();
        packet.extend([0x55; 160]);
        let with = |index: usize, value: u8| {
            let mut bytes = packet.clone();
            bytes[index] = value;
            bytes
        };
        let last = packet.len() - 1;
        let padded = |count: u8| {
            let mut bytes = with(0, 0xa0);
            bytes[last] = count;
            bytes
        };
        for (name, bytes, expected) in [
            ("plain", packet.clone(), Ok(160)),
            ("empty", vec![], Err(RtpError::TooShort)),
            ("11 bytes", packet[..11].to_vec(), Err(RtpError::TooShort)),
            ("no payload", packet[..12].to_vec(), Ok(0)),
            ("version 1", with(0, 0x40), Err(RtpError::Version)),
            ("stun", with(0, 0x00), Err(RtpError::Version)),
            ("15 sources", with(0, 0x8f), Ok(100)),
            ("sources missing", with(0, 0x8f)[..71].to_vec(), Err(RtpError::TooShort)),
            ("extension too long", with(0, 0x90), Err(RtpError::TooShort)),
            ("extension missing", with(0, 0x90)[..15].to_vec(), Err(RtpError::TooShort)),
            ("padding 0", padded(0), Err(RtpError::TooShort)),
            ("padding 4", padded(4), Ok(156)),
            ("padding only", padded(160), Ok(0)),
            ("padding too long", padded(161), Err(RtpError::TooShort)),
        ] {
            assert_eq!(Rtp::parse(&bytes).map(|rtp| rtp.payload().len()), expected, "{name}");
        }
    }

    proptest! {
        #[test]
        fn agrees_with_the_rtp_crate(mut bytes in prop::collection::vec(any::<u8>(), 0..80), v2: bool) {
            if let (true, Some(first)) = (v2, bytes.first_mut()) {
                *first = (*first & 0x1f) | 0x80;
            }
            let ours = Rtp::parse(&bytes);
            let theirs = unmarshal(&bytes);
            if let (Ok(ours), Some(theirs)) = (ours, theirs) {
                prop_assert_eq!(theirs.version, 2);
                prop_assert_eq!(ours.marker(), theirs.marker);
                prop_assert_eq!(ours.payload_type(), theirs.payload_type);
                prop_assert_eq!(ours.sequence(), theirs.sequence_number);
                prop_assert_eq!(ours.timestamp(), theirs.timestamp);
                prop_assert_eq!(ours.ssrc(), theirs.ssrc);
                prop_assert_eq!(ours.csrcs().collect::<Vec<_>>(), theirs.csrc);
            }
            // Without an extension both accept the same headers.
            if v2 && bytes.first().is_some_and(|first| first & 0x30 == 0) {
                prop_assert_eq!(ours.is_ok(), unmarshal(&bytes).is_some());
            }
        }

        #[test]
        fn what_is_written_is_read(marker: bool, payload_type in 0u8..128, sequence: u16, timestamp: u32,
            ssrc: u32, payload in prop::collection::vec(any::<u8>(), 0..40)) {
            let header = RtpHeader { marker, payload_type, sequence, timestamp, ssrc };
            let mut bytes = header.bytes().to_vec();
            bytes.extend(&payload);
            let rtp = Rtp::parse(&bytes).expect("it was just written");
            prop_assert_eq!(header, RtpHeader {
                marker: rtp.marker(), payload_type: rtp.payload_type(), sequence: rtp.sequence(),
                timestamp: rtp.timestamp(), ssrc: rtp.ssrc(),
            });
            prop_assert_eq!(rtp.payload(), &payload[..]);
            let theirs = unmarshal(&bytes).expect("the oracle reads it");
            prop_assert_eq!((theirs.sequence_number, theirs.ssrc, theirs.padding), (sequence, ssrc, false));
        }
    }
}

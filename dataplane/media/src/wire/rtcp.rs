//! RTCP compound packets (RFC 3550, 6.4 and A.2; reduced size ones of RFC 5506 are taken as well).

/// A valid compound packet.
#[derive(Clone, Copy, Debug)]
pub struct Rtcp<'a> {
    bytes: &'a [u8],
}

/// One packet of a compound.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RtcpPacket<'a> {
    /// 200 sender report, 201 receiver report, 202 source description, 203 bye, and so on.
    pub packet_type: u8,
    /// The five bits beside the version: a count of reports or sources, or a subtype.
    pub count: u8,
    /// What follows the four bytes of the header, padding included.
    pub body: &'a [u8],
}

/// Why bytes are no RTCP compound packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RtcpError {
    /// Shorter than a header, or the packets' lengths do not add up to the datagram's.
    Length,
    /// A version other than 2.
    Version,
    /// A packet type outside 192 to 223 (RFC 5761, 4).
    PacketType,
    /// Padding in a packet that is not the last, or longer than the packet.
    Padding,
}

const HEADER: usize = 4;

impl<'a> Rtcp<'a> {
    /// Checks `bytes` once: every packet of the compound, to the datagram's last byte.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, RtcpError> {
        if bytes.len() < 2 * HEADER {
            return Err(RtcpError::Length);
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let Some(&[first, packet_type, high, low]) = rest.first_chunk::<HEADER>() else {
                return Err(RtcpError::Length);
            };
            if first >> 6 != 2 {
                return Err(RtcpError::Version);
            }
            if !(192..=223).contains(&packet_type) {
                return Err(RtcpError::PacketType);
            }
            let len = HEADER + 4 * usize::from(u16::from_be_bytes([high, low]));
            let Some((packet, behind)) = rest.split_at_checked(len) else {
                return Err(RtcpError::Length);
            };
            if first & 0x20 != 0 {
                let count = usize::from(packet[len - 1]);
                // "Padding may only be required on one individual packet, the last" (6.4.1).
                if !behind.is_empty() || count == 0 || count > len - HEADER || count % 4 != 0 {
                    return Err(RtcpError::Padding);
                }
            }
            rest = behind;
        }
        Ok(Rtcp { bytes })
    }

    /// The packets in order.
    pub fn packets(&self) -> impl Iterator<Item = RtcpPacket<'a>> {
        let mut rest = self.bytes;
        std::iter::from_fn(move || {
            let &[first, packet_type, high, low] = rest.first_chunk::<HEADER>()?;
            let len = HEADER + 4 * usize::from(u16::from_be_bytes([high, low]));
            let (packet, behind) = rest.split_at_checked(len)?;
            rest = behind;
            Some(RtcpPacket { packet_type, count: first & 0x1f, body: &packet[HEADER..] })
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A receiver report without blocks from source 7, then a bye of the same source.
    const REPORT_AND_BYE: [u8; 16] = [0x80, 201, 0, 1, 0, 0, 0, 7, 0x81, 203, 0, 1, 0, 0, 0, 7];

    #[test]
    fn compounds() {
        let with = |index: usize, value: u8| {
            let mut bytes = REPORT_AND_BYE.to_vec();
            bytes[index] = value;
            bytes
        };
        let mut padded = with(8, 0xa1);
        padded[11] = 2;
        padded.extend([0, 0, 0, 4]);
        let mut odd_padding = padded.clone();
        odd_padding[19] = 3;
        let mut endless_padding = padded.clone();
        endless_padding[19] = 12;
        for (name, bytes, expected) in [
            ("report and bye", REPORT_AND_BYE.to_vec(), Ok(2)),
            ("report", REPORT_AND_BYE[..8].to_vec(), Ok(1)),
            ("empty", vec![], Err(RtcpError::Length)),
            ("a header alone", vec![0x80, 201, 0, 0], Err(RtcpError::Length)),
            ("cut", REPORT_AND_BYE[..15].to_vec(), Err(RtcpError::Length)),
            ("a byte too many", [&REPORT_AND_BYE[..], &[0]].concat(), Err(RtcpError::Length)),
            ("length too long", with(11, 2), Err(RtcpError::Length)),
            ("version 1 within", with(8, 0x41), Err(RtcpError::Version)),
            ("an RTP payload type", with(1, 8), Err(RtcpError::PacketType)),
            ("padding before the last", with(0, 0xa0), Err(RtcpError::Padding)),
            ("padded", padded, Ok(2)),
            ("odd padding", odd_padding, Err(RtcpError::Padding)),
            ("endless padding", endless_padding, Err(RtcpError::Padding)),
        ] {
            assert_eq!(Rtcp::parse(&bytes).map(|rtcp| rtcp.packets().count()), expected, "{name}");
        }
        let rtcp = Rtcp::parse(&REPORT_AND_BYE).expect("it is valid");
        let bye = rtcp.packets().nth(1).expect("two packets");
        assert_eq!(bye, RtcpPacket { packet_type: 203, count: 1, body: &[0, 0, 0, 7] });
    }

    proptest! {
        #[test]
        fn packets_cover_what_was_accepted(mut bytes in prop::collection::vec(any::<u8>(), 0..64), valid: bool) {
            if valid && bytes.len() >= 8 {
                bytes.truncate(bytes.len() / 4 * 4);
                let words = (bytes.len() / 4 - 1) as u8;
                bytes[..4].copy_from_slice(&[0x80, 200, 0, words]);
            }
            if let Ok(rtcp) = Rtcp::parse(&bytes) {
                let covered: usize = rtcp.packets().map(|packet| packet.body.len() + HEADER).sum();
                prop_assert_eq!(covered, bytes.len());
            } else {
                prop_assert!(!valid || bytes.len() < 8);
            }
        }
    }
}

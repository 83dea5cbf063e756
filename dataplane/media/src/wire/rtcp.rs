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

/// What a sender report says of its sender (RFC 3550, 6.4.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderInfo {
    /// The reporter's synchronization source.
    pub ssrc: u32,
    /// The NTP timestamp.
    pub ntp: u64,
    /// The same time in units of the media's clock.
    pub timestamp: u32,
}

impl SenderInfo {
    /// The middle 32 bits of the NTP timestamp, which receivers say back as LSR.
    pub fn ntp_middle(&self) -> u32 {
        (self.ntp >> 16) as u32
    }
}

/// What a reporter says of a source that it hears (RFC 3550, 6.4.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReportBlock {
    /// The source's synchronization source.
    pub ssrc: u32,
    /// Lost since the last report, in 256ths.
    pub fraction_lost: u8,
    /// The highest sequence number received and, above 16 bits, how often it wrapped.
    pub highest: u32,
    /// Interarrival jitter in units of the media's clock.
    pub jitter: u32,
    /// LSR: the middle of the NTP timestamp of the source's last sender report; 0 when there was none.
    pub last_report: u32,
    /// DLSR: how long ago that came, in 65,536ths of a second.
    pub delay: u32,
}

const SENDER_REPORT: u8 = 200;
const RECEIVER_REPORT: u8 = 201;
const DESCRIPTION: u8 = 202;
const BYE: u8 = 203;
const APPLICATION: u8 = 204;
const TRANSPORT_FEEDBACK: u8 = 205;
const PAYLOAD_FEEDBACK: u8 = 206;
const EXTENDED_REPORT: u8 = 207;

const BLOCK: usize = 24;

/// The word at `place`, an offset in bytes.
fn word(bytes: &[u8], place: usize) -> Option<u32> {
    bytes.get(place..)?.first_chunk().map(|word| u32::from_be_bytes(*word))
}

impl<'a> RtcpPacket<'a> {
    /// What a sender report says of its sender; none for other packets and cut ones.
    pub fn sender_info(&self) -> Option<SenderInfo> {
        if self.packet_type != SENDER_REPORT || self.body.len() < BLOCK {
            return None;
        }
        let [high, low] = [word(self.body, 4)?, word(self.body, 8)?];
        Some(SenderInfo {
            ssrc: word(self.body, 0)?,
            ntp: (u64::from(high) << 32) | u64::from(low),
            timestamp: word(self.body, 12)?,
        })
    }

    /// The report blocks of a sender or receiver report; none of other packets.
    pub fn report_blocks(&self) -> impl Iterator<Item = ReportBlock> + use<'a> {
        let blocks = blocks_start(self.packet_type).and_then(|start| self.body.get(start..));
        let blocks = blocks.unwrap_or_default().chunks_exact(BLOCK).take(usize::from(self.count));
        blocks.map(|block| ReportBlock {
            ssrc: word(block, 0).unwrap_or_default(),
            fraction_lost: block[4],
            highest: word(block, 8).unwrap_or_default(),
            jitter: word(block, 12).unwrap_or_default(),
            last_report: word(block, 16).unwrap_or_default(),
            delay: word(block, 20).unwrap_or_default(),
        })
    }
}

/// Where in the body of a report its blocks begin.
fn blocks_start(packet_type: u8) -> Option<usize> {
    match packet_type {
        SENDER_REPORT => Some(24),
        RECEIVER_REPORT => Some(4),
        _ => None,
    }
}

/// How synchronization sources are called on the other side of a splice. Only words are changed, so that
/// a compound keeps its length.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Translation {
    /// The one who sends the compound: its source, what it is to become, and what is added to timestamps.
    pub sender: Option<(u32, u32, u32)>,
    /// The one whom it hears: its source as it hears it, what it is to become, and what was added to
    /// sequence numbers on the way to it.
    pub heard: Option<(u32, u32, u16)>,
}

impl Translation {
    /// Rewrites a valid compound ([`Rtcp::parse`]); bytes that are none stay as they are.
    pub fn apply(&self, mut rest: &mut [u8]) {
        while let Some(&[first, packet_type, high, low]) = rest.first_chunk::<HEADER>() {
            let len = HEADER + 4 * usize::from(u16::from_be_bytes([high, low]));
            let Some((packet, behind)) = rest.split_at_mut_checked(len) else { return };
            self.apply_to(packet, packet_type, usize::from(first & 0x1f));
            rest = behind;
        }
    }

    fn apply_to(&self, packet: &mut [u8], packet_type: u8, count: usize) {
        let body = &mut packet[HEADER..];
        match packet_type {
            SENDER_REPORT | RECEIVER_REPORT => self.report(body, packet_type, count),
            DESCRIPTION => self.description(body, count),
            BYE => self.bye(packet, count),
            APPLICATION => {
                self.sender(body, 0);
            }
            TRANSPORT_FEEDBACK | PAYLOAD_FEEDBACK => {
                self.sender(body, 0);
                self.heard(body, 4);
            }
            EXTENDED_REPORT => self.extended_report(body),
            _ => {}
        }
    }

    fn report(&self, body: &mut [u8], packet_type: u8, count: usize) {
        if self.sender(body, 0)
            && packet_type == SENDER_REPORT
            && let (Some((_, _, added)), Some(timestamp)) = (self.sender, word(body, 12))
        {
            put(body, 12, timestamp.wrapping_add(added));
        }
        let start = blocks_start(packet_type).unwrap_or_default();
        for place in (0..count).map(|number| start + number * BLOCK) {
            if body.len() >= place + BLOCK
                && self.heard(body, place)
                && let (Some((_, _, added)), Some(highest)) = (self.heard, word(body, place + 8))
            {
                put(body, place + 8, highest.wrapping_sub(u32::from(added)));
            }
        }
    }

    /// RFC 3550, 6.5: chunks of a source and items, the last one 0 up to the next word.
    fn description(&self, body: &mut [u8], count: usize) {
        let mut place = 0;
        for _ in 0..count {
            self.sender(body, place);
            place += 4;
            while let Some(&[kind, len]) = body.get(place..).and_then(|rest| rest.first_chunk())
                && kind != 0
            {
                place += 2 + usize::from(len);
            }
            place = (place + 1).next_multiple_of(4);
        }
    }

    /// The one who hears a spliced sender hears it on when one of its sources ends: a bye of that becomes
    /// a receiver report without blocks, and the rest its profile-specific extension (RFC 3550, 6.4.2).
    fn bye(&self, packet: &mut [u8], count: usize) {
        if count > 0 && self.sender(&mut packet[HEADER..], 0) {
            packet[0] &= 0xe0;
            packet[1] = RECEIVER_REPORT;
        }
    }

    /// RFC 3611, 3: the blocks that begin with the source that they are of.
    fn extended_report(&self, body: &mut [u8]) {
        self.sender(body, 0);
        let mut place = 4;
        while let Some(&[kind, _, high, low]) =
            body.get(place..).and_then(|rest| rest.first_chunk())
        {
            if matches!(kind, 1 | 2 | 3 | 6 | 7) {
                self.heard(body, place + 4);
            }
            place += 4 + 4 * usize::from(u16::from_be_bytes([high, low]));
        }
    }

    /// Renames the sender at `place`; false when another stands there.
    fn sender(&self, body: &mut [u8], place: usize) -> bool {
        self.sender.is_some_and(|(from, to, _)| rename(body, place, from, to))
    }

    fn heard(&self, body: &mut [u8], place: usize) -> bool {
        self.heard.is_some_and(|(from, to, _)| rename(body, place, from, to))
    }
}

fn put(body: &mut [u8], place: usize, value: u32) {
    if let Some(word) = body.get_mut(place..).and_then(|rest| rest.first_chunk_mut()) {
        *word = value.to_be_bytes();
    }
}

fn rename(body: &mut [u8], place: usize, from: u32, to: u32) -> bool {
    let found = word(body, place) == Some(from);
    if found {
        put(body, place, to);
    }
    found
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

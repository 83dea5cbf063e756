use std::net::{IpAddr, SocketAddr};

use super::crypto::{Crypto, crypto};
use super::{MAX_PAYLOADS, Media, Sdp, SdpError, Section, number, words};

/// Which way a stream flows, as seen by who describes it (RFC 3264, 5.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Direction {
    /// Both ways; what holds when nothing is said.
    #[default]
    SendRecv,
    /// Only from the describer.
    SendOnly,
    /// Only to the describer.
    RecvOnly,
    /// Neither way.
    Inactive,
}

impl Direction {
    /// The attribute's name.
    pub const fn name(self) -> &'static str {
        match self {
            Direction::SendRecv => "sendrecv",
            Direction::SendOnly => "sendonly",
            Direction::RecvOnly => "recvonly",
            Direction::Inactive => "inactive",
        }
    }

    /// The direction that may send and receive so.
    pub const fn new(sends: bool, receives: bool) -> Self {
        match (sends, receives) {
            (true, true) => Direction::SendRecv,
            (true, false) => Direction::SendOnly,
            (false, true) => Direction::RecvOnly,
            (false, false) => Direction::Inactive,
        }
    }

    /// True when the describer may send.
    pub const fn sends(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::SendOnly)
    }

    /// True when the describer may receive.
    pub const fn receives(self) -> bool {
        matches!(self, Direction::SendRecv | Direction::RecvOnly)
    }

    /// What to answer to an offer of `self` by who wants `wanted` (RFC 3264, 6.1).
    pub const fn answered(self, wanted: Direction) -> Direction {
        Direction::new(self.receives() && wanted.sends(), self.sends() && wanted.receives())
    }

    fn named(name: &[u8]) -> Option<Self> {
        [Direction::SendRecv, Direction::SendOnly, Direction::RecvOnly, Direction::Inactive]
            .into_iter()
            .find(|direction| direction.name().as_bytes() == name)
    }
}

/// A payload type of the audio stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Payload<'a> {
    /// 0 to 127.
    pub number: u8,
    /// The encoding's name, from `rtpmap` or RFC 3551; empty when neither knows it.
    pub encoding: &'a [u8],
    /// In Hz; 0 when unknown.
    pub clock: u32,
}

/// Where the audio of a description goes and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Audio<'a> {
    /// Which media section it is, from 0.
    pub section: usize,
    /// Where the describer receives RTP; unspecified (`0.0.0.0`) in a hold of RFC 2543.
    pub address: SocketAddr,
    /// Where the describer receives RTCP: `a=rtcp` (RFC 3605), or the next port.
    pub rtcp: SocketAddr,
    /// Which way it flows.
    pub direction: Direction,
    /// The payload types in the order of preference.
    pub payloads: Vec<Payload<'a>>,
    /// True when the describer does not want to hear us: `sendonly`, `inactive` or an unspecified
    /// address.
    pub held: bool,
    /// The stream is SRTP or nothing (`RTP/SAVP`); then there is a key.
    pub secure: bool,
    /// The describer's key, the first that we can use (RFC 4568). With `RTP/AVP` it is an offer that may be declined.
    pub crypto: Option<Crypto>,
    /// RTCP may come and go by the RTP port (RFC 5761).
    pub mux: bool,
}

/// The first audio stream in use.
pub fn audio<'a>(sdp: &Sdp<'a>) -> Result<Audio<'a>, SdpError> {
    let (section, media) = chosen(sdp)?;
    let ip = connection(sdp, media)?;
    let address = SocketAddr::new(ip, media.port);
    let direction = direction(sdp, media);
    let mut payloads = Vec::new();
    for number in payload_numbers(media)? {
        payloads.push(payload(media, number));
    }
    Ok(Audio {
        section,
        address,
        rtcp: rtcp(media, address),
        direction,
        payloads,
        held: !direction.receives() || ip.is_unspecified(),
        secure: media.is_secure_rtp(),
        crypto: crypto(media),
        mux: media.section.attributes().any(|(name, _)| name == b"rtcp-mux"),
    })
}

/// Where the video of a description goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Video {
    /// Which media section it is, from 0.
    pub section: usize,
    /// Where the describer receives RTP.
    pub address: SocketAddr,
    /// Where the describer receives RTCP.
    pub rtcp: SocketAddr,
}

/// The first plain video stream in use; none where there is none that can be relayed.
pub fn video(sdp: &Sdp<'_>) -> Option<Video> {
    let is_it = |media: &Media<'_>| media.is_video() && media.port != 0 && media.is_plain_rtp();
    let (section, media) = sdp.media.iter().enumerate().find(|(_, media)| is_it(media))?;
    payload_numbers(media).ok()?;
    let address = SocketAddr::new(connection(sdp, media).ok()?, media.port);
    Some(Video { section, address, rtcp: rtcp(media, address) })
}

/// The media section that is relayed: the first audio with a port that is plain, or SRTP with a key for us. An answer has its sections
/// in the order of the offer and the others are offered refused, so both sides choose the same (RFC
/// 3264, 6).
pub(super) fn chosen<'s, 'a>(sdp: &'s Sdp<'a>) -> Result<(usize, &'s Media<'a>), SdpError> {
    let audio = || sdp.media.iter().enumerate().filter(|(_, media)| media.is_audio());
    let in_use = || audio().filter(|(_, media)| media.port != 0);
    audio().next().ok_or(SdpError::NoAudio)?;
    in_use().next().ok_or(SdpError::AudioRefused)?;
    // A phone that can encrypt may offer the plain form in a second line.
    let is_usable = |media: &Media<'_>| {
        media.is_plain_rtp() || media.is_secure_rtp() && crypto(media).is_some()
    };
    let is_secure = in_use().any(|(_, media)| media.is_secure_rtp());
    let unusable = if is_secure { SdpError::Crypto } else { SdpError::Transport };
    in_use().find(|(_, media)| is_usable(media)).ok_or(unusable)
}

/// RFC 4566, 5.7: a `c=` line of the media section overrides that of the session.
pub(super) fn connection(sdp: &Sdp<'_>, media: &Media<'_>) -> Result<IpAddr, SdpError> {
    let line = media.section.values(b'c').next().or_else(|| sdp.session.values(b'c').next());
    let mut parts = words(line.ok_or(SdpError::Connection)?);
    let (net, family) = (parts.next(), parts.next());
    let host = parts.next().ok_or(SdpError::Connection)?;
    if net != Some(b"IN") {
        return Err(SdpError::Connection);
    }
    // A multicast address may carry a time to live and a count.
    let host = host.split(|&b| b == b'/').next().unwrap_or(host);
    let host = core::str::from_utf8(host).map_err(|_| SdpError::Connection)?;
    match (family, host.parse::<IpAddr>()) {
        (Some(b"IP4"), Ok(ip @ IpAddr::V4(_))) | (Some(b"IP6"), Ok(ip @ IpAddr::V6(_))) => {
            if ip.is_multicast() { Err(SdpError::Multicast) } else { Ok(ip) }
        }
        (Some(b"IP4" | b"IP6"), Err(_)) => Err(SdpError::HostName),
        _ => Err(SdpError::Connection),
    }
}

/// The direction of the media section, else of the session.
pub(super) fn direction(sdp: &Sdp<'_>, media: &Media<'_>) -> Direction {
    let of = |section: Section<'_>| section.attributes().find_map(|(n, _)| Direction::named(n));
    of(media.section).or_else(|| of(sdp.session)).unwrap_or_default()
}

/// The payload types of the `m=` line, once each.
pub(super) fn payload_numbers(media: &Media<'_>) -> Result<Vec<u8>, SdpError> {
    let mut numbers = Vec::new();
    for format in media.formats() {
        let number = number::<u8>(format).filter(|n| *n < 128).ok_or(SdpError::Media)?;
        if numbers.contains(&number) {
            continue;
        }
        if numbers.len() == MAX_PAYLOADS {
            return Err(SdpError::TooLarge);
        }
        numbers.push(number);
    }
    if numbers.is_empty() { Err(SdpError::NoPayload) } else { Ok(numbers) }
}

fn payload<'a>(media: &Media<'a>, wanted: u8) -> Payload<'a> {
    let mapped = media.section.attributes().filter(|(name, _)| *name == b"rtpmap");
    for (_, value) in mapped {
        if let Some((number, map)) = numbered(value)
            && number == wanted
        {
            let mut parts = map.split(|&b| b == b'/');
            let encoding = parts.next().unwrap_or_default().trim_ascii();
            let clock = parts.next().and_then(|clock| super::number(clock.trim_ascii()));
            return Payload { number, encoding, clock: clock.unwrap_or(0) };
        }
    }
    // The static types of RFC 3551, 6 that are still met.
    let (encoding, clock): (&[u8], u32) = match wanted {
        0 => (b"PCMU", 8000),
        3 => (b"GSM", 8000),
        4 => (b"G723", 8000),
        8 => (b"PCMA", 8000),
        9 => (b"G722", 8000),
        13 => (b"CN", 8000),
        15 => (b"G728", 8000),
        18 => (b"G729", 8000),
        _ => (b"", 0),
    };
    Payload { number: wanted, encoding, clock }
}

/// The value of `rtpmap` or `fmtp`: the payload type, and the rest.
pub(super) fn numbered(value: &[u8]) -> Option<(u8, &[u8])> {
    let space = memchr::memchr(b' ', value)?;
    Some((number(&value[..space])?, value[space + 1..].trim_ascii()))
}

/// RFC 3605, 2.1: `a=rtcp:port [IN IP4 address]`; else RFC 3550, 11: the next higher port.
fn rtcp(media: &Media<'_>, rtp: SocketAddr) -> SocketAddr {
    let next = SocketAddr::new(rtp.ip(), rtp.port().saturating_add(1));
    let Some((_, value)) = media.section.attributes().find(|(name, _)| *name == b"rtcp") else {
        return next;
    };
    let mut parts = words(value);
    let Some(port) = parts.next().and_then(number::<u16>).filter(|port| *port != 0) else {
        return next;
    };
    let ip = parts.nth(2).and_then(|ip| core::str::from_utf8(ip).ok()?.parse::<IpAddr>().ok());
    SocketAddr::new(ip.filter(|ip| !ip.is_multicast()).unwrap_or(rtp.ip()), port)
}

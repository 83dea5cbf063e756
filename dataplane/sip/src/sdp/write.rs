use std::net::IpAddr;

use super::audio::chosen;
use super::rewrite::{push_direction, push_media_line, push_refused, push_session, put};
use super::{Audio, Direction, Rewrite, Sdp, SdpError, Secured, audio};

/// A codec of a plain phone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    /// G.711 mu-law, payload type 0.
    Pcmu,
    /// G.711 A-law, payload type 8.
    Pcma,
    /// Digits as events (RFC 4733); 101 in our offers, the offerer's number in our answers.
    TelephoneEvent,
}

impl Codec {
    /// The encoding's name; all have a clock of 8000 Hz.
    pub const fn name(self) -> &'static str {
        match self {
            Codec::Pcmu => "PCMU",
            Codec::Pcma => "PCMA",
            Codec::TelephoneEvent => "telephone-event",
        }
    }

    /// The payload type that an offer of ours uses.
    pub const fn number(self) -> u8 {
        match self {
            Codec::Pcmu => 0,
            Codec::Pcma => 8,
            Codec::TelephoneEvent => 101,
        }
    }
}

/// What a phone says of itself.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    /// Where it receives.
    pub address: IpAddr,
    /// Its RTP port; RTCP is the next one.
    pub port: u16,
    /// The session id of `o=`.
    pub session_id: u64,
    /// The version of `o=`; it must grow by one with each new description.
    pub version: u64,
    /// Which way it wants the audio to flow.
    pub direction: Direction,
    /// What it can do, the preferred first.
    pub codecs: &'a [Codec],
}

impl Own<'_> {
    fn session(&self) -> Rewrite {
        let Own { address, port, session_id, version, .. } = *self;
        let secured = Secured::default();
        Rewrite { address, port, video_port: None, session_id, version, secured }
    }
}

/// A description with one audio stream, plain.
pub fn offer(own: &Own<'_>) -> Vec<u8> {
    offer_secured(own, &Secured::default())
}

/// The same, protected so.
pub fn offer_secured(own: &Own<'_>, secured: &Secured) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    push_session(&mut out, own.session(), (0, 0));
    let chosen: Vec<_> = own.codecs.iter().map(|codec| (*codec, codec.number())).collect();
    push_audio(&mut out, secured.protocol(b"RTP/AVP"), own, &chosen, own.direction);
    secured.push(&mut out);
    out
}

/// The answer to `sdp` of who speaks plain RTP: the codecs in common in the offer's order, other streams refused.
pub fn answer(sdp: &Sdp<'_>, own: &Own<'_>) -> Result<Vec<u8>, SdpError> {
    answer_secured(sdp, own, &Secured::default())
}

/// The same of who protects it so.
pub fn answer_secured(
    sdp: &Sdp<'_>,
    own: &Own<'_>,
    secured: &Secured,
) -> Result<Vec<u8>, SdpError> {
    let (at, media) = chosen(sdp)?;
    let offered = audio(sdp)?;
    // RFC 3264, 6: "The transport protocol" of an answer is that of the offer.
    if offered.secure != secured.profile {
        return Err(SdpError::Crypto);
    }
    let common = common(&offered, own.codecs);
    if !common.iter().any(|(codec, _)| *codec != Codec::TelephoneEvent) {
        return Err(SdpError::NoCommonCodec);
    }
    let mut out = Vec::with_capacity(256);
    push_session(&mut out, own.session(), (0, 0));
    for (section, line) in sdp.media().iter().enumerate() {
        if section == at {
            let direction = offered.direction.answered(own.direction);
            push_audio(&mut out, media.protocol, own, &common, direction);
            secured.push(&mut out);
        } else {
            push_refused(&mut out, line)?;
        }
    }
    Ok(out)
}

fn common(offered: &Audio<'_>, codecs: &[Codec]) -> Vec<(Codec, u8)> {
    let known = offered.payloads.iter().filter_map(|payload| {
        let same = |c: &&Codec| payload.encoding.eq_ignore_ascii_case(c.name().as_bytes());
        let codec = codecs.iter().find(same).filter(|_| payload.clock == 8000)?;
        Some((*codec, payload.number))
    });
    known.collect()
}

fn push_audio(
    out: &mut Vec<u8>,
    protocol: &[u8],
    own: &Own<'_>,
    codecs: &[(Codec, u8)],
    direction: Direction,
) {
    let numbers: Vec<u8> = codecs.iter().map(|(_, number)| *number).collect();
    push_media_line(out, "audio", protocol, own.port, &numbers);
    for (codec, number) in codecs {
        put(out, format_args!("a=rtpmap:{number} {}/8000\r\n", codec.name()));
        if *codec == Codec::TelephoneEvent {
            put(out, format_args!("a=fmtp:{number} 0-15\r\n"));
        }
    }
    put(out, format_args!("a=ptime:20\r\n"));
    push_direction(out, direction);
}

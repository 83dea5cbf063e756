use std::net::SocketAddr;

use media::g711::Law;
use sip::sdp::{self, Codec, Direction, Own, SdpError};

use crate::PhoneConfig;

/// The type of every body that the phone sends or reads.
pub(crate) const SDP: &str = "application/sdp";

/// One call's offers and answers (RFC 3264).
#[derive(Clone, Debug)]
pub(crate) struct Session {
    id: u64,
    version: u64,
    /// We hold the peer.
    pub(crate) hold: bool,
    pub(crate) remote: Option<Remote>,
}

/// What the peer said of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Remote {
    pub(crate) address: SocketAddr,
    pub(crate) rtcp: SocketAddr,
    pub(crate) law: Law,
    /// The payload type of its telephone-events (RFC 4733); none when it does not know them.
    pub(crate) events: Option<u8>,
    /// The peer does not want to hear us.
    pub(crate) held: bool,
}

impl Session {
    pub(crate) fn new(id: u64) -> Self {
        // RFC 4566, 5.2 recommends an NTP timestamp; any number of its own will do, if it is not so
        // large that a signed parser fails.
        Session { id: id >> 2, version: 1, hold: false, remote: None }
    }

    /// Our offer; `hold` is the direction that we want from now on.
    pub(crate) fn offer(&mut self, config: &PhoneConfig, hold: bool) -> Vec<u8> {
        let codecs = codecs(config);
        let own = self.own(config, &codecs, hold);
        let offer = sdp::offer(&own);
        self.version += 1;
        offer
    }

    /// Our answer to the peer's `offer`, which is taken as what the peer wants.
    pub(crate) fn answer(
        &mut self,
        config: &PhoneConfig,
        offer: &[u8],
    ) -> Result<Vec<u8>, SdpError> {
        let parsed = sdp::parse(offer)?;
        let codecs = codecs(config);
        let answer = sdp::answer(&parsed, &self.own(config, &codecs, self.hold))?;
        self.remote = Some(read(config, offer)?);
        self.version += 1;
        Ok(answer)
    }

    /// Takes the peer's answer to our offer.
    pub(crate) fn accept(&mut self, config: &PhoneConfig, answer: &[u8]) -> Result<(), SdpError> {
        self.remote = Some(read(config, answer)?);
        Ok(())
    }

    /// Whether anything is to be sent to the peer. One that is held hears silence, not music.
    pub(crate) fn sending(&self) -> bool {
        !self.hold && self.remote.is_some_and(|remote| !remote.held)
    }

    fn own<'a>(&self, config: &PhoneConfig, codecs: &'a [Codec], hold: bool) -> Own<'a> {
        Own {
            address: config.rtp.ip(),
            port: config.rtp.port(),
            session_id: self.id,
            version: self.version,
            direction: if hold { Direction::SendOnly } else { Direction::SendRecv },
            codecs,
        }
    }
}

/// Whether the phone could take that offer.
pub(crate) fn check(config: &PhoneConfig, offer: &[u8]) -> Result<(), SdpError> {
    read(config, offer).map(|_| ())
}

fn codecs(config: &PhoneConfig) -> Vec<Codec> {
    let codec = |law: &Law| match law {
        Law::Mu => Codec::Pcmu,
        Law::A => Codec::Pcma,
    };
    config.laws.iter().map(codec).chain([Codec::TelephoneEvent]).collect()
}

fn read(config: &PhoneConfig, description: &[u8]) -> Result<Remote, SdpError> {
    let parsed = sdp::parse(description)?;
    let audio = sdp::audio(&parsed)?;
    let law = audio
        .payloads
        .iter()
        .filter_map(|payload| Law::of_payload_type(payload.number))
        .find(|law| config.laws.contains(law))
        .ok_or(SdpError::NoCommonCodec)?;
    let is_event = |payload: &&sdp::Payload<'_>| {
        payload.encoding.eq_ignore_ascii_case(b"telephone-event") && payload.clock == 8_000
    };
    let events = audio.payloads.iter().find(is_event).map(|payload| payload.number);
    Ok(Remote { address: audio.address, rtcp: audio.rtcp, law, events, held: audio.held })
}

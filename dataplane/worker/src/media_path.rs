//! The media of legs: their ports, whom they hear, and what SDP says of it.

use abi::Event;
use base::{Instant, Text};
use media::codec::Codec;
use media::{PairId, WhyNot};
use sip::sdp;
use sip::wire::Message;

use crate::Effect;
use crate::bypass::Way;
use crate::call::{CALLER, LegRef};

use crate::refusal::{RETRY_AFTER_S, Refusal};
use crate::worker::Worker;

impl Worker {
    /// Takes a port pair at the leg's location and opens its stream.
    pub(crate) fn open_media(&mut self, leg: LegRef) -> Result<(), Refusal> {
        let Some(entry) = self.calls.leg_mut(leg) else {
            return Err(Refusal::status(481));
        };
        let Some(pair) = self.ports.take(entry.flow.location) else {
            self.count(abi::Counter::PortsExhausted);
            return Err(Refusal::unavailable(RETRY_AFTER_S));
        };
        entry.pair = Some(pair);
        self.legs_at[pair.index()] = Some(leg);
        self.ways[pair.index()] = Way::Process(WhyNot::Learning);
        let host = entry.flow.peer.ip();
        self.streams.open(pair, None);
        self.streams.expect_host(pair, host);
        Ok(())
    }

    /// What one leg sends, the other gets from here on.
    pub(crate) fn join_media(&mut self, a: LegRef, b: LegRef) {
        let pair = |leg| self.calls.leg(leg).and_then(|leg| leg.pair);
        if let (Some(a), Some(b)) = (pair(a), pair(b)) {
            self.streams.bridge(a, b);
        }
    }

    /// Gives the leg's ports back; its row keeps what was counted.
    pub(crate) fn close_media(&mut self, now: Instant, leg: LegRef) {
        self.end_functions(now, leg);
        self.close_video(now, leg);
        if let Some(pair) = self.calls.leg(leg).and_then(|leg| leg.pair) {
            self.absorb_counts(pair);
        }
        self.note_leg(leg);
        let Some(pair) = self.calls.leg_mut(leg).and_then(|leg| leg.pair.take()) else {
            return;
        };
        self.close_bypass(pair);
        self.legs_at[pair.index()] = None;
        self.streams.close(pair);
        if self.ports.release(pair, now) {
            self.effects.push(Effect::Close { pair });
        }
    }

    /// Refuses a body that is no SDP (RFC 3261, 21.4.13), or an offer that we could not relay.
    pub(crate) fn check_body(&self, message: &Message<'_>) -> Result<(), Refusal> {
        self.check_body_of(message, false)
    }

    /// The same; a description by a leg of ours (`is_inside`) has an address of ours.
    pub(crate) fn check_body_of(
        &self,
        message: &Message<'_>,
        is_inside: bool,
    ) -> Result<(), Refusal> {
        let body = sip::body::session(message).map_err(|error| {
            Refusal::status(error.status()).with("Accept", b"application/sdp, multipart/mixed")
        })?;
        if body.is_empty() { Ok(()) } else { self.check_offer_of(body, is_inside) }
    }

    /// RFC 3261, 21.4.26.
    pub(crate) fn check_offer(&self, offer: &[u8]) -> Result<(), Refusal> {
        self.check_offer_of(offer, false)
    }

    fn check_offer_of(&self, offer: &[u8], is_inside: bool) -> Result<(), Refusal> {
        let checked = sdp::parse(offer).and_then(|sdp| {
            let audio = sdp::audio(&sdp)?;
            // It must be possible to say it to somebody else.
            let elsewhere = sdp::Rewrite {
                address: self.config.locations[0].ip,
                port: self.config.rtp_ports.0,
                video_port: Some(self.config.rtp_ports.0),
                session_id: 0,
                version: 0,
                secured: sdp::Secured::default(),
            };
            sdp::rewrite(&sdp, elsewhere)?;
            Ok(audio.address)
        });
        if !is_inside && checked.is_ok_and(|address| self.ports.is_own(address)) {
            // Packets would go round in circles.
            let warning = b"399 jackfield \"sdp_own_address\"";
            return Err(Refusal::status(488).with("Warning", warning));
        }
        checked.map(|_| ()).map_err(|error| {
            // RFC 3261, 20.43: 399 is "a warning not intended for automated processing".
            let warning = format!("399 jackfield \"{}\"", error.name());
            Refusal::status(error.status()).with("Warning", warning.as_bytes())
        })
    }

    /// The caller's offer as the called leg gets it; none when the caller makes no offer.
    pub(crate) fn offer_for(&mut self, leg: LegRef) -> Result<Option<Vec<u8>>, Refusal> {
        let offer = self.caller_offer(leg);
        if offer.is_empty() {
            return Ok(None);
        }
        self.learn_remote(Instant::ZERO, LegRef { leg: CALLER, ..leg }, &offer);
        self.sdp_for(leg, &offer).map(Some).ok_or_else(|| Refusal::status(488))
    }

    /// The offer in the caller's INVITE; empty when there is none.
    pub(crate) fn caller_offer(&self, leg: LegRef) -> Vec<u8> {
        let read = |message: &Message<'_>| sip::body::session(message).unwrap_or_default().to_vec();
        self.caller_invite(leg, read).unwrap_or_default()
    }

    /// Takes what `from` says of its media, and says it to `to` with our address for it. None when it
    /// says nothing that we understand.
    pub(crate) fn pass_sdp(
        &mut self,
        now: Instant,
        from: LegRef,
        to: LegRef,
        body: &[u8],
    ) -> Option<Vec<u8>> {
        if body.is_empty() || self.check_srtp_of(from, body).is_err() {
            return None;
        }
        self.learn_remote(now, from, body);
        self.sdp_for(to, body)
    }

    /// From now on the leg's media goes to, and is expected from, where its SDP says.
    pub(crate) fn learn_remote(&mut self, now: Instant, leg: LegRef, body: &[u8]) {
        let Some(pair) = self.calls.leg(leg).and_then(|leg| leg.pair) else {
            return;
        };
        let Ok(sdp) = sdp::parse(body) else { return };
        let Ok(audio) = sdp::audio(&sdp) else { return };
        if self.ports.is_own(audio.address) && !self.is_inside(leg) {
            return;
        }
        // A changed address is learned by the process; what has not changed goes past again soon.
        self.leave_bypass(leg, WhyNot::Learning);
        if !self.learn_srtp(now, leg, pair, &audio) {
            return;
        }
        self.streams.set_remote(now, pair, audio.address);
        self.streams.set_rtcp(pair, audio.rtcp);
        let takes =
            audio.payloads.iter().find_map(|payload| Codec::of_payload_type(payload.number));
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.codec = codec_of(&audio);
            if *entry.described != *body {
                entry.described = body.into();
            }
            entry.takes = takes;
            if entry.held && !audio.held {
                entry.unheld_at = now;
            }
            let was_held = std::mem::replace(&mut entry.held, audio.held);
            entry.silent = !audio.direction.sends();
            if was_held != audio.held
                && let Some(peer) = self.peer_of(leg)
            {
                self.tell(Event::Held { call: peer.call, leg: peer.leg, on: audio.held });
            }
        }
        self.learn_video(now, leg, &sdp);
    }

    /// What we described to a leg tells the payload type that its digits come with (RFC 4733).
    pub(crate) fn note_events_of(&mut self, leg: LegRef, described: &[u8]) {
        let Some(pair) = self.calls.leg(leg).and_then(|leg| leg.pair) else {
            return;
        };
        let Ok(sdp) = sdp::parse(described) else { return };
        let Ok(audio) = sdp::audio(&sdp) else { return };
        let is_event = |payload: &&sdp::Payload<'_>| {
            payload.encoding.eq_ignore_ascii_case(b"telephone-event") && payload.clock == 8_000
        };
        let number = audio.payloads.iter().find(is_event).map(|payload| payload.number);
        self.streams.set_telephone_event(pair, number);
        // Of offer and answer the later counts, and that is the answer.
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.codec = codec_of(&audio);
        }
    }

    /// A description of another leg's media as if it were at this leg's address (topology hiding).
    pub(crate) fn sdp_for(&mut self, leg: LegRef, body: &[u8]) -> Option<Vec<u8>> {
        let sdp = sdp::parse(body).ok()?;
        let serial = self.calls.find(leg.call)?.serial;
        let video_port = self.video_port(leg, &sdp);
        let secured = self.secured(leg);
        let entry = self.calls.leg_mut(leg)?;
        let pair = entry.pair?;
        entry.sdp_version += 1;
        let rewrite = sdp::Rewrite {
            address: self.config.locations[usize::from(entry.flow.location.0)].ip,
            port: self.ports.port(pair),
            video_port,
            session_id: serial + u64::from(leg.leg),
            version: entry.sdp_version,
            secured,
        };
        let described = sdp::rewrite(&sdp, rewrite).ok()?;
        self.note_events_of(leg, &described);
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.ext.saying = Some(described.as_slice().into());
        }
        Some(described)
    }

    /// What `of` last said of its media as an offer to `to`, which has not heard it yet. Of a leg of an earlier
    /// incarnation nothing is known, so that the offer is what any phone takes.
    pub(crate) fn offer_of(&mut self, of: LegRef, to: LegRef) -> Result<Vec<u8>, Refusal> {
        self.offer_as(of, to, sdp::Direction::SendRecv)
    }

    /// The same, flowing so.
    pub(crate) fn offer_as(
        &mut self,
        of: LegRef,
        to: LegRef,
        flows: sdp::Direction,
    ) -> Result<Vec<u8>, Refusal> {
        let unable = || Refusal::status(488);
        let body = self.calls.leg(of).map_or(Box::default(), |leg| leg.described.clone());
        if body.is_empty() {
            return self.own_description(Instant::ZERO, to, &[]);
        }
        let parsed = sdp::parse(&body).map_err(|_| unable())?;
        let serial = self.calls.find(to.call).ok_or_else(unable)?.serial;
        let secured = self.secured(to);
        let entry = self.calls.leg_mut(to).ok_or_else(unable)?;
        let pair = entry.pair.ok_or_else(unable)?;
        entry.sdp_version += 1;
        let rewrite = sdp::Rewrite {
            address: self.config.locations[usize::from(entry.flow.location.0)].ip,
            port: self.ports.port(pair),
            video_port: None,
            session_id: serial + u64::from(to.leg),
            version: entry.sdp_version,
            secured,
        };
        let described = sdp::rewrite_as(&parsed, rewrite, flows).map_err(|_| unable())?;
        self.note_events_of(to, &described);
        Ok(described)
    }

    /// How good a pair's stream is, into the row of its leg.
    pub(crate) fn note_quality(&mut self, pair: PairId, row: &mut abi::LegRow) {
        let quality = self.streams.quality(pair);
        row.jitter_us = quality.jitter_us;
        row.round_trip_us = quality.round_trip_us.unwrap_or(0);
        row.mos_hundredths = quality.mos_hundredths;
        row.reported_loss = u32::from(quality.reported_loss.unwrap_or(0));
    }

    /// The leg whose media a pair carries.
    pub(crate) fn leg_at(&self, pair: PairId) -> Option<LegRef> {
        self.legs_at.get(pair.index()).copied().flatten()
    }
}

/// The first codec of a description, as `PCMU/8000`; empty when it has no name or a longer one.
fn codec_of(audio: &sdp::Audio<'_>) -> Text<16> {
    let is_speech = |payload: &&sdp::Payload<'_>| {
        let others: [&[u8]; 2] = [b"telephone-event", b"CN"];
        !others.iter().any(|other| payload.encoding.eq_ignore_ascii_case(other))
    };
    let payload = audio.payloads.iter().find(is_speech).filter(|first| !first.encoding.is_empty());
    let name =
        payload.map(|first| [first.encoding, b"/", first.clock.to_string().as_bytes()].concat());
    name.and_then(|name| Text::new(&name).ok()).unwrap_or_default()
}

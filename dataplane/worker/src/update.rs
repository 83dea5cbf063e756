//! UPDATE (RFC 3311): an offer before the call is answered, or after; and a PRACK with an offer.
//!
//! An offer of one leg goes to the other as UPDATE if its peer takes that, else as re-INVITE if its dialog
//! stands. Without an offer it renews the session of its leg alone, and we answer it.

use base::Instant;
use sip::transaction::{ClientKey, ServerKey};
use sip::wire::{self, Message, Method, reason_phrase};

use crate::call::{Invited, LegRef, Phase};
use crate::carried::Lines;
use crate::extension::{SUPPORTED, Updating};
use crate::intake::{ALLOW, Arrival};
use crate::refusal::Refusal;
use crate::worker::Worker;

impl Worker {
    pub(crate) fn on_update(&mut self, now: Instant, arrival: Arrival<'_>) -> Result<(), Refusal> {
        let gone = || Refusal::status(481);
        let leg = self.leg_within(arrival.message).ok_or_else(gone)?;
        let body = sip::body::session(arrival.message)
            .map_err(|error| Refusal::status(error.status()).with("Accept", b"application/sdp"))?;
        self.check_update(leg, !body.is_empty())?;
        self.check_interval(arrival.message)?;
        self.accept_within(leg, arrival)?;
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.ext.note(arrival.message);
        }
        if !body.is_empty() {
            return self.pass_offer(now, leg, arrival, body);
        }
        let lines = self.update_lines(now, leg, arrival.message);
        self.answer_within(now, arrival, 200, &lines, None);
        Ok(())
    }

    /// The rules of RFC 3311, 5.2, for two offers that meet.
    fn check_update(&mut self, leg: LegRef, offers: bool) -> Result<(), Refusal> {
        let wait_s = self.rng.below(11).to_string();
        let later = || Refusal::status(500).with("Retry-After", wait_s.as_bytes());
        let entry = self.calls.leg(leg).ok_or_else(|| Refusal::status(481))?;
        let ext = &entry.ext;
        // "If an UPDATE is received before the UAS has generated a final response to a previous UPDATE on
        // the same dialog, the UAS MUST return a 500 response to the new UPDATE, and MUST include a
        // Retry-After header field with a randomly chosen value between 0 and 10 seconds."
        if ext.asked.is_some() {
            return Err(later());
        }
        if !offers {
            return Ok(());
        }
        // "If an UPDATE is received that contains an offer, and the UAS has generated an offer (in an UPDATE,
        // PRACK or INVITE) to which it has not yet received an answer, the UAS MUST reject the UPDATE with a
        // 491 response."
        let has_offered = match entry.phase {
            Phase::Outgoing => !ext.early.iter().any(|early| early.described),
            _ => entry.inviting.is_some(),
        };
        if has_offered || ext.updating.is_some_and(|updating| updating.offered) {
            return Err(Refusal::status(491));
        }
        // "Similarly, if an UPDATE is received that contains an offer, and the UAS has received an offer [...]
        // to which it has not yet generated an answer, the UAS MUST reject the UPDATE with a 500".
        let is_asked = match entry.phase {
            Phase::Incoming => !ext.reliable.as_ref().is_some_and(|reliable| reliable.described),
            _ => entry.invited.is_some(),
        };
        if is_asked { Err(later()) } else { Ok(()) }
    }

    /// Passes the offer of a PRACK or an UPDATE on to the other leg.
    pub(crate) fn pass_offer(
        &mut self,
        now: Instant,
        leg: LegRef,
        arrival: Arrival<'_>,
        offer: &[u8],
    ) -> Result<(), Refusal> {
        self.check_offer(offer)?;
        self.check_srtp_of(leg, offer)?;
        let Some(peer) = self.peer_of(leg) else {
            let sdp = self.own_description(now, leg, offer)?;
            let lines = self.update_lines(now, leg, arrival.message);
            self.answer_within(now, arrival, 200, &lines, Some(&sdp));
            return Ok(());
        };
        let method = self.way_to_offer(peer)?;
        let sdp = self.sdp_for(peer, offer).ok_or_else(|| Refusal::status(488))?;
        self.transactions.set_user(arrival.key, leg.to_word());
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.ext.asked = Some(Box::new(Invited {
                key: arrival.key,
                bytes: arrival.message.bytes().into(),
                from: arrival.from,
            }));
        }
        if self.send_within(now, peer, method, Some(&sdp)).is_none() {
            self.refuse_asked(now, leg, &Refusal::status(503));
        }
        Ok(())
    }

    /// How a leg is made an offer now.
    fn way_to_offer(&self, leg: LegRef) -> Result<Method<'static>, Refusal> {
        let entry = self.calls.leg(leg).ok_or_else(|| Refusal::status(481))?;
        let ext = &entry.ext;
        let is_agreed = match entry.phase {
            Phase::Established if !self.is_free(leg) => return Err(Refusal::status(491)),
            Phase::Established if !ext.takes_update => return Ok(Method::Invite),
            Phase::Established => true,
            Phase::Outgoing => ext.early.iter().any(|early| early.described),
            Phase::Incoming => ext.reliable.as_ref().is_some_and(|reliable| reliable.described),
            Phase::Leaving | Phase::Gone => return Err(Refusal::status(481)),
        };
        match ext.updating.is_some() || ext.asked.is_some() {
            true => Err(Refusal::status(491)),
            false if is_agreed && ext.takes_update => Ok(Method::Update),
            // Before the answer nothing but UPDATE could carry it.
            false => Err(Refusal::status(488)),
        }
    }

    /// The other leg's answer to an UPDATE of ours.
    pub(crate) fn on_update_answered(
        &mut self,
        now: Instant,
        key: ClientKey,
        leg: LegRef,
        status: u16,
        message: &Message<'_>,
    ) {
        let Some(entry) = self.calls.leg_mut(leg) else { return };
        let Some(updating) = entry.ext.updating.take_if(|updating| updating.key == key) else {
            return;
        };
        let is_established = entry.phase == Phase::Established;
        match status {
            200..=299 => {
                if let Some(dialog) = entry.dialog_for(message) {
                    dialog.refresh(message);
                }
                if is_established {
                    self.agreed(now, leg, message);
                }
                if updating.offered {
                    self.settle(now, leg, message);
                }
            }
            // RFC 3261, 12.2.1.2.
            408 | 481 => self.end_call(now, leg.call, &Refusal::status(status)),
            _ => self.on_update_refused(now, key, leg, updating, status),
        }
    }

    fn on_update_refused(
        &mut self,
        now: Instant,
        key: ClientKey,
        leg: LegRef,
        updating: Updating,
        status: u16,
    ) {
        let unknown = matches!(status, 405 | 501);
        let Some(entry) = self.calls.leg_mut(leg) else { return };
        let is_established = entry.phase == Phase::Established;
        if unknown {
            entry.ext.takes_update = false;
        }
        if !updating.offered {
            return;
        }
        let Some(peer) = self.peer_of(leg) else { return };
        let offer = self.transactions.request_of(key).and_then(|bytes| wire::lex(bytes).ok());
        let offer = offer.map(|update| update.body().to_vec());
        if let (true, true, Some(offer)) = (unknown, is_established, offer)
            && self.send_within(now, leg, Method::Invite, Some(&offer)).is_some()
        {
            return;
        }
        let told = if (400..500).contains(&status) && !unknown { status } else { 488 };
        self.refuse_asked(now, peer, &Refusal::status(told));
    }

    /// A leg has answered an offer: whoever made it gets the answer.
    pub(crate) fn settle(&mut self, now: Instant, leg: LegRef, message: &Message<'_>) {
        let Some(peer) = self.peer_of(leg) else { return };
        let Some(entry) = self.calls.leg(peer) else { return };
        let offer = entry.invited.as_ref().or(entry.ext.asked.as_deref());
        let offer = offer.map(|asked| asked.bytes.clone());
        let answer = sip::body::session(message).unwrap_or_default();
        if let Some(offer) = offer.as_deref().and_then(|bytes| wire::lex(bytes).ok()) {
            self.learn_remote(now, peer, sip::body::session(&offer).unwrap_or_default());
        }
        let sdp = self.pass_sdp(now, leg, peer, answer);
        let is_invite = self.calls.leg(peer).is_some_and(|peer| peer.invited.is_some());
        let is_asked = self.calls.leg(peer).is_some_and(|peer| peer.ext.asked.is_some());
        match sdp {
            Some(sdp) if is_asked => self.answer_asked(now, peer, &sdp),
            Some(sdp) if is_invite => self.answer(now, peer, 200, Some(sdp)),
            Some(_) => {}
            None => self.settle_no(now, peer, &Refusal::status(488)),
        }
    }

    /// The offer of a leg is refused, whatever carried it.
    pub(crate) fn settle_no(&mut self, now: Instant, leg: LegRef, refusal: &Refusal) {
        let is_asked = self.calls.leg(leg).is_some_and(|leg| leg.ext.asked.is_some());
        match is_asked {
            true => self.refuse_asked(now, leg, refusal),
            false => self.answer_no(now, leg, refusal),
        }
    }

    fn answer_asked(&mut self, now: Instant, leg: LegRef, sdp: &[u8]) {
        let asked = self.calls.leg_mut(leg).and_then(|leg| leg.ext.asked.take());
        let Some(Invited { key, bytes, from }) = asked.map(|asked| *asked) else { return };
        let Ok(message) = wire::lex(&bytes) else { return };
        let lines = self.update_lines(now, leg, &message);
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.ext.settle_said();
        }
        self.respond_within(now, key, &message, from, 200, &lines, Some(sdp));
    }

    /// Refuses the PRACK or UPDATE of a leg that waits for an answer.
    pub(crate) fn refuse_asked(&mut self, now: Instant, leg: LegRef, refusal: &Refusal) {
        let asked = self.calls.leg_mut(leg).and_then(|leg| leg.ext.asked.take());
        let Some(Invited { key, bytes, from }) = asked.map(|asked| *asked) else { return };
        let Ok(message) = wire::lex(&bytes) else { return };
        let answer = refusal.response(&message, None, from);
        self.transactions.respond(now, key, refusal.status, answer, &mut self.sent);
    }

    /// What the 2xx to an UPDATE says; that to a PRACK has no more than its body.
    fn update_lines(&mut self, now: Instant, leg: LegRef, message: &Message<'_>) -> Lines {
        if message.method() != Some(Method::Update) {
            return Lines::new();
        }
        let Some(flow) = self.calls.leg(leg).map(|leg| leg.flow) else { return Lines::new() };
        let mut lines: Lines = vec![
            ("Contact", self.contact(leg, flow)),
            ("Allow", ALLOW.to_vec()),
            ("Supported", SUPPORTED.to_vec()),
        ];
        if self.calls.leg(leg).is_some_and(|leg| leg.phase == Phase::Established) {
            lines.extend(self.agree(now, leg, message));
        }
        lines
    }

    /// Answers a request within a dialog at once.
    pub(crate) fn answer_within(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
        status: u16,
        lines: &Lines,
        sdp: Option<&[u8]>,
    ) {
        let Arrival { key, message, from, .. } = arrival;
        self.respond_within(now, key, message, from, status, lines, sdp);
    }

    #[expect(clippy::too_many_arguments, reason = "a response has that many sides")]
    fn respond_within(
        &mut self,
        now: Instant,
        key: ServerKey,
        request: &Message<'_>,
        from: std::net::SocketAddr,
        status: u16,
        lines: &Lines,
        sdp: Option<&[u8]>,
    ) {
        let extra: Vec<(&str, &[u8])> =
            lines.iter().map(|(name, value)| (*name, value.as_slice())).collect();
        let body = sdp.map(|sdp| ("application/sdp", sdp));
        let reason = reason_phrase(status);
        let bytes = wire::response(request, status, reason, None, from, &extra, body);
        self.transactions.respond(now, key, status, bytes, &mut self.sent);
    }
}

//! Changes of a standing session: hold, retrieve, another codec (RFC 3261, 14).

use base::Instant;
use sip::dialog::{Dialog, Outgoing};
use sip::transaction::ClientKey;
use sip::wire::{self, Message, Method};

use crate::call::{Flow, Invited, Inviting, LegRef, Phase};
use crate::intake::Arrival;
use crate::refusal::Refusal;
use crate::register::way_back;
use crate::worker::Worker;

impl Worker {
    /// A leg wants another session: the other leg is asked, with our addresses in its place.
    pub(crate) fn on_reinvite(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
    ) -> Result<(), Refusal> {
        let leg = self.leg_of(arrival.message).ok_or_else(|| Refusal::status(481))?;
        let entry = self.calls.leg(leg).ok_or_else(|| Refusal::status(481))?;
        if entry.phase != Phase::Established {
            return Err(Refusal::status(481));
        }
        if entry.invited.is_some() {
            // RFC 3261, 14.2: a second INVITE before the first is answered: "MUST return a 500 (Server
            // Internal Error) response to the second INVITE and MUST include a Retry-After".
            let wait_s = 1 + self.rng.below(10);
            return Err(Refusal::status(500).with("Retry-After", wait_s.to_string().as_bytes()));
        }
        if entry.inviting.is_some() {
            // RFC 3261, 14.2: "A UAS that receives an INVITE on a dialog while an INVITE it had sent on
            // that dialog is in progress MUST return a 491 (Request Pending)".
            return Err(Refusal::status(491));
        }
        self.check_body(arrival.message)?;
        self.accept_within(leg, arrival)?;
        let Some(peer) = self.peer_of(leg) else {
            return self.on_reinvite_alone(now, leg, arrival);
        };
        let is_free = self.calls.leg(peer).is_some_and(|peer| {
            peer.phase == Phase::Established
                && peer.invited.is_none()
                && peer.inviting.is_none()
                && peer.unacknowledged.is_none()
        });
        if !is_free {
            return Err(Refusal::status(491));
        }
        let sdp = match arrival.message.body() {
            [] => None,
            offer => Some(self.sdp_for(peer, offer).ok_or_else(|| Refusal::status(488))?),
        };
        self.transactions.set_user(arrival.key, leg.to_word());
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.invited = Some(Invited {
                key: arrival.key,
                bytes: arrival.message.bytes().into(),
                from: arrival.from,
            });
        }
        self.answer(now, leg, 100, None);
        if self.send_within(now, peer, Method::Invite, sdp.as_deref()).is_none() {
            self.answer_no(now, leg, &Refusal::status(503));
        }
        Ok(())
    }

    /// A leg that is joined to no other wants its session changed: we answer for ourselves.
    fn on_reinvite_alone(
        &mut self,
        now: Instant,
        leg: LegRef,
        arrival: Arrival<'_>,
    ) -> Result<(), Refusal> {
        let sdp = self.own_description(now, leg, arrival.message.body())?;
        self.transactions.set_user(arrival.key, leg.to_word());
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.invited = Some(Invited {
                key: arrival.key,
                bytes: arrival.message.bytes().into(),
                from: arrival.from,
            });
        }
        self.answer(now, leg, 200, Some(sdp));
        Ok(())
    }

    /// The other leg agrees.
    pub(crate) fn on_reinvite_answered(
        &mut self,
        now: Instant,
        leg: LegRef,
        message: &Message<'_>,
    ) {
        let Some(entry) = self.calls.leg_mut(leg) else {
            return;
        };
        let Some(inviting) = entry.inviting.take() else {
            return;
        };
        if let Some(dialog) = entry.dialog.as_mut() {
            dialog.refresh(message);
        }
        self.finish_handshake(leg, &inviting, message);
        let Some(peer) = self.peer_of(leg) else {
            return;
        };
        let offer = self.calls.leg(peer).and_then(|peer| peer.invited.as_ref());
        let offer = offer.map(|invited| invited.bytes.clone());
        if let Some(offer) = offer.as_deref().and_then(|bytes| wire::lex(bytes).ok()) {
            self.learn_remote(now, peer, offer.body());
        }
        match self.pass_sdp(now, leg, peer, message.body()) {
            Some(sdp) => self.answer(now, peer, 200, Some(sdp)),
            None => self.answer_no(now, peer, &Refusal::status(488)),
        }
    }

    /// The other leg refuses: the session stays as it was (RFC 3261, 14.1), unless its dialog is gone.
    pub(crate) fn on_reinvite_refused(&mut self, now: Instant, leg: LegRef, status: u16) {
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.inviting = None;
        }
        if matches!(status, 408 | 481) {
            return self.end_call(now, leg.call, &Refusal::status(status));
        }
        let told = if matches!(status, 300..=399 | 401 | 407) { 488 } else { status };
        if let Some(peer) = self.peer_of(leg) {
            self.answer_no(now, peer, &Refusal::status(told));
        }
    }

    /// The leg that wanted another session takes it back.
    pub(crate) fn cancel_reinvite(&mut self, now: Instant, leg: LegRef) {
        self.answer_no(now, leg, &Refusal::status(487));
        let peer = self.peer_of(leg).and_then(|peer| self.calls.leg(peer));
        if let Some(key) = peer.and_then(|peer| peer.inviting.as_ref()).map(|inviting| inviting.key)
        {
            self.transactions.cancel(now, key, &mut self.sent);
        }
    }

    /// Takes a request within a leg's dialog (RFC 3261, 12.2.2): in its order, from its peer.
    pub(crate) fn accept_within(
        &mut self,
        leg: LegRef,
        arrival: Arrival<'_>,
    ) -> Result<(), Refusal> {
        let entry = self.calls.leg_mut(leg).ok_or_else(|| Refusal::status(481))?;
        let dialog = entry.dialog.as_mut().ok_or_else(|| Refusal::status(481))?;
        // RFC 3261, 12.2.2: "If the remote sequence number was not empty, but the sequence number of
        // the request is lower [...], the request is out of order and MUST be rejected with a 500".
        dialog.accept(arrival.message).map_err(|_| Refusal::status(500))?;
        // A phone behind a NAT that moved is answered where it is now.
        let from_here =
            arrival.location == entry.flow.location && arrival.from.ip() == entry.flow.peer.ip();
        let is_stream = arrival.channel.transport.is_reliable();
        if is_stream && from_here {
            // The peer may have come back by another connection.
            entry.flow = Flow { peer: arrival.from, channel: arrival.channel, ..entry.flow };
        } else if entry.agent().is_some() && from_here {
            let peer = match arrival.message.contact() {
                Some(_) => way_back(arrival.message, arrival.from),
                None => entry.flow.peer,
            };
            entry.flow = Flow { location: arrival.location, peer, channel: arrival.channel };
        }
        Ok(())
    }

    /// Sends a request within a leg's dialog; None when there is no dialog or no room.
    pub(crate) fn send_within(
        &mut self,
        now: Instant,
        leg: LegRef,
        method: Method<'static>,
        sdp: Option<&[u8]>,
    ) -> Option<ClientKey> {
        let mut dialog = self.calls.leg_mut(leg)?.dialog.take()?;
        let sent = self.send_in_dialog(now, leg, &mut dialog, method, sdp, leg.to_word());
        let entry = self.calls.leg_mut(leg)?;
        entry.dialog = Some(dialog);
        let key = sent?;
        if method == Method::Invite {
            entry.inviting = Some(Inviting { key, offered: sdp.is_some() });
        }
        Some(key)
    }

    fn send_in_dialog(
        &mut self,
        now: Instant,
        leg: LegRef,
        dialog: &mut Dialog,
        method: Method<'static>,
        sdp: Option<&[u8]>,
        user: u64,
    ) -> Option<ClientKey> {
        let branch = self.fresh_branch();
        let own = self.calls.leg(leg)?.flow;
        let address = self.address_of(own).to_string();
        let contact = self.contact(leg, own);
        let built = dialog.request(
            method,
            &Outgoing {
                branch: branch.as_bytes(),
                transport: own.channel.transport,
                sent_by: address.as_bytes(),
                contact: Some(&contact),
                extra: &[],
                body: sdp.map(|sdp| ("application/sdp", sdp)),
            },
        );
        let flow = self.way_to(leg, &built.next_hop)?;
        self.transactions
            .request(now, method, built.bytes, branch.as_bytes(), flow, user, &mut self.sent)
            .ok()
    }
}

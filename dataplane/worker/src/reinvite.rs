//! Changes of a standing session: hold, retrieve, another codec (RFC 3261, 14).

use base::Instant;
use sip::dialog::{Dialog, Outgoing};
use sip::transaction::ClientKey;
use sip::wire::{Message, Method};

use crate::call::{Flow, Invited, Inviting, LegRef, Phase};
use crate::carried::Lines;
use crate::extension::Updating;
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
        if entry.inviting.is_some() || entry.ext.glare.is_some() || entry.ext.updating.is_some() {
            // RFC 3261, 14.2: "A UAS that receives an INVITE on a dialog while an INVITE it had sent on
            // that dialog is in progress MUST return a 491 (Request Pending)".
            return Err(Refusal::status(491));
        }
        self.check_body(arrival.message)?;
        let offer = sip::body::session(arrival.message).unwrap_or_default();
        self.check_srtp_of(leg, offer)?;
        self.check_interval(arrival.message)?;
        self.accept_within(leg, arrival)?;
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.ext.note(arrival.message);
        }
        let Some(peer) = self.peer_of(leg) else {
            return self.on_reinvite_alone(now, leg, arrival);
        };
        if !self.is_free(peer) {
            return Err(Refusal::status(491));
        }
        let sdp = match sip::body::session(arrival.message).unwrap_or_default() {
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
        let offer = sip::body::session(arrival.message).unwrap_or_default();
        let sdp = self.own_description(now, leg, offer)?;
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
        self.finish_handshake(leg, &inviting, message, false);
        self.agreed(now, leg, message);
        self.end_glare(leg);
        if self.on_change_agreed(now, leg, sip::body::session(message).unwrap_or_default()) {
            return;
        }
        if inviting.renews {
            return self.learn_remote(now, leg, sip::body::session(message).unwrap_or_default());
        }
        self.settle(now, leg, message);
    }

    /// The other leg refuses: the session stays as it was (RFC 3261, 14.1), unless its dialog is gone.
    pub(crate) fn on_reinvite_refused(&mut self, now: Instant, leg: LegRef, status: u16) {
        let Some(entry) = self.calls.leg_mut(leg) else { return };
        let renewed = entry.inviting.take().is_some_and(|inviting| inviting.renews);
        self.end_glare(leg);
        if matches!(status, 408 | 481) {
            return self.lose_leg(now, leg, &Refusal::status(status));
        }
        if self.on_change_refused(now, leg, status) {
            return;
        }
        let told = if matches!(status, 300..=399 | 401 | 407) { 488 } else { status };
        if let Some(peer) = self.peer_of(leg).filter(|_| !renewed) {
            self.settle_no(now, peer, &Refusal::status(told));
        }
    }

    /// The leg that wanted another session takes it back.
    pub(crate) fn cancel_reinvite(&mut self, now: Instant, leg: LegRef) {
        self.answer_no(now, leg, &Refusal::status(487));
        let peer = self.peer_of(leg);
        if let Some(peer) = peer {
            self.end_glare(peer);
        }
        let peer = peer.and_then(|peer| self.calls.leg(peer));
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
        let dialog = entry.dialog_for(arrival.message).ok_or_else(|| Refusal::status(481))?;
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
        let lines = match method {
            Method::Invite | Method::Update => self.renewal(leg),
            Method::Bye => self.reasons_of(leg),
            _ => Lines::new(),
        };
        let lines: Vec<(&str, &[u8])> =
            lines.iter().map(|(name, value)| (*name, value.as_slice())).collect();
        let body = sdp.map(|sdp| ("application/sdp", sdp));
        let key = self.send_content(now, leg, method, &lines, body)?;
        let entry = self.calls.leg_mut(leg)?;
        let offered = sdp.is_some();
        match method {
            Method::Invite => entry.inviting = Some(Inviting { key, offered, renews: false }),
            Method::Update => entry.ext.updating = Some(Updating { key, offered }),
            _ => {}
        }
        Some(key)
    }

    /// The same with any body; before the answer, in the early dialog that has a description.
    pub(crate) fn send_content(
        &mut self,
        now: Instant,
        leg: LegRef,
        method: Method<'static>,
        lines: &[(&str, &[u8])],
        body: Option<(&str, &[u8])>,
    ) -> Option<ClientKey> {
        let entry = self.calls.leg_mut(leg)?;
        if let Some(mut dialog) = entry.dialog.take() {
            let sent = self.send_in_dialog(now, leg, &mut dialog, method, lines, body);
            self.calls.leg_mut(leg)?.dialog = Some(dialog);
            return sent;
        }
        let early = entry.ext.early.iter().find(|early| early.described)?;
        let mut dialog = early.dialog.clone();
        let sent = self.send_in_dialog(now, leg, &mut dialog, method, lines, body);
        self.put_early(leg, dialog);
        sent
    }

    pub(crate) fn send_in_dialog(
        &mut self,
        now: Instant,
        leg: LegRef,
        dialog: &mut Dialog,
        method: Method<'static>,
        lines: &[(&str, &[u8])],
        body: Option<(&str, &[u8])>,
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
                extra: lines,
                body,
            },
        );
        let flow = self.way_to(leg, &built.next_hop)?;
        self.send_request(now, method, built.bytes, &branch, flow, leg)
    }
}

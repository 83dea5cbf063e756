//! Answers: what those whom we invited say, and what we say to those who invited us.

use std::rc::Rc;

use abi::{CallState, Counter, EndedBy};
use base::Instant;
use sip::dialog::{Dialog, Outgoing};
use sip::transaction::{ClientKey, Sent};
use sip::wire::{self, Message, Method, reason_phrase};

use crate::call::{Flow, Invited, Inviting, LastAck, LegRef, Phase};
use crate::carried::Lines;
use crate::extension::SUPPORTED;
use crate::intake::ALLOW;
use crate::prack::Said;
use crate::refusal::Refusal;
use crate::trunks::WATCHER;
use crate::worker::Worker;

/// How many forks of one INVITE are told goodbye; a proxy has no business with more (RFC 3261, 16.6).
const FORKS: usize = 16;

impl Worker {
    pub(crate) fn on_response(
        &mut self,
        now: Instant,
        key: ClientKey,
        leg: LegRef,
        arrival: Flow,
        message: &Message<'_>,
    ) {
        let (Some(status), Ok(cseq)) = (message.status(), message.cseq()) else {
            return;
        };
        if leg.call == WATCHER {
            return self.on_trunk_status(key, leg.leg, status);
        }
        match cseq.method {
            // The call is long forgotten; its phone must not think that it stands.
            Method::Invite if self.calls.leg(leg).is_none() && (200..300).contains(&status) => {
                self.decline_again(arrival, message);
            }
            Method::Invite => self.on_invite_response(now, key, leg, status, message),
            Method::Bye if status >= 200 => self.leg_gone(leg),
            Method::Options if status >= 200 => self.on_probe_answered(now, leg, status),
            Method::Notify if status >= 200 => self.on_notified(now, leg, status),
            Method::Update if status >= 200 => {
                self.on_update_answered(now, key, leg, status, message);
            }
            Method::Info if status >= 200 => self.on_info_answered(now, leg, status),
            Method::Refer if status >= 200 => self.on_referred(now, leg, status),
            _ => {}
        }
    }

    fn on_invite_response(
        &mut self,
        now: Instant,
        key: ClientKey,
        leg: LegRef,
        status: u16,
        message: &Message<'_>,
    ) {
        let Some(entry) = self.calls.leg(leg) else {
            return;
        };
        let is_current = entry.inviting.as_ref().is_some_and(|inviting| inviting.key == key);
        match (status, entry.phase) {
            (100, _) => {}
            (101..=199, Phase::Outgoing) if is_current => {
                self.on_progress(now, leg, status, message)
            }
            (200..=299, _) if !is_current => self.on_repeated_answer(now, leg, message),
            (200..=299, Phase::Outgoing) => self.on_answered(now, leg, message),
            (200..=299, Phase::Established) => self.on_reinvite_answered(now, leg, message),
            (200..=299, _) => self.on_answered_too_late(now, leg, message),
            (422, Phase::Outgoing) if is_current && self.invite_wider(now, leg, message) => {}
            (488 | 606, Phase::Outgoing) if is_current && self.invite_secure(now, leg) => {}
            (503, Phase::Outgoing) if is_current && self.try_next(now, leg) => {}
            (300..=699, Phase::Outgoing) if is_current => {
                self.on_refused(now, leg, status, message)
            }
            (491, Phase::Established) if is_current && self.retry_later(now, key, leg) => {}
            (300..=699, Phase::Established) if is_current => {
                self.on_reinvite_refused(now, leg, status)
            }
            (300..=699, Phase::Leaving) if is_current => self.leg_gone(leg),
            _ => {}
        }
    }

    /// It rings, or sends early media (RFC 3261, 13.2.2.1).
    fn on_progress(&mut self, now: Instant, leg: LegRef, status: u16, message: &Message<'_>) {
        if !self.take_response(now, leg, message) {
            return;
        }
        if status >= 180
            && let Some(entry) = self.calls.leg_mut(leg)
        {
            entry.ext.rings = true;
        }
        if self.is_guest(leg.call) {
            return self.on_guest_rings(leg.call);
        }
        if self.is_transfer_to(leg) {
            self.note_call(leg.call);
            return self.report_transfer(now, leg.call, status);
        }
        let Some(call) = self.calls.find_mut(leg.call) else {
            return;
        };
        let Some(peer) = call.peer_of(leg.leg) else {
            return;
        };
        let peer = LegRef { leg: peer, ..leg };
        if call.state == CallState::Calling {
            call.state = CallState::Ringing;
            self.note_call(leg.call);
        }
        let lines = self.answered_on(leg, peer, message);
        let body = sip::body::session(message).unwrap_or_default();
        // The caller has its answer, and a second one would be none (RFC 3261, 13.2.1).
        let sdp = match self.is_described(peer) {
            true => {
                self.learn_remote(now, leg, body);
                None
            }
            false => self.pass_sdp(now, leg, peer, body),
        };
        self.answer_with(now, peer, Said { status, sdp, lines });
    }

    fn on_answered(&mut self, now: Instant, leg: LegRef, message: &Message<'_>) {
        let early = self.calls.leg_mut(leg).and_then(|entry| entry.ext.early_of(message));
        let was_described = early.is_some_and(|early| early.described);
        let Some(inviting) = self.establish(leg, message) else {
            // An answer that makes no dialog (no tag, no usable Contact) cannot even be acknowledged.
            self.leg_gone(leg);
            return self.lose_target(now, leg, &Refusal::status(502));
        };
        if self.calls.find(leg.call).is_some_and(|call| call.dialling.is_some()) {
            self.learn_remote(now, leg, sip::body::session(message).unwrap_or_default());
            self.finish_handshake(leg, &inviting, message, was_described);
            self.agreed(now, leg, message);
            return self.on_first_answered(now, leg);
        }
        if self.is_guest(leg.call) {
            self.learn_remote(now, leg, sip::body::session(message).unwrap_or_default());
            self.finish_handshake(leg, &inviting, message, was_described);
            self.agreed(now, leg, message);
            return self.on_guest_answered(now, leg);
        }
        if self.is_transfer_to(leg) {
            let body = sip::body::session(message).unwrap_or_default();
            self.learn_remote(now, leg, body);
            self.finish_handshake(leg, &inviting, message, was_described);
            self.agreed(now, leg, message);
            return self.on_transfer_answered(now, leg);
        }
        let Some(call) = self.calls.find_mut(leg.call) else {
            return;
        };
        let peer = call.peer_of(leg.leg);
        call.state = CallState::Answered;
        call.answered_at = now;
        if let Some(entry) = call.leg_mut(leg.leg) {
            entry.times.answered_at = now;
        }
        let Some(peer) = peer.map(|peer| LegRef { leg: peer, ..leg }) else {
            return;
        };
        let lines = self.answered_on(leg, peer, message);
        let body = sip::body::session(message).unwrap_or_default();
        // RFC 3262, 5: the answer came in a reliable response. Who had it from us by such a one needs it no more,
        // others do.
        let is_known = was_described && self.is_described(peer);
        let sdp = match body {
            body if is_known => {
                self.learn_remote(now, leg, body);
                None
            }
            [] if was_described => self.said_to(peer),
            body => self.pass_sdp(now, leg, peer, body),
        };
        self.finish_handshake(leg, &inviting, message, was_described);
        self.agreed(now, leg, message);
        self.count(Counter::CallsAnswered);
        self.note_call(leg.call);
        if sdp.is_none() && !was_described {
            // RFC 3261, 13.2.1: the answer, or the offer, must be in the 2xx.
            return self.end_call(now, leg.call, &Refusal::status(488));
        }
        self.answer_with(now, peer, Said { status: 200, sdp, lines });
    }

    /// The description that the leg's peer has from us.
    fn said_to(&self, leg: LegRef) -> Option<Vec<u8>> {
        let ext = &self.calls.leg(leg)?.ext;
        ext.saying.as_ref().map(|said| said.to_vec())
    }

    /// The call was given up while its answer was under way (RFC 3261, 9.1): ACK, then BYE.
    fn on_answered_too_late(&mut self, now: Instant, leg: LegRef, message: &Message<'_>) {
        let Some(entry) = self.calls.leg_mut(leg) else {
            return;
        };
        if let Some(dialog) = &mut entry.dialog {
            // It was a re-INVITE; the BYE is on its way already.
            dialog.refresh(message);
            entry.inviting = None;
            return self.send_ack(leg, message);
        }
        if self.establish(leg, message).is_none() {
            return self.leg_gone(leg);
        }
        self.send_ack(leg, message);
        self.say_goodbye(now, leg);
    }

    fn on_refused(&mut self, now: Instant, leg: LegRef, status: u16, message: &Message<'_>) {
        if self.redirected(now, leg, status, message) {
            return;
        }
        self.note_ended_by(leg.call, EndedBy::Leg, leg.leg);
        self.note_leg_ended(now, leg);
        let peer = self.peer_of(leg);
        let lines = peer.map(|peer| self.answered_on(leg, peer, message)).unwrap_or_default();
        self.leg_gone(leg);
        // What concerns only us and the other leg is not the caller's business: redirections and
        // challenges that we do not follow.
        let told = if matches!(status, 300..=399 | 401 | 407) { 480 } else { status };
        self.lose_target(now, leg, &Refusal::status(told).with_lines(lines));
        self.note_goes_on(leg.call);
    }

    /// A 2xx for an INVITE that has had its final answer: again the same, which wants its ACK again, or
    /// another fork's, which is let go (RFC 3261, 13.2.2.4).
    fn on_repeated_answer(&mut self, now: Instant, leg: LegRef, message: &Message<'_>) {
        let Some(entry) = self.calls.leg(leg) else {
            return;
        };
        let tag = message.to().ok().and_then(|to| to.tag());
        let is_same = entry.dialog.as_ref().is_some_and(|dialog| tag == Some(dialog.remote_tag()));
        if is_same {
            if let Some(LastAck { flow, bytes, .. }) = &entry.last_ack {
                self.sent.push(Sent { flow: *flow, bytes: Rc::clone(bytes) });
            }
            return;
        }
        let (flow, tag) = (entry.flow, tag.unwrap_or_default().to_vec());
        let is_new = !entry.declined.contains(&tag) && entry.declined.len() < FORKS;
        if let Some(entry) = self.calls.leg_mut(leg)
            && is_new
        {
            entry.declined.push(tag);
        }
        self.decline(now, flow, message, is_new);
    }

    /// Makes the dialog of an answered INVITE.
    fn establish(&mut self, leg: LegRef, message: &Message<'_>) -> Option<Inviting> {
        let entry = self.calls.leg_mut(leg)?;
        let inviting = entry.inviting.take()?;
        // Requests went out in the early dialog, and its numbers go on (RFC 3261, 12.2.1.1).
        let early = std::mem::take(&mut entry.ext.early).into_iter();
        let early = early.map(|early| early.dialog).find(|early| early.matches(message));
        entry.dialog = Some(match early {
            Some(mut dialog) => {
                dialog.refresh(message);
                dialog
            }
            None => Dialog::uac(message).ok()?,
        });
        (entry.ext.updating, entry.ext.others) = (None, None);
        if entry.phase == Phase::Outgoing {
            entry.phase = Phase::Established;
            self.open_lease(leg);
        }
        Some(inviting)
    }

    /// Sends the ACK, unless it must carry an answer that is still to come.
    pub(crate) fn finish_handshake(
        &mut self,
        leg: LegRef,
        inviting: &Inviting,
        answer: &Message<'_>,
        is_agreed: bool,
    ) {
        if inviting.offered || is_agreed {
            self.send_ack(leg, answer);
        } else if let (Some(entry), Ok(cseq)) = (self.calls.leg_mut(leg), answer.cseq()) {
            entry.owes_ack = Some(cseq.number);
        }
    }

    /// The ACK of a 2xx of ours has come (RFC 3261, 13.3.1.4).
    pub(crate) fn on_ack(&mut self, now: Instant, message: &Message<'_>) {
        let Some(leg) = self.leg_of(message) else {
            return self.count(Counter::DropSipNoTransaction);
        };
        let Some(entry) = self.calls.leg_mut(leg) else {
            return;
        };
        // A late copy of an earlier ACK acknowledges nothing.
        let cseq = message.cseq().map_or(0, |cseq| cseq.number);
        let Some((key, _)) = entry.unacknowledged.take_if(|(_, waiting)| *waiting == cseq) else {
            return;
        };
        let is_leaving = entry.phase == Phase::Leaving;
        self.transactions.acked(key);
        if is_leaving {
            return self.say_goodbye(now, leg);
        }
        if self.calls.leg(leg).is_some_and(|leg| leg.change.is_some()) {
            self.change_session(now, leg);
        }
        let Some(peer) = self.peer_of(leg) else {
            // The answer to an offer of our own (RFC 3264, 5).
            return self.learn_remote(now, leg, sip::body::session(message).unwrap_or_default());
        };
        let Some(cseq) = self.calls.leg_mut(peer).and_then(|peer| peer.owes_ack.take()) else {
            // The same of who took another's place.
            return self.learn_remote(now, leg, sip::body::session(message).unwrap_or_default());
        };
        let answer = sip::body::session(message).unwrap_or_default();
        match self.pass_sdp(now, leg, peer, answer) {
            Some(sdp) => self.send_ack_for(peer, cseq, Some(&sdp)),
            None => {
                // RFC 3261, 13.2.1: an offer in the 2xx MUST have its answer in the ACK.
                self.send_ack_for(peer, cseq, None);
                self.end_call(now, leg.call, &Refusal::status(488));
            }
        }
    }

    /// The leg at the other side of the bridge.
    pub(crate) fn peer_of(&self, leg: LegRef) -> Option<LegRef> {
        let call = self.calls.find(leg.call)?;
        let elsewhere = call.leg(leg.leg).and_then(|leg| leg.joined);
        elsewhere.or_else(|| Some(LegRef { leg: call.peer_of(leg.leg)?, ..leg }))
    }

    /// Answers the INVITE of a leg: 100, progress or 2xx.
    pub(crate) fn answer(&mut self, now: Instant, leg: LegRef, status: u16, sdp: Option<Vec<u8>>) {
        self.answer_with(now, leg, Said { status, sdp, lines: Lines::new() });
    }

    /// The same with further lines; it may have to wait for a PRACK (RFC 3262).
    pub(crate) fn answer_with(&mut self, now: Instant, leg: LegRef, said: Said) {
        if let Some(said) = self.hold_back(leg, said) {
            self.say_now(now, leg, said);
        }
    }

    /// Says what need not wait any more.
    pub(crate) fn say_now(&mut self, now: Instant, leg: LegRef, mut said: Said) {
        let Some(entry) = self.calls.leg(leg) else {
            return;
        };
        let Some(Invited { key, bytes, from }) = &entry.invited else {
            return;
        };
        let (key, bytes, from) = (*key, bytes.clone(), *from);
        let Ok(request) = wire::lex(&bytes) else {
            return;
        };
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        let number = self.number_response(leg, &mut said);
        let Said { status, sdp, lines } = said;
        let answer = self.written(now, leg, &request, from, status, sdp.as_deref(), lines);
        if status >= 200
            && let Some(entry) = self.calls.leg_mut(leg)
        {
            entry.invited = None;
            entry.ext.reliable = None;
            entry.unacknowledged = Some((key, cseq));
            entry.phase = Phase::Established;
            if let Some(dialog) = &mut entry.dialog {
                dialog.confirm();
            }
            if sdp.is_some() {
                entry.ext.settle_said();
            }
            if entry.times.answered_at == Instant::ZERO {
                entry.times.answered_at = now;
            }
            self.open_lease(leg);
        }
        if let Some(number) = number {
            self.expect_prack(now, leg, number, &answer);
        }
        self.transactions.respond(now, key, status, answer, &mut self.sent);
    }

    #[expect(clippy::too_many_arguments, reason = "a response has that many sides")]
    fn written(
        &mut self,
        now: Instant,
        leg: LegRef,
        request: &Message<'_>,
        from: std::net::SocketAddr,
        status: u16,
        sdp: Option<&[u8]>,
        mut lines: Lines,
    ) -> Vec<u8> {
        let reason = reason_phrase(status);
        if status == 100 {
            return wire::response(request, status, reason, None, from, &[], None);
        }
        if status >= 200 {
            lines.extend(self.agree(now, leg, request));
        }
        let Some(entry) = self.calls.leg(leg) else { return Vec::new() };
        let contact = self.contact(leg, entry.flow);
        let own: [(&str, &[u8]); 3] =
            [("Contact", &contact), ("Allow", ALLOW), ("Supported", SUPPORTED)];
        let lines = lines.iter().map(|(name, value)| (*name, value.as_slice()));
        let extra: Vec<(&str, &[u8])> = own.into_iter().chain(lines).collect();
        let body = sdp.map(|sdp| ("application/sdp", sdp));
        wire::response(request, status, reason, Some(&entry.local_tag), from, &extra, body)
    }

    /// Refuses the INVITE of a leg.
    pub(crate) fn answer_no(&mut self, now: Instant, leg: LegRef, refusal: &Refusal) {
        let Some(entry) = self.calls.leg_mut(leg) else {
            return;
        };
        entry.ext.reliable = None;
        let Some(Invited { key, bytes, from }) = entry.invited.take() else {
            return;
        };
        let Ok(request) = wire::lex(&bytes) else {
            return;
        };
        let answer = refusal.response(&request, Some(&entry.local_tag), from);
        self.transactions.respond(now, key, refusal.status, answer, &mut self.sent);
    }

    fn send_ack(&mut self, leg: LegRef, answer: &Message<'_>) {
        let Ok(cseq) = answer.cseq() else { return };
        self.send_ack_for(leg, cseq.number, None);
    }

    /// Sends the ACK of the 2xx with that CSeq and keeps it for the 2xx's repetitions.
    pub(crate) fn send_ack_for(&mut self, leg: LegRef, cseq: u32, sdp: Option<&[u8]>) {
        let branch = self.fresh_branch();
        let Some(entry) = self.calls.leg(leg) else {
            return;
        };
        let Some(dialog) = entry.dialog.as_ref() else {
            return;
        };
        let address = self.address_of(entry.flow).to_string();
        let built = dialog.ack(
            cseq,
            &Outgoing {
                branch: branch.as_bytes(),
                transport: entry.flow.channel.transport,
                sent_by: address.as_bytes(),
                contact: None,
                extra: &[],
                body: sdp.map(|sdp| ("application/sdp", sdp)),
            },
        );
        let flow = self.way_to(leg, &built.next_hop).unwrap_or(entry.flow);
        let bytes: Rc<[u8]> = built.bytes.into();
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.last_ack = Some(LastAck { flow, bytes: bytes.clone(), seen_at: None });
        }
        self.sent.push(Sent { flow, bytes });
    }

    /// Where a request within a leg's dialog goes: to a trunk's next hop; to a phone on the way that it
    /// registered by, for its Contact may be an address behind a NAT.
    pub(crate) fn way_to(&self, leg: LegRef, hop: &[u8]) -> Option<Flow> {
        let entry = self.calls.leg(leg)?;
        if entry.agent().is_some() {
            return Some(entry.flow);
        }
        let port = entry.flow.channel.transport.default_port();
        // A host name is not ours to resolve; the peer is also where its INVITE came from.
        let uri = wire::Uri::parse(hop).ok();
        let address = uri.and_then(|uri| Some((uri.host_ip()?, uri.port.unwrap_or(port))));
        Some(address.map_or(entry.flow, |peer| Flow { peer: peer.into(), ..entry.flow }))
    }
}

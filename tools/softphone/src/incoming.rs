//! Requests of the peer: calls (RFC 3261, 13.3), their changes (14.2), their end, and questions.

use std::net::SocketAddr;
use std::time::Duration;

use base::Instant;
use sip::dialog::Dialog;
use sip::transaction::ServerKey;
use sip::wire::{Header, Message, Method, lex, reason_phrase, response};

use crate::call::{Call, Invite, State};
use crate::phone::{AGENT, Phone, Waiting};
use crate::session::{SDP, check};
use crate::{Event, Output, Why};

/// How long who calls meanwhile waits for the end of our own call's beginning.
const PATIENCE: Duration = Duration::from_secs(2);
/// The methods that the phone takes.
pub(crate) const ALLOW: &str = "INVITE, ACK, CANCEL, BYE, OPTIONS, NOTIFY";

impl Phone {
    /// A new request that is neither ACK nor CANCEL.
    pub(crate) fn asked(
        &mut self,
        now: Instant,
        key: ServerKey,
        from: SocketAddr,
        message: &Message<'_>,
        out: &mut Vec<Output>,
    ) {
        let within = message.to().is_ok_and(|to| to.tag().is_some());
        if message.has(Header::Require) {
            // RFC 3261, 8.2.2.3; the phone has no extensions.
            let wanted: Vec<&[u8]> = message.headers(Header::Require).collect();
            let unsupported = wanted.join(&b", "[..]);
            let extra: [(&str, &[u8]); 1] = [("Unsupported", &unsupported)];
            return self.reply(now, key, from, message, 420, &extra, out);
        }
        match message.method() {
            Some(Method::Invite) if within => self.reinvited(now, key, from, message, out),
            Some(Method::Invite) => self.invited(now, key, from, message, out),
            Some(Method::Bye) => self.peer_hung_up(now, key, from, message, out),
            Some(Method::Notify) => self.notified(now, key, from, message, out),
            // RFC 3261, 12.2.2: a request with a To tag whose dialog is not known is answered 481; so whoever asks
            // learns that this phone has forgotten the call.
            Some(Method::Options) if within && self.dialog_for(message).is_none() => {
                self.reply(now, key, from, message, 481, &[], out);
            }
            Some(Method::Options) => {
                let extra = [("Allow", ALLOW.as_bytes()), ("Accept", SDP.as_bytes())];
                self.reply(now, key, from, message, 200, &extra, out);
            }
            method => {
                let status = if matches!(method, Some(Method::Other(_))) { 501 } else { 405 };
                self.reply(now, key, from, message, status, &[("Allow", ALLOW.as_bytes())], out);
            }
        }
    }

    fn invited(
        &mut self,
        now: Instant,
        key: ServerKey,
        from: SocketAddr,
        message: &Message<'_>,
        out: &mut Vec<Output>,
    ) {
        if let Some(call) = &self.call {
            if call.state == State::Calling && self.waiting.is_none() {
                let (bytes, until) = (message.bytes().to_vec(), now + PATIENCE);
                self.waiting = Some(Waiting { key, from, bytes, until });
                return;
            }
            return self.reply(now, key, from, message, 486, &[], out);
        }
        let offer = Phone::description(message);
        if let Some(Err(error)) = offer.map(|offer| check(&self.config, offer)) {
            return self.reply(now, key, from, message, error.status(), &[], out);
        }
        let tag = self.tag();
        let Ok(dialog) = Dialog::uas(message, tag.as_bytes()) else {
            return self.reply(now, key, from, message, 400, &[], out);
        };
        self.report.received += 1;
        self.generation += 1;
        let session_id = self.rng.next_u64();
        let mut call = Call::new(self.generation, State::Offered, session_id);
        call.dialog = Some(dialog);
        call.answer_at = self.config.ring.map(|ring| now + ring);
        call.invite = Some(Invite {
            key,
            from,
            bytes: message.bytes().to_vec(),
            tag: tag.clone(),
            offerless: offer.is_none(),
        });
        self.call = Some(call);
        let contact = self.contact();
        let extra = [("Contact", contact.as_bytes())];
        self.reply_with(now, key, from, message, 180, Some(&tag), &extra, None, out);
        out.push(Output::Event(Event::Incoming { from: Phone::caller(message) }));
    }

    /// Our own call is decided: who called meanwhile rings now, or hears that we are busy.
    pub(crate) fn look_at_waiting(&mut self, now: Instant, out: &mut Vec<Output>) {
        let calls = self.call.as_ref().is_some_and(|call| call.state == State::Calling);
        let is_due = |waiting: &mut Waiting| !calls || waiting.until <= now;
        let Some(Waiting { key, from, bytes, .. }) = self.waiting.take_if(is_due) else { return };
        match lex(&bytes) {
            Ok(message) if calls => self.reply(now, key, from, &message, 486, &[], out),
            Ok(message) => self.invited(now, key, from, &message, out),
            Err(_) => {}
        }
    }

    /// Answers the call that rings.
    pub(crate) fn answer(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(call) = self.call.as_mut().filter(|call| call.state == State::Offered) else {
            return;
        };
        call.answer_at = None;
        let Some(invite) = call.invite.clone() else { return };
        let Ok(message) = lex(&invite.bytes) else { return };
        let body = match Phone::description(&message) {
            Some(offer) => call.session.answer(&self.config, offer),
            None => Ok(call.session.offer(&self.config, false)),
        };
        let Ok(body) = body else {
            self.refuse_invite(now, 488, out);
            return self.end_call(Why::NotAcceptable, out);
        };
        call.state = State::Answered;
        if let Some(dialog) = &mut call.dialog {
            dialog.confirm();
        }
        self.accept(now, &invite, &message, &body, out);
        // What the caller sends is heard from now on; our own begins with the ACK.
        self.set_media(now);
    }

    /// 200 with a description.
    fn accept(
        &mut self,
        now: Instant,
        invite: &Invite,
        message: &Message<'_>,
        body: &[u8],
        out: &mut Vec<Output>,
    ) {
        let contact = self.contact();
        let extra = [
            ("Contact", contact.as_bytes()),
            ("Allow", ALLOW.as_bytes()),
            ("User-Agent", AGENT.as_bytes()),
        ];
        let (key, from, tag) = (invite.key, invite.from, Some(invite.tag.as_str()));
        self.reply_with(now, key, from, message, 200, tag, &extra, Some((SDP, body)), out);
    }

    /// The ACK to our 2xx.
    pub(crate) fn acknowledged(
        &mut self,
        now: Instant,
        message: &Message<'_>,
        out: &mut Vec<Output>,
    ) {
        if self.dialog_for(message).is_none() {
            self.report.sip_unexpected += u64::from(self.departed_dialog(message).is_none());
            return;
        }
        let Some(call) = &mut self.call else { return };
        // A repeated ACK finds nothing that waits for it.
        let Some(invite) = call.invite.take() else { return };
        self.transactions.acked(invite.key);
        let first = call.state == State::Answered;
        call.state = State::Talking;
        if invite.offerless {
            let answer = Phone::description(message);
            if answer.is_none_or(|sdp| call.session.accept(&self.config, sdp).is_err()) {
                self.bye(now, out);
                return self.end_call(Why::NotAcceptable, out);
            }
        }
        let hung_up = call.hung_up;
        if first {
            self.report.answered += 1;
            out.push(Output::Event(Event::Answered));
        }
        if hung_up {
            return self.hang_up(now, out);
        }
        self.set_media(now);
        if !first && invite.offerless {
            self.tell_hold(out);
        }
    }

    /// No ACK came to our 2xx (RFC 3261, 13.3.1.4: "the dialog is confirmed, but the session
    /// SHOULD be terminated").
    pub(crate) fn not_acknowledged(&mut self, now: Instant, key: ServerKey, out: &mut Vec<Output>) {
        let waits = |call: &Call| call.invite.as_ref().is_some_and(|invite| invite.key == key);
        if self.call.as_ref().is_some_and(waits) {
            self.bye(now, out);
            self.end_call(Why::NoAck, out);
        }
    }

    fn reinvited(
        &mut self,
        now: Instant,
        key: ServerKey,
        from: SocketAddr,
        message: &Message<'_>,
        out: &mut Vec<Output>,
    ) {
        let Some(dialog) = self.dialog_for(message) else {
            self.report.sip_unexpected += u64::from(self.departed_dialog(message).is_none());
            return self.reply(now, key, from, message, 481, &[], out);
        };
        if dialog.accept(message).is_err() {
            return self.reply(now, key, from, message, 500, &[], out);
        }
        let tag = String::from_utf8_lossy(dialog.local_tag()).into_owned();
        let Some(call) = &mut self.call else { return };
        // RFC 3261, 14.2: a UAS that waits for the answer to its own INVITE "MUST return a 491";
        // so it is with an offer of ours whose answer comes by ACK, or a call that still rings.
        let ours = call.change.is_some_and(|change| change.cseq.is_some());
        let open = call.invite.as_ref().is_some_and(|invite| invite.offerless);
        if ours || open || call.state == State::Offered {
            return self.reply(now, key, from, message, 491, &[], out);
        }
        let offer = Phone::description(message);
        let body = match offer {
            Some(offer) => call.session.answer(&self.config, offer),
            None => Ok(call.session.offer(&self.config, call.session.hold)),
        };
        let body = match body {
            Ok(body) => body,
            // "If the new session description is not acceptable, the UAS can reject it by
            // returning a 488": the call goes on as it was.
            Err(error) => return self.reply(now, key, from, message, error.status(), &[], out),
        };
        if let Some(before) = call.invite.take() {
            // The ACK to the INVITE before this one was lost; the peer would not go on without it.
            self.transactions.acked(before.key);
            if call.state == State::Answered {
                call.state = State::Talking;
                self.report.answered += 1;
                out.push(Output::Event(Event::Answered));
            }
        }
        let bytes = message.bytes().to_vec();
        let invite = Invite { key, from, bytes, tag, offerless: offer.is_none() };
        call.invite = Some(invite.clone());
        self.accept(now, &invite, message, &body, out);
        if offer.is_some() {
            self.set_media(now);
            self.tell_hold(out);
        }
    }

    fn peer_hung_up(
        &mut self,
        now: Instant,
        key: ServerKey,
        from: SocketAddr,
        message: &Message<'_>,
        out: &mut Vec<Output>,
    ) {
        let Some(dialog) = self.dialog_for(message) else {
            // Two BYEs may cross.
            let known = self.departed_dialog(message).is_some();
            self.report.sip_unexpected += u64::from(!known);
            let status = if known { 200 } else { 481 };
            return self.reply(now, key, from, message, status, &[], out);
        };
        if dialog.accept(message).is_err() {
            return self.reply(now, key, from, message, 500, &[], out);
        }
        self.reply(now, key, from, message, 200, &[], out);
        // RFC 3261, 15.1.2: "The UAS MUST still respond to any pending requests received for that
        // dialog. It is RECOMMENDED that a 487 (Request Terminated) response be generated".
        self.refuse_invite(now, 487, out);
        self.end_call(Why::PeerHungUp, out);
    }

    /// A CANCEL, and the INVITE that it means.
    pub(crate) fn cancelled(
        &mut self,
        now: Instant,
        key: ServerKey,
        invite: Option<ServerKey>,
        from: SocketAddr,
        message: &Message<'_>,
        out: &mut Vec<Output>,
    ) {
        let status = if invite.is_some() { 200 } else { 481 };
        self.reply(now, key, from, message, status, &[], out);
        let waits = |waiting: &mut Waiting| invite == Some(waiting.key);
        if let Some(Waiting { key, from, bytes, .. }) = self.waiting.take_if(waits)
            && let Ok(message) = lex(&bytes)
        {
            return self.reply(now, key, from, &message, 487, &[], out);
        }
        let rings = self.call.as_ref().is_some_and(|call| {
            let meant = call.invite.as_ref().map(|waiting| waiting.key);
            call.state == State::Offered && invite.is_some() && meant == invite
        });
        if rings {
            self.refuse_invite(now, 487, out);
            self.end_call(Why::Cancelled, out);
        }
    }

    /// Refuses the INVITE that has no final response yet.
    pub(crate) fn refuse_invite(&mut self, now: Instant, status: u16, out: &mut Vec<Output>) {
        let Some(invite) = self.call.as_mut().and_then(|call| call.invite.take()) else { return };
        if self.transactions.answered(invite.key) {
            return;
        }
        if let Ok(message) = lex(&invite.bytes) {
            let (key, from, tag) = (invite.key, invite.from, Some(invite.tag.as_str()));
            self.reply_with(now, key, from, &message, status, tag, &[], None, out);
        }
    }

    /// A response with a tag of its own.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn reply(
        &mut self,
        now: Instant,
        key: ServerKey,
        from: SocketAddr,
        message: &Message<'_>,
        status: u16,
        extra: &[(&str, &[u8])],
        out: &mut Vec<Output>,
    ) {
        let tag = self.tag();
        self.reply_with(now, key, from, message, status, Some(&tag), extra, None, out);
    }

    #[allow(clippy::too_many_arguments)]
    fn reply_with(
        &mut self,
        now: Instant,
        key: ServerKey,
        from: SocketAddr,
        message: &Message<'_>,
        status: u16,
        tag: Option<&str>,
        extra: &[(&str, &[u8])],
        body: Option<(&str, &[u8])>,
        out: &mut Vec<Output>,
    ) {
        let bytes = response(message, status, reason_phrase(status), tag, from, extra, body);
        self.transactions.respond(now, key, status, bytes, &mut self.sent);
        self.flush(out);
    }
}

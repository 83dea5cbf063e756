//! From a datagram to the part of the worker that it concerns.

use std::net::SocketAddr;

use abi::Counter;
use base::{CallRef, Channel, Instant, LocationId, Transport, WorkerId, owner};
use sip::transaction::{Fired, Received, Sent, ServerKey};
use sip::wire::{self, Header, LexError, Message, Method, Replaces, Start};

use crate::call::{Flow, LegRef};
use crate::extension::SUPPORTED;
use crate::refusal::{RETRY_AFTER_S, Refusal};
use crate::sips::check_scheme;
use crate::worker::Worker;
use crate::{Effect, Passed};

/// Methods that we answer otherwise than by 405 (RFC 3261, 20.5).
pub(crate) const ALLOW: &[u8] =
    b"INVITE, ACK, CANCEL, BYE, OPTIONS, REGISTER, PRACK, UPDATE, INFO, REFER";

/// A request at the start of its server transaction.
#[derive(Clone, Copy)]
pub(crate) struct Arrival<'m> {
    pub key: ServerKey,
    pub message: &'m Message<'m>,
    /// The location whose address it came to.
    pub location: LocationId,
    /// The address it came from.
    pub from: SocketAddr,
    /// By what it came.
    pub channel: Channel,
}

impl Arrival<'_> {
    /// The way that it came.
    pub fn flow(&self) -> Flow {
        Flow { location: self.location, peer: self.from, channel: self.channel }
    }
}

impl Worker {
    /// Takes a datagram from a socket of ours and passes it on if another worker owns it.
    pub(crate) fn intake(&mut self, now: Instant, came: Flow, datagram: &[u8]) {
        if self.answer_stun(now, came, datagram) {
            return;
        }
        self.count(Counter::SipReceived);
        match came.channel.transport {
            Transport::Udp => {}
            Transport::Tcp => self.count(Counter::SipReceivedTcp),
            Transport::Tls => self.count(Counter::SipReceivedTls),
            Transport::Ws | Transport::Wss => self.count(Counter::SipReceivedWs),
        }
        let message = match wire::lex(datagram) {
            Ok(message) => message,
            Err(LexError::KeepAlive) => return self.count(Counter::DropSipKeepAlive),
            Err(LexError::TooLarge) => return self.count(Counter::DropSipTooLarge),
            Err(_) => return self.count(Counter::DropSipMalformed),
        };
        let to = self.owner_of(&message);
        if to == self.config.id {
            return self.consider(now, came, &message);
        }
        let Flow { location, peer: from, channel } = came;
        let passed = Passed::Sip { location, from, channel, datagram: datagram.into() };
        self.effects.push(Effect::Mesh { to, passed });
    }

    /// Takes a datagram that another worker passed on to us.
    pub(crate) fn intake_owned(&mut self, now: Instant, came: Flow, datagram: &[u8]) {
        match wire::lex(datagram) {
            Ok(message) => self.consider(now, came, &message),
            Err(_) => self.count(Counter::DropSipMalformed),
        }
    }

    /// Which worker a message belongs to: a registration to the agent's, one that bears a tag of ours to that
    /// which gave it, all else to the Call-ID's.
    fn owner_of(&self, message: &Message<'_>) -> WorkerId {
        if let Some(leg) = leg_tagged(message)
            && let Some(worker) = self.region.calls().owner(leg.call.slot)
        {
            return worker;
        }
        let is_register =
            matches!(message.start(), Start::Request { method: Method::Register, .. });
        let agent = if is_register { self.agent_of_address(message) } else { None };
        match (agent, message.call_id()) {
            (Some((_, row)), _) => owner(row.user().as_bytes(), self.config.workers),
            (None, Ok(call_id)) => owner(call_id, self.config.workers),
            (None, Err(_)) => self.config.id,
        }
    }

    fn consider(&mut self, now: Instant, came: Flow, message: &Message<'_>) {
        let Flow { location, peer: from, channel } = came;
        // RFC 3261, 18.2.2: "If the "sent-protocol" is a reliable transport protocol [...], the response MUST be
        // sent using the existing connection to the source of the original request".
        let peer = match channel.transport {
            Transport::Udp => message.via().map_or(from, |via| via.response_address(from)),
            _ => from,
        };
        let flow = Flow { peer, ..came };
        if self.guard.is_banned(now, from.ip()) && !self.is_known(message, came) {
            return self.count(Counter::DropSipBanned);
        }
        self.mirror.note_received(came, message);
        if let Err(error) = message.check() {
            self.count(Counter::DropSipMalformed);
            if self.admit_stranger(now, came, message).is_err() {
                return;
            }
            let status = match (error, message.method()) {
                // RFC 4475, 3.1.2.18: better than 400 for a method that we do not know.
                (LexError::CSeqMethod, Some(Method::Other(_))) => 501,
                _ => error.status(),
            };
            return self.answer_statelessly(flow, message, from, status);
        }
        if message.method() == Some(Method::Register) {
            let key = ServerKey::NONE;
            return self.intake_register(
                now,
                flow,
                Arrival { key, message, location, from, channel },
            );
        }
        match self.transactions.receive(now, message, flow, &mut self.sent) {
            Received::Request(key) => {
                self.on_request(now, Arrival { key, message, location, from, channel });
            }
            Received::Merged(key) => {
                let arrival = Arrival { key, message, location, from, channel };
                self.refuse(now, arrival, Refusal::status(482));
            }
            Received::Cancel { server, invite } => {
                self.on_cancel(
                    now,
                    Arrival { key: server, message, location, from, channel },
                    invite,
                );
            }
            Received::Ack => self.on_ack(now, message),
            Received::Response { key, user } => {
                self.on_response(now, key, LegRef::from_word(user), came, message);
            }
            Received::StrayResponse => self.on_stray_answer(message),
            Received::Absorbed => {}
            Received::Malformed => self.count(Counter::DropSipMalformed),
            Received::Full => {
                self.count(Counter::DropSipFull);
                self.on_no_room(now, flow, message, from);
            }
        }
    }

    fn on_request(&mut self, now: Instant, arrival: Arrival<'_>) {
        let Start::Request { method, .. } = arrival.message.start() else {
            return;
        };
        let is_within = arrival.message.to().is_ok_and(|to| to.tag().is_some());
        let result = match method {
            _ if let Err(refusal) = self.check_required(arrival.message) => Err(refusal),
            Method::Options => self.on_options(now, arrival),
            Method::Invite if is_within => self.on_reinvite(now, arrival),
            Method::Invite => self.on_invite(now, arrival),
            Method::Bye => self.on_bye(now, arrival),
            Method::Prack => self.on_prack(now, arrival),
            Method::Update => self.on_update(now, arrival),
            Method::Info => self.on_info(now, arrival),
            // RFC 6665, 4.2.1.1: an event package that is not understood.
            Method::Subscribe => Err(Refusal::status(489)),
            Method::Refer => self.on_refer(now, arrival),
            Method::Notify if is_within => self.on_notify(now, arrival),
            // RFC 3261, 21.5.2: 501 "is the appropriate response when a UAS does not recognize the
            // request method and is not capable of supporting it for any user".
            Method::Other(_) => Err(Refusal::status(501).with("Allow", ALLOW)),
            // RFC 3261, 8.2.1: "If the UAS recognizes but does not support the method of a request, it
            // MUST generate a 405 (Method Not Allowed) response. [...] The UAS MUST also add an Allow
            // header field to the 405".
            _ => Err(Refusal::status(405).with("Allow", ALLOW)),
        };
        if let Err(refusal) = result {
            self.refuse(now, arrival, refusal);
        }
    }

    /// RFC 3261, 11.2: OPTIONS is answered as an INVITE would be, without making anything.
    fn on_options(&mut self, now: Instant, arrival: Arrival<'_>) -> Result<(), Refusal> {
        let is_within = arrival.message.to().is_ok_and(|to| to.tag().is_some());
        if is_within && self.leg_of(arrival.message).is_none() {
            return Err(Refusal::status(481));
        }
        if !self.is_known(arrival.message, arrival.flow()) {
            self.admit_stranger(now, arrival.flow(), arrival.message)?;
        }
        check_scheme(arrival.message, arrival.channel)?;
        let extra: &[(&str, &[u8])] = &[
            ("Allow", ALLOW),
            ("Supported", SUPPORTED),
            ("Accept", b"application/sdp"),
            ("Accept-Encoding", b"identity"),
        ];
        let tag = self.fresh_tag();
        let bytes =
            wire::response(arrival.message, 200, "OK", Some(&tag), arrival.from, extra, None);
        self.transactions.respond(now, arrival.key, 200, bytes, &mut self.sent);
        Ok(())
    }

    /// Answers a request that will not be served.
    pub(crate) fn refuse(&mut self, now: Instant, arrival: Arrival<'_>, refusal: Refusal) {
        if refusal.is_silent() {
            return self.transactions.forget(arrival.key);
        }
        let tag = self.fresh_tag();
        let bytes = refusal.response(arrival.message, Some(&tag), arrival.from);
        self.transactions.respond(now, arrival.key, refusal.status, bytes, &mut self.sent);
        if refusal.status == 401 {
            // RFC 3261, 26.3.2.4: to challenge strangers takes no memory; should the request come again,
            // it is challenged again.
            self.transactions.forget(arrival.key);
        }
    }

    /// No transaction is left: a BYE still ends its call, all else is to come again.
    fn on_no_room(&mut self, now: Instant, flow: Flow, message: &Message<'_>, from: SocketAddr) {
        let is_bye = message.method() == Some(Method::Bye);
        let Some(leg) = self.leg_of(message).filter(|_| is_bye) else {
            return self.answer_statelessly(flow, message, from, 503);
        };
        let bytes = wire::response(message, 200, "OK", None, from, &[], None);
        self.sent.push(Sent { flow, bytes: bytes.into() });
        self.leave_by_bye(now, leg);
    }

    /// One answer without memory of it (RFC 3261, 8.2.7). An ACK and a response get none.
    fn answer_statelessly(
        &mut self,
        flow: Flow,
        message: &Message<'_>,
        from: SocketAddr,
        status: u16,
    ) {
        match message.start() {
            Start::Request { method: Method::Ack, .. } | Start::Response { .. } => {}
            Start::Request { .. } => {
                // Without a Via nobody could match the answer.
                if message.via().is_err() {
                    return;
                }
                let refusal = match status {
                    503 => Refusal::unavailable(RETRY_AFTER_S),
                    _ => Refusal::status(status),
                };
                // RFC 3261, 8.2.6.2: the answer has a To tag, the same for the request's repetitions.
                let branch = message.via().ok().and_then(|via| via.branch);
                let tag = branch.or(message.call_id().ok()).map(stateless_tag);
                let bytes = refusal.response(message, tag.as_deref(), from);
                self.sent.push(Sent { flow, bytes: bytes.into() });
            }
        }
    }

    pub(crate) fn on_fired(&mut self, now: Instant, event: Fired) {
        match event {
            Fired::ClientTimeout { key, user } => {
                self.on_client_timeout(now, key, LegRef::from_word(user));
            }
            Fired::NoAck { key, user } => self.on_no_ack(now, key, LegRef::from_word(user)),
            // The peer has its answer or will never; every request is answered at once.
            Fired::RefusalNotAcked { .. } | Fired::Unanswered { .. } => {}
        }
    }

    /// The leg that a request names by our tag in its To header, when the rest fits as well.
    pub(crate) fn leg_of(&self, message: &Message<'_>) -> Option<LegRef> {
        let tag = message.to().ok()?.tag()?;
        let found = parse_tag(tag)?;
        let leg = self.calls.leg(found)?;
        // RFC 3261, 12.2.2: Call-ID and both tags.
        leg.dialog.as_ref().is_some_and(|dialog| dialog.matches(message)).then_some(found)
    }

    /// A tag for an answer that makes no dialog (RFC 3261, 19.3: at least 32 bits of randomness).
    pub(crate) fn fresh_tag(&mut self) -> String {
        format!("{:016x}", self.rng.next_u64())
    }

    /// A tag that names the leg and cannot be guessed.
    pub(crate) fn leg_tag(&mut self, leg: LegRef) -> String {
        let CallRef { slot, generation } = leg.call;
        format!("{slot:x}.{generation:x}.{:x}.{:016x}", leg.leg, self.rng.next_u64())
    }
}

/// The leg that a message names by a tag of ours: a response, a request within a dialog, or an INVITE by its
/// Replaces.
fn leg_tagged(message: &Message<'_>) -> Option<LegRef> {
    match message.start() {
        Start::Response { .. } => parse_tag(message.from().ok()?.tag()?),
        Start::Request { method, .. } => match message.to().ok()?.tag() {
            Some(tag) => parse_tag(tag),
            None => {
                let named =
                    message.header(Header::Replaces).filter(|_| method == Method::Invite)?;
                parse_tag(&Replaces::parse(named)?.to_tag)
            }
        },
    }
}

/// A To tag that depends on the request alone (RFC 3261, 8.2.7).
pub(crate) fn stateless_tag(of: &[u8]) -> String {
    let hash = of.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    format!("{hash:016x}")
}

/// The leg named by a tag of ours.
pub(crate) fn parse_tag(tag: &[u8]) -> Option<LegRef> {
    let tag = std::str::from_utf8(tag).ok()?;
    let mut parts = tag.splitn(4, '.');
    let slot = u32::from_str_radix(parts.next()?, 16).ok()?;
    let generation = u32::from_str_radix(parts.next()?, 16).ok()?;
    let leg = u8::from_str_radix(parts.next()?, 16).ok()?;
    parts.next()?;
    Some(LegRef { call: CallRef { slot, generation }, leg })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn our_tag_names_its_leg() {
        let leg = LegRef { call: CallRef { slot: 0x1f, generation: 3 }, leg: 1 };
        assert_eq!(parse_tag(b"1f.3.1.0123456789abcdef"), Some(leg));
        for foreign in
            [&b""[..], b"abc", b"1f.3", b"1f.3.1", b"1f.3.100.a", b"x.3.1.a", b"\xff.1.1.1"]
        {
            assert_eq!(parse_tag(foreign), None, "{foreign:?}");
        }
    }
}

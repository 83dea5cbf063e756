//! Connections that end, and messages that cannot be sent.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::Duration;

use abi::{Counter, Outage, UnregisterCause};
use base::{AgentSlot, Channel, Instant, Transport};
use sip::transaction::{ClientKey, Sent};
use sip::wire::{self, Message, Method, reason_phrase};

use crate::Effect;
use crate::call::{Flow, LegRef, Phase};
use crate::intake::parse_tag;
use crate::refusal::Refusal;
use crate::trunks::WATCHER;
use crate::worker::Worker;

/// The longest request that goes in a datagram to a trunk, in bytes.
const LONGEST_DATAGRAM: usize = 1_300;
/// How many trunks without TCP are remembered.
const NO_TCP: usize = 64;
/// For how long, before TCP is tried again.
const NO_TCP_LASTS: Duration = Duration::from_secs(600);

/// Who is to hear of the end of a connection; by its number. A connection leaves it when it is closed.
pub(crate) type Connections = HashMap<u32, Watchers>;

/// Who relies on one connection.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    /// Agents whose phone registered by it, as far as they have not registered by another since.
    agents: Vec<AgentSlot>,
    /// Legs that were invited by it, as far as they have not answered since.
    ringing: Vec<LegRef>,
}

impl Worker {
    /// Somebody whom we know speaks by this connection.
    pub(crate) fn watch_connection(&mut self, channel: Channel) {
        if channel.connection != 0 {
            self.effects.push(Effect::Watch { connection: channel.connection });
        }
    }

    /// An agent's phone registered by this flow.
    pub(crate) fn watch_registered(&mut self, agent: AgentSlot, at: Flow) {
        if at.channel.connection == 0 {
            return;
        }
        let watchers = self.connections.entry(at.channel.connection).or_default();
        if !watchers.agents.contains(&agent) {
            watchers.agents.push(agent);
        }
        self.watch_connection(at.channel);
    }

    /// A leg was invited by this flow: should its connection end, nobody will answer.
    pub(crate) fn watch_ringing(&mut self, leg: LegRef, by: Flow) {
        if by.channel.connection == 0 {
            return;
        }
        let watchers = self.connections.entry(by.channel.connection).or_default();
        let calls = &self.calls;
        let rings = |leg: &LegRef| calls.leg(*leg).is_some_and(|leg| leg.phase == Phase::Outgoing);
        watchers.ringing.retain(rings);
        watchers.ringing.push(leg);
        self.watch_connection(by.channel);
    }

    /// A connection is closed: the phones that registered by it are not there, and do not ring.
    pub(crate) fn on_disconnected(&mut self, now: Instant, connection: u32) {
        let Some(Watchers { agents, ringing }) = self.connections.remove(&connection) else {
            return;
        };
        for agent in agents {
            let registration = self.region.registrations().read(agent);
            if registration.is_some_and(|row| row.channel().connection == connection) {
                self.unregister(agent, UnregisterCause::Disconnected);
            }
        }
        for leg in ringing {
            let entry = self.calls.leg(leg);
            let is_by_it = entry.is_some_and(|entry| entry.flow.channel.connection == connection);
            let inviting = entry.filter(|_| is_by_it).and_then(|entry| entry.inviting.as_ref());
            let found = inviting.map(|inviting| inviting.key).zip(entry.map(|entry| entry.flow));
            if let Some((key, flow)) = found {
                self.on_unreachable(now, key, leg, flow, Outage::Unreachable);
            }
        }
    }

    /// A message could not be sent by `flow`. A request goes by another way where its peer has one.
    pub(crate) fn on_unsent(&mut self, now: Instant, flow: Flow, outage: Outage, datagram: &[u8]) {
        let Ok(message) = wire::lex(datagram) else {
            return;
        };
        let sent = match message.method() {
            // Who asked is gone, and may ask again.
            None => return self.count(Counter::SipUnsent),
            Some(Method::Ack) => None,
            Some(_) => self.transactions.sent_request(&message),
        };
        let named = message.from().ok().and_then(|from| parse_tag(from.tag()?));
        let Some(leg) = sent.map(|(_, user)| LegRef::from_word(user)).or(named) else {
            return self.count(Counter::SipUnsent);
        };
        if let Some((key, _)) = sent
            && self.send_by_datagram(now, &message, key, leg, flow)
        {
            return;
        }
        match (self.other_way(now, leg, flow), sent) {
            (Some(other), Some((key, _))) => {
                self.transactions.send_by(now, key, datagram.into(), other, &mut self.sent);
            }
            (Some(flow), None) => self.sent.push(Sent { flow, bytes: datagram.into() }),
            (None, sent) => {
                self.count(Counter::SipUnsent);
                if let Some((key, _)) = sent {
                    self.on_unreachable(now, key, leg, flow, outage);
                }
            }
        }
    }

    /// Another way to a leg's peer than the one that failed, by the same transport: a phone may have registered
    /// again by another connection; to a trunk one is made.
    fn other_way(&self, now: Instant, leg: LegRef, failed: Flow) -> Option<Flow> {
        let entry = self.calls.leg(leg)?;
        let Channel { transport, connection, .. } = failed.channel;
        let Some(agent) = entry.agent() else {
            let channel = Channel { connection: 0, ..failed.channel };
            return (connection != 0).then_some(Flow { channel, ..failed });
        };
        let row = self.region.agents().read(agent)?;
        let (flow, _) = self.registered(now, agent, &row)?;
        let is_other = flow.channel.connection != connection && flow.channel.connection != 0;
        let is_alike = flow.channel.transport == transport && flow.location == failed.location;
        (is_other && is_alike).then_some(flow)
    }

    /// A request of ours cannot reach its peer: it is answered here, and its transaction is over.
    ///
    /// RFC 3261, 8.1.3.1: "If a fatal transport error is reported by the transport layer [...], the condition MUST be
    /// treated as a 503 (Service Unavailable) status code."
    fn on_unreachable(
        &mut self,
        now: Instant,
        key: ClientKey,
        leg: LegRef,
        flow: Flow,
        outage: Outage,
    ) {
        let Some(request) = self.transactions.request_of(key).map(<[u8]>::to_vec) else {
            return;
        };
        self.transactions.give_up(key);
        let Ok(request) = wire::lex(&request) else {
            return;
        };
        // A phone that lost its connection is away, and others may still be called.
        let is_agent = self.calls.leg(leg).is_some_and(|entry| entry.agent().is_some());
        let status = if is_agent { 480 } else { 503 };
        if leg.call == WATCHER {
            return self.on_trunk_answered(key, leg.leg, outage);
        }
        if request.method() == Some(Method::Options) {
            // Whether the peer lives was the question.
            return self.lose_leg(now, leg, &Refusal::status(status));
        }
        let reason = reason_phrase(status);
        let answer = wire::response(&request, status, reason, None, flow.peer, &[], None);
        if let Ok(answer) = wire::lex(&answer) {
            self.on_response(now, key, leg, flow, &answer);
        }
    }

    /// Sends a request. One to a trunk that is too long for datagrams goes over TCP.
    ///
    /// RFC 3261, 18.1.1: "If a request is within 200 bytes of the path MTU, or if it is larger than 1300 bytes and the
    /// path MTU is unknown, the request MUST be sent using an RFC 2914 congestion controlled transport protocol, such
    /// as TCP. If this causes a change in the transport protocol from the one indicated in the top Via, the value in
    /// the top Via MUST be changed."
    pub(crate) fn send_request(
        &mut self,
        now: Instant,
        method: Method<'_>,
        mut bytes: Vec<u8>,
        branch: &str,
        flow: Flow,
        leg: LegRef,
    ) -> Option<ClientKey> {
        let is_trunk = self.calls.leg(leg).is_some_and(|entry| entry.agent().is_none());
        let is_long = bytes.len() > LONGEST_DATAGRAM && is_trunk;
        let location = self.config.locations.get(usize::from(flow.location.0));
        let has_tcp = location.is_some_and(|location| location.streams.tcp);
        let may = flow.channel == Channel::UDP && has_tcp && !self.knows_no_tcp(now, flow.peer);
        let flow = match is_long && may && change_via(&mut bytes, Transport::Udp, Transport::Tcp) {
            true => Flow { channel: Channel::any(Transport::Tcp), ..flow },
            false => flow,
        };
        let (branch, word) = (branch.as_bytes(), leg.to_word());
        self.transactions.request(now, method, bytes, branch, flow, word, &mut self.sent).ok()
    }

    /// A request to a trunk that was too long for a datagram found no TCP there: it goes as one after all. False
    /// when it was another.
    ///
    /// RFC 3261, 18.1.1: "if the attempt to establish the connection generates either an ICMP Protocol Not Supported,
    /// or results in a TCP reset, the element SHOULD retry the request, using UDP."
    fn send_by_datagram(
        &mut self,
        now: Instant,
        message: &Message<'_>,
        key: ClientKey,
        leg: LegRef,
        failed: Flow,
    ) -> bool {
        let Some(entry) = self.calls.leg(leg) else { return false };
        let was_tcp = failed.channel.transport == Transport::Tcp;
        if entry.flow.channel.transport != Transport::Udp || !was_tcp || entry.agent().is_some() {
            return false;
        }
        let mut bytes = message.bytes().to_vec();
        if !change_via(&mut bytes, Transport::Tcp, Transport::Udp) {
            return false;
        }
        self.note_no_tcp(now, failed.peer);
        let flow = Flow { channel: Channel::UDP, ..failed };
        self.transactions.send_by(now, key, bytes.into(), flow, &mut self.sent);
        true
    }

    fn knows_no_tcp(&self, now: Instant, peer: SocketAddr) -> bool {
        let mut known = self.no_tcp.iter();
        known.any(|(at, until)| *at == peer && now < *until)
    }

    fn note_no_tcp(&mut self, now: Instant, peer: SocketAddr) {
        self.no_tcp.retain(|(at, until)| *at != peer && now < *until);
        if self.no_tcp.len() >= NO_TCP {
            self.no_tcp.pop_front();
        }
        self.no_tcp.push_back((peer, now + NO_TCP_LASTS));
    }
}

/// Changes the transport of our own Via, the first of a request that we made.
fn change_via(request: &mut [u8], from: Transport, to: Transport) -> bool {
    let via = |transport: Transport| format!("\r\nVia: SIP/2.0/{} ", transport.token());
    let (old, new) = (via(from), via(to));
    let Some(at) = request.windows(old.len()).position(|bytes| bytes == old.as_bytes()) else {
        return false;
    };
    match request.get_mut(at..at + new.len()).filter(|_| old.len() == new.len()) {
        Some(place) => {
            place.copy_from_slice(new.as_bytes());
            true
        }
        None => false,
    }
}

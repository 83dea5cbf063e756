//! Connections that end, and messages that cannot be sent.

use std::collections::HashMap;

use abi::{Counter, UnregisterCause};
use base::{AgentSlot, Channel, Instant};
use sip::transaction::{ClientKey, Sent};
use sip::wire::{self, Method};

use crate::Effect;
use crate::call::{Flow, LegRef, Phase};
use crate::intake::parse_tag;
use crate::refusal::{RETRY_AFTER_S, Refusal};
use crate::worker::Worker;

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
            if let Some(key) = inviting.map(|inviting| inviting.key) {
                self.transactions.give_up(key);
                self.on_unreachable(now, key, leg);
            }
        }
    }

    /// A message could not be sent by `flow`. A request goes by another way where its peer has one.
    pub(crate) fn on_unsent(&mut self, now: Instant, flow: Flow, datagram: &[u8]) {
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
        match (self.other_way(now, leg, flow), sent) {
            (Some(other), Some((key, _))) => self.transactions.send_by(key, other, &mut self.sent),
            (Some(flow), None) => self.sent.push(Sent { flow, bytes: datagram.into() }),
            (None, sent) => {
                self.count(Counter::SipUnsent);
                if let Some((key, _)) = sent {
                    self.transactions.give_up(key);
                    self.on_unreachable(now, key, leg);
                }
            }
        }
    }

    /// Another way to a leg's peer than the one that failed, by the same transport: a phone may have registered
    /// again by another connection; to a trunk one is made.
    fn other_way(&self, now: Instant, leg: LegRef, failed: Flow) -> Option<Flow> {
        let entry = self.calls.leg(leg)?;
        let Channel { transport, connection } = failed.channel;
        let Some(agent) = entry.agent() else {
            return (connection != 0).then(|| Flow::of(failed.location, transport, failed.peer));
        };
        let row = self.region.agents().read(agent)?;
        let (flow, _) = self.registered(now, agent, &row)?;
        let is_other = flow.channel.connection != connection && flow.channel.connection != 0;
        let is_alike = flow.channel.transport == transport && flow.location == failed.location;
        (is_other && is_alike).then_some(flow)
    }

    /// A request of ours cannot reach its peer, and its transaction is over.
    ///
    /// RFC 3261, 8.1.3.1: "If a fatal transport error is reported by the transport layer [...], the condition MUST be
    /// treated as a 503 (Service Unavailable) status code."
    fn on_unreachable(&mut self, now: Instant, key: ClientKey, leg: LegRef) {
        let Some(entry) = self.calls.leg(leg) else {
            return;
        };
        // A phone that lost its connection is away; the others may still be called.
        let refusal = match entry.agent() {
            Some(_) => Refusal::status(480),
            None => Refusal::unavailable(RETRY_AFTER_S),
        };
        let was_invite = entry.inviting.as_ref().is_some_and(|inviting| inviting.key == key);
        match entry.phase {
            Phase::Leaving => self.leg_gone(leg),
            Phase::Outgoing if was_invite => {
                self.leg_gone(leg);
                self.end_call(now, leg.call, &refusal);
            }
            // The session stays as it was; the peer may come back by another connection.
            Phase::Established if was_invite => {
                self.on_reinvite_refused(now, leg, refusal.status);
            }
            Phase::Established => self.end_call(now, leg.call, &refusal),
            Phase::Incoming | Phase::Outgoing | Phase::Gone => {}
        }
    }
}

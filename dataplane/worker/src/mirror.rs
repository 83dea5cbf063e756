//! Copies of signalling: for a capture server, and for the traces that administrators ask for.
//!
//! Off, it costs a look at a flag for each message. On, messages of a turn are noted as they come, and
//! judged when the turn is over and known is which calls they belong to.

use std::collections::{HashMap, HashSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use abi::{Counter, OpResult};
use base::{CallRef, Instant, Transport};
use sip::hep::{self, Capture};
use sip::transaction::Sent;
use sip::wire::{self, Message, Method, Uri};

use crate::Effect;
use crate::call::{Flow, Number};
use crate::worker::Worker;

/// Traces at a time.
const TRACES: usize = 4;
/// Dialogs of calls that are remembered by their Call-IDs, and for each trace those that matched by a
/// number before there was a call; more go without.
const DIALOGS: usize = 131_072;
const EARLY_DIALOGS: usize = 1_024;
/// Messages of a call that is over still come for as long as a transaction lives (RFC 3261, 17: 64*T1).
const LINGER: Duration = Duration::from_secs(40);

/// What a worker shows of its signalling.
#[derive(Debug, Default)]
pub(crate) struct Mirror {
    /// True where there is a capture server.
    captures: bool,
    traces: Vec<Trace>,
    /// What came in this turn, in order.
    received: Vec<(Flow, Arc<[u8]>)>,
    /// The calls by the Call-IDs of their legs.
    calls: HashMap<Arc<[u8]>, Known>,
    /// When it is to be looked whether these stand still.
    checks: VecDeque<(Instant, Arc<[u8]>)>,
}

/// What is known of a call by the Call-ID of one of its legs.
#[derive(Clone, Debug)]
struct Known {
    call: CallRef,
    serial: u64,
    /// The called number, and those of the parties.
    numbers: Vec<Number>,
}

/// A trace that an administrator asked for.
#[derive(Debug)]
pub(crate) struct Trace {
    id: u32,
    to: SocketAddr,
    until: Instant,
    filter: Filter,
    /// Call-IDs that matched before there was a call.
    early: HashSet<Vec<u8>>,
}

#[derive(Debug)]
enum Filter {
    All,
    Call(u64),
    Number(Vec<u8>),
}

/// A copy of a SIP message on its way to who wants it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mirrored {
    /// The address of a trace; none for the capture server.
    pub to: Option<SocketAddr>,
    /// When it was received or sent.
    pub at: Instant,
    /// Who sent it.
    pub source: SocketAddr,
    /// To whom.
    pub destination: SocketAddr,
    /// By what.
    pub transport: Transport,
    /// The serial number of its call; 0 when it belongs to none.
    pub serial: u64,
    /// The message as it was on the wire.
    pub message: Arc<[u8]>,
}

impl Mirrored {
    /// The HEP3 packet, in which proofs and keys are masked. `unix` is the time of `at` since 1970, `agent`
    /// the number of who captured. None when the message is too long for a packet.
    pub fn packet(&self, unix: Duration, agent: u32) -> Option<Vec<u8>> {
        let mut payload = self.message.to_vec();
        hep::mask(&mut payload);
        let serial = format!("{:020}", self.serial);
        let capture = Capture {
            from: self.source,
            to: self.destination,
            transport: self.transport,
            at: unix,
            agent,
            correlation: if self.serial == 0 { b"" } else { serial.as_bytes() },
            payload: &payload,
        };
        capture.encode()
    }
}

impl Trace {
    /// A trace as control orders it: by a serial number, else by a number, else of all.
    pub(crate) fn new(id: u32, to: SocketAddr, until: u64, serial: u64, number: &[u8]) -> Trace {
        let filter = match (serial, number) {
            (0, []) => Filter::All,
            (0, number) => Filter::Number(number.to_vec()),
            (serial, _) => Filter::Call(serial),
        };
        Trace { id, to, until: Instant::from_nanos(until), filter, early: HashSet::new() }
    }

    fn wants(&mut self, message: &Message<'_>, call_id: &[u8], known: Option<&Known>) -> bool {
        match (&self.filter, known) {
            (Filter::All, _) => true,
            (Filter::Call(serial), known) => known.is_some_and(|known| known.serial == *serial),
            (Filter::Number(number), Some(known)) => {
                known.numbers.iter().any(|one| one.as_bytes() == number)
                    || self.early.contains(call_id)
            }
            // An INVITE before its challenge, or of a call that is refused: by what it says itself.
            (Filter::Number(number), None) => {
                let is_new = message.method() == Some(Method::Invite) && names(message, number);
                if is_new && self.early.len() < EARLY_DIALOGS {
                    self.early.insert(call_id.to_vec());
                }
                is_new || self.early.contains(call_id)
            }
        }
    }
}

/// True when a request is from or to that number, or to `number.tenant` of it.
fn names(message: &Message<'_>, number: &[u8]) -> bool {
    let user = |uri: &[u8]| Uri::parse(uri).is_ok_and(|uri| is_user(uri.user, number));
    let from = message.from().is_ok_and(|from| user(from.uri));
    let to = message.to().is_ok_and(|to| user(to.uri));
    from || to || message.request_uri().is_some_and(user)
}

fn is_user(user: &[u8], number: &[u8]) -> bool {
    matches!(user.strip_prefix(number), Some([] | [b'.', ..]))
}

impl Mirror {
    fn is_on(&self) -> bool {
        self.captures || !self.traces.is_empty()
    }

    /// Notes a message that came to the worker that owns it.
    pub(crate) fn note_received(&mut self, came: Flow, message: &Message<'_>) {
        if self.is_on() {
            self.received.push((came, message.bytes().into()));
        }
    }

    /// Ends what is past; nothing is remembered while nobody looks.
    fn expire(&mut self, now: Instant) {
        self.traces.retain(|trace| trace.until > now);
        if !self.is_on() {
            *self = Mirror::default();
        }
    }
}

impl Worker {
    /// From here on a copy of every SIP message goes to the capture server.
    pub fn capture(&mut self) {
        self.mirror.captures = true;
        self.learn_calls(Instant::ZERO);
    }

    /// Control orders a trace, changes one or ends one.
    pub(crate) fn on_trace(&mut self, now: Instant, trace: Trace) -> OpResult {
        let was_on = self.mirror.is_on();
        self.mirror.traces.retain(|one| one.id != trace.id);
        self.mirror.expire(now);
        if trace.until <= now {
            return OpResult::Ok;
        }
        if self.mirror.traces.len() >= TRACES {
            return OpResult::Full;
        }
        self.mirror.traces.push(trace);
        if !was_on {
            self.learn_calls(now);
        }
        OpResult::Ok
    }

    fn learn_calls(&mut self, now: Instant) {
        let calls: Vec<CallRef> = self.calls.iter().map(|call| call.id).collect();
        calls.into_iter().for_each(|call| self.learn_call(now, call));
    }

    /// Remembers the Call-IDs of a call's legs.
    pub(crate) fn learn_call(&mut self, now: Instant, call: CallRef) {
        if !self.mirror.is_on() {
            return;
        }
        let Some(entry) = self.calls.find(call) else { return };
        let calls = &mut self.mirror.calls;
        let is_known = |call_id: &[u8]| calls.get(call_id).is_some_and(|known| known.call == call);
        let is_old = entry.legs.iter().all(|leg| leg.call_id.is_empty() || is_known(&leg.call_id));
        if is_old || calls.len() + entry.legs.len() > DIALOGS {
            return;
        }
        let numbers = entry.legs.iter().map(|leg| leg.who).chain([entry.called]);
        let known = Known { call, serial: entry.serial, numbers: numbers.collect() };
        for leg in entry.legs.iter().filter(|leg| !leg.call_id.is_empty()) {
            let call_id: Arc<[u8]> = (*leg.call_id).into();
            if calls.insert(call_id.clone(), known.clone()).is_none() {
                self.mirror.checks.push_back((now + LINGER, call_id));
            }
        }
    }

    /// Shows what came and what goes out in this turn to who wants it.
    pub(crate) fn mirror_turn(&mut self, now: Instant, sent: &[Sent<Flow>]) {
        if !self.mirror.is_on() {
            return;
        }
        let mut received = std::mem::take(&mut self.mirror.received);
        for (flow, bytes) in received.drain(..) {
            self.mirror_one(now, flow, true, &bytes);
        }
        self.mirror.received = received;
        for one in sent {
            self.mirror_one(now, one.flow, false, &one.bytes);
        }
        self.forget_dialogs(now);
        self.mirror.expire(now);
    }

    fn mirror_one(&mut self, now: Instant, flow: Flow, came: bool, bytes: &[u8]) {
        let Ok(message) = wire::lex(bytes) else { return };
        let call_id = message.call_id().unwrap_or_default();
        let known = self.mirror.calls.get(call_id);
        let serial = known.map_or(0, |known| known.serial);
        let mut wanted: Vec<Option<SocketAddr>> = Vec::new();
        wanted.extend(self.mirror.captures.then_some(None));
        for trace in self.mirror.traces.iter_mut().filter(|trace| trace.until > now) {
            wanted.extend(trace.wants(&message, call_id, known).then_some(Some(trace.to)));
        }
        if wanted.is_empty() {
            return;
        }
        let ours = self.address_of(flow);
        let (source, destination) = if came { (flow.peer, ours) } else { (ours, flow.peer) };
        let transport = flow.channel.transport;
        let message: Arc<[u8]> = bytes.into();
        for to in wanted {
            let message = message.clone();
            let copy = Mirrored { to, at: now, source, destination, transport, serial, message };
            self.effects.push(Effect::Mirror(Box::new(copy)));
            self.count(Counter::SipMirrored);
        }
    }

    fn forget_dialogs(&mut self, now: Instant) {
        while self.mirror.checks.front().is_some_and(|(at, _)| *at <= now) {
            let Some((_, call_id)) = self.mirror.checks.pop_front() else { return };
            let known = self.mirror.calls.get(&call_id);
            if known.is_some_and(|known| self.calls.find(known.call).is_some()) {
                self.mirror.checks.push_back((now + LINGER, call_id));
            } else {
                self.mirror.calls.remove(&call_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_named_with_or_without_its_tenant() {
        for (user, is_it) in
            [("1001", true), ("1001.demo", true), ("10012", false), ("100", false), ("", false)]
        {
            assert_eq!(is_user(user.as_bytes(), b"1001"), is_it, "{user}");
        }
    }
}

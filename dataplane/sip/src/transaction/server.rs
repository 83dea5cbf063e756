//! The requests that come in: the INVITE machine and the other one behind one table.

use core::time::Duration;
use std::rc::Rc;

use base::Instant;

use super::action::{Action, T2, Timer, first_of};
use super::{
    Fired, Hop, Owner, Received, Sent, ServerKey, Transactions, key, server_invite, server_other,
};
use crate::wire::{Message, Method};

/// How many timers may wait for each transaction that there may be. Those of one that is over wait
/// on until they are due, 64*T1 at most; in that time a place is used again after T4 at the
/// earliest, seven times, for which two timers each of either side are enough. Only requests that
/// the user forgets come faster, and they are bounded by this.
const TIMERS_EACH: usize = 32;

/// A request that came.
pub(super) struct Server<F> {
    machine: Machine,
    key: Box<[u8]>,
    /// Finds the ACK to a refusal when the INVITE's branch is not of RFC 3261.
    old_ack: Option<OldAck>,
    /// Its place in the index of those that may be merged.
    merge: Option<Box<[u8]>>,
    user: u64,
    flow: F,
    /// The response sent last.
    response: Option<Rc<[u8]>>,
    /// A 100 that waits.
    trying: Option<Rc<[u8]>>,
    /// The interval of the timer that repeats; each machine has one at most.
    interval: Duration,
}

/// The key of the ACK of RFC 2543: it has the To tag of the response, so it is known only then.
struct OldAck {
    key: Vec<u8>,
    known: bool,
}

#[derive(Clone, Copy)]
enum Machine {
    Invite(server_invite::State),
    Other(server_other::State),
}

/// What the actions of a step leave to the caller.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    pass: bool,
    gave_up: bool,
}

impl<F: Hop> Transactions<F> {
    /// Sends a response on the flow of its request, and again as often as needed: a final response
    /// when the request comes again, a refusal of an INVITE until its ACK, a 2xx to an INVITE until
    /// [`Self::acked`]. False, and nothing sent, when a final response went before or the
    /// transaction is over; further 2xx to an INVITE go out nevertheless (RFC 6026, 7.1).
    pub fn respond(
        &mut self,
        now: Instant,
        key: ServerKey,
        status: u16,
        bytes: Vec<u8>,
        out: &mut Vec<Sent<F>>,
    ) -> bool {
        let Some(server) = self.servers.get_mut(key.0) else {
            return false;
        };
        let actions = server.machine.respond(status);
        if actions.is_empty() {
            return false;
        }
        let is_invite = matches!(server.machine, Machine::Invite(_));
        if status == 100 && is_invite && !self.trying_after.is_zero() {
            if server.response.is_none() {
                server.trying = Some(Rc::from(bytes));
                self.timers.set(now + self.trying_after, (Owner::Server(key), Timer::Trying));
            }
            return true;
        }
        server.trying = None;
        if status >= 300
            && let Some(old_ack) = &mut server.old_ack
            && key::finish_old_ack(&mut old_ack.key, &bytes)
        {
            old_ack.known = true;
            self.server_index.insert(Box::from(old_ack.key.as_slice()), key.0);
        }
        server.response = Some(Rc::from(bytes));
        self.act_server(now, key, actions, false, out);
        true
    }

    /// The user saw the ACK to its 2xx, or waits for it no more: the 2xx is not sent again, and
    /// there will be no [`Fired::NoAck`].
    pub fn acked(&mut self, key: ServerKey) {
        if let Some(server) = self.servers.get_mut(key.0)
            && let Machine::Invite(state) = &mut server.machine
        {
            let (next, actions) = server_invite::step(*state, server_invite::Event::Acknowledged);
            debug_assert!(actions.is_empty(), "nothing is sent for an ACK");
            *state = next;
        }
    }

    /// True when a final response was given, or the transaction is over.
    pub fn answered(&self, key: ServerKey) -> bool {
        self.servers.get(key.0).is_none_or(|server| {
            !matches!(
                server.machine,
                Machine::Invite(server_invite::State::Proceeding)
                    | Machine::Other(server_other::State::Trying | server_other::State::Proceeding)
            )
        })
    }

    /// Keeps a word of the user's, which comes back when the transaction ends unfinished.
    pub fn set_user(&mut self, key: ServerKey, user: u64) {
        if let Some(server) = self.servers.get_mut(key.0) {
            server.user = user;
        }
    }

    /// The word of [`Self::set_user`], or 0 when there is none; nothing when the transaction is
    /// over.
    pub fn user(&self, key: ServerKey) -> Option<u64> {
        self.servers.get(key.0).map(|server| server.user)
    }

    /// The flow of the request, while its transaction lives.
    pub fn flow(&self, key: ServerKey) -> Option<F> {
        self.servers.get(key.0).map(|server| server.flow)
    }

    /// Frees the place of a request that the user will not answer; should it come again, it is new.
    pub fn forget(&mut self, key: ServerKey) {
        self.remove_server(key);
    }

    pub(super) fn receive_request(
        &mut self,
        now: Instant,
        message: &Message<'_>,
        method: Method<'_>,
        flow: F,
        out: &mut Vec<Sent<F>>,
    ) -> Received {
        // The ACK to a refusal belongs to the transaction of its INVITE; that to a 2xx has none.
        let purpose = match method {
            Method::Ack => key::Purpose::Ack,
            _ => key::Purpose::Request(method),
        };
        if !key::server(&mut self.scratch, message, purpose) {
            return Received::Malformed;
        }
        let found = self.server_index.get(self.scratch.as_slice()).map(|&place| ServerKey(place));
        let Some(key) = found else {
            return match method {
                Method::Ack => Received::Ack,
                _ => self.start_server(now, message, method, flow, out),
            };
        };
        let Some(server) = self.servers.get_mut(key.0) else {
            return Received::Absorbed;
        };
        let actions = server.machine.request(method);
        let is_again = !server.say_trying();
        let outcome = self.act_server(now, key, actions, is_again, out);
        if outcome.pass { Received::Ack } else { Received::Absorbed }
    }

    pub(super) fn server_fires(
        &mut self,
        now: Instant,
        key: ServerKey,
        timer: Timer,
        out: &mut Vec<Sent<F>>,
    ) -> Option<Fired> {
        let server = self.servers.get_mut(key.0)?;
        if timer == Timer::Trying && !server.say_trying() {
            return None;
        }
        let before = server.machine;
        let actions = server.machine.fire(timer);
        let user = server.user;
        let outcome = self.act_server(now, key, actions, timer != Timer::Trying, out);
        outcome.gave_up.then_some(match before {
            Machine::Invite(server_invite::State::Accepted) => Fired::NoAck { key, user },
            Machine::Invite(_) => Fired::RefusalNotAcked { key, user },
            Machine::Other(_) => Fired::Unanswered { key, user },
        })
    }

    /// Makes the transaction of the request whose key is in `scratch`.
    fn start_server(
        &mut self,
        now: Instant,
        message: &Message<'_>,
        method: Method<'_>,
        flow: F,
        out: &mut Vec<Sent<F>>,
    ) -> Received {
        if self.timers.len() >= self.limit as usize * TIMERS_EACH {
            return Received::Full;
        }
        let (machine, start): (Machine, &[Action]) = match method {
            Method::Invite => {
                (Machine::Invite(server_invite::State::Proceeding), server_invite::START)
            }
            _ => (Machine::Other(server_other::State::Trying), server_other::START),
        };
        let key: Box<[u8]> = Box::from(self.scratch.as_slice());
        let old_ack = match method {
            Method::Invite => key::begin_old_ack(message),
            _ => None,
        };
        let merge = match method {
            Method::Invite => key::merge(message),
            _ => None,
        };
        let is_merged = merge.as_ref().is_some_and(|merge| self.merge_index.contains_key(merge));
        let merge = merge.filter(|_| !is_merged);
        let inserted = self.servers.insert(Server {
            machine,
            key: key.clone(),
            merge: merge.clone(),
            old_ack: old_ack.map(|key| OldAck { key, known: false }),
            user: 0,
            flow,
            response: None,
            trying: None,
            interval: Duration::ZERO,
        });
        let Ok(place) = inserted else {
            return Received::Full;
        };
        self.server_index.insert(key, place);
        if let Some(merge) = merge {
            self.merge_index.insert(merge, place);
        }
        let server = ServerKey(place);
        let outcome = self.act_server(now, server, start, false, out);
        debug_assert!(outcome.pass, "a new request is passed to the user");
        match method {
            _ if is_merged => Received::Merged(server),
            Method::Cancel => Received::Cancel { server, invite: self.cancelled_by(message) },
            _ => Received::Request(server),
        }
    }

    /// The INVITE that a CANCEL means (9.2): its key is the CANCEL's, but for the method.
    fn cancelled_by(&mut self, cancel: &Message<'_>) -> Option<ServerKey> {
        let purpose = key::Purpose::Request(Method::Invite);
        if !key::server(&mut self.scratch, cancel, purpose) {
            return None;
        }
        self.server_index.get(self.scratch.as_slice()).map(|&place| ServerKey(place))
    }

    /// Does what a step of the machine asked; `again` when what it sends was sent before.
    fn act_server(
        &mut self,
        now: Instant,
        key: ServerKey,
        actions: &[Action],
        again: bool,
        out: &mut Vec<Sent<F>>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(server) = self.servers.get_mut(key.0) else {
            return outcome;
        };
        for &action in actions {
            match action {
                Action::Send => {
                    // An INVITE that comes again before any response to it gets none now either.
                    if let Some(response) = &server.response {
                        self.retransmissions += u64::from(again);
                        out.push(Sent { flow: server.flow, bytes: Rc::clone(response) });
                    }
                }
                Action::Pass => outcome.pass = true,
                Action::GiveUp => outcome.gave_up = true,
                Action::Start(timer) | Action::Repeat(timer) | Action::RepeatSlowly(timer) => {
                    let after = match action {
                        Action::Repeat(_) => timer.next(server.interval),
                        Action::RepeatSlowly(_) => T2,
                        _ => match first_of(timer, server.flow.is_reliable()) {
                            Some(first) => first,
                            None => continue,
                        },
                    };
                    if timer.repeats() {
                        server.interval = after;
                    }
                    self.timers.set(now + after, (Owner::Server(key), timer));
                }
                Action::Ack => debug_assert!(false, "a server sends no ACK"),
            }
        }
        if server.machine.is_over() {
            self.remove_server(key);
        }
        outcome
    }

    fn remove_server(&mut self, key: ServerKey) {
        let Some(server) = self.servers.remove(key.0) else {
            return;
        };
        self.server_index.remove(&server.key);
        if let Some(merge) = server.merge {
            self.merge_index.remove(&merge);
        }
        if let Some(old_ack) = server.old_ack.filter(|old_ack| old_ack.known)
            && self.server_index.get(old_ack.key.as_slice()) == Some(&key.0)
        {
            self.server_index.remove(old_ack.key.as_slice());
        }
    }
}

impl<F> Server<F> {
    /// The 100 waits no more; false when none waited.
    fn say_trying(&mut self) -> bool {
        let trying = self.trying.take();
        let is_there = trying.is_some();
        self.response = trying.or(self.response.take());
        is_there
    }
}

impl Machine {
    /// The request came again, or the ACK to it.
    fn request(&mut self, method: Method<'_>) -> &'static [Action] {
        match self {
            Machine::Invite(state) => {
                let event = match method {
                    Method::Ack => server_invite::Event::Ack,
                    _ => server_invite::Event::Invite,
                };
                let (next, actions) = server_invite::step(*state, event);
                *state = next;
                actions
            }
            Machine::Other(state) => {
                let (next, actions) = server_other::step(*state, server_other::Event::Request);
                *state = next;
                actions
            }
        }
    }

    fn respond(&mut self, status: u16) -> &'static [Action] {
        match self {
            Machine::Invite(state) => {
                let event = match status {
                    ..200 => server_invite::Event::Provisional,
                    200..300 => server_invite::Event::Success,
                    300.. => server_invite::Event::Refusal,
                };
                let (next, actions) = server_invite::step(*state, event);
                *state = next;
                actions
            }
            Machine::Other(state) => {
                let event = match status {
                    ..200 => server_other::Event::Provisional,
                    200.. => server_other::Event::Final,
                };
                let (next, actions) = server_other::step(*state, event);
                *state = next;
                actions
            }
        }
    }

    fn fire(&mut self, timer: Timer) -> &'static [Action] {
        match self {
            Machine::Invite(state) => {
                let (next, actions) =
                    server_invite::step(*state, server_invite::Event::Fired(timer));
                *state = next;
                actions
            }
            Machine::Other(state) => {
                let (next, actions) = server_other::step(*state, server_other::Event::Fired(timer));
                *state = next;
                actions
            }
        }
    }

    fn is_over(self) -> bool {
        matches!(
            self,
            Machine::Invite(server_invite::State::Terminated)
                | Machine::Other(server_other::State::Terminated)
        )
    }
}

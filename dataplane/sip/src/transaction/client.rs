//! The requests that go out: the INVITE machine and the other one behind one table.

use core::time::Duration;
use std::rc::Rc;

use base::Instant;

use super::action::{Action, LIFE, T2, Timer, first_of};
use super::{
    Cancelling, ClientKey, Fired, Full, Hop, Owner, Received, Sent, Transactions, build,
    client_invite, client_other, key,
};
use crate::wire::{self, Message, Method};

/// A request that was sent.
pub(super) struct Client<F> {
    machine: Machine,
    key: Box<[u8]>,
    purpose: Purpose,
    flow: F,
    request: Rc<[u8]>,
    /// The ACK to the refusal, once there is one (17.1.1.3).
    ack: Option<Rc<[u8]>>,
    /// The interval of the timer that repeats; each machine has one at most.
    interval: Duration,
    cancel: Cancel,
    /// The values of Reason in its CANCEL (RFC 3326).
    reasons: Vec<Vec<u8>>,
}

#[derive(Clone, Copy)]
enum Machine {
    Invite(client_invite::State),
    Other(client_other::State),
}

/// Who sent the request.
#[derive(Clone, Copy, Debug)]
enum Purpose {
    /// The user, with its word.
    User(u64),
    /// The layer: it is the CANCEL to a request of the user, who cares for that one's end only.
    Cancel,
}

/// What it takes to send a request.
struct Order<'a, F> {
    method: Method<'a>,
    branch: &'a [u8],
    request: Rc<[u8]>,
    flow: F,
    purpose: Purpose,
}

/// What became of the user's wish to cancel (9.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Cancel {
    Unwanted,
    Held,
    Sent,
}

/// What the actions of a step leave to the caller.
#[derive(Clone, Copy, Debug, Default)]
struct Outcome {
    pass: bool,
    gave_up: bool,
}

impl<F: Hop> Transactions<F> {
    /// Sends a request, never an ACK, and keeps on until it is answered. `branch` is that of its
    /// top Via and new (8.1.1.7); `user` comes back with each response and timeout.
    #[expect(clippy::too_many_arguments, reason = "a request has that many sides")]
    pub fn request(
        &mut self,
        now: Instant,
        method: Method<'_>,
        bytes: Vec<u8>,
        branch: &[u8],
        flow: F,
        user: u64,
        out: &mut Vec<Sent<F>>,
    ) -> Result<ClientKey, Full> {
        debug_assert!(method != Method::Ack, "an ACK has no transaction");
        if self.clients.len() >= self.limit as usize {
            return Err(Full);
        }
        let request = Rc::from(bytes);
        let order = Order { method, branch, request, flow, purpose: Purpose::User(user) };
        self.start_client(now, order, out)
    }

    /// A request as it was sent, while its transaction lives.
    pub fn request_of(&self, key: ClientKey) -> Option<&[u8]> {
        self.clients.get(key.0).map(|client| &*client.request)
    }

    /// Cancels an INVITE that has no final response (9.1). One that was not sent by
    /// [`Self::request`], or is no INVITE, is too late.
    pub fn cancel(&mut self, now: Instant, key: ClientKey, out: &mut Vec<Sent<F>>) -> Cancelling {
        self.cancel_because(now, key, &[], out)
    }

    /// The same, and the CANCEL says why by these values of Reason (RFC 3326).
    pub fn cancel_because(
        &mut self,
        now: Instant,
        key: ClientKey,
        reasons: &[Vec<u8>],
        out: &mut Vec<Sent<F>>,
    ) -> Cancelling {
        let Some(client) = self.clients.get_mut(key.0) else {
            return Cancelling::TooLate;
        };
        if client.cancel == Cancel::Unwanted {
            client.reasons = reasons.to_vec();
        }
        match (client.machine, client.cancel) {
            // "If no provisional response has been received, the CANCEL request MUST NOT be sent".
            (Machine::Invite(client_invite::State::Calling), _) => {
                client.cancel = Cancel::Held;
                Cancelling::Held
            }
            (Machine::Invite(client_invite::State::Proceeding), Cancel::Sent) => Cancelling::Sent,
            (Machine::Invite(client_invite::State::Proceeding), _) => {
                self.send_cancel(now, key, out);
                Cancelling::Sent
            }
            _ => Cancelling::TooLate,
        }
    }

    /// The transaction of a request as it was sent, and the user's word; none when it is over, or the layer's own.
    pub fn sent_request(&mut self, request: &Message<'_>) -> Option<(ClientKey, u64)> {
        let branch = request.via().ok()?.branch?;
        key::client(&mut self.scratch, request.method()?, branch);
        let place = *self.client_index.get(self.scratch.as_slice())?;
        match self.clients.get(place)?.purpose {
            Purpose::User(user) => Some((ClientKey(place), user)),
            Purpose::Cancel => None,
        }
    }

    /// Sends a request once more, by another flow and with the Via of that; so go its CANCEL and its ACK.
    pub fn send_by(
        &mut self,
        now: Instant,
        key: ClientKey,
        request: Rc<[u8]>,
        flow: F,
        out: &mut Vec<Sent<F>>,
    ) {
        let Some(client) = self.clients.get_mut(key.0) else {
            return;
        };
        let repeats = match client.machine {
            Machine::Invite(client_invite::State::Calling) => Some(Timer::A),
            Machine::Other(client_other::State::Trying) => Some(Timer::E),
            _ => None,
        };
        let begins = client.flow.is_reliable();
        let first = repeats.and_then(|timer| Some((timer, first_of(timer, flow.is_reliable())?)));
        (client.flow, client.request) = (flow, Rc::clone(&request));
        out.push(Sent { flow, bytes: request });
        if let Some((timer, after)) = first.filter(|_| begins) {
            client.interval = after;
            self.timers.set(now + after, (Owner::Client(key), timer));
        }
    }

    /// Ends the transaction of a request that cannot be sent, without another word.
    ///
    /// RFC 3261, 17.1.4: "The client transaction SHOULD inform the TU that a transport failure has occurred, and
    /// the client transaction SHOULD transition directly to the "Terminated" state."
    pub fn give_up(&mut self, key: ClientKey) {
        self.remove_client(key);
    }

    pub(super) fn receive_response(
        &mut self,
        now: Instant,
        message: &Message<'_>,
        status: u16,
        out: &mut Vec<Sent<F>>,
    ) -> Received {
        let (Ok(via), Ok(cseq)) = (message.via(), message.cseq()) else {
            return Received::Malformed;
        };
        let Some(branch) = via.branch else {
            return Received::StrayResponse;
        };
        key::client(&mut self.scratch, cseq.method, branch);
        let Some(&place) = self.client_index.get(self.scratch.as_slice()) else {
            return Received::StrayResponse;
        };
        let key = ClientKey(place);
        let Some(client) = self.clients.get_mut(place) else {
            return Received::StrayResponse;
        };
        let actions = client.machine.response(status);
        let purpose = client.purpose;
        let outcome = self.act_client(now, key, actions, Some(message), false, out);
        self.send_held_cancel(now, key, out);
        match purpose {
            Purpose::User(user) if outcome.pass => Received::Response { key, user },
            Purpose::User(_) | Purpose::Cancel => Received::Absorbed,
        }
    }

    pub(super) fn client_fires(
        &mut self,
        now: Instant,
        key: ClientKey,
        timer: Timer,
        out: &mut Vec<Sent<F>>,
    ) -> Option<Fired> {
        let client = self.clients.get_mut(key.0)?;
        let actions = client.machine.fire(timer);
        let purpose = client.purpose;
        let outcome = self.act_client(now, key, actions, None, true, out);
        match purpose {
            Purpose::User(user) if outcome.gave_up => Some(Fired::ClientTimeout { key, user }),
            Purpose::User(_) | Purpose::Cancel => None,
        }
    }

    fn start_client(
        &mut self,
        now: Instant,
        order: Order<'_, F>,
        out: &mut Vec<Sent<F>>,
    ) -> Result<ClientKey, Full> {
        let (machine, start) = match order.method {
            Method::Invite => {
                (Machine::Invite(client_invite::State::Calling), client_invite::START)
            }
            _ => (Machine::Other(client_other::State::Trying), client_other::START),
        };
        key::client(&mut self.scratch, order.method, order.branch);
        let key: Box<[u8]> = Box::from(self.scratch.as_slice());
        let place = self
            .clients
            .insert(Client {
                machine,
                key: key.clone(),
                purpose: order.purpose,
                flow: order.flow,
                request: order.request,
                ack: None,
                interval: Duration::ZERO,
                cancel: Cancel::Unwanted,
                reasons: Vec::new(),
            })
            .map_err(|_| Full)?;
        self.client_index.insert(key, place);
        self.act_client(now, ClientKey(place), start, None, false, out);
        Ok(ClientKey(place))
    }

    /// Does what a step of the machine asked; `again` when what it sends was sent before.
    fn act_client(
        &mut self,
        now: Instant,
        key: ClientKey,
        actions: &[Action],
        message: Option<&Message<'_>>,
        again: bool,
        out: &mut Vec<Sent<F>>,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let Some(client) = self.clients.get_mut(key.0) else {
            return outcome;
        };
        for &action in actions {
            match action {
                Action::Send => {
                    self.retransmissions += u64::from(again);
                    out.push(Sent { flow: client.flow, bytes: Rc::clone(&client.request) });
                }
                Action::Ack => {
                    self.retransmissions += u64::from(client.ack.is_some());
                    if let (None, Some(refusal)) = (&client.ack, message) {
                        client.ack = build::ack(&client.request, refusal).map(Rc::from);
                    }
                    if let Some(ack) = &client.ack {
                        out.push(Sent { flow: client.flow, bytes: Rc::clone(ack) });
                    }
                }
                Action::Pass => outcome.pass = true,
                Action::GiveUp => outcome.gave_up = true,
                Action::Start(timer) | Action::Repeat(timer) | Action::RepeatSlowly(timer) => {
                    let after = match action {
                        Action::Repeat(_) => timer.next(client.interval),
                        Action::RepeatSlowly(_) => T2,
                        _ => match first_of(timer, client.flow.is_reliable()) {
                            Some(first) => first,
                            None => continue,
                        },
                    };
                    if timer.repeats() {
                        client.interval = after;
                    }
                    self.timers.set(now + after, (Owner::Client(key), timer));
                }
            }
        }
        if client.machine.is_over() {
            self.remove_client(key);
        }
        outcome
    }

    fn remove_client(&mut self, key: ClientKey) {
        let Some(client) = self.clients.remove(key.0) else {
            return;
        };
        // Another request may have come under the same branch, should the user have used it twice.
        if self.client_index.get(&client.key) == Some(&key.0) {
            self.client_index.remove(&client.key);
        }
    }

    /// Sends the CANCEL that waited for a provisional response, when there is one now.
    fn send_held_cancel(&mut self, now: Instant, key: ClientKey, out: &mut Vec<Sent<F>>) {
        let proceeds = self.clients.get(key.0).is_some_and(|client| {
            client.cancel == Cancel::Held
                && matches!(client.machine, Machine::Invite(client_invite::State::Proceeding))
        });
        if proceeds {
            self.send_cancel(now, key, out);
        }
    }

    fn send_cancel(&mut self, now: Instant, key: ClientKey, out: &mut Vec<Sent<F>>) {
        let Some(client) = self.clients.get_mut(key.0) else {
            return;
        };
        client.cancel = Cancel::Sent;
        let (flow, invite) = (client.flow, Rc::clone(&client.request));
        let reasons = core::mem::take(&mut client.reasons);
        // 9.1: without a final response 64*T1 after the CANCEL, the INVITE is as good as cancelled.
        self.timers.set(now + LIFE, (Owner::Client(key), Timer::Cancelled));
        let Some(cancel) = build::cancel(&invite, &reasons) else {
            return;
        };
        let Ok(via) = wire::lex(&invite).and_then(|invite| invite.via()) else {
            return;
        };
        let branch = via.branch.unwrap_or_default();
        let (method, request) = (Method::Cancel, Rc::from(cancel));
        let order = Order { method, branch, request, flow, purpose: Purpose::Cancel };
        // There is room, as `new` reckons.
        let started = self.start_client(now, order, out);
        debug_assert!(started.is_ok(), "a CANCEL has room beside its INVITE");
    }
}

impl Machine {
    fn response(&mut self, status: u16) -> &'static [Action] {
        match self {
            Machine::Invite(state) => {
                let event = match status {
                    ..200 => client_invite::Event::Provisional,
                    200..300 => client_invite::Event::Success,
                    300.. => client_invite::Event::Refusal,
                };
                let (next, actions) = client_invite::step(*state, event);
                *state = next;
                actions
            }
            Machine::Other(state) => {
                let event = match status {
                    ..200 => client_other::Event::Provisional,
                    200.. => client_other::Event::Final,
                };
                let (next, actions) = client_other::step(*state, event);
                *state = next;
                actions
            }
        }
    }

    fn fire(&mut self, timer: Timer) -> &'static [Action] {
        match self {
            Machine::Invite(state) => {
                let (next, actions) =
                    client_invite::step(*state, client_invite::Event::Fired(timer));
                *state = next;
                actions
            }
            Machine::Other(state) => {
                let (next, actions) = client_other::step(*state, client_other::Event::Fired(timer));
                *state = next;
                actions
            }
        }
    }

    fn is_over(self) -> bool {
        matches!(
            self,
            Machine::Invite(client_invite::State::Terminated)
                | Machine::Other(client_other::State::Terminated)
        )
    }
}

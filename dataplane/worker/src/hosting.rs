//! Calls between blades (S2). An agent's home is the CCB where its phone registered; the holder is the CCB that won
//! the agent's lease word there, for a call of its own.
//!
//! ```text
//!   phone A        holder (A's CCB)                     home (B's CCB)        phone B
//!     |--INVITE B-->|  control asks B's home,              |                     |
//!     |             |  which reserves B's word,            |                     |
//!     |             |  mints a token, grants               |                     |
//!     |             |--INVITE, Jackfield-Lease------------>| token, fence, bind  |
//!     |             |                                      |--INVITE------------>|
//!     |             |   hold, DTMF, INFO, BYE: both ways   |                     |
//!     |             |<--REFER (B transfers)----------------|<--REFER-------------|
//! ```
//! The ticket ([`abi::LeaseTicket`]) is all that an INVITE of another blade needs: it is neither challenged nor a
//! trunk's. One with the right token passes a ban of its source, drain and overload: control grants nothing that
//! it does not want (G-09), and a refusal here would waste what another blade has won. Who has a wrong token is a
//! stranger that guesses a password. A right token of a lease that is over is answered 480 with a Reason that
//! says what is not as the fence says, and the phone does not ring; the word serialises, so the same ticket never
//! makes two calls. No border passes the ticket on: it is not among the header fields that are carried.

use abi::{
    AgentRow, AgentState, CallState, Counter, EndedBy, LeaseState, LeaseTicket, OpResult, Party,
    Purpose, Share, Why,
};
use base::{AgentSlot, CallRef, CcbId, Instant, Medium, TenantId, Text};
use sip::wire::{Message, Method, Uri};

use crate::call::{CALLER, Flow, Lease, LegRef, Number, is_dialable};
use crate::commands::uri_at;
use crate::dial::Target;
use crate::identify::Identity;
use crate::intake::Arrival;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// The agent that an INVITE of another blade is for.
type Fenced = (AgentSlot, AgentRow);

impl Worker {
    /// Control says that a call goes to an agent of another CCB, whose lease it was granted.
    pub(crate) fn on_host(
        &mut self,
        now: Instant,
        call: CallRef,
        ask: u64,
        home: CcbId,
        flow: Flow,
        blob: &[u8],
    ) -> OpResult {
        if !self.take_question(call, ask) {
            return OpResult::NoSuchCall;
        }
        let Some(target) = self.hosted_target(home, flow, blob) else {
            self.refuse_way(now, call, &Refusal::status(404));
            return OpResult::Refused;
        };
        match self.dial_or_invite(now, call, target) {
            Ok(()) => {
                self.count(Counter::CallsHosted);
                OpResult::Ok
            }
            Err(refusal) => {
                self.refuse_way(now, call, &refusal);
                OpResult::Full
            }
        }
    }

    fn hosted_target(&self, home: CcbId, flow: Flow, blob: &[u8]) -> Option<Target> {
        let mut lines = blob.split(|byte| *byte == b'\n');
        let user = Text::<48>::new(lines.next()?).ok()?;
        let number = Number::new(lines.next()?).ok().filter(is_dialable)?;
        let ticket = LeaseTicket::parse(lines.next()?)?;
        let is_user = |byte: &u8| byte.is_ascii_alphanumeric() || b"+*#._-".contains(byte);
        let is_one = !user.is_empty() && user.as_bytes().iter().all(is_user);
        let is_ours = usize::from(flow.location.0) < self.config.locations.len();
        let is_held = ticket.by == self.config.ccb && home != self.config.ccb;
        let uri = uri_at(user.as_str(), flow);
        let party = Party::Peer(home);
        (is_one && is_ours && is_held)
            .then_some(Target { ticket: Some(ticket), ..Target::new(party, number, flow, uri) })
    }

    /// The ticket of an INVITE that another blade sent.
    pub(crate) fn ticket_of(message: &Message<'_>) -> Option<LeaseTicket> {
        message.header_named(LeaseTicket::HEADER).and_then(LeaseTicket::parse)
    }

    /// True for an INVITE with a token that is the called agent's.
    pub(crate) fn is_fenced(&self, message: &Message<'_>) -> bool {
        message.method() == Some(Method::Invite)
            && Worker::ticket_of(message).is_some_and(|it| self.fenced(message, &it).is_some())
    }

    /// The agent of ours whose token the ticket has.
    fn fenced(&self, message: &Message<'_>, ticket: &LeaseTicket) -> Option<Fenced> {
        let user = message.request_uri().and_then(|uri| Uri::parse(uri).ok())?.user;
        let found = self.region.agents().find_user(user);
        let known = found
            .filter(|(_, row)| matches!(row.state(), AgentState::LoggedIn | AgentState::Draining));
        let secret = known.and_then(|(agent, row)| {
            self.region.secrets().read(agent).filter(|secret| secret.epoch == row.login_epoch)
        });
        // Who is unknown has no token, and fails after the same work.
        let is_it = ticket.token.is(&secret.unwrap_or_default().lease_token);
        known.filter(|_| is_it)
    }

    /// Another blade calls an agent of ours (S2-014).
    pub(crate) fn on_fenced(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
        ticket: &LeaseTicket,
    ) -> Result<(), Refusal> {
        let message = arrival.message;
        let Some((agent, row)) = self.fenced(message, ticket) else {
            return self.refuse_forged(now, arrival);
        };
        // A blade whose tickets are right may now and then have one for a login that has just ended.
        self.guard.proved(now, arrival.from.ip());
        self.watch_connection(arrival.channel);
        self.screen_session(arrival)?;
        self.check_interval(message)?;
        let lease = self.bind_fenced(now, agent, &row, ticket).map_err(|what| {
            self.count(Counter::LeaseStale);
            let reason = format!("Jackfield;cause=480;text=\"stale lease, {what}\"");
            Refusal::status(480).with("Reason", reason.as_bytes())
        })?;
        let caller = Identity {
            tenant: TenantId(row.tenant),
            party: Party::Peer(ticket.by),
            number: self.number_of_caller(message),
        };
        let called = Number::new(row.number().as_bytes()).unwrap_or_default();
        let call = match self.begin_call(now, arrival, caller, called) {
            Ok(call) => call,
            Err(refusal) => {
                self.let_go(lease);
                return Err(refusal);
            }
        };
        self.count(Counter::CallsFenced);
        if let Err(refusal) = self.ring_fenced(now, call, (agent, row), lease, ticket.purpose) {
            self.end_call(now, call, &refusal);
        }
        Ok(())
    }

    /// The reservation that the fence names becomes bound; else what is not as the fence says.
    fn bind_fenced(
        &mut self,
        now: Instant,
        agent: AgentSlot,
        row: &AgentRow,
        ticket: &LeaseTicket,
    ) -> Result<Lease, &'static str> {
        let (fence, holder) = (ticket.fence, ticket.by);
        if fence.epoch != row.login_epoch {
            return Err("epoch");
        }
        if fence.incarnation != self.incarnation {
            return Err("incarnation");
        }
        let minted = self.region.secrets().read(agent).map(|secret| secret.lease_counter);
        if minted != Some(fence.counter) {
            return Err("counter");
        }
        let leases = self.region.leases();
        match leases.read(agent, Medium::Voice) {
            LeaseState::Reserved { counter, .. } if counter != fence.counter => {
                return Err("counter");
            }
            LeaseState::Reserved { since, .. } if since.is_over_age(now) => return Err("expired"),
            _ => {}
        }
        if !leases.bind(agent, Medium::Voice, holder, fence.counter) {
            return Err("not reserved");
        }
        self.leases_held += 1;
        Ok(Lease { agent, counter: fence.counter, holder, kind: Share::of(ticket.purpose) })
    }

    /// Invites the phone of an agent whose word is bound for this call.
    fn ring_fenced(
        &mut self,
        now: Instant,
        call: CallRef,
        (agent, row): Fenced,
        lease: Lease,
        purpose: Purpose,
    ) -> Result<(), Refusal> {
        let from = LegRef { call, leg: CALLER };
        if matches!(purpose, Purpose::Queue | Purpose::Conference | Purpose::Monitor) {
            // Who does not take it is not followed: the queue, the organiser goes on with somebody else.
            self.forbid_forwards(call);
        }
        let reached = self.open_media(from).and_then(|()| self.reach_phone(now, agent, &row));
        match reached {
            Ok(target) => self.dial(now, call, Target { lease: Some(lease), ..target }),
            Err(refusal) => {
                self.let_go(lease);
                match self.ask_instead(now, call, &row, Why::Unavailable, refusal.status) {
                    true => Ok(()),
                    false => Err(refusal),
                }
            }
        }
    }

    /// A token that is not the agent's is a guess, and takes no memory.
    fn refuse_forged(&mut self, now: Instant, arrival: Arrival<'_>) -> Result<(), Refusal> {
        self.count(Counter::LeaseForged);
        let from = arrival.from;
        if self.trunk_behind(arrival.flow()).is_none()
            && let Some(ban) = self.guard.wrong(now, from.ip())
        {
            self.ban(from, ban);
            return Err(Refusal::silence());
        }
        self.admit_stranger(now, arrival.flow(), arrival.message)?;
        self.refuse(now, arrival, Refusal::status(403));
        self.transactions.forget(arrival.key);
        Ok(())
    }

    /// Control lets an agent's own call give way to one that comes to the agent (G-03).
    pub(crate) fn on_yield(&mut self, now: Instant, call: CallRef, ask: u64) -> OpResult {
        let Some(entry) = self.calls.find(call).filter(|call| call.asked == Some(ask)) else {
            return OpResult::NoSuchCall;
        };
        let is_agents = entry.leg(CALLER).is_some_and(|leg| leg.agent().is_some());
        let is_question = entry.state == CallState::Asked && entry.transfer.is_none();
        if !is_agents || !is_question || !self.take_question(call, ask) {
            return OpResult::Refused;
        }
        self.count(Counter::CallsYielded);
        self.note_ended_by(call, EndedBy::Control, 0);
        // RFC 6432, 2: a Reason may stand in a response.
        let reason = b"SIP;cause=486;text=\"Who is called calls you\"";
        self.refuse_way(now, call, &Refusal::status(486).with("Reason", reason));
        OpResult::Ok
    }
}

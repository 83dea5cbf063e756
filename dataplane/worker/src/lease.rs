//! The right to an agent: a leg has its agent's lease word, or a share of it, for as long as it lives.
//!
//! ```text
//!   word of B        B talks to A                C rings B as well                A has hung up
//!   free  --->  bound: 1 leg, open  --->  bound: 2 legs, open  --->  bound: 1 leg, open  --->  free
//! ```
//! **Call waiting**: an agent who may be in more than one call ([`abi::AgentRow::incoming_limit`]) is rung by a further
//! caller meanwhile. That leg shares the word as a consultation does, so the agent is free for a queue or another blade
//! only when the last of them is gone, and a new incarnation counts the legs that live. Both calls stand for
//! themselves: which one the agent talks in is the phone's to say, by hold. A caller of a queue, a guest of a mix and
//! another blade's call never wait: they want an agent whom nobody has. Rules for when an agent is busy count once the
//! limit is reached, or the phone says so.

use abi::{Counter, LeaseState, Purpose, Share};
use base::{AgentSlot, Instant, Medium};

use crate::call::{Lease, Leg, LegRef};
use crate::dial::Target;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// What an agent is told who has as many calls of its own as it may have. RFC 3261, 20.43: 399 is a "miscellaneous
/// warning".
const LIMITED: &[u8] = b"399 jackfield \"no more calls of your own at the same time\"";

/// What the phone of who is in a call is told, so that it plays the waiting tone and does not ring: the URN of
/// that service (RFC 7462).
pub(crate) const WAITING_TONE: &str = "<urn:alert:service:call-waiting>";

impl Worker {
    /// Wins the words of the caller, if it is an agent, and of the called agent; returns the latter's.
    /// Everybody wins them in the order of their slots, so of two agents who call each other at the same
    /// time on two workers, one gets both (G-03).
    pub(crate) fn win_leases(
        &mut self,
        now: Instant,
        caller: LegRef,
        target: &Target,
    ) -> Result<Option<Lease>, Refusal> {
        let own = self.calls.leg(caller).and_then(Leg::agent);
        let called = target.agent();
        let mut wanted = [(own, Purpose::Outgoing), (called, Purpose::Call)];
        wanted.sort_by_key(|(agent, _)| *agent);
        let mut won = Vec::with_capacity(2);
        for (agent, purpose) in wanted {
            let Some(agent) = agent else { continue };
            match self.win_lease(now, agent, purpose) {
                Ok(lease) => won.push((purpose, lease)),
                Err(refusal) => {
                    won.into_iter().for_each(|(_, lease)| self.let_go(lease));
                    return Err(refusal);
                }
            }
        }
        // A waiting share of the lower word leaves it open, so whom we call may have won it for a call of its own since,
        // and a share of ours where that was open too. Who called by the lower word looks again, so never both go on.
        let is_lower = called.zip(own).is_some_and(|(called, own)| called < own);
        let met = called.filter(|_| is_lower).map(|agent| self.word(agent));
        if met.is_some_and(|word| word.is_calling()) {
            won.into_iter().for_each(|(_, lease)| self.let_go(lease));
            return Err(self.denied());
        }
        let mut of = |wanted| {
            let place = won.iter().position(|(purpose, _)| *purpose == wanted)?;
            Some(won.swap_remove(place).1)
        };
        let (own, called) = (of(Purpose::Outgoing), of(Purpose::Call));
        if let Some(leg) = self.calls.leg_mut(caller) {
            leg.lease = own;
        }
        Ok(called)
    }

    /// Wins an agent's lease word, or shares it as far as the agent's limits go: for the agent's own call, or for one
    /// that waits. Else 486 when others have the agent (G-01), and 403 for one own call too many.
    pub(crate) fn win_lease(
        &mut self,
        now: Instant,
        agent: AgentSlot,
        purpose: Purpose,
    ) -> Result<Lease, Refusal> {
        let (ccb, kind) = (self.config.ccb, Share::of(purpose));
        let row = || self.region.agents().read(agent).unwrap_or_default();
        let own_limit = if kind == Share::Own { row().outgoing_limit() } else { 0 };
        if kind == Share::Own && own_limit == 0 {
            return Err(self.over_limit());
        }
        let leases = self.region.leases();
        let won = leases.reserve(agent, Medium::Voice, ccb, purpose, now).ok();
        let won = won.filter(|counter| leases.bind(agent, Medium::Voice, ccb, *counter));
        if let Some(counter) = won {
            self.leases_held += 1;
            return Ok(Lease { agent, counter, holder: ccb, kind });
        }
        let limit = match purpose {
            Purpose::Outgoing => own_limit,
            Purpose::Call | Purpose::Transfer => row().incoming_limit(),
            // Who gave the agent away chose one whom nobody has.
            Purpose::Queue | Purpose::Conference | Purpose::Chat | Purpose::Monitor => 1,
        };
        match self.share(agent, kind, limit) {
            Ok(lease) => Ok(lease),
            Err(LeaseState::Bound { own, open: true, .. })
                if kind == Share::Own && own >= limit =>
            {
                Err(self.over_limit())
            }
            Err(_) => Err(self.denied()),
        }
    }

    /// One more leg of an agent, whichever blade the first call is of.
    fn share(&mut self, agent: AgentSlot, kind: Share, limit: u16) -> Result<Lease, LeaseState> {
        let state = self.word(agent);
        let holder = state.holder().ok_or(state)?;
        let leases = self.region.leases();
        let counter = leases.share(agent, Medium::Voice, holder, kind, limit)?;
        self.leases_held += 1;
        Ok(Lease { agent, counter, holder, kind })
    }

    fn word(&self, agent: AgentSlot) -> LeaseState {
        self.region.leases().read(agent, Medium::Voice)
    }

    fn denied(&mut self) -> Refusal {
        self.count(Counter::LeaseDenied);
        Refusal::status(486)
    }

    /// RFC 3261, 21.4.4: "The server understood the request, but is refusing to fulfill it."
    fn over_limit(&mut self) -> Refusal {
        self.count(Counter::OwnCallsLimited);
        Refusal::status(403).with("Warning", LIMITED)
    }

    /// Wins or shares the word of a leg's agent, if it has one, for the agent's own call.
    pub(crate) fn win_own(&mut self, now: Instant, leg: LegRef) -> Result<(), Refusal> {
        let Some(agent) = self.calls.leg(leg).and_then(Leg::agent) else { return Ok(()) };
        let lease = self.win_lease(now, agent, Purpose::Outgoing)?;
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.lease = Some(lease);
        }
        Ok(())
    }

    /// True for a lease of a leg that rings an agent who is in another call, or rung by one.
    pub(crate) fn waits(&self, lease: Option<Lease>) -> bool {
        let lease = lease.filter(|lease| lease.kind == Share::Waiting);
        lease.is_some_and(|lease| {
            matches!(self.word(lease.agent), LeaseState::Bound { legs: 2.., .. })
        })
    }

    pub(crate) fn let_go(&mut self, lease: Lease) {
        self.leases_held -= 1;
        let Lease { agent, counter, holder, kind } = lease;
        self.region.leases().release(agent, Medium::Voice, holder, counter, kind);
    }

    /// A leg was answered: its agent may call somebody else meanwhile.
    pub(crate) fn open_lease(&self, leg: LegRef) {
        let lease = self.calls.leg(leg).and_then(|leg| leg.lease);
        if let Some(Lease { agent, counter, holder, .. }) = lease {
            self.region.leases().open(agent, Medium::Voice, holder, counter);
        }
    }

    /// Frees the lease word that a leg holds, once.
    pub(crate) fn release_lease(&mut self, leg: LegRef) {
        let Some(lease) = self.calls.leg_mut(leg).and_then(|leg| leg.lease.take()) else {
            return;
        };
        self.let_go(lease);
    }
}

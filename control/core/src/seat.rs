//! An agent's seat: whether the agent takes calls of queues, and what the agent does.
//!
//! ```text
//!                  ready                                  offer, call
//!   NotReady  ------------->  Ready  ------------------------------------->  Reserved - Ringing - Talking - Held
//!      ^  <-------------        ^                                                          | the call is over
//!      |    not ready           |  ready, or its time is over                              v
//!      |                        '-------------------------------------------- AfterCall (a queue's call)
//!      '-- an offer was not answered; not ready was asked for during the call
//! ```
//! What the agent wants ([`Work`]) outlives control: it stands in the agent's row. What the agent is in comes from the
//! rows of calls, and is found again from them.

use std::time::Duration;

use abi::{AgentRow, NextWork, WorkState};
use base::{CcbId, Instant, Text};

/// Why an agent is not ready, in the desk's words.
pub type Reason = Text<24>;

/// The reason of who logged in and said nothing yet.
pub const LOGGED_ON: &str = "logged on";
/// The reason of who let an offer ring, or refused it.
pub const NO_ANSWER: &str = "no answer";

/// What an agent wants to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// Take no calls of queues.
    NotReady(Reason),
    /// Take them.
    Ready,
    /// Write down what the last one was about, until then.
    AfterCall(Instant),
}

/// What follows the call that the agent is in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// What was before it, or the work after it.
    Unchanged,
    /// Ready.
    Ready,
    /// Not ready.
    NotReady(Reason),
}

/// What an agent is in.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Engaged {
    /// Nothing.
    #[default]
    Free,
    /// A caller of a queue is on the way.
    Reserved,
    /// The phone rings.
    Ringing,
    /// A call whose other party is on hold.
    Held,
    /// A call.
    Talking,
}

/// What is seen of a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeatState {
    /// No phone is registered.
    Unreachable,
    /// Takes no calls of queues.
    NotReady(Reason),
    /// Idle since then.
    Ready(Instant),
    /// A caller of a queue is on the way.
    Reserved,
    /// The phone rings.
    Ringing,
    /// In a call.
    Talking,
    /// In a call whose other party is on hold.
    Held,
    /// Works on what the last call was about, until then.
    AfterCall(Instant),
}

impl SeatState {
    /// Its name in the interfaces.
    pub fn name(&self) -> &'static str {
        match self {
            SeatState::Unreachable => "unreachable",
            SeatState::NotReady(_) => "not_ready",
            SeatState::Ready(_) => "ready",
            SeatState::Reserved => "reserved",
            SeatState::Ringing => "ringing",
            SeatState::Talking => "talking",
            SeatState::Held => "held",
            SeatState::AfterCall(_) => "after_call",
        }
    }
}

/// What happens to a seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeatChange {
    /// The phone is registered, or is not any more.
    Phone(bool),
    /// The desk says ready.
    Ready,
    /// The desk says not ready.
    NotReady(Reason),
    /// What the agent is in. When that is nothing any more: how long the work after the call lasts.
    Engaged(Engaged, Duration),
    /// An offer was not answered.
    Unanswered,
    /// Another CCB has the agent, or none.
    Hosted(Option<CcbId>),
    /// Time has passed.
    Time,
}

/// What the desk is told; the names are CSTA's (ECMA-269).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeatEvent {
    /// Phone and desk are there.
    AgentLoggedOn,
    /// The login is over.
    AgentLoggedOff,
    /// Idle, and takes calls of queues.
    AgentReady,
    /// Takes none, and why.
    AgentNotReady(Reason),
    /// A call came or is on its way.
    AgentBusy,
    /// Works after a call, for so long.
    AgentWorkingAfterCall(Duration),
}

/// A seat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seat {
    /// What the agent wants.
    pub work: Work,
    /// Since when; of who is ready, since when they are idle.
    pub since: Instant,
    /// What follows the call.
    pub next: Next,
    /// What the agent is in.
    pub engaged: Engaged,
    /// True once the agent talked in what they are in.
    pub talked: bool,
    /// True while a phone is registered.
    pub reachable: bool,
    /// The other CCB that has the agent.
    pub hosted: Option<CcbId>,
}

/// The reason of a name of ours, which fits.
pub fn reason(name: &str) -> Reason {
    let mut end = name.len().min(24);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    Text::new(&name.as_bytes()[..end]).unwrap_or_default()
}

impl Seat {
    /// The seat of an agent who logs in.
    pub fn new(now: Instant) -> Self {
        Seat {
            work: Work::NotReady(reason(LOGGED_ON)),
            since: now,
            next: Next::Unchanged,
            engaged: Engaged::Free,
            talked: false,
            reachable: false,
            hosted: None,
        }
    }

    /// The seat that an earlier control process wrote down. What the agent is in is told by
    /// [`SeatChange::Engaged`] again, and the idle time goes on.
    pub fn rebuilt(row: &AgentRow) -> Self {
        let work = match row.work() {
            WorkState::NotReady => Work::NotReady(row.reason()),
            WorkState::Ready => Work::Ready,
            WorkState::AfterCall => Work::AfterCall(Instant::from_nanos(row.work_until)),
        };
        let next = match row.next_work() {
            NextWork::Unchanged => Next::Unchanged,
            NextWork::Ready => Next::Ready,
            NextWork::NotReady => Next::NotReady(row.next_reason()),
        };
        let since = Instant::from_nanos(row.work_since);
        Seat { work, next, ..Seat::new(since) }
    }

    /// Writes down what outlives control.
    pub fn write(&self, row: &mut AgentRow) {
        let (work, until, why) = match self.work {
            Work::NotReady(why) => (WorkState::NotReady, 0, why),
            Work::Ready => (WorkState::Ready, 0, Reason::EMPTY),
            Work::AfterCall(until) => (WorkState::AfterCall, until.as_nanos(), Reason::EMPTY),
        };
        let (next, next_why) = match self.next {
            Next::Unchanged => (NextWork::Unchanged, Reason::EMPTY),
            Next::Ready => (NextWork::Ready, Reason::EMPTY),
            Next::NotReady(why) => (NextWork::NotReady, why),
        };
        (row.work, row.next_work) = (work.into(), next.into());
        (row.work_since, row.work_until) = (self.since.as_nanos(), until);
        row.set_reason(why);
        row.set_next_reason(next_why);
    }

    /// What is seen of it.
    pub fn state(&self) -> SeatState {
        match (self.engaged, self.work) {
            (Engaged::Reserved, _) => SeatState::Reserved,
            (Engaged::Ringing, _) => SeatState::Ringing,
            (Engaged::Talking, _) => SeatState::Talking,
            (Engaged::Held, _) => SeatState::Held,
            (Engaged::Free, _) if !self.reachable => SeatState::Unreachable,
            (Engaged::Free, Work::NotReady(why)) => SeatState::NotReady(why),
            (Engaged::Free, Work::Ready) => SeatState::Ready(self.since),
            (Engaged::Free, Work::AfterCall(until)) => SeatState::AfterCall(until),
        }
    }

    /// Since when the agent waits for a call of a queue; none while no queue may choose the agent.
    pub fn idle_since(&self) -> Option<Instant> {
        match self.state() {
            SeatState::Ready(since) if self.hosted.is_none() => Some(since),
            _ => None,
        }
    }

    /// When [`SeatChange::Time`] changes something.
    pub fn deadline(&self) -> Option<Instant> {
        match self.work {
            Work::AfterCall(until) if self.engaged == Engaged::Free => Some(until),
            _ => None,
        }
    }

    /// Makes the change; what the desk is told of it, if anything.
    pub fn step(&mut self, now: Instant, change: SeatChange) -> Option<SeatEvent> {
        match change {
            SeatChange::Ready if self.engaged != Engaged::Free => {
                self.next = match self.work {
                    Work::Ready if self.next != Next::Unchanged => Next::Unchanged,
                    _ => Next::Ready,
                };
                None
            }
            SeatChange::Ready if self.work == Work::Ready => None,
            SeatChange::Ready => self.set(now, Work::Ready),
            SeatChange::NotReady(why) if self.engaged != Engaged::Free => {
                self.next = Next::NotReady(why);
                None
            }
            SeatChange::NotReady(why) if self.work == Work::NotReady(why) => None,
            SeatChange::NotReady(why) => self.set(now, Work::NotReady(why)),
            SeatChange::Unanswered => {
                let why = match std::mem::replace(&mut self.next, Next::Unchanged) {
                    Next::NotReady(why) => why,
                    _ => reason(NO_ANSWER),
                };
                let told = self.set(now, Work::NotReady(why));
                told.filter(|_| self.engaged == Engaged::Free)
            }
            SeatChange::Phone(is) if is == self.reachable => None,
            SeatChange::Phone(is) => {
                self.reachable = is;
                self.told(now)
            }
            SeatChange::Engaged(engaged, after) => self.engage(now, engaged, after),
            SeatChange::Hosted(by) => {
                self.hosted = by;
                None
            }
            SeatChange::Time => {
                let is_due = self.deadline().is_some_and(|at| at <= now);
                if is_due { self.set(now, Work::Ready) } else { None }
            }
        }
    }

    fn engage(&mut self, now: Instant, engaged: Engaged, after: Duration) -> Option<SeatEvent> {
        let was = std::mem::replace(&mut self.engaged, engaged);
        self.talked |= matches!(engaged, Engaged::Talking | Engaged::Held);
        match (was, engaged) {
            (Engaged::Free, Engaged::Free) => return None,
            (Engaged::Free, _) => return Some(SeatEvent::AgentBusy),
            (_, Engaged::Free) => {}
            _ => return None,
        }
        let talked = std::mem::take(&mut self.talked);
        match (std::mem::replace(&mut self.next, Next::Unchanged), self.work) {
            (Next::NotReady(why), _) => return self.set(now, Work::NotReady(why)),
            (Next::Ready, _) => return self.set(now, Work::Ready),
            (Next::Unchanged, Work::Ready) if talked && !after.is_zero() => {
                return self.set(now, Work::AfterCall(now + after));
            }
            (Next::Unchanged, Work::AfterCall(until)) if until <= now => {
                return self.set(now, Work::Ready);
            }
            // Who only heard the phone ring has waited all the while.
            (Next::Unchanged, Work::Ready) if talked => self.since = now,
            (Next::Unchanged, _) => {}
        }
        self.told(now)
    }

    fn set(&mut self, now: Instant, work: Work) -> Option<SeatEvent> {
        (self.work, self.since) = (work, now);
        self.told(now)
    }

    /// How it stands, as the desk is told.
    pub fn told(&self, now: Instant) -> Option<SeatEvent> {
        match self.state() {
            SeatState::Unreachable => Some(SeatEvent::AgentNotReady(reason("unreachable"))),
            SeatState::NotReady(why) => Some(SeatEvent::AgentNotReady(why)),
            SeatState::Ready(_) => Some(SeatEvent::AgentReady),
            SeatState::AfterCall(until) => Some(SeatEvent::AgentWorkingAfterCall(until.since(now))),
            _ => Some(SeatEvent::AgentBusy),
        }
    }
}

#[cfg(test)]
mod tests;

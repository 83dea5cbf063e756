//! The client transaction of every request but INVITE and ACK: RFC 3261, 17.1.2.
//!
//! ```text
//!                request from the user: send, start E, F
//!                                |
//!                                v
//!        E: send, E x 2     .--------.
//!        up to T2      .----|        | F: give up
//!                      '--->| Trying |---------------.
//!                           |        |               |
//!                           '--------'               |
//!             200-699: pass, |      | 1xx: pass      |
//!                    start K |      v                |
//!                            |  .------------.       |
//!                            |  |            |       |
//!                            |  | Proceeding |------>|
//!                            |  |            |       |
//!                            |  '------------'       |
//!                            |   |    E: send, E = T2; 1xx: pass; F: give up
//!                            v   v                   |
//!                       .-----------.                |
//!                       | Completed |                |
//!                       '-----------'                |
//!                             | K                    |
//!                             v                      |
//!                      .------------.                |
//!                      | Terminated |<---------------'
//!                      '------------'
//! ```

use super::action::{Action, Timer};

/// Where a request that was sent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No response yet.
    Trying,
    /// A provisional response came.
    Proceeding,
    /// A final response came; what comes again is absorbed.
    Completed,
    /// Over.
    Terminated,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A 1xx came.
    Provisional,
    /// A 200 to 699 came.
    Final,
    /// A timer fired.
    Fired(Timer),
}

/// What to do when the user hands the request over; the state is Trying then.
pub(super) const START: &[Action] =
    &[Action::Send, Action::Start(Timer::E), Action::Start(Timer::F)];

/// The state after `event`, and what to do.
pub(super) fn step(state: State, event: Event) -> (State, &'static [Action]) {
    use Action::{GiveUp, Pass, Repeat, RepeatSlowly, Send, Start};
    use State::{Completed, Proceeding, Terminated, Trying};
    match (state, event) {
        (Trying, Event::Fired(Timer::E)) => (Trying, &[Send, Repeat(Timer::E)]),
        // 17.1.2.2: "If Timer E fires while in the Proceeding state, the request MUST be passed to
        // the transport layer for retransmission, and Timer E MUST be reset with a value of T2
        // seconds."
        (Proceeding, Event::Fired(Timer::E)) => (Proceeding, &[Send, RepeatSlowly(Timer::E)]),
        (Trying | Proceeding, Event::Fired(Timer::F)) => (Terminated, &[GiveUp]),
        (Trying | Proceeding, Event::Provisional) => (Proceeding, &[Pass]),
        (Trying | Proceeding, Event::Final) => (Completed, &[Pass, Start(Timer::K)]),
        (Completed, Event::Fired(Timer::K)) => (Terminated, &[]),
        (
            Trying | Proceeding | Completed | Terminated,
            Event::Provisional | Event::Final | Event::Fired(_),
        ) => (state, &[]),
    }
}

//! The INVITE client transaction: RFC 3261, 17.1.1, with the Accepted state of RFC 6026, 7.2.
//!
//! ```text
//!                    INVITE from the user: send, start A, B
//!                                  |
//!                                  v
//!              A: send, A x 2 .---------. B: give up
//!                        .----|         |-------------------------.
//!                        '--->| Calling |                         |
//!                  .----------|         |----------.              |
//!                  |          '---------'          |              |
//!       2xx: pass, |               | 1xx: pass     | 300-699:     |
//!          start M |               v               | ACK, pass,   |
//!                  |         .------------.        | start D      |
//!                  |<--------|            |------->|              |
//!                  |   .---->| Proceeding |        |              |
//!                  |   '-----|            |-------------------.   |
//!                  |   1xx:  '------------' Cancelled:     |  |   |
//!                  |   pass                  give up       |  |   |
//!                  v                                       v  |   |
//!            .----------.                         .-----------.   |
//!      .---->|          |                         |           |<--|--.
//!      '-----| Accepted |                         | Completed |---|--'
//!  2xx: pass |          |                         |           |   | 300-699: ACK
//!            '----------'                         '-----------'   |
//!                  | M                                 D |    |   |
//!                  |           .------------.            |    |   |
//!                  '---------->| Terminated |<-----------'<---'---'
//!                              '------------'
//! ```
//!
//! The line into Terminated from Proceeding is 9.1's: 64*T1 after its CANCEL, an INVITE without a
//! final response is taken as cancelled. A datagram that could not be sent counts as lost in the
//! network, so there is no transport error to step on.

use super::action::{Action, Timer};

/// Where an INVITE that was sent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No response yet.
    Calling,
    /// A provisional response came.
    Proceeding,
    /// A refusal came, and the ACK was sent.
    Completed,
    /// A 2xx came; the user sends the ACK (RFC 6026).
    Accepted,
    /// Over.
    Terminated,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// A 1xx came.
    Provisional,
    /// A 2xx came.
    Success,
    /// A 300 to 699 came.
    Refusal,
    /// A timer fired.
    Fired(Timer),
}

/// What to do when the user hands the INVITE over; the state is Calling then.
pub(super) const START: &[Action] =
    &[Action::Send, Action::Start(Timer::A), Action::Start(Timer::B)];

/// The state after `event`, and what to do.
pub(super) fn step(state: State, event: Event) -> (State, &'static [Action]) {
    use Action::{Ack, GiveUp, Pass, Repeat, Send, Start};
    use State::{Accepted, Calling, Completed, Proceeding, Terminated};
    match (state, event) {
        (Calling, Event::Fired(Timer::A)) => (Calling, &[Send, Repeat(Timer::A)]),
        (Calling, Event::Fired(Timer::B)) => (Terminated, &[GiveUp]),
        (Proceeding, Event::Fired(Timer::Cancelled)) => (Terminated, &[GiveUp]),
        (Calling | Proceeding, Event::Provisional) => (Proceeding, &[Pass]),
        (Calling | Proceeding, Event::Success) => (Accepted, &[Pass, Start(Timer::M)]),
        (Calling | Proceeding, Event::Refusal) => (Completed, &[Ack, Pass, Start(Timer::D)]),
        (Completed, Event::Refusal) => (Completed, &[Ack]),
        (Completed, Event::Fired(Timer::D)) => (Terminated, &[]),
        // RFC 6026, 7.2: each 2xx goes up, so that the user sends its ACK again.
        (Accepted, Event::Success) => (Accepted, &[Pass]),
        (Accepted, Event::Fired(Timer::M)) => (Terminated, &[]),
        (
            Calling | Proceeding | Completed | Accepted | Terminated,
            Event::Provisional | Event::Success | Event::Refusal | Event::Fired(_),
        ) => (state, &[]),
    }
}

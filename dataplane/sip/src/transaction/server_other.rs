//! The server transaction of every request but INVITE and ACK: RFC 3261, 17.2.2.
//!
//! ```text
//!              request: pass to the user, start Unanswered
//!                                |
//!                                v
//!                           .--------.
//!           request: .------|        | Unanswered: give up
//!           nothing  '----->| Trying |---------------------.
//!                           |        |                     |
//!                           '--------'                     |
//!       200-699 from the     |      | 1xx from the         |
//!       user: send, start J  |      v user: send           |
//!                            |  .------------.             |
//!                            |  |            |--. request: last 1xx again
//!                            |  | Proceeding |<-' 1xx from the user: send
//!                            |  |            |------------>|
//!                            |  '------------'  Unanswered: give up
//!                            v   |                         |
//!                       .-----------. request: last final again
//!                       |           |--.                   |
//!                       | Completed |<-'                   |
//!                       '-----------'                      |
//!                             | J                          |
//!                             v                            |
//!                      .------------.                      |
//!                      | Terminated |<---------------------'
//!                      '------------'
//! ```
//!
//! The timer Unanswered is more than the RFC draws: 64*T1 after the request its client has given up
//! (timer F), so an answer helps nobody any more (RFC 4320), and the place is freed.

use super::action::{Action, Timer};

/// Where a request that came stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// The user has not answered yet.
    Trying,
    /// The user sent a 1xx.
    Proceeding,
    /// The user sent a final response.
    Completed,
    /// Over.
    Terminated,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The same request came again.
    Request,
    /// The user hands a 1xx over.
    Provisional,
    /// The user hands a 200 to 699 over.
    Final,
    /// A timer fired.
    Fired(Timer),
}

/// What to do when the request comes first; the state is Trying then.
pub(super) const START: &[Action] = &[Action::Pass, Action::Start(Timer::Unanswered)];

/// The state after `event`, and what to do.
pub(super) fn step(state: State, event: Event) -> (State, &'static [Action]) {
    use Action::{GiveUp, Send, Start};
    use State::{Completed, Proceeding, Terminated, Trying};
    match (state, event) {
        (Trying | Proceeding, Event::Provisional) => (Proceeding, &[Send]),
        (Trying | Proceeding, Event::Final) => (Completed, &[Send, Start(Timer::J)]),
        (Trying | Proceeding, Event::Fired(Timer::Unanswered)) => (Terminated, &[GiveUp]),
        (Proceeding | Completed, Event::Request) => (state, &[Send]),
        (Completed, Event::Fired(Timer::J)) => (Terminated, &[]),
        (
            Trying | Proceeding | Completed | Terminated,
            Event::Request | Event::Provisional | Event::Final | Event::Fired(_),
        ) => (state, &[]),
    }
}

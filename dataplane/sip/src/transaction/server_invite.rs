//! The INVITE server transaction: RFC 3261, 17.2.1, with the Accepted state of RFC 6026, 7.1.
//!
//! ```text
//!                            INVITE: pass to the user
//!                                      |
//!                                      v
//!         INVITE: last 1xx again .------------.
//!                           .----|            |----. 1xx from the user: send
//!                           '--->| Proceeding |<---'
//!                                |            |
//!                                '------------'
//!      300-699 from the user:     |          |    2xx from the user:
//!         send, start G, H        |          |    send, start L, Success
//!                                 v          v
//!                       .-----------.      .----------.
//!        INVITE: last .-|           |      |          |-. Success: send, x 2 up to T2
//!        300-699      '>| Completed |      | Accepted |<' 2xx from the user: send
//!        again        .-|           |      |          |-. ACK: pass
//!        G: send,     '>|           |      |          |<' INVITE: nothing
//!        G x 2 up to T2 '-----------'      '----------'
//!                        |    H: |            |     |  the user saw the ACK
//!                   ACK: |  give |         L: |     '-------------.
//!                start I |   up  |       give |                   v
//!                        v       |        up  |          .--------------.
//!              .-----------.     |            |          | Acknowledged |
//!              | Confirmed |     |            |          '--------------'
//!              '-----------'     v            v                   |
//!                      I |    .------------------.             L  |
//!                        '--->|    Terminated    |<---------------'
//!                             '------------------'
//! ```
//!
//! Two things are more than RFC 6026 draws. The 2xx is sent again here until the user has seen its
//! ACK, which is the user agent's duty in RFC 3261, 13.3.1.4; and Accepted has a second half,
//! Acknowledged, that tells whether it ended as it should. The machine makes no 100 of its own
//! after 200 ms, because its user gives one at once (17.2.1: "unless it knows that the TU
//! will"); the layer may keep that back for a while, and sends it by a timer that is not drawn.

use super::action::{Action, Timer};

/// Where an INVITE that came stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// No final response yet.
    Proceeding,
    /// A refusal was sent; its ACK is missing.
    Completed,
    /// The ACK to the refusal came.
    Confirmed,
    /// A 2xx was sent; its ACK is missing (RFC 6026).
    Accepted,
    /// The ACK to the 2xx came; INVITEs that come again are absorbed.
    Acknowledged,
    /// Over.
    Terminated,
}

/// What happens to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    /// The same INVITE came again.
    Invite,
    /// An ACK came that matches the INVITE.
    Ack,
    /// The user hands a 1xx over.
    Provisional,
    /// The user hands a 2xx over.
    Success,
    /// The user hands a 300 to 699 over.
    Refusal,
    /// The user saw the ACK to its 2xx.
    Acknowledged,
    /// A timer fired.
    Fired(Timer),
}

/// What to do when the INVITE comes first; the state is Proceeding then.
pub(super) const START: &[Action] = &[Action::Pass];

/// The state after `event`, and what to do.
pub(super) fn step(state: State, event: Event) -> (State, &'static [Action]) {
    use Action::{GiveUp, Pass, Repeat, Send, Start};
    use State::{Accepted, Acknowledged, Completed, Confirmed, Proceeding, Terminated};
    match (state, event) {
        (Proceeding, Event::Invite | Event::Provisional | Event::Fired(Timer::Trying)) => {
            (Proceeding, &[Send])
        }
        (Proceeding, Event::Success) => (Accepted, &[Send, Start(Timer::L), Start(Timer::Success)]),
        (Proceeding, Event::Refusal) => (Completed, &[Send, Start(Timer::G), Start(Timer::H)]),
        (Completed, Event::Invite) => (Completed, &[Send]),
        (Completed, Event::Fired(Timer::G)) => (Completed, &[Send, Repeat(Timer::G)]),
        (Completed, Event::Fired(Timer::H)) => (Terminated, &[GiveUp]),
        (Completed, Event::Ack) => (Confirmed, &[Start(Timer::I)]),
        (Confirmed, Event::Fired(Timer::I)) => (Terminated, &[]),
        (Accepted, Event::Fired(Timer::Success)) => (Accepted, &[Send, Repeat(Timer::Success)]),
        (Accepted, Event::Fired(Timer::L)) => (Terminated, &[GiveUp]),
        (Accepted, Event::Acknowledged) => (Acknowledged, &[]),
        (Acknowledged, Event::Fired(Timer::L)) => (Terminated, &[]),
        // RFC 6026, 7.1: what the user sends goes out, and what ACKs come go up.
        (Accepted | Acknowledged, Event::Success) => (state, &[Send]),
        (Accepted | Acknowledged, Event::Ack) => (state, &[Pass]),
        (
            Proceeding | Completed | Confirmed | Accepted | Acknowledged | Terminated,
            Event::Invite
            | Event::Ack
            | Event::Provisional
            | Event::Success
            | Event::Refusal
            | Event::Acknowledged
            | Event::Fired(_),
        ) => (state, &[]),
    }
}

//! Leases of agents over blades (S2, S3-006 to S3-008; DESIGN.md, Leases): what an agent's home does and what the
//! CCB does that hosts the agent, without their I/O.
//!
//! ```text
//!  holder                                          home
//!  ------                                          ----
//!  asking ------------- LeaseRequest ------------> free?
//!    |                                               | compare-and-swap
//!  virtual <----------- Grant with its fence ----- reserved = hosted
//!    | the session stands, nobody was called         |
//!  dialled ------------ INVITE with the fence ---> bound
//!    |                                               |
//!  ended <------------- BYE ---------------------- free = host canceled
//! ```
//!
//! The word decides ([`abi::lease::word`]); the tables here only say who asked for what, and notice who is gone.
//! Time comes in as the caller's own clock, and nothing but durations travels.

mod holder;
mod home;

use std::time::Duration;

pub use holder::{Glare, Holder, Next, Session, Stage, Wanted};
pub use home::{Act, Desk, Home, HomeBug, Hosted, Presence};

use crate::cluster::REPORT_LIFE_MS;

/// How long a dialog must be silent, without RTP and without SIP, before it counts as gone with its holder.
pub const SILENT_MS: u64 = 2_000;
/// How long a dialog of a holder that is gone is silent before it is asked whether it lives.
pub const PROBE_AFTER_MS: u64 = 1_000;
/// How long an answer to that is waited for.
pub const PROBED_MS: u64 = 500;
/// How often a holder is asked whether it holds what our words say, in milliseconds.
pub const ASK_HOLDS_MS: u64 = 500;
/// For how long a holder waits for a grant, in milliseconds from its request; less than a reservation lives.
pub const WANTED_MS: u32 = 1_000;
/// Answers that a home remembers to give again; more requests than come to a blade while a copy of one may still be
/// under way.
pub const ANSWERS: usize = 1_024;

/// A home grants for this time after its newest report that came back. Others believe in that report for
/// [`REPORT_LIFE_MS`] from when they heard it, by clocks that may run a little faster.
const CONFIRMED: Duration = Duration::from_millis(REPORT_LIFE_MS - 100);
/// For how long a home that was not confirmed hears others first; more than what one says takes to the others.
const LISTENS: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;

//! SIP and SDP as pure state and bytes: the wire format, transactions, dialogs, registrations.
//!
//! Pure: no socket, no clock, no source of entropy. Datagrams, [`base::Instant`]s and random words
//! come in as arguments; datagrams to send come out as data.

pub mod body;
pub mod date;
pub mod dialog;
pub mod digest;
pub mod hep;
pub mod registrar;
pub mod reliable;
pub mod sdp;
pub mod session_timer;
pub mod stun;
pub mod transaction;
pub mod wire;

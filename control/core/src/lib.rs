//! The policy of a blade: which CCB a login is given (the CDM), how logins live and end, what desks
//! are told, where calls go that the tables do not answer.
//!
//! Pure: time, bytes and randomness come in as arguments, effects go out as data; no socket, no
//! clock, no thread. The regions that it shares with the data planes are memory.

mod blade;
mod calls;
mod cdm;
mod login;
mod message;
mod routes;

pub use blade::{BEAT_MS, Blade, CcbView, Counts, LoginView, SWEEP_MS};
pub use cdm::{Ccb, CcbStatus, Cdm};
pub use login::{
    Change, DESK_AWAY_MS, Desk, End, GRANT_MS, Login, LoginKey, PHONE_AWAY_MS, Phone, Step,
};
pub use message::{
    AgentRecord, CallEvent, CallRecord, CloseReason, DeskMessage, Granted, Ha1, Input, LegRecord,
    LoginRefusal, LoginRequest, OpOutcome, Output, Provision, TenantRecord, TrunkRecord,
};
pub use routes::{Cidr, Route, Routes, nearest};

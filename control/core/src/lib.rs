//! The policy of a blade: which CCB a login is given (the CDM), how logins live and end, what desks
//! are told, where calls go that the tables do not answer.
//!
//! Pure: time, bytes and randomness come in as arguments, effects go out as data; no socket, no
//! clock, no thread. The regions that it shares with the data planes are memory.

mod acd;
mod blade;
mod calls;
mod cdm;
pub mod cluster;
mod desk;
pub mod hosting;
mod login;
mod message;
mod path;
mod pool;
mod routes;
mod seat;

pub use acd::{
    Acd, CallerId, Ending, MAX_QUEUES, Match, Place, QUEUE_NAME_BYTES, QUEUE_RULE, QueueSpec,
    QueueView, Tally, is_queue_name, place, waited_ns,
};
pub use blade::{
    BEAT_MS, Blade, BladeView, CcbView, ClusterView, Counts, LeaseView, LoginView, SWEEP_MS,
    SlotView, SpoolView, TrunkView,
};
pub use cdm::{Ccb, CcbStatus, Cdm, Strategy};
pub use desk::{Carried, CarriedAnswer, CarriedOrder, DeskCommand, DeskRefusal, Supervision};
pub use login::{
    Change, DESK_AWAY_MS, Desk, End, GRANT_MS, Login, LoginKey, PHONE_AWAY_MS, Phone, Step,
};
pub use message::{
    AgentRecord, CallEvent, CallRecord, CloseReason, Collected, DeskMessage, Ender, Granted, Ha1,
    Input, LegRecord, LoginRefusal, LoginRequest, OpOutcome, Order, Output, Provision,
    TenantRecord, Trace, TrunkRecord,
};
pub use path::{path_name, reason_name, spool_name};
pub use pool::{
    DRAIN_S, Marks, PoolOrder, PoolRefusal, Scaler, Seen, SlotId, SlotKind, SlotOrder, SlotState,
    Slots, Wish,
};
pub use routes::{
    Cidr, Destination, Forward, Forwards, MIX_RULE, MIXES, PROMPT_RULE, Route, Routes, Service,
    TrunkKey, TrunkName, TrunkTls, When, is_prompt_name, mix_number, nearest,
};
pub use seat::{
    Engaged, LOGGED_ON, NO_ANSWER, Next, Reason, Seat, SeatChange, SeatEvent, SeatState, Work,
    reason,
};

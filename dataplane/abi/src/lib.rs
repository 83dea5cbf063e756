//! The shared memory between one data plane and its control process, and the only definition of it.
//!
//! Two processes map one [`Region`], either may be killed at any instant, and each treats the other
//! as the network: it bounds every index, copies out, then parses. *Tables are truth, rings are
//! hints*: whoever comes back reads the rows first and then the events that are numbered later.
//!
//! * [`Table`] rows have one writer each and two copies, so there is always a whole one to read;
//! * the lease word ([`Leases`]) is the one thing that both processes win by compare-and-swap;
//! * rings ([`ring`]) carry [`Event`]s up and [`Command`]s down, and wake by a [`Bell`].
//!
//! The small cores that must be right under every interleaving (`bell`, `cell`, `lease::word`,
//! `ring`) know only slices of atomic words, so that the loom models in `tests/loom.rs` run the
//! very same code on memory of their own.

#![deny(unsafe_op_in_unsafe_fn)]

pub mod bell;
pub mod cell;
pub mod journal;
pub mod lease;
pub mod ring;
#[cfg(not(loom))]
pub mod spool;
pub mod sync;

#[cfg(not(loom))]
mod command;
#[cfg(not(loom))]
mod counter;
#[cfg(not(loom))]
mod event;
#[cfg(not(loom))]
mod file;
#[cfg(not(loom))]
mod header;
#[cfg(not(loom))]
mod index;
#[cfg(not(loom))]
mod map;
#[cfg(not(loom))]
mod order;
#[cfg(not(loom))]
mod plan;
#[cfg(not(loom))]
mod record;
#[cfg(not(loom))]
mod region;
#[cfg(not(loom))]
mod row;
#[cfg(not(loom))]
mod table;
#[cfg(not(loom))]
mod ticket;

pub use bell::{Bell, Wake};
pub use lease::{
    LEASE_COUNTER_MASK, LeaseState, LeaseTime, MAX_AT_ONCE, OWN_AT_ONCE, Purpose, RESERVED_MS,
    Share,
};
pub use ring::{Corrupt, Full};

#[cfg(not(loom))]
pub use command::{Command, CommandReceiver, CommandSender};
#[cfg(not(loom))]
pub use counter::{Counter, Counters};
#[cfg(not(loom))]
pub use event::{
    Class, DigitsCause, Event, EventReceiver, EventSender, Numbered, OpResult, Party, SpoolState,
    UnregisterCause, Why,
};
#[cfg(not(loom))]
pub use header::{ControlRecord, DataPlaneRecord, DataPlaneState, Header, Process};
#[cfg(not(loom))]
pub use index::{IndexFull, Key};
#[cfg(not(loom))]
pub use lease::Leases;
#[cfg(not(loom))]
pub use order::{GuestKind, MediaOrder, MixRole};
#[cfg(not(loom))]
pub use plan::{BadLayout, LAYOUT_VERSION, Layout};
#[cfg(not(loom))]
pub use record::MAX_BLOB_BYTES;
#[cfg(not(loom))]
pub use region::{Opened, Region, RegionError, RingUsage};
#[cfg(not(loom))]
pub use row::{
    Address, AgentRow, AgentState, CallRow, CallState, CtiState, DIALOG_TEXT_BYTES, DialogPhase,
    DialogRow, DialogText, EndedBy, KeyRow, LegRow, LegState, LocationRow, MediaPath, NextWork,
    Outage, PathReason, RegistrationRow, SecretRow, SrtpPolicy, StreamRow, TenantRow, TrunkRow,
    TrunkTlsRow, WorkState,
};
#[cfg(not(loom))]
pub use table::{Agents, Calls, Legs, Row, Slot, Table};
#[cfg(not(loom))]
pub use ticket::{BadFence, Fence, LeaseTicket, LeaseToken};

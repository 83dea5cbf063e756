//! One core's whole state: SIP transactions, calls, registrations, media streams and ports.
//!
//! This crate does no I/O. Datagrams, the time and the answers of the operating system come in as
//! [`Input`]; what is to be sent, bound or woken goes out as [`Effect`]. Media packets do not queue:
//! [`Worker::forward`] gives a verdict on the spot. The shared-memory region is memory, so the worker
//! reads and writes its tables and rings directly, and a simulation runs it on a region in memory.

mod answer;
mod answering;
mod bypass;
mod call;
mod calls;
mod carried;
mod commands;
mod config;
mod connections;
mod dial;
mod extension;
mod forks;
mod forward;
mod functions;
mod glare;
mod goodbye;
mod guard;
mod hosting;
mod hunt;
mod identify;
mod info;
mod intake;
mod invite;
mod io;
mod lease;
mod media_path;
mod mirror;
mod mixing;
mod news;
mod offer;
mod outbound;
mod overload;
mod park;
mod pickup;
mod prack;
mod probe;
mod recording;
mod recover;
mod redirect;
mod refer;
mod referral;
mod refusal;
mod register;
mod reinvite;
mod remember;
mod replaces;
mod secure;
mod session;
mod sips;
mod snapshot;
mod studio;
mod summon;
mod tone;
mod transfer;
mod trunks;
mod update;
mod video;
mod worker;

pub use bypass::CountBypass;
pub use call::LegRef;
pub use config::{Config, Limits, Location, MediaConfig, StreamPorts};
pub use io::{BypassNews, Effect, Input, MixMessage, Passed};
pub use media::{FlowSpec, FlowStats, Packet, PairId, SocketSlot, Splice, Verdict, WhyNot};
pub use mirror::Mirrored;
pub use recover::{Recovery, recover};
pub use sip::session_timer::Wishes as SessionWishes;
pub use worker::Worker;

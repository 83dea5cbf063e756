//! Media of one worker: what an RTP packet says, where it may come from and where it goes.
//!
//! Pure: packets, addresses and the time come in, [`Verdict`]s go out. [`PortPool`] decides which port
//! pairs are bound, [`Streams`] relays between them, and a [`Latch`] per pair makes sure that only the
//! peer of the signalling is ever heard or answered (RTP Bleed, CVE-2017-14099 and its relatives).
//!
//! What is done with the sound itself lies beside that and knows only [`wire::Rtp`]: [`prompt`]s of [`wav`]
//! files, [`digits`], [`mix`]es with a [`playout`] buffer a talker, and the [`recorder`].

pub mod codec;
pub mod digits;
mod endpoint;
mod flow;
pub mod g711;
mod latch;
pub mod mix;
mod packet;
pub mod playout;
mod port;
pub mod prompt;
mod quality;
pub mod recorder;
pub mod srtp;
mod stream;
pub mod tone;
pub mod wav;
pub mod wire;

pub use endpoint::Endpoint;
pub use flow::{FlowSpec, FlowStats, Splice, WhyNot};
pub use latch::{LEARN_PACKETS, Latch, RELEARN_MS, Seen};
pub use packet::{DropReason, Packet, Verdict};
pub use port::{
    BIND_PAUSE_MS, BINDS_PER_PLAN, FAILURES_BEFORE_PAUSE, Outcome as BindOutcome, PairId,
    Plan as PortPlan, PortPool, READY_AT_LEAST, READY_LOW_WATER, REBIND_TRIES, REUSE_AFTER_MS,
    SURPLUS_AFTER_MS, SocketSlot,
};
pub use quality::Quality;
pub use stream::{
    Digit, EVENT_TIMEOUT_MS, Keys, SSRC_SILENCE_MS, StreamImage, StreamStats, Streams,
};

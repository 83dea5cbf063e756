//! The I/O of a data plane: threads, cores, sockets, io_uring or recvmmsg, the clock and the mapping of the
//! region.
//!
//! [`run`] starts one thread for each worker, pinned to its core. Each thread has a ring of its own and
//! goes through its duty cycle; the calling thread minds the socket to control. Nothing above this crate
//! knows a socket or a clock.

#![deny(unsafe_op_in_unsafe_fn)]

mod addr;
mod buffers;
mod clock;
mod datagrams;
mod detour;
mod disk;
mod doorbell;
mod duty;
mod effort;
mod error;
mod link;
mod loader;
mod mesh;
mod mirror;
mod mmsg;
mod pace;
mod pages;
mod pin;
mod pool;
mod probe;
mod pulse;
mod ring_io;
mod run;
mod sockets;
mod spool;
mod streams;
mod token;
pub mod xdp;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use abi::Layout;
use base::CcbId;

pub use error::DriverError;
pub use mirror::CaptureServer;
pub use ring_io::RingError;
pub use run::{Notice, run, run_telling};
pub use streams::{StreamSettings, TlsSettings};

/// What a data plane is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The CCB's device number.
    pub ccb: CcbId,
    /// The file of the region, in /dev/shm. Beside it lie `.secrets`, `.lock` and
    /// `.control.lock`.
    pub region: PathBuf,
    /// The UNIX socket that control connects to.
    pub socket: PathBuf,
    /// The core of each worker: as many workers as cores are named.
    pub cores: Vec<usize>,
    /// The addresses to listen on, in the order of their [`base::LocationId`].
    pub locations: Vec<worker::Location>,
    /// Connections of SIP.
    pub streams: StreamSettings,
    /// The lowest and the highest RTP port.
    pub rtp_ports: (u16, u16),
    /// How many rows the region's tables have.
    pub sizes: Sizes,
    /// Bounds of each worker's own tables.
    pub limits: worker::Limits,
    /// The directory that recordings are spooled to, made if it is missing; with none, nothing is
    /// recorded.
    pub spool: Option<PathBuf>,
    /// The directory with the prompts (WAV files).
    pub prompts: Option<PathBuf>,
    /// How packets go in and out.
    pub media: MediaChoice,
    /// An answered call that is not on hold and hears nothing from any of its legs for so long ends; none
    /// for never.
    pub media_timeout: Option<Duration>,
    /// The session interval that is asked for, and the least that is accepted (RFC 4028).
    pub session: worker::SessionWishes,
    /// How interfaces are used for the bypass, where `media` allows one.
    pub xdp: XdpSettings,
    /// Where a copy of each SIP message goes; none for nowhere.
    pub capture: Option<CaptureServer>,
}

/// How packets go in and out, SIP and media alike.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum MediaChoice {
    /// By io_uring, or by recvmmsg where that is refused.
    #[default]
    Auto,
    /// By io_uring, or not at all.
    IoUring,
    /// By recvmmsg.
    Recvmmsg,
    /// As [`MediaChoice::Auto`], and past the process where an interface takes the bypass: one must.
    Xdp,
}

/// How the interfaces of the locations are used for the bypass.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct XdpSettings {
    /// How interfaces are used that `modes` does not name.
    pub mode: xdp::XdpMode,
    /// How the named interfaces are used.
    pub modes: BTreeMap<String, xdp::XdpMode>,
    /// A directory in a bpffs, this data plane's own: streams in the bypass go on in it while a killed process
    /// restarts.
    pub bpffs: Option<PathBuf>,
}

/// The sizes of a region's tables; other sizes make another region, and registrations start anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sizes {
    /// Agents that can be logged in.
    pub agents: u32,
    /// Calls that one worker can have.
    pub calls_per_worker: u32,
    /// Legs that one worker can have.
    pub legs_per_worker: u32,
    /// Records in each ring, a power of two.
    pub ring_slots: u32,
    /// Bytes of each ring's blob ring, a power of two.
    pub blob_bytes: u32,
    /// Tenants.
    pub tenants: u32,
    /// Trunks.
    pub trunks: u32,
}

impl Default for Sizes {
    /// A large CCB: 20,000 agents, and as many calls on each worker as half of the RTP ports allow.
    fn default() -> Self {
        Sizes {
            agents: 32_768,
            calls_per_worker: 8_192,
            legs_per_worker: 16_384,
            ring_slots: 16_384,
            blob_bytes: 1 << 20,
            tenants: 1_024,
            trunks: 1_024,
        }
    }
}

/// Rows for locations: more than are configured today, so that one more does not make a new region.
const LOCATION_ROWS: u8 = 64;

impl Config {
    /// The layout of the region that this data plane makes.
    pub fn layout(&self) -> Layout {
        Layout {
            ccb: self.ccb,
            workers: u8::try_from(self.cores.len()).unwrap_or(u8::MAX),
            agents: self.sizes.agents,
            calls_per_worker: self.sizes.calls_per_worker,
            legs_per_worker: self.sizes.legs_per_worker,
            ring_slots: self.sizes.ring_slots,
            blob_bytes: self.sizes.blob_bytes,
            tenants: self.sizes.tenants,
            trunks: self.sizes.trunks,
            locations: LOCATION_ROWS,
        }
    }
}

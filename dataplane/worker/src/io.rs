use std::net::SocketAddr;

use base::{LocationId, WorkerId};
use media::PairId;

/// What happened, told to a worker.
#[derive(Debug)]
pub enum Input<'a> {
    /// A datagram came in on the SIP socket of `location`.
    Sip {
        /// Where it came in.
        location: LocationId,
        /// Who sent it.
        from: SocketAddr,
        /// What it holds.
        datagram: &'a [u8],
    },
    /// Another worker passed a datagram on to its owner.
    Mesh(Passed),
    /// The operating system's answer to [`Effect::Bind`].
    Bound {
        /// The pair that was to be bound.
        pair: PairId,
        /// True when both ports are bound.
        ok: bool,
    },
    /// Control rang: there may be commands.
    Commands,
    /// Control attached.
    ControlHere,
    /// Control died or let go.
    ControlGone,
    /// The process was paused (stopped, or without a core for longer than a heartbeat): what waits in its
    /// sockets and rings is older than what its timers say.
    Paused,
    /// [`crate::Worker::deadline`] has come, or may have.
    Timeout,
}

/// A datagram on its way to the worker that owns its call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passed {
    /// Where it came in.
    pub location: LocationId,
    /// Who sent it.
    pub from: SocketAddr,
    /// What it holds.
    pub datagram: Box<[u8]>,
}

/// What a worker wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a SIP datagram from the address of `location`.
    Sip {
        /// From where.
        location: LocationId,
        /// Where to.
        to: SocketAddr,
        /// What.
        datagram: std::rc::Rc<[u8]>,
    },
    /// Pass a datagram on to another worker.
    Mesh {
        /// The owner.
        to: WorkerId,
        /// The datagram.
        passed: Passed,
    },
    /// Bind `port` and `port + 1` on the address of `location`; answered by [`Input::Bound`].
    Bind {
        /// The pair to bind.
        pair: PairId,
        /// Whose address.
        location: LocationId,
        /// The even port, for RTP; the next one is for RTCP.
        port: u16,
    },
    /// Close both sockets of `pair`. A later [`Effect::Bind`] of it waits until they are closed.
    Close {
        /// The pair to close.
        pair: PairId,
    },
    /// Ring control's doorbell.
    WakeControl,
}

use std::net::SocketAddr;

use std::sync::Arc;

use abi::Outage;
use base::{Channel, Instant, LocationId, Text, WorkerId};
use media::codec::Frame;
use media::{FlowSpec, FlowStats, PairId, SocketSlot, WhyNot};

use crate::call::LegRef;
use crate::mirror::Mirrored;

/// What happened, told to a worker.
#[derive(Debug)]
pub enum Input<'a> {
    /// A SIP message came in at the address of `location`.
    Sip {
        /// Where it came in.
        location: LocationId,
        /// Who sent it.
        from: SocketAddr,
        /// By what it came.
        channel: Channel,
        /// One whole message; over datagrams, whatever came.
        datagram: &'a [u8],
    },
    /// A SIP message could not be sent: the connection is gone, or none could be made.
    Unsent {
        /// From where it was to go.
        location: LocationId,
        /// Where to.
        to: SocketAddr,
        /// By what.
        channel: Channel,
        /// Why not.
        outage: Outage,
        /// The message.
        datagram: &'a [u8],
    },
    /// A connection that [`Effect::Watch`] was about is closed.
    Disconnected {
        /// Its number.
        connection: u32,
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
    /// What the bypass says of the stream that comes in at `pair`.
    Bypass {
        /// The pair whose packets are relayed past the process.
        pair: PairId,
        /// What it says.
        news: BypassNews,
    },
    /// The answer to [`Effect::Load`]: 16-bit samples at 8 kHz; none when there is no such prompt.
    Loaded {
        /// The prompt.
        name: Text<64>,
        /// What it holds.
        samples: Option<Arc<[i16]>>,
    },
    /// How the spool of recordings is, whenever that changes.
    Spool {
        /// How it is.
        state: abi::SpoolState,
        /// Bytes that it lost since the last of these.
        lost: u64,
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
    /// How much of the last 50 ms or so the worker worked, in thousandths.
    Load(u32),
    /// What the calendar says: seconds since the beginning of 1970, UTC.
    Clock {
        /// The seconds.
        unix_s: u64,
    },
    /// The process stops: recordings end, and what was recorded is handed out.
    Stopping,
    /// [`crate::Worker::deadline`] has come, or may have.
    Timeout,
}

/// What the bypass says of one stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BypassNews {
    /// Its packets are relayed past the process from now on.
    On,
    /// It cannot be; its packets go on coming here.
    Refused(WhyNot),
    /// It has ended, by [`Effect::LeaveBypass`] or by itself (an interface went down), with its last counts.
    Off(FlowStats),
    /// A telephone-event passed by (RFC 4733); these are the first bytes of the RTP packet.
    TelephoneEvent([u8; 16]),
}

/// What one worker passes to another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Passed {
    /// A SIP message on its way to the worker that owns its call.
    Sip {
        /// Where it came in.
        location: LocationId,
        /// Who sent it.
        from: SocketAddr,
        /// By what it came.
        channel: Channel,
        /// What it holds.
        datagram: Box<[u8]>,
    },
    /// A leg of one worker in a mix of another.
    Mix(MixMessage),
}

/// What a leg and its mix say to each other. The worker that owns the mix is told of the first three, the
/// one that owns the leg of the last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MixMessage {
    /// The leg comes.
    Join {
        /// The mix.
        mix: u32,
        /// The leg; call slots count through all workers.
        leg: LegRef,
        /// Whose it is.
        worker: WorkerId,
        /// What it hears and who hears it.
        role: abi::MixRole,
        /// Whom a whisperer speaks to.
        to: LegRef,
    },
    /// The leg goes.
    Leave {
        /// The mix.
        mix: u32,
        /// The leg.
        leg: LegRef,
    },
    /// An RTP packet of the leg's peer.
    Heard {
        /// The mix.
        mix: u32,
        /// The leg.
        leg: LegRef,
        /// When it came.
        at: Instant,
        /// The packet.
        packet: Box<[u8]>,
    },
    /// What the leg's peer is to hear next.
    Said {
        /// The mix.
        mix: u32,
        /// The leg.
        leg: LegRef,
        /// 20 ms of it.
        frame: Box<Frame>,
    },
}

/// What a worker wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send a SIP message from the address of `location`. A message by a connection that is gone, or by one that
    /// cannot be made, comes back by [`Input::Unsent`].
    Sip {
        /// From where.
        location: LocationId,
        /// Where to.
        to: SocketAddr,
        /// By what.
        channel: Channel,
        /// What.
        datagram: std::rc::Rc<[u8]>,
    },
    /// A connection is somebody's whom we know: it may stay without sending, and its end is told by
    /// [`Input::Disconnected`], at once when it is closed already.
    Watch {
        /// Its number.
        connection: u32,
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
    /// Send a packet of our own making out of `socket`.
    Media {
        /// Our socket.
        socket: SocketSlot,
        /// To whom.
        to: SocketAddr,
        /// RTP, at most an Ethernet frame.
        packet: Box<[u8]>,
    },
    /// Relay the packets that come to `pair` past the process; answered by [`Input::Bypass`].
    EnterBypass {
        /// The pair that they come to.
        pair: PairId,
        /// How.
        flow: FlowSpec,
    },
    /// Let the packets of `pair` come to the process again; answered by [`BypassNews::Off`], within the
    /// same cycle and before the next packet.
    LeaveBypass {
        /// The pair.
        pair: PairId,
    },
    /// Read a prompt; answered by [`Input::Loaded`].
    Load {
        /// Its name, without a directory.
        name: Text<64>,
    },
    /// Write a block of the spool; see `abi::spool` for what is in it.
    Spool {
        /// Whole records.
        block: Vec<u8>,
    },
    /// Show a SIP message to the capture server or to a trace.
    Mirror(Box<Mirrored>),
    /// Ring control's doorbell.
    WakeControl,
}

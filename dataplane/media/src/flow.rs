//! What the bypass of a stream is told, and what it tells back.

use std::net::SocketAddr;

/// One direction of a joined pair of streams, for a relay past the process: packets that `source` sends
/// to `local` go from `from` to `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FlowSpec {
    /// Our address that the packets come to.
    pub local: SocketAddr,
    /// The locked source; nobody else is heard.
    pub source: SocketAddr,
    /// Its synchronization source.
    pub ssrc: u32,
    /// The newest sequence number and, above 16 bits, how often it wrapped.
    pub newest: u32,
    /// Arrival less timestamp of the newest packet, in timestamp units at 8 kHz.
    pub transit: u32,
    /// Jitter in sixteenths of a timestamp unit.
    pub jitter: u32,
    /// Our address that the packets leave from, the other leg's.
    pub from: SocketAddr,
    /// The other leg's peer.
    pub to: SocketAddr,
    /// What is changed in the RTP header; none where the packet goes on untouched.
    pub splice: Option<Splice>,
    /// The payload type of telephone-events (RFC 4733), which are relayed and told as well.
    pub telephone_event: Option<u8>,
    /// The six bits of DSCP that packets leave with.
    pub dscp: u8,
}

/// What makes two senders one for the one who hears them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Splice {
    /// The synchronization source that goes out.
    pub ssrc: u32,
    /// Added to the sequence number.
    pub sequence: u16,
    /// Added to the timestamp.
    pub timestamp: u32,
}

/// What a bypassed flow has counted since it was installed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlowStats {
    /// RTP packets of the source, relayed.
    pub packets: u64,
    /// Their UDP payload in bytes.
    pub bytes: u64,
    /// Packets from others, dropped.
    pub foreign: u64,
    /// Whom the last of these came from.
    pub foreigner: Option<SocketAddr>,
    /// The newest sequence number and, above 16 bits, how often it wrapped.
    pub newest: u32,
    /// Arrival less timestamp, in timestamp units at 8 kHz, of a packet that is at most 160 ms of timestamps
    /// and seven packets older than the newest: a bypass need not read the clock for each. With the newest
    /// packet's timestamp it tells when that came, but for its jitter.
    pub transit: u32,
    /// Jitter in sixteenths of a timestamp unit: RFC 3550, A.8 over the packets that the clock was read for.
    pub jitter: u32,
    /// The timestamp of the newest packet as it came; what a later splice goes on from.
    pub timestamp: u32,
}

/// Why a stream's packets go through the process and not past it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WhyNot {
    /// The bypass is switched off.
    NotWanted,
    /// No interface has the bypass.
    Unavailable,
    /// This stream's source or its peer's is not locked yet.
    Learning,
    /// The stream is joined to no other, or to one that nobody can be sent to from.
    NoPeer,
    /// A prompt is played.
    Prompt,
    /// The call is recorded.
    Recording,
    /// The leg is in a mix.
    Mix,
    /// One of the interfaces has no bypass.
    Interface,
    /// The MAC address of the next hop is not known.
    NextHop,
    /// The table of the bypass is full.
    TableFull,
    /// It has just been asked for.
    Installing,
    /// The stream or its peer's is encrypted here (SRTP).
    Srtp,
}

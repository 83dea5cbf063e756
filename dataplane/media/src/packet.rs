use std::net::SocketAddr;
use std::ops::Range;

use crate::SocketSlot;

/// A datagram in a larger buffer: there is room before and behind it for what a relay adds.
#[derive(Debug)]
pub struct Packet<'a> {
    buffer: &'a mut [u8],
    start: usize,
    end: usize,
}

impl<'a> Packet<'a> {
    /// The datagram that fills `range` of `buffer`; a range beyond the buffer is cut to it.
    pub fn new(buffer: &'a mut [u8], range: Range<usize>) -> Self {
        let end = range.end.min(buffer.len());
        let start = range.start.min(end);
        Packet { buffer, start, end }
    }

    /// The datagram.
    #[inline]
    pub fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }

    /// The datagram, to be changed in place.
    #[inline]
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.buffer[self.start..self.end]
    }

    /// Where in the buffer the datagram lies.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// Lets the datagram end where `len` bytes of it are over; it never grows by that.
    pub fn truncate(&mut self, len: usize) {
        self.end = self.end.min(self.start + len);
    }

    /// Lets the datagram end `more` bytes later; none, and nothing done, where the buffer has no room.
    #[must_use]
    pub fn extend(&mut self, more: usize) -> Option<()> {
        let fits = more <= self.tailroom();
        self.end += if fits { more } else { 0 };
        fits.then_some(())
    }

    /// How many bytes are free before the datagram.
    pub fn headroom(&self) -> usize {
        self.start
    }

    /// How many bytes are free behind the datagram.
    pub fn tailroom(&self) -> usize {
        self.buffer.len() - self.end
    }
}

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Send the packet from `socket` to `to`.
    Send {
        /// The socket of the other leg.
        socket: SocketSlot,
        /// The other leg's peer.
        to: SocketAddr,
    },
    /// It has done its work here.
    Consume,
    /// It goes no further, and why.
    Drop(DropReason),
}

/// Why a packet is dropped; each reason has a counter of the same name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DropReason {
    /// Shorter than an RTP header, or than its header says.
    RtpTooShort,
    /// Not version 2 of RTP (RFC 3550, 5.1).
    RtpVersion,
    /// Not from the source that the stream is locked to, or the stream expects nobody yet.
    RtpForeignSource,
    /// From a source that has not yet sent enough to be locked to.
    RtpLearning,
    /// From the locked address, but another synchronization source than the locked one, which was heard
    /// just before or has not been silent for long.
    RtpForeignSsrc,
    /// A sequence number far from the newest, and the next one has not followed it (RFC 3550, A.1).
    RtpSequence,
    /// What the peer hears is made here: a prompt, a mix, or a packet from before one.
    RtpSuperseded,
    /// The stream has nobody to send to: no bridge, or the other side's address is not known.
    RtpNoPeer,
    /// No stream is open on that port.
    RtpUnbound,
    /// Not a valid compound packet (RFC 3550, A.2).
    RtcpMalformed,
    /// RTCP that comes neither from the signalled address nor from the host of the locked source.
    RtcpForeignSource,
    /// SRTP or SRTCP whose tag is wrong: of another key, changed on its way, or plain.
    SrtpUnauthentic,
    /// SRTP or SRTCP that came before, or is too old to know (RFC 3711, 3.3.2).
    SrtpReplayed,
    /// It cannot be encrypted for the peer: its number went out before, or a tag has no room.
    SrtpUnsealed,
}

impl DropReason {
    /// All the reasons.
    pub const ALL: [DropReason; 14] = [
        DropReason::RtpTooShort,
        DropReason::RtpVersion,
        DropReason::RtpForeignSource,
        DropReason::RtpLearning,
        DropReason::RtpForeignSsrc,
        DropReason::RtpSequence,
        DropReason::RtpSuperseded,
        DropReason::RtpNoPeer,
        DropReason::RtpUnbound,
        DropReason::RtcpMalformed,
        DropReason::RtcpForeignSource,
        DropReason::SrtpUnauthentic,
        DropReason::SrtpReplayed,
        DropReason::SrtpUnsealed,
    ];

    /// The reason's name in counters and logs.
    pub const fn name(self) -> &'static str {
        match self {
            DropReason::RtpTooShort => "rtp_too_short",
            DropReason::RtpVersion => "rtp_version",
            DropReason::RtpForeignSource => "rtp_foreign_source",
            DropReason::RtpLearning => "rtp_learning",
            DropReason::RtpForeignSsrc => "rtp_foreign_ssrc",
            DropReason::RtpSequence => "rtp_sequence",
            DropReason::RtpSuperseded => "rtp_superseded",
            DropReason::RtpNoPeer => "rtp_no_peer",
            DropReason::RtpUnbound => "rtp_unbound",
            DropReason::RtcpMalformed => "rtcp_malformed",
            DropReason::RtcpForeignSource => "rtcp_foreign_source",
            DropReason::SrtpUnauthentic => "srtp_unauthentic",
            DropReason::SrtpReplayed => "srtp_replayed",
            DropReason::SrtpUnsealed => "srtp_unsealed",
        }
    }
}

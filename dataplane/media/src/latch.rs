//! Who a stream listens to, and whom it answers.
//!
//! ```text
//!          signal             1 or 2
//!  Silent --------> Learning --------> Locked <--. 1, from another source than the locked one
//!                                      |    ^ |__|
//!     signal, of another address than  |    |
//!     before and than the locked one   |    | 1; 2 before RELEARN_MS; 3; signal of the old source
//!                                      v    |
//!                                    Relearning
//!
//!  1  a packet from exactly the signalled address
//!  2  LEARN_PACKETS consistent ones of one source on the signalled host or on the leg's SIP host
//!  3  a packet from the old source, RELEARN_MS or more after the signal
//! ```
//!
//! A signal that says nothing new, or no address (the old hold), moves nothing; a changed one starts
//! Learning or Relearning again.
//!
//! Silent hears nobody: a port that was handed out but whose peer is not yet known is the widest door
//! for RTP Bleed. Learning and Relearning learn from hosts that the signalling names, and never from a
//! third one: whoever sprays all ports of a ringing call gets none. Locked hears one source and learns
//! none; only the signalled address takes the lock from it, since a source that was learned may have
//! been a neighbour behind the same NAT. Relearning goes on hearing the old source, which a phone
//! behind a NAT keeps when it signals an address that never sends.

use std::time::Duration;

use base::Instant;

use crate::Endpoint;

/// How many packets of one source, one SSRC and consecutive sequence numbers lock a stream to a source
/// other than the signalled one: 60 ms of speech. Anybody can send three packets, so they also have to
/// come from the signalled host, or from the one that the leg's SIP comes from (a phone behind a NAT).
pub const LEARN_PACKETS: u8 = 3;

/// How long after a changed address was signalled another source may be learned, in milliseconds: a
/// phone sends from its new address within its answer's round trip.
pub const RELEARN_MS: u64 = 2_000;

/// The source lock of one stream.
#[derive(Clone, Copy, Debug, Default)]
pub struct Latch {
    phase: Phase,
    signalled: Endpoint,
    /// The host that the leg's SIP comes from.
    host: Option<u128>,
    candidate: Candidate,
    muted: bool,
}

/// What a packet's source is to a [`Latch`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The peer.
    Peer,
    /// Perhaps the peer; not to be relayed yet.
    Candidate,
    /// Somebody else.
    Foreign,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Phase {
    #[default]
    Silent,
    Learning,
    Locked(Endpoint),
    Relearning {
        old: Endpoint,
        until: Instant,
        /// The old source was not where its signalling said.
        natted: bool,
    },
}

/// Consecutive packets of somebody who may become the source.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Candidate {
    source: Endpoint,
    ssrc: u32,
    next_sequence: u16,
    packets: u8,
}

impl Latch {
    /// Tells the host that the leg's SIP comes from. Media is learned from it or from the signalled one;
    /// a source that is already locked stays.
    pub fn expect_host(&mut self, host: u128) {
        self.host = Some(host);
    }

    /// Tells the peer's address as signalled (SDP). A changed one opens the lock again; the same one does
    /// nothing. `0.0.0.0` or port 0 keeps the lock and only stops sending (RFC 3264, 8.4, the old hold).
    pub fn signal(&mut self, now: Instant, signalled: Endpoint) {
        self.muted = !signalled.is_somewhere();
        if self.muted || signalled == self.signalled {
            return;
        }
        let old_signalled = std::mem::replace(&mut self.signalled, signalled);
        self.candidate = Candidate::default();
        let until = now + Duration::from_millis(RELEARN_MS);
        self.phase = match self.phase {
            Phase::Silent | Phase::Learning => Phase::Learning,
            Phase::Locked(source) | Phase::Relearning { old: source, .. }
                if source == signalled =>
            {
                Phase::Locked(source)
            }
            Phase::Locked(old) => Phase::Relearning { old, until, natted: old != old_signalled },
            Phase::Relearning { old, natted, .. } => Phase::Relearning { old, until, natted },
        };
    }

    /// Judges the source of a valid RTP packet, and locks to it when the conditions hold.
    pub fn see(&mut self, now: Instant, from: Endpoint, ssrc: u32, sequence: u16) -> Seen {
        match self.phase {
            Phase::Silent => return Seen::Foreign,
            Phase::Locked(source) if source == from => return Seen::Peer,
            // What was signalled is believed before what was learned, also after the lock.
            _ if from == self.signalled => {}
            Phase::Locked(_) => return Seen::Foreign,
            Phase::Relearning { old, until, .. } if old == from => {
                if now < until {
                    return Seen::Peer;
                }
            }
            Phase::Relearning { until, .. } if now >= until => return Seen::Foreign,
            _ if from.ip != self.signalled.ip && Some(from.ip) != self.host => {
                return Seen::Foreign;
            }
            Phase::Learning | Phase::Relearning { .. } => {
                if self.candidate.count(from, ssrc, sequence) < LEARN_PACKETS {
                    return Seen::Candidate;
                }
            }
        }
        self.phase = Phase::Locked(from);
        Seen::Peer
    }

    /// False for a source that [`Latch::see`] finds foreign whatever its packet says.
    pub fn may_be_heard(&self, now: Instant, from: Endpoint) -> bool {
        match self.phase {
            Phase::Silent => false,
            _ if from == self.signalled => true,
            Phase::Locked(source) => source == from,
            Phase::Relearning { old, .. } if old == from => true,
            Phase::Relearning { until, .. } if now >= until => false,
            _ => from.ip == self.signalled.ip || Some(from.ip) == self.host,
        }
    }

    /// The lock as it was in a process that is gone: `locked` to a source, or else learning one where an
    /// address was signalled.
    pub(crate) fn restore(
        signalled: Endpoint,
        host: Option<u128>,
        locked: Option<Endpoint>,
        muted: bool,
    ) -> Self {
        let phase = match locked {
            Some(source) => Phase::Locked(source),
            None if signalled.is_somewhere() => Phase::Learning,
            None => Phase::Silent,
        };
        Latch { phase, signalled, host, candidate: Candidate::default(), muted }
    }

    /// The host that the leg's SIP comes from, where it was told.
    pub(crate) fn host(&self) -> Option<u128> {
        self.host
    }

    /// True when nothing may be sent (hold).
    pub(crate) fn is_muted(&self) -> bool {
        self.muted
    }

    /// True before anything was signalled.
    pub(crate) fn is_silent(&self) -> bool {
        self.phase == Phase::Silent
    }

    /// The address signalled last; nowhere before the first.
    pub fn signalled(&self) -> Endpoint {
        self.signalled
    }

    /// The source that the stream is locked to.
    pub fn locked(&self) -> Option<Endpoint> {
        match self.phase {
            Phase::Locked(source) => Some(source),
            _ => None,
        }
    }

    /// True when the source that is heard, locked or old, is on the host `ip`.
    pub fn hears_host(&self, ip: u128) -> bool {
        match self.phase {
            Phase::Locked(source) | Phase::Relearning { old: source, .. } => source.ip == ip,
            _ => false,
        }
    }

    /// Where to send: to the locked source, else to the signalled address. While relearning, a peer
    /// that was not where its signalling said is behind a NAT, and goes on to be sent to where it was.
    pub fn target(&self) -> Option<Endpoint> {
        let target = match self.phase {
            Phase::Silent => return None,
            Phase::Learning => self.signalled,
            Phase::Locked(source) => source,
            Phase::Relearning { old, natted: true, .. } => old,
            Phase::Relearning { natted: false, .. } => self.signalled,
        };
        (!self.muted).then_some(target)
    }
}

impl Candidate {
    /// Counts the packet when it goes on where the last one stopped, else starts again with it.
    pub(crate) fn count(&mut self, source: Endpoint, ssrc: u32, sequence: u16) -> u8 {
        let goes_on = self.packets > 0
            && (self.source, self.ssrc, self.next_sequence) == (source, ssrc, sequence);
        let packets = if goes_on { self.packets.saturating_add(1) } else { 1 };
        *self = Candidate { source, ssrc, next_sequence: sequence.wrapping_add(1), packets };
        packets
    }
}

#[cfg(test)]
mod tests;

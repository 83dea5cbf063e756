//! The keys of an encrypted stream.

use super::*;

states! {
    /// Whether the phones of a tenant, or the peers of a trunk, speak SRTP with keys in SDP (RFC 4568).
    pub enum SrtpPolicy {
        /// Who offers it gets it. It is offered, as what may be declined (RFC 8643), to who speaks SIP over TLS.
        Allowed = 0,
        /// Never: an offer of it is refused, and one that may be declined is.
        Never = 1,
        /// As allowed, and it is offered to all, as what may be declined.
        Offered = 2,
        /// SRTP or no call.
        Required = 3,
    }
}

impl SrtpPolicy {
    /// The name in configuration and on command lines.
    pub const fn name(self) -> &'static str {
        match self {
            SrtpPolicy::Allowed => "allowed",
            SrtpPolicy::Never => "no",
            SrtpPolicy::Offered => "offered",
            SrtpPolicy::Required => "required",
        }
    }

    /// The policy of that name.
    pub fn named(name: &str) -> Option<SrtpPolicy> {
        Self::ALL.iter().copied().find(|policy| policy.name() == name)
    }
}

row! {
    /// The keys of a leg's stream and how far it is with them (RFC 3711), at its leg's place; zeros where it is
    /// plain. Its writer is the worker that owns the call, and it lies in the secrets file.
    pub struct KeyRow: u32 {
        /// The slot of its call.
        pub call_slot: u32,
        /// The generation of its call.
        pub call_generation: u32,
        /// The leg's number in the call.
        pub leg: u32,
        /// See [`Self::IN_USE`] and what follows it.
        pub flags: u32,
        /// The tag of the `a=crypto` line that was agreed on.
        pub tag: u32,
        /// How many bytes of `mki` there are.
        pub mki_bytes: u32,
        /// What the peer's packets name its key by.
        pub mki: [u8; 8],
        /// Our master key, and its salt behind it.
        pub ours: [u8; 32],
        /// The peer's.
        pub theirs: [u8; 32],
        /// The highest index of a packet of the peer, where [`Self::OPENED`] is set.
        pub opened_rtp: u64,
        /// The highest index of a packet to the peer, where [`Self::SEALED`] is set.
        pub sealed_rtp: u64,
        /// The peer's synchronization source.
        pub opened_ssrc: u32,
        /// The next index of SRTCP that the peer has not used; 0 before the first.
        pub opened_rtcp: u32,
        /// The synchronization source that we send with.
        pub sealed_ssrc: u32,
        /// The next index of SRTCP that we have not used.
        pub sealed_rtcp: u32,
    }
}

impl KeyRow {
    /// In `flags`: the stream is encrypted.
    pub const IN_USE: u32 = 1;
    /// In `flags`: with tags of 32 bits instead of 80.
    pub const SHORT: u32 = 2;
    /// In `flags`: it was described as `RTP/SAVP`.
    pub const PROFILE: u32 = 4;
    /// In `flags`: a packet of the peer was opened.
    pub const OPENED: u32 = 8;
    /// In `flags`: a packet was sent to the peer.
    pub const SEALED: u32 = 16;
}

impl fmt::Debug for KeyRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("KeyRow").field("flags", &self.flags).finish_non_exhaustive()
    }
}

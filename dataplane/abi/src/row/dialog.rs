//! What a new incarnation needs to go on with the calls of its predecessor. The rows lie beside those of
//! the legs, one of each for a leg, at the same places; their writer is the worker that owns the call.

use super::*;
use crate::lease::Share;

states! {
    /// How far a leg's dialog is, and so what a new incarnation does about it.
    pub enum DialogPhase {
        /// Nothing is left at the peer.
        None = 0,
        /// The peer invited us and waits for a final answer.
        Incoming = 1,
        /// We invited the peer and have no final answer.
        Outgoing = 2,
        /// We sent a 2xx to the peer's first INVITE; its ACK has not come.
        Accepted = 3,
        /// The dialog stands.
        Standing = 4,
        /// We cancelled or said goodbye, and wait for the answer.
        Leaving = 5,
    }
}

/// The texts of a dialog, in their order in [`DialogRow`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum DialogText {
    /// The Call-ID.
    CallId = 0,
    /// Our tag.
    LocalTag = 1,
    /// The peer's tag; empty before it has one.
    RemoteTag = 2,
    /// Our URI, with its parameters.
    LocalUri = 3,
    /// The peer's URI, with its parameters.
    RemoteUri = 4,
    /// The URI of the peer's Contact; of an INVITE without answer, its Request-URI.
    RemoteTarget = 5,
    /// The values for Route, the nearest first, each behind its length (two bytes, the high one first).
    Routes = 6,
    /// The values of Via of an INVITE that has no final answer, or whose 2xx has no ACK, as [`Self::Routes`].
    Vias = 7,
}

impl DialogText {
    /// How many there are.
    pub const COUNT: usize = 8;
}

/// Bytes for all texts of a dialog together. A phone's take some 250; a trunk's behind two proxies 600.
pub const DIALOG_TEXT_BYTES: usize = 608;

row! {
    /// A leg's SIP dialog; written before a message that changes it is sent.
    pub struct DialogRow: u32 {
        /// A [`DialogPhase`].
        pub phase: u32,
        /// The slot of its call.
        pub call_slot: u32,
        /// The generation of its call.
        pub call_generation: u32,
        /// The leg's number in the call.
        pub leg: u32,
        /// See [`Self::HAS_LOCAL_CSEQ`] and what follows it.
        pub flags: u32,
        /// The CSeq number of the last request that we sent.
        pub local_cseq: u32,
        /// The CSeq number of the last request that came.
        pub remote_cseq: u32,
        /// The location that it goes through, as a [`LocationId`].
        pub location: u16,
        /// How its SIP travels, as a [`Transport`].
        pub transport: u16,
        /// The slot of the agent whose lease it holds.
        pub lease_agent: u32,
        /// The counter of that lease.
        pub lease_counter: u32,
        /// The slot of the call of [`Self::joined`].
        pub joined_slot: u32,
        /// The generation of that call.
        pub joined_generation: u32,
        /// The leg's number in that call.
        pub joined_leg: u32,
        /// The CSeq number of the INVITE that [`DialogText::Vias`] are of.
        pub invited_cseq: u32,
        /// The session interval that was agreed on, in seconds (RFC 4028); 0 when there is none.
        pub session_s: u32,
        /// The CCB that holds that lease, as a [`CcbId`].
        pub lease_holder: u32,
        /// Our SIP address at the location.
        pub ours: Address,
        /// Where the peer's SIP goes.
        pub peer: Address,
        /// Where the INVITE came from that [`DialogText::Vias`] are of.
        pub source: Address,
        /// The version of the session description that we sent last.
        pub sdp_version: u64,
        /// The length of each [`DialogText`].
        pub lengths: [u16; 8],
        /// The texts, one behind the other; zeros behind them.
        pub text: [u8; 608],
    }
}

const _: () = assert!(DIALOG_TEXT_BYTES == 608 && DialogText::COUNT == 8);

impl DialogRow {
    /// In `flags`: a request was sent, and `local_cseq` is its number.
    pub const HAS_LOCAL_CSEQ: u32 = 1;
    /// In `flags`: a request came, and `remote_cseq` is its number.
    pub const HAS_REMOTE_CSEQ: u32 = 2;
    /// In `flags`: a lease is held.
    pub const HAS_LEASE: u32 = 4;
    /// In `flags`: a 2xx made the dialog or confirmed it.
    pub const CONFIRMED: u32 = 8;
    /// In `flags`: the texts did not fit, and the leg cannot be taken over.
    pub const TOO_LONG: u32 = 16;
    /// In `flags`: the [`DialogText::Vias`] are of an INVITE of ours.
    pub const INVITING: u32 = 32;
    /// In `flags`: we renew the session (RFC 4028).
    pub const REFRESHING: u32 = 64;
    /// In `flags`: the peer ends the session too when it is not renewed.
    pub const MUTUAL: u32 = 128;
    /// In `flags`: the peer takes UPDATE (RFC 3311).
    pub const TAKES_UPDATE: u32 = 256;
    /// In `flags`: the peer takes INFO (RFC 6086).
    pub const TAKES_INFO: u32 = 512;
    /// In `flags`: the leg is joined to one of another call.
    pub const JOINED: u32 = 1_024;
    /// In `flags`: we answered the leg ourselves, and it was never joined to another.
    pub const ANSWERED_HERE: u32 = 2_048;
    /// In `flags`: the lease is held for the agent's own call.
    pub const OWN: u32 = 4_096;

    /// How far it is; [`DialogPhase::None`] when the number means nothing.
    pub fn phase(&self) -> DialogPhase {
        DialogPhase::of(self.phase).unwrap_or_default()
    }

    /// The call it belongs to.
    pub fn call(&self) -> CallRef {
        CallRef { slot: self.call_slot, generation: self.call_generation }
    }

    /// Sets the call it belongs to.
    pub fn set_call(&mut self, call: CallRef) {
        (self.call_slot, self.call_generation) = (call.slot, call.generation);
    }

    /// True when all of `flags` are set.
    pub fn has(&self, flags: u32) -> bool {
        self.flags & flags == flags
    }

    /// How its SIP travels.
    pub fn transport(&self) -> Transport {
        Transport::from_number(u32::from(self.transport)).unwrap_or_default()
    }

    /// What kind of leg holds that lease.
    pub fn share(&self) -> Share {
        if self.has(Self::OWN) { Share::Own } else { Share::Waiting }
    }

    /// The lease that it holds: whose, its counter, and which CCB has it.
    pub fn lease(&self) -> Option<(AgentSlot, u32, CcbId)> {
        let holder = CcbId(u16::try_from(self.lease_holder).ok()?);
        let lease = (AgentSlot(self.lease_agent), self.lease_counter, holder);
        self.has(Self::HAS_LEASE).then_some(lease)
    }

    /// The leg of another call that it is joined to, by a transfer.
    pub fn joined(&self) -> Option<(CallRef, u32)> {
        let call = CallRef { slot: self.joined_slot, generation: self.joined_generation };
        self.has(Self::JOINED).then_some((call, self.joined_leg))
    }

    /// Sets all texts in the order of [`DialogText`]. When they do not fit there are none, and
    /// [`Self::TOO_LONG`] is set.
    pub fn set_texts(&mut self, texts: [&[u8]; DialogText::COUNT]) {
        (self.lengths, self.text) = ([0; 8], [0; 608]);
        self.flags &= !Self::TOO_LONG;
        if texts.iter().map(|text| text.len()).sum::<usize>() > DIALOG_TEXT_BYTES {
            self.flags |= Self::TOO_LONG;
            return;
        }
        let mut end = 0;
        for (length, text) in self.lengths.iter_mut().zip(texts) {
            self.text[end..end + text.len()].copy_from_slice(text);
            end += text.len();
            // No text is longer than all of them may be.
            *length = text.len() as u16;
        }
    }

    /// One text; empty where the lengths make no sense.
    pub fn text(&self, which: DialogText) -> &[u8] {
        let before = self.lengths[..which as usize].iter();
        let start = before.map(|length| usize::from(*length)).sum::<usize>();
        let end = start + usize::from(self.lengths[which as usize]);
        self.text.get(start..end).unwrap_or_default()
    }
}

impl fmt::Debug for DialogRow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DialogRow")
            .field("phase", &self.phase())
            .field("call", &self.call())
            .field("leg", &self.leg)
            .field("local_cseq", &self.local_cseq)
            .field("remote_cseq", &self.remote_cseq)
            .finish_non_exhaustive()
    }
}

row! {
    /// A leg's stream; written now and then, and when whom it hears changes.
    #[derive(Debug)]
    pub struct StreamRow: u32 {
        /// The slot of its call.
        pub call_slot: u32,
        /// The generation of its call.
        pub call_generation: u32,
        /// The leg's number in the call.
        pub leg: u32,
        /// Our RTP port; 0 when the leg has no stream.
        pub port: u32,
        /// See [`Self::MUTED`] and what follows it.
        pub flags: u32,
        /// The payload type of the peer's telephone-events (RFC 4733), where [`Self::HAS_EVENTS`] is set.
        pub telephone_event: u32,
        /// The peer's RTP address as signalled.
        pub signalled: Address,
        /// The peer's RTCP address as signalled.
        pub rtcp_signalled: Address,
        /// The source of RTP that is heard.
        pub locked: Address,
        /// The source of RTCP that is heard.
        pub rtcp_locked: Address,
        /// The host that the leg's SIP comes from, IPv4 as `::ffff:a.b.c.d`.
        pub host: [u8; 16],
        /// RTP packets from the peer.
        pub packets: u64,
        /// Their UDP payload in bytes.
        pub bytes: u64,
        /// RTP packets sent to the peer.
        pub sent: u64,
        /// Packets that never came.
        pub lost: u64,
        /// Packets from others, dropped.
        pub foreign: u64,
        /// When the newest packet came, ns of the clock.
        pub arrival: u64,
        /// When the newest packet went to the peer, ns of the clock; this and the next three hold where
        /// [`Self::HAS_SENDER`] is set.
        pub sender_at: u64,
        /// What the bypass had counted when it was last asked, in the counts above already: packets.
        pub absorbed_packets: u64,
        /// The same: bytes.
        pub absorbed_bytes: u64,
        /// The same: packets from others.
        pub absorbed_foreign: u64,
        /// The synchronization source that we send to the peer with.
        pub sender_ssrc: u32,
        /// The newest sequence number that we sent.
        pub sender_sequence: u32,
        /// The newest timestamp that we sent.
        pub sender_timestamp: u32,
        /// The synchronization source that relayed packets get, where [`Self::HAS_SPLICE`] is set.
        pub splice_ssrc: u32,
        /// What is added to their sequence numbers.
        pub splice_sequence: u32,
        /// What is added to their timestamps.
        pub splice_timestamp: u32,
        /// The first sequence number of them, with its wraps.
        pub splice_first: u32,
        /// The peer's synchronization source.
        pub ssrc: u32,
        /// The newest sequence number and, above 16 bits, how often it wrapped.
        pub newest: u32,
        /// Arrival less timestamp of the newest packet, in timestamp units.
        pub transit: u32,
        /// Jitter in sixteenths of a timestamp unit.
        pub jitter: u32,
        /// The payload type of the G.711 that the peer takes and prefers, where [`Self::TAKES`] is set.
        pub takes: u32,
    }
}

impl StreamRow {
    /// In `flags`: the peer wants nothing sent.
    pub const MUTED: u32 = 1;
    /// In `flags`: what goes to the peer is one sender's, ours.
    pub const SPLICED: u32 = 2;
    /// In `flags`: something was sent to the peer as that sender.
    pub const HAS_SENDER: u32 = 4;
    /// In `flags`: telephone-events were agreed on.
    pub const HAS_EVENTS: u32 = 8;
    /// In `flags`: relayed packets are shifted.
    pub const HAS_SPLICE: u32 = 16;
    /// In `flags`: the bypass relays.
    pub const BYPASSED: u32 = 32;
    /// In `flags`: `host` is known.
    pub const HAS_HOST: u32 = 64;
    /// In `flags`: `takes` is known.
    pub const TAKES: u32 = 128;
    /// In `flags`: the peer does not want to hear us now.
    pub const HELD: u32 = 256;
    /// In `flags`: RTCP comes and goes by the port of RTP (RFC 5761).
    pub const MUXED: u32 = 512;

    /// The call it belongs to.
    pub fn call(&self) -> CallRef {
        CallRef { slot: self.call_slot, generation: self.call_generation }
    }

    /// Sets the call it belongs to.
    pub fn set_call(&mut self, call: CallRef) {
        (self.call_slot, self.call_generation) = (call.slot, call.generation);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_knows_another_blade() {
        let mut leg = LegRow::default();
        assert_eq!(leg.party(), None);
        let all = [
            Party::Agent(AgentSlot(7), u32::MAX),
            Party::Trunk(u32::MAX),
            Party::Peer(CcbId(u16::MAX)),
        ];
        for party in all {
            leg.set_party(party);
            assert_eq!(leg.party(), Some(party));
        }
        leg.party = 1 << 16;
        assert_eq!(leg.party(), None, "no CCB has that number");
        let mut row = DialogRow { lease_agent: 1, lease_counter: 2, ..DialogRow::default() };
        row.lease_holder = 3;
        assert_eq!(row.lease(), None);
        row.flags = DialogRow::HAS_LEASE;
        assert_eq!(row.lease(), Some((AgentSlot(1), 2, CcbId(3))));
        row.lease_holder = 1 << 16;
        assert_eq!(row.lease(), None);
        let secret = SecretRow { lease_token: [0x5a; 16], ..SecretRow::default() };
        assert!(!format!("{secret:?}").contains("90"), "{secret:?}");
    }

    #[test]
    fn texts_come_back_or_are_too_long() {
        let mut row = DialogRow::default();
        let texts: [&[u8]; 8] =
            [b"call", b"ours", b"", b"sip:a", b"sip:b;x=1", b"sip:c", b"", b"v"];
        row.set_texts(texts);
        let order = [
            DialogText::CallId,
            DialogText::LocalTag,
            DialogText::RemoteTag,
            DialogText::LocalUri,
            DialogText::RemoteUri,
            DialogText::RemoteTarget,
            DialogText::Routes,
            DialogText::Vias,
        ];
        assert_eq!(order.map(|which| row.text(which)), texts);
        assert!(!row.has(DialogRow::TOO_LONG));
        let long = [b'x'; DIALOG_TEXT_BYTES];
        row.set_texts([&long, b"", b"", b"", b"", b"", b"", b""]);
        assert!(!row.has(DialogRow::TOO_LONG), "it just fits");
        row.set_texts([&long, b"1", b"", b"", b"", b"", b"", b""]);
        assert!(row.has(DialogRow::TOO_LONG));
        assert_eq!(order.map(|which| row.text(which)), [b""; 8]);
        row.lengths = [u16::MAX; 8];
        assert_eq!(row.text(DialogText::Vias), b"", "lengths that lie are no texts");
    }
}

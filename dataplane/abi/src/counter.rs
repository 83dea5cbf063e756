//! Counts that one process writes and any tool reads.

use base::WorkerId;

use crate::sync::Ordering;
use crate::table::Part;

macro_rules! counters {
    ($($(#[$doc:meta])* $counter:ident = $name:literal,)+) => {
        /// What is counted. The names are those that `status` prints.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u16)]
        pub enum Counter {
            $($(#[$doc])* $counter,)+
        }

        impl Counter {
            /// All of them, in the order of their words.
            pub const ALL: &'static [Counter] = &[$(Counter::$counter,)+];

            /// Its name, in lower case with underscores.
            pub const fn name(self) -> &'static str {
                match self {
                    $(Counter::$counter => $name,)+
                }
            }
        }
    };
}

counters! {
    /// SIP datagrams that came.
    SipReceived = "sip_received",
    /// SIP datagrams sent.
    SipSent = "sip_sent",
    /// SIP messages sent again by their transaction.
    SipRetransmitted = "sip_retransmitted",
    /// RTP packets that came.
    RtpReceived = "rtp_received",
    /// RTP packets sent.
    RtpSent = "rtp_sent",
    /// RTCP packets that came.
    RtcpReceived = "rtcp_received",
    /// RTCP packets sent.
    RtcpSent = "rtcp_sent",
    /// Calls that began.
    CallsStarted = "calls_started",
    /// Calls that were answered.
    CallsAnswered = "calls_answered",
    /// Calls that ended without an answer.
    CallsFailed = "calls_failed",
    /// REGISTERs that made or renewed a registration.
    Registrations = "registrations",
    /// Gauge: calls that stand.
    CallsNow = "calls_now",
    /// Gauge: legs that stand.
    LegsNow = "legs_now",
    /// Gauge: port pairs in use.
    PortsInUse = "ports_in_use",
    /// Gauge: port pairs bound ahead.
    PortsReady = "ports_ready",
    /// Gauge: SIP transactions that live.
    TransactionsNow = "transactions_now",
    /// Gauge: leases that this worker's calls hold.
    LeasesHeld = "leases_held",
    /// Calls for which several places were tried in turn.
    CallsHunted = "calls_hunted",
    /// Redirections of called parties that were followed (RFC 3261, 8.1.3.4).
    CallsRedirected = "calls_redirected",
    /// REGISTERs that came again and got the answer that they had.
    RegistersRepeated = "registers_repeated",
    /// Dropped: no SIP message.
    DropSipMalformed = "drop_sip_malformed",
    /// Dropped: a SIP message longer than we take.
    DropSipTooLarge = "drop_sip_too_large",
    /// Dropped: nothing but line ends (RFC 5626, 3.5.1).
    DropSipKeepAlive = "drop_sip_keep_alive",
    /// Dropped: a response that belongs to nothing.
    DropSipNoTransaction = "drop_sip_no_transaction",
    /// Refused: a new call, for the worker had too much to do.
    CallsOverload = "calls_overload",
    /// Dropped: a request of a source that is banned.
    DropSipBanned = "drop_sip_banned",
    /// Dropped: a request that proves nothing, of a source that has asked too many such.
    DropSipRate = "drop_sip_rate",
    /// Refused: a registration whose Path and Contact do not fit their row.
    DropSipPath = "drop_sip_path",
    /// Times that a source was banned.
    SourcesBanned = "sources_banned",
    /// Refused: wrong digest.
    DropSipUnauthorised = "drop_sip_unauthorised",
    /// Refused: a request from a peer that is neither an agent nor a trunk.
    DropSipUnknownSource = "drop_sip_unknown_source",
    /// Refused: no room for a transaction or call.
    DropSipFull = "drop_sip_full",
    /// Refused: every RTP port of the location is in use.
    PortsExhausted = "ports_exhausted",
    /// Legs that found no row in the region's table; they work, but no tool sees them.
    LegsUnrecorded = "legs_unrecorded",
    /// Dropped: shorter than an RTP header.
    DropRtpTooShort = "drop_rtp_too_short",
    /// Dropped: a media datagram longer than an Ethernet frame carries.
    DropRtpTooLarge = "drop_rtp_too_large",
    /// Dropped: not version 2 of RTP.
    DropRtpVersion = "drop_rtp_version",
    /// Dropped: RTP not from the party's address.
    DropRtpForeignSource = "drop_rtp_foreign_source",
    /// Dropped: RTP from a source that has not sent enough to be believed.
    DropRtpLearning = "drop_rtp_learning",
    /// Dropped: RTP of a stream that is joined to no other.
    DropRtpNoPeer = "drop_rtp_no_peer",
    /// Dropped: RTP at a port that no call uses.
    DropRtpUnbound = "drop_rtp_unbound",
    /// Dropped: no RTCP packet.
    DropRtcpMalformed = "drop_rtcp_malformed",
    /// Dropped: RTCP not from the party's address.
    DropRtcpForeignSource = "drop_rtcp_foreign_source",
    /// Dropped: SRTP or SRTCP whose tag is wrong.
    DropSrtpUnauthentic = "drop_srtp_unauthentic",
    /// Dropped: SRTP or SRTCP that came before, or too late to know.
    DropSrtpReplayed = "drop_srtp_replayed",
    /// Dropped: a packet that could not be encrypted for the peer.
    DropSrtpUnsealed = "drop_srtp_unsealed",
    /// Gauge: streams that are encrypted (SRTP).
    StreamsSrtp = "streams_srtp",
    /// Refused: a call that wanted SRTP where it may not be, or did not where it must.
    CallsSrtpRefused = "calls_srtp_refused",
    /// Dropped: the ring to the worker that owns the message is full.
    DropMeshFull = "drop_mesh_full",
    /// Call events that found the ring full.
    EventsLost = "events_lost",
    /// Statistic events that left the room to call events.
    EventsGaveWay = "events_gave_way",
    /// Commands that made no sense.
    CommandsCorrupt = "commands_corrupt",
    /// Control: events that made no sense.
    EventsCorrupt = "events_corrupt",
    /// Records of ended calls that gave up their row before they were acknowledged.
    RecordsEvicted = "records_evicted",
    /// Times that no receive buffer was left.
    BuffersExhausted = "buffers_exhausted",
    /// Receives that failed, but for want of a buffer.
    ReceiveFailed = "receive_failed",
    /// Sends that the kernel refused.
    SendFailed = "send_failed",
    /// Binds that the kernel refused.
    BindFailed = "bind_failed",
    /// Digests with a nonce that was too old or used.
    StaleNonce = "stale_nonce",
    /// Calls refused because another has the agent.
    LeaseDenied = "lease_denied",
    /// Calls that rang an agent who was in another one (call waiting).
    CallsWaiting = "calls_waiting",
    /// Agents' own calls refused because of the agent's limit.
    OwnCallsLimited = "own_calls_limited",
    /// Gauge: streams whose packets go through the process.
    StreamsInProcess = "streams_in_process",
    /// Gauge: streams whose packets an XDP program relays.
    StreamsXdp = "streams_xdp",
    /// RTP packets that an XDP program relayed; they are not in `rtp_received`.
    RtpBypassed = "rtp_bypassed",
    /// Times that a stream moved to the bypass.
    BypassEntered = "bypass_entered",
    /// Times that a stream left the bypass.
    BypassLeft = "bypass_left",
    /// Times that the bypass refused a stream.
    BypassRefused = "bypass_refused",
    /// Dropped: RTP of another synchronization source than the locked one, while that one talks.
    DropRtpForeignSsrc = "drop_rtp_foreign_ssrc",
    /// Dropped: RTP whose sequence number lies outside of the locked window.
    DropRtpSequence = "drop_rtp_sequence",
    /// Dropped: RTP of a leg that hears or is heard otherwise now, a prompt or a mix.
    DropRtpSuperseded = "drop_rtp_superseded",
    /// RTP packets of our own making: prompts, mixes.
    RtpMade = "rtp_made",
    /// Digits pressed (RFC 4733), each once.
    DigitsPressed = "digits_pressed",
    /// Calls ended because no media came for too long.
    MediaTimeouts = "media_timeouts",
    /// Calls that a new incarnation took over from its predecessor.
    CallsRecovered = "calls_recovered",
    /// Calls that a new incarnation could not take over.
    CallsNotRecovered = "calls_not_recovered",
    /// Gauge: legs that are recorded.
    RecordingsNow = "recordings_now",
    /// Gauge: legs that are in a mix.
    MixedNow = "mixed_now",
    /// Bytes of recorded media handed to the spool.
    SpoolBytes = "spool_bytes",
    /// Bytes of recorded media that the spool lost: its disk is slow, full or gone.
    SpoolLost = "spool_lost",
    /// Frames of a mix or prompt that were due more than 20 ms ago and left out.
    FramesSkipped = "frames_skipped",
    /// Transfers that joined their two parties.
    TransfersCompleted = "transfers_completed",
    /// Transfers that did not.
    TransfersFailed = "transfers_failed",
    /// Calls that rang for one and were taken by another (INVITE with Replaces).
    CallsPickedUp = "calls_picked_up",
    /// Sessions that we renewed in time (RFC 4028).
    SessionsRenewed = "sessions_renewed",
    /// Calls ended because a peer did not renew their session.
    SessionsExpired = "sessions_expired",
    /// SIP messages that came over TCP.
    SipReceivedTcp = "sip_received_tcp",
    /// SIP messages that came over TLS.
    SipReceivedTls = "sip_received_tls",
    /// SIP messages that came over WebSocket, with or without TLS.
    SipReceivedWs = "sip_received_ws",
    /// Gauge: connections of SIP over TCP.
    ConnectionsTcp = "connections_tcp",
    /// Gauge: connections of SIP over TLS.
    ConnectionsTls = "connections_tls",
    /// Gauge: connections of SIP over WebSocket, with or without TLS.
    ConnectionsWs = "connections_ws",
    /// Connections that peers opened.
    ConnectionsAccepted = "connections_accepted",
    /// Connections that were opened to peers.
    ConnectionsOpened = "connections_opened",
    /// Connections that could not be opened to a peer.
    ConnectFailed = "connect_failed",
    /// Connections to trunks not made: the certificate is for another name (RFC 5922, 7.2).
    TlsWrongName = "tls_wrong_name",
    /// Connections to trunks not made: the certificate is not valid yet, or not any more.
    TlsExpired = "tls_expired",
    /// Connections to trunks not made: the certificate leads to no root that is believed.
    TlsUntrusted = "tls_untrusted",
    /// Connections that a trunk ended: it does not take our certificate, or wants one.
    TlsNotTaken = "tls_not_taken",
    /// Connections to trunks not made: no TLS with them.
    TlsFailed = "tls_failed",
    /// Connections to trunks not made: our own files of certificates cannot be read.
    TlsFiles = "tls_files",
    /// Connections refused: the certificate that the peer showed is not believed.
    ClientCertificateRefused = "client_certificate_refused",
    /// Connections of trunks that are known by their certificate.
    TrunksProved = "trunks_proved",
    /// Connections refused: as many as there may be, of all or of one address.
    RefusedConnectionsFull = "refused_connections_full",
    /// Connections whose TLS or WebSocket handshake failed.
    HandshakeFailed = "handshake_failed",
    /// Connections that the peer closed, or that broke.
    ClosedByPeer = "closed_by_peer",
    /// Connections closed: nothing whole came in time.
    ClosedIdle = "closed_idle",
    /// Connections closed: what came could not be framed.
    ClosedMalformed = "closed_malformed",
    /// Connections closed: the peer did not take what waited for it.
    ClosedSlow = "closed_slow",
    /// Keep-alives that were answered (RFC 5626, 4.4.1).
    Pongs = "pongs",
    /// STUN keep-alives that were answered (RFC 5626, 4.4.2).
    StunAnswered = "stun_answered",
    /// Dropped: STUN that asks nothing that is answered.
    DropStunMalformed = "drop_stun_malformed",
    /// Dropped: STUN of a source that has asked too much this second.
    DropStunRate = "drop_stun_rate",
    /// SIP messages that could not be sent, for there was no connection.
    SipUnsent = "sip_unsent",
    /// Copies of SIP messages handed to the thread that sends them to the capture server and to traces.
    SipMirrored = "sip_mirrored",
    /// Copies of SIP messages that were lost: the queue was full, the address unknown or the network's.
    HepDropped = "hep_dropped",
    /// Calls for which an agent's phone was called first, and answered.
    CallsDialled = "calls_dialled",
    /// Calls that were made to bring somebody into a mix, and answered.
    CallsSummoned = "calls_summoned",
    /// Times that a call was held or taken back by a desk.
    CallsParked = "calls_parked",
    /// Phones that were asked to answer by a desk.
    CallsTalked = "calls_talked",
    /// Legs to agents of other CCBs.
    CallsHosted = "calls_hosted",
    /// Calls that other CCBs made to agents of this one, with the right fence.
    CallsFenced = "calls_fenced",
    /// Refused: an INVITE of another CCB whose lease is not, or not any more, as its fence says.
    LeaseStale = "lease_stale",
    /// Refused: an INVITE with a lease token that is not the agent's.
    LeaseForged = "lease_forged",
    /// Refused: a leg of a call to a sips URI that would have gone without TLS (RFC 5630, 5.3).
    SipsRefused = "sips_refused",
    /// Calls of agents that gave way to one that comes to the agent (G-03).
    CallsYielded = "calls_yielded",
    /// Port pairs bound amid a burst of calls, which took more than are bound ahead.
    PortsBoundInHaste = "ports_bound_in_haste",
}

impl Counter {
    /// How many there are.
    pub const COUNT: usize = Counter::ALL.len();

    /// Words of one writer: whole pairs of cache lines, so that no two writers share one.
    pub(crate) const STRIDE: usize = Counter::COUNT.next_multiple_of(16);
}

/// The counters of the workers, of the data plane's streams and of the control process; each block of them
/// has one writer.
#[derive(Clone, Copy, Debug)]
pub struct Counters<'a> {
    pub(crate) part: Part<'a>,
    pub(crate) workers: u8,
}

impl Counters<'_> {
    /// Adds `n`, as the one writer of `worker`'s counters.
    #[inline]
    pub fn add(&self, worker: WorkerId, counter: Counter, n: u64) {
        if worker.0 < self.workers {
            self.add_at(usize::from(worker.0), counter, n);
        }
    }

    /// Sets a gauge, as the one writer of `worker`'s counters.
    #[inline]
    pub fn set(&self, worker: WorkerId, counter: Counter, value: u64) {
        if worker.0 < self.workers
            && let Some(word) = self.part.to_write(place(usize::from(worker.0), counter))
        {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Adds `n` to what the thread of the streams counts, as its one writer.
    pub fn add_streams(&self, counter: Counter, n: u64) {
        self.add_at(usize::from(self.workers), counter, n);
    }

    /// Sets a gauge of the streams, as its one writer.
    pub fn set_streams(&self, counter: Counter, value: u64) {
        if let Some(word) = self.part.to_write(place(usize::from(self.workers), counter)) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// Adds `n` to what the control process counts, as its one writer.
    pub fn add_control(&self, counter: Counter, n: u64) {
        self.add_at(usize::from(self.workers) + 1, counter, n);
    }

    /// One worker's count; 0 when there is no such worker.
    pub fn get(&self, worker: WorkerId, counter: Counter) -> u64 {
        if worker.0 < self.workers { self.get_at(usize::from(worker.0), counter) } else { 0 }
    }

    /// The control process's count.
    pub fn get_control(&self, counter: Counter) -> u64 {
        self.get_at(usize::from(self.workers) + 1, counter)
    }

    /// The sum over all workers, the streams and the control process.
    pub fn total(&self, counter: Counter) -> u64 {
        (0..usize::from(self.workers) + 2)
            .fold(0, |sum, block| sum.wrapping_add(self.get_at(block, counter)))
    }

    #[inline]
    fn add_at(&self, block: usize, counter: Counter, n: u64) {
        if let Some(word) = self.part.to_write(place(block, counter)) {
            // One writer, so a load and a store are enough, and cheaper than a locked add.
            word.store(word.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
        }
    }

    fn get_at(&self, block: usize, counter: Counter) -> u64 {
        self.part.words.get(place(block, counter)).map_or(0, |word| word.load(Ordering::Relaxed))
    }
}

#[inline]
fn place(block: usize, counter: Counter) -> usize {
    block * Counter::STRIDE + counter as usize
}

use core::time::Duration;

/// RTT estimate, and the first interval of every retransmission (RFC 3261, 17.1.1.1).
pub const T1: Duration = Duration::from_millis(500);
/// The longest interval between retransmissions, but for INVITE requests (17.1.2.1).
pub const T2: Duration = Duration::from_secs(4);
/// How long a message may stay in the network (17.1.2.2).
pub const T4: Duration = Duration::from_secs(5);
/// How long a transaction tries (17.1.1.2), and how long one stays to absorb what comes late.
pub const LIFE: Duration = Duration::from_secs(32);

const _: () = assert!(LIFE.as_millis() == 64 * T1.as_millis());

/// What a machine waits for, by the letters of RFC 3261 (table 4) and RFC 6026. Timer C is the
/// user's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Timer {
    /// INVITE request retransmission.
    A,
    /// INVITE client gives up.
    B,
    /// Wait for retransmitted responses to an INVITE.
    D,
    /// Other requests' retransmission.
    E,
    /// Other client gives up.
    F,
    /// Retransmission of a refusal of an INVITE.
    G,
    /// Wait for the ACK to a refusal.
    H,
    /// Wait for retransmitted ACKs.
    I,
    /// Wait for retransmitted other requests.
    J,
    /// Wait for retransmitted responses to other requests.
    K,
    /// Wait for retransmitted INVITEs after a 2xx (RFC 6026).
    L,
    /// Wait for further 2xx (RFC 6026).
    M,
    /// Retransmission of a 2xx until its ACK (RFC 3261, 13.3.1.4); it has no letter.
    Success,
    /// An INVITE that was cancelled gets no final response (9.1); it has no letter.
    Cancelled,
    /// A 100 has waited long enough for another response (17.2.1); it has no letter.
    Trying,
    /// The user never answers a request that its client has given up by now (RFC 4320).
    Unanswered,
}

impl Timer {
    /// How long from its start until it fires first.
    pub(super) fn first(self) -> Duration {
        match self {
            Timer::A | Timer::E | Timer::G | Timer::Success => T1,
            Timer::I | Timer::K => T4,
            Timer::B
            | Timer::D
            | Timer::F
            | Timer::H
            | Timer::J
            | Timer::L
            | Timer::M
            | Timer::Cancelled
            | Timer::Trying
            | Timer::Unanswered => LIFE,
        }
    }

    /// True for those that fire again and again.
    pub(super) fn repeats(self) -> bool {
        matches!(self, Timer::A | Timer::E | Timer::G | Timer::Success)
    }

    /// How long until it fires again, after it fired at the end of `last`.
    pub(super) fn next(self, last: Duration) -> Duration {
        // RFC 3261, 17.1.1.2: "the request is retransmitted with intervals that double after each
        // transmission", without a bound but timer B; all others stop at T2.
        if self == Timer::A { last * 2 } else { (last * 2).min(T2) }
    }
}

/// When a timer is first due; none for one that a reliable transport has no need of (RFC 3261, 17.1.1.2: "If a
/// reliable transport is used, the client transaction SHOULD NOT start timer A"; table 4: D, I, J and K are
/// then zero). A 2xx is sent again on any transport, for there may be datagrams further on (13.3.1.4).
pub(super) fn first_of(timer: Timer, is_reliable: bool) -> Option<Duration> {
    match timer {
        Timer::A | Timer::E | Timer::G if is_reliable => None,
        Timer::D | Timer::I | Timer::J | Timer::K if is_reliable => Some(Duration::ZERO),
        _ => Some(timer.first()),
    }
}

/// What a step of a machine asks of the layer around it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// Send the request or response that the event brought, or the last one again.
    Send,
    /// Send the ACK to the refusal that the event brought (17.1.1.3).
    Ack,
    /// Pass the message of the event to the user.
    Pass,
    /// Set a timer to its first interval.
    Start(Timer),
    /// Set a timer to twice the interval that it had, bounded by T2 but for timer A.
    Repeat(Timer),
    /// Set a timer to T2.
    RepeatSlowly(Timer),
    /// Tell the user that the transaction ended without what it waited for.
    GiveUp,
}

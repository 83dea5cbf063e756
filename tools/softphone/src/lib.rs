//! A SIP phone without sockets or a clock: it registers, calls, answers, holds, sends a tone and
//! listens.
//!
//! Pure: datagrams, orders and the time come in as [`Input`], datagrams to send and news come out
//! as [`Output`]; the seed of its [`base::Rng`] decides everything else. Whoever runs it calls
//! [`Phone::handle`] with what arrived, and with [`Input::Timeout`] when [`Phone::deadline`] is
//! reached.
//!
//! One call at a time; a second caller hears 486.

mod auth;
mod call;
mod ear;
mod incoming;
mod outgoing;
mod phone;
mod refer;
mod registration;
mod session;
mod stream;
#[cfg(test)]
mod tests;

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

pub use ear::Heard;
pub use media::g711::Law;
pub use phone::Phone;
pub use stream::MediaReport;

/// What a phone is told once; what the AgentProxy's answer calls `phone` is in it.
#[derive(Clone, Debug)]
pub struct PhoneConfig {
    /// The user of its address of record.
    pub user: String,
    /// The user of its digest credentials.
    pub auth_user: String,
    /// The only realm whose challenges it answers.
    pub realm: String,
    /// Its password.
    pub secret: String,
    /// The SBC's address: where it registers and sends its calls.
    pub registrar: SocketAddr,
    /// Where it receives SIP.
    pub sip: SocketAddr,
    /// Where it receives RTP; RTCP is one port higher.
    pub rtp: SocketAddr,
    /// The name it shows, usually its number.
    pub display: String,
    /// The lifetime that it asks for, in seconds.
    pub expires_s: u32,
    /// How long it rings before it answers by itself; none waits for [`Order::Answer`].
    pub ring: Option<Duration>,
    /// The codecs it offers, the best first.
    pub laws: Vec<Law>,
    /// The tone it sends, in Hz.
    pub tone_hz: u32,
    /// False sends no RTP and no RTCP.
    pub media: bool,
    /// How many 20 ms frames a call sends at most; none is as long as it lasts.
    pub frames: Option<u32>,
    /// Whether it looks for a tone in what it hears, which costs more than all the rest.
    pub listen: bool,
    /// Requests in progress at a time, of each side; one that is over counts for up to 32 s. A person's phone has
    /// three in a call.
    pub transactions: u32,
}

impl PhoneConfig {
    /// A phone with defaults for everything but who and where it is: both laws, 440 Hz, answering
    /// at once.
    pub fn new(user: &str, registrar: SocketAddr, sip: SocketAddr, rtp: SocketAddr) -> Self {
        PhoneConfig {
            user: user.to_owned(),
            auth_user: user.to_owned(),
            realm: String::new(),
            secret: String::new(),
            registrar,
            sip,
            rtp,
            display: user.to_owned(),
            expires_s: 3_600,
            ring: Some(Duration::ZERO),
            laws: vec![Law::Mu, Law::A],
            tone_hz: 440,
            media: true,
            frames: None,
            listen: true,
            transactions: 64,
        }
    }
}

/// What the person with the phone does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Register, and stay registered.
    Register,
    /// End the registration.
    Unregister,
    /// Call a number at the registrar, or any `sip:` URI with an IP address.
    Call(String),
    /// Answer the call that rings.
    Answer,
    /// End the call, cancel it, or refuse it.
    HangUp,
    /// Put the peer on hold.
    Hold,
    /// Talk again.
    Resume,
    /// Give the peer to a number, or to who that number is in a call with on another line; the phone hangs up when
    /// that is done. Nothing happens while nobody talks or an earlier one is open.
    Refer {
        /// The number.
        to: String,
        /// The other line's [`Phone::dialog`].
        replaces: Option<String>,
    },
    /// Press a key: the event of RFC 4733, 0 to 9, 10 for `*`, 11 for `#`. It lasts 100 ms, during which
    /// the tone is not sent; nothing happens when the peer does not take events.
    Press(u8),
}

/// What happens to the phone.
#[derive(Clone, Debug)]
pub enum Input<'a> {
    /// The person does something.
    Order(Order),
    /// A datagram on the SIP port.
    Sip {
        /// Its source.
        from: SocketAddr,
        /// Its bytes.
        datagram: &'a [u8],
    },
    /// A datagram on the RTP port.
    Rtp(&'a [u8]),
    /// A datagram on the RTCP port.
    Rtcp(&'a [u8]),
    /// [`Phone::deadline`] is reached.
    Timeout,
}

/// What the phone wants done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send this from the SIP port.
    Sip {
        /// The destination.
        to: SocketAddr,
        /// The message.
        datagram: Rc<[u8]>,
    },
    /// Send this from the RTP port.
    Rtp {
        /// The destination.
        to: SocketAddr,
        /// The synchronization source, and with it the sequence number: whoever measures delay
        /// keeps the time of sending under the two and finds it again where the packet arrives.
        ssrc: u32,
        /// The sequence number.
        sequence: u16,
        /// The packet.
        packet: Vec<u8>,
    },
    /// Send this from the RTCP port.
    Rtcp {
        /// The destination.
        to: SocketAddr,
        /// The compound packet.
        packet: Vec<u8>,
    },
    /// Something to tell.
    Event(Event),
}

/// News.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The registration stands for that many seconds.
    Registered {
        /// As granted.
        expires_s: u32,
    },
    /// The registration was refused; the phone tries again later.
    RegistrationFailed {
        /// The final status; 408 when there was none.
        status: u16,
    },
    /// The registration was ended as ordered.
    Unregistered,
    /// Somebody calls.
    Incoming {
        /// The user of the caller's From.
        from: String,
    },
    /// The called phone rings.
    Ringing,
    /// The call is answered and acknowledged.
    Answered,
    /// The call's hold state is now this.
    Held {
        /// We hold the peer.
        by_us: bool,
        /// The peer holds us.
        by_peer: bool,
    },
    /// What became of [`Order::Refer`], by its final status.
    Referred {
        /// 2xx when the peer has somebody else.
        status: u16,
    },
    /// The call is over.
    Ended(Why),
}

/// Why a call is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// We hung up.
    HungUp,
    /// The peer hung up.
    PeerHungUp,
    /// Our call was refused with this status; 408 when there was no answer at all.
    Refused(u16),
    /// The caller gave up before we answered.
    Cancelled,
    /// We declined.
    Declined,
    /// Our answer was not acknowledged.
    NoAck,
    /// What the peer offered cannot be used.
    NotAcceptable,
}

/// All that a phone counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Successful registrations, refreshes among them.
    pub registrations: u64,
    /// Refused or unanswered ones; challenges do not count.
    pub registration_failures: u64,
    /// Calls placed.
    pub placed: u64,
    /// Calls received.
    pub received: u64,
    /// Calls of both kinds that were answered.
    pub answered: u64,
    /// Calls placed that were refused or not answered, by the last status.
    pub failed: u64,
    /// The final status of the last call that failed.
    pub last_status: u16,
    /// Calls whose peer was given to somebody else.
    pub given_away: u64,
    /// Calls of both kinds that are over.
    pub ended: u64,
    /// From the first INVITE to its 2xx, of the last call placed and answered.
    pub set_up: Option<Duration>,
    /// From the first INVITE to its first 180 to 199.
    pub post_dial: Option<Duration>,
    /// SIP datagrams sent.
    pub sip_sent: u64,
    /// SIP datagrams received.
    pub sip_received: u64,
    /// SIP datagrams sent again.
    pub sip_retransmitted: u64,
    /// SIP datagrams that cannot be read.
    pub sip_malformed: u64,
    /// Messages that belong to nothing that the phone knows.
    pub sip_unexpected: u64,
    /// RTP packets while there was no stream for them.
    pub rtp_stray: u64,
    /// The media of the present call, or of the last.
    pub call: MediaReport,
    /// Packets sent in all calls.
    pub rtp_sent: u64,
    /// Packets received in all calls.
    pub rtp_received: u64,
    /// Packets lost in all calls.
    pub rtp_lost: u64,
}

use std::net::IpAddr;
use std::time::Duration;

use abi::MediaPath;
use base::{CcbId, Transport, WorkerId};
use media::WhyNot;
use sip::session_timer::Wishes;

/// What a worker is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Which worker of the data plane this is.
    pub id: WorkerId,
    /// How many workers the data plane has.
    pub workers: u8,
    /// The CCB's device number; leases are won in its name.
    pub ccb: CcbId,
    /// The SBC-mapped addresses, in the order of their [`base::LocationId`] (S1-036).
    pub locations: Vec<Location>,
    /// The lowest and the highest RTP port of the whole data plane; the workers share them out.
    pub rtp_ports: (u16, u16),
    /// Seeds tags, branches and call serial numbers; each worker has another.
    pub seed: [u8; 32],
    /// Signs digest nonces; the workers of a data plane have the same.
    pub nonce_key: [u8; 32],
    /// Bounds of the tables.
    pub limits: Limits,
    /// How media is relayed.
    pub media: MediaConfig,
    /// The session interval that we ask for and the least that we accept (RFC 4028).
    pub session: Wishes,
}

/// An address at which one location's agents and trunks reach this CCB (S1-018, S1-036).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The location's name; several addresses of one location carry the same.
    pub name: String,
    /// The address that the data plane listens on and advertises.
    pub ip: IpAddr,
    /// The SIP port of UDP, and of TCP where that is spoken.
    pub sip_port: u16,
    /// The ports of the other transports.
    pub streams: StreamPorts,
}

/// By which transports but UDP a location speaks SIP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamPorts {
    /// TCP, on the same port as UDP.
    pub tcp: bool,
    /// The port of TLS.
    pub tls: Option<u16>,
    /// The port of WebSocket (RFC 7118).
    pub ws: Option<u16>,
    /// The port of WebSocket over TLS.
    pub wss: Option<u16>,
}

impl Location {
    /// A location that speaks SIP over UDP alone.
    pub fn udp(name: &str, ip: IpAddr, sip_port: u16) -> Location {
        Location { name: name.to_owned(), ip, sip_port, streams: StreamPorts::default() }
    }

    /// The port of SIP over `transport`; none where that is not spoken.
    pub fn port(&self, transport: Transport) -> Option<u16> {
        match transport {
            Transport::Udp => Some(self.sip_port),
            Transport::Tcp => self.streams.tcp.then_some(self.sip_port),
            Transport::Tls => self.streams.tls,
            Transport::Ws => self.streams.ws,
            Transport::Wss => self.streams.wss,
        }
    }
}

/// How a worker's media is relayed.
#[derive(Clone, Copy, Debug)]
pub struct MediaConfig {
    /// The way of packets that come to the process; it is what `jackfield calls` shows.
    pub process: MediaPath,
    /// Why there is no bypass; none when there is one.
    pub no_bypass: Option<WhyNot>,
    /// An answered call that is not on hold and hears nothing from any of its legs for so long ends;
    /// none for never.
    pub timeout: Option<Duration>,
}

impl Default for MediaConfig {
    fn default() -> Self {
        MediaConfig {
            process: MediaPath::IoUring,
            no_bypass: Some(WhyNot::NotWanted),
            timeout: Some(Duration::from_secs(300)),
        }
    }
}

/// Bounds of a worker's tables; a full one answers 503.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// SIP transactions at a time: a call has six and a registration one, each lives up to 32 s.
    pub transactions: u32,
    /// Requests of one source (an IPv4 address, an IPv6 /64) that prove nothing and are answered all the same,
    /// at a time; ten more each second. Who asks for more is dropped, and after ten seconds of it banned.
    pub strangers: u32,
    /// How busy a worker may be, in thousandths of its time, before it refuses new calls by 503; more than
    /// 1,000 for never.
    pub busy: u32,
    /// How long a 100 waits for another answer to the INVITE, which makes it needless, in milliseconds; 0 for not at
    /// all. RFC 3261, 17.2.1 wants it within 200 ms, and timers come up to 20 ms late.
    pub trying_ms: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Limits { transactions: 524_288, strangers: 200, busy: 950, trying_ms: 100 }
    }
}

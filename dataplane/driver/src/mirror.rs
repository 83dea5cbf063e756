//! Copies of signalling on their way out: a thread sends them, so that no packet waits for a capture
//! server, its name or its network.
//!
//! ```text
//! workers --try_send--> queue, 4,096 copies --> thread: masked, HEP3 --UDP--> capture server, traces
//! ```
//! What finds the queue full, no address or no way is lost and counted (`hep_dropped`).

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use worker::Mirrored;

use crate::clock;

/// Copies that wait: four seconds of 1,000 messages a second.
const QUEUE: usize = 4_096;
/// How often the name of the capture server is looked up: it may move, or not be known yet.
const RESOLVE_AGAIN: Duration = Duration::from_secs(60);

/// Where copies of all signalling go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureServer {
    /// HOST:PORT; a host name is looked up at the start and every minute.
    pub address: String,
    /// The number that this data plane captures under.
    pub agent: u32,
}

/// A worker's end of the queue.
#[derive(Clone, Debug)]
pub struct Mirror {
    queue: SyncSender<Box<Mirrored>>,
    /// What the thread lost since somebody counted it.
    lost: Arc<AtomicU64>,
    captures: bool,
}

impl Mirror {
    /// Starts the thread. It ends with the last of the ends.
    pub fn start(capture: Option<CaptureServer>) -> io::Result<Mirror> {
        let (queue, copies) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let captures = capture.is_some();
        let sending =
            Sending { capture, lost: Arc::clone(&lost), sockets: [None, None], known: None };
        std::thread::Builder::new().name("mirror".into()).spawn(move || sending.run(&copies))?;
        Ok(Mirror { queue, lost, captures })
    }

    /// True where there is a capture server.
    pub fn captures(&self) -> bool {
        self.captures
    }

    /// Hands a copy over, never waiting; returns how many were lost since the last time.
    pub fn send(&self, copy: Box<Mirrored>) -> u64 {
        let refused = u64::from(self.queue.try_send(copy).is_err());
        refused + self.lost.swap(0, Ordering::Relaxed)
    }
}

/// What the thread works with.
struct Sending {
    capture: Option<CaptureServer>,
    lost: Arc<AtomicU64>,
    /// For IPv4 and for IPv6, bound when they are first needed.
    sockets: [Option<UdpSocket>; 2],
    /// The capture server's address, and when it was looked up.
    known: Option<(Option<SocketAddr>, Instant)>,
}

impl Sending {
    fn run(mut self, copies: &Receiver<Box<Mirrored>>) {
        self.server();
        while let Ok(copy) = copies.recv() {
            if self.send(&copy).is_none() {
                self.lost.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    fn send(&mut self, copy: &Mirrored) -> Option<()> {
        let to = copy.to.or_else(|| self.server())?;
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let unix = wall.saturating_sub(clock::now().since(copy.at));
        let agent = self.capture.as_ref().map_or(0, |capture| capture.agent);
        let packet = copy.packet(unix, agent)?;
        self.socket(to)?.send_to(&packet, to).ok().map(|_| ())
    }

    /// The capture server's address, when its name is known.
    fn server(&mut self) -> Option<SocketAddr> {
        let capture = self.capture.as_ref()?;
        let (old, at) = self.known.unzip();
        if at.is_none_or(|at| at.elapsed() >= RESOLVE_AGAIN) {
            let found = capture.address.to_socket_addrs().map(|mut found| found.next());
            if let Err(error) = &found {
                tracing::warn!(%error, server = %capture.address, "the capture server is not known");
            }
            // One that was known is better than none.
            let now = found.ok().flatten().or(old.flatten());
            self.known = Some((now, Instant::now()));
        }
        self.known.and_then(|(address, _)| address)
    }

    fn socket(&mut self, to: SocketAddr) -> Option<&UdpSocket> {
        let (place, any): (usize, SocketAddr) = match to {
            SocketAddr::V4(_) => (0, (Ipv4Addr::UNSPECIFIED, 0).into()),
            SocketAddr::V6(_) => (1, (Ipv6Addr::UNSPECIFIED, 0).into()),
        };
        if self.sockets[place].is_none() {
            self.sockets[place] = UdpSocket::bind(any).ok();
        }
        self.sockets[place].as_ref()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::Transport;

    fn copy(to: Option<SocketAddr>) -> Box<Mirrored> {
        Box::new(Mirrored {
            to,
            at: clock::now(),
            source: "192.0.2.1:5060".parse().expect("an address"),
            destination: "192.0.2.2:5060".parse().expect("an address"),
            transport: Transport::Udp,
            serial: 7,
            message: Arc::from(&b"OPTIONS sip:a SIP/2.0\r\n\r\n"[..]),
        })
    }

    fn listener() -> (UdpSocket, SocketAddr) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a limit");
        let at = socket.local_addr().expect("an address");
        (socket, at)
    }

    #[test]
    fn copies_go_to_the_capture_server_and_to_traces() {
        let (server, at) = listener();
        let (tool, there) = listener();
        let address = format!("localhost:{}", at.port());
        let mirror = Mirror::start(Some(CaptureServer { address, agent: 9 })).expect("a thread");
        assert!(mirror.captures());
        assert_eq!(mirror.send(copy(None)) + mirror.send(copy(Some(there))), 0);
        for socket in [server, tool] {
            let mut packet = [0; 2_048];
            let length = socket.recv(&mut packet).expect("a copy");
            assert!(packet.starts_with(b"HEP3"), "{:?}", &packet[..length]);
            assert!(packet[..length].ends_with(b"SIP/2.0\r\n\r\n"));
            let serial = b"00000000000000000007";
            assert!(packet[..length].windows(serial.len()).any(|part| part == serial));
        }
    }

    #[test]
    fn a_full_queue_and_an_unknown_server_lose_copies_and_delay_nobody() {
        let (queue, copies) = sync_channel(2);
        let mirror = Mirror { queue, lost: Arc::new(AtomicU64::new(3)), captures: true };
        let lost: Vec<u64> = (0..4).map(|_| mirror.send(copy(None))).collect();
        assert_eq!(lost, [3, 0, 1, 1]);
        let lost = Arc::clone(&mirror.lost);
        drop(mirror);
        let capture = Some(CaptureServer { address: "nowhere.invalid:9060".into(), agent: 1 });
        Sending { capture, lost: Arc::clone(&lost), sockets: [None, None], known: None }
            .run(&copies);
        assert_eq!(lost.load(Ordering::Relaxed), 2);
    }
}

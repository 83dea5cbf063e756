//! A data plane under test, and ports for it.

use std::net::{IpAddr, SocketAddr, TcpListener, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering};
use std::sync::mpsc::channel;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use abi::{Counter, Region};
use base::CcbId;
use driver::{Config, DriverError, MediaChoice, Notice, Sizes};
use tempfile::TempDir;

/// A test that is run on io_uring and on recvmmsg.
macro_rules! on_both {
    ($name:ident) => {
        mod $name {
            #[test]
            fn io_uring() {
                super::$name(driver::MediaChoice::IoUring);
            }

            #[test]
            fn recvmmsg() {
                super::$name(driver::MediaChoice::Recvmmsg);
            }
        }
    };
}

/// Longer than anything takes, so that a hang is a failure.
pub const PATIENCE: Duration = Duration::from_secs(5);

/// Ports of one test: SIP at the first, RTP from the next even one on. Below the ports that the kernel
/// gives to others (net.ipv4.ip_local_port_range).
const BLOCK: u16 = 200;

pub const EAST: &str = "127.0.0.1";
pub const WEST: &str = "127.0.0.2";

pub struct Plane {
    pub config: Config,
    pub folder: TempDir,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<Result<(), DriverError>>>,
}

impl Plane {
    /// A data plane of so many workers with two locations; it runs when this returns.
    pub fn start(workers: usize, media: MediaChoice) -> Plane {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config = config(&folder, workers, media);
        Self::start_with(folder, config)
    }

    pub fn start_with(folder: TempDir, config: Config) -> Plane {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, notices) = channel();
        let (its_stop, its_config) = (Arc::clone(&stop), config.clone());
        let thread = std::thread::spawn(move || {
            driver::run_telling(its_config, its_stop, |notice| {
                let _ = told.send(notice);
            })
        });
        let mut plane = Plane { config, folder, stop, thread: Some(thread) };
        match notices.recv_timeout(PATIENCE) {
            Ok(Notice::Running) => plane,
            other => panic!("{other:?}, ended with {:?}", plane.end()),
        }
    }

    pub fn sip(&self, location: usize) -> SocketAddr {
        let location = &self.config.locations[location];
        SocketAddr::new(location.ip, location.sip_port)
    }

    /// What control maps.
    pub fn region(&self) -> Arc<Region> {
        Region::open(&self.config.region).expect("the data plane made it")
    }

    pub fn count(&self, counter: Counter) -> u64 {
        self.region().counters().total(counter)
    }

    fn end(&mut self) -> Result<(), DriverError> {
        self.stop.store(true, Ordering::Release);
        self.thread.take().map_or(Ok(()), |thread| thread.join().expect("it does not panic"))
    }

    /// Stops it in order.
    pub fn stop(mut self) -> (TempDir, Config) {
        self.end().expect("it stops in order");
        let folder = std::mem::replace(&mut self.folder, tempfile::tempdir().expect("a folder"));
        (folder, self.config.clone())
    }
}

impl Drop for Plane {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

pub fn config(folder: &TempDir, workers: usize, media: MediaChoice) -> Config {
    let first = free_block();
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get());
    let location = |name: &str, ip: &str| worker::Location {
        name: name.to_owned(),
        ip: ip.parse().expect("an address"),
        sip_port: first,
        streams: worker::StreamPorts::default(),
    };
    Config {
        ccb: CcbId(7),
        region: folder.path().join("region"),
        socket: folder.path().join("control.sock"),
        cores: (0..workers).map(|number| number % cores).collect(),
        locations: vec![location("east", EAST), location("west", WEST)],
        streams: driver::StreamSettings::default(),
        rtp_ports: (first + 1, first + BLOCK - 1),
        sizes: Sizes {
            agents: 64,
            calls_per_worker: 64,
            legs_per_worker: 128,
            ring_slots: 256,
            blob_bytes: 1 << 16,
            tenants: 4,
            trunks: 4,
        },
        limits: worker::Limits { transactions: 4_096, trying_ms: 0, ..worker::Limits::default() },
        media,
        media_timeout: None,
        session: worker::SessionWishes::default(),
        xdp: driver::XdpSettings::default(),
        spool: None,
        prompts: None,
        capture: None,
    }
}

/// The first of [`BLOCK`] ports that nobody has, on both addresses.
fn free_block() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    for _ in 0..50 {
        let turn = NEXT.fetch_add(1, Ordering::Relaxed);
        let number = (std::process::id() as u16).wrapping_mul(7).wrapping_add(turn) % 55;
        let first = 20_001 + number * BLOCK;
        let is_free = |port: u16| {
            [EAST, WEST].iter().all(|ip| {
                let ip = ip.parse::<IpAddr>().expect("an address");
                UdpSocket::bind((ip, port)).is_ok() && TcpListener::bind((ip, port)).is_ok()
            })
        };
        if (first..first + BLOCK).all(is_free) {
            return first;
        }
    }
    panic!("no block of {BLOCK} free UDP ports between 20001 and 31000");
}

/// A socket of a peer that gives up after [`PATIENCE`].
pub fn peer(ip: &str) -> UdpSocket {
    let socket = UdpSocket::bind((ip, 0)).expect("an ephemeral port");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    socket
}

/// The next datagram as text, and who sent it.
pub fn receive(socket: &UdpSocket) -> (String, SocketAddr) {
    let mut buffer = vec![0; 65_536];
    let (len, from) = socket.recv_from(&mut buffer).expect("an answer in time");
    (String::from_utf8_lossy(&buffer[..len]).into_owned(), from)
}

/// Waits until `holds`.
pub fn wait_for(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !holds() {
        assert!(Instant::now() < end, "waited in vain until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Sends OPTIONS and checks that it is answered.
pub fn ask_options(plane: &Plane, location: usize, tag: &str) {
    ask_options_at(plane.sip(location), tag);
}

/// The same, of whoever is there.
pub fn ask_options_at(sip: SocketAddr, tag: &str) {
    let socket = peer("127.0.0.1");
    let own = socket.local_addr().expect("it is bound");
    let message = format!(
        "OPTIONS sip:{sip} SIP/2.0\r\nVia: SIP/2.0/UDP {own};branch=z9hG4bK{tag}\r\n\
         From: <sip:probe@{own}>;tag=1\r\nTo: <sip:{sip}>\r\nCall-ID: {tag}@probe\r\n\
         CSeq: 1 OPTIONS\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
    );
    socket.send_to(message.as_bytes(), sip).expect("loopback takes it");
    let (answer, from) = receive(&socket);
    assert!(answer.starts_with("SIP/2.0 200"), "{answer}");
    assert!(answer.contains(&format!("Call-ID: {tag}@probe")), "{answer}");
    assert_eq!(from, sip, "the answer comes from the address that was asked");
}

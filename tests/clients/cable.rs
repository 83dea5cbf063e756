//! A cable that loses, doubles, delays and reorders, for kernels without netem.
//!
//! ```text
//! left host -- veth -- { packet socket -- thread -- packet socket } -- veth -- right host
//! ```
//! What is in braces has a namespace of its own. The thread carries whole frames, so both hosts run the kernel's own
//! IP, UDP and TCP over it. Only IP has weather: neighbours are asked as on a sound cable, since a bad way lies between
//! routers.

use std::collections::HashMap;
use std::fmt;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, bind, socket};
use rustix::event::{PollFd, PollFlags, poll};

use crate::lab::{Host, ip};
use crate::weather::{Climate, Weather};

/// What waits in a socket while the thread does not run: more than a second of a crowd's RTP.
const SOCKET_BYTES: usize = 32 << 20;
/// Whatever a cable without segmentation by the interface carries.
const FRAME_BYTES: usize = 2_048;

/// UDP from there to there.
pub type Flow = (SocketAddrV4, SocketAddrV4);

/// How many packets of a flow went in, and how many came out.
#[derive(Clone, Copy, Debug, Default)]
pub struct Passed {
    pub entered: u64,
    pub came: u64,
}

/// What one way has done to IP packets.
#[derive(Clone, Copy, Default)]
pub struct Tally {
    pub entered: u64,
    pub lost: u64,
    pub doubled: u64,
    /// Came out after one that had entered later.
    pub overtaken: u64,
    pub came: u64,
}

/// What has gone by the cable.
#[derive(Clone, Default)]
pub struct Traffic {
    /// From the left to the right, and back.
    pub ways: [Tally; 2],
    pub flows: HashMap<Flow, Passed>,
}

/// A cable between two hosts, which ends with its value.
pub struct Cable {
    traffic: Arc<Mutex<Traffic>>,
    stop: Option<OwnedFd>,
    thread: Option<JoinHandle<()>>,
    _middle: Host,
}

impl Cable {
    /// Joins two hosts, each by an interface `eth0` with that address in a network of 24 bits.
    pub fn between(ends: [(&Host, &str); 2], climate: Climate, seed: u64) -> Cable {
        let middle = Host::new(&format!("cable{}", ends[1].1.replace('.', "")));
        for ((host, address), port) in ends.iter().zip(PORTS) {
            plug(host, address, &middle, port);
        }
        let sockets = middle.enter(|| PORTS.map(listen_at));
        for port in PORTS {
            ip(&["-n", middle.name(), "link", "set", port, "up"]);
        }
        println!("{climate:?}, seed {seed}");
        let traffic = Arc::new(Mutex::new(Traffic::default()));
        let (stopped, stop) = rustix::pipe::pipe().expect("a pipe");
        let thread = {
            let traffic = Arc::clone(&traffic);
            std::thread::spawn(move || carry(&sockets, &stopped, climate, seed, &traffic))
        };
        Cable { traffic, stop: Some(stop), thread: Some(thread), _middle: middle }
    }

    /// What it has carried so far.
    pub fn traffic(&self) -> Traffic {
        self.traffic.lock().expect("whole").clone()
    }
}

impl Drop for Cable {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            let ended = thread.join();
            assert!(ended.is_ok() || std::thread::panicking(), "the cable broke");
        }
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let share = |part: u64| 100.0 * part as f64 / self.entered.max(1) as f64;
        let [lost, doubled, overtaken] = [self.lost, self.doubled, self.overtaken].map(share);
        let entered = self.entered;
        write!(
            f,
            "{entered} packets, {lost:.1} % lost, {doubled:.1} % doubled, {overtaken:.1} % overtaken"
        )
    }
}

const PORTS: [&str; 2] = ["left", "right"];

/// Both halves of a way between a host and the middle, which say nothing by themselves and leave no checksum to an
/// interface that is not there.
fn plug(host: &Host, address: &str, middle: &Host, port: &str) {
    let link = ["link", "add", "eth0", "netns", host.name(), "type", "veth", "peer", "name"];
    ip(&[&link[..], &[port, "netns", middle.name()]].concat());
    for (end, name) in [(host, "eth0"), (middle, port)] {
        end.run("ethtool", &["-K", name, "tx", "off", "tso", "off", "gso", "off", "gro", "off"]);
        ip(&["-n", end.name(), "link", "set", name, "addrgenmode", "none"]);
    }
    ip(&["-n", host.name(), "address", "add", &format!("{address}/24"), "dev", "eth0"]);
    ip(&["-n", host.name(), "link", "set", "eth0", "up"]);
}

/// A socket for the frames of an interface of this thread's namespace (packet(7)).
fn listen_at(port: &str) -> OwnedFd {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    let raw = socket(AddressFamily::Packet, SockType::Raw, flags, SockProtocol::EthAll)
        .expect("a packet socket needs root");
    let links = nix::ifaddrs::getifaddrs().expect("interfaces");
    let address = links
        .filter(|link| link.interface_name == port)
        .find_map(|link| link.address?.as_link_addr().copied())
        .expect("the interface has a link address");
    bind(raw.as_raw_fd(), &address).expect("bound to its interface");
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&raw, SOCKET_BYTES).expect("root");
    raw
}

/// A frame, its place in the order of those that entered, and what it is of.
#[derive(Clone)]
struct Frame {
    bytes: Vec<u8>,
    number: u64,
    flow: Option<Flow>,
}

fn carry(
    sockets: &[OwnedFd; 2],
    stop: &OwnedFd,
    climate: Climate,
    seed: u64,
    traffic: &Mutex<Traffic>,
) {
    let mut ways: [Weather<Frame>; 2] = [0, 1].map(|way| Weather::new(climate, 2 * seed + way));
    let mut newest = [0; 2];
    let mut buffer = vec![0; FRAME_BYTES];
    loop {
        let now = Instant::now();
        for way in [0, 1] {
            while let Some(frame) = ways[way].take(now) {
                let mut traffic = traffic.lock().expect("whole");
                traffic.ways[way].came += 1;
                traffic.ways[way].overtaken += u64::from(frame.number < newest[way]);
                newest[way] = newest[way].max(frame.number);
                if let Some(flow) = frame.flow {
                    traffic.flows.entry(flow).or_default().came += 1;
                }
                drop(traffic);
                say(&sockets[1 - way], &frame.bytes);
            }
        }
        let due = ways.iter().filter_map(Weather::due).min();
        let wait = due.map(|due| {
            let wait = due.saturating_duration_since(Instant::now());
            rustix::time::Timespec {
                tv_sec: wait.as_secs() as i64,
                tv_nsec: i64::from(wait.subsec_nanos()),
            }
        });
        let [left, right] = sockets.each_ref().map(|socket| PollFd::new(socket, PollFlags::IN));
        let mut fds = [left, right, PollFd::new(stop, PollFlags::IN)];
        let _ = poll(&mut fds, wait.as_ref());
        if !fds[2].revents().is_empty() {
            return;
        }
        for way in [0, 1] {
            while let Ok(len) = rustix::io::read(&sockets[way], &mut buffer) {
                let bytes = &buffer[..len];
                if !is_ip(bytes) {
                    say(&sockets[1 - way], bytes);
                    continue;
                }
                let mut traffic = traffic.lock().expect("whole");
                traffic.ways[way].entered += 1;
                let flow = udp_flow(bytes);
                if let Some(flow) = flow {
                    traffic.flows.entry(flow).or_default().entered += 1;
                }
                let number = traffic.ways[way].entered;
                let frame = Frame { bytes: bytes.to_vec(), number, flow };
                let copies = ways[way].put(Instant::now(), frame);
                traffic.ways[way].lost += u64::from(copies == 0);
                traffic.ways[way].doubled += u64::from(copies == 2);
            }
        }
    }
}

/// A host that is gone hears nothing more.
fn say(socket: &OwnedFd, frame: &[u8]) {
    let _ = rustix::io::write(socket, frame);
}

/// IPv4 or IPv6, by the Ethernet header's type.
fn is_ip(frame: &[u8]) -> bool {
    matches!(frame.get(12..14), Some([0x08, 0x00] | [0x86, 0xdd]))
}

/// Whose UDP over IPv4 a frame is; none when it is something else, or not the first fragment.
fn udp_flow(frame: &[u8]) -> Option<Flow> {
    let packet = frame.get(12..14).filter(|kind| *kind == [0x08, 0x00]).and(frame.get(14..))?;
    let words = |at: usize| Some(u16::from_be_bytes([*packet.get(at)?, *packet.get(at + 1)?]));
    let is_first = words(6)? & 0x1fff == 0;
    if *packet.get(9)? != 17 || !is_first {
        return None;
    }
    let ports = usize::from(packet[0] & 0x0f) * 4;
    let end = |address: usize, port: usize| {
        let octets: [u8; 4] = packet.get(address..address + 4)?.try_into().ok()?;
        Some(SocketAddrV4::new(Ipv4Addr::from(octets), words(port)?))
    };
    Some((end(12, ports)?, end(16, ports + 2)?))
}

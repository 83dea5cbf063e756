//! Hosts of our own: network namespaces, cables between them, and sockets that see whole frames.

use std::fs::File;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use aya::programs::{Xdp, XdpMode};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// A network namespace that goes with its value.
pub struct Host {
    pub name: String,
}

/// One end of a cable.
#[derive(Clone, Debug)]
pub struct Port {
    pub name: String,
    pub index: u32,
    pub mac: [u8; 6],
}

impl Host {
    pub fn new(name: &str) -> Host {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let host = Host { name: format!("jackfield-xdp-{}-{number}-{name}", std::process::id()) };
        ip(&["netns", "add", &host.name]);
        host.ip(&["link", "set", "lo", "up"]);
        host
    }

    /// Runs `ip` in this namespace.
    pub fn ip(&self, arguments: &[&str]) -> String {
        ip(&[&["-n", &self.name], arguments].concat())
    }

    /// Runs on a thread in this namespace.
    pub fn run<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let run = || {
            let space = File::open(format!("/run/netns/{}", self.name)).expect("the namespace");
            let kind = Some(LinkNameSpaceType::Network);
            move_into_link_name_space(std::os::fd::AsFd::as_fd(&space), kind).expect("root");
            f()
        };
        thread::scope(|scope| scope.spawn(run).join()).unwrap_or_else(|panic| {
            std::panic::resume_unwind(panic);
        })
    }

    /// Joins two hosts by a cable; returns its ends.
    pub fn connect(&self, own: &str, other: &Host, theirs: &str) -> (Port, Port) {
        ip(&[
            "link",
            "add",
            own,
            "netns",
            &self.name,
            "type",
            "veth",
            "peer",
            "name",
            theirs,
            "netns",
            &other.name,
        ]);
        let port = |host: &Host, name: &str| {
            host.ip(&["link", "set", name, "up"]);
            host.run(|| Port::named(name))
        };
        (port(self, own), port(other, theirs))
    }

    /// Gives a port addresses of 24 or 64 bits, in use at once.
    pub fn address(&self, port: &Port, addresses: &[IpAddr]) {
        for address in addresses {
            let bits = if address.is_ipv4() { 24 } else { 64 };
            let address = format!("{address}/{bits}");
            self.ip(&["address", "add", &address, "dev", &port.name, "nodad"]);
        }
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "delete", &self.name]).status();
    }
}

impl Port {
    fn named(name: &str) -> Port {
        let read = |what: &str| {
            let output = Command::new("ip").args(["-o", "link", "show", name]).output();
            let text = String::from_utf8(output.expect("ip runs").stdout).expect("UTF-8");
            let mut words = text.split_whitespace();
            match what {
                "index" => words.next().map(|word| word.trim_end_matches(':').to_owned()),
                _ => words.skip_while(|word| *word != "link/ether").nth(1).map(str::to_owned),
            }
            .unwrap_or_else(|| panic!("{what} of {name} in {text}"))
        };
        Port {
            name: name.into(),
            index: read("index").parse().expect("a number"),
            mac: mac(&read("mac")),
        }
    }
}

pub fn mac(text: &str) -> [u8; 6] {
    let bytes: Vec<u8> =
        text.split(':').map(|byte| u8::from_str_radix(byte, 16).expect("hex")).collect();
    bytes.try_into().expect("six bytes")
}

pub fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip").args(arguments).output().expect("ip (Debian: iproute2) runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "ip {}: {error}", arguments.join(" "));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// A program on a phone's interface that passes everything: a veth takes native frames only where its peer
/// has one. It is the relay's, without a flow.
pub struct Passes {
    _program: aya::Ebpf,
}

impl Passes {
    pub fn on(host: &Host, port: &Port) -> Passes {
        host.run(|| {
            static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(
                env!("CARGO_MANIFEST_DIR"),
                "/xdp/relay.bpf.o"
            ));
            let mut program = aya::Ebpf::load(OBJECT).expect("the object loads");
            let xdp: &mut Xdp =
                program.program_mut("relay").expect("a program").try_into().expect("XDP");
            xdp.load().expect("the program loads");
            xdp.attach_to_if_index(port.index, XdpMode::Driver).expect("a veth takes it");
            Passes { _program: program }
        })
    }
}

/// A socket that sends and hears whole frames on one interface.
pub struct Wire(OwnedFd);

impl Wire {
    pub fn on(host: &Host, port: &Port) -> Wire {
        host.run(|| Wire::open(port.index).expect("root may open packet sockets"))
    }

    fn open(index: u32) -> io::Result<Wire> {
        let all = (libc::ETH_P_ALL as u16).to_be();
        // SAFETY: no pointers; the result is checked before it is owned.
        let fd = unsafe {
            libc::socket(libc::AF_PACKET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, i32::from(all))
        };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: `fd` was just opened, and nobody else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        // SAFETY: all zeros is a value of this plain structure.
        let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
        address.sll_family = libc::AF_PACKET as u16;
        address.sll_protocol = all;
        address.sll_ifindex = index as i32;
        let length = size_of_val(&address) as u32;
        // SAFETY: the pointer and the length are those of `address`, which lives through the call.
        let bound = unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) };
        if bound < 0 { Err(io::Error::last_os_error()) } else { Ok(Wire(fd)) }
    }

    /// Sends a frame, and waits for the interface's queue where it is full (ENOBUFS: packet sockets are told so).
    pub fn send(&self, frame: &[u8]) {
        for _ in 0..10_000 {
            match rustix::io::write(&self.0, frame) {
                Err(rustix::io::Errno::NOBUFS | rustix::io::Errno::AGAIN) => {
                    std::thread::yield_now()
                }
                sent => return assert_eq!(sent.expect("sent"), frame.len()),
            }
        }
        panic!("the interface's queue stays full");
    }

    /// The next frame within a time, whatever it holds.
    pub fn next(&self, within: Duration) -> Option<Vec<u8>> {
        let timeout =
            Timespec { tv_sec: within.as_secs() as i64, tv_nsec: within.subsec_nanos().into() };
        let mut fds = [PollFd::new(&self.0, PollFlags::IN)];
        if poll(&mut fds, Some(&timeout)).expect("a poll") == 0 {
            return None;
        }
        let mut frame = vec![0; 2_048];
        let length = rustix::io::read(&self.0, &mut frame).expect("a frame");
        frame.truncate(length);
        Some(frame)
    }

    /// The next frame of RTP to `port`.
    pub fn next_to(&self, port: u16, within: Duration) -> Option<Vec<u8>> {
        let end = std::time::Instant::now() + within;
        loop {
            let left = end.saturating_duration_since(std::time::Instant::now());
            let frame = self.next(left)?;
            if destination_port(&frame) == Some(port) {
                return Some(frame);
            }
        }
    }
}

fn destination_port(frame: &[u8]) -> Option<u16> {
    let udp = match frame.get(12..14)? {
        [8, 0] if *frame.get(23)? == 17 => 34,
        [0x86, 0xdd] if *frame.get(20)? == 17 => 54,
        _ => return None,
    };
    Some(u16::from_be_bytes(frame.get(udp + 2..udp + 4)?.try_into().ok()?))
}

/// Asks until there is an answer.
pub fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let end = std::time::Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(std::time::Instant::now() < end, "{what}: not within 30 s");
        thread::sleep(Duration::from_millis(20));
    }
}

//! What really crossed a cable: tcpdump on a host, and its file read back.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use crate::lab::{Host, Process, signal, wait_for};

/// A capture that runs.
pub struct Capture {
    process: Process,
    file: PathBuf,
}

/// A UDP datagram in its frame.
#[derive(Clone, Debug)]
pub struct Frame {
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub payload: Vec<u8>,
    /// Hop limit or time to live, and the six bits of DSCP.
    pub hops: u8,
    pub dscp: u8,
    /// The IPv4 header's and the UDP checksum are right; a UDP checksum of zero is right on IPv4 only.
    pub is_sound: bool,
}

impl Capture {
    /// Captures UDP and ICMP on a host's interface from now on.
    pub fn start(host: &Host, interface: &str, folder: &std::path::Path) -> Capture {
        Capture::with(host.command("tcpdump"), interface, folder)
    }

    /// The same on this machine.
    pub fn start_here(interface: &str, folder: &std::path::Path) -> Capture {
        Capture::with(std::process::Command::new("tcpdump"), interface, folder)
    }

    fn with(
        mut command: std::process::Command,
        interface: &str,
        folder: &std::path::Path,
    ) -> Capture {
        let file = folder.join(format!("{interface}.pcap"));
        command.args(["-i", interface, "-U", "--immediate-mode", "-s", "0", "-B", "65536", "-w"]);
        command.arg(&file).arg("udp or icmp or icmp6");
        let process = Process::start(&mut command, folder, &format!("tcpdump-{interface}"));
        let listens = wait_for(Duration::from_secs(10), || {
            process.output().contains("listening on").then_some(())
        });
        assert!(listens.is_some(), "tcpdump (Debian: tcpdump): {}", process.output());
        Capture { process, file }
    }

    /// Ends it and reads what it saw.
    pub fn end(mut self) -> Vec<u8> {
        signal(self.process.pid(), rustix::process::Signal::INT);
        self.process.wait(Duration::from_secs(10));
        std::fs::read(&self.file).expect("a capture")
    }
}

/// The UDP datagrams of a capture in their order.
pub fn datagrams(capture: &[u8]) -> Vec<Frame> {
    frames(capture).filter_map(datagram).collect()
}

/// The Ethernet frames of a capture.
pub fn frames(capture: &[u8]) -> impl Iterator<Item = &[u8]> {
    timed(capture).map(|(_, frame)| frame)
}

/// The same with their times in microseconds.
pub fn timed(capture: &[u8]) -> impl Iterator<Item = (u64, &[u8])> {
    let mut rest = capture.get(24..).unwrap_or_default();
    std::iter::from_fn(move || {
        let word = |at: usize| Some(u32::from_le_bytes(rest.get(at..at + 4)?.try_into().ok()?));
        let at = u64::from(word(0)?) * 1_000_000 + u64::from(word(4)?);
        let length = word(8)? as usize;
        let frame = rest.get(16..16 + length)?;
        rest = &rest[16 + length..];
        Some((at, frame))
    })
}

fn datagram(frame: &[u8]) -> Option<Frame> {
    let kind = u16::from_be_bytes([frame[12], frame[13]]);
    let packet = &frame[14..];
    let (from, to, hops, dscp, udp, head_is_sound): (IpAddr, IpAddr, _, _, _, _) = match kind {
        0x0800 => {
            let head = usize::from(packet[0] & 15) * 4;
            let total = usize::from(u16::from_be_bytes([packet[2], packet[3]]));
            let address = |at: usize| {
                let bytes: [u8; 4] = packet[at..at + 4].try_into().expect("four");
                IpAddr::from(Ipv4Addr::from(bytes))
            };
            let udp = (packet[9] == 17).then(|| &packet[head..total])?;
            let sound = sum(&[&packet[..head]]) == 0xffff;
            (address(12), address(16), packet[8], packet[1] >> 2, udp, sound)
        }
        0x86dd => {
            let address = |at: usize| {
                let bytes: [u8; 16] = packet[at..at + 16].try_into().expect("sixteen");
                IpAddr::from(Ipv6Addr::from(bytes))
            };
            let length = usize::from(u16::from_be_bytes([packet[4], packet[5]]));
            let udp = (packet[6] == 17).then(|| &packet[40..40 + length])?;
            let class = (packet[0] << 4) | (packet[1] >> 4);
            (address(8), address(24), packet[7], class >> 2, udp, true)
        }
        _ => return None,
    };
    let port = |at: usize| u16::from_be_bytes([udp[at], udp[at + 1]]);
    let addresses = match (from, to) {
        (IpAddr::V4(from), IpAddr::V4(to)) => [&from.octets()[..], &to.octets()].concat(),
        (IpAddr::V6(from), IpAddr::V6(to)) => [&from.octets()[..], &to.octets()].concat(),
        _ => return None,
    };
    let length = (udp.len() as u32).to_be_bytes();
    let has_sum = port(6) != 0;
    let sum_is_right = sum(&[&addresses, &length, &[0, 17], udp]) == 0xffff;
    Some(Frame {
        from: SocketAddr::new(from, port(0)),
        to: SocketAddr::new(to, port(2)),
        payload: udp[8..].to_vec(),
        hops,
        dscp,
        is_sound: head_is_sound && if has_sum { sum_is_right } else { from.is_ipv4() },
    })
}

/// The Internet checksum's sum (RFC 1071); 0xffff for what holds its own.
fn sum(parts: &[&[u8]]) -> u16 {
    let mut total = 0u32;
    for part in parts {
        for pair in part.chunks(2) {
            total += u32::from(u16::from_be_bytes([pair[0], pair.get(1).copied().unwrap_or(0)]));
        }
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

/// RTP packets by their synchronization source, each in its order.
pub fn by_source(frames: &[Frame]) -> HashMap<u32, Vec<&Frame>> {
    let mut sources: HashMap<u32, Vec<&Frame>> = HashMap::new();
    for frame in frames {
        if let Ok(rtp) = media::wire::Rtp::parse(&frame.payload)
            && rtp.payload_type() < 64
        {
            sources.entry(rtp.ssrc()).or_default().push(frame);
        }
    }
    sources
}

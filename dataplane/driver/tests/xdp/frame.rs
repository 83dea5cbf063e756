//! Frames, made from scratch with whole checksums: what the program's incremental ones must come to.

use std::net::{IpAddr, SocketAddr};

/// An Ethernet frame with an RTP packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Frame {
    pub to_mac: [u8; 6],
    pub from_mac: [u8; 6],
    /// The VLAN tag's 16 bits.
    pub tag: Option<u16>,
    pub source: SocketAddr,
    pub destination: SocketAddr,
    pub tos: u8,
    pub hops: u8,
    pub identification: u16,
    pub flow_label: u32,
    /// False for the zero of a UDP packet without a checksum.
    pub has_checksum: bool,
    pub rtp: Vec<u8>,
    /// What follows IP's packet.
    pub padding: Vec<u8>,
}

/// An RTP packet of a payload that tells it from others.
pub fn rtp(payload_type: u8, sequence: u16, timestamp: u32, ssrc: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0x80, payload_type];
    bytes.extend(sequence.to_be_bytes());
    bytes.extend(timestamp.to_be_bytes());
    bytes.extend(ssrc.to_be_bytes());
    bytes.extend(payload);
    bytes
}

impl Frame {
    /// A phone's frame.
    pub fn new(source: SocketAddr, destination: SocketAddr, rtp: Vec<u8>) -> Frame {
        Frame {
            to_mac: [2, 0, 0, 0, 0, 1],
            from_mac: [2, 0, 0, 0, 0, 2],
            tag: None,
            source,
            destination,
            tos: 0x03,
            hops: 57,
            identification: 0xbeef,
            flow_label: 0x1_2345,
            has_checksum: true,
            rtp,
            padding: Vec::new(),
        }
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut bytes = [self.to_mac, self.from_mac].concat();
        if let Some(tag) = self.tag {
            bytes.extend([0x81, 0]);
            bytes.extend(tag.to_be_bytes());
        }
        match (self.source.ip(), self.destination.ip()) {
            (IpAddr::V4(source), IpAddr::V4(destination)) => {
                bytes.extend([8, 0]);
                let mut ip = vec![0x45, self.tos];
                ip.extend((28 + self.rtp.len() as u16).to_be_bytes());
                ip.extend(self.identification.to_be_bytes());
                ip.extend([0x40, 0, self.hops, 17, 0, 0]);
                ip.extend(source.octets());
                ip.extend(destination.octets());
                let sum = checksum(&ip);
                ip[10..12].copy_from_slice(&sum.to_be_bytes());
                bytes.extend(&ip);
            }
            (IpAddr::V6(source), IpAddr::V6(destination)) => {
                bytes.extend([0x86, 0xdd]);
                let first = 6 << 28 | u32::from(self.tos) << 20 | self.flow_label;
                bytes.extend(first.to_be_bytes());
                bytes.extend((8 + self.rtp.len() as u16).to_be_bytes());
                bytes.extend([17, self.hops]);
                bytes.extend(source.octets());
                bytes.extend(destination.octets());
            }
            _ => panic!("two families in one packet"),
        }
        bytes.extend(self.udp());
        bytes.extend(&self.padding);
        bytes
    }

    fn udp(&self) -> Vec<u8> {
        let length = 8 + self.rtp.len() as u16;
        let mut udp = [
            self.source.port().to_be_bytes(),
            self.destination.port().to_be_bytes(),
            length.to_be_bytes(),
            [0, 0],
        ]
        .concat();
        udp.extend(&self.rtp);
        if self.has_checksum {
            let mut pseudo = Vec::new();
            for addr in [self.source, self.destination] {
                match addr.ip() {
                    IpAddr::V4(ip) => pseudo.extend(ip.octets()),
                    IpAddr::V6(ip) => pseudo.extend(ip.octets()),
                }
            }
            pseudo.extend(17u16.to_be_bytes());
            pseudo.extend(length.to_be_bytes());
            pseudo.extend(&udp);
            let sum = match checksum(&pseudo) {
                0 => 0xffff,
                sum => sum,
            };
            udp[6..8].copy_from_slice(&sum.to_be_bytes());
        }
        udp
    }
}

fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes
        .chunks(2)
        .map(|word| u32::from(word[0]) << 8 | u32::from(*word.get(1).unwrap_or(&0)))
        .sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

//! What the program and the process share: the layouts of `xdp/relay.bpf.c`, word for word.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

use media::{FlowSpec, FlowStats, Splice};
use zerocopy::{FromBytes, FromZeros, Immutable, IntoBytes};

const FAMILY_4: u8 = 4;
const FAMILY_6: u8 = 6;
const NO_TELEPHONE_EVENT: u8 = 0xff;
/// A row whose packets come without a VLAN tag.
const NO_TAG: u16 = 0xffff;
/// What follows our MAC address (IEEE 802's EtherTypes).
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_TAG: u16 = 0x8100;

/// Where a row's packets go: the next hop, and the interface towards it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The interface that the program sends from.
    pub ifindex: u32,
    /// Its MAC address.
    pub ours: [u8; 6],
    /// The next hop's.
    pub hop: [u8; 6],
    /// The VLAN that packets leave with.
    pub vlan: Option<u16>,
}

impl Way {
    /// The word of a row that names the next hop; one store changes it under the program's hands.
    pub fn hop_word(&self) -> u64 {
        let tag = self.vlan.unwrap_or(0).to_be_bytes();
        let [a, b, c, d, e, f] = self.hop;
        u64::from_le_bytes([a, b, c, d, e, f, tag[0], tag[1]])
    }

    fn ours_word(&self, family: u8) -> u64 {
        let [a, b, c, d, e, f] = self.ours;
        let protocol = match (self.vlan, family) {
            (Some(_), _) => ETHERTYPE_TAG,
            (None, FAMILY_4) => ETHERTYPE_IPV4,
            (None, _) => ETHERTYPE_IPV6,
        };
        let [high, low] = protocol.to_be_bytes();
        u64::from_le_bytes([a, b, c, d, e, f, high, low])
    }
}

/// A row as the program reads it: four cache lines, of which IPv4 takes the first two and a splice the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, IntoBytes, FromBytes, Immutable)]
#[repr(C, align(8))]
pub struct Row {
    source4: [u8; 4],
    local4: [u8; 4],
    from4: [u8; 4],
    to4: [u8; 4],
    source_port: [u8; 2],
    vlan_in: u16,
    from_port: [u8; 2],
    to_port: [u8; 2],
    ssrc: [u8; 4],
    ip_delta: u32,
    udp_delta: u32,
    family: u8,
    telephone_event: u8,
    spliced: u8,
    tos: u8,
    hop: u64,
    ours: u64,
    ifindex: u32,
    taken: u32,
    packets: u64,
    bytes: u64,
    foreign: u64,
    newest: u32,
    /// Arrival less timestamp of the packet that the clock was read for last, each 32nd of speech.
    transit: u32,
    /// RFC 3550, A.8, over the packets that the clock is read for, of which each counts for a fourth.
    jitter: u32,
    timestamp: u32,
    /// The timestamp of that packet.
    clocked: u32,
    foreigner_port: [u8; 2],
    reserved: u16,
    foreigner: [u8; 16],
    source: [u8; 16],
    local: [u8; 16],
    from: [u8; 16],
    to: [u8; 16],
    splice_ssrc: [u8; 4],
    splice_timestamp: u32,
    splice_sequence: u16,
    local_port: [u8; 2],
    reserved_too: [u32; 13],
}

/// A row in the words that it is read and written by.
pub const WORDS: usize = size_of::<Row>() / 8;
/// Which of them is the next hop.
pub const HOP_WORD: usize = std::mem::offset_of!(Row, hop) / 8;
/// Which of them the program writes.
pub const COUNTED_WORDS: Range<usize> =
    std::mem::offset_of!(Row, packets) / 8..std::mem::offset_of!(Row, source) / 8;

const _: () = assert!(size_of::<Row>() == 256);
const _: () = assert!(COUNTED_WORDS.start == 8 && COUNTED_WORDS.end == 16);
const _: () = assert!(std::mem::offset_of!(Row, splice_ssrc) == 192);

/// Rows of one port, each number plus one, 0 for none: as many addresses may have the port in use.
pub const SLOTS: usize = 8;
/// Pairs of ports.
pub const PAIRS: usize = 32_768;

impl Row {
    /// No flow's.
    pub const FREE: [u64; WORDS] = [0; WORDS];

    /// The row of a flow whose both ends are of one family; `vlan_in` is the VLAN that its packets come on.
    pub fn new(flow: &FlowSpec, vlan_in: Option<u16>, way: &Way) -> Option<Row> {
        let (local, family) = on_wire(flow.local.ip());
        let (source, from, to) =
            (on_wire(flow.source.ip()), on_wire(flow.from.ip()), on_wire(flow.to.ip()));
        if [source.1, from.1, to.1] != [family; 3] {
            return None;
        }
        let splice = flow.splice.unwrap_or_default();
        let addresses = delta(&source.0, &from.0) + delta(&local, &to.0);
        let port = |addr: SocketAddr| addr.port().to_be_bytes();
        let mut udp = addresses
            + delta(&port(flow.source), &port(flow.from))
            + delta(&port(flow.local), &port(flow.to));
        if flow.splice.is_some() {
            udp += delta(&flow.ssrc.to_be_bytes(), &splice.ssrc.to_be_bytes());
        }
        let word = |addr: [u8; 16]| *addr.first_chunk().expect("four of sixteen bytes");
        Some(Row {
            source4: word(source.0),
            local4: word(local),
            from4: word(from.0),
            to4: word(to.0),
            source_port: port(flow.source),
            vlan_in: vlan_in.unwrap_or(NO_TAG),
            from_port: port(flow.from),
            to_port: port(flow.to),
            ssrc: flow.ssrc.to_be_bytes(),
            ip_delta: addresses,
            udp_delta: udp,
            family,
            telephone_event: flow.telephone_event.unwrap_or(NO_TELEPHONE_EVENT),
            spliced: u8::from(flow.splice.is_some()),
            tos: flow.dscp << 2,
            hop: way.hop_word(),
            ours: way.ours_word(family),
            ifindex: way.ifindex,
            taken: 1,
            newest: flow.newest,
            transit: flow.transit,
            jitter: flow.jitter,
            source: source.0,
            local,
            from: from.0,
            to: to.0,
            splice_ssrc: splice.ssrc.to_be_bytes(),
            splice_timestamp: splice.timestamp,
            splice_sequence: splice.sequence,
            local_port: port(flow.local),
            ..Row::new_zeroed()
        })
    }

    pub fn from_words(words: [u64; WORDS]) -> Row {
        zerocopy::transmute!(words)
    }

    pub fn words(&self) -> [u64; WORDS] {
        zerocopy::transmute!(*self)
    }

    /// The flow that it relays, with what it counted as the start; none of a row that is free.
    pub fn flow(&self) -> Option<FlowSpec> {
        if self.taken == 0 {
            return None;
        }
        let splice = Splice {
            ssrc: u32::from_be_bytes(self.splice_ssrc),
            sequence: self.splice_sequence,
            timestamp: self.splice_timestamp,
        };
        let event = self.telephone_event;
        Some(FlowSpec {
            local: self.addr(self.local, self.local_port),
            source: self.addr(self.source, self.source_port),
            ssrc: u32::from_be_bytes(self.ssrc),
            newest: self.newest,
            transit: self.transit,
            jitter: self.jitter,
            from: self.addr(self.from, self.from_port),
            to: self.addr(self.to, self.to_port),
            splice: (self.spliced != 0).then_some(splice),
            telephone_event: (event != NO_TELEPHONE_EVENT).then_some(event),
            dscp: self.tos >> 2,
        })
    }

    /// The next hop's MAC address.
    pub fn hop(&self) -> [u8; 6] {
        let [a, b, c, d, e, f, ..] = self.hop.to_le_bytes();
        [a, b, c, d, e, f]
    }

    /// True when packets of both rows come and go by the same interfaces and VLANs, whatever the next hop.
    pub fn is_way_of(&self, other: &Row) -> bool {
        let tag = |row: &Row| row.hop >> 48;
        (self.vlan_in, self.ours, self.ifindex) == (other.vlan_in, other.ours, other.ifindex)
            && tag(self) == tag(other)
    }

    fn addr(&self, ip: [u8; 16], port: [u8; 2]) -> SocketAddr {
        let ip = if self.family == FAMILY_4 {
            IpAddr::V4(Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3]))
        } else {
            IpAddr::V6(Ipv6Addr::from(ip))
        };
        SocketAddr::new(ip, u16::from_be_bytes(port))
    }

    /// What it has counted.
    pub fn stats(&self) -> FlowStats {
        let foreigner = (self.foreign > 0).then(|| self.addr(self.foreigner, self.foreigner_port));
        FlowStats {
            packets: self.packets,
            bytes: self.bytes,
            foreign: self.foreign,
            foreigner,
            newest: self.newest,
            transit: self.transit,
            jitter: self.jitter,
            timestamp: self.timestamp,
        }
    }
}

/// An address as it lies in a packet, padded, and its family.
fn on_wire(ip: IpAddr) -> ([u8; 16], u8) {
    match ip.to_canonical() {
        IpAddr::V4(ip) => {
            let mut bytes = [0; 16];
            bytes[..4].copy_from_slice(&ip.octets());
            (bytes, FAMILY_4)
        }
        IpAddr::V6(ip) => (ip.octets(), FAMILY_6),
    }
}

/// What a ones' complement sum of 16-bit words gains when `old` becomes `new` (RFC 1624, eqn. 3); words in
/// this machine's order, as the program adds them.
fn delta(old: &[u8], new: &[u8]) -> u32 {
    let words = |bytes: &[u8], flip: u16| -> u32 {
        bytes
            .as_chunks::<2>()
            .0
            .iter()
            .map(|word| u32::from(u16::from_ne_bytes(*word) ^ flip))
            .sum()
    };
    words(old, 0xffff) + words(new, 0)
}

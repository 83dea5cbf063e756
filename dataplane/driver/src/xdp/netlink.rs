//! Interfaces, addresses, routes and neighbours, as the kernel has them (rtnetlink).

use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage,
    NetlinkPayload,
};
use netlink_packet_route::address::{AddressAttribute, AddressMessage};
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
    LinkXdp, XdpAttached,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

/// Holds the largest message that the kernel makes of a dump: 32 KiB.
const BUFFER_BYTES: usize = 64 << 10;

/// Multicast groups of rtnetlink (linux/rtnetlink.h).
const GROUP_LINK: u32 = 1;
const GROUP_NEIGHBOUR: u32 = 3;
const GROUP_IPV4_ROUTE: u32 = 7;
const GROUP_IPV4_RULE: u32 = 8;
const GROUP_IPV6_ROUTE: u32 = 11;
const GROUP_IPV6_RULE: u32 = 19;

/// A socket to rtnetlink.
pub struct Netlink {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// A network interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    pub index: u32,
    pub name: String,
    /// Of an interface that has next hops with MAC addresses.
    pub mac: Option<[u8; 6]>,
    pub is_loopback: bool,
    /// Up, and with a carrier.
    pub is_up: bool,
    /// One end of a cable between namespaces.
    pub is_veth: bool,
    /// Of an 802.1Q interface: the one below it, and its VLAN.
    pub vlan: Option<(u32, u16)>,
    /// An XDP program's mode, if there is one.
    pub xdp: Option<Attached>,
}

/// How an XDP program is attached.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attached {
    Native,
    Generic,
    Other,
}

/// Where packets to an address go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Route {
    /// The interface.
    pub ifindex: u32,
    /// The next hop: a gateway, or the address itself.
    pub neighbour: IpAddr,
}

/// A neighbour; `mac` is none while the kernel does not know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    pub ifindex: u32,
    pub ip: IpAddr,
    pub mac: Option<[u8; 6]>,
}

/// What changed.
#[derive(Debug)]
pub enum Change {
    Neighbour(Neighbour),
    Link(Link),
    LinkGone(u32),
    Routes,
}

impl Netlink {
    /// A socket for questions.
    pub fn open() -> io::Result<Netlink> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Netlink { socket, sequence: 0, buffer: vec![0; BUFFER_BYTES] })
    }

    /// A socket that hears of changes and never blocks.
    pub fn open_listening() -> io::Result<Netlink> {
        let netlink = Netlink::open()?;
        for group in [
            GROUP_LINK,
            GROUP_NEIGHBOUR,
            GROUP_IPV4_ROUTE,
            GROUP_IPV4_RULE,
            GROUP_IPV6_ROUTE,
            GROUP_IPV6_RULE,
        ] {
            netlink.socket.add_membership(group)?;
        }
        netlink.socket.set_non_blocking(true)?;
        Ok(netlink)
    }

    /// All interfaces.
    pub fn links(&mut self) -> io::Result<Vec<Link>> {
        let question = RouteNetlinkMessage::GetLink(LinkMessage::default());
        self.dump(question, |answer| match answer {
            RouteNetlinkMessage::NewLink(message) => Some(link(&message)),
            _ => None,
        })
    }

    /// All addresses and their interfaces.
    pub fn addresses(&mut self) -> io::Result<Vec<(IpAddr, u32)>> {
        let question = RouteNetlinkMessage::GetAddress(AddressMessage::default());
        self.dump(question, |answer| {
            let RouteNetlinkMessage::NewAddress(message) = answer else {
                return None;
            };
            let find = |local: bool| {
                message.attributes.iter().find_map(|attribute| match attribute {
                    AddressAttribute::Local(ip) if local => Some(*ip),
                    AddressAttribute::Address(ip) if !local => Some(*ip),
                    _ => None,
                })
            };
            // On a cable between two, `Address` is the other end's.
            Some((find(true).or_else(|| find(false))?, message.header.index))
        })
    }

    /// All neighbours.
    pub fn neighbours(&mut self) -> io::Result<Vec<Neighbour>> {
        let question = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
        self.dump(question, |answer| match answer {
            RouteNetlinkMessage::NewNeighbour(message) => neighbour(&message),
            _ => None,
        })
    }

    /// The way of packets from `from`, an address of ours, to `to`; none if there is none, or only one
    /// without an interface.
    pub fn route(&mut self, from: IpAddr, to: IpAddr) -> io::Result<Option<Route>> {
        let mut message = RouteMessage::default();
        let bits = if to.is_ipv4() { 32 } else { 128 };
        message.header.address_family = family(to);
        message.header.destination_prefix_length = bits;
        message.header.source_prefix_length = bits;
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(to)));
        message.attributes.push(RouteAttribute::Source(RouteAddress::from(from)));
        let mut found = None;
        let question = RouteNetlinkMessage::GetRoute(message);
        self.ask(NLM_F_REQUEST | NLM_F_ACK, question, |answer| {
            if let RouteNetlinkMessage::NewRoute(message) = answer {
                found = route(&message, to);
            }
        })?;
        Ok(found)
    }

    /// Tells the kernel that a neighbour is in use, as a sent packet would: it asks for one that it does
    /// not know, and asks an old one again.
    pub fn use_neighbour(&mut self, route: Route) -> io::Result<()> {
        let Route { ifindex, neighbour: ip } = route;
        let mut message = NeighbourMessage::default();
        message.header.family = family(ip);
        message.header.ifindex = ifindex;
        message.header.flags = NeighbourFlags::Use;
        let address = match ip {
            IpAddr::V4(ip) => NeighbourAddress::Inet(ip),
            IpAddr::V6(ip) => NeighbourAddress::Inet6(ip),
        };
        message.attributes.push(NeighbourAttribute::Destination(address));
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        self.ask(flags, RouteNetlinkMessage::NewNeighbour(message), |_| ())
    }

    /// What changed since the last call, on a socket that listens; true when changes were lost, and
    /// everything has to be read again.
    pub fn changes(&mut self, mut told: impl FnMut(Change)) -> io::Result<bool> {
        let mut lost = false;
        loop {
            let length = match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(lost),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => {
                    lost = true;
                    continue;
                }
                Err(error) => return Err(error),
            };
            for message in messages(&self.buffer[..length]) {
                if let NetlinkPayload::InnerMessage(message) = message.payload
                    && let Some(change) = change(&message)
                {
                    told(change);
                }
            }
        }
    }

    fn dump<T>(
        &mut self,
        question: RouteNetlinkMessage,
        read: impl Fn(RouteNetlinkMessage) -> Option<T>,
    ) -> io::Result<Vec<T>> {
        let mut found = Vec::new();
        self.ask(NLM_F_REQUEST | NLM_F_DUMP, question, |answer| found.extend(read(answer)))?;
        Ok(found)
    }

    /// Asks, and tells all answers until the kernel says that there are no more.
    fn ask(
        &mut self,
        flags: u16,
        question: RouteNetlinkMessage,
        mut told: impl FnMut(RouteNetlinkMessage),
    ) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut header = NetlinkHeader::default();
        header.flags = flags;
        header.sequence_number = self.sequence;
        let mut message = NetlinkMessage::new(header, NetlinkPayload::from(question));
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        loop {
            let length = match self.socket.recv(&mut &mut self.buffer[..], 0) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                length => length?,
            };
            for message in messages(&self.buffer[..length]) {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::InnerMessage(answer) => told(answer),
                    NetlinkPayload::Done(_) => return Ok(()),
                    // No code is an acknowledgement.
                    NetlinkPayload::Error(error) if error.code.is_none() => return Ok(()),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    _ => {}
                }
            }
        }
    }
}

impl AsFd for Netlink {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// The messages in a datagram; one that cannot be read is passed over.
fn messages(mut rest: &[u8]) -> impl Iterator<Item = NetlinkMessage<RouteNetlinkMessage>> {
    /// The length of a message lies in its first word; messages begin at multiples of four.
    const HEADER: usize = 16;
    std::iter::from_fn(move || {
        let length = rest.get(..4)?;
        let length = u32::from_ne_bytes(length.try_into().expect("four bytes")) as usize;
        let message = rest.get(..length.max(HEADER))?;
        rest = rest.get(length.max(HEADER).next_multiple_of(4)..).unwrap_or_default();
        Some(NetlinkMessage::<RouteNetlinkMessage>::deserialize(message).ok())
    })
    .flatten()
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn change(message: &RouteNetlinkMessage) -> Option<Change> {
    match message {
        RouteNetlinkMessage::NewNeighbour(message) => neighbour(message).map(Change::Neighbour),
        RouteNetlinkMessage::DelNeighbour(message) => {
            neighbour(message).map(|gone| Change::Neighbour(Neighbour { mac: None, ..gone }))
        }
        // Bridges tell of their ports as if they were links.
        RouteNetlinkMessage::NewLink(message)
            if message.header.interface_family == AddressFamily::Unspec =>
        {
            Some(Change::Link(link(message)))
        }
        RouteNetlinkMessage::DelLink(message)
            if message.header.interface_family == AddressFamily::Unspec =>
        {
            Some(Change::LinkGone(message.header.index))
        }
        RouteNetlinkMessage::NewRoute(_)
        | RouteNetlinkMessage::DelRoute(_)
        | RouteNetlinkMessage::NewRule(_)
        | RouteNetlinkMessage::DelRule(_) => Some(Change::Routes),
        _ => None,
    }
}

fn link(message: &LinkMessage) -> Link {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        is_loopback: flags.contains(LinkFlags::Loopback),
        is_up: flags.contains(LinkFlags::Up | LinkFlags::LowerUp),
        is_veth: false,
        vlan: None,
        xdp: None,
    };
    let (mut lower, mut vlan) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(mac)
                if message.header.link_layer_type == LinkLayerType::Ether =>
            {
                link.mac = mac.as_slice().try_into().ok();
            }
            LinkAttribute::Link(index) => lower = Some(*index),
            LinkAttribute::LinkInfo(infos) => {
                link.is_veth = infos.contains(&LinkInfo::Kind(InfoKind::Veth));
                vlan = infos.iter().find_map(vlan_of);
            }
            LinkAttribute::Xdp(xdp) => link.xdp = xdp.iter().find_map(attached),
            _ => {}
        }
    }
    link.vlan = lower.zip(vlan);
    link
}

fn vlan_of(info: &LinkInfo) -> Option<u16> {
    let LinkInfo::Data(InfoData::Vlan(vlan)) = info else {
        return None;
    };
    vlan.iter().find_map(|info| match info {
        InfoVlan::Id(id) => Some(*id),
        _ => None,
    })
}

fn attached(xdp: &LinkXdp) -> Option<Attached> {
    match xdp {
        LinkXdp::Attached(XdpAttached::Driver) => Some(Attached::Native),
        LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(Attached::Generic),
        LinkXdp::Attached(XdpAttached::None) | LinkXdp::Fd(_) => None,
        LinkXdp::Attached(_) => Some(Attached::Other),
        _ => None,
    }
}

fn route(message: &RouteMessage, to: IpAddr) -> Option<Route> {
    if message.header.kind != RouteType::Unicast {
        return None;
    }
    let mut route = Route { ifindex: 0, neighbour: to };
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => route.ifindex = *index,
            RouteAttribute::Gateway(RouteAddress::Inet(ip))
            | RouteAttribute::Via(RouteVia::Inet(ip)) => route.neighbour = (*ip).into(),
            RouteAttribute::Gateway(RouteAddress::Inet6(ip))
            | RouteAttribute::Via(RouteVia::Inet6(ip)) => route.neighbour = (*ip).into(),
            // A tunnel of the route's own: not a frame that the program can make.
            RouteAttribute::Encap(_) => return None,
            _ => {}
        }
    }
    (route.ifindex != 0).then_some(route)
}

fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let known = matches!(
        message.header.state,
        NeighbourState::Reachable
            | NeighbourState::Stale
            | NeighbourState::Delay
            | NeighbourState::Probe
            | NeighbourState::Permanent
    );
    let (mut ip, mut mac) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => {
                ip = Some(IpAddr::V4(*v4));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => {
                ip = Some(IpAddr::V6(*v6));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            _ => {}
        }
    }
    Some(Neighbour { ifindex: message.header.ifindex, ip: ip?, mac: mac.filter(|_| known) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel says of `eth0.5`; this machine's kernel may have no VLANs to ask it.
    #[test]
    fn the_interface_of_a_vlan_names_the_one_below() {
        let mut message = LinkMessage::default();
        message.header.index = 7;
        message.header.link_layer_type = LinkLayerType::Ether;
        message.header.flags = LinkFlags::Up | LinkFlags::LowerUp;
        message.attributes = vec![
            LinkAttribute::IfName("eth0.5".into()),
            LinkAttribute::Address(vec![2, 0, 0, 0, 0, 9]),
            LinkAttribute::Link(3),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(5)])),
            ]),
        ];
        let mut sent = NetlinkMessage::new(
            NetlinkHeader::default(),
            NetlinkPayload::from(RouteNetlinkMessage::NewLink(message)),
        );
        sent.finalize();
        let mut bytes = vec![0; sent.buffer_len()];
        sent.serialize(&mut bytes);
        // Two of them in a datagram, and a piece of a third.
        let twice = [&bytes[..], &bytes[..], &bytes[..10]].concat();
        let links: Vec<Link> = messages(&twice)
            .filter_map(|message| match message.payload {
                NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(message)) => {
                    Some(link(&message))
                }
                _ => None,
            })
            .collect();
        let expected = Link {
            index: 7,
            name: "eth0.5".into(),
            mac: Some([2, 0, 0, 0, 0, 9]),
            is_loopback: false,
            is_up: true,
            is_veth: false,
            vlan: Some((3, 5)),
            xdp: None,
        };
        assert_eq!(links, [expected.clone(), expected]);
    }
}

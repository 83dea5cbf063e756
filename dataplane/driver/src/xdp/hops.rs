//! Which way packets leave: routes and neighbours, kept here because the program cannot ask (a host that does
//! not forward gets no answer from the kernel's own look-up), and never learns that its packets arrive.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;

use media::{FlowSpec, WhyNot};

use super::netlink::{Attached, Change, Link, Neighbour, Netlink, Route};
use super::row::Way;
use crate::doorbell::Doorbell;

/// What is known of interfaces, addresses and neighbours.
pub struct Hops {
    /// For routes only, which the kernel tells without waiting for anybody.
    netlink: Netlink,
    seen: Seen,
    /// The interfaces that the program is attached to.
    ports: HashMap<u32, Attached>,
    /// The interfaces that take VLAN tags off what comes in.
    without_tags: HashSet<u32>,
    /// The next hops to ask the kernel for, and who is rung for them.
    wanted: HashSet<Route>,
    bell: Arc<Doorbell>,
}

/// What the kernel knows.
pub struct Seen {
    links: HashMap<u32, Link>,
    /// Our addresses.
    locals: HashMap<IpAddr, u32>,
    neighbours: HashMap<(u32, IpAddr), [u8; 6]>,
}

/// A flow's way, found.
#[derive(Clone, Debug)]
pub struct Found {
    pub way: Way,
    pub route: Route,
    /// The interface and the VLAN that its packets come in on.
    pub ingress: (u32, Option<u16>),
}

/// What a change means for the rows that are in use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Rows by this route send to another MAC address.
    Moved(Route, [u8; 6]),
    /// Rows by this route have no next hop.
    Lost(Route),
    /// Rows that use this interface do not any more.
    Down(u32),
    /// All routes have to be asked for again.
    Reroute,
}

impl Seen {
    /// Reads it all. It may wait for whoever changes the network just now.
    pub fn read(netlink: &mut Netlink) -> io::Result<Seen> {
        let neighbour = |Neighbour { ifindex, ip, mac }: Neighbour| Some(((ifindex, ip), mac?));
        Ok(Seen {
            links: netlink.links()?.into_iter().map(|link| (link.index, link)).collect(),
            locals: netlink.addresses()?.into_iter().collect(),
            neighbours: netlink.neighbours()?.into_iter().filter_map(neighbour).collect(),
        })
    }
}

impl Hops {
    /// Reads all that the kernel knows. `bell` is rung when there are next hops to ask for.
    pub fn read(bell: Arc<Doorbell>) -> io::Result<Hops> {
        let mut netlink = Netlink::open()?;
        let seen = Seen::read(&mut netlink)?;
        Ok(Hops {
            netlink,
            seen,
            ports: HashMap::new(),
            without_tags: HashSet::new(),
            wanted: HashSet::new(),
            bell,
        })
    }

    /// The interface of one of our addresses, and the one below it where frames come in, with their VLAN.
    pub fn interface(&self, address: IpAddr) -> Option<(&Link, &Link, Option<u16>)> {
        self.lower(*self.seen.locals.get(&address.to_canonical())?)
    }

    fn lower(&self, ifindex: u32) -> Option<(&Link, &Link, Option<u16>)> {
        let link = self.seen.links.get(&ifindex)?;
        match link.vlan {
            Some((lower, vlan)) => Some((link, self.seen.links.get(&lower)?, Some(vlan))),
            None => Some((link, link, None)),
        }
    }

    /// Notes that the program is attached to an interface.
    pub fn attached(&mut self, ifindex: u32, mode: Attached) {
        self.ports.insert(ifindex, mode);
    }

    /// Notes that an interface takes VLAN tags off what comes in.
    pub fn hides_tags(&mut self, ifindex: u32) {
        self.without_tags.insert(ifindex);
    }

    /// Finds a flow's way. One whose next hop is not known yet is asked for, and known a moment later.
    pub fn find(&mut self, flow: &FlowSpec) -> Result<Found, WhyNot> {
        self.find_with(flow, None)
    }

    /// Like [`Hops::find`]; a next hop that is not known is believed to be at `otherwise`.
    pub fn find_with(
        &mut self,
        flow: &FlowSpec,
        otherwise: Option<[u8; 6]>,
    ) -> Result<Found, WhyNot> {
        let (_, ingress, vlan_in) = self.interface(flow.local.ip()).ok_or(WhyNot::Interface)?;
        let (ingress, is_up) = ((ingress.index, vlan_in), ingress.is_up);
        if vlan_in.is_some() && self.without_tags.contains(&ingress.0) {
            return Err(WhyNot::Interface);
        }
        let mode = *self.ports.get(&ingress.0).ok_or(WhyNot::Interface)?;
        let (from, to) = (flow.from.ip().to_canonical(), flow.to.ip().to_canonical());
        let route = self.route(from, to).ok_or(WhyNot::NextHop)?;
        let (upper, egress, vlan) = self.lower(route.ifindex).ok_or(WhyNot::Interface)?;
        let out = *self.ports.get(&egress.index).ok_or(WhyNot::Interface)?;
        // A frame that came in natively cannot leave by an interface without native transmission.
        let crosses = mode == Attached::Native && out != Attached::Native;
        if crosses || !is_up || !upper.is_up || !egress.is_up {
            return Err(WhyNot::Interface);
        }
        let (ifindex, ours) = (egress.index, upper.mac.ok_or(WhyNot::Interface)?);
        let hop = match self.seen.neighbours.get(&(route.ifindex, route.neighbour)) {
            Some(mac) => *mac,
            None => {
                self.ask(route);
                otherwise.ok_or(WhyNot::NextHop)?
            }
        };
        Ok(Found { way: Way { ifindex, ours, hop, vlan }, route, ingress })
    }

    /// The way from one of our addresses to another host; none if there is none.
    fn route(&mut self, from: IpAddr, to: IpAddr) -> Option<Route> {
        self.netlink.route(from, to).ok().flatten()
    }

    /// Notes a next hop to ask for: asking may wait for whoever changes the network just now.
    pub fn ask(&mut self, route: Route) {
        if self.wanted.insert(route) {
            self.bell.ring();
        }
    }

    /// The next hops to ask for since the last call.
    pub fn take_wanted(&mut self) -> HashSet<Route> {
        std::mem::take(&mut self.wanted)
    }

    /// Takes in a change; what it means is told.
    pub fn change(&mut self, change: Change, told: &mut Vec<Effect>) {
        match change {
            Change::Neighbour(Neighbour { ifindex, ip, mac }) => {
                let route = Route { ifindex, neighbour: ip };
                let known = self.seen.neighbours.get(&(ifindex, ip)).copied();
                match mac {
                    Some(mac) if known != Some(mac) => {
                        self.seen.neighbours.insert((ifindex, ip), mac);
                        told.push(Effect::Moved(route, mac));
                    }
                    None if known.is_some() => {
                        self.seen.neighbours.remove(&(ifindex, ip));
                        told.push(Effect::Lost(route));
                    }
                    Some(_) | None => {}
                }
            }
            Change::Link(link) => {
                let earlier = self.seen.links.get(&link.index);
                if !link.is_up || earlier.is_some_and(|earlier| earlier.mac != link.mac) {
                    told.push(Effect::Down(link.index));
                }
                self.seen.links.insert(link.index, link);
            }
            Change::LinkGone(index) => {
                self.seen.links.remove(&index);
                self.ports.remove(&index);
                told.push(Effect::Down(index));
            }
            Change::Routes => told.push(Effect::Reroute),
        }
    }

    /// Takes in everything, read again after changes were lost, and tells what is not as it was.
    pub fn replace(&mut self, seen: Seen, told: &mut Vec<Effect>) {
        let Seen { links, neighbours, .. } = std::mem::replace(&mut self.seen, seen);
        for (index, earlier) in links {
            let now = self.seen.links.get(&index);
            if now.is_none_or(|now| !now.is_up || now.mac != earlier.mac) {
                told.push(Effect::Down(index));
            }
        }
        let places: HashSet<(u32, IpAddr)> =
            neighbours.keys().chain(self.seen.neighbours.keys()).copied().collect();
        for place in places {
            let route = Route { ifindex: place.0, neighbour: place.1 };
            match self.seen.neighbours.get(&place) {
                None => told.push(Effect::Lost(route)),
                Some(mac) if neighbours.get(&place) != Some(mac) => {
                    told.push(Effect::Moved(route, *mac));
                }
                Some(_) => {}
            }
        }
        told.push(Effect::Reroute);
    }
}

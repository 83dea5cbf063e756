//! Trunks that routes lead to: a worker of each data plane asks them whether they are there, and calls go to one
//! that is.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use base::{CcbId, Instant, LocationId, Transport, WorkerId, owner};

use super::Blade;
use super::side::{Purpose, Side};
use crate::message::Output;
use crate::routes::{self, Destination};

/// Through which location a trunk is reached, and by what.
type Way = (LocationId, Transport);

/// The trunks that a data plane watches.
#[derive(Debug, Default)]
pub(super) struct Trunks {
    watched: BTreeMap<SocketAddr, Watched>,
}

#[derive(Clone, Copy, Debug)]
struct Watched {
    way: Way,
    every_s: u32,
    is_up: bool,
}

impl Trunks {
    /// The addresses of a route, those first that are up.
    pub(super) fn in_order(&self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut ordered = addresses.to_vec();
        ordered.sort_by_key(|address| self.watched.get(address).is_some_and(|it| !it.is_up));
        ordered
    }

    /// The data plane says how a trunk is; true when that is new.
    pub(super) fn heard(&mut self, address: SocketAddr, up: bool) -> bool {
        let known = self.watched.get_mut(&address);
        known.is_some_and(|known| std::mem::replace(&mut known.is_up, up) != up)
    }

    /// Each trunk, and whether it is up; one that was not asked yet counts as up.
    pub(super) fn states(&self) -> impl Iterator<Item = (SocketAddr, bool)> + '_ {
        self.watched.iter().map(|(address, watched)| (*address, watched.is_up))
    }
}

impl Side {
    /// The location that sends to an address: the one of that name, or the nearest.
    pub(super) fn location_for(&self, name: Option<&str>, to: SocketAddr) -> Option<LocationId> {
        if let Some(name) = name {
            return self.location(name);
        }
        let region = self.region()?;
        let places = region.locations().iter();
        let places = places.filter(|(_, row)| !row.name().is_empty());
        routes::nearest(places.map(|(id, row)| (id, row.sip().ip())), to.ip())
    }

    fn watch(
        &mut self,
        now: Instant,
        address: SocketAddr,
        (location, transport): Way,
        every_s: u32,
        out: &mut Vec<Output>,
    ) {
        let workers = self.region().map_or(1, |region| region.layout().workers);
        // Whichever it is, it is always the same.
        let WorkerId(worker) = owner(address.to_string().as_bytes(), workers);
        let command = |op| abi::Command::Watch { op, address, location, transport, every_s };
        self.send(now, WorkerId(worker), Purpose::Watch, &[], command, out);
    }
}

impl Blade {
    pub(super) fn watch_trunks_of_all(&mut self, now: Instant, out: &mut Vec<Output>) {
        let ccbs: Vec<CcbId> = self.sides.keys().copied().collect();
        for ccb in ccbs {
            self.watch_trunks(now, ccb, out);
        }
    }

    /// Orders what is to be watched and is not, and ends what is watched and need not be.
    pub(super) fn watch_trunks(&mut self, now: Instant, ccb: CcbId, out: &mut Vec<Output>) {
        let every_s = self.provision.options_s;
        let Some(side) = self.sides.get_mut(&ccb).filter(|side| side.link) else { return };
        let mut wanted = BTreeMap::new();
        for route in self.routes.iter().filter(|_| every_s > 0) {
            let Destination::Trunk { addresses, transport, location, .. } = &route.to else {
                continue;
            };
            for address in addresses {
                if let Some(location) = side.location_for(location.as_deref(), *address) {
                    wanted.entry(*address).or_insert((location, *transport));
                }
            }
        }
        let over = side.trunks.watched.clone().into_iter();
        for (address, watched) in over.filter(|(address, _)| !wanted.contains_key(address)) {
            side.watch(now, address, watched.way, 0, out);
            side.trunks.watched.remove(&address);
        }
        for (address, way) in wanted {
            let known = side.trunks.watched.get(&address);
            if known.is_some_and(|it| (it.way, it.every_s) == (way, every_s)) {
                continue;
            }
            let is_up = known.is_none_or(|known| known.is_up);
            if let Some(known) = known.filter(|known| known.way != way) {
                let before = known.way;
                side.watch(now, address, before, 0, out);
            }
            side.watch(now, address, way, every_s, out);
            side.trunks.watched.insert(address, Watched { way, every_s, is_up });
        }
    }
}

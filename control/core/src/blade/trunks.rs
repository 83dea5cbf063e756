//! Trunks that routes lead to: a worker of each data plane asks them whether they are there, and calls go to one
//! that is.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use abi::{Outage, Region, TrunkTlsRow};
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
    outage: Outage,
    is_unverified: bool,
}

/// A trunk that a data plane watches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrunkView {
    /// Its address.
    pub address: SocketAddr,
    /// Why it does not serve; one that was not asked yet counts as serving.
    pub outage: Outage,
    /// TLS is spoken to it, and its certificate is not verified.
    pub unverified: bool,
}

impl Trunks {
    /// The addresses of a route, those first that are up.
    pub(super) fn in_order(&self, addresses: &[SocketAddr]) -> Vec<SocketAddr> {
        let mut ordered = addresses.to_vec();
        ordered.sort_by_key(|address| {
            self.watched.get(address).is_some_and(|it| it.outage != Outage::None)
        });
        ordered
    }

    /// The data plane says how a trunk is; true when that is new.
    pub(super) fn heard(&mut self, address: SocketAddr, outage: Outage) -> bool {
        let known = self.watched.get_mut(&address);
        known.is_some_and(|known| std::mem::replace(&mut known.outage, outage) != outage)
    }

    /// Each trunk.
    pub(super) fn states(&self) -> impl Iterator<Item = TrunkView> + '_ {
        self.watched.iter().map(|(address, watched)| TrunkView {
            address: *address,
            outage: watched.outage,
            unverified: watched.is_unverified,
        })
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
    /// Writes how TLS is spoken to each address of a trunk; of two routes to one address the first says it.
    pub(super) fn write_trunk_tls(&self, region: &Region) {
        let mut rows: BTreeMap<SocketAddr, TrunkTlsRow> = BTreeMap::new();
        for route in self.routes.iter() {
            let Destination::Trunk { name, addresses, transport: Transport::Tls, tls, .. } =
                &route.to
            else {
                continue;
            };
            let name = name.as_ref().map(|name| &*name.host);
            for address in addresses {
                if let Some(row) = tls.row(*address, name) {
                    rows.entry(*address).or_insert(row);
                }
            }
        }
        let mut rows = rows.into_values().chain(std::iter::repeat(TrunkTlsRow::default()));
        for (slot, held) in region.trunk_tls().iter() {
            let row = rows.next().unwrap_or_default();
            if held != row {
                region.trunk_tls().write(slot, &row);
            }
        }
    }

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
            let Destination::Trunk { addresses, transport, location, tls, .. } = &route.to else {
                continue;
            };
            let is_unverified = *transport == Transport::Tls && tls.unverified;
            for address in addresses {
                if let Some(location) = side.location_for(location.as_deref(), *address) {
                    wanted.entry(*address).or_insert(((location, *transport), is_unverified));
                }
            }
        }
        let over = side.trunks.watched.clone().into_iter();
        for (address, watched) in over.filter(|(address, _)| !wanted.contains_key(address)) {
            side.watch(now, address, watched.way, 0, out);
            side.trunks.watched.remove(&address);
        }
        for (address, (way, is_unverified)) in wanted {
            let known = side.trunks.watched.get_mut(&address);
            if let Some(it) = known.filter(|it| (it.way, it.every_s) == (way, every_s)) {
                it.is_unverified = is_unverified;
                continue;
            }
            let known = side.trunks.watched.get(&address);
            let outage = known.map_or(Outage::None, |known| known.outage);
            if let Some(known) = known.filter(|known| known.way != way) {
                let before = known.way;
                side.watch(now, address, before, 0, out);
            }
            side.watch(now, address, way, every_s, out);
            side.trunks.watched.insert(address, Watched { way, every_s, outage, is_unverified });
        }
    }
}

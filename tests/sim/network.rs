//! A network that loses, doubles and reorders, as its seed decides.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap};
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use base::{Instant, Rng};

/// A datagram under way.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Datagram {
    /// When it arrives; equal times keep the order of sending.
    pub at: Instant,
    sequence: u64,
    pub from: SocketAddr,
    pub to: SocketAddr,
    pub bytes: Vec<u8>,
}

pub struct Network {
    rng: Rng,
    under_way: BinaryHeap<Reverse<Datagram>>,
    sequence: u64,
    loss_percent: u64,
    double_percent: u64,
    delay_us: (u64, u64),
    /// Hosts that nobody reaches at the moment.
    cut: BTreeSet<IpAddr>,
    pub lost: u64,
}

impl Network {
    /// A network that is as bad as its seed says: up to 10 % loss, 5 % duplicates, 60 ms delay.
    pub fn new(mut rng: Rng) -> Network {
        let slowest_us = 1_000 + rng.below(60_000);
        Network {
            loss_percent: rng.below(11),
            double_percent: rng.below(6),
            delay_us: (rng.below(slowest_us), slowest_us),
            under_way: BinaryHeap::new(),
            sequence: 0,
            cut: BTreeSet::new(),
            lost: 0,
            rng,
        }
    }

    /// A bad one whatever its seed: 10 % loss, 5 % duplicates, up to 300 ms delay, so that nothing keeps its order.
    pub fn lossy(rng: Rng) -> Network {
        let delay_us = (50_000, 300_000);
        Network { loss_percent: 10, double_percent: 5, delay_us, ..Network::new(rng) }
    }

    /// A good one: nothing is lost, and what is sent comes within 1 ms.
    pub fn quiet(rng: Rng) -> Network {
        let delay_us = (200, 1_000);
        Network { loss_percent: 0, double_percent: 0, delay_us, ..Network::new(rng) }
    }

    pub fn send(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let is_cut = self.cut.contains(&from.ip()) || self.cut.contains(&to.ip());
        if is_cut || self.rng.chance(self.loss_percent) {
            self.lost += 1;
            return;
        }
        if self.rng.chance(self.double_percent) {
            self.put(now, from, to, bytes.clone());
        }
        self.put(now, from, to, bytes);
    }

    fn put(&mut self, now: Instant, from: SocketAddr, to: SocketAddr, bytes: Vec<u8>) {
        let (least, most) = self.delay_us;
        let delay = Duration::from_micros(least + self.rng.below(most - least + 1));
        self.sequence += 1;
        let sequence = self.sequence;
        self.under_way.push(Reverse(Datagram { at: now + delay, sequence, from, to, bytes }));
    }

    pub fn next_at(&self) -> Option<Instant> {
        self.under_way.peek().map(|Reverse(next)| next.at)
    }

    pub fn take(&mut self, now: Instant) -> Option<Datagram> {
        if self.next_at()? > now {
            return None;
        }
        self.under_way.pop().map(|Reverse(next)| next)
    }

    pub fn cut(&mut self, host: IpAddr) {
        self.cut.insert(host);
    }

    pub fn heal(&mut self, host: IpAddr) {
        self.cut.remove(&host);
    }
}

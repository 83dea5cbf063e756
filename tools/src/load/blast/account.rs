//! Which packets of a stream arrived, how often, and in what order.

use crate::delays::Delays;

/// Numbers behind the highest one whose arrival is remembered, to tell late from doubled.
const REMEMBERED: u32 = 64;

/// What was counted in one window.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    /// Packets that the window is about.
    pub sent: u64,
    /// Those of them that arrived; doubled ones count once.
    pub received: u64,
    /// Arrivals of a packet that had arrived before, or too late to know.
    pub duplicated: u64,
    /// Arrivals after one that was sent later.
    pub reordered: u64,
    /// Arrivals at a socket that is not the peer's of their sender, or that are none of ours.
    pub stray: u64,
    /// Sends that their time had passed for: the generator cannot send more.
    pub missed: u64,
    /// Sends that the system refused.
    pub refused: u64,
    /// From just before the send to the arrival.
    pub delays: Delays,
}

impl Counted {
    /// Adds what another thread counted.
    pub fn merge(&mut self, other: &Counted) {
        self.sent += other.sent;
        self.received += other.received;
        self.duplicated += other.duplicated;
        self.reordered += other.reordered;
        self.stray += other.stray;
        self.missed += other.missed;
        self.refused += other.refused;
        self.delays.merge(&other.delays);
    }

    /// Packets that never arrived.
    pub fn lost(&self) -> u64 {
        self.sent.saturating_sub(self.received)
    }

    /// The same in percent of those sent.
    pub fn lost_percent(&self) -> f64 {
        self.lost() as f64 * 100.0 / (self.sent.max(1)) as f64
    }
}

/// How a packet arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// After all that were sent before it and arrived.
    InOrder,
    /// After one that was sent later.
    Late,
    /// Not for the first time.
    Again,
}

/// The arrivals of one stream, by the number of each packet from 1.
#[derive(Clone, Copy, Debug, Default)]
pub struct Arrivals {
    highest: u32,
    /// Bit n: the number `highest - n` has arrived.
    seen: u64,
}

impl Arrivals {
    /// Notes the arrival of `number`.
    pub fn note(&mut self, number: u32) -> Arrival {
        if number > self.highest {
            let step = number - self.highest;
            self.seen = if step < REMEMBERED { self.seen << step } else { 0 } | 1;
            self.highest = number;
            return Arrival::InOrder;
        }
        let behind = self.highest - number;
        if behind >= REMEMBERED || self.seen & (1 << behind) != 0 {
            return Arrival::Again;
        }
        self.seen |= 1 << behind;
        Arrival::Late
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arrivals_are_told_apart() {
        let mut arrivals = Arrivals::default();
        for (number, arrival) in [
            (1, Arrival::InOrder),
            (2, Arrival::InOrder),
            (2, Arrival::Again),
            (5, Arrival::InOrder),
            (3, Arrival::Late),
            (3, Arrival::Again),
            (4, Arrival::Late),
            (200, Arrival::InOrder),
            (137, Arrival::Late),
            (136, Arrival::Again),
            (5, Arrival::Again),
            (201, Arrival::InOrder),
        ] {
            assert_eq!(arrivals.note(number), arrival, "{number}");
        }
    }
}

//! The bus between two controls: what one says comes late to the other, twice or never, and now and then the bus
//! is gone for one of them.

use std::collections::BTreeMap;

use base::{Instant, Rng};
use control_core::cluster::hub::{Hub, Told};
use control_core::cluster::{BladeName, Heard, Say};

pub struct Bus {
    hub: Hub,
    rng: Rng,
    under_way: BTreeMap<u64, Told>,
    next: u64,
    /// Parts of what is asked and answered that are lost, and late, in percent.
    loss_percent: u64,
    late_percent: u64,
}

/// The name of a control's blade.
pub fn name(control: usize) -> BladeName {
    format!("blade{control}").into()
}

/// The number of something under way, and after how many milliseconds it comes.
pub type Due = (u64, u64);

impl Bus {
    pub fn new(mut rng: Rng) -> Bus {
        let loss_percent = rng.below(4);
        Bus {
            hub: Hub::default(),
            rng,
            under_way: BTreeMap::new(),
            next: 0,
            loss_percent,
            late_percent: 3,
        }
    }

    /// A good one: nothing is lost or late, and little comes in its order.
    pub fn quiet(rng: Rng) -> Bus {
        Bus { loss_percent: 0, late_percent: 0, ..Bus::new(rng) }
    }

    pub fn join(&mut self, now: Instant, control: usize) -> Vec<Due> {
        let told = self.hub.join(now, &name(control));
        // What stands is heard in its order, before that the bus is there.
        told.into_iter().map(|told| (self.put(told), 1)).collect()
    }

    pub fn leave(&mut self, control: usize) -> Vec<Due> {
        let told = self.hub.leave(&name(control));
        told.into_iter().map(|told| (self.put(told), 1)).collect()
    }

    pub fn has(&self, control: usize) -> bool {
        self.hub.has(&name(control))
    }

    pub fn say(&mut self, now: Instant, control: usize, say: Say) -> Vec<Due> {
        let told = self.hub.say(now, &name(control), say);
        self.carry(told)
    }

    pub fn expire(&mut self, now: Instant) -> Vec<Due> {
        let told = self.hub.expire(now);
        self.carry(told)
    }

    /// What comes now, unless its hearer cannot be reached any more.
    pub fn take(&mut self, number: u64) -> Option<(usize, Heard)> {
        let (blade, heard) = self.under_way.remove(&number)?;
        let control = (0..2).find(|control| name(*control) == blade)?;
        let is_there = self.hub.has(&blade) || matches!(heard, Heard::Connected(false));
        is_there.then_some((control, heard))
    }

    fn carry(&mut self, told: Vec<Told>) -> Vec<Due> {
        let mut due = Vec::new();
        for (blade, heard) in told {
            let is_said = matches!(heard, Heard::Asked { .. });
            let is_lost = is_said && self.rng.chance(self.loss_percent);
            if let Heard::Asked { reply, from, question } = &heard
                && self.rng.chance(3)
            {
                let (reply, from, question) = (*reply, from.clone(), question.clone());
                let ms = self.rng.below(300);
                let twice = Heard::Asked { reply, from, question };
                due.push((self.put((blade.clone(), twice)), ms));
            }
            let late = if is_said && self.rng.chance(self.late_percent) { 1_500 } else { 8 };
            let ms = if is_said { self.rng.below(late) } else { 2 };
            if !is_lost {
                due.push((self.put((blade, heard)), ms));
            }
        }
        due
    }

    fn put(&mut self, told: Told) -> u64 {
        self.next += 1;
        self.under_way.insert(self.next, told);
        self.next
    }
}

//! A bus in memory: what stands on it and who is asked, without time or threads of its own. The controls of one
//! process meet on it, and so do those of a simulation.

use std::collections::BTreeMap;
use std::time::Duration;

use base::Instant;

use super::{BladeName, CLAIM_LIFE_MS, Fact, Heard, Key, REPORT_LIFE_MS, Say, To};

/// Something for a blade to hear.
pub type Told = (BladeName, Heard);

/// The bus.
#[derive(Debug, Default)]
pub struct Hub {
    members: Vec<BladeName>,
    /// The homes that stood when a blade left: those that are gone when it is back, it is told of.
    left: BTreeMap<BladeName, Vec<Key>>,
    facts: BTreeMap<Key, Stands>,
    /// Questions that are not answered yet, by the number that their reply bears.
    open: BTreeMap<u64, Open>,
    last_reply: u64,
    last_term: u64,
}

#[derive(Debug)]
struct Stands {
    fact: Fact,
    at: Instant,
    /// Of a claim.
    term: u64,
}

#[derive(Debug)]
struct Open {
    asker: BladeName,
    ask: u64,
    due: Instant,
}

impl Hub {
    /// A blade comes, or comes back: it hears what stands, then that the bus is there.
    pub fn join(&mut self, now: Instant, blade: &BladeName) -> Vec<Told> {
        if !self.members.contains(blade) {
            self.members.push(blade.clone());
        }
        let life = Duration::from_millis(REPORT_LIFE_MS);
        self.facts.retain(|key, it| !matches!(key, Key::Blade(_)) || now < it.at + life);
        let facts = self.facts.iter();
        let facts = facts.map(|(key, it)| (key.clone(), Some(it.fact.clone())));
        let known = self.left.remove(blade).unwrap_or_default();
        let gone = known.into_iter().filter(|key| !self.facts.contains_key(key));
        let all = facts.chain(gone.map(|key| (key, None)));
        let mut told: Vec<Told> =
            all.map(|(key, fact)| (blade.clone(), Heard::Fact { key, fact })).collect();
        told.push((blade.clone(), Heard::Connected(true)));
        told
    }

    /// A blade cannot be reached any more; it hears so.
    pub fn leave(&mut self, blade: &BladeName) -> Vec<Told> {
        self.members.retain(|member| member != blade);
        let homes = self.facts.keys().filter(|key| matches!(key, Key::Number(..)));
        self.left.insert(blade.clone(), homes.cloned().collect());
        vec![(blade.clone(), Heard::Connected(false))]
    }

    /// True while that blade can be reached.
    pub fn has(&self, blade: &BladeName) -> bool {
        self.members.contains(blade)
    }

    /// Forgets all that stands, as a server does that lost its store.
    pub fn lose_all(&mut self) {
        self.facts.clear();
    }

    /// What is heard by whom because `from` says that.
    pub fn say(&mut self, now: Instant, from: &BladeName, say: Say) -> Vec<Told> {
        let is_here = self.has(from);
        match say {
            Say::Ask { ask, to: To::Blade(to), question, within_ms } => {
                if !is_here || !self.has(&to) {
                    return vec![(from.clone(), Heard::Answered { ask, answer: None })];
                }
                self.last_reply += 1;
                let reply = self.last_reply;
                let due = now + Duration::from_millis(within_ms);
                self.open.insert(reply, Open { asker: from.clone(), ask, due });
                vec![(to, Heard::Asked { reply, from: from.clone(), question })]
            }
            Say::Reply { reply, answer } => match self.open.remove(&reply) {
                Some(open) if is_here => {
                    let (ask, answer) = (open.ask, Some(answer));
                    vec![(open.asker, Heard::Answered { ask, answer })]
                }
                Some(open) => {
                    self.open.insert(reply, open);
                    Vec::new()
                }
                None => Vec::new(),
            },
            Say::Put { key, fact } if is_here => self.put(now, key, fact, 0),
            Say::Claim { key, claim } => {
                let life = Duration::from_millis(CLAIM_LIFE_MS);
                let stands = self.facts.get(&key).filter(|it| now < it.at + life);
                let fact = Fact::Claim(claim);
                let term = match stands {
                    _ if !is_here => None,
                    None => {
                        self.last_term += 1;
                        Some(self.last_term)
                    }
                    Some(stands) => (stands.fact == fact).then_some(stands.term),
                };
                let mut told = match term {
                    Some(term) => self.put(now, key.clone(), Some(fact), term),
                    None => Vec::new(),
                };
                told.push((from.clone(), Heard::Claimed { key, term }));
                told
            }
            Say::Disclaim { key } if is_here => {
                let is_theirs =
                    |it: &Stands| matches!(&it.fact, Fact::Claim(claim) if claim.blade == *from);
                match self.facts.get(&key).is_some_and(is_theirs) {
                    true => self.put(now, key, None, 0),
                    false => Vec::new(),
                }
            }
            Say::Put { .. } | Say::Disclaim { .. } => Vec::new(),
        }
    }

    /// Questions that nobody answered in time.
    pub fn expire(&mut self, now: Instant) -> Vec<Told> {
        let due: Vec<u64> =
            self.open.iter().filter(|(_, open)| open.due <= now).map(|(id, _)| *id).collect();
        let ended = due.into_iter().filter_map(|id| self.open.remove(&id));
        ended.map(|open| (open.asker, Heard::Answered { ask: open.ask, answer: None })).collect()
    }

    fn put(&mut self, now: Instant, key: Key, fact: Option<Fact>, term: u64) -> Vec<Told> {
        match &fact {
            Some(fact) => {
                self.facts.insert(key.clone(), Stands { fact: fact.clone(), at: now, term });
            }
            None => {
                self.facts.remove(&key);
            }
        }
        let tell =
            |to: &BladeName| (to.clone(), Heard::Fact { key: key.clone(), fact: fact.clone() });
        self.members.iter().map(tell).collect()
    }
}

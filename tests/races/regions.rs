//! The judge of the regions: it reads lease words and legs, as nobody of the blades does.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::{LeaseState, LegState, Party, Region};
use base::{AgentSlot, Medium};

/// Rows of legs that are looked at; rows are used again before fresh ones.
const LEGS: u32 = 2_048;
/// How often the legs are looked at; the words are with every turn.
const LEGS_EVERY: Duration = Duration::from_millis(25);
/// For how long a leg may outlive its lease: its row is written by another core than its word.
const GRACE: Duration = Duration::from_millis(500);

/// A word of a region that was made once: the home, the region's creation, the agent's slot.
type Word = (u16, u64, u32);

/// What is known of a word.
#[derive(Debug)]
struct Seen {
    counter: u32,
    holder: u16,
    bound: bool,
}

/// A word that must be free soon, unless its home is not at its work meanwhile: then so much later.
#[derive(Debug)]
struct MustBeFree {
    since: Instant,
    at: Instant,
    word: Word,
    counter: u32,
}

#[derive(Debug, Default)]
pub struct Outcome {
    /// Leases that were seen bound.
    pub bound: u64,
    /// Of those, by another CCB than the home.
    pub hosted: u64,
    /// Leases whose holder was killed.
    pub lost: u64,
    /// How long the longest of them took to be freed, in milliseconds.
    pub longest_ms: u64,
    /// How often one of them waited for a home that did not run, since the machine had no time for it.
    pub starved: u64,
    pub broken: Option<String>,
}

pub struct Regions {
    paths: Vec<PathBuf>,
    open: Vec<Option<Arc<Region>>>,
    words: BTreeMap<Word, Seen>,
    /// Legs that have a lease that is over, and since when.
    strays: BTreeMap<(Word, u32, u32), Instant>,
    due: Vec<MustBeFree>,
    legs_at: Instant,
    /// When we looked last: who looks is starved with the others.
    looked_at: Instant,
    pub outcome: Outcome,
}

impl Regions {
    /// The regions of blades 1, 2 and so on.
    pub fn new(paths: Vec<PathBuf>) -> Regions {
        Regions {
            open: vec![None; paths.len()],
            paths,
            words: BTreeMap::new(),
            strays: BTreeMap::new(),
            due: Vec::new(),
            legs_at: Instant::now(),
            looked_at: Instant::now(),
            outcome: Outcome::default(),
        }
    }

    /// Looks at all of them.
    pub fn turn(&mut self) {
        let is_legs = Instant::now() >= self.legs_at;
        if is_legs {
            self.legs_at = Instant::now() + LEGS_EVERY;
        }
        for place in 0..self.paths.len() {
            let current = self.open[place].as_ref();
            // A region is made anew only with another layout, and is mapped once.
            if current.is_none() {
                self.open[place] = Region::open_read_only(&self.paths[place]).ok();
            }
            if let Some(region) = self.open[place].clone() {
                self.look_at_words(place as u16 + 1, &region);
                if is_legs {
                    self.look_at_legs(place as u16 + 1, &region);
                }
            }
        }
        self.look_at_due();
    }

    fn look_at_words(&mut self, home: u16, region: &Region) {
        let creation = region.header().creation();
        for (slot, _) in region.agents().iter() {
            let state = region.leases().read(slot, Medium::Voice);
            let word = (home, creation, slot.0);
            let (Some(holder), Some(counter)) = (state.holder(), state.counter()) else { continue };
            let bound = matches!(state, LeaseState::Bound { .. });
            let before = self.words.insert(word, Seen { counter, holder: holder.0, bound });
            let is_new = before.as_ref().is_none_or(|seen| seen.counter != counter || !seen.bound);
            if bound && is_new {
                self.outcome.bound += 1;
                self.outcome.hosted += u64::from(holder.0 != home);
            }
            let Some(before) = before else { continue };
            if before.counter > counter {
                self.broken(format!(
                    "word {word:?} went back from {} to {counter}",
                    before.counter
                ));
            } else if (before.counter, before.bound) == (counter, true) && !bound {
                self.broken(format!(
                    "lease {counter} of word {word:?} was bound, and is {state:?}"
                ));
            } else if before.counter == counter && before.holder != holder.0 {
                let first = before.holder;
                self.broken(format!("lease {counter} of word {word:?}: {first}, then {holder}"));
            }
        }
    }

    /// Every leg of an agent that stands has the lease that the word says, but for a moment.
    fn look_at_legs(&mut self, home: u16, region: &Region) {
        let creation = region.header().creation();
        // A data plane that is dead or stopped writes no rows.
        let now = Instant::now();
        let mut strays = BTreeMap::new();
        for place in 0..LEGS {
            let Some(leg) = region.legs().read(place) else { continue };
            let Some(Party::Agent(slot, _)) = leg.party() else { continue };
            if matches!(leg.state(), LegState::Free | LegState::Ended) {
                continue;
            }
            let state = region.leases().read(slot, Medium::Voice);
            let holds =
                matches!(state, LeaseState::Bound { counter, .. } if counter == leg.fence_counter);
            let word = (home, creation, slot.0);
            if !holds {
                let key = (word, place, leg.fence_counter);
                let since = self.strays.get(&key).copied().unwrap_or(now);
                strays.insert(key, since);
                if now > since + GRACE && is_at_work(region) {
                    self.broken(format!("a leg of word {word:?} has {leg:?} by {state:?}"));
                }
            }
        }
        self.strays = strays;
    }

    /// That CCB was killed just now: what it holds elsewhere must be free within this time.
    pub fn lost(&mut self, holder: u16, within: Duration) {
        let since = Instant::now();
        let at = since + within;
        for (place, region) in self.open.iter().enumerate() {
            let home = place as u16 + 1;
            let Some(region) = region.as_ref().filter(|_| home != holder) else { continue };
            for (slot, _) in region.agents().iter() {
                let state = region.leases().read(slot, Medium::Voice);
                if state.holder().is_some_and(|it| it.0 == holder)
                    && let Some(counter) = state.counter()
                {
                    let word = (home, region.header().creation(), slot.0);
                    self.due.push(MustBeFree { since, at, word, counter });
                    self.outcome.lost += 1;
                }
            }
        }
    }

    fn look_at_due(&mut self) {
        let now = Instant::now();
        let is_starved = now - std::mem::replace(&mut self.looked_at, now) > GRACE;
        let mut due = std::mem::take(&mut self.due);
        due.retain_mut(|due| {
            let (home, _, slot) = due.word;
            let Some(region) = self.open[usize::from(home) - 1].as_ref() else { return false };
            let state = region.leases().read(AgentSlot(slot), Medium::Voice);
            if state.holder().is_none() || state.counter() != Some(due.counter) {
                let took = u64::try_from((now - due.since).as_millis()).unwrap_or(u64::MAX);
                self.outcome.longest_ms = self.outcome.longest_ms.max(took);
                return false;
            }
            if is_starved || !is_at_work(region) {
                // Its home may have lost the bus, and listens for a while before it holds anybody for dead.
                (due.since, due.at) = (now, now + 2 * crate::FREED);
                self.outcome.starved += 1;
            }
            if now >= due.at {
                self.broken(format!("{due:?} is {state:?} after its holder was lost"));
            }
            now < due.at
        });
        due.append(&mut self.due);
        self.due = due;
    }

    /// The CCB that has most agents of others.
    pub fn busiest(&self) -> Option<u16> {
        let mut counts = BTreeMap::<u16, u32>::new();
        for (place, region) in self.open.iter().enumerate() {
            let Some(region) = region else { continue };
            for (slot, _) in region.agents().iter() {
                let holder = region.leases().read(slot, Medium::Voice).holder();
                let other = holder.filter(|holder| holder.0 != place as u16 + 1);
                other.into_iter().for_each(|holder| *counts.entry(holder.0).or_default() += 1);
            }
        }
        counts.into_iter().max_by_key(|(_, count)| *count).map(|(holder, _)| holder)
    }

    /// Who has whom: words and what they say.
    pub fn held(&self) -> Vec<String> {
        let regions = self.open.iter().flatten().enumerate();
        let words = regions.flat_map(|(place, region)| {
            let states = region.agents().iter().map(move |(slot, row)| {
                let state = region.leases().read(slot, Medium::Voice);
                state.holder().map(|_| format!("{} at {}: {state:?}", row.number(), place + 1))
            });
            states.flatten().collect::<Vec<_>>()
        });
        words.collect()
    }

    /// True when nobody has anybody.
    pub fn all_free(&self) -> bool {
        self.open.iter().flatten().all(|region| region.leases().held() == 0)
    }

    fn broken(&mut self, what: String) {
        self.outcome.broken.get_or_insert(what);
    }
}

/// Both processes of that region run, and turned within the last moments.
fn is_at_work(region: &Region) -> bool {
    let (data_plane, control) = (region.header().data_plane(), region.header().control());
    let turned = |at: base::Instant| crate::now().since(at) < GRACE;
    let all = data_plane.process.is_alive() && control.process.is_alive();
    all && turned(data_plane.heartbeat) && turned(control.heartbeat)
}

//! The CDM (S1-015): the registry of CCBs, and which of them a login is given.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use base::{CcbId, Instant, Rng};

use crate::cluster::CcbReport;
use crate::login::LoginKey;

/// How a CCB does (S1-037); only [`CcbStatus::Normal`] is given out (S1-057, S1-081).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CcbStatus {
    /// Its data plane is up and not ready yet.
    Starting,
    /// Running normally.
    Normal,
    /// Takes nobody new and waits for its agents to leave.
    Draining,
    /// No data plane, or one that gives no sign of life.
    #[default]
    Down,
}

impl CcbStatus {
    /// The name that status tools show.
    pub fn name(self) -> &'static str {
        match self {
            CcbStatus::Starting => "starting",
            CcbStatus::Normal => "normal",
            CcbStatus::Draining => "draining",
            CcbStatus::Down => "down",
        }
    }
}

/// How the CDM chooses among CCBs that run normally and have room (S1-057).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Strategy {
    /// The one with the fewest logins (S1-056).
    #[default]
    LeastAgents,
    /// The one with the smallest part of its capacity in use.
    LeastLoaded,
    /// One that names the agent's location first, the one with the fewest logins of these; else any.
    Location,
    /// Each in its turn.
    RoundRobin,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Strategy; 4] =
        [Strategy::LeastAgents, Strategy::LeastLoaded, Strategy::Location, Strategy::RoundRobin];

    /// The name that configurations use.
    pub fn name(self) -> &'static str {
        match self {
            Strategy::LeastAgents => "least_agents",
            Strategy::LeastLoaded => "least_loaded",
            Strategy::Location => "location",
            Strategy::RoundRobin => "round_robin",
        }
    }
}

/// Parts of a CCB's capacity that [`Strategy::LeastLoaded`] tells apart.
const PARTS: u64 = 1_000_000;
/// Where fewer than one in so many of the ranked CCBs are eligible, the eligible ones are looked at.
const FEW: usize = 16;
/// Draws for two CCBs at random before the least loaded one is taken.
const DRAWS: u32 = 16;

/// The registry. A CCB's load is the logins that it reports and the grants that it does not report
/// yet (G-10), so a storm of logins spreads before the first phone has registered.
#[derive(Debug, Default)]
pub struct Cdm {
    ccbs: BTreeMap<CcbId, Ccb>,
    strategy: Strategy,
    /// The CCB that won last; among equals the next one after it wins.
    last: CcbId,
    /// The CCBs that may be given out, best first.
    open: Ranks,
    /// The same by the location that they name first.
    near: BTreeMap<String, Ranks>,
}

/// CCBs in order of what the strategy compares.
type Ranks = BTreeSet<(u64, CcbId)>;

/// What the registry knows of one CCB.
#[derive(Clone, Debug, Default)]
pub struct Ccb {
    /// How it does.
    pub status: CcbStatus,
    /// Logins that are online: phone registered and CTI attached.
    pub online: u32,
    /// Logins whose phone is registered and that have no CTI.
    pub phones: u32,
    /// Logins that its blade granted and that have neither yet, where that is another one's to count.
    pub granted: u32,
    /// Logins that it has room for.
    pub capacity: u32,
    /// When its data plane last gave a sign of life.
    pub heartbeat: Instant,
    /// The location that it names first.
    pub near: String,
    /// Own grants that it has not reported as registered or online, by login epoch.
    grants: std::collections::HashSet<LoginKey>,
}

impl Ccb {
    /// Grants that are not reported yet.
    pub fn grants(&self) -> u32 {
        self.grants.len() as u32
    }

    /// What allocation compares.
    pub fn load(&self) -> u32 {
        let reported = self.online.saturating_add(self.phones).saturating_add(self.granted);
        reported.saturating_add(self.grants())
    }

    /// Its rank, the lower the better; none when it may not be given out.
    fn rank(&self, strategy: Strategy) -> Option<u64> {
        let (load, capacity) = (u64::from(self.load()), u64::from(self.capacity));
        let is_open = self.status == CcbStatus::Normal && load < capacity;
        is_open.then(|| match strategy {
            Strategy::LeastAgents | Strategy::Location => load,
            Strategy::LeastLoaded => load * PARTS / capacity,
            Strategy::RoundRobin => 0,
        })
    }
}

impl Cdm {
    /// A registry that chooses by that strategy.
    pub fn new(strategy: Strategy) -> Self {
        Cdm { strategy, ..Cdm::default() }
    }

    /// How it chooses.
    pub fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// Adds a CCB, down until it reports (S1-052).
    pub fn add(&mut self, ccb: CcbId) {
        self.ccbs.entry(ccb).or_default();
    }

    /// Takes a report: how the CCB does and how many logins it has (S1-037, S1-052).
    pub fn report(&mut self, ccb: CcbId, status: CcbStatus, online: u32, phones: u32) {
        self.change(ccb, |entry| {
            (entry.status, entry.online, entry.phones) = (status, online, phones);
        });
    }

    /// Takes the report of a CCB as its blade put it on the bus.
    pub fn report_of(&mut self, ccb: CcbId, report: &CcbReport) {
        self.add(ccb);
        self.change(ccb, |entry| {
            (entry.status, entry.online, entry.phones) =
                (report.status, report.online, report.phones);
            (entry.granted, entry.capacity) = (report.granted, report.capacity);
            let near = report.locations.first().map_or("", String::as_str);
            if entry.near != near {
                entry.near = near.to_owned();
            }
            for login in &report.taken {
                entry.grants.remove(login);
            }
        });
    }

    /// Sets how the CCB does; returns how it did before.
    pub fn set_status(&mut self, ccb: CcbId, status: CcbStatus) -> CcbStatus {
        let before = |entry: &mut Ccb| std::mem::replace(&mut entry.status, status);
        self.change(ccb, before).unwrap_or_default()
    }

    /// Sets the room that the CCB has for logins.
    pub fn set_capacity(&mut self, ccb: CcbId, capacity: u32) {
        self.change(ccb, |entry| entry.capacity = capacity);
    }

    /// Takes a sign of life.
    pub fn set_heartbeat(&mut self, ccb: CcbId, at: Instant) {
        if let Some(entry) = self.ccbs.get_mut(&ccb) {
            entry.heartbeat = at;
        }
    }

    /// Changes a CCB and keeps its rank right.
    fn change<T>(&mut self, ccb: CcbId, change: impl FnOnce(&mut Ccb) -> T) -> Option<T> {
        let strategy = self.strategy;
        let entry = self.ccbs.get_mut(&ccb)?;
        let (was, was_near) = (entry.rank(strategy), entry.near.clone());
        let result = change(entry);
        let (is, is_near) = (entry.rank(strategy), &entry.near);
        if (was, &was_near) == (is, is_near) {
            return Some(result);
        }
        if let Some(rank) = was {
            self.open.remove(&(rank, ccb));
            if let Some(ranks) = self.near.get_mut(&was_near) {
                ranks.remove(&(rank, ccb));
            }
        }
        if let Some(rank) = is {
            self.open.insert((rank, ccb));
            if strategy == Strategy::Location {
                self.near.entry(is_near.clone()).or_default().insert((rank, ccb));
            }
        }
        Some(result)
    }

    /// The best CCB by the strategy (S1-056) among the `eligible` ones that run normally and have
    /// room; equals take turns. `None` is a 503.
    pub fn allocate(&mut self, eligible: &[CcbId], location: &str) -> Option<CcbId> {
        let sorted = sorted(eligible);
        let chosen = self.near.get(location).and_then(|ranks| self.best(ranks, &sorted));
        let chosen = chosen.or_else(|| self.best(&self.open, &sorted))?;
        self.last = chosen;
        Some(chosen)
    }

    /// The better of two of the eligible CCBs at random: what a leader does that does not know yet what
    /// the one before it granted (G-10).
    pub fn allocate_at_random(
        &mut self,
        eligible: &[CcbId],
        location: &str,
        rng: &mut Rng,
    ) -> Option<CcbId> {
        let mut first: Option<(u64, CcbId)> = None;
        for _ in 0..DRAWS {
            if eligible.is_empty() {
                return None;
            }
            let drawn = eligible[rng.below(eligible.len() as u64) as usize];
            let Some(rank) = self.ccbs.get(&drawn).and_then(|ccb| ccb.rank(self.strategy)) else {
                continue;
            };
            match first {
                Some((_, other)) if other == drawn => {}
                Some(other) => return Some(other.min((rank, drawn)).1),
                None => first = Some((rank, drawn)),
            }
        }
        self.allocate(eligible, location)
    }

    /// The best of these that is eligible. Of many that are ranked few are looked at, of few that are eligible
    /// all.
    fn best(&self, ranks: &Ranks, eligible: &[CcbId]) -> Option<CcbId> {
        if eligible.len() < ranks.len() / FEW {
            let rank = |ccb: &CcbId| {
                let rank = self.ccbs.get(ccb)?.rank(self.strategy)?;
                ranks.contains(&(rank, *ccb)).then_some((rank, *ccb <= self.last, *ccb))
            };
            return eligible.iter().filter_map(rank).min().map(|(_, _, ccb)| ccb);
        }
        let may = |place: &&(u64, CcbId)| eligible.binary_search(&place.1).is_ok();
        let (rank, first) = *ranks.iter().find(may)?;
        let later = (Bound::Excluded((rank, self.last)), Bound::Included((rank, CcbId(u16::MAX))));
        let next = (self.last < CcbId(u16::MAX)).then(|| ranks.range(later).find(may)).flatten();
        Some(next.map_or(first, |(_, ccb)| *ccb))
    }

    /// True when one of these runs normally (S1-081).
    pub fn any_normal(&self, ccbs: &[CcbId]) -> bool {
        let is_normal =
            |ccb: &CcbId| self.ccbs.get(ccb).is_some_and(|entry| entry.status == CcbStatus::Normal);
        ccbs.iter().any(is_normal)
    }

    /// Counts a grant until [`Cdm::settle`].
    pub fn grant(&mut self, ccb: CcbId, login: LoginKey) {
        self.change(ccb, |entry| entry.grants.insert(login));
    }

    /// The CCB reported that login, or the grant lapsed.
    pub fn settle(&mut self, ccb: CcbId, login: LoginKey) {
        self.change(ccb, |entry| entry.grants.remove(&login));
    }

    /// What is known of one CCB.
    pub fn ccb(&self, ccb: CcbId) -> Option<&Ccb> {
        self.ccbs.get(&ccb)
    }

    /// All CCBs in order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (CcbId, &Ccb)> {
        self.ccbs.iter().map(|(id, ccb)| (*id, ccb))
    }
}

/// The same in order; the directory gives them so.
fn sorted(ccbs: &[CcbId]) -> Cow<'_, [CcbId]> {
    if ccbs.is_sorted() {
        return Cow::Borrowed(ccbs);
    }
    let mut sorted = ccbs.to_vec();
    sorted.sort_unstable();
    Cow::Owned(sorted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use base::TenantId;

    const ALL: [CcbId; 3] = [CcbId(1), CcbId(2), CcbId(3)];

    fn login(agent: u64) -> LoginKey {
        LoginKey { tenant: TenantId(1), agent, epoch: 1 }
    }

    fn three() -> Cdm {
        three_by(Strategy::LeastAgents)
    }

    fn three_by(strategy: Strategy) -> Cdm {
        let mut cdm = Cdm::new(strategy);
        for ccb in ALL {
            cdm.add(ccb);
            cdm.set_capacity(ccb, 100);
            cdm.report(ccb, CcbStatus::Normal, 0, 0);
        }
        cdm
    }

    #[test]
    fn the_least_loaded_ccb_wins() {
        let mut cdm = three();
        cdm.report(CcbId(1), CcbStatus::Normal, 5, 0);
        cdm.report(CcbId(2), CcbStatus::Normal, 1, 1);
        cdm.report(CcbId(3), CcbStatus::Normal, 3, 0);
        assert_eq!(cdm.allocate(&ALL, "local"), Some(CcbId(2)));
        assert_eq!(cdm.allocate(&[CcbId(1), CcbId(3)], "local"), Some(CcbId(3)));
    }

    #[test]
    fn equals_take_turns() {
        let mut cdm = three();
        let turns: Vec<_> =
            (0..6).filter_map(|_| cdm.allocate(&ALL, "local")).map(|id| id.0).collect();
        assert_eq!(turns, [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn a_storm_of_grants_spreads_before_any_report() {
        let mut cdm = three();
        cdm.report(CcbId(1), CcbStatus::Normal, 10, 0);
        for agent in 0..20 {
            let ccb = cdm.allocate(&ALL, "local").expect("a CCB runs");
            cdm.grant(ccb, login(agent));
        }
        let loads: Vec<_> = cdm.iter().map(|(_, ccb)| ccb.load()).collect();
        assert_eq!(loads, [10, 10, 10]);
        cdm.settle(CcbId(2), login(0));
        cdm.settle(CcbId(3), login(0));
        assert_eq!(cdm.iter().map(|(_, ccb)| ccb.load()).sum::<u32>(), 29);
    }

    #[test]
    fn only_a_ccb_that_runs_normally_and_has_room_is_given() {
        let mut cdm = three();
        for status in [CcbStatus::Starting, CcbStatus::Draining, CcbStatus::Down] {
            cdm.set_status(CcbId(1), status);
            assert_eq!(cdm.allocate(&[CcbId(1)], "local"), None, "{status:?}");
            assert!(!cdm.any_normal(&[CcbId(1)]));
        }
        cdm.set_capacity(CcbId(2), 1);
        cdm.grant(CcbId(2), login(1));
        assert_eq!(cdm.allocate(&[CcbId(2)], "local"), None);
        assert_eq!(cdm.allocate(&[], "local"), None);
        assert_eq!(cdm.allocate(&ALL, "local"), Some(CcbId(3)));
    }

    fn report(online: u32, capacity: u32, location: &str) -> CcbReport {
        let status = CcbStatus::Normal;
        CcbReport {
            status,
            online,
            capacity,
            locations: vec![location.into()],
            ..Default::default()
        }
    }

    #[test]
    fn each_strategy_chooses_by_its_rule() {
        for (strategy, expected) in [
            (Strategy::LeastAgents, [2, 2]),
            (Strategy::LeastLoaded, [3, 3]),
            (Strategy::Location, [1, 1]),
            (Strategy::RoundRobin, [1, 2]),
        ] {
            let mut cdm = three_by(strategy);
            cdm.report_of(CcbId(1), &report(30, 100, "east"));
            cdm.report_of(CcbId(2), &report(10, 20, "west"));
            cdm.report_of(CcbId(3), &report(20, 1_000, "west"));
            let chosen = [cdm.allocate(&ALL, "east"), cdm.allocate(&ALL, "east")];
            assert_eq!(chosen, expected.map(|ccb| Some(CcbId(ccb))), "{strategy:?}");
            // Whatever the strategy, who is full or away is not given.
            cdm.report_of(CcbId(1), &report(100, 100, "east"));
            cdm.set_status(CcbId(2), CcbStatus::Draining);
            assert_eq!(cdm.allocate(&ALL, "east"), Some(CcbId(3)), "{strategy:?}");
        }
    }

    #[test]
    fn a_grant_counts_until_the_report_that_has_taken_it() {
        let mut cdm = three();
        cdm.grant(CcbId(1), login(1));
        cdm.report_of(CcbId(1), &report(0, 100, "x"));
        assert_eq!(cdm.ccb(CcbId(1)).map(Ccb::load), Some(1), "it is not in that report yet");
        let taken = CcbReport { granted: 1, taken: vec![login(1)], ..report(0, 100, "x") };
        cdm.report_of(CcbId(1), &taken);
        assert_eq!(cdm.ccb(CcbId(1)).map(Ccb::load), Some(1), "and is counted once");
    }

    #[test]
    fn the_index_chooses_what_looking_at_all_would() {
        let mut rng = Rng::from_number(7);
        for strategy in Strategy::ALL {
            let mut cdm = Cdm::new(strategy);
            for _ in 0..3_000 {
                let ccb = CcbId(rng.below(60) as u16);
                let place = ["east", "west"][rng.below(2) as usize];
                let mut changed = report(rng.below(9) as u32, 4 + rng.below(9) as u32, place);
                if rng.chance(20) {
                    changed.status = CcbStatus::Draining;
                }
                cdm.report_of(ccb, &changed);
                let some = rng.below(60);
                let eligible: Vec<_> =
                    (0..60).filter(|_| rng.below(60) <= some).map(CcbId).collect();
                let is_any = eligible.iter().any(|id| is_open_at(&cdm, *id));
                let drawn = cdm.allocate_at_random(&eligible, "east", &mut rng);
                assert_eq!(drawn.is_some(), is_any);
                assert!(drawn.is_none_or(|drawn| is_open_at(&cdm, drawn)));
                let expected =
                    eligible.iter().filter(|id| is_open_at(&cdm, **id)).min_by_key(|id| {
                        let ccb = cdm.ccb(**id).expect("it is open");
                        let is_far = strategy == Strategy::Location && ccb.near != "east";
                        (is_far, ccb.rank(strategy), **id <= cdm.last, **id)
                    });
                let expected = expected.copied();
                assert_eq!(cdm.allocate(&eligible, "east"), expected, "{strategy:?}");
            }
        }
    }

    fn is_open_at(cdm: &Cdm, ccb: CcbId) -> bool {
        cdm.ccb(ccb).is_some_and(|ccb| ccb.rank(Strategy::LeastAgents).is_some())
    }
}

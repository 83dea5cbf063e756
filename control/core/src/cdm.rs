//! The CDM (S1-015): the registry of CCBs, and which of them a login is given.

use std::collections::BTreeMap;

use base::{CcbId, Instant};

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

/// The registry. A CCB's load is the logins that it reports and the grants that it does not report
/// yet (G-10), so a storm of logins spreads before the first phone has registered.
#[derive(Debug, Default)]
pub struct Cdm {
    ccbs: BTreeMap<CcbId, Ccb>,
    /// The CCB that won last; among equals the next one after it wins.
    last: CcbId,
}

/// What the registry knows of one CCB.
#[derive(Clone, Debug, Default)]
pub struct Ccb {
    /// How it does.
    pub status: CcbStatus,
    /// Logins that are online: phone registered and CTI attached.
    pub online: u32,
    /// Logins whose phone is registered and that have no CTI.
    pub phones: u32,
    /// Logins that it has room for.
    pub capacity: u32,
    /// When its data plane last gave a sign of life.
    pub heartbeat: Instant,
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
        self.online.saturating_add(self.phones).saturating_add(self.grants())
    }
}

impl Cdm {
    /// Adds a CCB, down until it reports (S1-052).
    pub fn add(&mut self, ccb: CcbId) {
        self.ccbs.entry(ccb).or_default();
    }

    /// Takes a report: how the CCB does and how many logins it has (S1-037, S1-052).
    pub fn report(&mut self, ccb: CcbId, status: CcbStatus, online: u32, phones: u32) {
        if let Some(entry) = self.ccbs.get_mut(&ccb) {
            (entry.status, entry.online, entry.phones) = (status, online, phones);
        }
    }

    /// Sets how the CCB does; returns how it did before.
    pub fn set_status(&mut self, ccb: CcbId, status: CcbStatus) -> CcbStatus {
        match self.ccbs.get_mut(&ccb) {
            Some(entry) => std::mem::replace(&mut entry.status, status),
            None => CcbStatus::Down,
        }
    }

    /// Sets the room that the CCB has for logins.
    pub fn set_capacity(&mut self, ccb: CcbId, capacity: u32) {
        if let Some(entry) = self.ccbs.get_mut(&ccb) {
            entry.capacity = capacity;
        }
    }

    /// Takes a sign of life.
    pub fn set_heartbeat(&mut self, ccb: CcbId, at: Instant) {
        if let Some(entry) = self.ccbs.get_mut(&ccb) {
            entry.heartbeat = at;
        }
    }

    /// The CCB with the least load (S1-056) among the `eligible` ones that run normally and have
    /// room; equals take turns. `None` is a 503.
    pub fn allocate(&mut self, eligible: &[CcbId]) -> Option<CcbId> {
        let last = self.last;
        let chosen = self
            .ccbs
            .iter()
            .filter(|(id, ccb)| {
                eligible.contains(id)
                    && ccb.status == CcbStatus::Normal
                    && ccb.load() < ccb.capacity
            })
            .min_by_key(|(id, ccb)| (ccb.load(), **id <= last, **id))
            .map(|(id, _)| *id)?;
        self.last = chosen;
        Some(chosen)
    }

    /// True when one of these runs normally (S1-081).
    pub fn any_normal(&self, ccbs: &[CcbId]) -> bool {
        self.iter().any(|(id, ccb)| ccbs.contains(&id) && ccb.status == CcbStatus::Normal)
    }

    /// Counts a grant until [`Cdm::settle`].
    pub fn grant(&mut self, ccb: CcbId, login: LoginKey) {
        if let Some(entry) = self.ccbs.get_mut(&ccb) {
            entry.grants.insert(login);
        }
    }

    /// The CCB reported that login, or the grant lapsed.
    pub fn settle(&mut self, ccb: CcbId, login: LoginKey) {
        if let Some(entry) = self.ccbs.get_mut(&ccb) {
            entry.grants.remove(&login);
        }
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

#[cfg(test)]
mod tests {
    use super::*;
    use base::TenantId;

    const ALL: [CcbId; 3] = [CcbId(1), CcbId(2), CcbId(3)];

    fn login(agent: u64) -> LoginKey {
        LoginKey { tenant: TenantId(1), agent, epoch: 1 }
    }

    fn three() -> Cdm {
        let mut cdm = Cdm::default();
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
        assert_eq!(cdm.allocate(&ALL), Some(CcbId(2)));
        assert_eq!(cdm.allocate(&[CcbId(1), CcbId(3)]), Some(CcbId(3)));
    }

    #[test]
    fn equals_take_turns() {
        let mut cdm = three();
        let turns: Vec<_> = (0..6).filter_map(|_| cdm.allocate(&ALL)).map(|id| id.0).collect();
        assert_eq!(turns, [1, 2, 3, 1, 2, 3]);
    }

    #[test]
    fn a_storm_of_grants_spreads_before_any_report() {
        let mut cdm = three();
        cdm.report(CcbId(1), CcbStatus::Normal, 10, 0);
        for agent in 0..20 {
            let ccb = cdm.allocate(&ALL).expect("a CCB runs");
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
            assert_eq!(cdm.allocate(&[CcbId(1)]), None, "{status:?}");
            assert!(!cdm.any_normal(&[CcbId(1)]));
        }
        cdm.set_capacity(CcbId(2), 1);
        cdm.grant(CcbId(2), login(1));
        assert_eq!(cdm.allocate(&[CcbId(2)]), None);
        assert_eq!(cdm.allocate(&[]), None);
        assert_eq!(cdm.allocate(&ALL), Some(CcbId(3)));
    }
}

//! Where agents are, for all to see: which CCB is the home of a directory number (S3-005).
//!
//! Of two homes of an agent the one of the later login is right (G-24); the blade of the earlier one ends it when
//! it hears of the later. Nobody else takes a home away, so that of a dead blade stands until the agent is back.

use std::collections::BTreeMap;

use base::{Instant, TenantId};

use super::Blade;
use super::cluster::{Cluster, Numbers};
use crate::cluster::{BladeName, Fact, Home, Key, Say};
use crate::login::{End, LoginKey};
use crate::message::Output;

/// Homes that are put with one report at most, so that a bus that comes back is not flooded.
const HOMES_A_REPORT: usize = 2_048;

/// Our own agents' numbers.
#[derive(Debug, Default)]
pub(super) struct Homes {
    logins: BTreeMap<(TenantId, String), Own>,
    to_put: Numbers,
    /// True when homes may name us that we do not have.
    to_check: bool,
    /// Homes of other blades that these told us themselves: what the bus says of earlier ones comes too late, also
    /// after its word of this one, for blades write at once.
    told: BTreeMap<(TenantId, String), Told>,
}

#[derive(Clone, Copy, Debug)]
struct Told {
    /// Epoch and turn.
    home: (u32, u32),
    /// The bus has said it as well.
    is_heard: bool,
    /// Reports since then.
    reports: u8,
}

/// For so many reports an earlier home is late: by then whoever has the agent has put the right one again.
const TOLD_REPORTS: u8 = 20;

/// True when that home stands rather than ours: its login is later, or a later turn of the same. Of two that are the
/// same in that, one must go.
fn is_better(home: &Home, ours: Own, name: &BladeName) -> bool {
    let (theirs, ours) = ((home.epoch, home.turn), (ours.login.epoch, ours.turn));
    theirs > ours || (theirs == ours && home.blade < *name)
}

/// A login of ours, and the how manieth place of it this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Own {
    login: LoginKey,
    turn: u32,
}

impl Homes {
    /// All that we have is to be put again.
    pub(super) fn put_all(&mut self) {
        self.to_put = self.logins.keys().cloned().collect();
        self.to_check = true;
        self.told.clear();
    }

    /// True when the bus says something of a home that is older than one we were told of.
    fn is_late(&mut self, number: &(TenantId, String), home: Option<&Home>) -> bool {
        let Some(told) = self.told.get_mut(number) else { return false };
        let Some(home) = home else {
            // One that the bus never had cannot be gone.
            let is_late = !told.is_heard;
            if !is_late {
                self.told.remove(number);
            }
            return is_late;
        };
        let heard = (home.epoch, home.turn);
        if heard >= told.home {
            (told.home, told.is_heard) = (heard, true);
        }
        heard < told.home
    }

    /// A report was made: what was told long ago is what the bus says.
    fn age_told(&mut self) {
        self.told.retain(|_, told| {
            told.reports = told.reports.saturating_add(1);
            !told.is_heard || told.reports < TOLD_REPORTS
        });
    }
}

impl Cluster {
    /// Another blade granted a login that asked here: its home is known before the bus tells it to all, for the agent
    /// may come back or be called at once.
    pub(super) fn home_told(&mut self, number: (TenantId, String), home: Home) {
        let known = self.homes.get(&number).map(|home| (home.epoch, home.turn));
        let told = (home.epoch, home.turn);
        if known < Some(told) && self.connected && home.blade != self.name {
            let told = Told { home: told, is_heard: false, reports: 0 };
            self.own.told.insert(number.clone(), told);
            self.homes.insert(number, home);
        }
    }

    fn put_home(&mut self, number: &(TenantId, String), home: Option<Home>, out: &mut Vec<Output>) {
        match &home {
            Some(home) => self.homes.insert(number.clone(), home.clone()),
            None => self.homes.remove(number),
        };
        if self.connected {
            let key = Key::Number(number.0, number.1.clone());
            out.push(Output::Bus(Say::Put { key, fact: home.map(Fact::Home) }));
        }
    }
}

impl Blade {
    /// A login of ours stands: its number is at home here.
    pub(super) fn home_begins(&mut self, login: LoginKey, out: &mut Vec<Output>) {
        let Some(entry) = self.logins.get(&login) else { return };
        let Some(cluster) = self.cluster.as_mut() else { return };
        let (blade, ccb) = (cluster.name.clone(), entry.ccb);
        let number = (login.tenant, entry.record.number.clone());
        cluster.took(ccb, login);
        cluster.own.logins.insert(number.clone(), Own { login, turn: 0 });
        let home = Home { blade, ccb, agent: login.agent, epoch: login.epoch, turn: 0 };
        cluster.put_home(&number, Some(home), out);
    }

    /// A login that was just granted is at its how manieth place.
    pub(super) fn home_turns(&mut self, login: Option<LoginKey>, turn: u32, out: &mut Vec<Output>) {
        let Some(cluster) = self.cluster.as_mut().filter(|_| turn > 0) else { return };
        let Some(login) = login else { return };
        let Some(entry) = self.logins.get(&login) else { return };
        let number = (login.tenant, entry.record.number.clone());
        if let (Some(own), Some(home)) =
            (cluster.own.logins.get_mut(&number), cluster.homes.get(&number))
        {
            own.turn = turn;
            let home = Home { turn, ..home.clone() };
            cluster.put_home(&number, Some(home), out);
        }
    }

    /// A login of ours is over: its home goes, if it is what stands.
    pub(super) fn home_ends(&mut self, login: LoginKey, number: &str, out: &mut Vec<Output>) {
        let Some(cluster) = self.cluster.as_mut() else { return };
        let number = (login.tenant, number.to_owned());
        if cluster.own.logins.get(&number).is_some_and(|own| own.login == login) {
            cluster.own.logins.remove(&number);
            cluster.own.to_put.remove(&number);
        }
        let is_it = |home: &&Home| {
            home.blade == cluster.name && home.agent == login.agent && home.epoch == login.epoch
        };
        if cluster.homes.get(&number).filter(is_it).is_some() {
            cluster.put_home(&number, None, out);
        }
    }

    /// What stands under a number changed.
    pub(super) fn home_heard(
        &mut self,
        now: Instant,
        number: (TenantId, String),
        home: Option<Home>,
        out: &mut Vec<Output>,
    ) {
        let Some(cluster) = self.cluster.as_mut() else { return };
        let ours = cluster.own.logins.get(&number).copied();
        if cluster.own.is_late(&number, home.as_ref()) && ours.is_none() {
            return;
        }
        let name = cluster.name.clone();
        match &home {
            Some(home) => cluster.homes.insert(number.clone(), home.clone()),
            None => cluster.homes.remove(&number),
        };
        match (home, ours) {
            (None, None) => {}
            (None, Some(_)) => {
                cluster.own.to_put.insert(number);
                self.report_soon();
            }
            // An earlier word of ours that comes back, or one of an earlier process of ours.
            (Some(home), None) if home.blade == name => self.check_homes_soon(),
            (Some(_), None) => {}
            (Some(home), Some(ours)) if home.agent != ours.login.agent => {}
            // Ours comes back; an earlier one is followed by that which we put later. An earlier process of ours
            // knew which turn it was.
            (Some(home), Some(ours)) if home.blade == name => {
                let own = cluster.own.logins.get_mut(&number);
                if let Some(own) = own.filter(|_| home.epoch == ours.login.epoch) {
                    own.turn = own.turn.max(home.turn);
                }
            }
            (Some(home), Some(ours)) if is_better(&home, ours, &name) => {
                self.end(now, ours.login, End::Replaced, out);
            }
            (Some(_), Some(_)) => {
                cluster.own.to_put.insert(number);
                self.report_soon();
            }
        }
    }

    /// Puts homes that others do not see, or see wrong.
    pub(super) fn put_homes(&mut self, out: &mut Vec<Output>) {
        let Some(cluster) = self.cluster.as_mut().filter(|cluster| cluster.connected) else {
            return;
        };
        cluster.own.age_told();
        for _ in 0..HOMES_A_REPORT {
            let Some(number) = cluster.own.to_put.pop_first() else { return };
            let Some(Own { login, turn }) = cluster.own.logins.get(&number).copied() else {
                continue;
            };
            let Some(entry) = self.logins.get(&login) else { continue };
            let (blade, ccb) = (cluster.name.clone(), entry.ccb);
            let home = Home { blade, ccb, agent: login.agent, epoch: login.epoch, turn };
            cluster.put_home(&number, Some(home), out);
        }
        self.report_soon();
    }

    /// Homes may name us that we do not have: the next sweep looks.
    pub(super) fn check_homes_soon(&mut self) {
        if let Some(cluster) = self.cluster.as_mut() {
            cluster.own.to_check = true;
        }
    }

    /// Takes away the homes that an earlier process of ours left, once we know what its regions hold.
    pub(super) fn check_homes(&mut self, out: &mut Vec<Output>) {
        let Some(cluster) = self.cluster.as_mut() else { return };
        if !cluster.connected || !cluster.own.to_check {
            return;
        }
        let is_known =
            |home: &Home| self.sides.get(&home.ccb).is_none_or(|side| side.attached.is_some());
        let own = &cluster.own.logins;
        let is_left = |(number, home): &(&(TenantId, String), &Home)| {
            home.blade == cluster.name && is_known(home) && !own.contains_key(*number)
        };
        let left: Vec<_> =
            cluster.homes.iter().filter(is_left).map(|(number, _)| number.clone()).collect();
        cluster.own.to_check = self.sides.values().any(|side| side.attached.is_none());
        for number in left {
            cluster.put_home(&number, None, out);
        }
    }

    /// The blade that is the home of that very login.
    pub(super) fn home_of(&self, login: LoginKey) -> Option<BladeName> {
        let homes = &self.cluster.as_ref()?.homes;
        let is_it = |home: &&Home| home.agent == login.agent && home.epoch == login.epoch;
        let mut homes = homes.iter().filter(|((tenant, _), _)| *tenant == login.tenant);
        homes.find(|(_, home)| is_it(home)).map(|(_, home)| home.blade.clone())
    }

    /// True when that login stands at another blade, as far as we know.
    pub(super) fn is_elsewhere(&self, login: LoginKey) -> bool {
        let name = self.cluster.as_ref().map(|cluster| &cluster.name);
        self.home_of(login).is_some_and(|blade| Some(&blade) != name)
    }

    /// True when that login of the agent of `number` stands, here or elsewhere, or stood at a blade that is dead:
    /// its token is good for another login.
    pub fn knows(&self, login: LoginKey, number: &str) -> bool {
        let home = self
            .cluster
            .as_ref()
            .and_then(|cluster| cluster.homes.get(&(login.tenant, number.to_owned())));
        let is_it = |home: &Home| home.agent == login.agent && home.epoch == login.epoch;
        self.is_alive(login) || home.is_some_and(is_it)
    }

    /// The login that the agent of `number` has, here or elsewhere.
    pub fn login_anywhere(&self, tenant: TenantId, agent: u64, number: &str) -> Option<LoginKey> {
        let home = || {
            let homes = &self.cluster.as_ref()?.homes;
            let home = homes.get(&(tenant, number.to_owned()))?;
            (home.agent == agent).then_some(LoginKey { tenant, agent, epoch: home.epoch })
        };
        self.login_of(tenant, agent).or_else(home)
    }
}

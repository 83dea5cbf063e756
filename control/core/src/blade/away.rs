//! A CCB whose data plane does not come back: its desks are told to log in again, so that they get another one (S1-080).

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use base::{CcbId, Instant};

use super::side::{self, Side};
use super::{BEAT_MS, Blade};
use crate::cdm::CcbStatus;
use crate::cluster::REPORT_LIFE_MS;
use crate::login::{Desk, LoginKey};
use crate::message::{DeskMessage, Output};

/// For how long a data plane is away before desks hear of it, in milliseconds: as long as other blades wait.
const AWAY_MS: u64 = REPORT_LIFE_MS;
/// The same for agents in a call, which goes on when the data plane comes back, in milliseconds.
const CALL_MS: u64 = 10_000;
/// Desks that are told in a second: the other CCBs get them one after the other.
const MOVES_A_SECOND: u64 = 200;
/// How long the login stands at least, in milliseconds.
const STANDS_MS: u32 = 30_000;

/// Which CCBs are away.
#[derive(Debug, Default)]
pub(super) struct Away {
    since: BTreeMap<CcbId, Instant>,
    told: BTreeSet<LoginKey>,
}

impl Blade {
    /// Looks which CCBs are down, and tells the desks of those that stay so. With no other CCB there is nowhere to go.
    pub(super) fn tend_away(&mut self, now: Instant, out: &mut Vec<Output>) {
        let own = self.cdm.iter().map(|(ccb, known)| (ccb, known.status));
        let (down, up): (Vec<_>, Vec<_>) = own.partition(|(_, is)| *is == CcbStatus::Down);
        for (ccb, _) in &up {
            self.away.since.remove(ccb);
        }
        for (ccb, _) in &down {
            self.away.since.entry(*ccb).or_insert(now);
        }
        let since = &self.away.since;
        let is_away = |login: &LoginKey| {
            self.logins.get(login).is_some_and(|entry| since.contains_key(&entry.ccb))
        };
        self.away.told.retain(is_away);
        if self.away.since.is_empty() || !self.has_normal() {
            return;
        }
        let ms = |of: CcbId| self.away.since.get(&of).map(|at| now.since(*at));
        let is_due = |ccb: CcbId, slot| {
            let region = self.sides.get(&ccb).and_then(Side::region);
            let is_idle = region.is_none_or(|region| side::is_idle(&region, slot));
            let least = Duration::from_millis(if is_idle { AWAY_MS } else { CALL_MS });
            ms(ccb).is_some_and(|away| away >= least)
        };
        let room = (MOVES_A_SECOND * BEAT_MS / 1_000) as usize;
        let due = self.logins.iter().filter_map(|(login, entry)| match entry.login.desk {
            Desk::Attached(socket)
                if !self.away.told.contains(login) && is_due(entry.ccb, entry.slot) =>
            {
                Some((*login, socket))
            }
            _ => None,
        });
        for (login, socket) in due.take(room).collect::<Vec<_>>() {
            self.away.told.insert(login);
            let message = DeskMessage::LogInAgain { within_ms: STANDS_MS };
            out.push(Output::Desk { socket, message });
        }
    }

    /// True when some CCB, of any blade, runs normally.
    fn has_normal(&self) -> bool {
        let others = self.cluster.as_ref().filter(|cluster| cluster.connected);
        let others = others.map(|cluster| cluster.cdm.iter()).into_iter().flatten();
        let mut all = self.cdm.iter().chain(others);
        all.any(|(ccb, known)| {
            known.status == CcbStatus::Normal && !self.away.since.contains_key(&ccb)
        })
    }
}

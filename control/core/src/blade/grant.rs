use std::collections::BTreeSet;
use std::time::Duration;

use abi::{AgentRow, AgentState, CtiState, Key, Region, SecretRow};
use base::{AgentSlot, CcbId, Instant, Text};

use super::side::{self, Side};
use super::{Blade, Entry};
use crate::cdm::CcbStatus;
use crate::login::{Desk, End, Login, LoginKey};
use crate::message::{
    AgentRecord, CloseReason, DeskMessage, Granted, Ha1, LoginRefusal, LoginRequest, Output,
};
use crate::seat::{Seat, SeatEvent};

/// Bytes of a display name that a row holds.
const NAME_BYTES: usize = 64;

impl Blade {
    /// Puts an authenticated login on a CCB (S1-055, S1-056).
    pub(super) fn grant(
        &mut self,
        now: Instant,
        request: LoginRequest,
        out: &mut Vec<Output>,
    ) -> Result<Granted, LoginRefusal> {
        let mut record = request.agent;
        fit(&mut record)?;
        let agent = (record.tenant, record.agent);
        let login = LoginKey { tenant: agent.0, agent: agent.1, epoch: request.epoch };
        let older = self.newest.get(&agent).copied();
        if older.is_some_and(|older| older.epoch > request.epoch) {
            return Err(LoginRefusal::Overtaken);
        }
        if !request.force && older.is_some_and(|older| self.is_in_call(older)) {
            return Err(LoginRefusal::InCall);
        }
        // The place of the older login is the newer one's, unless a call still holds it.
        let left = older.and_then(|older| self.logins.get(&older)).and_then(|entry| {
            let region = self.sides.get(&entry.ccb)?.region()?;
            side::is_idle(&region, entry.slot).then_some((entry.ccb, entry.slot))
        });
        let has_place = |ccb: &CcbId| {
            self.sides.get(ccb).is_some_and(|side| {
                let has_slot =
                    side.slots.available() > 0 || left.is_some_and(|left| left.0 == *ccb);
                has_slot && side.location(&request.location).is_some()
            })
        };
        let eligible: Vec<CcbId> = request.eligible.iter().copied().filter(has_place).collect();
        if !self.cdm.any_normal(&eligible) {
            return Err(LoginRefusal::NoCcb);
        }
        // The older login goes first, so that its place and its number are not counted twice.
        if let Some(older) = older {
            self.end(now, older, End::Replaced, out);
        }
        let ccb = self.cdm.allocate(&eligible, &request.location).ok_or(LoginRefusal::NoCcb)?;
        let side = self.sides.get_mut(&ccb).ok_or(LoginRefusal::NoCcb)?;
        let location = side.location(&request.location).ok_or(LoginRefusal::NoCcb)?;
        let region = side.region().ok_or(LoginRefusal::NoCcb)?;
        let left = left.filter(|left| left.0 == ccb).and_then(|left| side.slots.take_left(left.1));
        let slot = left.or_else(|| side.slots.take()).ok_or(LoginRefusal::NoCcb)?;
        let mut entry = Entry {
            login: Login::granted(now),
            record,
            ccb,
            slot,
            location,
            ha1: request.ha1,
            phone_at: None,
            forwards: (0, 0),
            seat: Seat::new(now),
            calls: BTreeSet::new(),
            offered: false,
            denied_until: Instant::ZERO,
            after: Duration::ZERO,
            draining: false,
        };
        entry.mark(login.tenant, &self.forwards);
        if !write_login(&region, login, &entry) {
            clear_login(&region, login, &entry, AgentState::Empty);
            side.slots.give_back(slot);
            return Err(LoginRefusal::NoCcb);
        }
        side.by_slot.insert(slot, login);
        self.newest.insert(agent, login);
        self.logins.insert(login, entry);
        self.cdm.grant(ccb, login);
        self.place_seat(now, login, out);
        self.home_begins(login, out);
        Ok(Granted { login, ccb })
    }

    /// Ends a login: its secret, its registration and its place go, its desk is told.
    pub(super) fn end(&mut self, now: Instant, login: LoginKey, end: End, out: &mut Vec<Output>) {
        let Some(entry) = self.logins.remove(&login) else {
            return;
        };
        self.queueing.acd.unseat(login);
        let agent = (login.tenant, login.agent);
        if self.newest.get(&agent) == Some(&login) {
            self.newest.remove(&agent);
        }
        if let Desk::Attached(socket) = entry.login.desk {
            self.sockets.remove(&socket);
            let message = match end {
                End::Replaced => DeskMessage::Replaced,
                _ => DeskMessage::LoggedOut { end },
            };
            let off = DeskMessage::Agent(SeatEvent::AgentLoggedOff);
            out.push(Output::Desk { socket, message: off });
            out.push(Output::Desk { socket, message });
            out.push(Output::DeskClosed { socket, reason: CloseReason::Ended(end) });
        }
        self.count(entry.ccb, Some(&entry.login), None);
        self.cdm.settle(entry.ccb, login);
        if let Some(side) = self.sides.get_mut(&entry.ccb) {
            side.by_slot.remove(&entry.slot);
            side.slots.leave(entry.slot, login.epoch);
            if let Some(region) = side.region() {
                clear_login(&region, login, &entry, AgentState::LoggedOut);
            }
            side.forget(now, entry.slot, login.epoch, out);
        }
        self.home_ends(login, &entry.record.number, out);
        out.push(Output::Ended { login, end });
    }

    /// True when someone has the agent's lease word. A CCB that is down carries no call.
    pub(super) fn is_in_call(&self, login: LoginKey) -> bool {
        let Some(entry) = self.logins.get(&login) else {
            return false;
        };
        let runs = self.cdm.ccb(entry.ccb).is_some_and(|ccb| ccb.status != CcbStatus::Down);
        let region = self.sides.get(&entry.ccb).and_then(Side::region);
        runs && region.is_some_and(|region| !side::is_idle(&region, entry.slot))
    }

    /// Brings a region that we did not know and the logins that we know of its CCB together: logins
    /// that we have are written, rows that another control process left are taken over.
    pub(super) fn settle_rows(
        &mut self,
        now: Instant,
        ccb: CcbId,
        region: &Region,
        out: &mut Vec<Output>,
    ) {
        let Some(side) = self.sides.get_mut(&ccb) else {
            return;
        };
        let vanished = side.calls.clear();
        let ours: Vec<(AgentSlot, LoginKey)> =
            side.by_slot.iter().map(|(slot, login)| (*slot, *login)).collect();
        let mut empty = Vec::new();
        let mut theirs = Vec::new();
        for (slot, row) in region.agents().iter() {
            if side.by_slot.contains_key(&slot) {
                continue;
            }
            match row.state() {
                AgentState::Empty => empty.push(slot),
                _ => theirs.push((slot, row)),
            }
        }
        side.slots.reset(empty.into_iter());
        self.calls_changed(now, ccb, vanished, out);
        for (slot, login) in ours {
            let entry = self.logins.get(&login).cloned();
            if !entry.is_some_and(|entry| {
                slot.0 < region.layout().agents && write_login(region, login, &entry)
            }) {
                self.end(now, login, End::Lapsed, out);
            }
        }
        for (slot, row) in theirs {
            self.adopt(now, ccb, region, slot, row, out);
        }
    }

    /// Takes over a row that an earlier control process left.
    fn adopt(
        &mut self,
        now: Instant,
        ccb: CcbId,
        region: &Region,
        slot: AgentSlot,
        row: AgentRow,
        out: &mut Vec<Output>,
    ) {
        let draining = self.is_draining(ccb);
        let Some(side) = self.sides.get_mut(&ccb) else {
            return;
        };
        let secret = region.secrets().read(slot).unwrap_or_default();
        let login = LoginKey { tenant: row.tenant(), agent: row.agent_id, epoch: row.login_epoch };
        let phone = region.registrations().read(slot).unwrap_or_default();
        let is_registered = phone.is_registered()
            && phone.epoch == row.login_epoch
            && phone.expires_at > now.as_nanos();
        let mut entry = Entry {
            login: Login::rebuilt(
                Instant::from_nanos(row.granted_at),
                row.cti_state() != CtiState::None,
                is_registered,
                now,
            ),
            record: AgentRecord {
                tenant: row.tenant(),
                agent: row.agent_id,
                number: row.number().as_str().to_owned(),
                user: row.user().as_str().to_owned(),
                name: row.name().as_str().to_owned(),
                agent_type: row.agent_type,
                incoming_limit: row.limits().0,
                outgoing_limit: row.limits().1,
            },
            ccb,
            slot,
            location: row.location().unwrap_or_default(),
            ha1: Ha1 { md5: secret.ha1_md5, sha256: secret.ha1_sha256 },
            phone_at: is_registered.then(|| phone.addr()),
            forwards: (0, 0),
            seat: Seat { reachable: is_registered, ..Seat::rebuilt(&row) },
            calls: BTreeSet::new(),
            offered: false,
            denied_until: Instant::ZERO,
            after: Duration::ZERO,
            draining,
        };
        let agent = (login.tenant, login.agent);
        let other = self.newest.get(&agent).copied();
        let is_over = !matches!(row.state(), AgentState::LoggedIn | AgentState::Draining)
            || secret.epoch != row.login_epoch
            || other.is_some_and(|other| other.epoch >= login.epoch);
        if is_over {
            // Killed between the ending of a login and the freeing of its row, or before the row of
            // a grant was complete.
            clear_login(region, login, &entry, AgentState::LoggedOut);
            side.abandon(region, slot, &row);
            side.forget(now, slot, login.epoch, out);
            return;
        }
        entry.mark(login.tenant, &self.forwards);
        write_login(region, login, &entry);
        side.by_slot.insert(slot, login);
        self.count(ccb, None, Some(&entry.login));
        if !is_registered && entry.login.desk == Desk::Never {
            self.cdm.grant(ccb, login);
        }
        self.logins.insert(login, entry);
        self.newest.insert(agent, login);
        self.home_begins(login, out);
        if let Some(other) = other {
            self.end(now, other, End::Replaced, out);
        }
    }
}

/// Whether the texts of an agent fit into a row; the name is cut.
fn fit(record: &mut AgentRecord) -> Result<(), LoginRefusal> {
    Text::<24>::new(record.number.as_bytes())
        .map_err(|_| LoginRefusal::TooLong("number".into()))?;
    Text::<48>::new(record.user.as_bytes()).map_err(|_| LoginRefusal::TooLong("user".into()))?;
    while record.name.len() > NAME_BYTES {
        record.name.pop();
    }
    Ok(())
}

/// Writes what a phone needs to log in: the secret, the row, and last the keys that find it.
fn write_login(region: &Region, login: LoginKey, entry: &Entry) -> bool {
    // A lease of this login that was granted stays so.
    let held = region.secrets().read(entry.slot).filter(|held| held.epoch == login.epoch);
    let secret = SecretRow {
        epoch: login.epoch,
        ha1_md5: entry.ha1.md5,
        ha1_sha256: entry.ha1.sha256,
        ..held.unwrap_or_default()
    };
    let agents = region.agents();
    let (number, user) = keys(login, entry);
    region.secrets().write(entry.slot, &secret)
        && agents.write(entry.slot, &entry.row(login))
        && agents.index_insert(number, entry.slot).is_ok()
        && agents.index_insert(user, entry.slot).is_ok()
}

/// Takes it all back; the row stays as a mark until nobody uses the slot.
fn clear_login(region: &Region, login: LoginKey, entry: &Entry, state: AgentState) {
    let agents = region.agents();
    let (number, user) = keys(login, entry);
    agents.index_remove(number, entry.slot);
    agents.index_remove(user, entry.slot);
    let row = match state {
        AgentState::Empty => AgentRow::default(),
        _ => AgentRow { state: state.into(), cti_state: 0, ..entry.row(login) },
    };
    agents.write(entry.slot, &row);
    region.secrets().write(entry.slot, &SecretRow::default());
}

fn keys(login: LoginKey, entry: &Entry) -> (Key<'_>, Key<'_>) {
    let number = entry.record.number.as_bytes();
    (Key::Number { tenant: login.tenant, number }, Key::User(entry.record.user.as_bytes()))
}

//! What desks order of calls: answer, hold, retrieve, transfer, supervision, conferences.
//!
//! Whoever has the call decides. The call of an agent whom another CCB hosts is that CCB's, so the order is carried to
//! its control, which finds the call by the agent's number and home (S2-013); a supervisor's goes to the blade of the
//! agent to be heard, and from there to the one that has the agent.

use abi::{CallState, Command, GuestKind, LegState, OpResult, Party};
use base::{CallRef, CcbId, Instant, TenantId};

use super::Blade;
use super::cluster::Waiting;
use super::commands::done;
use super::rooms::{Bring, live_leg, talks, worker_of};
use super::side::Purpose;
use crate::calls::Call;
use crate::cluster::{Answer, BladeName, Question, Say};
use crate::desk::{Carried, CarriedAnswer, CarriedOrder, DeskCommand, DeskRefusal};
use crate::login::LoginKey;
use crate::message::{OpOutcome, Output};

/// The directory's number for a supervisor (G-26).
const SUPERVISOR: u32 = 4;
/// Replies from here on are those of other blades' desks.
const CARRIED: u64 = 1 << 63;
/// How long another blade may take for an order, in milliseconds: a phone rings meanwhile.
const CARRY_MS: u64 = 60_000;

/// Where a call is: its CCB, and the leg that it is about.
type At = (CcbId, CallRef, u8);

/// Who has the call of an agent.
enum Has {
    We(At),
    Blade(BladeName),
}

impl Blade {
    /// A desk's order about a call. It ends with exactly one [`Output::Done`].
    pub(super) fn desk_order(
        &mut self,
        now: Instant,
        reply: u64,
        login: LoginKey,
        command: DeskCommand,
        out: &mut Vec<Output>,
    ) {
        // What its worker has told of the agent's call is in the ring.
        self.pump_all(now, out);
        let Some(entry) = self.logins.get(&login) else {
            return done(reply, OpOutcome::Unknown, out);
        };
        let (number, home) = (entry.record.number.clone(), entry.ccb);
        let no = |no, out: &mut Vec<Output>| done(reply, OpOutcome::No(no), out);
        let (serial, order) = match command {
            DeskCommand::Answer(serial) => return self.talk(now, reply, login, serial, out),
            DeskCommand::StopSupervising => return self.stop_supervising(now, reply, login, out),
            DeskCommand::Supervise(agent, how) => {
                let may = entry.record.agent_type == SUPERVISOR
                    && self.provision.supervisors.contains(&(login.tenant, login.agent));
                if !may || agent == number {
                    return no(DeskRefusal::NoRight, out);
                }
                let order = CarriedOrder::Supervise(agent, how);
                let carried = Carried { tenant: login.tenant, number, home, order };
                return self.supervise(now, reply, carried, true, out);
            }
            DeskCommand::Hold(serial) => (serial, CarriedOrder::Hold),
            DeskCommand::Retrieve(serial) => (serial, CarriedOrder::Retrieve),
            DeskCommand::Transfer(serial, to) => (serial, CarriedOrder::Transfer(to)),
            DeskCommand::ConferenceAdd(serial, to) => (serial, CarriedOrder::Add(to)),
            DeskCommand::ConferenceDrop(serial, to) => (serial, CarriedOrder::Drop(to)),
            // Not about a call.
            _ => return done(reply, OpOutcome::Unknown, out),
        };
        // What is ordered of no certain call is ordered of one that the agent talks in, not of one that waits.
        let Some(at) = self.call_meant(login, serial, |leg| leg == LegState::Answered) else {
            return match order {
                CarriedOrder::Transfer(_) => done(reply, OpOutcome::Unknown, out),
                _ => no(DeskRefusal::NoCall, out),
            };
        };
        match self.holder_at(at) {
            Some(holder) => {
                let carried = Carried { tenant: login.tenant, number, home, order };
                self.carry(now, reply, holder, carried, out);
            }
            None => self.order_at(now, reply, at, (&number, order), out),
        }
    }

    /// The CCB that hosts the agent of that leg.
    fn holder_at(&self, (ccb, call, leg): At) -> Option<CcbId> {
        let call = self.sides.get(&ccb)?.calls.find(call)?;
        match call.legs.first().and_then(|(_, first)| first.party()) {
            Some(Party::Peer(holder)) if leg != 0 => Some(holder),
            _ => None,
        }
    }

    /// Carries an order to the CCB that has the call.
    fn carry(
        &mut self,
        now: Instant,
        reply: u64,
        holder: CcbId,
        carried: Carried,
        out: &mut Vec<Output>,
    ) {
        if self.sides.contains_key(&holder) {
            return self.obey_carried(now, reply, carried, out);
        }
        let blade = self.cluster.as_ref().and_then(|it| it.blades.get(&holder).cloned());
        match blade {
            Some(blade) => self.ask_desk(reply, blade, carried, false, out),
            None => done(reply, OpOutcome::No(DeskRefusal::Away), out),
        }
    }

    fn ask_desk(
        &mut self,
        reply: u64,
        blade: BladeName,
        carried: Carried,
        again: bool,
        out: &mut Vec<Output>,
    ) {
        let Some(cluster) = self.cluster.as_mut().filter(|cluster| cluster.connected) else {
            return done(reply, OpOutcome::No(DeskRefusal::Away), out);
        };
        let waiting = Waiting::Desk { reply, carried: again.then(|| Box::new(carried.clone())) };
        cluster.ask_within(CARRY_MS, blade, Question::Desk(carried), waiting, out);
    }

    /// Another blade carries an order to us; the answer follows when it is decided.
    pub(super) fn carried(
        &mut self,
        now: Instant,
        bus: u64,
        carried: Carried,
        out: &mut Vec<Output>,
    ) {
        if let CarriedOrder::Supervise(agent, _) = &carried.order
            && let Ok(Has::Blade(blade)) = self.who_has(carried.tenant, agent)
        {
            let answer = Box::new(Answer::Desk(CarriedAnswer::At(blade)));
            return out.push(Output::Bus(Say::Reply { reply: bus, answer }));
        }
        self.pump_all(now, out);
        let reply = CARRIED | self.rooms.next_carried;
        self.rooms.next_carried += 1;
        self.rooms.carried.insert(reply, bus);
        self.obey_carried(now, reply, carried, out);
    }

    fn obey_carried(&mut self, now: Instant, reply: u64, carried: Carried, out: &mut Vec<Output>) {
        if matches!(carried.order, CarriedOrder::Supervise(..)) {
            return self.supervise(now, reply, carried, false, out);
        }
        let Carried { tenant, number, home, order } = carried;
        match self.hosted_at(tenant, home, &number) {
            Some(at) => self.order_at(now, reply, at, (&number, order), out),
            None => done(reply, OpOutcome::No(DeskRefusal::NoCall), out),
        }
    }

    /// The leg by which a CCB of ours hosts the agent of that home.
    fn hosted_at(&self, tenant: TenantId, home: CcbId, number: &str) -> Option<At> {
        let is_it = |leg: &abi::LegRow| {
            leg.party() == Some(Party::Peer(home))
                && leg.state() == LegState::Answered
                && leg.number().as_str() == number
        };
        self.sides.iter().find_map(|(ccb, side)| {
            let mut calls = side.calls.iter().filter(|call| call.row.tenant() == tenant);
            calls.find_map(|call| {
                let (_, leg) = call.legs.iter().find(|(_, leg)| is_it(leg))?;
                Some((*ccb, call.call, leg.leg as u8))
            })
        })
    }

    /// Turns what became of carried orders into answers for the bus.
    pub(super) fn answer_carried(&mut self, out: &mut [Output]) {
        if self.rooms.carried.is_empty() {
            return;
        }
        for output in out {
            let Output::Done { reply, result, .. } = output else { continue };
            let Some(bus) = self.rooms.carried.remove(reply) else { continue };
            let answer = match result {
                OpOutcome::Done(OpResult::Ok) => CarriedAnswer::Done,
                OpOutcome::No(no) => CarriedAnswer::Refused(*no),
                OpOutcome::Unknown | OpOutcome::Done(OpResult::NoSuchCall) => {
                    CarriedAnswer::Refused(DeskRefusal::NoCall)
                }
                OpOutcome::Gone | OpOutcome::Lost => CarriedAnswer::Refused(DeskRefusal::Away),
                _ => CarriedAnswer::Refused(DeskRefusal::NotNow),
            };
            let answer = Box::new(Answer::Desk(answer));
            *output = Output::Bus(Say::Reply { reply: bus, answer });
        }
    }

    /// The blade that has the call says what became of an order.
    pub(super) fn carried_answered(
        &mut self,
        reply: u64,
        carried: Option<Box<Carried>>,
        answer: Option<Answer>,
        out: &mut Vec<Output>,
    ) {
        let result = match (answer, carried) {
            (Some(Answer::Desk(CarriedAnswer::Done)), _) => OpOutcome::Done(OpResult::Ok),
            (Some(Answer::Desk(CarriedAnswer::Refused(no))), _) => OpOutcome::No(no),
            (Some(Answer::Desk(CarriedAnswer::At(blade))), Some(carried)) => {
                return self.ask_desk(reply, blade, *carried, false, out);
            }
            _ => OpOutcome::No(DeskRefusal::Away),
        };
        done(reply, result, out);
    }

    /// An order about a call that is ours, in the name of that leg's party, who has that number.
    fn order_at(
        &mut self,
        now: Instant,
        reply: u64,
        at: At,
        (number, order): (&str, CarriedOrder),
        out: &mut Vec<Output>,
    ) {
        let (ccb, call, leg) = at;
        let organiser = self.organiser_of(ccb, call);
        let no = |no, out: &mut Vec<Output>| done(reply, OpOutcome::No(no), out);
        match order {
            CarriedOrder::Hold | CarriedOrder::Retrieve | CarriedOrder::Transfer(_)
                if organiser.is_some() =>
            {
                no(DeskRefusal::InConference, out);
            }
            CarriedOrder::Hold => self.park(now, reply, at, true, out),
            CarriedOrder::Retrieve => self.park(now, reply, at, false, out),
            CarriedOrder::Transfer(to) => self.transfer(now, reply, at, &to, out),
            CarriedOrder::Add(_) | CarriedOrder::Drop(_)
                if organiser.is_some_and(|of| of != (call, leg)) =>
            {
                no(DeskRefusal::NotOrganiser, out);
            }
            CarriedOrder::Add(to) => {
                let (kind, shown) = (GuestKind::Participant, number.to_owned());
                self.bring(now, at, Bring { number: to, shown, kind, reply }, out);
            }
            CarriedOrder::Drop(_) if organiser.is_none() => no(DeskRefusal::NotOrganiser, out),
            CarriedOrder::Drop(to) => self.drop_part(now, (ccb, call), &to, reply, out),
            CarriedOrder::Supervise(..) => no(DeskRefusal::NoCall, out),
        }
    }

    fn park(&mut self, now: Instant, reply: u64, at: At, on: bool, out: &mut Vec<Output>) {
        let (ccb, call, leg) = at;
        let side = self.sides.get_mut(&ccb).filter(|side| side.link);
        let owner = side.and_then(|side| Some((worker_of(side, call)?, side)));
        let Some((worker, side)) = owner else {
            return done(reply, OpOutcome::Gone, out);
        };
        let purpose = Purpose::Desk { reply, no: DeskRefusal::NotNow };
        let command = |op| Command::Park { op, call, leg, on };
        side.send(now, worker, purpose, &[], command, out);
    }

    /// Asks the agent's phone to answer. The phone is here, whoever has the call.
    fn talk(
        &mut self,
        now: Instant,
        reply: u64,
        login: LoginKey,
        serial: Option<u64>,
        out: &mut Vec<Output>,
    ) {
        let at = self.call_meant(login, serial, |leg| leg != LegState::Answered);
        let found = at.and_then(|(ccb, call, leg)| {
            let side = self.sides.get_mut(&ccb).filter(|side| side.link)?;
            Some((worker_of(side, call)?, side, call, leg))
        });
        let Some((worker, side, call, leg)) = found else {
            return done(reply, OpOutcome::No(DeskRefusal::NotRinging), out);
        };
        let purpose = Purpose::Desk { reply, no: DeskRefusal::NotRinging };
        side.send(now, worker, purpose, &[], |op| Command::Talk { op, call, leg }, out);
    }

    /// Who has the answered call of the agent of that number.
    fn who_has(&self, tenant: TenantId, number: &str) -> Result<Has, DeskRefusal> {
        let Some((home, slot, login)) = self.desk_of(tenant, number) else {
            let cluster = self.cluster.as_ref().ok_or(DeskRefusal::NoSuchNumber)?;
            let home = cluster.homes.get(&(tenant, number.to_owned()));
            let home = home.filter(|home| home.blade != cluster.name);
            let home = home.ok_or(DeskRefusal::NoSuchNumber)?;
            // We may have the agent ourselves.
            let at = self.hosted_at(tenant, home.ccb, number).map(Has::We);
            return Ok(at.unwrap_or_else(|| Has::Blade(home.blade.clone())));
        };
        let party = Some(Party::Agent(slot, login.epoch));
        let side = self.sides.get(&home).ok_or(DeskRefusal::Away)?;
        let region = side.region().ok_or(DeskRefusal::Away)?;
        let leg_of = |call: &Call| {
            let is_it = |(place, leg): &&(u32, abi::LegRow)| {
                let leg = live_leg(&region, call.call, (*place, leg));
                leg.party() == party && talks(&leg)
            };
            call.legs.iter().find(is_it).map(|(_, leg)| leg.leg as u8)
        };
        // A supervisor's own call is not the one that is meant.
        let counts = |call: &&Call| {
            let guest = call.row.guest();
            call.row.state() == CallState::Answered
                && guest.is_none_or(|kind| kind == GuestKind::Participant)
        };
        let calls = side.calls.iter().filter(counts);
        let at = calls.filter_map(|call| Some((home, call.call, leg_of(call)?))).last();
        let at = at.ok_or(DeskRefusal::NotTalking)?;
        let Some(holder) = self.holder_at(at) else { return Ok(Has::We(at)) };
        if self.sides.contains_key(&holder) {
            let at = self.hosted_at(tenant, home, number);
            return at.map(Has::We).ok_or(DeskRefusal::NotTalking);
        }
        let blade = self.cluster.as_ref().and_then(|it| it.blades.get(&holder).cloned());
        blade.map(Has::Blade).ok_or(DeskRefusal::Away)
    }

    /// Brings a supervisor to the call of an agent, or lets the blade do that which has the call.
    fn supervise(
        &mut self,
        now: Instant,
        reply: u64,
        carried: Carried,
        may_ask: bool,
        out: &mut Vec<Output>,
    ) {
        let CarriedOrder::Supervise(agent, how) = &carried.order else {
            return done(reply, OpOutcome::No(DeskRefusal::NoCall), out);
        };
        match self.who_has(carried.tenant, agent) {
            Ok(Has::We(at)) => {
                let (kind, shown) = (how.kind(), agent.clone());
                self.bring(now, at, Bring { number: carried.number, shown, kind, reply }, out);
            }
            Ok(Has::Blade(blade)) if may_ask => self.ask_desk(reply, blade, carried, true, out),
            Ok(Has::Blade(_)) => done(reply, OpOutcome::No(DeskRefusal::Away), out),
            Err(no) => done(reply, OpOutcome::No(no), out),
        }
    }

    /// A supervisor leaves the call that their phone hears.
    fn stop_supervising(
        &mut self,
        now: Instant,
        reply: u64,
        login: LoginKey,
        out: &mut Vec<Output>,
    ) {
        let Some(entry) = self.logins.get(&login) else {
            return done(reply, OpOutcome::Unknown, out);
        };
        let (ccb, slot) = (entry.ccb, entry.slot);
        let is_away = self.hosting.homes.get(&ccb).and_then(|home| home.holder_of(slot));
        let is_away = is_away.is_some_and(|hosted| hosted.purpose == abi::Purpose::Monitor);
        let at = self.call_of(login, None);
        let side = self.sides.get(&ccb);
        let supervises = |call: CallRef| {
            let row = side.and_then(|side| side.calls.find(call)).map(|call| call.row);
            let guest = row.and_then(|row| row.guest());
            is_away || guest.is_some_and(|kind| kind != GuestKind::Participant)
        };
        match at.filter(|(_, call, _)| supervises(*call)) {
            Some((ccb, call, _)) => self.release(now, reply, ccb, call, out),
            None => done(reply, OpOutcome::No(DeskRefusal::NoCall), out),
        }
    }
}

//! Where calls go that are not taken, transfers and calls that control orders, and what a held party hears.

use abi::{CallState, Command, MediaOrder, OpResult, Why};
use base::{AgentSlot, CallRef, CcbId, Instant, TenantId, WorkerId};

use super::side::{Purpose, Side};
use super::{Asked, Blade};
use crate::message::{OpOutcome, Output};

impl Blade {
    /// Answers what the data plane asks of a number by the rules of that number: true when one says where its
    /// calls go.
    pub(super) fn forwarded(
        &mut self,
        now: Instant,
        ccb: CcbId,
        worker: WorkerId,
        asked: &Asked<'_>,
        out: &mut Vec<Output>,
    ) -> bool {
        let rule = self.forwards.find(asked.tenant, asked.number, asked.why);
        let Some(to) = rule.map(|rule| rule.to.clone()) else { return false };
        let Some(side) = self.sides.get_mut(&ccb) else { return false };
        side.counts.asked_forwarded += 1;
        let Asked { op: ask, call, .. } = *asked;
        let command = |op| Command::Forward { op, ask, call };
        side.send(now, worker, Purpose::Answer, to.as_bytes(), command, out);
        true
    }

    /// Writes the rules of every agent's number into the agent's row.
    pub(super) fn mark_forwards(&mut self) {
        for (login, entry) in &mut self.logins {
            let before = entry.forwards;
            entry.mark(login.tenant, &self.forwards);
            if entry.forwards != before
                && let Some(region) = self.sides.get(&entry.ccb).and_then(Side::region)
            {
                region.agents().write(entry.slot, &entry.row(*login));
            }
        }
    }

    /// An administrator gives a leg's peer to a number. It ends with exactly one [`Output::Done`].
    pub(super) fn transfer(
        &mut self,
        now: Instant,
        reply: u64,
        (ccb, call, leg): (CcbId, CallRef, u8),
        to: &str,
        out: &mut Vec<Output>,
    ) {
        let side = self.sides.get_mut(&ccb);
        let known = side.and_then(|side| {
            let region = side.region()?;
            let known = side.calls.find(call)?;
            let has_leg = known.legs.iter().any(|(_, row)| row.leg == u32::from(leg));
            let worker = region.calls().owner(call.slot)?;
            Some((side, worker, has_leg))
        });
        let result = match known {
            None => OpOutcome::Unknown,
            Some((side, ..)) if !side.link => OpOutcome::Gone,
            Some((.., false)) => OpOutcome::NoSuchLeg,
            Some((side, worker, true)) => {
                let command = |op| Command::Transfer { op, call, leg };
                let purpose = Purpose::Asked { reply };
                return side.send(now, worker, purpose, to.as_bytes(), command, out);
            }
        };
        out.push(Output::Done { reply, result, digits: None });
    }

    /// Calls an agent's phone and then a number (click to dial). It ends with exactly one [`Output::Done`].
    pub(super) fn dial(
        &mut self,
        now: Instant,
        reply: u64,
        (tenant, from): (TenantId, &str),
        to: &str,
        out: &mut Vec<Output>,
    ) {
        let is_from = |entry: &super::Entry| entry.record.number == from;
        let mut logins = self.logins.iter().filter(|(login, _)| login.tenant == tenant);
        let found = logins.find(|(_, entry)| is_from(entry));
        let found = found.map(|(login, entry)| (entry.ccb, entry.slot, login.epoch));
        let result = match found.and_then(|(ccb, slot, epoch)| {
            let side = self.sides.get_mut(&ccb)?;
            Some((worker_for(side, slot), side, slot, epoch))
        }) {
            Some((Some(worker), side, agent, epoch)) if side.link => {
                let command = |op| Command::Originate { op, agent, epoch };
                let purpose = Purpose::Asked { reply };
                return side.send(now, worker, purpose, to.as_bytes(), command, out);
            }
            Some(_) => OpOutcome::Gone,
            None => OpOutcome::Done(OpResult::NoSuchAgent),
        };
        out.push(Output::Done { reply, result, digits: None });
    }

    /// A party is held, or is not any more: it hears music meanwhile, where there is some.
    pub(super) fn held(
        &mut self,
        now: Instant,
        ccb: CcbId,
        worker: WorkerId,
        (call, leg): (CallRef, u8),
        on: bool,
        out: &mut Vec<Output>,
    ) {
        let Some(side) = self.sides.get_mut(&ccb) else { return };
        let stands = |it: &&crate::calls::Call| it.row.state() == CallState::Answered;
        let tenant = side.calls.find(call).filter(stands).map(|it| it.row.tenant());
        let mut tenants = self.provision.tenants.iter();
        let tenant = tenants.find(|one| on && Some(one.id) == tenant);
        let music = tenant.and_then(|tenant| tenant.hold_music.clone());
        let (order, prompt) = match (music, on) {
            (Some(music), _) => {
                side.held.insert((call, leg));
                (MediaOrder::Play { times: 0 }, music)
            }
            (None, false) if side.held.remove(&(call, leg)) => {
                (MediaOrder::StopPlaying, String::new())
            }
            _ => return,
        };
        let command = |op| Command::Media { op, call, leg, order };
        side.send(now, worker, Purpose::Answer, prompt.as_bytes(), command, out);
    }
}

/// A worker that begins an agent's call: any can, and each agent has one.
fn worker_for(side: &Side, agent: AgentSlot) -> Option<WorkerId> {
    let workers = side.region()?.layout().workers;
    Some(WorkerId((agent.0 % u32::from(workers.max(1))) as u8))
}

/// When a caller may try again whose trunk's name was not resolved, in seconds.
pub(super) const UNRESOLVED_S: u32 = 10;

/// What the data plane does with a number that no rule knows.
pub(super) const fn unknown(why: Why) -> u16 {
    match why {
        Why::Called | Why::Transferred | Why::Forwarded | Why::Summoned | Why::Hunted => 404,
        Why::Always | Why::Busy | Why::NoAnswer | Why::Unavailable | Why::Offered => 480,
    }
}

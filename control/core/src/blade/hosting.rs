//! Calls to agents of other CCBs, as the CCB sees them that hosts: the agent's home is asked for the lease, the leg
//! is ordered with it, and what is not used is given back (S2-005 to S2-016). CCBs of one blade ask each other
//! without the bus.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use abi::{CallState, Command, LeaseTicket, LeaseToken, LegState, OpResult, Party, Region, Why};
use base::{AgentSlot, CallRef, CcbId, Instant, Rng, TenantId, Transport, WorkerId};

use super::cluster::Waiting;
use super::leases::Wait;
use super::side::{CALLER, Purpose, Side};
use super::{Asked, Blade};
use crate::calls::Call;
use crate::cluster::{Answer, BladeName, Denial, Grant, HeldLease, Question};
use crate::hosting::{
    Holder, Home, Next, PROBE_AFTER_MS, PROBED_MS, Presence, SILENT_MS, Stage, Wanted,
};
use crate::message::Output;

/// After how long a caller is told to try again when an agent's home does not answer, in seconds.
pub(super) const RETRY_AFTER_S: u32 = 2;
/// How long a session may stand whose call is not seen, in milliseconds: until its events have come.
const UNSEEN_MS: u64 = 2_000;
/// Reports of ours that may be under way.
const REPORTS: usize = 32;

/// What a blade knows of leases that cross its borders.
#[derive(Debug)]
pub(super) struct Hosting {
    /// Whom the agents of each CCB are with.
    pub(super) homes: BTreeMap<CcbId, Home>,
    /// What our CCBs host.
    pub(super) holder: Holder<Wants>,
    /// Tokens come from it; without it nothing is granted.
    pub(super) rng: Option<Rng>,
    /// Requests that cannot be answered yet.
    pub(super) waits: Vec<Wait>,
    pub(super) look_at: Instant,
    /// Where the agents' dialogs with their holders are.
    pub(super) ears: BTreeMap<(CcbId, AgentSlot), Ear>,
    /// Where the sessions' dialogs are.
    sessions: BTreeMap<u64, Ear>,
    /// The holder's serial number of each call that another CCB makes to an agent of ours.
    pub(super) serials: BTreeMap<(CcbId, CallRef), u64>,
    /// When each report of ours that is under way was sent.
    sent: VecDeque<(u64, Instant)>,
    /// Since when the bus is there.
    pub(super) heard_since: Option<Instant>,
    /// The bus has told once who is where: what it tells later is news.
    pub(super) has_listened: bool,
}

/// A call that asked for an agent of another CCB.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Wants {
    pub(super) ccb: CcbId,
    pub(super) worker: WorkerId,
    /// The question of the data plane.
    pub(super) ask: u64,
    pub(super) call: CallRef,
    tenant: TenantId,
    number: Vec<u8>,
    /// The agent moved, and was looked for again.
    again: bool,
}

/// The leg of a call towards another CCB, and when it was last heard.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ear {
    pub(super) call: CallRef,
    pub(super) counter: u32,
    leg: u8,
    place: u32,
    packets: u64,
    pub(super) at: Instant,
    /// When its peer was last asked whether it lives.
    probed_at: Option<Instant>,
}

impl Ear {
    /// The leg of a call that leads to a CCB.
    pub(super) fn of(call: &Call, peer: CcbId, counter: u32, now: Instant) -> Option<Ear> {
        let is_it = |leg: &abi::LegRow| {
            leg.party() == Some(Party::Peer(peer)) && leg.state() != LegState::Ended
        };
        let (place, leg) = call.legs.iter().rev().find(|(_, leg)| is_it(leg))?;
        Some(Ear {
            call: call.call,
            counter,
            leg: leg.leg as u8,
            place: *place,
            packets: leg.packets_in,
            at: now,
            probed_at: None,
        })
    }

    /// Looks whether anything was heard since the last look.
    pub(super) fn listen(&mut self, region: &Region, now: Instant) {
        let row = region.legs().read(self.place).filter(|row| row.call() == self.call);
        if let Some(row) = row
            && row.packets_in != self.packets
        {
            (self.packets, self.at) = (row.packets_in, now);
        }
    }
}

impl Hosting {
    pub(super) fn new(now: Instant, ccbs: &[CcbId]) -> Hosting {
        Hosting {
            homes: ccbs.iter().map(|ccb| (*ccb, Home::new(*ccb))).collect(),
            holder: Holder::new(0),
            rng: None,
            waits: Vec::new(),
            look_at: now,
            ears: BTreeMap::new(),
            sessions: BTreeMap::new(),
            serials: BTreeMap::new(),
            sent: VecDeque::new(),
            heard_since: None,
            has_listened: false,
        }
    }

    /// Several blades meet; `incarnation` is one that no earlier control process of this one had.
    pub(super) fn join(&mut self, incarnation: u64) {
        self.holder = Holder::new(incarnation);
    }

    /// That CCB's; one that the pool began later has its own from now on.
    pub(super) fn home(&mut self, ccb: CcbId) -> &mut Home {
        self.homes.entry(ccb).or_insert_with(|| Home::new(ccb))
    }

    /// A report of our blade is sent.
    pub(super) fn reports(&mut self, now: Instant, sequence: u64) {
        self.sent.push_back((sequence, now));
        if self.sent.len() > REPORTS {
            self.sent.pop_front();
        }
    }

    /// It came back.
    pub(super) fn reported(&mut self, now: Instant, sequence: u64) {
        let sent = self.sent.iter().find(|(it, _)| *it == sequence);
        if let Some((_, at)) = sent.copied() {
            self.homes.values_mut().for_each(|home| home.confirm(now, at));
        }
    }
}

impl Blade {
    /// Gives the core the randomness that lease tokens are made of; without it no lease is granted to another CCB.
    pub fn seed(&mut self, rng: Rng) {
        self.hosting.rng = Some(rng);
    }

    /// The home of a number that is not that CCB's: its blade, when that is another one, and its CCB.
    fn elsewhere(
        &self,
        ccb: CcbId,
        tenant: TenantId,
        number: &[u8],
    ) -> Option<(Option<BladeName>, CcbId)> {
        let has = |side: &&Side| {
            let region = side.region().filter(|_| side.ccb != ccb);
            region.is_some_and(|region| region.agents().find_number(tenant, number).is_some())
        };
        if let Some(side) = self.sides.values().find(has) {
            return Some((None, side.ccb));
        }
        let cluster = self.cluster.as_ref()?;
        let number = std::str::from_utf8(number).ok()?;
        let home = cluster.homes.get(&(tenant, number.to_owned()))?;
        (home.blade != cluster.name).then(|| (Some(home.blade.clone()), home.ccb))
    }

    /// Takes a question about a number whose agent is another CCB's: true when it is one (S2-005, S2-018).
    pub(super) fn wanted_elsewhere(
        &mut self,
        now: Instant,
        ccb: CcbId,
        worker: WorkerId,
        asked: &Asked<'_>,
        out: &mut Vec<Output>,
    ) -> bool {
        let is_offer = asked.why == Why::Offered;
        let ways = [Why::Called, Why::Transferred, Why::Forwarded, Why::Summoned];
        let is_way = ways.contains(&asked.why);
        let (tenant, number) = (asked.tenant, asked.number);
        let is_summons = asked.why == Why::Summoned;
        let goes_on =
            !is_offer && !is_summons && self.forwards.find(tenant, number, Why::Always).is_some();
        if !(is_way || is_offer) || goes_on {
            return false;
        }
        let Some(home) = self.elsewhere(ccb, tenant, number) else { return false };
        let (ask, call) = (asked.op, asked.call);
        let number = number.to_vec();
        let wants = Wants { ccb, worker, ask, call, tenant, number, again: false };
        let purpose = match asked.why {
            Why::Transferred => abi::Purpose::Transfer,
            Why::Offered => abi::Purpose::Queue,
            Why::Summoned => self.summons_purpose(ccb, call),
            _ => abi::Purpose::Call,
        };
        self.want(now, home, wants, (asked.caller, purpose), out);
        true
    }

    /// Asks an agent's home for the agent (S2-006, S2-007).
    fn want(
        &mut self,
        now: Instant,
        (blade, home): (Option<BladeName>, CcbId),
        wants: Wants,
        (caller, purpose): (Party, abi::Purpose),
        out: &mut Vec<Output>,
    ) {
        let name = self.cluster.as_ref().map_or_else(|| "".into(), |it| it.name.clone());
        let is_there = blade.is_none() || self.cluster.as_ref().is_some_and(|it| it.connected);
        let side = self.sides.get(&wants.ccb);
        let Some((side, region)) = side.and_then(|side| Some((side, side.region()?))) else {
            return;
        };
        let agent = match caller {
            Party::Agent(slot, epoch) => {
                side.by_slot.get(&slot).filter(|login| login.epoch == epoch)
            }
            Party::Trunk(_) | Party::Peer(_) => None,
        };
        let record = agent.and_then(|login| self.logins.get(login)).map(|entry| &entry.record);
        let shown = side.calls.find(wants.call).and_then(|call| call.legs.first());
        let shown = shown.map(|(_, leg)| leg.number().as_str().to_owned());
        let shown = shown.or_else(|| self.guest_shown(wants.ccb, wants.call));
        let number = String::from_utf8_lossy(&wants.number).into_owned();
        let wanted = Wanted {
            blade: blade.clone().unwrap_or_else(|| name.clone()),
            home,
            holder: wants.ccb,
            holder_incarnation: region.header().data_plane().incarnation,
            tenant: wants.tenant,
            number,
            purpose,
            caller: record.map(|it| it.number.clone()).or(shown).unwrap_or_default(),
            caller_agent: agent.map(|login| login.agent),
            serial: region.calls().find(wants.call).map_or(0, |row| row.serial),
            queue: self.queueing.queue_of(now, (wants.ccb, wants.call), wants.tenant),
        };
        if !is_there {
            return self.not_hosted(now, wants, None, out);
        }
        let request = self.hosting.holder.ask(now, wanted, wants);
        let id = request.id;
        match (blade, self.cluster.as_mut()) {
            (Some(blade), Some(cluster)) => {
                let tenant = request.tenant;
                let waiting = Waiting::Lease { id, blade: blade.clone(), tenant };
                cluster.ask(blade, Question::Lease(request), waiting, out);
            }
            _ => self.lease_asked(now, name, request, None, out),
        }
    }

    /// A home answered, or did not.
    pub(super) fn lease_answered(
        &mut self,
        now: Instant,
        id: u64,
        (blade, tenant): (BladeName, TenantId),
        answer: Option<Result<Grant, Denial>>,
        out: &mut Vec<Output>,
    ) {
        let grant = answer.as_ref().and_then(|answer| answer.as_ref().ok()).cloned();
        let holder = &mut self.hosting.holder;
        let next = holder.answered(now, id, answer);
        if let Some(grant) = grant.filter(|_| !matches!(next, Next::Dial(..))) {
            let unwanted = holder.unwanted(&blade, tenant, id, &grant);
            self.lease_next(now, id, unwanted, out);
        }
        self.lease_next(now, id, next, out);
    }

    fn lease_next(&mut self, now: Instant, id: u64, next: Next<Wants>, out: &mut Vec<Output>) {
        match next {
            Next::Nothing => {}
            Next::Dial(wants, grant) => self.host(now, id, wants, &grant, out),
            Next::Refused(wants, denial) => self.not_hosted(now, wants, denial, out),
            Next::GiveBack(blade, fence, tenant, number) => {
                let cluster = self.cluster.as_mut().filter(|it| it.name != blade);
                match cluster {
                    Some(cluster) => {
                        let question = Question::GiveBack { fence, tenant, number };
                        cluster.ask(blade, question, Waiting::Nothing, out);
                    }
                    None => self.lease_given_back(fence, tenant, &number),
                }
            }
        }
    }

    /// The agent is ours: the session stands before anybody is called, then the INVITE goes out (S2-011, S2-014).
    fn host(&mut self, now: Instant, id: u64, wants: Wants, grant: &Grant, out: &mut Vec<Output>) {
        let purpose = self.hosting.holder.session(id).map(|session| session.wanted.purpose);
        let side = self.sides.get_mut(&wants.ccb).filter(|side| side.link);
        let way = side.and_then(|side| Some((side.location_for(None, grant.sip)?, side)));
        let (Some((location, side)), Some(purpose)) = (way, purpose) else {
            self.session_over(now, id, out);
            return self.not_hosted(now, wants, None, out);
        };
        let token = LeaseToken(grant.token.0);
        let ticket = LeaseTicket { fence: grant.fence, token, purpose, by: wants.ccb };
        let blob = format!("{}\n{}\n{}", grant.user, grant.number, ticket.to_value());
        let (ask, call, home, address) = (wants.ask, wants.call, grant.home, grant.sip);
        let transport = Transport::Udp;
        let command = |op| Command::Host { op, ask, call, home, address, location, transport };
        side.counts.asked_hosted += 1;
        side.send(now, wants.worker, Purpose::Hosted { id }, blob.as_bytes(), command, out);
        self.hosting.holder.dialled(id);
    }

    /// The INVITE of a session is sent, or could not be.
    pub(super) fn host_done(
        &mut self,
        now: Instant,
        id: u64,
        result: OpResult,
        out: &mut Vec<Output>,
    ) {
        if result != OpResult::Ok {
            self.session_over(now, id, out);
        }
    }

    fn session_over(&mut self, now: Instant, id: u64, out: &mut Vec<Output>) {
        self.hosting.sessions.remove(&id);
        let next = self.hosting.holder.over(id);
        self.lease_next(now, id, next, out);
    }

    /// An agent is not to be had: its number's rules say where the call goes, else the caller hears why (G-01).
    fn not_hosted(
        &mut self,
        now: Instant,
        mut wants: Wants,
        denial: Option<Denial>,
        out: &mut Vec<Output>,
    ) {
        if matches!(denial, Some(Denial::Draining | Denial::Moved)) && !wants.again {
            wants.again = true;
            let found = self.elsewhere(wants.ccb, wants.tenant, &wants.number);
            let caller = self.caller_of(&wants);
            if let (Some(home), Some(caller)) = (found, caller) {
                return self.want(now, home, wants, (caller, abi::Purpose::Call), out);
            }
        }
        self.note_denial(wants.ccb, wants.call, denial.as_ref());
        let (why, status) = match denial {
            Some(Denial::Busy | Denial::Ringing | Denial::Hosted(_)) => (Some(Why::Busy), 486),
            Some(Denial::Glare) => (None, 486),
            Some(Denial::Unknown) => (Some(Why::Unavailable), 404),
            Some(Denial::OwnerAway) | None => (None, 503),
            Some(_) => (Some(Why::Unavailable), 480),
        };
        // A caller of a queue goes to the next agent.
        let is_chosen = self.queueing.is_offered(wants.ccb, wants.call)
            || self.guest_shown(wants.ccb, wants.call).is_some();
        let why = why.filter(|_| !is_chosen);
        let rule = why.and_then(|why| self.forwards.find(wants.tenant, &wants.number, why));
        let to = rule.map(|rule| rule.to.clone());
        let Some(side) = self.sides.get_mut(&wants.ccb) else { return };
        let Wants { ask, call, worker, .. } = wants;
        if let Some(to) = to {
            side.counts.asked_forwarded += 1;
            let command = |op| Command::Forward { op, ask, call };
            return side.send(now, worker, Purpose::Answer, to.as_bytes(), command, out);
        }
        side.counts.asked_rejected += 1;
        let retry_after_s = if status == 503 { RETRY_AFTER_S } else { 0 };
        let command = |op| Command::Reject { op, ask, call, status, retry_after_s };
        side.send(now, worker, Purpose::Answer, &[], command, out);
    }

    fn caller_of(&self, wants: &Wants) -> Option<Party> {
        let call = self.sides.get(&wants.ccb)?.calls.find(wants.call)?;
        call.legs.first().and_then(|(_, leg)| leg.party())
    }

    /// Finds the sessions that an earlier control process made of calls of that CCB: the home's end, and the end of a
    /// home, concern them as ever.
    pub(super) fn find_sessions(&mut self, now: Instant, ccb: CcbId) {
        let Some(side) = self.sides.get(&ccb) else { return };
        let Some(region) = side.region() else { return };
        let mut found = Vec::new();
        for call in side.calls.iter().filter(|call| call.row.state() != CallState::Ended) {
            let Some(worker) = region.calls().owner(call.call.slot) else { continue };
            // The first leg is the caller's; one of a peer there is that of an agent of ours.
            for (_, leg) in call.legs.iter().filter(|(_, leg)| leg.leg != u32::from(CALLER)) {
                let Some(Party::Peer(home)) = leg.party() else { continue };
                let is_known = |session: &crate::hosting::Session<Wants>| {
                    (session.call.ccb, session.call.call) == (ccb, call.call)
                        && session.wanted.home == home
                };
                let mut sessions = self.hosting.holder.sessions();
                if leg.state() == LegState::Ended || sessions.any(|(_, one)| is_known(one)) {
                    continue;
                }
                let (tenant, number) = (call.row.tenant(), leg.number().as_str().to_owned());
                let caller = call.legs.first().map(|(_, leg)| leg.number().as_str().to_owned());
                let wanted = Wanted {
                    blade: "".into(),
                    home,
                    holder: ccb,
                    holder_incarnation: region.header().data_plane().incarnation,
                    tenant,
                    number: number.clone(),
                    purpose: abi::Purpose::Call,
                    caller: caller.unwrap_or_default(),
                    caller_agent: None,
                    serial: call.row.serial,
                    queue: None,
                };
                let (number, call) = (number.into_bytes(), call.call);
                found.push((
                    wanted,
                    Wants { ccb, worker, ask: 0, call, tenant, number, again: true },
                ));
            }
        }
        for (wanted, wants) in found {
            self.hosting.holder.found(now, wanted, wants);
        }
    }

    /// Looks at the sessions: whose call is over gives back what it has not used; whose agent's home died ends
    /// (G-05).
    pub(super) fn check_sessions(&mut self, now: Instant, out: &mut Vec<Output>) {
        let mut over = Vec::new();
        let (mut release, mut probe, mut ears) = (Vec::new(), Vec::new(), Vec::new());
        for (id, session) in self.hosting.holder.sessions() {
            if session.stage == Stage::Asking {
                continue;
            }
            let wants = &session.call;
            let side = self.sides.get(&wants.ccb);
            let Some((side, region)) = side.and_then(|side| Some((side, side.region()?))) else {
                continue;
            };
            let call = side.calls.find(wants.call);
            let home = session.wanted.home;
            let number = session.wanted.number.as_str();
            let is_leg = |leg: &abi::LegRow| {
                leg.party() == Some(Party::Peer(home)) && leg.number().as_str() == number
            };
            let mut legs = call.iter().flat_map(|call| &call.legs).filter(|(_, leg)| is_leg(leg));
            let is_over = match call {
                Some(call) if call.row.state() == CallState::Ended => true,
                _ if legs.clone().next().is_some() => {
                    legs.all(|(_, leg)| leg.state() == LegState::Ended)
                }
                _ => now >= session.since + Duration::from_millis(UNSEEN_MS),
            };
            if is_over {
                over.push(id);
                continue;
            }
            let Some(call) = call else { continue };
            let ear = self.hosting.sessions.get(&id).copied();
            let Some(mut ear) = ear.or_else(|| Ear::of(call, home, 0, now)) else { continue };
            ear.listen(&region, now);
            let is_for = |ms: u64| now >= ear.at + Duration::from_millis(ms);
            if is_for(PROBE_AFTER_MS) && self.presence(now, home).1 == Presence::Gone {
                let asked = ear.probed_at.filter(|at| *at >= ear.at);
                let waited = |at: Instant| now >= at + Duration::from_millis(PROBED_MS);
                match asked {
                    None => {
                        ear.probed_at = Some(now);
                        probe.push((wants.ccb, wants.worker, ear));
                    }
                    Some(at) if is_for(SILENT_MS) && waited(at) => {
                        release.push((wants.ccb, wants.worker, wants.call));
                    }
                    Some(_) => {}
                }
            }
            ears.push((id, ear));
        }
        self.hosting.sessions.extend(ears);
        for (ccb, worker, ear) in probe {
            self.probe(now, ccb, worker, ear, out);
        }
        over.into_iter().for_each(|id| self.session_over(now, id, out));
        for (ccb, worker, call) in release {
            self.end_silent(now, ccb, worker, call, out);
        }
    }

    /// Asks the CCB at the other end whether it lives.
    pub(super) fn probe(
        &mut self,
        now: Instant,
        ccb: CcbId,
        worker: WorkerId,
        ear: Ear,
        out: &mut Vec<Output>,
    ) {
        if let Some(side) = self.sides.get_mut(&ccb).filter(|side| side.link) {
            let Ear { call, leg, .. } = ear;
            let command = |op| Command::Probe { op, call, leg };
            side.send(now, worker, Purpose::Answer, &[], command, out);
        }
    }

    /// It does.
    pub(super) fn leg_lives(&mut self, now: Instant, ccb: CcbId, call: CallRef, leg: u8) {
        let hosting = &mut self.hosting;
        let is_here = |session: &crate::hosting::Session<Wants>| session.call.ccb == ccb;
        let ids = hosting.holder.sessions().filter(|(_, session)| is_here(session));
        let ids: Vec<u64> = ids.map(|(id, _)| id).collect();
        let sessions = hosting.sessions.iter_mut().filter(|(id, _)| ids.contains(id));
        let agents = hosting.ears.range_mut((ccb, AgentSlot(0))..=(ccb, AgentSlot(u32::MAX)));
        let ears = sessions.map(|(_, ear)| ear).chain(agents.map(|(_, ear)| ear));
        let its = ears.filter(|ear| (ear.call, ear.leg) == (call, leg));
        its.for_each(|ear| ear.at = now);
    }

    /// Ends a call whose other CCB is gone.
    pub(super) fn end_silent(
        &mut self,
        now: Instant,
        ccb: CcbId,
        worker: WorkerId,
        call: CallRef,
        out: &mut Vec<Output>,
    ) {
        if let Some(side) = self.sides.get_mut(&ccb).filter(|side| side.link) {
            let command = |op| Command::Release { op, call, cause: 408 };
            side.send(now, worker, Purpose::Answer, &[], command, out);
        }
    }

    /// Says which of these leases of a home our CCBs hold: a session knows it, or a call that outlived the control
    /// process that began it.
    pub(super) fn say_holds(&self, home: CcbId, leases: &[HeldLease]) -> Answer {
        let has_call = |lease: &HeldLease| {
            let calls = self.sides.values().filter(|side| side.link).flat_map(|it| it.calls.iter());
            calls.filter(|call| call.row.tenant() == lease.tenant).any(|call| {
                call.row.state() != CallState::Ended
                    && call.legs.iter().any(|(_, leg)| {
                        leg.party() == Some(Party::Peer(home))
                            && leg.state() != LegState::Ended
                            && leg.number().as_str() == lease.number
                    })
            })
        };
        let holds = |lease: &HeldLease| self.hosting.holder.holds(home, lease) || has_call(lease);
        Answer::Holds(leases.iter().map(holds).collect())
    }
}

//! Leases of our agents that other CCBs ask for, as the agents' home sees them (S3-006 to S3-008, G-01 to G-08).

use std::time::Duration;

use abi::{CallState, Command, LeaseState, Party, Purpose, SecretRow};
use base::{AgentSlot, CcbId, Instant, Medium, TenantId};

use super::Blade;
use super::cluster::Waiting;
use super::hosting::Ear;
use super::side::{self, Side};
use crate::calls::Changed;
use crate::cdm::CcbStatus;
use crate::cluster::{
    Answer, BladeName, Denial, Grant, LeaseRequest, Question, REPORT_LIFE_MS, Say, Token,
};
use crate::hosting::{Act, Desk, Glare, Presence};
use crate::login::{LoginKey, Phone};
use crate::message::Output;
use crate::seat::SeatState;

/// How long a request waits for an agent's own call whose aim is not known yet, or that gives way, in milliseconds.
const SETTLE_MS: u64 = 400;
/// How often such a request is looked at.
const LOOK_MS: u64 = 10;
/// Such looks at least, before an agent is busy for whoever asks: a process that was not run for a while has let time
/// pass without looking.
const LOOKS: u32 = 10;
/// Requests that wait at a time; of more the agents are busy.
const WAITS: usize = 1_024;

/// A request that cannot be answered yet.
#[derive(Debug)]
pub(super) struct Wait {
    until: Instant,
    /// Times it was looked at since it began, or since the agent's own call gave way.
    looks: u32,
    from: BladeName,
    request: LeaseRequest,
    /// The question of the bus; none when a CCB of this blade asks.
    reply: Option<u64>,
}

/// What is known of a request for an agent.
#[expect(clippy::large_enum_variant, reason = "it lives for one request, on the stack")]
enum Decision {
    Answer(Result<Grant, Denial>),
    /// The agent's own call goes somewhere, and it is not known yet where.
    NotYet,
    /// The agent's own call was told to end.
    GivesWay,
}

/// Whose call goes on.
enum Meeting {
    /// The agent is to be had, as far as its own call goes.
    None,
    Refused(Denial),
    NotYet,
    GivesWay,
}

/// A lease as status tools show it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseView {
    /// The agent's tenant.
    pub tenant: TenantId,
    /// The agent's directory number.
    pub number: String,
    /// The agent's home.
    pub owner: CcbId,
    /// Who has the agent; none while it is asked for.
    pub holder: CcbId,
    /// What for.
    pub purpose: Purpose,
    /// The lease, once it was granted.
    pub fence: Option<abi::Fence>,
    /// `asked`, `reserved` or `bound` at the home, `virtual` or `dialled` at the holder.
    pub state: &'static str,
    /// Since when.
    pub since: Instant,
}

impl Wait {
    /// From now on there is time to see what becomes of the agent's own call.
    fn begin(&mut self, now: Instant) {
        self.until = now + Duration::from_millis(SETTLE_MS);
        self.looks = 0;
    }

    fn is_last(&self, now: Instant) -> bool {
        now >= self.until && self.looks >= LOOKS
    }
}

impl Blade {
    /// Another CCB asks for an agent of ours; `reply` is the bus's question.
    pub(super) fn lease_asked(
        &mut self,
        now: Instant,
        from: BladeName,
        request: LeaseRequest,
        reply: Option<u64>,
        out: &mut Vec<Output>,
    ) {
        // What its worker has told of the agent's own call is in the ring.
        self.pump_all(now, out);
        let mut wait = Wait { until: now, looks: 0, from, request, reply };
        wait.begin(now);
        if self.hosting.waits.len() >= WAITS {
            wait.until = now;
            wait.looks = LOOKS;
        }
        self.hosting.look_at = match self.hosting.waits.is_empty() {
            true => now + Duration::from_millis(LOOK_MS),
            false => self.hosting.look_at,
        };
        self.look_at_wait(now, wait, out);
    }

    /// Looks again at the requests that wait.
    pub(super) fn look_at_waits(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.hosting.waits.is_empty() {
            return;
        }
        let is_due = now >= self.hosting.look_at;
        for mut wait in std::mem::take(&mut self.hosting.waits) {
            wait.looks += u32::from(is_due);
            self.look_at_wait(now, wait, out);
        }
        if is_due {
            self.hosting.look_at = now + Duration::from_millis(LOOK_MS);
        }
    }

    fn look_at_wait(&mut self, now: Instant, mut wait: Wait, out: &mut Vec<Output>) {
        match self.decide(now, &wait, out) {
            Decision::Answer(answer) => return self.say_lease(now, wait, answer, out),
            // Its worker needs a while for that, whatever time went before.
            Decision::GivesWay => wait.begin(now),
            Decision::NotYet => {}
        }
        self.hosting.waits.push(wait);
    }

    fn say_lease(
        &mut self,
        now: Instant,
        wait: Wait,
        answer: Result<Grant, Denial>,
        out: &mut Vec<Output>,
    ) {
        let Wait { from, request, reply, .. } = wait;
        if let Some(reply) = reply {
            let answer = Box::new(Answer::Lease(answer));
            return out.push(Output::Bus(Say::Reply { reply, answer }));
        }
        let whose = (from, request.tenant);
        self.lease_answered(now, request.id, whose, Some(answer), out);
    }

    /// Where an agent of ours is.
    pub(super) fn desk_of(
        &self,
        tenant: TenantId,
        number: &str,
    ) -> Option<(CcbId, AgentSlot, LoginKey)> {
        self.sides.iter().find_map(|(ccb, side)| {
            let (slot, row) = side.region()?.agents().find_number(tenant, number.as_bytes())?;
            let login = side.by_slot.get(&slot).filter(|login| login.epoch == row.login_epoch)?;
            Some((*ccb, slot, *login))
        })
    }

    /// The answer to a request, when it is known.
    fn decide(&mut self, now: Instant, wait: &Wait, out: &mut Vec<Output>) -> Decision {
        let Wait { from, request, .. } = wait;
        let Some((ccb, slot, login)) = self.desk_of(request.tenant, &request.number) else {
            let cluster = self.cluster.as_ref();
            let moved = cluster.is_some_and(|cluster| {
                let home = cluster.homes.get(&(request.tenant, request.number.clone()));
                home.is_some_and(|home| home.blade != cluster.name)
            });
            return Decision::Answer(Err(if moved { Denial::Moved } else { Denial::LoggedOut }));
        };
        if let Some(answer) = self.hosting.home(ccb).answered(from, request) {
            return Decision::Answer(answer.clone());
        }
        let refusal = self.refusal(ccb, login, request.purpose);
        let meeting = match refusal {
            Some(denial) => Meeting::Refused(denial),
            None => self.meets(now, (ccb, slot), login, wait, out),
        };
        let answer = match meeting {
            Meeting::NotYet => return Decision::NotYet,
            Meeting::GivesWay => return Decision::GivesWay,
            Meeting::Refused(denial) => Err(denial),
            Meeting::None => self.win(now, (ccb, slot), login, from, request),
        };
        self.hosting.home(ccb).remember(from, request, answer.clone());
        Decision::Answer(answer)
    }

    /// Why an agent is not to be had, whoever asks. A queue gets nobody who does not take its calls: what its owner
    /// was told of the agent may be older than what the agent says here.
    fn refusal(&self, ccb: CcbId, login: LoginKey, purpose: Purpose) -> Option<Denial> {
        match self.cdm.ccb(ccb).map(|known| known.status) {
            Some(CcbStatus::Normal) => {}
            Some(CcbStatus::Draining) => return Some(Denial::Draining),
            _ => return Some(Denial::OwnerAway),
        }
        let entry = self.logins.get(&login);
        match entry.map(|entry| (entry.login.phone, entry.seat.state())) {
            Some((Phone::Registered, SeatState::NotReady(why))) if purpose == Purpose::Queue => {
                Some(Denial::NotReady(why.as_str().to_owned()))
            }
            Some((Phone::Registered, state @ SeatState::AfterCall(_)))
                if purpose == Purpose::Queue =>
            {
                Some(Denial::NotReady(state.name().to_owned()))
            }
            Some((Phone::Registered, _)) => None,
            _ => Some(Denial::NotRegistered),
        }
    }

    /// The agent may be calling: whose call goes on when the two call each other (G-03)?
    fn meets(
        &mut self,
        now: Instant,
        (ccb, slot): (CcbId, AgentSlot),
        login: LoginKey,
        wait: &Wait,
        out: &mut Vec<Output>,
    ) -> Meeting {
        let glare = self.hosting.holder.glare(login.agent, &wait.request);
        let glare = glare.map(|(whose, id, session)| (whose, id, session.call.clone()));
        match glare {
            Some((Glare::Ours, ..)) => return Meeting::Refused(Denial::Glare),
            Some((Glare::Theirs, id, wants)) => {
                self.hosting.holder.over(id);
                if let Some(side) = self.sides.get_mut(&wants.ccb) {
                    let (ask, call) = (wants.ask, wants.call);
                    let command = |op| Command::Yield { op, ask, call };
                    side.send(now, wants.worker, side::Purpose::Answer, &[], command, out);
                }
                return Meeting::GivesWay;
            }
            None => {}
        }
        let is_known = wait.is_last(now) || self.is_aim_known(ccb, slot, login);
        if is_known { Meeting::None } else { Meeting::NotYet }
    }

    /// Whether the agent calls nobody, or it is known whom.
    fn is_aim_known(&self, ccb: CcbId, slot: AgentSlot, login: LoginKey) -> bool {
        let side = self.sides.get(&ccb);
        let Some((side, region)) = side.and_then(|side| Some((side, side.region()?))) else {
            return true;
        };
        let is_calling = match region.leases().read(slot, Medium::Voice) {
            LeaseState::Reserved { holder, purpose, .. } => {
                (holder, purpose) == (ccb, Purpose::Outgoing)
            }
            LeaseState::Bound { holder, purpose, open, .. } => {
                (holder, purpose, open) == (ccb, Purpose::Outgoing, false)
            }
            _ => false,
        };
        if !is_calling {
            return true;
        }
        // Whom it calls is known when its call goes somewhere, or when we asked somebody for it.
        let agent = Some(Party::Agent(slot, login.epoch));
        side.calls.iter().any(|call| {
            let is_its = call.legs.first().is_some_and(|(_, leg)| leg.party() == agent);
            let goes = match call.row.state() {
                CallState::Calling | CallState::Ringing | CallState::Answered => true,
                CallState::Asked => {
                    let mut sessions = self.hosting.holder.sessions();
                    sessions.any(|(_, session)| session.call.call == call.call)
                }
                CallState::Free | CallState::Ended => false,
            };
            is_its && goes
        })
    }

    /// Wins the word, mints the token, and says all that is known of the agent (S2-008, S2-012).
    fn win(
        &mut self,
        now: Instant,
        (ccb, slot): (CcbId, AgentSlot),
        login: LoginKey,
        from: &BladeName,
        request: &LeaseRequest,
    ) -> Result<Grant, Denial> {
        let away = || Denial::OwnerAway;
        let side = self.sides.get(&ccb).ok_or_else(away)?;
        let region = side.region().ok_or_else(away)?;
        let entry = self.logins.get(&login).ok_or(Denial::LoggedOut)?;
        let is_here = self.cluster.as_ref().is_none_or(|cluster| cluster.name == *from);
        let hosting = &mut self.hosting;
        let mut token = [0; 16];
        hosting.rng.as_mut().ok_or_else(away)?.fill(&mut token);
        let home = hosting.home(ccb);
        let place = region.locations().read(entry.location).ok_or_else(away)?;
        let leases = region.leases();
        let word = leases.word(slot, Medium::Voice).ok_or_else(away)?;
        let incarnation = region.header().data_plane().incarnation;
        let desk = Desk { slot, word, epoch: login.epoch, incarnation };
        let fence = home.win(now, (!is_here).then_some(from), request, desk)?;
        let secret = region.secrets().read(slot).unwrap_or_default();
        let secret = SecretRow { lease_counter: fence.counter, lease_token: token, ..secret };
        region.secrets().write(slot, &secret);
        Ok(Grant {
            fence,
            token: Token(token),
            home: ccb,
            sip: place.sip(),
            agent: login.agent,
            number: entry.record.number.clone(),
            user: entry.record.user.clone(),
            name: entry.record.name.clone(),
            agent_type: entry.record.agent_type,
            phone: entry.phone_at,
            state: entry.login.state_name().to_owned(),
            ttl_ms: abi::RESERVED_MS as u32,
        })
    }

    /// A holder does not use a grant.
    pub(super) fn lease_given_back(&mut self, fence: abi::Fence, tenant: TenantId, number: &str) {
        for (ccb, home) in &mut self.hosting.homes {
            let is_it = |hosted: &&crate::hosting::Hosted| {
                (hosted.fence, hosted.tenant, hosted.number.as_str()) == (fence, tenant, number)
            };
            let found = home.hosted().find(|(_, hosted)| is_it(hosted));
            let found = found.map(|(slot, hosted)| (slot, hosted.holder));
            let region = self.sides.get(ccb).and_then(Side::region);
            if let Some(((slot, holder), region)) = found.zip(region)
                && let Some(word) = region.leases().word(slot, Medium::Voice)
            {
                home.give_back(slot, word, holder, fence.counter);
            }
        }
    }

    /// Finds out from the words who has agents of a CCB whose region we did not know.
    pub(super) fn rebuild_leases(&mut self, now: Instant, ccb: CcbId) {
        let region = self.sides.get(&ccb).and_then(Side::region);
        let Some(region) = region else { return };
        let home = self.hosting.home(ccb);
        home.clear();
        let incarnation = region.header().data_plane().incarnation;
        for (slot, row) in region.agents().iter() {
            let leases = region.leases();
            if let Some(word) = leases.word(slot, Medium::Voice) {
                let desk = Desk { slot, word, epoch: row.login_epoch, incarnation };
                home.rebuild(now, desk, row.tenant(), row.number().as_str(), None);
            }
        }
    }

    /// Remembers where a call between blades is, and the holder's serial number of it.
    pub(super) fn note_peers(&mut self, now: Instant, ccb: CcbId, changed: &[Changed]) {
        let Some(home) = self.hosting.homes.get(&ccb) else { return };
        for call in changed.iter().map(|changed| &changed.call) {
            let Some(Party::Peer(peer)) = call.legs.first().and_then(|(_, leg)| leg.party()) else {
                continue;
            };
            for (_, leg) in &call.legs {
                let Some(Party::Agent(slot, _)) = leg.party() else { continue };
                let counter = leg.fence_counter;
                let hosted = home.holder_of(slot).filter(|it| it.fence.counter == counter);
                let Some(hosted) = hosted else { continue };
                self.hosting.serials.insert((ccb, call.call), hosted.serial);
                if let Some(queue) = &hosted.queue {
                    self.queueing.came_by((ccb, call.call), hosted.tenant, queue);
                }
                let is_known = |ear: &Ear| (ear.call, ear.counter) == (call.call, counter);
                let known = self.hosting.ears.get(&(ccb, slot));
                if !known.is_some_and(is_known)
                    && let Some(ear) = Ear::of(call, peer, counter, now)
                {
                    self.hosting.ears.insert((ccb, slot), ear);
                }
            }
        }
    }

    /// What is known of a CCB, and its blade.
    pub(super) fn presence(&self, now: Instant, ccb: CcbId) -> (Option<BladeName>, Presence) {
        let name = self.cluster.as_ref().map(|cluster| cluster.name.clone());
        if let Some(side) = self.sides.get(&ccb) {
            let region = side.region().filter(|_| side.link);
            let is = region.map_or(Presence::Gone, |region| {
                Presence::Here(region.header().data_plane().incarnation)
            });
            return (name.or_else(|| Some("".into())), is);
        }
        let Some(cluster) = self.cluster.as_ref() else { return (None, Presence::Unknown) };
        let listened = self.listens_for_long(now);
        match cluster.ccb(now, ccb) {
            Some((blade, report)) if report.incarnation != 0 => {
                (Some(blade.clone()), Presence::Here(report.incarnation))
            }
            _ if !cluster.connected || !listened => (None, Presence::Unknown),
            Some((blade, _)) => (Some(blade.clone()), Presence::Gone),
            None => (None, Presence::Gone),
        }
    }

    /// Whether the bus has been there for as long as a report lives.
    fn listens_for_long(&self, now: Instant) -> bool {
        let life = Duration::from_millis(REPORT_LIFE_MS);
        self.hosting.heard_since.is_some_and(|since| now >= since + life)
    }

    /// True of one of several blades until it has heard once where the agents of the others are.
    pub(super) fn is_blind(&self, now: Instant) -> bool {
        let has_listened = self.hosting.has_listened || self.listens_for_long(now);
        self.cluster.is_some() && !has_listened
    }

    /// Looks at our agents that others have.
    pub(super) fn check_leases(&mut self, now: Instant, out: &mut Vec<Output>) {
        let ccbs: Vec<CcbId> = self.hosting.homes.keys().copied().collect();
        self.hosting.has_listened |= self.listens_for_long(now);
        for ccb in ccbs {
            let Some(region) = self.sides.get(&ccb).and_then(Side::region) else { continue };
            let Some(mut home) = self.hosting.homes.remove(&ccb) else { continue };
            let ears =
                self.hosting.ears.range_mut((ccb, AgentSlot(0))..=(ccb, AgentSlot(u32::MAX)));
            ears.for_each(|(_, ear)| ear.listen(&region, now));
            let leases = region.leases();
            let heard = |slot: AgentSlot, counter: u32| {
                let ear = self.hosting.ears.get(&(ccb, slot))?;
                (ear.counter == counter).then_some(ear.at)
            };
            let word_of = |slot| leases.word(slot, Medium::Voice);
            let presence = |holder| self.presence(now, holder);
            let mut acts = Vec::new();
            home.check(now, word_of, presence, heard, &mut acts);
            self.hosting.homes.insert(ccb, home);
            for act in acts {
                self.lease_act(now, ccb, act, out);
            }
        }
    }

    fn lease_act(&mut self, now: Instant, ccb: CcbId, act: Act, out: &mut Vec<Output>) {
        match act {
            Act::Over(slot, _) => _ = self.hosting.ears.remove(&(ccb, slot)),
            Act::Probe(slot, counter) => {
                let ear = self.hosting.ears.get(&(ccb, slot)).copied();
                let region = self.sides.get(&ccb).and_then(Side::region);
                let ear = ear.filter(|ear| ear.counter == counter);
                if let Some((ear, region)) = ear.zip(region)
                    && let Some(worker) = region.calls().owner(ear.call.slot)
                {
                    self.probe(now, ccb, worker, ear, out);
                }
            }
            Act::End(slot, counter) => {
                let ear = self.hosting.ears.get(&(ccb, slot)).filter(|it| it.counter == counter);
                let call = ear.map(|ear| ear.call);
                let Some(side) = self.sides.get(&ccb) else { return };
                let Some(region) = side.region() else { return };
                let worker = call.and_then(|call| region.calls().owner(call.slot));
                match call.zip(worker) {
                    Some((call, worker)) => self.end_silent(now, ccb, worker, call, out),
                    // Nobody has a leg of it any more, unless a call of ours shares it.
                    None if side.link && !side.has_leg_of(slot) => {
                        let holder = region.leases().read(slot, Medium::Voice).holder();
                        if let Some(holder) = holder.filter(|holder| *holder != ccb) {
                            region.leases().settle(slot, Medium::Voice, holder, counter, (0, 0));
                        }
                    }
                    None => {}
                }
            }
            Act::AskHolder(blade, holder, lease) => match self.cluster.as_mut() {
                Some(cluster) if cluster.name != blade => {
                    let question = Question::Holds { ccb, leases: vec![lease.clone()] };
                    cluster.ask(blade, question, Waiting::Holds { ccb, holder, lease }, out);
                }
                _ => {
                    let answer = self.say_holds(ccb, std::slice::from_ref(&lease));
                    self.holder_says(now, ccb, (holder, &lease), Some(answer));
                }
            },
        }
    }

    /// A holder says whether it holds a lease of ours.
    pub(super) fn holder_says(
        &mut self,
        now: Instant,
        ccb: CcbId,
        (holder, lease): (CcbId, &crate::cluster::HeldLease),
        answer: Option<Answer>,
    ) {
        let Some(Answer::Holds(does)) = answer else { return };
        let Presence::Here(incarnation) = self.presence(now, holder).1 else { return };
        if let (Some(home), Some(does)) = (self.hosting.homes.get_mut(&ccb), does.first()) {
            home.holds(now, lease, incarnation, *does);
        }
    }

    /// The leases of our agents that others have, and of others' agents that we have or ask for.
    pub fn leases(&self) -> Vec<LeaseView> {
        let away = self.hosting.homes.iter().flat_map(|(ccb, home)| {
            home.hosted().map(|(_, hosted)| LeaseView {
                tenant: hosted.tenant,
                number: hosted.number.clone(),
                owner: *ccb,
                holder: hosted.holder,
                purpose: hosted.purpose,
                fence: Some(hosted.fence),
                state: if hosted.bound { "bound" } else { "reserved" },
                since: hosted.since,
            })
        });
        let here = self.hosting.holder.sessions().map(|(_, session)| LeaseView {
            tenant: session.wanted.tenant,
            number: session.wanted.number.clone(),
            owner: session.wanted.home,
            holder: session.wanted.holder,
            purpose: session.wanted.purpose,
            fence: session.fence(),
            state: session.stage.name(),
            since: session.since,
        });
        away.chain(here).collect()
    }
}

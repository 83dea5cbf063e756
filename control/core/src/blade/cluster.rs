//! A blade among others: what it hears of them, what it asks them, what it tells them of itself.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use base::{CcbId, Instant, Rng, TenantId};

use super::enter::Entering;
use super::homes::Homes;
use super::leader::Leadership;
use super::pooling::Ordered;
use super::{BEAT_MS, Blade, Side};
use crate::acd::CallerId;
use crate::cdm::{CcbStatus, Cdm, Strategy};
use crate::cluster::{
    ASK_MS, Answer, BladeName, CcbReport, Claim, Fact, Heard, HeldLease, Home, Key, Placed,
    Question, REPORT_LIFE_MS, REPORT_MS, Report, Say, To,
};
use crate::desk::Carried;
use crate::login::LoginKey;
use crate::message::Output;
use crate::pool::SlotId;

/// Reports that a change brings forward are at least so far apart, in milliseconds.
const HURRIED_MS: u64 = 100;
/// Logins that a report names as taken over at most; more come with the next one.
const TAKEN_A_REPORT: usize = 4_096;
/// Who was paused for longer looks at what waits for it before its timers, in milliseconds.
const PAUSED_MS: u64 = 250;

/// What a blade knows of the others.
#[derive(Debug)]
pub(super) struct Cluster {
    /// Our name on the bus.
    pub(super) name: BladeName,
    /// A number that no earlier control process of ours had.
    pub(super) incarnation: u64,
    /// When we joined the others.
    pub(super) joined_at: Instant,
    /// True while the bus is there.
    pub(super) connected: bool,
    /// The newest report of each blade, and when we heard it.
    pub(super) reports: BTreeMap<BladeName, (Instant, Report)>,
    /// None of them is too old before then: with a thousand blades a look at all with every message would be most of
    /// what the core does.
    old_at: Instant,
    /// Where the agents of directory numbers are.
    pub(super) homes: BTreeMap<(TenantId, String), Home>,
    /// The CCBs of all blades: what a leader chooses from.
    pub(super) cdm: Cdm,
    /// Which blade each of them is at.
    pub(super) blades: BTreeMap<CcbId, BladeName>,
    /// What concerns our own homes.
    pub(super) own: Homes,
    /// Who leads.
    pub(super) leadership: Leadership,
    pub(super) rng: Rng,
    /// Our number and where we take logins, when we are an AgentProxy and nothing else.
    pub(super) agent_proxy: Option<(u16, Vec<SocketAddr>)>,
    /// The report that must come back before we grant anything, after a pause.
    unconfirmed: Option<u64>,
    /// Logins taken over since the last report.
    taken: BTreeMap<CcbId, Vec<LoginKey>>,
    sequence: u64,
    reported_at: Instant,
    report_at: Instant,
    /// Our questions that are not answered yet, and what they are for.
    asked: BTreeMap<u64, Waiting>,
    next_ask: u64,
}

/// What goes on with an answer.
#[derive(Debug)]
pub(super) enum Waiting {
    /// A caller of ours who was sent to the owner of a queue.
    QueueJoined { caller: CallerId },
    /// A caller of another blade who is offered to an agent.
    QueueOffered { caller: CallerId, agent: LoginKey },
    /// A login that asked the leader for a place.
    Placed(Box<Entering>),
    /// A login whose agent had an older one elsewhere, and its place.
    Left(Box<Entering>, Placed),
    /// A login that another blade is to grant.
    Entered(Box<Entering>, Placed),
    /// Somebody who wants to know whether a login stood.
    Logout {
        /// Comes back with the answer.
        reply: u64,
    },
    /// Nobody.
    Nothing,
    /// A desk whose order was carried; the order too, while another blade may have to be asked.
    Desk { reply: u64, carried: Option<Box<Carried>> },
    /// The session of a call that asks for an agent of that blade.
    Lease { id: u64, blade: BladeName, tenant: TenantId },
    /// An order for a slot of that blade.
    Pool(Box<Ordered>),
    /// A lease of a CCB of ours, which its holder is asked about.
    Holds { ccb: CcbId, holder: CcbId, lease: HeldLease },
}

/// The other blades as status tools show them.
#[derive(Clone, Debug)]
pub struct ClusterView {
    /// Our name.
    pub name: BladeName,
    /// True while the bus is there.
    pub connected: bool,
    /// False after a pause, until a report of ours came back.
    pub confirmed: bool,
    /// Who leads the CDM, as far as we know.
    pub leader: Option<BladeName>,
    /// Our term while it is us.
    pub term: Option<u64>,
    /// How many agents' homes we know.
    pub homes: usize,
    /// How CCBs are chosen.
    pub strategy: Strategy,
    /// The blades whose report is not too old.
    pub blades: Vec<BladeView>,
}

/// One blade as status tools show it.
#[derive(Clone, Debug)]
pub struct BladeView {
    /// Its name.
    pub name: BladeName,
    /// How old its last report is, in milliseconds.
    pub age_ms: u64,
    /// What it reported.
    pub report: Report,
}

impl Cluster {
    fn new(now: Instant, name: BladeName, incarnation: u64, strategy: Strategy) -> Self {
        Cluster {
            rng: Rng::from_number(
                incarnation ^ name.bytes().fold(0, |sum, b| sum * 31 + u64::from(b)),
            ),
            name,
            incarnation,
            joined_at: now,
            connected: false,
            reports: BTreeMap::new(),
            old_at: now,
            homes: BTreeMap::new(),
            cdm: Cdm::new(strategy),
            blades: BTreeMap::new(),
            own: Homes::default(),
            leadership: Leadership::new(now),
            agent_proxy: None,
            unconfirmed: None,
            taken: BTreeMap::new(),
            sequence: 0,
            reported_at: now,
            report_at: now,
            asked: BTreeMap::new(),
            next_ask: 0,
        }
    }

    /// The report that stands of a CCB and its blade's name; none that is too old.
    pub(super) fn ccb(&self, now: Instant, ccb: CcbId) -> Option<(&BladeName, &CcbReport)> {
        let (blade, (at, report)) = self.reports.get_key_value(self.blades.get(&ccb)?)?;
        let is_fresh = now < *at + Duration::from_millis(REPORT_LIFE_MS);
        is_fresh.then_some((blade, report.ccbs.get(&ccb.0)?))
    }

    /// True while this blade may act for others: it is not just back from a pause.
    pub(super) fn is_confirmed(&self) -> bool {
        self.unconfirmed.is_none()
    }

    /// The claim that we make.
    pub(super) fn claim(&self) -> Claim {
        Claim { blade: self.name.clone(), incarnation: self.incarnation }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.report_at.min(self.leadership.deadline())
    }

    /// Asks a blade something.
    pub(super) fn ask(
        &mut self,
        to: BladeName,
        question: Question,
        waiting: Waiting,
        out: &mut Vec<Output>,
    ) {
        self.ask_within(ASK_MS, to, question, waiting, out);
    }

    /// The same, waiting for so long, in milliseconds.
    pub(super) fn ask_within(
        &mut self,
        within_ms: u64,
        to: BladeName,
        question: Question,
        waiting: Waiting,
        out: &mut Vec<Output>,
    ) {
        self.next_ask += 1;
        let ask = self.next_ask;
        self.asked.insert(ask, waiting);
        let (to, question) = (To::Blade(to), Box::new(question));
        out.push(Output::Bus(Say::Ask { ask, to, question, within_ms }));
    }

    /// A login was granted here: the next report says so.
    pub(super) fn took(&mut self, ccb: CcbId, login: LoginKey) {
        self.taken.entry(ccb).or_default().push(login);
    }

    fn take_report(&mut self, now: Instant, blade: BladeName, report: Report) {
        if blade == self.name
            && report.incarnation == self.incarnation
            && self.unconfirmed.is_some_and(|sequence| sequence <= report.sequence)
        {
            self.unconfirmed = None;
        }
        for (ccb, report) in &report.ccbs {
            self.blades.insert(CcbId(*ccb), blade.clone());
            self.cdm.report_of(CcbId(*ccb), report);
        }
        let before = self.reports.insert(blade.clone(), (now, report));
        let is = &self.reports[&blade].1.ccbs;
        let gone = before.into_iter().flat_map(|(_, report)| report.ccbs);
        let gone: Vec<u16> = gone.map(|(ccb, _)| ccb).filter(|ccb| !is.contains_key(ccb)).collect();
        self.shut(&blade, gone.into_iter());
    }

    /// A blade says no more: its CCBs are not given out.
    fn drop_report(&mut self, blade: &BladeName) {
        if let Some((_, report)) = self.reports.remove(blade) {
            self.shut(blade, report.ccbs.into_keys());
        }
    }

    fn shut(&mut self, blade: &BladeName, ccbs: impl Iterator<Item = u16>) {
        for ccb in ccbs.map(CcbId) {
            if self.blades.get(&ccb) == Some(blade) {
                self.blades.remove(&ccb);
                self.cdm.set_status(ccb, CcbStatus::Down);
            }
        }
    }

    fn drop_old(&mut self, now: Instant) {
        if now < self.old_at {
            return;
        }
        let life = Duration::from_millis(REPORT_LIFE_MS);
        let is_old = |(at, _): &(Instant, Report)| now >= *at + life;
        let old = self.reports.iter().filter(|(_, report)| is_old(report));
        for blade in old.map(|(blade, _)| blade.clone()).collect::<Vec<_>>() {
            self.drop_report(&blade);
        }
        // One that comes from now on is young for a whole life.
        let oldest = self.reports.values().map(|(at, _)| *at).min().unwrap_or(now);
        self.old_at = oldest + life;
    }
}

impl Blade {
    /// Makes this blade one of several that meet on a bus. `incarnation` is a number that no earlier control process
    /// of that blade had; `strategy` is how it chooses when it leads.
    pub fn join(&mut self, name: BladeName, incarnation: u64, strategy: Strategy) {
        self.hosting.join(incarnation);
        self.cluster = Some(Cluster::new(self.handled_at, name, incarnation, strategy));
    }

    /// Makes this blade, which has joined others and has no CCB, the AgentProxy of that number (S1-067), which takes
    /// logins at `http`. It leads nobody.
    pub fn become_agent_proxy(&mut self, number: u16, http: Vec<SocketAddr>) {
        if let Some(cluster) = self.cluster.as_mut() {
            cluster.agent_proxy = Some((number, http));
        }
    }

    /// The others, for status tools; none when it is alone.
    pub fn cluster(&self, now: Instant) -> Option<ClusterView> {
        let cluster = self.cluster.as_ref()?;
        let view = |(name, (at, report)): (&BladeName, &(Instant, Report))| BladeView {
            name: name.clone(),
            age_ms: u64::try_from(now.since(*at).as_millis()).unwrap_or(u64::MAX),
            report: report.clone(),
        };
        let life = u128::from(REPORT_LIFE_MS);
        let fresh = cluster.reports.iter().filter(|(_, (at, _))| now.since(*at).as_millis() < life);
        Some(ClusterView {
            name: cluster.name.clone(),
            connected: cluster.connected,
            confirmed: cluster.is_confirmed(),
            leader: cluster.leader(now),
            term: cluster.term(now),
            homes: cluster.homes.len(),
            strategy: cluster.cdm.strategy(),
            blades: fresh.map(view).collect(),
        })
    }

    /// True when a CCB of ours, or of a blade that we hear, runs normally.
    pub fn serves(&self) -> bool {
        let all = self.cluster.iter().filter(|cluster| cluster.connected);
        let mut ccbs = self.cdm.iter().chain(all.flat_map(|cluster| cluster.cdm.iter()));
        ccbs.any(|(_, ccb)| ccb.status == CcbStatus::Normal)
    }

    /// Takes what the bus says.
    pub(super) fn heard(&mut self, now: Instant, heard: Heard, out: &mut Vec<Output>) {
        let Some(cluster) = self.cluster.as_mut() else { return };
        match heard {
            Heard::Connected(is) => self.connected(now, is, out),
            Heard::Asked { reply, from, question } => {
                if let Some(answer) = self.answer_question(now, &from, reply, *question, out) {
                    out.push(Output::Bus(Say::Reply { reply, answer: Box::new(answer) }));
                }
            }
            Heard::Answered { ask, answer } => {
                if let Some(waiting) = cluster.asked.remove(&ask) {
                    self.answered(now, waiting, answer.map(|answer| *answer), out);
                }
            }
            Heard::Fact { key: Key::Blade(blade), fact } => match fact {
                Some(Fact::Blade(report)) => {
                    if blade == cluster.name && report.incarnation == cluster.incarnation {
                        self.hosting.reported(now, report.sequence);
                    }
                    cluster.take_report(now, blade, report);
                }
                _ => cluster.drop_report(&blade),
            },
            Heard::Fact { key: Key::Number(tenant, number), fact } => {
                let home = match fact {
                    Some(Fact::Home(home)) => Some(home),
                    _ => None,
                };
                self.home_heard(now, (tenant, number), home, out);
            }
            Heard::Fact { key: Key::Leader, fact } => {
                let claim = match fact {
                    Some(Fact::Claim(claim)) => Some(claim),
                    _ => None,
                };
                cluster.leader_heard(now, claim, out);
            }
            Heard::Claimed { key: Key::Leader, term } => cluster.claimed(now, term, out),
            Heard::Fact { key: Key::Queue(tenant, name), fact } => {
                let claim = match fact {
                    Some(Fact::Claim(claim)) => Some(claim),
                    _ => None,
                };
                self.queue_fact(now, (tenant, name), claim, out);
            }
            Heard::Claimed { key: Key::Queue(tenant, name), term } => {
                self.queue_claimed(now, (tenant, name), term, out);
            }
            Heard::Claimed { key: Key::Blade(_) | Key::Number(..), .. } => {}
        }
    }

    /// The bus is there, or is gone. With it, all is told again; without it, we go on alone.
    fn connected(&mut self, now: Instant, is: bool, out: &mut Vec<Output>) {
        let Some(cluster) = self.cluster.as_mut() else { return };
        if cluster.connected != is {
            self.hosting.heard_since = is.then_some(now);
        }
        cluster.connected = is;
        // What is asked and never answered is answered by the bus; what nobody may confirm needs no confirming.
        cluster.unconfirmed = None;
        cluster.bus_changed(now, is, out);
        if is {
            cluster.own.put_all();
            cluster.report_at = now;
            self.pool.slots.forget_terms();
        }
    }

    /// What we say to a question; none when it is said later.
    fn answer_question(
        &mut self,
        now: Instant,
        from: &BladeName,
        reply: u64,
        question: Question,
        out: &mut Vec<Output>,
    ) -> Option<Answer> {
        Some(match question {
            Question::Place(place) => self.place_for_other(now, &place),
            Question::Login { ccb, request, turn } => {
                self.login_for_other(now, (ccb, turn), *request, out)
            }
            Question::Leave { login, force } => {
                Answer::Left(self.leave_older(now, login, force, out))
            }
            Question::Logout { login, end } => {
                let stood = self.is_alive(login);
                self.end(now, login, end, out);
                Answer::Left(stood)
            }
            Question::Lease(request) => {
                self.lease_asked(now, from.clone(), request, Some(reply), out);
                return None;
            }
            Question::GiveBack { fence, tenant, number } => {
                self.lease_given_back(fence, tenant, &number);
                Answer::GivenBack
            }
            Question::Holds { ccb, leases } => self.say_holds(ccb, &leases),
            Question::Desk(carried) => {
                self.carried(now, reply, carried, out);
                return None;
            }
            Question::Pool(request) => self.pool_request(now, from, request, out),
            question @ (Question::QueueJoin { .. }
            | Question::QueueLeave { .. }
            | Question::QueueOffer { .. }
            | Question::QueueOutcome { .. }
            | Question::QueueAgents { .. }
            | Question::QueueUnanswered { .. }) => {
                Answer::Queue(self.queue_asked(now, from, question, out))
            }
        })
    }

    /// Goes on with the answer to a question of ours.
    fn answered(
        &mut self,
        now: Instant,
        waiting: Waiting,
        answer: Option<Answer>,
        out: &mut Vec<Output>,
    ) {
        match waiting {
            Waiting::Placed(entering) => self.entering_placed(now, entering, answer, out),
            Waiting::Left(entering, placed) => match answer {
                Some(Answer::Left(false)) => entering.in_call(out),
                // Who does not answer is dead, and took the older login along.
                _ => self.enter_at(now, entering, placed, out),
            },
            Waiting::Entered(entering, placed) => {
                self.entered(now, entering, placed, answer, out);
            }
            Waiting::Logout { reply } => {
                let stood = matches!(answer, Some(Answer::Left(true)));
                out.push(Output::Left { reply, stood });
            }
            Waiting::Lease { id, blade, tenant } => {
                let answer = match answer {
                    Some(Answer::Lease(answer)) => Some(answer),
                    _ => None,
                };
                self.lease_answered(now, id, (blade, tenant), answer, out);
            }
            Waiting::Holds { ccb, holder, lease } => {
                self.holder_says(now, ccb, (holder, &lease), answer);
            }
            Waiting::Nothing => {}
            Waiting::Desk { reply, carried } => {
                self.carried_answered(reply, carried, answer, out);
            }
            Waiting::Pool(ordered) => self.pool_answered(now, ordered, answer, out),
            Waiting::QueueJoined { caller } => self.queue_joined(now, caller, answer, out),
            Waiting::QueueOffered { caller, agent } => {
                self.offer_heard(now, (caller, agent), answer, out);
            }
        }
    }

    /// What is due among blades.
    pub(super) fn tick_cluster(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(cluster) = self.cluster.as_mut() else { return };
        cluster.drop_old(now);
        cluster.lapse_placed(now);
        cluster.lead(now, out);
        if now >= cluster.report_at {
            self.report_all(now, out);
        }
    }

    /// Something changed that others should know before the next report is due.
    pub(super) fn report_soon(&mut self) {
        if let Some(cluster) = self.cluster.as_mut() {
            let soon = cluster.reported_at + Duration::from_millis(HURRIED_MS);
            cluster.report_at = cluster.report_at.min(soon);
        }
    }

    /// Tells all how we do (S1-052). What we know of ourselves needs no bus.
    fn report_all(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(cluster) = self.cluster.as_mut() else { return };
        cluster.sequence += 1;
        (cluster.reported_at, cluster.report_at) = (now, now + Duration::from_millis(REPORT_MS));
        let mut ccbs = BTreeMap::new();
        for (ccb, side) in &self.sides {
            let mut taken = cluster.taken.remove(ccb).unwrap_or_default();
            if taken.len() > TAKEN_A_REPORT {
                cluster.taken.insert(*ccb, taken.split_off(TAKEN_A_REPORT));
            }
            if let Some(known) = self.cdm.ccb(*ccb) {
                let mut report = report_of(side, known, taken);
                (report.slot, report.stops_in_s) = self.pool.told(now, SlotId::Ccb(*ccb));
                ccbs.insert(ccb.0, report);
            }
        }
        let (agent_proxy, http) = cluster.agent_proxy.clone().unzip();
        let report = Report {
            incarnation: cluster.incarnation,
            sequence: cluster.sequence,
            ccbs,
            is_agent_proxy: true,
            agent_proxy,
            http: http.unwrap_or_default(),
            logins_s: self.pool.shared.logins_s,
            proxies: self.pool.proxies(),
        };
        let report_number = report.sequence;
        let unconfirmed = cluster.unconfirmed;
        cluster.take_report(now, cluster.name.clone(), report.clone());
        // Only what came back over the bus confirms.
        cluster.unconfirmed = unconfirmed;
        if cluster.connected {
            let (key, fact) = (Key::Blade(cluster.name.clone()), Some(Fact::Blade(report)));
            out.push(Output::Bus(Say::Put { key, fact }));
            self.hosting.reports(now, report_number);
        }
        self.put_homes(out);
    }

    /// Takes note of a clock that jumped: the process, or the machine, was paused.
    pub(super) fn notice_pause(&mut self, now: Instant, out: &mut Vec<Output>) {
        let before = std::mem::replace(&mut self.handled_at, now);
        // Between two inputs there is never more than the time to the next beat.
        let late = now.since(before).saturating_sub(Duration::from_millis(BEAT_MS));
        if late > Duration::from_millis(PAUSED_MS) {
            self.paused_until = Some(now + Duration::from_millis(PAUSED_MS));
            self.cluster_paused(now, now.since(before), out);
        }
    }

    /// We gave no sign of life for `paused`. Others may have taken us for dead: until a report of ours came back we
    /// lead nobody and grant nothing.
    fn cluster_paused(&mut self, now: Instant, paused: Duration, out: &mut Vec<Output>) {
        let Some(cluster) = self.cluster.as_mut() else { return };
        if paused < Duration::from_millis(REPORT_LIFE_MS) || !cluster.connected {
            return;
        }
        cluster.unconfirmed = Some(cluster.sequence + 1);
        cluster.report_at = now;
        // Reports of others waited with us: theirs are as old as the pause only if no newer one comes.
        let waited = cluster.reports.values_mut().filter(|(at, _)| *at < now);
        waited.for_each(|(at, _)| *at = now);
        let paused_ms = u64::try_from(paused.as_millis()).unwrap_or(u64::MAX);
        out.push(Output::Paused { paused_ms });
    }

    /// This process stops.
    pub(super) fn farewell(&mut self, out: &mut Vec<Output>) {
        let Some(cluster) = self.cluster.as_mut() else { return };
        out.push(Output::Bus(Say::Put { key: Key::Blade(cluster.name.clone()), fact: None }));
        cluster.resign(out);
        cluster.connected = false;
    }
}

/// How a CCB of ours does.
fn report_of(side: &Side, known: &crate::cdm::Ccb, taken: Vec<LoginKey>) -> CcbReport {
    let region = side.region();
    let locations = region.iter().flat_map(|region| region.locations().iter());
    let locations: Vec<_> =
        locations.filter(|(_, row)| !row.name().is_empty()).map(|(_, row)| row).collect();
    CcbReport {
        status: known.status,
        incarnation: region.as_ref().map_or(0, |region| region.header().data_plane().incarnation),
        online: known.online,
        phones: known.phones,
        granted: known.grants(),
        capacity: known.capacity,
        calls: u32::try_from(side.calls.count()).unwrap_or(u32::MAX),
        sip: locations.first().map(|row| row.sip()),
        locations: locations.iter().map(|row| row.name().as_str().to_owned()).collect(),
        taken,
        slot: None,
        stops_in_s: None,
    }
}

/// The numbers of homes that are to be put.
pub(super) type Numbers = BTreeSet<(TenantId, String)>;

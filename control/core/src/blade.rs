//! One blade's control process without its I/O: the CDM, the logins and the calls of its CCBs, joined.
//!
//! It is driven by [`Blade::handle`] and [`Blade::deadline`]; the regions that it reads and writes are
//! memory, so a simulation drives it with regions that no file backs.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use abi::{Event, LeaseState, Process, Region, SpoolState, TenantRow, TrunkRow};
use base::{AgentSlot, CallRef, CcbId, Instant, LocationId, Medium, TenantId, Text, WorkerId};

use crate::calls::Changed;
use crate::cdm::{CcbStatus, Cdm};
use crate::login::{Login, LoginKey};
use crate::message::{AgentRecord, Collected, Ha1, Input, Output, Provision};
use crate::routes::{Forwards, Routes, TrunkKey};
use crate::seat::{Seat, SeatState};

mod asked;
mod away;
mod cluster;
mod commands;
mod desk;
mod desk_orders;
mod enter;
mod forward;
mod gathering;
mod grant;
mod homes;
mod hosting;
mod leader;
mod leases;
mod order;
mod pool;
mod pooling;
mod queueing;
mod rooms;
mod sharing;
mod side;
mod trunks;

use asked::Asked;
pub use cluster::{BladeView, ClusterView};
pub use leases::LeaseView;
pub use pooling::SlotView;
pub use side::Counts;
use side::Side;
pub use trunks::TrunkView;

/// How often the header is told that control lives and is asked whether the data plane does.
pub const BEAT_MS: u64 = 250;
/// How often tables are looked through for what no event told.
pub const SWEEP_MS: u64 = 1_000;
/// Events taken from one ring before the next one has its turn.
const EVENTS_A_PUMP: usize = 256;

/// The core of a blade's control process.
#[derive(Debug)]
pub struct Blade {
    process: Process,
    cdm: Cdm,
    sides: BTreeMap<CcbId, Side>,
    logins: BTreeMap<LoginKey, Entry>,
    /// The one login that each agent has.
    newest: BTreeMap<(TenantId, u64), LoginKey>,
    sockets: BTreeMap<u64, LoginKey>,
    provision: Provision,
    routes: Routes,
    forwards: Forwards,
    queueing: queueing::Queueing,
    /// None while it is the only blade.
    cluster: Option<cluster::Cluster>,
    held: enter::Held,
    hosting: hosting::Hosting,
    pool: pool::Pool,
    rooms: rooms::Rooms,
    away: away::Away,
    beat_at: Instant,
    sweep_at: Instant,
    /// When the last input came.
    handled_at: Instant,
    /// Until when timers wait, after a pause, for what came meanwhile.
    paused_until: Option<Instant>,
}

/// A login that stands, and where it is.
#[derive(Clone, Debug)]
struct Entry {
    login: Login,
    record: AgentRecord,
    ccb: CcbId,
    slot: AgentSlot,
    location: LocationId,
    ha1: Ha1,
    phone_at: Option<SocketAddr>,
    /// What the row says of the rules of its number: when calls go elsewhere, and after how many seconds.
    forwards: (u32, u32),
    /// What the agent wants and is in.
    seat: Seat,
    /// The calls that the agent has a leg in.
    calls: BTreeSet<CallRef>,
    /// A caller of a queue is on the way.
    offered: bool,
    /// Something that the seat does not show denied the agent to a queue; until then none chooses the agent.
    denied_until: Instant,
    /// How long the agent works after the call that stands.
    after: Duration,
    /// True while its CCB drains.
    draining: bool,
}

/// A login as status tools show it.
#[derive(Clone, Debug)]
pub struct LoginView {
    /// The login.
    pub login: LoginKey,
    /// The agent.
    pub record: AgentRecord,
    /// `granted`, `registered`, `online`, `waiting_for_phone`, `phone_lost` or `lost` (the desk's
    /// WebSocket is gone and its time runs).
    pub state: &'static str,
    /// True while it counts as online.
    pub online: bool,
    /// The CCB that serves it.
    pub ccb: CcbId,
    /// The location's name.
    pub location: String,
    /// Where the phone is, while it is registered.
    pub phone: Option<SocketAddr>,
    /// What the agent does.
    pub seat: SeatState,
    /// The other CCB that has the agent.
    pub hosted: Option<CcbId>,
    /// When it was granted.
    pub since: Instant,
    /// The lease word for calls; held by another CCB, the agent is hosted there.
    pub lease: LeaseState,
}

/// A CCB as status tools show it.
#[derive(Clone, Debug)]
pub struct CcbView {
    /// Its device number.
    pub ccb: CcbId,
    /// How it does.
    pub status: CcbStatus,
    /// True while the link to its data plane stands.
    pub linked: bool,
    /// Logins that are online.
    pub online: u32,
    /// Logins with a phone and no desk.
    pub phones: u32,
    /// Own grants that it does not report yet.
    pub grants: u32,
    /// Logins that it has room for.
    pub capacity: u32,
    /// Calls in its tables.
    pub calls: usize,
    /// Commands that wait for their completion.
    pub open_ops: usize,
    /// What happened on its rings.
    pub counts: Counts,
    /// Its spool of recordings.
    pub spool: SpoolView,
    /// The trunks that its data plane watches.
    pub trunks: Vec<TrunkView>,
    /// Its region as it was last mapped.
    pub region: Option<Arc<Region>>,
}

/// The spools of a CCB's workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SpoolView {
    /// How the worst of them does.
    pub state: SpoolState,
    /// Bytes that they lost since the data plane began.
    pub lost: u64,
}

impl SpoolView {
    fn of(side: &Side) -> SpoolView {
        let worst = side.spool.values().map(|(state, _)| *state).max_by_key(|state| *state as u32);
        let lost = side.spool.values().map(|(_, lost)| lost).sum();
        SpoolView { state: worst.unwrap_or(SpoolState::Writing), lost }
    }
}

impl Blade {
    /// The core of a blade with these CCBs; `process` is what regions are told of it.
    pub fn new(now: Instant, process: Process, ccbs: &[CcbId]) -> Self {
        let mut cdm = Cdm::default();
        ccbs.iter().for_each(|ccb| cdm.add(*ccb));
        Blade {
            process,
            cdm,
            sides: ccbs.iter().map(|ccb| (*ccb, Side::new(*ccb))).collect(),
            logins: BTreeMap::new(),
            newest: BTreeMap::new(),
            sockets: BTreeMap::new(),
            provision: Provision::default(),
            routes: Routes::default(),
            forwards: Forwards::default(),
            queueing: queueing::Queueing::new(now),
            cluster: None,
            held: enter::Held::default(),
            hosting: hosting::Hosting::new(now, ccbs),
            pool: pool::Pool::default(),
            rooms: rooms::Rooms::default(),
            away: away::Away::default(),
            beat_at: now,
            sweep_at: now,
            handled_at: now,
            paused_until: None,
        }
    }

    /// Takes one input; what is to be done about it is added to `out`.
    pub fn handle(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        self.take(now, input, out);
        self.answer_carried(out);
    }

    fn take(&mut self, now: Instant, input: Input, out: &mut Vec<Output>) {
        self.notice_pause(now, out);
        match input {
            Input::Provision(provision) => self.provision(now, provision, out),
            Input::Attached { ccb, region } => self.attach(now, ccb, region, out),
            Input::Gone { ccb } => self.detach(now, ccb, out),
            Input::Pump => self.pump_all(now, out),
            Input::Login { reply, request } => self.enter(now, reply, *request, out),
            Input::Leave { reply, login, end } => self.leave(now, reply, login, end, out),
            Input::DeskAttached { socket, login } => self.desk_attached(now, socket, login, out),
            Input::DeskLost { socket } => self.desk_lost(now, socket, out),
            Input::DeskExit { socket } => self.desk_exit(now, socket, out),
            Input::Logout { login, end } => self.end(now, login, end, out),
            Input::Release { reply, ccb, call } => self.release(now, reply, ccb, call, out),
            Input::Order { reply, order } => self.order(now, reply, *order, out),
            Input::Transfer { reply, ccb, call, leg, to } => {
                self.transfer(now, reply, (ccb, call, leg), &to, out);
            }
            Input::Dial { reply, tenant, from, to } => {
                self.dial(now, reply, (tenant, &from), &to, out);
            }
            Input::DeskCommand { reply, socket, command } => {
                let login = self.sockets.get(&socket).copied();
                self.desk_command(now, reply, login, command, out);
            }
            Input::SeatCommand { reply, login, command } => {
                self.desk_command(now, reply, Some(login), command, out);
            }
            Input::Trace { reply, ccb, worker, trace } => {
                self.trace(now, reply, (ccb, worker), *trace, out);
            }
            Input::Recorded { ccb, call } => self.recorded(ccb, call),
            Input::Pool { reply, order } => self.pool_asked_for(now, reply, order, out),
            Input::SlotStopped { slot } => self.slot_stopped(now, slot, out),
            Input::Bus(heard) => self.heard(now, heard, out),
            Input::Farewell => self.farewell(out),
            Input::Timeout => self.paused_until = None,
        }
        // Who was away for a while first takes what waits for it: it may say why a time has not run out.
        if self.paused_until.is_some_and(|until| now < until) {
            return;
        }
        self.paused_until = None;
        self.look_at_waits(now, out);
        self.look_again(now, out);
        if now >= self.beat_at {
            self.beat(now, out);
            self.check_leases(now, out);
            self.check_sessions(now, out);
            self.beat_at = now + Duration::from_millis(BEAT_MS);
        }
        if now >= self.sweep_at {
            self.sweep(now, out);
            self.sweep_at = now + Duration::from_millis(SWEEP_MS);
        }
        self.tick_cluster(now, out);
    }

    /// When [`Input::Timeout`] is due.
    pub fn deadline(&self) -> Instant {
        let waits = (!self.hosting.waits.is_empty()).then_some(self.hosting.look_at);
        let cluster = self.cluster.as_ref().map(|cluster| cluster.deadline());
        let held = self.held.deadline();
        waits
            .into_iter()
            .chain(cluster)
            .chain(held)
            .fold(self.beat_at.min(self.sweep_at), Instant::min)
    }

    /// Says in every attached region that control sleeps and takes its last look at the rings. False
    /// when there is something in them: it is awake again and must pump.
    pub fn fall_asleep(&self) -> bool {
        let attached = || self.sides.values().filter_map(|side| side.attached.as_ref());
        attached().for_each(|one| one.region.header().control_bell().sleep());
        let is_quiet = attached().all(|one| one.events.iter().all(|ring| ring.is_empty()));
        if !is_quiet {
            self.wake_up();
        }
        is_quiet
    }

    /// Says in every attached region that control is awake.
    pub fn wake_up(&self) {
        for side in self.sides.values() {
            if let Some(attached) = &side.attached {
                attached.region.header().control_bell().awake();
            }
        }
    }

    /// True while that login stands.
    pub fn is_alive(&self, login: LoginKey) -> bool {
        self.logins.contains_key(&login)
    }

    /// The login that the agent has.
    pub fn login_of(&self, tenant: TenantId, agent: u64) -> Option<LoginKey> {
        self.newest.get(&(tenant, agent)).copied()
    }

    /// The registry of CCBs.
    pub fn cdm(&self) -> &Cdm {
        &self.cdm
    }

    /// The logins that stand.
    pub fn logins(&self) -> impl Iterator<Item = LoginView> {
        self.logins.iter().map(|(key, entry)| {
            let side = self.sides.get(&entry.ccb);
            let region = side.and_then(Side::region);
            LoginView {
                login: *key,
                record: entry.record.clone(),
                state: entry.login.state_name(),
                online: entry.login.is_online(),
                ccb: entry.ccb,
                location: side.map_or(String::new(), |s| s.location_name(Some(entry.location))),
                phone: entry.phone_at,
                seat: entry.seat.state(),
                hosted: entry.seat.hosted,
                since: entry.login.granted_at,
                lease: region.map_or(LeaseState::NoSuchSlot, |region| {
                    region.leases().read(entry.slot, Medium::Voice)
                }),
            }
        })
    }

    /// The CCBs.
    pub fn ccbs(&self) -> impl Iterator<Item = CcbView> {
        self.sides.iter().filter_map(|(ccb, side)| {
            let known = self.cdm.ccb(*ccb)?;
            Some(CcbView {
                ccb: *ccb,
                status: known.status,
                linked: side.link,
                online: known.online,
                phones: known.phones,
                grants: known.grants(),
                capacity: known.capacity,
                calls: side.calls.count(),
                open_ops: side.open_ops(),
                counts: side.counts,
                spool: SpoolView::of(side),
                trunks: side.trunks.states().collect(),
                region: side.region(),
            })
        })
    }

    /// The calls of that CCB as records, those that stand with what their legs count now.
    pub fn calls(&self, ccb: CcbId) -> Vec<(abi::CallState, crate::CallRecord)> {
        let Some((side, region)) =
            self.sides.get(&ccb).and_then(|side| side.region().map(|region| (side, region)))
        else {
            return Vec::new();
        };
        let calls = side.calls.iter().map(|call| {
            let mut call = call.clone();
            for (place, leg) in &mut call.legs {
                if let Some(row) = region.legs().read(*place).filter(|row| row.call() == call.call)
                {
                    *leg = row;
                }
            }
            (call.row.state(), desk::record_of(side, &call))
        });
        calls.collect()
    }

    /// The serial numbers of the calls of that CCB that are not over; `None` while its link is down.
    pub fn serials(&self, ccb: CcbId) -> Option<impl Iterator<Item = u64> + '_> {
        let side = self.sides.get(&ccb).filter(|side| side.link)?;
        let stands = |call: &&crate::calls::Call| call.row.state() != abi::CallState::Ended;
        Some(side.calls.iter().filter(stands).map(|call| call.row.serial))
    }

    fn provision(&mut self, now: Instant, provision: Provision, out: &mut Vec<Output>) {
        self.routes = Routes::new(provision.routes.clone());
        self.forwards = Forwards::new(provision.forwards.clone());
        self.provision = provision;
        self.mark_forwards();
        for region in self.sides.values().filter_map(Side::region) {
            self.write_provision(&region);
        }
        self.watch_trunks_of_all(now, out);
        self.provision_queues(now, out);
    }

    /// Writes tenants and trunks; rows that hold what they should are left alone.
    fn write_provision(&self, region: &Region) {
        let tenants = self.provision.tenants.iter().filter_map(|tenant| {
            let mut row = TenantRow { tenant: tenant.id.0, state: 1, ..TenantRow::default() };
            row.set_name(Text::new(tenant.name.as_bytes()).ok()?);
            row.set_realm(Text::new(tenant.realm.as_bytes()).ok()?);
            row.srtp = tenant.srtp.into();
            Some(row)
        });
        let mut rows = tenants.chain(std::iter::repeat(TenantRow::default()));
        for (slot, held) in region.tenants().iter() {
            let row = rows.next().unwrap_or_default();
            if held != row {
                region.tenants().write(slot, &row);
            }
        }
        let trunks = self.provision.trunks.iter().filter_map(|trunk| {
            let mut row = TrunkRow { tenant: trunk.tenant.0, state: 1, ..TrunkRow::default() };
            match &trunk.by {
                TrunkKey::Network(net) => row.set_network(net.ip, u32::from(net.bits)),
                TrunkKey::Certificate(domain) => {
                    row.set_domain(Text::new(domain.as_bytes()).ok()?);
                }
            }
            row.srtp = trunk.srtp.into();
            row.set_name(Text::new(trunk.name.as_bytes()).ok()?);
            Some(row)
        });
        let mut rows = trunks.chain(std::iter::repeat(TrunkRow::default()));
        for (slot, held) in region.trunks().iter() {
            let row = rows.next().unwrap_or_default();
            if held != row {
                region.trunks().write(slot, &row);
            }
        }
        self.write_trunk_tls(region);
        region.header().provision_changed();
    }

    fn attach(&mut self, now: Instant, ccb: CcbId, region: Arc<Region>, out: &mut Vec<Output>) {
        let process = self.process;
        let Some(side) = self.sides.get_mut(&ccb) else {
            return;
        };
        let is_new = side.attach(now, process, region.clone(), out);
        region.header().beat_control(now);
        self.cdm.set_capacity(ccb, region.layout().agents);
        // Until the directory is read, what was written before stands.
        if !self.provision.tenants.is_empty() {
            self.write_provision(&region);
        }
        if is_new {
            self.settle_rows(now, ccb, &region, out);
            self.rebuild_leases(now, ccb);
        }
        self.check_homes_soon();
        if self.is_draining(ccb) {
            self.tell_workers(now, ccb, true, out);
        }
        self.resync(now, ccb, out);
        self.find_sessions(now, ccb);
        self.watch_trunks(now, ccb, out);
        self.pump(now, ccb, out);
        self.check_status(now, ccb, out);
    }

    fn detach(&mut self, now: Instant, ccb: CcbId, out: &mut Vec<Output>) {
        if let Some(side) = self.sides.get_mut(&ccb) {
            side.link = false;
            side.fail_ops(out);
        }
        // What it told before it died is in the ring still.
        self.pump(now, ccb, out);
        self.check_status(now, ccb, out);
    }

    fn beat(&mut self, now: Instant, out: &mut Vec<Output>) {
        let ccbs: Vec<CcbId> = self.sides.keys().copied().collect();
        for ccb in ccbs {
            let side = self.sides.get_mut(&ccb).expect("its key was just read");
            if let Some(region) = side.region() {
                region.header().beat_control(now);
                self.cdm.set_heartbeat(ccb, region.header().data_plane().heartbeat);
            }
            if side.notice_restart(out) {
                self.resync(now, ccb, out);
            }
            // A wake-up that a killed process owed us would come with the next event only.
            self.pump(now, ccb, out);
            self.check_status(now, ccb, out);
        }
        self.look_at_words(now, out);
        self.tend_rooms(now, out);
        self.tend_shared(now, out);
        self.tend_away(now, out);
    }

    fn sweep(&mut self, now: Instant, out: &mut Vec<Output>) {
        let ccbs: Vec<CcbId> = self.sides.keys().copied().collect();
        for ccb in ccbs {
            let side = self.sides.get_mut(&ccb).expect("its key was just read");
            side.sweep(now, out);
            if let Some(region) = side.region() {
                let mut changed = Vec::new();
                let current = region.header().data_plane().incarnation;
                side.calls.refresh_stale(&region, current, &mut changed);
                self.calls_changed(now, ccb, changed, out);
                self.refresh_phones(now, ccb, out);
            }
            self.resume_services(now, ccb, out);
            self.watch_trunks(now, ccb, out);
        }
        self.tend_queues(now, out);
        self.sweep_pool(now, out);
        let due = |entry: &Entry| entry.login.deadline().filter(|(at, _)| *at <= now);
        let over: Vec<_> = self
            .logins
            .iter()
            .filter_map(|(key, entry)| due(entry).map(|(_, end)| (*key, end)))
            .collect();
        for (key, end) in over {
            self.end(now, key, end, out);
        }
        self.check_homes(out);
    }

    fn check_status(&mut self, now: Instant, ccb: CcbId, out: &mut Vec<Output>) {
        let Some(side) = self.sides.get(&ccb) else {
            return;
        };
        let is = match side.status(now) {
            CcbStatus::Normal if self.is_draining(ccb) => CcbStatus::Draining,
            is => is,
        };
        let was = self.cdm.set_status(ccb, is);
        self.report(ccb);
        if was != is {
            self.report_soon();
            out.push(Output::Ccb { ccb, was, is });
            self.seat_all(now, out);
        }
    }

    /// Tells the CDM what the CCB has (S1-052).
    fn report(&mut self, ccb: CcbId) {
        let (Some(side), Some(known)) = (self.sides.get(&ccb), self.cdm.ccb(ccb)) else {
            return;
        };
        let status = known.status;
        self.cdm.report(ccb, status, side.online, side.phones);
    }

    /// Reads all that events would have told.
    fn resync(&mut self, now: Instant, ccb: CcbId, out: &mut Vec<Output>) {
        let Some(side) = self.sides.get_mut(&ccb) else {
            return;
        };
        let Some(region) = side.region() else { return };
        let mut changed = Vec::new();
        side.calls.resync(&region, &mut changed);
        self.calls_changed(now, ccb, changed, out);
        self.refresh_phones(now, ccb, out);
    }

    fn refresh_phones(&mut self, now: Instant, ccb: CcbId, out: &mut Vec<Output>) {
        let Some(side) = self.sides.get(&ccb) else {
            return;
        };
        let slots: Vec<AgentSlot> = side.by_slot.keys().copied().collect();
        for slot in slots {
            self.refresh_phone(now, ccb, slot, out);
        }
    }

    fn pump_all(&mut self, now: Instant, out: &mut Vec<Output>) {
        let ccbs: Vec<CcbId> = self.sides.keys().copied().collect();
        for ccb in ccbs {
            self.pump(now, ccb, out);
        }
    }

    /// Takes a bounded number of events from each ring and sends what waits for room.
    fn pump(&mut self, now: Instant, ccb: CcbId, out: &mut Vec<Output>) {
        let Some(side) = self.sides.get_mut(&ccb) else {
            return;
        };
        side.flush_all(out);
        let Some(attached) = side.attached.as_mut() else {
            return;
        };
        let mut taken = Vec::new();
        let (mut missed, mut corrupt) = (0, 0);
        for (worker, ring) in attached.events.iter_mut().enumerate() {
            for _ in 0..EVENTS_A_PUMP {
                let mut blob = Vec::new();
                match ring.pop(&mut blob) {
                    None => break,
                    Some(Err(_)) => corrupt += 1,
                    Some(Ok(numbered)) => {
                        missed += numbered.missed;
                        taken.push((WorkerId(worker as u8), numbered.value, blob));
                    }
                }
            }
        }
        side.counts.events += taken.len() as u64;
        side.counts.events_missed += missed;
        side.counts.events_corrupt += corrupt;
        if let Some(region) = side.region().filter(|_| corrupt > 0) {
            region.counters().add_control(abi::Counter::EventsCorrupt, corrupt);
        }
        for (worker, event, blob) in taken {
            self.event(now, ccb, worker, event, &blob, out);
        }
        if missed > 0 || corrupt > 0 {
            self.resync(now, ccb, out);
        }
    }

    fn event(
        &mut self,
        now: Instant,
        ccb: CcbId,
        worker: WorkerId,
        event: Event,
        blob: &[u8],
        out: &mut Vec<Output>,
    ) {
        let Some(side) = self.sides.get_mut(&ccb) else {
            return;
        };
        match event {
            Event::Registered { agent, .. } | Event::Unregistered { agent, .. } => {
                if let Some(region) = side.region() {
                    side.free_if_left(&region, agent);
                }
                self.refresh_phone(now, ccb, agent, out);
            }
            Event::Asked { op, call, tenant, caller, why, .. } => {
                let asked = Asked { op, call, tenant, caller, why, number: blob };
                self.asked(now, ccb, worker, asked, out);
            }
            Event::Summoned { op, call } => self.summoned(now, ccb, op, call, out),
            Event::Alive { call, leg } => self.leg_lives(now, ccb, call, leg),
            Event::Held { call, leg, on } => {
                side.hold(call, leg, on);
                self.tell_hold(now, ccb, (call, leg), on, out);
                self.held(now, ccb, worker, (call, leg), on, out);
            }
            Event::CallChanged { call, .. } => {
                let Some(region) = side.region() else { return };
                let mut changed = Vec::new();
                side.calls.refresh(&region, call.slot, &mut changed);
                self.calls_changed(now, ccb, changed, out);
            }
            Event::Done { op, result } => {
                let purpose = side.complete(op, result, out);
                self.completed(now, (ccb, worker), purpose, result, out);
            }
            Event::SourceRefused { call, leg, addr: address } => {
                side.counts.sources_refused += 1;
                if let Some(left_out) = side.refusals.admit(now) {
                    out.push(Output::SourceRefused { ccb, call, leg, address, left_out });
                }
            }
            Event::Trunk { addr: address, outage } => {
                if side.trunks.heard(address, outage) {
                    out.push(Output::Trunk { ccb, address, outage });
                }
            }
            Event::SourceBanned { addr: address, seconds } => {
                out.push(Output::SourceBanned { ccb, address, seconds });
            }
            Event::Digit { call, leg, digit, duration_ms } => {
                side.counts.digits += 1;
                if let Some(digit) = desk::digit_name(digit) {
                    self.tell_digit(ccb, (call, leg), digit, duration_ms, out);
                }
            }
            Event::Digits { op, cause, .. } => {
                let digits = String::from_utf8_lossy(blob).into_owned();
                side.collected(op, Collected { digits, cause });
            }
            Event::Spool { state, lost } => {
                side.counts.spool_changes += 1;
                side.spool.insert(worker, (state, lost));
                out.push(Output::Spool { ccb, worker, state, lost });
            }
        }
    }

    /// The record of a call is safe. A call that is not the one we gave out is left alone: its
    /// region may be another one by now.
    fn recorded(&mut self, ccb: CcbId, call: CallRef) {
        let Some(side) = self.sides.get_mut(&ccb) else {
            return;
        };
        let Some(region) = side.region() else { return };
        if side.calls.find(call).is_some_and(|known| known.recording) {
            region.calls().acknowledge(call);
            side.calls.remove(call);
        }
    }

    fn calls_changed(
        &mut self,
        now: Instant,
        ccb: CcbId,
        changed: Vec<Changed>,
        out: &mut Vec<Output>,
    ) {
        self.note_peers(now, ccb, &changed);
        for changed in changed {
            self.tell_desks(now, ccb, &changed, out);
            self.seats_of(now, ccb, &changed, out);
            self.room_changed(now, ccb, &changed.call, out);
            if changed.call.row.state() == abi::CallState::Ended {
                let Some(side) = self.sides.get_mut(&ccb) else {
                    return;
                };
                let mut record = desk::record_of(side, &changed.call);
                if record.ended_at == Instant::ZERO {
                    record.ended_at = now;
                }
                record.peer_serial = self.hosting.serials.remove(&(ccb, changed.call.call));
                side.calls.set_recording(changed.call.call);
                side.forget_call(changed.call.call);
                out.push(Output::Record(Box::new(record)));
            }
        }
    }
}

#[cfg(test)]
mod tests;

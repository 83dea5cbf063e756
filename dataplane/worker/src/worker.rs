use std::collections::{BTreeMap, HashMap, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use abi::{CommandReceiver, Counter, Region, TenantRow, TrunkRow};
use base::{AgentSlot, CallRef, Instant, Rng, Timers};
use media::{DropReason, Packet, PairId, PortPool, SocketSlot, Streams, Verdict, WhyNot};
use sip::digest::NonceKey;
use sip::transaction::{Fired, Sent, Transactions};

use crate::bypass::{CountBypass, Way};
use crate::call::{Flow, LegRef};
use crate::calls::Calls;
use crate::connections::Connections;
use crate::guard::Guard;
use crate::mirror::Mirror;
use crate::news::News;
use crate::outbound::StunLimit;
use crate::overload::Overload;
use crate::snapshot::LegRows;
use crate::studio::Studio;
use crate::trunks::Watched;
use crate::{Config, Effect, Input, Passed};

/// How many commands one turn takes, so that packets are not kept waiting.
const COMMANDS_A_TURN: usize = 64;
/// How often a part of the standing calls' packet counts is published.
const PUBLISH_MS: u64 = 20;
/// How far apart the ticks are that timers wait for which may be late: as often counts are published.
const TICK_NS: u64 = PUBLISH_MS * 1_000_000;
/// How long inputs go before timers after a pause: what the kernel held back is read in this time.
const CATCH_UP: Duration = Duration::from_millis(50);
/// The fixed header of RTP (RFC 3550, 5.1).
pub(crate) const HEADER: usize = 12;
/// In how many parts: each count is half a second old at most. Gauges are published with the first.
pub(crate) const PUBLISH_TURNS: usize = 25;

/// What a worker waits for besides the transactions' own timers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Timer {
    /// An INVITE of ours has rung long enough (RFC 3261, timer C).
    Ring(LegRef),
    /// Control has had time enough to say where a call goes.
    Asked(CallRef, u64),
    /// A leg that said goodbye is free now, whether its peer answered or not.
    Goodbye(LegRef),
    /// A registration may have run out, unless it was renewed.
    Registration(AgentSlot),
    /// Ports are to be bound, and gauges to be published.
    Publish,
    /// The next 20 ms of prompts and mixes are due.
    Frame,
    /// Digits that are collected from a leg may have taken too long.
    Digits(LegRef),
    /// A leg's session may perhaps be changed now.
    Change(LegRef),
    /// A transfer has had time enough, by its number.
    Transfer(CallRef, u64),
    /// Who gave its peer away has had time enough to hang up.
    Spare(LegRef),
    /// A reliable response has no PRACK yet (RFC 3262).
    Reliable(LegRef, u32),
    /// A re-INVITE that met another is sent again.
    Glare(LegRef),
    /// The next packet of a digit is due.
    Tone(LegRef),
    /// A trunk is to be asked whether it is there.
    Trunk(u8),
}

/// One core's whole state. It owns its calls, their legs and streams, and its share of the ports; it
/// is the only writer of its rows in the region.
pub struct Worker {
    pub(crate) config: Config,
    pub(crate) region: Arc<Region>,
    pub(crate) rng: Rng,
    pub(crate) nonces: NonceKey,
    pub(crate) guard: Guard,
    pub(crate) overload: Overload,
    pub(crate) transactions: Transactions<Flow>,
    pub(crate) calls: Calls,
    pub(crate) streams: Streams,
    pub(crate) ports: PortPool,
    /// The leg and the way of each pair.
    pub(crate) legs_at: Vec<Option<LegRef>>,
    pub(crate) ways: Vec<Way>,
    pub(crate) counted: Option<CountBypass>,
    pub(crate) studio: Studio,
    pub(crate) watched_trunks: Watched,
    pub(crate) timers: Timers<Timer>,
    /// Those of frames and tones: when they are late, somebody hears it.
    pub(crate) beats: Timers<Timer>,
    pub(crate) news: News,
    pub(crate) commands: CommandReceiver,
    pub(crate) control_here: bool,
    pub(crate) draining: bool,
    pub(crate) incarnation: u64,
    pub(crate) operations: u64,
    pub(crate) leg_rows: LegRows,
    pub(crate) sent: Vec<Sent<Flow>>,
    pub(crate) fired: Vec<Fired>,
    pub(crate) effects: Vec<Effect>,
    /// The last turn left commands in the ring; the next one takes them without waiting for a bell.
    more_commands: bool,
    pub(crate) leases_held: u64,
    /// The pairs of legs that were taken over.
    pub(crate) recovered: BTreeMap<PairId, LegRef>,
    pub(crate) provision: Provision,
    /// Who is to hear of the end of a connection.
    pub(crate) connections: Connections,
    /// Trunks that have no TCP, and until when that is believed.
    pub(crate) no_tcp: VecDeque<(SocketAddr, Instant)>,
    /// Agents whose registration has a timer, and when the first of it comes. Never iterated.
    pub(crate) watched: HashMap<AgentSlot, Instant>,
    publish_turn: usize,
    /// What the calendar said, and when.
    clock: Option<(Instant, u64)>,
    pub(crate) mirror: Mirror,
    pub(crate) stun_limit: StunLimit,
    /// Timers are held back until then: see [`Input::Paused`].
    timers_wait_until: Instant,
}

/// What the region says of tenants and trunks: read often, changed rarely, so that a request does not
/// search tables with room for a thousand of each.
pub(crate) struct Provision {
    pub tenants: Vec<TenantRow>,
    pub trunks: Vec<(u32, TrunkRow)>,
    /// The addresses of trunks that are known by their certificate, with [`TrunkRow::proof`].
    pub proofs: Vec<(SocketAddr, u64)>,
    /// Of which change it is, as far as control says.
    number: Option<u64>,
    read_at: Instant,
}

/// How long a change of a tenant or trunk may take to be seen where control does not say that there was one.
const PROVISION_AGE: Duration = Duration::from_millis(100);
/// How old it must be to be read again for something that is not in it: strangers ask for much.
const PROVISION_MISS_AGE: Duration = Duration::from_millis(5);

impl Provision {
    /// True when it may have changed since: control says so, or is one that never does and so much time has passed.
    fn is_old(&self, region: &Region, now: Instant, age: Duration) -> bool {
        match region.header().provision() {
            None => now >= self.read_at + age,
            number => number != self.number,
        }
    }

    fn read(region: &Region, now: Instant) -> Provision {
        // Before the rows: what changes while they are read is read again.
        let number = region.header().provision();
        let tenants = region.tenants().iter().map(|(_, row)| row);
        // Its rows in service stand before all others.
        let called = region.trunk_tls();
        let called = called.iter().map(|(_, row)| row).take_while(|row| row.state != 0);
        Provision {
            proofs: called
                .map(|row| (row.address.get(), TrunkRow::proof_of(row.domain())))
                .collect(),
            tenants: tenants.filter(|row| row.tenant != 0).collect(),
            trunks: region.trunks().iter().filter(|(_, row)| row.state != 0).collect(),
            number,
            read_at: now,
        }
    }
}

impl Worker {
    /// A worker over its share of `region`, where [`crate::recover`] has judged what an earlier incarnation
    /// left: it goes on with those calls that stand, and parts from the peers of the others. What it has
    /// to say to them comes out of the first [`Worker::handle`], which is due at once.
    pub fn new(config: Config, region: Arc<Region>, now: Instant) -> Worker {
        let slots = region.calls().range(config.id);
        let first = slots.start;
        let generations =
            slots.map(|slot| region.calls().read(slot).map_or(0, |row| row.generation)).collect();
        let mut rng = Rng::from_seed(config.seed);
        let addresses: Vec<_> = config.locations.iter().map(|location| location.ip).collect();
        let ports = PortPool::new(config.id, config.workers, &addresses, config.rtp_ports);
        let mut worker = Worker {
            nonces: NonceKey::new(config.nonce_key),
            guard: Guard::new(rng.next_u64(), config.limits.strangers),
            overload: Overload::default(),
            transactions: Transactions::new(config.limits.transactions, rng.next_u64()),
            calls: Calls::new(first, generations),
            streams: Streams::new(ports.pairs()),
            legs_at: vec![None; ports.pairs() as usize],
            ways: vec![Way::Process(WhyNot::NoPeer); ports.pairs() as usize],
            counted: None,
            studio: Studio::default(),
            watched_trunks: Watched::default(),
            ports,
            timers: Timers::default(),
            beats: Timers::default(),
            news: News::new(region.event_sender(config.id)),
            commands: region.command_receiver(config.id),
            control_here: false,
            draining: false,
            incarnation: region.header().data_plane().incarnation,
            operations: 0,
            leg_rows: LegRows::new(&region, config.id),
            sent: Vec::new(),
            fired: Vec::new(),
            effects: Vec::new(),
            more_commands: false,
            leases_held: 0,
            recovered: BTreeMap::new(),
            provision: Provision::read(&region, now),
            connections: Connections::default(),
            no_tcp: VecDeque::new(),
            watched: HashMap::new(),
            publish_turn: 0,
            clock: None,
            mirror: Mirror::default(),
            stun_limit: StunLimit::new(rng.next_u64()),
            timers_wait_until: Instant::ZERO,
            rng,
            region,
            config,
        };
        worker.transactions.delay_trying(Duration::from_millis(worker.config.limits.trying_ms));
        worker.streams.seed(worker.rng.next_u64());
        worker.take_over_registrations(now);
        worker.take_over_calls(now);
        worker.timers.set(now, Timer::Publish);
        worker
    }

    /// Takes one input and says what is to be done about it. Rows and events are written before the
    /// effects are handed out, so what a peer hears of is known to the next incarnation.
    pub fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Vec<Effect>) {
        if self.provision.is_old(&self.region, now, PROVISION_AGE) {
            self.provision = Provision::read(&self.region, now);
        }
        match input {
            Input::Sip { location, from, channel, datagram } => {
                self.intake(now, Flow { location, peer: from, channel }, datagram);
            }
            Input::Unsent { location, to, channel, outage, datagram } => {
                self.on_unsent(now, Flow { location, peer: to, channel }, outage, datagram);
            }
            Input::Disconnected { connection } => self.on_disconnected(now, connection),
            Input::Mesh(Passed::Sip { location, from, channel, datagram }) => {
                self.intake_owned(now, Flow { location, peer: from, channel }, &datagram);
            }
            Input::Mesh(Passed::Mix(message)) => self.on_mix(now, message),
            Input::Bound { pair, ok } => self.on_bound(now, pair, ok),
            Input::Bypass { pair, news } => self.on_bypass(now, pair, news),
            Input::Loaded { name, samples } => self.on_loaded(now, name, samples),
            Input::Spool { state, lost } => self.on_spool(state, lost),
            Input::Commands => self.take_commands(now),
            Input::ControlHere => self.control_here = true,
            Input::ControlGone => self.lose_control(now),
            Input::Paused => self.timers_wait_until = now + CATCH_UP,
            Input::Load(busy) => self.overload.observe(busy, self.config.limits.busy),
            Input::Clock { unix_s } => self.clock = Some((now, unix_s)),
            Input::Stopping => self.stop_recordings(now),
            Input::Timeout if self.more_commands => self.take_commands(now),
            Input::Timeout => {}
        }
        if now >= self.timers_wait_until {
            self.run_timers(now);
        }
        self.note_touched(now);
        self.hand_out(now, out);
    }

    /// The verdict on one media packet; to be carried out at once, in this order.
    pub fn forward(
        &mut self,
        now: Instant,
        socket: SocketSlot,
        from: SocketAddr,
        packet: &mut Packet<'_>,
    ) -> Verdict {
        let pair = socket.pair();
        let is_bypassed = self.is_bypassed(pair);
        let is_overheard = is_bypassed || self.streams.is_tapped(pair);
        // A splice changes the header on its way out; recordings and mixes want it as it came.
        let header = packet.bytes().first_chunk::<HEADER>().copied().filter(|_| is_overheard);
        if is_bypassed {
            self.absorb_counts(pair);
        }
        let is_rtcp = self.streams.is_rtcp(socket, packet);
        let judged = self.streams.judged(now, socket, from, packet);
        if let Some(header) = header {
            // Plain, as it came or as it goes.
            self.overhear(now, socket, &header, packet, judged);
        }
        let verdict = self.streams.seal(judged, packet);
        let (received, sent) = match is_rtcp {
            false => (Counter::RtpReceived, Counter::RtpSent),
            true => (Counter::RtcpReceived, Counter::RtcpSent),
        };
        let counters = self.region.counters();
        counters.add(self.config.id, received, 1);
        match verdict {
            Verdict::Send { .. } => counters.add(self.config.id, sent, 1),
            Verdict::Consume => {}
            Verdict::Drop(reason) => counters.add(self.config.id, counter_of(reason), 1),
        }
        verdict
    }

    /// When [`Input::Timeout`] is due.
    pub fn deadline(&self) -> Option<Instant> {
        if self.more_commands {
            return Some(Instant::ZERO);
        }
        let punctual = self.beats.deadline().into_iter().chain(self.news.deadline());
        let deadline = punctual.chain(self.lax_deadline()).min();
        deadline.map(|deadline| deadline.max(self.timers_wait_until))
    }

    /// When a worker that sleeps is to wake for [`Input::Timeout`]. What may be a little late waits for the next tick
    /// of a clock, so that the timers of many calls take one wake together.
    pub fn wakes_at(&self) -> Option<Instant> {
        if self.more_commands {
            return Some(Instant::ZERO);
        }
        let punctual = self.beats.deadline().into_iter().chain(self.news.deadline());
        let deadline = punctual.chain(self.lax_deadline().map(tick_after)).min();
        deadline.map(|deadline| deadline.max(self.timers_wait_until))
    }

    /// When the next of those timers is due whose times are the least that peers must be given (RFC 3261, table 4).
    fn lax_deadline(&self) -> Option<Instant> {
        let timers = [self.timers.deadline(), self.transactions.deadline(), self.ports.deadline()];
        timers.into_iter().flatten().min()
    }

    /// True when pairs of ports that were asked for are to be bound before the next message, which may find none else.
    pub fn is_short_of_ports(&self) -> bool {
        self.ports.is_short()
    }

    /// The region that this worker reads and writes.
    pub fn region(&self) -> &Arc<Region> {
        &self.region
    }

    /// True when nothing of any call is left: no call, leg, port or lease.
    pub fn is_idle(&self) -> bool {
        self.calls.len() == 0 && self.ports.in_use() == 0 && self.leases_held == 0
    }

    /// What is left, in words.
    pub fn load(&self) -> String {
        let (calls, ports) = (self.calls.len(), self.ports.in_use());
        format!("{calls} calls, {ports} port pairs, {} leases", self.leases_held)
    }

    /// How many SIP transactions live.
    pub fn transactions(&self) -> usize {
        self.transactions.len()
    }

    pub(crate) fn count(&self, counter: Counter) {
        self.region.counters().add(self.config.id, counter, 1);
    }

    /// The value of Date, once the calendar is known (RFC 3261, 20.17).
    pub(crate) fn date(&self, now: Instant) -> Option<String> {
        let (at, unix_s) = self.clock?;
        Some(sip::date::date(unix_s + now.since(at).as_secs()))
    }

    /// A number for an operation that is unique in this incarnation of this worker.
    pub(crate) fn next_operation(&mut self) -> u64 {
        self.operations += 1;
        self.operations
    }

    fn take_commands(&mut self, now: Instant) {
        self.more_commands = false;
        let mut blob = Vec::new();
        for _ in 0..COMMANDS_A_TURN {
            match self.commands.pop(&mut blob) {
                Some(Ok(command)) => self.obey(now, command, &blob),
                Some(Err(_)) => self.count(Counter::CommandsCorrupt),
                None => return,
            }
        }
        self.more_commands = true;
    }

    fn run_timers(&mut self, now: Instant) {
        let mut fired = std::mem::take(&mut self.fired);
        self.transactions.timeouts(now, &mut self.sent, &mut fired);
        for event in fired.drain(..) {
            self.on_fired(now, event);
        }
        self.fired = fired;
        while let Some((at, timer)) = self.timers.due(now).or_else(|| self.beats.due(now)) {
            match timer {
                Timer::Ring(leg) => self.on_ring_limit(now, leg),
                Timer::Asked(call, operation) => self.on_ask_limit(now, call, operation),
                Timer::Goodbye(leg) => self.release_lease(leg),
                Timer::Registration(agent) => self.on_registration_limit(now, agent),
                Timer::Publish => self.publish(now, at),
                Timer::Frame => self.on_frame(now, at),
                Timer::Digits(leg) => self.on_digits_limit(now, leg),
                Timer::Change(leg) => self.change_session(now, leg),
                Timer::Transfer(call, number) => self.on_transfer_limit(now, call, number),
                Timer::Spare(leg) => self.on_spare(now, leg),
                Timer::Reliable(leg, number) => self.on_reliable_due(now, leg, number),
                Timer::Glare(leg) => self.on_glare_due(now, leg),
                Timer::Tone(leg) => self.on_tone_due(now, leg),
                Timer::Trunk(index) => self.on_trunk_due(now, index),
            }
        }
    }

    /// Something was not found among tenants and trunks: it may be new. True when they were read again.
    pub(crate) fn read_provision(&mut self, now: Instant) -> bool {
        let is_old = self.provision.is_old(&self.region, now, PROVISION_MISS_AGE);
        // Before control has written the first tenant there is nobody to be challenged at all.
        let reads = is_old || self.provision.tenants.is_empty();
        if reads {
            self.provision = Provision::read(&self.region, now);
        }
        reads
    }

    /// Publishes packet counts of standing calls, and now and then gauges. Without calls the worker
    /// sleeps as long as all turns take.
    fn publish(&mut self, now: Instant, at: Instant) {
        let is_idle = self.calls.len() == 0;
        let turns = if is_idle { PUBLISH_TURNS as u64 } else { 1 };
        self.timers.set(at.max(now) + Duration::from_millis(PUBLISH_MS * turns), Timer::Publish);
        self.publish_turn = (self.publish_turn + 1) % PUBLISH_TURNS;
        self.tend_studio(now);
        if is_idle || self.publish_turn == 0 {
            self.publish_gauges();
        }
        self.publish_calls(now);
    }

    fn publish_gauges(&mut self) {
        let bypassed = self.bypassed_now();
        let gauges = [
            (Counter::CallsNow, self.calls.len() as u64),
            (Counter::LegsNow, self.calls.iter().map(|call| call.legs.len() as u64).sum()),
            (Counter::PortsInUse, u64::from(self.ports.in_use())),
            (Counter::PortsReady, u64::from(self.ports.ready())),
            (Counter::TransactionsNow, self.transactions.len() as u64),
            (Counter::LeasesHeld, self.leases_held),
            (Counter::StreamsXdp, bypassed),
            (Counter::StreamsSrtp, self.srtp_now()),
            (Counter::StreamsInProcess, u64::from(self.ports.in_use()) - bypassed),
            (Counter::RecordingsNow, self.studio.recordings() as u64),
            (Counter::MixedNow, self.studio.mixed() as u64),
            (Counter::SipRetransmitted, self.transactions.retransmissions()),
        ];
        for (counter, value) in gauges {
            self.region.counters().set(self.config.id, counter, value);
        }
    }

    /// Hands out what this turn wants done: SIP in the order it was decided, ports bound ahead of the
    /// calls to come, and control's bell.
    fn hand_out(&mut self, now: Instant, out: &mut Vec<Effect>) {
        let mut sent = std::mem::take(&mut self.sent);
        self.mirror_turn(now, &sent);
        self.region.counters().add(self.config.id, Counter::SipSent, sent.len() as u64);
        out.extend(sent.drain(..).map(|Sent { flow, bytes }| Effect::Sip {
            location: flow.location,
            to: flow.peer,
            channel: flow.channel,
            datagram: bytes,
        }));
        self.sent = sent;
        self.ports.plan(now, &mut |plan| {
            self.effects.push(match plan {
                media::PortPlan::Bind(pair, location, port) => {
                    Effect::Bind { pair, location, port }
                }
                media::PortPlan::Close(pair) => Effect::Close { pair },
            });
        });
        out.append(&mut self.effects);
        self.ring_control(now, out);
    }
}

/// The first tick that is not before `at`.
fn tick_after(at: Instant) -> Instant {
    Instant::from_nanos(at.as_nanos().div_ceil(TICK_NS).saturating_mul(TICK_NS))
}

/// The counter that has a drop reason's name.
fn counter_of(reason: DropReason) -> Counter {
    match reason {
        DropReason::RtpTooShort => Counter::DropRtpTooShort,
        DropReason::RtpVersion => Counter::DropRtpVersion,
        DropReason::RtpForeignSource => Counter::DropRtpForeignSource,
        DropReason::RtpLearning => Counter::DropRtpLearning,
        DropReason::RtpForeignSsrc => Counter::DropRtpForeignSsrc,
        DropReason::RtpSequence => Counter::DropRtpSequence,
        DropReason::RtpSuperseded => Counter::DropRtpSuperseded,
        DropReason::RtpNoPeer => Counter::DropRtpNoPeer,
        DropReason::RtpUnbound => Counter::DropRtpUnbound,
        DropReason::RtcpMalformed => Counter::DropRtcpMalformed,
        DropReason::RtcpForeignSource => Counter::DropRtcpForeignSource,
        DropReason::SrtpUnauthentic => Counter::DropSrtpUnauthentic,
        DropReason::SrtpReplayed => Counter::DropSrtpReplayed,
        DropReason::SrtpUnsealed => Counter::DropSrtpUnsealed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drop_reason_and_its_counter_have_one_name() {
        for reason in DropReason::ALL {
            assert_eq!(counter_of(reason).name(), format!("drop_{}", reason.name()));
        }
    }
}

//! One worker's thread: a duty cycle of bounded drains.

use std::collections::HashSet;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use abi::{Counter, Outage, Region};
use base::{Channel, Instant, LocationId, WorkerId};
use media::{FlowSpec, Packet, PairId, SocketSlot, Verdict};
use worker::{BypassNews, Effect, Input, Worker};

use crate::datagrams::{Completion, Datagrams, Wait};
use crate::detour::Detour;
use crate::disk::Disk;
use crate::effort::Effort;
use crate::mesh::{Link, Mesh, Parcel};
use crate::mirror::Mirror;
use crate::pace::{Pace, Taken};
use crate::pulse::{Pulse, Resting};
use crate::sockets::{Ended, MediaSockets, bind_pair};
use crate::spool::BlockLost;
use crate::streams::{Letter, Order, Outlet};
use crate::token::Token;
use crate::{DriverError, clock};

/// Completions taken in one cycle, which ends with what they send. After a time without the core hundreds of packets
/// wait: the first are not to wait for the last. Twice a batch that is waited for, so a packet becomes no dearer.
const COMPLETIONS_A_CYCLE: usize = 128;
/// Datagrams of other workers taken in one cycle.
const PASSED_A_CYCLE: usize = 256;
/// Prompts and news of the spool taken in one cycle.
const ANSWERS_A_CYCLE: usize = 16;
/// News of the bypass taken in one cycle: a peer that presses keys without end must not keep packets out.
const NEWS_A_CYCLE: usize = 256;
/// Pairs bound in one cycle: eight system calls each, which delay the packets behind them.
const BINDS_A_CYCLE: usize = 4;
/// How often a worker says that it lives, in milliseconds; also the longest that it sleeps.
const HEARTBEAT_MS: u64 = 50;
/// The doorbell that control and the other workers ring.
const OWN_BELL: u8 = 0;
/// The one that the bypass rings.
const DETOUR_BELL: u8 = 1;

/// What a worker's thread is given to work with.
pub struct Outfit {
    /// A SIP socket for each location.
    pub sip: Vec<OwnedFd>,
    /// How many places there are for sockets.
    pub places: u32,
    /// Its spool and its prompts.
    pub disk: Disk,
    /// Its share of the bypass.
    pub detour: Detour,
    /// Its way to the connections.
    pub outlet: Outlet,
    /// Its way to those who watch its signalling.
    pub mirror: Mirror,
}

/// What a worker's thread works with.
pub struct Duty<D> {
    id: WorkerId,
    locations: Vec<worker::Location>,
    region: Arc<Region>,
    mesh: Arc<Mesh>,
    worker: Worker,
    disk: Disk,
    detour: Detour,
    outlet: Outlet,
    mirror: Mirror,
    io: D,
    sockets: MediaSockets,
    completions: Vec<Completion>,
    effects: Vec<Effect>,
    link: Link,
    beaten: Instant,
    pulse: Pulse,
    pace: Pace,
    effort: Effort,
    resting: Resting,
    failed_receives: u64,
}

impl<D: Datagrams> Duty<D> {
    /// Takes the worker's SIP sockets, and receives on them. Called on the worker's own thread, which alone
    /// may use them.
    pub fn begin(
        config: worker::Config,
        region: Arc<Region>,
        mesh: Arc<Mesh>,
        outfit: Outfit,
    ) -> Result<Self, DriverError> {
        let id = config.id;
        let locations = config.locations.clone();
        let Outfit { sip, places, disk, mut detour, outlet, mirror } = outfit;
        let sip_places = sip.len();
        let mut io = D::open(places)?;
        io.put(0, sip).map_err(|source| DriverError::Io {
            what: format!("SIP sockets into the table of {}", D::NAME),
            source,
        })?;
        for location in 0..sip_places {
            io.receive_sip(location as u8);
        }
        let mut worker = Worker::new(config, Arc::clone(&region), clock::now());
        if mirror.captures() {
            worker.capture();
        }
        if let Some(counts) = detour.counts() {
            worker.count_bypass_by(counts);
        }
        let taken_over: HashSet<PairId> = worker.recovered_pairs().collect();
        detour.resume(|pair| taken_over.contains(&pair) && worker.resume_bypass(pair));
        let now = clock::now();
        region.header().beat_worker(id, now);
        let mut duty = Duty {
            id,
            locations,
            region,
            mesh,
            worker,
            disk,
            detour,
            outlet,
            mirror,
            io,
            sockets: MediaSockets::new(sip_places as u32, places),
            completions: Vec::with_capacity(COMPLETIONS_A_CYCLE),
            effects: Vec::new(),
            link: Link::default(),
            beaten: now,
            pulse: Pulse::new(now),
            pace: Pace::new(now),
            effort: Effort::new(now),
            resting: Resting::default(),
            failed_receives: 0,
        };
        duty.listen(OWN_BELL);
        duty.listen(DETOUR_BELL);
        Ok(duty)
    }

    /// Serves until the process stops.
    pub fn run(mut self) -> Result<(), DriverError> {
        while !self.mesh.is_stopping() {
            self.cycle()?;
        }
        let now = clock::now();
        self.worker.handle(now, Input::Stopping, &mut self.effects);
        self.carry_out(now);
        Ok(())
    }

    fn cycle(&mut self) -> Result<(), DriverError> {
        let now = self.look_at_clock();
        self.beat(now);
        self.wake_resting(now)?;
        self.drain_detour(now);
        self.drain_completions(now)?;
        self.drain_mesh(now);
        self.drain_disk(now);
        self.follow_link(now);
        self.drain_binds(now);
        self.turn(now);
        let wait = self.may_sleep();
        let submitted = self.io.submit(wait);
        if wait != Wait::No {
            self.effort.woke(clock::now());
            self.bell(|bell| bell.awake());
        }
        submitted
            .map_err(|source| DriverError::Io { what: format!("a wait of {}", D::NAME), source })
    }

    /// The time. A worker that was paused hears of it before anything else: it takes what came in
    /// meanwhile before it believes its timers.
    fn look_at_clock(&mut self) -> Instant {
        let now = clock::now();
        if self.pulse.look(now) {
            self.worker.handle(now, Input::Paused, &mut self.effects);
            self.carry_out(now);
        }
        now
    }

    fn beat(&mut self, now: Instant) {
        if now.since(self.beaten) >= Duration::from_millis(HEARTBEAT_MS) {
            self.beaten = now;
            self.region.header().beat_worker(self.id, now);
            let busy = self.effort.take(now);
            self.worker.handle(now, Input::Load(busy), &mut self.effects);
            let unix_s = clock::unix().as_secs();
            self.worker.handle(now, Input::Clock { unix_s }, &mut self.effects);
            self.carry_out(now);
        }
    }

    /// Commands and timers that are due. Control does not ring while the worker is awake, so each cycle
    /// looks at the ring of commands.
    fn turn(&mut self, now: Instant) {
        self.worker.handle(now, Input::Commands, &mut self.effects);
        self.carry_out(now);
    }

    /// How long to sleep. What came in before the bell was told is seen by the last look; what comes in
    /// after it rings.
    fn may_sleep(&mut self) -> Wait {
        let now = self.look_at_clock();
        if self.is_busy(now) {
            return Wait::No;
        }
        self.bell(|bell| bell.sleep());
        self.turn(now);
        if self.is_busy(now) {
            self.bell(|bell| bell.awake());
            return Wait::No;
        }
        let longest = now + Duration::from_millis(HEARTBEAT_MS);
        let wakes_at = self.worker.wakes_at().into_iter().chain(self.resting.deadline()).min();
        let wait = wakes_at.map_or(longest, |at| at.min(longest)).since(now);
        self.pulse.sleep(wait);
        self.effort.sleeps(now);
        self.pace.sleep(now, wait)
    }

    /// When there is something to do, whatever comes in.
    fn deadline(&self) -> Option<Instant> {
        self.worker.deadline().into_iter().chain(self.resting.deadline()).min()
    }

    fn is_busy(&mut self, now: Instant) -> bool {
        self.deadline().is_some_and(|deadline| deadline <= now)
            || self.sockets.is_wanting()
            || !self.mesh.is_empty(self.id)
            || self.disk.has_answers()
            || self.detour.has_news()
            || self.io.has_completions()
            || self.mesh.is_stopping()
    }

    fn drain_completions(&mut self, now: Instant) -> Result<(), DriverError> {
        let mut completions = std::mem::take(&mut self.completions);
        self.io.completions(COMPLETIONS_A_CYCLE, &mut completions);
        self.pace.take(now, taken_in(&completions));
        for completion in completions.drain(..) {
            match completion.token {
                Token::MediaReceive(socket, generation) => {
                    self.on_media(now, socket, generation, completion);
                    self.on_received(now, completion)?;
                }
                Token::SipReceive(location) => {
                    self.on_sip(now, location, completion);
                    self.on_received(now, completion)?;
                }
                Token::SipSend(_) | Token::MediaSend => self.count(Counter::SendFailed),
                Token::Bell(number) => self.listen(number),
                // Nobody but the ring makes use of these.
                Token::Cancel | Token::MediaReady(..) => {}
            }
        }
        self.completions = completions;
        Ok(())
    }

    fn listen(&mut self, bell: u8) {
        match bell {
            OWN_BELL => self.io.listen(bell, self.mesh.bell(self.id).as_fd()),
            _ => self.detour.bell().into_iter().for_each(|fd| self.io.listen(bell, fd)),
        }
    }

    /// What the bypass says by itself, before the packets that come here because of it.
    fn drain_detour(&mut self, now: Instant) {
        for _ in 0..NEWS_A_CYCLE {
            let Some((pair, news)) = self.detour.next() else {
                return;
            };
            self.tell_of_bypass(now, pair, news);
            self.carry_out(now);
        }
    }

    fn enter_bypass(&mut self, now: Instant, pair: PairId, flow: &FlowSpec) {
        let news = self.detour.enter(pair, flow);
        self.tell_of_bypass(now, pair, news);
    }

    fn leave_bypass(&mut self, now: Instant, pair: PairId) {
        let stats = self.detour.leave(pair);
        self.tell_of_bypass(now, pair, BypassNews::Off(stats));
    }

    fn tell_of_bypass(&mut self, now: Instant, pair: PairId, news: BypassNews) {
        self.worker.handle(now, Input::Bypass { pair, news }, &mut self.effects);
    }

    fn on_sip(&mut self, now: Instant, location: u8, completion: Completion) {
        if let Some(buffer) = completion.buffer {
            match self.io.sip_datagram(buffer, completion.result) {
                Some((datagram, _)) if datagram.truncated => self.count(Counter::DropSipTooLarge),
                Some((datagram, bytes)) => {
                    let (location, from) = (LocationId(location), datagram.from);
                    let datagram = &bytes[datagram.range];
                    let channel = Channel::UDP;
                    let input = Input::Sip { location, from, channel, datagram };
                    self.worker.handle(now, input, &mut self.effects);
                }
                None => self.count(Counter::DropSipMalformed),
            }
            self.io.give_back_sip(buffer);
            self.carry_out(now);
            self.bind_what_is_short(now);
        }
    }

    fn on_media(
        &mut self,
        now: Instant,
        socket: SocketSlot,
        generation: u32,
        completion: Completion,
    ) {
        if let Some(buffer) = completion.buffer
            && !self.relay(now, socket, generation, buffer, completion.result)
        {
            self.io.give_back_media(buffer);
        }
    }

    /// Starts a receive again that has ended. One that failed rests before: its socket may fail for
    /// ever, and the others have nothing to do with that.
    fn on_received(&mut self, now: Instant, completion: Completion) -> Result<(), DriverError> {
        let failed = self.has_failed(completion.result);
        match completion.more {
            true => Ok(()),
            false if failed => {
                self.resting.rest(now, completion.token);
                Ok(())
            }
            false => self.receive_again(completion.token),
        }
    }

    fn wake_resting(&mut self, now: Instant) -> Result<(), DriverError> {
        while let Some(token) = self.resting.next(now) {
            self.receive_again(token)?;
        }
        Ok(())
    }

    fn receive_again(&mut self, receive: Token) -> Result<(), DriverError> {
        match receive {
            Token::SipReceive(location) => self.io.receive_sip(location),
            Token::MediaReceive(socket, generation) => {
                match self.sockets.ended(socket, generation) {
                    Ended::Again(place) => self.io.receive_media(socket, generation, place),
                    Ended::Clear(place) => {
                        self.io.clear_pair(place).map_err(|source| DriverError::Io {
                            what: format!("sockets out of the table of {}", D::NAME),
                            source,
                        })?;
                    }
                    Ended::Nothing => {}
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Relays the packet in `buffer`; true when its send has the buffer.
    fn relay(
        &mut self,
        now: Instant,
        socket: SocketSlot,
        generation: u32,
        buffer: u16,
        result: i32,
    ) -> bool {
        if !self.sockets.hears(socket, generation) {
            self.count(Counter::DropRtpUnbound);
            return false;
        }
        let Some((datagram, bytes)) = self.io.media_datagram(buffer, result) else {
            self.count(Counter::DropRtpTooShort);
            return false;
        };
        if datagram.truncated {
            self.count(Counter::DropRtpTooLarge);
            return false;
        }
        let mut packet = Packet::new(bytes, datagram.range);
        match self.worker.forward(now, socket, datagram.from, &mut packet) {
            Verdict::Send { socket, to } => {
                let range = packet.range();
                // The peer's pair may be closing in this very cycle.
                let Some(place) = self.sockets.place(socket) else {
                    self.count(Counter::SendFailed);
                    return false;
                };
                self.io.send_media(buffer, range, place, to);
                true
            }
            Verdict::Consume | Verdict::Drop(_) => false,
        }
    }

    fn drain_mesh(&mut self, now: Instant) {
        for _ in 0..PASSED_A_CYCLE {
            let Some(parcel) = self.mesh.take(self.id) else {
                return;
            };
            self.unpack(now, parcel);
            self.carry_out(now);
            self.bind_what_is_short(now);
        }
    }

    fn unpack(&mut self, now: Instant, parcel: Parcel) {
        let (worker, effects) = (&mut self.worker, &mut self.effects);
        match parcel {
            Parcel::Passed(passed) => worker.handle(now, Input::Mesh(passed), effects),
            Parcel::Arrived { location, from, channel, message } => {
                let input = Input::Sip { location, from, channel, datagram: &message };
                worker.handle(now, input, effects);
            }
            Parcel::Unsent { location, to, channel, outage, message } => {
                let input = Input::Unsent { location, to, channel, outage, datagram: &message };
                worker.handle(now, input, effects);
            }
            Parcel::Disconnected { connection } => {
                worker.handle(now, Input::Disconnected { connection }, effects);
            }
        }
    }

    /// Gives a message to the thread of the connections; the worker hears at once when that takes no more.
    fn post_sip(
        &mut self,
        now: Instant,
        location: LocationId,
        to: SocketAddr,
        channel: Channel,
        message: &[u8],
    ) {
        let letter = Letter { worker: self.id, location, to, channel, message: message.into() };
        if let Err(Order::Send(letter)) = self.outlet.order(Order::Send(letter)) {
            self.count(Counter::SendFailed);
            let datagram = &letter.message;
            let outage = Outage::Unreachable;
            let input = Input::Unsent { location, to, channel, outage, datagram };
            self.worker.handle(now, input, &mut self.effects);
        }
    }

    /// A connection that nobody watches is as good as closed.
    fn watch(&mut self, now: Instant, connection: u32) {
        if self.outlet.order(Order::Watch { worker: self.id, connection }).is_err() {
            self.worker.handle(now, Input::Disconnected { connection }, &mut self.effects);
        }
    }

    fn drain_disk(&mut self, now: Instant) {
        for _ in 0..ANSWERS_A_CYCLE {
            let Some(input) = self.disk.next(now) else {
                return;
            };
            self.worker.handle(now, input, &mut self.effects);
            self.carry_out(now);
        }
    }

    fn spool(&mut self, block: Vec<u8>) {
        let bytes = block.len() as u64;
        let (counter, bytes) = match self.disk.write(block) {
            Ok(()) => (Counter::SpoolBytes, bytes),
            Err(BlockLost(bytes)) => (Counter::SpoolLost, bytes),
        };
        self.region.counters().add(self.id, counter, bytes);
    }

    /// Tells the worker when control came or went. One that was replaced went first.
    fn follow_link(&mut self, now: Instant) {
        let link = self.mesh.link();
        if link == self.link {
            return;
        }
        let was_attached = self.link.is_attached();
        self.link = link;
        if was_attached {
            self.worker.handle(now, Input::ControlGone, &mut self.effects);
        }
        if link.is_attached() {
            self.worker.handle(now, Input::ControlHere, &mut self.effects);
        }
        self.carry_out(now);
    }

    fn drain_binds(&mut self, now: Instant) {
        for _ in 0..BINDS_A_CYCLE {
            if !self.bind_next(now) {
                return;
            }
        }
    }

    /// A burst of new calls takes more pairs than are kept: the next message of it does not wait for the end of the cycle,
    /// so it must not find that none is bound. Failures end it, since the worker rests after some.
    fn bind_what_is_short(&mut self, now: Instant) {
        while self.worker.is_short_of_ports() && self.bind_next(now) {
            self.count(Counter::PortsBoundInHaste);
        }
    }

    /// Binds the pair that is wanted next; false when none is.
    fn bind_next(&mut self, now: Instant) -> bool {
        let Some((pair, location, port)) = self.sockets.next_wanted() else {
            return false;
        };
        let ok = match self.bind(pair, location, port) {
            Ok(()) => true,
            Err(error) => {
                let ip = self.locations.get(usize::from(location.0)).map(|place| place.ip);
                tracing::debug!(%error, ?ip, port, "a pair of RTP ports could not be bound");
                self.count(Counter::BindFailed);
                false
            }
        };
        self.worker.handle(now, Input::Bound { pair, ok }, &mut self.effects);
        self.carry_out(now);
        true
    }

    fn bind(
        &mut self,
        pair: PairId,
        location: LocationId,
        port: u16,
    ) -> Result<(), std::io::Error> {
        if self.sockets.is_open(pair) {
            return Ok(());
        }
        let location = self.locations.get(usize::from(location.0));
        let ip = location.ok_or(std::io::ErrorKind::InvalidInput)?.ip;
        let place = self.sockets.take_place().ok_or(std::io::ErrorKind::QuotaExceeded)?;
        let put = bind_pair(ip, port).and_then(|sockets| self.io.put(place, sockets));
        if let Err(error) = put {
            self.sockets.give_place_back(place);
            return Err(error);
        }
        let generation = self.sockets.open(pair, place);
        self.io.receive_media(pair.rtp(), generation, place);
        self.io.receive_media(pair.rtcp(), generation, place + 1);
        Ok(())
    }

    fn carry_out(&mut self, now: Instant) {
        while !self.effects.is_empty() {
            let mut effects = std::mem::take(&mut self.effects);
            for effect in effects.drain(..) {
                self.carry_out_one(now, effect);
            }
            // What carrying out brought about is next; otherwise the vector's room is kept.
            if self.effects.is_empty() {
                self.effects = effects;
                return;
            }
        }
    }

    fn carry_out_one(&mut self, now: Instant, effect: Effect) {
        match effect {
            Effect::Sip { location, to, channel, datagram } if channel.transport.is_reliable() => {
                self.post_sip(now, location, to, channel, &datagram);
            }
            Effect::Sip { location, to, channel: _, datagram } => {
                self.send_sip(location, to, datagram)
            }
            Effect::Watch { connection } => self.watch(now, connection),
            Effect::Mesh { to, passed } if to == self.id => {
                self.worker.handle(now, Input::Mesh(passed), &mut self.effects);
            }
            Effect::Mesh { to, passed } => {
                if self.mesh.pass(&self.region, to, Parcel::Passed(passed)).is_err() {
                    self.count(Counter::DropMeshFull);
                }
            }
            Effect::Bind { pair, location, port } => self.sockets.want(pair, location, port),
            Effect::Close { pair } => {
                self.detour.leave(pair);
                if let Some((generation, place)) = self.sockets.close(pair) {
                    self.io.end_receive(pair.rtp(), generation, place);
                    self.io.end_receive(pair.rtcp(), generation, place + 1);
                }
            }
            Effect::Media { socket, to, packet } => self.send_made(socket, to, packet),
            Effect::EnterBypass { pair, flow } => self.enter_bypass(now, pair, &flow),
            Effect::LeaveBypass { pair } => self.leave_bypass(now, pair),
            Effect::Load { name } => self.disk.load(name),
            Effect::Spool { block } => self.spool(block),
            Effect::Mirror(copy) => {
                let lost = self.mirror.send(copy);
                if lost > 0 {
                    self.region.counters().add(self.id, Counter::HepDropped, lost);
                }
            }
            Effect::WakeControl => self.mesh.control_bell().ring(),
        }
    }

    fn send_sip(&mut self, location: LocationId, to: SocketAddr, datagram: std::rc::Rc<[u8]>) {
        let known = usize::from(location.0) < self.locations.len();
        if !known || !self.io.send_sip(location.0, to, datagram) {
            self.count(Counter::SendFailed);
        }
    }

    fn send_made(&mut self, socket: SocketSlot, to: SocketAddr, packet: Box<[u8]>) {
        let place = self.sockets.place(socket);
        if !place.is_some_and(|place| self.io.send_made(packet, place, to)) {
            self.count(Counter::SendFailed);
        }
    }

    /// Counts what a receive failed for. True when it is the socket's own trouble.
    fn has_failed(&mut self, result: i32) -> bool {
        match -result {
            ..=0 | libc::ECANCELED => false,
            libc::ENOBUFS => {
                self.count(Counter::BuffersExhausted);
                false
            }
            errno => {
                self.count(Counter::ReceiveFailed);
                self.failed_receives += 1;
                // Told ever more rarely; the counter tells the rest.
                if self.failed_receives.is_power_of_two() {
                    let error = std::io::Error::from_raw_os_error(errno);
                    tracing::warn!(%error, failed = self.failed_receives, "receives from sockets");
                }
                true
            }
        }
    }

    fn count(&self, counter: Counter) {
        self.region.counters().add(self.id, counter, 1);
    }

    fn bell(&self, tell: impl FnOnce(abi::Bell<'_>)) {
        if let Some(bell) = self.region.header().worker_bell(self.id) {
            tell(bell);
        }
    }
}

/// What these completions are.
fn taken_in(completions: &[Completion]) -> Taken {
    let mut taken = Taken { all: completions.len() as u32, ..Taken::default() };
    for completion in completions.iter().filter(|completion| completion.buffer.is_some()) {
        match completion.token {
            Token::SipReceive(_) => taken.messages += 1,
            Token::MediaReceive(socket, _) => taken.media += u32::from(!socket.is_rtcp()),
            _ => {}
        }
    }
    taken
}

#[cfg(test)]
mod tests;

//! The one task that owns the blade's core. Everything that concerns it comes as an [`Ask`].

use std::collections::HashMap;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use abi::{Outage, Process, Region, SpoolState};
use base::{CallRef, CcbId, Instant, WorkerId};
use control_core::cluster::{BladeName, Heard};
use control_core::{
    Blade, CcbStatus, CloseReason, Collected, DeskMessage, End, Granted, Input, LoginKey,
    LoginRefusal, LoginRequest, Marks, OpOutcome, Order, Output, PoolOrder, PoolRefusal, Provision,
    SlotId, SlotState, Strategy, Supervision, Trace, spool_name,
};
use tokio::sync::{mpsc, oneshot};

use crate::bus::Mouth;
use crate::clock;
use crate::pool::Tell;
use crate::records::{self, RecordSender};

/// Requests that wait for the owner; more wait at their sender.
const ASKS: usize = 1_024;
/// Messages that wait for one desk; a desk that is slower than this loses its WebSocket.
pub const DESK_MESSAGES: usize = 256;
/// Rounds on the rings before other requests have their turn.
const ROUNDS: u32 = 16;

/// Reads the core in the owner's task; it must be quick.
type Look = Box<dyn FnOnce(&Blade, Instant) + Send>;

/// Makes an input with the number of its answer.
type Make = Box<dyn FnOnce(u64) -> Input + Send>;

/// What the owner is asked or told.
pub enum Ask {
    /// The directory's content.
    Provision(Provision),
    /// A data plane answers.
    Attached { ccb: CcbId, region: Arc<Region>, doorbells: Vec<OwnedFd> },
    /// A link ended.
    Gone { ccb: CcbId },
    /// A data plane rang.
    Rung,
    /// An authenticated login.
    Login(Box<LoginRequest>, oneshot::Sender<Result<Granted, LoginRefusal>>),
    /// A desk attaches.
    DeskAttached { socket: u64, login: LoginKey, desk: mpsc::Sender<ToDesk> },
    /// A desk's WebSocket is gone.
    DeskLost { socket: u64 },
    /// A desk says exit.
    DeskExit { socket: u64 },
    /// A login is to end; answers whether it stood.
    Logout { login: LoginKey, end: End, done: oneshot::Sender<bool> },
    /// A call is to be released.
    Release { ccb: CcbId, call: CallRef, done: oneshot::Sender<Ended> },
    /// The media of a leg.
    Order { order: Box<Order>, done: oneshot::Sender<Ended> },
    /// Something that ends with a command's completion; it is made with the number that comes back.
    Command { make: Make, done: oneshot::Sender<Ended> },
    /// What a worker is to show of its signalling.
    Trace { ccb: CcbId, worker: WorkerId, trace: Box<Trace>, done: oneshot::Sender<Ended> },
    /// The records of these calls are written.
    Recorded(Vec<(CcbId, CallRef)>),
    /// An order for the pool.
    Pool(PoolOrder, oneshot::Sender<Result<SlotId, PoolRefusal>>),
    /// A slot's process is gone for good.
    SlotStopped(SlotId),
    /// The bus says something.
    Bus(Heard),
    /// The process stops.
    Farewell,
    /// Somebody reads.
    Look(Look),
}

/// How a command ended, and the digits that were collected.
pub type Ended = (OpOutcome, Option<Collected>);

/// What a desk's WebSocket is to do.
#[derive(Debug)]
pub enum ToDesk {
    /// Send this.
    Say(DeskMessage),
    /// Close.
    Close(CloseReason),
}

/// Asks the owner. When the process stops, every answer is the one that refuses.
#[derive(Clone, Debug)]
pub struct BladeHandle {
    asks: mpsc::Sender<Ask>,
}

/// The receiving end, for [`Owner::run`].
pub type Asks = mpsc::Receiver<Ask>;

/// A handle and what it sends to.
pub fn channel() -> (BladeHandle, Asks) {
    let (asks, receiver) = mpsc::channel(ASKS);
    (BladeHandle { asks }, receiver)
}

impl BladeHandle {
    /// Tells the owner something.
    pub async fn tell(&self, ask: Ask) {
        // The owner ends only when the process does.
        let _ = self.asks.send(ask).await;
    }

    /// Tells the owner something from a thread that may block.
    pub fn tell_blocking(&self, ask: Ask) {
        let _ = self.asks.blocking_send(ask);
    }

    /// True when the owner is gone: the process stops.
    pub fn is_closed(&self) -> bool {
        self.asks.is_closed()
    }

    /// Puts a login on a CCB.
    pub async fn login(&self, request: LoginRequest) -> Result<Granted, LoginRefusal> {
        let (done, answer) = oneshot::channel();
        self.tell(Ask::Login(Box::new(request), done)).await;
        answer.await.unwrap_or(Err(LoginRefusal::NoCcb))
    }

    /// True while that login of the agent of `number` stands, here or at another blade, or stood at one that is
    /// dead.
    pub async fn knows(&self, login: LoginKey, number: String) -> bool {
        self.look(move |blade, _| blade.knows(login, &number)).await.unwrap_or(false)
    }

    /// Ends a login; false when it did not stand.
    pub async fn logout(&self, login: LoginKey, end: End) -> bool {
        let (done, answer) = oneshot::channel();
        self.tell(Ask::Logout { login, end, done }).await;
        answer.await.unwrap_or(false)
    }

    /// Releases a call.
    pub async fn release(&self, ccb: CcbId, call: CallRef) -> OpOutcome {
        let (done, answer) = oneshot::channel();
        self.tell(Ask::Release { ccb, call, done }).await;
        answer.await.map_or(OpOutcome::Gone, |(outcome, _)| outcome)
    }

    /// Gives the core an input that ends with a completion.
    pub async fn command(&self, make: impl FnOnce(u64) -> Input + Send + 'static) -> OpOutcome {
        let (done, answer) = oneshot::channel();
        self.tell(Ask::Command { make: Box::new(make), done }).await;
        answer.await.map_or(OpOutcome::Gone, |(outcome, _)| outcome)
    }

    /// Orders something for the media of a leg. The answer comes when it is done, which may take as
    /// long as the call.
    pub async fn order(&self, order: Order) -> oneshot::Receiver<Ended> {
        let (done, answer) = oneshot::channel();
        self.tell(Ask::Order { order: Box::new(order), done }).await;
        answer
    }

    /// Orders something of the pool.
    pub async fn pool(&self, order: PoolOrder) -> Result<SlotId, PoolRefusal> {
        let (done, answer) = oneshot::channel();
        self.tell(Ask::Pool(order, done)).await;
        answer.await.unwrap_or(Err(PoolRefusal::Away))
    }

    /// Orders a trace of one worker, or its end.
    pub async fn trace(&self, ccb: CcbId, worker: WorkerId, trace: Trace) -> OpOutcome {
        let (done, answer) = oneshot::channel();
        self.tell(Ask::Trace { ccb, worker, trace: Box::new(trace), done }).await;
        answer.await.map_or(OpOutcome::Gone, |(outcome, _)| outcome)
    }

    /// What `read` returns of the core as it is now; `None` when the process stops.
    pub async fn look<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Blade, Instant) -> T + Send + 'static,
    ) -> Option<T> {
        let (done, answer) = oneshot::channel();
        let look = move |blade: &Blade, now: Instant| {
            let _ = done.send(read(blade, now));
        };
        self.tell(Ask::Look(Box::new(look))).await;
        answer.await.ok()
    }
}

/// The core and who waits for its answers.
pub struct Owner {
    blade: Blade,
    asks: Asks,
    pooled: HashMap<u64, oneshot::Sender<Result<SlotId, PoolRefusal>>>,
    /// None when this blade has no slots.
    slots: Option<mpsc::UnboundedSender<Tell>>,
    /// None when this blade is alone.
    bus: Option<Mouth>,
    /// None when no records are kept.
    records: Option<RecordSender>,
    doorbells: HashMap<CcbId, Vec<OwnedFd>>,
    desks: HashMap<u64, mpsc::Sender<ToDesk>>,
    logins: HashMap<u64, oneshot::Sender<Result<Granted, LoginRefusal>>>,
    commands: HashMap<u64, oneshot::Sender<Ended>>,
    leaving: HashMap<u64, oneshot::Sender<bool>>,
    /// Desks that did not keep up, which the core is to be told of.
    lost: Vec<u64>,
    /// Calls of which no record is kept, which the core is to be told of.
    unrecorded: Vec<(CcbId, CallRef)>,
    /// What the bus had no room for, which the core is to be told of.
    refused: Vec<Heard>,
    next_reply: u64,
    out: Vec<Output>,
}

impl Owner {
    /// An owner of a fresh core for these CCBs; without `records` none are kept.
    pub fn new(ccbs: &[CcbId], asks: Asks, records: Option<RecordSender>) -> Self {
        let mut blade = Blade::new(clock::now(), Process::current(), ccbs);
        let mut seed = [0; 32];
        match getrandom::fill(&mut seed) {
            Ok(()) => blade.seed(base::Rng::from_seed(seed)),
            // Without secrets no agent is lent to another CCB.
            Err(error) => tracing::error!(%error, "the kernel gives no random numbers"),
        }
        Owner {
            blade,
            asks,
            pooled: HashMap::new(),
            slots: None,
            bus: None,
            records,
            doorbells: HashMap::new(),
            desks: HashMap::new(),
            logins: HashMap::new(),
            commands: HashMap::new(),
            leaving: HashMap::new(),
            lost: Vec::new(),
            unrecorded: Vec::new(),
            refused: Vec::new(),
            next_reply: 0,
            out: Vec::new(),
        }
    }

    /// Makes this blade one of several; what it says to the others goes to `bus`, what they say comes as
    /// [`Ask::Bus`].
    pub fn join(&mut self, name: BladeName, incarnation: u64, strategy: Strategy, bus: Mouth) {
        self.blade.join(name, incarnation, strategy);
        self.bus = Some(bus);
    }

    /// Makes this blade, which joined others, the AgentProxy of that number, if any, reached at `http`.
    pub fn become_agent_proxy(&mut self, number: Option<u16>, http: &[SocketAddr]) {
        if let Some(number) = number {
            self.blade.become_agent_proxy(number, http.to_vec());
        }
    }

    /// Gives the blade its slots; `tell` goes to their drivers.
    pub fn keep_slots(
        &mut self,
        slots: Vec<(SlotId, SlotState)>,
        marks: Option<Marks>,
        tell: mpsc::UnboundedSender<Tell>,
    ) {
        self.blade.pool(clock::now(), slots, marks);
        self.slots = Some(tell);
    }

    /// Serves until every handle is gone.
    pub async fn run(mut self) {
        loop {
            let quiet = self.pump();
            let wait = if quiet { clock::until(self.blade.deadline()) } else { Default::default() };
            let ask = tokio::time::timeout(wait, self.asks.recv()).await;
            self.blade.wake_up();
            match ask {
                Ok(Some(ask)) => {
                    self.take(ask);
                    // What waits is taken in one go; the rings have their turn after it.
                    for _ in 0..ASKS {
                        match self.asks.try_recv() {
                            Ok(ask) => self.take(ask),
                            Err(_) => break,
                        }
                    }
                }
                Ok(None) => return,
                Err(_) => self.give(Input::Timeout),
            }
        }
    }

    /// Empties the rings; true when they are empty and the data planes know that we sleep.
    fn pump(&mut self) -> bool {
        for _ in 0..ROUNDS {
            if self.blade.fall_asleep() {
                return true;
            }
            self.give(Input::Pump);
        }
        false
    }

    fn take(&mut self, ask: Ask) {
        self.next_reply += 1;
        let reply = self.next_reply;
        match ask {
            Ask::Provision(provision) => self.give(Input::Provision(provision)),
            Ask::Attached { ccb, region, doorbells } => {
                self.doorbells.insert(ccb, doorbells);
                self.give(Input::Attached { ccb, region });
            }
            Ask::Gone { ccb } => {
                self.doorbells.remove(&ccb);
                self.give(Input::Gone { ccb });
            }
            Ask::Rung => self.give(Input::Pump),
            Ask::Login(request, done) => {
                self.logins.insert(reply, done);
                self.give(Input::Login { reply, request });
            }
            Ask::DeskAttached { socket, login, desk } => {
                self.desks.insert(socket, desk);
                self.give(Input::DeskAttached { socket, login });
            }
            Ask::DeskLost { socket } => {
                self.desks.remove(&socket);
                self.give(Input::DeskLost { socket });
            }
            Ask::DeskExit { socket } => self.give(Input::DeskExit { socket }),
            Ask::Logout { login, end, done } => {
                self.leaving.insert(reply, done);
                self.give(Input::Leave { reply, login, end });
            }
            Ask::Release { ccb, call, done } => {
                self.commands.insert(reply, done);
                self.give(Input::Release { reply, ccb, call });
            }
            Ask::Order { order, done } => {
                self.commands.insert(reply, done);
                self.give(Input::Order { reply, order });
            }
            Ask::Command { make, done } => {
                self.commands.insert(reply, done);
                self.give(make(reply));
            }
            Ask::Trace { ccb, worker, trace, done } => {
                self.commands.insert(reply, done);
                self.give(Input::Trace { reply, ccb, worker, trace });
            }
            Ask::Recorded(calls) => {
                calls.into_iter().for_each(|(ccb, call)| self.give(Input::Recorded { ccb, call }))
            }
            Ask::Pool(order, done) => {
                self.pooled.insert(reply, done);
                self.give(Input::Pool { reply, order });
            }
            Ask::SlotStopped(slot) => self.give(Input::SlotStopped { slot }),
            Ask::Bus(heard) => self.give(Input::Bus(heard)),
            Ask::Farewell => self.give(Input::Farewell),
            Ask::Look(look) => look(&self.blade, clock::now()),
        }
    }

    fn give(&mut self, input: Input) {
        let mut out = std::mem::take(&mut self.out);
        let mut next = Some(input);
        while let Some(input) = next {
            if let (Input::Bus(heard), Some(bus)) = (&input, &mut self.bus) {
                bus.hears(heard);
            }
            self.blade.handle(clock::now(), input, &mut out);
            for output in out.drain(..) {
                self.put(output);
            }
            let lost = self.lost.pop().map(|socket| Input::DeskLost { socket });
            let recorded = |(ccb, call)| Input::Recorded { ccb, call };
            next = lost
                .or_else(|| self.unrecorded.pop().map(recorded))
                .or_else(|| self.refused.pop().map(Input::Bus));
        }
        self.out = out;
    }

    fn put(&mut self, output: Output) {
        match output {
            Output::Login { reply, result } => {
                if let Some(done) = self.logins.remove(&reply) {
                    let _ = done.send(result);
                }
            }
            Output::Desk { socket, message } => self.say(socket, ToDesk::Say(message)),
            Output::DeskClosed { socket, reason } => {
                self.say(socket, ToDesk::Close(reason));
                self.desks.remove(&socket);
            }
            Output::Record(record) => match &self.records {
                Some(records) => records.send(record),
                None => self.unrecorded.push((record.ccb, record.call)),
            },
            Output::Wake { ccb, worker } => self.ring(ccb, worker),
            Output::Done { reply, result, digits } => {
                if let Some(done) = self.commands.remove(&reply) {
                    let _ = done.send((result, digits));
                }
            }
            Output::Pool { reply, result } => {
                if let Some(done) = self.pooled.remove(&reply) {
                    let _ = done.send(result);
                }
            }
            Output::Slot { slot, order } => self.tell_slot(Tell::Order(slot, order)),
            Output::Slots(slots) => slots
                .into_iter()
                .for_each(|(slot, state)| self.tell_slot(Tell::Remember(slot, state))),
            Output::Left { reply, stood } => {
                if let Some(done) = self.leaving.remove(&reply) {
                    let _ = done.send(stood);
                }
            }
            Output::Bus(say) => {
                if let Some(heard) = self.bus.as_mut().and_then(|bus| bus.say(say)) {
                    self.refused.push(heard);
                }
            }
            other => log(&other),
        }
    }

    fn tell_slot(&self, tell: Tell) {
        if let Some(slots) = &self.slots {
            // It ends only with the process.
            let _ = slots.send(tell);
        }
    }

    /// Hands a message to a desk's task. A desk that does not keep up loses its WebSocket, and may
    /// come back and be told how things stand.
    fn say(&mut self, socket: u64, message: ToDesk) {
        let Some(desk) = self.desks.get(&socket) else { return };
        if desk.try_send(message).is_err() {
            self.desks.remove(&socket);
            self.lost.push(socket);
        }
    }

    fn ring(&self, ccb: CcbId, worker: WorkerId) {
        let doorbell = self.doorbells.get(&ccb).and_then(|all| all.get(usize::from(worker.0)));
        if let Some(doorbell) = doorbell
            && let Err(error) = rustix::io::write(doorbell, &1_u64.to_ne_bytes())
        {
            tracing::debug!(ccb = ccb.0, worker = worker.0, %error, "a doorbell is gone");
        }
    }
}

/// What only the log is told.
fn log(output: &Output) {
    match output {
        Output::Ended { login, end } => {
            tracing::info!(
                tenant = login.tenant.0,
                agent = login.agent,
                epoch = login.epoch,
                end = end.name(),
                "a login ended"
            );
        }
        Output::Leads { term: Some(term) } => {
            tracing::info!(term, "this blade leads the CDM");
        }
        Output::Leads { term: None } => tracing::info!("this blade leads the CDM no more"),
        Output::Paused { paused_ms } => {
            tracing::warn!(
                paused_ms,
                "this process was paused; it grants nothing until it is heard"
            );
        }
        Output::Ccb { ccb, was, is: CcbStatus::Down } => {
            tracing::warn!(ccb = ccb.0, was = was.name(), "a CCB is down");
        }
        Output::Ccb { ccb, was, is } => {
            tracing::info!(ccb = ccb.0, was = was.name(), is = is.name(), "a CCB changed");
        }
        Output::Restarted { ccb, incarnation, fresh } => {
            tracing::warn!(ccb = ccb.0, incarnation, fresh = *fresh, "a data plane restarted");
        }
        Output::ServiceFailed { ccb, call, service, result } => {
            tracing::warn!(ccb = ccb.0, %call, service, ?result, "a service failed");
        }
        Output::Spool { ccb, worker, state: SpoolState::Writing, lost } => {
            tracing::info!(ccb = ccb.0, worker = worker.0, lost, "recordings are written again");
        }
        Output::Spool { ccb, worker, state, lost } => {
            let state = spool_name(*state);
            tracing::error!(ccb = ccb.0, worker = worker.0, state, lost, "recorded media is lost");
        }
        Output::Trunk { ccb, address, outage } => {
            let (ccb, why) = (ccb.0, outage.text());
            match outage {
                Outage::None => tracing::info!(ccb, %address, "a trunk answers again"),
                _ => tracing::warn!(ccb, %address, why, "a trunk does not serve"),
            }
        }
        Output::Scaled { wish, result: Ok(_) } => {
            tracing::info!(?wish, "the CDM changes the pool");
        }
        Output::Scaled { wish, result: Err(why) } => {
            tracing::warn!(?wish, why = why.text(), "the CDM cannot change the pool");
        }
        Output::Attends { ccb, serial, number, how } => {
            let how = match how {
                None => "participant",
                Some(Supervision::Monitor) => "monitor",
                Some(Supervision::Whisper) => "whisper",
                Some(Supervision::Barge) => "barge",
            };
            let (ccb, serial) = (ccb.0, records::serial_text(*serial));
            tracing::info!(ccb, serial, number, how, "somebody was brought into a call");
        }
        other => log_security(other),
    }
}

/// What the security log is told, too.
fn log_security(output: &Output) {
    match output {
        Output::SourceRefused { ccb, call, leg, address, left_out } => {
            tracing::warn!(
                target: "security",
                // Logs do not show targets as a rule.
                event = "security",
                ccb = ccb.0,
                %call,
                leg,
                %address,
                left_out,
                "media from a source that is not the party's was dropped"
            );
        }
        Output::SourceBanned { ccb, address, seconds } => {
            tracing::warn!(
                target: "security",
                event = "security",
                ccb = ccb.0,
                %address,
                seconds,
                "a source of SIP that proves nothing is banned"
            );
        }
        _ => {}
    }
}

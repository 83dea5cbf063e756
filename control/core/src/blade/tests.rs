use super::*;
use crate::desk::DeskCommand;
use crate::login::End;
use crate::message::{
    CallEvent, CallRecord, CloseReason, DeskMessage, Granted, LoginRefusal, LoginRequest,
    OpOutcome, TenantRecord, TrunkRecord,
};
use crate::routes::{Destination, Route};
use crate::seat::SeatEvent;
use abi::{
    AgentState, CallRow, CallState, Class, Command, CommandReceiver, CtiState, DataPlaneState,
    EventSender, Layout, LegRow, LegState, LocationRow, OpResult, Party, RegistrationRow,
    UnregisterCause,
};

mod away;
mod ccbs;
mod chaos;
mod cluster;
mod forwards;
mod hosting;
mod logins;
mod orders;
mod pool;
mod queues;
mod rooms;
mod sharing;
mod trunks;
mod waiting;

const WORKERS: u8 = 2;
const TENANT: TenantId = TenantId(1);

/// The data plane's side of a region, moved by hand.
struct Plane {
    region: Arc<Region>,
    events: Vec<EventSender>,
    commands: Vec<CommandReceiver>,
}

impl Plane {
    fn new(ccb: u16, now: Instant) -> Plane {
        Plane::with_agents(ccb, 4, now)
    }

    fn with_agents(ccb: u16, agents: u32, now: Instant) -> Plane {
        let region = Region::in_memory(Layout {
            ccb: CcbId(ccb),
            workers: WORKERS,
            agents,
            calls_per_worker: 4,
            legs_per_worker: 8,
            ring_slots: 16,
            blob_bytes: 4096,
            tenants: 4,
            trunks: 4,
            locations: 2,
        });
        for (id, name) in ["local", "east"].iter().enumerate() {
            let mut row = LocationRow::default();
            row.set_name(Text::new(name.as_bytes()).expect("it fits"));
            row.set_sip(SocketAddr::from(([10, id as u8, 0, 1], 5060)));
            region.locations().write(LocationId(id as u8), &row);
        }
        let plane = Plane {
            events: (0..WORKERS).map(|w| region.event_sender(WorkerId(w))).collect(),
            commands: (0..WORKERS).map(|w| region.command_receiver(WorkerId(w))).collect(),
            region,
        };
        plane.start(now);
        plane
    }

    fn start(&self, now: Instant) {
        self.region.header().start_data_plane(Process::default(), now);
        self.beat(now);
        self.region.header().set_data_plane_state(DataPlaneState::Running);
    }

    fn beat(&self, now: Instant) {
        (0..WORKERS).for_each(|w| self.region.header().beat_worker(WorkerId(w), now));
    }

    fn event(&mut self, worker: usize, event: Event, blob: &[u8]) {
        let _wake = self.events[worker].push(&event, blob, Class::Call).expect("there is room");
    }

    fn commands(&mut self, worker: usize) -> Vec<(Command, Vec<u8>)> {
        let (mut all, mut blob) = (Vec::new(), Vec::new());
        while let Some(command) = self.commands[worker].pop(&mut blob) {
            all.push((command.expect("it is whole"), blob.clone()));
        }
        all
    }

    fn register(&mut self, slot: AgentSlot, now: Instant) {
        let epoch = self.region.agents().read(slot).expect("a row").login_epoch;
        let mut row = RegistrationRow {
            state: RegistrationRow::REGISTERED,
            epoch,
            expires_at: (now + Duration::from_secs(3600)).as_nanos(),
            ..RegistrationRow::default()
        };
        let addr = SocketAddr::from(([10, 9, 9, 9], 5062));
        row.set_addr(addr);
        self.region.registrations().write(slot, &row);
        let location = LocationId(0);
        let event = Event::Registered { agent: slot, epoch, location, addr, expires_ms: 3_600_000 };
        self.event(1, event, &[]);
    }

    fn unregister(&mut self, slot: AgentSlot) {
        let epoch = self.region.registrations().read(slot).expect("a row").epoch;
        self.region.registrations().write(slot, &RegistrationRow::default());
        let cause = UnregisterCause::Expired;
        self.event(1, Event::Unregistered { agent: slot, epoch, cause }, &[]);
    }

    /// Writes a call of two agents and, but for what tables alone must tell, its event.
    fn call(&mut self, slot: u32, state: CallState, agents: [AgentSlot; 2], with_event: bool) {
        let call = CallRef { slot, generation: 7 };
        let row = CallRow {
            state: state.into(),
            generation: 7,
            serial: 777,
            tenant: TENANT.0,
            started_at: 5,
            ended_at: u64::from(state == CallState::Ended) * 9,
            incarnation: self.region.header().data_plane().incarnation,
            legs: 2,
            ..CallRow::default()
        };
        for (leg, agent) in agents.iter().enumerate() {
            let held = self.region.agents().read(*agent).expect("a row");
            let mut row = LegRow {
                state: match state {
                    CallState::Answered => LegState::Answered.into(),
                    CallState::Ended => LegState::Ended.into(),
                    _ => LegState::Calling.into(),
                },
                leg: leg as u32,
                packets_in: 10 + leg as u64,
                ..LegRow::default()
            };
            row.set_call(call);
            row.set_party(Party::Agent(*agent, held.login_epoch));
            row.set_number(Text::new(held.number().as_bytes()).expect("it fits"));
            self.region.legs().write(5 + leg as u32, &row);
        }
        self.region.calls().write(slot, &row);
        if with_event {
            let event = Event::CallChanged { call, serial: 777, state, cause: 0 };
            self.event(0, event, &[]);
        }
    }
}

struct World {
    now: Instant,
    blade: Blade,
    planes: Vec<Plane>,
    sockets: u64,
    /// What was said to the bus and not carried on yet.
    said: Vec<Output>,
    /// Whether that is kept there.
    keeps: bool,
}

impl World {
    fn new(ccbs: u16) -> World {
        let now = Instant::from_nanos(1_000_000_000);
        let planes: Vec<Plane> = (1..=ccbs).map(|ccb| Plane::new(ccb, now)).collect();
        World::with(now, planes)
    }

    fn with(now: Instant, planes: Vec<Plane>) -> World {
        let ids: Vec<CcbId> = planes.iter().map(|plane| plane.region.layout().ccb).collect();
        let mut world = World {
            now,
            blade: Blade::new(now, Process::default(), &ids),
            planes,
            sockets: 0,
            said: Vec::new(),
            keeps: false,
        };
        world.give(Input::Provision(provision()));
        world.attach_all();
        world
    }

    fn attach_all(&mut self) -> Vec<Output> {
        let mut all = Vec::new();
        for plane in 0..self.planes.len() {
            let region = self.planes[plane].region.clone();
            all.extend(self.give(Input::Attached { ccb: region.layout().ccb, region }));
        }
        all
    }

    fn give(&mut self, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        self.blade.handle(self.now, input, &mut out);
        let is_said = |one: &Output| self.keeps && matches!(one, Output::Bus(_));
        let (said, out) = out.into_iter().partition(is_said);
        self.said.extend::<Vec<Output>>(said);
        out
    }

    /// Lets time pass in steps of the deadline; the data planes live meanwhile.
    fn pass(&mut self, millis: u64) -> Vec<Output> {
        let end = self.now + Duration::from_millis(millis);
        let mut all = Vec::new();
        while self.now < end {
            self.now = self.blade.deadline().max(self.now).min(end);
            for plane in &self.planes {
                plane.beat(self.now);
            }
            all.extend(self.give(Input::Timeout));
        }
        all
    }

    fn login(
        &mut self,
        agent: u64,
        epoch: u32,
        force: bool,
    ) -> (Result<Granted, LoginRefusal>, Vec<Output>) {
        let request = Box::new(request(agent, epoch, force));
        let mut out = self.give(Input::Login { reply: 9, request });
        let at = out.iter().position(|one| matches!(one, Output::Login { .. }));
        match out.remove(at.expect("each login is answered")) {
            Output::Login { reply: 9, result } => (result, out),
            other => panic!("{other:?}"),
        }
    }

    fn granted(&mut self, agent: u64, epoch: u32) -> Granted {
        self.login(agent, epoch, false).0.expect("it is granted")
    }

    fn slot(&self, login: LoginKey) -> AgentSlot {
        self.blade.logins[&login].slot
    }

    fn attach_desk(&mut self, login: LoginKey) -> (u64, Vec<Output>) {
        self.sockets += 1;
        let socket = self.sockets;
        (socket, self.give(Input::DeskAttached { socket, login }))
    }

    fn register(&mut self, granted: Granted) -> Vec<Output> {
        let slot = self.slot(granted.login);
        let now = self.now;
        self.planes[usize::from(granted.ccb.0) - 1].register(slot, now);
        self.give(Input::Pump)
    }

    /// A login with phone and desk.
    fn online(&mut self, agent: u64, epoch: u32) -> (Granted, u64) {
        let granted = self.granted(agent, epoch);
        self.register(granted);
        let (socket, _) = self.attach_desk(granted.login);
        (granted, socket)
    }

    fn counts(&self, ccb: u16) -> (u32, u32, u32) {
        let ccb = self.blade.cdm().ccb(CcbId(ccb)).expect("it is known");
        (ccb.online, ccb.phones, ccb.grants())
    }

    fn status(&self, ccb: u16) -> CcbStatus {
        self.blade.cdm().ccb(CcbId(ccb)).expect("it is known").status
    }

    fn view(&self, login: LoginKey) -> LoginView {
        self.blade.logins().find(|view| view.login == login).expect("it stands")
    }

    /// Another control process takes over the regions, as after a kill.
    fn restart_control(&mut self) -> Vec<Output> {
        let ids: Vec<CcbId> = self.planes.iter().map(|one| one.region.layout().ccb).collect();
        self.blade = Blade::new(self.now, Process::default(), &ids);
        let mut out = self.give(Input::Provision(provision()));
        out.extend(self.attach_all());
        out
    }
}

fn provision() -> Provision {
    Provision {
        tenants: vec![TenantRecord {
            id: TENANT,
            name: "demo".into(),
            realm: "r".into(),
            hold_music: None,
            srtp: abi::SrtpPolicy::Offered,
        }],
        trunks: vec![TrunkRecord {
            tenant: TENANT,
            name: "t".into(),
            by: "10.1.0.0/16".parse().expect("a network"),
            srtp: abi::SrtpPolicy::Required,
        }],
        forwards: Vec::new(),
        queues: Vec::new(),
        skills: Vec::new(),
        supervisors: Vec::new(),
        options_s: 0,
        routes: vec![Route {
            tenant: TENANT,
            prefix: "9".into(),
            to: Destination::Trunk {
                name: None,
                addresses: vec![SocketAddr::from(([10, 1, 2, 3], 5060))],
                transport: base::Transport::Tcp,
                location: None,
                tls: crate::routes::TrunkTls::default(),
            },
        }],
    }
}

fn request(agent: u64, epoch: u32, force: bool) -> LoginRequest {
    LoginRequest {
        agent: AgentRecord {
            tenant: TENANT,
            agent,
            number: format!("{agent}"),
            user: format!("{agent}.demo"),
            name: format!("Agent {agent}"),
            agent_type: 1,
            incoming_limit: Some(2),
            outgoing_limit: Some(3),
        },
        epoch,
        eligible: vec![CcbId(1), CcbId(2)],
        location: "local".into(),
        force,
        ha1: Ha1 { md5: [agent as u8; 16], sha256: [epoch as u8; 32] },
    }
}

/// What a desk was told, but for what its agent's seat does.
fn desk_messages(out: &[Output], to: u64) -> Vec<DeskMessage> {
    let messages = out.iter().filter_map(|one| match one {
        Output::Desk { message: DeskMessage::Agent(_), .. } => None,
        Output::Desk { socket, message } if *socket == to => Some(message.clone()),
        _ => None,
    });
    messages.collect()
}

/// What a desk was told of its agent's seat.
fn seat_events(out: &[Output], to: u64) -> Vec<SeatEvent> {
    let events = out.iter().filter_map(|one| match one {
        Output::Desk { socket, message: DeskMessage::Agent(event) } if *socket == to => {
            Some(*event)
        }
        _ => None,
    });
    events.collect()
}

fn call_events(out: &[Output], to: u64) -> Vec<(CallEvent, String, bool)> {
    let messages = desk_messages(out, to).into_iter().filter_map(|message| match message {
        DeskMessage::Call { event, party, incoming, serial: 777, .. } => {
            Some((event, party, incoming))
        }
        _ => None,
    });
    messages.collect()
}

fn records(out: Vec<Output>) -> Vec<CallRecord> {
    let records = out.into_iter().filter_map(|one| match one {
        Output::Record(record) => Some(*record),
        _ => None,
    });
    records.collect()
}

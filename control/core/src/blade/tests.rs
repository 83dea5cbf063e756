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
mod cluster;
mod forwards;
mod hosting;
mod orders;
mod pool;
mod queues;
mod rooms;
mod sharing;
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

#[test]
fn a_login_goes_the_steps_from_511_to_515() {
    let mut world = World::new(1);
    let region = world.planes[0].region.clone();
    let granted = world.granted(1001, 1);
    assert_eq!(world.counts(1), (0, 0, 1));
    let (slot, row) = region.agents().find_number(TENANT, b"1001").expect("it is found");
    assert_eq!(region.agents().find_user(b"1001.demo").map(|found| found.0), Some(slot));
    assert_eq!((row.state(), row.login_epoch), (AgentState::LoggedIn, 1));
    let secret = region.secrets().read(slot).expect("a row");
    assert_eq!((secret.epoch, secret.ha1_md5, secret.ha1_sha256), (1, [233; 16], [1; 32]));
    assert_eq!(world.view(granted.login).state, "granted");

    world.register(granted);
    assert_eq!((world.counts(1), world.view(granted.login).state), ((0, 1, 0), "registered"));
    let (socket, out) = world.attach_desk(granted.login);
    let address = SocketAddr::from(([10, 9, 9, 9], 5062));
    assert_eq!(
        desk_messages(&out, socket),
        [DeskMessage::PhoneRegistered { address }, DeskMessage::LoginProgress { complete: true }]
    );
    assert_eq!((world.counts(1), world.view(granted.login).state), ((1, 0, 0), "online"));
    assert_eq!(region.agents().read(slot).expect("a row").cti_state(), CtiState::Connected);

    let out = world.give(Input::DeskExit { socket });
    let ended = desk_messages(&out, socket);
    assert_eq!(ended, [DeskMessage::LoggedOut { end: End::Exit }]);
    assert_eq!(world.counts(1), (0, 0, 0));
    assert!(!world.blade.is_alive(granted.login));
    assert_eq!(region.agents().find_number(TENANT, b"1001"), None);
    assert_eq!(region.secrets().read(slot).expect("a row").epoch, 0);
    for worker in 0..2 {
        let commands = world.planes[0].commands(worker);
        assert!(
            matches!(commands[..], [(Command::Forget { agent, epoch: 1, .. }, _)] if agent == slot)
        );
    }
}

#[test]
fn the_desk_may_come_before_the_phone() {
    let mut world = World::new(1);
    let granted = world.granted(1001, 1);
    let (socket, out) = world.attach_desk(granted.login);
    assert_eq!(desk_messages(&out, socket), [DeskMessage::LoginProgress { complete: false }]);
    assert_eq!(
        (world.counts(1), world.view(granted.login).state),
        ((0, 0, 1), "waiting_for_phone")
    );
    let out = world.register(granted);
    assert_eq!(
        desk_messages(&out, socket).last(),
        Some(&DeskMessage::LoginProgress { complete: true })
    );
    assert_eq!(world.counts(1), (1, 0, 0));
}

#[test]
fn thirty_seconds_without_the_websocket_end_the_login() {
    let mut world = World::new(1);
    let (granted, socket) = world.online(1001, 1);
    world.give(Input::DeskLost { socket });
    assert_eq!((world.counts(1), world.view(granted.login).state), ((1, 0, 0), "lost"));
    world.pass(29_000);
    assert!(world.blade.is_alive(granted.login));
    let (again, out) = world.attach_desk(granted.login);
    assert_eq!(desk_messages(&out, again), [DeskMessage::LoginProgress { complete: true }]);
    world.pass(60_000);
    assert!(world.blade.is_alive(granted.login));
    world.give(Input::DeskLost { socket: again });
    let out = world.pass(31_500);
    assert!(
        out.iter().any(|one| matches!(one, Output::Ended { end: End::DeskAway, .. })),
        "{out:?}"
    );
    assert_eq!(world.counts(1), (0, 0, 0));
}

#[test]
fn an_expired_registration_counts_down_and_may_come_back() {
    let mut world = World::new(1);
    let (granted, socket) = world.online(1001, 1);
    let slot = world.slot(granted.login);
    world.planes[0].unregister(slot);
    let out = world.give(Input::Pump);
    assert_eq!(
        desk_messages(&out, socket),
        [DeskMessage::PhoneLost, DeskMessage::LoginProgress { complete: false }]
    );
    assert_eq!(world.counts(1), (0, 0, 0));
    world.pass(120_000);
    assert!(world.blade.is_alive(granted.login));
    world.register(granted);
    assert_eq!(world.counts(1), (1, 0, 0));
}

#[test]
fn a_grant_that_nobody_uses_lapses_and_its_slot_comes_back() {
    let mut world = World::new(1);
    for agent in 0..4 {
        world.granted(1001 + agent, 1);
    }
    assert_eq!(world.login(2000, 1, false).0, Err(LoginRefusal::NoCcb));
    world.pass(299_000);
    assert_eq!(world.counts(1), (0, 0, 4));
    world.pass(3_000);
    assert_eq!(world.counts(1), (0, 0, 0));
    world.granted(2000, 1);
}

#[test]
fn a_phone_alone_lives_until_it_is_gone_for_thirty_seconds() {
    let mut world = World::new(1);
    let granted = world.granted(1001, 1);
    world.register(granted);
    world.pass(600_000);
    assert!(world.blade.is_alive(granted.login));
    let slot = world.slot(granted.login);
    world.planes[0].unregister(slot);
    world.give(Input::Pump);
    world.pass(29_000);
    assert!(world.blade.is_alive(granted.login));
    world.pass(3_000);
    assert!(!world.blade.is_alive(granted.login));
}

#[test]
fn the_newest_login_wins_and_the_older_desk_is_told() {
    let mut world = World::new(2);
    let (first, socket) = world.online(1001, 1);
    let (second, out) = world.login(1001, 2, false);
    let second = second.expect("it is granted");
    assert_eq!(desk_messages(&out, socket), [DeskMessage::Replaced]);
    assert!(out.iter().any(|one| matches!(
        one,
        Output::DeskClosed { reason: CloseReason::Ended(End::Replaced), .. }
    )));
    assert!(!world.blade.is_alive(first.login) && world.blade.is_alive(second.login));
    let region = &world.planes[usize::from(second.ccb.0) - 1].region;
    let (slot, row) = region.agents().find_number(TENANT, b"1001").expect("it is found");
    assert_eq!((slot, row.login_epoch), (world.slot(second.login), 2));
    let (late, out) = world.attach_desk(first.login);
    assert!(matches!(
        out[..],
        [Output::DeskClosed { socket, reason: CloseReason::NoLogin }] if socket == late
    ));
}

#[test]
fn an_agent_in_a_call_is_replaced_only_by_force() {
    let mut world = World::new(1);
    let (first, _) = world.online(1001, 1);
    let slot = world.slot(first.login);
    let region = world.planes[0].region.clone();
    let leases = region.leases();
    let counter = leases
        .reserve(slot, Medium::Voice, CcbId(1), abi::Purpose::Call, world.now)
        .expect("it is free");
    assert!(leases.bind(slot, Medium::Voice, CcbId(1), counter));
    assert_eq!(world.login(1001, 2, false).0, Err(LoginRefusal::InCall));
    assert!(world.blade.is_alive(first.login));
    let second = world.login(1001, 3, true).0.expect("it is granted");
    assert!(!world.blade.is_alive(first.login));
    assert_ne!(world.slot(second.login), slot);
    // The old slot is kept until its call and its registration are gone.
    world.pass(5_000);
    assert_eq!(region.agents().read(slot).expect("a row").state(), AgentState::LoggedOut);
    region.registrations().write(slot, &RegistrationRow::default());
    world.pass(2_000);
    assert_eq!(region.agents().read(slot).expect("a row").state(), AgentState::LoggedOut);
    assert!(leases.release(slot, Medium::Voice, CcbId(1), counter, abi::Share::Waiting));
    world.pass(2_000);
    assert_eq!(region.agents().read(slot).expect("a row").state(), AgentState::Empty);
}

#[test]
fn another_websocket_takes_the_session_over() {
    let mut world = World::new(1);
    let (granted, first) = world.online(1001, 1);
    let (second, out) = world.attach_desk(granted.login);
    assert!(out.iter().any(|one| matches!(
        one,
        Output::DeskClosed { socket, reason: CloseReason::Taken } if *socket == first
    )));
    world.give(Input::DeskLost { socket: first });
    assert_eq!(world.view(granted.login).state, "online");
    world.give(Input::DeskLost { socket: second });
    assert_eq!(world.view(granted.login).state, "lost");
}

#[test]
fn logins_spread_over_the_ccbs_before_any_of_them_reports() {
    let mut world = World::new(2);
    for agent in 0..4 {
        world.granted(1001 + agent, 1);
    }
    assert_eq!((world.counts(1), world.counts(2)), ((0, 0, 2), (0, 0, 2)));
}

#[test]
fn a_ccb_that_gives_no_sign_of_life_is_down_and_comes_back() {
    let mut world = World::new(1);
    assert_eq!(world.status(1), CcbStatus::Normal);
    let mut out = Vec::new();
    for _ in 0..8 {
        world.now = world.now + Duration::from_millis(250);
        out.extend(world.give(Input::Timeout));
    }
    assert_eq!(world.status(1), CcbStatus::Down);
    assert!(out.iter().any(|one| matches!(one, Output::Ccb { is: CcbStatus::Down, .. })));
    assert_eq!(world.login(1001, 1, false).0, Err(LoginRefusal::NoCcb));
    world.pass(500);
    assert_eq!(world.status(1), CcbStatus::Normal);
    world.give(Input::Gone { ccb: CcbId(1) });
    assert_eq!(world.status(1), CcbStatus::Down);
    world.planes[0].region.header().set_data_plane_state(DataPlaneState::Draining);
    world.attach_all();
    assert_eq!(world.status(1), CcbStatus::Draining);
    assert_eq!(world.login(1001, 1, false).0, Err(LoginRefusal::NoCcb));
}

#[test]
fn a_ccb_with_a_worker_that_hangs_is_down() {
    let mut world = World::new(1);
    for _ in 0..8 {
        world.now = world.now + Duration::from_millis(250);
        world.planes[0].region.header().beat_worker(WorkerId(0), world.now);
        world.give(Input::Timeout);
    }
    assert_eq!(world.status(1), CcbStatus::Down);
    assert_eq!(world.login(1001, 1, false).0, Err(LoginRefusal::NoCcb));
    world.pass(500);
    assert_eq!(world.status(1), CcbStatus::Normal);
}

#[test]
fn a_login_that_was_overtaken_does_not_replace_the_newer_one() {
    let mut world = World::new(1);
    let newer = world.granted(1001, 7);
    assert_eq!(world.login(1001, 6, true).0, Err(LoginRefusal::Overtaken));
    assert!(world.blade.is_alive(newer.login));
    assert!(world.login(1001, 8, false).0.is_ok());
}

#[test]
fn desks_see_their_call_from_both_ends_and_its_record_is_acknowledged_last() {
    let mut world = World::new(1);
    let (a, a_desk) = world.online(1001, 1);
    let (b, b_desk) = world.online(1002, 1);
    let agents = [world.slot(a.login), world.slot(b.login)];
    use CallEvent::*;
    let table = [
        (CallState::Calling, Some(Originated), None),
        (CallState::Ringing, Some(Delivered), Some(Delivered)),
        (CallState::Ringing, None, None),
        (CallState::Answered, Some(Established), Some(Established)),
        (CallState::Ended, Some(ConnectionCleared), Some(ConnectionCleared)),
    ];
    for (state, to_a, to_b) in table {
        world.planes[0].call(1, state, agents, true);
        let out = world.give(Input::Pump);
        let seen = |desk, party: &str, incoming, event: Option<CallEvent>| {
            let expected: Vec<_> =
                event.map(|event| (event, party.to_owned(), incoming)).into_iter().collect();
            assert_eq!(call_events(&out, desk), expected, "{state:?}");
        };
        seen(a_desk, "1002", false, to_a);
        seen(b_desk, "1001", true, to_b);
        let records = records(out);
        assert_eq!(records.len(), usize::from(state == CallState::Ended));
        if let [record] = &records[..] {
            assert_eq!((record.serial, record.legs.len()), (777, 2));
            assert_eq!(record.legs[1].login, Some(b.login));
            assert_eq!((record.legs[0].packets_in, record.legs[1].packets_in), (10, 11));
        }
    }
    let call = CallRef { slot: 1, generation: 7 };
    let region = world.planes[0].region.clone();
    assert!(!region.calls().is_acknowledged(call));
    world.pass(5_000);
    assert!(!region.calls().is_acknowledged(call));
    world.give(Input::Recorded { ccb: CcbId(1), call });
    assert!(region.calls().is_acknowledged(call));
    assert!(world.blade.calls(CcbId(1)).is_empty());
}

#[test]
fn a_missed_event_is_mended_from_the_tables() {
    let mut world = World::new(1);
    let (a, a_desk) = world.online(1001, 1);
    let (b, _) = world.online(1002, 1);
    let agents = [world.slot(a.login), world.slot(b.login)];
    world.planes[0].call(1, CallState::Ringing, agents, false);
    // The ring overflows: what is refused leaves a gap in the numbers.
    let call = CallRef { slot: 0, generation: 0 };
    let event = Event::SourceRefused { call, leg: 0, addr: SocketAddr::from(([1, 1, 1, 1], 1)) };
    while world.planes[0].events[0].push(&event, &[], Class::Call).is_ok() {}
    world.give(Input::Pump);
    world.planes[0].event(0, event, &[]);
    let out = world.give(Input::Pump);
    assert_eq!(call_events(&out, a_desk), [(CallEvent::Delivered, "1002".to_owned(), false)]);
    let view = world.blade.ccbs().next().expect("one CCB");
    assert_eq!(view.counts.events_missed, 1);
}

#[test]
fn control_that_restarts_finds_everything_in_the_tables() {
    let mut world = World::new(1);
    let (a, _) = world.online(1001, 1);
    let (b, _) = world.online(1002, 1);
    let phone_only = world.granted(1003, 1);
    world.register(phone_only);
    let slots = [world.slot(a.login), world.slot(b.login)];
    let region = world.planes[0].region.clone();
    for slot in slots {
        let counter = region
            .leases()
            .reserve(slot, Medium::Voice, CcbId(1), abi::Purpose::Call, world.now)
            .expect("it is free");
        assert!(region.leases().bind(slot, Medium::Voice, CcbId(1), counter));
    }
    world.planes[0].call(1, CallState::Answered, slots, true);
    world.give(Input::Pump);
    let incarnation = region.header().control().incarnation;
    world.now = world.now + Duration::from_secs(1);
    world.restart_control();
    assert_eq!(region.header().control().incarnation, incarnation + 1);
    assert_eq!(world.counts(1), (2, 1, 0));
    assert_eq!(world.view(a.login).state, "lost");
    assert_eq!(world.view(phone_only.login).state, "registered");
    assert_eq!(world.blade.calls(CcbId(1)).len(), 1);
    let (desk, out) = world.attach_desk(a.login);
    assert_eq!(call_events(&out, desk), [(CallEvent::Established, "1002".to_owned(), false)]);
    world.pass(32_000);
    assert!(world.blade.is_alive(a.login) && world.blade.is_alive(phone_only.login));
    assert!(!world.blade.is_alive(b.login), "its desk did not come back");
    // Ended while control was away: the record is made by the next one.
    world.planes[0].call(1, CallState::Ended, slots, false);
    let out = world.restart_control();
    assert_eq!(records(out).len(), 1);
}

#[test]
fn a_grant_that_was_cut_short_is_cleaned_up() {
    let mut world = World::new(1);
    let granted = world.granted(1001, 1);
    let slot = world.slot(granted.login);
    let region = world.planes[0].region.clone();
    region.secrets().write(slot, &abi::SecretRow::default());
    world.restart_control();
    assert!(!world.blade.is_alive(granted.login));
    assert_eq!(region.agents().find_user(b"1001.demo"), None);
    world.pass(1_500);
    assert_eq!(region.agents().read(slot).expect("a row").state(), AgentState::Empty);
}

#[test]
fn a_fresh_region_is_filled_again_and_a_restart_is_told() {
    let mut world = World::new(1);
    let (granted, socket) = world.online(1001, 1);
    world.give(Input::Gone { ccb: CcbId(1) });
    world.planes[0] = Plane::new(1, world.now);
    let out = world.attach_all();
    assert!(out.iter().any(|one| matches!(one, Output::Restarted { fresh: true, .. })));
    assert!(desk_messages(&out, socket).contains(&DeskMessage::PhoneLost));
    let region = world.planes[0].region.clone();
    let (slot, row) = region.agents().find_user(b"1001.demo").expect("it is written again");
    assert_eq!((row.login_epoch, row.cti_state()), (1, CtiState::Connected));
    assert_eq!(region.secrets().read(slot).expect("a row").ha1_md5, [233; 16]);
    assert_eq!(region.tenants().read(0).expect("a row").name().as_str(), "demo");
    assert!(region.header().provision().is_some(), "whoever keeps a copy hears of it");
    assert!(region.trunks().read(0).expect("a row").contains([10, 1, 9, 9].into()));
    world.register(granted);
    assert_eq!(world.counts(1), (1, 0, 0));
}

#[test]
fn a_data_plane_that_restarts_on_its_region_keeps_logins_and_fails_open_ops() {
    let mut world = World::new(1);
    let (a, _) = world.online(1001, 1);
    let (b, _) = world.online(1002, 1);
    let agents = [world.slot(a.login), world.slot(b.login)];
    world.planes[0].call(1, CallState::Answered, agents, true);
    world.give(Input::Pump);
    let call = CallRef { slot: 1, generation: 7 };
    let ccb = CcbId(1);
    let out = world.give(Input::Release { reply: 4, ccb, call });
    assert!(out.iter().all(|one| !matches!(one, Output::Done { .. })));
    let out = world.give(Input::Gone { ccb });
    assert!(
        out.iter().any(|one| matches!(one, Output::Done { reply: 4, result: OpOutcome::Gone, .. }))
    );
    world.planes[0].start(world.now);
    let out = world.attach_all();
    assert!(
        out.iter().any(|one| matches!(one, Output::Restarted { fresh: false, incarnation: 2, .. }))
    );
    assert_eq!(world.counts(1), (2, 0, 0));
    // The new data plane ends what the old one left; no event is needed for it to be seen.
    world.planes[0].call(1, CallState::Ended, agents, false);
    let mut row = world.planes[0].region.calls().read(1).expect("a row");
    row.incarnation = 1;
    world.planes[0].region.calls().write(1, &row);
    assert_eq!(records(world.pass(1_500)).len(), 1);
}

#[test]
fn a_command_has_one_completion() {
    let mut world = World::new(1);
    let (a, _) = world.online(1001, 1);
    let (b, _) = world.online(1002, 1);
    let agents = [world.slot(a.login), world.slot(b.login)];
    world.planes[0].call(1, CallState::Answered, agents, true);
    world.give(Input::Pump);
    let ccb = CcbId(1);
    let unknown = CallRef { slot: 1, generation: 8 };
    let out = world.give(Input::Release { reply: 1, ccb, call: unknown });
    assert!(matches!(out[..], [Output::Done { reply: 1, result: OpOutcome::Unknown, .. }]));
    let call = CallRef { slot: 1, generation: 7 };
    world.give(Input::Release { reply: 2, ccb, call });
    let commands = world.planes[0].commands(0);
    let [(Command::Release { op, .. }, _)] = commands[..] else { panic!("{commands:?}") };
    for _ in 0..2 {
        world.planes[0].event(0, Event::Done { op, result: OpResult::Ok }, &[]);
    }
    let out = world.give(Input::Pump);
    let done = out.iter().filter(|one| matches!(one, Output::Done { reply: 2, .. })).count();
    assert_eq!(done, 1);
    assert_eq!(world.blade.ccbs().next().expect("one CCB").counts.completions_stray, 1);
    world.give(Input::Release { reply: 3, ccb, call });
    let out = world.pass(12_000);
    assert!(
        out.iter().any(|one| matches!(one, Output::Done { reply: 3, result: OpOutcome::Lost, .. }))
    );
}

#[test]
fn a_number_that_is_no_agents_goes_by_its_prefix_and_no_trunk_may_use_a_trunk() {
    let mut world = World::new(1);
    let agent = Party::Agent(AgentSlot(0), 1);
    let table = [
        (&b"95555"[..], agent, Some((5060, 1))),
        (b"85555", agent, None),
        (b"", agent, None),
        (b"95555", Party::Trunk(0), None),
    ];
    for (at, (number, caller, expected)) in table.into_iter().enumerate() {
        let call = CallRef { slot: at as u32, generation: 1 };
        let (op, location) = (at as u64 + 50, LocationId(0));
        world.planes[0].event(
            0,
            Event::Asked { op, call, tenant: TENANT, caller, location, why: abi::Why::Called },
            number,
        );
        world.give(Input::Pump);
        let commands = world.planes[0].commands(0);
        match (&commands[..], expected) {
            (
                [(Command::Dial { ask, call: of, address, location, .. }, blob)],
                Some((port, at)),
            ) => {
                assert_eq!((*ask, *of, address.port(), location.0), (op, call, port, at));
                assert_eq!(blob, number);
            }
            ([(Command::Reject { ask, call: of, status: 404, .. }, _)], None) => {
                assert_eq!((*ask, *of), (op, call));
            }
            other => panic!("{other:?}"),
        }
    }
}

#[test]
fn commands_wait_for_room_in_their_order() {
    let mut world = World::new(1);
    let agent = Party::Agent(AgentSlot(0), 1);
    for op in 0..40 {
        let call = CallRef { slot: 0, generation: op as u32 };
        let event = Event::Asked {
            op,
            call,
            tenant: TENANT,
            caller: agent,
            location: LocationId(0),
            why: abi::Why::Called,
        };
        world.planes[0].event(0, event, b"9");
        world.give(Input::Pump);
    }
    let mut asks = Vec::new();
    for _ in 0..4 {
        asks.extend(world.planes[0].commands(0).into_iter().map(|(command, _)| match command {
            Command::Dial { ask, .. } => ask,
            other => panic!("{other:?}"),
        }));
        world.give(Input::Pump);
    }
    assert_eq!(asks, (0..40).collect::<Vec<_>>());
}

#[test]
fn control_does_not_sleep_on_an_event() {
    let mut world = World::new(1);
    assert!(world.blade.fall_asleep());
    let call = CallRef { slot: 0, generation: 0 };
    let event = Event::CallChanged { call, serial: 0, state: CallState::Calling, cause: 0 };
    let wake = world.planes[0].events[1].push(&event, &[], Class::Call).expect("there is room");
    assert_eq!(wake, abi::Wake::Needed);
    assert!(!world.blade.fall_asleep());
    let wake = world.planes[0].events[1].push(&event, &[], Class::Call).expect("there is room");
    assert_eq!(wake, abi::Wake::NotNeeded);
}

#[test]
fn a_full_ccb_takes_its_own_agents_again() {
    let mut world = World::new(1);
    for agent in 0..4 {
        world.online(1001 + agent, 1);
    }
    assert_eq!(world.login(2000, 1, false).0, Err(LoginRefusal::NoCcb));
    for epoch in 2..50 {
        let (granted, _) = world.online(1001, epoch);
        assert!(world.blade.is_alive(granted.login));
        world.planes[0].commands(0);
        world.planes[0].commands(1);
        world.give(Input::Pump);
    }
    assert_eq!(world.counts(1), (4, 0, 0));
}

/// What must hold at any time, whatever happened.
fn check(world: &World, seed: u64) {
    for (ccb, side) in &world.blade.sides {
        let here = || world.blade.logins.values().filter(|entry| entry.ccb == *ccb);
        let online = here().filter(|entry| entry.login.is_online()).count();
        assert_eq!(side.online as usize, online, "seed {seed}: online on {ccb}");
        assert_eq!(side.by_slot.len(), here().count(), "seed {seed}: slots on {ccb}");
        let region = side.region().expect("it was attached");
        let agents = region.layout().agents as usize;
        assert_eq!(side.slots.total() + side.by_slot.len(), agents, "seed {seed}: lost slots");
        for entry in here() {
            let user = entry.record.user.as_bytes();
            let found = region.agents().find_user(user).map(|found| found.0);
            assert_eq!(found, Some(entry.slot), "seed {seed}: index");
        }
    }
    assert_eq!(world.blade.newest.len(), world.blade.logins.len(), "seed {seed}: two logins");
    for login in world.blade.sockets.values() {
        assert!(world.blade.is_alive(*login), "seed {seed}: a desk without login");
    }
}

/// One random thing that agents, phones, desks or processes do.
fn happen(world: &mut World, rng: &mut base::Rng, epochs: &mut [u32; 6]) {
    let agent = rng.below(6);
    let login = world.blade.login_of(TENANT, agent);
    let place = login.map(|login| &world.blade.logins[&login]);
    let place = place.map(|entry| (usize::from(entry.ccb.0) - 1, entry.slot));
    let socket = 1 + rng.below(world.sockets + 1);
    let plane = rng.below(2) as usize;
    let ccb = CcbId(plane as u16 + 1);
    match rng.below(14) {
        0..=2 => {
            epochs[agent as usize] += 1;
            let _ = world.login(agent, epochs[agent as usize], rng.chance(30));
        }
        3..=4 => {
            if let Some((plane, slot)) = place {
                let now = world.now;
                world.planes[plane].register(slot, now);
            }
        }
        5 => {
            if let Some((plane, slot)) = place {
                world.planes[plane].unregister(slot);
            }
        }
        6..=7 => {
            if let Some(login) = login {
                world.attach_desk(login);
            }
        }
        8 => drop(world.give(Input::DeskLost { socket })),
        9 => drop(world.give(Input::DeskExit { socket })),
        10 => drop(world.pass(rng.below(40_000))),
        11 => {
            world.give(Input::Gone { ccb });
            match rng.chance(50) {
                true => world.planes[plane] = Plane::new(ccb.0, world.now),
                false => world.planes[plane].start(world.now),
            }
            world.attach_all();
        }
        12 => drop(world.restart_control()),
        _ => {
            if let Some((plane, slot)) = place {
                let leases = world.planes[plane].region.leases();
                let purpose = abi::Purpose::Call;
                let _ = leases.reserve(slot, Medium::Voice, CcbId(9), purpose, world.now);
            }
        }
    }
    obey_forget(world);
    world.give(Input::Pump);
}

/// The data planes drop the registrations that they are told to, and complete the commands.
fn obey_forget(world: &mut World) {
    for plane in &mut world.planes {
        for worker in 0..usize::from(WORKERS) {
            for (command, _) in plane.commands(worker) {
                if let Command::Forget { agent, epoch, .. } = command {
                    let row = plane.region.registrations().read(agent).expect("a row");
                    if row.is_registered() && row.epoch == epoch {
                        plane.region.registrations().write(agent, &RegistrationRow::default());
                    }
                }
                let event = Event::Done { op: command.op(), result: OpResult::Ok };
                let _ = plane.events[worker].push(&event, &[], Class::Call);
            }
        }
    }
}

#[test]
fn whatever_happens_nothing_leaks() {
    for seed in 0..256 {
        let mut rng = base::Rng::from_number(seed);
        let mut world = World::new(2);
        let mut epochs = [0; 6];
        for _ in 0..120 {
            happen(&mut world, &mut rng, &mut epochs);
            check(&world, seed);
        }
        // Everybody goes home: no phone registers and no desk attaches any more.
        for socket in 1..=world.sockets {
            world.give(Input::DeskLost { socket });
        }
        for plane in &mut world.planes {
            for slot in (0..4).map(AgentSlot) {
                plane.region.registrations().write(slot, &RegistrationRow::default());
            }
        }
        for _ in 0..40 {
            world.pass(10_000);
            obey_forget(&mut world);
        }
        check(&world, seed);
        assert!(world.blade.logins.is_empty(), "seed {seed}: {:?}", world.blade.logins);
        for (ccb, side) in &world.blade.sides {
            assert_eq!(side.slots.available(), 4, "seed {seed}: slots of {ccb}");
            let known = world.blade.cdm.ccb(*ccb).expect("it is known");
            assert_eq!((known.load(), side.open_ops()), (0, 0), "seed {seed}: CCB {ccb}");
        }
    }
}

#[test]
fn trunks_of_routes_are_watched_and_calls_go_to_one_that_is_up() {
    let mut world = World::new(1);
    let addresses: Vec<SocketAddr> =
        [1, 2].map(|host| SocketAddr::from(([10, 1, 2, host], 5060))).to_vec();
    let mut provision = provision();
    provision.options_s = 30;
    let to = Destination::Trunk {
        name: None,
        addresses: addresses.clone(),
        transport: base::Transport::Udp,
        location: None,
        tls: crate::routes::TrunkTls::default(),
    };
    provision.routes = vec![Route { tenant: TENANT, prefix: "9".into(), to }];
    let watched = |world: &mut World| {
        let all = (0..WORKERS).flat_map(|worker| world.planes[0].commands(usize::from(worker)));
        let of = |(command, _)| match command {
            Command::Watch { address, every_s, .. } => (address, every_s),
            other => panic!("{other:?}"),
        };
        let mut all: Vec<_> = all.map(of).collect();
        all.sort();
        all
    };
    world.give(Input::Provision(provision.clone()));
    assert_eq!(watched(&mut world), [(addresses[0], 30), (addresses[1], 30)]);
    world.now = world.now + Duration::from_secs(3);
    world.give(Input::Timeout);
    assert_eq!(watched(&mut world), [], "once");
    let dialled = |world: &mut World| {
        let call = CallRef { slot: 0, generation: 1 };
        let (caller, location) = (Party::Agent(AgentSlot(0), 1), LocationId(0));
        let asked =
            Event::Asked { op: 5, call, tenant: TENANT, caller, location, why: abi::Why::Called };
        world.planes[0].event(0, asked, b"95");
        let out = world.give(Input::Pump);
        let commands = world.planes[0].commands(0);
        let [(Command::Dial { address, .. }, blob)] = &commands[..] else { panic!("{commands:?}") };
        (*address, String::from_utf8(blob.clone()).expect("text"), out)
    };
    let (address, blob, _) = dialled(&mut world);
    assert_eq!((address, blob.as_str()), (addresses[0], "95\n10.1.2.2:5060"));
    let outage = abi::Outage::TlsName;
    world.planes[0].event(0, Event::Trunk { addr: addresses[0], outage }, &[]);
    let (address, blob, out) = dialled(&mut world);
    assert_eq!((address, blob.as_str()), (addresses[1], "95\n10.1.2.1:5060"));
    let down = |out: &Output| matches!(out, Output::Trunk { outage: abi::Outage::TlsName, .. });
    assert_eq!(out.iter().filter(|out| down(out)).count(), 1);
    world.planes[0].event(0, Event::Trunk { addr: addresses[0], outage }, &[]);
    let (_, _, out) = dialled(&mut world);
    assert!(!out.iter().any(down), "it is told once");
    let states: Vec<abi::Outage> =
        world.blade.ccbs().flat_map(|ccb| ccb.trunks).map(|trunk| trunk.outage).collect();
    assert_eq!(states, [outage, abi::Outage::None]);
    // What no route leads to any more is let be.
    provision.routes.clear();
    world.give(Input::Provision(provision));
    assert_eq!(watched(&mut world), [(addresses[0], 0), (addresses[1], 0)]);
}

/// What routes say of TLS is written for each address of theirs, as DNS tells them; callers are known by what their
/// certificate says.
#[test]
fn how_tls_is_spoken_to_trunks_is_in_the_tables() {
    let mut world = World::new(1);
    let mut provision = provision();
    let to: Destination = "10.1.2.1:5061,10.1.2.2:5061;transport=tls;tls_ca=acme;tls_verify=no"
        .parse()
        .expect("it is one");
    let mut named: Destination = "carrier.example;tls_identity=us".parse().expect("it is one");
    let Destination::Trunk { addresses, transport, .. } = &mut named else { panic!("a trunk") };
    (*addresses, *transport) =
        (vec![SocketAddr::from(([10, 1, 2, 3], 5061))], base::Transport::Tls);
    let route = |prefix: &str, to| Route { tenant: TENANT, prefix: prefix.into(), to };
    provision.routes.extend([route("8", to), route("7", named)]);
    provision.trunks.push(TrunkRecord {
        tenant: TENANT,
        name: "acme".into(),
        by: "tls:SIP.acme.example".parse().expect("a name"),
        srtp: Default::default(),
    });
    world.give(Input::Provision(provision.clone()));
    let rows = |world: &World| -> Vec<_> {
        let region = world.planes[0].region.clone();
        let rows = region.trunk_tls().iter().map(|(_, row)| row).filter(|row| row.state != 0);
        rows.map(|row| {
            let texts = [row.domain(), Text::new(row.ca().as_bytes()).expect("it fits")];
            let texts = texts.map(|text| text.as_str().to_owned());
            (
                row.address.get().to_string(),
                row.unverified,
                texts,
                row.identity().as_str().to_owned(),
            )
        })
        .collect()
    };
    let row = |address: &str, unverified, domain: &str, ca: &str, identity: &str| {
        (address.to_owned(), unverified, [domain.to_owned(), ca.to_owned()], identity.to_owned())
    };
    assert_eq!(
        rows(&world),
        [
            row("10.1.2.1:5061", 1, "", "acme", ""),
            row("10.1.2.2:5061", 1, "", "acme", ""),
            row("10.1.2.3:5061", 0, "carrier.example", "", "us"),
        ]
    );
    let trunks: Vec<_> = world.planes[0].region.trunks().iter().map(|(_, row)| row).collect();
    assert!(trunks[0].state == 1 && !trunks[0].is_by_certificate());
    assert!(trunks[1].is_by_certificate());
    assert_eq!(trunks[1].domain().as_str(), "sip.acme.example");
    provision.routes.clear();
    world.give(Input::Provision(provision));
    assert_eq!(rows(&world), []);
}

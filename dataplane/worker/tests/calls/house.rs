//! One worker on a region in memory, and peers made of text.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use abi::{
    AgentRow, AgentState, CallRow, CallState, Command, Counter, Event, Key, Layout, OpResult,
    Process, Region, RegistrationRow, SecretRow, TenantRow, TrunkRow,
};
use base::{AgentSlot, CallRef, CcbId, Instant, LocationId, TenantId, Text, WorkerId};
use sip::digest::{Algorithm, ha1};
use sip::wire;
use worker::{
    BypassNews, Config, Effect, FlowSpec, FlowStats, Input, Limits, Location, MediaConfig, Packet,
    PairId, Recovery, SocketSlot, Verdict, Worker, recover,
};

pub const TRUNK: &str = "10.9.0.1:5060";
pub const AGENT_A: &str = "192.0.2.1:5070";
pub const AGENT_B: &str = "192.0.2.2:5070";
pub const OFFER: &str = "v=0\r\no=- 1 1 IN IP4 203.0.113.9\r\ns=-\r\nc=IN IP4 203.0.113.9\r\nt=0 0\r\n\
                         m=audio 4000 RTP/AVP 0 8\r\na=rtpmap:0 PCMU/8000\r\na=sendrecv\r\n";

pub struct House {
    region: Arc<Region>,
    config: Config,
    /// Whether ports can be bound.
    pub binds: bool,
    workers: Vec<Worker>,
    pub now: Instant,
    sent: VecDeque<(SocketAddr, String)>,
    agents: u32,
    /// What the worker wants done for media, in its order.
    pub made: Vec<(SocketSlot, SocketAddr, Box<[u8]>)>,
    pub entering: Vec<(PairId, FlowSpec)>,
    pub leaving: Vec<PairId>,
    pub loading: Vec<String>,
    pub spooled: Vec<u8>,
    pub mirrored: Vec<worker::Mirrored>,
}

impl House {
    pub fn new() -> House {
        House::limited(at_once())
    }

    /// A house whose worker has these limits.
    pub fn limited(limits: Limits) -> House {
        House::with(limits, MediaConfig::default())
    }

    /// A house with a bypass.
    pub fn with_bypass() -> House {
        let media = MediaConfig { no_bypass: None, ..MediaConfig::default() };
        House::with(at_once(), media)
    }

    pub fn with(limits: Limits, media: MediaConfig) -> House {
        House::of(1, limits, media)
    }

    /// A house of two workers.
    pub fn of_two() -> House {
        House::of(2, at_once(), MediaConfig::default())
    }

    /// The same, with these limits.
    pub fn of_two_limited(limits: Limits) -> House {
        House::of(2, limits, MediaConfig::default())
    }

    /// The CCB of that number at an address of its own.
    pub fn blade(ccb: u16, ip: &str, workers: u8) -> House {
        let limits = at_once();
        House::at(CcbId(ccb), ip, workers, limits, MediaConfig::default())
    }

    fn of(workers: u8, limits: Limits, media: MediaConfig) -> House {
        House::at(CcbId(1), "127.0.0.1", workers, limits, media)
    }

    fn at(ccb: CcbId, ip: &str, workers: u8, limits: Limits, media: MediaConfig) -> House {
        let layout = Layout {
            ccb,
            workers,
            agents: 16,
            calls_per_worker: 8,
            legs_per_worker: 24,
            ring_slots: 256,
            blob_bytes: 65_536,
            tenants: 4,
            trunks: 4,
            locations: 1,
        };
        let region = Region::in_memory(layout);
        let mut tenant = TenantRow { tenant: 1, state: 1, ..TenantRow::default() };
        tenant.set_name(Text::new(b"demo").expect("fits"));
        tenant.set_realm(Text::new(b"demo.test").expect("fits"));
        region.tenants().write(0, &tenant);
        let mut trunk = TrunkRow { state: 1, tenant: 1, ..TrunkRow::default() };
        trunk.set_network("10.9.0.0".parse().expect("an address"), 16);
        region.trunks().write(0, &trunk);
        let config = Config {
            id: WorkerId(0),
            workers,
            ccb,
            locations: vec![Location {
                name: "local".into(),
                ip: ip.parse().expect("an address"),
                sip_port: 5060,
                streams: worker::StreamPorts::default(),
            }],
            rtp_ports: (30_000, 30_019),
            seed: [7; 32],
            nonce_key: [9; 32],
            limits,
            media,
            session: Default::default(),
        };
        let now = Instant::from_nanos(1_000_000_000);
        recover(&region, &config, now);
        let mut house = House {
            region,
            config,
            binds: true,
            workers: Vec::new(),
            now,
            sent: VecDeque::new(),
            agents: 0,
            made: Vec::new(),
            entering: Vec::new(),
            leaving: Vec::new(),
            loading: Vec::new(),
            spooled: Vec::new(),
            mirrored: Vec::new(),
        };
        house.begin();
        house
    }

    /// kill -9, and a new incarnation after 100 ms. What was sent before and not looked at is lost.
    pub fn die(&mut self) -> Recovery {
        self.sent.clear();
        self.now = self.now + Duration::from_millis(100);
        self.config.seed[0] += 1;
        self.region.header().start_data_plane(Process { pid: 1, start_time: 1 }, self.now);
        let found = recover(&self.region, &self.config, self.now);
        self.begin();
        found
    }

    /// The same, with another configuration.
    pub fn die_and_change(&mut self, change: impl FnOnce(&mut Config)) -> Recovery {
        change(&mut self.config);
        self.die()
    }

    /// There is a capture server.
    pub fn capture(&mut self) {
        self.workers.iter_mut().for_each(Worker::capture);
    }

    pub fn region(&self) -> &Region {
        &self.region
    }

    pub fn count(&self, counter: Counter) -> u64 {
        self.region.counters().total(counter)
    }

    pub fn recovered_pairs(&self) -> usize {
        self.workers.iter().map(|worker| worker.recovered_pairs().count()).sum()
    }

    /// Logs an agent in whose phone has that secret.
    pub fn log_in(&mut self, number: &str, secret: &str) -> AgentSlot {
        let slot = AgentSlot(self.agents);
        self.agents += 1;
        let user = format!("{number}.demo");
        let mut row = AgentRow {
            state: AgentState::LoggedIn.into(),
            login_epoch: 5,
            tenant: 1,
            ..AgentRow::default()
        };
        row.set_number(Text::new(number.as_bytes()).expect("fits"));
        row.set_user(Text::new(user.as_bytes()).expect("fits"));
        let agents = self.region.agents();
        agents.write(slot, &row);
        let by_number = Key::Number { tenant: TenantId(1), number: number.as_bytes() };
        agents.index_insert(Key::User(user.as_bytes()), slot).expect("room");
        agents.index_insert(by_number, slot).expect("room");
        let hash = |algorithm| ha1(algorithm, user.as_bytes(), b"demo.test", secret.as_bytes());
        let secret = SecretRow {
            epoch: 5,
            ha1_md5: hash(Algorithm::Md5).as_bytes().try_into().expect("16 bytes"),
            ha1_sha256: hash(Algorithm::Sha256).as_bytes().try_into().expect("32 bytes"),
            ..SecretRow::default()
        };
        self.region.secrets().write(slot, &secret);
        slot
    }

    /// Logs an agent in whose phone is registered.
    pub fn register(&mut self, number: &str, phone: &str) {
        let slot = self.log_in(number, "secret");
        let mut row = RegistrationRow {
            state: RegistrationRow::REGISTERED,
            epoch: 5,
            expires_at: self.now.as_nanos() + 3_600_000_000_000,
            ..RegistrationRow::default()
        };
        row.set_addr(phone.parse().expect("an address"));
        row.set_contact(Text::new(format!("sip:phone@{phone}").as_bytes()).expect("fits"), b"");
        self.region.registrations().write(slot, &row);
    }

    /// How many calls an agent may have at the same time, and how many of its own.
    pub fn limit(&mut self, number: &str, incoming: Option<u32>, outgoing: Option<u32>) {
        let agents = self.region.agents();
        let found = agents.find_number(TenantId(1), number.as_bytes());
        let (slot, mut row) = found.expect("it is logged in");
        row.set_limits(incoming, outgoing);
        agents.write(slot, &row);
    }

    pub fn attach_control(&mut self) {
        (0..self.workers.len()).for_each(|worker| self.input_to(worker, Input::ControlHere));
    }

    pub fn lose_control(&mut self) {
        (0..self.workers.len()).for_each(|worker| self.input_to(worker, Input::ControlGone));
    }

    /// An RTP packet comes to a port pair.
    pub fn rtp(&mut self, pair: u32, from: &str, sequence: u16) -> Verdict {
        let mut bytes = vec![0x80, 0];
        bytes.extend(sequence.to_be_bytes());
        bytes.extend([0; 4]);
        bytes.extend(7_u32.to_be_bytes());
        bytes.extend([0xff; 160]);
        let len = bytes.len();
        let mut packet = Packet::new(&mut bytes, 0..len);
        let from = from.parse().expect("an address");
        self.workers[0].forward(self.now, PairId(pair).rtp(), from, &mut packet)
    }

    /// Any datagram comes to a port pair.
    pub fn media(&mut self, pair: u32, from: &str, mut bytes: Vec<u8>) -> Verdict {
        let len = bytes.len();
        let mut packet = Packet::new(&mut bytes, 0..len);
        let from = from.parse().expect("an address");
        self.workers[0].forward(self.now, PairId(pair).rtp(), from, &mut packet)
    }

    /// What becomes of a datagram that comes to a socket, and whether and from where it goes on.
    pub fn converted(
        &mut self,
        socket: SocketSlot,
        from: &str,
        bytes: &[u8],
    ) -> Result<(SocketSlot, Vec<u8>), Verdict> {
        let mut buffer = [bytes, &[0; 64]].concat();
        let mut packet = Packet::new(&mut buffer, 0..bytes.len());
        let from = from.parse().expect("an address");
        match self.workers[0].forward(self.now, socket, from, &mut packet) {
            Verdict::Send { socket, .. } => Ok((socket, packet.bytes().to_vec())),
            verdict => Err(verdict),
        }
    }

    /// Whether the phones of the tenant, and the peers of the trunk, speak SRTP.
    pub fn srtp(&mut self, phones: abi::SrtpPolicy, trunks: abi::SrtpPolicy) {
        let mut tenant = self.region.tenants().read(0).expect("a tenant");
        tenant.srtp = phones.into();
        self.region.tenants().write(0, &tenant);
        let mut trunk = self.region.trunks().read(0).expect("a trunk");
        trunk.srtp = trunks.into();
        self.region.trunks().write(0, &trunk);
        self.pass_ms(200);
    }

    /// What the bypass says.
    pub fn bypass(&mut self, pair: u32, news: BypassNews) {
        self.input(Input::Bypass { pair: PairId(pair), news });
    }

    /// The bypass will say this of any stream.
    pub fn bypass_counts(&mut self, stats: FlowStats) {
        self.workers[0].count_bypass_by(Box::new(move |_| Some(stats)));
    }

    /// A prompt was read, or is not there.
    pub fn loaded(&mut self, name: &str, samples: Option<&[i16]>) {
        let name = Text::new(name.as_bytes()).expect("fits");
        self.input(Input::Loaded { name, samples: samples.map(Arc::from) });
    }

    /// The rows of legs that stand.
    pub fn legs(&self) -> Vec<abi::LegRow> {
        let legs = self.region.legs().iter().map(|(_, row)| row);
        legs.filter(|row| row.state() == abi::LegState::Answered).collect()
    }

    pub fn counter(&self, counter: abi::Counter) -> u64 {
        self.region.counters().total(counter)
    }

    pub fn command(&mut self, command: Command, blob: &[u8]) {
        let call = match command {
            Command::Dial { call, .. }
            | Command::Host { call, .. }
            | Command::Yield { call, .. }
            | Command::Forward { call, .. }
            | Command::Transfer { call, .. }
            | Command::Reject { call, .. }
            | Command::Release { call, .. } => Some(call),
            _ => None,
        };
        let worker = call.and_then(|call| self.region.calls().owner(call.slot)).unwrap_or_default();
        let _wake = self.region.command_sender(worker).push(&command, blob).expect("room");
        self.input_to(usize::from(worker.0), Input::Commands);
    }

    pub fn send(&mut self, from: &str, text: &str) {
        let from = from.parse().expect("an address");
        self.input(Input::Sip {
            location: LocationId(0),
            from,
            channel: base::Channel::UDP,
            datagram: text.as_bytes(),
        });
    }

    /// A message comes by that transport, as by one connection.
    pub fn send_by(&mut self, from: &str, transport: base::Transport, text: &str) {
        let channel = base::Channel { connection: 7, ..base::Channel::any(transport) };
        let from = from.parse().expect("an address");
        let (location, datagram) = (LocationId(0), text.as_bytes());
        self.input(Input::Sip { location, from, channel, datagram });
    }

    /// The phone of an agent registered by that transport, with that Contact.
    pub fn register_by(
        &mut self,
        number: &str,
        phone: &str,
        transport: base::Transport,
        contact: &str,
    ) {
        self.register(number, phone);
        let agents = self.region.agents();
        let found = agents.find_number(TenantId(1), number.as_bytes());
        let (slot, _) = found.expect("it is logged in");
        let mut row = self.region.registrations().read(slot).expect("a row");
        row.set_channel(base::Channel { connection: 9, ..base::Channel::any(transport) });
        row.set_contact(Text::new(contact.as_bytes()).expect("fits"), b"");
        self.region.registrations().write(slot, &row);
    }

    /// A message could not be sent over a stream.
    pub fn unsent(&mut self, to: &str, transport: base::Transport, text: &str) {
        self.input(Input::Unsent {
            location: LocationId(0),
            to: to.parse().expect("an address"),
            channel: base::Channel::any(transport),
            outage: abi::Outage::Unreachable,
            datagram: text.as_bytes(),
        });
    }

    /// So busy it was, in thousandths of its time, so often.
    pub fn load(&mut self, busy: u32, times: u32) {
        (0..times).for_each(|_| self.input(Input::Load(busy)));
    }

    fn what_is_there(&self) -> String {
        self.workers.iter().map(Worker::load).collect::<Vec<_>>().join("; ")
    }

    /// The workers of a new incarnation.
    fn begin(&mut self) {
        self.workers.clear();
        for id in 0..self.config.workers {
            let mut config = Config { id: WorkerId(id), ..self.config.clone() };
            config.seed[1] = id;
            self.workers.push(Worker::new(config, self.region.clone(), self.now));
        }
        for worker in 0..self.workers.len() {
            self.input_to(worker, Input::Timeout);
        }
    }

    fn input(&mut self, input: Input<'_>) {
        self.input_to(0, input);
    }

    pub fn input_to(&mut self, worker: usize, input: Input<'_>) {
        let mut effects = Vec::new();
        self.workers[worker].handle(self.now, input, &mut effects);
        let own = SocketAddr::new(self.config.locations[0].ip, 5060);
        for effect in effects {
            match effect {
                Effect::Sip { to, datagram, .. } => {
                    let text = String::from_utf8(datagram.to_vec()).expect("we write text");
                    wire::lex(text.as_bytes()).expect("we write SIP");
                    match to == own {
                        // What the kernel gives back to us.
                        true => self.send(&own.to_string(), &text),
                        false => self.sent.push_back((to, text)),
                    }
                }
                Effect::Bind { pair, .. } => {
                    self.input_to(worker, Input::Bound { pair, ok: self.binds });
                }
                Effect::Close { .. } | Effect::WakeControl => {}
                Effect::Mirror(copy) => self.mirrored.push(*copy),
                Effect::Media { socket, to, packet } => self.made.push((socket, to, packet)),
                Effect::EnterBypass { pair, flow } => self.entering.push((pair, flow)),
                Effect::LeaveBypass { pair } => self.leaving.push(pair),
                Effect::Load { name } => self.loading.push(name.as_str().to_owned()),
                Effect::Spool { block } => self.spooled.extend(block),
                Effect::Mesh { to, passed } => {
                    self.input_to(usize::from(to.0), Input::Mesh(passed));
                }
                // Connections are tested where there are any.
                Effect::Watch { .. } => {}
            }
        }
    }

    pub fn pass_ms(&mut self, ms: u64) {
        let until = self.now + Duration::from_millis(ms);
        loop {
            let due = |(at, worker): (usize, &Worker)| Some((worker.deadline()?, at));
            let next = self.workers.iter().enumerate().filter_map(due).min();
            let Some((deadline, worker)) = next.filter(|(at, _)| *at <= until) else { break };
            self.now = self.now.max(deadline);
            self.input_to(worker, Input::Timeout);
        }
        self.now = until;
    }

    /// When the first worker has something to do, and when it wakes for that.
    pub fn deadlines(&self) -> Option<(Instant, Instant)> {
        Some((self.workers[0].deadline()?, self.workers[0].wakes_at()?))
    }

    /// The first worker sleeps until then.
    pub fn pass_until(&mut self, at: Instant) {
        self.now = self.now.max(at);
        self.input(Input::Timeout);
    }

    /// Lets every timer run out.
    pub fn run_out(&mut self) {
        self.pass_ms(70_000);
        self.sent.clear();
    }

    pub fn next_to(&mut self, peer: &str) -> String {
        let peer: SocketAddr = peer.parse().expect("an address");
        let found = self.sent.iter().position(|(to, _)| *to == peer);
        let found = found.unwrap_or_else(|| panic!("nothing for {peer}, only {:#?}", self.sent));
        self.sent.remove(found).expect("found").1
    }

    /// Everything that was sent, in its order.
    pub fn drain(&mut self) -> Vec<(SocketAddr, String)> {
        self.sent.drain(..).collect()
    }

    pub fn drain_to(&mut self, peer: &str) -> Vec<String> {
        let peer: SocketAddr = peer.parse().expect("an address");
        let (to, rest) = self.sent.drain(..).partition::<Vec<_>, _>(|(to, _)| *to == peer);
        self.sent = rest.into();
        to.into_iter().map(|(_, text)| text).collect()
    }

    pub fn events(&mut self) -> Vec<Event> {
        let (mut blob, mut events) = (Vec::new(), Vec::new());
        for worker in 0..self.config.workers {
            let mut receiver = self.region.event_receiver(WorkerId(worker));
            while let Some(event) = receiver.pop(&mut blob) {
                events.push(event.expect("sane").value);
            }
        }
        events
    }

    /// The same with the text of each.
    pub fn events_and_blobs(&mut self) -> Vec<(Event, String)> {
        let (mut blob, mut events) = (Vec::new(), Vec::new());
        for worker in 0..self.config.workers {
            let mut receiver = self.region.event_receiver(WorkerId(worker));
            while let Some(event) = receiver.pop(&mut blob) {
                let text = String::from_utf8_lossy(&blob).into_owned();
                events.push((event.expect("sane").value, text));
            }
        }
        events
    }

    pub fn states(&mut self) -> Vec<CallState> {
        let of = |event| match event {
            Event::CallChanged { state, .. } => Some(state),
            _ => None,
        };
        self.events().into_iter().filter_map(of).collect()
    }

    pub fn asked(&mut self, number: &str) -> (u64, CallRef) {
        let mut receiver = self.region.event_receiver(WorkerId(0));
        let mut blob = Vec::new();
        while let Some(event) = receiver.pop(&mut blob) {
            if let Event::Asked { op, call, .. } = event.expect("sane").value {
                assert_eq!(blob, number.as_bytes());
                return (op, call);
            }
        }
        panic!("control was not asked");
    }

    pub fn done(&mut self) -> Vec<(u64, OpResult)> {
        let of = |event| match event {
            Event::Done { op, result } => Some((op, result)),
            _ => None,
        };
        self.events().into_iter().filter_map(of).collect()
    }

    pub fn transactions(&self) -> usize {
        self.workers.iter().map(Worker::transactions).sum()
    }

    pub fn calls(&self) -> Vec<(u32, CallRow)> {
        self.region.calls().iter().collect()
    }

    /// No call, port, lease or transaction is left, and each ended call has a whole row.
    pub fn what_is_left(&self) -> Result<(), String> {
        let (held, transactions) = (self.region.leases().held(), self.transactions());
        if !self.workers.iter().all(Worker::is_idle) || held != 0 || transactions != 0 {
            return Err(format!(
                "{}, {held} words, {transactions} transactions",
                self.what_is_there()
            ));
        }
        let over = |row: &CallRow| matches!(row.state(), CallState::Free | CallState::Ended);
        match self.calls().iter().find(|(_, row)| !over(row)) {
            Some((slot, row)) => Err(format!("call {slot} is {:?}", row.state())),
            None => Ok(()),
        }
    }

    /// The same but for transactions, which outlive their calls, and nothing unexpected was sent.
    pub fn expect_nothing_left(&mut self) {
        assert!(
            self.workers.iter().all(Worker::is_idle),
            "something is left: {}",
            self.what_is_there()
        );
        assert_eq!(self.region.leases().held(), 0, "a lease word is held");
        for (_, row) in self.calls() {
            assert!(
                matches!(row.state(), CallState::Free | CallState::Ended),
                "a call's row lives"
            );
        }
        if let Some((to, text)) = self.sent.front() {
            panic!("unexpected, to {to}: {text}");
        }
    }

    // What peers say.

    pub fn invite(&self, number: &str, call_id: &str, sdp: Option<&str>) -> String {
        let sdp = sdp.unwrap_or("");
        let content = if sdp.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        format!(
            "INVITE sip:{number}@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {TRUNK};branch=z9hG4bK{call_id};rport\r\n\
             From: <sip:0301@10.9.0.1>;tag=f{call_id}\r\nTo: <sip:{number}@127.0.0.1>\r\nCall-ID: {call_id}\r\n\
             CSeq: 1 INVITE\r\nContact: <sip:trunk@10.9.0.1>\r\nMax-Forwards: 70\r\n{content}\
             Content-Length: {}\r\n\r\n{sdp}",
            sdp.len()
        )
    }

    pub fn ack_refusal(&self, refusal: &str, number: &str, call_id: &str) -> String {
        format!(
            "ACK sip:{number}@127.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP {TRUNK};branch=z9hG4bK{call_id};rport\r\n\
             From: {}\r\nTo: {}\r\nCall-ID: {call_id}\r\nCSeq: 1 ACK\r\nMax-Forwards: 70\r\n\
             Content-Length: 0\r\n\r\n",
            header(refusal, "From: "),
            header(refusal, "To: ")
        )
    }

    /// Answers a request of ours as no phone may.
    pub fn reply_without_contact(
        &mut self,
        from: &str,
        request: &str,
        status: u16,
        sdp: Option<&str>,
    ) {
        let message = wire::lex(request.as_bytes()).expect("SIP");
        let body = sdp.map(|sdp| ("application/sdp", sdp.as_bytes()));
        let source = "127.0.0.1:5060".parse().expect("an address");
        let bytes = wire::response(&message, status, "Reason", Some("t1"), source, &[], body);
        self.send(from, std::str::from_utf8(&bytes).expect("text"));
    }

    /// Answers a request of ours.
    pub fn reply(&mut self, from: &str, request: &str, status: u16, tag: &str, sdp: Option<&str>) {
        let message = wire::lex(request.as_bytes()).expect("SIP");
        let tag = if tag.is_empty() { "t1" } else { tag };
        let contact = format!("<sip:{}@{from}>", if from == TRUNK { "trunk" } else { "phone" });
        let body = sdp.map(|sdp| ("application/sdp", sdp.as_bytes()));
        let source = "127.0.0.1:5060".parse().expect("an address");
        let contact: &[(&str, &[u8])] = &[("Contact", contact.as_bytes())];
        let bytes = wire::response(&message, status, "Reason", Some(tag), source, contact, body);
        self.send(from, std::str::from_utf8(&bytes).expect("text"));
    }

    /// Answers a request of ours with further header lines.
    pub fn reply_with(
        &mut self,
        from: &str,
        request: &str,
        status: u16,
        lines: &str,
        sdp: Option<&str>,
    ) {
        let message = wire::lex(request.as_bytes()).expect("SIP");
        let contact = format!("<sip:{}@{from}>", if from == TRUNK { "trunk" } else { "phone" });
        let body = sdp.map(|sdp| ("application/sdp", sdp.as_bytes()));
        let source = "127.0.0.1:5060".parse().expect("an address");
        let tag = lines.lines().find_map(|line| line.strip_prefix("tag=")).unwrap_or("t1");
        let mut extra: Vec<(&str, &[u8])> = vec![("Contact", contact.as_bytes())];
        let lines = lines.lines().filter_map(|line| line.split_once(": "));
        extra.extend(lines.map(|(name, value)| (name, value.as_bytes())));
        let bytes = wire::response(&message, status, "Reason", Some(tag), source, &extra, body);
        self.send(from, std::str::from_utf8(&bytes).expect("text"));
    }

    /// A request within the dialog that `seen` made: a response of ours to the peer's INVITE, or our
    /// INVITE, which the peer answered with the tag t1.
    pub fn within(
        &self,
        method: &str,
        seen: &str,
        call_id: &str,
        cseq: u32,
        sdp: Option<&str>,
    ) -> String {
        let is_ours = seen.starts_with("INVITE");
        let (from, to, peer) = match is_ours {
            true => (
                format!("{};tag=t1", header(seen, "To: ")),
                header(seen, "From: ").to_owned(),
                AGENT_A,
            ),
            false => (header(seen, "From: ").to_owned(), header(seen, "To: ").to_owned(), TRUNK),
        };
        let call_id = if is_ours { header(seen, "Call-ID: ") } else { call_id };
        let target = header(seen, "Contact: ").trim_matches(['<', '>']);
        let sdp = sdp.unwrap_or("");
        let content = if sdp.is_empty() { "" } else { "Content-Type: application/sdp\r\n" };
        let user = if peer == TRUNK { "trunk" } else { "phone" };
        format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {peer};branch=z9hG4bK{method}{cseq}{call_id};rport\r\n\
             From: {from}\r\nTo: {to}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:{user}@{peer}>\r\nMax-Forwards: 70\r\n{content}Content-Length: {}\r\n\r\n{sdp}",
            sdp.len()
        )
    }

    pub fn ack(&mut self, from: &str, ok: &str, call_id: &str) {
        let ack = self.within("ACK", ok, call_id, 1, None);
        self.send(from, &ack);
    }

    /// A whole call from the trunk: our INVITE to the phone, and our 200 to the trunk.
    pub fn call_through(&mut self, number: &str, phone: &str, call_id: &str) -> (String, String) {
        self.send(TRUNK, &self.invite(number, call_id, Some(OFFER)));
        self.next_to(TRUNK);
        let invite = self.next_to(phone);
        self.reply(phone, &invite, 200, "t1", Some(OFFER));
        assert!(self.next_to(phone).starts_with("ACK "));
        let ok = self.next_to(TRUNK);
        assert!(ok.starts_with("SIP/2.0 200 "), "{ok}");
        self.ack(TRUNK, &ok, call_id);
        (invite, ok)
    }
}

/// Limits of workers that answer each INVITE by 100 at once.
pub fn at_once() -> Limits {
    Limits { trying_ms: 0, ..Limits::default() }
}

/// The message with further header lines.
pub fn with(message: &str, lines: &str) -> String {
    message.replacen("\r\nContent-Length: ", &format!("\r\n{lines}\r\nContent-Length: "), 1)
}

/// The value of the first header line of that name.
pub fn header<'a>(message: &'a str, name: &str) -> &'a str {
    let line = message.lines().find(|line| line.starts_with(name));
    &line.unwrap_or_else(|| panic!("no {name} in {message}"))[name.len()..]
}

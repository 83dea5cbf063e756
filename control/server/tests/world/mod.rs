//! A control process on 127.0.0.1 and data planes that are moved by hand, over a real region file,
//! socket and doorbells.
#![allow(dead_code, reason = "no test program uses all of it")]

use std::io::IoSlice;
use std::mem::MaybeUninit;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use abi::{
    Class, Command, CommandReceiver, DataPlaneState, DigitsCause, Event, EventSender, Layout,
    LocationRow, MediaOrder, OpResult, Process, Region, RegistrationRow, UnregisterCause, Wake,
};
use base::{AgentSlot, CallRef, CcbId, Instant, LocationId, TenantId, Text, WorkerId};
use control_server::{
    CcbConfig, Cidr, Config, DemoLocation, DemoSpec, Directory, DirectoryPlace, HashCost, Server,
};
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec};
use rustix::net::{
    AddressFamily, SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix,
    SocketFlags, SocketType,
};
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::watch;
use tokio::task::JoinHandle as Task;

pub const WORKERS: u8 = 2;

pub fn now() -> Instant {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// A folder with a directory of ten agents, and what runs on it.
pub struct World {
    pub folder: tempfile::TempDir,
    pub http: SocketAddr,
    stop: watch::Sender<bool>,
    /// Where the directory is.
    pub place: DirectoryPlace,
    server: Option<Task<()>>,
    /// False for a CCB that cannot record, from the next start on.
    pub has_spool: bool,
    /// Where traces may go besides this machine, from the next start on.
    pub trace_to: Vec<Cidr>,
}

impl World {
    /// Control without any data plane.
    pub async fn start() -> World {
        let folder = tempfile::tempdir().expect("a folder");
        let place = DirectoryPlace::Sqlite(folder.path().join("directory.sqlite"));
        World::start_at(folder, place).await
    }

    /// The same with the directory there.
    pub async fn start_at(folder: tempfile::TempDir, place: DirectoryPlace) -> World {
        let directory = Directory::open(&place).await.expect("it opens");
        let location = |name: &str, ip: &str, port| DemoLocation {
            name: name.into(),
            ip: ip.parse().expect("an address"),
            sip: vec![(base::Transport::Udp, port)],
            http_port: 8080,
        };
        let spec = DemoSpec {
            tenant: "demo".into(),
            agents: 10,
            ccbs: vec![(
                CcbId(1),
                vec![location("local", "127.0.0.1", 5060), location("east", "::1", 5061)],
            )],
            trunks: Vec::new(),
            queues: Vec::new(),
            srtp: Default::default(),
            routes: [("9", "127.0.0.1:5080"), ("70", "play:hi.wav")]
                .map(|(prefix, to)| (prefix.into(), to.parse().expect("a destination")))
                .to_vec(),
        };
        directory.create_demo(&spec).await.expect("it is created");
        // A tenant whose location no CCB serves, and one without any location.
        directory.put_tenant("far", "far.local", &["moon".into()]).await.expect("it is put");
        directory.close().await;
        let (stop, _) = watch::channel(false);
        let http = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut world = World {
            folder,
            http,
            stop,
            place,
            server: None,
            has_spool: true,
            trace_to: Vec::new(),
        };
        world.start_control().await;
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub async fn start_control(&mut self) {
        let ccb = CcbConfig {
            id: CcbId(1),
            region: self.path("region"),
            socket: self.path("dataplane.sock"),
            spool: self.has_spool.then(|| self.path("spool")),
        };
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut config = Config::new(self.folder.path().to_owned(), vec![any], vec![ccb]);
        config.hash_cost = HashCost::DEMO;
        config.notify = false;
        config.directory = self.place.clone();
        config.trace_to = self.trace_to.clone();
        config.records = Some(self.path("records"));
        let server = Server::bind(config).await.expect("it binds");
        self.http = server.http_addresses()[0];
        let (stop, stopped) = watch::channel(false);
        self.stop = stop;
        self.server = Some(tokio::spawn(server.run(stopped)));
    }

    /// The lines of the call records of all days.
    pub fn records(&self) -> Vec<Value> {
        let folder = std::fs::read_dir(self.path("records")).expect("the folder is there");
        let mut files: Vec<_> = folder.map(|file| file.expect("a file").path()).collect();
        files.sort();
        let text = files.iter().map(|file| std::fs::read_to_string(file).expect("text"));
        let text: String = text.collect();
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    pub async fn stop_control(&mut self) {
        self.stop.send(true).expect("it runs");
        self.server.take().expect("it runs").await.expect("it ends well");
    }

    pub async fn data_plane(&self) -> DataPlane {
        let plane = DataPlane::start(self.folder.path());
        self.until("a CCB that runs normally", async || self.get("/healthz").await.status == 200)
            .await;
        plane
    }

    /// Waits for up to two seconds until `holds`.
    pub async fn until(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        for _ in 0..200 {
            if holds().await {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        panic!("no {what} within two seconds");
    }

    pub async fn get(&self, path: &str) -> Answer {
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let stream = tokio::net::TcpStream::connect(self.http).await.expect("it connects");
        ask(stream, head, "").await
    }

    /// Posts without asking for the connection to be closed: whether it is says the server.
    pub async fn post(&self, path: &str, body: &str) -> Answer {
        let length = body.len();
        let close = if path == "/v1/login" { "" } else { "connection: close\r\n" };
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{close}\r\n");
        let stream = tokio::net::TcpStream::connect(self.http).await.expect("it connects");
        ask(stream, head, body).await
    }

    pub async fn login(&self, agent: &str, more: &str) -> Answer {
        let body =
            format!(r#"{{"tenant":"demo","agent":"{agent}","password":"demo-{agent}"{more}}}"#);
        self.post("/v1/login", &body).await
    }

    pub async fn admin(&self, method: &str, path: &str) -> Answer {
        let head = format!("{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let socket = self.path("control.sock");
        let stream = tokio::net::UnixStream::connect(socket).await.expect("it connects");
        ask(stream, head, "").await
    }

    /// Posts an order for a leg to the admin socket.
    pub async fn order(&self, leg: &str, body: Value) -> Answer {
        self.admin_with("POST", &format!("/v1/calls/{leg}/orders"), &body).await
    }

    /// Asks the admin socket with a body.
    pub async fn admin_with(&self, method: &str, path: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let head = format!(
            "{method} {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\
             content-length: {}\r\n\r\n",
            body.len()
        );
        let socket = self.path("control.sock");
        let stream = tokio::net::UnixStream::connect(socket).await.expect("it connects");
        ask(stream, head, &body).await
    }

    pub async fn ccb(&self) -> Value {
        self.admin("GET", "/v1/status").await.json()["ccbs"][0].clone()
    }

    /// The state of each login by its agent, and whether it counts as online.
    pub async fn states(&self) -> Vec<(String, String, bool)> {
        let agents = self.admin("GET", "/v1/agents").await.json();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let agents = agents["agents"].as_array().cloned().unwrap_or_default();
        let states = agents
            .iter()
            .map(|agent| (text(&agent["agent"]), text(&agent["state"]), agent["online"] == true));
        states.collect()
    }
}

/// An HTTP answer, read until the connection's end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: String,
}

impl Answer {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).expect("the body is JSON")
    }
}

pub async fn ask(
    mut stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
    head: String,
    body: &str,
) -> Answer {
    stream.write_all(head.as_bytes()).await.expect("it is written");
    stream.write_all(body.as_bytes()).await.expect("it is written");
    let mut text = String::new();
    let read = tokio::time::timeout(Duration::from_secs(5), stream.read_to_string(&mut text));
    read.await.expect("the server closes the connection").expect("it is text");
    let (head, body) = text.split_once("\r\n\r\n").expect("there is a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok());
    Answer {
        status: status.expect("there is a status"),
        head: head.to_ascii_lowercase(),
        body: body.to_owned(),
    }
}

/// A data plane whose events the test makes; it beats and completes commands by itself.
pub struct DataPlane {
    pub region: Arc<Region>,
    rings: Arc<Mutex<Rings>>,
    stop: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

struct Rings {
    events: Vec<EventSender>,
    commands: Vec<CommandReceiver>,
    seen: Vec<Command>,
    control: OwnedFd,
    workers: Vec<OwnedFd>,
}

impl DataPlane {
    fn start(folder: &Path) -> DataPlane {
        DataPlane::start_as(folder, CcbId(1), 8)
    }

    pub fn start_as(folder: &Path, ccb: CcbId, agents: u32) -> DataPlane {
        let layout = Layout {
            ccb,
            workers: WORKERS,
            agents,
            calls_per_worker: 8,
            legs_per_worker: 16,
            ring_slots: 64,
            blob_bytes: 4096,
            tenants: 4,
            trunks: 4,
            locations: 2,
        };
        let (region, _) = Region::open_or_create(&folder.join("region"), layout).expect("a region");
        for (id, name) in ["local", "east"].iter().enumerate() {
            let mut row = LocationRow::default();
            row.set_name(Text::new(name.as_bytes()).expect("it fits"));
            row.set_sip(SocketAddr::from(([127, 0, 0, 1], 5060 + id as u16)));
            region.locations().write(LocationId(id as u8), &row);
        }
        let doorbell = || rustix::event::eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        let rings = Arc::new(Mutex::new(Rings {
            events: (0..WORKERS).map(|w| region.event_sender(WorkerId(w))).collect(),
            commands: (0..WORKERS).map(|w| region.command_receiver(WorkerId(w))).collect(),
            seen: Vec::new(),
            control: doorbell(),
            workers: (0..WORKERS).map(|_| doorbell()).collect(),
        }));
        region.header().start_data_plane(Process::current(), now());
        region.header().set_data_plane_state(DataPlaneState::Running);
        let stop = Arc::new(AtomicBool::new(false));
        let thread = {
            let (region, rings, stop) = (region.clone(), rings.clone(), stop.clone());
            let path = folder.join("dataplane.sock");
            std::thread::spawn(move || live(&region, &rings, &stop, &path))
        };
        DataPlane { region, rings, stop, thread: Some(thread) }
    }

    /// Dies: its socket ends, its region stays.
    pub fn die(mut self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.take().expect("it runs").join().expect("it ends well");
    }

    pub fn event(&self, worker: usize, event: Event, blob: &[u8]) {
        self.rings.lock().expect("not poisoned").event(worker, event, blob);
    }

    pub fn seen(&self) -> Vec<Command> {
        self.rings.lock().expect("not poisoned").seen.clone()
    }

    pub fn slot(&self, number: &str) -> Option<AgentSlot> {
        self.region.agents().find_number(TenantId(1), number.as_bytes()).map(|found| found.0)
    }

    /// The phone of that number registers.
    pub fn register(&self, number: &str) {
        let (slot, row) =
            self.region.agents().find_number(TenantId(1), number.as_bytes()).expect("a login");
        let mut registration = RegistrationRow {
            state: RegistrationRow::REGISTERED,
            epoch: row.login_epoch,
            expires_at: (now() + Duration::from_secs(3600)).as_nanos(),
            ..RegistrationRow::default()
        };
        let addr = SocketAddr::from(([127, 0, 0, 9], 5062));
        registration.set_addr(addr);
        self.region.registrations().write(slot, &registration);
        let event = Event::Registered {
            agent: slot,
            epoch: row.login_epoch,
            location: LocationId(0),
            addr,
            expires_ms: 3_600_000,
        };
        self.event(0, event, &[]);
    }
}

impl Drop for DataPlane {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

impl Rings {
    fn event(&mut self, worker: usize, event: Event, blob: &[u8]) {
        let wake = self.events[worker].push(&event, blob, Class::Call).expect("there is room");
        if wake == Wake::Needed {
            rustix::io::write(&self.control, &1_u64.to_ne_bytes()).expect("it rings");
        }
    }

    fn serve(&mut self, region: &Region) {
        for worker in 0..usize::from(WORKERS) {
            let mut blob = Vec::new();
            while let Some(command) = self.commands[worker].pop(&mut blob) {
                let command = command.expect("it is whole");
                self.seen.push(command);
                let result = match command {
                    Command::Forget { agent, epoch, .. } => self.forget(region, agent, epoch),
                    Command::Media { op, call, leg, order } => {
                        let Some(result) = self.media(worker, (op, call, leg), order, &blob) else {
                            continue;
                        };
                        result
                    }
                    _ => OpResult::Ok,
                };
                self.event(worker, Event::Done { op: command.op(), result }, &[]);
            }
        }
    }

    /// Digits are pressed at once, hold music plays for ever, there is one prompt, nothing is mixed.
    fn media(
        &mut self,
        worker: usize,
        (op, call, leg): (u64, CallRef, u8),
        order: MediaOrder,
        prompt: &[u8],
    ) -> Option<OpResult> {
        match order {
            MediaOrder::Play { .. } if prompt != b"hi.wav" => Some(OpResult::NoSuchPrompt),
            MediaOrder::Play { times: 0 } => None,
            MediaOrder::Collect { .. } => {
                let cause = DigitsCause::Ended;
                self.event(worker, Event::Digits { op, call, leg, cause }, b"42");
                Some(OpResult::Ok)
            }
            MediaOrder::LeaveMix | MediaOrder::PauseRecording => Some(OpResult::Refused),
            _ => Some(OpResult::Ok),
        }
    }

    fn forget(&mut self, region: &Region, agent: AgentSlot, epoch: u32) -> OpResult {
        let row = region.registrations().read(agent).expect("a row");
        if !row.is_registered() || row.epoch != epoch {
            return OpResult::NoSuchAgent;
        }
        region.registrations().write(agent, &RegistrationRow::default());
        self.event(0, Event::Unregistered { agent, epoch, cause: UnregisterCause::Ordered }, &[]);
        OpResult::Ok
    }
}

/// Beats, takes commands, hands doorbells to the control that connects.
fn live(region: &Region, rings: &Mutex<Rings>, stop: &AtomicBool, path: &Path) {
    let _ = std::fs::remove_file(path);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let listener =
        rustix::net::socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)
            .expect("a socket");
    rustix::net::bind(&listener, &SocketAddrUnix::new(path).expect("a path")).expect("it binds");
    rustix::net::listen(&listener, 4).expect("it listens");
    let mut control = None;
    while !stop.load(Ordering::Relaxed) {
        region.header().beat_data_plane(now());
        for worker in 0..WORKERS {
            region.header().beat_worker(WorkerId(worker), now());
        }
        if let Ok(socket) = rustix::net::accept(&listener) {
            hello(&socket, &rings.lock().expect("not poisoned"));
            control = Some(socket);
        }
        rings.lock().expect("not poisoned").serve(region);
        let wait = Timespec { tv_sec: 0, tv_nsec: 5_000_000 };
        let _ = rustix::event::poll(&mut [PollFd::new(&listener, PollFlags::IN)], Some(&wait));
    }
    drop(control);
    let _ = std::fs::remove_file(path);
}

fn hello(socket: &OwnedFd, rings: &Rings) {
    let mut bytes = b"JKLN".to_vec();
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(u32::from(WORKERS).to_le_bytes());
    let fds: Vec<_> = [&rings.control].into_iter().chain(&rings.workers).map(AsFd::as_fd).collect();
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(8))];
    let mut ancillary = SendAncillaryBuffer::new(&mut space);
    assert!(ancillary.push(SendAncillaryMessage::ScmRights(&fds)));
    rustix::net::sendmsg(socket, &[IoSlice::new(&bytes)], &mut ancillary, SendFlags::empty())
        .expect("it is sent");
}

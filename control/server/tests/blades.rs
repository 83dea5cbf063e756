//! Three control processes, each with a CCB whose data plane is moved by hand, at a NATS server. Processes are
//! killed and paused for real: each runs as a process of this test program.

mod world;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use base::{CcbId, Transport};
use control_server::{
    BusConfig, CcbConfig, Config, DemoLocation, DemoSpec, Directory, DirectoryPlace, HashCost,
    LocalBus, NatsConfig, Server,
};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::sync::watch;
use world::{Answer, DataPlane, ask};

const BLADES: u16 = 3;
const AGENTS: u32 = 90;

/// A control process of its own; what it is to be stands in the environment.
#[tokio::test]
async fn a_control_process() {
    let Ok(state) = std::env::var("JACKFIELD_TEST_STATE") else { return };
    let number: u16 = env("JACKFIELD_TEST_BLADE").parse().expect("a number");
    let state = PathBuf::from(state);
    let bus = NatsConfig::parse(&env("JACKFIELD_TEST_BUS")).expect("an address");
    let server = Server::bind(config(&state, number, BusConfig::Nats(bus))).await;
    let server = server.expect("it binds");
    let http = server.http_addresses()[0].to_string();
    std::fs::write(state.join("http.new"), http).expect("it is written");
    std::fs::rename(state.join("http.new"), state.join("http")).expect("it is named");
    let (_never, stop) = watch::channel(false);
    server.run(stop).await;
}

/// A control of that number, in its folder within the folder of all.
fn config(state: &Path, number: u16, bus: BusConfig) -> Config {
    let all = state.parent().expect("the folder of all").to_owned();
    let ccb = CcbConfig {
        id: CcbId(number),
        region: state.join("region"),
        socket: state.join("dataplane.sock"),
        spool: None,
    };
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config::new(state.to_owned(), vec![any], vec![ccb]);
    config.directory = DirectoryPlace::Sqlite(all.join("directory.sqlite"));
    config.token_key = Some(all.join("token.key"));
    config.hash_cost = HashCost::DEMO;
    config.notify = false;
    config.blade = format!("b{number}");
    config.bus = bus;
    config
}

fn env(name: &str) -> String {
    std::env::var(name).expect("it is set")
}

/// An address of the loopback's own for each server: a port of 127.0.0.1 that is free now may be somebody's own end of a
/// connection before the server takes it.
fn own_address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [_, _, high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 64 | (high & 63), low, NEXT.fetch_add(1, Ordering::Relaxed))
}

struct Nats {
    ip: Ipv4Addr,
    process: Child,
}

impl Nats {
    fn start(ip: Ipv4Addr, folder: &Path) -> Nats {
        let mut server = Command::new("nats-server");
        server.args(["-a", &ip.to_string(), "-p", "4222", "-js", "-sd"]).arg(folder);
        server.stdout(Stdio::null()).stderr(Stdio::null());
        Nats { ip, process: server.spawn().expect("nats-server is installed") }
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

struct Blade {
    state: PathBuf,
    http: SocketAddr,
    /// None when it runs in this process.
    process: Option<Child>,
    /// Agents see it through its rows.
    _plane: DataPlane,
}

impl Drop for Blade {
    fn drop(&mut self) {
        if let Some(process) = &mut self.process {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

impl Blade {
    async fn start(folder: &Path, number: u16, bus: &str) -> Blade {
        let state = folder.join(format!("b{number}"));
        std::fs::create_dir_all(&state).expect("a folder");
        let plane = DataPlane::start_as(&state, CcbId(number), 64);
        let this = std::env::current_exe().expect("this program");
        let mut process = Command::new(this);
        process.args(["--exact", "a_control_process", "--nocapture"]);
        process.env("JACKFIELD_TEST_STATE", &state);
        process.env("JACKFIELD_TEST_BLADE", number.to_string()).env("JACKFIELD_TEST_BUS", bus);
        process.stdout(Stdio::null()).stderr(Stdio::null());
        let process = Some(process.spawn().expect("it starts"));
        let file = state.join("http");
        until("an address", async || file.exists()).await;
        let http = std::fs::read_to_string(file).expect("text").parse().expect("an address");
        Blade { state, http, process, _plane: plane }
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(self.process.as_ref().expect("it is a process"));
        kill_process(pid, signal).expect("it lives");
    }

    async fn admin(&self, path: &str) -> Value {
        let head = format!("GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let stream = tokio::net::UnixStream::connect(self.state.join("control.sock")).await;
        ask(stream.expect("it connects"), head, "").await.json()
    }

    async fn post(&self, path: &str, body: &str) -> Answer {
        let length = body.len();
        let close = "connection: close\r\n";
        let head =
            format!("POST {path} HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n{close}\r\n");
        let stream = tokio::net::TcpStream::connect(self.http).await.expect("it connects");
        ask(stream, head, body).await
    }

    async fn login(&self, agent: u32) -> Answer {
        let body = format!(r#"{{"tenant":"demo","agent":"{agent}","password":"demo-{agent}"}}"#);
        self.post("/v1/login", &body).await
    }

    /// What it says of the blades: whether the bus is there, who leads, its own term if it is itself.
    async fn view(&self) -> Value {
        self.admin("/v1/status").await["blade"].clone()
    }

    async fn leads(&self) -> bool {
        self.view().await["term"].is_u64()
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let since = Instant::now();
    while !holds().await {
        assert!(since.elapsed() < Duration::from_secs(20), "no {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

struct Site {
    folder: tempfile::TempDir,
    nats: Option<Nats>,
    blades: Vec<Blade>,
}

impl Site {
    /// Blades that all see each other and one of which leads.
    async fn start() -> Site {
        let folder = tempfile::tempdir().expect("a folder");
        Site::fill(&folder).await;
        let ip = own_address();
        let nats = Nats::start(ip, &folder.path().join("nats"));
        let bus = format!("nats://{ip}:4222");
        let mut blades = Vec::new();
        for number in 1..=BLADES {
            blades.push(Blade::start(folder.path(), number, &bus).await);
        }
        let site = Site { folder, nats: Some(nats), blades };
        site.settled().await;
        site
    }

    /// The directory that all share.
    async fn fill(folder: &tempfile::TempDir) {
        let place = DirectoryPlace::Sqlite(folder.path().join("directory.sqlite"));
        let directory = Directory::open(&place).await.expect("it opens");
        let location = DemoLocation {
            name: "local".into(),
            ip: "127.0.0.1".parse().expect("an address"),
            sip: vec![(Transport::Udp, 5060)],
            http_port: 8080,
        };
        let spec = DemoSpec {
            tenant: "demo".into(),
            agents: AGENTS,
            ccbs: (1..=BLADES).map(|ccb| (CcbId(ccb), vec![location.clone()])).collect(),
            trunks: Vec::new(),
            routes: Vec::new(),
            queues: Vec::new(),
            srtp: Default::default(),
        };
        directory.create_demo(&spec).await.expect("it is created");
        directory.close().await;
    }

    /// Waits until every blade sees the others' CCBs, all of them running, and the same leader.
    async fn settled(&self) {
        for blade in &self.blades {
            until("blades that see each other", async || {
                let all = blade.admin("/v1/blades").await;
                let seen = all["blades"].as_array().cloned().unwrap_or_default();
                let runs = |one: &&Value| one["ccbs"][0]["status"] == "normal";
                all["leader"].is_string() && seen.iter().filter(runs).count() == self.blades.len()
            })
            .await;
        }
    }

    async fn leader(&self) -> usize {
        for (place, blade) in self.blades.iter().enumerate() {
            if blade.leads().await {
                return place;
            }
        }
        panic!("nobody leads");
    }
}

fn ccb(answer: &Answer) -> u64 {
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.json()["ccb"]["device_number"].as_u64().expect("a CCB")
}

#[tokio::test]
async fn sixty_agents_spread_evenly_and_go_on_when_the_leader_is_killed() {
    let mut site = Site::start().await;
    let mut counts = [0; BLADES as usize];
    let mut tokens = Vec::new();
    for turn in 0..60 / BLADES as u32 {
        let agent = 1001 + turn * BLADES as u32;
        // Three at a time, each at another blade.
        let (a, b, c) = tokio::join!(
            site.blades[0].login(agent),
            site.blades[1].login(agent + 1),
            site.blades[2].login(agent + 2),
        );
        for answer in [a, b, c] {
            let ccb = ccb(&answer);
            counts[ccb as usize - 1] += 1;
            tokens.push((ccb, answer.json()["token"].as_str().expect("a token").to_owned()));
        }
    }
    let (least, most) = (counts.iter().min().expect("three"), counts.iter().max().expect("three"));
    assert!(most - least <= 1, "{counts:?}");
    let leader = site.leader().await;
    site.blades[leader].signal(Signal::KILL);
    let killed_at = Instant::now();
    let dead = leader as u64 + 1;
    let mut slowest = Duration::ZERO;
    for agent in 1061..1081 {
        let other = &site.blades[(leader + 1 + agent as usize % 2) % 3];
        let asked_at = Instant::now();
        let answer = other.login(agent).await;
        slowest = slowest.max(asked_at.elapsed());
        assert_ne!(ccb(&answer), dead, "the dead blade's CCB is given to nobody");
    }
    assert!(slowest < Duration::from_secs(2), "a login took {slowest:?}");
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    until("other leader", async || {
        site.blades[others[0]].leads().await || site.blades[others[1]].leads().await
    })
    .await;
    let followed = killed_at.elapsed();
    println!("slowest login {slowest:?}, followed after {followed:?}");
    assert!(followed < Duration::from_millis(2_500), "it took {followed:?}");
    // Agents of the dead blade's CCB come back by their token, at any blade.
    let stranded = tokens.iter().filter(|(ccb, _)| *ccb == dead).take(4);
    for (turn, (_, token)) in stranded.enumerate() {
        let body = format!(r#"{{"token":"{token}"}}"#);
        let answer = site.blades[others[turn % 2]].post("/v1/login", &body).await;
        assert_ne!(ccb(&answer), dead);
        let again = site.blades[others[turn % 2]].post("/v1/login", &body).await;
        assert_eq!(again.status, 401, "the older token is good no more");
    }
    // A login is ended at whichever blade is asked.
    let (at, token) = tokens.iter().rev().find(|(ccb, _)| *ccb != dead).expect("there are");
    let elsewhere = others.into_iter().find(|other| *other as u64 + 1 != *at).expect("one");
    let body = format!(r#"{{"token":"{token}"}}"#);
    assert_eq!(site.blades[elsewhere].post("/v1/logout", &body).await.status, 204);
    until("end of the token", async || {
        site.blades[elsewhere].post("/v1/logout", &body).await.status == 401
    })
    .await;
    site.blades.clear();
}

#[tokio::test]
async fn without_nats_each_works_alone_and_an_empty_one_heals_it() {
    let mut site = Site::start().await;
    for agent in 1001..1013 {
        ccb(&site.blades[agent as usize % 3].login(agent).await);
    }
    let ip = site.nats.as_ref().expect("it runs").ip;
    site.nats = None;
    for (place, blade) in site.blades.iter().enumerate() {
        until("word of the loss", async || blade.view().await["connected"] == false).await;
        let agent = 1020 + place as u32;
        assert_eq!(ccb(&blade.login(agent).await), place as u64 + 1, "it works alone");
        assert_eq!(blade.view().await["leader"], Value::Null);
    }
    site.nats = Some(Nats::start(ip, &site.folder.path().join("another")));
    site.settled().await;
    for blade in &site.blades {
        until("all homes", async || blade.view().await["homes"] == 15).await;
    }
    ccb(&site.blades[0].login(1030).await);
}

#[tokio::test]
async fn a_leader_that_is_paused_for_three_seconds_does_no_harm() {
    let site = Site::start().await;
    let leader = site.leader().await;
    let others = [(leader + 1) % 3, (leader + 2) % 3];
    site.blades[leader].signal(Signal::STOP);
    let stopped_at = Instant::now();
    let mut logins = 0;
    while stopped_at.elapsed() < Duration::from_secs(3) {
        // Agents log in again and again, at this blade and at that.
        let answer = site.blades[others[logins % 2]].login(1001 + logins as u32 % 59).await;
        assert_ne!(ccb(&answer), leader as u64 + 1, "who is paused is given to nobody");
        logins += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(logins > 3, "logins went on");
    site.blades[leader].signal(Signal::CONT);
    let mut led = 0;
    for _ in 0..40 {
        let (a, b, c) =
            tokio::join!(site.blades[0].leads(), site.blades[1].leads(), site.blades[2].leads());
        let leaders = [a, b, c].into_iter().filter(|leads| *leads).count();
        assert!(leaders <= 1, "two lead");
        led += leaders;
    }
    assert!(led > 0, "one leads");
    site.settled().await;
    until("logins at the one that was paused", async || {
        site.blades[leader].login(1070).await.status == 200
    })
    .await;
    // Every agent is at one blade only.
    let mut seen = Vec::new();
    for blade in &site.blades {
        let agents = blade.admin("/v1/agents").await["agents"].as_array().cloned();
        let agents = agents.unwrap_or_default();
        seen.extend(agents.iter().map(|one| one["agent"].as_str().unwrap_or_default().to_owned()));
    }
    let all = seen.len();
    seen.sort();
    seen.dedup();
    assert_eq!(seen.len(), all);
}

#[tokio::test]
async fn blades_of_one_process_meet_on_a_bus_that_can_be_cut() {
    let folder = tempfile::tempdir().expect("a folder");
    Site::fill(&folder).await;
    let bus = LocalBus::default();
    bus.delay(Duration::from_millis(2));
    let (stop, stopped) = watch::channel(false);
    let mut blades = Vec::new();
    let mut running = tokio::task::JoinSet::new();
    for number in 1..=2 {
        let state = folder.path().join(format!("b{number}"));
        std::fs::create_dir_all(&state).expect("a folder");
        let plane = DataPlane::start_as(&state, CcbId(number), 64);
        let server = Server::bind(config(&state, number, BusConfig::Local(bus.clone()))).await;
        let server = server.expect("it binds");
        let http = server.http_addresses()[0];
        running.spawn(server.run(stopped.clone()));
        blades.push(Blade { state, http, process: None, _plane: plane });
    }
    let site = Site { folder, nats: None, blades };
    site.settled().await;
    let mut counts = [0; 2];
    for agent in 1001..1011 {
        counts[ccb(&site.blades[0].login(agent).await) as usize - 1] += 1;
    }
    assert_eq!(counts, [5, 5]);
    bus.cut("b2");
    until("word of the loss", async || site.blades[1].view().await["connected"] == false).await;
    assert_eq!(ccb(&site.blades[1].login(1020).await), 2);
    bus.join("b2");
    site.settled().await;
    until("all homes", async || site.blades[0].view().await["homes"] == 11).await;
    stop.send(true).expect("they run");
    while let Some(ended) = running.join_next().await {
        ended.expect("it ends well");
    }
}

//! Two processes on one region, each killed with SIGKILL at any instant, two hundred times and
//! more.
//!
//! The test runs its own program again as `plane` (data plane) and `control`. Both send numbered
//! records to the other, write rows whose fields all follow from one number, and fight for the same
//! leases; each checks what it sees and dies with a message when it is wrong. What they count lies
//! in nonce words of the region, which nobody else uses here, so the sums outlive them:
//!
//! * a record's number or operation is above all that was logged before, so none is seen twice;
//! * of N numbers, each was logged as received or as refused, but for one at most for each kill:
//!   the number that a producer had just taken, or the record that a consumer had taken out and not
//!   logged;
//! * a bound lease has one holder, and the counters with which a word is won only grow;
//! * both sides make progress after every kill, whoever is dead.

use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use abi::{
    AgentRow, CallRow, CallState, Class, Command, CommandReceiver, CommandSender, Event,
    EventReceiver, EventSender, Layout, Opened, Process, Purpose, Region, RegionError,
};
use base::{AgentSlot, CallRef, CcbId, Instant, Medium, Rng, TenantId, WorkerId};

const KILLS_OF_EACH: usize = 200;
const PATIENCE: Duration = Duration::from_secs(10);

const LAYOUT: Layout = Layout {
    ccb: CcbId(1),
    workers: 1,
    agents: 256,
    calls_per_worker: 4,
    legs_per_worker: 4,
    ring_slots: 64,
    blob_bytes: 4096,
    tenants: 1,
    trunks: 1,
    locations: 1,
};
const WORKER: WorkerId = WorkerId(0);

/// Agents whose leases are fought for, and whose rows control writes.
const SLOTS: u32 = 8;

/// What the words of the log are, by the agent's slot whose nonce word it is.
#[derive(Clone, Copy)]
enum Log {
    PlaneLoops,
    ControlLoops,
    Stop,
    Created,
    EventsRefused,
    EventsLogged,
    LastEvent,
    CommandsIssued,
    CommandsRefused,
    CommandsLogged,
    LastCommand,
    LeasesWon,
    RowsRead,
    /// Who holds each bound lease, from here on.
    Holder = 64,
    /// The counter with which each lease was won last, plus one, from here on.
    Won = 128,
}

fn log(region: &Region, log: Log) -> &AtomicU64 {
    log_at(region, log, 0)
}

fn log_at(region: &Region, log: Log, nth: u32) -> &AtomicU64 {
    region.agents().nonce_word(AgentSlot(log as u32 + nth)).expect("it is in the table")
}

fn read(region: &Region, what: Log) -> u64 {
    log(region, what).load(Ordering::SeqCst)
}

fn add(region: &Region, what: Log) {
    log(region, what).fetch_add(1, Ordering::SeqCst);
}

fn now() -> Instant {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("the clock is set");
    Instant::from_nanos(since.as_nanos() as u64)
}

/// Scatters `n` so that parts of two values do not fit together by chance.
fn mix(n: u64) -> u64 {
    (n ^ n >> 31).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn blob_of(number: u64) -> Vec<u8> {
    (0..number % 200).map(|i| mix(number ^ i) as u8).collect()
}

fn event_of(number: u64) -> Event {
    let scattered = mix(number);
    let call = CallRef { slot: scattered as u32, generation: (scattered >> 32) as u32 };
    let state = CallState::ALL[(number % CallState::ALL.len() as u64) as usize];
    Event::CallChanged { call, serial: number, state, cause: scattered as u16 }
}

fn command_of(op: u64) -> Command {
    let scattered = mix(op);
    Command::Forget { op, agent: AgentSlot(scattered as u32), epoch: (scattered >> 32) as u32 }
}

fn agent_row(n: u64) -> AgentRow {
    let byte = mix(n) as u8 | 1;
    AgentRow {
        state: 1,
        login_epoch: n as u32,
        tenant: (n >> 32) as u32,
        location: byte.into(),
        agent_id: n,
        number: [byte; 24],
        user: [byte ^ 0x55; 48],
        name: [byte ^ 0xaa; 64],
        granted_at: mix(n),
        cti_state: 1,
        agent_type: byte.into(),
        cti_since: !n,
        forwards: n as u32,
        no_answer_s: (n >> 32) as u32,
        incoming_limit: !n as u32,
        outgoing_limit: (!n >> 32) as u32,
        work: byte.into(),
        next_work: !n as u32,
        work_since: mix(n) ^ n,
        work_until: n,
        reason: [byte ^ 0x33; 24],
        next_reason: [byte ^ 0xcc; 24],
    }
}

fn call_row(n: u64) -> CallRow {
    CallRow {
        state: CallState::Answered.into(),
        generation: n as u32,
        serial: n,
        tenant: TenantId(n as u32).0,
        cause: !n as u32,
        started_at: mix(n),
        answered_at: !mix(n),
        ended_at: n.rotate_left(7),
        incarnation: !n,
        legs: n as u32,
        called: [mix(n) as u8; 32],
        ended_by: n as u32,
        ended_leg: !n as u32,
        mix: !n as u32,
        guest: n as u32,
        reserved: 0,
    }
}

/// What both roles do besides the rings.
struct Side<'a> {
    region: &'a Region,
    rng: Rng,
    holder: CcbId,
}

impl Side<'_> {
    /// What an earlier process of this role had is free again.
    fn take_over(&self) {
        for nth in 0..SLOTS {
            let word = log_at(self.region, Log::Holder, nth);
            let ours = word.load(Ordering::SeqCst);
            if ours >> 32 == u64::from(self.holder.0) {
                word.store(0, Ordering::SeqCst);
            }
        }
        self.region.leases().free_all_of(self.holder);
    }

    fn fight(&mut self) {
        let nth = self.rng.below(u64::from(SLOTS)) as u32;
        let (slot, medium, holder) = (AgentSlot(nth), Medium::Voice, self.holder);
        let leases = self.region.leases();
        let Ok(counter) = leases.reserve(slot, medium, holder, Purpose::Call, now()) else {
            return;
        };
        let before =
            log_at(self.region, Log::Won, nth).swap(u64::from(counter) + 1, Ordering::SeqCst);
        if !leases.bind(slot, medium, holder, counter) {
            return; // Two seconds passed, and it was taken over.
        }
        assert!(before < u64::from(counter) + 1, "lease {nth} was won twice with {counter}");
        add(self.region, Log::LeasesWon);
        let tag = (u64::from(holder.0) << 32) + u64::from(counter) + 1;
        let word = log_at(self.region, Log::Holder, nth);
        let other = word.swap(tag, Ordering::SeqCst);
        assert_eq!(other, 0, "lease {nth} is bound by two");
        for _ in 0..self.rng.below(50) {
            std::hint::spin_loop();
        }
        let mine = word.compare_exchange(tag, 0, Ordering::SeqCst, Ordering::SeqCst);
        assert_eq!(mine, Ok(tag), "lease {nth} was bound by another meanwhile");
        assert!(
            leases.release(slot, medium, holder, counter, abi::Share::Waiting),
            "lease {nth} was ours"
        );
    }
}

struct Plane {
    region: Arc<Region>,
    events: EventSender,
    commands: CommandReceiver,
    blob: Vec<u8>,
    row: u64,
    rows: [u64; SLOTS as usize],
}

impl Plane {
    fn cycle(&mut self) {
        for _ in 0..8 {
            self.row += 1;
            self.region.calls().write((self.row % 4) as u32, &call_row(self.row));
            let number = self.events.number() + 1;
            let class = if number.is_multiple_of(3) { Class::Statistic } else { Class::Call };
            if self.events.push(&event_of(number), &blob_of(number), class).is_err() {
                add(&self.region, Log::EventsRefused);
            }
        }
        for _ in 0..16 {
            let Some(command) = self.commands.pop(&mut self.blob) else { break };
            let command = command.expect("commands are sound");
            receive_command(&self.region, command, &self.blob);
        }
        for nth in 0..SLOTS {
            let row = self.region.agents().read(AgentSlot(nth)).expect("a row can be read");
            let n = row.agent_id;
            assert!(n == 0 || row == agent_row(n), "a torn row: {row:?}");
            assert!(n >= self.rows[nth as usize], "a row went back");
            self.rows[nth as usize] = n;
            add(&self.region, Log::RowsRead);
        }
    }
}

fn receive_command(region: &Region, command: Command, blob: &[u8]) {
    let op = command.op();
    assert_eq!(command, command_of(op));
    assert_eq!(blob, blob_of(op));
    let last = log(region, Log::LastCommand).swap(op, Ordering::SeqCst);
    assert!(op > last, "command {op} came after {last}");
    add(region, Log::CommandsLogged);
}

fn plane(path: &Path) {
    let (region, opened) = Region::open_or_create(path, LAYOUT).expect("the region opens");
    if opened == Opened::Created {
        add(&region, Log::Created);
    }
    region.header().start_data_plane(Process::current(), now());
    let rng = Rng::from_number(now().as_nanos());
    let mut side = Side { region: &region, rng, holder: CcbId(1) };
    side.take_over();
    let mut plane = Plane {
        events: region.event_sender(WORKER),
        commands: region.command_receiver(WORKER),
        blob: Vec::new(),
        row: region.calls().iter().map(|(_, row)| row.serial).max().unwrap_or(0),
        rows: [0; SLOTS as usize],
        region: Arc::clone(&region),
    };
    while read(&region, Log::Stop) == 0 {
        plane.cycle();
        side.fight();
        region.header().beat_worker(WORKER, now());
        add(&region, Log::PlaneLoops);
    }
}

struct Control {
    region: Arc<Region>,
    events: EventReceiver,
    commands: CommandSender,
    blob: Vec<u8>,
    /// The event before, when it was this process that took it.
    last: Option<u64>,
    row: u64,
    rows: [u64; 4],
}

impl Control {
    fn drain(&mut self, most: usize) {
        for _ in 0..most {
            let Some(event) = self.events.pop(&mut self.blob) else { return };
            let event = event.expect("events are sound");
            let number = event.number;
            assert_eq!(event.value, event_of(number));
            assert_eq!(self.blob, blob_of(number));
            if let Some(last) = self.last.replace(number) {
                assert_eq!(event.missed, number - last - 1, "gaps are told as they are");
            }
            let last = log(&self.region, Log::LastEvent).swap(number, Ordering::SeqCst);
            assert!(number > last, "event {number} came after {last}");
            add(&self.region, Log::EventsLogged);
        }
    }

    fn cycle(&mut self) {
        self.drain(16);
        for _ in 0..2 {
            let op = log(&self.region, Log::CommandsIssued).fetch_add(1, Ordering::SeqCst) + 1;
            if self.commands.push(&command_of(op), &blob_of(op)).is_err() {
                add(&self.region, Log::CommandsRefused);
            }
        }
        for nth in 0..SLOTS {
            self.row += 1;
            self.region.agents().write(AgentSlot(nth), &agent_row(self.row));
        }
        for slot in 0..4 {
            let row = self.region.calls().read(slot).expect("a row can be read");
            let n = row.serial;
            assert!(n == 0 || row == call_row(n), "a torn row: {row:?}");
            assert!(n >= self.rows[slot as usize], "a row went back");
            self.rows[slot as usize] = n;
            add(&self.region, Log::RowsRead);
        }
        // The last look before sleeping; here is no eventfd, so it sleeps with one eye open.
        let bell = self.region.header().control_bell();
        bell.sleep();
        let mut naps = 0;
        while self.events.is_empty() && bell.is_asleep() && naps < 100 {
            std::thread::yield_now();
            naps += 1;
        }
        bell.awake();
    }
}

fn control(path: &Path) {
    let region = Region::open(path).expect("the region is there");
    region.header().start_control(Process::current(), now());
    let rng = Rng::from_number(now().as_nanos());
    let mut side = Side { region: &region, rng, holder: CcbId(2) };
    side.take_over();
    let mut control = Control {
        events: region.event_receiver(WORKER),
        commands: region.command_sender(WORKER),
        blob: Vec::new(),
        last: None,
        row: region.agents().iter().map(|(_, row)| row.agent_id).max().unwrap_or(0),
        rows: [0; 4],
        region: Arc::clone(&region),
    };
    while read(&region, Log::Stop) < 2 {
        control.cycle();
        side.fight();
        region.header().beat_control(now());
        add(&region, Log::ControlLoops);
    }
    control.drain(usize::MAX);
}

const ROLE: &str = "ABI_KILL_ROLE";
const PLACE: &str = "ABI_KILL_PLACE";

/// The program run again; without a role it is no test.
#[test]
fn role() {
    let Ok(role) = std::env::var(ROLE) else { return };
    let path = PathBuf::from(std::env::var_os(PLACE).expect("a child is told the place"));
    // A child does not outlive the test that started it.
    std::thread::spawn(|| {
        let _ = std::io::copy(&mut std::io::stdin(), &mut std::io::sink());
        std::process::exit(3);
    });
    match role.as_str() {
        "plane" => plane(&path),
        "control" => control(&path),
        "creator" => create_large(&path),
        other => panic!("no role {other}"),
    }
}

fn spawn(role: &str, path: &Path) -> Child {
    Program::new(std::env::current_exe().expect("this program has a path"))
        .args(["--exact", "role", "--nocapture", "--test-threads=1"])
        .env(ROLE, role)
        .env(PLACE, path)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("this program runs again")
}

fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    let start = std::time::Instant::now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "{what}: nothing happens");
        std::thread::sleep(Duration::from_micros(200));
    }
}

/// SIGKILL; a child that died of anything else has found something wrong and has said so.
fn kill(role: &str, child: &mut Child) {
    use std::os::unix::process::ExitStatusExt as _;
    child.kill().expect("it is ours");
    let status = child.wait().expect("it is ours");
    assert_eq!(status.signal(), Some(9), "{role} ended by itself: {status}");
}

fn finish(role: &str, child: &mut Child) {
    let start = std::time::Instant::now();
    let status = loop {
        if let Some(status) = child.try_wait().expect("it is ours") {
            break status;
        }
        assert!(start.elapsed() < PATIENCE, "{role} does not stop");
        std::thread::sleep(Duration::from_millis(1));
    };
    assert!(status.success(), "{role} ended with {status}");
}

/// A child, killed also when the test fails.
struct Guard {
    role: &'static str,
    loops: Log,
    child: Child,
    kills: usize,
}

impl Guard {
    fn new(role: &'static str, loops: Log, path: &Path) -> Self {
        Guard { role, loops, child: spawn(role, path), kills: 0 }
    }

    fn kill_and_restart(&mut self, path: &Path) {
        kill(self.role, &mut self.child);
        self.child = spawn(self.role, path);
        self.kills += 1;
    }

    /// Waits until the child has gone round a few times from here on.
    fn wait_for_work(&self, region: &Region) {
        let goal = read(region, self.loops) + 3;
        wait_until(self.role, || read(region, self.loops) >= goal);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The region by a name of this test's own, so that it keeps no control process away from `path`.
fn watch(path: &Path) -> Arc<Region> {
    let own = path.with_extension("watched");
    std::fs::hard_link(path, &own).expect("the region has its name");
    let secrets = |path: &Path| PathBuf::from(format!("{}.secrets", path.display()));
    std::fs::hard_link(secrets(path), secrets(&own)).expect("and the secrets had theirs before");
    Region::open(&own).expect("it is the same region")
}

/// One number is missing for each kill at most, and none is there twice.
fn account(what: &str, issued: u64, logged: u64, refused: u64, kills: u64) {
    assert!(logged + refused <= issued, "{what}: {logged} and {refused} of {issued}");
    let missing = issued - logged - refused;
    println!("{what}: {issued} issued, {logged} received, {refused} refused, {missing} missing");
    assert!(missing <= kills, "{what}: {missing} are missing after {kills} kills");
    assert!(logged > kills * 10, "{what}: too few for the test to mean something");
}

#[test]
fn either_side_may_be_killed_at_any_instant() {
    let dir = tempfile::TempDir::new_in("/dev/shm").expect("a directory");
    let path = dir.path().join("ccb");
    let seed = now().as_nanos();
    println!("seed {seed}");
    let mut rng = Rng::from_number(seed);
    let mut plane = Guard::new("plane", Log::PlaneLoops, &path);
    wait_until("the first plane", || path.exists());
    let region = watch(&path);
    let mut control = Guard::new("control", Log::ControlLoops, &path);

    while plane.kills.min(control.kills) < KILLS_OF_EACH {
        // Mostly in the middle of their work, sometimes while they start.
        if !rng.chance(20) {
            plane.wait_for_work(&region);
            control.wait_for_work(&region);
        }
        std::thread::sleep(Duration::from_micros(1000 + rng.below(19_000)));
        let draw = rng.below(10);
        if draw < 5 || draw == 9 {
            plane.kill_and_restart(&path);
        }
        if draw >= 5 {
            control.kill_and_restart(&path);
        }
    }

    plane.wait_for_work(&region);
    control.wait_for_work(&region);
    log(&region, Log::Stop).store(1, Ordering::SeqCst);
    finish("plane", &mut plane.child);
    log(&region, Log::Stop).store(2, Ordering::SeqCst);
    finish("control", &mut control.child);

    // What the last plane did not take is taken here.
    let mut receiver = region.command_receiver(WORKER);
    let mut blob = Vec::new();
    while let Some(command) = receiver.pop(&mut blob) {
        receive_command(&region, command.expect("commands are sound"), &blob);
    }
    let events = region.event_receiver(WORKER);
    assert!(events.is_empty());
    let kills = (plane.kills + control.kills) as u64;
    println!("{} kills of the plane, {} of control", plane.kills, control.kills);
    let count = |what| read(&region, what);
    let (logged, refused) = (count(Log::EventsLogged), count(Log::EventsRefused));
    account("events", events.issued(), logged, refused, kills);
    let (logged, refused) = (count(Log::CommandsLogged), count(Log::CommandsRefused));
    account("commands", count(Log::CommandsIssued), logged, refused, kills);
    println!("{} leases won, {} rows read", count(Log::LeasesWon), count(Log::RowsRead));
    assert!(count(Log::LeasesWon) > kills && count(Log::RowsRead) > kills);
    assert_eq!(count(Log::Created), 1, "every later plane found the region as it was left");
    assert!(region.is_current(&path));
    assert!(region.header().data_plane().incarnation > KILLS_OF_EACH as u64 / 2);
    assert!(region.header().control().incarnation > KILLS_OF_EACH as u64 / 2);
}

const LARGE: Layout = Layout { agents: 50_000, ..LAYOUT };

fn create_large(path: &Path) {
    Region::open_or_create(path, LARGE).expect("the region opens");
}

#[test]
fn a_creator_may_be_killed_at_any_instant() {
    let dir = tempfile::TempDir::new_in("/dev/shm").expect("a directory");
    let mut rng = Rng::from_number(now().as_nanos());
    for nth in 0..20 {
        let path = dir.path().join(format!("ccb-{nth}"));
        let mut creator = spawn("creator", &path);
        std::thread::sleep(Duration::from_micros(1000 + rng.below(40_000)));
        let _ = creator.kill();
        let _ = creator.wait();
        match Region::open(&path) {
            Ok(region) => assert_eq!(region.layout(), LARGE),
            Err(RegionError::Io { what: "open", .. }) => {}
            Err(error) => panic!("half a region is in its place: {error}"),
        }
        let (region, _) = Region::open_or_create(&path, LARGE).expect("the next one makes it");
        drop(region);
        std::fs::remove_file(&path).expect("it is there");
        std::fs::remove_file(dir.path().join(format!("ccb-{nth}.secrets"))).expect("it is there");
    }
}

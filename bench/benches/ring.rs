//! The rings of a region between two processes on two cores, beside crossbeam's bounded channels
//! between two threads on the same cores.
//!
//! * busy: both look at their rings all the time; an event goes up and a command comes back.
//! * asleep: both block on an eventfd until the other rings, by the protocol of [`abi::Bell`].
//! * two words: the least that a round trip can cost on these cores at that moment. A host may move
//!   the cores of a virtual machine near to each other or far apart, for seconds; then all of it is
//!   slower.
//! * throughput: events of a call's changes go one way, from the first push to the answer to the
//!   last.
//!
//! This process is the data plane. The other, started from the same file, is control: its standard
//! input is its own doorbell and its standard output is ours.

use std::hint::{black_box, spin_loop};
use std::io::{stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use abi::{
    CallState, Class, Command, CommandReceiver, CommandSender, Event, EventReceiver, EventSender,
    OpResult, Region, Wake,
};
use base::{CallRef, WorkerId};
use crossbeam::channel::{Receiver, Sender, bounded};
use house_bench::{cores, is_measured, is_wanted, layout, pin, shared_region};
use rustix::event::{EventfdFlags, eventfd};

const WORKER: WorkerId = WorkerId(0);
/// Tells the other process where the region is.
const REGION: &str = "HOUSE_BENCH_REGION";
/// Tells the other process which core is its own.
const CORE: &str = "HOUSE_BENCH_CORE";
/// Tells the other process to sleep when it has nothing to do.
const SLEEPY: &str = "HOUSE_BENCH_SLEEPY";
/// An operation that is not answered: the other side ends.
const END: u64 = u64::MAX;
/// Records that a ring and a channel hold.
const SLOTS: usize = 4_096;
/// How often busy sides are measured; the best counts.
const LOTS: usize = 7;
/// How long both sides have been asleep before a message is sent.
const NAP: Duration = Duration::from_micros(200);
/// The other process is dead or stuck after this.
const PATIENCE: Duration = Duration::from_secs(10);

fn main() {
    if let Some(path) = std::env::var_os(REGION) {
        return control(Path::new(&path), std::env::var_os(SLEEPY).is_some());
    }
    if !is_wanted("ring") {
        return;
    }
    let scale = if is_measured() { 1 } else { 1_000 };
    let plan =
        Plan { rounds: 200_000 / scale, burst: 4_000_000 / scale as u64, naps: 3_000 / scale };
    let &[ours, theirs, ..] = &cores()[..] else {
        println!("ring: skipped, it needs two cores");
        return;
    };
    pin(ours);
    // In turn, so that what the machine does meanwhile comes over all of them.
    let (mut floors, mut rings, mut channels) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..LOTS {
        floors.push(two_words(&plan, theirs));
        rings.push(busy_processes(&plan, theirs));
        channels.push(busy_threads(&plan, theirs));
    }
    let floor = floors.iter().min().expect("a lot");
    println!("round trip/two words, two busy threads: p50 {floor:?} (of each lot: {floors:?})");
    print_busy("ring, two busy processes", &rings);
    print_busy("crossbeam, two busy threads", &channels);
    print_naps("ring, two sleeping processes", sleepy_processes(&plan, theirs));
    print_naps("crossbeam, two sleeping threads", sleepy_threads(&plan, theirs));
}

/// How much is measured.
struct Plan {
    rounds: usize,
    burst: u64,
    naps: usize,
}

/// What one lot of messages between two busy sides gave.
struct Busy {
    p50: Duration,
    p99: Duration,
    /// Messages a second.
    rate: f64,
}

impl Busy {
    fn measure(plan: &Plan, side: &mut impl Side) -> Busy {
        let mut times: Vec<Duration> = (0..plan.rounds)
            .map(|_| {
                let start = Instant::now();
                side.round();
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        let start = Instant::now();
        side.burst(plan.burst);
        let rate = plan.burst as f64 / start.elapsed().as_secs_f64();
        Busy { p50: percentile(&times, 50), p99: percentile(&times, 99), rate }
    }
}

/// One way to the other side.
trait Side {
    /// A question and its answer.
    fn round(&mut self);
    /// Many messages, and the answer to the last.
    fn burst(&mut self, count: u64);
}

impl Side for DataPlane {
    fn round(&mut self) {
        self.ask(|_| spin_loop());
    }

    fn burst(&mut self, count: u64) {
        for serial in 0..count {
            self.push_hard(&change(serial));
        }
        assert_eq!(self.ask(|_| spin_loop()), count as u32, "an event is lost");
    }
}

impl Side for Threads {
    fn round(&mut self) {
        self.ask(true);
    }

    fn burst(&mut self, count: u64) {
        for serial in 0..count {
            let mut event = change(serial);
            while let Err(refused) = self.events.try_send(event) {
                event = refused.into_inner();
                spin_loop();
            }
        }
        self.ask(true);
    }
}

/// The p50 of a round trip of one word each way, and nothing else.
fn two_words(plan: &Plan, core: usize) -> Duration {
    let words = [Word::default(), Word::default()];
    let rounds = plan.rounds as u64;
    thread::scope(|scope| {
        scope.spawn(|| {
            pin(core);
            for round in 1..=rounds {
                words[0].wait(round);
                words[1].0.store(round, Ordering::Release);
            }
        });
        let mut times: Vec<Duration> = (1..=rounds)
            .map(|round| {
                let start = Instant::now();
                words[0].0.store(round, Ordering::Release);
                words[1].wait(round);
                start.elapsed()
            })
            .collect();
        times.sort_unstable();
        percentile(&times, 50)
    })
}

/// A word on its own pair of cache lines.
#[repr(align(128))]
#[derive(Default)]
struct Word(AtomicU64);

impl Word {
    fn wait(&self, value: u64) {
        while self.0.load(Ordering::Acquire) != value {
            spin_loop();
        }
    }
}

fn busy_processes(plan: &Plan, core: usize) -> Busy {
    let mut plane = DataPlane::start(core, false);
    let busy = Busy::measure(plan, &mut plane);
    plane.end();
    busy
}

fn busy_threads(plan: &Plan, core: usize) -> Busy {
    let mut peer = Threads::start(core, false);
    let busy = Busy::measure(plan, &mut peer);
    peer.end();
    busy
}

fn sleepy_processes(plan: &Plan, core: usize) -> Vec<Duration> {
    let mut plane = DataPlane::start(core, true);
    let nap = |_| {
        wait_until(|| plane.region.header().control_bell().is_asleep());
        thread::sleep(NAP);
        let start = Instant::now();
        plane.ask(DataPlane::sleep);
        start.elapsed()
    };
    let times = (0..plan.naps).map(nap).collect();
    plane.end();
    times
}

fn sleepy_threads(plan: &Plan, core: usize) -> Vec<Duration> {
    let mut peer = Threads::start(core, true);
    let nap = |_| {
        thread::sleep(NAP);
        let start = Instant::now();
        peer.ask(false);
        start.elapsed()
    };
    let times = (0..plan.naps).map(nap).collect();
    peer.end();
    times
}

fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    sorted[sorted.len() * percent / 100]
}

fn print_busy(name: &str, lots: &[Busy]) {
    let best = lots.iter().min_by_key(|lot| lot.p50).expect("a lot");
    let p50s: Vec<u128> = lots.iter().map(|lot| lot.p50.as_nanos()).collect();
    let (p50, p99) = (best.p50, best.p99);
    println!("round trip/{name}: p50 {p50:?}, p99 {p99:?} (p50 of each lot, ns: {p50s:?})");
    let mut rates: Vec<f64> = lots.iter().map(|lot| lot.rate / 1e6).collect();
    rates.sort_by(f64::total_cmp);
    let (median, best) = (rates[rates.len() / 2], rates[rates.len() - 1]);
    println!("throughput/{name}: best {best:.1} M msg/s, median {median:.1} M msg/s");
}

fn print_naps(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let (p50, p99) = (percentile(&times, 50), percentile(&times, 99));
    println!("round trip/{name}: p50 {p50:?}, p99 {p99:?}");
}

fn change(serial: u64) -> Event {
    let call = CallRef { slot: serial as u32 & 0x3ff, generation: 1 };
    Event::CallChanged { call, serial, state: CallState::Ringing, cause: 0 }
}

/// Waits for what only the other side can bring about.
fn wait_until(mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "the other process does nothing");
        spin_loop();
    }
}

/// Our end: a worker's.
struct DataPlane {
    region: Arc<Region>,
    events: EventSender,
    commands: CommandReceiver,
    blob: Vec<u8>,
    bell: OwnedFd,
    control_bell: OwnedFd,
    control: Child,
    asked: u64,
    _folder: tempfile::TempDir,
}

impl DataPlane {
    /// Makes a region and a control process on the other core.
    fn start(core: usize, sleepy: bool) -> DataPlane {
        let mut layout = layout(16);
        layout.ring_slots = SLOTS as u32;
        let (folder, path, region) = shared_region(layout);
        let doorbell = || eventfd(0, EventfdFlags::CLOEXEC).expect("an eventfd");
        let (bell, control_bell) = (doorbell(), doorbell());
        let copy = |fd: &OwnedFd| Stdio::from(fd.try_clone().expect("a descriptor"));
        let this = std::env::current_exe().expect("our own file");
        let mut process = Process::new(this);
        process
            .env(REGION, &path)
            .env(CORE, core.to_string())
            .stdin(copy(&control_bell))
            .stdout(copy(&bell));
        if sleepy {
            process.env(SLEEPY, "1");
        }
        let mut plane = DataPlane {
            events: region.event_sender(WORKER),
            commands: region.command_receiver(WORKER),
            region,
            blob: Vec::new(),
            bell,
            control_bell,
            control: process.spawn().expect("a second process"),
            asked: 0,
            _folder: folder,
        };
        plane.ask(|_| thread::yield_now());
        plane
    }

    fn push(&mut self, event: &Event) -> bool {
        match self.events.push(event, &[], Class::Call) {
            Ok(Wake::Needed) => {
                rustix::io::write(&self.control_bell, &1u64.to_ne_bytes()).expect("an eventfd");
                true
            }
            Ok(Wake::NotNeeded) => true,
            Err(abi::Full) => false,
        }
    }

    #[inline]
    fn push_hard(&mut self, event: &Event) {
        while !self.push(event) {
            spin_loop();
        }
    }

    /// Sends a question and waits for its answer, which says how many events came between the last
    /// question and this one; `idle` is done when there is none yet.
    #[inline]
    fn ask(&mut self, idle: impl Fn(&mut Self)) -> u32 {
        self.asked += 1;
        self.push_hard(&Event::Done { op: self.asked, result: OpResult::Ok });
        let mut looks = 0u32;
        loop {
            match self.commands.pop(&mut self.blob) {
                Some(Ok(command)) => {
                    let Command::Release { op, call, .. } = command else {
                        panic!("not an answer: {command:?}");
                    };
                    assert_eq!(op, self.asked);
                    return call.slot;
                }
                Some(Err(corrupt)) => panic!("{corrupt}"),
                None => idle(self),
            }
            looks = looks.wrapping_add(1);
            if looks.is_multiple_of(1 << 24) {
                let state = self.control.try_wait().expect("our child");
                assert!(state.is_none(), "the other process ended: {state:?}");
            }
        }
    }

    fn sleep(&mut self) {
        let header = self.region.header();
        let bell = header.worker_bell(WORKER).expect("a worker");
        bell.sleep();
        if self.commands.is_empty() {
            hear(&self.bell);
        }
        bell.awake();
    }

    fn end(mut self) {
        self.push_hard(&Event::Done { op: END, result: OpResult::Ok });
        assert!(self.control.wait().expect("our child").success());
    }
}

/// Blocks until the doorbell has been rung.
fn hear(bell: impl AsFd) {
    let mut count = [0; 8];
    rustix::io::read(bell, &mut count).expect("an eventfd");
}

/// The other process: answers what is asked and swallows the rest.
fn control(path: &Path, sleepy: bool) {
    let core = std::env::var(CORE).expect("a core");
    pin(core.parse().expect("a number"));
    let region = Region::open(path).expect("the region");
    let mut events = region.event_receiver(WORKER);
    let mut commands = region.command_sender(WORKER);
    let mut blob = Vec::new();
    let mut swallowed = 0;
    loop {
        let Some(event) = events.pop(&mut blob) else {
            if sleepy {
                sleep_control(&region, &events);
            } else {
                spin_loop();
            }
            continue;
        };
        match event.expect("a sane event").value {
            Event::Done { op: END, .. } => return,
            Event::Done { op, .. } => answer(&mut commands, op, std::mem::take(&mut swallowed)),
            other => {
                black_box(&other);
                swallowed += 1;
            }
        }
    }
}

fn answer(commands: &mut CommandSender, op: u64, events: u32) {
    let call = CallRef { slot: events, generation: 1 };
    match commands.push(&Command::Release { op, call, cause: 0 }, &[]) {
        Ok(Wake::Needed) => {
            rustix::io::write(stdout(), &1u64.to_ne_bytes()).expect("an eventfd");
        }
        Ok(Wake::NotNeeded) => {}
        Err(abi::Full) => panic!("one answer is under way at a time"),
    }
}

fn sleep_control(region: &Arc<Region>, events: &EventReceiver) {
    let bell = region.header().control_bell();
    bell.sleep();
    if events.is_empty() {
        hear(stdin());
    }
    bell.awake();
}

/// The same between two threads with a channel each way.
struct Threads {
    events: Sender<Event>,
    answers: Receiver<Command>,
    other: thread::JoinHandle<()>,
    asked: u64,
}

impl Threads {
    fn start(core: usize, sleepy: bool) -> Threads {
        let (events, inbox) = bounded::<Event>(SLOTS);
        let (outbox, answers) = bounded::<Command>(SLOTS);
        let other = thread::spawn(move || {
            pin(core);
            loop {
                let event = match sleepy {
                    true => inbox.recv().expect("a sender"),
                    false => match inbox.try_recv() {
                        Ok(event) => event,
                        Err(_) => {
                            spin_loop();
                            continue;
                        }
                    },
                };
                match event {
                    Event::Done { op: END, .. } => return,
                    Event::Done { op, .. } => {
                        let call = CallRef { slot: 0, generation: 1 };
                        outbox.send(Command::Release { op, call, cause: 0 }).expect("a receiver");
                    }
                    other => {
                        black_box(&other);
                    }
                }
            }
        });
        let mut threads = Threads { events, answers, other, asked: 0 };
        threads.ask(false);
        threads
    }

    #[inline]
    fn ask(&mut self, busy: bool) {
        self.asked += 1;
        self.events.send(Event::Done { op: self.asked, result: OpResult::Ok }).expect("a thread");
        let answer = loop {
            match self.answers.try_recv() {
                Ok(answer) => break answer,
                Err(_) if busy => spin_loop(),
                Err(_) => break self.answers.recv().expect("a thread"),
            }
        };
        assert!(matches!(answer, Command::Release { op, .. } if op == self.asked));
    }

    fn end(self) {
        self.events.send(Event::Done { op: END, result: OpResult::Ok }).expect("a thread");
        self.other.join().expect("a thread that ended well");
    }
}

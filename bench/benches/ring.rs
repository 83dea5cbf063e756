//! The rings of a region between two processes on two cores, beside crossbeam's bounded channels
//! between two threads on the same cores.
//!
//! * busy: both look at their rings all the time; an event goes up and a command comes back.
//! * asleep: both block on an eventfd until the other rings, by the protocol of [`abi::Bell`].
//! * throughput: events of a call's changes go one way, from the first push to the answer to the last.
//!
//! This process is the data plane. The other, started from the same file, is control: its standard
//! input is its own doorbell and its standard output is ours.

use std::hint::{black_box, spin_loop};
use std::io::{stdin, stdout};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command as Process, Stdio};
use std::sync::Arc;
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
    let plan = Plan {
        rounds: 1_000_000 / scale,
        sleepy_rounds: 3_000 / scale,
        burst: 4_000_000 / scale as u64,
        bursts: 7,
    };
    let &[ours, theirs, ..] = &cores()[..] else {
        println!("ring: skipped, it needs two cores");
        return;
    };
    pin(ours);
    processes(&plan, theirs);
    threads(&plan, theirs);
}

/// How much is measured.
struct Plan {
    rounds: usize,
    sleepy_rounds: usize,
    burst: u64,
    bursts: usize,
}

fn processes(plan: &Plan, core: usize) {
    let mut plane = DataPlane::start(core, false);
    round_trips("ring, two busy processes", plan.rounds, || {
        plane.ask(|_| spin_loop());
    });
    bursts("ring, two processes", plan, |count| {
        for serial in 0..count {
            plane.push_hard(&change(serial));
        }
        assert_eq!(plane.ask(|_| spin_loop()), count as u32, "an event is lost");
    });
    plane.end();
    let mut plane = DataPlane::start(core, true);
    let all = plan.sleepy_rounds;
    naps("ring, two sleeping processes", all, || {
        let region = Arc::clone(&plane.region);
        wait_until(|| region.header().control_bell().is_asleep());
        thread::sleep(NAP);
        let start = Instant::now();
        plane.ask(DataPlane::sleep);
        start.elapsed()
    });
    plane.end();
}

fn threads(plan: &Plan, core: usize) {
    let mut peer = Threads::start(core, false);
    round_trips("crossbeam, two busy threads", plan.rounds, || peer.ask(true));
    bursts("crossbeam, two threads", plan, |count| {
        for serial in 0..count {
            let mut event = change(serial);
            while let Err(refused) = peer.events.try_send(event) {
                event = refused.into_inner();
                spin_loop();
            }
        }
        peer.ask(true);
    });
    peer.end();
    let mut peer = Threads::start(core, true);
    naps("crossbeam, two sleeping threads", plan.sleepy_rounds, || {
        thread::sleep(NAP);
        let start = Instant::now();
        peer.ask(false);
        start.elapsed()
    });
    peer.end();
}

fn round_trips(name: &str, rounds: usize, mut round: impl FnMut()) {
    for _ in 0..rounds / 10 {
        round();
    }
    let times = (0..rounds).map(|_| {
        let start = Instant::now();
        round();
        start.elapsed()
    });
    print_percentiles(name, times.collect());
}

fn naps(name: &str, rounds: usize, mut round: impl FnMut() -> Duration) {
    round();
    print_percentiles(name, (0..rounds).map(|_| round()).collect());
}

fn print_percentiles(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() * percent / 100).min(times.len() - 1)];
    println!(
        "round trip/{name}: p50 {:?}, p99 {:?}, best {:?}, of {}",
        at(50),
        at(99),
        times[0],
        times.len()
    );
}

fn bursts(name: &str, plan: &Plan, mut burst: impl FnMut(u64)) {
    let mut rates: Vec<f64> = (0..plan.bursts)
        .map(|_| {
            let start = Instant::now();
            burst(plan.burst);
            plan.burst as f64 / start.elapsed().as_secs_f64() / 1e6
        })
        .collect();
    rates.sort_by(f64::total_cmp);
    let (median, best) = (rates[rates.len() / 2], rates[rates.len() - 1]);
    println!(
        "throughput/{name}: median {median:.1} M msg/s, best {best:.1} M msg/s, of {} x {}",
        plan.bursts, plan.burst
    );
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

//! How even this machine is: streams that nothing of ours has to do with. What others do to it, builds or other
//! machines on the same hardware, is not held against what is tested.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::thread::{CpuSet, sched_setaffinity};

use crate::lab::Host;

/// A packet of RTP each.
const FRAME: Duration = Duration::from_millis(20);

/// A stream from one host by another one and back. Two pass it on there, each on one core, as the workers of two data
/// planes do.
pub struct Stream {
    over: Arc<AtomicBool>,
    intervals: Arc<Mutex<Vec<Duration>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Stream {
    /// Both ends are addresses of their hosts, this machine's own without one.
    pub fn start(
        ends: (Option<&Host>, IpAddr),
        by: (Option<&Host>, IpAddr),
        cores: [usize; 2],
    ) -> Stream {
        let bind = |(host, ip): (Option<&Host>, IpAddr)| {
            let make = move || UdpSocket::bind((ip, 0)).expect("a port");
            let socket = host.map_or_else(make, |host| host.enter(make));
            socket.set_read_timeout(Some(Duration::from_millis(100))).expect("set");
            socket
        };
        let (sender, first, second, receiver) = (bind(ends), bind(by), bind(by), bind(ends));
        let [to_first, to_second, home] =
            [&first, &second, &receiver].map(|it| it.local_addr().expect("bound"));
        let (over, intervals) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Vec<_>>>::default());
        let (is_sent, is_heard, heard) = (over.clone(), over.clone(), intervals.clone());
        let send = std::thread::spawn(move || {
            let mut due = Instant::now();
            while !is_sent.load(Ordering::Relaxed) {
                let _ = sender.send_to(&[0; 172], to_first);
                due += FRAME;
                std::thread::sleep(due.saturating_duration_since(Instant::now()));
            }
        });
        let ways = [(first, to_second, cores[0]), (second, home, cores[1])];
        let passes = ways.map(|(socket, to, core)| {
            let over = over.clone();
            std::thread::spawn(move || pass(&socket, to, core, &over))
        });
        let receive = std::thread::spawn(move || {
            let (mut buffer, mut last) = ([0; 256], Instant::now());
            while !is_heard.load(Ordering::Relaxed) {
                if receiver.recv(&mut buffer).is_ok() {
                    let interval = last.elapsed();
                    heard.lock().unwrap_or_else(PoisonError::into_inner).push(interval);
                    last = Instant::now();
                }
            }
        });
        let threads = [send, receive].into_iter().chain(passes).collect();
        Stream { over, intervals, threads }
    }

    /// The same on this machine's loopback, on its first two cores.
    pub fn start_here() -> Stream {
        let ip = IpAddr::from([127, 0, 0, 1]);
        Stream::start((None, ip), (None, ip), [0, 1])
    }

    /// The intervals between packets since this was asked last.
    fn take(&self) -> Vec<Duration> {
        std::mem::take(&mut *self.intervals.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The longest gap since that.
    pub fn gap(&self) -> Duration {
        self.take().into_iter().max().unwrap_or_default()
    }

    /// By how much of a hundred intervals since that 99 missed their 20 ms at most.
    pub fn p99_off(&self) -> Duration {
        let mut off: Vec<_> = self.take().into_iter().map(|one| one.abs_diff(FRAME)).collect();
        off.sort_unstable();
        off.get(off.len() * 99 / 100).copied().unwrap_or_default()
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// Passes on what comes, on one core.
fn pass(socket: &UdpSocket, to: SocketAddr, core: usize, over: &AtomicBool) {
    let mut cores = CpuSet::new();
    cores.set(core);
    // Where there is no such core, any will do.
    let _ = sched_setaffinity(None, &cores);
    let mut buffer = [0; 256];
    while !over.load(Ordering::Relaxed) {
        if let Ok(len) = socket.recv(&mut buffer) {
            let _ = socket.send_to(&buffer[..len], to);
        }
    }
}

//! Streams of RTP packets at a chosen rate, a socket a stream, counted where they arrive.
//!
//! Who made the streams, SIP or another protocol, does not matter here: [`bind`] makes the
//! sockets, [`Blast::connect`] says where each one's peer is, and [`Blast::measure`] sends.

mod account;
mod lane;

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub use account::Counted;
use lane::{Lane, Turn};
pub use lane::{PACKET_BYTES, ssrc};
use rustix::process::Pid;

use super::watch::{self, Sample, Spent};

/// The first port tried: below those that the system gives out by itself.
const FIRST_PORT: u16 = 10_000;
/// How long the threads may take from an order to its start.
const LEAD: Duration = Duration::from_millis(20);

/// The sockets and the threads that send and receive.
pub struct Blast {
    sockets: Vec<Arc<UdpSocket>>,
    threads: Vec<Thread>,
    cores: Vec<usize>,
}

struct Thread {
    orders: mpsc::Sender<Turn>,
    counted: mpsc::Receiver<Counted>,
    handle: JoinHandle<()>,
}

/// What is measured at a time.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Packets a second, over all streams.
    pub rate: u32,
    /// Before anything counts.
    pub warm_up: Duration,
    /// While it counts.
    pub length: Duration,
    /// Whose CPU time is accounted.
    pub watch: Option<u32>,
}

/// Even ports at `first` and `second` in turn, two for each call, RTCP's next to each left free.
pub fn bind(calls: u32, first: IpAddr, second: IpAddr) -> Result<Vec<Arc<UdpSocket>>, String> {
    let mut ports = [FIRST_PORT, FIRST_PORT];
    let one = first == second;
    let mut sockets = Vec::new();
    for stream in 0..calls as usize * 2 {
        let (ip, side) = if stream % 2 == 0 { (first, 0) } else { (second, usize::from(!one)) };
        sockets.push(Arc::new(next_socket(ip, &mut ports[side])?));
    }
    Ok(sockets)
}

fn next_socket(ip: IpAddr, port: &mut u16) -> Result<UdpSocket, String> {
    loop {
        let at = SocketAddr::new(ip, *port);
        *port = port.checked_add(2).ok_or_else(|| format!("no port is left at {ip}"))?;
        match UdpSocket::bind(at) {
            Ok(socket) => {
                socket.set_nonblocking(true).map_err(|error| error.to_string())?;
                return Ok(socket);
            }
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(format!("{at}: {error}")),
        }
    }
}

impl Blast {
    /// Starts a thread for each of `cores`; one that is not pinned when there are none. Both sockets of
    /// a call, 2n and 2n + 1, have the same thread.
    pub fn start(
        sockets: Vec<Arc<UdpSocket>>,
        cores: &[usize],
        stamp: bool,
    ) -> Result<Blast, String> {
        let lanes = cores.len().max(1);
        let calls = sockets.len() / 2;
        let mut threads = Vec::new();
        for place in 0..lanes {
            let from = calls * place / lanes * 2;
            let to = calls * (place + 1) / lanes * 2;
            let lane = Lane::new(from as u32, &sockets[from..to], stamp)
                .map_err(|error| format!("the sockets: {error}"))?;
            threads.push(Thread::start(lane, cores.get(place).copied())?);
        }
        Ok(Blast { sockets, threads, cores: cores.to_vec() })
    }

    /// Where each stream's packets go; foreigners are not heard from then on.
    pub fn connect(&self, peers: &[SocketAddr]) -> Result<(), String> {
        if peers.len() != self.sockets.len() {
            return Err(format!("{} of {} streams stand", peers.len(), self.sockets.len()));
        }
        for (socket, peer) in self.sockets.iter().zip(peers) {
            socket.connect(peer).map_err(|error| format!("{peer}: {error}"))?;
        }
        Ok(())
    }

    /// Sends and counts; takes as long as `window` says and a little more, for what is still under way.
    pub fn measure(&self, window: &Window) -> Result<(Counted, Spent), String> {
        let begin = Instant::now() + LEAD;
        let first = begin + window.warm_up;
        let last = first + window.length;
        let rate = f64::from(window.rate) / self.threads.len() as f64;
        for thread in &self.threads {
            let turn = Turn { rate, begin, first, last };
            thread.orders.send(turn).map_err(|_| "a sending thread has ended".to_owned())?;
        }
        std::thread::sleep(first.saturating_duration_since(Instant::now()));
        let before = Sample::take(window.watch);
        std::thread::sleep(last.saturating_duration_since(Instant::now()));
        let spent = Sample::take(window.watch).since(&before, &self.cores);
        let is_there = window.watch.map_or(Ok(()), watch::check);
        let mut counted = Counted::default();
        for thread in &self.threads {
            let part = thread.counted.recv().map_err(|_| "a sending thread failed".to_owned())?;
            counted.merge(&part);
        }
        // What a process spent that ended meanwhile is in no file any more.
        is_there?;
        Ok((counted, spent))
    }

    /// Ends the threads.
    pub fn stop(self) {
        for Thread { orders, counted, handle } in self.threads {
            drop((orders, counted));
            let _ = handle.join();
        }
    }
}

impl Thread {
    fn start(mut lane: Lane, core: Option<usize>) -> Result<Thread, String> {
        let (orders, turns) = mpsc::channel::<Turn>();
        let (tell, counted) = mpsc::channel();
        let (pinned, outcome) = mpsc::channel();
        let handle = std::thread::Builder::new()
            .name("packets".into())
            .spawn(move || {
                let _ = pinned.send(core.map_or(Ok(()), pin));
                for turn in turns {
                    let result = lane.run(&turn);
                    if let Err(error) = &result {
                        tracing::error!("sending: {error}");
                    }
                    match result.map(|counted| tell.send(counted)) {
                        Ok(Ok(())) => {}
                        _ => return,
                    }
                }
            })
            .map_err(|error| error.to_string())?;
        match outcome.recv() {
            Ok(Ok(())) => Ok(Thread { orders, counted, handle }),
            Ok(Err(error)) => Err(format!("core {}: {error}", core.unwrap_or(0))),
            Err(_) => Err("a sending thread did not start".to_owned()),
        }
    }
}

fn pin(core: usize) -> io::Result<()> {
    pin_thread(None, core)
}

/// Keeps a thread, this one if none is named, on a core.
pub fn pin_thread(thread: Option<Pid>, core: usize) -> io::Result<()> {
    if core >= rustix::thread::CpuSet::MAX_CPU {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    Ok(rustix::thread::sched_setaffinity(thread, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Packets between sockets of one machine: each arrives once, at the other end of its call.
    #[test]
    fn what_is_sent_is_counted() {
        for stamp in [false, true] {
            let ip = IpAddr::from([127, 0, 0, 1]);
            let sockets = bind(20, ip, ip).unwrap();
            let at: Vec<SocketAddr> =
                sockets.iter().map(|socket| socket.local_addr().unwrap()).collect();
            assert!(at.iter().all(|at| at.port() % 2 == 0));
            let blast = Blast::start(sockets, &[], stamp).unwrap();
            let peers: Vec<SocketAddr> = (0..at.len()).map(|stream| at[stream ^ 1]).collect();
            blast.connect(&peers).unwrap();
            let window = Window {
                rate: 4_000,
                warm_up: Duration::from_millis(50),
                length: Duration::from_millis(250),
                watch: Some(std::process::id()),
            };
            for _ in 0..2 {
                let (counted, spent) = blast.measure(&window).unwrap();
                assert!((100..=1_100).contains(&counted.sent), "{counted:?}");
                assert_eq!(counted.received, counted.sent);
                assert_eq!((counted.duplicated, counted.stray, counted.lost()), (0, 0, 0));
                let delay = counted.delays.percentile(50.0);
                assert_eq!(delay.is_some_and(|p50| p50.as_millis() < 50), stamp, "{delay:?}");
                assert!(spent.watched_s > 0.0);
            }
            blast.stop();
        }
    }
}

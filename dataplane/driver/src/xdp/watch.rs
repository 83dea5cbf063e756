//! The thread that keeps next hops fresh and fetches telephone-events.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Shared;
use super::hops::Seen;
use super::netlink::Netlink;
use super::program::Events;
use crate::clock;
use crate::doorbell::Doorbell;

/// How often the kernel is told which neighbours are in use. It makes sure of a neighbour at most every
/// half a minute or so, and takes five seconds after this to begin with it (arp(7), `delay_first_probe_time`).
const REFRESH_MS: u64 = 3_000;
/// How often routes are asked for at most, however often they change.
const REROUTE_MS: u64 = 1_000;
const NANOS_PER_MS: u64 = 1_000_000;
/// Bytes of an event: the row's number and the begin of the RTP packet.
const EVENT_BYTES: usize = 20;

/// What the thread is rung by.
pub struct Bells {
    /// It is to end.
    pub stop: Arc<Doorbell>,
    /// There are next hops to ask for.
    pub wanted: Arc<Doorbell>,
}

/// Starts the thread.
pub fn start(
    shared: Arc<Shared>,
    changes: Netlink,
    events: Events,
    bells: Bells,
) -> io::Result<JoinHandle<()>> {
    let netlink = Netlink::open()?;
    let mut watch =
        Watch { shared, changes, netlink, events, bells, lost: false, refresh: 0, reroute: None };
    thread::Builder::new().name("xdp".into()).spawn(move || watch.run())
}

struct Watch {
    shared: Arc<Shared>,
    changes: Netlink,
    /// For questions, which may take long: never while `shared` is locked.
    netlink: Netlink,
    events: Events,
    bells: Bells,
    /// Changes were lost, and the kernel was not asked for everything since.
    lost: bool,
    /// When to refresh, in nanoseconds of the clock.
    refresh: u64,
    /// When to ask for routes, if they changed.
    reroute: Option<u64>,
}

impl Watch {
    fn run(&mut self) {
        loop {
            if self.wait() {
                return;
            }
            while let Some(event) = self.events.next() {
                if let Some((row, rtp)) = read(&event) {
                    self.shared.telephone_event(row, rtp);
                }
            }
            let now = clock::now().as_nanos();
            if let Err(error) = self.follow(now) {
                tracing::error!(%error, "xdp: next hops are not watched any more");
                return;
            }
            if self.reroute.is_some_and(|due| due <= now) {
                self.reroute = None;
                self.shared.reroute(&mut self.netlink);
            }
            self.ask(now);
        }
    }

    /// Takes in what changed in the kernel.
    fn follow(&mut self, now: u64) -> io::Result<()> {
        let mut changes = Vec::new();
        self.lost |= self.changes.changes(|change| changes.push(change))?;
        let seen = if self.lost { Seen::read(&mut self.netlink).ok() } else { None };
        self.lost &= seen.is_none();
        let is_change = !changes.is_empty() || seen.is_some();
        if is_change && self.shared.change(changes, seen) {
            self.reroute.get_or_insert(now + REROUTE_MS * NANOS_PER_MS);
        }
        Ok(())
    }

    /// Has the kernel look for the next hops that are wanted, and now and then make sure of those in use.
    /// Its answers come as changes.
    fn ask(&mut self, now: u64) {
        let is_rung = rustix::io::read(&self.bells.wanted, &mut [0; 8]).is_ok();
        let is_due = self.refresh <= now;
        if is_due {
            self.refresh = now + REFRESH_MS * NANOS_PER_MS;
        }
        if is_rung || is_due {
            for route in self.shared.next_hops(is_due) {
                let _ = self.netlink.use_neighbour(route);
            }
        }
    }

    /// Waits for something to do; true to stop.
    fn wait(&self) -> bool {
        let due = self.reroute.map_or(self.refresh, |reroute| reroute.min(self.refresh));
        let nanos = due.saturating_sub(clock::now().as_nanos());
        let timeout = Timespec {
            tv_sec: (nanos / 1_000_000_000).cast_signed(),
            tv_nsec: (nanos % 1_000_000_000).cast_signed(),
        };
        let mut fds = [
            PollFd::new(&self.bells.stop, PollFlags::IN),
            PollFd::new(&self.bells.wanted, PollFlags::IN),
            PollFd::from_borrowed_fd(self.changes.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(self.events.as_fd(), PollFlags::IN),
        ];
        let _ = poll(&mut fds, Some(&timeout));
        fds[0].revents().contains(PollFlags::IN)
    }
}

fn read(event: &[u8]) -> Option<(u32, [u8; 16])> {
    let event: &[u8; EVENT_BYTES] = event.first_chunk()?;
    let (row, rtp) = event.split_first_chunk::<4>()?;
    Some((u32::from_ne_bytes(*row), rtp.try_into().ok()?))
}

//! The thread that keeps next hops fresh and fetches telephone-events.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Shared;
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

/// Starts the thread; it ends when `stop` is rung.
pub fn start(
    shared: Arc<Shared>,
    changes: Netlink,
    events: Events,
    stop: Arc<Doorbell>,
) -> io::Result<JoinHandle<()>> {
    let mut watch = Watch { shared, changes, events, refresh: 0, reroute: None };
    thread::Builder::new().name("xdp".into()).spawn(move || watch.run(&stop))
}

struct Watch {
    shared: Arc<Shared>,
    changes: Netlink,
    events: Events,
    /// When to refresh, in nanoseconds of the clock.
    refresh: u64,
    /// When to ask for routes, if they changed.
    reroute: Option<u64>,
}

impl Watch {
    fn run(&mut self, stop: &Doorbell) {
        loop {
            if self.wait(stop) {
                return;
            }
            while let Some(event) = self.events.next() {
                if let Some((row, rtp)) = read(&event) {
                    self.shared.telephone_event(row, rtp);
                }
            }
            let now = clock::now().as_nanos();
            let mut changes = Vec::new();
            if let Err(error) = self.changes.changes(|change| changes.push(change)) {
                tracing::error!(%error, "xdp: next hops are not watched any more");
                return;
            }
            if !changes.is_empty() && self.shared.change(changes) {
                self.reroute.get_or_insert(now + REROUTE_MS * NANOS_PER_MS);
            }
            if self.reroute.is_some_and(|due| due <= now) {
                self.reroute = None;
                self.shared.reroute();
            }
            if self.refresh <= now {
                self.refresh = now + REFRESH_MS * NANOS_PER_MS;
                self.shared.refresh();
            }
        }
    }

    /// Waits for something to do; true to stop.
    fn wait(&self, stop: &Doorbell) -> bool {
        let due = self.reroute.map_or(self.refresh, |reroute| reroute.min(self.refresh));
        let nanos = due.saturating_sub(clock::now().as_nanos());
        let timeout = Timespec {
            tv_sec: (nanos / 1_000_000_000).cast_signed(),
            tv_nsec: (nanos % 1_000_000_000).cast_signed(),
        };
        let mut fds = [
            PollFd::new(stop, PollFlags::IN),
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

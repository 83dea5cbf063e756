//! What waits for the workers of one process, and what all of them share.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use abi::{Outage, Region, Wake};
use base::{Channel, LocationId, WorkerId};
use crossbeam::queue::ArrayQueue;
use crossbeam::utils::CachePadded;
use worker::Passed;

use crate::doorbell::Doorbell;

/// Datagrams that wait for one worker: what a burst of 4,000 messages on the wrong worker's socket
/// brings. A full lane drops, and SIP sends again.
const LANE_DATAGRAMS: usize = 4_096;

/// What one thread gives a worker.
#[derive(Debug)]
pub enum Parcel {
    /// From another worker.
    Passed(Passed),
    /// A SIP message came by a connection.
    Arrived {
        /// At whose address.
        location: LocationId,
        /// From whom.
        from: SocketAddr,
        /// By what.
        channel: Channel,
        /// One, whole.
        message: Box<[u8]>,
    },
    /// A SIP message could not be sent.
    Unsent {
        /// From whose address.
        location: LocationId,
        /// To whom.
        to: SocketAddr,
        /// By what.
        channel: Channel,
        /// Why not.
        outage: Outage,
        /// Which.
        message: Box<[u8]>,
    },
    /// A connection that the worker watched is closed.
    Disconnected {
        /// Its number.
        connection: u32,
    },
}

/// A lane to each worker, its doorbell, and the state of the link to control.
pub struct Mesh {
    lanes: Vec<CachePadded<ArrayQueue<Parcel>>>,
    bells: Vec<Doorbell>,
    control_bell: Doorbell,
    link: AtomicU64,
    stop: AtomicBool,
}

impl Mesh {
    /// Lanes and doorbells for so many workers.
    pub fn new(workers: usize) -> std::io::Result<Self> {
        Ok(Mesh {
            lanes: (0..workers).map(|_| ArrayQueue::new(LANE_DATAGRAMS).into()).collect(),
            bells: (0..workers).map(|_| Doorbell::new()).collect::<Result<_, _>>()?,
            control_bell: Doorbell::new()?,
            link: AtomicU64::new(0),
            stop: AtomicBool::new(false),
        })
    }

    /// Gives a worker something, and wakes it if it sleeps. What finds its lane full comes back.
    pub fn pass(&self, region: &Region, to: WorkerId, parcel: Parcel) -> Result<(), Parcel> {
        match self.lanes.get(usize::from(to.0)) {
            Some(lane) => lane.push(parcel)?,
            None => return Err(parcel),
        }
        self.wake(region, to);
        Ok(())
    }

    /// Wakes a worker if it sleeps: there is something for it to look at.
    pub fn wake(&self, region: &Region, to: WorkerId) {
        if let Some(bell) = region.header().worker_bell(to)
            && bell.wake() == Wake::Needed
        {
            self.bells[usize::from(to.0)].ring();
        }
    }

    /// What waits longest for `worker`.
    pub fn take(&self, worker: WorkerId) -> Option<Parcel> {
        self.lanes[usize::from(worker.0)].pop()
    }

    /// True when nothing waits for `worker`.
    pub fn is_empty(&self, worker: WorkerId) -> bool {
        self.lanes[usize::from(worker.0)].is_empty()
    }

    /// The doorbell of `worker`; control and the other workers ring it.
    pub fn bell(&self, worker: WorkerId) -> &Doorbell {
        &self.bells[usize::from(worker.0)]
    }

    /// The workers' doorbells in order.
    pub fn bells(&self) -> &[Doorbell] {
        &self.bells
    }

    /// Control's doorbell.
    pub fn control_bell(&self) -> &Doorbell {
        &self.control_bell
    }

    /// Tells all workers that a control process attached, or that it is gone.
    pub fn set_link(&self, link: Link) {
        self.link.store(link.0, Ordering::Release);
        self.ring_all();
    }

    /// The link to control as it now is.
    pub fn link(&self) -> Link {
        Link(self.link.load(Ordering::Acquire))
    }

    /// Tells all workers to stop.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Release);
        self.ring_all();
    }

    /// True when the workers are to stop.
    pub fn is_stopping(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    fn ring_all(&self) {
        for bell in &self.bells {
            bell.ring();
        }
    }
}

/// Whether control is attached, and how often that changed: a worker that missed both a loss and a new
/// attachment still tells them apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Link(u64);

impl Link {
    /// True when control is attached.
    pub fn is_attached(self) -> bool {
        self.0 & 1 == 1
    }

    /// The state that follows this one when control is `attached`.
    pub fn next(self, attached: bool) -> Link {
        Link(((self.0 >> 1) + 1) << 1 | u64::from(attached))
    }
}

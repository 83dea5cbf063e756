//! Which connections there are, who wants to hear of them, and what goes where.

use std::cell::{Cell, RefCell};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use abi::{Counter, Outage, Region, TrunkRow};
use base::{Channel, LocationId, Transport, WorkerId, owner};
use sip::wire;
use tokio::sync::{Notify, mpsc};

use super::tls::{Call, Connectors, Tls};
use super::{Letter, TlsSettings, connection};
use crate::DriverError;
use crate::mesh::{Mesh, Parcel};

/// Messages that wait for one peer; a peer that leaves more unread is cut off.
const LETTERS: usize = 128;
/// How long a message waits before a full lane is looked at again, in milliseconds.
const LANE_WAIT_MS: u64 = 2;
/// How long a trunk that is known by its certificate stays one without another look.
const PROOF_AGE: Duration = Duration::from_millis(100);
/// Bytes of one read; all connections read into the same.
const READ_BYTES: usize = 16_384;

/// Everything that the thread has.
pub(super) struct Hub {
    region: Arc<Region>,
    mesh: Arc<Mesh>,
    workers: u8,
    pub places: Vec<Place>,
    pub connectors: Connectors,
    pub limits: Limits,
    table: RefCell<Table>,
    pub scratch: RefCell<Box<[u8]>>,
    late: RefCell<VecDeque<(WorkerId, Parcel)>>,
    is_late: Notify,
}

/// A location as connections see it.
pub(super) struct Place {
    pub location: worker::Location,
    pub settings: TlsSettings,
    pub tls: RefCell<Tls>,
}

impl Place {
    /// Reads the certificates of a location.
    pub fn new(
        location: worker::Location,
        settings: TlsSettings,
        folder: Option<&Path>,
    ) -> Result<Place, DriverError> {
        let tls = Tls::load(&settings, folder).map_err(|source| DriverError::Io {
            what: format!("TLS of location {}", location.name),
            source,
        })?;
        Ok(Place { location, settings, tls: RefCell::new(tls) })
    }
}

/// Whom a connection leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Peer {
    pub location: LocationId,
    pub transport: Transport,
    pub address: SocketAddr,
}

/// What the hub and the task of a connection share.
pub(super) struct Line {
    pub number: u32,
    pub peer: Peer,
    /// A worker knows who is there, or we called them.
    pub is_known: Cell<bool>,
    /// The peer leaves too much unread.
    pub is_slow: Notify,
    /// Whether anything has come from the peer.
    pub is_heard: Cell<bool>,
    /// The SIP domains that its certificate has proved.
    domains: RefCell<Vec<String>>,
    /// The trunk that they make it, and when that was looked up.
    proof: Cell<(u64, Option<Instant>)>,
}

/// What is written to a peer.
pub(super) enum Post {
    Letter(Letter),
    Pong,
}

struct Record {
    line: Rc<Line>,
    posts: mpsc::Sender<Post>,
    /// The workers that are to hear of its end, a bit each.
    watchers: u128,
}

struct Table {
    by_number: HashMap<u32, Record>,
    /// The latest connection to each peer.
    by_peer: HashMap<Peer, u32>,
    /// How many a source has opened.
    by_source: HashMap<IpAddr, u32>,
    by_transport: [u64; Transport::ALL.len()],
    next: u32,
}

/// Bounds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at a time.
    pub all: usize,
    /// Of one address.
    pub per_source: u32,
    /// How long a whole message may take, and who is not known may send none.
    pub whole: Duration,
}

/// The task's hold on its connection; when it is dropped, the connection is over.
pub(super) struct Visit {
    pub hub: Rc<Hub>,
    pub line: Rc<Line>,
    pub posts: mpsc::Receiver<Post>,
    /// What is being written.
    pub in_hand: Option<Letter>,
    /// What was written to a peer of whom nothing was heard, where its silence may be a refusal.
    pub unheard: Vec<Letter>,
    /// Why the connection ended, or was not made.
    pub outage: Outage,
    /// The peer came; else we called it.
    pub is_guest: bool,
}

impl Hub {
    /// No connection yet; the first gets a number near `first`.
    pub fn new(
        region: Arc<Region>,
        mesh: Arc<Mesh>,
        workers: u8,
        (places, connectors): (Vec<Place>, Connectors),
        first: u32,
        limits: Limits,
    ) -> Hub {
        let table = Table {
            by_number: HashMap::new(),
            by_peer: HashMap::new(),
            by_source: HashMap::new(),
            by_transport: [0; _],
            next: first,
        };
        let hub = Hub {
            region,
            mesh,
            workers,
            places,
            connectors,
            limits,
            table: RefCell::new(table),
            scratch: RefCell::new(vec![0; READ_BYTES].into()),
            late: RefCell::default(),
            is_late: Notify::new(),
        };
        // The gauges may be those of an earlier process.
        hub.publish(&hub.table.borrow());
        hub
    }

    /// Takes a peer's connection (a guest), or notes one that is made. None when there are too many.
    pub fn enter(hub: &Rc<Hub>, peer: Peer, is_guest: bool) -> Option<Visit> {
        let mut table = hub.table.borrow_mut();
        if table.by_number.len() >= hub.limits.all {
            return None;
        }
        if is_guest {
            let count = table.by_source.entry(peer.address.ip()).or_default();
            if *count >= hub.limits.per_source {
                return None;
            }
            *count += 1;
        }
        let number = table.free_number();
        let is_known = Cell::new(!is_guest);
        let line = Rc::new(Line {
            number,
            peer,
            is_known,
            is_slow: Notify::new(),
            is_heard: Cell::new(false),
            domains: RefCell::default(),
            proof: Cell::new((0, None)),
        });
        let (sender, posts) = mpsc::channel(LETTERS);
        let record = Record { line: Rc::clone(&line), posts: sender, watchers: 0 };
        table.by_number.insert(number, record);
        // Whom we call by TLS is verified; who comes is not, and gets nothing that is for somebody at that address.
        if !(is_guest && peer.transport.is_secure()) {
            table.by_peer.insert(peer, number);
        }
        table.by_transport[peer.transport as usize] += 1;
        hub.publish(&table);
        drop(table);
        Some(Visit {
            hub: Rc::clone(hub),
            line,
            posts,
            in_hand: None,
            unheard: Vec::new(),
            outage: Outage::Unreachable,
            is_guest,
        })
    }

    /// Sends a worker's message by its connection; where it names none, by one to the same peer, or a new one.
    pub fn send(hub: &Rc<Hub>, letter: Letter) {
        let Letter { location, to, channel: Channel { transport, connection, .. }, .. } = letter;
        let peer = Peer { location, transport, address: to };
        let posted = {
            let table = hub.table.borrow();
            let number = match connection {
                0 => table.by_peer.get(&peer).copied(),
                number => Some(number),
            };
            match number.and_then(|number| table.by_number.get(&number)) {
                Some(record) => record.post(letter),
                None => Err(letter),
            }
        };
        match posted {
            Ok(()) => {}
            Err(letter) if connection == 0 && is_dialled(transport) => {
                connection::connect(hub, peer, letter);
            }
            Err(letter) => hub.unsent(letter, Outage::Unreachable),
        }
    }

    /// A worker knows who is behind a connection, and is to hear of its end.
    pub fn watch(&self, worker: WorkerId, connection: u32) {
        match self.table.borrow_mut().by_number.get_mut(&connection) {
            Some(record) => {
                record.line.is_known.set(true);
                record.watchers |= 1 << worker.0;
            }
            None => self.tell(worker, Parcel::Disconnected { connection }),
        }
    }

    /// Passes a message to the worker whom its Call-ID names; waits while that one's lane is full.
    pub async fn deliver(&self, line: &Line, message: Box<[u8]>) {
        let call_id = wire::lex(&message).ok().and_then(|message| message.call_id().ok());
        let worker = call_id.map_or(WorkerId(0), |call_id| owner(call_id, self.workers));
        let Peer { location, transport, address: from } = line.peer;
        let channel = Channel { transport, connection: line.number, proof: self.proof(line) };
        let mut parcel = Parcel::Arrived { location, from, channel, message };
        while let Err(back) = self.mesh.pass(&self.region, worker, parcel) {
            parcel = back;
            tokio::time::sleep(Duration::from_millis(LANE_WAIT_MS)).await;
        }
    }

    /// A message cannot be sent; its worker is told.
    pub fn unsent(&self, letter: Letter, outage: Outage) {
        let Letter { worker, location, to, channel, message } = letter;
        self.tell(worker, Parcel::Unsent { location, to, channel, outage, message });
    }

    /// How a trunk is called by TLS.
    pub fn secure_call(&self, peer: Peer, proof: u64) -> std::io::Result<Call> {
        let place = &self.places[usize::from(peer.location.0)];
        self.connectors.call(&self.region, place, peer.address, proof)
    }

    /// The peer's certificate has proved these SIP domains.
    pub fn prove(&self, line: &Line, domains: Vec<String>) {
        line.domains.replace(domains);
        if self.proof(line) != 0 {
            // It may be silent between calls.
            line.is_known.set(true);
            self.count(Counter::TrunksProved);
        }
    }

    /// The trunk that a peer has proved to be; control may have changed its mind since.
    fn proof(&self, line: &Line) -> u64 {
        let domains = line.domains.borrow();
        if domains.is_empty() {
            return 0;
        }
        let (found, at) = line.proof.get();
        if at.is_some_and(|at| at.elapsed() < PROOF_AGE) {
            return found;
        }
        let mut trunks = self.region.trunks().iter().map(|(_, row)| row);
        let is_it = |row: &TrunkRow| {
            let domain = row.domain();
            let domain = domain.as_str().trim_end_matches('.');
            row.is_by_certificate() && domains.iter().any(|it| it.eq_ignore_ascii_case(domain))
        };
        let found = trunks.find(is_it).map_or(0, |row| row.proof());
        line.proof.set((found, Some(Instant::now())));
        found
    }

    /// Answers a keep-alive, unless the peer takes nothing.
    pub fn pong(&self, line: &Line) {
        self.count(Counter::Pongs);
        if let Some(record) = self.table.borrow().by_number.get(&line.number) {
            let _ = record.posts.try_send(Post::Pong);
        }
    }

    /// Counts one.
    pub fn count(&self, counter: Counter) {
        self.region.counters().add_streams(counter, 1);
    }

    /// Tells a worker; later when its lane is full.
    fn tell(&self, worker: WorkerId, parcel: Parcel) {
        if let Err(parcel) = self.mesh.pass(&self.region, worker, parcel) {
            self.late.borrow_mut().push_back((worker, parcel));
            self.is_late.notify_one();
        }
    }

    fn publish(&self, table: &Table) {
        let of = |transport: Transport| table.by_transport[transport as usize];
        let counters = self.region.counters();
        counters.set_streams(Counter::ConnectionsTcp, of(Transport::Tcp));
        counters.set_streams(Counter::ConnectionsTls, of(Transport::Tls));
        counters.set_streams(Counter::ConnectionsWs, of(Transport::Ws) + of(Transport::Wss));
    }
}

/// Whether we open connections of that kind: a browser cannot be called.
fn is_dialled(transport: Transport) -> bool {
    matches!(transport, Transport::Tcp | Transport::Tls)
}

impl Record {
    fn post(&self, letter: Letter) -> Result<(), Letter> {
        self.posts.try_send(Post::Letter(letter)).map_err(|error| {
            let (post, is_full) = match error {
                mpsc::error::TrySendError::Full(post) => (post, true),
                mpsc::error::TrySendError::Closed(post) => (post, false),
            };
            if is_full {
                self.line.is_slow.notify_one();
            }
            match post {
                Post::Letter(letter) => letter,
                Post::Pong => unreachable!("a letter was posted"),
            }
        })
    }
}

impl Table {
    /// The next number that no connection has; never 0.
    fn free_number(&mut self) -> u32 {
        loop {
            self.next = self.next.wrapping_add(1);
            if self.next != 0 && !self.by_number.contains_key(&self.next) {
                return self.next;
            }
        }
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let Line { number, peer, .. } = *self.line;
        let mut table = self.hub.table.borrow_mut();
        let record = table.by_number.remove(&number);
        if table.by_peer.get(&peer) == Some(&number) {
            table.by_peer.remove(&peer);
        }
        if self.is_guest
            && let Entry::Occupied(mut count) = table.by_source.entry(peer.address.ip())
        {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
        table.by_transport[peer.transport as usize] -= 1;
        self.hub.publish(&table);
        drop(table);
        self.posts.close();
        let waiting = std::iter::from_fn(|| self.posts.try_recv().ok());
        let waiting = waiting.filter_map(|post| match post {
            Post::Letter(letter) => Some(letter),
            Post::Pong => None,
        });
        let unheard = match self.line.is_heard.get() {
            true => Vec::new(),
            false => std::mem::take(&mut self.unheard),
        };
        for letter in unheard.into_iter().chain(self.in_hand.take()).chain(waiting) {
            self.hub.unsent(letter, self.outage);
        }
        let watchers = record.map_or(0, |record| record.watchers);
        for worker in (0..self.hub.workers).filter(|worker| watchers & (1 << worker) != 0) {
            self.hub.tell(WorkerId(worker), Parcel::Disconnected { connection: number });
        }
    }
}

/// Tells workers what their lanes had no room for.
pub(super) async fn tell_late(hub: Rc<Hub>) {
    loop {
        hub.is_late.notified().await;
        loop {
            let Some((worker, parcel)) = hub.late.borrow_mut().pop_front() else { break };
            if let Err(parcel) = hub.mesh.pass(&hub.region, worker, parcel) {
                hub.late.borrow_mut().push_front((worker, parcel));
                tokio::time::sleep(Duration::from_millis(LANE_WAIT_MS)).await;
            }
        }
    }
}

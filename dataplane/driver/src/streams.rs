//! SIP over connections: TCP, TLS, WebSocket (RFC 3261, 18; RFC 7118), on one thread for all of them.
//!
//! ```text
//!  peers <--sockets--> streams' thread --lanes of the mesh--> workers (Arrived, Unsent, Disconnected)
//!                                      <---orders, bounded---         (Send, Watch)
//! ```
//!
//! A TLS handshake takes a millisecond, which no packet of a worker's is to wait for. So connections belong to a
//! thread of their own, which knows no call: it frames what comes ([`sip::wire::Framer`]), passes it to the worker
//! that the Call-ID names, and writes what workers want written. When a worker's lane is full it stops reading.
//! What it cannot send comes back to its worker.

mod connection;
mod hub;
mod tls;
mod web;

use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use abi::Region;
use base::{Channel, LocationId, Transport, WorkerId};
use rustix::net::{
    AddressFamily, SocketFlags, SocketType, bind, ipproto, listen, socket_with, sockopt,
};
use tokio::sync::mpsc;
use tokio::task::LocalSet;

use crate::mesh::Mesh;
use crate::sockets::{BIND_RETRY_MS, BIND_RETRY_STEP_MS};
use crate::{Config, DriverError};
use hub::Hub;

/// Orders of all workers that wait for the thread: as many as a lane of the mesh has room for.
const ORDERS: usize = 4_096;
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;

/// What is to be known of connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamSettings {
    /// How each location speaks TLS, in their order; one that is not there does so by default.
    pub tls: Vec<TlsSettings>,
    /// A folder of PEM files. A `NAME.pem` with a `NAME.key` beside it is a certificate of ours: shown to whoever asks for
    /// one of its names (SNI), and to trunks for which control says NAME. Of the others, roots of trunks are named.
    pub certificates: Option<PathBuf>,
    /// Connections at a time, as far as the limit of open files allows.
    pub limit: u32,
    /// Connections at a time that one address may open: several hundred phones may be behind one NAT.
    pub limit_per_source: u32,
    /// Who is not known is closed after this time without a whole message; so is everyone who begins one and
    /// does not end it.
    pub whole_limit: Duration,
}

impl Default for StreamSettings {
    fn default() -> Self {
        StreamSettings {
            tls: Vec::new(),
            certificates: None,
            limit: 16_384,
            limit_per_source: 2_048,
            whole_limit: Duration::from_secs(15),
        }
    }
}

/// Certificates of a location. Their files are read again when they change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// The certificate with those between it and its root, and its private key, both PEM. TLS and WSS need one;
    /// trunks that ask for it get it.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// The roots that peers' certificates must lead to, PEM; the system's when there is none.
    pub ca: Option<PathBuf>,
    /// Whether the certificates of trunks that are connected to are verified.
    pub verify: bool,
    /// Whether who comes by TLS is asked for a certificate; one that is shown must lead to a root.
    pub ask_clients: bool,
}

impl Default for TlsSettings {
    fn default() -> Self {
        TlsSettings { identity: None, ca: None, verify: true, ask_clients: false }
    }
}

/// A message on its way to a peer.
#[derive(Debug)]
pub(crate) struct Letter {
    /// Who wants it sent, and hears when that cannot be.
    pub worker: WorkerId,
    pub location: LocationId,
    pub to: SocketAddr,
    pub channel: Channel,
    pub message: Box<[u8]>,
}

/// What workers want of the thread.
#[derive(Debug)]
pub(crate) enum Order {
    Send(Letter),
    Watch { worker: WorkerId, connection: u32 },
}

/// A worker's way to the thread. The thread ends when the last one is gone.
#[derive(Clone)]
pub(crate) struct Outlet(mpsc::Sender<Order>);

impl Outlet {
    /// Gives an order; it comes back when too many wait.
    pub fn order(&self, order: Order) -> Result<(), Order> {
        self.0.try_send(order).map_err(|error| match error {
            mpsc::error::TrySendError::Full(order) => order,
            mpsc::error::TrySendError::Closed(order) => order,
        })
    }

    /// An outlet that leads nowhere.
    #[cfg(test)]
    pub fn closed() -> Outlet {
        Outlet(mpsc::channel(1).0)
    }
}

/// A socket that listens.
pub(crate) struct Opening {
    location: LocationId,
    transport: Transport,
    socket: OwnedFd,
}

/// Listens at each location, by each transport that it speaks.
pub(crate) fn open(config: &Config) -> Result<Vec<Opening>, DriverError> {
    let mut openings = Vec::new();
    for (number, location) in config.locations.iter().enumerate() {
        for transport in Transport::ALL.into_iter().filter(|it| it.is_reliable()) {
            let Some(port) = location.port(transport) else { continue };
            let addr = SocketAddr::new(location.ip, port);
            let socket = bind_patiently(addr).map_err(|source| DriverError::Io {
                what: format!("SIP port of location {}: listen {addr}/{transport}", location.name),
                source,
            })?;
            openings.push(Opening { location: LocationId(number as u8), transport, socket });
        }
    }
    Ok(openings)
}

/// A killed predecessor listens until the kernel has taken it apart.
fn bind_patiently(addr: SocketAddr) -> io::Result<OwnedFd> {
    let mut tries = BIND_RETRY_MS / BIND_RETRY_STEP_MS;
    loop {
        match tcp_listener(addr) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && tries > 0 => {
                tries -= 1;
                std::thread::sleep(Duration::from_millis(BIND_RETRY_STEP_MS));
            }
            result => return result,
        }
    }
}

fn tcp_listener(addr: SocketAddr) -> io::Result<OwnedFd> {
    let family = if addr.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = socket_with(family, SocketType::STREAM, flags, Some(ipproto::TCP))?;
    // Connections of a predecessor linger at the port; another listener would still be an error.
    sockopt::set_socket_reuseaddr(&socket, true)?;
    if addr.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    bind(&socket, &addr)?;
    listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Starts the thread. `limit` is how many connections there may be.
pub(crate) fn start(
    config: &Config,
    region: &Arc<Region>,
    mesh: &Arc<Mesh>,
    openings: Vec<Opening>,
    limit: usize,
) -> Result<(Outlet, JoinHandle<()>), DriverError> {
    let failed =
        |what: &'static str| move |source| DriverError::Io { what: what.to_owned(), source };
    let folder = config.streams.certificates.as_deref();
    let places = config
        .locations
        .iter()
        .enumerate()
        .map(|(number, location)| {
            let settings = config.streams.tls.get(number).cloned().unwrap_or_default();
            hub::Place::new(location.clone(), settings, folder)
        })
        .collect::<Result<Vec<_>, _>>()?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .enable_time()
        .build()
        .map_err(failed("a runtime for connections"))?;
    let first = random_number()?;
    let connectors = tls::Connectors::new(config.streams.certificates.clone());
    let (sender, orders) = mpsc::channel(ORDERS);
    let (region, mesh) = (Arc::clone(region), Arc::clone(mesh));
    let workers = config.cores.len() as u8;
    let limits = hub::Limits {
        all: limit,
        per_source: config.streams.limit_per_source,
        whole: config.streams.whole_limit,
    };
    let thread = Builder::new()
        .name("streams".to_owned())
        .spawn(move || {
            let hub = Rc::new(Hub::new(region, mesh, workers, (places, connectors), first, limits));
            LocalSet::new().block_on(&runtime, serve(hub, openings, orders));
        })
        .map_err(failed("a thread for connections"))?;
    Ok((Outlet(sender), thread))
}

/// Where the numbers of connections begin: far from those of an earlier process, most likely.
fn random_number() -> Result<u32, DriverError> {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).map_err(|error| DriverError::Io {
        what: "randomness from the kernel".to_owned(),
        source: io::Error::other(error.to_string()),
    })?;
    Ok(u32::from_ne_bytes(bytes))
}

async fn serve(hub: Rc<Hub>, openings: Vec<Opening>, mut orders: mpsc::Receiver<Order>) {
    for opening in openings {
        tokio::task::spawn_local(connection::accept(Rc::clone(&hub), opening));
    }
    tokio::task::spawn_local(tls::follow_files(Rc::clone(&hub)));
    tokio::task::spawn_local(hub::tell_late(Rc::clone(&hub)));
    while let Some(order) = orders.recv().await {
        match order {
            Order::Send(letter) => Hub::send(&hub, letter),
            Order::Watch { worker, connection } => hub.watch(worker, connection),
        }
    }
}

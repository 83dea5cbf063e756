//! The start, the supervision and the end of a data plane's threads.

use std::collections::HashSet;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use abi::{DataPlaneState, LocationRow, Opened, Process, Region, RegionError};
use base::{Instant, LocationId, Text, Transport, WorkerId};

use crate::datagrams::Datagrams;
use crate::detour::open_detours;
use crate::disk::Disk;
use crate::duty::{Duty, Outfit};
use crate::link::{Listener, News};
use crate::loader::Loader;
use crate::mesh::Mesh;
use crate::mirror::Mirror;
use crate::mmsg::Mmsg;
use crate::probe::{Means, choose};
use crate::ring_io::Ring;
use crate::sockets::{BIND_RETRY_MS, SIP_RECEIVE_LEAST_BYTES, bind_sip, receive_bytes};
use crate::spool::{Place, Segments, Spool};
use crate::streams::{self, Opening, Outlet};
use crate::{Config, DriverError, clock, pin};

/// How long the calling thread sleeps when nothing happens; the longest that a stop takes to be seen.
const SUPERVISE_MS: u64 = 50;
/// A worker that has not gone round for so long hangs.
const HANGING_MS: u64 = 2_000;
/// Open files that are left to the process itself: rings, doorbells, sockets that are being bound.
const SPARE_FILES: u64 = 64;

/// What the process's own supervisor (systemd) may want to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// All sockets are bound; calls are taken. Told once.
    Running,
    /// All workers go round. Told many times a second.
    Alive,
}

/// What a worker's thread says when it has begun, or why it has not.
type Begun = (WorkerId, Result<(), DriverError>);

/// Runs a data plane on the calling thread and one more for each worker, until `stop` is true or one of
/// them fails.
pub fn run(config: Config, stop: Arc<AtomicBool>) -> Result<(), DriverError> {
    run_telling(config, stop, |_| {})
}

/// As [`run`], and tells how it goes.
pub fn run_telling(
    config: Config,
    stop: Arc<AtomicBool>,
    mut tell: impl FnMut(Notice),
) -> Result<(), DriverError> {
    check(&config)?;
    let means = choose(config.media)?;
    let (places, connections) = places_per_worker(&config, means)?;
    let region = open_region(&config)?;
    let incarnation = region.header().start_data_plane(Process::current(), clock::now());
    let sip = bind_locations(&config)?;
    let openings = streams::open(&config)?;
    publish_locations(&config, &region);
    let seeds = Seeds::draw()?;
    tell_recovery(worker::recover(&region, &seeds.worker_config(&config, 0), clock::now()));
    let io = |what: String| move |source| DriverError::Io { what, source };
    let mesh = Arc::new(Mesh::new(config.cores.len()).map_err(io("doorbells".to_owned()))?);
    region.header().set_control_attached(false);
    let mut listener = Listener::open(&config.socket)
        .map_err(io(format!("control's socket {}", config.socket.display())))?;

    let mut threads = Threads { mesh: Arc::clone(&mesh), running: Vec::new(), streams: None };
    let outlet = threads.connect(&config, &region, openings, connections)?;
    let disks = open_disks(&config, &region, &mesh, incarnation)?;
    let detours = open_detours(&config)?;
    let mirror = Mirror::start(config.capture.clone())
        .map_err(io("a thread for copies of signalling".to_owned()))?;
    let outfits = sip.into_iter().zip(disks).zip(detours).map(|((sip, disk), detour)| {
        let (outlet, mirror) = (outlet.clone(), mirror.clone());
        Outfit { sip, places, disk, detour, outlet, mirror }
    });
    let begun = threads.start(&config, &seeds, &region, means, outfits)?;
    drop(outlet);
    wait_for_all(&begun, config.cores.len())?;
    region.header().set_data_plane_state(DataPlaneState::Running);
    tracing::info!(
        ccb = %config.ccb, incarnation, workers = config.cores.len(), pid = std::process::id(),
        "data plane runs"
    );
    tell(Notice::Running);
    let result = supervise(&mut listener, &mesh, &region, &stop, &threads, &mut tell);
    let ended = threads.join();
    region.header().set_control_attached(false);
    region.header().set_data_plane_state(DataPlaneState::Stopped);
    tracing::info!(ccb = %config.ccb, "data plane stopped");
    result.and(ended)
}

/// Says what became of the calls of an earlier incarnation.
fn tell_recovery(found: worker::Recovery) {
    let worker::Recovery { calls, lost, unanswered, leases_freed } = found;
    if calls + unanswered + leases_freed > 0 {
        tracing::info!(
            calls,
            unanswered,
            leases_freed,
            "calls are taken over, unanswered ones end"
        );
    }
    if lost > 0 {
        tracing::warn!(
            lost,
            "answered calls end: their dialogs are too long for the region, or an address has changed"
        );
    }
}

fn check(config: &Config) -> Result<(), DriverError> {
    let (low, high) = config.rtp_ports;
    let addresses: HashSet<_> =
        config.locations.iter().map(|location| (location.ip, location.sip_port)).collect();
    let rules = [
        (config.cores.is_empty(), "cores: at least one core is named"),
        (config.cores.len() > 128, "cores: at most 128 workers"),
        (config.locations.is_empty(), "locations: at least one is named"),
        (config.locations.len() > 64, "locations: at most 64"),
        (
            addresses.len() < config.locations.len(),
            "locations: each has an address and port of its own",
        ),
        (
            config.locations.iter().any(|location| location.ip.is_unspecified()),
            "locations: an address that peers can reach, not the unspecified one",
        ),
        (
            config.locations.iter().any(|location| location.sip_port == 0),
            "locations: a SIP port, not 0",
        ),
        (
            (config.locations.iter().zip(0..)).any(|(location, number)| {
                let is_secure = location.streams.tls.is_some() || location.streams.wss.is_some();
                let tls = config.streams.tls.get(number);
                is_secure && tls.is_none_or(|tls| tls.identity.is_none())
            }),
            "locations: a certificate where TLS or WSS is spoken",
        ),
        (low == 0 || high <= low, "rtp_ports: low is below high, and neither is 0"),
    ];
    match rules.iter().find(|(broken, _)| *broken) {
        Some((_, rule)) => Err(DriverError::Config(rule)),
        None => Ok(()),
    }
}

/// How many places each worker has for sockets: a SIP socket for each location, and the pairs that are this
/// worker's, as far as the limit of open files goes; and how many connections there may be. It bounds each ring's table by itself, and all that
/// workers without a ring have open together.
fn places_per_worker(config: &Config, means: Means) -> Result<(u32, usize), DriverError> {
    let limit = pin::raise_open_files().map_err(|source| DriverError::Io {
        what: "RLIMIT_NOFILE raised to the hard limit".to_owned(),
        source,
    })?;
    let (low, high) = config.rtp_ports;
    let locations = config.locations.len() as u64;
    let pairs = u64::from(high - low) / 2 / config.cores.len() as u64 + 1;
    let wanted = locations + 2 * pairs * locations;
    let shared = match means {
        Means::IoUring => 1,
        Means::Recvmmsg => config.cores.len() as u64,
    };
    // A socket of a connection is one file, that of an io_uring's table none.
    let connections = u64::from(config.streams.limit).min(limit / 8);
    let places = wanted.min(limit.saturating_sub(SPARE_FILES + connections) / shared);
    if places < wanted {
        tracing::info!(
            limit,
            pairs = (places - locations.min(places)) / 2,
            "RLIMIT_NOFILE bounds the port pairs that a worker can have open"
        );
    }
    Ok((places as u32, connections as usize))
}

/// A killed predecessor has the region's lock until the kernel has taken it apart.
fn open_region(config: &Config) -> Result<Arc<Region>, DriverError> {
    let mut tries = BIND_RETRY_MS / 10;
    loop {
        match Region::open_or_create(&config.region, config.layout()) {
            Err(RegionError::AlreadyRunning { .. }) if tries > 0 => {
                tries -= 1;
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => return Err(error.into()),
            Ok((region, opened)) => {
                let reattached = opened == Opened::Reattached;
                tracing::info!(path = %config.region.display(), reattached, "region opened");
                return Ok(region);
            }
        }
    }
}

/// For each worker, its spool and its way to the prompts.
fn open_disks(
    config: &Config,
    region: &Arc<Region>,
    mesh: &Arc<Mesh>,
    incarnation: u64,
) -> Result<Vec<Disk>, DriverError> {
    let named = |what: &str, path: &Path| {
        let what = format!("{what} {}", path.display());
        move |source| DriverError::Io { what, source }
    };
    let place = match &config.spool {
        // Calls do not need it; recordings are lost, which is told and counted.
        Some(path) => Place::prepare(path, incarnation)
            .inspect_err(|error| {
                tracing::error!(%error, path = %path.display(), "nothing is recorded: the spool's directory");
            })
            .ok(),
        None => None,
    };
    let loader = match &config.prompts {
        Some(path) => {
            Some(Loader::start(path.clone()).map_err(named("a thread for prompts in", path))?)
        }
        None => None,
    };
    let disk = |number| {
        let id = WorkerId(number as u8);
        let spool = place
            .as_ref()
            .map(|place| Spool::start(format!("spool-{number}"), Segments::new(place(id))))
            .transpose()
            .map_err(|source| DriverError::Io {
                what: "a thread for a spool".to_owned(),
                source,
            })?;
        let (region, mesh) = (Arc::clone(region), Arc::clone(mesh));
        Ok(Disk::new(spool, loader.clone(), move || mesh.wake(&region, id)))
    };
    (0..config.cores.len()).map(disk).collect()
}

/// For each worker, its SIP sockets in the order of the locations.
fn bind_locations(config: &Config) -> Result<Vec<Vec<OwnedFd>>, DriverError> {
    let mut by_worker: Vec<Vec<OwnedFd>> = config.cores.iter().map(|_| Vec::new()).collect();
    for location in &config.locations {
        let sockets = bind_sip(location, config.cores.len())?;
        for (sip, socket) in by_worker.iter_mut().zip(sockets) {
            sip.push(socket);
        }
    }
    warn_of_small_buffers(by_worker.iter().flatten());
    Ok(by_worker)
}

fn warn_of_small_buffers<'a>(sip: impl Iterator<Item = &'a OwnedFd>) {
    let least = sip.filter_map(|socket| receive_bytes(socket).ok()).min();
    if let Some(bytes) = least
        && bytes < SIP_RECEIVE_LEAST_BYTES
    {
        tracing::warn!(
            bytes,
            "the kernel keeps little of a burst of SIP; raise net.core.rmem_max, or give CAP_NET_ADMIN"
        );
    }
}

fn publish_locations(config: &Config, region: &Region) {
    let table = region.locations();
    for number in 0..config.layout().locations {
        let mut row = LocationRow::default();
        if let Some(location) = config.locations.get(usize::from(number)) {
            row.set_name(Text::new(location.name.as_bytes()).unwrap_or_default());
            row.set_sip((location.ip, location.sip_port).into());
            for transport in Transport::ALL {
                row.set_port(transport, location.port(transport));
            }
        }
        table.write(LocationId(number), &row);
    }
}

/// What the kernel's entropy gave at the start.
struct Seeds {
    workers: Vec<[u8; 32]>,
    nonce_key: [u8; 32],
}

impl Seeds {
    fn draw() -> Result<Self, DriverError> {
        let mut bytes = [0u8; 32 * 129];
        getrandom::fill(&mut bytes).map_err(|error| DriverError::Io {
            what: "randomness from the kernel".to_owned(),
            source: std::io::Error::other(error.to_string()),
        })?;
        let (chunks, _) = bytes.as_chunks::<32>();
        Ok(Seeds { nonce_key: chunks[0], workers: chunks[1..].to_vec() })
    }

    fn worker_config(&self, config: &Config, number: usize) -> worker::Config {
        worker::Config {
            session: config.session,
            id: WorkerId(number as u8),
            workers: config.cores.len() as u8,
            ccb: config.ccb,
            locations: config.locations.clone(),
            rtp_ports: config.rtp_ports,
            seed: self.workers[number],
            nonce_key: self.nonce_key,
            limits: config.limits,
            media: worker::MediaConfig { timeout: config.media_timeout, ..Default::default() },
        }
    }
}

/// The workers' threads. They stop and are waited for when this is dropped.
struct Threads {
    mesh: Arc<Mesh>,
    running: Vec<(WorkerId, JoinHandle<Result<(), DriverError>>)>,
    /// The thread of the connections, which ends after the last worker.
    streams: Option<JoinHandle<()>>,
}

impl Threads {
    /// Starts the thread of the connections.
    fn connect(
        &mut self,
        config: &Config,
        region: &Arc<Region>,
        openings: Vec<Opening>,
        limit: usize,
    ) -> Result<Outlet, DriverError> {
        let (outlet, thread) = streams::start(config, region, &self.mesh, openings, limit)?;
        self.streams = Some(thread);
        Ok(outlet)
    }

    fn start(
        &mut self,
        config: &Config,
        seeds: &Seeds,
        region: &Arc<Region>,
        means: Means,
        outfits: impl Iterator<Item = Outfit>,
    ) -> Result<Receiver<Begun>, DriverError> {
        let (tell, begun) = channel();
        for (number, (outfit, core)) in outfits.zip(config.cores.iter().copied()).enumerate() {
            let mut worker_config = seeds.worker_config(config, number);
            worker_config.media.process = means.path();
            worker_config.media.no_bypass = outfit.detour.why_not();
            let part = Part {
                config: worker_config,
                core,
                region: Arc::clone(region),
                mesh: Arc::clone(&self.mesh),
                outfit,
                begun: tell.clone(),
            };
            let thread = Builder::new()
                .name(format!("worker-{number}"))
                .spawn(move || match means {
                    Means::IoUring => part.serve::<Ring>(),
                    Means::Recvmmsg => part.serve::<Mmsg>(),
                })
                .map_err(|source| DriverError::Io {
                    what: "a thread for a worker".to_owned(),
                    source,
                })?;
            self.running.push((WorkerId(number as u8), thread));
        }
        Ok(begun)
    }

    fn any_ended(&self) -> bool {
        self.running.iter().any(|(_, thread)| thread.is_finished())
            || self.streams.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Stops all; the first failure, if any failed.
    fn join(&mut self) -> Result<(), DriverError> {
        self.mesh.stop();
        let mut result = Ok(());
        for (worker, thread) in self.running.drain(..) {
            let ended = thread.join().unwrap_or(Err(DriverError::Panicked(worker)));
            result = result.and(ended);
        }
        if let Some(Err(_)) = self.streams.take().map(JoinHandle::join) {
            result = result.and(Err(DriverError::StreamsPanicked));
        }
        result
    }
}

impl Drop for Threads {
    fn drop(&mut self) {
        if let Err(error) = self.join() {
            tracing::error!(%error, "a worker failed");
        }
    }
}

/// All that a worker's thread takes along.
struct Part {
    config: worker::Config,
    core: usize,
    region: Arc<Region>,
    mesh: Arc<Mesh>,
    outfit: Outfit,
    begun: Sender<Begun>,
}

impl Part {
    fn serve<D: Datagrams>(self) -> Result<(), DriverError> {
        let Part { config, core, region, mesh, outfit, begun } = self;
        let id = config.id;
        let duty = pin::to_core(core)
            .map_err(|source| DriverError::Io {
                what: format!("worker {id} on core {core}"),
                source,
            })
            .and_then(|()| Duty::<D>::begin(config, region, mesh, outfit));
        match pin::go_first() {
            Ok(first) => tracing::debug!(worker = id.0, ?first, "its place among threads"),
            Err(error) => tracing::warn!(worker = id.0, %error, "it does not go before others"),
        }
        match duty {
            Ok(duty) => {
                // Nobody listens when another worker could not begin; then this one is told to stop.
                let _ = begun.send((id, Ok(())));
                drop(begun);
                duty.run()
            }
            Err(error) => {
                let _ = begun.send((id, Err(error)));
                Ok(())
            }
        }
    }
}

fn wait_for_all(begun: &Receiver<Begun>, workers: usize) -> Result<(), DriverError> {
    let mut waiting: HashSet<WorkerId> =
        (0..workers).map(|number| WorkerId(number as u8)).collect();
    while !waiting.is_empty() {
        // A thread that panics drops its sender without a word.
        let Ok((worker, result)) = begun.recv() else {
            let silent = waiting.iter().min().copied().unwrap_or_default();
            return Err(DriverError::Panicked(silent));
        };
        result?;
        waiting.remove(&worker);
    }
    Ok(())
}

fn supervise(
    listener: &mut Listener,
    mesh: &Mesh,
    region: &Region,
    stop: &AtomicBool,
    threads: &Threads,
    tell: &mut impl FnMut(Notice),
) -> Result<(), DriverError> {
    let mut alive = true;
    while !stop.load(Ordering::Acquire) && !threads.any_ended() {
        let news = listener
            .wait(Duration::from_millis(SUPERVISE_MS), mesh)
            .map_err(|source| DriverError::Io { what: "control's socket".to_owned(), source })?;
        if let Some(news) = news {
            let attached = news == News::Attached;
            region.header().set_control_attached(attached);
            mesh.set_link(mesh.link().next(attached));
            tracing::info!(attached, "control");
        }
        let was_alive = std::mem::replace(&mut alive, all_alive(region, clock::now()));
        if alive {
            tell(Notice::Alive);
        } else if was_alive {
            tracing::error!("a worker does not go round any more");
        }
    }
    Ok(())
}

fn all_alive(region: &Region, now: Instant) -> bool {
    (0..region.layout().workers).all(|number| {
        region
            .header()
            .worker_heartbeat(WorkerId(number))
            .is_some_and(|beat| now.since(beat) < Duration::from_millis(HANGING_MS))
    })
}

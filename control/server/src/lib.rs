//! A blade's control process: the AgentProxy and the CTI over HTTP, the directory, the links to the
//! data planes, the admin socket. What it decides is decided by `control_core`; this crate carries.

mod bus;
mod clock;
mod config;
mod directory;
mod http;
mod keeper;
mod link;
mod owner;
mod password;
pub mod pool;
pub mod recordings;
mod records;
mod resolve;
mod secret;
mod token;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;

pub use bus::{BusConfig, LocalBus, NatsConfig};
pub use config::{
    CLUSTER, CcbConfig, Config, HashCost, LONGEST_DRAIN_S, OPTIONS_S, PROXY_DRAIN_S, host_name,
};
pub use control_core::{
    Cidr, Destination, MIX_RULE, MIXES, Marks, PROMPT_RULE, QUEUE_RULE, Route, Service, SlotId,
    Strategy, TrunkKey, is_prompt_name, is_queue_name, path_name, reason_name, spool_name,
};
pub use directory::{
    Address, AddressKind, Agent, DemoLocation, DemoSpec, Directory, DirectoryError,
    Format as DirectoryFormat, Identity, ImportError, ImportOptions, Parameters,
    Place as DirectoryPlace, SourceFile, Tenant,
};
pub use password::hash as hash_password;
pub use records::rfc3339;
pub use secret::Secret;

/// How long a process that begins waits for the directory: calls and phones need control more.
const FIRST_LOOK_MS: u64 = 1_000;

/// How long requests that are being served may take when the process stops.
const STOP_MS: u64 = 1_000;

/// How often the makers of recordings are told which calls stand.
const LIVE_MS: u64 = 2_000;

/// A control process that is bound and does not serve yet.
pub struct Server {
    config: Config,
    http: Vec<TcpListener>,
    admin: UnixListener,
    app: http::App,
    owner: owner::Owner,
    names: Arc<resolve::Names>,
    /// What the pool's drivers are told.
    slots: Option<mpsc::UnboundedReceiver<pool::Tell>>,
    bus: Option<bus::Bus>,
    directory: Directory,
}

/// Why a control process cannot start.
#[derive(Debug)]
pub enum StartError {
    /// Names what could not be opened or bound, and why.
    Io(String, io::Error),
    /// The directory cannot be used.
    Directory(DirectoryError),
    /// No resolver can be made; says why.
    Dns(String),
}

/// Runs a control process until `stop` becomes true or its sender is dropped. It is fit to be killed
/// at any time; a stop in order only saves the requests that are being served.
pub async fn run(config: Config, stop: watch::Receiver<bool>) -> Result<(), StartError> {
    Server::bind(config).await?.run(stop).await;
    Ok(())
}

impl Server {
    /// Opens and binds everything that `config` names.
    pub async fn bind(config: Config) -> Result<Server, StartError> {
        let state = &config.state;
        let named = |what: &Path| {
            let what = what.display().to_string();
            move |error| StartError::Io(what, error)
        };
        make_private(state).map_err(named(state))?;
        // Calls and phones need control, not the directory: it starts without one that is away.
        let directory = Directory::open(&config.directory).await?;
        let key = config.token_key.clone().unwrap_or_else(|| state.join("token.key"));
        let tokens = token::Tokens::open(&key, config.token_life).map_err(named(&key))?;
        let (blade, asks) = owner::channel();
        let record_state = Arc::new(records::RecordState::default());
        let records = config.records.as_ref().map(|folder| {
            let (recorder, state) = (blade.clone(), Arc::clone(&record_state));
            let recorded = move |calls| recorder.tell_blocking(owner::Ask::Recorded(calls));
            records::start(folder, state, recorded).map_err(named(folder))
        });
        let ccbs: Vec<_> = config.ccbs.iter().map(|ccb| ccb.id).collect();
        let mut owner = owner::Owner::new(&ccbs, asks, records.transpose()?);
        let slots = config.pool.as_ref().map(|pool| {
            let (tell, told) = mpsc::unbounded_channel();
            owner.keep_slots(pool::remembered(state, &pool.slots), pool.marks, tell);
            told
        });
        let place =
            bus::Place { blade: config.blade.as_str().into(), cluster: config.cluster.clone() };
        let bus = bus::open(config.bus.clone(), place, blade.clone()).map(|(mouth, bus)| {
            // The clock only goes on over the control processes of a blade, unless somebody sets it back.
            let incarnation = clock::unix_ms(clock::now());
            owner.join(config.blade.as_str().into(), incarnation, config.strategy, mouth);
            owner.become_agent_proxy(config.agent_proxy, &config.http);
            bus
        });
        let mut http = Vec::new();
        for address in &config.http {
            let bound = TcpListener::bind(address).await;
            http.push(bound.map_err(|why| StartError::Io(format!("http {address}"), why))?);
        }
        let admin = bind_admin(&config.admin).map_err(named(&config.admin))?;
        let passwords =
            password::PasswordCheck::new(config.parallel_password_checks, config.hash_cost);
        let names = Arc::new(resolve::Names::new(&config.dns).map_err(StartError::Dns)?);
        let every_s = config.options_s;
        let keeper =
            keeper::Keeper::new(&directory, &blade, &passwords, every_s, Arc::clone(&names));
        let app = Arc::new(http::Parts {
            directory: directory.clone(),
            passwords,
            keeper: Arc::new(keeper),
            hash_cost: config.hash_cost,
            door: http::door::Door::default(),
            tokens,
            blade,
            registration_life: config.registration_life,
            next_socket: AtomicU64::new(1),
            recordings: http::RecordingNumbers::default(),
            spoolers: spoolers(&config.ccbs),
            // Traces of an earlier process may still run; theirs are other numbers.
            next_trace: AtomicU32::new(clock::unix_ms(clock::now()) as u32),
            trace_to: config.trace_to.clone(),
            records: config.records.is_some().then_some(record_state),
            bus: bus.as_ref().map(bus::Bus::state),
            draining: AtomicBool::new(false),
            started_at: clock::now(),
        });
        Ok(Server { config, http, admin, app, names, owner, slots, bus, directory })
    }

    /// The addresses that serve HTTP, with the ports that were chosen.
    pub fn http_addresses(&self) -> Vec<SocketAddr> {
        self.http.iter().filter_map(|listener| listener.local_addr().ok()).collect()
    }

    /// Serves until `stop` becomes true or its sender is dropped.
    pub async fn run(self, mut stop: watch::Receiver<bool>) {
        let blade = self.app.blade.clone();
        let mut background = JoinSet::new();
        let owner = background.spawn(self.owner.run());
        let carried = self.bus.map(|bus| bus.spawn(&mut background));
        let first = Duration::from_millis(FIRST_LOOK_MS);
        match tokio::time::timeout(first, self.app.keeper.refresh()).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::error!(%error, "tenants, trunks and routes cannot be read");
            }
            // The keeper goes on.
            Err(_) => tracing::error!("the directory does not answer; going on without it"),
        }
        background.spawn(self.app.keeper.clone().keep());
        background.spawn(self.names.keep(self.app.keeper.clone()));
        for ccb in &self.config.ccbs {
            if let Err(error) = link::start(ccb.clone(), blade.clone()) {
                tracing::error!(ccb = ccb.id.0, %error, "no thread for the link to a data plane");
            }
        }
        if let Some((pool, told)) = self.config.pool.zip(self.slots) {
            background.spawn(pool::serve(pool, self.config.state, told, blade.clone()));
        }
        let (halt, halted) = watch::channel(false);
        let mut serving = serve_http(self.http, &self.app, &self.config.balancers, &halted);
        if let Some(recordings) = self.config.recordings {
            let (known, live) = watch::channel(Arc::default());
            background.spawn(tell_live(self.config.ccbs.clone(), blade.clone(), known));
            background.spawn(recordings::follow(recordings, live, stop.clone()));
        }
        let router = http::admin::router(self.app.clone());
        background.spawn(async move {
            if let Err(error) = axum::serve(self.admin, router).await {
                tracing::error!(%error, "the admin socket ended");
            }
        });
        if self.config.notify {
            background.spawn(watchdog(blade.clone()));
            notify(NotifyState::Ready);
        }
        tracing::info!(http = ?self.config.http, ccbs = self.config.ccbs.len(), "control serves");
        stopped(&mut stop).await;
        notify(NotifyState::Stopping);
        drain(&self.app, self.config.drain_s).await;
        let _ = halt.send(true);
        // Desks keep their WebSockets open; they come back to the next control process.
        let ended = async { while serving.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_millis(STOP_MS), ended).await;
        serving.shutdown().await;
        if let Some(carried) = carried {
            blade.tell(owner::Ask::Farewell).await;
            blade.look(|_, _| ()).await;
            // Without its core the bus says what it was told to say, and ends.
            owner.abort();
            let _ = tokio::time::timeout(Duration::from_millis(STOP_MS), carried).await;
        }
        background.shutdown().await;
        self.directory.close().await;
        let _ = std::fs::remove_file(&self.config.admin);
    }
}

/// Serves what agents reach at each of these.
fn serve_http(
    listeners: Vec<TcpListener>,
    app: &http::App,
    balancers: &[Cidr],
    halted: &watch::Receiver<bool>,
) -> JoinSet<()> {
    let mut serving = JoinSet::new();
    let limits = http::serve::Limits::of_listeners(listeners.len());
    let balancers: Arc<[Cidr]> = balancers.into();
    for listener in listeners {
        let (router, balancers) = (http::router(app.clone()), balancers.clone());
        serving.spawn(http::serve::serve(listener, router, limits, balancers, halted.clone()));
    }
    serving
}

/// Tells balancers that this process stops, and serves on until they have noticed.
async fn drain(app: &http::App, seconds: u32) {
    app.draining.store(true, Ordering::Relaxed);
    let seconds = seconds.min(LONGEST_DRAIN_S);
    if seconds > 0 {
        tracing::info!(seconds, "this process stops; it takes logins until balancers notice");
        tokio::time::sleep(Duration::from_secs(seconds.into())).await;
    }
}

/// Makes a folder that nobody else may look into.
fn make_private(folder: &Path) -> io::Result<()> {
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)
}

/// The CCBs that can record.
fn spoolers(ccbs: &[CcbConfig]) -> std::collections::HashSet<base::CcbId> {
    ccbs.iter().filter(|ccb| ccb.spool.is_some()).map(|ccb| ccb.id).collect()
}

async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is dropped means stop, too.
    let _ = stop.wait_for(|stop| *stop).await;
}

/// Tells the makers of recordings which calls stand.
async fn tell_live(
    ccbs: Vec<CcbConfig>,
    blade: owner::BladeHandle,
    known: watch::Sender<Arc<recordings::Live>>,
) {
    let spools: Vec<_> = ccbs.into_iter().filter_map(|ccb| Some((ccb.id, ccb.spool?))).collect();
    let mut ticks = tokio::time::interval(Duration::from_millis(LIVE_MS));
    loop {
        ticks.tick().await;
        let spools = spools.clone();
        let look = blade.look(move |blade, _| {
            let live = spools
                .into_iter()
                .filter_map(|(ccb, spool)| Some((spool, blade.serials(ccb)?.collect())));
            live.collect::<recordings::Live>()
        });
        match look.await {
            Some(live) => known.send_replace(Arc::new(live)),
            None => return,
        };
    }
}

/// Feeds systemd's watchdog as long as the owner answers.
async fn watchdog(blade: owner::BladeHandle) {
    let Some(period) = sd_notify::watchdog_enabled() else { return };
    let mut ticks = tokio::time::interval(period / 3);
    loop {
        ticks.tick().await;
        if blade.look(|_, _| ()).await.is_some() {
            notify(NotifyState::Watchdog);
        }
    }
}

fn notify(state: NotifyState) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd cannot be told");
    }
}

/// Binds the admin socket under another name first, so that it is never open to anybody else.
fn bind_admin(path: &Path) -> io::Result<UnixListener> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(".new");
    let fresh = Path::new(&fresh);
    match std::fs::remove_file(fresh) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(fresh)?;
    std::fs::set_permissions(fresh, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(fresh, path)?;
    Ok(listener)
}

impl std::fmt::Display for StartError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            StartError::Io(what, error) => write!(f, "{what}: {error}"),
            StartError::Directory(error) => error.fmt(f),
            StartError::Dns(why) => f.write_str(why),
        }
    }
}

impl std::error::Error for StartError {}

impl From<DirectoryError> for StartError {
    fn from(error: DirectoryError) -> Self {
        StartError::Directory(error)
    }
}

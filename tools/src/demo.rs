//! `jackfield demo`: everything on this machine, with a tenant to play with.

mod call;
mod plan;
mod tls;

use std::ffi::OsString;
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use base::Transport;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::cli;
use crate::config::Config;
use crate::http::Server;
use crate::place::{CONFIG_FILE, DemoDir, demo_dir};
use crate::process::{self, INTERRUPTED, StopSignals};
use crate::show;
use crate::supervise::{Program, supervise};
use crate::view;

/// How long the processes may take until the CCB runs normally.
const START_LIMIT: Duration = Duration::from_secs(60);
/// How long ports may stay taken after the death of who had them.
const PORTS_LINGER: Duration = Duration::from_secs(1);
/// How often they are asked.
const ASK_EVERY: Duration = Duration::from_millis(20);

/// Runs the demo until Ctrl-C, or until the call of `--call` is over.
pub fn run(options: &cli::Demo) -> Result<ExitCode, String> {
    process::keep_files_private();
    // One thread: the children are told by the kernel when the thread that started them ends.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| error.to_string())?;
    runtime.block_on(demo(options))
}

async fn demo(options: &cli::Demo) -> Result<ExitCode, String> {
    if options.call && options.agents < 2 {
        return Err("--call needs --agents 2 at least".to_owned());
    }
    let mut signals = StopSignals::new().map_err(|error| error.to_string())?;
    let dir = options.dir.clone().unwrap_or_else(demo_dir);
    plan::check_dir(&dir)?;
    let dir = DemoDir::claim(&dir)?;
    let mut dirs = vec![dir];
    for blade in 1..usize::from(options.blades) {
        let folder = dirs[0].file(&plan::blade_folder(blade));
        plan::check_dir(&folder)?;
        dirs.push(DemoDir::claim(&folder)?);
    }
    let bus = match options.blades {
        1 => None,
        _ => Some(plan::Shared { bus: free_port()? }),
    };
    let configs = plan::configs(options, &dirs, bus.as_ref())?;
    for (config, dir) in configs.iter().zip(&dirs) {
        wait_for_ports(config).await?;
        let file = dir.file(CONFIG_FILE);
        std::fs::write(&file, config.to_toml())
            .map_err(|error| format!("{}: {error}", file.display()))?;
        plan::make_folders(config)?;
        // What a demo left that was killed.
        remove_region(config);
    }
    tls::make(&configs[0])?;
    tokio::select! {
        made = plan::create_tenant(options, &configs) => made?,
        () = signals.next() => return Ok(ExitCode::from(INTERRUPTED)),
    }
    let processes = Processes::start(&dirs, bus.as_ref())?;
    let result = tokio::select! {
        result = serve(options, &configs, &dirs[0]) => result,
        // A demo ends by Ctrl-C; a call that was to be made and was not is no success.
        () = signals.next() => Ok(if options.call { INTERRUPTED.into() } else { ExitCode::SUCCESS }),
    };
    processes.stop().await;
    configs.iter().for_each(remove_region);
    result
}

async fn serve(options: &cli::Demo, configs: &[Config], dir: &DemoDir) -> Result<ExitCode, String> {
    for config in configs {
        wait_until_it_runs(config).await?;
    }
    if options.call {
        return call::run(configs).await;
    }
    show::say(&plan::guide(options, configs, dir.path()))?;
    std::future::pending().await
}

/// Waits until the data plane serves and control says so too.
async fn wait_until_it_runs(config: &Config) -> Result<(), String> {
    let admin = Server::Unix(config.control.admin.clone());
    let begun = Instant::now();
    loop {
        let missing = match what_is_missing(config, &admin).await {
            None => return Ok(()),
            Some(missing) => missing,
        };
        if begun.elapsed() > START_LIMIT {
            return Err(format!("not ready after {} s: {missing}", START_LIMIT.as_secs()));
        }
        tokio::time::sleep(ASK_EVERY).await;
    }
}

async fn what_is_missing(config: &Config, admin: &Server) -> Option<String> {
    for ccb in &config.ccbs {
        let region = match view::open(ccb) {
            Ok(region) => region,
            Err(error) => return Some(format!("the data plane: {error}")),
        };
        let data_plane = view::data_plane(&region);
        if data_plane.state != "running" || !data_plane.alive {
            return Some(format!("the data plane is {}", data_plane.state));
        }
    }
    crate::admin::not_running(admin).await
}

/// A free port for NATS; whoever takes it before NATS does is told by its log.
fn free_port() -> Result<SocketAddr, String> {
    let bound = TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr());
    bound.map_err(|error| format!("a port for NATS: {error}"))
}

/// The child processes: two a blade, and the bus of several blades.
struct Processes {
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Processes {
    fn start(dirs: &[DemoDir], bus: Option<&plan::Shared>) -> Result<Processes, String> {
        let executable = std::env::current_exe().map_err(|error| error.to_string())?;
        let (stop, stopped) = watch::channel(false);
        let mut tasks = Vec::new();
        let mut start = |program| {
            let (pids, _) = watch::channel(None);
            tasks.push(tokio::spawn(supervise(program, stopped.clone(), pids)));
        };
        if let Some(shared) = bus {
            start(nats(shared, &dirs[0]));
        }
        let names = ["dataplane", "control"];
        for (name, dir) in dirs.iter().flat_map(|dir| names.map(|name| (name, dir))) {
            let arguments: Vec<OsString> = vec![
                name.into(),
                "--config".into(),
                dir.file(CONFIG_FILE).into(),
                "--die-with-parent".into(),
                std::process::id().to_string().into(),
            ];
            start(Program { name, executable: executable.clone(), arguments });
        }
        Ok(Processes { stop, tasks })
    }

    /// Stops both and waits for their end.
    async fn stop(self) {
        let _ = self.stop.send(true);
        for task in self.tasks {
            let _ = task.await;
        }
    }
}

/// Debian's nats-server, which is ended with the demo.
fn nats(shared: &plan::Shared, dir: &DemoDir) -> Program {
    let (ip, port) = (shared.bus.ip().to_string(), shared.bus.port().to_string());
    let store = dir.file("nats").display().to_string();
    let arguments =
        ["--pdeathsig", "TERM", "nats-server", "-js", "-sd", &store, "-a", &ip, "-p", &port];
    Program {
        name: "nats-server",
        executable: "setpriv".into(),
        arguments: arguments.map(OsString::from).into(),
    }
}

/// Waits for the ports of a demo that has just ended: those of a killed data plane stay taken until
/// the kernel has taken its ring apart.
async fn wait_for_ports(config: &Config) -> Result<(), String> {
    let begun = Instant::now();
    loop {
        match check_ports(config) {
            Err(_) if begun.elapsed() < PORTS_LINGER => tokio::time::sleep(ASK_EVERY).await,
            result => return result,
        }
    }
}

/// The processes would say it too, but not as plainly.
fn check_ports(config: &Config) -> Result<(), String> {
    for http in &config.control.http {
        if let Err(error) = TcpListener::bind(http) {
            return Err(port_taken("TCP", *http, "--http", &error));
        }
    }
    for location in config.ccbs.iter().flat_map(|ccb| &ccb.locations) {
        let sip = SocketAddr::new(location.ip, location.sip_port);
        if let Err(error) = UdpSocket::bind(sip) {
            return Err(port_taken("UDP", sip, "--sip", &error));
        }
        for (transport, flag) in [
            (Transport::Tcp, "--sip"),
            (Transport::Tls, "--tls"),
            (Transport::Ws, "--ws"),
            (Transport::Wss, "--wss"),
        ] {
            let port = location.streams.port(transport, location.sip_port);
            let Some(port) = port else { continue };
            let at = SocketAddr::new(location.ip, port);
            if let Err(error) = TcpListener::bind(at) {
                return Err(port_taken("TCP", at, flag, &error));
            }
        }
    }
    Ok(())
}

fn port_taken(kind: &str, at: SocketAddr, flag: &str, error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::AddrInUse => {
            format!(
                "{kind} port {} at {} is in use; choose another with {flag}",
                at.port(),
                at.ip()
            )
        }
        std::io::ErrorKind::AddrNotAvailable => {
            format!("{} is no address of this machine", at.ip())
        }
        _ => format!("{kind} port {} at {}: {error}", at.port(), at.ip()),
    }
}

/// The region and the files that lie beside it.
fn remove_region(config: &Config) {
    for ccb in &config.ccbs {
        for suffix in ["", ".secrets", ".lock", ".control.lock"] {
            let mut file = ccb.region.clone().into_os_string();
            file.push(suffix);
            let _ = std::fs::remove_file(file);
        }
        let _ = std::fs::remove_file(&ccb.socket);
    }
}

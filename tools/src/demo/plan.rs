//! What a demo consists of: its configuration, its tenant, and what it tells the user.

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use base::{CcbId, Transport};
use control_server::TrunkKey;

use super::tls::ROOT;
use crate::cli;
use crate::config::{self, Bus, Ccb, Config, Control, Location, MediaConfig, Streams};
use crate::place::{DemoDir, demo_dir};

/// The demo's tenant; its passwords begin with it.
pub const TENANT: &str = "demo";
/// The first employee.
pub const FIRST_AGENT: u32 = 1001;
/// How far the ports of two blades of the demo lie apart.
const PORTS_APART: u16 = 100;
/// The socket of the tools.
const ADMIN_SOCKET: &str = "admin.sock";
/// The location at `--bind`.
const LOCAL: &str = "local";

/// What the blades of a demo share.
pub struct Shared {
    /// Where NATS listens.
    pub bus: SocketAddr,
}

/// The configuration of each blade, whose folders these are.
pub fn configs(
    options: &cli::Demo,
    dirs: &[DemoDir],
    shared: Option<&Shared>,
) -> Result<Vec<Config>, String> {
    check_lists(options)?;
    let blades = 0..options.blades;
    blades.map(|blade| config(&of_blade(options, blade)?, dirs, blade, shared)).collect()
}

/// The options as they are for one blade: with its ports.
fn of_blade(options: &cli::Demo, blade: u16) -> Result<cli::Demo, String> {
    let up = |port: u16| {
        let up = port.checked_add(blade * PORTS_APART);
        up.ok_or_else(|| format!("--blades {}: port {port} is too high", options.blades))
    };
    let up_some = |port: Option<u16>| port.map(up).transpose();
    let (low, high) = options.rtp_ports;
    // Even, since RTP has even ports.
    let share = ((high - low + 1) / options.blades) & !1;
    let rtp_ports = match options.blades {
        1 => options.rtp_ports,
        _ => (low + share * blade, low + share * (blade + 1) - 1),
    };
    Ok(cli::Demo {
        http: up(options.http)?,
        sip: up(options.sip)?,
        tls: up_some(options.tls)?,
        ws: up_some(options.ws)?,
        wss: up_some(options.wss)?,
        rtp_ports,
        ..options.clone()
    })
}

/// The configuration of both processes of a blade.
fn config(
    options: &cli::Demo,
    dirs: &[DemoDir],
    blade: u16,
    shared: Option<&Shared>,
) -> Result<Config, String> {
    let (main, dir) = (&dirs[0], &dirs[usize::from(blade)]);
    let number = blade + 1;
    let locations = locations(options, main)?;
    let (low, high) = options.rtp_ports;
    if (low..=high).contains(&options.sip) {
        return Err(format!("--sip {} lies within --rtp-ports {low}-{high}", options.sip));
    }
    let sizes = driver::Sizes {
        agents: options.agents.max(1_024).next_power_of_two(),
        ..driver::Sizes::default()
    };
    let absolute = |path: &Option<PathBuf>, name: &str| {
        let path = match path {
            None => dir.file(name),
            // Prompts are read only; what is written is each blade's own.
            Some(path) if blade == 0 || name == "prompts" => path.clone(),
            Some(path) => path.join(blade_folder(blade.into())),
        };
        std::path::absolute(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let media = MediaConfig {
        media: options.media,
        prompts: Some(absolute(&options.prompts, "prompts")?),
        spool: Some(dir.file("spool")),
        mode: options.xdp,
        bpffs: options.bpffs.clone().unwrap_or_else(|| dir.pins()),
        ..MediaConfig::of_ccb(number)
    };
    let config = Config {
        pool: None,
        agent_proxies: Vec::new(),
        control: Control {
            // Each location's agents reach the CTI at their own address (S1-018).
            http: locations.iter().map(|at| SocketAddr::new(at.ip, options.http)).collect(),
            admin: dir.file(ADMIN_SOCKET),
            directory: control_server::DirectoryPlace::Sqlite(main.file("directory.sqlite")),
            state: dir.path().to_owned(),
            recordings: absolute(&options.recordings, "recordings")?,
            options_s: options.options_s,
            dns: options.dns.clone(),
            records: Some(absolute(&options.records, "records")?),
            trace_to: Vec::new(),
            balancers: Vec::new(),
            bus: bus(main, blade, shared)?,
        },
        ccbs: vec![Ccb {
            number: CcbId(number),
            region: dir.region(),
            socket: dir.file(&format!("ccb-{number}.sock")),
            cores: cores(options.cores)?,
            rtp_ports: options.rtp_ports,
            sizes,
            media,
            hep: options.hep.clone(),
            hep_agent: number.into(),
            certificates: optional_absolute(options.certificates.as_ref())?,
            locations,
        }],
    };
    // The flags are checked one by one; this checks them against each other.
    Config::parse("demo", &config.to_toml()).map_err(|faults| faults.to_string())
}

fn bus(main: &DemoDir, blade: u16, shared: Option<&Shared>) -> Result<Bus, String> {
    let Some(Shared { bus }) = shared else { return Ok(Bus::default()) };
    let server = control_server::NatsConfig::parse(&format!("nats://{bus}"))?;
    Ok(Bus {
        server: Some(server),
        blade: format!("blade-{}", blade + 1),
        token_key: Some(main.file("token.key")),
        ..Bus::default()
    })
}

/// The location at `--bind` and those of `--location`, each with a name and an address of its own.
fn locations(options: &cli::Demo, dir: &DemoDir) -> Result<Vec<Location>, String> {
    let streams = streams(options, dir)?;
    let first = (LOCAL.to_owned(), options.bind);
    let more = options.location.iter().map(|more| (more.name.clone(), more.ip));
    let locations: Vec<Location> = [first]
        .into_iter()
        .chain(more)
        .map(|(name, ip)| Location { name, ip, sip_port: options.sip, streams: streams.clone() })
        .collect();
    let mut ips = HashSet::new();
    let mut names = HashSet::new();
    for location in &locations {
        if !names.insert(&location.name) {
            return Err(format!("--location {}: that name is taken already", location.name));
        }
        if !ips.insert(location.ip) {
            return Err(format!(
                "--location {}={}: that address is another location's already",
                location.name, location.ip
            ));
        }
    }
    Ok(locations)
}

fn optional_absolute(path: Option<&PathBuf>) -> Result<Option<PathBuf>, String> {
    let failed = |path: &Path, error| format!("{}: {error}", path.display());
    path.map(|path| std::path::absolute(path).map_err(|error| failed(path, error))).transpose()
}

/// By what the demo speaks SIP besides UDP. Where TLS is a part of it, it has a certificate of its own.
fn streams(options: &cli::Demo, dir: &DemoDir) -> Result<Streams, String> {
    let file = |name: &str| {
        let path = dir.file(name);
        std::path::absolute(&path).map_err(|error| format!("{}: {error}", path.display()))
    };
    let is_secure = options.tls.or(options.wss).is_some();
    Ok(Streams {
        tls_port: options.tls,
        ws_port: options.ws,
        wss_port: options.wss,
        identity: is_secure
            .then(|| Ok::<_, String>((file("tls.pem")?, file("tls.key")?)))
            .transpose()?,
        ca: match optional_absolute(options.tls_ca.as_ref())? {
            Some(ca) => Some(ca),
            None => is_secure.then(|| file(ROOT)).transpose()?,
        },
        ask_clients: options.trunk.iter().any(|by| matches!(by, TrunkKey::Certificate(_))),
        ..Streams::default()
    })
}

/// Makes the folders of prompts, recordings and their spool.
pub fn make_folders(config: &Config) -> Result<(), String> {
    let media = &config.ccbs[0].media;
    let folders = [media.prompts.as_ref(), media.spool.as_ref(), Some(&config.control.recordings)];
    folders.into_iter().flatten().try_for_each(|folder| {
        std::fs::create_dir_all(folder).map_err(|error| format!("{}: {error}", folder.display()))
    })
}

/// The folder of a blade that is not the first, in the demo's.
pub fn blade_folder(blade: usize) -> String {
    format!("blade-{}", blade + 1)
}

/// Refuses a folder whose sockets would have too long a path.
pub fn check_dir(dir: &Path) -> Result<(), String> {
    let dir = std::path::absolute(dir).map_err(|error| format!("{}: {error}", dir.display()))?;
    // The name is followed by the longer of the two sockets' names.
    let admin = dir.join(ADMIN_SOCKET);
    if config::is_socket_path(&admin) {
        return Ok(());
    }
    let room = config::SOCKET_PATH_BYTES - ADMIN_SOCKET.len() - 1;
    Err(format!("--dir {}: a demo's folder may have a path of {room} bytes", dir.display()))
}

/// Each trunk and each route must be given once.
fn check_lists(options: &cli::Demo) -> Result<(), String> {
    let mut nets = HashSet::new();
    for trunk in &options.trunk {
        if !nets.insert(trunk.to_string()) {
            return Err(format!("--trunk {trunk}: that trunk is given twice"));
        }
    }
    let mut prefixes = HashSet::new();
    for route in &options.route {
        if !prefixes.insert(&route.prefix) {
            return Err(format!(
                "--route {}={}: that prefix has another route already",
                route.prefix, route.to
            ));
        }
    }
    Ok(())
}

/// The last cores that this process may run on: the first serve interrupts on most machines.
fn cores(wanted: Option<u16>) -> Result<Vec<usize>, String> {
    let set = rustix::thread::sched_getaffinity(None)
        .map_err(|error| format!("cannot ask for the cores: {error}"))?;
    let allowed: Vec<usize> =
        (0..rustix::thread::CpuSet::MAX_CPU).filter(|core| set.is_set(*core)).collect();
    let wanted = wanted.map_or((allowed.len() / 2).max(1), usize::from);
    if wanted > allowed.len() {
        return Err(format!("--cores {wanted}: this process may use {}", allowed.len()));
    }
    Ok(allowed[allowed.len() - wanted..].to_vec())
}

/// Writes the directory: the tenant, its agents, locations, trunks and routes.
pub async fn create_tenant(options: &cli::Demo, configs: &[Config]) -> Result<(), String> {
    let config = &configs[0];
    let ccbs = configs.iter().map(|config| {
        let ccb = &config.ccbs[0];
        let location = |at: &Location| control_server::DemoLocation {
            name: at.name.clone(),
            ip: at.ip,
            sip: spoken(at),
            http_port: config.control.http[0].port(),
        };
        (ccb.number, ccb.locations.iter().map(location).collect())
    });
    let spec = control_server::DemoSpec {
        tenant: TENANT.to_owned(),
        agents: options.agents,
        ccbs: ccbs.collect(),
        trunks: options.trunk.clone(),
        queues: options.queue.clone(),
        srtp: options.srtp,
        routes: options.route.iter().map(|r| (r.prefix.clone(), r.to.clone())).collect(),
    };
    let place = &config.control.directory;
    let failed = |error: control_server::DirectoryError| format!("{place}: {error}");
    let directory = control_server::Directory::open(place).await.map_err(failed)?;
    directory.create_demo(&spec).await.map_err(failed)?;
    directory.close().await;
    Ok(())
}

/// By what a location speaks SIP, and at which ports.
fn spoken(at: &Location) -> Vec<(Transport, u16)> {
    let port = |transport| Some((transport, at.streams.port(transport, at.sip_port)?));
    Transport::ALL.into_iter().filter_map(port).collect()
}

/// Where the blades are that are not the first.
fn other_blades(configs: &[Config], dir: &Path) -> String {
    let mut text = String::new();
    for (number, other) in configs.iter().enumerate().skip(1) {
        let at = &other.ccbs[0].locations[0];
        let spoken = at.streams.summary(at.ip, at.sip_port);
        let _ = writeln!(
            text,
            "Blade {} has CCB {}, HTTP at {}, SIP {spoken}; look at it with --dir {}.",
            number + 1,
            other.ccbs[0].number,
            other.control.http[0],
            dir.join(blade_folder(number)).display(),
        );
    }
    if configs.len() > 1 {
        text.push_str("Log in anywhere: the CDM spreads agents over the blades.\n");
    }
    text
}

/// Where to log in and what to type into a phone.
pub fn guide(options: &cli::Demo, configs: &[Config], dir: &Path) -> String {
    let config = &configs[0];
    let ccb = &config.ccbs[0];
    let last = FIRST_AGENT + options.agents - 1;
    let http = config.control.http[0];
    let (agents, then) = match options.agents {
        1 => (
            format!("agent {FIRST_AGENT}, password {TENANT}-{FIRST_AGENT}"),
            "A call needs a second agent: --agents 2.".to_owned(),
        ),
        _ => (
            format!(
                "agents {FIRST_AGENT} to {last}, passwords {TENANT}-{FIRST_AGENT} to \
                 {TENANT}-{last}"
            ),
            format!("Log {0} in likewise and call {0} from {FIRST_AGENT}.", FIRST_AGENT + 1),
        ),
    };
    let mut text = format!(
        "Jackfield runs. Tenant {TENANT}, {agents}.\n\n\
         Log an agent in:\n  curl -s http://{http}/v1/login -d '{{\"tenant\":\"{TENANT}\",\
         \"agent\":\"{FIRST_AGENT}\",\"password\":\"{TENANT}-{FIRST_AGENT}\",\
         \"location\":\"{}\"}}'\n\n\
         The answer's \"phone\" is what to type into a phone:\n  \
         address {FIRST_AGENT}.{TENANT}@{}, user \"user\", password \"secret\", realm \"realm\"\n\
         The agent is online once \"cti\".\"url\" is open with the \"token\", for example:\n  \
         websocat -H 'Authorization: Bearer TOKEN' URL\n\
         {then}\n\nLocations:\n",
        ccb.locations[0].name,
        SocketAddr::new(ccb.locations[0].ip, ccb.locations[0].sip_port),
    );
    for location in &ccb.locations {
        let spoken = location.streams.summary(location.ip, location.sip_port);
        let _ = writeln!(text, "  {:<12} SIP {spoken}", location.name);
    }
    text += &other_blades(configs, dir);
    if let Some((certificate, _)) = &ccb.locations[0].streams.identity {
        let root = certificate.with_file_name(ROOT);
        let _ = writeln!(text, "Phones verify the demo by {}.", root.display());
    }
    for route in &options.route {
        let _ = writeln!(text, "Numbers {}... go to {}.", route.prefix, route.to);
    }
    let flag = if dir.canonicalize().ok() == demo_dir().canonicalize().ok() {
        String::new()
    } else {
        format!(" --dir {}", dir.display())
    };
    let _ = write!(
        text,
        "\nPrompts are read from {}, recordings come to {}, call records to {}.\n\
         The API: http://{http}/v1/openapi.json\n\
         Look at it: jackfield status{flag}, and agents, calls, top likewise; \
         jackfield call plays, records and mixes. Ctrl-C stops it.",
        ccb.media.prompts.as_deref().unwrap_or(Path::new("nowhere")).display(),
        config.control.recordings.display(),
        config.control.records.as_deref().unwrap_or(Path::new("nowhere")).display(),
    );
    text
}

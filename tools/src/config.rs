//! The configuration file: one for the control process and for every CCB of a blade.

mod agent_proxy;
mod bus;
mod media;
mod pool;
mod read;
mod streams;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use base::{CcbId, Transport};
use control_server::{Cidr, DirectoryPlace};
use driver::Sizes;
use toml::de::DeTable;

pub use agent_proxy::AgentProxy;
pub use bus::Bus;
pub use media::{Media, MediaConfig, XdpMode};
pub use pool::Pool;
pub use read::Faults;
use read::{Found, Report, Table};
pub use streams::Streams;

/// SIP's port (RFC 3261, 19.1.2).
pub const SIP_PORT: u16 = 5060;
/// The default range of RTP and RTCP ports of each location.
pub const RTP_PORTS: (u16, u16) = (30_000, 60_000);
/// The lowest port that RTP may use: those below belong to well-known services.
const LOWEST_RTP_PORT: u16 = 1024;
/// The pairs of RTP and RTCP ports that a worker needs at each location at least.
const PAIRS_PER_WORKER: usize = 2;
/// The longest path of a UNIX socket: `sun_path` less its NUL and the suffix under which control
/// makes the socket before it takes its name.
pub const SOCKET_PATH_BYTES: usize = 107 - ".new".len();
/// One worker a core, and a worker's number is a byte in every row.
const MAX_WORKERS: usize = 64;
/// A location's place is a byte, and each worker holds a SIP socket for each.
const MAX_LOCATIONS: usize = 16;

/// What the file says, checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// The blade's control process.
    pub control: Control,
    /// Its CCBs, at least one unless it works with other blades.
    pub ccbs: Vec<Ccb>,
    /// AgentProxies that may run on it.
    pub agent_proxies: Vec<AgentProxy>,
    /// Those of both that are started and stopped with the load or by order.
    pub pool: Option<Pool>,
}

/// `[control]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Control {
    /// Where the AgentProxy and the CTI WebSocket listen, at least one address.
    pub http: Vec<SocketAddr>,
    /// The UNIX socket of the command line tools.
    pub admin: PathBuf,
    /// Where the directory is kept: an SQLite file, or a PostgreSQL database.
    pub directory: DirectoryPlace,
    /// What must survive a restart of control, such as the key of its tokens.
    pub state: PathBuf,
    /// The folder that recordings are made in.
    pub recordings: PathBuf,
    /// How often trunks that routes lead to are asked whether they are there, in seconds; 0 for never.
    pub options_s: u32,
    /// The DNS servers that trunks' names are asked of; the machine's when there are none.
    pub dns: Vec<SocketAddr>,
    /// The folder of call records, a line for each leg; without one none are kept.
    pub records: Option<PathBuf>,
    /// Where traces of signalling may be sent besides this machine's loopback addresses.
    pub trace_to: Vec<Cidr>,
    /// Where HTTP balancers are, which are believed who their client is.
    pub balancers: Vec<Cidr>,
    /// Other blades.
    pub bus: Bus,
}

/// `[[ccb]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ccb {
    /// The CCB's device number (S1-035).
    pub number: CcbId,
    /// The file of the shared memory.
    pub region: PathBuf,
    /// The UNIX socket between control and this data plane.
    pub socket: PathBuf,
    /// The cores, one worker each.
    pub cores: Vec<usize>,
    /// The lowest and the highest port for RTP and RTCP.
    pub rtp_ports: (u16, u16),
    /// The sizes of the region.
    pub sizes: Sizes,
    /// How it moves media.
    pub media: MediaConfig,
    /// The capture server that gets a copy of each SIP message by HEP3, as HOST:PORT; none without.
    pub hep: Option<String>,
    /// The number that it captures under.
    pub hep_agent: u32,
    /// The folder of certificates that are shown by name, and of those that trunks' routes name; none without.
    pub certificates: Option<PathBuf>,
    /// The SBC addresses, at least one.
    pub locations: Vec<Location>,
}

/// `[[ccb.location]]`
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The name that agents log in with (S1-036).
    pub name: String,
    /// The address that the location's phones reach, for SIP and RTP.
    pub ip: IpAddr,
    /// The port of SIP over UDP, and over TCP unless that is off.
    pub sip_port: u16,
    /// Connections.
    pub streams: Streams,
}

impl Config {
    /// Reads `file`.
    pub fn load(file: &Path) -> Result<Config, String> {
        let name = file.display().to_string();
        let text = std::fs::read_to_string(file).map_err(|error| format!("{name}: {error}"))?;
        Config::parse(&name, &text).map_err(|faults| faults.to_string())
    }

    /// Reads `text`, which came from the file `name`, and reports all that is wrong with it.
    pub fn parse(name: &str, text: &str) -> Result<Config, Faults> {
        let report = Report::new(text);
        let (document, errors) = DeTable::parse_recoverable(text);
        for error in &errors {
            report.fault(&error.span().unwrap_or(0..0), "", error.message().replace('\n', "; "));
        }
        // What a broken document still holds is guesswork; its fields are checked once it is TOML.
        let config = if errors.is_empty() {
            let root = Table::new(&report, document.get_ref(), document.span(), String::new());
            read_config(&root)
        } else {
            None
        };
        let faults = report.finish();
        match config {
            Some(config) if faults.is_empty() => Ok(config),
            _ => Err(Faults { file: name.to_owned(), faults }),
        }
    }

    /// The CCB with that device number, or the only one when no number is given.
    pub fn ccb(&self, number: Option<u16>) -> Result<&Ccb, String> {
        let numbers = || {
            let numbers: Vec<_> = self.ccbs.iter().map(|ccb| ccb.number.to_string()).collect();
            numbers.join(", ")
        };
        match (number, self.ccbs.as_slice()) {
            (None, [only]) => Ok(only),
            (None, _) => Err(format!("which CCB? name one with --ccb: {}", numbers())),
            (Some(number), ccbs) => ccbs
                .iter()
                .find(|ccb| ccb.number.0 == number)
                .ok_or_else(|| format!("no CCB {number} in the configuration, only {}", numbers())),
        }
    }

    /// What the file means, for people.
    pub fn summary(&self) -> String {
        let http: Vec<_> = self.control.http.iter().map(|at| format!("http://{at}")).collect();
        let mut text = format!(
            "control: AgentProxy and CTI at {}, directory {}, state {}, recordings {}, call records {}, admin socket {}",
            http.join(" and "),
            self.control.directory,
            self.control.state.display(),
            self.control.recordings.display(),
            match &self.control.records {
                Some(folder) => folder.display().to_string(),
                None => "not kept".to_owned(),
            },
            self.control.admin.display(),
        );
        let _ = write!(text, "; {}", self.control.bus.summary());
        if let Some(pool) = &self.pool {
            let _ = write!(text, "\n{}", pool.summary());
        }
        for proxy in &self.agent_proxies {
            let _ = write!(text, "\n{}", proxy.summary());
        }
        for ccb in &self.ccbs {
            let _ = write!(
                text,
                "\nccb {}: {} worker{} on cores {:?}, RTP ports {}-{}, {} agents, region {}",
                ccb.number,
                ccb.cores.len(),
                if ccb.cores.len() == 1 { "" } else { "s" },
                ccb.cores,
                ccb.rtp_ports.0,
                ccb.rtp_ports.1,
                ccb.sizes.agents,
                ccb.region.display(),
            );
            let _ = write!(text, "\n  {}", ccb.media.summary());
            if let Some(server) = &ccb.hep {
                let _ = write!(text, "; SIP is copied to {server} as agent {}", ccb.hep_agent);
            }
            for location in &ccb.locations {
                let spoken = location.streams.summary(location.ip, location.sip_port);
                let _ = write!(text, "\n  location {}: SIP {spoken}", location.name);
            }
        }
        text
    }

    /// The file that says this; [`Config::parse`] reads it back.
    pub fn to_toml(&self) -> String {
        let quote = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
        let http: Vec<_> = self.control.http.iter().map(SocketAddr::to_string).collect();
        let mut text = format!(
            "[control]\nhttp = {:?}\nadmin = {}\ndirectory = {}\nstate = {}\n\
             recordings = {}\noptions_s = {}\n",
            http,
            quote(&self.control.admin),
            toml::Value::from(self.control.directory.expose()),
            quote(&self.control.state),
            quote(&self.control.recordings),
            self.control.options_s,
        );
        text += &self.control.optional_toml();
        text += &self.control.bus.to_toml();
        for ccb in &self.ccbs {
            let sizes = &ccb.sizes;
            let _ = write!(
                text,
                "\n[[ccb]]\nnumber = {}\nregion = {}\nsocket = {}\ncores = {:?}\n\
                 rtp_ports = \"{}-{}\"\nagents = {}\ncalls_per_worker = {}\n\
                 legs_per_worker = {}\nring_slots = {}\nblob_bytes = {}\ntenants = {}\n\
                 trunks = {}\n",
                ccb.number,
                quote(&ccb.region),
                quote(&ccb.socket),
                ccb.cores,
                ccb.rtp_ports.0,
                ccb.rtp_ports.1,
                sizes.agents,
                sizes.calls_per_worker,
                sizes.legs_per_worker,
                sizes.ring_slots,
                sizes.blob_bytes,
                sizes.tenants,
                sizes.trunks,
            );
            if let Some(server) = &ccb.hep {
                let _ = writeln!(text, "hep = \"{server}\"");
            }
            let _ = writeln!(text, "hep_agent = {}", ccb.hep_agent);
            if let Some(folder) = &ccb.certificates {
                let folder = toml::Value::from(folder.display().to_string());
                let _ = writeln!(text, "certificates = {folder}");
            }
            text += &ccb.media.to_toml();
            text += &ccb.media.xdp_toml();
            for location in &ccb.locations {
                let _ = write!(
                    text,
                    "\n[[ccb.location]]\nname = {}\nip = \"{}\"\nsip_port = {}\n",
                    toml::Value::from(location.name.as_str()),
                    location.ip,
                    location.sip_port,
                );
                text += &location.streams.to_toml();
            }
        }
        for proxy in &self.agent_proxies {
            text += &proxy.to_toml();
        }
        if let Some(pool) = &self.pool {
            text += &pool.to_toml();
        }
        text
    }
}

impl Control {
    /// The fields that are there only when they say something.
    fn optional_toml(&self) -> String {
        let quote = |path: &Path| toml::Value::from(path.display().to_string()).to_string();
        let mut text = String::new();
        if !self.dns.is_empty() {
            let servers: Vec<_> = self.dns.iter().map(SocketAddr::to_string).collect();
            let _ = writeln!(text, "dns = {servers:?}");
        }
        if let Some(folder) = &self.records {
            let _ = writeln!(text, "records = {}", quote(folder));
        }
        let nets = [("trace_to", &self.trace_to), ("balancers", &self.balancers)];
        for (field, nets) in nets.into_iter().filter(|(_, nets)| !nets.is_empty()) {
            let nets: Vec<_> = nets.iter().map(Cidr::to_string).collect();
            let _ = writeln!(text, "{field} = {nets:?}");
        }
        text
    }
}

/// Parses `LOW-HIGH`, as in the file and in `demo --rtp-ports`.
pub fn parse_rtp_ports(text: &str) -> Option<(u16, u16)> {
    let (low, high) = text.split_once('-')?;
    let (low, high): (u16, u16) = (low.trim().parse().ok()?, high.trim().parse().ok()?);
    (low >= LOWEST_RTP_PORT && low < high).then_some((low, high))
}

/// True for HOST:PORT, as in the file and in `demo --hep`; an IPv6 address stands in brackets.
pub fn is_host_and_port(text: &str) -> bool {
    let Some((host, port)) = text.rsplit_once(':') else { return false };
    let is_ipv6 = || {
        let inside = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
        inside.is_some_and(|ip| ip.parse::<std::net::Ipv6Addr>().is_ok())
    };
    let is_name = |b: u8| b.is_ascii_alphanumeric() || b == b'.' || b == b'-';
    let is_host = (1..=253).contains(&host.len()) && host.bytes().all(is_name);
    port.parse::<u16>().is_ok_and(|port| port > 0) && (is_host || is_ipv6())
}

/// The rule of [`parse_rtp_ports`].
pub const RTP_PORTS_RULE: &str = "must be LOW-HIGH with LOW < HIGH, both 1024..65535";

fn read_config(root: &Table<'_, '_>) -> Option<Config> {
    let control = root.table("control").and_then(|table| read_control(&table));
    let tables = match control.as_ref().is_some_and(|control| control.bus.server.is_some()) {
        // A blade without CCBs takes logins for the others.
        true => root.optional_tables("ccb"),
        false => root.tables("ccb"),
    };
    let ccbs: Vec<Option<Ccb>> = tables.iter().map(read_ccb).collect();
    let proxies = root.optional_tables("agent_proxy");
    let agent_proxies: Vec<Option<AgentProxy>> =
        proxies.iter().map(|table| agent_proxy::read(table, control.as_ref())).collect();
    let pool = root.subtable("pool").map(|table| pool::read(&table, &ccbs, &agent_proxies));
    root.finish();
    let mut seen = Seen::default();
    if let (Some(control), Some(table)) = (&control, root.subtable("control")) {
        seen.check_control(&table, control);
    }
    for (table, ccb) in tables.iter().zip(&ccbs) {
        if let Some(ccb) = ccb {
            seen.check(table, ccb);
        }
    }
    for (table, proxy) in proxies.iter().zip(&agent_proxies) {
        if let Some(proxy) = proxy {
            seen.check_proxy(table, proxy);
        }
    }
    let pool = match pool {
        Some(read) => Some(read?),
        None => None,
    };
    Some(Config {
        control: control?,
        ccbs: ccbs.into_iter().collect::<Option<Vec<_>>>()?,
        agent_proxies: agent_proxies.into_iter().collect::<Option<Vec<_>>>()?,
        pool,
    })
}

/// The rule of a DNS server.
const DNS_RULE: &str = "must be ADDRESS:PORT, as in 192.0.2.53:53";

fn parse_dns(text: &str) -> Option<SocketAddr> {
    text.parse::<SocketAddr>().ok().filter(|server| server.port() != 0)
}

fn read_control(table: &Table<'_, '_>) -> Option<Control> {
    let http =
        table.required_parsed_list("http", "must be ADDRESS:PORT, as in 192.0.2.1:8080", |text| {
            text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0)
        });
    let admin = table.required_parsed("admin", SOCKET_RULE, parse_socket);
    let directory = read_directory(table);
    let state = absolute(table, "state");
    let recordings = table.parsed("recordings", ABSOLUTE_RULE, parse_absolute);
    let beside = state.as_ref().map(|state| state.value.join("recordings")).unwrap_or_default();
    let recordings = table.or("recordings", recordings, beside);
    let options_s = table.number("options_s", 0..3_601);
    let options_s = table.or("options_s", options_s, control_server::OPTIONS_S.into());
    let records = table.parsed("records", ABSOLUTE_RULE, |text| parse_absolute(text).map(Some));
    let records = table.or("records", records, None);
    let trace_to = networks(table, "trace_to");
    let balancers = networks(table, "balancers");
    let dns = match table.has("dns") {
        true => table.required_parsed_list("dns", DNS_RULE, parse_dns),
        false => None,
    };
    table.allow("dns");
    let dns = table.or("dns", dns, Vec::new());
    let bus = Bus::read(table);
    table.finish();
    Some(Control {
        http: http?.value,
        admin: admin?.value,
        directory: directory?,
        state: state?.value,
        recordings: recordings?,
        options_s: u32::try_from(options_s?).ok()?,
        dns: dns?,
        records: records?,
        trace_to: trace_to?,
        balancers: balancers?,
        bus: bus?,
    })
}

/// Addresses or networks, none when the field is absent.
fn networks(table: &Table<'_, '_>, field: &'static str) -> Option<Vec<Cidr>> {
    let rule = "must be an address or a network, as in 192.0.2.0/24";
    let found = match table.has(field) {
        true => table.required_parsed_list(field, rule, |text| text.parse::<Cidr>().ok()),
        false => None,
    };
    table.allow(field);
    table.or(field, found, Vec::new())
}

fn read_ccb(table: &Table<'_, '_>) -> Option<Ccb> {
    let number = table.required_number("number", 1..65_536);
    let default_number = number.as_ref().map_or(0, |number| number.value);
    let media = MediaConfig::read(table, u16::try_from(default_number).unwrap_or(0));
    let default_region = PathBuf::from(format!("/dev/shm/jackfield-{default_number}"));
    let region = table.parsed("region", ABSOLUTE_RULE, parse_absolute);
    let region = table.or("region", region, default_region);
    let socket = table.required_parsed("socket", SOCKET_RULE, parse_socket);
    let cores = read_cores(table);
    let ports = table.parsed("rtp_ports", RTP_PORTS_RULE, parse_rtp_ports);
    let ports = table.or("rtp_ports", ports, RTP_PORTS);
    if let (Some((low, high)), Some(cores)) = (ports, &cores) {
        // A pair is an even port and the odd one after it. At each location a worker needs one for
        // each end of a call between two phones there.
        let first = usize::from(low).next_multiple_of(2);
        let pairs = (usize::from(high) + 1).saturating_sub(first) / 2;
        let needed = PAIRS_PER_WORKER * cores.len();
        if pairs < needed {
            let rule = format!(
                "{pairs} port pairs are too few for {} workers, which need {needed}",
                cores.len()
            );
            table.report().fault(&table.field_span("rtp_ports"), table.name("rtp_ports"), rule);
        }
    }
    let (hep, hep_agent) = read_hep(table, default_number);
    let certificates =
        table.parsed("certificates", ABSOLUTE_RULE, |text| parse_absolute(text).map(Some));
    let certificates = table.or("certificates", certificates, None);
    let sizes = read_sizes(table);
    let locations = read_locations(table);
    table.finish();
    Some(Ccb {
        number: CcbId(u16::try_from(number?.value).ok()?),
        region: region?,
        socket: socket?.value,
        cores: cores?,
        rtp_ports: ports?,
        sizes: sizes?,
        media: media?,
        hep: hep?,
        hep_agent: u32::try_from(hep_agent?).ok()?,
        certificates: certificates?,
        locations: locations?,
    })
}

/// The capture server, and the number that the CCB captures under.
fn read_hep(table: &Table<'_, '_>, number: u64) -> (Option<Option<String>>, Option<u64>) {
    let rule = "must be HOST:PORT, as in 192.0.2.9:9060 or capture.example.net:9060";
    let parse = |text: &str| is_host_and_port(text).then(|| Some(text.to_owned()));
    let server = table.parsed("hep", rule, parse);
    let agent = table.number("hep_agent", 0..1 << 32);
    (table.or("hep", server, None), table.or("hep_agent", agent, number))
}

fn read_cores(table: &Table<'_, '_>) -> Option<Vec<usize>> {
    let cores = table.required_numbers("cores", 0..1024)?;
    let fault = |rule: &str| {
        table.report().fault(&cores.span, cores.field.clone(), rule);
        None
    };
    let distinct: HashSet<u64> = cores.value.iter().copied().collect();
    if cores.value.is_empty() || cores.value.len() > MAX_WORKERS {
        return fault("must name 1 to 64 cores, one worker each");
    }
    if distinct.len() != cores.value.len() {
        return fault("must name each core once");
    }
    cores.value.iter().map(|core| usize::try_from(*core).ok()).collect()
}

fn read_sizes(table: &Table<'_, '_>) -> Option<Sizes> {
    let default = Sizes::default();
    let size = |field: &'static str, otherwise: u32, limit: u64| {
        let found = table.number(field, 1..limit + 1);
        table.or(field, found, otherwise.into()).and_then(|size| u32::try_from(size).ok())
    };
    let power = |field: &'static str, otherwise: u32, limit: u64| {
        let value = size(field, otherwise, limit)?;
        if value.is_power_of_two() {
            return Some(value);
        }
        table.report().fault(&table.field_span(field), table.name(field), "must be a power of two");
        None
    };
    let agents = size("agents", default.agents, 1 << 20);
    let calls = size("calls_per_worker", default.calls_per_worker, 1 << 20);
    let legs = size("legs_per_worker", default.legs_per_worker, 1 << 22);
    let ring_slots = power("ring_slots", default.ring_slots, 1 << 20);
    let blob_bytes = power("blob_bytes", default.blob_bytes, 1 << 28);
    let tenants = size("tenants", default.tenants, 1 << 20);
    let trunks = size("trunks", default.trunks, 1 << 20);
    Some(Sizes {
        agents: agents?,
        calls_per_worker: calls?,
        legs_per_worker: legs?,
        ring_slots: ring_slots?,
        blob_bytes: blob_bytes?,
        tenants: tenants?,
        trunks: trunks?,
    })
}

fn read_locations(ccb: &Table<'_, '_>) -> Option<Vec<Location>> {
    let tables = ccb.tables("location");
    let locations: Vec<Option<Location>> = tables.iter().map(read_location).collect();
    if let Some(table) = tables.get(MAX_LOCATIONS) {
        ccb.report().fault(table.span(), ccb.name("location"), "at most 16 locations a CCB");
    }
    let mut names = HashSet::new();
    for (table, location) in tables.iter().zip(&locations) {
        let Some(location) = location else { continue };
        if !names.insert(location.name.clone()) {
            let rule = format!("{:?} is another location's name", location.name);
            ccb.report().fault(&table.field_span("name"), table.name("name"), rule);
        }
    }
    locations.into_iter().collect::<Option<Vec<_>>>().filter(|locations| !locations.is_empty())
}

fn read_location(table: &Table<'_, '_>) -> Option<Location> {
    let name = table.required_parsed(
        "name",
        "must be 1 to 48 letters, digits, dots, dashes or underscores",
        |text| valid_location_name(text).then(|| text.to_owned()),
    );
    let ip = table.required_parsed(
        "ip",
        "must be the one IPv4 or IPv6 address that phones reach, not a wildcard",
        |text| text.parse::<IpAddr>().ok().filter(|ip| !ip.is_unspecified() && !ip.is_multicast()),
    );
    let sip_port = table.number("sip_port", 1..65_536);
    let sip_port = table.or("sip_port", sip_port, SIP_PORT.into());
    let streams = Streams::read(table);
    table.finish();
    Some(Location {
        name: name?.value,
        ip: ip?.value,
        sip_port: u16::try_from(sip_port?).ok()?,
        streams: streams?,
    })
}

/// True for a name that `[[ccb.location]]` and `demo --location` accept.
pub fn valid_location_name(name: &str) -> bool {
    (1..=48).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'))
}

/// What no two CCBs or AgentProxies of a blade may share.
#[derive(Default)]
struct Seen {
    numbers: HashSet<u16>,
    proxies: HashSet<u16>,
    paths: HashSet<PathBuf>,
    sip: HashSet<SocketAddr>,
    tcp: HashSet<SocketAddr>,
    cores: HashSet<usize>,
    ports: Vec<(IpAddr, u16, u16)>,
}

impl Seen {
    fn check_control(&mut self, table: &Table<'_, '_>, control: &Control) {
        let fault = |is_new: bool, field: &str, shown: String| {
            if !is_new {
                let rule = format!("{shown} is in use by another field or twice in this one");
                table.report().fault(&table.field_span(field), table.name(field), rule);
            }
        };
        let file = match &control.directory {
            DirectoryPlace::Sqlite(path) => Some(("directory", path)),
            DirectoryPlace::Postgres(_) => None,
        };
        let others = [("admin", &control.admin), ("recordings", &control.recordings)];
        for (field, path) in
            others[..1].iter().copied().chain(file).chain(others[1..].iter().copied())
        {
            fault(self.paths.insert(path.clone()), field, path.display().to_string());
        }
        if let Some(folder) = &control.records {
            fault(self.paths.insert(folder.clone()), "records", folder.display().to_string());
        }
        for address in &control.http {
            fault(self.tcp.insert(*address), "http", address.to_string());
        }
    }

    fn check_proxy(&mut self, table: &Table<'_, '_>, proxy: &AgentProxy) {
        let fault = |field: &str, shown: String| {
            let rule = format!("{shown} is in use by another field or twice in this one");
            table.report().fault(&table.field_span(field), table.name(field), rule);
        };
        if !self.proxies.insert(proxy.number) {
            fault("number", proxy.number.to_string());
        }
        for (field, path) in [("admin", &proxy.admin), ("state", &proxy.state)] {
            if !self.paths.insert(path.clone()) {
                fault(field, path.display().to_string());
            }
        }
        for address in &proxy.http {
            if !self.tcp.insert(*address) {
                fault("http", address.to_string());
            }
        }
    }

    fn check(&mut self, table: &Table<'_, '_>, ccb: &Ccb) {
        let fault = |field: &str, rule: String| {
            table.report().fault(&table.field_span(field), table.name(field), rule);
        };
        if !self.numbers.insert(ccb.number.0) {
            fault("number", format!("{} is another CCB's number", ccb.number));
        }
        for (field, path) in [("region", &ccb.region), ("socket", &ccb.socket)] {
            if !self.paths.insert(path.clone()) {
                fault(field, format!("{} is in use by another field", path.display()));
            }
        }
        let pins = [("xdp", Some(&ccb.media.bpffs)), ("spool", ccb.media.spool.as_ref())];
        for (field, path) in pins.into_iter().filter_map(|(field, path)| Some((field, path?))) {
            if !self.paths.insert(path.clone()) {
                fault(field, format!("{} is in use by another field", path.display()));
            }
        }
        for core in &ccb.cores {
            if !self.cores.insert(*core) {
                fault("cores", format!("core {core} runs a worker of another CCB"));
            }
        }
        let (low, high) = ccb.rtp_ports;
        let mut ips = HashSet::new();
        for location in &ccb.locations {
            let sip = SocketAddr::new(location.ip, location.sip_port);
            if !self.sip.insert(sip) {
                fault("location", format!("{sip} is another location's SIP address"));
            }
            for transport in Transport::ALL.into_iter().filter(|it| it.is_reliable()) {
                let port = location.streams.port(transport, location.sip_port);
                let at = port.map(|port| SocketAddr::new(location.ip, port));
                if let Some(at) = at.filter(|at| !self.tcp.insert(*at)) {
                    let rule = format!("{at} over {transport} is in use by another field");
                    fault("location", rule);
                }
            }
            if (low..=high).contains(&location.sip_port) {
                let rule = format!("SIP port {} lies within rtp_ports {low}-{high}", sip.port());
                fault("location", rule);
            }
            if ips.insert(location.ip)
                && self.ports.iter().any(|(ip, l, h)| *ip == location.ip && *l <= high && low <= *h)
            {
                fault("rtp_ports", format!("overlap another CCB's on {}", location.ip));
            }
        }
        self.ports.extend(ips.into_iter().map(|ip| (ip, low, high)));
    }
}

const ABSOLUTE_RULE: &str = "must be an absolute path";
const SOCKET_RULE: &str = "must be an absolute path of at most 103 bytes";

/// True when control and the data plane can make a socket of that path.
pub fn is_socket_path(path: &Path) -> bool {
    path.is_absolute() && path.as_os_str().len() <= SOCKET_PATH_BYTES
}

fn parse_socket(text: &str) -> Option<PathBuf> {
    Some(PathBuf::from(text)).filter(|path| is_socket_path(path))
}

/// The directory's place. A URL may hold a password, so that none is shown.
fn read_directory(table: &Table<'_, '_>) -> Option<DirectoryPlace> {
    let found = table.required_parsed("directory", "", |text| Some(text.to_owned()))?;
    let place = match found.value.parse() {
        Ok(DirectoryPlace::Sqlite(path)) if !path.is_absolute() => {
            let rule = "an absolute path, or a URL as in postgres://USER@HOST/DATABASE";
            Err(format!("{:?} must be {rule}", found.value))
        }
        place => place,
    };
    place.map_err(|rule| table.report().fault(&found.span, found.field, rule)).ok()
}

fn absolute(table: &Table<'_, '_>, field: &'static str) -> Option<Found<PathBuf>> {
    table.required_parsed(field, ABSOLUTE_RULE, parse_absolute)
}

fn parse_absolute(text: &str) -> Option<PathBuf> {
    Some(PathBuf::from(text)).filter(|path| path.is_absolute())
}

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use base::CcbId;
use control_core::{Cidr, Strategy};

use crate::bus::BusConfig;
use crate::directory::Place;
use crate::{pool, recordings};

/// How often trunks are asked whether they are there, in seconds.
pub const OPTIONS_S: u32 = 30;

/// The longest time that an AgentProxy that stops may still take logins, in seconds.
pub const LONGEST_DRAIN_S: u32 = 8;

/// How long an AgentProxy that stops still takes logins, in seconds, so that balancers notice.
pub const PROXY_DRAIN_S: u32 = 5;

/// What a cluster is called that nobody named.
pub const CLUSTER: &str = "jackfield";

/// This machine's name as the name of a blade: up to 64 letters, digits, dashes or underscores.
pub fn host_name() -> String {
    let uname = rustix::system::uname();
    let name = uname.nodename().to_string_lossy();
    let name = name.split('.').next().unwrap_or_default();
    let is_plain = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let name: String = name.chars().filter(is_plain).take(64).collect();
    if name.is_empty() { "blade".to_owned() } else { name }
}

/// What a control process is started with; the `jackfield` binary builds it from TOML.
#[derive(Clone, Debug)]
pub struct Config {
    /// The addresses that serve logins, the CTI WebSocket and health (S1-018: usually one a location,
    /// each behind that location's firewall). Port 0 takes any free port.
    pub http: Vec<SocketAddr>,
    /// The UNIX socket of the admin API; created with mode 0600, an old one is replaced.
    pub admin: PathBuf,
    /// The folder for what control keeps: `token.key`, unless `token_key` says otherwise. Created with mode 0700 when it is missing.
    pub state: PathBuf,
    /// Where the directory is kept. Blades that share one keep it in PostgreSQL.
    pub directory: Place,
    /// The CCBs of this blade.
    pub ccbs: Vec<CcbConfig>,
    /// The file with the key that signs tokens (32 bytes, mode 0600, created when it is missing);
    /// `None` is `token.key` in the state folder. Blades that share a directory share the key.
    pub token_key: Option<PathBuf>,
    /// How long a token may live at most; it dies earlier with its login.
    pub token_life: Duration,
    /// How long a phone's SIP registration may last before it must be refreshed (`phone.expires_s`).
    pub registration_life: Duration,
    /// The cost of password hashes that this process makes. Hashes carry their own parameters, so
    /// those of the directory stay valid when it changes.
    pub hash_cost: HashCost,
    /// Logins whose password is being checked at the same time; each costs the memory of
    /// [`HashCost`]. More wait for their turn.
    pub parallel_password_checks: usize,
    /// True to tell systemd of readiness and feed its watchdog (Type=notify); harmless without it.
    pub notify: bool,
    /// The folder of call records, a file a day (`2026-01-31.jsonl`) with a line for each leg; created
    /// when it is missing. None keeps no records.
    pub records: Option<PathBuf>,
    /// Where traces of signalling may be sent besides this machine's loopback addresses.
    pub trace_to: Vec<Cidr>,
    /// Where HTTP balancers are: they speak for many, and are believed who their client is (X-Forwarded-For).
    pub balancers: Vec<Cidr>,
    /// Where recordings come from and go to; none makes no recordings.
    pub recordings: Option<recordings::Config>,
    /// How often trunks that routes lead to are asked whether they are there, in seconds; 0 for never.
    pub options_s: u32,
    /// The DNS servers that trunks' names are asked of; the machine's when there are none.
    pub dns: Vec<SocketAddr>,
    /// The CCBs that are started and stopped with the load or by order; none without.
    pub pool: Option<pool::Config>,
    /// The bus on which this blade meets others.
    pub bus: BusConfig,
    /// Its name there: 1 to 64 letters, digits, dashes or underscores.
    pub blade: String,
    /// Blades of one cluster meet; those of others on the same bus are not seen.
    pub cluster: String,
    /// How the CDM chooses among the CCBs of all blades while this one leads; the blades of a cluster should agree.
    pub strategy: Strategy,
    /// Its number when it is an AgentProxy and nothing else (S1-067): it has no CCB, and needs a bus.
    pub agent_proxy: Option<u16>,
    /// How long it still takes logins when it is to stop, in seconds, at most [`LONGEST_DRAIN_S`]; `/ready` says 503
    /// meanwhile, so that balancers send nobody new.
    pub drain_s: u32,
}

/// One CCB of this blade: a data plane process and the region it made.
#[derive(Clone, Debug)]
pub struct CcbConfig {
    /// Its device number (S1-035), the same as in the data plane's configuration.
    pub id: CcbId,
    /// The region's file, normally in /dev/shm.
    pub region: PathBuf,
    /// The UNIX socket on which the data plane hands out its doorbells.
    pub socket: PathBuf,
    /// The directory of its spool of recordings; none when it records nothing.
    pub spool: Option<PathBuf>,
}

/// The cost of an argon2id hash (RFC 9106).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HashCost {
    /// Memory in KiB.
    pub memory_kib: u32,
    /// Passes over the memory.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl HashCost {
    /// OWASP's first choice for argon2id: 19 MiB, two passes, one lane.
    pub const REAL: HashCost = HashCost { memory_kib: 19 * 1024, passes: 2, lanes: 1 };

    /// For demonstrations, where 20,000 hashes are made at start and no password is a secret.
    pub const DEMO: HashCost = HashCost { memory_kib: 8, passes: 1, lanes: 1 };
}

impl Config {
    /// A configuration with the default for everything but the places; `state` is the folder that
    /// the directory (`directory.sqlite`) and the admin socket (`control.sock`) go to.
    pub fn new(state: PathBuf, http: Vec<SocketAddr>, ccbs: Vec<CcbConfig>) -> Self {
        Config {
            http,
            admin: state.join("control.sock"),
            directory: Place::Sqlite(state.join("directory.sqlite")),
            ccbs,
            token_key: None,
            token_life: Duration::from_secs(12 * 3600),
            registration_life: Duration::from_secs(3600),
            hash_cost: HashCost::REAL,
            parallel_password_checks: 4,
            notify: true,
            records: None,
            trace_to: Vec::new(),
            balancers: Vec::new(),
            recordings: None,
            options_s: OPTIONS_S,
            dns: Vec::new(),
            pool: None,
            bus: BusConfig::Alone,
            blade: host_name(),
            cluster: CLUSTER.to_owned(),
            strategy: Strategy::default(),
            agent_proxy: None,
            drain_s: 0,
            state,
        }
    }
}

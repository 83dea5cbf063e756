//! The command line.

mod call;
mod directory;
mod forward;
mod pool;
mod queue;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use abi::SrtpPolicy;
use clap::{Args, Parser, Subcommand};
use control_server::{Destination, QUEUE_RULE, TrunkKey, is_queue_name};

use crate::config::{self, Media, XdpMode};
pub use call::{CallCommand, Leg, To, Transfer};
pub use directory::{DirectoryCommand, Export, Format, Import};
pub use forward::{ForwardCommand, HoldMusic, Set, Srtp, Tenant};
pub use pool::PoolCommand;
pub use queue::{QueueCommand, SetQueue};

/// Jackfield, a cloud contact centre.
#[derive(Debug, Parser)]
#[command(name = "jackfield", version, about, max_term_width = 100)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The subcommands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the data plane of one CCB
    Dataplane(Dataplane),
    /// Run the control process
    Control(Control),
    /// Run an AgentProxy, which takes logins for the CCBs of all blades
    #[command(name = "agentproxy")]
    AgentProxy(AgentProxy),
    /// Run a whole demo on this machine: control, one CCB, a demo tenant
    Demo(Box<Demo>),
    /// Show the CCBs, their workers and what they count
    Status(View),
    /// Show the blades that meet on the bus, who leads, and all their CCBs
    Blades(View),
    /// Show who is logged in
    Agents(View),
    /// Show which agents are hosted where: by which CCB, what for, since when
    Leases(View),
    /// Show the calls in progress
    Calls(View),
    /// Play, record, mix, collect digits in a call that stands; transfer it, or begin one
    #[command(subcommand)]
    Call(CallCommand),
    /// Show live signalling as a ladder: who sends which message to whom
    Trace(Trace),
    /// Show and set where calls go that are not taken
    #[command(subcommand)]
    Forward(ForwardCommand),
    /// Show the slots of the pool of all blades, and order CCBs and AgentProxies from it and back
    #[command(subcommand)]
    Pool(PoolCommand),
    /// Set what held parties hear
    HoldMusic(HoldMusic),
    /// Set whether phones, or the peers of a trunk, speak SRTP
    Srtp(Srtp),
    /// Write tenants, agents, locations and mappings to files, or read them from files
    #[command(subcommand)]
    Directory(DirectoryCommand),
    /// Show the queues: who waits, how long, who could serve them
    Queues(View),
    /// Create, change and remove queues; make agents ready
    #[command(subcommand)]
    Queue(QueueCommand),
    /// Watch it live
    Top(Top),
    /// Work on configuration files
    #[command(subcommand)]
    Config(ConfigCommand),
    /// Log agents in, register their phones and let them call each other
    Load(Box<Load>),
}

/// `config ...`
#[derive(Debug, Subcommand)]
pub enum ConfigCommand {
    /// Read FILE, print what it means or all that is wrong with it
    Check {
        /// The configuration file
        file: PathBuf,
    },
}

/// `dataplane`
#[derive(Debug, Args)]
pub struct Dataplane {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The device number of the CCB to run; needed when the file has several
    #[arg(long, value_name = "NUMBER")]
    pub ccb: Option<u16>,
    /// Stop when the process with this id, the parent, is gone.
    #[arg(long, hide = true, value_name = "PID")]
    pub die_with_parent: Option<u32>,
}

/// `control`
#[derive(Debug, Args)]
pub struct Control {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// The folder of call records, a file a day and a line for each leg [default: control.records of the
    /// configuration, else none are kept]
    #[arg(long, value_name = "DIR")]
    pub records: Option<PathBuf>,
    /// Stop when the process with this id, the parent, is gone.
    #[arg(long, hide = true, value_name = "PID")]
    pub die_with_parent: Option<u32>,
}

/// `agentproxy`
#[derive(Debug, Args)]
pub struct AgentProxy {
    /// The configuration file
    #[arg(long, value_name = "FILE")]
    pub config: PathBuf,
    /// Its number in the file
    #[arg(long, value_name = "NUMBER")]
    pub number: u16,
}

/// Where a running Jackfield is found.
#[derive(Debug, Clone, Args)]
pub struct Where {
    /// The folder with jackfield.toml [default: the demo's, else /etc/jackfield]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
}

/// `status`, `agents`, `calls`
#[derive(Clone, Debug, Args)]
pub struct View {
    /// Where it runs.
    #[command(flatten)]
    pub at: Where,
    /// Print what control answers, as JSON
    #[arg(long)]
    pub json: bool,
}

/// `top`
#[derive(Debug, Args)]
pub struct Top {
    /// Where it runs.
    #[command(flatten)]
    pub at: Where,
    /// Milliseconds between two looks
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 500,
        value_parser = clap::value_parser!(u64).range(50..=60_000),
    )]
    pub every: u64,
}

/// `trace`
#[derive(Debug, Args)]
pub struct Trace {
    /// Where it runs.
    #[command(flatten)]
    pub at: Where,
    /// The signalling of all calls and registrations; what is shown when nothing is named
    #[arg(value_name = "all", value_parser = ["all"], conflicts_with_all = ["call", "number"])]
    pub all: Option<String>,
    /// One call: its serial number, or its name as `jackfield calls` prints it
    #[arg(long, value_name = "SERIAL", conflicts_with = "number")]
    pub call: Option<String>,
    /// The calls in which this number has a part, from their first INVITE on
    #[arg(long, value_name = "NUMBER")]
    pub number: Option<String>,
    /// For how many seconds
    #[arg(
        long = "for",
        value_name = "SECONDS",
        default_value_t = 60,
        value_parser = clap::value_parser!(u64).range(1..=3_600),
    )]
    pub seconds: u64,
    /// Where copies of the messages are sent to this tool; what is no loopback address must be allowed by
    /// `control.trace_to`
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    pub to: SocketAddr,
    /// Print each message as a line of JSON
    #[arg(long)]
    pub json: bool,
}

/// `demo`
#[derive(Debug, Clone, Args)]
pub struct Demo {
    /// The address of HTTP and of the first location, `local`
    #[arg(long, value_name = "IP", default_value = "127.0.0.1", value_parser = parse_phones_ip)]
    pub bind: IpAddr,
    /// Employees 1001, 1002 ... with passwords demo-1001 ...
    #[arg(
        long,
        value_name = "N",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..=100_000),
    )]
    pub agents: u32,
    /// One more location with an SBC address of its own; may be repeated
    #[arg(long, value_name = "NAME=IP", value_parser = parse_location)]
    pub location: Vec<DemoLocation>,
    /// SIP peers of the demo tenant, trusted by address, or by the name that their TLS certificate is for; may be repeated
    #[arg(long, value_name = "CIDR|tls:DOMAIN")]
    pub trunk: Vec<TrunkKey>,
    /// Where numbers go that are no agent's: to a trunk, or to a service (answer, play:NAME or
    /// mix:NUMBER); of several addresses to the first that is up; may be repeated
    #[arg(long, value_name = "PREFIX=IP:PORT[,IP:PORT...]|HOST.DOMAIN[:PORT][;transport=tcp|tls][;tls_name=DOMAIN][;tls_ca=NAME][;tls_identity=NAME][;tls_verify=no]|SERVICE", value_parser = parse_route)]
    pub route: Vec<Route>,
    /// A queue, which calls reach by --route NUMBER=queue:NAME; all of the demo's agents can serve it
    #[arg(long, value_name = "NAME", value_parser = parse_queue)]
    pub queue: Vec<String>,
    /// Whether phones speak SRTP: no, allowed, offered or required
    #[arg(long, value_name = "POLICY", default_value = "allowed", value_parser = parse_srtp)]
    pub srtp: SrtpPolicy,
    /// How often trunks that routes lead to are asked by OPTIONS, in seconds; 0 for never
    #[arg(long, value_name = "SECONDS", default_value_t = control_server::OPTIONS_S)]
    pub options_s: u32,
    /// A DNS server for the names of trunks; may be repeated [default: the machine's]
    #[arg(long, value_name = "IP:PORT")]
    pub dns: Vec<SocketAddr>,
    /// The way that RTP takes
    #[arg(long, value_enum, default_value_t = Media::Auto)]
    pub media: Media,
    /// How XDP is attached to the interfaces
    #[arg(long, value_enum, default_value_t = XdpMode::Auto)]
    pub xdp: XdpMode,
    /// A folder on a bpffs: what XDP relays flows on while a killed data plane restarts [default: one
    /// for this demo's folder, /sys/fs/bpf/jackfield/demo-HASH, where a bpffs is mounted]
    #[arg(long, value_name = "DIR")]
    pub bpffs: Option<PathBuf>,
    /// The folder of prompts [default: prompts in the demo's folder]
    #[arg(long, value_name = "DIR")]
    pub prompts: Option<PathBuf>,
    /// The folder of recordings [default: recordings in the demo's folder]
    #[arg(long, value_name = "DIR")]
    pub recordings: Option<PathBuf>,
    /// The folder of call records [default: records in the demo's folder]
    #[arg(long, value_name = "DIR")]
    pub records: Option<PathBuf>,
    /// A capture server that gets a copy of each SIP message by HEP3 over UDP
    #[arg(long, value_name = "HOST:PORT", value_parser = parse_capture_server)]
    pub hep: Option<String>,
    /// How many cores the data plane uses [default: half of them]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub cores: Option<u16>,
    /// The TCP port of the AgentProxy and the CTI WebSocket
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = 8080,
        value_parser = clap::value_parser!(u16).range(1..),
    )]
    pub http: u16,
    /// The port of SIP over UDP and TCP at every location
    #[arg(
        long,
        value_name = "PORT",
        default_value_t = config::SIP_PORT,
        value_parser = clap::value_parser!(u16).range(1..),
    )]
    pub sip: u16,
    /// The port of SIP over TLS at every location; the demo makes a certificate of its own
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub tls: Option<u16>,
    /// The roots that trunks' certificates must lead to, PEM [default: the demo's own]
    #[arg(long, value_name = "FILE")]
    pub tls_ca: Option<PathBuf>,
    /// A folder of certificates: NAME.pem with NAME.key are shown to who asks for their names, and to trunks whose route
    /// says tls_identity=NAME; tls_ca=NAME is NAME.pem there
    #[arg(long, value_name = "DIR")]
    pub certificates: Option<PathBuf>,
    /// The port of SIP over WebSocket at every location
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub ws: Option<u16>,
    /// The port of SIP over WebSocket and TLS at every location
    #[arg(long, value_name = "PORT", value_parser = clap::value_parser!(u16).range(1..))]
    pub wss: Option<u16>,
    /// The UDP ports of RTP and RTCP at every location
    #[arg(
        long,
        value_name = "LOW-HIGH",
        default_value = "30000-60000",
        value_parser = parse_rtp_ports,
    )]
    pub rtp_ports: (u16, u16),
    /// How many blades, which meet on a NATS server that the demo starts; the ports of each lie 100 above those of the
    /// one before, and --rtp-ports are shared out
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=8))]
    pub blades: u16,
    /// The folder of the demo's state [default: in $XDG_RUNTIME_DIR or the system's folder for
    /// temporary files]
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,
    /// Let two built-in phones log in and call each other for 5 s, print a table and exit
    #[arg(long)]
    pub call: bool,
}

/// A location of the demo.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DemoLocation {
    /// Its name.
    pub name: String,
    /// Its SBC address.
    pub ip: IpAddr,
}

/// Numbers that begin with a prefix, and where they go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The first digits.
    pub prefix: String,
    /// A trunk or a service.
    pub to: Destination,
}

/// `load`
#[derive(Debug, Clone, Args)]
pub struct Load {
    /// Where it runs.
    #[command(flatten)]
    pub at: Where,
    /// The AgentProxy's address; --desks take any of several [default: control.http of the configuration]
    #[arg(long, value_name = "IP:PORT")]
    pub http: Vec<SocketAddr>,
    /// Instead of calls: that many desks without phones log in and are held until this program is interrupted; who
    /// loses the session logs in again by token. Prints a line of JSON whenever that changes
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub desks: Option<u32>,
    /// The tenant that the agents belong to
    #[arg(long, default_value = "demo")]
    pub tenant: String,
    /// The first employee; the others count up from it
    #[arg(long, value_name = "NUMBER", default_value_t = 1001)]
    pub first: u32,
    /// The passwords, with {} for the employee's number
    #[arg(long, value_name = "TEXT", default_value = "demo-{}")]
    pub password: String,
    /// How many agents log in and register
    #[arg(
        long,
        value_name = "N",
        default_value_t = 100,
        value_parser = clap::value_parser!(u32).range(2..=100_000),
    )]
    pub agents: u32,
    /// The locations that they log in at, in turn; may be repeated
    #[arg(long, value_name = "NAME", default_value = "local")]
    pub location: Vec<String>,
    /// How many calls are made
    #[arg(long, value_name = "M", default_value_t = 100)]
    pub calls: u32,
    /// Calls started per second
    #[arg(long, value_name = "R", default_value_t = 10.0, value_parser = parse_rate)]
    pub rate: f64,
    /// Seconds from answer to hang-up
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = parse_rate)]
    pub duration: f64,
    /// Milliseconds that a phone rings before it answers
    #[arg(
        long,
        value_name = "MS",
        default_value_t = 100,
        value_parser = clap::value_parser!(u64).range(0..=60_000),
    )]
    pub ring: u64,
    /// Send 20 ms G.711 both ways in every call
    #[arg(long)]
    pub rtp: bool,
    /// Logins in progress at a time
    #[arg(
        long,
        value_name = "N",
        default_value_t = 16,
        value_parser = clap::value_parser!(u16).range(1..=1024),
    )]
    pub logins: u16,
    /// Who calls whom
    #[arg(long, value_enum, default_value_t, conflicts_with = "rate_pps")]
    pub pairs: crate::load::Pairs,
    /// Say on standard error when the first call is about to be made and when the last is over
    #[arg(long, conflicts_with = "rate_pps")]
    pub progress: bool,
    /// Many registrations instead of many calls.
    #[command(flatten)]
    pub refresh: crate::load::RefreshOptions,
    /// Many packets instead of many calls.
    #[command(flatten)]
    pub blast: crate::load::BlastOptions,
}

fn parse_rtp_ports(text: &str) -> Result<(u16, u16), String> {
    config::parse_rtp_ports(text).ok_or_else(|| config::RTP_PORTS_RULE.to_owned())
}

fn parse_capture_server(text: &str) -> Result<String, String> {
    let rule = || "must be HOST:PORT".to_owned();
    config::is_host_and_port(text).then(|| text.to_owned()).ok_or_else(rule)
}

fn parse_location(text: &str) -> Result<DemoLocation, String> {
    let (name, ip) = text.split_once('=').ok_or("must be NAME=IP")?;
    if !config::valid_location_name(name) {
        return Err("NAME must be 1 to 48 letters, digits, dots, dashes or underscores".into());
    }
    Ok(DemoLocation { name: name.to_owned(), ip: parse_phones_ip(ip)? })
}

/// An address of this machine that goes into SIP and SDP, so that it cannot be a wildcard.
fn parse_phones_ip(text: &str) -> Result<IpAddr, String> {
    let ip: IpAddr = text.parse().map_err(|_| format!("{text:?} is no IP address"))?;
    if ip.is_unspecified() || ip.is_multicast() {
        return Err(format!("{ip} is no address that a phone could reach"));
    }
    Ok(ip)
}

fn parse_srtp(text: &str) -> Result<SrtpPolicy, String> {
    let unknown = "must be no, allowed, offered or required";
    SrtpPolicy::named(text).ok_or_else(|| unknown.into())
}

fn parse_queue(text: &str) -> Result<String, String> {
    let fits = is_queue_name(text);
    if fits { Ok(text.to_owned()) } else { Err(QUEUE_RULE.into()) }
}

fn parse_route(text: &str) -> Result<Route, String> {
    let (prefix, to) = text.split_once('=').ok_or("must be PREFIX=IP:PORT or PREFIX=SERVICE")?;
    let digits = prefix.strip_prefix('+').unwrap_or(prefix);
    let dialled = digits.bytes().all(|b| b.is_ascii_digit() || b == b'*' || b == b'#');
    if prefix.is_empty() || prefix.len() > 24 || !dialled {
        return Err("PREFIX must be 1 to 24 digits, stars or hashes, or + and digits".into());
    }
    Ok(Route { prefix: prefix.to_owned(), to: to.parse()? })
}

fn parse_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| "must be a number".to_owned())?;
    if rate.is_finite() && rate > 0.0 && rate <= 100_000.0 {
        Ok(rate)
    } else {
        Err("must be above 0 and at most 100000".into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Command, clap::Error> {
        Cli::try_parse_from(line.split_whitespace()).map(|cli| cli.command)
    }

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
    }

    #[test]
    fn the_flags_of_demo_keep_their_names() {
        let line = "jackfield demo --bind 127.0.0.1 --agents 20000 --location east=127.0.0.2 \
                    --location west=::1 --trunk 10.0.0.0/8 --trunk 192.0.2.7 \
                    --route 9=127.0.0.9:5060,127.0.0.8:5062 --options-s 10 --route 700=answer --route 701=play:welcome.wav \
                    --route 702=mix:1 --media recvmmsg --prompts /p --recordings /r --cores 2 --http 8081 --sip 5070 \
                    --rtp-ports 40000-41000 --dir /tmp/x --call";
        let Command::Demo(demo) = parse(line).unwrap() else { panic!() };
        assert_eq!(
            demo.location[1],
            DemoLocation { name: "west".into(), ip: "::1".parse().unwrap() }
        );
        assert_eq!(demo.trunk[0].to_string(), "10.0.0.0/8");
        assert_eq!(demo.trunk[1].to_string(), "192.0.2.7/32");
        let routes: Vec<_> = demo.route.iter().map(|route| route.to.to_string()).collect();
        assert_eq!(demo.options_s, 10);
        assert_eq!(
            routes,
            ["127.0.0.9:5060,127.0.0.8:5062", "answer", "play:welcome.wav", "mix:1"]
        );
        assert_eq!(demo.media, Media::Recvmmsg);
        assert_eq!(demo.prompts, Some("/p".into()));
        assert_eq!(demo.recordings, Some("/r".into()));
        assert_eq!((demo.agents, demo.cores, demo.http, demo.sip), (20_000, Some(2), 8081, 5070));
        assert_eq!(demo.rtp_ports, (40_000, 41_000));
        assert!(demo.call);
    }

    #[test]
    fn the_defaults_of_demo() {
        let Command::Demo(demo) = parse("jackfield demo").unwrap() else { panic!() };
        assert_eq!((demo.http, demo.sip, demo.rtp_ports), (8080, 5060, (30_000, 60_000)));
        assert_eq!(demo.bind, IpAddr::from([127, 0, 0, 1]));
        assert!(!demo.call && demo.location.is_empty());
        assert_eq!((demo.media, demo.prompts, demo.recordings), (Media::Auto, None, None));
    }

    #[test]
    fn the_commands_for_a_call_keep_their_names() {
        for line in [
            "jackfield call play 1.2 hi.wav",
            "jackfield call play 1.2:1 hi.wav --times 0 --wait --json --ccb 3 --dir /x",
            "jackfield call stop 1.2",
            "jackfield call collect 1.2:0 --max 4 --first 5s --next 3s --end # --barge-in",
            "jackfield call record 1.2",
            "jackfield call record 1.2:1 --pause",
            "jackfield call record 1.2 --resume",
            "jackfield call record 1.2 --stop",
            "jackfield call mix 1.2:0 7 --role monitor",
            "jackfield call mix 1.2 7 --role whisper --to 3.4:1",
            "jackfield call leave 1.2",
            "jackfield call hang-up 1.2",
            "jackfield trace",
            "jackfield trace all --for 5 --json --dir /x",
            "jackfield trace --call 00000000000000123456",
            "jackfield trace --number 1001 --for 3600",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn wrong_values_are_refused() {
        for line in [
            "jackfield demo --rtp-ports 60000-30000",
            "jackfield demo --rtp-ports 80-90",
            "jackfield demo --location east",
            "jackfield demo --location =127.0.0.1",
            "jackfield demo --location east=0.0.0.0",
            "jackfield demo --bind 0.0.0.0",
            "jackfield demo --bind ::",
            "jackfield demo --trunk 10.0.0.0/33",
            "jackfield demo --route 9=127.0.0.1",
            "jackfield demo --route x=127.0.0.1:5060",
            "jackfield demo --route 9=echo",
            "jackfield demo --route 9=mix:0",
            "jackfield demo --route 9=play:../x",
            "jackfield demo --media fast",
            "jackfield call hang-up 12.3:1",
            "jackfield call play 1 hi.wav",
            "jackfield call play 1.2 ../hi.wav",
            "jackfield call collect 1.2 --max 65",
            "jackfield call collect 1.2 --first 5",
            "jackfield call collect 1.2 --end x",
            "jackfield call record 1.2 --pause --stop",
            "jackfield call mix 1.2 0",
            "jackfield call mix 1.2 4096",
            "jackfield call mix 1.2 1 --role whisper",
            "jackfield demo --cores 0",
            "jackfield demo --hep capture",
            "jackfield trace some",
            "jackfield trace --call 1 --number 2",
            "jackfield trace all --number 2",
            "jackfield trace --for 0",
            "jackfield load --rate 0",
            "jackfield load --rate inf",
            "jackfield config",
            "jackfield dataplane",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}

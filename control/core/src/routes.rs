//! Where numbers go that are no agent's: by the longest prefix to a trunk's address, or to a service
//! of the data plane itself.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;

use abi::{AgentRow, Why};
use base::{LocationId, TenantId, Transport};

use crate::acd::{QUEUE_RULE, is_queue_name};

mod name;
mod tls;

pub use name::TrunkName;
pub use tls::{TrunkKey, TrunkTls};

/// A network of addresses, such as `10.0.0.0/8`; an address alone is a network of one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Cidr {
    /// The network's address.
    pub ip: IpAddr,
    /// How many of its leading bits count, of 32 or of 128.
    pub bits: u8,
}

impl Cidr {
    /// How many bits count when the address is written as IPv6 (v4-mapped).
    pub fn mapped_bits(&self) -> u32 {
        match self.ip {
            IpAddr::V4(_) => 96 + u32::from(self.bits),
            IpAddr::V6(_) => u32::from(self.bits),
        }
    }
}

impl Cidr {
    /// True when the network has `ip`.
    pub fn contains(&self, ip: IpAddr) -> bool {
        let mapped = |ip: IpAddr| match ip.to_canonical() {
            IpAddr::V4(ip) => u128::from(ip.to_ipv6_mapped()),
            IpAddr::V6(ip) => u128::from(ip),
        };
        (mapped(ip) ^ mapped(self.ip)).leading_zeros() >= self.mapped_bits()
    }
}

impl FromStr for Cidr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (ip, bits) = match text.split_once('/') {
            Some((ip, bits)) => (ip, Some(bits)),
            None => (text, None),
        };
        let ip: IpAddr = ip.parse().map_err(|_| format!("{text:?} holds no IP address"))?;
        let limit = if ip.is_ipv4() { 32 } else { 128 };
        let bits = match bits {
            Some(bits) => bits.parse().ok().filter(|bits| *bits <= limit),
            None => Some(limit),
        };
        let bits = bits.ok_or_else(|| format!("{text:?} has no length of 0 to {limit} bits"))?;
        Ok(Cidr { ip, bits })
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.bits)
    }
}

/// A route of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// Whose it is.
    pub tenant: TenantId,
    /// The numbers that begin with this go there.
    pub prefix: String,
    /// Where they go.
    pub to: Destination,
}

/// When a call to an agent goes elsewhere (RFC 5359, 2.8 to 2.10).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum When {
    /// Before the phone rings.
    Always,
    /// While the agent is in a call, or the phone says so.
    Busy,
    /// When the phone has rung for so many seconds.
    NoAnswer(u32),
    /// When nobody is logged in with that number, or no phone can be reached.
    Unavailable,
}

impl When {
    /// Its name in the directory and the interfaces.
    pub fn name(self) -> &'static str {
        match self {
            When::Always => "always",
            When::Busy => "busy",
            When::NoAnswer(_) => "no_answer",
            When::Unavailable => "unavailable",
        }
    }

    /// The one of that name; seconds are for [`When::NoAnswer`].
    pub fn named(name: &str, after_s: u32) -> Option<When> {
        let all = [When::Always, When::Busy, When::NoAnswer(after_s), When::Unavailable];
        all.into_iter().find(|when| when.name() == name)
    }
}

/// A forwarding rule of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forward {
    /// Whose it is.
    pub tenant: TenantId,
    /// The number that is called.
    pub number: String,
    /// When its calls go elsewhere.
    pub when: When,
    /// The number that they go to: an agent's, or one that a route knows. Or several, `1001/15,1002/20`, that are
    /// tried one after another for so many seconds each; of these, what their own rules say does not count.
    pub to: String,
}

/// The forwarding rules of all tenants.
#[derive(Clone, Debug, Default)]
pub struct Forwards {
    rules: Vec<Forward>,
}

impl Forwards {
    /// Rules that are looked up by tenant, number and case.
    pub fn new(mut rules: Vec<Forward>) -> Self {
        rules.sort_by(|a, b| (a.tenant, &a.number, a.when).cmp(&(b.tenant, &b.number, b.when)));
        Forwards { rules }
    }

    /// The rules of a number.
    pub fn of(&self, tenant: TenantId, number: &[u8]) -> &[Forward] {
        let key = |rule: &Forward| (rule.tenant, rule.number.as_bytes()).cmp(&(tenant, number));
        let from = self.rules.partition_point(|rule| key(rule).is_lt());
        let count = self.rules[from..].partition_point(|rule| key(rule).is_eq());
        &self.rules[from..from + count]
    }

    /// Where a number's calls go for that reason. Who is not in the tables is not available.
    pub fn find(&self, tenant: TenantId, number: &[u8], why: Why) -> Option<&Forward> {
        self.of(tenant, number).iter().find(|rule| match (why, rule.when) {
            (Why::Always, When::Always)
            | (Why::Busy, When::Busy)
            | (Why::NoAnswer, When::NoAnswer(_))
            | (Why::Unavailable, When::Unavailable) => true,
            (Why::Called | Why::Transferred | Why::Forwarded, when) => {
                matches!(when, When::Always | When::Unavailable)
            }
            _ => false,
        })
    }

    /// What an agent's row says of the rules of its number.
    pub fn mark(&self, tenant: TenantId, row: &mut AgentRow) {
        (row.forwards, row.no_answer_s) = (0, 0);
        for rule in self.of(tenant, row.number().as_bytes()) {
            row.forwards |= match rule.when {
                When::Always => AgentRow::ALWAYS,
                When::Busy => AgentRow::BUSY,
                When::NoAnswer(after_s) => {
                    row.no_answer_s = after_s;
                    AgentRow::NO_ANSWER
                }
                When::Unavailable => AgentRow::UNAVAILABLE,
            };
        }
    }
}

/// Where a route leads.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Destination {
    /// Out to a trunk.
    Trunk {
        /// Its name, which addresses and transport are found by; without one they stand fast.
        name: Option<TrunkName>,
        /// Its addresses: calls go to the first that is up (RFC 3263, 4.3). None as long as no name was resolved.
        addresses: Vec<SocketAddr>,
        /// By what SIP goes there: UDP, TCP or TLS.
        transport: Transport,
        /// The location whose SBC sends the call; `None` is the one nearest to the address.
        location: Option<String>,
        /// How TLS is spoken there.
        tls: TrunkTls,
    },
    /// The data plane answers itself.
    Service(Service),
}

/// What the data plane does with a call that it answers itself. Written `answer`, `play:NAME`,
/// `mix:NUMBER` or `queue:NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// Answers, and waits for orders.
    Answer,
    /// Plays that prompt once and hangs up.
    Play(Arc<str>),
    /// Joins the tenant's mix of that number as a participant: a conference number.
    Mix(u32),
    /// Waits in the tenant's queue of that name for an agent (S1-005).
    Queue(Arc<str>),
}

/// The most addresses of one route.
pub const MAX_ADDRESSES: usize = 8;
const PARAMETERS: &str =
    ";transport=udp|tcp|tls, ;tls_name=DOMAIN, ;tls_ca=NAME, ;tls_identity=NAME, ;tls_verify=no";
const ADDRESSES_RULE: &str = "a route has 8 addresses at most";

/// The longest name of a prompt, in bytes: the data plane has room for no more.
pub const PROMPT_NAME_BYTES: usize = 64;
/// The rule of [`is_prompt_name`].
pub const PROMPT_RULE: &str = "a prompt's name is 1 to 64 letters, digits, dots, dashes or underscores and begins with no dot";
/// The highest number of a tenant's mix; the lowest is 1.
pub const MIXES: u32 = 4_095;
/// The rule of a mix's number.
pub const MIX_RULE: &str = "a mix is numbered 1 to 4095";
/// The bits of a region's mix number that tell a tenant's mixes apart.
const MIX_BITS: u32 = 12;

/// True for a file name that leads nowhere but into the folder of prompts.
pub fn is_prompt_name(name: &str) -> bool {
    let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    (1..=PROMPT_NAME_BYTES).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(is_plain)
}

/// The number that the data plane knows a tenant's mix by: no tenant's mix is another's. `None` when
/// one of the two is out of its range.
pub fn mix_number(tenant: TenantId, mix: u32) -> Option<u32> {
    let fits = (1..=MIXES).contains(&mix) && tenant.0 < 1 << (u32::BITS - MIX_BITS);
    fits.then_some((tenant.0 << MIX_BITS) | mix)
}

impl FromStr for Service {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once(':') {
            None if text == "answer" => Ok(Service::Answer),
            Some(("play", name)) if is_prompt_name(name) => Ok(Service::Play(name.into())),
            Some(("play", _)) => Err(PROMPT_RULE.into()),
            Some(("mix", number)) => {
                let number = number.parse().ok().filter(|mix| (1..=MIXES).contains(mix));
                number.map(Service::Mix).ok_or_else(|| MIX_RULE.into())
            }
            Some(("queue", name)) if is_queue_name(name) => Ok(Service::Queue(name.into())),
            Some(("queue", _)) => Err(QUEUE_RULE.into()),
            _ => {
                Err(format!("{text:?} is no service: answer, play:NAME, mix:NUMBER or queue:NAME"))
            }
        }
    }
}

impl fmt::Display for Service {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Service::Answer => f.write_str("answer"),
            Service::Play(name) => write!(f, "play:{name}"),
            Service::Mix(number) => write!(f, "mix:{number}"),
            Service::Queue(name) => write!(f, "queue:{name}"),
        }
    }
}

impl FromStr for Destination {
    type Err = String;

    /// Addresses with commas between them or a name, for which the nearest location sends, or a service.
    fn from_str(text: &str) -> Result<Self, String> {
        let mut parts = text.split(';');
        let list = parts.next().unwrap_or_default();
        let (mut transport, mut tls) = (None, TrunkTls::default());
        for part in parts {
            let (key, value) = part.split_once('=').unwrap_or((part, ""));
            match key {
                "transport" => transport = Some(value),
                _ if tls.take(key, value)? => {}
                _ => {
                    return Err(format!(
                        "{text:?}: unknown parameter {key}; there are {PARAMETERS}"
                    ));
                }
            }
        }
        let may_be_tls = |transport: Option<Transport>| match transport {
            Some(Transport::Tls) => true,
            // RFC 3263: a name may turn out to speak it.
            None => list.parse::<SocketAddr>().is_err() && !list.contains(','),
            Some(_) => false,
        };
        if tls != TrunkTls::default() && !may_be_tls(name::transport(transport)?) {
            return Err("tls_... needs transport=tls".into());
        }
        let addresses: Result<Vec<SocketAddr>, _> = list.split(',').map(str::parse).collect();
        if let Ok(addresses) = addresses {
            let transport = name::transport(transport)?.unwrap_or(Transport::Udp);
            return match addresses.iter().any(|address| address.port() == 0) {
                true => Err("the port must not be 0".into()),
                false if addresses.len() > MAX_ADDRESSES => Err(ADDRESSES_RULE.into()),
                false => {
                    let (name, location) = (None, None);
                    Ok(Destination::Trunk { name, addresses, transport, location, tls })
                }
            };
        }
        let is_service =
            ["answer", "play", "mix", "queue"].contains(&text.split(':').next().unwrap_or(""));
        if is_service {
            return text.parse().map(Destination::Service);
        }
        match TrunkName::parse(list, transport)? {
            Some(name) => Ok(Destination::Trunk {
                transport: name.transport.unwrap_or(Transport::Udp),
                name: Some(name),
                addresses: Vec::new(),
                location: None,
                tls,
            }),
            None => Err(format!(
                "{text:?} must be IP:PORT[,IP:PORT...] or HOST.DOMAIN[:PORT], each with or without ({PARAMETERS}), \
                 answer, play:NAME, mix:NUMBER or queue:NAME"
            )),
        }
    }
}

impl fmt::Display for Destination {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Destination::Trunk { name: Some(name), tls, .. } => write!(f, "{name}{tls}"),
            Destination::Trunk { addresses, transport, tls, .. } => {
                let texts: Vec<String> = addresses.iter().map(SocketAddr::to_string).collect();
                f.write_str(&texts.join(","))?;
                match transport {
                    Transport::Udp => Ok(()),
                    other => write!(f, ";transport={other}"),
                }?;
                tls.fmt(f)
            }
            Destination::Service(service) => service.fmt(f),
        }
    }
}

/// The routes of all tenants.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    routes: Vec<Route>,
}

impl Routes {
    /// Routes that are looked up by their longest prefix.
    pub fn new(mut routes: Vec<Route>) -> Self {
        routes.sort_by(|a, b| {
            (a.tenant, b.prefix.len(), &a.prefix).cmp(&(b.tenant, a.prefix.len(), &b.prefix))
        });
        Routes { routes }
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.routes.iter()
    }

    /// The tenant's route with the longest prefix of `number`.
    pub fn find(&self, tenant: TenantId, number: &[u8]) -> Option<&Route> {
        let from = self.routes.partition_point(|route| route.tenant < tenant);
        self.routes[from..]
            .iter()
            .take_while(|route| route.tenant == tenant)
            .find(|route| number.starts_with(route.prefix.as_bytes()))
    }
}

/// The location whose address shares the most leading bits with `to`, of the same family; the first
/// one among equals. This is the location that stands in the trunk's network, where there is one.
pub fn nearest(
    locations: impl Iterator<Item = (LocationId, IpAddr)>,
    to: IpAddr,
) -> Option<LocationId> {
    let mut best: Option<(u32, LocationId)> = None;
    for (id, ip) in locations {
        let shared = match (ip, to) {
            (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
            _ => continue,
        };
        if best.is_none_or(|(most, _)| shared > most) {
            best = Some((shared, id));
        }
    }
    best.map(|(_, id)| id)
}

#[cfg(test)]
mod tests {
    use base::Text;

    use super::*;

    fn route(tenant: u32, prefix: &str, port: u16) -> Route {
        Route {
            tenant: TenantId(tenant),
            prefix: prefix.into(),
            to: Destination::Trunk {
                name: None,
                addresses: vec![SocketAddr::from(([10, 0, 0, 1], port))],
                transport: Transport::Udp,
                location: None,
                tls: TrunkTls::default(),
            },
        }
    }

    #[test]
    fn a_destination_is_an_address_or_a_service() {
        for text in [
            "10.0.0.1:5061;transport=tls",
            "10.0.0.1:5061,10.0.0.2:5062;transport=tcp",
            "[::1]:5060;transport=tcp",
            "10.0.0.1:5060",
            "10.0.0.1:5060,[::1]:5062",
            "[::1]:5060",
            "sip.carrier.example",
            "carrier.example:5070",
            "carrier.example;tls_name=sip.carrier.example",
            "10.0.0.1:5061;transport=tls;tls_name=a.example;tls_ca=ca;tls_identity=us-1;tls_verify=no",
            "3com.example;transport=tls",
            "a-b.example.:5061;transport=udp",
            "answer",
            "play:welcome.wav",
            "mix:1",
        ] {
            assert_eq!(text.parse::<Destination>().expect("it is one").to_string(), text);
        }
        for (text, rule) in [
            ("10.0.0.1", "must be IP:PORT["),
            ("10.0.0.1:5060,", "must be IP:PORT["),
            (
                "1.1.1.1:1,1.1.1.1:2,1.1.1.1:3,1.1.1.1:4,1.1.1.1:5,1.1.1.1:6,1.1.1.1:7,1.1.1.1:8,1.1.1.1:9",
                "8 addresses",
            ),
            ("10.0.0.1:0", "port must not be 0"),
            ("10.0.0.1:5060;transport=ws", "transport must be udp, tcp or tls"),
            ("10.0.0.1:5060;transport=", "transport must be udp, tcp or tls"),
            ("echo", "must be IP:PORT["),
            ("answer:1", "is no service"),
            ("play", "is no service"),
            ("play:", "prompt's name"),
            ("play:.hidden", "prompt's name"),
            ("play:../secret.wav", "prompt's name"),
            ("mix:0", "1 to 4095"),
            ("mix:4096", "1 to 4095"),
            ("mix:", "1 to 4095"),
        ] {
            let told = text.parse::<Destination>().expect_err(text);
            assert!(told.contains(rule), "{text}: {told}");
        }
    }

    #[test]
    fn a_prompts_name_fits_the_data_plane() {
        for (bytes, fits) in [(0, false), (1, true), (64, true), (65, false)] {
            assert_eq!(is_prompt_name(&"x".repeat(bytes)), fits, "{bytes}");
            assert_eq!(bytes > 0 && Text::<64>::new("x".repeat(bytes).as_bytes()).is_ok(), fits);
        }
        assert!(PROMPT_RULE.contains(&format!("1 to {PROMPT_NAME_BYTES} ")));
    }

    #[test]
    fn no_two_tenants_share_a_mix() {
        assert_eq!(mix_number(TenantId(1), 1), Some(4_097));
        assert_eq!(mix_number(TenantId(0), MIXES), Some(4_095));
        assert_eq!(mix_number(TenantId((1 << 20) - 1), MIXES), Some(u32::MAX));
        for (tenant, mix) in [(1 << 20, 1), (1, 0), (1, 4_096)] {
            assert_eq!(mix_number(TenantId(tenant), mix), None);
        }
    }

    #[test]
    fn the_longest_prefix_of_the_tenant_wins() {
        let routes = Routes::new(vec![
            route(1, "9", 1),
            route(1, "9123", 2),
            route(1, "91", 3),
            route(2, "", 4),
            route(3, "91234", 5),
        ]);
        for (tenant, number, port) in [
            (1, "9", Some(1)),
            (1, "92", Some(1)),
            (1, "912", Some(3)),
            (1, "91234", Some(2)),
            (1, "8", None),
            (1, "", None),
            (2, "8", Some(4)),
            (2, "", Some(4)),
            (3, "9123", None),
            (0, "9", None),
            (4, "9", None),
        ] {
            let found = routes.find(TenantId(tenant), number.as_bytes());
            let port = port.map(|port| route(1, "", port).to);
            assert_eq!(found.map(|route| route.to.clone()), port, "{tenant} {number}");
        }
    }

    #[test]
    fn a_number_s_rules_are_found_by_their_case() {
        let rule = |tenant, number: &str, when, to: &str| Forward {
            tenant: TenantId(tenant),
            number: number.into(),
            when,
            to: to.into(),
        };
        let forwards = Forwards::new(vec![
            rule(2, "1001", When::Always, "9"),
            rule(1, "1001", When::NoAnswer(20), "1003"),
            rule(1, "1001", When::Busy, "1002"),
            rule(1, "10010", When::Busy, "8"),
            rule(1, "1004", When::Unavailable, "1005"),
        ]);
        for (tenant, number, why, to) in [
            (1, "1001", Why::Busy, Some("1002")),
            (1, "1001", Why::NoAnswer, Some("1003")),
            (1, "1001", Why::Unavailable, None),
            (1, "1001", Why::Called, None),
            (1, "100", Why::Busy, None),
            (1, "1004", Why::Called, Some("1005")),
            (1, "1004", Why::Forwarded, Some("1005")),
            (1, "1004", Why::Hunted, None),
            (1, "1004", Why::Busy, None),
            (2, "1001", Why::Always, Some("9")),
            (2, "1001", Why::Transferred, Some("9")),
            (3, "1001", Why::Always, None),
        ] {
            let found = forwards.find(TenantId(tenant), number.as_bytes(), why);
            assert_eq!(found.map(|rule| rule.to.as_str()), to, "{tenant} {number} {why:?}");
        }
        let mut row = AgentRow::default();
        row.set_number(Text::new(b"1001").expect("fits"));
        forwards.mark(TenantId(1), &mut row);
        assert_eq!((row.forwards, row.no_answer_s), (AgentRow::BUSY | AgentRow::NO_ANSWER, 20));
        forwards.mark(TenantId(3), &mut row);
        assert_eq!((row.forwards, row.no_answer_s), (0, 0), "old marks go");
        for when in [When::Always, When::Busy, When::NoAnswer(7), When::Unavailable] {
            assert_eq!(When::named(when.name(), 7), Some(when));
        }
        assert_eq!(When::named("sometimes", 0), None);
    }

    #[test]
    fn a_network_is_read_as_it_is_written() {
        for (text, mapped) in
            [("10.0.0.0/8", 104), ("0.0.0.0/0", 96), ("10.1.2.3/32", 128), ("fd00::/8", 8)]
        {
            let net: Cidr = text.parse().expect("it is one");
            assert_eq!(net.to_string(), text);
            assert_eq!(net.mapped_bits(), mapped);
        }
        assert_eq!("::1".parse::<Cidr>().expect("it is one").bits, 128);
        for text in ["", "10.0.0.0/33", "::/129", "10.0.0/8", "10.0.0.0/", "10.0.0.0/-1"] {
            assert!(text.parse::<Cidr>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_nearest_location_shares_the_trunks_network() {
        let places = ["127.0.0.1", "10.1.0.1", "10.2.0.1", "fd00::1"];
        let nearest = |to: &str| {
            let places = places
                .iter()
                .enumerate()
                .map(|(id, ip)| (LocationId(id as u8), ip.parse::<IpAddr>().expect("an address")));
            super::nearest(places, to.parse().expect("an address")).map(|id| id.0)
        };
        assert_eq!(nearest("10.2.0.9"), Some(2));
        assert_eq!(nearest("10.1.0.9"), Some(1));
        assert_eq!(nearest("127.0.0.1"), Some(0));
        assert_eq!(nearest("fd01::1"), Some(3));
        assert_eq!(super::nearest(std::iter::empty(), "::1".parse().expect("an address")), None);
    }
}

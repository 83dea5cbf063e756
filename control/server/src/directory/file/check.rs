//! Records to entries: each field keeps its rule.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;

use abi::SrtpPolicy;
use argon2::Params;
use argon2::password_hash::phc::PasswordHash;
use base::Transport;
use control_core::{PROMPT_RULE, When, is_prompt_name};

use super::read::Records;
use super::{Cell, Faults, Record, Spot, Table};
use crate::directory::{
    Address, Agent, DESTINATION_RULE, LONGEST_RING_S, NUMBER_RULE, Parameters, is_destination,
    is_number,
};
use crate::secret::Secret;

/// The longest SIP user, `number.tenant`, that a region holds.
const USER_BYTES: usize = 48;
/// The longest password, as logins take it.
const PASSWORD_BYTES: usize = 256;
/// The dearest hash that may be brought: each login pays for it, with memory in KiB and passes.
const HASH_MEMORY_KIB: u32 = 256 * 1024;
const HASH_PASSES: u32 = 16;

/// Tenant and agent identifier.
pub type AgentName = (String, String);
/// Tenant, number and case.
pub type ForwardName = (String, String, String);
/// CCB and location.
pub type MappingName = (u16, String);

/// Everything that a directory holds and files say, by names.
#[derive(Clone, Debug, Default)]
pub struct Entries {
    /// The tenants.
    pub tenants: BTreeMap<String, TenantEntry>,
    /// The locations of the tenants.
    pub locations: BTreeMap<(String, String), ()>,
    /// The agents.
    pub agents: BTreeMap<AgentName, Agent>,
    /// Seconds, or 0, and where calls go.
    pub forwards: BTreeMap<ForwardName, (i64, String)>,
    /// The addresses of the CTI, of the SBC and of the CCB itself.
    pub mappings: BTreeMap<MappingName, [Vec<Address>; 3]>,
}

/// A tenant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantEntry {
    /// The realm of its phones' digests.
    pub realm: String,
    /// Where an agent is who does not say.
    pub default_location: Option<String>,
    /// What held parties hear.
    pub hold_music: Option<String>,
    /// Whether its phones speak SRTP, as [`SrtpPolicy::name`] says it; none where it is as always.
    pub srtp: Option<String>,
}

/// An entry and where it is said.
#[derive(Clone, Debug)]
pub struct Said<K, V> {
    /// Where.
    pub spot: Spot,
    /// Its name.
    pub key: K,
    /// What it is.
    pub value: V,
}

/// What an import wants.
#[derive(Debug, Default)]
pub struct Wanted {
    /// The tenants.
    pub tenants: Vec<Said<String, TenantEntry>>,
    /// The locations.
    pub locations: Vec<Said<(String, String), ()>>,
    /// The agents. Without a key; the password's hash is empty where none is given.
    pub agents: Vec<Said<AgentName, Agent>>,
    /// Passwords that are given as they are, by the agents' place above.
    pub passwords: Vec<(usize, Secret)>,
    /// The forwarding rules.
    pub forwards: Vec<Said<ForwardName, (i64, String)>>,
    /// The mappings.
    pub mappings: Vec<Said<MappingName, [Vec<Address>; 3]>>,
    /// The tables that were given.
    pub tables: Vec<Table>,
    /// The one tenant that it is about.
    pub scope: Option<String>,
}

impl Wanted {
    /// What records say, as far as each keeps its rules; `scope` is the one tenant that the caller
    /// means.
    pub fn of(records: Records, scope: Option<&str>, faults: &mut Faults) -> Wanted {
        let scope = scope.map(str::to_owned).or(records.scope);
        let mut wanted = Wanted { tables: records.tables, scope, ..Wanted::default() };
        for record in &records.records {
            wanted.take(&mut Fields { record, faults });
        }
        only_once(&wanted.tenants, Table::Tenant, faults);
        only_once(&wanted.locations, Table::Location, faults);
        only_once(&wanted.agents, Table::Agent, faults);
        only_once(&wanted.forwards, Table::Forward, faults);
        only_once(&wanted.mappings, Table::Mapping, faults);
        wanted
    }

    fn take(&mut self, fields: &mut Fields<'_>) {
        let spot = fields.record.spot.clone();
        let in_scope = match (fields.record.table, &self.scope) {
            (_, None) => true,
            (Table::Mapping, Some(_)) => {
                fields.fault("ccb", "a mapping is no tenant's, and this is about one tenant");
                false
            }
            (table, Some(scope)) => {
                let field = if table == Table::Tenant { "name" } else { "tenant" };
                let is_it = matches!(fields.cell(field), Cell::Text(name) if name == scope);
                if !is_it {
                    fields.fault(field, &format!("must be {scope}, which this is about"));
                }
                is_it
            }
        };
        if !in_scope {
            return;
        }
        match fields.record.table {
            Table::Tenant => {
                let key = fields.required("name", &TENANT);
                let value = TenantEntry {
                    realm: fields.required("realm", &REALM),
                    default_location: fields.text("default_location", &PLACE),
                    hold_music: fields.text("hold_music", &PROMPT),
                    srtp: fields.text("srtp", &SRTP).filter(|name| name != DEFAULT_SRTP),
                };
                self.tenants.push(Said { spot, key, value });
            }
            Table::Location => {
                let key = (fields.required("tenant", &TENANT), fields.required("name", &PLACE));
                self.locations.push(Said { spot, key, value: () });
            }
            Table::Agent => self.take_agent(spot, fields),
            Table::Forward => self.forwards.push(forward(spot, fields)),
            Table::Mapping => {
                let ccb = fields.number("ccb", 1..=i64::from(u16::MAX));
                if ccb.is_none() && *fields.cell("ccb") == Cell::Absent {
                    fields.fault("ccb", "must be there");
                }
                let ccb = ccb.and_then(|ccb| u16::try_from(ccb).ok()).unwrap_or_default();
                let key = (ccb, fields.required("location", &PLACE));
                let sip: Vec<&str> = Transport::ALL.iter().map(|it| it.name()).collect();
                let value = [
                    fields.addresses("cti", &["ws", "wss"]),
                    fields.addresses("sbc", &sip),
                    fields.addresses("own", &["http", "https"]),
                ];
                self.mappings.push(Said { spot, key, value });
            }
        }
    }

    fn take_agent(&mut self, spot: Spot, fields: &mut Fields<'_>) {
        let key = (fields.required("tenant", &TENANT), fields.required("agent", &NAME));
        let number = fields.required("number", &NUMBER);
        if number.len() + 1 + key.0.len() > USER_BYTES {
            let rule = format!("number and tenant together must be below {USER_BYTES} bytes");
            fields.fault("number", &rule);
        }
        let hash = fields.text("password_hash", &HASH);
        match (fields.text("password", &PASSWORD), &hash) {
            (Some(_), Some(_)) => {
                fields.fault("password", "either password or password_hash may be given, not both");
            }
            (Some(password), None) => {
                self.passwords.push((self.agents.len(), Secret::new(password)));
            }
            (None, _) => {}
        }
        let otherwise = Parameters::default();
        let limit = |fields: &mut Fields<'_>, name, least| {
            fields.number(name, least..=LIMIT).and_then(|limit| u32::try_from(limit).ok())
        };
        let value = Agent {
            id: 0,
            agent_id: key.1.clone(),
            operator_id: fields.required("operator", &NAME),
            number,
            name: fields.required("name", &TITLE),
            password: Secret::new(hash.unwrap_or_default()),
            parameters: Parameters {
                agent_type: fields.text("type", &TYPE).unwrap_or(otherwise.agent_type),
                skills: fields.list("skills").unwrap_or(otherwise.skills),
                rights: fields.list("rights").unwrap_or(otherwise.rights),
                number_report: fields
                    .text("number_report", &REPORT)
                    .unwrap_or(otherwise.number_report),
                incoming_limit: limit(fields, "incoming_limit", 1),
                outgoing_limit: limit(fields, "outgoing_limit", 0),
                media_format: fields.list("media_format").unwrap_or(otherwise.media_format),
                log_level: fields.text("log_level", &LEVEL).unwrap_or(otherwise.log_level),
                encryption: fields.text("encryption", &ENCRYPTION).unwrap_or(otherwise.encryption),
                recording_path: fields.text("recording_path", &TITLE).unwrap_or_default(),
                database_access: fields
                    .text("database_access", &TITLE)
                    .unwrap_or(otherwise.database_access),
                phone: fields.text("phone", &TITLE).unwrap_or(otherwise.phone),
            },
        };
        self.agents.push(Said { spot, key, value });
    }
}

fn forward(spot: Spot, fields: &mut Fields<'_>) -> Said<ForwardName, (i64, String)> {
    let tenant = fields.required("tenant", &TENANT);
    let number = fields.required("number", &NUMBER);
    let when = fields.required("when", &WHEN);
    let after_s = fields.number("after_s", 1..=i64::from(LONGEST_RING_S));
    if (when == "no_answer") != after_s.is_some() {
        fields.fault("after_s", "must be there for no_answer, and for nothing else");
    }
    let to = fields.required("to", &DESTINATION);
    if to == number {
        fields.fault("to", "a number is not forwarded to itself");
    }
    Said { spot, key: (tenant, number, when), value: (after_s.unwrap_or(0), to) }
}

/// Two records of one name are one too many.
fn only_once<K: Hash + Eq, V>(said: &[Said<K, V>], table: Table, faults: &mut Faults) {
    let mut seen: HashMap<&K, &Spot> = HashMap::new();
    for one in said {
        if let Some(first) = seen.get(&one.key) {
            let rule = format!("is said already, in line {} of {}", first.line, first.file);
            faults.add(&one.spot, table.name(), rule);
        } else {
            seen.insert(&one.key, &one.spot);
        }
    }
}

/// What a text must be, and how that is said.
struct Rule(fn(&str) -> bool, &'static str);

/// Calls at the same time that a limit may say.
const LIMIT: i64 = abi::MAX_AT_ONCE as i64;

const TENANT: Rule =
    Rule(|text| is_word(text, 23), "must be 1 to 23 letters, digits, dots, dashes or underscores");
const PLACE: Rule =
    Rule(|text| is_word(text, 48), "must be 1 to 48 letters, digits, dots, dashes or underscores");
const REALM: Rule = Rule(
    |text| is_line(text, 64) && !text.contains(['"', '\\']),
    "must be 1 to 64 bytes without control characters, quotes and backslashes",
);
const NAME: Rule =
    Rule(|text| is_line(text, 64), "must be 1 to 64 bytes without control characters");
const TITLE: Rule =
    Rule(|text| is_line(text, 256), "must be 1 to 256 bytes without control characters");
const NUMBER: Rule = Rule(is_number, NUMBER_RULE);
const DESTINATION: Rule = Rule(is_destination, DESTINATION_RULE);
const PROMPT: Rule = Rule(is_prompt_name, PROMPT_RULE);
const SRTP: Rule =
    Rule(|text| SrtpPolicy::named(text).is_some(), "must be no, allowed, offered or required");
/// What holds where nothing is said.
pub const DEFAULT_SRTP: &str = SrtpPolicy::Allowed.name();
const PASSWORD: Rule = Rule(|text| text.len() <= PASSWORD_BYTES, "must be 1 to 256 bytes");
const TYPE: Rule = Rule(
    |text| ["voice", "chat", "universal", "supervisor"].contains(&text),
    "must be voice, chat, universal or supervisor",
);
const REPORT: Rule = Rule(
    |text| ["none", "employee", "directory"].contains(&text),
    "must be none, employee or directory",
);
const LEVEL: Rule = Rule(
    |text| ["error", "warn", "info", "debug", "trace"].contains(&text),
    "must be error, warn, info, debug or trace",
);
const ENCRYPTION: Rule =
    Rule(|text| ["none", "sdes", "dtls"].contains(&text), "must be none, sdes or dtls");
const WHEN: Rule =
    Rule(|text| When::named(text, 1).is_some(), "must be always, busy, no_answer or unavailable");
const HASH: Rule = Rule(
    is_hash,
    "must be an argon2 hash as a PHC string ($argon2id$...), of at most 256 MiB and 16 passes",
);

fn is_word(text: &str, limit: usize) -> bool {
    let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    (1..=limit).contains(&text.len()) && text.bytes().all(is_part)
}

fn is_line(text: &str, limit: usize) -> bool {
    (1..=limit).contains(&text.len()) && !text.chars().any(char::is_control)
}

/// True for a hash that logins can check at a bearable cost.
fn is_hash(text: &str) -> bool {
    let Ok(hash) = PasswordHash::new(text) else { return false };
    let Ok(params) = Params::try_from(&hash) else { return false };
    hash.algorithm.as_str().starts_with("argon2")
        && hash.hash.is_some()
        && params.m_cost() <= HASH_MEMORY_KIB
        && params.t_cost() <= HASH_PASSES
}

/// A record while it is read.
struct Fields<'r> {
    record: &'r Record,
    faults: &'r mut Faults,
}

impl Fields<'_> {
    fn cell(&self, name: &str) -> &Cell {
        let place = self.record.table.column(name);
        place.and_then(|place| self.record.cells.get(place)).unwrap_or(&Cell::Absent)
    }

    fn fault(&mut self, name: &str, rule: &str) {
        let field = format!("{}.{name}", self.record.table.name());
        self.faults.add(&self.record.spot, field, rule);
    }

    /// The text; none when it is absent or breaks the rule.
    fn text(&mut self, name: &str, rule: &Rule) -> Option<String> {
        let Cell::Text(text) = self.cell(name) else { return None };
        let text = text.clone();
        if rule.0(&text) {
            return Some(text);
        }
        self.fault(name, rule.1);
        None
    }

    /// The text, which must be there.
    fn required(&mut self, name: &str, rule: &Rule) -> String {
        if *self.cell(name) == Cell::Absent {
            self.fault(name, "must be there");
        }
        self.text(name, rule).unwrap_or_default()
    }

    fn number(&mut self, name: &str, range: std::ops::RangeInclusive<i64>) -> Option<i64> {
        let Cell::Number(number) = *self.cell(name) else { return None };
        if range.contains(&number) {
            return Some(number);
        }
        self.fault(name, &format!("must be {} to {}", range.start(), range.end()));
        None
    }

    fn list(&mut self, name: &str) -> Option<Vec<String>> {
        let Cell::List(items) = self.cell(name) else { return None };
        let items = items.clone();
        let is_good =
            |item: &String| is_line(item, 64) && !item.contains(';') && item.trim() == item;
        if items.iter().all(is_good) && items.len() <= 64 {
            return Some(items);
        }
        let rule = "must be at most 64 texts of 1 to 64 bytes without control characters, \
                    semicolons and blanks around them";
        self.fault(name, rule);
        None
    }

    fn addresses(&mut self, name: &str, transports: &[&str]) -> Vec<Address> {
        let Cell::List(items) = self.cell(name) else { return Vec::new() };
        let read: Option<Vec<Address>> = items.iter().map(|item| address(item)).collect();
        match read.filter(|all| all.iter().all(|it| transports.contains(&it.transport.as_str()))) {
            Some(addresses) => addresses,
            None => {
                let rule = format!(
                    "must be addresses as in {}:192.0.2.1:5060; transports are {}",
                    transports[0],
                    transports.join(", ")
                );
                self.fault(name, &rule);
                Vec::new()
            }
        }
    }
}

/// `udp:192.0.2.1:5060`, `ws:[2001:db8::1]:8080` or `udp:sbc.example.net:5060`.
fn address(text: &str) -> Option<Address> {
    let (transport, rest) = text.split_once(':')?;
    let (host, port) = rest.rsplit_once(':')?;
    let port: u16 = port.parse().ok().filter(|port| *port > 0)?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(ip) => ip.parse::<std::net::Ipv6Addr>().ok().map(|_| ip)?,
        None => Some(host).filter(|host| {
            let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
            (1..=253).contains(&host.len()) && host.bytes().all(is_part)
        })?,
    };
    Some(Address { host: host.to_owned(), port, transport: transport.to_owned() })
}

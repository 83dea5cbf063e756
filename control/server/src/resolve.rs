//! Trunks' names become addresses (RFC 3263), and again whenever DNS says that they may have changed.
//!
//! ```text
//! port?        yes -> A, AAAA
//! transport?   yes -> SRV of it -------> A, AAAA of each target
//! neither             NAPTR -> SRV ----> A, AAAA of each target
//!                     no NAPTR: SRV of UDP, TCP, TLS; no SRV: A, AAAA and the usual port
//! ```
//! What was found stays good while DNS is away.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base::Transport;
use control_core::{Destination, Provision, TrunkName};
use futures_util::future::join_all;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig};
use hickory_resolver::lookup::Lookup;
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::rdata::{NAPTR, SRV};
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::keeper::Keeper;

/// An answer is believed for so long at least, whatever its life, and at most.
const LEAST_LIFE: Duration = Duration::from_secs(5);
const LONGEST_LIFE: Duration = Duration::from_secs(3_600);
/// How long after a failure DNS is asked again.
const RETRY: Duration = Duration::from_secs(5);
/// How long one question to a server may take; it is asked twice.
const TIMEOUT: Duration = Duration::from_secs(2);
/// The most addresses that a route has room for.
const ADDRESSES: usize = 8;
/// The transports in the order in which they are tried where a domain says nothing.
const TRANSPORTS: [Transport; 3] = [Transport::Udp, Transport::Tcp, Transport::Tls];

/// The names of trunks and what they came to.
pub struct Names {
    dns: TokioResolver,
    known: Mutex<HashMap<TrunkName, Known>>,
    wanted: Notify,
}

struct Known {
    found: Option<Found>,
    due: Instant,
    is_failing: bool,
}

/// Where a trunk is.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Found {
    /// In the order in which they are tried.
    addresses: Vec<SocketAddr>,
    transport: Transport,
}

impl Names {
    /// Asks these DNS servers, or the machine's when there are none.
    pub fn new(servers: &[SocketAddr]) -> Result<Names, String> {
        let failed = |error: NetError| format!("DNS: {error}");
        let provider = TokioRuntimeProvider::default();
        let mut builder = match servers {
            [] => TokioResolver::builder_tokio().map_err(failed)?,
            _ => {
                let servers = servers.iter().map(|server| {
                    let mut config = NameServerConfig::udp_and_tcp(server.ip());
                    config.connections.iter_mut().for_each(|one| one.port = server.port());
                    config
                });
                let config = ResolverConfig::from_name_servers(servers.collect());
                TokioResolver::builder_with_config(config, provider)
            }
        };
        (builder.options_mut().timeout, builder.options_mut().attempts) = (TIMEOUT, 1);
        let dns = builder.build().map_err(failed)?;
        Ok(Names { dns, known: Mutex::default(), wanted: Notify::new() })
    }

    /// Puts in what is known of the names of routes; what is not is asked for.
    pub fn fill(&self, provision: &mut Provision) {
        let mut known = self.lock();
        let mut before = std::mem::take(&mut *known);
        for route in &mut provision.routes {
            let Destination::Trunk { name: Some(name), addresses, transport, .. } = &mut route.to
            else {
                continue;
            };
            let fresh = || Known { found: None, due: Instant::now(), is_failing: false };
            let entry = known
                .entry(name.clone())
                .or_insert_with(|| before.remove(name).unwrap_or_else(fresh));
            if let Some(found) = &entry.found {
                addresses.clone_from(&found.addresses);
                *transport = found.transport;
            }
        }
        drop(known);
        self.wanted.notify_one();
    }

    /// Keeps the addresses of all names as DNS has them, and tells them by `keeper`.
    pub async fn keep(self: Arc<Self>, keeper: Arc<Keeper>) {
        let mut untold = false;
        loop {
            let asked = self.due().into_iter().map(|name| async {
                let answer = self.locate(&name).await;
                (name, answer)
            });
            for (name, answer) in join_all(asked).await {
                untold |= self.learn(&name, answer);
            }
            if untold {
                // A directory that is away is logged by the keeper's look.
                untold = keeper.refresh().await.is_err();
            }
            let next = match untold {
                true => Some(Instant::now() + RETRY),
                false => self.lock().values().map(|known| known.due).min(),
            };
            let pause = next.map_or(LONGEST_LIFE, |next| next.duration_since(Instant::now()));
            // Nothing is lost when it is late: the next round looks at all.
            let _ = tokio::time::timeout(pause, self.wanted.notified()).await;
        }
    }

    fn due(&self) -> Vec<TrunkName> {
        let now = Instant::now();
        let known = self.lock();
        known.iter().filter(|(_, known)| known.due <= now).map(|(name, _)| name.clone()).collect()
    }

    /// True when that is news.
    fn learn(&self, name: &TrunkName, answer: Result<(Found, Duration), String>) -> bool {
        let mut all = self.lock();
        let Some(known) = all.get_mut(name) else { return false };
        match answer {
            Ok((found, life)) => {
                known.due = Instant::now() + life.clamp(LEAST_LIFE, LONGEST_LIFE);
                known.is_failing = false;
                let is_new = known.found.as_ref() != Some(&found);
                if is_new {
                    let (addresses, transport) = (&found.addresses, found.transport.to_string());
                    tracing::info!(%name, ?addresses, transport, "a trunk's name was resolved");
                    known.found = Some(found);
                }
                is_new
            }
            Err(why) => {
                known.due = Instant::now() + RETRY;
                if !std::mem::replace(&mut known.is_failing, true) {
                    let kept = known.found.is_some();
                    tracing::warn!(%name, why, kept, "a trunk's name cannot be resolved");
                }
                false
            }
        }
    }

    /// RFC 3263, 4: the trunk's transport and addresses, and for how long they are good.
    async fn locate(&self, name: &TrunkName) -> Result<(Found, Duration), String> {
        let mut life = LONGEST_LIFE;
        // "if the TARGET is not a numeric IP address, but an explicit port is provided, the client SHOULD use UDP"
        if let Some(port) = name.port {
            let transport = name.transport.unwrap_or(Transport::Udp);
            let hosts = [(name.host.to_string(), port)];
            return self.addresses(&hosts, transport, &mut life).await;
        }
        for (service, transport) in self.services(name, &mut life).await? {
            let Some(lookup) = self.ask(&service, RecordType::SRV, &mut life).await? else {
                continue;
            };
            let records = lookup.answers().iter().filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(srv.clone()),
                _ => None,
            });
            let random = |below: u64| getrandom::u64().map_or(0, |random| random % below);
            let hosts: Vec<_> = in_order(records.collect(), random)
                .iter()
                .map(|srv| (srv.target.to_string(), srv.port))
                .collect();
            // RFC 2782: "A Target of "." means that the service is decidedly not available at this domain."
            if hosts.iter().all(|(host, _)| host == ".") {
                continue;
            }
            return self.addresses(&hosts, transport, &mut life).await;
        }
        // "If no SRV records were found, the client performs an A or AAAA record lookup of the domain name."
        let transport = name.transport.unwrap_or(Transport::Udp);
        let port = if transport == Transport::Tls { 5061 } else { 5060 };
        self.addresses(&[(name.host.to_string(), port)], transport, &mut life).await
    }

    /// Where the SRV records are asked for, and the transport of each.
    async fn services(
        &self,
        name: &TrunkName,
        life: &mut Duration,
    ) -> Result<Vec<(String, Transport)>, String> {
        let host = name.host.trim_end_matches('.');
        if let Some(transport) = name.transport {
            return Ok(vec![(service_of(host, transport), transport)]);
        }
        if let Some(lookup) = self.ask(&name.host, RecordType::NAPTR, life).await? {
            let records = lookup.answers().iter().filter_map(|record| match &record.data {
                RData::NAPTR(naptr) => Some(naptr),
                _ => None,
            });
            let offered = offered(records);
            if !offered.is_empty() {
                return Ok(offered);
            }
        }
        Ok(TRANSPORTS.map(|transport| (service_of(host, transport), transport)).into())
    }

    async fn addresses(
        &self,
        hosts: &[(String, u16)],
        transport: Transport,
        life: &mut Duration,
    ) -> Result<(Found, Duration), String> {
        let mut addresses: Vec<SocketAddr> = Vec::new();
        let mut failure = None;
        for (host, port) in hosts {
            for kind in [RecordType::A, RecordType::AAAA] {
                match self.ask(host, kind, life).await {
                    Ok(lookup) => {
                        let answers = lookup.iter().flat_map(Lookup::answers);
                        let ips = answers.filter_map(|record| record.data.ip_addr());
                        for ip in ips.filter(|ip| is_callable(*ip)) {
                            let address = SocketAddr::new(ip, *port);
                            if *port != 0 && !addresses.contains(&address) {
                                addresses.push(address);
                            }
                        }
                    }
                    // One host of several that is not told must not keep the others out.
                    Err(why) => failure = Some(why),
                }
            }
        }
        addresses.truncate(ADDRESSES);
        match (addresses.is_empty(), failure) {
            (false, failure) => {
                if failure.is_some() {
                    *life = LEAST_LIFE;
                }
                Ok((Found { addresses, transport }, *life))
            }
            (true, Some(why)) => Err(why),
            (true, None) => Err("it has no address".into()),
        }
    }

    /// None when there is no such record.
    async fn ask(
        &self,
        name: &str,
        kind: RecordType,
        life: &mut Duration,
    ) -> Result<Option<Lookup>, String> {
        // Names are whole: the machine's search list is for people.
        let name = format!("{}.", name.trim_end_matches('.'));
        match self.dns.lookup(name.as_str(), kind).await {
            Ok(lookup) => {
                let until = Instant::from_std(lookup.valid_until());
                *life = (*life).min(until.duration_since(Instant::now()));
                Ok(Some(lookup))
            }
            Err(error) if error.is_no_records_found() => Ok(None),
            Err(error) => Err(format!("{kind} of {name}: {error}")),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<TrunkName, Known>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// DNS must not lead calls to whoever listens on this machine's wildcard, or to everybody.
fn is_callable(ip: IpAddr) -> bool {
    !ip.is_unspecified() && !ip.is_multicast()
}

/// Where the SRV records of a domain are (RFC 3263, 4.2).
fn service_of(host: &str, transport: Transport) -> String {
    match transport {
        Transport::Tls => format!("_sips._tcp.{host}"),
        Transport::Tcp => format!("_sip._tcp.{host}"),
        _ => format!("_sip._udp.{host}"),
    }
}

/// What NAPTR records offer that we speak, the domain's first choice first (RFC 3263, 4.1).
fn offered<'a>(records: impl Iterator<Item = &'a NAPTR>) -> Vec<(String, Transport)> {
    let mut records: Vec<&NAPTR> = records.collect();
    records.sort_by_key(|record| (record.order, record.preference));
    let offered = records.into_iter().filter_map(|record| {
        // RFC 3263, 4.1: "s" is the flag of a record whose replacement has SRV records.
        let is_service = record.flags.eq_ignore_ascii_case(b"s");
        let transport = match record.services.to_ascii_uppercase().as_slice() {
            b"SIP+D2U" => Transport::Udp,
            b"SIP+D2T" => Transport::Tcp,
            b"SIPS+D2T" => Transport::Tls,
            _ => return None,
        };
        is_service.then(|| (record.replacement.to_string(), transport))
    });
    offered.collect()
}

/// RFC 2782: by priority, and among equals by chance as their weights say. `random` is below its argument.
fn in_order(mut records: Vec<SRV>, mut random: impl FnMut(u64) -> u64) -> Vec<SRV> {
    // "placing all those with weight 0 at the beginning of the list"
    records.sort_by_key(|record| (record.priority, record.weight));
    let mut ordered = Vec::with_capacity(records.len());
    while let Some(first) = records.first() {
        let priority = first.priority;
        let equals = records.iter().take_while(|record| record.priority == priority);
        let sum: u64 = equals.map(|record| u64::from(record.weight)).sum();
        // "choose a uniform random number between 0 and the sum computed (inclusive), and select the RR whose
        // running sum value is the first in the selected order which is greater than or equal to the random number"
        let chosen = random(sum + 1);
        let mut running = 0;
        let place = records.iter().position(|record| {
            running += u64::from(record.weight);
            running >= chosen
        });
        ordered.push(records.remove(place.unwrap_or(0)));
    }
    ordered
}

#[cfg(test)]
mod tests {
    use hickory_resolver::proto::rr::Name;

    use super::*;

    fn name(text: &str) -> Name {
        text.parse().expect("a name")
    }

    fn srv(priority: u16, weight: u16, target: &str) -> SRV {
        SRV::new(priority, weight, 5060, name(target))
    }

    fn targets(records: &[SRV]) -> Vec<String> {
        records.iter().map(|record| record.target.to_string()).collect()
    }

    #[test]
    fn srv_records_go_by_priority_and_weight() {
        let records =
            || vec![srv(20, 1, "d."), srv(10, 60, "a."), srv(10, 0, "c."), srv(10, 20, "b.")];
        // Weights run up from c: 0, b: 20, a: 80.
        for (random, expected) in [
            (0, ["c.", "b.", "a.", "d."]),
            (1, ["b.", "a.", "c.", "d."]),
            (20, ["b.", "a.", "c.", "d."]),
            (21, ["a.", "b.", "c.", "d."]),
            (80, ["a.", "b.", "c.", "d."]),
        ] {
            let ordered = in_order(records(), |below| random.min(below - 1));
            assert_eq!(targets(&ordered), expected, "{random}");
        }
        // Of 8,000 orders a comes first about three times as often as b.
        let mut rng = base::Rng::from_seed([7; 32]);
        let mut first = HashMap::<String, u32>::new();
        for _ in 0..8_000 {
            let ordered = in_order(records(), |below| rng.next_u64() % below);
            *first.entry(targets(&ordered)[0].clone()).or_default() += 1;
        }
        assert!(
            (5_700..6_200).contains(&first["a."]) && (1_800..2_250).contains(&first["b."]),
            "{first:?}"
        );
    }

    #[test]
    fn naptr_records_offer_what_we_speak() {
        let record = |order, preference, flags: &str, services: &str, to: &str| {
            let (flags, services) = (flags.as_bytes().into(), services.as_bytes().into());
            NAPTR::new(order, preference, flags, services, Box::default(), name(to))
        };
        let records = [
            record(90, 50, "s", "SIP+D2T", "_sip._tcp.a."),
            record(50, 50, "S", "sips+d2t", "_sips._tcp.a."),
            record(90, 10, "s", "SIP+D2U", "_sip._udp.a."),
            record(10, 10, "s", "SIP+D2S", "_sip._sctp.a."),
            record(10, 10, "u", "E2U+sip", "."),
        ];
        let offered = offered(records.iter());
        let texts: Vec<_> = offered.iter().map(|(name, by)| (name.as_str(), *by)).collect();
        let expected = [
            ("_sips._tcp.a.", Transport::Tls),
            ("_sip._udp.a.", Transport::Udp),
            ("_sip._tcp.a.", Transport::Tcp),
        ];
        assert_eq!(texts, expected);
    }

    #[test]
    fn a_domain_says_where_its_service_is() {
        assert_eq!(service_of("a.example", Transport::Udp), "_sip._udp.a.example");
        assert_eq!(service_of("a.example", Transport::Tcp), "_sip._tcp.a.example");
        assert_eq!(service_of("a.example", Transport::Tls), "_sips._tcp.a.example");
    }
}

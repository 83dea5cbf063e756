//! Phones register here (S1-061, S1-062; RFC 3261, 10.3). An agent has one binding: the phone that
//! the login is for.

use std::net::SocketAddr;
use std::time::Duration;

use abi::{AgentRow, Counter, Event, RegistrationRow, UnregisterCause};
use base::{AgentSlot, Instant, Transport, owner};
use sip::registrar::{self, Binding, Decision, Limits};
use sip::wire::{self, Header, Message};

use crate::call::Flow;
use crate::intake::Arrival;
use crate::outbound::Outbound;
use crate::refusal::Refusal;
use crate::sips::{check_register, check_scheme};
use crate::worker::{Timer, Worker};

/// How long a phone whose connection ended with an earlier incarnation may take to come back, in milliseconds:
/// RFC 5626, 4.5 has it try again after 30 s at first.
const COME_BACK_MS: u64 = 60_000;

impl Worker {
    pub(crate) fn on_register(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
    ) -> Result<(), Refusal> {
        check_scheme(arrival.message, arrival.channel)?;
        check_register(arrival.message)?;
        // RFC 3261, 10.2: "This address-of-record MUST be a SIP URI or SIPS URI."
        if !arrival.message.to().is_ok_and(|to| to.has_scheme("sip") || to.has_scheme("sips")) {
            return Err(Refusal::status(400));
        }
        let (agent, row) = self.prove_agent(now, arrival)?;
        let addressed = self.agent_of_address(arrival.message);
        if addressed.is_none_or(|(slot, _)| slot != agent) || !self.serves(arrival.location, &row) {
            // RFC 3261, 10.3, step 4: "If the authenticated user is not authorized to modify bindings,
            // the registrar MUST return a 403 (Forbidden)".
            self.count(Counter::DropSipUnknownSource);
            return Err(Refusal::status(403));
        }
        let current = self.binding(now, agent, &row);
        let outbound = Outbound::of(arrival.message)?;
        match registrar::register(
            arrival.message,
            now,
            arrival.from,
            current.as_ref(),
            Limits::default(),
        ) {
            Decision::Update(mut binding) => {
                // RFC 5626, 5.3: over a stream the way back is the connection itself.
                let path = path_of(arrival.message);
                if arrival.channel.transport == Transport::Udp {
                    // RFC 3327, 5.1: behind a Path it is the proxy that put itself there last that is next.
                    let next = match first_hop(&path) {
                        None => binding.contact.as_bytes(),
                        Some(uri) => uri,
                    };
                    binding.source = reach(next, arrival.from);
                }
                let at = Flow {
                    location: arrival.location,
                    peer: binding.source,
                    channel: arrival.channel,
                };
                if !self.bind(now, agent, &row, at, (&binding, &path)) {
                    // It does not fit its row, and a phone that is reached past its Path is not reached.
                    self.count(Counter::DropSipPath);
                    return Err(Refusal::status(513));
                }
                self.accept_register(now, arrival, Some(&binding), outbound);
            }
            Decision::Remove => {
                self.unregister(agent, UnregisterCause::Removed);
                self.accept_register(now, arrival, None, Outbound::No);
            }
            Decision::Query => self.accept_register(now, arrival, current.as_ref(), Outbound::No),
            Decision::IntervalTooBrief(least_s) => {
                return Err(
                    Refusal::status(423).with("Min-Expires", least_s.to_string().as_bytes())
                );
            }
            Decision::Refused(status) => return Err(Refusal::status(status)),
        }
        Ok(())
    }

    /// The address at which the agent's phone is registered for the current login.
    pub(crate) fn registered(
        &self,
        now: Instant,
        agent: AgentSlot,
        row: &AgentRow,
    ) -> Option<(Flow, RegistrationRow)> {
        let registration = self.region.registrations().read(agent)?;
        let lives = registration.is_registered()
            && registration.epoch == row.login_epoch
            && registration.expires_at > now.as_nanos();
        // After a restart with other locations, the number of one may mean another.
        let location = registration.location().filter(|at| self.serves(*at, row))?;
        let flow = Flow { location, peer: registration.addr(), channel: registration.channel() };
        lives.then_some((flow, registration))
    }

    fn binding(&self, now: Instant, agent: AgentSlot, row: &AgentRow) -> Option<Binding> {
        let (flow, registration) = self.registered(now, agent, row)?;
        Some(Binding {
            contact: registration.contact(),
            source: flow.peer,
            call_id_hash: registration.call_id_hash,
            cseq: registration.cseq,
            expires_at: Instant::from_nanos(registration.expires_at),
        })
    }

    fn bind(
        &mut self,
        now: Instant,
        agent: AgentSlot,
        row: &AgentRow,
        at: Flow,
        (binding, path): (&Binding, &[u8]),
    ) -> bool {
        let before = self.registered(now, agent, row).map(|(flow, _)| flow);
        let mut registration = RegistrationRow {
            state: RegistrationRow::REGISTERED,
            epoch: row.login_epoch,
            location: u16::from(at.location.0),
            cseq: binding.cseq,
            call_id_hash: binding.call_id_hash,
            expires_at: binding.expires_at.as_nanos(),
            ..RegistrationRow::default()
        };
        registration.set_addr(at.peer);
        registration.set_channel(at.channel);
        if !registration.set_contact(binding.contact, path) {
            return false;
        }
        self.region.registrations().write(agent, &registration);
        self.watch_registered(agent, at);
        self.watch(agent, binding.expires_at);
        self.count(Counter::Registrations);
        if before != Some(at) {
            let lasts = binding.expires_at.since(now);
            self.tell(Event::Registered {
                agent,
                epoch: row.login_epoch,
                location: at.location,
                addr: at.peer,
                expires_ms: u32::try_from(lasts.as_millis()).unwrap_or(u32::MAX),
            });
        }
        true
    }

    /// Ends a registration that lives; control hears why.
    pub(crate) fn unregister(&mut self, agent: AgentSlot, cause: UnregisterCause) -> bool {
        let Some(registration) = self.region.registrations().read(agent) else {
            return false;
        };
        if !registration.is_registered() {
            return false;
        }
        self.region.registrations().write(agent, &RegistrationRow::default());
        self.tell(Event::Unregistered { agent, epoch: registration.epoch, cause });
        true
    }

    /// Sets a timer for the registration, unless one is set that comes first: however often a phone
    /// renews, its timers do not pile up, and a shorter registration is not overlooked.
    fn watch(&mut self, agent: AgentSlot, until: Instant) {
        if self.watched.get(&agent).is_none_or(|first| until < *first) {
            self.watched.insert(agent, until);
            self.timers.set(until, Timer::Registration(agent));
        }
    }

    pub(crate) fn on_registration_limit(&mut self, now: Instant, agent: AgentSlot) {
        // A timer that a shorter registration overtook finds another set, and changes nothing.
        if self.watched.get(&agent).is_some_and(|first| *first <= now) {
            self.watched.remove(&agent);
        }
        let Some(registration) = self.region.registrations().read(agent) else {
            return;
        };
        let expires_at = Instant::from_nanos(registration.expires_at);
        if !registration.is_registered() {
            return;
        }
        if expires_at > now {
            self.watch(agent, expires_at);
        } else {
            self.unregister(agent, UnregisterCause::Expired);
        }
    }

    /// Watches over the registrations that an earlier incarnation left to this worker.
    pub(crate) fn take_over_registrations(&mut self, now: Instant) {
        let region = self.region.clone();
        for (agent, registration) in region.registrations().iter() {
            let Some(row) = region.agents().read(agent) else {
                continue;
            };
            let is_ours = owner(row.user().as_bytes(), self.config.workers) == self.config.id;
            if !registration.is_registered() || !is_ours {
                continue;
            }
            let mut until = Instant::from_nanos(registration.expires_at);
            if registration.channel().connection != 0 {
                // Its connection ended with the process; who does not come back is not there.
                until = until.min(now + Duration::from_millis(COME_BACK_MS));
                let expires_at = until.as_nanos();
                let row = RegistrationRow { expires_at, ..registration };
                region.registrations().write(agent, &row);
            }
            self.watch(agent, until);
        }
    }

    /// RFC 3261, 10.3, step 8: the 200 lists the current binding with its time left.
    fn accept_register(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
        binding: Option<&Binding>,
        outbound: Outbound,
    ) {
        let contact = binding.map(|binding| binding.contact_value(now));
        let mut extra: Vec<(&str, &[u8])> =
            contact.iter().map(|value| ("Contact", value.as_slice())).collect();
        // RFC 3327, 5.3: "The registrar MUST include the Path header field values in the 200 class response".
        let path = path_of(arrival.message);
        if !path.is_empty() {
            extra.push(("Path", &path));
        }
        let lines = outbound.lines(arrival.channel);
        extra.extend(lines.iter().map(|(name, value)| (*name, value.as_slice())));
        let tag = self.fresh_tag();
        let bytes =
            wire::response(arrival.message, 200, "OK", Some(&tag), arrival.from, &extra, None);
        self.transactions.respond(now, arrival.key, 200, bytes, &mut self.sent);
    }
}

/// The values of Path as one list (RFC 3327, 4).
fn path_of(message: &Message<'_>) -> Vec<u8> {
    message.headers(Header::Path).collect::<Vec<_>>().join(&b", "[..])
}

/// The URI of the first value of a Path.
fn first_hop(path: &[u8]) -> Option<&[u8]> {
    let from = path.iter().position(|byte| *byte == b'<')? + 1;
    let len = path[from..].iter().position(|byte| *byte == b'>')?;
    Some(&path[from..from + len])
}

/// Where requests go to the phone that a request came from.
pub(crate) fn way_back(message: &Message<'_>, from: SocketAddr) -> SocketAddr {
    match message.contact() {
        Some(Ok(contact)) => reach(contact.uri, from),
        _ => from,
    }
}

/// Where requests to a phone go: to its Contact when that is at the host that the REGISTER came from; else
/// there is a NAT between us, and only the way that the REGISTER came leads back.
fn reach(contact: &[u8], from: SocketAddr) -> SocketAddr {
    let uri = wire::Uri::parse(contact).ok();
    let address = uri.and_then(|uri| Some((uri.host_ip()?, uri.port.unwrap_or(5060))));
    address.filter(|(ip, _)| *ip == from.ip()).map_or(from, SocketAddr::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_hop_of_a_path_is_next() {
        let cases: [(&[u8], Option<&[u8]>); 4] = [
            (b"<sip:192.0.2.9;lr>", Some(b"sip:192.0.2.9;lr")),
            (b"<sip:p1;lr>, <sip:p2;lr>", Some(b"sip:p1;lr")),
            (b"<sip:p1", None),
            (b"", None),
        ];
        for (path, uri) in cases {
            assert_eq!(first_hop(path), uri);
        }
    }

    #[test]
    fn a_contact_is_believed_at_its_own_host_only() {
        let from = "192.0.2.2:40000".parse().expect("an address");
        let cases = [
            ("sip:a@192.0.2.2:5080", "192.0.2.2:5080"),
            ("sip:a@192.0.2.2", "192.0.2.2:5060"),
            ("sip:a@10.0.0.7:5080", "192.0.2.2:40000"),
            ("sip:a@phone.example:5080", "192.0.2.2:40000"),
            ("tel:1001", "192.0.2.2:40000"),
        ];
        for (contact, way) in cases {
            assert_eq!(reach(contact.as_bytes(), from).to_string(), way, "{contact}");
        }
    }
}

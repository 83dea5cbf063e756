//! Phones register here (S1-061, S1-062; RFC 3261, 10.3). An agent has one binding: the phone that
//! the login is for.

use std::net::SocketAddr;
use std::time::Duration;

use abi::{AgentRow, AgentState, Counter, Event, RegistrationRow, UnregisterCause};
use base::{AgentSlot, Instant, Transport, owner};
use sip::registrar::{self, Binding, Decision, Limits};
use sip::transaction::Sent;
use sip::wire::{self, Header, Message};

use crate::call::Flow;
use crate::carried::Lines;
use crate::intake::{Arrival, stateless_tag};
use crate::outbound::Outbound;
use crate::refusal::Refusal;
use crate::sips::{check_register, check_scheme};
use crate::worker::{Timer, Worker};

/// How long a phone whose connection ended with an earlier incarnation may take to come back, in milliseconds:
/// RFC 5626, 4.5 has it try again after 30 s at first.
const COME_BACK_MS: u64 = 60_000;

/// How long a registration may last.
const LIMITS: Limits = Limits { default_s: 3_600, min_s: 60, max_s: 7_200 };

impl Worker {
    /// A REGISTER leaves no transaction, so that 20,000 phones that renew take no memory for it: the row of the phone
    /// remembers which REGISTER was answered last, and how.
    ///
    /// RFC 3261, 17.2.2: "While in the "Completed" state, the server transaction MUST pass the final response to the
    /// transport layer for retransmission whenever a retransmission of the request is received." Here it is made again:
    /// nothing is done for it, and it gets the same status and the Contact as it stands.
    pub(crate) fn intake_register(&mut self, now: Instant, back: Flow, arrival: Arrival<'_>) {
        let message = arrival.message;
        let result = self.check_required(message).and_then(|()| self.on_register(now, arrival));
        // RFC 3261, 8.2.6.2: the answer has a To tag, the same for the request's repetitions.
        let branch = message.via().ok().and_then(|via| via.branch);
        let tag = branch.or(message.call_id().ok()).map(stateless_tag);
        let bytes = match result {
            Ok(lines) => {
                let extra: Vec<(&str, &[u8])> =
                    lines.iter().map(|(name, value)| (*name, value.as_slice())).collect();
                wire::response(message, 200, "OK", tag.as_deref(), arrival.from, &extra, None)
            }
            Err(refusal) if refusal.is_silent() => return,
            Err(refusal) => refusal.response(message, tag.as_deref(), arrival.from),
        };
        self.sent.push(Sent { flow: back, bytes: bytes.into() });
    }

    /// What a REGISTER is answered: the lines of a 200, or why not.
    fn on_register(&mut self, now: Instant, arrival: Arrival<'_>) -> Result<Lines, Refusal> {
        check_scheme(arrival.message, arrival.channel)?;
        check_register(arrival.message)?;
        // RFC 3261, 10.2: "This address-of-record MUST be a SIP URI or SIPS URI."
        if !arrival.message.to().is_ok_and(|to| to.has_scheme("sip") || to.has_scheme("sips")) {
            return Err(Refusal::status(400));
        }
        let fingerprint = registrar::fingerprint(arrival.message, arrival.from);
        let addressed = self.agent_of_address(arrival.message);
        if let Some((agent, row)) = &addressed
            && let Some(status) = self.answered_before(*agent, row, fingerprint)
        {
            self.count(Counter::RegistersRepeated);
            return self.answer_again(now, arrival, (*agent, row), status);
        }
        let (agent, row) = self.prove_agent(now, arrival)?;
        if addressed.is_none_or(|(slot, _)| slot != agent) || !self.serves(arrival.location, &row) {
            // RFC 3261, 10.3, step 4: "If the authenticated user is not authorized to modify bindings,
            // the registrar MUST return a 403 (Forbidden)".
            self.count(Counter::DropSipUnknownSource);
            return Err(Refusal::status(403));
        }
        let result = self.change_binding(now, arrival, (agent, &row));
        let status = result.as_ref().map_or_else(|refusal| refusal.status, |_| 200);
        self.remember_answer(agent, &row, fingerprint, status);
        result
    }

    /// Does what a REGISTER of an agent's phone asks for.
    fn change_binding(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
        (agent, row): (AgentSlot, &AgentRow),
    ) -> Result<Lines, Refusal> {
        let current = self.binding(now, agent, row);
        let outbound = Outbound::of(arrival.message)?;
        match registrar::register(arrival.message, now, arrival.from, current.as_ref(), LIMITS) {
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
                if !self.bind(now, agent, row, at, (&binding, &path)) {
                    // It does not fit its row, and a phone that is reached past its Path is not reached.
                    self.count(Counter::DropSipPath);
                    return Err(Refusal::status(513));
                }
                Ok(self.accept_lines(now, arrival, Some(&binding), outbound))
            }
            Decision::Remove => {
                self.unregister(agent, UnregisterCause::Removed);
                Ok(self.accept_lines(now, arrival, None, Outbound::No))
            }
            Decision::Query => Ok(self.accept_lines(now, arrival, current.as_ref(), Outbound::No)),
            Decision::IntervalTooBrief(_) => Err(too_brief()),
            Decision::Refused(status) => Err(Refusal::status(status)),
        }
    }

    /// How a REGISTER was answered, when it is the one that this login's phone was answered last.
    fn answered_before(&self, agent: AgentSlot, row: &AgentRow, fingerprint: u64) -> Option<u16> {
        let last = self.region.registrations().read(agent)?;
        let is_in = matches!(row.state(), AgentState::LoggedIn | AgentState::Draining);
        let is_it = last.answered == fingerprint && last.epoch == row.login_epoch;
        (is_in && fingerprint != 0 && is_it).then_some(last.answer as u16)
    }

    fn remember_answer(&mut self, agent: AgentSlot, row: &AgentRow, fingerprint: u64, status: u16) {
        let registrations = self.region.registrations().by(self.config.id);
        let Some(last) = registrations.read(agent) else { return };
        let last = match last.epoch == row.login_epoch {
            true => last,
            // Control is still to hear that the phone of an earlier login is gone.
            false if last.is_registered() => return,
            false => RegistrationRow { epoch: row.login_epoch, ..RegistrationRow::default() },
        };
        let (answered, answer) = (fingerprint, u32::from(status));
        registrations.write(agent, &RegistrationRow { answered, answer, ..last });
    }

    /// The answer that was given, with the binding as it is now.
    fn answer_again(
        &self,
        now: Instant,
        arrival: Arrival<'_>,
        (agent, row): (AgentSlot, &AgentRow),
        status: u16,
    ) -> Result<Lines, Refusal> {
        match status {
            200 => {
                let binding = self.binding(now, agent, row);
                let outbound = match &binding {
                    Some(_) => Outbound::of(arrival.message)?,
                    None => Outbound::No,
                };
                Ok(self.accept_lines(now, arrival, binding.as_ref(), outbound))
            }
            423 => Err(too_brief()),
            status => Err(Refusal::status(status)),
        }
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
        self.region.registrations().by(self.config.id).write(agent, &registration);
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
        // How its last REGISTER was answered is not forgotten: it may come again.
        let RegistrationRow { epoch, answered, answer, .. } = registration;
        let gone = RegistrationRow { epoch, answered, answer, ..RegistrationRow::default() };
        self.region.registrations().by(self.config.id).write(agent, &gone);
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
                region.registrations().by(self.config.id).write(agent, &row);
            }
            self.watch(agent, until);
        }
    }

    /// RFC 3261, 10.3, step 8: the 200 lists the current binding with its time left.
    fn accept_lines(
        &self,
        now: Instant,
        arrival: Arrival<'_>,
        binding: Option<&Binding>,
        outbound: Outbound,
    ) -> Lines {
        let mut lines = Lines::new();
        lines.extend(binding.map(|binding| ("Contact", binding.contact_value(now))));
        // RFC 3327, 5.3: "The registrar MUST include the Path header field values in the 200 class response".
        let path = path_of(arrival.message);
        if !path.is_empty() {
            lines.push(("Path", path));
        }
        // RFC 3261, 10.3, step 8: "The response SHOULD include a Date header field."
        lines.extend(self.date(now).map(|date| ("Date", date.into_bytes())));
        lines.extend(outbound.lines(arrival.channel));
        lines
    }
}

/// RFC 3261, 10.3, step 7: "the registrar MAY reject the registration with a response of 423 (Interval Too Brief).
/// This response MUST contain a Min-Expires header field".
fn too_brief() -> Refusal {
    Refusal::status(423).with("Min-Expires", LIMITS.min_s.to_string().as_bytes())
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

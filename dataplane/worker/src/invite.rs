//! A call comes in: who calls, whom, and may they.

use std::time::Duration;

use abi::{AgentRow, AgentState, CallState, Counter, Event, Party, Why};
use base::{AgentSlot, CallRef, Instant, LocationId, TenantId, Transport};
use sip::dialog::Dialog;
use sip::wire::{self, Header, Message, Uri, unescape};

use crate::call::{CALLER, Call, Flow, Invited, Leg, LegRef, Number, Phase, Times, is_dialable};
use crate::dial::Target;
use crate::identify::Identity;
use crate::intake::Arrival;
use crate::prack::Reliable;
use crate::refusal::{RETRY_AFTER_S, Refusal};
use crate::register::way_back;
use crate::sips::{check_scheme, is_to_sips, wants_sips_contact};
use crate::worker::{Timer, Worker};

/// How long control may take to say where a call goes, in milliseconds; then the call is answered 503.
pub(crate) const ASK_LIMIT_MS: u64 = 2_000;

impl Worker {
    pub(crate) fn on_invite(&mut self, now: Instant, arrival: Arrival<'_>) -> Result<(), Refusal> {
        if let Some(named) = Worker::replaces(arrival.message)? {
            // It changes a call that stands.
            return self.on_replacing(now, arrival, &named);
        }
        if let Some(ticket) = Worker::ticket_of(arrival.message) {
            return self.on_fenced(now, arrival, &ticket);
        }
        if self.overload.refuses(&mut self.rng) {
            // RFC 3261, 21.5.4: "The server is temporarily unable to process the request due to a temporary
            // overloading"; who comes again is spread over some seconds.
            self.count(Counter::CallsOverload);
            return Err(Refusal::unavailable(RETRY_AFTER_S + self.rng.below(8) as u32));
        }
        let caller = self.identify(now, arrival)?;
        if let Party::Agent(agent, _) = caller.party
            && self
                .region
                .agents()
                .read(agent)
                .is_some_and(|row| row.state() == AgentState::Draining)
        {
            return Err(Refusal::unavailable(RETRY_AFTER_S));
        }
        let called = self.screen(arrival)?;
        let offer = sip::body::session(arrival.message).unwrap_or_default();
        self.check_srtp(caller.tenant, caller.party, offer)?;
        self.check_interval(arrival.message)?;
        let call = self.begin_call(now, arrival, caller, called)?;
        if let Err(refusal) = self.route(now, call, caller, called) {
            self.end_call(now, call, &refusal);
        }
        Ok(())
    }

    /// What can be refused without a call: RFC 3261, 8.2 in its order, then the offer (RFC 3264).
    fn screen(&self, arrival: Arrival<'_>) -> Result<Number, Refusal> {
        if self.draining {
            return Err(Refusal::unavailable(RETRY_AFTER_S));
        }
        self.screen_session(arrival)?;
        let uri = arrival.message.request_uri().and_then(|uri| Uri::parse(uri).ok());
        let user = uri.map_or(&b""[..], |uri| uri.user);
        dialled(user).filter(|number| !number.is_empty()).ok_or_else(|| Refusal::status(404))
    }

    /// The same whoever is called.
    pub(crate) fn screen_session(&self, arrival: Arrival<'_>) -> Result<(), Refusal> {
        let message = arrival.message;
        if message.max_forwards().ok().flatten() == Some(0) {
            return Err(Refusal::status(483));
        }
        check_scheme(message, arrival.channel)?;
        if self.is_loop(message) {
            return Err(Refusal::status(482));
        }
        self.check_body(message)?;
        check_accept(message)
    }

    /// Makes the call with its first leg, and answers 100.
    pub(crate) fn begin_call(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
        caller: Identity,
        called: Number,
    ) -> Result<CallRef, Refusal> {
        // RFC 3261, 8.1.1.8: an INVITE must have a Contact; without one no BYE could ever reach it.
        if Dialog::uas(arrival.message, b"").is_err() {
            return Err(Refusal::status(400));
        }
        let call = self.new_call(now, caller.tenant, called)?;
        let at = LegRef { call, leg: CALLER };
        let leg = self.incoming_leg(now, arrival, &caller, at)?;
        self.transactions.set_user(arrival.key, at.to_word());
        if let Some(entry) = self.calls.find_mut(call) {
            entry.sips = is_to_sips(arrival.message);
            entry.legs.push(leg);
        }
        self.note_call(call);
        self.answer(now, at, 100, None);
        Ok(call)
    }

    /// A call without legs.
    pub(crate) fn new_call(
        &mut self,
        now: Instant,
        tenant: TenantId,
        called: Number,
    ) -> Result<CallRef, Refusal> {
        let region = self.region.clone();
        let taken = |old| region.calls().is_acknowledged(old);
        let Some(place) = self.calls.take_place(taken) else {
            self.count(Counter::DropSipFull);
            return Err(Refusal::unavailable(RETRY_AFTER_S));
        };
        if place.evicted {
            self.count(Counter::RecordsEvicted);
        }
        self.leg_rows.free(&self.region, place.call.slot);
        let serial = 100_000_000_000_000_000 + self.rng.below(900_000_000_000_000_000);
        self.calls.insert(Call {
            id: place.call,
            serial,
            tenant,
            state: CallState::Calling,
            cause: 0,
            started_at: now,
            answered_at: Instant::ZERO,
            ended_at: Instant::ZERO,
            ended_by: Default::default(),
            // Most calls have two, and room for four would be half of what a standing call takes of the heap.
            legs: Vec::with_capacity(2),
            bridges: Vec::new(),
            asked: None,
            called,
            transfer: None,
            reasons: Vec::new(),
            forwards: 0,
            hunt: None,
            failing: None,
            diverted: None,
            dialling: None,
            summons: None,
            sips: false,
        });
        self.count(Counter::CallsStarted);
        Ok(place.call)
    }

    /// The leg that an INVITE makes.
    pub(crate) fn incoming_leg(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
        caller: &Identity,
        at: LegRef,
    ) -> Result<Leg, Refusal> {
        let Ok(mut dialog) = Dialog::uas(arrival.message, b"") else {
            return Err(Refusal::status(400));
        };
        let flow = Flow {
            location: arrival.location,
            peer: self.request_address(arrival, caller),
            channel: arrival.channel,
        };
        let mut leg = Leg::new(at.leg, caller.party, caller.number, flow, Phase::Incoming);
        leg.times = Times::from(now);
        leg.call_id = arrival.message.call_id().unwrap_or_default().into();
        leg.local_tag = self.leg_tag(at).into();
        dialog.set_local_tag(leg.local_tag.as_bytes());
        leg.dialog = Some(dialog);
        leg.sips = wants_sips_contact(arrival.message, arrival.channel);
        leg.ext.note(arrival.message);
        leg.ext.reliable = Reliable::of(arrival.message, self.rng.next_u64());
        leg.invited = Some(Invited {
            key: arrival.key,
            bytes: arrival.message.bytes().into(),
            from: arrival.from,
        });
        Ok(leg)
    }

    /// Where requests to the caller go: to an agent's phone as [`way_back`] says; a trunk says in Via
    /// where it listens.
    fn request_address(&self, arrival: Arrival<'_>, caller: &Identity) -> std::net::SocketAddr {
        match caller.party {
            _ if arrival.channel.transport != Transport::Udp => arrival.from,
            Party::Agent(..) => way_back(arrival.message, arrival.from),
            Party::Trunk(..) | Party::Peer(_) => {
                arrival.message.via().map_or(arrival.from, |via| via.response_address(arrival.from))
            }
        }
    }

    /// Finds the way to who is called: from the tables if they know the number, else control is asked.
    fn route(
        &mut self,
        now: Instant,
        call: CallRef,
        caller: Identity,
        called: Number,
    ) -> Result<(), Refusal> {
        let from = LegRef { call, leg: CALLER };
        self.open_media(from)?;
        let Some((agent, row)) = self.agent_called(caller.tenant, &called) else {
            self.win_own(now, from)?;
            if !self.control_here {
                return Err(Refusal::unavailable(RETRY_AFTER_S));
            }
            self.ask(now, call, called);
            return Ok(());
        };
        let forwards_all = self.control_here && row.forwards & AgentRow::ALWAYS != 0;
        let (why, refusal) = match self.reach_agent(now, agent, &row) {
            Ok(_) if forwards_all => (Why::Always, Refusal::status(480)),
            Ok(target) => match self.win_leases(now, from, &target) {
                Ok(lease) => return self.dial(now, call, Target { lease, ..target }),
                // One call too many of the caller's own: whoever takes it instead would be another.
                Err(refusal) if refusal.status == 403 => return Err(refusal),
                Err(refusal) => (Why::Busy, refusal),
            },
            Err(refusal) if forwards_all => (Why::Always, refusal),
            Err(refusal) => (Why::Unavailable, refusal),
        };
        // Whoever takes the call instead, the caller is in it.
        let is_free = self.win_own(now, from).is_ok();
        if is_free && self.ask_instead(now, call, &row, why, refusal.status) {
            return Ok(());
        }
        Err(refusal)
    }

    pub(crate) fn agent_called(
        &self,
        tenant: TenantId,
        called: &Number,
    ) -> Option<(AgentSlot, AgentRow)> {
        let agents = self.region.agents();
        agents.find_number(tenant, called.as_bytes()).or_else(|| {
            agents.find_user(called.as_bytes()).filter(|(_, row)| row.tenant == tenant.0)
        })
    }

    pub(crate) fn reach_agent(
        &mut self,
        now: Instant,
        agent: AgentSlot,
        row: &AgentRow,
    ) -> Result<Target, Refusal> {
        if row.state() != AgentState::LoggedIn {
            return Err(Refusal::status(480));
        }
        self.reach_phone(now, agent, row)
    }

    /// The phone of an agent, also of one that takes no new calls.
    pub(crate) fn reach_phone(
        &mut self,
        now: Instant,
        agent: AgentSlot,
        row: &AgentRow,
    ) -> Result<Target, Refusal> {
        let Some((flow, registration)) = self.registered(now, agent, row) else {
            return Err(Refusal::status(480));
        };
        let party = Party::Agent(agent, row.login_epoch);
        let number = Number::new(row.number().as_bytes()).unwrap_or_default();
        let uri = registration.contact().as_bytes().to_vec();
        Ok(Target { path: registration.path(), ..Target::new(party, number, flow, uri) })
    }

    fn ask(&mut self, now: Instant, call: CallRef, called: Number) {
        let Some(entry) = self.calls.find_mut(call) else {
            return;
        };
        entry.state = CallState::Asked;
        self.note_call(call);
        self.ask_for(now, LegRef { call, leg: CALLER }, called, Why::Called);
    }

    /// Asks control in the name of a leg's party.
    pub(crate) fn ask_for(&mut self, now: Instant, by: LegRef, number: Number, why: Why) {
        let (operation, call) = (self.next_operation(), by.call);
        let Some(caller) = self.calls.leg(by).map(|leg| leg.party) else { return };
        let Some(entry) = self.calls.find_mut(call) else {
            return;
        };
        entry.asked = Some(operation);
        let location = entry.leg(by.leg).map_or(LocationId(0), |leg| leg.flow.location);
        let (op, tenant) = (operation, entry.tenant);
        let asked = Event::Asked { op, call, tenant, caller, location, why };
        self.tell_with(asked, number.as_bytes());
        let limit = now + Duration::from_millis(ASK_LIMIT_MS);
        self.timers.set(limit, Timer::Asked(call, operation));
    }

    pub(crate) fn on_ask_limit(&mut self, now: Instant, call: CallRef, operation: u64) {
        if self.calls.find(call).is_some_and(|entry| entry.asked == Some(operation)) {
            self.refuse_way(now, call, &Refusal::unavailable(RETRY_AFTER_S));
        }
    }

    /// Control is gone: questions that it has not answered get no answer any more.
    pub(crate) fn lose_control(&mut self, now: Instant) {
        self.control_here = false;
        let asked: Vec<CallRef> =
            self.calls.iter().filter(|call| call.asked.is_some()).map(|call| call.id).collect();
        for call in asked {
            self.refuse_way(now, call, &Refusal::unavailable(RETRY_AFTER_S));
        }
    }
}

/// Whether the answer may be a description. RFC 3261, 21.4.7: 406 when "the resource identified by the
/// request is only capable of generating response entities that have content characteristics not
/// acceptable according to the Accept header field"; 20.1: without one, `application/sdp` is meant.
fn check_accept(message: &Message<'_>) -> Result<(), Refusal> {
    let takes_it = |range: &[u8]| {
        let kind = range.split(|byte| *byte == b';').next().unwrap_or_default().trim_ascii();
        let ranges: [&[u8]; 3] = [b"application/sdp", b"application/*", b"*/*"];
        ranges.iter().any(|range| wire::same_token(kind, range))
    };
    if message.has(Header::Accept) && !message.headers(Header::Accept).any(takes_it) {
        return Err(Refusal::status(406));
    }
    Ok(())
}

/// The number in the user part of a Request-URI, without its parameters (RFC 3261, 19.1.1 escapes).
pub(crate) fn dialled(user: &[u8]) -> Option<Number> {
    let bare = user.split(|byte| *byte == b';').next().unwrap_or_default();
    Number::new(&unescape(bare)).ok().filter(is_dialable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_what_stands_before_the_parameters() {
        let cases: [(&[u8], Option<&str>); 7] = [
            (b"1002", Some("1002")),
            (b"1002;phone-context=x", Some("1002")),
            (b"%31002", Some("1002")),
            (b"", Some("")),
            (b"9%40192.0.2.99", None),
            (b"9 1", None),
            (b"123456789012345678901234567890123", None),
        ];
        for (user, number) in cases {
            assert_eq!(dialled(user).as_ref().map(Number::as_str), number, "{user:?}");
        }
    }
}

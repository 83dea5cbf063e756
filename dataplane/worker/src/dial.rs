//! We call somebody: a leg of ours to a phone or a trunk.

use std::time::Duration;

use abi::{AgentRow, CallState, Counter, LeaseTicket, Party, Why};
use base::{AgentSlot, CallRef, Instant, Text, owner};
use sip::wire::{self, Header, Method, RequestWriter};

use crate::call::{Bridge, CALLER, Flow, Inviting, Lease, Leg, LegRef, Number, Phase, Times};
use crate::carried::{ANONYMOUS, is_withheld};
use crate::extension::SUPPORTED;
use crate::intake::ALLOW;
use crate::lease::WAITING_TONE;
use crate::refusal::{RETRY_AFTER_S, Refusal};
use crate::sips::is_sips;
use crate::worker::{Timer, Worker};

/// How long a leg may ring, in milliseconds (RFC 3261, 16.6: timer C "MUST be larger than 3 minutes").
const RING_LIMIT_MS: u64 = 181_000;

/// How many legs one call may have had: bounds what forwarding and transfers make of it.
pub(crate) const MAX_LEGS: usize = 32;

/// Whom to call, and where.
#[derive(Clone, Debug)]
pub(crate) struct Target {
    pub party: Party,
    pub number: Number,
    pub flow: Flow,
    /// The Request-URI: a phone's Contact, or a number at a trunk.
    pub uri: Vec<u8>,
    /// The Path that the phone registered with (RFC 3327); empty without.
    pub path: Text<160>,
    /// The called agent's word, won for this leg.
    pub lease: Option<Lease>,
    /// What another CCB is shown, whose agent is called.
    pub ticket: Option<LeaseTicket>,
}

impl Target {
    /// Somebody without a lease.
    pub fn new(party: Party, number: Number, flow: Flow, uri: Vec<u8>) -> Target {
        Target { party, number, flow, uri, path: Text::EMPTY, lease: None, ticket: None }
    }

    /// The agent to call, when it is one.
    pub fn agent(&self) -> Option<AgentSlot> {
        match self.party {
            Party::Agent(agent, _) => Some(agent),
            Party::Trunk(_) | Party::Peer(_) => None,
        }
    }
}

impl Worker {
    /// Adds a leg to `target`, bridged to the caller's, and invites it with the caller's offer.
    pub(crate) fn dial(
        &mut self,
        now: Instant,
        call: CallRef,
        target: Target,
    ) -> Result<(), Refusal> {
        let leg = self.add_leg(now, call, &target)?;
        let Some(entry) = self.calls.find_mut(call) else {
            return Err(Refusal::status(481));
        };
        entry.bridges.push(Bridge { a: CALLER, b: leg.leg });
        entry.state = CallState::Calling;
        let caller = LegRef { leg: CALLER, ..leg };
        self.open_media(leg)?;
        self.join_media(caller, leg);
        let offer = self.offer_for(leg)?;
        let name = self.calls.leg(caller).map_or(Number::EMPTY, |leg| leg.who);
        let host = self.address_of(target.flow);
        let diverted = self.calls.find(call).and_then(|call| call.diverted);
        let diversion = diverted.map(|diverted| diverted.value(host)).unwrap_or_default();
        let extra: [(&str, &[u8]); 1] = [("Diversion", diversion.as_bytes())];
        let extra = if diverted.is_some() { &extra[..] } else { &[] };
        self.send_invite_as(now, leg, &target, name, offer, extra)
    }

    /// Gives a call one more leg, which holds the target's lease and nothing else.
    pub(crate) fn add_leg(
        &mut self,
        now: Instant,
        call: CallRef,
        target: &Target,
    ) -> Result<LegRef, Refusal> {
        let leg = match self.next_leg(call) {
            Ok(leg) => leg,
            Err(refusal) => {
                target.lease.into_iter().for_each(|lease| self.let_go(lease));
                return Err(refusal);
            }
        };
        let mut new = Leg::new(leg.leg, target.party, target.number, target.flow, Phase::Gone);
        new.times = Times::from(now);
        new.call_id = self.owned_call_id().into();
        new.local_tag = self.leg_tag(leg).into();
        new.lease = target.lease;
        if let Some(entry) = self.calls.find_mut(call) {
            entry.legs.push(new);
        }
        Ok(leg)
    }

    /// The name of a call's next leg.
    pub(crate) fn next_leg(&self, call: CallRef) -> Result<LegRef, Refusal> {
        let legs = self.calls.find(call).map_or(MAX_LEGS, |entry| entry.legs.len());
        match legs < MAX_LEGS {
            true => Ok(LegRef { call, leg: legs as u8 }),
            false => Err(Refusal::unavailable(RETRY_AFTER_S)),
        }
    }

    /// Invites the party of a new leg in somebody's name, with further header fields.
    pub(crate) fn send_invite_as(
        &mut self,
        now: Instant,
        leg: LegRef,
        target: &Target,
        caller: Number,
        offer: Option<Vec<u8>>,
        extra: &[(&str, &[u8])],
    ) -> Result<(), Refusal> {
        let target = &self.by_scheme(leg, target)?;
        let scheme = if is_sips(&target.uri) { "sips" } else { "sip" };
        let from = match self.caller_invite(leg, is_withheld) {
            Some(true) => ANONYMOUS.to_owned(),
            _ => format!("<{scheme}:{caller}@{}>", self.address_of(target.flow)),
        };
        let asked_s = self.first_interval(leg);
        let hops = self.hops_left(leg);
        let branch = self.fresh_branch();
        let address = self.address_of(target.flow);
        let token = target.flow.channel.transport.token();
        let Some(new) = self.calls.leg(leg) else {
            return Err(Refusal::status(481));
        };
        let mut writer = RequestWriter::new(b"INVITE", &target.uri)
            .header_fmt("Via", format_args!("SIP/2.0/{token} {address};branch={branch};rport"))
            .header_fmt("Max-Forwards", format_args!("{hops}"))
            .header_fmt("From", format_args!("{from};tag={}", new.local_tag))
            .header_fmt("To", format_args!("<{scheme}:{}@{}>", target.number, target.flow.peer))
            .header("Call-ID", &new.call_id)
            .header("CSeq", "1 INVITE")
            .header("Contact", self.contact(leg, target.flow))
            .header("Allow", ALLOW)
            .header("Supported", self.supported(leg, offer.is_some()))
            .header_fmt("Session-Expires", format_args!("{asked_s}"));
        for (name, value) in self.least().into_iter().chain(self.passed_on(leg)) {
            writer = writer.header(name, value);
        }
        for (name, value) in extra {
            writer = writer.header(name, value);
        }
        if self.waits(target.lease) {
            writer = writer.header("Alert-Info", WAITING_TONE);
            self.count(Counter::CallsWaiting);
        }
        // RFC 3327, 5.4: the home proxy "uses this Path as the initial Route header field values".
        if !target.path.is_empty() {
            writer = writer.header("Route", target.path.as_bytes());
        }
        if let Some(ticket) = target.ticket {
            writer = writer.header(LeaseTicket::HEADER, ticket.to_value());
        }
        let bytes = writer.finish(offer.as_deref().map(|sdp| ("application/sdp", sdp)));
        let sent = self.send_request(now, Method::Invite, bytes, &branch, target.flow, leg);
        let Some(key) = sent else {
            self.count(Counter::DropSipFull);
            return Err(Refusal::unavailable(RETRY_AFTER_S));
        };
        if let Some(new) = self.calls.leg_mut(leg) {
            new.phase = Phase::Outgoing;
            new.inviting = Some(Inviting { key, offered: offer.is_some(), renews: false });
        }
        let rings_ms = match self.offer_rings_ms(leg).or_else(|| self.guest_rings_ms(leg)) {
            Some(rings_ms) => rings_ms.min(RING_LIMIT_MS),
            None if self.is_hunting(leg.call) => {
                self.place_rings_ms(leg.call).unwrap_or(RING_LIMIT_MS).min(RING_LIMIT_MS)
            }
            None => self.forwarded_after_ms(target).unwrap_or(RING_LIMIT_MS),
        };
        self.timers.set(now + Duration::from_millis(rings_ms), Timer::Ring(leg));
        self.watch_ringing(leg, target.flow);
        self.note_call(leg.call);
        Ok(())
    }

    /// The called party wants a longer session interval than our INVITE asked for (422): it is sent again with
    /// that one. False when it is not.
    pub(crate) fn invite_wider(
        &mut self,
        now: Instant,
        leg: LegRef,
        refusal: &wire::Message<'_>,
    ) -> bool {
        let Some(least) = self.wider_interval(leg, refusal) else { return false };
        let Some(entry) = self.calls.leg(leg) else { return false };
        let (flow, offered) = (entry.flow, entry.inviting.as_ref().is_some_and(|it| it.offered));
        let Some(key) = entry.inviting.as_ref().map(|inviting| inviting.key) else { return false };
        let Some(old) = self.transactions.request_of(key).map(<[u8]>::to_vec) else { return false };
        let branch = self.fresh_branch();
        let via = self.via(flow, &branch);
        let change = Change { uri: None, via: &via, interval_s: Some(least), body: None };
        let Some(bytes) = changed(&old, &change) else { return false };
        let key = self.send_request(now, Method::Invite, bytes, &branch, flow, leg);
        let (Some(key), Some(entry)) = (key, self.calls.leg_mut(leg)) else { return false };
        entry.ext.early.clear();
        entry.inviting = Some(Inviting { key, offered, renews: false });
        true
    }

    pub(crate) fn on_ring_limit(&mut self, now: Instant, leg: LegRef) {
        if self.calls.leg(leg).is_none_or(|leg| leg.phase != Phase::Outgoing) {
            return;
        }
        if self.forward_leg(now, leg, Why::NoAnswer, 480) {
            return self.part_leg(now, leg, &Refusal::status(480));
        }
        let began = self.calls.find(leg.call).map_or(now, |call| call.started_at);
        let limit = began + Duration::from_millis(RING_LIMIT_MS);
        let is_bounded = self.is_guest(leg.call) || self.is_hunting(leg.call);
        if now < limit && !self.is_transfer_to(leg) && !is_bounded {
            // It would have been forwarded, but nobody says where to.
            return self.timers.set(limit, Timer::Ring(leg));
        }
        self.part_leg(now, leg, &Refusal::status(480));
        self.lose_target(now, leg, &Refusal::status(480));
    }

    /// How long a phone rings before its call is forwarded, in milliseconds; none when it is not.
    fn forwarded_after_ms(&self, target: &Target) -> Option<u64> {
        let row = self.region.agents().read(target.agent()?)?;
        let is_forwarded = row.forwards & AgentRow::NO_ANSWER != 0;
        is_forwarded.then(|| (u64::from(row.no_answer_s) * 1_000).min(RING_LIMIT_MS))
    }

    /// A Call-ID of ours, which hashes to this worker, so that all its messages find their way home.
    pub(crate) fn owned_call_id(&mut self) -> Vec<u8> {
        loop {
            let call_id = format!("{:016x}{:016x}", self.rng.next_u64(), self.rng.next_u64());
            if owner(call_id.as_bytes(), self.config.workers) == self.config.id {
                return call_id.into_bytes();
            }
        }
    }

    /// RFC 3261, 8.1.1.7: "The branch ID inserted by an element compliant with this specification MUST
    /// always begin with the characters "z9hG4bK"".
    pub(crate) fn fresh_branch(&mut self) -> String {
        format!("z9hG4bK{:016x}", self.rng.next_u64())
    }

    /// The Via of a request on a flow.
    pub(crate) fn via(&self, flow: Flow, branch: &str) -> String {
        let (token, address) = (flow.channel.transport.token(), self.address_of(flow));
        format!("SIP/2.0/{token} {address};branch={branch};rport")
    }

    /// Our SIP address at a flow's location, as it stands in Via and Contact: the only one its peers see.
    pub(crate) fn address_of(&self, flow: Flow) -> std::net::SocketAddr {
        let location = &self.config.locations[usize::from(flow.location.0)];
        let port = location.port(flow.channel.transport).unwrap_or(location.sip_port);
        std::net::SocketAddr::new(location.ip, port)
    }

    /// The caller's Max-Forwards less one (RFC 3261, 16.6, step 3, which a B2BUA does well to keep).
    fn hops_left(&self, leg: LegRef) -> u8 {
        self.caller_invite(leg, |message| message.max_forwards().ok().flatten())
            .flatten()
            .map_or(70, |hops| hops.saturating_sub(1))
    }

    /// What our INVITE says that we know. Without an offer of the caller's, the called party's reliable
    /// response would have one, and only a caller's PRACK could answer it (RFC 3262, 5).
    fn supported(&self, leg: LegRef, offers: bool) -> &'static [u8] {
        let caller = self.calls.leg(LegRef { leg: CALLER, ..leg });
        let acknowledges = caller.is_some_and(|caller| caller.ext.reliable.is_some());
        if offers || acknowledges { SUPPORTED } else { b"timer, uui, replaces, norefersub" }
    }

    /// The session interval that our INVITE asks for, in seconds.
    fn first_interval(&mut self, leg: LegRef) -> u32 {
        let asked_s = self.config.session.interval_s;
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.ext.session.asked_s = asked_s;
        }
        asked_s
    }

    /// Reads the caller's INVITE while it is not answered.
    pub(crate) fn caller_invite<T>(
        &self,
        leg: LegRef,
        read: impl FnOnce(&wire::Message<'_>) -> T,
    ) -> Option<T> {
        let caller = self.calls.leg(LegRef { leg: CALLER, ..leg })?;
        let invited = caller.invited.as_ref()?;
        wire::lex(&invited.bytes).ok().map(|message| read(&message))
    }
}

/// What is other in an INVITE that is sent again.
pub(crate) struct Change<'a> {
    /// Its Request-URI, when that is.
    pub uri: Option<&'a [u8]>,
    /// Its Via, with a new branch.
    pub via: &'a str,
    /// A longer session interval, in seconds. RFC 4028, 7.3: then "the CSeq should contain a new sequence number
    /// that is one higher than the previous", and Min-SE has that of the 422.
    pub interval_s: Option<u32>,
    /// Another description. RFC 3261, 8.1.3.5: "the CSeq should contain a new sequence number that is one higher
    /// than the previous".
    pub body: Option<&'a [u8]>,
}

/// An INVITE as before but for the change; none when it cannot be read.
pub(crate) fn changed(old: &[u8], change: &Change<'_>) -> Option<Vec<u8>> {
    let old = wire::lex(old).ok()?;
    let is_next = change.interval_s.is_some() || change.body.is_some();
    let cseq = old.cseq().ok()?.number + u32::from(is_next);
    let mut writer = RequestWriter::new(b"INVITE", change.uri.or(old.request_uri())?);
    for (header, name, value) in old.lines() {
        let name = core::str::from_utf8(name).ok()?;
        writer = match (header, change.interval_s) {
            (Header::Via, _) => writer.header("Via", change.via),
            (Header::CSeq, _) => writer.header_fmt("CSeq", format_args!("{cseq} INVITE")),
            (Header::SessionExpires, Some(least_s)) => {
                let writer = writer.header_fmt("Session-Expires", format_args!("{least_s}"));
                writer.header_fmt("Min-SE", format_args!("{least_s}"))
            }
            (Header::MinSe, Some(_)) | (Header::ContentType | Header::ContentLength, _) => writer,
            _ => writer.header(name, value),
        };
    }
    let body = change.body.or(Some(old.body())).filter(|body| !body.is_empty());
    Some(writer.finish(body.map(|sdp| ("application/sdp", sdp))))
}

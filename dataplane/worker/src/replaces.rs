//! INVITE with Replaces (RFC 3891): a new leg takes the place of one that stands.
//!
//! ```text
//!   N ---INVITE, Replaces: X's dialog---> us      X and Z talk
//!                                          us ---re-INVITE with what N can do---> Z
//!                                          us <--200----------------------------- Z
//!   N <--200, what Z can do--------------- us ---BYE---> X
//! ```
//! Where Z refuses, N is refused, and X and Z go on. The worker of X's call has all of this, so an INVITE goes
//! there by the tag that it names.
//!
//! Of two calls on two workers, the one that is asked for a transfer (REFER) invites the other just so, at our
//! own address: N is then a leg of ours at the other end. Such an INVITE bears a ticket that only we can write.

use abi::Party;
use base::{CcbId, Instant, LocationId};
use sip::wire::{Header, Message, Replaces};

use crate::call::{Flow, LegRef, Number, Phase};
use crate::dial::Target;
use crate::identify::Identity;
use crate::intake::{Arrival, parse_tag};
use crate::refusal::Refusal;
use crate::worker::Worker;

/// The row of a trunk that is none: the other end is a leg of ours.
const NO_ROW: u32 = u32::MAX;
/// The header field of a ticket; it never leaves this machine.
const TICKET: &str = "X-Jackfield-Ticket";

impl Worker {
    /// The dialog that an INVITE wants to replace.
    ///
    /// RFC 3891, 3: "If more than one Replaces header field is present in an INVITE, or if a Replaces header
    /// field is present in a request other than INVITE, the UAS MUST reject the request with a 400 Bad Request
    /// response." And: "If both a Join header field and another header field with contradictory semantics (for
    /// example a Replaces) are present in a request, the request MUST be rejected with a 400" (RFC 3911, 4).
    pub(crate) fn replaces(message: &Message<'_>) -> Result<Option<Replaces>, Refusal> {
        let mut values = message.headers(Header::Replaces);
        let Some(value) = values.next() else { return Ok(None) };
        let bad = || Refusal::status(400);
        if values.next().is_some() || message.has(Header::Join) {
            return Err(bad());
        }
        Replaces::parse(value).map(Some).ok_or_else(bad)
    }

    /// A new leg wants to take the place of one that stands.
    pub(crate) fn on_replacing(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
        named: &Replaces,
    ) -> Result<(), Refusal> {
        if let Some(old) = self.ringing_leg(named) {
            let who = self.identify(now, arrival)?;
            return self.pick_up(now, arrival, who, old);
        }
        // RFC 3891, 3: "If no match is found, the UAS rejects the INVITE and returns a 481".
        let old = self.leg_named(named);
        let owner = self.ticketed(arrival.message);
        let is_inside = owner.is_some();
        let caller = match owner {
            Some(party) => self.identity_inside(old, party, arrival.message),
            None => self.identify(now, arrival).map(|who| (who, who.party)),
        };
        let (caller, owner) = caller?;
        let old = old.ok_or_else(|| Refusal::status(481))?;
        let of = self.replaceable(old, named, caller, owner)?;
        self.check_body_of(arrival.message, is_inside)?;
        if !is_inside {
            let offer = sip::body::session(arrival.message).unwrap_or_default();
            self.check_srtp(caller.tenant, caller.party, offer)?;
        }
        let leg = self.add_replacing(now, arrival, caller, old)?;
        self.transfer_to_coming(now, old.call, of, leg);
        Ok(())
    }

    /// Whom the new leg would talk to, if it may take the place of `old`.
    fn replaceable(
        &self,
        old: LegRef,
        named: &Replaces,
        caller: Identity,
        owner: Party,
    ) -> Result<LegRef, Refusal> {
        let call = self.calls.find(old.call).ok_or_else(|| Refusal::status(481))?;
        let entry = call.leg(old.leg).ok_or_else(|| Refusal::status(481))?;
        let may = match (owner, entry.party) {
            (Party::Agent(..), _) => true,
            (owner, party) => owner == party,
        };
        if call.tenant != caller.tenant || !may {
            // RFC 3891, 4: who is not authorised to replace the dialog does not.
            return Err(Refusal::status(403));
        }
        match entry.phase {
            // RFC 3891, 3: "If the Replaces header field matches a confirmed dialog, it checks for the presence
            // of the "early-only" flag [...]. If the flag is present, the UA rejects the request with a 486".
            Phase::Established if named.early_only => Err(Refusal::status(486)),
            Phase::Established if call.transfer.is_some() => Err(Refusal::status(491)),
            Phase::Established => self.transferable(old),
            // "If the Replaces header field matches a dialog that has already terminated, the UA SHOULD decline
            // the request with a 603".
            Phase::Leaving | Phase::Gone => Err(Refusal::status(603)),
            // "If the Replaces header field matches an early dialog that was not initiated by this UA, it
            // returns a 481". One of ours that rings, and that is named, is picked up before.
            Phase::Incoming | Phase::Outgoing => Err(Refusal::status(481)),
        }
    }

    /// The new leg in the call of the old one.
    pub(crate) fn add_replacing(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
        caller: Identity,
        old: LegRef,
    ) -> Result<LegRef, Refusal> {
        let leg = self.next_leg(old.call)?;
        let new = self.incoming_leg(now, arrival, &caller, leg)?;
        self.transactions.set_user(arrival.key, leg.to_word());
        if let Some(entry) = self.calls.find_mut(old.call) {
            entry.legs.push(new);
        }
        let ready = self.open_media(leg).and_then(|()| self.win_own(now, leg));
        if let Err(refusal) = ready {
            self.close_media(now, leg);
            if let Some(entry) = self.calls.leg_mut(leg) {
                entry.invited = None;
            }
            self.leg_gone(leg);
            return Err(refusal);
        }
        self.answer(now, leg, 100, None);
        if !arrival.message.body().is_empty() {
            self.learn_remote(now, leg, arrival.message.body());
        }
        Ok(leg)
    }

    /// The worker of another's leg that a dialog names is asked for the transfer: by an INVITE to our own
    /// address.
    pub(crate) fn invite_inside(
        &mut self,
        now: Instant,
        by: LegRef,
        number: Number,
        named: &Replaces,
    ) -> Result<(), Refusal> {
        let unable = || Refusal::status(481);
        let entry = self.calls.leg(by).ok_or_else(unable)?;
        let (party, location) = (entry.party, entry.flow.location);
        let flow = Flow::of(location, base::Transport::Udp, self.own_address(location));
        let uri = format!("sip:{number}@{}", flow.peer).into_bytes();
        let target = Target::new(Party::Trunk(NO_ROW), number, flow, uri);
        let leg = self.add_transfer_target(now, by.call, &target)?;
        let of = self.transferred(by.call).ok_or_else(unable)?;
        let call_id = self.calls.leg(leg).ok_or_else(unable)?.call_id.clone();
        let ticket =
            [party_text(party).as_bytes(), b" ", &self.ticket(now, &call_id, party)].concat();
        let value = replaces_value(named);
        let extra: [(&str, &[u8]); 2] = [("Replaces", &value), (TICKET, &ticket)];
        let offer = self.offer_of(of, leg)?;
        let name = self.calls.leg(of).map_or(Number::EMPTY, |leg| leg.who);
        self.send_invite_as(now, leg, &target, name, Some(offer), &extra)
    }

    /// The SIP address of a location.
    pub(crate) fn own_address(&self, location: LocationId) -> std::net::SocketAddr {
        let location = &self.config.locations[usize::from(location.0)];
        std::net::SocketAddr::new(location.ip, location.sip_port)
    }

    /// True for a leg whose other end is a leg of ours too.
    pub(crate) fn is_inside(&self, leg: LegRef) -> bool {
        let entry = self.calls.leg(leg);
        entry.is_some_and(|leg| leg.flow.peer == self.own_address(leg.flow.location))
    }

    /// What proves that an INVITE is ours: a nonce in a realm that no challenge has.
    fn ticket(&self, now: Instant, call_id: &[u8], party: Party) -> Vec<u8> {
        self.nonces.nonce(now, &ticket_realm(call_id, party)).to_vec()
    }

    /// Who an INVITE of ours to ourselves is for, when its ticket is genuine.
    fn ticketed(&self, message: &Message<'_>) -> Option<Party> {
        let value = message.header_named(TICKET)?;
        let (party, ticket) = value.split_at(value.iter().position(|byte| *byte == b' ')?);
        let party = parse_party(party)?;
        let realm = ticket_realm(message.call_id().ok()?, party);
        self.nonces.nonce_time(ticket.trim_ascii(), &realm).map(|_| party)
    }

    /// Who an INVITE of ours to ourselves is from: only the owner of a dialog has it replaced.
    fn identity_inside(
        &self,
        old: Option<LegRef>,
        owner: Party,
        message: &Message<'_>,
    ) -> Result<(Identity, Party), Refusal> {
        let old = old.ok_or_else(|| Refusal::status(481))?;
        let (call, leg) = (self.calls.find(old.call), self.calls.leg(old));
        let (Some(call), Some(_)) = (call, leg.filter(|leg| leg.party == owner)) else {
            return Err(Refusal::status(403));
        };
        let user = message.from().ok().and_then(|from| Some(from.parsed_uri().ok()?.user));
        let number = user.and_then(|user| Number::new(user).ok()).unwrap_or_default();
        let party = Party::Trunk(NO_ROW);
        Ok((Identity { tenant: call.tenant, party, number }, owner))
    }

    /// True when the dialog that is named has its leg on another worker.
    pub(crate) fn is_elsewhere(&self, named: &Replaces) -> bool {
        let leg = parse_tag(&named.to_tag);
        let worker = leg.and_then(|leg| self.region.calls().owner(leg.call.slot));
        worker.is_some_and(|worker| worker != self.config.id)
    }
}

/// The value of Replaces.
pub(crate) fn replaces_value(named: &Replaces) -> Vec<u8> {
    let (to, from) = (&named.to_tag, &named.from_tag);
    [&named.call_id, &b";to-tag="[..], to, b";from-tag=", from].concat()
}

fn ticket_realm(call_id: &[u8], party: Party) -> Vec<u8> {
    [b"inside ", call_id, b" ", party_text(party).as_bytes()].concat()
}

fn party_text(party: Party) -> String {
    match party {
        Party::Agent(agent, epoch) => format!("a.{}.{epoch}", agent.0),
        Party::Trunk(row) => format!("t.{row}"),
        Party::Peer(ccb) => format!("p.{ccb}"),
    }
}

fn parse_party(text: &[u8]) -> Option<Party> {
    let mut parts = std::str::from_utf8(text).ok()?.split('.');
    let party = match parts.next()? {
        "a" => {
            let agent = base::AgentSlot(parts.next()?.parse().ok()?);
            Party::Agent(agent, parts.next()?.parse().ok()?)
        }
        "t" => Party::Trunk(parts.next()?.parse().ok()?),
        "p" => Party::Peer(CcbId(parts.next()?.parse().ok()?)),
        _ => return None,
    };
    parts.next().is_none().then_some(party)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_party_survives_its_text() {
        for party in
            [Party::Agent(base::AgentSlot(7), u32::MAX), Party::Trunk(3), Party::Peer(CcbId(9))]
        {
            assert_eq!(parse_party(party_text(party).as_bytes()), Some(party));
        }
        for wrong in
            [&b""[..], b"a", b"a.1", b"a.1.2.3", b"t.x", b"p.65536", b"x.1", b"t.1.1", b"\xff"]
        {
            assert_eq!(parse_party(wrong), None);
        }
    }
}

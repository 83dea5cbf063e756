//! Redirections of called parties (RFC 3261, 8.1.3.4), as far as they cost nobody anything.
//!
//! "Subject to the restrictions in this specification, a client can choose which Contact URIs it places into the
//! target set": whoever answers a call could send it, at the tenant's cost, to the dearest number there is. So
//!
//! * an agent's phone may name a number at our address; the call goes there as if its caller had dialled that, so who
//!   may not call the world from here does not do it so either;
//! * a trunk may name another of its own addresses for the same number, or the number of an agent at ours.
//!
//! Everything else, what was tried already, and more than [`MAX_FORWARDS`] steps end the leg: the caller hears 480.

use abi::{Counter, Party, Why};
use base::{Instant, TenantId};
use sip::wire::{Header, Message, NameAddr, Uri};

use crate::Location;
use crate::call::{CALLER, Flow, Leg, LegRef, Number, is_dialable};
use crate::commands::uri_at;
use crate::dial::Target;
use crate::forward::MAX_FORWARDS;
use crate::worker::Worker;

/// Contacts of one redirection that are looked at.
const MAX_CONTACTS: usize = 8;

/// Where a redirection leads that is followed.
enum Way {
    /// A number of the tenant's.
    Number(Number),
    /// The same number at another address of the trunk.
    Trunk(Box<Target>),
}

impl Worker {
    /// Follows the 3xx of a called party; false when it is not followed.
    pub(crate) fn redirected(
        &mut self,
        now: Instant,
        leg: LegRef,
        status: u16,
        message: &Message<'_>,
    ) -> bool {
        // 305 and 380 name a proxy and another kind of call.
        if !matches!(status, 300..=302) || self.is_hunting(leg.call) || self.is_guest(leg.call) {
            return false;
        }
        let Some(way) = self.way_named(leg, message) else { return false };
        let Some(call) = self.calls.find_mut(leg.call) else { return false };
        call.forwards += 1;
        self.count(Counter::CallsRedirected);
        self.note_leg_ended(now, leg);
        if self.is_transfer_to(leg) {
            self.seek_again(leg.call);
        }
        self.unjoin(now, leg);
        self.close_media(now, leg);
        self.leg_gone(leg);
        let gone = match way {
            Way::Number(number) => self.seek(now, leg.call, number, Why::Called),
            Way::Trunk(target) => self.dial_or_invite(now, leg.call, *target),
        };
        if let Err(refusal) = gone {
            self.refuse_way(now, leg.call, &refusal);
        }
        true
    }

    /// The first way that may be gone, of those that the party likes best.
    fn way_named(&self, leg: LegRef, message: &Message<'_>) -> Option<Way> {
        let call = self.calls.find(leg.call)?;
        if leg.leg == CALLER || call.forwards >= MAX_FORWARDS {
            return None;
        }
        let contacts = message.headers(Header::Contact).filter_map(NameAddr::parse);
        let mut contacts: Vec<_> = contacts.take(MAX_CONTACTS).collect();
        // RFC 3261, 8.1.3.4: those of a higher q first.
        contacts.sort_by_key(|contact| std::cmp::Reverse(sip::registrar::preference(contact)));
        contacts.iter().find_map(|contact| {
            let uri = contact.parsed_uri().ok()?;
            self.way_to_contact(leg, call.tenant, &uri)
        })
    }

    fn way_to_contact(&self, leg: LegRef, tenant: TenantId, uri: &Uri<'_>) -> Option<Way> {
        let call = self.calls.find(leg.call)?;
        let entry = call.leg(leg.leg)?;
        let number = Number::new(uri.user).ok();
        let number = number.filter(|number| !number.is_empty() && is_dialable(number))?;
        // RFC 3261, 8.1.3.4: "a client processing 3xx class responses MUST NOT add any given URI to the target set
        // more than once"; nor is who is in the call already called by another name.
        let agent = self.agent_called(tenant, &number).map(|(slot, _)| slot);
        let is_known = |leg: &Leg| leg.who == number || (agent.is_some() && leg.agent() == agent);
        let was_tried = call.legs.iter().any(is_known);
        let is_here = self.is_own_host(tenant, uri);
        match entry.party {
            Party::Agent(..) => (is_here && !was_tried).then_some(Way::Number(number)),
            Party::Trunk(_) if is_here => {
                (agent.is_some() && !was_tried).then_some(Way::Number(number))
            }
            Party::Trunk(trunk) => {
                let port = uri.port.unwrap_or(entry.flow.channel.transport.default_port());
                let peer = (uri.host_ip()?, port).into();
                let channel = base::Channel::any(entry.flow.channel.transport);
                let flow = Flow { peer, channel, ..entry.flow };
                let is_its = trunk != u32::MAX && self.trunk_called(flow) == trunk;
                let is_new = call.legs.iter().all(|tried| tried.flow.peer != peer);
                let target = Target::new(entry.party, number, flow, uri_at(number.as_str(), flow));
                (is_its && is_new && number == entry.who).then(|| Way::Trunk(Box::new(target)))
            }
            Party::Peer(_) => None,
        }
    }

    /// True for an address of ours, and for the tenant's own name.
    fn is_own_host(&self, tenant: TenantId, uri: &Uri<'_>) -> bool {
        let is_port = |location: &Location| {
            let ports = &location.streams;
            let ports = [Some(location.sip_port), ports.tls, ports.ws, ports.wss];
            uri.port.is_none() || ports.contains(&uri.port)
        };
        let is_at = |location: &Location| uri.host_ip() == Some(location.ip) && is_port(location);
        let mut tenants = self.provision.tenants.iter().filter(|row| row.tenant == tenant.0);
        self.config.locations.iter().any(is_at)
            || tenants.any(|row| row.realm().as_bytes().eq_ignore_ascii_case(uri.host))
    }
}

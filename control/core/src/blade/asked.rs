//! Where calls go whose numbers the tables do not know.

use abi::{Party, Why};
use base::{CallRef, CcbId, Instant, TenantId, WorkerId};

use super::Blade;
use super::forward::{UNRESOLVED_S, unknown};
use super::hosting::RETRY_AFTER_S;
use super::side::Purpose;
use crate::message::Output;
use crate::routes::{Destination, Service};

/// What the data plane asked.
pub(super) struct Asked<'a> {
    pub(super) op: u64,
    pub(super) call: CallRef,
    pub(super) tenant: TenantId,
    pub(super) caller: Party,
    pub(super) why: Why,
    pub(super) number: &'a [u8],
}

impl Blade {
    /// Says where a call goes whose number is no agent's. A trunk's call never goes out to a trunk
    /// again: who is trusted to call our agents may not call the world at our cost. A service of the
    /// data plane is no way out.
    pub(super) fn asked(
        &mut self,
        now: Instant,
        ccb: CcbId,
        worker: WorkerId,
        asked: Asked<'_>,
        out: &mut Vec<Output>,
    ) {
        if self.wanted_elsewhere(now, ccb, worker, &asked, out)
            || self.forwarded(now, ccb, worker, &asked, out)
        {
            return;
        }
        let ways = [Why::Called, Why::Transferred, Why::Forwarded, Why::Summoned];
        let is_way = ways.contains(&asked.why);
        let route = self.routes.find(asked.tenant, asked.number).filter(|_| is_way);
        let way = match (asked.caller, route.map(|route| route.to.clone())) {
            // Who is called for a mix is somebody.
            (_, Some(Destination::Service(_))) if asked.why == Why::Summoned => None,
            (_, Some(Destination::Service(Service::Queue(name))))
                if !self.admit(now, (ccb, worker), &asked, &name, out) =>
            {
                return;
            }
            (_, Some(Destination::Service(service))) => {
                return self.serve(now, ccb, worker, &asked, service, out);
            }
            // An agent whose call another blade has asks by that blade (S2-013).
            (
                Party::Agent(..) | Party::Peer(_),
                Some(Destination::Trunk { addresses, transport, location, .. }),
            ) => Some((addresses, transport, location)),
            // It is the tenant who forwards a call, and its rule that says where to.
            (Party::Trunk(_), Some(Destination::Trunk { addresses, transport, location, .. }))
                if asked.why == Why::Forwarded =>
            {
                Some((addresses, transport, location))
            }
            _ => None,
        };
        let is_blind = self.is_blind(now);
        let Some(side) = self.sides.get_mut(&ccb) else {
            return;
        };
        let is_unresolved = way.as_ref().is_some_and(|(addresses, ..)| addresses.is_empty());
        let way = way.and_then(|(addresses, transport, location)| {
            let addresses = side.trunks.in_order(&addresses);
            let location = side.location_for(location.as_deref(), *addresses.first()?)?;
            Some((addresses, transport, location))
        });
        let Asked { op: ask, call, number, why, .. } = asked;
        let (status, retry_after_s) = match is_unresolved {
            true => (503, UNRESOLVED_S),
            // Who has not heard yet where all agents are cannot say that nobody has the number.
            false if is_blind && is_way => (503, RETRY_AFTER_S),
            false => (unknown(why), 0),
        };
        match way {
            Some((addresses, transport, location)) => {
                let address = addresses[0];
                let others = addresses[1..].iter().map(|other| format!("\n{other}"));
                let blob = [number, others.collect::<String>().as_bytes()].concat();
                side.counts.asked_dialled += 1;
                let command =
                    |op| abi::Command::Dial { op, ask, call, address, location, transport };
                side.send(now, worker, Purpose::Answer, &blob, command, out);
            }
            None => {
                side.counts.asked_rejected += 1;
                let command = |op| abi::Command::Reject { op, ask, call, status, retry_after_s };
                side.send(now, worker, Purpose::Answer, &[], command, out);
            }
        }
    }
}

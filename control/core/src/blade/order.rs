//! Orders for media: those of an administrator, and those of the services that routes lead to.

use abi::{CallState, Command, MediaOrder, MixRole, OpResult, PathReason, Region};
use base::{CallRef, CcbId, Instant, TenantId, WorkerId};

use super::side::{CALLER, Purpose, Side};
use super::{Asked, Blade};
use crate::message::{OpOutcome, Order, Output};
use crate::routes::{self, Destination, Service};

/// SIP's Temporarily Unavailable (RFC 3261, 21.4.18).
const UNAVAILABLE: u16 = 480;
/// SIP's Server Internal Error (RFC 3261, 21.5.1).
const INTERNAL: u16 = 500;
/// SIP's Service Unavailable (RFC 3261, 21.5.4).
const NO_ROOM: u16 = 503;

/// What is sent for an order, and where to.
struct Ready {
    worker: WorkerId,
    what: MediaOrder,
}

impl Blade {
    /// An administrator's order. It ends with exactly one [`Output::Done`].
    pub(super) fn order(&mut self, now: Instant, reply: u64, order: Order, out: &mut Vec<Output>) {
        let ready = match self.sides.get(&order.ccb) {
            None => Err(OpOutcome::Unknown),
            Some(side) if self.is_of_room(side, &order) => Err(OpOutcome::NoSuchMix),
            Some(side) => check(side, &order),
        };
        let Ready { worker, what } = match ready {
            Ok(ready) => ready,
            Err(result) => return out.push(Output::Done { reply, result, digits: None }),
        };
        let side = self.sides.get_mut(&order.ccb).expect("it was just there");
        let Order { call, leg, prompt, .. } = order;
        let command = |op| Command::Media { op, call, leg, order: what };
        side.send(now, worker, Purpose::Asked { reply }, prompt.as_bytes(), command, out);
    }

    /// Answers a call whose number leads to a service.
    pub(super) fn serve(
        &mut self,
        now: Instant,
        ccb: CcbId,
        worker: WorkerId,
        asked: &Asked<'_>,
        service: Service,
        out: &mut Vec<Output>,
    ) {
        let Some(side) = self.sides.get_mut(&ccb) else {
            return;
        };
        let Asked { op: ask, call, tenant, .. } = *asked;
        let has_queue = |name: &str| self.queueing.acd.queue(tenant, name).is_some();
        if !can_serve(tenant, &service, has_queue) {
            side.counts.asked_rejected += 1;
            out.push(failed(ccb, call, &service, OpResult::Refused));
            let status = UNAVAILABLE;
            let command = |op| Command::Reject { op, ask, call, status, retry_after_s: 0 };
            side.send(now, worker, Purpose::Answer, &[], command, out);
            return;
        }
        side.counts.asked_served += 1;
        side.served.insert(call);
        let purpose = Purpose::Serve { call, service, is_answer: true };
        side.send(now, worker, purpose, &[], |op| Command::Answer { op, ask, call }, out);
    }

    /// A step of a service is done: what comes next.
    pub(super) fn service_done(
        &mut self,
        now: Instant,
        ccb: CcbId,
        worker: WorkerId,
        step: (CallRef, Service, bool),
        result: OpResult,
        out: &mut Vec<Output>,
    ) {
        let Some(side) = self.sides.get_mut(&ccb) else {
            return;
        };
        let (call, service, is_answer) = step;
        let cause = match (result, is_answer, &service) {
            (OpResult::Ok, true, _) => {
                return self.begin_service(now, ccb, worker, call, service, out);
            }
            // An order put the call elsewhere meanwhile; what became of the service ends nothing.
            (_, false, _) if side.taken.contains(&call) => return,
            // It was played.
            (OpResult::Ok, false, Service::Play(_)) => 0,
            // A prompt that was stopped gave way to another order, or the call is over.
            (OpResult::Stopped, _, _) => {
                if side.calls.find(call).is_some_and(|call| call.row.state() != CallState::Ended) {
                    side.taken.insert(call);
                }
                return;
            }
            // It waits for orders, or stands in its mix.
            (OpResult::Ok, _, _) => return,
            (OpResult::NoSuchCall, _, _) => {
                // It may be one that a data plane that restarts has not taken over yet.
                side.served.remove(&call);
                return;
            }
            (_, true, _) => NO_ROOM,
            (_, false, _) => INTERNAL,
        };
        if cause != 0 {
            out.push(failed(ccb, call, &service, result));
        }
        let command = |op| Command::Release { op, call, cause };
        side.send(now, worker, Purpose::Answer, &[], command, out);
    }

    /// Gives an answered call its service.
    pub(super) fn begin_service(
        &mut self,
        now: Instant,
        ccb: CcbId,
        worker: WorkerId,
        call: CallRef,
        service: Service,
        out: &mut Vec<Output>,
    ) {
        let Some(side) = self.sides.get_mut(&ccb) else {
            return;
        };
        let (what, prompt) = match &service {
            Service::Answer => return,
            Service::Queue(name) => return self.enqueue(now, ccb, call, name, out),
            Service::Play(name) => (MediaOrder::Play { times: 1 }, name.as_bytes().to_vec()),
            Service::Mix(number) => {
                let row = side.region().and_then(|region| region.calls().read(call.slot));
                let row = row.filter(|row| row.generation == call.generation);
                let mix = row.and_then(|row| routes::mix_number(row.tenant(), *number));
                let Some(mix) = mix else {
                    out.push(failed(ccb, call, &service, OpResult::Refused));
                    let command = |op| Command::Release { op, call, cause: UNAVAILABLE };
                    return side.send(now, worker, Purpose::Answer, &[], command, out);
                };
                let role = MixRole::Participant;
                (MediaOrder::Mix { mix, role, to: call, to_leg: CALLER }, Vec::new())
            }
        };
        let purpose = Purpose::Serve { call, service, is_answer: false };
        let command = |op| Command::Media { op, call, leg: CALLER, order: what };
        side.send(now, worker, purpose, &prompt, command, out);
    }

    /// Goes on with services that an earlier control process began or that a data plane took over
    /// from the one before it: a prompt begins again, a mix is joined again.
    pub(super) fn resume_services(&mut self, now: Instant, ccb: CcbId, out: &mut Vec<Output>) {
        let Some(side) = self.sides.get_mut(&ccb).filter(|side| side.link) else {
            return;
        };
        let Some(region) = side.region() else { return };
        let mut begin = Vec::new();
        for call in side.calls.iter() {
            if call.row.state() != CallState::Answered
                || call.row.legs != 1
                || side.served.contains(&call.call)
                || side.taken.contains(&call.call)
            {
                continue;
            }
            let called = call.row.called();
            let route = self.routes.find(call.row.tenant(), called.as_bytes());
            // Who waits in a queue is taken up in another order.
            let is_other = |service: &&Service| !matches!(service, Service::Queue(_));
            if let Some(Destination::Service(service)) = route.map(|route| &route.to)
                && is_other(&service)
                && let Some(worker) = region.calls().owner(call.call.slot)
            {
                let is_mixed = is_mixed(&region, call);
                begin.push((call.call, worker, service.clone(), is_mixed));
            }
        }
        for (call, worker, service, is_mixed) in begin {
            let Some(side) = self.sides.get_mut(&ccb) else { return };
            match service {
                // It came to its mix, or to another one, in another role.
                Service::Mix(_) if is_mixed => _ = side.served.insert(call),
                // An order put it there.
                _ if is_mixed => _ = side.taken.insert(call),
                service => {
                    side.served.insert(call);
                    self.begin_service(now, ccb, worker, call, service, out);
                }
            }
        }
    }
}

/// What an order becomes, when what it names is there.
fn check(side: &Side, order: &Order) -> Result<Ready, OpOutcome> {
    let region = side.region().ok_or(OpOutcome::Unknown)?;
    let call = side.calls.find(order.call).ok_or(OpOutcome::Unknown)?;
    let worker = region.calls().owner(order.call.slot).ok_or(OpOutcome::Unknown)?;
    let has_leg = |call: &crate::calls::Call, leg: u8| {
        call.legs.iter().any(|(_, row)| row.leg == u32::from(leg))
    };
    if !side.link {
        return Err(OpOutcome::Gone);
    }
    if !has_leg(call, order.leg) {
        return Err(OpOutcome::NoSuchLeg);
    }
    let what = match order.what {
        MediaOrder::Mix { mix, role, to, to_leg } => {
            let tenant = call.row.tenant();
            let mix = routes::mix_number(tenant, mix).ok_or(OpOutcome::NoSuchMix)?;
            if role == MixRole::Whisper {
                let listener = side.calls.find(to).filter(|one| one.row.tenant() == tenant);
                let listener = listener.filter(|one| has_leg(one, to_leg));
                let listener = listener.ok_or(OpOutcome::NoSuchListener)?;
                if !side.may_be_in_mix(listener, to_leg, mix) {
                    return Err(OpOutcome::ListenerElsewhere);
                }
            }
            MediaOrder::Mix { mix, role, to, to_leg }
        }
        other => other,
    };
    Ok(Ready { worker, what })
}

/// True when the data plane that runs now says that the call's caller is in a mix. A row of an earlier one
/// tells of a mix that is no more.
fn is_mixed(region: &Region, call: &crate::calls::Call) -> bool {
    let incarnation = region.header().data_plane().incarnation;
    let is_fresh = |row: &abi::CallRow| {
        row.generation == call.call.generation && row.incarnation == incarnation
    };
    let caller = call.legs.iter().find(|(_, leg)| leg.leg == u32::from(CALLER));
    region.calls().read(call.call.slot).as_ref().is_some_and(is_fresh)
        && caller
            .and_then(|(place, _)| region.legs().read(*place))
            .is_some_and(|leg| leg.call() == call.call && leg.path_reason() == PathReason::Mix)
}

fn can_serve(tenant: TenantId, service: &Service, has_queue: impl Fn(&str) -> bool) -> bool {
    match service {
        Service::Queue(name) => has_queue(name),
        Service::Mix(number) => routes::mix_number(tenant, *number).is_some(),
        Service::Answer | Service::Play(_) => true,
    }
}

fn failed(ccb: CcbId, call: CallRef, service: &Service, result: OpResult) -> Output {
    Output::ServiceFailed { ccb, call, service: service.to_string(), result }
}

//! A queue gives a caller who waits to an agent.
//!
//! The caller is a call of one leg that we answered ourselves and that hears music. An offer is a transfer of that leg
//! which nobody asked for: the agent is invited with what the caller can do, and when the agent answers, the two are
//! joined. When the agent does not, the caller waits on and still hears the music, and control learns why.

use abi::{CallState, OpResult, Why};
use base::Instant;

use crate::call::{LegRef, Number, Phase, is_dialable};
use crate::dial::MAX_LEGS;
use crate::functions::Ordered;
use crate::transfer::To;
use crate::worker::Worker;

/// What control is told of, and how long the phone may ring.
#[derive(Clone, Copy, Debug)]
pub struct Offer {
    /// The operation that is completed when it is decided.
    pub op: u64,
    /// In seconds.
    pub ring_s: u32,
    /// The caller goes elsewhere than to an agent of the queue.
    pub overflow: bool,
}

impl Worker {
    /// Control offers a leg to a number.
    pub(crate) fn on_offer(
        &mut self,
        now: Instant,
        leg: LegRef,
        offer: Offer,
        number: &[u8],
    ) -> Ordered {
        let number = Number::new(number).ok().filter(|it| !it.is_empty() && is_dialable(it));
        let Some(call) = self.calls.find(leg.call) else {
            return Ordered::Done(OpResult::NoSuchCall);
        };
        let waits = call.leg(leg.leg).is_some_and(|leg| {
            leg.phase == Phase::Established && leg.awaited.is_none() && leg.joined.is_none()
        });
        let is_free = call.state == CallState::Answered && call.transfer.is_none();
        if call.legs.len() >= MAX_LEGS {
            return Ordered::Done(OpResult::Full);
        }
        let (Some(number), true, None) = (number, waits && is_free, self.peer_of(leg)) else {
            return Ordered::Done(OpResult::Refused);
        };
        self.begin_transfer(now, leg.call, None, leg, To::Sought);
        let transfer = self.calls.find_mut(leg.call).and_then(|call| call.transfer.as_mut());
        if let Some(transfer) = transfer {
            transfer.offer = Some(offer);
        }
        let why = if offer.overflow { Why::Forwarded } else { Why::Offered };
        if let Err(refusal) = self.seek(now, leg.call, number, why) {
            self.fail_transfer(now, leg.call, refusal.status);
        }
        Ordered::Begun
    }

    /// How long the phone of an offer's leg may ring, in milliseconds; none when the leg is no offer's.
    pub(crate) fn offer_rings_ms(&self, leg: LegRef) -> Option<u64> {
        let transfer = self.calls.find(leg.call)?.transfer.as_ref()?;
        let offer = transfer.offer.filter(|_| transfer.to == To::Invited(leg.leg))?;
        Some(u64::from(offer.ring_s) * 1_000)
    }

    /// The agent answered: the caller hears the agent from here on.
    pub(crate) fn offer_taken(&mut self, caller: LegRef, offer: Offer) {
        self.stop_playing(caller);
        self.tell(abi::Event::Done { op: offer.op, result: OpResult::Ok });
    }

    /// Nobody took the caller, who waits on.
    pub(crate) fn offer_refused(&mut self, offer: Offer, to: To, status: u16) {
        let result = match (to, status) {
            (To::Sought, _) => OpResult::Denied,
            (_, 408 | 480 | 487) => OpResult::NoAnswer,
            _ => OpResult::Declined,
        };
        self.tell(abi::Event::Done { op: offer.op, result });
    }

    /// The caller's call is over while the phone rings.
    pub(crate) fn offer_over(&mut self, offer: Offer) {
        self.tell(abi::Event::Done { op: offer.op, result: OpResult::NoSuchCall });
    }
}

//! What a desk does to the call of its agent: hold, retrieve, answer.
//!
//! ```text
//!   agent's phone          worker              the other party
//!     |<--INVITE inactive----|----INVITE sendonly--->|   the agent rests, the other hears music
//!     |---200 inactive------>|<---200 recvonly-------|   Held: control plays it
//!     |<--INVITE sendrecv----|----INVITE sendrecv--->|   Retrieved
//! ```
//! It is the hold of a phone but for who says it (RFC 3264, 8.4), so whoever hears of that one hears of this one: what a
//! phone answers to `inactive` is that it is on hold.

use abi::{Counter, OpResult};
use base::Instant;
use sip::sdp::Direction;
use sip::wire::Method;

use crate::call::{LegRef, Phase};
use crate::transfer::What;
use crate::worker::Worker;

impl Worker {
    /// A desk holds the peer of a leg, or takes it back.
    pub(crate) fn on_park(&mut self, now: Instant, leg: LegRef, on: bool) -> OpResult {
        let Some(call) = self.calls.find(leg.call) else { return OpResult::NoSuchCall };
        let is_free = call.transfer.is_none();
        let Some(entry) = self.calls.leg(leg) else { return OpResult::NoSuchCall };
        let is_so = if on { entry.parked } else { !entry.parked && !entry.held };
        let Some(peer) = self.peer_of(leg).filter(|_| is_free && !is_so) else {
            return OpResult::Refused;
        };
        let stands = |leg| {
            let entry = self.calls.leg(leg);
            entry.is_some_and(|leg| leg.phase == Phase::Established && leg.change.is_none())
        };
        if !stands(leg) || !stands(peer) {
            return OpResult::Refused;
        }
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.parked = on;
        }
        self.count(Counter::CallsParked);
        self.want(now, leg, What::Tell);
        self.want(now, peer, What::Tell);
        OpResult::Ok
    }

    /// Which way the media of `leg` flows when it is told of `of` anew. RFC 3264, 8.4: "If the stream to be placed on
    /// hold was previously a sendrecv media stream, it is placed on hold by marking it as sendonly."
    pub(crate) fn flows_to(&self, leg: LegRef, of: Option<LegRef>) -> Direction {
        let is_parked = |leg: LegRef| self.calls.leg(leg).is_some_and(|leg| leg.parked);
        let peer = of.is_some_and(is_parked);
        Direction::new(!is_parked(leg), !is_parked(leg) && !peer)
    }

    /// A desk wants its agent's phone, which rings, to answer.
    pub(crate) fn on_talk(&mut self, now: Instant, leg: LegRef) -> OpResult {
        let Some(entry) = self.calls.leg(leg) else { return OpResult::NoSuchCall };
        if entry.phase != Phase::Outgoing || entry.ext.early.is_empty() {
            return OpResult::Refused;
        }
        // Phones that obey it list the package in Allow-Events (RFC 6665, 8.2.2).
        if !entry.ext.takes_talk {
            return OpResult::Declined;
        }
        let Some(mut dialog) = entry.ext.early.first().map(|early| early.dialog.clone()) else {
            return OpResult::Refused;
        };
        let lines: [(&str, &[u8]); 2] = [("Event", b"talk"), ("Subscription-State", b"active")];
        let sent = self.send_in_dialog(now, leg, &mut dialog, Method::Notify, &lines, None);
        self.put_early(leg, dialog);
        match sent {
            Some(_) => {
                self.count(Counter::CallsTalked);
                OpResult::Ok
            }
            None => OpResult::Full,
        }
    }
}

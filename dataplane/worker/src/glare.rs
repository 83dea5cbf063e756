//! A re-INVITE of ours that meets one of its peer (RFC 3261, 14.1): it is made again after a while, and who
//! wanted it sees nothing of that.

use std::time::Duration;

use base::Instant;
use sip::transaction::ClientKey;
use sip::wire::{self, Method};

use crate::call::{CALLER, LegRef};
use crate::extension::Glare;
use crate::refusal::Refusal;
use crate::worker::{Timer, Worker};

/// How often one offer is made again; then who made it hears 491, and may try by itself.
const MAX_TIMES: u32 = 3;

impl Worker {
    /// Our re-INVITE got a 491. False when it was tried often enough.
    pub(crate) fn retry_later(&mut self, now: Instant, key: ClientKey, leg: LegRef) -> bool {
        let refused = self.transactions.request_of(key).and_then(|bytes| wire::lex(bytes).ok());
        let Some(offer) = refused.map(|refused| refused.body().to_vec()) else { return false };
        let Some(entry) = self.calls.leg_mut(leg) else { return false };
        // A renewal has its own time to come again.
        if entry.inviting.as_ref().is_some_and(|inviting| inviting.renews) {
            return false;
        }
        let times = entry.ext.glare.as_ref().map_or(0, |glare| glare.times);
        if times == MAX_TIMES {
            entry.ext.glare = None;
            return false;
        }
        entry.inviting = None;
        entry.ext.glare = Some(Box::new(Glare { offer, times: times + 1, waits: true }));
        let wait = Duration::from_millis(10 * self.wait_units(leg));
        self.timers.set(now + wait, Timer::Glare(leg));
        true
    }

    /// RFC 3261, 14.1: "If the UAC is the owner of the Call-ID of the dialog ID (meaning it generated the
    /// value), T has a randomly chosen value between 2.1 and 4 seconds in units of 10 ms. If the UAC is not
    /// the owner of the Call-ID of the dialog ID, T has a randomly chosen value of between 0 and 2 seconds in
    /// units of 10 ms."
    fn wait_units(&mut self, leg: LegRef) -> u64 {
        let is_owner = leg.leg != CALLER;
        if is_owner { 210 + self.rng.below(191) } else { self.rng.below(201) }
    }

    pub(crate) fn on_glare_due(&mut self, now: Instant, leg: LegRef) {
        let Some(entry) = self.calls.leg_mut(leg) else { return };
        let Some(glare) = entry.ext.glare.as_mut().filter(|glare| glare.waits) else { return };
        glare.waits = false;
        let offer = glare.offer.clone();
        let sdp = Some(offer.as_slice()).filter(|offer| !offer.is_empty());
        let sent = match self.is_free(leg) {
            true => self.send_within(now, leg, Method::Invite, sdp),
            false => None,
        };
        if sent.is_none() {
            self.end_glare(leg);
            if let Some(peer) = self.peer_of(leg) {
                self.settle_no(now, peer, &Refusal::status(491));
            }
        }
    }

    /// The offer is answered, refused or taken back.
    pub(crate) fn end_glare(&mut self, leg: LegRef) {
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.ext.glare = None;
        }
    }
}

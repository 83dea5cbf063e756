//! A party of a call is given to somebody else: X's peer Y talks to Z from then on.
//!
//! ```text
//!  blind:     REFER of X, or control's order                attended: REFER of X with Replaces
//!                  |                                                        |
//!            Z is invited ------ no ------.            Y is asked whether it can do what Z does
//!                  | 2xx                  |                  | 2xx                       | no
//!                  v                      v                  v                           v
//!            Y and Z are joined     X and Y go on      Y and Z are joined          X and Y go on
//! ```
//! Legs stay in the calls that they are in; legs of two calls may be joined ([`crate::call::Leg::joined`]).
//! Y keeps its dialog, its ports and its lease with us; a re-INVITE tells it what Z's media is like. X hears
//! how it went by NOTIFY, and hangs up; if it does not, we do. Should X hang up before that, Y waits for Z.
//!
//! A process that dies with a transfer under way forgets it: X and Y go on, Z's INVITE is cancelled.

use std::time::Duration;

use abi::{CallState, Counter, Event, Why};
use base::{CallRef, Instant};
use sip::wire::{Method, Replaces};

use crate::call::{Bridge, LegRef, Number, Phase};
use crate::dial::Target;
use crate::offer::Offer;
use crate::refusal::Refusal;
use crate::worker::{Timer, Worker};

/// How long who gave its peer away has to hang up, in milliseconds.
const SPARE_LIMIT_MS: u64 = 5_000;
/// How long the parties of an attended transfer may take to agree, in milliseconds: a transaction and one more
/// try (RFC 3261, 14.1).
const JOIN_LIMIT_MS: u64 = 40_000;
/// When a session that is being changed is looked at again, in milliseconds.
const BUSY_MS: u64 = 500;
/// How often a change is tried that runs into another.
const TRIES: u8 = 4;

/// A transfer under way.
#[derive(Debug)]
pub struct Transfer {
    /// One transfer's number, which its timer has.
    pub number: u64,
    /// Who wants it; none for control's order.
    pub by: Option<LegRef>,
    /// Who is to be joined to somebody else.
    pub of: LegRef,
    /// To whom.
    pub to: To,
    /// It is an offer of a queue: a failure leaves who waits as they were.
    pub offer: Option<Offer>,
}

/// Whom a transfer leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum To {
    /// Control is asked, or the number is looked up.
    Sought,
    /// A new leg of the same call.
    Invited(u8),
    /// A leg that stands, mostly of another call.
    Standing(LegRef),
    /// A leg of the same call that invited us to take another's place.
    Coming(u8),
}

/// A change of a session that we want ourselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    what: What,
    /// Our re-INVITE is on its way.
    sent: bool,
    tries: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// The leg is to hear how its peer describes itself.
    Tell,
    /// The leg is asked whether it can do what the leg does that it is to be joined to.
    Join,
}

/// What a call that is over leaves of others.
#[derive(Debug, Default)]
pub(crate) struct Others {
    legs: Vec<LegRef>,
    transfers: Vec<CallRef>,
}

impl Worker {
    /// Gives `of` to whoever has that number. The transfer is under way or has failed when this returns; who
    /// wants it has its answer before, so that its NOTIFY comes behind.
    pub(crate) fn transfer_to_number(
        &mut self,
        now: Instant,
        call: CallRef,
        by: Option<LegRef>,
        of: LegRef,
        to: Number,
    ) {
        self.begin_transfer(now, call, by, of, To::Sought);
        if let Err(refusal) = self.seek(now, call, to, Why::Transferred) {
            self.fail_transfer(now, call, refusal.status);
        }
    }

    /// Joins `of` to a leg that stands.
    pub(crate) fn transfer_to_leg(
        &mut self,
        now: Instant,
        call: CallRef,
        by: Option<LegRef>,
        of: LegRef,
        to: LegRef,
    ) {
        self.begin_transfer(now, call, by, of, To::Standing(to));
        if let Some(entry) = self.calls.leg_mut(to) {
            entry.awaited = Some(call);
        }
        self.want(now, of, What::Join);
    }

    /// Joins `of` to a leg that came to take the place of its peer.
    pub(crate) fn transfer_to_coming(
        &mut self,
        now: Instant,
        call: CallRef,
        of: LegRef,
        to: LegRef,
    ) {
        self.begin_transfer(now, call, None, of, To::Coming(to.leg));
        self.want(now, of, What::Join);
    }

    /// Joins `of` to the peer of a leg that another worker has.
    pub(crate) fn transfer_inside(
        &mut self,
        now: Instant,
        by: LegRef,
        of: LegRef,
        to: Number,
        named: &Replaces,
    ) {
        self.begin_transfer(now, by.call, Some(by), of, To::Sought);
        if let Err(refusal) = self.invite_inside(now, by, to, named) {
            self.fail_transfer(now, by.call, refusal.status);
        }
    }

    /// Whom a call's transfer is of.
    pub(crate) fn transferred(&self, call: CallRef) -> Option<LegRef> {
        Some(self.calls.find(call)?.transfer.as_ref()?.of)
    }

    pub(crate) fn begin_transfer(
        &mut self,
        now: Instant,
        call: CallRef,
        by: Option<LegRef>,
        of: LegRef,
        to: To,
    ) {
        let number = self.next_operation();
        if let Some(entry) = self.calls.find_mut(call) {
            entry.transfer = Some(Box::new(Transfer { number, by, of, to, offer: None }));
            (entry.forwards, entry.failing, entry.hunt) = (0, None, None);
        }
        if of.call != call
            && let Some(entry) = self.calls.leg_mut(of)
        {
            entry.awaited = Some(call);
        }
        if matches!(to, To::Standing(_) | To::Coming(_)) {
            let limit = now + Duration::from_millis(JOIN_LIMIT_MS);
            self.timers.set(limit, Timer::Transfer(call, number));
        }
        self.report_transfer(now, call, 100);
    }

    /// Invites who is to take over, with what the transferred party can do.
    pub(crate) fn invite_target(
        &mut self,
        now: Instant,
        call: CallRef,
        target: Target,
    ) -> Result<(), Refusal> {
        let leg = self.add_transfer_target(now, call, &target)?;
        let of = self.transferred(call).ok_or_else(|| Refusal::status(481))?;
        let offer = self.offer_of(of, leg)?;
        let name = self.calls.leg(of).map_or(Number::EMPTY, |leg| leg.who);
        // RFC 3892, 2.2: whose wish it is. Of control's there is nobody to name, nor of who withholds their number.
        let by = self.calls.find(call).and_then(|call| call.transfer.as_ref()?.by);
        let by = by
            .and_then(|by| Some(self.calls.leg(by)?.who))
            .filter(|who| !["", "anonymous"].contains(&who.as_str()));
        let host = self.address_of(target.flow);
        let by = by.map(|who| format!("<sip:{who}@{host}>"));
        let lines = by.as_ref().map(|by| ("Referred-By", by.as_bytes()));
        self.send_invite_as(now, leg, &target, name, Some(offer), lines.as_slice())
    }

    /// The leg of who is to take over.
    pub(crate) fn add_transfer_target(
        &mut self,
        now: Instant,
        call: CallRef,
        target: &Target,
    ) -> Result<LegRef, Refusal> {
        let leg = self.add_leg(now, call, target)?;
        if let Some(entry) = self.calls.find_mut(call)
            && let Some(transfer) = &mut entry.transfer
        {
            transfer.to = To::Invited(leg.leg);
        }
        self.open_media(leg)?;
        Ok(leg)
    }

    /// Nobody is invited to take over any more; somebody else is sought.
    pub(crate) fn seek_again(&mut self, call: CallRef) {
        let transfer = self.calls.find_mut(call).and_then(|entry| entry.transfer.as_mut());
        if let Some(transfer) = transfer {
            transfer.to = To::Sought;
        }
    }

    /// True when the leg is one that is invited to take over.
    pub(crate) fn is_transfer_to(&self, leg: LegRef) -> bool {
        let transfer = self.calls.find(leg.call).and_then(|call| call.transfer.as_ref());
        transfer.is_some_and(|transfer| transfer.to == To::Invited(leg.leg))
    }

    /// Who was invited to take over answered.
    pub(crate) fn on_transfer_answered(&mut self, now: Instant, leg: LegRef) {
        if self.calls.leg(leg).is_none_or(|leg| leg.described.is_empty()) {
            // RFC 3261, 13.2.1: the answer must be in the 2xx.
            self.part_leg(now, leg, &Refusal::status(488));
            return self.lose_target(now, leg, &Refusal::status(488));
        }
        let of = self.calls.find(leg.call).and_then(|call| Some(call.transfer.as_ref()?.of));
        self.complete_transfer(now, leg.call);
        if let Some(of) = of {
            self.want(now, of, What::Tell);
        }
    }

    /// A leg that invited us takes that back: true when it wanted to take another's place.
    pub(crate) fn cancel_coming(&mut self, now: Instant, leg: LegRef) -> bool {
        let transfer = self.calls.find(leg.call).and_then(|call| call.transfer.as_ref());
        let is_coming = transfer.is_some_and(|transfer| transfer.to == To::Coming(leg.leg));
        if is_coming {
            self.fail_transfer(now, leg.call, 487);
        }
        is_coming
    }

    /// A leg that we invited will not come: its transfer has failed, or its call is over.
    pub(crate) fn lose_target(&mut self, now: Instant, leg: LegRef, refusal: &Refusal) {
        let status = refusal.status;
        let why = match status {
            486 | 600 | 603 => Some(Why::Busy),
            404 | 408 | 410 | 480 | 500..600 => Some(Why::Unavailable),
            _ => None,
        };
        if self.hunt_on(now, leg) || why.is_some_and(|why| self.forward_leg(now, leg, why, status))
        {
            return;
        }
        if self.is_transfer_to(leg) {
            self.fail_transfer(now, leg.call, refusal.status);
        } else {
            self.end_call(now, leg.call, refusal);
        }
    }

    /// A transfer that is under way is refused; without one the call is.
    pub(crate) fn refuse_way(&mut self, now: Instant, call: CallRef, refusal: &Refusal) {
        if self.next_place(now, call).is_some_and(|tried| tried.is_ok()) {
            return;
        }
        let Some(entry) = self.calls.find(call) else { return };
        match (&entry.transfer, entry.failing) {
            (Some(_), failing) => {
                self.fail_transfer(now, call, failing.unwrap_or(refusal.status));
            }
            (None, Some(status)) => self.end_call(now, call, &Refusal::status(status)),
            (None, None) => self.end_call(now, call, refusal),
        }
    }

    /// Joins the two parties; who stood between them leaves.
    fn complete_transfer(&mut self, now: Instant, call: CallRef) {
        let transfer = self.calls.find_mut(call).and_then(|entry| entry.transfer.take());
        let Some(transfer) = transfer else { return };
        let (a, b) = match transfer.to {
            To::Sought => return,
            To::Invited(leg) | To::Coming(leg) => (transfer.of, LegRef { call, leg }),
            To::Standing(leg) => (transfer.of, leg),
        };
        if let Some(offer) = transfer.offer {
            self.offer_taken(a, offer);
        }
        let between = [self.peer_of(a), self.peer_of(b)];
        for leg in [a, b] {
            self.part_from_peer(now, leg);
            if let Some(pair) = self.calls.leg(leg).and_then(|leg| leg.pair) {
                // To its peer, who comes now is the one who was there before.
                if self.streams.stats(pair).sent > 0 {
                    self.streams.splice(now, pair);
                }
            }
        }
        self.join(a, b);
        self.count(Counter::TransfersCompleted);
        if matches!(transfer.to, To::Coming(_)) {
            let described = self.calls.leg(a).map_or(Box::default(), |leg| leg.described.clone());
            let sdp = self.sdp_for(b, &described);
            self.answer(now, b, 200, sdp);
        }
        for of in [a.call, b.call] {
            if let Some(entry) = self.calls.find_mut(of)
                && entry.state != CallState::Answered
            {
                entry.state = CallState::Answered;
                entry.answered_at = now;
                self.count(Counter::CallsAnswered);
            }
            self.note_call(of);
        }
        if let Some(by) = transfer.by {
            self.report(now, by, 200);
        }
        for leg in between.into_iter().flatten() {
            self.close_media(now, leg);
            if Some(leg) == transfer.by {
                let limit = now + Duration::from_millis(SPARE_LIMIT_MS);
                self.timers.set(limit, Timer::Spare(leg));
            } else {
                // RFC 3891, 3: it "replaces" the dialog, which ends with a BYE.
                self.dismiss(now, leg);
            }
        }
        self.try_bypass(a);
        self.try_bypass(b);
        self.end_if_empty(now, call, 0);
    }

    /// Ends a call that nobody is left in: who gave somebody of another call away may have hung up before that was
    /// decided.
    fn end_if_empty(&mut self, now: Instant, call: CallRef, status: u16) {
        let Some(entry) = self.calls.find(call).filter(|call| call.state != CallState::Ended)
        else {
            return;
        };
        if entry.legs.iter().all(|leg| matches!(leg.phase, Phase::Leaving | Phase::Gone)) {
            match status {
                0 => self.hang_up(now, call),
                _ => self.end_call(now, call, &Refusal::status(status)),
            }
        }
    }

    /// The parties stay as they are; who has none any more is told goodbye.
    pub(crate) fn fail_transfer(&mut self, now: Instant, call: CallRef, status: u16) {
        let transfer = self.calls.find_mut(call).and_then(|entry| {
            entry.asked = None;
            entry.transfer.take()
        });
        let Some(transfer) = transfer else { return };
        self.count(Counter::TransfersFailed);
        let mut parties = vec![transfer.of];
        match transfer.to {
            To::Sought => {}
            To::Invited(leg) => {
                let leg = LegRef { call, leg };
                self.part_leg(now, leg, &Refusal::status(487));
                self.close_media(now, leg);
                // One that never came to its INVITE.
                if self.calls.leg(leg).is_some_and(|leg| leg.phase == Phase::Gone) {
                    self.release_lease(leg);
                }
            }
            To::Standing(leg) => parties.push(leg),
            To::Coming(leg) => {
                let leg = LegRef { call, leg };
                self.part_leg(now, leg, &Refusal::status(status));
                self.close_media(now, leg);
            }
        }
        if let Some(by) = transfer.by {
            self.report(now, by, status);
        }
        if let Some(offer) = transfer.offer {
            return self.offer_refused(offer, transfer.to, status);
        }
        for leg in parties {
            if let Some(entry) = self.calls.leg_mut(leg) {
                (entry.awaited, entry.change) = (None, None);
            }
            let is_alone = self.peer_of(leg).is_none();
            if is_alone && self.calls.leg(leg).is_some_and(|leg| leg.phase != Phase::Gone) {
                self.end_call(now, leg.call, &Refusal::status(status));
            }
        }
        self.end_if_empty(now, call, status);
    }

    pub(crate) fn on_transfer_limit(&mut self, now: Instant, call: CallRef, number: u64) {
        let transfer = self.calls.find(call).and_then(|call| call.transfer.as_ref());
        if transfer.is_some_and(|transfer| transfer.number == number) {
            self.fail_transfer(now, call, 408);
        }
    }

    /// Who gave its peer away has not hung up.
    pub(crate) fn on_spare(&mut self, now: Instant, leg: LegRef) {
        let is_wanted = self.calls.find(leg.call).is_none_or(|call| call.transfer.is_some())
            || self.calls.leg(leg).is_none_or(|leg| {
                leg.awaited.is_some() || leg.conferred.is_some() || leg.ext.answered_here
            });
        if self.peer_of(leg).is_none() && !is_wanted {
            self.dismiss(now, leg);
        }
    }

    /// Lets a leg go that is joined to nobody any more; its call is over, unless it goes on without the leg: who was
    /// in it may have been given to somebody of another call before.
    fn dismiss(&mut self, now: Instant, leg: LegRef) {
        match self.goes_on_without(leg) {
            true => self.part_leg(now, leg, &Refusal::status(487)),
            false => self.hang_up(now, leg.call),
        }
    }

    /// True when a call stands without that leg: others of it are joined, or wait to be.
    pub(crate) fn goes_on_without(&self, leg: LegRef) -> bool {
        let Some(call) = self.calls.find(leg.call).filter(|call| call.state != CallState::Ended)
        else {
            return false;
        };
        if call.transfer.as_ref().is_some_and(|transfer| transfer.of != leg) {
            return true;
        }
        call.legs.iter().any(|other| {
            let at = LegRef { leg: other.number, ..leg };
            let lives = !matches!(other.phase, Phase::Leaving | Phase::Gone);
            let is_joined = self.peer_of(at).is_some_and(|peer| peer != leg);
            let stays = other.awaited.is_some() || other.conferred.is_some();
            at != leg && lives && (is_joined || stays)
        })
    }

    /// Takes a leg out of a call that goes on without it.
    pub(crate) fn take_out(&mut self, now: Instant, leg: LegRef) {
        self.part_from_peer(now, leg);
        self.close_media(now, leg);
        if self.is_transfer_to(leg) {
            self.fail_transfer(now, leg.call, 480);
        }
        self.note_call(leg.call);
    }

    /// The call is over: nothing of another is joined to it any more.
    pub(crate) fn let_go_of_others(&mut self, call: CallRef) -> Others {
        let mut others = Others::default();
        let Some(entry) = self.calls.find_mut(call) else { return others };
        let transfer = entry.transfer.take();
        let offer = transfer.as_ref().and_then(|transfer| transfer.offer);
        for leg in &mut entry.legs {
            others.legs.extend(leg.joined.take());
            others.transfers.extend(leg.awaited.take());
        }
        if let Some(transfer) = transfer {
            let to = if let To::Standing(to) = transfer.to { Some(to) } else { None };
            let elsewhere = [Some(transfer.of), to].into_iter().flatten();
            others.legs.extend(elsewhere.filter(|leg| leg.call != call));
        }
        for leg in &others.legs {
            if let Some(entry) = self.calls.leg_mut(*leg) {
                (entry.joined, entry.awaited, entry.change) = (None, None, None);
            }
        }
        if let Some(offer) = offer {
            self.offer_over(offer);
        }
        others
    }

    /// What legs of other calls were joined to, or waited for, is gone with its call.
    pub(crate) fn lose_others(&mut self, now: Instant, others: Others) {
        for call in others.transfers {
            self.fail_transfer(now, call, 480);
        }
        for leg in others.legs {
            let is_alone = self.peer_of(leg).is_none();
            if is_alone && self.calls.leg(leg).is_some_and(|leg| leg.phase != Phase::Gone) {
                self.hang_up(now, leg.call);
            }
        }
    }

    /// Joins two legs that are joined to nobody.
    pub(crate) fn join(&mut self, a: LegRef, b: LegRef) {
        for leg in [a, b] {
            if let Some(entry) = self.calls.leg_mut(leg) {
                (entry.awaited, entry.ext.answered_here) = (None, false);
            }
        }
        if a.call == b.call {
            if let Some(entry) = self.calls.find_mut(a.call) {
                entry.bridges.push(Bridge { a: a.leg, b: b.leg });
            }
        } else {
            for (leg, other) in [(a, b), (b, a)] {
                if let Some(entry) = self.calls.leg_mut(leg) {
                    entry.joined = Some(other);
                }
            }
        }
        self.join_media(a, b);
    }

    /// Parts a leg from the one that it is joined to. What one of them has asked the other is over.
    pub(crate) fn part_from_peer(&mut self, now: Instant, leg: LegRef) {
        let Some(peer) = self.peer_of(leg) else { return };
        for leg in [leg, peer] {
            // RFC 3261, 14.2: "return a 491 (Request Pending) response".
            self.answer_no(now, leg, &Refusal::status(491));
            if let Some(cseq) = self.calls.leg_mut(leg).and_then(|leg| leg.owes_ack.take()) {
                self.send_ack_for(leg, cseq, None);
            }
        }
        self.unjoin(now, leg);
    }

    /// The same for a leg that has asked nothing of its peer.
    pub(crate) fn unjoin(&mut self, now: Instant, leg: LegRef) {
        let Some(peer) = self.peer_of(leg) else { return };
        self.leave_bypass(leg, media::WhyNot::NoPeer);
        self.close_video(now, leg);
        self.close_video(now, peer);
        if let Some(pair) = self.calls.leg(leg).and_then(|leg| leg.pair) {
            self.streams.unbridge(pair);
        }
        for (leg, peer) in [(leg, peer), (peer, leg)] {
            if self.calls.leg(peer).is_some_and(|peer| peer.held) {
                self.tell(Event::Held { call: leg.call, leg: leg.leg, on: false });
            }
            if let Some(entry) = self.calls.leg_mut(leg) {
                entry.joined = None;
            }
            if let Some(entry) = self.calls.find_mut(leg.call) {
                entry.bridges.retain(|bridge| bridge.a != leg.leg && bridge.b != leg.leg);
            }
        }
    }

    /// Wants a leg's session changed as soon as that can be.
    pub(crate) fn want(&mut self, now: Instant, leg: LegRef, what: What) {
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.change = Some(Change { what, sent: false, tries: 0 });
        }
        self.change_session(now, leg);
    }

    /// Sends the re-INVITE of a change that is wanted, unless another is under way.
    pub(crate) fn change_session(&mut self, now: Instant, leg: LegRef) {
        let Some(entry) = self.calls.leg(leg) else { return };
        let Some(change) = entry.change.filter(|change| !change.sent) else { return };
        let is_free = entry.invited.is_none()
            && entry.inviting.is_none()
            && entry.unacknowledged.is_none()
            && entry.owes_ack.is_none();
        if entry.phase == Phase::Established && !is_free {
            let again = now + Duration::from_millis(BUSY_MS);
            return self.timers.set(again, Timer::Change(leg));
        }
        let with = match change.what {
            What::Tell => self.peer_of(leg),
            What::Join => self.joins(leg),
        };
        let stands = entry.phase == Phase::Established;
        let flows = self.flows_to(leg, with);
        let offer = with.filter(|_| stands).and_then(|with| self.offer_as(with, leg, flows).ok());
        let sent = offer.and_then(|sdp| self.send_within(now, leg, Method::Invite, Some(&sdp)));
        match (sent, self.calls.leg_mut(leg).and_then(|leg| leg.change.as_mut())) {
            (Some(_), Some(change)) => (change.sent, change.tries) = (true, change.tries + 1),
            _ => self.give_up_change(now, leg, change, 488),
        }
    }

    /// The call whose transfer wants `leg` to be joined to one that stands, and that one.
    fn joins(&self, leg: LegRef) -> Option<LegRef> {
        let transfer = self.calls.find(self.transferring(leg)?)?.transfer.as_ref()?;
        match transfer.to {
            _ if transfer.of != leg => None,
            To::Standing(to) => Some(to),
            To::Coming(to) => Some(LegRef { call: self.transferring(leg)?, leg: to }),
            To::Sought | To::Invited(_) => None,
        }
    }

    /// The call whose transfer concerns the leg.
    fn transferring(&self, leg: LegRef) -> Option<CallRef> {
        self.calls.leg(leg)?.awaited.or(Some(leg.call))
    }

    /// The answer to a re-INVITE of a leg: true when it was one of ours.
    pub(crate) fn on_change_agreed(&mut self, now: Instant, leg: LegRef, body: &[u8]) -> bool {
        let change = self.calls.leg_mut(leg).and_then(|leg| leg.change.take_if(|one| one.sent));
        let Some(change) = change else { return false };
        self.learn_remote(now, leg, body);
        if change.what == What::Tell {
            return true;
        }
        match (self.joins(leg), self.transferring(leg)) {
            (Some(other), Some(call)) => {
                let stands = self.calls.leg(other).is_some_and(|leg| leg.invited.is_none());
                self.complete_transfer(now, call);
                if stands {
                    self.want(now, other, What::Tell);
                }
            }
            // It came to nothing meanwhile; what was agreed on goes on with whom it is joined to.
            _ => self.want(now, leg, What::Tell),
        }
        true
    }

    /// A re-INVITE of a leg was refused: true when it was one of ours.
    pub(crate) fn on_change_refused(&mut self, now: Instant, leg: LegRef, status: u16) -> bool {
        let change = self.calls.leg(leg).and_then(|leg| leg.change).filter(|change| change.sent);
        let Some(change) = change else { return false };
        if status == 491 && change.tries < TRIES {
            // RFC 3261, 14.1: "If the UAC is the owner of the Call-ID of the dialog ID, T has a randomly
            // chosen value between 2.1 and 4 seconds in units of 10 ms. [...] If the UAC is not the owner
            // [...], T has a randomly chosen value of between 0 and 2 seconds in units of 10 ms."
            let is_owner = leg.leg != crate::call::CALLER;
            let units = if is_owner { 210 + self.rng.below(191) } else { self.rng.below(201) };
            if let Some(change) = self.calls.leg_mut(leg).and_then(|leg| leg.change.as_mut()) {
                change.sent = false;
            }
            self.timers.set(now + Duration::from_millis(units * 10), Timer::Change(leg));
            return true;
        }
        self.give_up_change(now, leg, change, if status == 491 { 480 } else { 488 });
        true
    }

    /// A session stays as it is: RFC 3261, 14.1: "the session MUST continue as if the re-INVITE had not been
    /// issued".
    fn give_up_change(&mut self, now: Instant, leg: LegRef, change: Change, status: u16) {
        let call = self.transferring(leg).filter(|_| self.joins(leg).is_some());
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.change = None;
            // What a desk wanted is not so.
            entry.parked &= entry.held;
        }
        if let Some(call) = call.filter(|_| change.what == What::Join) {
            self.fail_transfer(now, call, status);
        }
    }
}

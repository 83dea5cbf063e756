//! Reliable provisional responses (RFC 3262), for each leg by itself.
//!
//! ```text
//! caller                      we                        called
//!   | INVITE Supported: 100rel |                           |
//!   |------------------------->| INVITE Supported: 100rel  |
//!   |                          |-------------------------->|
//!   |                          | 183 RSeq: 7, SDP          |
//!   |                          |<--------------------------|
//!   | 183 RSeq: 1, SDP         | PRACK RAck: 7 1 INVITE    |
//!   |<-------------------------|-------------------------->|
//!   | PRACK RAck: 1 1 INVITE   |                           |
//!   |------------------------->|                           |
//! ```
//!
//! A caller's INVITE without an offer is the exception: the called party's response then has the offer, and
//! its PRACK waits for the answer that the caller's PRACK brings.

use std::collections::VecDeque;

use base::Instant;
use sip::reliable::{Due, Sender};
use sip::wire::{self, Header, Message, Method};

use crate::call::{LegRef, Phase};
use crate::carried::Lines;
use crate::intake::Arrival;
use crate::refusal::Refusal;
use crate::worker::{Timer, Worker};

/// How many responses wait for the PRACK of an earlier one; a called party that rings says little more.
const MAX_WAITING: usize = 16;

/// An answer to an INVITE, before it is written.
#[derive(Clone, Debug)]
pub struct Said {
    pub status: u16,
    pub sdp: Option<Vec<u8>>,
    pub lines: Lines,
}

/// The reliable responses to one INVITE.
#[derive(Debug)]
pub struct Reliable {
    numbers: Sender,
    /// The caller requires them: all but 100 are reliable. Else those with a description are.
    required: bool,
    /// The response that waits for its PRACK, as it was sent.
    sent: Vec<u8>,
    /// It has a description.
    describes: bool,
    /// A response with a description had its PRACK: the offer is answered, or the answer is there.
    pub described: bool,
    /// What is said after it.
    waiting: VecDeque<Said>,
}

impl Reliable {
    /// Those of an INVITE; none when its sender knows no 100rel.
    pub fn of(invite: &Message<'_>, random: u64) -> Option<Box<Reliable>> {
        let required = invite.lists(Header::Require, "100rel");
        let numbers = Sender::new((random >> 32) as u32);
        (required || invite.lists(Header::Supported, "100rel")).then(|| {
            Box::new(Reliable {
                numbers,
                required,
                sent: Vec::new(),
                describes: false,
                described: false,
                waiting: VecDeque::new(),
            })
        })
    }

    fn covers(&self, said: &Said) -> bool {
        (101..200).contains(&said.status) && (self.required || said.sdp.is_some())
    }

    /// Whether the answer must wait until an earlier one has its PRACK. RFC 3262, 3: "If [...] any of the
    /// unacknowledged reliable provisional responses contained a session description, [the UAS] MUST delay
    /// sending those [2xx] until the provisional response is acknowledged".
    fn holds_back(&self, said: &Said) -> bool {
        let delays = match said.status {
            ..200 => self.covers(said),
            _ => self.describes || self.waiting.iter().any(|waiting| waiting.sdp.is_some()),
        };
        self.numbers.is_waiting() && delays
    }
}

impl Worker {
    /// Keeps an answer that must wait; gives it back when it need not.
    pub(crate) fn hold_back(&mut self, leg: LegRef, said: Said) -> Option<Said> {
        let Some(reliable) = self.calls.leg_mut(leg).and_then(|leg| leg.ext.reliable.as_mut())
        else {
            return Some(said);
        };
        if !reliable.holds_back(&said) {
            return Some(said);
        }
        if said.status >= 200 || reliable.waiting.len() < MAX_WAITING {
            reliable.waiting.push_back(said);
        }
        None
    }

    /// Makes a response reliable if it is to be so: its number, and what its sender must know.
    pub(crate) fn number_response(&mut self, leg: LegRef, said: &mut Said) -> Option<u32> {
        let reliable = self.calls.leg_mut(leg)?.ext.reliable.as_mut()?;
        if said.status >= 200 {
            // RFC 3262, 3: after the final response nothing provisional is sent again.
            return None;
        }
        if !reliable.covers(said) {
            return None;
        }
        let number = reliable.numbers.send()?;
        reliable.describes = said.sdp.is_some();
        // RFC 3262, 3: "The provisional response to be sent reliably [...] MUST contain a Require header
        // field containing the option tag 100rel, and MUST include an RSeq header field."
        said.lines.push(("Require", b"100rel".to_vec()));
        said.lines.push(("RSeq", number.to_string().into_bytes()));
        Some(number)
    }

    /// A response with that number was sent; it goes out again until its PRACK comes.
    pub(crate) fn expect_prack(&mut self, now: Instant, leg: LegRef, number: u32, sent: &[u8]) {
        if let Some(reliable) = self.calls.leg_mut(leg).and_then(|leg| leg.ext.reliable.as_mut()) {
            reliable.sent = sent.to_vec();
        }
        self.timers.set(now + Sender::FIRST, Timer::Reliable(leg, number));
    }

    pub(crate) fn on_reliable_due(&mut self, now: Instant, leg: LegRef, number: u32) {
        let Some(entry) = self.calls.leg_mut(leg).filter(|leg| leg.phase == Phase::Incoming) else {
            return;
        };
        let (Some(invited), Some(reliable)) = (&entry.invited, entry.ext.reliable.as_mut()) else {
            return;
        };
        let key = invited.key;
        match reliable.numbers.due(number) {
            Due::Nothing => {}
            Due::Again(after) => {
                let bytes = reliable.sent.clone();
                let Some(status) = wire::lex(&bytes).ok().and_then(|sent| sent.status()) else {
                    return;
                };
                self.timers.set(now + after, Timer::Reliable(leg, number));
                self.transactions.respond(now, key, status, bytes, &mut self.sent);
            }
            Due::GiveUp => self.end_call(now, leg.call, &Refusal::status(504)),
        }
    }

    /// RFC 3262, 3: "If a PRACK request is received by the UA core that does not match any unacknowledged
    /// reliable provisional response, the UAS MUST respond to the PRACK with a 481 response."
    pub(crate) fn on_prack(&mut self, now: Instant, arrival: Arrival<'_>) -> Result<(), Refusal> {
        let gone = || Refusal::status(481);
        let leg = self.leg_within(arrival.message).ok_or_else(gone)?;
        let rack = arrival.message.rack().ok_or_else(|| Refusal::status(400))?;
        let entry = self.calls.leg(leg).ok_or_else(gone)?;
        let cseq = entry.invited.as_ref().and_then(|it| wire::lex(&it.bytes).ok()?.cseq().ok());
        let is_ours = cseq.is_some_and(|cseq| cseq.number == rack.cseq)
            && rack.method == Method::Invite
            && entry.phase == Phase::Incoming;
        if !is_ours {
            return Err(gone());
        }
        self.accept_within(leg, arrival)?;
        let entry = self.calls.leg_mut(leg).ok_or_else(gone)?;
        let reliable = entry.ext.reliable.as_mut().ok_or_else(gone)?;
        if !reliable.numbers.acknowledge(rack.rseq) {
            return Err(gone());
        }
        reliable.sent = Vec::new();
        let had_offer = reliable.describes && !reliable.described;
        reliable.described |= reliable.describes;
        reliable.describes = false;
        self.take_prack(now, leg, arrival, had_offer)?;
        self.say_what_waits(now, leg);
        Ok(())
    }

    /// What a PRACK brings: the answer to the called party's offer, an offer of its own, or nothing.
    fn take_prack(
        &mut self,
        now: Instant,
        leg: LegRef,
        arrival: Arrival<'_>,
        may_answer: bool,
    ) -> Result<(), Refusal> {
        let body = sip::body::session(arrival.message).unwrap_or_default();
        let offered = !self.caller_offer(leg).is_empty();
        if !body.is_empty() && (offered || !may_answer) {
            return self.pass_offer(now, leg, arrival, body);
        }
        self.answer_within(now, arrival, 200, &Lines::new(), None);
        if may_answer && !offered {
            self.answer_early_offer(now, leg, body);
        }
        Ok(())
    }

    /// The caller has answered the offer that the called party made in a reliable response: its PRACK goes.
    fn answer_early_offer(&mut self, now: Instant, leg: LegRef, body: &[u8]) {
        let Some(peer) = self.peer_of(leg) else {
            return self.learn_remote(now, leg, body);
        };
        let waits = |early: &crate::extension::Early| early.owes_prack.is_some();
        let Some(entry) = self.calls.leg(peer) else { return };
        let Some(at) = entry.ext.early.iter().position(waits) else { return };
        let sdp = self.pass_sdp(now, leg, peer, body);
        self.send_prack(now, peer, at, sdp.as_deref());
    }

    fn say_what_waits(&mut self, now: Instant, leg: LegRef) {
        loop {
            let Some(entry) = self.calls.leg_mut(leg) else { return };
            let Some(reliable) = entry.ext.reliable.as_mut() else { return };
            let Some(next) = reliable.waiting.pop_front() else { return };
            if reliable.holds_back(&next) {
                return reliable.waiting.push_front(next);
            }
            self.say_now(now, leg, next);
        }
    }

    /// A response of the called party came: false when it is to be left alone, being old or out of order.
    /// What is reliable and next gets its PRACK, at once or with the answer to its offer.
    pub(crate) fn take_response(
        &mut self,
        now: Instant,
        leg: LegRef,
        message: &Message<'_>,
    ) -> bool {
        let is_reliable = message.lists(Header::Require, "100rel");
        let Some(entry) = self.calls.leg_mut(leg) else { return false };
        entry.ext.note(message);
        let offered = entry.inviting.as_ref().is_some_and(|inviting| inviting.offered);
        let early = entry.ext.make_early(message);
        let (Some(rseq), true) = (message.rseq(), is_reliable) else {
            return true;
        };
        // Without a dialog no PRACK can be sent, so it is as if it had not come.
        let (Some(early), Ok(cseq)) = (early, message.cseq()) else { return false };
        if !early.order.take(rseq) {
            return false;
        }
        early.owes_prack = Some((rseq, cseq.number));
        let describes = !sip::body::session(message).unwrap_or_default().is_empty();
        let is_offer = describes && !offered && !early.described;
        early.described |= describes;
        let at =
            entry.ext.early.iter().position(|early| early.owes_prack == Some((rseq, cseq.number)));
        if let (Some(at), false) = (at, is_offer) {
            self.send_prack(now, leg, at, None);
        }
        true
    }

    /// RFC 3262, 4: the PRACK is sent within the (early) dialog of its response.
    fn send_prack(&mut self, now: Instant, leg: LegRef, early: usize, sdp: Option<&[u8]>) {
        let Some(entry) = self.calls.leg_mut(leg) else { return };
        let Some(early) = entry.ext.early.get_mut(early) else { return };
        let Some((rseq, cseq)) = early.owes_prack.take() else { return };
        let mut dialog = early.dialog.clone();
        let rack = format!("{rseq} {cseq} INVITE").into_bytes();
        let lines = [("RAck", rack.as_slice())];
        let body = sdp.map(|sdp| ("application/sdp", sdp));
        self.send_in_dialog(now, leg, &mut dialog, Method::Prack, &lines, body);
        self.put_early(leg, dialog);
    }

    /// Keeps what an early dialog has come to.
    pub(crate) fn put_early(&mut self, leg: LegRef, dialog: sip::dialog::Dialog) {
        let Some(entry) = self.calls.leg_mut(leg) else { return };
        let tag = dialog.remote_tag().to_vec();
        let mut early = entry.ext.early.iter_mut();
        if let Some(early) = early.find(|early| early.dialog.remote_tag() == tag) {
            early.dialog = dialog;
        }
    }

    /// True when the caller has our description in a response that it acknowledged.
    pub(crate) fn is_described(&self, leg: LegRef) -> bool {
        let reliable = self.calls.leg(leg).and_then(|leg| leg.ext.reliable.as_ref());
        reliable.is_some_and(|reliable| {
            reliable.described || (reliable.describes && reliable.numbers.is_waiting())
        })
    }
}

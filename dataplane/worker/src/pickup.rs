//! Call pickup (RFC 5359, 2.16): an INVITE whose Replaces names a phone that rings takes the call that it rings for.
//!
//! ```text
//!   C ---INVITE---> us ---INVITE---> B          B rings
//!   N ---INVITE, Replaces: B's early dialog---> us
//!   C <--200, what N can do-- us --200, what C offered--> N
//!                             us --CANCEL--> B
//! ```
//! Both sides have made an offer, so each is the answer to the other's; a codec that both know must be among them. Who
//! may: the agents of the tenant, as with a call that stands. Nobody is told the names of ringing dialogs by us; a
//! phone has them from its group's own ways.

use abi::{CallState, Counter, Party};
use base::Instant;
use sip::sdp;
use sip::wire::Replaces;

use crate::call::{CALLER, LegRef, Phase};
use crate::identify::Identity;
use crate::intake::{Arrival, parse_tag};
use crate::refusal::Refusal;
use crate::worker::Worker;

/// What who rang in vain is told, so that no call is noted as missed (RFC 3326, 2).
const ELSEWHERE: &[u8] = b"SIP;cause=200;text=\"Call completed elsewhere\"";

impl Worker {
    /// The leg of ours that rings, by one of its early dialogs as its peer sees it.
    pub(crate) fn ringing_leg(&self, named: &Replaces) -> Option<LegRef> {
        let leg = parse_tag(&named.to_tag)?;
        let entry = self.calls.leg(leg).filter(|leg| leg.phase == Phase::Outgoing)?;
        let is_it = entry.ext.early.iter().any(|early| {
            early.dialog.call_id() == named.call_id
                && early.dialog.local_tag().eq_ignore_ascii_case(&named.to_tag)
                && early.dialog.remote_tag().eq_ignore_ascii_case(&named.from_tag)
        });
        is_it.then_some(leg)
    }

    /// Gives the caller of `old`, which rings, to who sends this INVITE. RFC 3891, 3: what the matched dialog had is
    /// the new one's, and the matched one is ended; as we began it, by CANCEL.
    pub(crate) fn pick_up(
        &mut self,
        now: Instant,
        arrival: Arrival<'_>,
        who: Identity,
        old: LegRef,
    ) -> Result<(), Refusal> {
        let caller = LegRef { leg: CALLER, ..old };
        self.may_pick_up(who, caller, old)?;
        self.check_body(arrival.message)?;
        let offer = sip::body::session(arrival.message).unwrap_or_default();
        let offered = self.calls.leg(caller).map_or(Box::default(), |leg| leg.described.clone());
        // Two that only ask have nothing to say to each other.
        if !have_codec_in_common(&offered, offer) {
            return Err(Refusal::status(488));
        }
        let new = self.add_replacing(now, arrival, who, old)?;
        self.unjoin(now, old);
        self.close_media(now, old);
        self.join(caller, new);
        let reasons = self.calls.find_mut(old.call).map(|call| {
            call.state = CallState::Answered;
            call.answered_at = now;
            std::mem::replace(&mut call.reasons, vec![ELSEWHERE.to_vec()])
        });
        self.part_leg(now, old, &Refusal::status(487));
        if let (Some(call), Some(reasons)) = (self.calls.find_mut(old.call), reasons) {
            call.reasons = reasons;
        }
        let (to_caller, to_new) = (self.sdp_for(caller, offer), self.sdp_for(new, &offered));
        self.count(Counter::CallsAnswered);
        self.count(Counter::CallsPickedUp);
        self.note_call(old.call);
        self.answer(now, new, 200, to_new);
        self.answer(now, caller, 200, to_caller);
        Ok(())
    }

    fn may_pick_up(&self, who: Identity, caller: LegRef, old: LegRef) -> Result<(), Refusal> {
        let call = self.calls.find(old.call).ok_or_else(|| Refusal::status(481))?;
        if call.tenant != who.tenant || !matches!(who.party, Party::Agent(..)) {
            // RFC 3891, 4: who is not authorised to replace the dialog does not.
            return Err(Refusal::status(403));
        }
        // A transfer's target, a guest of a mix and a phone that is called first ring for nobody who waits for an
        // answer; a caller who has one by a reliable response cannot be given another.
        let waits = call.leg(CALLER).is_some_and(|leg| leg.phase == Phase::Incoming)
            && self.peer_of(old) == Some(caller)
            && !self.is_described(caller);
        if waits { Ok(()) } else { Err(Refusal::status(603)) }
    }
}

/// Whether two descriptions name one way of coding speech.
fn have_codec_in_common(one: &[u8], other: &[u8]) -> bool {
    let (Ok(one), Ok(other)) = (sdp::parse(one), sdp::parse(other)) else { return false };
    let (Ok(one), Ok(other)) = (sdp::audio(&one), sdp::audio(&other)) else { return false };
    let is_speech = |payload: &sdp::Payload<'_>| {
        ![&b"telephone-event"[..], b"CN"].iter().any(|it| payload.encoding.eq_ignore_ascii_case(it))
    };
    let is_same = |a: &sdp::Payload<'_>, b: &sdp::Payload<'_>| match a.encoding {
        [] => a.number == b.number && b.encoding.is_empty(),
        name => name.eq_ignore_ascii_case(b.encoding) && a.clock == b.clock,
    };
    let mut speech = one.payloads.iter().filter(|payload| is_speech(payload));
    speech.any(|a| other.payloads.iter().any(|b| is_same(a, b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_descriptions_need_a_codec_that_both_name() {
        let described = |formats: &str, lines: &str| {
            format!(
                "v=0\r\no=- 1 1 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
                 m=audio 4000 RTP/AVP {formats}\r\n{lines}"
            )
        };
        let dynamic = |number: u32| {
            format!("a=rtpmap:{number} opus/48000/2\r\na=rtpmap:101 telephone-event/8000\r\n")
        };
        let both = described("0 8", "");
        for (other, common) in [
            (described("8", ""), true),
            (described("18 0", ""), true),
            (described("18", ""), false),
            (described("111 101", &dynamic(111)), false),
        ] {
            assert_eq!(have_codec_in_common(both.as_bytes(), other.as_bytes()), common, "{other}");
        }
        let [one, other] =
            [96, 111].map(|number| described(&format!("{number} 101"), &dynamic(number)));
        assert!(
            have_codec_in_common(one.as_bytes(), other.as_bytes()),
            "numbers are each side's own"
        );
        assert!(!have_codec_in_common(both.as_bytes(), b""));
    }
}

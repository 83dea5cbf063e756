//! Session timers (RFC 4028): each leg's session is renewed in time, or ends.

use std::time::Duration;

use abi::Counter;
use base::Instant;
use sip::session_timer::Terms;
use sip::wire::{Header, Message, Method};

use crate::call::{LegRef, Phase};
use crate::carried::Lines;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// When a renewal that met another request, or failed, is tried again.
const AGAIN: Duration = Duration::from_secs(10);

/// How long a renewal may take before it is looked at again: longer than a request lives.
const PATIENCE: Duration = Duration::from_secs(40);

/// What was agreed on for one leg, and how far it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Session {
    pub terms: Option<Terms>,
    /// When it is to be renewed, or ends.
    due: Option<Instant>,
    /// What our INVITE asked for, in seconds; more than we wish for if the peer refused that (422).
    pub asked_s: u32,
    /// How often the peer refused it.
    pub refused: u32,
}

impl Worker {
    /// RFC 4028, 9: an interval below ours is refused by 422, which "MUST contain a Min-SE header field".
    pub(crate) fn check_interval(&self, message: &Message<'_>) -> Result<(), Refusal> {
        let wishes = self.config.session;
        wishes
            .answer(message)
            .map(|_| ())
            .map_err(|_| Refusal::status(422).with("Min-SE", wishes.min_s.to_string().as_bytes()))
    }

    /// What the 2xx to a request of the leg's peer says of its session, which is new or renewed by it.
    pub(crate) fn agree(&mut self, now: Instant, leg: LegRef, request: &Message<'_>) -> Lines {
        let Ok(terms) = self.config.session.answer(request) else { return Lines::new() };
        let mut lines: Lines = vec![("Session-Expires", terms.in_response().into_bytes())];
        // RFC 4028, 9: "If the refresher parameter is set to 'uac', the UAS MUST place a Require header field
        // with 'timer' into the response".
        if terms.is_mutual && !terms.we_refresh {
            lines.push(("Require", b"timer".to_vec()));
        }
        self.renewed(now, leg, terms);
        lines
    }

    /// A 2xx to an INVITE or UPDATE of ours says what the session is.
    pub(crate) fn agreed(&mut self, now: Instant, leg: LegRef, response: &Message<'_>) {
        let Some(entry) = self.calls.leg_mut(leg) else { return };
        entry.ext.note(response);
        entry.ext.settle_said();
        let session = entry.ext.session;
        let asked = session.terms.map_or(session.asked_s, |terms| terms.interval_s);
        let asked = asked.max(self.config.session.min_s);
        self.renewed(now, leg, self.config.session.answered(asked, response));
    }

    /// What an INVITE or UPDATE of ours within the leg's dialog says of its session.
    pub(crate) fn renewal(&self, leg: LegRef) -> Lines {
        let Some(entry) = self.calls.leg(leg) else { return Lines::new() };
        let terms = entry.ext.session.terms;
        let value = terms.map_or_else(|| self.asked_s(leg).to_string(), |terms| terms.in_request());
        let mut lines: Lines = vec![
            ("Allow", crate::intake::ALLOW.to_vec()),
            ("Supported", crate::extension::SUPPORTED.to_vec()),
            ("Session-Expires", value.into_bytes()),
        ];
        lines.extend(self.least());
        lines
    }

    /// The Min-SE that our requests carry; 90 s need not be said.
    pub(crate) fn least(&self) -> Option<(&'static str, Vec<u8>)> {
        let min_s = self.config.session.min_s;
        (min_s > sip::session_timer::LEAST_S).then(|| ("Min-SE", min_s.to_string().into_bytes()))
    }

    /// The interval that our first INVITE of the leg asks for.
    pub(crate) fn asked_s(&self, leg: LegRef) -> u32 {
        let asked = self.calls.leg(leg).map_or(0, |leg| leg.ext.session.asked_s);
        asked.max(self.config.session.interval_s)
    }

    fn renewed(&mut self, now: Instant, leg: LegRef, terms: Terms) {
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.ext.session.terms = Some(terms);
            entry.ext.session.due = Some(now + terms.due_after());
        }
    }

    /// A leg was taken over. How long ago its session was renewed is not known; we did so at half the interval
    /// at most, so a quarter is soon enough, and not all at once.
    pub(crate) fn resume_session(&mut self, now: Instant, leg: LegRef) {
        let Some(terms) = self.calls.leg(leg).and_then(|leg| leg.ext.session.terms) else {
            return;
        };
        let wait = match terms.we_refresh {
            true => Duration::from_secs(self.rng.below(u64::from(terms.interval_s / 4).max(1))),
            false => terms.due_after(),
        };
        self.look_again(leg, now + wait);
    }

    fn look_again(&mut self, leg: LegRef, due: Instant) {
        if let Some(entry) = self.calls.leg_unchanged(leg) {
            entry.ext.session.due = Some(due);
        }
    }

    /// Looks at one leg of a standing call, as often as its counts are published: no session has a timer, for
    /// those of short calls would outlive them by far.
    pub(crate) fn tend_session(&mut self, now: Instant, leg: LegRef) {
        let Some(entry) = self.calls.leg(leg) else { return };
        let Session { due: Some(due), terms: Some(terms), .. } = entry.ext.session else { return };
        if due > now || entry.phase != Phase::Established {
            return;
        }
        if terms.we_refresh {
            return self.renew(now, leg);
        }
        // RFC 4028, 10: "if [...] the session expires, the UA SHOULD send a BYE".
        self.count(Counter::SessionsExpired);
        self.end_call(now, leg.call, &Refusal::status(408));
    }

    /// Renews the session without a change of it (RFC 4028, 7.4): by UPDATE without an offer, or by a
    /// re-INVITE with the same one.
    fn renew(&mut self, now: Instant, leg: LegRef) {
        let is_free = self.is_free(leg);
        let Some(entry) = self.calls.leg(leg) else { return };
        let (takes_update, said) = (entry.ext.takes_update, entry.ext.said.clone());
        let sent = match (is_free, said) {
            (false, _) => None,
            (true, _) if takes_update => self.send_within(now, leg, Method::Update, None),
            (true, Some(said)) => {
                let sent = self.send_within(now, leg, Method::Invite, Some(&said));
                if let Some(inviting) =
                    self.calls.leg_mut(leg).and_then(|leg| leg.inviting.as_mut())
                {
                    inviting.renews = true;
                }
                sent
            }
            // A leg that an earlier incarnation began: what it was told is forgotten.
            (true, None) => None,
        };
        if sent.is_some() {
            self.count(Counter::SessionsRenewed);
        }
        self.look_again(leg, now + if sent.is_some() { PATIENCE } else { AGAIN });
    }

    /// No request that could change the leg's session is under way.
    pub(crate) fn is_free(&self, leg: LegRef) -> bool {
        self.calls.leg(leg).is_some_and(|leg| {
            leg.phase == Phase::Established
                && leg.invited.is_none()
                && leg.inviting.is_none()
                && leg.unacknowledged.is_none()
                && leg.owes_ack.is_none()
                && leg.ext.asked.is_none()
                && leg.ext.updating.is_none()
        })
    }

    /// Our INVITE's interval is too small for the called party (422): what it takes instead, once or twice
    /// (RFC 4028, 7.3: proxies on the way may each want more).
    pub(crate) fn wider_interval(&mut self, leg: LegRef, message: &Message<'_>) -> Option<u32> {
        const MAX_TIMES: u32 = 5;
        let least = message.has(Header::MinSe).then(|| message.min_se()).flatten()?;
        let session = &mut self.calls.leg_mut(leg)?.ext.session;
        session.refused += 1;
        if session.refused > MAX_TIMES || least <= session.asked_s {
            return None;
        }
        session.asked_s = least;
        Some(least)
    }
}

//! REFER (RFC 3515): a party asks us to give its peer to somebody else, and is told by NOTIFY how that goes.

use base::Instant;
use sip::wire::{self, Header, Message, Method, NameAddr, Replaces, reason_phrase, same_token};

use crate::call::{LegRef, Number, Phase};
use crate::intake::{Arrival, parse_tag};
use crate::invite::dialled;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// How long a subscription lives at most, in seconds: as long as a phone may ring.
const REPORT_S: u32 = 181;

/// The subscription that a REFER makes: how a party is told of the transfer that it asked for.
#[derive(Debug)]
pub struct Report {
    /// Which REFER it is about: its CSeq number, for all but the first of a dialog.
    id: Option<u32>,
    /// A NOTIFY has no answer yet.
    waits: bool,
    /// What is to be told after that.
    next: Option<u16>,
}

/// Whom a REFER refers to.
struct ReferTo {
    number: Number,
    replaces: Option<Replaces>,
}

impl ReferTo {
    fn read(message: &Message<'_>) -> Result<ReferTo, Refusal> {
        let bad = || Refusal::status(400);
        // RFC 3515, 2.4.2: "An agent responding to a REFER method MUST return a 400 (Bad Request) if the
        // request contained zero or more than one Refer-To header field values."
        let mut values = message.headers(Header::ReferTo);
        let (Some(value), None) = (values.next(), values.next()) else {
            return Err(bad());
        };
        let uri = NameAddr::parse(value).and_then(|name| name.parsed_uri().ok()).ok_or_else(bad)?;
        if !same_token(uri.scheme, b"sip") {
            return Err(Refusal::status(416));
        }
        if uri.param("method").is_some_and(|method| !same_token(method, b"INVITE")) {
            // RFC 3515, 2.4.2: what else could be asked for is not allowed here.
            return Err(Refusal::status(403));
        }
        let replaces = match Replaces::of_uri(&uri) {
            None => None,
            Some(named) => Some(named.ok_or_else(bad)?),
        };
        let number = dialled(uri.user).filter(|number| !number.is_empty());
        // Who is named by a dialog needs no number.
        let number = match (number, &replaces) {
            (Some(number), _) => number,
            (None, Some(_)) => Number::EMPTY,
            (None, None) => return Err(Refusal::status(404)),
        };
        Ok(ReferTo { number, replaces })
    }
}

impl Worker {
    pub(crate) fn on_refer(&mut self, now: Instant, arrival: Arrival<'_>) -> Result<(), Refusal> {
        let message = arrival.message;
        if message.to().is_ok_and(|to| to.tag().is_none()) {
            // Who is to be referred is the peer within a dialog, and nobody else.
            return Err(Refusal::status(403));
        }
        let leg = self.leg_of(message).ok_or_else(|| Refusal::status(481))?;
        if self.calls.leg(leg).is_none_or(|leg| leg.phase != Phase::Established) {
            return Err(Refusal::status(481));
        }
        let refer_to = ReferTo::read(message)?;
        self.accept_within(leg, arrival)?;
        if self.calls.find(leg.call).is_some_and(|call| call.transfer.is_some()) {
            return Err(Refusal::status(491));
        }
        let of = self.transferable(leg)?;
        let ReferTo { number, replaces } = refer_to;
        if let Some(to) = self.referral(leg, of, number, replaces.as_ref())? {
            return self.carry_refer(now, leg, of, arrival, &to);
        }
        match replaces {
            None => {
                self.accept_refer(now, leg, arrival);
                self.transfer_to_number(now, leg.call, Some(leg), of, number);
            }
            Some(named) if self.is_elsewhere(&named) => {
                self.accept_refer(now, leg, arrival);
                self.transfer_inside(now, leg, of, number, &named);
            }
            Some(named) => {
                let to = self.consulted(leg, of, &named)?;
                self.accept_refer(now, leg, arrival);
                self.transfer_to_leg(now, leg.call, Some(leg), of, to);
            }
        }
        Ok(())
    }

    /// Whom a leg can give away: the peer that it talks to.
    pub(crate) fn transferable(&self, leg: LegRef) -> Result<LegRef, Refusal> {
        let of = self.peer_of(leg).ok_or_else(|| Refusal::status(603))?;
        let entry = self.calls.leg(of).filter(|of| of.phase == Phase::Established);
        // It may be in another's transfer.
        entry.filter(|of| of.awaited.is_none()).map(|_| of).ok_or_else(|| Refusal::status(491))
    }

    /// The party that `leg`'s owner talks to in the dialog that it names: another dialog of the same owner.
    pub(crate) fn consulted(
        &self,
        leg: LegRef,
        of: LegRef,
        named: &Replaces,
    ) -> Result<LegRef, Refusal> {
        let no_dialog = || Refusal::status(481);
        let other = self.leg_named(named).filter(|other| *other != leg).ok_or_else(no_dialog)?;
        let (Some(mine), Some(theirs)) = (self.calls.leg(leg), self.calls.leg(other)) else {
            return Err(no_dialog());
        };
        let tenant = |leg: LegRef| self.calls.find(leg.call).map(|call| call.tenant);
        // RFC 3891, 4: it must be "authorized to replace" the dialog.
        if mine.party != theirs.party || tenant(leg) != tenant(other) {
            return Err(Refusal::status(403));
        }
        let stands = |leg: LegRef| {
            let entry = self.calls.leg(leg)?;
            (entry.phase == Phase::Established && entry.awaited.is_none()).then_some(leg)
        };
        let to = self.peer_of(other).filter(|to| *to != of && stands(other).is_some());
        // One that only rings cannot be joined to anybody.
        to.and_then(stands).ok_or_else(|| Refusal::status(603))
    }

    /// The leg of ours whose dialog a Replaces names, as its peer sees it.
    pub(crate) fn leg_named(&self, named: &Replaces) -> Option<LegRef> {
        let leg = parse_tag(&named.to_tag)?;
        let dialog = self.calls.leg(leg)?.dialog.as_ref()?;
        let is_it = dialog.call_id() == named.call_id
            && dialog.local_tag().eq_ignore_ascii_case(&named.to_tag)
            && dialog.remote_tag().eq_ignore_ascii_case(&named.from_tag);
        is_it.then_some(leg)
    }

    /// RFC 3515, 2.4.2: "If the final decision is to be made later, a 202 (Accepted)". Who wants no subscription
    /// gets none (RFC 4488).
    pub(crate) fn accept_refer(&mut self, now: Instant, leg: LegRef, arrival: Arrival<'_>) {
        let message = arrival.message;
        let wanted = message.header_named("Refer-Sub");
        let is_unwanted = wanted.is_some_and(|value| same_token(value.trim_ascii(), b"false"));
        let cseq = message.cseq().map_or(0, |cseq| cseq.number);
        let Some(entry) = self.calls.leg_mut(leg) else { return };
        entry.refers += 1;
        // RFC 3515, 2.4.6: "The id is the sequence number from the REFER request's CSeq header field [...].
        // it MUST be included in NOTIFY requests [...] for each subsequent REFER".
        let id = (entry.refers > 1).then_some(cseq);
        entry.report = (!is_unwanted).then(|| Box::new(Report { id, waits: false, next: None }));
        let flow = entry.flow;
        let contact = self.contact(leg, flow);
        let mut extra: Vec<(&str, &[u8])> = vec![("Contact", &contact)];
        if is_unwanted {
            // RFC 4488, 4: "the REFER-Recipient [...] insert a "Refer-Sub" header field with a value of "false"".
            extra.push(("Refer-Sub", b"false"));
        }
        let bytes = wire::response(message, 202, "Accepted", None, arrival.from, &extra, None);
        self.transactions.respond(now, arrival.key, 202, bytes, &mut self.sent);
    }

    /// Tells who asked for a call's transfer how it stands.
    pub(crate) fn report_transfer(&mut self, now: Instant, call: base::CallRef, status: u16) {
        let transfer = self.calls.find(call).and_then(|call| call.transfer.as_ref());
        if let Some(by) = transfer.and_then(|transfer| transfer.by) {
            self.report(now, by, status);
        }
    }

    /// Tells a leg's peer the status of what it referred to; a final one ends the subscription. One NOTIFY
    /// waits for the answer to the one before, so that they do not overtake each other.
    pub(crate) fn report(&mut self, now: Instant, leg: LegRef, status: u16) {
        let Some(entry) = self.calls.leg_mut(leg) else { return };
        let stands = entry.phase == Phase::Established;
        let Some(report) = entry.report.as_mut().filter(|_| stands) else { return };
        if report.waits {
            report.next = Some(status);
            return;
        }
        report.waits = true;
        let id = report.id.map_or(String::new(), |id| format!(";id={id}"));
        let is_final = status >= 200;
        if is_final {
            entry.report = None;
        }
        let event = format!("refer{id}");
        let state = match is_final {
            // RFC 3515, 2.4.7: "a NOTIFY with a Subscription-State of terminated and a reason of noresource".
            true => "terminated;reason=noresource".to_owned(),
            false => format!("active;expires={REPORT_S}"),
        };
        // RFC 3515, 2.4.5: "The body of a NOTIFY MUST begin with a SIP Response Status-Line as defined in [1]."
        let body = format!("SIP/2.0 {status} {}\r\n", reason_phrase(status));
        let extra: [(&str, &[u8]); 2] =
            [("Event", event.as_bytes()), ("Subscription-State", state.as_bytes())];
        let body = ("message/sipfrag;version=2.0", body.as_bytes());
        let Some(mut dialog) = self.calls.leg_mut(leg).and_then(|leg| leg.dialog.take()) else {
            return;
        };
        let sent = self.send_in_dialog(now, leg, &mut dialog, Method::Notify, &extra, Some(body));
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.dialog = Some(dialog);
            if sent.is_none() {
                // No transaction is left; it will see by what it hears.
                entry.report = None;
            }
        }
    }

    /// A NOTIFY was answered: the next one may go, or nobody wants it.
    pub(crate) fn on_notified(&mut self, now: Instant, leg: LegRef, status: u16) {
        let Some(entry) = self.calls.leg_mut(leg) else { return };
        if status >= 300 {
            entry.report = None;
            return;
        }
        let next = entry.report.as_mut().and_then(|report| {
            report.waits = false;
            report.next.take()
        });
        if let Some(status) = next {
            self.report(now, leg, status);
        }
    }
}

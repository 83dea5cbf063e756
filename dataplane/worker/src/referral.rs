//! REFER of an agent whose call another blade has (S2-013): the holder of the agent's lease gives the peer away, and
//! control there says where to.
//!
//! ```text
//!   phone B          home                          holder
//!     |--REFER------->|--REFER, within the same call-->|  as of the agent itself
//!     |<--202---------|<--202--------------------------|
//!     |<--NOTIFY------|<--NOTIFY-----------------------|
//! ```
//! An attended transfer goes to the holder when both calls of the agent are calls with it; its Replaces then names
//! the dialog as the holder knows it. Else this blade is the only one that knows both calls, and joins the two
//! parties itself.

use abi::Party;
use base::Instant;
use sip::wire::{Header, Replaces, same_token};

use crate::call::{LegRef, Number, Phase};
use crate::carried::Lines;
use crate::intake::{ALLOW, Arrival};
use crate::refusal::{RETRY_AFTER_S, Refusal};
use crate::replaces::replaces_value;
use crate::worker::Worker;

impl Worker {
    /// What the holder is to be referred to, when a REFER of `leg` about its peer `of` is for the holder: the value
    /// of Refer-To.
    pub(crate) fn referral(
        &self,
        leg: LegRef,
        of: LegRef,
        number: Number,
        replaces: Option<&Replaces>,
    ) -> Result<Option<Vec<u8>>, Refusal> {
        let (Some(mine), Some(peer)) = (self.calls.leg(leg), self.calls.leg(of)) else {
            return Ok(None);
        };
        let holder = mine.lease.map(|lease| lease.holder).filter(|ccb| *ccb != self.config.ccb);
        if holder.is_none_or(|holder| peer.party != Party::Peer(holder)) {
            return Ok(None);
        }
        let address = peer.flow.peer;
        let uri = match number.is_empty() {
            true => format!("sip:{address}"),
            false => format!("sip:{number}@{address}"),
        };
        let Some(named) = replaces else {
            return Ok(Some(format!("<{uri}>").into_bytes()));
        };
        if self.is_elsewhere(named) {
            return Ok(None);
        }
        let to = self.consulted(leg, of, named)?;
        let there = self.calls.leg(to).filter(|there| there.party == peer.party);
        let Some(dialog) = there.and_then(|there| there.dialog.as_ref()) else {
            return Ok(None);
        };
        // RFC 3891, 6.1: the tags as who gets the request sees them.
        let named = Replaces {
            call_id: dialog.call_id().to_vec(),
            to_tag: dialog.remote_tag().to_vec(),
            from_tag: dialog.local_tag().to_vec(),
            early_only: false,
        };
        Ok(Some(format!("<{uri}?Replaces={}>", escaped(&replaces_value(&named))).into_bytes()))
    }

    /// Carries a REFER to the holder. It is accepted at once; what the holder says of it comes by NOTIFY.
    pub(crate) fn carry_refer(
        &mut self,
        now: Instant,
        leg: LegRef,
        of: LegRef,
        arrival: Arrival<'_>,
        refer_to: &[u8],
    ) -> Result<(), Refusal> {
        let lines: [(&str, &[u8]); 1] = [("Refer-To", refer_to)];
        let sent = self.send_content(now, of, sip::wire::Method::Refer, &lines, None);
        let (Some(_), Some(entry)) = (sent, self.calls.leg_mut(of)) else {
            return Err(Refusal::unavailable(RETRY_AFTER_S));
        };
        entry.ext.referring = Some(leg);
        self.accept_refer(now, leg, arrival);
        Ok(())
    }

    /// The holder answered a REFER.
    pub(crate) fn on_referred(&mut self, now: Instant, leg: LegRef, status: u16) {
        if status < 300 {
            return;
        }
        let by = self.calls.leg_mut(leg).and_then(|leg| leg.ext.referring.take());
        if let Some(by) = by {
            self.report(now, by, status);
        }
        // RFC 3261, 12.2.1.2: a 481 or a 408 ends the dialog.
        if matches!(status, 408 | 481) {
            self.lose_leg(now, leg, &Refusal::status(status));
        }
    }

    /// How it goes with what the holder was asked for.
    pub(crate) fn on_notify(&mut self, now: Instant, arrival: Arrival<'_>) -> Result<(), Refusal> {
        let message = arrival.message;
        let leg = self.leg_of(message).ok_or_else(|| Refusal::status(481))?;
        let entry = self.calls.leg(leg).filter(|leg| leg.phase == Phase::Established);
        let entry = entry.ok_or_else(|| Refusal::status(481))?;
        if !matches!(entry.party, Party::Peer(_)) {
            return Err(Refusal::status(405).with("Allow", ALLOW));
        }
        // RFC 6665, 4.1.3: who has no subscription answers 481.
        let by = entry.ext.referring.ok_or_else(|| Refusal::status(481))?;
        let package = message.header(Header::Event).unwrap_or_default();
        if !same_token(before(package, b';'), b"refer") {
            return Err(Refusal::status(489));
        }
        let status = status_of(message.body()).ok_or_else(|| Refusal::status(400))?;
        self.accept_within(leg, arrival)?;
        self.answer_within(now, arrival, 200, &Lines::new(), None);
        let state = message.header(Header::SubscriptionState).unwrap_or_default();
        let is_over = same_token(before(state, b';'), b"terminated");
        if (is_over || status >= 200)
            && let Some(entry) = self.calls.leg_mut(leg)
        {
            entry.ext.referring = None;
        }
        self.report(now, by, if is_over && status < 200 { 408 } else { status });
        Ok(())
    }
}

fn before(value: &[u8], end: u8) -> &[u8] {
    value.split(|byte| *byte == end).next().unwrap_or_default().trim_ascii()
}

/// RFC 3515, 2.4.5: "The body of a NOTIFY MUST begin with a SIP Response Status-Line as defined in [1]."
fn status_of(body: &[u8]) -> Option<u16> {
    let status = body.strip_prefix(b"SIP/2.0 ")?.get(..3)?;
    let status: u16 = core::str::from_utf8(status).ok()?.parse().ok()?;
    (100..700).contains(&status).then_some(status)
}

/// RFC 3261, 25.1: what is not unreserved in the headers of a URI is escaped.
fn escaped(value: &[u8]) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let escape = |byte: &u8| match *byte {
        byte if plain(byte) => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    value.iter().map(escape).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_notify_begins_with_a_status() {
        for (body, status) in [
            (&b"SIP/2.0 180 Ringing\r\n"[..], Some(180)),
            (b"SIP/2.0 200", Some(200)),
            (b"SIP/2.0 99 x", None),
            (b"SIP/2.0 999 x", None),
            (b"SIP/2.0 +20 x", None),
            (b"SIP/2.0 ", None),
            (b"", None),
        ] {
            assert_eq!(status_of(body), status);
        }
    }

    #[test]
    fn a_dialog_survives_its_escapes() {
        let named = b"a%b@c;to-tag=1.f;from-tag=x~1";
        let uri = format!("sip:1@h?Replaces={}", escaped(named));
        let uri = sip::wire::Uri::parse(uri.as_bytes()).expect("a URI");
        assert_eq!(Replaces::of_uri(&uri), Some(Replaces::parse(named)));
        assert!(Replaces::parse(named).is_some());
    }
}

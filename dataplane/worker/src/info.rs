//! INFO (RFC 6086): digits as they were sent before RFC 4733, and what two parties tell each other.

use abi::{Class, Counter, Event};
use base::Instant;
use sip::wire::{self, Header, Method, reason_phrase, same_token};

use crate::call::{Invited, LegRef, Phase};
use crate::intake::Arrival;
use crate::refusal::Refusal;
use crate::worker::Worker;

/// How long a digit lasts whose INFO does not say, in milliseconds.
const DIGIT_MS: u16 = 160;
/// The longest that is told and sent, in milliseconds.
const MAX_DIGIT_MS: u16 = 5_000;

/// A digit as an INFO says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Pressed {
    /// As RFC 4733, 3.2 numbers them.
    event: u8,
    duration_ms: u16,
}

impl Worker {
    pub(crate) fn on_info(&mut self, now: Instant, arrival: Arrival<'_>) -> Result<(), Refusal> {
        let message = arrival.message;
        let gone = || Refusal::status(481);
        let leg = self.leg_within(message).ok_or_else(gone)?;
        // RFC 6086, 4.2.2: "If the UAS does not support the Info Package [...] or has not indicated
        // willingness to receive [it, it] MUST send a 469 (Bad Info Package) response [...]. In addition [...]
        // the response MUST contain a Recv-Info header field".
        if message.header_named("Info-Package").is_some() {
            return Err(Refusal::status(469).with("Recv-Info", b""));
        }
        let content = message.content_type().unwrap_or_default();
        let is_relay = same_token(content, b"application/dtmf-relay");
        let is_digit = is_relay || same_token(content, b"application/dtmf");
        if !message.body().is_empty() && !is_digit {
            return self.pass_info(now, leg, arrival);
        }
        let pressed = match is_digit {
            true => Some(read(message.body(), is_relay).ok_or_else(|| Refusal::status(400))?),
            false => None,
        };
        self.accept_within(leg, arrival)?;
        self.answer_within(now, arrival, 200, &Vec::new(), None);
        if let Some(pressed) = pressed {
            self.press(now, leg, pressed);
        }
        Ok(())
    }

    /// Tells control of a digit, and passes it on as the other leg's peer takes it.
    fn press(&mut self, now: Instant, leg: LegRef, pressed: Pressed) {
        let Pressed { event, duration_ms } = pressed;
        self.count(Counter::DigitsPressed);
        let told = Event::Digit { call: leg.call, leg: leg.leg, digit: event, duration_ms };
        self.tell_as(told, &[], Class::Statistic);
        self.collect_digit(now, leg, event);
        let Some(peer) = self.peer_of(leg) else { return };
        if self.sends_events(peer) {
            return self.send_tone(now, peer, event, duration_ms);
        }
        if self.calls.leg(peer).is_some_and(|peer| peer.ext.takes_info) {
            let body = format!("Signal={}\r\nDuration={duration_ms}\r\n", name(event));
            let content = ("application/dtmf-relay", body.as_bytes());
            self.send_content(now, peer, Method::Info, &[], Some(content));
        }
    }

    /// Any other INFO goes to the other leg as it is, and its answer back.
    fn pass_info(
        &mut self,
        now: Instant,
        leg: LegRef,
        arrival: Arrival<'_>,
    ) -> Result<(), Refusal> {
        let message = arrival.message;
        let peer = self.peer_of(leg).and_then(|peer| self.calls.leg(peer));
        let stands = |phase| phase == Phase::Established;
        let entry = self.calls.leg(leg).ok_or_else(|| Refusal::status(481))?;
        let takes = peer.is_some_and(|peer| stands(peer.phase) && peer.ext.takes_info);
        if !takes || !stands(entry.phase) {
            let known = b"application/dtmf-relay, application/dtmf";
            return Err(Refusal::status(415).with("Accept", known));
        }
        if entry.ext.passed.is_some() {
            return Err(Refusal::status(500).with("Retry-After", b"1"));
        }
        self.accept_within(leg, arrival)?;
        let Some(peer) = self.peer_of(leg) else { return Err(Refusal::status(481)) };
        let kind = message.header(Header::ContentType).unwrap_or_default();
        let kind = String::from_utf8_lossy(kind).into_owned();
        let disposition = message.header(Header::ContentDisposition);
        let lines: Vec<(&str, &[u8])> =
            disposition.iter().map(|value| ("Content-Disposition", *value)).collect();
        let content = (kind.as_str(), message.body());
        if self.send_content(now, peer, Method::Info, &lines, Some(content)).is_none() {
            return Err(Refusal::unavailable(crate::refusal::RETRY_AFTER_S));
        }
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.ext.passed = Some(Box::new(Invited {
                key: arrival.key,
                bytes: message.bytes().into(),
                from: arrival.from,
            }));
        }
        Ok(())
    }

    /// The answer to an INFO of ours. RFC 3261, 12.2.1.2: 481 or 408: the dialog is gone.
    pub(crate) fn on_info_answered(&mut self, now: Instant, leg: LegRef, status: u16) {
        if let Some(peer) = self.peer_of(leg) {
            self.answer_passed(now, peer, status);
        }
        if matches!(status, 408 | 481) {
            self.end_call(now, leg.call, &Refusal::status(status));
        }
    }

    /// Answers the INFO of a leg that was passed on.
    pub(crate) fn answer_passed(&mut self, now: Instant, leg: LegRef, status: u16) {
        let passed = self.calls.leg_mut(leg).and_then(|leg| leg.ext.passed.take());
        let Some(Invited { key, bytes, from }) = passed.map(|passed| *passed) else { return };
        let Ok(message) = wire::lex(&bytes) else { return };
        // Challenges and redirections of the other side are not for this one.
        let status = if matches!(status, 300..=399 | 401 | 407) { 488 } else { status };
        let answer = wire::response(&message, status, reason_phrase(status), None, from, &[], None);
        self.transactions.respond(now, key, status, answer, &mut self.sent);
    }
}

/// Reads `Signal=5` and `Duration=160`, or the digit alone.
fn read(body: &[u8], is_relay: bool) -> Option<Pressed> {
    let text = core::str::from_utf8(body).ok()?;
    if !is_relay {
        return Some(Pressed { event: event(text.trim())?, duration_ms: DIGIT_MS });
    }
    let mut pressed = None;
    let mut duration_ms = DIGIT_MS;
    for line in text.lines() {
        let Some((key, value)) = line.split_once('=') else { continue };
        let (key, value) = (key.trim(), value.trim());
        if key.eq_ignore_ascii_case("signal") {
            pressed = Some(event(value)?);
        } else if key.eq_ignore_ascii_case("duration") {
            duration_ms = value.parse().unwrap_or(DIGIT_MS).clamp(40, MAX_DIGIT_MS);
        }
    }
    Some(Pressed { event: pressed?, duration_ms })
}

fn event(digit: &str) -> Option<u8> {
    match digit.as_bytes() {
        [digit @ b'0'..=b'9'] => Some(digit - b'0'),
        [b'*'] | b"10" => Some(10),
        [b'#'] | b"11" => Some(11),
        [letter] if (b'A'..=b'D').contains(&letter.to_ascii_uppercase()) => {
            Some(letter.to_ascii_uppercase() - b'A' + 12)
        }
        b"12" | b"13" | b"14" | b"15" | b"16" => digit.parse().ok(),
        b"!" => Some(16),
        _ => None,
    }
}

fn name(event: u8) -> char {
    match event {
        0..=9 => char::from(b'0' + event),
        10 => '*',
        11 => '#',
        12..=15 => char::from(b'A' + event - 12),
        _ => '!',
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_are_read_in_both_forms() {
        let of = |event, duration_ms| Some(Pressed { event, duration_ms });
        let cases: [(&str, bool, Option<Pressed>); 10] = [
            ("Signal=5\r\nDuration=160\r\n", true, of(5, 160)),
            ("signal = # \nduration = 9", true, of(11, 40)),
            ("Duration=70000\r\nSignal=*", true, of(10, DIGIT_MS)),
            ("Signal=11", true, of(11, DIGIT_MS)),
            ("Signal=", true, None),
            ("Duration=100", true, None),
            ("7", false, of(7, DIGIT_MS)),
            (" d\r\n", false, of(15, DIGIT_MS)),
            ("77", false, None),
            ("", false, None),
        ];
        for (body, is_relay, expected) in cases {
            assert_eq!(read(body.as_bytes(), is_relay), expected, "{body:?}");
        }
        for number in 0..=16 {
            assert_eq!(event(&name(number).to_string()), Some(number));
        }
    }
}

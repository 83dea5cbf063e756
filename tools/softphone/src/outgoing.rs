//! Calls that we place (RFC 3261, 13.2), and our changes of a call that stands (14.1).

use core::time::Duration;

use base::Instant;
use sip::dialog::{Dialog, Outgoing};
use sip::wire::{Header, Message, Method, RequestWriter};

use crate::auth::TRIES;
use crate::call::{Call, Change, Placing, State};
use crate::phone::{AGENT, Asked, Phone, host};
use crate::session::SDP;
use crate::{Event, Output, Why};

impl Phone {
    /// Calls `number`; nothing happens while there is a call.
    pub(crate) fn place(&mut self, now: Instant, number: &str, out: &mut Vec<Output>) {
        if self.call.is_some() {
            return;
        }
        let uri = if number.starts_with("sip:") {
            number.to_owned()
        } else {
            format!("sip:{number}@{}", self.config.registrar)
        };
        self.generation += 1;
        self.report.placed += 1;
        let session_id = self.rng.next_u64();
        let mut call = Call::new(self.generation, State::Calling, session_id);
        call.placing = Some(Placing {
            to: self.address_of(uri.as_bytes()),
            uri,
            call_id: self.call_id(),
            tag: self.tag(),
            cseq: 0,
            key: None,
            had_credentials: false,
            tries: 0,
            started: now,
            rings: false,
        });
        self.call = Some(call);
        self.invite(now, out);
    }

    fn invite(&mut self, now: Instant, out: &mut Vec<Output>) {
        let branch = self.branch();
        let contact = self.contact();
        let Some(call) = &mut self.call else { return };
        let generation = call.generation;
        let offer = call.session.offer(&self.config, false);
        let Some(placing) = &mut call.placing else { return };
        let credentials =
            self.auth.header(&self.config, b"INVITE", placing.uri.as_bytes(), &mut self.rng);
        placing.cseq += 1;
        placing.had_credentials = credentials.is_some();
        let (display, user) = (&self.config.display, &self.config.user);
        let from = format!("\"{display}\" <sip:{user}@{}>", host(self.config.registrar));
        let mut request = RequestWriter::new(b"INVITE", placing.uri.as_bytes())
            .header("Via", format!("SIP/2.0/UDP {};rport;branch={branch}", self.config.sip))
            .header("Max-Forwards", "70")
            .header("From", format!("{from};tag={}", placing.tag))
            .header("To", format!("<{}>", placing.uri))
            .header("Call-ID", &placing.call_id)
            .header("CSeq", format!("{} INVITE", placing.cseq))
            .header("Contact", contact)
            .header("Allow", crate::incoming::ALLOW)
            .header("User-Agent", AGENT);
        if let Some((name, value)) = credentials {
            request = request.header(name, value);
        }
        let (to, bytes) = (placing.to, request.finish(Some((SDP, &offer))));
        let asked = Asked::Invite(generation);
        let key = self.send_request(now, Method::Invite, bytes, &branch, to, asked, out);
        match (key, self.call.as_mut().and_then(|call| call.placing.as_mut())) {
            (Some(key), Some(placing)) => placing.key = Some(key),
            _ => self.end_call(Why::Refused(503), out),
        }
    }

    /// A response to the first INVITE of a call.
    pub(crate) fn invite_answered(
        &mut self,
        now: Instant,
        generation: u32,
        response: &Message<'_>,
        out: &mut Vec<Output>,
    ) {
        let status = response.status().unwrap_or(0);
        let Some(call) = self.call.as_mut().filter(|call| call.generation == generation) else {
            return self.stray(response, out);
        };
        let Some(placing) = &mut call.placing else { return self.stray(response, out) };
        match status {
            ..=100 => {}
            101..200 => {
                self.report.post_dial.get_or_insert(now.since(placing.started));
                if !placing.rings && call.state == State::Calling {
                    placing.rings = true;
                    out.push(Output::Event(Event::Ringing));
                }
            }
            200..300 => self.invite_accepted(now, response, out),
            401 | 407 if call.state == State::Calling && placing.tries < TRIES => {
                let had = placing.had_credentials;
                placing.tries += 1;
                if self.auth.challenged(response, &self.config, had) {
                    self.invite(now, out);
                } else {
                    self.invite_failed(generation, status, out);
                }
            }
            _ => self.invite_failed(generation, status, out),
        }
    }

    fn invite_accepted(&mut self, now: Instant, response: &Message<'_>, out: &mut Vec<Output>) {
        let Some(call) = &mut self.call else { return };
        let Some(placing) = call.placing.take() else { return };
        let Ok(dialog) = Dialog::uac(response) else {
            return self.end_call(Why::NotAcceptable, out);
        };
        call.dialog = Some(dialog);
        let cancelled = call.state == State::Cancelling;
        call.state = State::Talking;
        let answer = Phone::description(response);
        let fits = answer.is_some_and(|sdp| call.session.accept(&self.config, sdp).is_ok());
        self.acknowledge(placing.cseq, out);
        if cancelled || !fits {
            // The 2xx crossed our CANCEL, or cannot be used: the call stands and is ended at once.
            self.bye(now, out);
            return self.end_call(if cancelled { Why::HungUp } else { Why::NotAcceptable }, out);
        }
        self.report.answered += 1;
        self.report.set_up = Some(now.since(placing.started));
        self.set_media(now);
        out.push(Output::Event(Event::Answered));
    }

    /// The call that we placed came to nothing.
    pub(crate) fn invite_failed(&mut self, generation: u32, status: u16, out: &mut Vec<Output>) {
        let Some(call) = self.call.as_ref().filter(|call| call.generation == generation) else {
            return;
        };
        let cancelled = call.state == State::Cancelling;
        self.end_call(if cancelled { Why::HungUp } else { Why::Refused(status) }, out);
    }

    /// Holds or resumes; while another change is on its way this one waits for it.
    pub(crate) fn change_hold(&mut self, now: Instant, hold: bool, out: &mut Vec<Output>) {
        let Some(call) = self.call.as_mut().filter(|call| call.state == State::Talking) else {
            return;
        };
        match &mut call.change {
            Some(change) => change.hold = hold,
            None if call.session.hold == hold => {}
            None => {
                let change = Change {
                    hold,
                    sent_hold: hold,
                    cseq: None,
                    retry_at: None,
                    had_credentials: false,
                    tries: 0,
                };
                call.change = Some(change);
                self.send_change(now, out);
            }
        }
    }

    /// Sends the re-INVITE of the change that waits.
    pub(crate) fn send_change(&mut self, now: Instant, out: &mut Vec<Output>) {
        let (branch, contact) = (self.branch(), self.contact());
        let Some(call) = &mut self.call else { return };
        let generation = call.generation;
        let (Some(change), Some(dialog)) = (&mut call.change, &mut call.dialog) else { return };
        change.retry_at = None;
        // The offer says what is wanted now; what an answer to it means is decided by this.
        let offer = call.session.offer(&self.config, change.hold);
        let target = dialog.remote_target().to_vec();
        let credentials = if change.tries > 0 {
            self.auth.header(&self.config, b"INVITE", &target, &mut self.rng)
        } else {
            None
        };
        change.had_credentials = credentials.is_some();
        let extra = credentials.as_ref().map(|(name, value)| (*name, value.as_slice()));
        let sent_by = self.config.sip.to_string();
        let what = Outgoing {
            branch: branch.as_bytes(),
            transport: base::Transport::Udp,
            sent_by: sent_by.as_bytes(),
            contact: Some(contact.as_bytes()),
            extra: extra.as_slice(),
            body: Some((SDP, &offer)),
        };
        let built = dialog.request(Method::Invite, &what);
        change.cseq = Some(built.cseq);
        change.sent_hold = change.hold;
        let to = self.address_of(&built.next_hop);
        let asked = Asked::Reinvite(generation);
        if self.send_request(now, Method::Invite, built.bytes, &branch, to, asked, out).is_none()
            && let Some(call) = &mut self.call
        {
            call.change = None;
        }
    }

    /// A response to our re-INVITE.
    pub(crate) fn reinvite_answered(
        &mut self,
        now: Instant,
        generation: u32,
        response: &Message<'_>,
        out: &mut Vec<Output>,
    ) {
        let status = response.status().unwrap_or(0);
        let cseq = response.cseq().map_or(0, |cseq| cseq.number);
        let Some(call) = self.call.as_mut().filter(|call| call.generation == generation) else {
            return self.stray(response, out);
        };
        let Some(change) = call.change.as_mut().filter(|change| change.cseq == Some(cseq)) else {
            return self.stray(response, out);
        };
        match status {
            ..200 => {}
            200..300 => self.change_accepted(now, cseq, response, out),
            401 | 407 if change.tries < TRIES => {
                let had = change.had_credentials;
                change.tries += 1;
                if self.auth.challenged(response, &self.config, had) {
                    self.send_change(now, out);
                } else {
                    call.change = None;
                }
            }
            // RFC 3261, 14.1: the owner of the Call-ID waits between 2.1 and 4 s, the other side
            // up to 2 s, both "in units of 10 ms".
            491 => {
                let owner = call.owns_call_id;
                let (least, units) = if owner { (2_100, 191) } else { (0, 201) };
                let pause = Duration::from_millis(least + 10 * self.rng.below(units));
                change.cseq = None;
                change.retry_at = Some(now + pause);
            }
            408 | 481 => self.reinvite_lost(now, generation, out),
            _ => call.change = None,
        }
    }

    fn change_accepted(
        &mut self,
        now: Instant,
        cseq: u32,
        response: &Message<'_>,
        out: &mut Vec<Output>,
    ) {
        let Some(call) = &mut self.call else { return };
        let Some(change) = call.change.take() else { return };
        if let Some(dialog) = &mut call.dialog {
            dialog.refresh(response);
        }
        let answer = Phone::description(response);
        let fits = answer.is_some_and(|sdp| call.session.accept(&self.config, sdp).is_ok());
        if fits {
            call.session.hold = change.sent_hold;
        }
        self.acknowledge(cseq, out);
        if !fits {
            // Nothing says any more what the peer expects.
            self.bye(now, out);
            return self.end_call(Why::NotAcceptable, out);
        }
        self.set_media(now);
        self.tell_hold(out);
        if change.hold != change.sent_hold {
            self.change_hold(now, change.hold, out);
        }
    }

    /// The peer does not know the call any more, or does not answer (RFC 3261, 12.2.1.2).
    pub(crate) fn reinvite_lost(&mut self, now: Instant, generation: u32, out: &mut Vec<Output>) {
        if self.call.as_ref().is_some_and(|call| call.generation == generation) {
            self.bye(now, out);
            self.end_call(Why::Refused(408), out);
        }
    }

    /// A response that belongs to no request that waits. A 2xx to an INVITE wants its ACK again.
    pub(crate) fn stray(&mut self, response: &Message<'_>, out: &mut Vec<Output>) {
        let status = response.status().unwrap_or(0);
        let Ok(cseq) = response.cseq() else { return };
        if !(200..300).contains(&status) || cseq.method != Method::Invite {
            self.report.sip_unexpected += u64::from(status >= 200);
            return;
        }
        let present = self.call.as_ref().and_then(|call| {
            let ours = call.dialog.as_ref().is_some_and(|dialog| dialog.matches(response));
            call.last_ack.as_ref().filter(|_| ours)
        });
        let ack = present
            .or_else(|| self.departed_dialog(response).and_then(|gone| gone.last_ack.as_ref()))
            .filter(|ack| ack.cseq == cseq.number);
        match ack.map(|ack| (ack.to, ack.bytes.clone())) {
            Some((to, bytes)) => self.send(to, bytes, out),
            None => self.report.sip_unexpected += 1,
        }
    }

    /// The user part of the caller's From, for people.
    pub(crate) fn caller(message: &Message<'_>) -> String {
        let user =
            message.header(Header::From).and_then(sip::wire::NameAddr::parse).and_then(|from| {
                Some(String::from_utf8_lossy(from.parsed_uri().ok()?.user).into_owned())
            });
        user.unwrap_or_default()
    }
}

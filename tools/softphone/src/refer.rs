//! The phone gives its peer to somebody else (RFC 3515), also to who it talks to on another line (RFC 3891).

use std::net::SocketAddr;

use base::Instant;
use sip::dialog::Outgoing;
use sip::transaction::ServerKey;
use sip::wire::{Message, Method};

use crate::call::State;
use crate::phone::{Asked, Phone};
use crate::{Event, Output, Why};

impl Phone {
    /// The present call as a Replaces header names it to the peer (RFC 3891, 6.1); none without a dialog that stands.
    pub fn dialog(&self) -> Option<String> {
        let call = self.call.as_ref().filter(|call| call.state == State::Talking)?;
        let dialog = call.dialog.as_ref()?;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let (to, from) = (text(dialog.remote_tag()), text(dialog.local_tag()));
        Some(format!("{};to-tag={to};from-tag={from}", text(dialog.call_id())))
    }

    /// Asks the peer's side to give the peer to `to`; nothing happens while another wish is open.
    pub(crate) fn refer(
        &mut self,
        now: Instant,
        to: &str,
        replaces: Option<&str>,
        out: &mut Vec<Output>,
    ) {
        let branch = self.branch();
        let (contact, sent_by) = (self.contact(), self.config.sip.to_string());
        let registrar = self.config.registrar;
        let Some(call) = self.call.as_mut().filter(|call| call.state == State::Talking) else {
            return;
        };
        let generation = call.generation;
        let Some(dialog) = call.dialog.as_mut().filter(|_| !call.refers) else { return };
        // RFC 3261, 19.1.1: what stands in a URI's header is escaped.
        let replaces = replaces.map(|named| format!("?Replaces={}", escaped(named)));
        let refer_to = format!("<sip:{to}@{registrar}{}>", replaces.unwrap_or_default());
        let built = dialog.request(
            Method::Refer,
            &Outgoing {
                branch: branch.as_bytes(),
                transport: base::Transport::Udp,
                sent_by: sent_by.as_bytes(),
                contact: Some(contact.as_bytes()),
                extra: &[("Refer-To", refer_to.as_bytes())],
                body: None,
            },
        );
        call.refers = true;
        let to = self.address_of(&built.next_hop);
        let asked = Asked::Refer(generation);
        if self.send_request(now, Method::Refer, built.bytes, &branch, to, asked, out).is_none() {
            self.referred(now, generation, 503, out);
        }
    }

    /// What became of the wish of a call, by a refusal or by a NOTIFY. The phone hangs up when its peer has somebody
    /// else (RFC 5589, 6.1).
    pub(crate) fn referred(
        &mut self,
        now: Instant,
        generation: u32,
        status: u16,
        out: &mut Vec<Output>,
    ) {
        let Some(call) = self.call.as_mut().filter(|call| call.generation == generation) else {
            return;
        };
        if status < 200 || !std::mem::take(&mut call.refers) {
            return;
        }
        out.push(Output::Event(Event::Referred { status }));
        if status < 300 {
            self.report.given_away += 1;
            self.bye(now, out);
            self.end_call(Why::HungUp, out);
        }
    }

    /// RFC 3515, 2.4.4: the news of a REFER come by NOTIFY in its dialog.
    pub(crate) fn notified(
        &mut self,
        now: Instant,
        key: ServerKey,
        from: SocketAddr,
        message: &Message<'_>,
        out: &mut Vec<Output>,
    ) {
        let refers = self.call.as_ref().is_some_and(|call| call.refers);
        let Some(dialog) = self.dialog_for(message).filter(|_| refers) else {
            // RFC 6665, 4.1.3: without a subscription it is answered 481.
            return self.reply(now, key, from, message, 481, &[], out);
        };
        if dialog.accept(message).is_err() {
            return self.reply(now, key, from, message, 500, &[], out);
        }
        self.reply(now, key, from, message, 200, &[], out);
        let status = message.body().strip_prefix(b"SIP/2.0 ").and_then(|line| line.get(..3));
        let status = status.and_then(|digits| std::str::from_utf8(digits).ok()?.parse().ok());
        let generation = self.call.as_ref().map(|call| call.generation);
        if let (Some(status), Some(generation)) = (status, generation) {
            self.referred(now, generation, status, out);
        }
    }
}

fn escaped(text: &str) -> String {
    text.replace('%', "%25").replace(';', "%3B").replace('=', "%3D").replace('@', "%40")
}

use std::collections::VecDeque;
use std::net::SocketAddr;

use base::{Instant, Rng};
use sip::dialog::Dialog;
use sip::transaction::{ClientKey, Fired, Received, Sent, ServerKey, Transactions};
use sip::wire::{Message, Method, Uri, lex};

use crate::auth::Auth;
use crate::call::{Call, Departed};
use crate::registration::Registration;
use crate::{Event, Input, Order, Output, PhoneConfig, Report, Why};

/// The phone's name and version in its messages.
pub(crate) const AGENT: &str = concat!("jackfield-softphone/", env!("CARGO_PKG_VERSION"));
/// Calls that are over but may still hear from their peer.
const DEPARTED: usize = 8;

/// A SIP phone; see the crate's documentation.
pub struct Phone {
    pub(crate) config: PhoneConfig,
    pub(crate) rng: Rng,
    pub(crate) transactions: Transactions<SocketAddr>,
    pub(crate) registration: Registration,
    pub(crate) auth: Auth,
    pub(crate) call: Option<Call>,
    pub(crate) departed: VecDeque<Departed>,
    /// Somebody who calls while our own call is on its way: it rings when that comes to nothing.
    pub(crate) waiting: Option<Waiting>,
    /// Grows by one with each call.
    pub(crate) generation: u32,
    pub(crate) report: Report,
    pub(crate) sent: Vec<Sent<SocketAddr>>,
}

/// An INVITE that is not answered yet.
pub(crate) struct Waiting {
    pub(crate) key: ServerKey,
    pub(crate) from: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    /// When it is refused.
    pub(crate) until: Instant,
}

/// Which request of ours a transaction belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asked {
    Register,
    /// The first INVITE of the call with that generation.
    Invite(u32),
    /// A later one.
    Reinvite(u32),
    Bye(u32),
    Refer(u32),
}

impl Asked {
    fn word(self) -> u64 {
        let (kind, generation) = match self {
            Asked::Register => (0, 0),
            Asked::Invite(generation) => (1, generation),
            Asked::Reinvite(generation) => (2, generation),
            Asked::Bye(generation) => (3, generation),
            Asked::Refer(generation) => (4, generation),
        };
        (u64::from(generation) << 3) | kind
    }

    fn of(word: u64) -> Asked {
        let generation = (word >> 3) as u32;
        match word & 7 {
            0 => Asked::Register,
            1 => Asked::Invite(generation),
            2 => Asked::Reinvite(generation),
            3 => Asked::Bye(generation),
            _ => Asked::Refer(generation),
        }
    }
}

impl Phone {
    /// A phone that does nothing until it is told to. `rng` must differ from every other phone's.
    pub fn new(config: PhoneConfig, mut rng: Rng) -> Phone {
        let seed = rng.next_u64();
        let transactions = Transactions::new(config.transactions, seed);
        Phone {
            config,
            rng,
            transactions,
            registration: Registration::default(),
            auth: Auth::default(),
            call: None,
            departed: VecDeque::new(),
            waiting: None,
            generation: 0,
            report: Report::default(),
            sent: Vec::new(),
        }
    }

    /// Takes what happened at `now`; what is to be done about it is appended to `out`.
    pub fn handle(&mut self, now: Instant, input: Input<'_>, out: &mut Vec<Output>) {
        match input {
            Input::Order(order) => self.obey(now, order, out),
            Input::Sip { from, datagram } => self.receive(now, from, datagram, out),
            Input::Rtp(packet) => match self.call.as_mut().and_then(|call| call.stream.as_mut()) {
                Some(stream) => stream.hear(now, packet),
                None => self.report.rtp_stray += 1,
            },
            Input::Rtcp(packet) => {
                if let Some(stream) = self.call.as_mut().and_then(|call| call.stream.as_mut()) {
                    stream.hear_report(now, packet);
                }
            }
            Input::Timeout => self.timeout(now, out),
        }
        self.look_at_waiting(now, out);
        self.report.sip_retransmitted = self.transactions.retransmissions();
    }

    /// When [`Input::Timeout`] is due next; it may be earlier than needed.
    pub fn deadline(&self) -> Option<Instant> {
        let call = self.call.as_ref().and_then(Call::deadline);
        let waiting = self.waiting.as_ref().map(|waiting| waiting.until);
        let own = [self.transactions.deadline(), self.registration.next, call, waiting];
        own.into_iter().flatten().min()
    }

    /// What was counted so far, the present call included.
    pub fn report(&self) -> Report {
        let mut report = self.report;
        if let Some(stream) = self.call.as_ref().and_then(|call| call.stream.as_ref()) {
            report.call = stream.report();
            report.add_media();
        }
        report
    }

    /// True while there is a call, also one that only rings.
    pub fn is_busy(&self) -> bool {
        self.call.is_some()
    }

    /// Where the peer of the present call wants its RTP, once it has said so.
    pub fn peer_media(&self) -> Option<SocketAddr> {
        self.call.as_ref()?.session.remote.map(|remote| remote.address)
    }

    fn obey(&mut self, now: Instant, order: Order, out: &mut Vec<Output>) {
        match order {
            Order::Register => self.want_registration(now, true, out),
            Order::Unregister => self.want_registration(now, false, out),
            Order::Call(to) => self.place(now, &to, out),
            Order::Answer => self.answer(now, out),
            Order::HangUp => self.hang_up(now, out),
            Order::Hold => self.change_hold(now, true, out),
            Order::Resume => self.change_hold(now, false, out),
            Order::Refer { to, replaces } => self.refer(now, &to, replaces.as_deref(), out),
            Order::Press(event) => {
                if let Some(stream) = self.call.as_mut().and_then(|call| call.stream.as_mut()) {
                    stream.press(event);
                }
            }
        }
    }

    fn receive(&mut self, now: Instant, from: SocketAddr, datagram: &[u8], out: &mut Vec<Output>) {
        self.report.sip_received += 1;
        // Keep-alives of RFC 5626, 3.5.1 and blank lines are no messages.
        if datagram.iter().all(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return;
        }
        let message = match lex(datagram) {
            Ok(message) if message.check().is_ok() => message,
            _ => {
                self.report.sip_malformed += 1;
                return;
            }
        };
        let received = self.transactions.receive(now, &message, from, &mut self.sent);
        self.flush(out);
        match received {
            Received::Request(key) | Received::Merged(key) => {
                self.asked(now, key, from, &message, out);
            }
            Received::Cancel { server, invite } => {
                self.cancelled(now, server, invite, from, &message, out);
            }
            Received::Ack => self.acknowledged(now, &message, out),
            Received::Response { user, .. } => self.answered(now, user, &message, out),
            Received::StrayResponse => self.stray(&message, out),
            Received::Absorbed => {}
            Received::Full | Received::Malformed => self.report.sip_malformed += 1,
        }
    }

    fn answered(&mut self, now: Instant, user: u64, response: &Message<'_>, out: &mut Vec<Output>) {
        match Asked::of(user) {
            Asked::Register => self.registered(now, response, out),
            Asked::Invite(generation) => self.invite_answered(now, generation, response, out),
            Asked::Reinvite(generation) => self.reinvite_answered(now, generation, response, out),
            Asked::Bye(generation) => self.bye_answered(now, generation, response, out),
            // Accepted is not done.
            Asked::Refer(generation) => {
                let refused = response.status().filter(|status| *status >= 300);
                if let Some(status) = refused {
                    self.referred(now, generation, status, out);
                }
            }
        }
    }

    fn timeout(&mut self, now: Instant, out: &mut Vec<Output>) {
        let mut fired = Vec::new();
        self.transactions.timeouts(now, &mut self.sent, &mut fired);
        self.flush(out);
        for what in fired {
            match what {
                Fired::ClientTimeout { user, .. } => match Asked::of(user) {
                    Asked::Register => self.registration_refused(now, 408, None, out),
                    Asked::Invite(generation) => self.invite_failed(generation, 408, out),
                    Asked::Reinvite(generation) => self.reinvite_lost(now, generation, out),
                    Asked::Bye(_) => {}
                    Asked::Refer(generation) => self.referred(now, generation, 408, out),
                },
                Fired::NoAck { key, .. } => self.not_acknowledged(now, key, out),
                Fired::RefusalNotAcked { .. } | Fired::Unanswered { .. } => {}
            }
        }
        self.registration_due(now, out);
        self.call_due(now, out);
    }

    /// Ends the present call: counts it, tells why, and keeps its dialog for what still comes.
    pub(crate) fn end_call(&mut self, why: Why, out: &mut Vec<Output>) {
        let Some(call) = self.call.take() else { return };
        self.report.ended += 1;
        if let Why::Refused(status) = why {
            self.report.failed += 1;
            self.report.last_status = status;
        }
        if let Some(stream) = &call.stream {
            self.report.call = stream.report();
            self.report.add_media();
        }
        if let Some(departed) = call.depart() {
            if self.departed.len() == DEPARTED {
                self.departed.pop_front();
            }
            self.departed.push_back(departed);
        }
        out.push(Output::Event(Event::Ended(why)));
    }

    /// Sends a request in a transaction of its own; none when there are too many.
    #[allow(clippy::too_many_arguments)]
    pub(crate) fn send_request(
        &mut self,
        now: Instant,
        method: Method<'_>,
        bytes: Vec<u8>,
        branch: &str,
        to: SocketAddr,
        asked: Asked,
        out: &mut Vec<Output>,
    ) -> Option<ClientKey> {
        let (branch, word) = (branch.as_bytes(), asked.word());
        let sent =
            self.transactions.request(now, method, bytes, branch, to, word, &mut self.sent).ok();
        self.flush(out);
        sent
    }

    pub(crate) fn send(&mut self, to: SocketAddr, bytes: Vec<u8>, out: &mut Vec<Output>) {
        self.report.sip_sent += 1;
        out.push(Output::Sip { to, datagram: bytes.into() });
    }

    pub(crate) fn flush(&mut self, out: &mut Vec<Output>) {
        self.report.sip_sent += self.sent.len() as u64;
        let sent = self.sent.drain(..);
        out.extend(sent.map(|sent| Output::Sip { to: sent.flow, datagram: sent.bytes }));
    }

    /// Where a request to `uri` goes: its address, or the registrar when it has none.
    pub(crate) fn address_of(&self, uri: &[u8]) -> SocketAddr {
        Uri::parse(uri)
            .ok()
            .and_then(|uri| Some(SocketAddr::new(uri.host_ip()?, uri.port.unwrap_or(5060))))
            .unwrap_or(self.config.registrar)
    }

    /// The dialog of a call that is over, by a message that belongs to it.
    pub(crate) fn departed_dialog(&self, message: &Message<'_>) -> Option<&Departed> {
        self.departed.iter().find(|departed| departed.dialog.matches(message))
    }

    /// The present call's dialog, when `message` belongs to it.
    pub(crate) fn dialog_for(&mut self, message: &Message<'_>) -> Option<&mut Dialog> {
        let dialog = self.call.as_mut()?.dialog.as_mut()?;
        dialog.matches(message).then_some(dialog)
    }

    pub(crate) fn contact(&self) -> String {
        format!("<sip:{}@{}>", self.config.user, self.config.sip)
    }

    /// RFC 3261, 8.1.1.7: unique over time, after the cookie.
    pub(crate) fn branch(&mut self) -> String {
        format!("z9hG4bK{:016x}", self.rng.next_u64())
    }

    /// RFC 3261, 19.3: at least 32 bits of randomness.
    pub(crate) fn tag(&mut self) -> String {
        format!("{:016x}", self.rng.next_u64())
    }

    pub(crate) fn call_id(&mut self) -> String {
        format!("{:016x}{:016x}", self.rng.next_u64(), self.rng.next_u64())
    }
}

impl Report {
    /// Adds the present call's media to the totals.
    fn add_media(&mut self) {
        self.rtp_sent += self.call.sent;
        self.rtp_received += self.call.heard.received;
        self.rtp_lost += self.call.heard.lost;
    }
}

/// The host part of a URI for `address`, with brackets for IPv6.
pub(crate) fn host(address: SocketAddr) -> String {
    match address {
        SocketAddr::V4(v4) => v4.ip().to_string(),
        SocketAddr::V6(v6) => format!("[{}]", v6.ip()),
    }
}

use std::net::SocketAddr;

use base::Instant;
use sip::dialog::{Dialog, Outgoing};
use sip::transaction::{ClientKey, ServerKey};
use sip::wire::{Message, Method};

use crate::phone::{Asked, Phone};
use crate::session::{SDP, Session};
use crate::stream::{Start, Stream};
use crate::{Event, Output, Why};

/// The one call of a phone.
#[derive(Debug)]
pub(crate) struct Call {
    /// Tells the phone's calls over time apart.
    pub(crate) generation: u32,
    pub(crate) state: State,
    pub(crate) dialog: Option<Dialog>,
    pub(crate) session: Session,
    pub(crate) stream: Option<Stream>,
    /// Of a call that we placed, until it is answered.
    pub(crate) placing: Option<Placing>,
    /// The peer's INVITE that we have not answered, or whose ACK has not come.
    pub(crate) invite: Option<Invite>,
    /// When the phone answers by itself.
    pub(crate) answer_at: Option<Instant>,
    /// A change of the hold state that is on its way, or waits.
    pub(crate) change: Option<Change>,
    /// The ACK to the last 2xx, for a 2xx that comes again.
    pub(crate) last_ack: Option<Ack>,
    /// A REFER of ours is open.
    pub(crate) refers: bool,
    /// The Call-ID is ours.
    pub(crate) owns_call_id: bool,
    /// We hung up before the ACK to our answer came.
    pub(crate) hung_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Our INVITE is out.
    Calling,
    /// It is cancelled; its final response is still to come.
    Cancelling,
    /// The phone rings.
    Offered,
    /// We answered and wait for the ACK.
    Answered,
    /// Answered and acknowledged.
    Talking,
}

/// What the first INVITE is built from, again for each challenge.
#[derive(Clone, Debug)]
pub(crate) struct Placing {
    pub(crate) uri: String,
    pub(crate) to: SocketAddr,
    pub(crate) call_id: String,
    pub(crate) tag: String,
    pub(crate) cseq: u32,
    pub(crate) key: Option<ClientKey>,
    pub(crate) had_credentials: bool,
    pub(crate) tries: u8,
    pub(crate) started: Instant,
    pub(crate) rings: bool,
}

/// An INVITE of the peer, first or later.
#[derive(Clone, Debug)]
pub(crate) struct Invite {
    pub(crate) key: ServerKey,
    pub(crate) from: SocketAddr,
    pub(crate) bytes: Vec<u8>,
    pub(crate) tag: String,
    /// It had no offer: ours is in the 2xx, and the answer comes with the ACK.
    pub(crate) offerless: bool,
}

/// A change of the hold state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change {
    pub(crate) hold: bool,
    /// What the re-INVITE on its way says; the order may have changed since.
    pub(crate) sent_hold: bool,
    /// The re-INVITE's CSeq number; none while it waits.
    pub(crate) cseq: Option<u32>,
    /// When it is tried again after a 491.
    pub(crate) retry_at: Option<Instant>,
    pub(crate) had_credentials: bool,
    pub(crate) tries: u8,
}

/// An ACK as it was sent.
#[derive(Clone, Debug)]
pub(crate) struct Ack {
    pub(crate) cseq: u32,
    pub(crate) to: SocketAddr,
    pub(crate) bytes: Vec<u8>,
}

/// What is kept of a call that is over, for what its peer may still send.
#[derive(Debug)]
pub(crate) struct Departed {
    pub(crate) generation: u32,
    pub(crate) dialog: Dialog,
    pub(crate) last_ack: Option<Ack>,
    /// How often our BYE was challenged.
    pub(crate) tries: u8,
}

impl Call {
    pub(crate) fn new(generation: u32, state: State, session_id: u64) -> Self {
        Call {
            generation,
            state,
            dialog: None,
            session: Session::new(session_id),
            stream: None,
            placing: None,
            invite: None,
            answer_at: None,
            change: None,
            last_ack: None,
            refers: false,
            owns_call_id: state == State::Calling,
            hung_up: false,
        }
    }

    pub(crate) fn deadline(&self) -> Option<Instant> {
        let retry = self.change.and_then(|change| change.retry_at);
        let stream = self.stream.as_ref().map(Stream::deadline);
        [self.answer_at, retry, stream].into_iter().flatten().min()
    }

    pub(crate) fn depart(self) -> Option<Departed> {
        let Call { generation, dialog, last_ack, .. } = self;
        Some(Departed { generation, dialog: dialog?, last_ack, tries: 0 })
    }
}

impl Phone {
    pub(crate) fn call_due(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(call) = &mut self.call else { return };
        if call.answer_at.is_some_and(|at| at <= now) {
            self.answer(now, out);
        }
        let Some(call) = &mut self.call else { return };
        if call.change.is_some_and(|change| change.retry_at.is_some_and(|at| at <= now)) {
            self.send_change(now, out);
        }
        let Some(call) = &mut self.call else { return };
        if let Some(stream) = &mut call.stream {
            stream.run(now, &self.config.user, out);
        }
    }

    /// Hangs up, in whatever way the call's state allows.
    pub(crate) fn hang_up(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(call) = &mut self.call else { return };
        match call.state {
            State::Calling => {
                call.state = State::Cancelling;
                if let Some(key) = call.placing.as_ref().and_then(|placing| placing.key) {
                    self.transactions.cancel(now, key, &mut self.sent);
                    self.flush(out);
                }
            }
            State::Cancelling => {}
            State::Offered => {
                self.refuse_invite(now, 603, out);
                self.end_call(Why::Declined, out);
            }
            // RFC 3261, 15: "the callee's UA MUST NOT send a BYE on a confirmed dialog until it has
            // received an ACK for its 2xx response or until the server transaction times out."
            State::Answered => {
                call.hung_up = true;
                if let Some(stream) = &mut call.stream {
                    stream.silence();
                }
            }
            State::Talking => {
                self.bye(now, out);
                self.end_call(Why::HungUp, out);
            }
        }
    }

    /// Sends BYE; the caller ends the call.
    pub(crate) fn bye(&mut self, now: Instant, out: &mut Vec<Output>) {
        let Some(call) = &mut self.call else { return };
        let generation = call.generation;
        if let Some(dialog) = call.dialog.take() {
            let dialog = self.send_bye(now, dialog, generation, false, out);
            if let Some(call) = &mut self.call {
                call.dialog = Some(dialog);
            }
        }
    }

    /// The response to our BYE: only a challenge asks for more.
    pub(crate) fn bye_answered(
        &mut self,
        now: Instant,
        generation: u32,
        response: &Message<'_>,
        out: &mut Vec<Output>,
    ) {
        if !matches!(response.status(), Some(401 | 407)) {
            return;
        }
        let place = self.departed.iter().position(|departed| departed.generation == generation);
        let Some(mut departed) = place.and_then(|place| self.departed.remove(place)) else {
            return;
        };
        let again = departed.tries < crate::auth::TRIES
            && self.auth.challenged(response, &self.config, departed.tries > 0);
        if again {
            departed.tries += 1;
            departed.dialog = self.send_bye(now, departed.dialog, generation, true, out);
        }
        self.departed.push_back(departed);
    }

    fn send_bye(
        &mut self,
        now: Instant,
        mut dialog: Dialog,
        generation: u32,
        with_credentials: bool,
        out: &mut Vec<Output>,
    ) -> Dialog {
        let branch = self.branch();
        let target = dialog.remote_target().to_vec();
        let credentials = if with_credentials {
            self.auth.header(&self.config, b"BYE", &target, &mut self.rng)
        } else {
            None
        };
        let extra = credentials.as_ref().map(|(name, value)| (*name, value.as_slice()));
        let sent_by = self.config.sip.to_string();
        let built = dialog.request(
            Method::Bye,
            &Outgoing {
                branch: branch.as_bytes(),
                transport: base::Transport::Udp,
                sent_by: sent_by.as_bytes(),
                contact: None,
                extra: extra.as_slice(),
                body: None,
            },
        );
        let to = self.address_of(&built.next_hop);
        self.send_request(now, Method::Bye, built.bytes, &branch, to, Asked::Bye(generation), out);
        dialog
    }

    /// Sends the ACK to a 2xx with that CSeq number, and keeps it.
    pub(crate) fn acknowledge(&mut self, cseq: u32, out: &mut Vec<Output>) {
        let branch = self.branch();
        let sent_by = self.config.sip.to_string();
        let Some(dialog) = self.call.as_ref().and_then(|call| call.dialog.as_ref()) else { return };
        let what = Outgoing {
            branch: branch.as_bytes(),
            transport: base::Transport::Udp,
            sent_by: sent_by.as_bytes(),
            contact: None,
            extra: &[],
            body: None,
        };
        let built = dialog.ack(cseq, &what);
        let ack = Ack { cseq, to: self.address_of(&built.next_hop), bytes: built.bytes };
        self.send(ack.to, ack.bytes.clone(), out);
        if let Some(call) = &mut self.call {
            call.last_ack = Some(ack);
        }
    }

    /// Starts the media, or lets them follow what the two sides now say.
    pub(crate) fn set_media(&mut self, now: Instant) {
        let Some(call) = &mut self.call else { return };
        let Some(remote) = call.session.remote else { return };
        let sending = call.session.sending() && call.state == State::Talking;
        match &mut call.stream {
            Some(stream) => {
                stream.redirect(now, remote.law, remote.address, remote.rtcp, sending);
            }
            None if self.config.media => {
                let start = Start {
                    law: remote.law,
                    remote: remote.address,
                    remote_rtcp: remote.rtcp,
                    sending,
                    tone_hz: self.config.tone_hz,
                    frames: self.config.frames,
                    listen: self.config.listen,
                    events: remote.events,
                };
                call.stream = Some(Stream::new(now, start, &mut self.rng));
            }
            None => {}
        }
    }

    pub(crate) fn tell_hold(&self, out: &mut Vec<Output>) {
        let Some(call) = &self.call else { return };
        let by_peer = call.session.remote.is_some_and(|remote| remote.held);
        out.push(Output::Event(Event::Held { by_us: call.session.hold, by_peer }));
    }

    /// A body that is a session description; none when there is none.
    pub(crate) fn description<'a>(message: &Message<'a>) -> Option<&'a [u8]> {
        let typed =
            message.content_type().is_some_and(|kind| kind.eq_ignore_ascii_case(SDP.as_bytes()));
        Some(message.body()).filter(|body| typed && !body.is_empty())
    }
}

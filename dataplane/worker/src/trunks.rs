//! Trunks that control wants watched: each is asked OPTIONS now and then (RFC 3261, 11), and control hears when
//! one goes down or comes up. And calls that go to the next address when the first does not serve.

use std::net::SocketAddr;
use std::time::Duration;

use abi::{Event, OpResult, Outage, Party};
use base::{CallRef, Instant};
use sip::transaction::ClientKey;
use sip::wire::{Method, RequestWriter};

use crate::call::{Flow, Inviting, LegRef, Phase};
use crate::dial::{Change, changed};
use crate::worker::{Timer, Worker};

/// What the word of such a request names: no call has this slot and generation.
pub(crate) const WATCHER: CallRef = CallRef { slot: (1 << 24) - 1, generation: u32::MAX };

/// How many trunks one worker watches: as many as a word can tell apart.
const MAX_WATCHED: usize = 255;
/// How many requests in a row fail until the trunk counts as down; one that is answered brings it up.
const FAILURES: u32 = 2;
/// How many addresses one call is tried at.
const MAX_OTHERS: usize = 8;

/// The trunks that one worker watches.
#[derive(Debug, Default)]
pub struct Watched {
    trunks: Vec<Option<Watch>>,
}

#[derive(Debug)]
struct Watch {
    flow: Flow,
    every: Duration,
    due: Instant,
    pending: Option<ClientKey>,
    failures: u32,
    /// Why it is down.
    outage: Outage,
}

/// Where a call goes when its trunk does not serve it (RFC 3263, 4.3).
#[derive(Debug)]
pub struct Others {
    addresses: Vec<SocketAddr>,
    /// Our INVITE, to be sent again.
    invite: Vec<u8>,
}

impl Watched {
    fn find(&mut self, index: u8) -> Option<&mut Watch> {
        self.trunks.get_mut(usize::from(index))?.as_mut()
    }
}

impl Worker {
    /// Control wants a trunk watched every so many seconds; 0 ends it. It hears of a trunk that is down, also
    /// when it asks for what is watched already.
    pub(crate) fn on_watch_ordered(&mut self, now: Instant, flow: Flow, seconds: u32) -> OpResult {
        if usize::from(flow.location.0) >= self.config.locations.len() {
            return OpResult::Refused;
        }
        let every = Duration::from_secs(u64::from(seconds));
        let trunks = &mut self.watched_trunks.trunks;
        let is_it = |watch: &Option<Watch>| watch.as_ref().is_some_and(|it| it.flow == flow);
        let known = trunks.iter().position(is_it);
        if seconds == 0 {
            if let Some(known) = known {
                trunks[known] = None;
            }
            return OpResult::Ok;
        }
        if let Some(watch) = known.and_then(|known| trunks[known].as_mut()) {
            watch.every = every;
            let outage = watch.outage;
            self.tell(Event::Trunk { addr: flow.peer, outage });
            return OpResult::Ok;
        }
        let place = trunks.iter().position(Option::is_none).unwrap_or(trunks.len());
        if place >= MAX_WATCHED {
            return OpResult::Full;
        }
        if place == trunks.len() {
            trunks.push(None);
        }
        // Not all trunks at once.
        let due = now + every.mul_f64(0.5 + self.rng.below(1_000) as f64 / 2_000.0);
        let watch = Watch { flow, every, due, pending: None, failures: 0, outage: Outage::None };
        self.watched_trunks.trunks[place] = Some(watch);
        self.timers.set(due, Timer::Trunk(place as u8));
        OpResult::Ok
    }

    pub(crate) fn on_trunk_due(&mut self, now: Instant, index: u8) {
        let Some(watch) = self.watched_trunks.find(index) else { return };
        // A timer of a trunk that had this place before.
        if watch.due > now {
            return;
        }
        watch.due = now + watch.every;
        let (due, flow, was_silent) = (watch.due, watch.flow, watch.pending.take().is_some());
        self.timers.set(due, Timer::Trunk(index));
        if was_silent {
            self.trunk_heard(index, Outage::Silent);
        }
        let pending = self.ask_trunk(now, index, flow);
        if let Some(watch) = self.watched_trunks.find(index) {
            watch.pending = pending;
        }
    }

    /// RFC 3261, 11.1: an OPTIONS outside of any dialog.
    fn ask_trunk(&mut self, now: Instant, index: u8, flow: Flow) -> Option<ClientKey> {
        let (branch, tag) = (self.fresh_branch(), self.fresh_tag());
        let address = self.address_of(flow);
        let (token, peer) = (flow.channel.transport.token(), flow.peer);
        let bytes = RequestWriter::new(b"OPTIONS", format!("sip:{peer}").as_bytes())
            .header_fmt("Via", format_args!("SIP/2.0/{token} {address};branch={branch};rport"))
            .header("Max-Forwards", "70")
            .header_fmt("From", format_args!("<sip:{address}>;tag={tag}"))
            .header_fmt("To", format_args!("<sip:{peer}>"))
            .header("Call-ID", self.owned_call_id())
            .header("CSeq", "1 OPTIONS")
            .header_fmt("Contact", format_args!("<sip:{address}>"))
            .header("Accept", "application/sdp")
            .finish(None);
        let word = LegRef { call: WATCHER, leg: index }.to_word();
        let (branch, sent) = (branch.as_bytes(), &mut self.sent);
        self.transactions.request(now, Method::Options, bytes, branch, flow, word, sent).ok()
    }

    /// A trunk answered with that status. Any answer is a sign of life, but for 503 (it takes no calls) and 408
    /// (it is behind who answers).
    pub(crate) fn on_trunk_status(&mut self, key: ClientKey, index: u8, status: u16) {
        match status {
            ..200 => {}
            408 | 503 => self.on_trunk_answered(key, index, Outage::Refuses),
            _ => self.on_trunk_answered(key, index, Outage::None),
        }
    }

    /// A trunk answered, or never will.
    pub(crate) fn on_trunk_answered(&mut self, key: ClientKey, index: u8, outage: Outage) {
        let Some(watch) = self.watched_trunks.find(index) else { return };
        if watch.pending.take_if(|pending| *pending == key).is_some() {
            self.trunk_heard(index, outage);
        }
    }

    fn trunk_heard(&mut self, index: u8, outage: Outage) {
        let Some(watch) = self.watched_trunks.find(index) else { return };
        let is_alive = outage == Outage::None;
        watch.failures = if is_alive { 0 } else { watch.failures.saturating_add(1) };
        let is_down = watch.failures >= FAILURES || watch.outage != Outage::None;
        let is_down = (is_down || outage.is_certain()) && !is_alive;
        let outage = if is_down { outage } else { Outage::None };
        // Who is down for another reason than before is told of again: somebody may be at work on it.
        if std::mem::replace(&mut watch.outage, outage) != outage {
            let addr = watch.flow.peer;
            self.tell(Event::Trunk { addr, outage });
        }
    }

    /// The leg's call goes to these addresses, one after the other, if it is not served where it goes now.
    pub(crate) fn note_others(&mut self, leg: LegRef, addresses: Vec<SocketAddr>) {
        let inviting = self.calls.leg(leg).and_then(|leg| leg.inviting.as_ref());
        let invite = inviting.and_then(|inviting| self.transactions.request_of(inviting.key));
        let Some(invite) = invite.map(<[u8]>::to_vec).filter(|_| !addresses.is_empty()) else {
            return;
        };
        if let Some(entry) = self.calls.leg_mut(leg) {
            let addresses = addresses.into_iter().take(MAX_OTHERS).collect();
            entry.ext.others = Some(Box::new(Others { addresses, invite }));
        }
    }

    /// RFC 3263, 4.3: "If the SIP response is a 503 or if the transaction layer reports a timeout failure, the
    /// client tries the next address, by "creating a new client transaction" with the same request but for its
    /// branch. False when there is none, or the party rang already.
    pub(crate) fn try_next(&mut self, now: Instant, leg: LegRef) -> bool {
        let Some(entry) = self.calls.leg_mut(leg) else { return false };
        let has_rung = !entry.ext.early.is_empty();
        let Some(others) = entry.ext.others.as_mut().filter(|_| !has_rung) else { return false };
        if entry.phase != Phase::Outgoing || others.addresses.is_empty() {
            return false;
        }
        let peer = others.addresses.remove(0);
        let (invite, number) = (others.invite.clone(), entry.who);
        let offered = entry.inviting.as_ref().is_some_and(|inviting| inviting.offered);
        let pair = entry.pair;
        let flow =
            Flow { peer, ..Flow::of(entry.flow.location, entry.flow.channel.transport, peer) };
        let trunk = self.trunk_called(flow);
        let uri = crate::commands::uri_at(number.as_str(), flow);
        let uri = self.uri_of_scheme(leg, Party::Trunk(trunk), uri);
        let branch = self.fresh_branch();
        let via = self.via(flow, &branch);
        let change = Change { uri: Some(&uri), via: &via, interval_s: None, body: None };
        let Some(bytes) = changed(&invite, &change) else { return false };
        let key = self.send_request(now, Method::Invite, bytes, &branch, flow, leg);
        let (Some(key), Some(entry)) = (key, self.calls.leg_mut(leg)) else { return false };
        entry.inviting = Some(Inviting { key, offered, renews: false });
        (entry.flow, entry.party) = (flow, Party::Trunk(trunk));
        if let Some(pair) = pair {
            self.streams.expect_host(pair, peer.ip());
        }
        self.note_call(leg.call);
        true
    }
}

//! A new incarnation goes on with the calls of its predecessor.
//!
//! ```text
//!                     at the peers before the death           what a new incarnation does
//!  call not answered  caller: INVITE without final answer     500, again until its ACK
//!                     callee: INVITE of ours                  the same INVITE again, then CANCEL; BYE if
//!                                                             it answered meanwhile
//!  2xx without ACK    caller may have it or not               500, and BYE; BYE to the callee
//!  call answered      dialogs stand                           goes on
//!   re-INVITE open    one leg waits, the other was asked      500 to the one; a late 2xx of the other
//!                                                             gets its ACK; the session stays as it was
//!   no place for it   dialog too long for its row, port or    BYE to all legs that can be told
//!                     address gone, lease word lost
//!   transfer open     its REFER has had its 202               forgotten: who talked goes on, the new
//!                                                             party's INVITE again, then CANCEL
//!   transfer done     who asked for it has not hung up yet    BYE to that one
//!  leg leaving        BYE or CANCEL sent, not answered        again, a BYE with the next CSeq
//! ```
//!
//! What one turn of a worker has decided is written before its messages go out, rows of calls and legs
//! first, those of dialogs last. A death between the two leaves a call that is answered with a dialog
//! that is not: nobody heard of the answer yet, and the call ends as one that is not answered.

use std::collections::HashMap;
use std::net::SocketAddr;

use abi::{
    CallRow, CallState, Counter, DialogPhase, DialogRow, DialogText, EndedBy, LeaseState, LegRow,
    LegState, Party, Region, Share, StreamRow,
};
use base::{AgentSlot, CallRef, Instant, LocationId, Medium, Transport};
use media::codec::Codec;
use media::srtp::Progress;
use media::{BindOutcome, PairId, StreamImage, WhyNot};
use sip::transaction::Received;
use sip::wire::{self, Message, Method, RequestWriter};

use crate::bypass::Way;
use crate::call::{Bridge, Call, Flow, Invited, Inviting, Lease, Leg, LegRef, Phase, Times};
use crate::intake::parse_tag;
use crate::refusal::Refusal;
use crate::remember::{dialog_of, extensions_of, image_of, joined_of, lease_of, values};
use crate::sips::is_sips;
use crate::summon::Summons;
use crate::worker::Worker;
use crate::{Config, Location};

/// The cause of a call that its data plane took along (RFC 3261, 21.5.1).
const LOST_WITH_DATA_PLANE: u16 = 500;
/// When a session that could not be changed may be tried to be changed again, in seconds.
const TRY_AGAIN_S: &[u8] = b"1";

/// What an earlier incarnation left.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// Answered calls that go on.
    pub calls: u32,
    /// Answered calls that cannot, and end.
    pub lost: u32,
    /// Calls that were not answered, and end.
    pub unanswered: u32,
    /// Leases of nobody, now free.
    pub leases_freed: u32,
}

/// How many legs hold a lease, and how many of them are the agent's own calls, by its agent and counter.
type Held = HashMap<(AgentSlot, u32), (u16, u16)>;

/// A leg as the region remembers it.
struct Memory {
    place: u32,
    leg: LegRow,
    dialog: DialogRow,
}

/// True for a dialog of sips URIs.
fn is_secure(row: &DialogRow) -> bool {
    is_sips(row.text(DialogText::LocalUri)) || is_sips(row.text(DialogText::RemoteTarget))
}

/// Judges in the region what an earlier incarnation of this data plane left: calls that go on stay
/// answered, all others are over; lease words that no living leg holds are free. Runs once, before the
/// first worker is made.
pub fn recover(region: &Region, config: &Config, now: Instant) -> Recovery {
    let mut legs: HashMap<u32, Vec<Memory>> = HashMap::new();
    for (place, leg) in region.legs().iter() {
        if leg.state() == LegState::Free {
            continue;
        }
        if region.calls().find(leg.call()).is_none() {
            region.legs().write(place, &LegRow::default());
            continue;
        }
        let dialog = region.dialogs().read(place).filter(|row| is_of(row, &leg));
        let dialog = dialog.unwrap_or_default();
        legs.entry(leg.call_slot).or_default().push(Memory { place, leg, dialog });
    }
    let mut found = Recovery::default();
    let mut held = Held::new();
    for (slot, row) in region.calls().iter() {
        let legs = legs.remove(&slot).unwrap_or_default();
        if row.state() != CallState::Free {
            judge(region, config, now, (slot, row), &legs, &mut found);
            for lease in legs.iter().filter_map(|leg| lease_of(&leg.dialog)) {
                let (legs, own) = held.entry((lease.agent, lease.counter)).or_default();
                (*legs, *own) = (*legs + 1, *own + u16::from(lease.kind == Share::Own));
            }
        }
    }
    found.leases_freed = free_leases(region, config, &held);
    found
}

/// Whether a call goes on, in its rows and in the sums.
fn judge(
    region: &Region,
    config: &Config,
    now: Instant,
    (slot, mut row): (u32, CallRow),
    legs: &[Memory],
    found: &mut Recovery,
) {
    let call = CallRef { slot, generation: row.generation };
    match row.state() {
        CallState::Free | CallState::Ended => {}
        CallState::Answered if goes_on(region, config, &row, legs) => {
            found.calls += 1;
            return;
        }
        state => {
            let dialogs_stand = legs.iter().all(|leg| leg.dialog.phase() == DialogPhase::Standing);
            match state == CallState::Answered && dialogs_stand {
                true => {
                    found.lost += 1;
                    let owner = region.calls().owner(slot).unwrap_or_default();
                    region.counters().add(owner, Counter::CallsNotRecovered, 1);
                }
                false => found.unanswered += 1,
            }
            row.state = CallState::Ended.into();
            row.cause = u32::from(LOST_WITH_DATA_PLANE);
            row.ended_by = EndedBy::DataPlane.into();
            row.ended_at = now.as_nanos();
            region.calls().write(slot, &row);
        }
    }
    let is_over = legs.iter().all(|leg| leg.dialog.phase() == DialogPhase::None);
    for memory in legs {
        let row = match is_over && region.calls().is_acknowledged(call) {
            true => LegRow::default(),
            false => LegRow { state: LegState::Ended.into(), ..memory.leg },
        };
        region.legs().write(memory.place, &row);
    }
}

/// True when all that an answered call needs is there and as it was.
fn goes_on(region: &Region, config: &Config, row: &CallRow, legs: &[Memory]) -> bool {
    let is_whole = |memory: &Memory| {
        let dialog = &memory.dialog;
        let at = config.locations.get(dialog.location as usize);
        let is_here = at.is_some_and(|at| is_spoken(at, dialog));
        dialog.phase() == DialogPhase::Standing
            && dialog_of(dialog).is_some()
            && is_here
            && lease_of(dialog).is_none_or(|lease| is_bound(region, lease))
    };
    // Who is invited for a transfer, or comes in the place of another, is not yet of the call.
    let stands = |memory: &&Memory| {
        let is_coming =
            matches!(memory.dialog.phase(), DialogPhase::Outgoing | DialogPhase::Incoming);
        memory.leg.state() != LegState::Ended && !is_coming
    };
    legs.len() == row.legs as usize
        && legs.iter().any(|memory| stands(&memory))
        && legs.iter().filter(stands).all(is_whole)
}

/// True when a location is still where the dialog's peer knows us.
fn is_spoken(at: &Location, dialog: &DialogRow) -> bool {
    let port = at.port(dialog.transport());
    port.is_some_and(|port| SocketAddr::new(at.ip, port) == dialog.ours.get())
}

fn is_bound(region: &Region, lease: Lease) -> bool {
    matches!(
        region.leases().read(lease.agent, Medium::Voice),
        LeaseState::Bound { holder, counter, .. } if (holder, counter) == (lease.holder, lease.counter)
    )
}

/// Frees the words that none of these leases is about, whichever CCB has them: a bound word lives with its
/// dialog, and that was ours. What another CCB has reserved is left to its two seconds; its fence names our
/// predecessor. Of the words that are held, as many legs let go in the end as have written that they hold them.
fn free_leases(region: &Region, config: &Config, held: &Held) -> u32 {
    let mut freed = 0;
    for agent in (0..region.agents().len()).map(AgentSlot) {
        for medium in [Medium::Voice, Medium::Chat] {
            let state = region.leases().read(agent, medium);
            let (Some(holder), Some(counter)) = (state.holder(), state.counter()) else {
                continue;
            };
            let is_bound = medium == Medium::Voice && matches!(state, LeaseState::Bound { .. });
            let shares = held.get(&(agent, counter)).copied().filter(|_| is_bound);
            let shares = shares.unwrap_or_default();
            if holder == config.ccb || is_bound {
                let settled = region.leases().settle(agent, medium, holder, counter, shares);
                freed += u32::from(settled && shares.0 == 0);
            }
        }
    }
    freed
}

fn is_of(dialog: &DialogRow, leg: &LegRow) -> bool {
    dialog.call() == leg.call() && dialog.leg == leg.leg
}

/// Packets that may have been made between an image and the death of its process: a second of them.
const MADE_UNSEEN: u16 = 50;

/// What was made since the image was kept is unknown, and numbers that come again would be dropped; of one key they
/// must not come again at all.
fn go_on(mut image: StreamImage) -> StreamImage {
    if let (Some(_), Some((ssrc, ..))) = (image.keys, image.sender) {
        let none = Progress { ssrc, ..Progress::default() };
        let sealed = image.sealed.get_or_insert(none);
        sealed.rtcp = Some(sealed.rtcp.map_or(0, |last| last.saturating_add(MADE_UNSEEN.into())));
    }
    if image.spliced
        && (image.splice.is_none() || image.keys.is_some())
        && let Some((_, sequence, ..)) = &mut image.sender
    {
        *sequence = sequence.wrapping_add(MADE_UNSEEN);
    }
    image
}

impl Worker {
    /// The port pairs of calls that were taken over. Those whose packets the bypass relayed when the earlier
    /// incarnation died, and still does, are to be told by [`Worker::resume_bypass`], before the first
    /// [`Worker::handle`]; what else the bypass relays belongs to nobody.
    pub fn recovered_pairs(&self) -> impl Iterator<Item = PairId> + '_ {
        let is_theirs = |(pair, leg): &(&PairId, &LegRef)| {
            self.calls.leg(**leg).is_some_and(|entry| entry.pair == Some(**pair))
        };
        self.recovered.iter().filter(is_theirs).map(|(pair, _)| *pair)
    }

    /// The bypass has relayed the packets of a recovered pair all the while, and its counts go on from where
    /// they were. False when the pair's stream was not in the bypass, as far as the region knows: then the
    /// flow is to be removed from it.
    pub fn resume_bypass(&mut self, pair: PairId) -> bool {
        let image = self.streams.image(pair);
        let is_ours = self.recovered.contains_key(&pair) && image.bypassed;
        if is_ours {
            self.ways[pair.index()] = Way::Bypassed(self.streams.starts(pair));
        }
        is_ours
    }

    /// Makes again the calls of this worker that [`recover`] left answered, and those that are over but
    /// whose peers do not know.
    pub(crate) fn take_over_calls(&mut self, now: Instant) {
        let region = self.region.clone();
        let mut calls = Vec::new();
        for slot in region.calls().range(self.config.id) {
            let Some(row) = region.calls().read(slot) else { continue };
            if !matches!(row.state(), CallState::Answered | CallState::Ended) {
                continue;
            }
            let memories: Vec<Memory> = self
                .leg_rows
                .places(slot)
                .iter()
                .filter_map(|at| remembered(&region, *at))
                .collect();
            let is_over = row.state() == CallState::Ended
                && memories.iter().all(|leg| leg.dialog.phase() == DialogPhase::None);
            if !is_over {
                calls.push(self.call_of(now, slot, &row, &memories));
            }
        }
        let names: Vec<CallRef> = calls.iter().map(|call| call.id).collect();
        self.calls.restore(calls);
        for call in names {
            self.go_on(now, call);
        }
    }

    /// A call as its rows say.
    fn call_of(&mut self, now: Instant, slot: u32, row: &CallRow, memories: &[Memory]) -> Call {
        let id = CallRef { slot, generation: row.generation };
        let mut bridges: Vec<(u32, u8)> = memories
            .iter()
            .filter(|memory| memory.leg.bridge != u32::MAX)
            .map(|memory| (memory.leg.bridge, memory.leg.leg as u8))
            .collect();
        bridges.sort_unstable();
        let joined = |two: &&[(u32, u8)]| two[0].0 == two[1].0;
        let bridges = bridges.windows(2).filter(joined);
        let bridges = bridges.map(|two| Bridge { a: two[0].1, b: two[1].1 }).collect();
        let legs = (0..row.legs)
            .map(|number| {
                let leg = LegRef { call: id, leg: number as u8 };
                let memory = memories.iter().find(|memory| memory.leg.leg == number);
                self.leg_of_memory(now, leg, memory)
            })
            .collect();
        Call {
            id,
            serial: row.serial,
            tenant: row.tenant(),
            state: row.state(),
            cause: row.cause as u16,
            started_at: Instant::from_nanos(row.started_at),
            answered_at: Instant::from_nanos(row.answered_at),
            ended_at: Instant::from_nanos(row.ended_at),
            ended_by: (row.ended_by(), row.ended_leg as u8),
            legs,
            bridges,
            asked: None,
            called: row.called(),
            transfer: None,
            forwards: 0,
            hunt: None,
            failing: None,
            diverted: None,
            dialling: None,
            summons: Summons::of(row),
            reasons: Vec::new(),
            sips: memories.iter().any(|memory| is_secure(&memory.dialog)),
        }
    }

    fn leg_of_memory(&mut self, now: Instant, at: LegRef, memory: Option<&Memory>) -> Leg {
        let nowhere = SocketAddr::from(([0, 0, 0, 0], 0));
        let Some(Memory { leg, dialog: row, .. }) = memory else {
            let flow = Flow::of(LocationId(0), Transport::Udp, nowhere);
            let party = Party::Trunk(u32::MAX);
            return Leg::new(at.leg, party, Default::default(), flow, Phase::Gone);
        };
        let party = leg.party().unwrap_or(Party::Trunk(u32::MAX));
        let ours = self.config.locations.get(usize::from(row.location));
        let is_here = ours.is_some_and(|at| is_spoken(at, row));
        let location = if is_here { LocationId(row.location as u8) } else { LocationId(0) };
        let flow = Flow::of(location, row.transport(), row.peer.get());
        let mut entry = Leg::new(at.leg, party, leg.number(), flow, Phase::Gone);
        let lease = lease_of(row).filter(|lease| is_bound(&self.region, *lease));
        entry.lease = lease;
        self.leases_held += u64::from(entry.lease.is_some());
        entry.joined = joined_of(row);
        entry.sips = is_secure(row);
        entry.sdp_version = row.sdp_version;
        entry.ext = extensions_of(row);
        entry.call_id = match row.text(DialogText::CallId) {
            [] => leg.call_id().as_bytes().into(),
            call_id => call_id.into(),
        };
        entry.times = Times {
            started_at: Instant::from_nanos(leg.started_at),
            answered_at: Instant::from_nanos(leg.answered_at),
            ended_at: Instant::from_nanos(leg.ended_at),
        };
        entry.codec = leg.codec();
        entry.local_tag = String::from_utf8_lossy(row.text(DialogText::LocalTag)).into();
        // From another address than ours of then nothing could be said to the peer.
        if is_here && row.phase() != DialogPhase::None {
            self.take_up(now, at, row, &mut entry);
        }
        entry
    }

    /// Takes up the dialog of a leg, and the INVITE that has no answer or no ACK.
    fn take_up(&mut self, now: Instant, at: LegRef, row: &DialogRow, entry: &mut Leg) {
        if row.has(DialogRow::INVITING) {
            entry.inviting = self.invite_again(now, at, row, entry.flow);
        } else {
            entry.dialog = dialog_of(row);
        }
        if entry.inviting.is_none() && entry.dialog.is_none() {
            return;
        }
        entry.phase = match row.phase() {
            DialogPhase::None => Phase::Gone,
            DialogPhase::Incoming => Phase::Incoming,
            DialogPhase::Outgoing => Phase::Outgoing,
            DialogPhase::Accepted | DialogPhase::Standing => Phase::Established,
            DialogPhase::Leaving => Phase::Leaving,
        };
        if entry.inviting.is_some() {
            return;
        }
        let is_first = row.phase() != DialogPhase::Standing;
        if !row.text(DialogText::Vias).is_empty() {
            entry.invited = self.invited_again(now, at, row, is_first);
        }
    }

    /// Sends an INVITE of ours again, from which the peer sees no second one: Call-ID, CSeq and branch are
    /// the same.
    fn invite_again(
        &mut self,
        now: Instant,
        at: LegRef,
        row: &DialogRow,
        flow: Flow,
    ) -> Option<Inviting> {
        let text = |which| row.text(which);
        let from = [b"<", text(DialogText::LocalUri), b">;tag=", text(DialogText::LocalTag)];
        let bytes = invite(row, text(DialogText::RemoteTarget))
            .header("From", from.concat())
            .header("To", [b"<", text(DialogText::RemoteUri), b">"].concat())
            .header("CSeq", format!("{} INVITE", row.local_cseq))
            .header("Contact", self.contact(at, flow))
            .finish(None);
        let branch = wire::lex(&bytes).ok()?.via().ok()?.branch?.to_vec();
        let word = at.to_word();
        let key = self
            .transactions
            .request(now, Method::Invite, bytes, &branch, flow, word, &mut self.sent)
            .ok()?;
        Some(Inviting { key, offered: true, renews: false })
    }

    /// The transaction of a peer's INVITE, so that it can be refused.
    fn invited_again(
        &mut self,
        now: Instant,
        at: LegRef,
        row: &DialogRow,
        is_first: bool,
    ) -> Option<Invited> {
        let text = |which| row.text(which);
        let tagged = |uri: &[u8], tag: &[u8]| match tag {
            [] => [b"<", uri, b">"].concat(),
            tag => [b"<", uri, b">;tag=", tag].concat(),
        };
        // The first INVITE had no tag of ours, and gets it with the answer.
        let our_tag = if is_first { &[][..] } else { text(DialogText::LocalTag) };
        let bytes = invite(row, text(DialogText::LocalUri))
            .header("From", tagged(text(DialogText::RemoteUri), text(DialogText::RemoteTag)))
            .header("To", tagged(text(DialogText::LocalUri), our_tag))
            .header("CSeq", format!("{} INVITE", row.invited_cseq))
            .finish(None);
        let message = wire::lex(&bytes).ok()?;
        let from = row.source.get();
        let peer = message.via().ok()?.response_address(from);
        let flow = Flow::of(LocationId(row.location as u8), row.transport(), peer);
        let received = self.transactions.receive(now, &message, flow, &mut self.sent);
        let Received::Request(key) = received else { return None };
        self.transactions.set_user(key, at.to_word());
        Some(Invited { key, bytes: bytes.as_slice().into(), from })
    }

    /// Lets a call that stands go on, and parts from the peers of one that is over.
    fn go_on(&mut self, now: Instant, call: CallRef) {
        let Some(entry) = self.calls.find(call) else { return };
        let legs: Vec<LegRef> =
            (0..entry.legs.len()).map(|leg| LegRef { call, leg: leg as u8 }).collect();
        let stands = entry.state == CallState::Answered;
        let refusal = Refusal::status(LOST_WITH_DATA_PLANE).with("Retry-After", TRY_AGAIN_S);
        let mut is_whole = true;
        for leg in legs {
            self.answer_no(now, leg, &refusal);
            let phase = self.calls.leg(leg).map(|leg| leg.phase);
            match phase {
                Some(Phase::Leaving) => self.leave_again(now, leg, &refusal),
                Some(Phase::Incoming) if stands => self.leg_gone(leg),
                Some(Phase::Outgoing) if stands => self.part_leg(now, leg, &refusal),
                Some(Phase::Established) if stands && self.is_spare(leg) => {
                    self.part_leg(now, leg, &refusal);
                }
                Some(Phase::Established) if stands => {
                    is_whole &= self.is_joined_back(leg) && self.adopt_media(now, leg);
                    self.resume_session(now, leg);
                }
                _ => {}
            }
        }
        if !stands {
            return self.end_call(now, call, &refusal);
        }
        let lives = |leg: &Leg| leg.phase == Phase::Established;
        is_whole &= self.calls.find(call).is_some_and(|entry| entry.legs.iter().any(lives));
        if !is_whole {
            return self.lose_call(now, call);
        }
        self.count(Counter::CallsRecovered);
        self.note_call(call);
    }

    /// True for who gave its peer away and has not hung up.
    fn is_spare(&self, leg: LegRef) -> bool {
        let legs = self.calls.find(leg.call).map_or(0, |call| call.legs.len());
        let peer = self.peer_of(leg).and_then(|peer| self.calls.leg(peer));
        let talks = peer.is_some_and(|peer| !matches!(peer.phase, Phase::Leaving | Phase::Gone));
        let stands_alone = |leg: &Leg| leg.joined.is_some() || leg.ext.answered_here;
        legs > 1 && !self.calls.leg(leg).is_some_and(stands_alone) && !talks
    }

    /// False when a leg is joined to one of another call that does not go on.
    fn is_joined_back(&self, leg: LegRef) -> bool {
        let Some(joined) = self.calls.leg(leg).and_then(|leg| leg.joined) else {
            return true;
        };
        let stands = |call: &Call| call.state == CallState::Answered;
        self.calls.find(joined.call).is_some_and(stands)
            && self
                .calls
                .leg(joined)
                .is_some_and(|other| other.joined == Some(leg) && other.phase == Phase::Established)
    }

    /// The peer was told that we leave, and may not have heard it.
    fn leave_again(&mut self, now: Instant, leg: LegRef, refusal: &Refusal) {
        if let Some(entry) = self.calls.leg_mut(leg) {
            entry.phase = match &entry.dialog {
                Some(_) => Phase::Established,
                None => Phase::Outgoing,
            };
        }
        self.part_leg(now, leg, refusal);
    }

    /// An answered call cannot go on.
    fn lose_call(&mut self, now: Instant, call: CallRef) {
        self.count(Counter::CallsNotRecovered);
        self.end_call(now, call, &Refusal::status(LOST_WITH_DATA_PLANE));
    }

    /// Takes the port that the peer knows, and the stream behind it; false when that cannot be.
    fn adopt_media(&mut self, now: Instant, leg: LegRef) -> bool {
        let Some(place) = self.leg_rows.row(leg) else { return false };
        let row = self.region.streams().read(place).filter(|row| row.call() == leg.call);
        let Some(row) = row.filter(|row| row.leg == u32::from(leg.leg)) else { return false };
        if row.port == 0 {
            return true;
        }
        let Some(entry) = self.calls.leg_mut(leg) else { return false };
        let port = row.port as u16;
        let Some(pair) = self.ports.adopt(entry.flow.location, port) else { return false };
        entry.pair = Some(pair);
        entry.alive = (now, row.packets);
        entry.held = row.flags & StreamRow::HELD != 0;
        entry.mux = row.flags & StreamRow::MUXED != 0;
        let takes = Some(row.takes as u8).filter(|_| row.flags & StreamRow::TAKES != 0);
        entry.takes = takes.and_then(Codec::of_payload_type);
        self.legs_at[pair.index()] = Some(leg);
        self.ways[pair.index()] = Way::Process(WhyNot::Learning);
        let mut image = image_of(&row);
        self.recall_keys(place, leg, &mut image);
        self.streams.restore(pair, &go_on(image));
        self.recovered.insert(pair, leg);
        true
    }

    /// The operating system's answer to a bind. Streams of a call that was taken over are joined when both
    /// of its pairs are there: what one sends goes out of the other's socket.
    pub(crate) fn on_bound(&mut self, now: Instant, pair: PairId, ok: bool) {
        let outcome = self.ports.bound(pair, ok, now);
        let leg = self.recovered.get(&pair).copied();
        let Some(leg) = leg.filter(|_| outcome != BindOutcome::Nothing) else { return };
        if self.calls.leg(leg).is_none_or(|entry| entry.pair != Some(pair)) {
            return;
        }
        if outcome == BindOutcome::Lost {
            return self.lose_call(now, leg.call);
        }
        if !self.is_bypassed(pair) {
            // The bypass went with the earlier incarnation; packets come here from now on.
            self.streams.bypassed(pair, false);
        }
        let Some(peer) = self.peer_of(leg) else { return };
        let there = self.calls.leg(peer).and_then(|peer| peer.pair);
        if there.is_some_and(|pair| self.ports.is_bound(pair)) {
            self.join_media(leg, peer);
        }
    }

    /// An answer to no request that is known. A 2xx that comes again to an INVITE of an earlier incarnation
    /// wants its ACK again (RFC 3261, 13.2.2.4).
    pub(crate) fn on_stray_answer(&mut self, message: &Message<'_>) {
        let leg = self.leg_answering(message);
        let Some((leg, cseq)) = leg else {
            return self.count(Counter::DropSipNoTransaction);
        };
        self.send_ack_for(leg, cseq, None);
    }

    fn leg_answering(&self, message: &Message<'_>) -> Option<(LegRef, u32)> {
        let (from, cseq) = (message.from().ok()?, message.cseq().ok()?);
        let is_answer = matches!(message.status(), Some(200..300)) && cseq.method == Method::Invite;
        let leg = parse_tag(from.tag()?).filter(|_| is_answer)?;
        let entry = self.calls.leg(leg)?;
        let dialog = entry.dialog.as_ref().filter(|dialog| dialog.matches(message))?;
        let is_old = dialog.local_cseq().is_some_and(|last| cseq.number <= last);
        (is_old && entry.owes_ack.is_none()).then_some((leg, cseq.number))
    }
}

/// The beginning of an INVITE as it was: its Vias and its Call-ID.
fn invite(row: &DialogRow, uri: &[u8]) -> RequestWriter {
    let mut writer = RequestWriter::new(b"INVITE", uri);
    for via in values(row.text(DialogText::Vias)) {
        writer = writer.header("Via", via);
    }
    writer.header("Max-Forwards", "70").header("Call-ID", row.text(DialogText::CallId))
}

fn remembered(region: &Region, place: u32) -> Option<Memory> {
    let leg = region.legs().read(place)?;
    let dialog = region.dialogs().read(place).filter(|row| is_of(row, &leg)).unwrap_or_default();
    Some(Memory { place, leg, dialog })
}

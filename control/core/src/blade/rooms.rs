//! Rooms: calls that somebody else is brought into, a supervisor who listens or a participant of a conference.
//!
//! ```text
//!   the call:   A ---- B          A and B leave their bridge for the mix when the first guest has answered
//!                \    /
//!                 mix ---- S      each guest is a call of one leg, which this blade makes; whoever's agent it is
//! ```
//! A room belongs to the blade that has the call, and every guest is hosted by that blade, one by one (S2-019, S2-020).
//! Whom a supervisor listens to keeps the lease that there is (G-25): nothing is asked of it. In a supervision the two
//! legs stay bridged for SIP, and go back to their bridge when nobody listens any more; in a conference each stands for
//! itself. The rows of calls say who belongs together, so a control process that comes back goes on.

use std::collections::{BTreeMap, BTreeSet};

use abi::{
    CallState, Command, GuestKind, LegRow, LegState, MediaOrder, MixRole, OpResult, Party, Region,
};
use base::{CallRef, CcbId, Instant, Medium, TenantId, WorkerId};

use super::Blade;
use super::commands::done;
use super::side::{Purpose, Side};
use crate::calls::Call;
use crate::cluster::Denial;
use crate::desk::{DeskRefusal, Supervision};
use crate::message::{OpOutcome, Order, Output};
use crate::routes::{self, Destination, MIXES, Service};

/// How long the phone of a guest may ring, in seconds.
const RING_S: u32 = 45;

/// All rooms of a blade.
#[derive(Debug, Default)]
pub(super) struct Rooms {
    /// By CCB and mix.
    rooms: BTreeMap<(CcbId, u32), Room>,
    /// Which room a guest's call is of.
    by_call: BTreeMap<(CcbId, CallRef), u32>,
    next_guest: u64,
    /// Orders of desks that other blades carried here: the reply that the core knows, and the bus's question.
    pub(super) carried: BTreeMap<u64, u64>,
    pub(super) next_carried: u64,
}

/// A call and who is brought into it.
#[derive(Debug)]
struct Room {
    tenant: TenantId,
    host: CallRef,
    /// The leg of who organises a conference; none while it is none.
    organiser: Option<u8>,
    /// Legs that are in the mix, or ordered to be.
    in_mix: BTreeSet<(CallRef, u8)>,
    /// The data plane that was told.
    incarnation: u64,
    guests: BTreeMap<u64, Guest>,
}

/// Who is brought into a room.
#[derive(Debug)]
struct Guest {
    number: String,
    /// The number that their phone is shown.
    shown: String,
    kind: GuestKind,
    /// Whom a supervisor listens to.
    to: (CallRef, u8),
    op: u64,
    call: Option<CallRef>,
    is_in: bool,
    /// Who waits for the answer.
    reply: Option<u64>,
    denial: Option<Denial>,
}

/// Somebody who is to be brought into a call.
#[derive(Debug)]
pub(super) struct Bring {
    pub(super) number: String,
    pub(super) shown: String,
    pub(super) kind: GuestKind,
    pub(super) reply: u64,
}

impl Blade {
    /// Brings somebody into the call `at`, in the name of that leg's party. It ends with exactly one
    /// [`Output::Done`].
    pub(super) fn bring(
        &mut self,
        now: Instant,
        at: (CcbId, CallRef, u8),
        bring: Bring,
        out: &mut Vec<Output>,
    ) {
        let reply = bring.reply;
        if let Err(no) = self.try_bring(now, at, bring, out) {
            done(reply, OpOutcome::No(no), out);
        }
    }

    fn try_bring(
        &mut self,
        now: Instant,
        (ccb, call, leg): (CcbId, CallRef, u8),
        bring: Bring,
        out: &mut Vec<Output>,
    ) -> Result<(), DeskRefusal> {
        let Bring { number, shown, kind, reply } = bring;
        let is_participant = kind == GuestKind::Participant;
        let side = self.sides.get(&ccb).filter(|side| side.link).ok_or(DeskRefusal::Away)?;
        let known = side.calls.find(call).ok_or(DeskRefusal::NoCall)?;
        let tenant = known.row.tenant();
        let region = side.region().ok_or(DeskRefusal::Away)?;
        let worker = region.calls().owner(call.slot).ok_or(DeskRefusal::NoCall)?;
        let of = known.legs.iter().find(|(_, row)| row.leg == u32::from(leg));
        let party = of.and_then(|(_, row)| row.party()).ok_or(DeskRefusal::NoCall)?;
        let room = self.room_at(ccb, call).and_then(|mix| self.rooms.rooms.get(&(ccb, mix)));
        // A participant may be heard as who organises.
        let host = room.map_or(call, |room| room.host);
        let legs = legs_of(side, &region, host);
        if legs.len() < 2 && room.is_none() {
            return Err(DeskRefusal::NoCall);
        }
        if legs.iter().any(|(_, row)| row.number().as_str() == number) {
            return Err(DeskRefusal::AlreadyIn);
        }
        let mix = match self.room_at(ccb, call) {
            Some(mix) => mix,
            None => self.free_mix(ccb, tenant).ok_or(DeskRefusal::Full)?,
        };
        let room = self.rooms.rooms.get(&(ccb, mix));
        let guest = room.and_then(|room| room.guests.iter().find(|it| it.1.number == number));
        match guest.map(|(id, guest)| (*id, guest.kind)) {
            None => {}
            Some((id, was)) if was != GuestKind::Participant && !is_participant => {
                return self.change_part(now, (ccb, mix), id, (kind, (call, leg), reply), out);
            }
            Some(_) => return Err(DeskRefusal::AlreadyIn),
        }
        // A supervisor is an agent; a participant may be called by the routes that the organiser's calls take.
        let (purpose, by) = match is_participant {
            true => (abi::Purpose::Conference, party),
            false => (abi::Purpose::Monitor, Party::Trunk(u32::MAX)),
        };
        let incarnation = region.header().data_plane().incarnation;
        let id = self.rooms.next_guest;
        self.rooms.next_guest += 1;
        let side = self.sides.get_mut(&ccb).ok_or(DeskRefusal::Away)?;
        let blob = format!("{number}\n{shown}");
        let ring_s = RING_S;
        let (guest, to, to_leg) = (kind, call, leg);
        let command =
            |op| Command::Summon { op, tenant, by, purpose, mix, guest, to, to_leg, ring_s };
        let for_what = Purpose::Summon { mix, guest: id };
        let op = side.send_op(now, worker, for_what, blob.as_bytes(), command, out);
        let room = self.rooms.rooms.entry((ccb, mix)).or_insert_with(|| Room {
            tenant,
            host,
            organiser: None,
            in_mix: BTreeSet::new(),
            incarnation,
            guests: BTreeMap::new(),
        });
        if is_participant {
            room.organiser = Some(leg);
        }
        let (reply, to) = (Some(reply), (call, leg));
        let guest =
            Guest { number, shown, kind, to, op, call: None, is_in: false, reply, denial: None };
        room.guests.insert(id, guest);
        Ok(())
    }

    /// A supervisor hears the call in another way from now on.
    fn change_part(
        &mut self,
        now: Instant,
        (ccb, mix): (CcbId, u32),
        id: u64,
        (kind, to, reply): (GuestKind, (CallRef, u8), u64),
        out: &mut Vec<Output>,
    ) -> Result<(), DeskRefusal> {
        let side = self.sides.get_mut(&ccb).ok_or(DeskRefusal::Away)?;
        let region = side.region().ok_or(DeskRefusal::Away)?;
        let room = self.rooms.rooms.get_mut(&(ccb, mix)).ok_or(DeskRefusal::NoCall)?;
        let host = room.host;
        let guest = room.guests.get_mut(&id).ok_or(DeskRefusal::NoCall)?;
        let (call, true) = (guest.call.ok_or(DeskRefusal::NotNow)?, guest.is_in) else {
            return Err(DeskRefusal::NotNow);
        };
        let worker = region.calls().owner(call.slot).ok_or(DeskRefusal::NoCall)?;
        (guest.kind, guest.to) = (kind, to);
        let order = part_of(guest, mix);
        let number = guest.number.clone();
        let purpose = Purpose::Desk { reply, no: DeskRefusal::NotNow };
        let command = |op| Command::Media { op, call, leg: 0, order };
        side.send(now, worker, purpose, &[], command, out);
        let serial = side.calls.find(host).map_or(0, |call| call.row.serial);
        out.push(Output::Attends { ccb, serial, number, how: how_of(kind) });
        Ok(())
    }

    /// The room that a call has a part in.
    pub(super) fn room_at(&self, ccb: CcbId, call: CallRef) -> Option<u32> {
        if let Some(mix) = self.rooms.by_call.get(&(ccb, call)) {
            return Some(*mix);
        }
        let is_it =
            |room: &Room| room.host == call || room.in_mix.iter().any(|(of, _)| *of == call);
        let rooms = self.rooms.rooms.range((ccb, 0)..=(ccb, u32::MAX));
        rooms.filter(|(_, room)| is_it(room)).map(|((_, mix), _)| *mix).next()
    }

    /// The leg of who organises the conference that a call is.
    pub(super) fn organiser_of(&self, ccb: CcbId, call: CallRef) -> Option<(CallRef, u8)> {
        let room = self.rooms.rooms.get(&(ccb, self.room_at(ccb, call)?))?;
        Some((room.host, room.organiser?))
    }

    /// What the phone of a guest is shown.
    pub(super) fn guest_shown(&self, ccb: CcbId, call: CallRef) -> Option<String> {
        self.guest_at(ccb, call).map(|guest| guest.shown.clone())
    }

    /// What the word of a guest is won for.
    pub(super) fn summons_purpose(&self, ccb: CcbId, call: CallRef) -> abi::Purpose {
        match self.guest_at(ccb, call).map(|guest| guest.kind) {
            Some(GuestKind::Participant) | None => abi::Purpose::Conference,
            Some(_) => abi::Purpose::Monitor,
        }
    }

    /// An agent's home does not give a guest.
    pub(super) fn note_denial(&mut self, ccb: CcbId, call: CallRef, denial: Option<&Denial>) {
        let mix = self.rooms.by_call.get(&(ccb, call)).copied();
        let room = mix.and_then(|mix| self.rooms.rooms.get_mut(&(ccb, mix)));
        let guest = room.and_then(|it| it.guests.values_mut().find(|it| it.call == Some(call)));
        if let Some(guest) = guest {
            guest.denial = Some(denial.cloned().unwrap_or(Denial::OwnerAway));
        }
    }

    fn guest_at(&self, ccb: CcbId, call: CallRef) -> Option<&Guest> {
        let mix = self.rooms.by_call.get(&(ccb, call))?;
        let room = self.rooms.rooms.get(&(ccb, *mix))?;
        room.guests.values().find(|guest| guest.call == Some(call))
    }

    /// True for an order of a mix that is a room's.
    pub(super) fn is_of_room(&self, side: &Side, order: &Order) -> bool {
        let MediaOrder::Mix { mix, .. } = order.what else { return false };
        let tenant = side.calls.find(order.call).map(|call| call.row.tenant());
        let mix = tenant.and_then(|tenant| routes::mix_number(tenant, mix));
        mix.is_some_and(|mix| self.rooms.rooms.contains_key(&(order.ccb, mix)))
    }

    /// A mix of the tenant that nobody uses; routes and administrators count from 1.
    fn free_mix(&self, ccb: CcbId, tenant: TenantId) -> Option<u32> {
        let routed = |number: u32| {
            let is_it = |route: &routes::Route| matches!(route.to, Destination::Service(Service::Mix(mix)) if mix == number);
            self.provision.routes.iter().any(|it| it.tenant == tenant && is_it(it))
        };
        let side = self.sides.get(&ccb)?;
        let used: BTreeSet<u32> = side.mixes.values().copied().collect();
        (1..=MIXES).rev().filter(|number| !routed(*number)).find_map(|number| {
            let mix = routes::mix_number(tenant, number)?;
            let is_free = !used.contains(&mix) && !self.rooms.rooms.contains_key(&(ccb, mix));
            is_free.then_some(mix)
        })
    }

    /// The call of a guest, as soon as it is made.
    pub(super) fn summoned(
        &mut self,
        now: Instant,
        ccb: CcbId,
        op: u64,
        call: CallRef,
        out: &mut Vec<Output>,
    ) {
        let mut rooms = self.rooms.rooms.range_mut((ccb, 0)..=(ccb, u32::MAX));
        let found = rooms.find_map(|((_, mix), room)| {
            let guest = room.guests.values_mut().find(|guest| guest.op == op && !guest.is_in)?;
            Some((*mix, guest))
        });
        match found {
            Some((mix, guest)) => {
                guest.call = Some(call);
                self.rooms.by_call.insert((ccb, call), mix);
            }
            // The room is over already.
            None => self.release_quietly(now, ccb, call, out),
        }
    }

    fn release_quietly(&mut self, now: Instant, ccb: CcbId, call: CallRef, out: &mut Vec<Output>) {
        let side = self.sides.get_mut(&ccb).filter(|side| side.link);
        let owner = side.and_then(|side| Some((side.region()?.calls().owner(call.slot)?, side)));
        if let Some((worker, side)) = owner {
            let command = |op| Command::Release { op, call, cause: 0 };
            side.send(now, worker, Purpose::Answer, &[], command, out);
        }
    }

    /// A guest has answered, or will not come.
    pub(super) fn guest_done(
        &mut self,
        now: Instant,
        (ccb, mix): (CcbId, u32),
        id: u64,
        result: OpResult,
        out: &mut Vec<Output>,
    ) {
        let Some(room) = self.rooms.rooms.get_mut(&(ccb, mix)) else { return };
        let (tenant, host) = (room.tenant, room.host);
        let Some(guest) = room.guests.get_mut(&id) else { return };
        let reply = guest.reply.take();
        if result == OpResult::Ok {
            guest.is_in = true;
            let (number, kind) = (guest.number.clone(), guest.kind);
            let calls = self.sides.get(&ccb).map(|side| &side.calls);
            let serial = calls.and_then(|calls| calls.find(host)).map_or(0, |it| it.row.serial);
            out.push(Output::Attends { ccb, serial, number, how: how_of(kind) });
            if let Some(reply) = reply {
                done(reply, OpOutcome::Done(OpResult::Ok), out);
            }
        } else if let Some(guest) = room.guests.remove(&id) {
            if let Some(call) = guest.call {
                self.rooms.by_call.remove(&(ccb, call));
            }
            let no = self.why_not(tenant, &guest, result);
            if let Some(reply) = reply {
                done(reply, OpOutcome::No(no), out);
            }
        }
        self.tend_room(now, (ccb, mix), out);
    }

    /// Why somebody could not be brought in, and by whom they are held (G-25).
    fn why_not(&self, tenant: TenantId, guest: &Guest, result: OpResult) -> DeskRefusal {
        if let Some(denial) = &guest.denial {
            return of_denial(denial);
        }
        match result {
            OpResult::NoSuchAgent => DeskRefusal::NoSuchNumber,
            OpResult::Full => DeskRefusal::Full,
            OpResult::NoAnswer => DeskRefusal::NoAnswer,
            OpResult::Denied => match self.desk_of(tenant, &guest.number) {
                None => DeskRefusal::NoSuchNumber,
                Some((ccb, slot, _)) => {
                    let region = self.sides.get(&ccb).and_then(Side::region);
                    let word = region.map(|it| it.leases().read(slot, Medium::Voice));
                    match word.and_then(|word| word.holder()) {
                        Some(holder) if holder != ccb => DeskRefusal::HeldBy(holder.0),
                        Some(_) => DeskRefusal::Busy,
                        None => DeskRefusal::NotReachable,
                    }
                }
            },
            OpResult::Declined => DeskRefusal::Declined,
            _ => DeskRefusal::NotNow,
        }
    }

    /// A call changed: it may be a room's, or a guest's.
    pub(super) fn room_changed(
        &mut self,
        now: Instant,
        ccb: CcbId,
        call: &Call,
        out: &mut Vec<Output>,
    ) {
        let is_over = call.row.state() == CallState::Ended;
        if let Some(mix) = self.rooms.by_call.get(&(ccb, call.call)).copied() {
            if is_over && let Some(room) = self.rooms.rooms.get_mut(&(ccb, mix)) {
                // Of one who did not come the completion says why.
                room.guests.retain(|_, it| !(it.is_in && it.call == Some(call.call)));
                if room.guests.values().all(|guest| guest.call != Some(call.call)) {
                    self.rooms.by_call.remove(&(ccb, call.call));
                }
            }
            return self.tend_room(now, (ccb, mix), out);
        }
        if let Some(mix) = self.room_at(ccb, call.call) {
            self.tend_room(now, (ccb, mix), out);
        }
    }

    /// Brings a room to what its calls say now.
    fn tend_room(&mut self, now: Instant, at: (CcbId, u32), out: &mut Vec<Output>) {
        let (ccb, mix) = at;
        let Some(room) = self.rooms.rooms.get_mut(&at) else { return };
        let side = self.sides.get_mut(&ccb).filter(|side| side.link);
        let Some((region, side)) = side.and_then(|side| Some((side.region()?, side))) else {
            return;
        };
        let legs = legs_of(side, &region, room.host);
        let host = room.host;
        let has_leg = |of: u8| legs.iter().any(|it| it.0 == host && it.1.leg == u32::from(of));
        let is_left = room.organiser.is_some_and(|of| !has_leg(of)) && !room.in_mix.is_empty();
        if legs.is_empty() || is_left {
            return self.end_room(now, at, out);
        }
        let came = room.guests.values().filter(|guest| guest.is_in).count();
        let participants =
            room.guests.values().filter(|it| it.is_in && it.kind == GuestKind::Participant);
        let talking = legs.len() + participants.count();
        if room.guests.len() == came {
            match room.organiser {
                // A conference is one from its first participant on.
                Some(_) if room.in_mix.is_empty() && came == 0 => {
                    self.rooms.rooms.remove(&at);
                    return;
                }
                Some(_) if talking < 2 => return self.end_room(now, at, out),
                None if came == 0 => return self.leave_room(now, at, out),
                _ => {}
            }
        }
        if came == 0 && room.in_mix.is_empty() {
            return;
        }
        let there: BTreeSet<(CallRef, u8)> =
            legs.iter().map(|(call, row)| (*call, row.leg as u8)).collect();
        room.in_mix.retain(|leg| there.contains(leg));
        for (call, leg) in there {
            if !room.in_mix.insert((call, leg)) {
                continue;
            }
            let order = match room.organiser {
                Some(of) => MediaOrder::Confer { mix, organiser: (host, of) == (call, leg) },
                None => MediaOrder::Mix { mix, role: MixRole::Participant, to: call, to_leg: leg },
            };
            let Some(worker) = region.calls().owner(call.slot) else { continue };
            let purpose = Purpose::Room { mix, call };
            let command = |op| Command::Media { op, call, leg, order };
            side.send(now, worker, purpose, &[], command, out);
        }
    }

    /// Nobody listens any more: the legs go back to their bridge.
    fn leave_room(&mut self, now: Instant, at: (CcbId, u32), out: &mut Vec<Output>) {
        let Some(room) = self.rooms.rooms.remove(&at) else { return };
        for (call, leg) in room.in_mix {
            self.order_media(now, at.0, (call, leg), MediaOrder::LeaveMix, Purpose::Answer, out);
        }
    }

    fn order_media(
        &mut self,
        now: Instant,
        ccb: CcbId,
        (call, leg): (CallRef, u8),
        order: MediaOrder,
        purpose: Purpose,
        out: &mut Vec<Output>,
    ) {
        let side = self.sides.get_mut(&ccb).filter(|side| side.link);
        let owner = side.and_then(|side| Some((side.region()?.calls().owner(call.slot)?, side)));
        if let Some((worker, side)) = owner {
            let command = |op| Command::Media { op, call, leg, order };
            side.send(now, worker, purpose, &[], command, out);
        }
    }

    /// The call is over, or its organiser left: so do all who were brought in.
    fn end_room(&mut self, now: Instant, at: (CcbId, u32), out: &mut Vec<Output>) {
        let Some(room) = self.rooms.rooms.remove(&at) else { return };
        let (ccb, _) = at;
        let mut calls: BTreeSet<CallRef> = BTreeSet::new();
        for guest in room.guests.into_values() {
            if let Some(reply) = guest.reply {
                done(reply, OpOutcome::No(DeskRefusal::NoCall), out);
            }
            if let Some(call) = guest.call {
                self.rooms.by_call.remove(&(ccb, call));
                calls.insert(call);
            }
        }
        if room.organiser.is_some() {
            calls.extend(room.in_mix.iter().map(|(call, _)| *call));
        }
        for call in calls {
            self.release_quietly(now, ccb, call, out);
        }
    }

    /// A leg cannot be mixed: the room is none.
    pub(super) fn room_failed(
        &mut self,
        now: Instant,
        at: (CcbId, u32),
        call: CallRef,
        result: OpResult,
        out: &mut Vec<Output>,
    ) {
        if result == OpResult::NoSuchCall {
            return;
        }
        let Some(room) = self.rooms.rooms.get_mut(&at) else { return };
        let service = if room.organiser.is_some() { "conference" } else { "supervision" };
        out.push(Output::ServiceFailed { ccb: at.0, call, service: service.to_owned(), result });
        if room.organiser.is_some() {
            return self.end_room(now, at, out);
        }
        let guests: Vec<CallRef> = room.guests.values().filter_map(|guest| guest.call).collect();
        for call in guests {
            self.release_quietly(now, at.0, call, out);
        }
    }

    /// Somebody leaves a conference by the organiser's order.
    pub(super) fn drop_part(
        &mut self,
        now: Instant,
        (ccb, call): (CcbId, CallRef),
        number: &str,
        reply: u64,
        out: &mut Vec<Output>,
    ) {
        let mix = self.room_at(ccb, call);
        let room = mix.and_then(|mix| self.rooms.rooms.get(&(ccb, mix)));
        let Some(room) = room else { return done(reply, OpOutcome::No(DeskRefusal::NotIn), out) };
        let is_it = |guest: &&Guest| guest.number == number && guest.kind == GuestKind::Participant;
        let guest = room.guests.values().find(is_it).and_then(|guest| guest.call);
        if let Some(call) = guest {
            return self.release(now, reply, ccb, call, out);
        }
        let side = self.sides.get(&ccb);
        let region = side.and_then(Side::region);
        let legs = side.zip(region).map(|(side, region)| legs_of(side, &region, room.host));
        let organiser = room.organiser;
        let leg = legs.into_iter().flatten().find(|(call, row)| {
            let is_organiser = *call == room.host && organiser == Some(row.leg as u8);
            !is_organiser && row.number().as_str() == number
        });
        let owner = |call: CallRef| self.sides.get(&ccb)?.region()?.calls().owner(call.slot);
        let found = leg.and_then(|(call, row)| Some((call, row.leg as u8, owner(call)?)));
        match (found, self.sides.get_mut(&ccb)) {
            (Some((call, leg, worker)), Some(side)) if !room.in_mix.is_empty() => {
                let purpose = Purpose::Desk { reply, no: DeskRefusal::NotIn };
                let command = |op| Command::Drop { op, call, leg };
                side.send(now, worker, purpose, &[], command, out);
            }
            _ => done(reply, OpOutcome::No(DeskRefusal::NotIn), out),
        }
    }

    /// What no event tells: data planes that restarted, completions that were lost, rooms of an earlier process.
    pub(super) fn tend_rooms(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.adopt_rooms(now, out);
        let all: Vec<(CcbId, u32)> = self.rooms.rooms.keys().copied().collect();
        for at in all {
            let side = self.sides.get(&at.0).filter(|side| side.link);
            let Some((side, region)) = side.and_then(|side| Some((side, side.region()?))) else {
                continue;
            };
            let Some(room) = self.rooms.rooms.get_mut(&at) else { continue };
            let lost: Vec<u64> = room
                .guests
                .iter()
                .filter(|(_, guest)| !guest.is_in && !side.is_open(guest.op))
                .map(|(id, _)| *id)
                .collect();
            let incarnation = region.header().data_plane().incarnation;
            let mut again = Vec::new();
            if std::mem::replace(&mut room.incarnation, incarnation) != incarnation {
                room.in_mix.clear();
                let here = room.guests.values().filter(|guest| guest.is_in);
                again.extend(here.filter_map(|it| Some((it.call?, part_of(it, at.1)))));
            }
            for (call, order) in again {
                self.order_media(now, at.0, (call, 0), order, Purpose::Answer, out);
            }
            for id in lost {
                self.guest_done(now, at, id, OpResult::Refused, out);
            }
            self.tend_room(now, at, out);
        }
    }

    /// Takes up rooms that an earlier control process made: their rows say who belongs together.
    fn adopt_rooms(&mut self, now: Instant, out: &mut Vec<Output>) {
        let mut alone = Vec::new();
        for (ccb, side) in self.sides.iter().filter(|(_, side)| side.link) {
            let Some(region) = side.region() else { continue };
            let incarnation = region.header().data_plane().incarnation;
            let stands = |call: &&Call| call.row.state() == CallState::Answered;
            for call in side.calls.iter().filter(stands) {
                let (guest, mix) = (call.row.guest(), call.row.mix);
                if mix == 0 || guest.is_none() && call.row.organiser().is_none() {
                    continue;
                }
                let at = (*ccb, mix);
                if guest.is_some() && self.rooms.by_call.contains_key(&(*ccb, call.call)) {
                    continue;
                }
                let is_host = |it: &&Call| it.row.mix == mix && it.row.guest().is_none();
                let host = side.calls.iter().filter(stands).find(is_host);
                let Some(host) = host else {
                    alone.push((*ccb, call.call));
                    continue;
                };
                let room = self.rooms.rooms.entry(at).or_insert_with(|| Room {
                    tenant: call.row.tenant(),
                    host: host.call,
                    organiser: host.row.organiser(),
                    in_mix: BTreeSet::new(),
                    incarnation,
                    guests: BTreeMap::new(),
                });
                if let Some(kind) = guest {
                    let guest = Guest::found(call, host, kind);
                    room.guests.insert(self.rooms.next_guest, guest);
                    self.rooms.next_guest += 1;
                    self.rooms.by_call.insert((*ccb, call.call), mix);
                }
            }
        }
        for (ccb, call) in alone {
            self.release_quietly(now, ccb, call, out);
        }
    }
}

impl Guest {
    /// One whom an earlier process brought in.
    fn found(call: &Call, host: &Call, kind: GuestKind) -> Guest {
        let number = |leg: Option<&(u32, LegRow)>| {
            leg.map_or(String::new(), |(_, row)| row.number().as_str().to_owned())
        };
        let is_agent = |leg: &&(u32, LegRow)| !matches!(leg.1.party(), Some(Party::Trunk(_)));
        let watched = host.legs.iter().rev().find(is_agent);
        Guest {
            number: number(call.legs.first()),
            shown: number(watched),
            kind,
            to: (host.call, watched.map_or(0, |(_, row)| row.leg as u8)),
            op: 0,
            call: Some(call.call),
            is_in: true,
            reply: None,
            denial: None,
        }
    }
}

/// What is ordered for a guest's leg.
fn part_of(guest: &Guest, mix: u32) -> MediaOrder {
    let (to, to_leg) = guest.to;
    MediaOrder::Mix { mix, role: guest.kind.role(), to, to_leg }
}

fn how_of(kind: GuestKind) -> Option<Supervision> {
    match kind {
        GuestKind::Participant => None,
        GuestKind::Monitor => Some(Supervision::Monitor),
        GuestKind::Whisper => Some(Supervision::Whisper),
        GuestKind::Barge => Some(Supervision::Barge),
    }
}

/// The answered legs of a call, and the one of another call that a transfer joined to it.
fn legs_of(side: &Side, region: &Region, call: CallRef) -> Vec<(CallRef, LegRow)> {
    let stands = |call: &&Call| call.row.state() == CallState::Answered;
    let Some(known) = side.calls.find(call).filter(stands) else { return Vec::new() };
    let mut legs = Vec::new();
    for (place, row) in &known.legs {
        let row = live_leg(region, call, (*place, row));
        if !talks(&row) {
            continue;
        }
        legs.push((call, row));
        let joined = region.dialogs().read(*place).and_then(|dialog| dialog.joined());
        if let Some((other, leg)) = joined.filter(|(other, _)| *other != call)
            && let Some(other_call) = side.calls.find(other).filter(stands)
            && let Some((place, row)) = other_call.legs.iter().find(|(_, row)| row.leg == leg)
        {
            let row = live_leg(region, other, (*place, row));
            if talks(&row) {
                legs.push((other, row));
            }
        }
    }
    legs
}

/// True for a leg of an answered call that has its part in it: the caller's has from the answer on, though its row may
/// say so a moment later.
pub(super) fn talks(leg: &LegRow) -> bool {
    match leg.state() {
        LegState::Answered => true,
        LegState::Calling | LegState::Ringing => leg.leg == 0,
        LegState::Free | LegState::Ended => false,
    }
}

/// A leg as its row is now: that the caller has its answer is no event of its own.
pub(super) fn live_leg(region: &Region, call: CallRef, (place, known): (u32, &LegRow)) -> LegRow {
    let row = region.legs().read(place);
    row.filter(|row| row.call() == call && row.leg == known.leg).unwrap_or(*known)
}

/// Why an agent of another CCB cannot be had, as a desk is told.
fn of_denial(denial: &Denial) -> DeskRefusal {
    match denial {
        Denial::Busy | Denial::Ringing | Denial::Glare => DeskRefusal::Busy,
        Denial::Hosted(ccb) => DeskRefusal::HeldBy(*ccb),
        Denial::NotReady(_) | Denial::NotRegistered | Denial::LoggedOut => {
            DeskRefusal::NotReachable
        }
        Denial::Draining | Denial::Moved => DeskRefusal::NotReachable,
        Denial::OwnerAway => DeskRefusal::Away,
        Denial::Unknown => DeskRefusal::NoSuchNumber,
    }
}

/// The worker of a call.
pub(super) fn worker_of(side: &Side, call: CallRef) -> Option<WorkerId> {
    side.region()?.calls().owner(call.slot)
}

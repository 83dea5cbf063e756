use abi::{CallState, LegRow, LegState, Party};
use base::{AgentSlot, CallRef, CcbId, Instant, TenantId};

use super::side::{self, Side};
use super::{Blade, Entry};
use crate::calls::{Call, Changed};
use crate::login::{Change, Desk, End, LoginKey, Phone, Step};
use crate::message::{CallEvent, CallRecord, CloseReason, DeskMessage, Ender, LegRecord, Output};
use crate::routes::Forwards;
use crate::seat::{SeatChange, SeatEvent};

impl Blade {
    /// A desk attaches to its login, first or again (S1-063).
    pub(super) fn desk_attached(
        &mut self,
        now: Instant,
        socket: u64,
        login: LoginKey,
        out: &mut Vec<Output>,
    ) {
        if !self.logins.contains_key(&login) {
            let reason = match self.is_elsewhere(login) {
                true => CloseReason::Elsewhere,
                false => CloseReason::NoLogin,
            };
            out.push(Output::DeskClosed { socket, reason });
            return;
        }
        self.sockets.insert(socket, login);
        self.change(now, login, Change::DeskAttached(socket), out);
    }

    /// A desk's WebSocket is gone; its session waits for another one.
    pub(super) fn desk_lost(&mut self, now: Instant, socket: u64, out: &mut Vec<Output>) {
        if let Some(login) = self.sockets.remove(&socket) {
            self.change(now, login, Change::DeskLost(socket), out);
        }
    }

    /// The desk at that WebSocket says exit.
    pub(super) fn desk_exit(&mut self, now: Instant, socket: u64, out: &mut Vec<Output>) {
        if let Some(login) = self.sockets.get(&socket).copied() {
            self.end(now, login, End::Exit, out);
        }
    }

    /// Reads what the tables say of the phone in that slot.
    pub(super) fn refresh_phone(
        &mut self,
        now: Instant,
        ccb: CcbId,
        slot: AgentSlot,
        out: &mut Vec<Output>,
    ) {
        let Some(side) = self.sides.get(&ccb) else {
            return;
        };
        let (Some(login), Some(region)) = (side.by_slot.get(&slot).copied(), side.region()) else {
            return;
        };
        let Some(row) = region.registrations().read(slot) else {
            return;
        };
        let is_registered =
            row.is_registered() && row.epoch == login.epoch && row.expires_at > now.as_nanos();
        if let Some(entry) = self.logins.get_mut(&login) {
            entry.phone_at = is_registered.then(|| row.addr());
        }
        let change = if is_registered { Change::PhoneRegistered } else { Change::PhoneLost };
        self.change(now, login, change, out);
    }

    /// Makes a change to a login: counts it, writes it down and tells its desk.
    fn change(&mut self, now: Instant, login: LoginKey, change: Change, out: &mut Vec<Output>) {
        let Some(entry) = self.logins.get_mut(&login) else {
            return;
        };
        let before = entry.login;
        let step = entry.login.step(now, change);
        if entry.login.desk != before.desk {
            let row = entry.row(login);
            let (ccb, slot) = (entry.ccb, entry.slot);
            if let Some(region) = self.sides.get(&ccb).and_then(Side::region) {
                region.agents().write(slot, &row);
            }
        }
        let entry = &self.logins[&login];
        let (ccb, slot) = (entry.ccb, entry.slot);
        let reachable = entry.login.phone == Phone::Registered;
        self.count(ccb, Some(&before), Some(&entry.login.clone()));
        if matches!(step, Step::Registered | Step::Online) {
            self.cdm.settle(ccb, login);
        }
        self.step_seat(now, login, SeatChange::Phone(reachable), out);
        let entry = &self.logins[&login];
        let Desk::Attached(socket) = entry.login.desk else {
            return;
        };
        let mut tell = |message| out.push(Output::Desk { socket, message });
        let complete = entry.login.phone == Phone::Registered;
        let phone = entry.phone_at.filter(|_| complete);
        match step {
            Step::Same | Step::Registered | Step::DeskGone => {}
            Step::Waiting | Step::Online => {
                if let Some(address) = phone {
                    tell(DeskMessage::PhoneRegistered { address });
                }
                tell(DeskMessage::LoginProgress { complete });
                if step == Step::Online {
                    tell(DeskMessage::Agent(SeatEvent::AgentLoggedOn));
                }
            }
            Step::PhoneGone => {
                tell(DeskMessage::PhoneLost);
                tell(DeskMessage::LoginProgress { complete });
            }
            Step::Resumed { .. } => tell(DeskMessage::LoginProgress { complete }),
        }
        if let Step::Resumed { taken: Some(old) } = step {
            self.sockets.remove(&old);
            out.push(Output::DeskClosed { socket: old, reason: CloseReason::Taken });
        }
        if matches!(change, Change::DeskAttached(_)) {
            self.tell_calls(now, ccb, slot, login, socket, out);
            let told = self.logins[&login].seat.told(now);
            self.tell_seat(login, told, out);
        }
    }

    /// Keeps the CCB's numbers of logins when one changes, comes or goes.
    pub(super) fn count(
        &mut self,
        ccb: CcbId,
        before: Option<&crate::Login>,
        after: Option<&crate::Login>,
    ) {
        let Some(side) = self.sides.get_mut(&ccb) else {
            return;
        };
        let is_online = |login: Option<&crate::Login>| login.is_some_and(crate::Login::is_online);
        let is_phone = |login: Option<&crate::Login>| {
            login.is_some_and(|one| one.phone == Phone::Registered && !one.is_online())
        };
        side.online = side.online + u32::from(is_online(after)) - u32::from(is_online(before));
        side.phones = side.phones + u32::from(is_phone(after)) - u32::from(is_phone(before));
        self.report(ccb);
    }

    /// Tells a desk that comes (back) about the calls that its agent is in.
    fn tell_calls(
        &self,
        now: Instant,
        ccb: CcbId,
        slot: AgentSlot,
        login: LoginKey,
        socket: u64,
        out: &mut Vec<Output>,
    ) {
        let Some(side) = self.sides.get(&ccb) else {
            return;
        };
        if side.region().is_none_or(|region| side::is_idle(&region, slot)) {
            return;
        }
        for call in side.calls.iter() {
            for (_, leg) in &call.legs {
                if leg.party() == Some(Party::Agent(slot, login.epoch))
                    && let Some(event) = event_of(call.row.state(), leg, is_guest(call))
                    && event != CallEvent::ConnectionCleared
                {
                    let queue = self.queueing.of_call(now, ccb, call.call);
                    let message = message_of(event, call, leg, queue);
                    out.push(Output::Desk { socket, message });
                }
            }
        }
    }

    /// Tells the desks of the agents of a call that a digit was pressed in it.
    pub(super) fn tell_digit(
        &self,
        ccb: CcbId,
        pressed: (CallRef, u8),
        digit: char,
        duration_ms: u16,
        out: &mut Vec<Output>,
    ) {
        let Some(side) = self.sides.get(&ccb) else {
            return;
        };
        let Some(call) = side.calls.find(pressed.0) else {
            return;
        };
        let by = u32::from(pressed.1);
        let presser = call.legs.iter().find(|(_, leg)| leg.leg == by);
        let party = presser.map_or(String::new(), |(_, leg)| leg.number().as_str().to_owned());
        for (_, leg) in &call.legs {
            let login = login_of(side, leg).and_then(|login| self.logins.get(&login));
            if let Some(Desk::Attached(socket)) = login.map(|entry| entry.login.desk) {
                let (serial, party, own) = (call.row.serial, party.clone(), leg.leg == by);
                let message = DeskMessage::Digit { serial, party, own, digit, duration_ms };
                out.push(Output::Desk { socket, message });
            }
        }
    }

    /// Tells the desks of the agents of a call how it changed.
    pub(super) fn tell_desks(
        &self,
        now: Instant,
        ccb: CcbId,
        changed: &Changed,
        out: &mut Vec<Output>,
    ) {
        let Some(side) = self.sides.get(&ccb) else {
            return;
        };
        let call = &changed.call;
        for (_, leg) in &call.legs {
            let Some(login) = login_of(side, leg) else {
                continue;
            };
            let desk = self.logins.get(&login).map(|entry| entry.login.desk);
            let Some(Desk::Attached(socket)) = desk else {
                continue;
            };
            let is_guest = is_guest(call);
            let event = event_of(call.row.state(), leg, is_guest);
            let was = changed.legs_before.iter().find(|was| was.leg == leg.leg);
            let before =
                changed.before.zip(was).and_then(|(state, was)| event_of(state, was, is_guest));
            if let Some(mut event) = event.filter(|event| Some(*event) != before) {
                let queue = self.queueing.of_call(now, ccb, call.call);
                let waits_on = call.row.state() == CallState::Answered && leg.answered_at == 0;
                if event == CallEvent::ConnectionCleared && queue.is_some() && waits_on {
                    event = CallEvent::Failed;
                }
                let mut message = message_of(event, call, leg, queue);
                if let DeskMessage::Call { party, .. } = &mut message
                    && let Some(shown) = self.guest_shown(ccb, call.call)
                {
                    *party = shown;
                }
                out.push(Output::Desk { socket, message });
            }
        }
    }
}

impl Entry {
    /// Takes what the rules say of the number.
    pub(super) fn mark(&mut self, tenant: TenantId, forwards: &Forwards) {
        let mut row = abi::AgentRow::default();
        row.set_number(base::Text::new(self.record.number.as_bytes()).unwrap_or_default());
        forwards.mark(tenant, &mut row);
        self.forwards = (row.forwards, row.no_answer_s);
    }

    /// The row of this login.
    pub(super) fn row(&self, login: LoginKey) -> abi::AgentRow {
        let cti_state = match self.login.desk {
            Desk::Never => abi::CtiState::None,
            Desk::Attached(_) => abi::CtiState::Connected,
            Desk::Away(_) => abi::CtiState::Lost,
        };
        let state = match self.draining {
            true => abi::AgentState::Draining,
            false => abi::AgentState::LoggedIn,
        };
        let mut row = abi::AgentRow {
            state: state.into(),
            login_epoch: login.epoch,
            tenant: login.tenant.0,
            location: u32::from(self.location.0),
            agent_id: login.agent,
            granted_at: self.login.granted_at.as_nanos(),
            cti_state: cti_state.into(),
            agent_type: self.record.agent_type,
            cti_since: self.login.desk_since.as_nanos(),
            forwards: self.forwards.0,
            no_answer_s: self.forwards.1,
            ..abi::AgentRow::default()
        };
        self.seat.write(&mut row);
        row.set_limits(self.record.incoming_limit, self.record.outgoing_limit);
        row.set_number(base::Text::new(self.record.number.as_bytes()).unwrap_or_default());
        row.set_user(base::Text::new(self.record.user.as_bytes()).unwrap_or_default());
        row.set_name(base::Text::new(self.record.name.as_bytes()).unwrap_or_default());
        row
    }
}

/// What the agent of that leg sees of a call in that state. Leg 0 is the caller's; one behind the first two came
/// by forwarding or a transfer, and rings while others talk.
fn event_of(state: CallState, leg: &LegRow, is_guest: bool) -> Option<CallEvent> {
    match state {
        CallState::Free => None,
        // Who is called for a mix is the first leg of a call of their own.
        CallState::Asked | CallState::Calling if is_guest => None,
        _ if leg.state() == LegState::Ended => Some(CallEvent::ConnectionCleared),
        CallState::Answered if leg.leg > 0 && leg.state() != LegState::Answered => {
            Some(CallEvent::Delivered)
        }
        CallState::Asked | CallState::Calling => (leg.leg == 0).then_some(CallEvent::Originated),
        CallState::Ringing => Some(CallEvent::Delivered),
        CallState::Answered => Some(CallEvent::Established),
        CallState::Ended => Some(CallEvent::ConnectionCleared),
    }
}

pub(super) fn message_of(
    event: CallEvent,
    call: &Call,
    leg: &LegRow,
    queue: Option<(String, u64)>,
) -> DeskMessage {
    let other = call.legs.iter().find(|(_, other)| other.leg != leg.leg);
    let party = match other {
        Some((_, other)) => other.number().as_str().to_owned(),
        // Nobody was sent an INVITE yet.
        None if leg.leg == 0 => call.row.called().as_str().to_owned(),
        None => String::new(),
    };
    DeskMessage::Call {
        event,
        serial: call.row.serial,
        party,
        incoming: leg.leg != 0 || is_guest(call),
        cause: call.row.cause,
        queue,
    }
}

fn is_guest(call: &Call) -> bool {
    call.row.guest().is_some()
}

/// The login that the leg is of, while it stands.
pub(super) fn login_of(side: &Side, leg: &LegRow) -> Option<LoginKey> {
    match leg.party()? {
        Party::Agent(slot, epoch) => {
            side.by_slot.get(&slot).copied().filter(|login| login.epoch == epoch)
        }
        Party::Trunk(_) | Party::Peer(_) => None,
    }
}

/// A call as data that outlives its rows.
pub(super) fn record_of(side: &Side, call: &Call) -> CallRecord {
    let at = |nanos| (nanos != 0).then(|| Instant::from_nanos(nanos));
    let legs = call.legs.iter().map(|(_, leg)| LegRecord {
        leg: leg.leg,
        number: leg.number().as_str().to_owned(),
        login: login_of(side, leg),
        party: match leg.party() {
            Some(Party::Agent(..)) => "agent",
            Some(Party::Trunk(_)) => "trunk",
            Some(Party::Peer(_)) => "peer",
            None => "none",
        },
        peer: match leg.party() {
            Some(Party::Peer(ccb)) => Some(ccb),
            _ => None,
        },
        trunk: match leg.party() {
            Some(Party::Trunk(row)) => side.trunk_name(row),
            _ => None,
        },
        call_id: leg.call_id().as_str().to_owned(),
        codec: leg.codec().as_str().to_owned(),
        started_at: Instant::from_nanos(leg.started_at),
        answered_at: at(leg.answered_at),
        ended_at: at(leg.ended_at),
        location: side.location_name(leg.location()),
        rtp_port: leg.rtp_port,
        media: leg.media(),
        packets_in: leg.packets_in,
        bytes_in: leg.bytes_in,
        packets_out: leg.packets_out,
        lost: leg.lost,
        foreign: leg.foreign,
        path: leg.path(),
        path_reason: leg.path_reason(),
        jitter_us: leg.jitter_us,
        round_trip_us: leg.round_trip_us,
        mos_hundredths: leg.mos_hundredths,
        reported_loss: leg.reported_loss,
    });
    let row = &call.row;
    CallRecord {
        ccb: side.ccb,
        incarnation: row.incarnation,
        call: call.call,
        serial: row.serial,
        called: row.called().as_str().to_owned(),
        tenant: row.tenant(),
        tenant_name: side.tenant_name(row.tenant()),
        cause: row.cause,
        ended_by: Ender::of(row),
        started_at: Instant::from_nanos(row.started_at),
        answered_at: at(row.answered_at),
        ended_at: Instant::from_nanos(row.ended_at),
        peer_serial: None,
        legs: legs.collect(),
    }
}

/// The digit as a desk is told it, by its number in RFC 4733, 3.2; 16 is a hook flash.
pub(super) fn digit_name(event: u8) -> Option<char> {
    "0123456789*#ABCD!".chars().nth(usize::from(event))
}

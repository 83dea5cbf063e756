//! What goes into a blade's core and what comes out of it, all of it data.

use core::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use abi::{
    CallRow, DigitsCause, EndedBy, MediaOrder, MediaPath, OpResult, Outage, PathReason, Region,
    SpoolState, SrtpPolicy,
};
use base::{CallRef, CcbId, Instant, TenantId, WorkerId};

use crate::acd::QueueSpec;
use crate::cdm::CcbStatus;
use crate::cluster::{Heard, Say};
use crate::desk::{DeskCommand, DeskRefusal, Supervision};
use crate::login::{End, LoginKey};
use crate::pool::{PoolOrder, PoolRefusal, SlotId, SlotOrder, SlotState, Wish};
use crate::routes::{Forward, Route, TrunkKey};
use crate::seat::SeatEvent;

/// What a blade's core is told.
#[derive(Debug)]
pub enum Input {
    /// What the directory holds of tenants, trunks and routes; replaces what was there.
    Provision(Provision),
    /// That CCB's data plane answers and this is its region.
    Attached {
        /// The CCB.
        ccb: CcbId,
        /// Its region as it is mapped now.
        region: Arc<Region>,
    },
    /// The link to that CCB's data plane ended: it died or it stops.
    Gone {
        /// The CCB.
        ccb: CcbId,
    },
    /// Look at the rings; also done with every other input that concerns a CCB's rows.
    Pump,
    /// An agent that the server authenticated logs in.
    Login {
        /// Comes back with the answer.
        reply: u64,
        /// Who, where, and the fresh secrets.
        request: Box<LoginRequest>,
    },
    /// A desk attaches to the CTI with the token of that login.
    DeskAttached {
        /// Names the WebSocket; never used twice.
        socket: u64,
        /// The login.
        login: LoginKey,
    },
    /// That WebSocket is gone.
    DeskLost {
        /// The WebSocket.
        socket: u64,
    },
    /// The desk says exit (S1-010).
    DeskExit {
        /// Its WebSocket.
        socket: u64,
    },
    /// That login is to end.
    Logout {
        /// The login.
        login: LoginKey,
        /// Why.
        end: End,
    },
    /// That call is to be released.
    Release {
        /// Comes back with the result.
        reply: u64,
        /// The CCB.
        ccb: CcbId,
        /// The call.
        call: CallRef,
    },
    /// That is ordered for the media of a leg.
    Order {
        /// Comes back with the result.
        reply: u64,
        /// Which leg, and what.
        order: Box<Order>,
    },
    /// The peer of a leg is to be given to a number.
    Transfer {
        /// Comes back with the result: whether it began.
        reply: u64,
        /// The CCB.
        ccb: CcbId,
        /// The call.
        call: CallRef,
        /// The leg whose party wants that, as it were.
        leg: u8,
        /// The number.
        to: String,
    },
    /// An agent's phone is to be called, and then a number.
    Dial {
        /// Comes back with the result: whether the phone is being called.
        reply: u64,
        /// The agent's tenant.
        tenant: TenantId,
        /// The agent's number.
        from: String,
        /// The number.
        to: String,
    },
    /// A desk wants something done.
    DeskCommand {
        /// Comes back with the result.
        reply: u64,
        /// Its WebSocket.
        socket: u64,
        /// What.
        command: DeskCommand,
    },
    /// The same, of an administrator for the login.
    SeatCommand {
        /// Comes back with the result.
        reply: u64,
        /// Whose.
        login: LoginKey,
        /// What.
        command: DeskCommand,
    },
    /// A worker is to show signalling, or no longer.
    Trace {
        /// Comes back with the result.
        reply: u64,
        /// The CCB.
        ccb: CcbId,
        /// The worker; each of a CCB is ordered for itself.
        worker: WorkerId,
        /// What, and where to.
        trace: Box<Trace>,
    },
    /// The record of that call is safe; its row may go.
    Recorded {
        /// The CCB.
        ccb: CcbId,
        /// The call.
        call: CallRef,
    },
    /// That login is to end, wherever it stands.
    Leave {
        /// Comes back with the answer.
        reply: u64,
        /// The login.
        login: LoginKey,
        /// Why.
        end: End,
    },
    /// An order for the pool, wherever the slot is.
    Pool {
        /// Comes back with the result.
        reply: u64,
        /// The order.
        order: PoolOrder,
    },
    /// The process of that slot is there no more, and its driver does not start it again.
    SlotStopped {
        /// Which one.
        slot: SlotId,
    },
    /// The bus says something.
    Bus(Heard),
    /// This process stops: others need not wait until its reports are old.
    Farewell,
    /// The deadline has come.
    Timeout,
}

/// What a blade's core wants done or known.
#[derive(Debug)]
pub enum Output {
    /// The answer to [`Input::Login`].
    Login {
        /// As it was given.
        reply: u64,
        /// Where the agent was put, or why not.
        result: Result<Granted, LoginRefusal>,
    },
    /// To be sent to the desk at that WebSocket.
    Desk {
        /// The WebSocket.
        socket: u64,
        /// What it is told.
        message: DeskMessage,
    },
    /// That WebSocket is to be closed after what it was sent.
    DeskClosed {
        /// The WebSocket.
        socket: u64,
        /// Why.
        reason: CloseReason,
    },
    /// That login ended.
    Ended {
        /// The login.
        login: LoginKey,
        /// Why.
        end: End,
    },
    /// A CCB does otherwise than before.
    Ccb {
        /// The CCB.
        ccb: CcbId,
        /// How it did.
        was: CcbStatus,
        /// How it does.
        is: CcbStatus,
    },
    /// That CCB's data plane is another process than before.
    Restarted {
        /// The CCB.
        ccb: CcbId,
        /// The new one's incarnation.
        incarnation: u64,
        /// True when it also made a new region.
        fresh: bool,
    },
    /// A call is over: to be kept, then [`Input::Recorded`].
    Record(Box<CallRecord>),
    /// That worker sleeps and must be woken by its eventfd.
    Wake {
        /// The CCB.
        ccb: CcbId,
        /// The worker.
        worker: WorkerId,
    },
    /// The result of [`Input::Release`], [`Input::Order`] or [`Input::Trace`].
    Done {
        /// As it was given.
        reply: u64,
        /// What the data plane said.
        result: OpOutcome,
        /// What was pressed, when digits were to be collected.
        digits: Option<Collected>,
    },
    /// A service of the data plane could not be given to a caller.
    ServiceFailed {
        /// The CCB.
        ccb: CcbId,
        /// The call.
        call: CallRef,
        /// The service as its route names it.
        service: String,
        /// What the data plane said.
        result: OpResult,
    },
    /// The spool of a worker's recordings does otherwise than before, or lost more.
    Spool {
        /// The CCB.
        ccb: CcbId,
        /// The worker.
        worker: WorkerId,
        /// How it does.
        state: SpoolState,
        /// Bytes lost since the data plane began.
        lost: u64,
    },
    /// Media came from a source that is not the party's; for the security log. Some are left out
    /// when there are many.
    SourceRefused {
        /// The CCB.
        ccb: CcbId,
        /// The call.
        call: CallRef,
        /// The leg.
        leg: u8,
        /// Where it came from.
        address: SocketAddr,
        /// How many were left out before this one.
        left_out: u64,
    },
    /// A trunk that is watched went down or came up.
    Trunk {
        /// Whose data plane watches it.
        ccb: CcbId,
        /// Its address.
        address: SocketAddr,
        /// Why it does not serve; [`Outage::None`] when it does.
        outage: Outage,
    },
    /// The answer to [`Input::Leave`].
    Left {
        /// As it was given.
        reply: u64,
        /// Whether the login stood.
        stood: bool,
    },
    /// This blade leads the CDM from now on, in that term, or does not any more.
    Leads {
        /// None when it does not.
        term: Option<u64>,
    },
    /// This process was paused for longer than others wait for its signs of life: it grants nothing until one of
    /// them came back from the bus.
    Paused {
        /// For how long, in milliseconds.
        paused_ms: u64,
    },
    /// The result of [`Input::Pool`].
    Pool {
        /// As it was given.
        reply: u64,
        /// The slot, or why not.
        result: Result<SlotId, PoolRefusal>,
    },
    /// The process of a slot is to be started or stopped.
    Slot {
        /// Which one.
        slot: SlotId,
        /// Which of the two.
        order: SlotOrder,
    },
    /// The CDM wanted a slot more or fewer, and what became of it.
    Scaled {
        /// What it wanted.
        wish: Wish,
        /// The slot, or why not.
        result: Result<SlotId, PoolRefusal>,
    },
    /// The slots of this blade, to be remembered over a restart.
    Slots(Vec<(SlotId, SlotState)>),
    /// Something for the bus; without one it is dropped.
    Bus(Say),
    /// Somebody was brought into a call, or has another part in it.
    Attends {
        /// The CCB.
        ccb: CcbId,
        /// The call's serial number.
        serial: u64,
        /// The number of who was.
        number: String,
        /// How a supervisor is in it; none for a participant of a conference.
        how: Option<Supervision>,
    },
    /// A source of SIP is banned for a while; for the security log.
    SourceBanned {
        /// The CCB.
        ccb: CcbId,
        /// Where its last request came from.
        address: SocketAddr,
        /// For how long, in seconds.
        seconds: u32,
    },
}

/// An order of an administrator for the media of a leg.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// The CCB.
    pub ccb: CcbId,
    /// The call.
    pub call: CallRef,
    /// The leg's number in it.
    pub leg: u8,
    /// What. The number of a mix is the tenant's (1 to [`crate::MIXES`]).
    pub what: MediaOrder,
    /// The prompt to play; empty for other orders.
    pub prompt: String,
}

/// What an administrator wants to see of the signalling.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trace {
    /// Its number; another order of the same number changes it.
    pub id: u32,
    /// Where copies of the messages go, as HEP3 over UDP.
    pub to: SocketAddr,
    /// Until when; what is past ends it.
    pub until: Instant,
    /// The call of this serial number; 0 for none in particular.
    pub serial: u64,
    /// The calls in which this number has a part; empty for all.
    pub number: String,
}

/// Digits that were collected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Collected {
    /// The digits.
    pub digits: String,
    /// Why there are no more.
    pub cause: DigitsCause,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpOutcome {
    /// The data plane's word.
    Done(OpResult),
    /// The data plane died, or is not there.
    Gone,
    /// No completion came in time; the ring lost it.
    Lost,
    /// There is no such call or CCB.
    Unknown,
    /// The call has no leg of that number.
    NoSuchLeg,
    /// The call to whisper to is not there, or not of the same tenant.
    NoSuchListener,
    /// The leg to whisper to is not in that mix.
    ListenerElsewhere,
    /// The number of the mix is out of its range, or it is one of a conference.
    NoSuchMix,
    /// An order of a desk is refused, and why.
    No(DeskRefusal),
}

/// What the directory holds of tenants, trunks and routes.
#[derive(Clone, Debug, Default)]
pub struct Provision {
    /// The tenants.
    pub tenants: Vec<TenantRecord>,
    /// Peers trusted by address or by certificate.
    pub trunks: Vec<TrunkRecord>,
    /// Where numbers go that are no agent's.
    pub routes: Vec<Route>,
    /// Where calls to a number go that are not taken there.
    pub forwards: Vec<Forward>,
    /// The queues.
    pub queues: Vec<QueueSpec>,
    /// What agents can do, by their keys; who is not here can do nothing in particular.
    pub skills: Vec<(TenantId, u64, Vec<String>)>,
    /// Agents who have the right to listen to others, by their keys.
    pub supervisors: Vec<(TenantId, u64)>,
    /// How often trunks that routes lead to are asked whether they are there, in seconds; 0 for never.
    pub options_s: u32,
}

/// A tenant of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TenantRecord {
    /// Its key.
    pub id: TenantId,
    /// Its name, at most 48 bytes.
    pub name: String,
    /// The realm of its phones, at most 64 bytes.
    pub realm: String,
    /// The prompt that held parties hear; none is silence.
    pub hold_music: Option<String>,
    /// Whether its phones speak SRTP.
    pub srtp: SrtpPolicy,
}

/// A trunk of the directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TrunkRecord {
    /// Whose it is.
    pub tenant: TenantId,
    /// Its name, at most 48 bytes.
    pub name: String,
    /// What it is known by when it calls us.
    pub by: TrunkKey,
    /// Whether they speak SRTP.
    pub srtp: SrtpPolicy,
}

/// What a region's tables hold of an agent.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct AgentRecord {
    /// The tenant.
    #[serde(with = "crate::cluster::wire::tenant")]
    pub tenant: TenantId,
    /// The agent's key in the directory.
    pub agent: u64,
    /// The directory number, at most 24 bytes.
    pub number: String,
    /// The SIP user, unique over tenants, at most 48 bytes.
    pub user: String,
    /// The display name, cut to 64 bytes.
    pub name: String,
    /// The directory's number for voice, chat, universal or supervisor (G-26).
    pub agent_type: u32,
    /// How many calls the agent may have before a caller hears that it is busy; none for one.
    #[serde(default)]
    pub incoming_limit: Option<u32>,
    /// How many calls of its own the agent may have at the same time; none for [`abi::OWN_AT_ONCE`].
    #[serde(default)]
    pub outgoing_limit: Option<u32>,
}

/// The hashes that prove a phone (RFC 7616, 3.4.2); never shown.
#[derive(Clone, Copy, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Ha1 {
    /// By MD5.
    pub md5: [u8; 16],
    /// By SHA-256.
    pub sha256: [u8; 32],
}

impl fmt::Debug for Ha1 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ha1(..)")
    }
}

/// A login that was authenticated (S1-053).
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
pub struct LoginRequest {
    /// The agent.
    pub agent: AgentRecord,
    /// A login epoch that was never used for this agent.
    pub epoch: u32,
    /// The CCBs that the mapping list has addresses of for this location (S1-058).
    #[serde(with = "crate::cluster::wire::ccbs")]
    pub eligible: Vec<CcbId>,
    /// The location's name.
    pub location: String,
    /// True to log in although the agent's lease word is not free (G-24).
    pub force: bool,
    /// The hashes of a secret that was minted for this login.
    pub ha1: Ha1,
}

/// A login that was granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Granted {
    /// The login.
    pub login: LoginKey,
    /// The CCB that serves it.
    #[serde(with = "crate::cluster::wire::ccb")]
    pub ccb: CcbId,
}

/// Why a login was not granted.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LoginRefusal {
    /// No CCB runs normally, serves the location and has room (S1-081).
    NoCcb,
    /// The agent is in a call and the login was not forced (G-24).
    InCall,
    /// A login of the same agent with a later epoch stands: draw a later one (G-24).
    Overtaken,
    /// A field of the agent does not fit its row.
    TooLong(String),
}

/// Why a WebSocket is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The login is over.
    Ended(End),
    /// There is no such login any more.
    NoLogin,
    /// Another WebSocket took the session.
    Taken,
    /// The login stands at another blade, whose addresses the login's answer has.
    Elsewhere,
}

/// What a desk is told; events are named after CSTA's (ECMA-269).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeskMessage {
    /// How far the login is.
    LoginProgress {
        /// True when phone and desk are there, false while the phone is waited for.
        complete: bool,
    },
    /// The phone registered.
    PhoneRegistered {
        /// Where it is.
        address: SocketAddr,
    },
    /// The phone's registration is gone; the phone may register again.
    PhoneLost,
    /// A newer login of the same agent took over (G-24).
    Replaced,
    /// The CCB is given back to the pool, or does not come back: log in again, with the token, for another one (G-09).
    LogInAgain {
        /// For how long the login stands yet, in milliseconds.
        within_ms: u32,
    },
    /// The login is over.
    LoggedOut {
        /// Why.
        end: End,
    },
    /// A call of this agent changed.
    Call {
        /// How.
        event: CallEvent,
        /// The call's serial number.
        serial: u64,
        /// The other party's number, empty when it is not known.
        party: String,
        /// True when the other party called the agent.
        incoming: bool,
        /// Why it ended, a SIP status; 0 when it ended well or has not ended.
        cause: u32,
        /// The queue that it came by, and how long the caller waited there, in milliseconds.
        queue: Option<(String, u64)>,
    },
    /// What the agent does has changed.
    Agent(SeatEvent),
    /// A digit was pressed in a call of this agent (CSTA's DTMF Detected).
    Digit {
        /// The call's serial number.
        serial: u64,
        /// The number of who pressed it.
        party: String,
        /// True when the agent pressed it.
        own: bool,
        /// `0` to `9`, `*`, `#`, `A` to `D`, or `!` for a hook flash.
        digit: char,
        /// For how long, in milliseconds.
        duration_ms: u16,
    },
}

/// How a call of an agent changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CallEvent {
    /// The agent calls.
    Originated,
    /// The called party rings.
    Delivered,
    /// They talk.
    Established,
    /// The agent waits in a queue, as a caller.
    Queued,
    /// The other party was put on hold.
    Held,
    /// The other party was taken back.
    Retrieved,
    /// The agent was not reached, and the caller waits on.
    Failed,
    /// It is over.
    ConnectionCleared,
}

impl CallEvent {
    /// CSTA's name.
    pub fn name(self) -> &'static str {
        match self {
            CallEvent::Originated => "Originated",
            CallEvent::Delivered => "Delivered",
            CallEvent::Established => "Established",
            CallEvent::Queued => "Queued",
            CallEvent::Held => "Held",
            CallEvent::Retrieved => "Retrieved",
            CallEvent::Failed => "Failed",
            CallEvent::ConnectionCleared => "ConnectionCleared",
        }
    }
}

/// A finished call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRecord {
    /// The CCB that carried it.
    pub ccb: CcbId,
    /// The incarnation of the data plane that it began on.
    pub incarnation: u64,
    /// The call.
    pub call: CallRef,
    /// Its serial number (G-16).
    pub serial: u64,
    /// The number that was called.
    pub called: String,
    /// Whose it was.
    pub tenant: TenantId,
    /// The tenant's name.
    pub tenant_name: String,
    /// Why it ended, a SIP status; 0 when it ended well.
    pub cause: u32,
    /// Who ended it, where that is known.
    pub ended_by: Option<Ender>,
    /// When it began.
    pub started_at: Instant,
    /// When it was answered.
    pub answered_at: Option<Instant>,
    /// When it ended.
    pub ended_at: Instant,
    /// The serial number that the call has at the CCB that called an agent of ours (see [`LegRecord::peer`]).
    pub peer_serial: Option<u64>,
    /// Its legs in order.
    pub legs: Vec<LegRecord>,
}

impl CallRecord {
    /// Bytes of RTP sent to the party of `leg`, where they can be told: those of the one other party, when
    /// every packet of it was sent on.
    pub fn bytes_out(&self, leg: &LegRecord) -> Option<u64> {
        let mut others = self.legs.iter().filter(|other| other.leg != leg.leg);
        let other = others.next().filter(|other| other.packets_in == leg.packets_out)?;
        others.next().is_none().then_some(other.bytes_in)
    }
}

/// Who ended a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ender {
    /// The calling party.
    Caller,
    /// A called party.
    Callee,
    /// The control process: a rule, an administrator.
    Control,
    /// The data plane: silence, a timeout, no room, a death.
    DataPlane,
}

impl Ender {
    /// Who it was, of a row.
    pub fn of(row: &CallRow) -> Option<Ender> {
        match row.ended_by() {
            EndedBy::Unknown => None,
            EndedBy::Leg if row.ended_leg == 0 => Some(Ender::Caller),
            EndedBy::Leg => Some(Ender::Callee),
            EndedBy::Control => Some(Ender::Control),
            EndedBy::DataPlane => Some(Ender::DataPlane),
        }
    }

    /// As records name it: `caller`, `callee`, `control` or `data_plane`.
    pub fn name(self) -> &'static str {
        match self {
            Ender::Caller => "caller",
            Ender::Callee => "callee",
            Ender::Control => "control",
            Ender::DataPlane => "data_plane",
        }
    }
}

/// A leg of a call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LegRecord {
    /// Its number in the call, from 0, the caller.
    pub leg: u32,
    /// The party's number.
    pub number: String,
    /// The agent's login when the party is an agent that is known.
    pub login: Option<LoginKey>,
    /// `agent`, `trunk`, `peer` or `none`.
    pub party: &'static str,
    /// The other CCB: the home of an agent that we hosted, or who hosted an agent of ours.
    pub peer: Option<CcbId>,
    /// The trunk's name when the party is one that is known.
    pub trunk: Option<String>,
    /// The Call-ID of its dialog, at most its first 128 bytes.
    pub call_id: String,
    /// The codec that was agreed on last, as `PCMU/8000`; empty when none was.
    pub codec: String,
    /// When it began; zero when that is not known.
    pub started_at: Instant,
    /// When it was answered.
    pub answered_at: Option<Instant>,
    /// When it ended.
    pub ended_at: Option<Instant>,
    /// The location's name.
    pub location: String,
    /// Our RTP port.
    pub rtp_port: u32,
    /// Where the party's RTP came from.
    pub media: Option<SocketAddr>,
    /// RTP packets received from the party.
    pub packets_in: u64,
    /// Their bytes.
    pub bytes_in: u64,
    /// RTP packets sent to the party.
    pub packets_out: u64,
    /// RTP packets of the party that never came.
    pub lost: u64,
    /// RTP and RTCP packets from others than the party, all dropped.
    pub foreign: u64,
    /// Which way the party's packets go.
    pub path: MediaPath,
    /// Why they do not take the bypass.
    pub path_reason: PathReason,
    /// Jitter of the party's packets, microseconds.
    pub jitter_us: u32,
    /// Round trip to the party, microseconds; 0 when nothing told it.
    pub round_trip_us: u32,
    /// Mean opinion score of what the party sends, in hundredths; 0 before there is one.
    pub mos_hundredths: u32,
    /// Loss that the party reports of what it hears, in 256ths.
    pub reported_loss: u32,
}

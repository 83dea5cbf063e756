//! What the data plane tells the control process.

use core::net::SocketAddr;
use std::sync::Arc;

use base::{AgentSlot, CallRef, CcbId, LocationId, TenantId, WorkerId};

use crate::bell::Wake;
use crate::record::{MAX_BLOB_BYTES, Put, Raw, RegionRing, Take};
use crate::region::{Region, RingKind};
use crate::ring::{Corrupt, Full, Reader, Room, Writer};
use crate::row::{CallState, Outage};

/// Something that happened in the data plane. The rows say how things stand; an event says that one
/// of them changed, or asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A phone registered, or renewed its registration.
    Registered {
        /// Whose phone.
        agent: AgentSlot,
        /// Of which login.
        epoch: u32,
        /// Through which location.
        location: LocationId,
        /// Where it is.
        addr: SocketAddr,
        /// For how long, in milliseconds.
        expires_ms: u32,
    },
    /// A phone is not registered any more.
    Unregistered {
        /// Whose phone.
        agent: AgentSlot,
        /// Of which login.
        epoch: u32,
        /// Why.
        cause: UnregisterCause,
    },
    /// A call needs an answer to where it goes: [`crate::Command::Dial`], [`crate::Command::Host`],
    /// [`crate::Command::Forward`], [`crate::Command::Answer`], [`crate::Command::Reject`] or
    /// [`crate::Command::Yield`] with this number as its `ask`. The blob is the
    /// number that it is about.
    Asked {
        /// The question's number.
        op: u64,
        /// The call.
        call: CallRef,
        /// The caller's tenant.
        tenant: TenantId,
        /// Who calls.
        caller: Party,
        /// The location that the call came through.
        location: LocationId,
        /// Why it is asked.
        why: Why,
    },
    /// The call that [`crate::Command::Summon`] of that operation makes.
    Summoned {
        /// The operation.
        op: u64,
        /// The call.
        call: CallRef,
    },
    /// A leg's peer holds it, or does not any more (RFC 3264, 8.4).
    Held {
        /// The call.
        call: CallRef,
        /// The number of the leg that is held.
        leg: u8,
        /// Whether it is.
        on: bool,
    },
    /// The peer of a leg answered [`crate::Command::Probe`]: its dialog lives.
    Alive {
        /// The call.
        call: CallRef,
        /// The leg.
        leg: u8,
    },
    /// A call's row changed.
    CallChanged {
        /// The call.
        call: CallRef,
        /// Its call serial number.
        serial: u64,
        /// How far it is.
        state: CallState,
        /// A SIP status, or 0.
        cause: u16,
    },
    /// The one completion of a command.
    Done {
        /// The command's operation.
        op: u64,
        /// What became of it.
        result: OpResult,
    },
    /// A digit was pressed on a leg (RFC 4733); each once. Send it as [`Class::Statistic`].
    Digit {
        /// The call.
        call: CallRef,
        /// The leg's number in the call.
        leg: u8,
        /// The event: 0 to 9, 10 `*`, 11 `#`, 12 to 15 A to D, 16 flash.
        digit: u8,
        /// For how long, in milliseconds.
        duration_ms: u16,
    },
    /// Digits were collected ([`crate::MediaOrder::Collect`]). The blob is the digits as text.
    Digits {
        /// The command's operation.
        op: u64,
        /// The call.
        call: CallRef,
        /// The leg's number in the call.
        leg: u8,
        /// Why it is done.
        cause: DigitsCause,
    },
    /// Recorded media was lost, or is not lost any more: the spool's disk is slow, full or gone.
    Spool {
        /// How the spool is.
        state: SpoolState,
        /// Bytes that were lost since the data plane began.
        lost: u64,
    },
    /// RTP for a leg came from an address that is not its party's. Send it as [`Class::Statistic`].
    SourceRefused {
        /// The call.
        call: CallRef,
        /// The leg's number in the call.
        leg: u8,
        /// Where it came from.
        addr: SocketAddr,
    },
    /// A trunk that is watched ([`crate::Command::Watch`]) went down or came up, or is said again to be.
    Trunk {
        /// Its address.
        addr: SocketAddr,
        /// Why it does not serve; [`Outage::None`] when it does.
        outage: Outage,
    },
    /// A source of SIP that proved nothing too often, or guessed wrong, is not answered any more. Send it as
    /// [`Class::Statistic`].
    SourceBanned {
        /// Where its last request came from.
        addr: SocketAddr,
        /// For how long, in seconds.
        seconds: u32,
    },
}

/// Who is at the end of a leg.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Party {
    /// An agent, and the login epoch.
    Agent(AgentSlot, u32),
    /// A trunk, by its row.
    Trunk(u32),
    /// Another CCB (S2-014): the home of an agent of its that we called, or the holder of an agent of ours that
    /// it calls.
    Peer(CcbId),
}

/// Why the data plane asks where a call goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum Why {
    /// The number was called, and the tables do not know it.
    Called = 1,
    /// A party is to be given to the number, and the tables do not know it.
    Transferred = 2,
    /// A call was forwarded to the number, and the tables do not know it.
    Forwarded = 3,
    /// Who has the number forwards all calls.
    Always = 4,
    /// Who has the number is in a call, or says so.
    Busy = 5,
    /// Who has the number rang for long enough.
    NoAnswer = 6,
    /// Who has the number has no phone that can be reached.
    Unavailable = 7,
    /// A queue gives a caller to the agent of the number, and the tables do not know it.
    Offered = 8,
    /// Somebody is called for a mix ([`crate::Command::Summon`]), and the tables do not know the number.
    Summoned = 9,
    /// The number is one of several places that are tried for a call, and the tables do not know it.
    Hunted = 10,
}

impl Why {
    fn of(number: u32) -> Option<Self> {
        const ALL: [Why; 10] = [
            Why::Called,
            Why::Transferred,
            Why::Forwarded,
            Why::Always,
            Why::Busy,
            Why::NoAnswer,
            Why::Unavailable,
            Why::Offered,
            Why::Summoned,
            Why::Hunted,
        ];
        ALL.into_iter().find(|why| *why as u32 == number)
    }
}

/// Why a phone is not registered any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum UnregisterCause {
    /// Its time was over.
    Expired = 1,
    /// The phone said so (RFC 3261, 10.2.2).
    Removed = 2,
    /// The control process said so.
    Ordered = 3,
    /// The connection that it came by is closed.
    Disconnected = 4,
}

/// Why digits are not collected any further.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum DigitsCause {
    /// As many as were asked for.
    Full = 1,
    /// One that ends it was pressed.
    Ended = 2,
    /// The first or the next one took too long.
    Timeout = 3,
    /// The leg is gone, or another order took its place.
    Stopped = 4,
}

/// How a worker's spool of recordings is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum SpoolState {
    /// What is recorded is written.
    Writing = 1,
    /// The disk is slower than the recordings; some is lost.
    Slow = 2,
    /// The disk refuses to write.
    Failed = 3,
}

/// What became of a command.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum OpResult {
    /// It was done.
    Ok = 1,
    /// The call is not there, or not any more.
    NoSuchCall = 2,
    /// The agent is not there, or has another login epoch.
    NoSuchAgent = 3,
    /// A pool is empty.
    Full = 4,
    /// It does not fit the state that things are in.
    Refused = 5,
    /// There is no prompt of that name, or it cannot be read.
    NoSuchPrompt = 6,
    /// It was stopped before its end.
    Stopped = 7,
    /// The agent was not asked: in a call, or no phone can be reached.
    Denied = 8,
    /// The phone rang for as long as it may.
    NoAnswer = 9,
    /// The phone said no.
    Declined = 10,
}

/// Which room of a full ring an event may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Class {
    /// All of it.
    Call,
    /// It leaves a quarter of the ring to the others.
    Statistic,
}

/// An event with its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Numbered<T> {
    /// Its number; numbers of one ring only grow, over the restarts of both processes.
    pub number: u64,
    /// How many events are missing between this one and the last one consumed: they were refused,
    /// or lost with a process that was killed. When it is not 0, read the tables.
    pub missed: u64,
    /// The event.
    pub value: T,
}

const REGISTERED: u64 = 1;
const UNREGISTERED: u64 = 2;
const ASKED: u64 = 3;
const CALL_CHANGED: u64 = 4;
const DONE: u64 = 5;
const SOURCE_REFUSED: u64 = 6;
const DIGIT: u64 = 7;
const DIGITS: u64 = 8;
const SPOOL: u64 = 9;
const SOURCE_BANNED: u64 = 20;
const HELD: u64 = 21;
const ALIVE: u64 = 42;
const SUMMONED: u64 = 60;
const TRUNK: u64 = 30;

impl Event {
    pub(crate) fn encode(&self) -> Raw {
        match *self {
            Event::Registered { agent, epoch, location, addr, expires_ms } => Put::new(REGISTERED)
                .agent(agent)
                .int(epoch)
                .location(location)
                .address(addr)
                .int(expires_ms),
            Event::Unregistered { agent, epoch, cause } => {
                Put::new(UNREGISTERED).agent(agent).int(epoch).int(cause as u32)
            }
            Event::Asked { op, call, tenant, caller, location, why } => Put::new(ASKED)
                .int(op)
                .call(call)
                .tenant(tenant)
                .party(caller)
                .location(location)
                .int(why as u32),
            Event::Summoned { op, call } => Put::new(SUMMONED).int(op).call(call),
            Event::Alive { call, leg } => Put::new(ALIVE).call(call).int(leg),
            Event::Held { call, leg, on } => Put::new(HELD).call(call).int(leg).int(on),
            Event::CallChanged { call, serial, state, cause } => {
                Put::new(CALL_CHANGED).call(call).int(serial).int(state as u32).int(cause)
            }
            Event::Done { op, result } => Put::new(DONE).int(op).int(result as u32),
            Event::Digit { call, leg, digit, duration_ms } => {
                Put::new(DIGIT).call(call).int(leg).int(digit).int(duration_ms)
            }
            Event::Digits { op, call, leg, cause } => {
                Put::new(DIGITS).int(op).call(call).int(leg).int(cause as u32)
            }
            Event::Spool { state, lost } => Put::new(SPOOL).int(state as u32).int(lost),
            Event::SourceRefused { call, leg, addr } => {
                Put::new(SOURCE_REFUSED).call(call).int(leg).address(addr)
            }
            Event::Trunk { addr, outage } => Put::new(TRUNK).address(addr).int(outage as u32),
            Event::SourceBanned { addr, seconds } => {
                Put::new(SOURCE_BANNED).address(addr).int(seconds)
            }
        }
        .done()
    }

    pub(crate) fn decode(raw: &Raw) -> Result<Event, Corrupt> {
        let mut take = Take::new(raw);
        let event = match raw.kind {
            REGISTERED => Event::Registered {
                agent: take.agent()?,
                epoch: take.int()?,
                location: take.location()?,
                addr: take.address()?,
                expires_ms: take.int()?,
            },
            UNREGISTERED => Event::Unregistered {
                agent: take.agent()?,
                epoch: take.int()?,
                cause: take.one_of(UnregisterCause::of, "a cause")?,
            },
            ASKED => Event::Asked {
                op: take.u64()?,
                call: take.call()?,
                tenant: take.tenant()?,
                caller: take.party()?,
                location: take.location()?,
                why: take.one_of(Why::of, "why a call is asked about")?,
            },
            SUMMONED => Event::Summoned { op: take.u64()?, call: take.call()? },
            ALIVE => Event::Alive { call: take.call()?, leg: take.int()? },
            HELD => Event::Held { call: take.call()?, leg: take.int()?, on: take.yes_or_no()? },
            CALL_CHANGED => Event::CallChanged {
                call: take.call()?,
                serial: take.u64()?,
                state: take.one_of(CallState::of, "a call's state")?,
                cause: take.int()?,
            },
            DONE => Event::Done { op: take.u64()?, result: take.one_of(OpResult::of, "a result")? },
            DIGIT => Event::Digit {
                call: take.call()?,
                leg: take.int()?,
                digit: take.int()?,
                duration_ms: take.int()?,
            },
            DIGITS => Event::Digits {
                op: take.u64()?,
                call: take.call()?,
                leg: take.int()?,
                cause: take.one_of(DigitsCause::of, "why digits ended")?,
            },
            SPOOL => Event::Spool {
                state: take.one_of(SpoolState::of, "a spool's state")?,
                lost: take.u64()?,
            },
            SOURCE_REFUSED => {
                Event::SourceRefused { call: take.call()?, leg: take.int()?, addr: take.address()? }
            }
            TRUNK => Event::Trunk {
                addr: take.address()?,
                outage: take.one_of(Outage::of, "why a trunk does not serve")?,
            },
            SOURCE_BANNED => Event::SourceBanned { addr: take.address()?, seconds: take.int()? },
            _ => return Err(Corrupt { what: "the kind of an event" }),
        };
        take.end(event)
    }
}

impl UnregisterCause {
    fn of(number: u32) -> Option<Self> {
        match number {
            1 => Some(UnregisterCause::Expired),
            2 => Some(UnregisterCause::Removed),
            3 => Some(UnregisterCause::Ordered),
            4 => Some(UnregisterCause::Disconnected),
            _ => None,
        }
    }
}

impl DigitsCause {
    fn of(number: u32) -> Option<Self> {
        match number {
            1 => Some(DigitsCause::Full),
            2 => Some(DigitsCause::Ended),
            3 => Some(DigitsCause::Timeout),
            4 => Some(DigitsCause::Stopped),
            _ => None,
        }
    }
}

impl SpoolState {
    fn of(number: u32) -> Option<Self> {
        match number {
            1 => Some(SpoolState::Writing),
            2 => Some(SpoolState::Slow),
            3 => Some(SpoolState::Failed),
            _ => None,
        }
    }
}

impl OpResult {
    fn of(number: u32) -> Option<Self> {
        match number {
            1 => Some(OpResult::Ok),
            2 => Some(OpResult::NoSuchCall),
            3 => Some(OpResult::NoSuchAgent),
            4 => Some(OpResult::Full),
            5 => Some(OpResult::Refused),
            6 => Some(OpResult::NoSuchPrompt),
            7 => Some(OpResult::Stopped),
            8 => Some(OpResult::Denied),
            9 => Some(OpResult::NoAnswer),
            10 => Some(OpResult::Declined),
            _ => None,
        }
    }
}

/// A worker's end of its events ring. There is one at a time for each worker; another that is made
/// after it is gone, also in a new process, goes on where it stopped.
#[derive(Debug)]
pub struct EventSender {
    ring: Writer<RegionRing, Raw>,
    region: Arc<Region>,
}

impl EventSender {
    pub(crate) fn new(region: &Arc<Region>, worker: WorkerId) -> Self {
        let (ring, shape) = region.ring(worker, RingKind::Events);
        EventSender { ring: Writer::attach(ring, shape), region: Arc::clone(region) }
    }

    /// Sends `event`, and says whether the control process must be woken; see [`EventSender::put`].
    #[inline]
    pub fn push(&mut self, event: &Event, blob: &[u8], class: Class) -> Result<Wake, Full> {
        self.put(event, blob, class)?;
        Ok(self.wake())
    }

    /// Leaves `event` in the ring; [`EventSender::wake`] follows. It takes the next number also when it is
    /// refused, so the receiver sees that it is missing; a blob over [`MAX_BLOB_BYTES`] is.
    #[inline]
    pub fn put(&mut self, event: &Event, blob: &[u8], class: Class) -> Result<(), Full> {
        let room = match class {
            _ if blob.len() > MAX_BLOB_BYTES => Room::None,
            Class::Call => Room::All,
            Class::Statistic => Room::Most,
        };
        self.ring.push(&event.encode(), blob, room).map(drop)
    }

    /// Whether the control process must be woken for what was put into the ring.
    #[inline]
    pub fn wake(&self) -> Wake {
        self.region.header().control_bell().wake()
    }

    /// The number of the last event, sent or refused; 0 when there was none.
    pub fn number(&self) -> u64 {
        self.ring.number()
    }
}

/// The control process's end of a worker's events ring. There is one at a time for each worker.
///
/// After a restart: take [`EventReceiver::issued`], read the tables, then pop; events up to that
/// number tell nothing that the tables did not.
#[derive(Debug)]
pub struct EventReceiver {
    ring: Reader<RegionRing, Raw>,
}

impl EventReceiver {
    pub(crate) fn new(region: &Arc<Region>, worker: WorkerId) -> Self {
        let (ring, shape) = region.ring(worker, RingKind::Events);
        EventReceiver { ring: Reader::attach(ring, shape) }
    }

    /// The next event, and its blob in `blob`. It is consumed, so a process that is killed
    /// afterwards does not get it again. `Err` is a record that makes no sense; it is skipped.
    #[inline]
    pub fn pop(&mut self, blob: &mut Vec<u8>) -> Option<Result<Numbered<Event>, Corrupt>> {
        let taken = match self.ring.pop(blob)? {
            Ok(taken) => taken,
            Err(corrupt) => return Some(Err(corrupt)),
        };
        Some(match Event::decode(&taken.record) {
            Ok(value) => Ok(Numbered { number: taken.number, missed: taken.missed, value }),
            Err(Corrupt { what }) => Err(self.ring.corrupted(what)),
        })
    }

    /// True when there is nothing to take; the last look before sleeping.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// The number of the last event that was sent or refused. Rows read after this hold at least
    /// what the events up to it tell.
    pub fn issued(&self) -> u64 {
        self.ring.issued()
    }

    /// The number of the last event that was consumed, by this process or by an earlier one.
    pub fn seen(&self) -> u64 {
        self.ring.seen()
    }

    /// How many records this end skipped because they made no sense.
    pub fn corrupt(&self) -> u64 {
        self.ring.corrupt()
    }
}

#[cfg(test)]
pub(crate) mod tests;

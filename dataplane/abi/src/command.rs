//! What the control process tells the data plane to do.

use core::net::SocketAddr;
use std::sync::Arc;

use base::{AgentSlot, CallRef, CcbId, LocationId, TenantId, Transport, WorkerId};

use crate::bell::Wake;
use crate::event::Party;
use crate::lease::Purpose;
use crate::order::{GuestKind, MediaOrder};
use crate::record::{MAX_BLOB_BYTES, Put, Raw, RegionRing, Take};
use crate::region::{Region, RingKind};
use crate::ring::{Corrupt, Full, Reader, Room, Writer};

/// An order with an operation number; each is completed by one [`crate::Event::Done`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command {
    /// Answers [`crate::Event::Asked`]: a leg goes out to a trunk. The blob is the user part of the
    /// Request-URI, and after it, each behind a line feed, the addresses to try when this one does not serve.
    Dial {
        /// The operation.
        op: u64,
        /// The question that this answers.
        ask: u64,
        /// The call.
        call: CallRef,
        /// Where to.
        address: SocketAddr,
        /// Through which location.
        location: LocationId,
        /// By what.
        transport: Transport,
    },
    /// Answers [`crate::Event::Asked`]: a leg goes out to an agent of another CCB, which granted us the agent's
    /// lease (S2-014). The blob is the agent's SIP user, the number that desks and records show, and the value
    /// of a [`crate::LeaseTicket`], with a line feed between them. [`crate::OpResult::Refused`] when it is none
    /// that this CCB holds; the call then has been refused by 404.
    Host {
        /// The operation.
        op: u64,
        /// The question that this answers.
        ask: u64,
        /// The call.
        call: CallRef,
        /// The agent's home.
        home: CcbId,
        /// Where its SIP is.
        address: SocketAddr,
        /// Through which location of ours.
        location: LocationId,
        /// By what.
        transport: Transport,
    },
    /// Answers [`crate::Event::Asked`] of an agent's own call that meets one to that agent (G-03): it gives way.
    /// The agent's phone hears 486 with a Reason, and the agent's word is free before the completion.
    /// [`crate::OpResult::Refused`] when the call is more than a question: then nothing has changed, and the
    /// question stands.
    Yield {
        /// The operation.
        op: u64,
        /// The question that this answers.
        ask: u64,
        /// The call.
        call: CallRef,
    },
    /// Asks a trunk now and then whether it is there; [`crate::Event::Trunk`] tells what changes.
    Watch {
        /// The operation.
        op: u64,
        /// Its address.
        address: SocketAddr,
        /// Through which location.
        location: LocationId,
        /// By what.
        transport: Transport,
        /// How often, in seconds; 0 for no more.
        every_s: u32,
    },
    /// Answers [`crate::Event::Asked`]: the call is refused.
    Reject {
        /// The operation.
        op: u64,
        /// The question that this answers.
        ask: u64,
        /// The call.
        call: CallRef,
        /// A SIP status from 400 on.
        status: u16,
        /// For Retry-After, in seconds (RFC 3261, 20.33); 0 for none.
        retry_after_s: u32,
    },
    /// Answers [`crate::Event::Asked`]: the data plane itself answers the call, which then has one leg,
    /// to be played to, to press digits, to be mixed.
    Answer {
        /// The operation.
        op: u64,
        /// The question that this answers.
        ask: u64,
        /// The call.
        call: CallRef,
    },
    /// Answers [`crate::Event::Asked`]: the call goes to another number, which is the blob. The tables are looked
    /// through for it first. Several numbers, with commas between them, are tried one after another, each for as many
    /// seconds as stand behind it and a `/`: `1001/15,1002/20`.
    Forward {
        /// The operation.
        op: u64,
        /// The question that this answers.
        ask: u64,
        /// The call.
        call: CallRef,
    },
    /// Gives the peer of a leg to the number that is the blob, as if the leg's party had asked for it.
    Transfer {
        /// The operation.
        op: u64,
        /// The call.
        call: CallRef,
        /// The number of the leg that gives its peer away.
        leg: u8,
    },
    /// Gives an answered leg that is joined to nobody to the number that is the blob. Completed once it is decided:
    /// [`crate::OpResult::Ok`] when they are joined, [`crate::OpResult::Denied`], [`crate::OpResult::NoAnswer`] or
    /// [`crate::OpResult::Declined`] when the leg stays as it was.
    Offer {
        /// The operation.
        op: u64,
        /// The call.
        call: CallRef,
        /// The number of the leg.
        leg: u8,
        /// How long the phone may ring, in seconds.
        ring_s: u32,
        /// True when the number is where the leg's call goes instead of an agent of a queue.
        overflow: bool,
    },
    /// Calls an agent's phone, and then, once it is answered, the number that is the blob.
    Originate {
        /// The operation.
        op: u64,
        /// Whose phone.
        agent: AgentSlot,
        /// Of which login.
        epoch: u32,
    },
    /// Calls a number for a mix: a call of its own, whose one leg comes into the mix as soon as it is answered.
    /// [`crate::Event::Summoned`] names the call at once. The blob is the number, and behind a line feed the one that
    /// its phone is shown. Completed when it is answered ([`crate::OpResult::Ok`]), or will not be:
    /// [`crate::OpResult::Denied`] when nobody was called, [`crate::OpResult::NoAnswer`],
    /// [`crate::OpResult::Declined`].
    Summon {
        /// The operation.
        op: u64,
        /// Whose number.
        tenant: TenantId,
        /// For whom.
        by: Party,
        /// What the word of an agent is won for.
        purpose: Purpose,
        /// The mix.
        mix: u32,
        /// What it is there.
        guest: GuestKind,
        /// Whom [`GuestKind::Whisper`] speaks to.
        to: CallRef,
        /// The leg of `to`.
        to_leg: u8,
        /// How long the phone may ring, in seconds.
        ring_s: u32,
    },
    /// Ends one leg; its call goes on when others of it can, as if the leg's party had hung up.
    Drop {
        /// The operation.
        op: u64,
        /// The call.
        call: CallRef,
        /// The leg.
        leg: u8,
    },
    /// Holds a leg's peer in the name of the leg's party, or takes it back: both are told by re-INVITE (RFC 3264,
    /// 8.4), and [`crate::Event::Held`] says when it is so. [`crate::OpResult::Refused`] when it is so already, when
    /// the leg is joined to nobody, or when another change of the session is under way.
    Park {
        /// The operation.
        op: u64,
        /// The call.
        call: CallRef,
        /// The leg whose party holds.
        leg: u8,
        /// True to hold.
        on: bool,
    },
    /// Asks a phone that rings to answer, by NOTIFY with `Event: talk`. [`crate::OpResult::Refused`] when it does not
    /// ring, [`crate::OpResult::Declined`] when it does not say `Allow-Events: talk`.
    Talk {
        /// The operation.
        op: u64,
        /// The call.
        call: CallRef,
        /// The leg.
        leg: u8,
    },
    /// An order for the media of an answered leg. The blob is the name of a prompt, where it is one.
    Media {
        /// The operation.
        op: u64,
        /// The call.
        call: CallRef,
        /// The leg's number in it.
        leg: u8,
        /// What.
        order: MediaOrder,
    },
    /// The peer of a leg is asked by OPTIONS within the dialog whether it lives (RFC 3261, 12.2); if it does,
    /// [`crate::Event::Alive`] says so. [`crate::OpResult::Refused`] when the leg does not stand.
    Probe {
        /// The operation.
        op: u64,
        /// The call.
        call: CallRef,
        /// The leg.
        leg: u8,
    },
    /// Ends a call.
    Release {
        /// The operation.
        op: u64,
        /// The call.
        call: CallRef,
        /// A SIP status for its record.
        cause: u16,
    },
    /// Drops the registration of a login.
    Forget {
        /// The operation.
        op: u64,
        /// Whose.
        agent: AgentSlot,
        /// Of which login.
        epoch: u32,
    },
    /// Takes no new calls from here on, or takes them again (G-09).
    Drain {
        /// The operation.
        op: u64,
        /// Whether to drain.
        on: bool,
    },
    /// Shows signalling to an administrator, or no longer: each SIP message that matches is copied to an
    /// address. It matches when it belongs to the call of that serial number; where that is 0, to a call
    /// in which the number of the blob has a part; and where the blob is empty, too, always.
    Trace {
        /// The operation.
        op: u64,
        /// Which trace; another command of the same number changes it.
        trace: u32,
        /// Where the copies go, as HEP3 over UDP.
        to: SocketAddr,
        /// Until when, ns of the clock; what is past ends it.
        until: u64,
        /// A call serial number, or 0.
        serial: u64,
    },
}

const DIAL: u64 = 1;
const REJECT: u64 = 2;
const RELEASE: u64 = 3;
const FORGET: u64 = 4;
const DRAIN: u64 = 5;
const ANSWER: u64 = 6;
const MEDIA: u64 = 7;
const TRACE: u64 = 8;
const FORWARD: u64 = 9;
const TRANSFER: u64 = 10;
const ORIGINATE: u64 = 11;
const WATCH: u64 = 30;
const HOST: u64 = 40;
const YIELD: u64 = 41;
const PROBE: u64 = 42;
const OFFER: u64 = 50;
const SUMMON: u64 = 60;
const PARK: u64 = 61;
const TALK: u64 = 62;
const DROP: u64 = 63;

impl Command {
    /// The operation, which the completion names.
    pub fn op(&self) -> u64 {
        match *self {
            Command::Dial { op, .. }
            | Command::Host { op, .. }
            | Command::Yield { op, .. }
            | Command::Watch { op, .. }
            | Command::Probe { op, .. }
            | Command::Reject { op, .. }
            | Command::Answer { op, .. }
            | Command::Media { op, .. }
            | Command::Forward { op, .. }
            | Command::Transfer { op, .. }
            | Command::Offer { op, .. }
            | Command::Summon { op, .. }
            | Command::Drop { op, .. }
            | Command::Park { op, .. }
            | Command::Talk { op, .. }
            | Command::Originate { op, .. }
            | Command::Release { op, .. }
            | Command::Forget { op, .. }
            | Command::Drain { op, .. }
            | Command::Trace { op, .. } => op,
        }
    }

    pub(crate) fn encode(&self) -> Raw {
        match *self {
            Command::Dial { op, ask, call, address, location, transport } => Put::new(DIAL)
                .int(op)
                .int(ask)
                .call(call)
                .address(address)
                .location(location)
                .int(transport as u32),
            Command::Host { op, ask, call, home, address, location, transport } => Put::new(HOST)
                .int(op)
                .int(ask)
                .call(call)
                .ccb(home)
                .address(address)
                .location(location)
                .int(transport as u32),
            Command::Yield { op, ask, call } => Put::new(YIELD).int(op).int(ask).call(call),
            Command::Watch { op, address, location, transport, every_s } => Put::new(WATCH)
                .int(op)
                .address(address)
                .location(location)
                .int(transport as u32)
                .int(every_s),
            Command::Reject { op, ask, call, status, retry_after_s } => {
                Put::new(REJECT).int(op).int(ask).call(call).int(status).int(retry_after_s)
            }
            Command::Answer { op, ask, call } => Put::new(ANSWER).int(op).int(ask).call(call),
            Command::Forward { op, ask, call } => Put::new(FORWARD).int(op).int(ask).call(call),
            Command::Transfer { op, call, leg } => Put::new(TRANSFER).int(op).call(call).int(leg),
            Command::Offer { op, call, leg, ring_s, overflow } => {
                Put::new(OFFER).int(op).call(call).int(leg).int(ring_s).int(overflow)
            }
            Command::Summon { op, tenant, by, purpose, mix, guest, to, to_leg, ring_s } => {
                Put::new(SUMMON)
                    .int(op)
                    .tenant(tenant)
                    .party(by)
                    .int(purpose as u32)
                    .int(mix)
                    .int(guest as u32)
                    .call(to)
                    .int(to_leg)
                    .int(ring_s)
            }
            Command::Drop { op, call, leg } => Put::new(DROP).int(op).call(call).int(leg),
            Command::Park { op, call, leg, on } => {
                Put::new(PARK).int(op).call(call).int(leg).int(on)
            }
            Command::Talk { op, call, leg } => Put::new(TALK).int(op).call(call).int(leg),
            Command::Originate { op, agent, epoch } => {
                Put::new(ORIGINATE).int(op).agent(agent).int(epoch)
            }
            Command::Media { op, call, leg, order } => {
                order.put(Put::new(MEDIA).int(op).call(call).int(leg))
            }
            Command::Probe { op, call, leg } => Put::new(PROBE).int(op).call(call).int(leg),
            Command::Release { op, call, cause } => Put::new(RELEASE).int(op).call(call).int(cause),
            Command::Forget { op, agent, epoch } => {
                Put::new(FORGET).int(op).agent(agent).int(epoch)
            }
            Command::Drain { op, on } => Put::new(DRAIN).int(op).int(on),
            Command::Trace { op, trace, to, until, serial } => {
                Put::new(TRACE).int(op).int(trace).address(to).int(until).int(serial)
            }
        }
        .done()
    }

    pub(crate) fn decode(raw: &Raw) -> Result<Command, Corrupt> {
        let mut take = Take::new(raw);
        let op = take.u64()?;
        let command = match raw.kind {
            DIAL => Command::Dial {
                op,
                ask: take.u64()?,
                call: take.call()?,
                address: take.address()?,
                location: take.location()?,
                transport: transport_of(&mut take)?,
            },
            HOST => Command::Host {
                op,
                ask: take.u64()?,
                call: take.call()?,
                home: take.ccb()?,
                address: take.address()?,
                location: take.location()?,
                transport: transport_of(&mut take)?,
            },
            PROBE => Command::Probe { op, call: take.call()?, leg: take.int()? },
            YIELD => Command::Yield { op, ask: take.u64()?, call: take.call()? },
            WATCH => Command::Watch {
                op,
                address: take.address()?,
                location: take.location()?,
                transport: transport_of(&mut take)?,
                every_s: take.int()?,
            },
            REJECT => Command::Reject {
                op,
                ask: take.u64()?,
                call: take.call()?,
                status: take.int()?,
                retry_after_s: take.int()?,
            },
            ANSWER => Command::Answer { op, ask: take.u64()?, call: take.call()? },
            FORWARD => Command::Forward { op, ask: take.u64()?, call: take.call()? },
            TRANSFER => Command::Transfer { op, call: take.call()?, leg: take.int()? },
            OFFER => Command::Offer {
                op,
                call: take.call()?,
                leg: take.int()?,
                ring_s: take.int()?,
                overflow: take.yes_or_no()?,
            },
            SUMMON | DROP | PARK | TALK => decode_of_desk(raw.kind, op, &mut take)?,
            ORIGINATE => Command::Originate { op, agent: take.agent()?, epoch: take.int()? },
            MEDIA => Command::Media {
                op,
                call: take.call()?,
                leg: take.int()?,
                order: MediaOrder::take(&mut take)?,
            },
            RELEASE => Command::Release { op, call: take.call()?, cause: take.int()? },
            FORGET => Command::Forget { op, agent: take.agent()?, epoch: take.int()? },
            DRAIN => Command::Drain { op, on: take.yes_or_no()? },
            TRACE => Command::Trace {
                op,
                trace: take.int()?,
                to: take.address()?,
                until: take.u64()?,
                serial: take.u64()?,
            },
            _ => return Err(Corrupt { what: "the kind of a command" }),
        };
        take.end(command)
    }
}

/// The commands that desks' orders become.
fn decode_of_desk(kind: u64, op: u64, take: &mut Take<'_>) -> Result<Command, Corrupt> {
    Ok(match kind {
        SUMMON => Command::Summon {
            op,
            tenant: take.tenant()?,
            by: take.party()?,
            purpose: take.one_of(purpose_of, "what a word is won for")?,
            mix: take.int()?,
            guest: take.one_of(GuestKind::of, "what a guest is")?,
            to: take.call()?,
            to_leg: take.int()?,
            ring_s: take.int()?,
        },
        DROP => Command::Drop { op, call: take.call()?, leg: take.int()? },
        PARK => {
            let (call, leg) = (take.call()?, take.int()?);
            Command::Park { op, call, leg, on: take.yes_or_no()? }
        }
        _ => Command::Talk { op, call: take.call()?, leg: take.int()? },
    })
}

fn purpose_of(number: u32) -> Option<Purpose> {
    Purpose::ALL.into_iter().find(|purpose| *purpose as u32 == number)
}

fn transport_of(take: &mut Take<'_>) -> Result<Transport, Corrupt> {
    Transport::from_number(take.int()?).ok_or(Corrupt { what: "a transport" })
}

/// The control process's end of a worker's commands ring. There is one at a time for each worker;
/// another that is made after it is gone, also in a new process, goes on where it stopped.
#[derive(Debug)]
pub struct CommandSender {
    ring: Writer<RegionRing, Raw>,
    region: Arc<Region>,
    worker: WorkerId,
}

impl CommandSender {
    pub(crate) fn new(region: &Arc<Region>, worker: WorkerId) -> Self {
        let (ring, shape) = region.ring(worker, RingKind::Commands);
        CommandSender { ring: Writer::attach(ring, shape), region: Arc::clone(region), worker }
    }

    /// Sends `command`, and says whether the worker must be woken. A blob over [`MAX_BLOB_BYTES`]
    /// is refused.
    #[inline]
    pub fn push(&mut self, command: &Command, blob: &[u8]) -> Result<Wake, Full> {
        let room = if blob.len() > MAX_BLOB_BYTES { Room::None } else { Room::All };
        self.ring.push(&command.encode(), blob, room)?;
        let bell = self.region.header().worker_bell(self.worker);
        Ok(bell.map_or(Wake::NotNeeded, |bell| bell.wake()))
    }
}

/// A worker's end of its commands ring. There is one at a time for each worker.
#[derive(Debug)]
pub struct CommandReceiver {
    ring: Reader<RegionRing, Raw>,
}

impl CommandReceiver {
    pub(crate) fn new(region: &Arc<Region>, worker: WorkerId) -> Self {
        let (ring, shape) = region.ring(worker, RingKind::Commands);
        CommandReceiver { ring: Reader::attach(ring, shape) }
    }

    /// The next command, and its blob in `blob`. It is consumed, so a process that is killed
    /// afterwards does not get it again. `Err` is a record that makes no sense; it is skipped.
    #[inline]
    pub fn pop(&mut self, blob: &mut Vec<u8>) -> Option<Result<Command, Corrupt>> {
        let taken = match self.ring.pop(blob)? {
            Ok(taken) => taken,
            Err(corrupt) => return Some(Err(corrupt)),
        };
        let command = Command::decode(&taken.record);
        Some(command.map_err(|Corrupt { what }| self.ring.corrupted(what)))
    }

    /// True when there is nothing to take; the last look before sleeping.
    pub fn is_empty(&self) -> bool {
        self.ring.is_empty()
    }

    /// How many records this end skipped because they made no sense.
    pub fn corrupt(&self) -> u64 {
        self.ring.corrupt()
    }
}

#[cfg(test)]
mod tests;

//! A call: legs, and the bridges that join them.
//!
//! ```text
//! Worker --has--> Calls --slot--> Call --has--> Leg --has--> Dialog (SIP), PairId (media), Lease
//!                                      --has--> Bridge --names--> two legs
//! ```
//! A call owns its legs; nobody else holds a leg. Everything outside names a leg by [`LegRef`], which
//! dies with the call's generation. A transfer may join a leg to one of another call; then each names the
//! other, and the two calls end together.

use std::net::SocketAddr;
use std::rc::Rc;

use abi::{CallState, EndedBy, Party, Share};
use base::{AgentSlot, CallRef, CcbId, Channel, Instant, LocationId, TenantId, Text, Transport};
use media::PairId;
use media::codec::Codec;
use sip::dialog::Dialog;
use sip::transaction::{ClientKey, Hop, LIFE, ServerKey};

use crate::extension::Extensions;
use crate::forward::Diversion;
use crate::functions::Functions;
use crate::hunt::Hunt;
use crate::refer::Report;
use crate::secure::Sdes;
use crate::summon::Summons;
use crate::transfer::{Change, Transfer};

/// A directory number, as dialled.
pub type Number = Text<32>;

/// The caller's leg is the first of a call.
pub(crate) const CALLER: u8 = 0;

/// Where a SIP message goes: from the address of a location to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    pub location: LocationId,
    pub peer: SocketAddr,
    pub channel: Channel,
}

impl Hop for Flow {
    fn is_reliable(self) -> bool {
        self.channel.transport.is_reliable()
    }
}

impl Flow {
    /// The same peer on whatever connection there is: the one so far ended with the process.
    pub fn of(location: LocationId, transport: Transport, peer: SocketAddr) -> Flow {
        Flow { location, peer, channel: Channel::any(transport) }
    }
}

/// Digits, letters and what stands between them in a number or a SIP user. The number goes on into other
/// URIs, where anything else could be read as a host or a parameter.
pub(crate) fn is_dialable(number: &Number) -> bool {
    number.as_bytes().iter().all(|byte| byte.is_ascii_alphanumeric() || b"+*#._-".contains(byte))
}

/// One leg of one call, for those outside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LegRef {
    /// The call.
    pub call: CallRef,
    /// The leg's number in it.
    pub leg: u8,
}

impl LegRef {
    /// The word that a transaction carries back to us.
    pub fn to_word(self) -> u64 {
        u64::from(self.call.slot) << 40 | u64::from(self.call.generation) << 8 | u64::from(self.leg)
    }

    /// The leg of such a word. Slots stay below 2^24.
    pub fn from_word(word: u64) -> Self {
        let call = CallRef { slot: (word >> 40) as u32, generation: (word >> 8) as u32 };
        LegRef { call, leg: word as u8 }
    }
}

/// A call with everything that belongs to it.
#[derive(Debug)]
pub struct Call {
    pub id: CallRef,
    /// The call serial number (S4-006): 18 digits that nobody can guess.
    pub serial: u64,
    pub tenant: TenantId,
    pub state: CallState,
    /// The SIP status that ended it, 0 before and after a normal end.
    pub cause: u16,
    pub started_at: Instant,
    pub answered_at: Instant,
    pub ended_at: Instant,
    /// Who ended it, and by which leg.
    pub ended_by: (EndedBy, u8),
    pub legs: Vec<Leg>,
    pub bridges: Vec<Bridge>,
    /// Operation id of the question that control has not answered yet.
    pub asked: Option<u64>,
    /// The number that was called.
    pub called: Number,
    /// A leg of this call is being given to somebody else.
    pub transfer: Option<Box<Transfer>>,
    /// How often it was forwarded.
    pub forwards: u8,
    /// What its caller hears should nobody take it after all.
    pub failing: Option<u16>,
    /// Places that are tried for it in turn.
    pub hunt: Option<Box<Hunt>>,
    /// Who forwarded it last.
    pub diverted: Option<Diversion>,
    /// What is to be called when its first leg was answered, which we called ourselves.
    pub dialling: Option<Number>,
    /// It was made to bring somebody into a mix.
    pub summons: Option<Box<Summons>>,
    /// It was made to a sips URI: each hop of it is secret.
    pub sips: bool,
    /// Why it ends, as who ended it says: values of Reason (RFC 3326).
    pub reasons: Vec<Vec<u8>>,
}

/// Joins two legs: what one sends, in SIP and in media, the other gets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bridge {
    pub a: u8,
    pub b: u8,
}

/// Our side of one dialog with one phone or trunk, and its media.
#[derive(Debug)]
pub struct Leg {
    pub number: u8,
    pub party: Party,
    /// Who is at the other end: directory number or calling number.
    pub who: Number,
    /// Where its SIP goes, and from which of our addresses: the registration's flow, or the way that
    /// its INVITE came.
    pub flow: Flow,
    pub phase: Phase,
    /// Our tag in its dialog.
    pub local_tag: Box<str>,
    pub call_id: Box<[u8]>,
    pub dialog: Option<Dialog>,
    /// An INVITE from the other end that has no final answer of ours yet.
    pub invited: Option<Invited>,
    /// An INVITE of ours that has no final answer yet.
    pub inviting: Option<Inviting>,
    /// The 2xx of ours that waits for its ACK, and the CSeq number that the ACK will have.
    pub unacknowledged: Option<(ServerKey, u32)>,
    /// CSeq of a 2xx to us whose ACK must bring the answer that the peer's ACK brings (RFC 3264).
    pub owes_ack: Option<u32>,
    /// The ACK that we sent for the last 2xx, for its retransmissions (RFC 3261, 13.2.2.4).
    pub last_ack: Option<LastAck>,
    pub pair: Option<PairId>,
    /// Its ports for video, while both sides have some.
    pub video: Option<PairId>,
    /// Its SRTP; none where that was never spoken of.
    pub secure: Option<Box<Sdes>>,
    /// Its peer's RTCP comes and goes by the port of RTP (RFC 5761).
    pub mux: bool,
    /// The G.711 that its peer takes and prefers, by its last description.
    pub takes: Option<Codec>,
    /// Its peer does not want to hear us now (RFC 3264, 8.4).
    pub held: bool,
    /// Its peer will not send to us now.
    pub silent: bool,
    /// A desk holds the other side in the name of this one.
    pub parked: bool,
    /// It is in a conference, which it leaves alone; true for who organises it.
    pub conferred: Option<bool>,
    /// Control wants to hear whether its peer lives.
    pub probed: bool,
    /// Its dialog is one of sips URIs, ours too.
    pub sips: bool,
    /// When it was last taken back from a hold.
    pub unheld_at: Instant,
    /// What is played to it, collected from it, recorded and mixed of it; none for most legs.
    pub functions: Option<Box<Functions>>,
    pub lease: Option<Lease>,
    pub sdp_version: u64,
    /// Tags of forks that were let go.
    pub declined: Vec<Vec<u8>>,
    /// When the leg last gave a sign of life, and what its stream had counted then.
    pub alive: (Instant, u64),
    pub times: Times,
    /// The codec that was agreed on last, as `PCMU/8000`.
    pub codec: Text<16>,
    /// The leg of another call that it is joined to, by a transfer.
    pub joined: Option<LegRef>,
    /// The other call whose transfer this leg is a party of: it waits for that, should its own peer go.
    pub awaited: Option<CallRef>,
    /// What its peer last said of its media.
    pub described: Box<[u8]>,
    /// What we want to change of its session, as soon as no other change is under way.
    pub change: Option<Change>,
    /// What its peer is told of the transfer that it asked for.
    pub report: Option<Box<Report>>,
    /// What goes beyond RFC 3261.
    pub ext: Extensions,
    /// How many REFERs came.
    pub refers: u32,
}

/// When a leg began, was answered and ended; zero for what has not happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Times {
    pub started_at: Instant,
    pub answered_at: Instant,
    pub ended_at: Instant,
}

impl Times {
    /// A leg that begins.
    pub const fn from(now: Instant) -> Times {
        Times { started_at: now, answered_at: Instant::ZERO, ended_at: Instant::ZERO }
    }
}

/// The ACK to a 2xx, while that may come again.
#[derive(Debug)]
pub struct LastAck {
    pub flow: Flow,
    pub bytes: Rc<[u8]>,
    /// When [`Leg::age_ack`] saw it first.
    pub seen_at: Option<Instant>,
}

/// An INVITE that we have not answered.
#[derive(Debug)]
pub struct Invited {
    pub key: ServerKey,
    /// As it came, for the answers to be made from.
    pub bytes: Box<[u8]>,
    pub from: SocketAddr,
}

/// An INVITE of ours that has no final answer.
#[derive(Debug)]
pub struct Inviting {
    pub key: ClientKey,
    /// It carried an offer; else the 2xx brings one, and the ACK the answer (RFC 3264).
    pub offered: bool,
    /// It renews the session and changes nothing (RFC 4028, 7.4); the other leg does not hear of it.
    pub renews: bool,
}

/// Where a leg is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// It invited us; we have not answered.
    Incoming,
    /// We invited it; no final answer yet.
    Outgoing,
    /// The dialog stands.
    Established,
    /// We cancelled or said goodbye, and wait for the end of the transaction.
    Leaving,
    /// Nothing of it is left but its row.
    Gone,
}

/// An agent's lease word that this leg holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lease {
    pub agent: AgentSlot,
    pub counter: u32,
    /// The CCB that it was won for: ours, or the one whose fenced INVITE bound it.
    pub holder: CcbId,
    /// Whether the leg is the agent's own call.
    pub kind: Share,
}

impl Call {
    /// The leg that a bridge joins to `leg`.
    pub fn peer_of(&self, leg: u8) -> Option<u8> {
        self.bridges.iter().find_map(|bridge| match (bridge.a == leg, bridge.b == leg) {
            (true, _) => Some(bridge.b),
            (_, true) => Some(bridge.a),
            _ => None,
        })
    }

    /// True while a queue offers its caller to somebody.
    pub fn is_offered(&self) -> bool {
        self.transfer.as_ref().is_some_and(|transfer| transfer.offer.is_some())
    }

    /// The leg of that number.
    pub fn leg(&self, number: u8) -> Option<&Leg> {
        self.legs.get(usize::from(number))
    }

    /// The leg of that number.
    pub fn leg_mut(&mut self, number: u8) -> Option<&mut Leg> {
        self.legs.get_mut(usize::from(number))
    }

    /// True when no leg has anything left to do.
    pub fn is_over(&self) -> bool {
        self.legs.iter().all(|leg| leg.phase == Phase::Gone)
    }
}

impl Leg {
    /// A leg at its first INVITE.
    pub fn new(number: u8, party: Party, who: Number, flow: Flow, phase: Phase) -> Leg {
        Leg {
            number,
            party,
            who,
            flow,
            phase,
            local_tag: Box::default(),
            call_id: Box::default(),
            dialog: None,
            invited: None,
            inviting: None,
            unacknowledged: None,
            owes_ack: None,
            last_ack: None,
            pair: None,
            video: None,
            secure: None,
            mux: false,
            takes: None,
            held: false,
            silent: false,
            parked: false,
            conferred: None,
            probed: false,
            sips: false,
            unheld_at: Instant::ZERO,
            functions: None,
            lease: None,
            sdp_version: 0,
            declined: Vec::new(),
            alive: (Instant::ZERO, 0),
            times: Times::from(Instant::ZERO),
            codec: Text::EMPTY,
            joined: None,
            awaited: None,
            described: Box::default(),
            change: None,
            report: None,
            refers: 0,
            ext: Extensions::default(),
        }
    }

    /// Lets the last ACK go when its 2xx comes no more. RFC 3261, 13.3.1.4: "If the server retransmits the
    /// 2xx response for 64*T1 seconds without receiving an ACK, the dialog is confirmed, but the session
    /// SHOULD be terminated." To be called now and then.
    pub fn age_ack(&mut self, now: Instant) {
        if let Some(ack) = &mut self.last_ack {
            let seen_at = *ack.seen_at.get_or_insert(now);
            if now.since(seen_at) > LIFE {
                self.last_ack = None;
            }
        }
    }

    /// The agent at the other end.
    pub fn agent(&self) -> Option<AgentSlot> {
        match self.party {
            Party::Agent(agent, _) => Some(agent),
            Party::Trunk(..) | Party::Peer(_) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ack_is_kept_while_its_answer_may_come_again() {
        let peer = SocketAddr::from(([192, 0, 2, 1], 5060));
        let flow = Flow { location: LocationId(0), peer, channel: Channel::UDP };
        let party = Party::Trunk(0);
        let mut leg = Leg::new(1, party, Number::EMPTY, flow, Phase::Established);
        let at = |seconds: u64| Instant::from_nanos(seconds * 1_000_000_000);
        let ack = || Some(LastAck { flow, bytes: Rc::from(&b"ACK"[..]), seen_at: None });
        leg.last_ack = ack();
        leg.age_ack(at(100));
        leg.age_ack(at(132));
        assert!(leg.last_ack.is_some(), "64*T1 after it was sent at the latest");
        leg.age_ack(at(133));
        assert!(leg.last_ack.is_none());
        // A re-INVITE's counts by itself.
        leg.last_ack = ack();
        leg.age_ack(at(134));
        assert!(leg.last_ack.is_some());
    }

    #[test]
    fn a_leg_survives_its_word() {
        let leg = LegRef { call: CallRef { slot: 0xab_cdef, generation: u32::MAX }, leg: 7 };
        assert_eq!(LegRef::from_word(leg.to_word()), leg);
    }
}

//! What blades say to each other over the bus, and what they put where all can see it.
//!
//! A blade asks another one, the CDM's leader or a queue's owner a [`Question`] and gets one [`Answer`] or none
//! in time. What others must know without asking are [`Fact`]s under [`Key`]s: how a blade does, which CCB is the
//! home of a directory number (S3-005), who leads. The server carries both; nothing here knows how.
//!
//! Times are durations, since clocks of blades differ. Fields that a version does not know are passed over, and
//! those that it misses have a default (G-26).

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use abi::{Fence, Purpose};
use base::{CcbId, TenantId};
use serde::{Deserialize, Serialize};

use crate::acd::CallerId;
use crate::cdm::CcbStatus;
use crate::desk::{Carried, CarriedAnswer};
use crate::login::{End, LoginKey};
use crate::message::{Granted, LoginRefusal, LoginRequest};
use crate::pool::{PoolOrder, PoolRefusal, SlotId, SlotState};

pub mod hub;

/// The name of a blade, unique on its bus: 1 to 64 letters, digits, dashes or underscores.
pub type BladeName = Arc<str>;

/// How often a blade reports, in milliseconds (G-11).
pub const REPORT_MS: u64 = 500;
/// A report that is older than this says nothing any more: three were missed (G-11).
pub const REPORT_LIFE_MS: u64 = 1_500;
/// How long a claim (of leadership, of a queue) lives that is not renewed, in milliseconds: three renewals were
/// missed, and who stands by has it within two seconds.
pub const CLAIM_LIFE_MS: u64 = 1_500;
/// How long an answer is waited for, in milliseconds.
pub const ASK_MS: u64 = 1_000;

/// Where something stands that all blades see.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Key {
    /// How a blade does; lives [`REPORT_LIFE_MS`].
    Blade(BladeName),
    /// The home of a directory number; lives until it is taken away.
    Number(TenantId, String),
    /// Who leads the CDM; lives [`CLAIM_LIFE_MS`].
    Leader,
    /// Who owns a queue; lives [`CLAIM_LIFE_MS`].
    Queue(TenantId, String),
}

/// What stands there.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Fact {
    /// Under [`Key::Blade`].
    Blade(Report),
    /// Under [`Key::Number`].
    Home(Home),
    /// Under [`Key::Leader`] and [`Key::Queue`].
    Claim(Claim),
}

/// How a blade and its CCBs do (S1-037, S1-052).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Report {
    /// A number that no earlier control process of that blade had.
    pub incarnation: u64,
    /// Grows with each report of an incarnation.
    pub sequence: u64,
    /// Its CCBs by device number.
    pub ccbs: BTreeMap<u16, CcbReport>,
    /// True while it serves logins.
    pub is_agent_proxy: bool,
    /// Its number when it is an AgentProxy and nothing else.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub agent_proxy: Option<u16>,
    /// Where that one takes logins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub http: Vec<SocketAddr>,
    /// Logins that it took in the last second (S1-067).
    #[serde(skip_serializing_if = "is_zero")]
    pub logins_s: u32,
    /// Its slots for AgentProxies.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub proxies: BTreeMap<u16, SlotState>,
}

fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// How a CCB does.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CcbReport {
    /// Whether it runs normally.
    pub status: CcbStatus,
    /// The incarnation of its data plane; 0 while there is none.
    pub incarnation: u64,
    /// Logins that are online.
    pub online: u32,
    /// Logins with a phone and no desk.
    pub phones: u32,
    /// Logins granted that have neither yet.
    pub granted: u32,
    /// Logins that it has room for.
    pub capacity: u32,
    /// Calls that stand.
    pub calls: u32,
    /// The names of its locations.
    pub locations: Vec<String>,
    /// Where other CCBs send SIP for its agents.
    pub sip: Option<SocketAddr>,
    /// How its slot does, when it is in the pool (S1-016).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<SlotState>,
    /// While it drains: in how many seconds it is stopped whoever is left.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stops_in_s: Option<u32>,
    /// The logins whose grants of other blades it has taken over since the last report: its registry's
    /// counts include them now (G-10).
    pub taken: Vec<LoginKey>,
}

/// Where the agent of a number is logged in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Home {
    /// The blade whose control serves it.
    pub blade: BladeName,
    /// The CCB.
    #[serde(with = "wire::ccb")]
    pub ccb: CcbId,
    /// The agent's key in the directory.
    pub agent: u64,
    /// The login epoch; of two homes the one with the higher epoch is right (G-24).
    pub epoch: u32,
    /// The how manieth place of that login it is, from 0: of two that were granted since the answer of one was
    /// lost, the later one is right.
    #[serde(default)]
    pub turn: u32,
}

/// Somebody does what only one may do at a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claim {
    /// Who.
    pub blade: BladeName,
    /// The incarnation of its control process.
    pub incarnation: u64,
}

/// Whom a question is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum To {
    /// That blade's control.
    Blade(BladeName),
}

/// What a blade asks another one.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Question {
    /// Of the CDM's leader: which CCB gets this login (S1-055)?
    Place(Place),
    /// Of the blade of that CCB: make this login there.
    Login {
        /// The CCB.
        #[serde(with = "wire::ccb")]
        ccb: CcbId,
        /// The login, which the asker has authenticated.
        request: Box<LoginRequest>,
        /// As in [`Home`].
        #[serde(default)]
        turn: u32,
    },
    /// Of the blade of an older login: it is over, a newer one begins (G-24).
    Leave {
        /// The older login.
        login: LoginKey,
        /// Although the agent is in a call.
        force: bool,
    },
    /// Of a login's blade: it is to end.
    Logout {
        /// The login.
        login: LoginKey,
        /// Why.
        end: End,
    },
    /// Of an agent's home: the agent's lease word for a call (S2-006, S2-007, S3-006).
    Lease(LeaseRequest),
    /// Of an agent's home: a grant is not used after all.
    GiveBack {
        /// As it was granted.
        #[serde(with = "wire::fence")]
        fence: Fence,
        /// Whose.
        #[serde(with = "wire::tenant")]
        tenant: TenantId,
        /// Whose.
        number: String,
    },
    /// Of a holder: which of these leases does it still hold? Asked by a home that came back.
    Holds {
        /// The home.
        #[serde(with = "wire::ccb")]
        ccb: CcbId,
        /// Fences in the home's region.
        leases: Vec<HeldLease>,
    },
    /// Of a queue's owner: a caller of ours waits there.
    QueueJoin {
        /// Whose queue.
        #[serde(with = "wire::tenant")]
        tenant: TenantId,
        /// Its name.
        queue: String,
        /// Names the caller among those of the asker.
        caller: CallerId,
        /// For how long the caller has waited so far, in milliseconds.
        wait_ms: u64,
    },
    /// Of a queue's owner: a caller of ours waits no more.
    QueueLeave {
        /// As it joined.
        caller: CallerId,
        /// The caller waited for too long, and did not hang up.
        overflowed: bool,
    },
    /// Of the blade of a caller: that agent is chosen; the outcome is told later.
    QueueOffer {
        /// As it joined.
        caller: CallerId,
        /// The agent.
        agent: LoginKey,
        /// The agent's directory number.
        number: String,
        /// How long the phone may ring, in seconds.
        ring_s: u32,
    },
    /// Of a queue's owner: how its offer went.
    QueueOutcome {
        /// As it joined.
        caller: CallerId,
        /// The agent.
        agent: LoginKey,
        /// How.
        outcome: Outcome,
    },
    /// Of a queue's owner: these agents of ours, and no others, are idle (S3-003).
    QueueAgents {
        /// The longest idle first.
        agents: Vec<IdleAgent>,
    },
    /// Of an agent's blade: the agent let an offer ring.
    QueueUnanswered {
        /// The agent.
        agent: LoginKey,
    },
    /// Of the blade that has a call: what the desk of an agent wants of it (S2-013).
    Desk(Carried),
    /// Of a blade with slots of the pool: an order (S1-050, S1-051).
    Pool(PoolRequest),
}

/// An order for the slots of a blade. The same `id` of the same blade gets the same answer, and is done once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoolRequest {
    /// Names the request among those of its blade's incarnation.
    pub id: u64,
    /// The incarnation of the asking blade's control process.
    pub incarnation: u64,
    /// The term of the CDM's leader whose order it is; none when it is an administrator's (G-14).
    #[serde(default)]
    pub term: Option<u64>,
    /// The order.
    pub order: PoolOrder,
}

/// How an offer of a queue went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The two talk.
    Taken,
    /// The agent's lease word was not to be had, or no phone.
    Denied,
    /// The phone was not answered, or said no.
    NoAnswer,
    /// The caller is gone.
    Gone,
}

/// An agent who waits for a call of a queue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdleAgent {
    /// The login.
    pub login: LoginKey,
    /// The directory number.
    pub number: String,
    /// For how long, in milliseconds.
    pub idle_ms: u64,
}

/// A login that needs a place.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Place {
    /// The login.
    pub login: LoginKey,
    /// The location's name.
    pub location: String,
    /// The CCBs that the mapping list has addresses of for the location.
    #[serde(with = "wire::ccbs")]
    pub eligible: Vec<CcbId>,
    /// CCBs that were tried for this login and refused.
    #[serde(with = "wire::ccbs")]
    pub refused: Vec<CcbId>,
}

/// A request for an agent's lease word. The same `id` of the same blade gets the same answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// Names the request among those of its blade's incarnation.
    pub id: u64,
    /// The incarnation of the asking blade's control process.
    pub incarnation: u64,
    /// The CCB that is to hold the agent.
    #[serde(with = "wire::ccb")]
    pub holder: CcbId,
    /// Its data plane's incarnation.
    pub holder_incarnation: u64,
    /// The tenant.
    #[serde(with = "wire::tenant")]
    pub tenant: TenantId,
    /// The agent's directory number.
    pub number: String,
    /// What for.
    #[serde(with = "wire::purpose")]
    pub purpose: Purpose,
    /// The caller's number, to be shown, and to see glare by (G-03).
    pub caller: String,
    /// The caller's key in the directory when an agent calls; of two agents who call each other, the call of the
    /// lower key survives (G-03).
    pub caller_agent: Option<u64>,
    /// The call's serial number at the holder.
    pub serial: u64,
    /// For how long the asker waits, in milliseconds, from when it sent the request.
    pub ttl_ms: u32,
    /// The queue that the call came by.
    #[serde(default)]
    pub queue: Option<FromQueue>,
}

/// The queue that a call came by, as the agent's home needs it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FromQueue {
    /// Its name.
    pub name: String,
    /// How long the caller has waited, in milliseconds.
    pub waited_ms: u64,
    /// How long the agent works after the call, in seconds.
    pub after_call_s: u32,
}

/// A lease that a home's region says somebody holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldLease {
    /// Its fence.
    #[serde(with = "wire::fence")]
    pub fence: Fence,
    /// Whose.
    #[serde(with = "wire::tenant")]
    pub tenant: TenantId,
    /// The agent's directory number.
    pub number: String,
}

/// What is answered.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Question::Place`]: the CCB and its blade; none runs normally and has room.
    Placed(Option<Placed>),
    /// To [`Question::Login`].
    Login(Result<Granted, LoginRefusal>),
    /// To [`Question::Leave`]: false when the agent is in a call. To [`Question::Logout`]: whether it stood.
    Left(bool),
    /// To [`Question::Lease`].
    Lease(Result<Grant, Denial>),
    /// To [`Question::GiveBack`].
    GivenBack,
    /// To [`Question::Holds`]: which of the leases, by their place in the question.
    Holds(Vec<bool>),
    /// To the questions about queues: whether it was done.
    Queue(bool),
    /// To [`Question::Desk`], once it is decided.
    Desk(CarriedAnswer),
    /// To [`Question::Pool`]: the slot.
    Pool(Result<SlotId, PoolRefusal>),
    /// The asked cannot say: it does not lead, or knows no such question.
    NotHere,
}

/// Where a login is to go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Placed {
    /// The blade.
    pub blade: BladeName,
    /// The CCB.
    #[serde(with = "wire::ccb")]
    pub ccb: CcbId,
}

/// An agent's lease word was won, and the agent is hosted: the registration and login information of S2-008.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// What the INVITE must show.
    #[serde(with = "wire::fence")]
    pub fence: Fence,
    /// Proves that the INVITE is the holder's; never logged.
    pub token: Token,
    /// The home.
    #[serde(with = "wire::ccb")]
    pub home: CcbId,
    /// Where it takes SIP.
    pub sip: SocketAddr,
    /// The agent's key in the directory.
    pub agent: u64,
    /// The directory number.
    pub number: String,
    /// The SIP user.
    pub user: String,
    /// The name to show.
    pub name: String,
    /// Voice, chat, universal or supervisor, by number (G-26).
    pub agent_type: u32,
    /// Where the agent's phone is registered.
    pub phone: Option<SocketAddr>,
    /// The agent's state by name.
    pub state: String,
    /// For how long the word waits for the INVITE, in milliseconds.
    pub ttl_ms: u32,
}

/// A random number that only its finder knows.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token(pub [u8; 16]);

impl core::fmt::Debug for Token {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Token(..)")
    }
}

/// Why a lease was denied (G-01).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Denial {
    /// In a call.
    Busy,
    /// A phone rings.
    Ringing,
    /// Another CCB has the agent (G-25).
    Hosted(u16),
    /// Does not take calls; why.
    NotReady(String),
    /// No phone is registered.
    NotRegistered,
    /// Not logged in.
    LoggedOut,
    /// The CCB takes no new calls.
    Draining,
    /// Logged in elsewhere meanwhile.
    Moved,
    /// The home's data plane is away.
    OwnerAway,
    /// No such number.
    Unknown,
    /// The asked agent calls the asking one at the same time, and that call goes first (G-03).
    Glare,
}

/// What the core is told of the bus.
#[derive(Debug)]
pub enum Heard {
    /// The bus is there, or is gone. While it is gone the blade goes on alone.
    Connected(bool),
    /// A blade asks; [`Say::Reply`] answers.
    Asked {
        /// Comes back with the answer.
        reply: u64,
        /// Who asks.
        from: BladeName,
        /// What.
        question: Box<Question>,
    },
    /// The answer to a question of ours; none came in time, or nobody is there.
    Answered {
        /// As it was asked.
        ask: u64,
        /// The answer.
        answer: Option<Box<Answer>>,
    },
    /// What stands under a key changed, or we see it for the first time. Our own puts are told, too.
    Fact {
        /// The key.
        key: Key,
        /// None when it was taken away; one that has grown old is not told.
        fact: Option<Fact>,
    },
    /// What became of [`Say::Claim`].
    Claimed {
        /// The key.
        key: Key,
        /// The term when we have it: grows with each holder. None when somebody else has it, or the bus is gone.
        term: Option<u64>,
    },
}

/// What the core wants of the bus.
#[derive(Debug)]
pub enum Say {
    /// Asks somebody.
    Ask {
        /// Comes back with the answer.
        ask: u64,
        /// Who.
        to: To,
        /// What.
        question: Box<Question>,
        /// For how long an answer is waited for, in milliseconds.
        within_ms: u64,
    },
    /// Answers.
    Reply {
        /// As it was asked.
        reply: u64,
        /// The answer.
        answer: Box<Answer>,
    },
    /// Puts a fact, or takes it away.
    Put {
        /// The key.
        key: Key,
        /// The fact.
        fact: Option<Fact>,
    },
    /// Claims a key for [`CLAIM_LIFE_MS`], or renews the claim; it succeeds when nobody else's stands.
    Claim {
        /// The key.
        key: Key,
        /// Ours.
        claim: Claim,
    },
    /// Gives a claim of ours up.
    Disclaim {
        /// The key.
        key: Key,
    },
}

/// Numbers and names of the house as they stand on the bus.
pub(crate) mod wire {
    macro_rules! number {
        ($name:ident, $type:path, $int:ty) => {
            pub(crate) mod $name {
                use serde::{Deserialize, Deserializer, Serialize, Serializer};

                pub(crate) fn serialize<S: Serializer>(
                    it: &$type,
                    to: S,
                ) -> Result<S::Ok, S::Error> {
                    it.0.serialize(to)
                }

                pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
                    from: D,
                ) -> Result<$type, D::Error> {
                    <$int>::deserialize(from).map($type)
                }
            }
        };
    }

    number!(ccb, base::CcbId, u16);
    number!(tenant, base::TenantId, u32);

    pub(crate) mod ccbs {
        use base::CcbId;
        use serde::{Deserialize, Deserializer, Serializer};

        pub(crate) fn serialize<S: Serializer>(ccbs: &[CcbId], to: S) -> Result<S::Ok, S::Error> {
            to.collect_seq(ccbs.iter().map(|ccb| ccb.0))
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
            from: D,
        ) -> Result<Vec<CcbId>, D::Error> {
            Ok(Vec::<u16>::deserialize(from)?.into_iter().map(CcbId).collect())
        }
    }

    pub(crate) mod fence {
        use abi::Fence;
        use serde::{Deserialize, Deserializer, Serialize, Serializer};

        pub(crate) fn serialize<S: Serializer>(fence: &Fence, to: S) -> Result<S::Ok, S::Error> {
            (fence.epoch, fence.incarnation, fence.counter).serialize(to)
        }

        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Fence, D::Error> {
            let (epoch, incarnation, counter) = Deserialize::deserialize(from)?;
            Ok(Fence { epoch, incarnation, counter })
        }
    }

    pub(crate) mod purpose {
        use abi::Purpose;
        use serde::{Deserialize, Deserializer, Serializer};

        pub(crate) fn serialize<S: Serializer>(it: &Purpose, to: S) -> Result<S::Ok, S::Error> {
            to.serialize_u8(*it as u8)
        }

        /// A purpose of a later version is a call.
        pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Purpose, D::Error> {
            let number = u8::deserialize(from)?;
            let known = Purpose::ALL.into_iter().find(|purpose| *purpose as u8 == number);
            Ok(known.unwrap_or(Purpose::Call))
        }
    }
}

//! What desks ask for, and why it is refused.

use abi::{GuestKind, MixRole};
use base::{CcbId, TenantId};
use serde::{Deserialize, Serialize};

use crate::seat::Reason;

/// What a desk can ask for. A call is named by its serial number; none is the only one, or the one that came last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeskCommand {
    /// The agent takes calls of queues.
    Ready,
    /// The agent takes none, and why; a call that stands goes on.
    NotReady(Reason),
    /// A call is to end.
    HangUp(Option<u64>),
    /// The agent's phone is to be called, and then that number.
    Dial(String),
    /// The other party of a call is to be given to that number.
    Transfer(Option<u64>, String),
    /// The agent's phone, which rings, is to answer.
    Answer(Option<u64>),
    /// The other party of a call is to be put on hold.
    Hold(Option<u64>),
    /// It is to be taken back.
    Retrieve(Option<u64>),
    /// The agent, who is a supervisor, is to hear the call of the agent of that number. While that is so, it changes how.
    Supervise(String, Supervision),
    /// The supervisor leaves.
    StopSupervising,
    /// That number is to be brought into a call, which becomes a conference of the agent's.
    ConferenceAdd(Option<u64>, String),
    /// That number is to leave the conference.
    ConferenceDrop(Option<u64>, String),
}

/// How a supervisor is in a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Supervision {
    /// Hears all, and is heard by nobody.
    Monitor,
    /// Hears all, and is heard by the agent alone.
    Whisper,
    /// Hears all and is heard by all.
    Barge,
}

impl Supervision {
    /// What it is in the mix.
    pub(crate) fn kind(self) -> GuestKind {
        GuestKind::of_role(match self {
            Supervision::Monitor => MixRole::Monitor,
            Supervision::Whisper => MixRole::Whisper,
            Supervision::Barge => MixRole::Participant,
        })
    }
}

/// A desk's order that another blade, or another CCB, is to carry out: it has the call (S2-013).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Carried {
    /// The tenant.
    #[serde(with = "crate::cluster::wire::tenant")]
    pub tenant: TenantId,
    /// The number of the desk's agent.
    pub number: String,
    /// The CCB that serves the agent.
    #[serde(with = "crate::cluster::wire::ccb")]
    pub home: CcbId,
    /// What.
    pub order: CarriedOrder,
}

/// What is carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CarriedOrder {
    /// As [`DeskCommand::Hold`].
    Hold,
    /// As [`DeskCommand::Retrieve`].
    Retrieve,
    /// As [`DeskCommand::Transfer`].
    Transfer(String),
    /// As [`DeskCommand::ConferenceAdd`].
    Add(String),
    /// As [`DeskCommand::ConferenceDrop`].
    Drop(String),
    /// As [`DeskCommand::Supervise`]; the desk's own blade has seen that it may.
    Supervise(String, Supervision),
}

/// What became of an order that was carried.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CarriedAnswer {
    /// It was done.
    Done,
    /// It was not.
    Refused(DeskRefusal),
    /// That blade has the call.
    At(crate::cluster::BladeName),
}

/// Why a desk's order is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DeskRefusal {
    /// Only a supervisor with the right to may listen to others.
    NoRight,
    /// The agent has no such call.
    NoCall,
    /// The phone does not ring.
    NotRinging,
    /// The phone cannot be asked to answer.
    NoTalk,
    /// The call is held already, or is not, or is about to be something else.
    NotNow,
    /// The call is a conference.
    InConference,
    /// The agent does not organise a conference.
    NotOrganiser,
    /// The number has a part in the call.
    AlreadyIn,
    /// The number has none.
    NotIn,
    /// Nobody has the number.
    NoSuchNumber,
    /// The agent to be heard is in no call.
    NotTalking,
    /// Another CCB has the agent (G-25).
    HeldBy(u16),
    /// The agent is in a call.
    Busy,
    /// The agent's phone cannot be reached.
    NotReachable,
    /// The phone was not answered in time.
    NoAnswer,
    /// The phone said no, or takes no G.711.
    Declined,
    /// There is no room.
    Full,
    /// Who has the call does not answer.
    Away,
    /// Anything that a later version knows.
    #[serde(other)]
    Other,
}

impl DeskRefusal {
    /// The field of the order that it is about.
    pub fn field(self) -> &'static str {
        use DeskRefusal::{
            AlreadyIn, Busy, Declined, HeldBy, NoAnswer, NoRight, NoSuchNumber, NotIn,
            NotReachable, NotTalking,
        };
        match self {
            NoRight => "type",
            NotTalking => "agent",
            AlreadyIn | NotIn | NoSuchNumber | HeldBy(_) | Busy | NotReachable | NoAnswer
            | Declined => "to",
            _ => "call",
        }
    }

    /// The rule that it breaks.
    pub fn rule(self) -> String {
        let text = match self {
            DeskRefusal::NoRight => {
                "only an agent of type supervisor with the right `supervise` may listen to others"
            }
            DeskRefusal::NoCall => "the agent must be in that call, answered",
            DeskRefusal::NotRinging => "the agent's phone must ring",
            DeskRefusal::NoTalk => "the phone must say `Allow-Events: talk` when it rings",
            DeskRefusal::NotNow => {
                "only a call that is not held is held, only one that is held is taken back, one at a time"
            }
            DeskRefusal::InConference => "a conference is not held or transferred",
            DeskRefusal::NotOrganiser => "only who organises a conference changes it",
            DeskRefusal::AlreadyIn => "who has a part in the call is not called again",
            DeskRefusal::NotIn => "only who has a part in the call leaves it",
            DeskRefusal::NoSuchNumber => "somebody must have the number",
            DeskRefusal::NotTalking => "the agent must be in a call, answered",
            DeskRefusal::HeldBy(ccb) => {
                return format!("who is called must be free; CCB {ccb} has the agent");
            }
            DeskRefusal::Busy => "who is called must be free; the agent is in a call",
            DeskRefusal::NotReachable => "who is called must be logged in with a phone",
            DeskRefusal::NoAnswer => "who is called must answer in time",
            DeskRefusal::Declined => "who is called must take the call, with G.711",
            DeskRefusal::Full => "there must be room for one more call",
            DeskRefusal::Away => "the CCB that has the call must be there",
            DeskRefusal::Other => "the CCB that has the call must allow it",
        };
        text.to_owned()
    }
}

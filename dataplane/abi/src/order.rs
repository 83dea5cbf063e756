//! What the control process orders for the media of a leg: prompts, digits, recordings, mixes.

use base::CallRef;

use crate::record::{Put, Take};
use crate::ring::Corrupt;

/// An order for the media of one leg. Payloads are needed for all of them, so the leg's streams leave
/// the bypass as long as one stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MediaOrder {
    /// Plays a prompt to the leg; the blob is its name. What the leg's peer sends is not heard
    /// meanwhile. The completion comes when it has been played, or was stopped
    /// ([`crate::OpResult::Stopped`]).
    Play {
        /// How often; 0 is until it is stopped (hold music).
        times: u32,
    },
    /// Stops what is being played.
    StopPlaying,
    /// Collects digits (RFC 4733) that the leg's peer presses. They come as
    /// [`crate::Event::Digits`], just before the completion.
    Collect {
        /// After so many digits it is done, 1 to 64.
        max: u8,
        /// How long the first digit may take, in milliseconds.
        first_ms: u32,
        /// How long each further one may take, in milliseconds.
        next_ms: u32,
        /// Digits that end it and are not counted; bit n is the event n of RFC 4733 (10 `*`, 11 `#`).
        ends: u16,
        /// The first digit stops what is being played.
        barge_in: bool,
    },
    /// Records the call, both directions of the leg, under a number that control gives.
    Record {
        /// The recording.
        recording: u64,
    },
    /// Leaves out what comes from now on.
    PauseRecording,
    /// Records again.
    ResumeRecording,
    /// Ends the recording of the leg.
    StopRecording,
    /// Puts the leg into a mix of this worker (a conference), which the first one makes; it leaves
    /// the leg that it is bridged to, and what it was in before.
    Mix {
        /// The mix; control numbers them.
        mix: u32,
        /// What it hears and who hears it.
        role: MixRole,
        /// Whom [`MixRole::Whisper`] speaks to.
        to: CallRef,
        /// The leg of `to`.
        to_leg: u8,
    },
    /// The same as a participant for good: the leg is parted from the one that it is bridged to, and each of them
    /// stays in its call when the other goes (a conference).
    Confer {
        /// The mix.
        mix: u32,
        /// True for the leg of who has called the others together.
        organiser: bool,
    },
    /// Takes the leg out of its mix; if its call has another leg, the two are bridged again.
    LeaveMix,
}

/// What a leg is in a mix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum MixRole {
    /// Hears all others and is heard by all. A supervisor who barges in is one.
    Participant = 1,
    /// Hears all and is heard by none.
    Monitor = 2,
    /// Hears all and is heard by one.
    Whisper = 3,
}

/// What somebody is in a mix who was called for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u32)]
pub enum GuestKind {
    /// A participant of a conference.
    Participant = 1,
    /// A supervisor who listens.
    Monitor = 2,
    /// A supervisor who speaks to one.
    Whisper = 3,
    /// A supervisor who speaks to all.
    Barge = 4,
}

impl GuestKind {
    /// The one of that number, as rows have it.
    pub fn of(number: u32) -> Option<Self> {
        use GuestKind::{Barge, Monitor, Participant, Whisper};
        let mut all = [Participant, Monitor, Whisper, Barge].into_iter();
        all.find(|kind| *kind as u32 == number)
    }

    /// What it hears, and who hears it.
    pub const fn role(self) -> MixRole {
        match self {
            GuestKind::Participant | GuestKind::Barge => MixRole::Participant,
            GuestKind::Monitor => MixRole::Monitor,
            GuestKind::Whisper => MixRole::Whisper,
        }
    }

    /// The kind of a supervisor in that role.
    pub const fn of_role(role: MixRole) -> Self {
        match role {
            MixRole::Participant => GuestKind::Barge,
            MixRole::Monitor => GuestKind::Monitor,
            MixRole::Whisper => GuestKind::Whisper,
        }
    }
}

const PLAY: u64 = 1;
const STOP_PLAYING: u64 = 2;
const COLLECT: u64 = 3;
const RECORD: u64 = 4;
const PAUSE: u64 = 5;
const RESUME: u64 = 6;
const STOP_RECORDING: u64 = 7;
const MIX: u64 = 8;
const LEAVE_MIX: u64 = 9;
const CONFER: u64 = 10;

impl MediaOrder {
    pub(crate) fn put(self, put: Put) -> Put {
        match self {
            MediaOrder::Play { times } => put.int(PLAY).int(times),
            MediaOrder::StopPlaying => put.int(STOP_PLAYING),
            MediaOrder::Collect { max, first_ms, next_ms, ends, barge_in } => {
                put.int(COLLECT).int(max).int(first_ms).int(next_ms).int(ends).int(barge_in)
            }
            MediaOrder::Record { recording } => put.int(RECORD).int(recording),
            MediaOrder::PauseRecording => put.int(PAUSE),
            MediaOrder::ResumeRecording => put.int(RESUME),
            MediaOrder::StopRecording => put.int(STOP_RECORDING),
            MediaOrder::Mix { mix, role, to, to_leg } => {
                put.int(MIX).int(mix).int(role as u32).call(to).int(to_leg)
            }
            MediaOrder::Confer { mix, organiser } => put.int(CONFER).int(mix).int(organiser),
            MediaOrder::LeaveMix => put.int(LEAVE_MIX),
        }
    }

    pub(crate) fn take(take: &mut Take<'_>) -> Result<Self, Corrupt> {
        Ok(match take.u64()? {
            PLAY => MediaOrder::Play { times: take.int()? },
            STOP_PLAYING => MediaOrder::StopPlaying,
            COLLECT => MediaOrder::Collect {
                max: take.int()?,
                first_ms: take.int()?,
                next_ms: take.int()?,
                ends: take.int()?,
                barge_in: take.yes_or_no()?,
            },
            RECORD => MediaOrder::Record { recording: take.u64()? },
            PAUSE => MediaOrder::PauseRecording,
            RESUME => MediaOrder::ResumeRecording,
            STOP_RECORDING => MediaOrder::StopRecording,
            MIX => MediaOrder::Mix {
                mix: take.int()?,
                role: take.one_of(MixRole::of, "a role in a mix")?,
                to: take.call()?,
                to_leg: take.int()?,
            },
            CONFER => MediaOrder::Confer { mix: take.int()?, organiser: take.yes_or_no()? },
            LEAVE_MIX => MediaOrder::LeaveMix,
            _ => return Err(Corrupt { what: "the kind of a media order" }),
        })
    }
}

impl MixRole {
    fn of(number: u32) -> Option<Self> {
        match number {
            1 => Some(MixRole::Participant),
            2 => Some(MixRole::Monitor),
            3 => Some(MixRole::Whisper),
            _ => None,
        }
    }
}

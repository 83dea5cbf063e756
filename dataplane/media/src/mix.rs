//! A conference: each hears the sum of all others that it may hear.
//!
//! One turn is one pass over the members: the participants' frames are added up once, and each participant
//! gets the sum without itself, so that the cost grows with the members and not with their pairs.
//!
//! | | is heard by | hears |
//! |---|---|---|
//! | participant | all | the other participants, and who whispers to it |
//! | monitor | nobody | the participants |
//! | whisperer | the one it whispers to | the participants |

use base::Instant;

use crate::codec::{FRAME_SAMPLES, Frame};
use crate::playout::{Playout, PlayoutStats};
use crate::wire::Rtp;

/// The most members of a mix. A turn of all of them takes well under a tenth of a frame's time, and their
/// sum fits into 32 bits.
pub const MEMBERS_MAX: usize = 500;

/// A frame whose samples are all within this is silence and is not added: -60 dB of full scale. The idle
/// code of A-law is 8.
const SILENCE: u16 = 32;

/// What a member of a mix is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Hears and is heard. A supervisor who barges in is one.
    Participant,
    /// Hears the participants and is heard by nobody.
    Monitor,
    /// Hears the participants and is heard by this member alone; by nobody while it is not there.
    Whisper(u32),
}

/// The mix is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MixFull;

/// A conference of members that the caller numbers.
#[derive(Clone, Debug, Default)]
pub struct Mix {
    /// By their numbers.
    members: Vec<Member>,
}

#[derive(Clone, Debug)]
struct Member {
    id: u32,
    role: Role,
    playout: Playout,
    /// What it says in this turn; none is silence.
    says: Option<Frame>,
}

impl Mix {
    /// A mix of nobody.
    pub fn new() -> Self {
        Mix::default()
    }

    /// Adds a member, or gives the one of this number another role; its sound goes on.
    pub fn add(&mut self, id: u32, role: Role) -> Result<(), MixFull> {
        match self.find(id) {
            Ok(index) => self.members[index].role = role,
            Err(_) if self.members.len() >= MEMBERS_MAX => return Err(MixFull),
            Err(index) => {
                let member = Member { id, role, playout: Playout::new(), says: None };
                self.members.insert(index, member);
            }
        }
        Ok(())
    }

    /// Takes a member out and returns what its buffer counted; none when it is not there.
    pub fn remove(&mut self, id: u32) -> Option<PlayoutStats> {
        let index = self.find(id).ok()?;
        Some(self.members.remove(index).playout.stats())
    }

    /// What a member is; none when it is not there.
    pub fn role(&self, id: u32) -> Option<Role> {
        self.find(id).ok().map(|index| self.members[index].role)
    }

    /// How many members there are.
    pub fn len(&self) -> usize {
        self.members.len()
    }

    /// True when there is nobody.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// What the buffer of a member counted so far.
    pub fn stats(&self, id: u32) -> Option<PlayoutStats> {
        self.find(id).ok().map(|index| self.members[index].playout.stats())
    }

    /// Takes a packet that a member sent; nothing when it is not there, or is a monitor.
    pub fn push(&mut self, id: u32, arrival: Instant, rtp: &Rtp<'_>) {
        if let Ok(index) = self.find(id)
            && self.members[index].role != Role::Monitor
        {
            self.members[index].playout.push(arrival, rtp);
        }
    }

    /// Appends what each member hears in the next 20 ms, silence too, in the order of their numbers. Call it
    /// every 20 ms; `now` tells by how much it was not.
    pub fn turn(&mut self, now: Instant, out: &mut Vec<(u32, Frame)>) {
        let mut sum = [0i32; FRAME_SAMPLES];
        for member in &mut self.members {
            member.says = member.playout.pull(now).filter(|frame| !is_silent(frame));
            if let (Role::Participant, Some(frame)) = (member.role, &member.says) {
                for (sum, &sample) in sum.iter_mut().zip(frame) {
                    *sum += i32::from(sample);
                }
            }
        }
        let first = out.len();
        let all = saturated(&sum);
        out.extend(self.members.iter().map(|member| match (member.role, &member.says) {
            (Role::Participant, Some(own)) => {
                (member.id, saturated(&std::array::from_fn(|at| sum[at] - i32::from(own[at]))))
            }
            _ => (member.id, all),
        }));
        for (index, whisperer) in self.members.iter().enumerate() {
            if let Some(to) = whisperer.whispers_to()
                && let Ok(target) = self.find(to)
                // The first one to whisper to it speaks for all who do.
                && self.members[..index].iter().all(|earlier| earlier.whispers_to() != Some(to))
            {
                out[first + target].1 = self.with_whispers(target, &sum);
            }
        }
    }

    /// What a member hears to whom others whisper. The whole of it is added before it is saturated.
    fn with_whispers(&self, target: usize, sum: &[i32; FRAME_SAMPLES]) -> Frame {
        let mut hears = *sum;
        let member = &self.members[target];
        if let (Role::Participant, Some(own)) = (member.role, &member.says) {
            for (hears, &sample) in hears.iter_mut().zip(own) {
                *hears -= i32::from(sample);
            }
        }
        for whisperer in &self.members {
            if let Some(frame) = &whisperer.says
                && whisperer.whispers_to() == Some(member.id)
            {
                for (hears, &sample) in hears.iter_mut().zip(frame) {
                    *hears += i32::from(sample);
                }
            }
        }
        saturated(&hears)
    }

    fn find(&self, id: u32) -> Result<usize, usize> {
        self.members.binary_search_by_key(&id, |member| member.id)
    }
}

impl Member {
    /// To whom it whispers in this turn.
    fn whispers_to(&self) -> Option<u32> {
        match self.role {
            Role::Whisper(to) if self.says.is_some() => Some(to),
            _ => None,
        }
    }
}

fn is_silent(frame: &Frame) -> bool {
    frame.iter().fold(0, |peak: u16, sample| peak.max(sample.unsigned_abs())) <= SILENCE
}

fn saturated(sum: &[i32; FRAME_SAMPLES]) -> Frame {
    sum.map(|sample| sample.clamp(i16::MIN.into(), i16::MAX.into()) as i16)
}

#[cfg(test)]
mod tests;

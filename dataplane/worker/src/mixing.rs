//! Conferences: legs that hear the sum of the others.
//!
//! A mix belongs to the worker that its number names; its legs may belong to any. A leg's worker passes
//! on what the leg's peer says, and sends what the mix says; between two workers both cross the mesh.

use std::collections::BTreeMap;

use abi::{Counter, MixRole};
use base::{Instant, WorkerId};
use media::codec::Frame;
use media::mix::{Mix, Role};

use crate::Effect;
use crate::call::{LegRef, Phase};
use crate::worker::Worker;
use crate::{MixMessage, Passed};

/// A mix of this worker and whose its members are.
#[derive(Debug, Default)]
pub(crate) struct Mixing {
    mix: Mix,
    members: BTreeMap<u32, Member>,
    numbers: BTreeMap<LegRef, u32>,
    next: u32,
}

#[derive(Clone, Copy, Debug)]
struct Member {
    leg: LegRef,
    worker: WorkerId,
    role: MixRole,
    to: LegRef,
}

impl Mixing {
    /// How many legs are in it.
    pub fn legs(&self) -> usize {
        self.members.len()
    }

    fn join(&mut self, member: Member) {
        if let Some(number) = self.numbers.get(&member.leg).copied() {
            // Another role; what it says goes on.
            let role = self.role_of(&member);
            self.members.insert(number, member);
            let _ = self.mix.add(number, role);
            return;
        }
        self.next = self.next.wrapping_add(1);
        let number = self.next;
        self.numbers.insert(member.leg, number);
        self.members.insert(number, member);
        if self.mix.add(number, self.role_of(&member)).is_err() {
            // Five hundred are enough; who comes then hears nothing.
            return self.leave(member.leg);
        }
        // Who whispers may have come before whom they whisper to.
        let waiting: Vec<(u32, Role)> = self
            .members
            .iter()
            .filter(|(_, other)| other.role == MixRole::Whisper && other.to == member.leg)
            .map(|(number, other)| (*number, self.role_of(other)))
            .collect();
        for (number, role) in waiting {
            // Of one who is there this changes the role only.
            let _ = self.mix.add(number, role);
        }
    }

    fn leave(&mut self, leg: LegRef) {
        if let Some(number) = self.numbers.remove(&leg) {
            self.members.remove(&number);
            self.mix.remove(number);
        }
    }

    /// Whoever whispers to a leg that is not there is heard by nobody.
    fn role_of(&self, member: &Member) -> Role {
        match member.role {
            MixRole::Participant => Role::Participant,
            MixRole::Monitor => Role::Monitor,
            MixRole::Whisper => match self.numbers.get(&member.to) {
                Some(number) => Role::Whisper(*number),
                None => Role::Monitor,
            },
        }
    }
}

impl Worker {
    /// Puts a leg into a mix. False when its peer takes no G.711.
    pub(crate) fn join_mix(&mut self, leg: LegRef, mix: u32, role: MixRole, to: LegRef) -> bool {
        if self.mix_of(leg) != Some(mix) {
            self.leave_mix(leg);
        }
        let Some(entry) = self.calls.leg(leg) else { return false };
        let (Some(pair), Some(_)) = (entry.pair, entry.takes) else { return false };
        self.leave_bypass(leg, media::WhyNot::Mix);
        self.streams.unbridge(pair);
        if let Some(functions) = self.functions_mut(leg) {
            functions.mixed = Some(mix);
        }
        self.tell_mix(mix, MixMessage::Join { mix, leg, worker: self.config.id, role, to });
        self.note_role(leg, role);
        self.note_call(leg.call);
        true
    }

    /// Takes a leg out of its mix, and joins it to its call's other leg again. False when it is in none.
    pub(crate) fn leave_mix(&mut self, leg: LegRef) -> bool {
        let mix = self.functions_of(leg).and_then(|functions| functions.mixed.take());
        let Some(mix) = mix else { return false };
        self.tell_mix(mix, MixMessage::Leave { mix, leg });
        self.note_call(leg.call);
        if let Some(peer) = self.peer_of(leg)
            && self.is_joinable(leg)
            && self.is_joinable(peer)
        {
            self.join_media(leg, peer);
        }
        true
    }

    fn is_joinable(&self, leg: LegRef) -> bool {
        self.calls.leg(leg).is_some_and(|leg| {
            leg.phase == Phase::Established
                && leg.functions.as_ref().is_none_or(|functions| functions.mixed.is_none())
        })
    }

    /// A packet of a mixed leg's peer.
    pub(crate) fn pass_to_mix(&mut self, now: Instant, leg: LegRef, packet: &[u8]) {
        let Some(mix) = self.mix_of(leg) else { return };
        if self.mix_owner(mix) == self.config.id {
            return self.hear(now, mix, leg, packet);
        }
        self.tell_mix(mix, MixMessage::Heard { mix, leg, at: now, packet: packet.into() });
    }

    /// What another worker's leg says to a mix of ours, or another worker's mix to a leg of ours.
    pub(crate) fn on_mix(&mut self, now: Instant, message: MixMessage) {
        match message {
            MixMessage::Join { mix, leg, worker, role, to } => {
                let mixing = self.studio.mixes.entry(mix).or_default();
                mixing.join(Member { leg, worker, role, to });
                self.start_frames(now);
            }
            MixMessage::Leave { mix, leg } => {
                if let Some(mixing) = self.studio.mixes.get_mut(&mix) {
                    mixing.leave(leg);
                    if mixing.legs() == 0 {
                        self.studio.mixes.remove(&mix);
                    }
                }
            }
            MixMessage::Heard { mix, leg, at, packet } => self.hear(at, mix, leg, &packet),
            MixMessage::Said { mix, leg, frame } => match self.mix_of(leg) {
                Some(is) if is == mix => self.say(now, leg, &frame),
                // Its farewell was lost on the way.
                _ => self.tell_mix(mix, MixMessage::Leave { mix, leg }),
            },
        }
    }

    fn hear(&mut self, at: Instant, mix: u32, leg: LegRef, packet: &[u8]) {
        let Some(mixing) = self.studio.mixes.get_mut(&mix) else { return };
        let Some(number) = mixing.numbers.get(&leg) else { return };
        if let Ok(rtp) = media::wire::Rtp::parse(packet) {
            mixing.mix.push(*number, at, &rtp);
        }
    }

    /// The next 20 ms of every mix of ours.
    pub(crate) fn mix_frames(&mut self, now: Instant) {
        let mut mixes = std::mem::take(&mut self.studio.mixes);
        let mut frames = std::mem::take(&mut self.studio.frames);
        for (&mix, mixing) in &mut mixes {
            mixing.mix.turn(now, &mut frames);
            for (number, frame) in frames.drain(..) {
                let Some(Member { leg, worker, .. }) = mixing.members.get(&number).copied() else {
                    continue;
                };
                if worker == self.config.id {
                    self.say(now, leg, &frame);
                    continue;
                }
                let passed = Passed::Mix(MixMessage::Said { mix, leg, frame: Box::new(frame) });
                self.effects.push(Effect::Mesh { to: worker, passed });
            }
        }
        self.studio.frames = frames;
        self.studio.mixes = mixes;
    }

    /// What a mix says to a leg of ours; a prompt that is played to it goes before.
    fn say(&mut self, now: Instant, leg: LegRef, frame: &Frame) {
        let functions = self.calls.leg(leg).and_then(|leg| leg.functions.as_ref());
        match functions {
            Some(functions) if functions.mixed.is_some() && functions.playing.is_none() => {
                self.send_frame(now, leg, frame, false);
            }
            _ => self.count(Counter::DropRtpSuperseded),
        }
    }

    fn mix_of(&self, leg: LegRef) -> Option<u32> {
        self.calls.leg(leg)?.functions.as_ref()?.mixed
    }

    fn tell_mix(&mut self, mix: u32, message: MixMessage) {
        let to = self.mix_owner(mix);
        self.effects.push(Effect::Mesh { to, passed: Passed::Mix(message) });
    }

    fn mix_owner(&self, mix: u32) -> WorkerId {
        base::owner(&mix.to_le_bytes(), self.config.workers)
    }
}

use std::f32::consts::TAU;

use super::*;
use crate::codec::Codec;
use crate::tone::Tone;
use crate::wire::RtpHeader;

/// Half a second, so that all even frequencies are orthogonal.
const WINDOW: usize = 4_000;

/// Members that each say a tone of their own.
struct World {
    mix: Mix,
    talkers: Vec<Talker>,
    turns: u64,
    /// What each member heard.
    heard: Vec<Vec<i16>>,
}

struct Talker {
    id: u32,
    frequency: u32,
    tone: Tone,
    codec: Codec,
}

impl World {
    fn new(roles: &[Role], amplitude: i16) -> Self {
        let mut mix = Mix::new();
        let mut talkers = Vec::new();
        for (index, &role) in roles.iter().enumerate() {
            let id = number(index);
            assert_eq!(mix.add(id, role), Ok(()));
            let frequency = 300 + 30 * index as u32;
            let codec = if index % 2 == 0 { Codec::Pcmu } else { Codec::Pcma };
            talkers.push(Talker { id, frequency, tone: Tone::new(frequency, amplitude), codec });
        }
        World { mix, talkers, turns: 0, heard: vec![Vec::new(); roles.len()] }
    }

    fn turn(&mut self) {
        let now = Instant::from_nanos(9_000_000_000 + self.turns * 20_000_000);
        for talker in &mut self.talkers {
            let frame: Frame = std::array::from_fn(|_| talker.tone.next().expect("it has no end"));
            let header = RtpHeader {
                marker: false,
                payload_type: talker.codec.payload_type(),
                sequence: self.turns as u16,
                timestamp: self.turns as u32 * 160 + talker.id,
                ssrc: talker.id,
            };
            let mut bytes = header.bytes().to_vec();
            bytes.extend(talker.codec.encode(&frame));
            self.mix.push(talker.id, now, &Rtp::parse(&bytes).expect("it was just written"));
        }
        let mut out = Vec::new();
        self.mix.turn(now, &mut out);
        assert_eq!(out.len(), self.mix.len());
        for (id, frame) in out {
            let index = self.talkers.iter().position(|talker| talker.id == id).expect("a member");
            self.heard[index].extend(frame);
        }
        self.turns += 1;
    }

    /// The level at which each member hears the tone of each, in the last [`WINDOW`] samples.
    fn levels(&self) -> Vec<Vec<f32>> {
        let waves: Vec<Vec<(f32, f32)>> = self
            .talkers
            .iter()
            .map(|talker| {
                let angle = TAU * talker.frequency as f32 / 8_000.0;
                (0..WINDOW).map(|at| (angle * at as f32).sin_cos()).collect()
            })
            .collect();
        let level = |samples: &[i16], wave: &[(f32, f32)]| {
            let (sin, cos) = samples.iter().zip(wave).fold((0.0, 0.0), |(sin, cos), (&s, wave)| {
                (sin + f32::from(s) * wave.0, cos + f32::from(s) * wave.1)
            });
            f32::hypot(sin, cos) * 2.0 / WINDOW as f32
        };
        let tail = |heard: &Vec<i16>| heard[heard.len() - WINDOW..].to_vec();
        self.heard
            .iter()
            .map(tail)
            .map(|s| waves.iter().map(|wave| level(&s, wave)).collect())
            .collect()
    }

    /// Each member hears exactly those of whom `hears` says so, at `amplitude`.
    fn check(&self, amplitude: f32, hears: impl Fn(usize, usize) -> bool) {
        for (listener, levels) in self.levels().iter().enumerate() {
            for (talker, &level) in levels.iter().enumerate() {
                let expected = if hears(listener, talker) { amplitude } else { 0.0 };
                assert!(
                    // G.711 distorts quiet tones by a hundredth, and one tone's harmonics are others.
                    (level - expected).abs() < amplitude * 0.05,
                    "{listener} hears {talker} at {level}, not {expected}"
                );
            }
        }
    }
}

/// Numbers that are not in the order of joining.
fn number(index: usize) -> u32 {
    (index as u32).wrapping_mul(2_654_435_761) >> 8
}

#[test]
fn each_of_3_and_of_100_hears_all_others_and_not_itself() {
    for (count, amplitude) in [(2, 8_000), (3, 8_000), (100, 300)] {
        let mut world = World::new(&vec![Role::Participant; count], amplitude);
        (0..40).for_each(|_| world.turn());
        world.check(amplitude.into(), |listener, talker| listener != talker);
    }
}

#[test]
fn roles_hear_what_they_may() {
    use Role::*;
    let roles =
        [Participant, Participant, Monitor, Whisper(number(1)), Whisper(number(1)), Participant];
    let mut world = World::new(&roles, 4_000);
    (0..40).for_each(|_| world.turn());
    let participants = [0, 1, 5];
    world.check(4_000.0, |listener, talker| {
        listener != talker
            && (participants.contains(&talker) || (listener == 1 && [3, 4].contains(&talker)))
    });
    // The one who whispered barges in, the monitor whispers to another, a participant listens only.
    for (index, role) in [(3, Participant), (2, Whisper(number(5))), (0, Monitor)] {
        assert_eq!(world.mix.add(number(index), role), Ok(()));
    }
    (0..60).for_each(|_| world.turn());
    let participants = [1, 3, 5];
    world.check(4_000.0, |listener, talker| {
        listener != talker
            && (participants.contains(&talker) || [(1, 4), (5, 2)].contains(&(listener, talker)))
    });
    // Who is whispered to leaves.
    let stats = world.mix.remove(number(1)).expect("it was there");
    assert_eq!((stats.late, stats.restarts), (0, 0));
    assert_eq!(world.mix.remove(number(1)), None);
    world.talkers.remove(1);
    world.heard.remove(1);
    (0..40).for_each(|_| world.turn());
    let names = [0, 2, 3, 4, 5];
    world.check(4_000.0, |listener, talker| {
        let (listener, talker) = (names[listener], names[talker]);
        listener != talker && ([3, 5].contains(&talker) || (listener, talker) == (5, 2))
    });
}

#[test]
fn loud_ones_saturate_and_do_not_wrap() {
    let mut world = World::new(&[Role::Participant; 5], 30_000);
    // All the same tone.
    world.talkers.iter_mut().for_each(|talker| talker.tone = Tone::new(500, 30_000));
    (0..40).for_each(|_| world.turn());
    let heard = &world.heard[0][4_000..];
    assert!(heard.contains(&i16::MAX) && heard.contains(&i16::MIN));
    for pair in heard.windows(2) {
        assert!(i32::from(pair[0]).abs_diff(pair[1].into()) < 60_000, "{pair:?}");
    }
}

#[test]
fn who_is_silent_or_gone_adds_nothing() {
    let mut world = World::new(&[Role::Participant; 3], 20);
    (0..20).for_each(|_| world.turn());
    assert!(world.heard.iter().flatten().all(|&sample| sample == 0));
    let mut mix = Mix::new();
    let mut out = Vec::new();
    mix.turn(Instant::ZERO, &mut out);
    assert!(out.is_empty() && mix.is_empty());
    for id in 0..MEMBERS_MAX as u32 {
        assert_eq!(mix.add(id, Role::Participant), Ok(()));
    }
    assert_eq!(mix.add(5_000, Role::Monitor), Err(MixFull));
    assert_eq!(mix.add(7, Role::Monitor), Ok(()));
    assert_eq!((mix.role(7), mix.role(8)), (Some(Role::Monitor), Some(Role::Participant)));
    mix.turn(Instant::ZERO, &mut out);
    assert!(out.len() == MEMBERS_MAX && out.iter().all(|(_, frame)| *frame == [0; FRAME_SAMPLES]));
}

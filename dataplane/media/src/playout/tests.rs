use std::collections::BTreeMap;
use std::time::Duration;

use base::Rng;
use proptest::prelude::*;

use super::*;
use crate::g711::Law;
use crate::tone::{Tone, share};
use crate::wire::RtpHeader;

const START_NS: u64 = 77_000_000_123;

/// A talker behind a network, and a mixer that turns every 20 ms.
struct World {
    playout: Playout,
    rng: Rng,
    tone: Tone,
    /// Samples of a packet.
    ptime: u64,
    /// How much faster than ours the talker's clock is, in parts of a million.
    ppm: i64,
    /// The most that a packet takes longer than another one, in microseconds.
    jitter_us: u64,
    loss: u64,
    doubled: u64,
    /// Packets so far.
    sent: u64,
    skew: (u16, u32),
    /// What is under way, by its arrival.
    network: BTreeMap<(u64, u64), Vec<u8>>,
    /// What the talker said.
    said: Vec<i16>,
    heard: Vec<i16>,
    turns: u64,
    lag_max: i64,
    /// When the network lets through what it holds back, in microseconds.
    held_until: u64,
    quiet: bool,
}

impl World {
    fn new(seed: u64) -> Self {
        World {
            playout: Playout::new(),
            rng: Rng::from_number(seed),
            tone: Tone::new(400, 8_000),
            ptime: 160,
            ppm: 0,
            jitter_us: 0,
            loss: 0,
            doubled: 0,
            sent: 0,
            skew: (65_500, u32::MAX - 5_000),
            network: BTreeMap::new(),
            said: Vec::new(),
            heard: Vec::new(),
            turns: 0,
            lag_max: 0,
            held_until: 0,
            quiet: false,
        }
    }

    /// When packet `index` is sent on our clock, in microseconds.
    fn sent_us(&self, index: u64) -> u64 {
        let theirs = (index * self.ptime * 125) as i64;
        (theirs - theirs * self.ppm / 1_000_000) as u64
    }

    fn send_until(&mut self, us: u64) {
        while self.sent_us(self.sent) <= us {
            let index = self.sent;
            self.sent += 1;
            let samples: Vec<i16> = self.tone.by_ref().take(self.ptime as usize).collect();
            self.said.extend(&samples);
            if self.quiet {
                continue;
            }
            let header = RtpHeader {
                marker: false,
                payload_type: 8,
                sequence: self.skew.0.wrapping_add(index as u16),
                timestamp: self.skew.1.wrapping_add((index * self.ptime) as u32),
                ssrc: 5,
            };
            let mut bytes = header.bytes().to_vec();
            bytes.extend(samples.iter().map(|&sample| Law::A.encode(sample)));
            let copies = 1 + usize::from(self.rng.chance(self.doubled));
            for _ in 0..copies {
                let jitter = self.rng.below(self.jitter_us + 1);
                if !self.rng.chance(self.loss) {
                    let arrival = (self.sent_us(index) + 30_000 + jitter).max(self.held_until);
                    self.network.insert((arrival, self.network.len() as u64), bytes.clone());
                }
            }
        }
    }

    /// So many turns, 20 ms each.
    fn run(&mut self, turns: u64) {
        for _ in 0..turns {
            // The mixer's clock is not the talker's.
            let us = self.turns * 20_000 + 7_300;
            self.turns += 1;
            self.send_until(us);
            while let Some(entry) = self.network.first_entry().filter(|entry| entry.key().0 <= us) {
                let ((arrival, _), bytes) = entry.remove_entry();
                let at = Instant::from_nanos(START_NS + arrival * 1_000);
                self.playout.push(at, &Rtp::parse(&bytes).expect("it was just written"));
            }
            let now = Instant::from_nanos(START_NS + us * 1_000);
            let frame = self.playout.pull(now);
            if frame.is_some() {
                let lag = samples(now) - self.playout.transit.fastest() - self.playout.position;
                self.lag_max = self.lag_max.max(lag + 160);
            }
            self.heard.extend(frame.unwrap_or([0; FRAME_SAMPLES]));
        }
    }

    fn stats(&self) -> PlayoutStats {
        self.playout.stats()
    }

    /// Of which samples the sound is a clean tone: the share of windows of 20 ms.
    fn clean(&self, from: usize) -> f32 {
        let windows = self.heard[from..].chunks_exact(FRAME_SAMPLES);
        let count = windows.len() as f32;
        windows.filter(|window| share(window, 400) > 0.95).count() as f32 / count
    }
}

#[test]
fn a_clean_stream_is_heard_bit_by_bit() {
    for ptime in [80, 160, 240, 320, 480] {
        let mut world = World::new(1);
        world.ptime = ptime;
        world.run(200);
        let stats = world.stats();
        assert_eq!(
            (stats.late, stats.concealed, stats.left_out, stats.put_in, stats.restarts),
            (0, 0, 0, 0, 0),
            "{ptime}"
        );
        let first = world.heard.iter().position(|&s| s.abs() > 8).expect("something is heard");
        let said: Vec<i16> = world.said.iter().map(|&s| Law::A.decode(Law::A.encode(s))).collect();
        let begin = said.iter().position(|&s| s.abs() > 8).expect("something is said");
        let count = world.heard.len() - first;
        assert_eq!(world.heard[first..], said[begin..begin + count], "{ptime}");
        // 30 ms on the way, at most 40 ms here, and at most a turn.
        assert!(first as u64 <= 240 + 320 + 160, "{ptime}: {first}");
        assert!(world.lag_max <= DELAY_FIRST_SAMPLES + 160, "{ptime}: {}", world.lag_max);
    }
}

#[test]
fn jitter_and_reordering_within_the_delay_are_not_heard() {
    for seed in 0..16 {
        let mut world = World::new(seed);
        world.jitter_us = 70_000;
        world.run(1_000);
        let (settled, from) = (world.stats(), world.heard.len());
        world.run(2_000);
        let stats = world.stats();
        let late = stats.late - settled.late;
        assert!(late <= 20, "seed {seed}: {late} late of 2,000");
        assert!(world.clean(from) > 0.95, "seed {seed}: {}", world.clean(from));
        assert!((80 * 8..=100 * 8).contains(&world.playout.delay()), "seed {seed}");
        assert_eq!(stats.restarts, 0, "seed {seed}");
    }
}

#[test]
fn a_calm_network_gets_a_short_delay_again() {
    let mut world = World::new(3);
    world.jitter_us = 80_000;
    world.run(500);
    assert!(world.playout.delay() > 640);
    world.jitter_us = 0;
    world.run(600);
    assert_eq!(world.playout.delay(), DELAY_MIN_SAMPLES);
    world.lag_max = 0;
    let concealed = world.stats().concealed;
    world.run(100);
    assert!(world.lag_max <= i64::from(DELAY_MIN_SAMPLES) + LONG_SAMPLES + 1, "{}", world.lag_max);
    assert_eq!(world.stats().concealed, concealed);
}

#[test]
fn loss_is_concealed_and_nothing_else_changes() {
    for seed in 0..16 {
        let mut world = World::new(seed);
        world.loss = 5;
        world.doubled = 10;
        world.run(1_500);
        let stats = world.stats();
        // A packet that is sent twice is seldom lost.
        let missing = 1_500 - stats.packets as i64;
        assert!((30..120).contains(&missing), "seed {seed}: {missing}");
        // Up to 60 ms of each gap; three packets in a row are rare.
        let concealed = stats.concealed as i64 / 160;
        assert!((missing - 4..=missing).contains(&concealed), "seed {seed}: {missing} {concealed}");
        assert!((90..210).contains(&stats.repeated), "seed {seed}: {}", stats.repeated);
        assert_eq!((stats.late, stats.left_out, stats.put_in), (0, 0, 0), "seed {seed}");
    }
}

#[test]
fn clocks_that_drift_are_followed_for_an_hour() {
    for ppm in [-200, -50, 50, 200] {
        let mut world = World::new(9);
        world.ppm = ppm;
        world.jitter_us = 5_000;
        world.run(3_600 * 50);
        let stats = world.stats();
        // An hour has 28,800,000 samples; a frame has 160.
        let expected = 28_800_000 * ppm / 1_000_000 / 160;
        let followed = stats.left_out as i64 - stats.put_in as i64;
        assert!((followed - expected).abs() <= 2, "{ppm}: {followed} of {expected}: {stats:?}");
        assert!(stats.late <= 3 && stats.concealed <= 480, "{ppm}: {stats:?}");
        assert!(world.lag_max <= 800, "{ppm}: {}", world.lag_max);
        assert!(world.clean(8_000) > 0.99, "{ppm}: {}", world.clean(8_000));
        assert_eq!(stats.restarts, 0);
    }
}

#[test]
fn a_stall_and_its_burst_are_left_behind() {
    for stall_ms in [100, 300, 700, 1_500] {
        let mut world = World::new(4);
        world.run(200);
        world.held_until = 4_000_000 + stall_ms * 1_000;
        world.run(stall_ms / 20 + 10);
        world.held_until = 0;
        let from = world.heard.len();
        world.run(600);
        assert!(world.clean(from) > 0.95, "{stall_ms}: {}", world.clean(from));
        world.lag_max = 0;
        world.run(100);
        assert!(world.lag_max <= 530, "{stall_ms}: {} {:?}", world.lag_max, world.stats());
    }
}

#[test]
fn after_silence_the_first_sound_is_not_delayed_longer() {
    for quiet_turns in [10, 50, 5_000] {
        let mut world = World::new(6);
        world.run(300);
        world.quiet = true;
        world.run(quiet_turns);
        assert_eq!(
            world.playout.pull(Instant::from_nanos(START_NS + world.turns * 20_000_000)),
            None
        );
        assert!(world.heard[world.heard.len() - 80..].iter().all(|&s| s == 0), "{quiet_turns}");
        world.quiet = false;
        let (before, said) = (world.heard.len(), world.said.len());
        world.run(50);
        let first = world.heard[before..].iter().position(|s| s.abs() > 8).expect("it is heard");
        // The talker is up to a packet behind the turn, then come 30 ms of way and the delay.
        let begin = said as i64 - before as i64;
        let took = first as i64 - begin;
        assert!(took <= 240 + 160 + i64::from(world.playout.delay()), "{quiet_turns}: {took}");
        assert!(world.clean(before + 1_600) > 0.99);
    }
}

#[test]
fn a_talker_who_stops_fades_within_60_ms() {
    let mut world = World::new(2);
    world.run(100);
    world.quiet = true;
    world.run(20);
    let peak = |frame: &[i16]| frame.iter().map(|s| s.unsigned_abs()).max().unwrap_or(0);
    let peaks: Vec<u16> = world.heard.chunks(FRAME_SAMPLES).map(peak).collect();
    let last = peaks.iter().rposition(|&peak| peak > 7_900).expect("it was loud");
    assert!((5_000..6_500).contains(&peaks[last + 1]), "{:?}", &peaks[last..]);
    assert!((2_000..4_000).contains(&peaks[last + 2]), "{:?}", &peaks[last..]);
    assert!(peaks[last + 4..].iter().all(|&peak| peak == 0), "{:?}", &peaks[last..]);
}

#[test]
fn another_source_and_a_jump_start_again() {
    let mut world = World::new(8);
    world.run(100);
    world.skew.1 = 12;
    world.run(100);
    assert_eq!(world.stats().restarts, 1);
    let from = world.heard.len() - 8_000;
    assert!(world.clean(from) > 0.99);
    // A mixer that stood still for ten seconds.
    let us = world.turns * 20_000 + 10_000_000;
    world.turns += 500;
    world.send_until(us);
    world.run(200);
    let from = world.heard.len() - 8_000;
    assert!(world.clean(from) > 0.99);
}

proptest! {
    #[test]
    fn anything_is_survived(
        packets in prop::collection::vec(
            (any::<u16>(), any::<u32>(), 0u8..10, 0usize..5_000, 0u64..300_000, 0u8..3, 0u8..4), 0..200),
        near: bool,
    ) {
        let mut playout = Playout::new();
        let mut now = Instant::from_nanos(1_000);
        for (sequence, timestamp, payload_type, length, pass, ssrc, pulls) in packets {
            now = now + Duration::from_micros(pass);
            let timestamp = if near { timestamp % 20_000 } else { timestamp };
            let header = RtpHeader { marker: false, payload_type, sequence, timestamp, ssrc: (ssrc / 2).into() };
            let mut bytes = header.bytes().to_vec();
            bytes.extend(vec![0x2a; length]);
            playout.push(now, &Rtp::parse(&bytes).expect("it was just written"));
            for _ in 0..pulls {
                // Sound is never what stands for none.
                prop_assert!(playout.pull(now).is_none_or(|frame| !frame.contains(&EMPTY)));
            }
            let delay = playout.delay();
            prop_assert!((DELAY_MIN_SAMPLES..=DELAY_MAX_SAMPLES).contains(&delay));
        }
    }
}

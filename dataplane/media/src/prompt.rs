//! Prompts and hold music, a frame at a time.

use std::sync::Arc;

use crate::codec::{FRAME_SAMPLES, Frame};

/// Plays samples that many calls share.
#[derive(Clone, Debug)]
pub struct Player {
    samples: Arc<[i16]>,
    position: usize,
    /// How often it is still played, the present time included; none is without end.
    left: Option<u32>,
}

impl Player {
    /// Plays `samples` (8,000 a second) so many `times`; 0 is until it is dropped.
    pub fn new(samples: Arc<[i16]>, times: u32) -> Self {
        Player { samples, position: 0, left: (times > 0).then_some(times) }
    }

    /// The next 20 ms; none when all was played. The end of one time and the beginning of the next share a
    /// frame, so that music has no seam; the end of the last one is filled up with silence.
    pub fn next_frame(&mut self) -> Option<Frame> {
        let mut frame = [0; FRAME_SAMPLES];
        let mut filled = 0;
        while filled < FRAME_SAMPLES && !self.is_done() {
            let rest = &self.samples[self.position..];
            let count = rest.len().min(FRAME_SAMPLES - filled);
            frame[filled..filled + count].copy_from_slice(&rest[..count]);
            filled += count;
            self.position += count;
            if self.position == self.samples.len() {
                self.position = 0;
                self.left = self.left.map(|left| left - 1);
            }
        }
        (filled > 0).then_some(frame)
    }

    /// True when all was played. A prompt without samples is done at once, however often it is to be played.
    pub fn is_done(&self) -> bool {
        self.left == Some(0) || self.samples.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn played(length: usize, times: u32, frames: usize) -> Vec<i16> {
        let samples: Arc<[i16]> = (1..=length as i16).collect();
        let mut player = Player::new(samples, times);
        let mut all = Vec::new();
        for _ in 0..frames {
            all.extend(player.next_frame().into_iter().flatten());
        }
        all
    }

    #[test]
    fn each_time_follows_the_other_and_the_last_is_filled_up() {
        for (length, times) in [(1, 1), (159, 1), (160, 1), (160, 3), (161, 1), (100, 7), (480, 2)]
        {
            let all = played(length, times, 100);
            let sound = length * times as usize;
            assert_eq!(all.len(), sound.next_multiple_of(FRAME_SAMPLES), "{length} {times}");
            for (at, &sample) in all.iter().enumerate() {
                let expected = if at < sound { (at % length + 1) as i16 } else { 0 };
                assert_eq!(sample, expected, "{length} {times} at {at}");
            }
        }
    }

    #[test]
    fn music_does_not_end_and_nothing_does() {
        let all = played(333, 0, 50);
        assert_eq!(all.len(), 50 * FRAME_SAMPLES);
        assert!(all.iter().enumerate().all(|(at, &sample)| sample == (at % 333 + 1) as i16));
        assert!(played(0, 0, 3).is_empty() && played(0, 5, 3).is_empty());
        assert!(Player::new(Arc::new([]), 0).is_done());
    }
}

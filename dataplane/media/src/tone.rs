//! Tones made and heard, at 8,000 samples a second.

use std::f32::consts::TAU;

/// Samples a second of G.711 and of everything here.
pub const SAMPLE_RATE: u32 = 8_000;

/// A sine of one frequency without end.
#[derive(Clone, Copy, Debug)]
pub struct Tone {
    /// The phase as a share of the circle in 2^-32, so that it wraps by itself and never drifts.
    phase: u32,
    step: u32,
    amplitude: f32,
}

impl Tone {
    /// A sine of `frequency` Hz (at most 4,000) whose peaks are at `amplitude`.
    pub fn new(frequency: u32, amplitude: i16) -> Self {
        let step = (u64::from(frequency.min(SAMPLE_RATE / 2)) << 32) / u64::from(SAMPLE_RATE);
        Tone { phase: 0, step: step as u32, amplitude: f32::from(amplitude) }
    }
}

impl Iterator for Tone {
    type Item = i16;

    fn next(&mut self) -> Option<i16> {
        let angle = self.phase as f32 / 4_294_967_296.0 * TAU;
        self.phase = self.phase.wrapping_add(self.step);
        Some((angle.sin() * self.amplitude) as i16)
    }
}

/// How much of the energy of `samples` lies at `frequency` Hz, from 0 to 1, by Goertzel's algorithm.
///
/// The band is about 8,000 Hz divided by the number of samples wide; silence has no energy anywhere (0).
pub fn share(samples: &[i16], frequency: u32) -> f32 {
    let coefficient = 2.0 * (TAU * frequency as f32 / SAMPLE_RATE as f32).cos();
    let (mut last, mut before, mut energy) = (0.0f32, 0.0f32, 0.0f32);
    for &sample in samples {
        let sample = f32::from(sample);
        energy += sample * sample;
        (last, before) = (sample + coefficient * last - before, last);
    }
    if energy == 0.0 {
        return 0.0;
    }
    let power = last * last + before * before - coefficient * last * before;
    (power * 2.0 / (energy * samples.len() as f32)).clamp(0.0, 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::g711::Law;

    #[test]
    fn a_tone_is_heard_where_it_is() {
        for frequency in [350, 440, 697, 1_000, 1_477, 2_600] {
            let samples: Vec<i16> = Tone::new(frequency, 8_000).take(1_600).collect();
            assert!(share(&samples, frequency) > 0.95, "{frequency}");
            for other in [350, 440, 697, 1_000, 1_477, 2_600] {
                assert!(other == frequency || share(&samples, other) < 0.01, "{frequency} {other}");
            }
            let peak = samples.iter().max().expect("there are samples");
            assert!((7_900..=8_000).contains(peak), "{frequency}: {peak}");
        }
        assert_eq!(share(&[0; 160], 440), 0.0);
        assert_eq!(share(&[], 440), 0.0);
    }

    #[test]
    fn a_tone_survives_both_laws() {
        for law in [Law::Mu, Law::A] {
            let samples: Vec<i16> = Tone::new(440, 8_000)
                .take(800)
                .map(|sample| law.decode(law.encode(sample)))
                .collect();
            assert!(share(&samples, 440) > 0.99, "{law:?}");
        }
    }
}

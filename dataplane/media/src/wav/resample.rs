//! From any higher rate to 8,000 samples a second, by a sinc in Kaiser's window.
//!
//! Each sample that comes out is the filter laid over those that go in. Where it lies between two of them
//! repeats after `8,000 / gcd` samples, so that the filter is worked out once for each such phase.

use std::f64::consts::PI;

use crate::tone::SAMPLE_RATE;

/// Half of what is let through, in Hz, lies here: 3,400 Hz, the end of the telephone's band, passes whole, and
/// nothing above 4,000 Hz, which would come back mirrored, passes at all.
const CUTOFF_HZ: f64 = 3_700.0;
/// Half the filter's length, in samples that come out.
const HALF: f64 = 34.0;
/// The window's shape: 80 dB below outside of the band (J. F. Kaiser, 1974).
const BETA: f64 = 7.86;

/// Samples at 8,000 a second of those at `rate`, which is higher. The first of both are at the same time.
pub(super) fn to_8_khz(samples: &[i16], rate: u32) -> Vec<i16> {
    let divisor = gcd(rate, SAMPLE_RATE);
    let phases = (SAMPLE_RATE / divisor) as usize;
    let step = (rate / divisor) as usize;
    let ratio = f64::from(rate) / f64::from(SAMPLE_RATE);
    let half = (HALF * ratio).ceil() as usize;
    // Made when it is needed: most files are shorter than an odd rate has phases.
    let mut filters: Vec<Vec<f32>> = vec![Vec::new(); phases];
    let count = (samples.len() as u64 * phases as u64).div_ceil(step as u64) as usize;
    (0..count)
        .map(|out| {
            let (whole, phase) = (out * step / phases, out * step % phases);
            let filter = &mut filters[phase];
            if filter.is_empty() {
                *filter = taps(half, phase as f64 / phases as f64, ratio);
            }
            // The filter's first tap lies `half - 1` before `whole`.
            let before = whole as isize - (half as isize - 1);
            let skip = before.min(0).unsigned_abs();
            let from = before.max(0) as usize;
            let under = &samples[from.min(samples.len())..];
            let sum: f32 = dot(&filter[skip.min(filter.len())..], under);
            sum.round().clamp(i16::MIN.into(), i16::MAX.into()) as i16
        })
        .collect()
}

/// The filter whose middle lies `fraction` after the tap `half - 1`; a constant keeps its level.
fn taps(half: usize, fraction: f64, ratio: f64) -> Vec<f32> {
    let reach = HALF * ratio;
    let taps: Vec<f64> = (0..2 * half)
        .map(|tap| {
            let at = tap as f64 - (half as f64 - 1.0) - fraction;
            let window = (1.0 - (at / reach).powi(2)).max(0.0).sqrt();
            sinc(at * 2.0 * CUTOFF_HZ / (f64::from(SAMPLE_RATE) * ratio)) * bessel(BETA * window)
        })
        .collect();
    let sum: f64 = taps.iter().sum();
    taps.iter().map(|tap| (tap / sum) as f32).collect()
}

/// The sum of products, eight at a time so that they are worked out side by side.
fn dot(filter: &[f32], samples: &[i16]) -> f32 {
    let count = filter.len().min(samples.len());
    let (filters, filter_rest) = filter[..count].as_chunks::<8>();
    let (blocks, sample_rest) = samples[..count].as_chunks::<8>();
    let mut sums = [0.0f32; 8];
    for (filter, block) in filters.iter().zip(blocks) {
        for ((sum, &tap), &sample) in sums.iter_mut().zip(filter).zip(block) {
            *sum += tap * f32::from(sample);
        }
    }
    let rest = filter_rest.iter().zip(sample_rest).map(|(&tap, &sample)| tap * f32::from(sample));
    sums.iter().sum::<f32>() + rest.sum::<f32>()
}

fn sinc(x: f64) -> f64 {
    if x.abs() < 1e-9 { 1.0 } else { (PI * x).sin() / (PI * x) }
}

/// The modified Bessel function of the first kind and order zero, by its series.
fn bessel(x: f64) -> f64 {
    let (mut sum, mut term) = (1.0, 1.0);
    for n in 1..40 {
        term *= (x / 2.0 / f64::from(n)).powi(2);
        sum += term;
    }
    sum
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

#[cfg(test)]
mod tests {
    use std::f32::consts::TAU;

    use super::*;
    use crate::tone::share;

    fn tone(rate: u32, frequency: f32, seconds: f32) -> Vec<i16> {
        let angle = TAU * frequency / rate as f32;
        (0..(rate as f32 * seconds) as usize)
            .map(|at| ((f64::from(angle) * at as f64).sin() * 16_000.0).round() as i16)
            .collect()
    }

    fn level(samples: &[i16]) -> f64 {
        let energy: f64 = samples.iter().map(|&sample| f64::from(sample).powi(2)).sum();
        (energy / samples.len() as f64).sqrt()
    }

    #[test]
    fn a_tone_stays_a_tone_at_its_level() {
        for rate in
            [11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 96_000, 191_999]
        {
            for frequency in [100, 440, 1_000, 2_000, 3_000, 3_300] {
                let out = to_8_khz(&tone(rate, frequency as f32, 0.5), rate);
                assert_eq!(out.len(), 4_000, "{rate}");
                let middle = &out[400..3_600];
                assert!(share(middle, frequency) > 0.999, "{rate} {frequency}");
                let gain = 20.0 * (level(middle) / (16_000.0 / 2f64.sqrt())).log10();
                assert!(gain.abs() < 0.1, "{rate} {frequency}: {gain} dB");
            }
        }
    }

    #[test]
    fn what_would_come_back_mirrored_is_50_db_down() {
        for rate in [16_000, 22_050, 44_100, 48_000, 96_000] {
            for frequency in [4_100.0, 4_500.0, 5_000.0, 6_000.0, 7_000.0, 7_900.0, 10_900.0] {
                if frequency < rate as f32 / 2.0 {
                    let out = to_8_khz(&tone(rate, frequency, 0.5), rate);
                    let down = 20.0 * (level(&out[400..3_600]) / 11_314.0).log10();
                    assert!(down < -50.0, "{rate} {frequency}: {down} dB");
                }
            }
        }
    }

    #[test]
    fn it_stays_in_time_and_short_ones_are_survived() {
        for rate in [11_025u32, 44_100, 48_000, 8_001, 192_000] {
            for length in [1usize, 2, 7, 100, 1_000] {
                let out = to_8_khz(&vec![1_000; length], rate);
                assert_eq!(
                    out.len() as u64,
                    (length as u64 * 8_000).div_ceil(rate.into()),
                    "{rate}"
                );
            }
            // A click at 100 ms stays there.
            let mut click = vec![0; rate as usize / 5];
            let width = rate as usize / 8_000;
            click[rate as usize / 10..][..width].fill(20_000);
            let out = to_8_khz(&click, rate);
            let peak = (0..out.len()).max_by_key(|&at| out[at]).expect("there is sound");
            assert!((799..=801).contains(&peak), "{rate}: {peak}");
            // A constant keeps its level.
            let out = to_8_khz(&vec![10_000; rate as usize / 5], rate);
            assert!(out[200..1_400].iter().all(|&sample| (9_998..=10_002).contains(&sample)));
        }
    }
}

//! How speech sounds to the one who hears it: the E-model of ITU-T G.107 (06/2015), with all its inputs but
//! delay, codec and loss at their defaults, and a line without echo.

use std::time::Duration;

/// The rating with all inputs at their defaults (G.107, 7.7).
const DEFAULT_RATING: f32 = 93.2;

/// G.711's equipment impairment without loss, Ie (G.113, table I.1).
const IMPAIRMENT: f32 = 0.0;

/// G.711's robustness against loss, Bpl, with the concealment of G.711 appendix I (G.113, table I.2), which
/// phones have; it would be 4.3 without any.
const ROBUSTNESS: f32 = 25.1;

/// The time that a packet of a phone lasts: it is spoken before it is sent.
const PACKET: Duration = Duration::from_millis(20);

/// How good a stream is.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Quality {
    /// Interarrival jitter in microseconds (RFC 3550, 6.4.1).
    pub jitter_us: u32,
    /// The share of the peer's packets that never came, 0 to 1.
    pub loss: f32,
    /// The same since quality was last asked for.
    pub recent_loss: f32,
    /// Round trip to the peer in microseconds, where its RTCP tells (RFC 3550, 6.4.1).
    pub round_trip_us: Option<u32>,
    /// The share that the peer reports to have lost of what it hears, in 256ths; its last report.
    pub reported_loss: Option<u8>,
    /// Mean opinion score of what the peer sends, in hundredths, 100 to 450 (G.107, annex B); 0 before the
    /// first packet.
    pub mos_hundredths: u32,
}

/// The delay from the peer's mouth to us, as a receiver of ours would have it: a packet, a jitter buffer of
/// a packet or of twice the jitter, and half of the round trip where it is known.
pub fn mouth_to_ear(jitter_us: u32, round_trip: Option<Duration>) -> Duration {
    let buffer = Duration::from_micros(2 * u64::from(jitter_us)).max(PACKET);
    PACKET + buffer + round_trip.unwrap_or_default() / 2
}

/// The rating R (G.107, 7.1) for a delay and the share of packets that are lost at random, 0 to 1.
pub fn rating(delay: Duration, loss: f32) -> f32 {
    let percent = loss.clamp(0.0, 1.0) * 100.0;
    // G.107, 7.5: Ie,eff, with bursts no longer than chance makes them.
    let equipment = IMPAIRMENT + (95.0 - IMPAIRMENT) * percent / (percent + ROBUSTNESS);
    DEFAULT_RATING - delay_impairment(delay) - equipment
}

/// G.107, 7.4: Idd; what delay impairs where there is no echo.
fn delay_impairment(delay: Duration) -> f32 {
    let millis = delay.as_secs_f32() * 1_000.0;
    if millis <= 100.0 {
        return 0.0;
    }
    let x = (millis / 100.0).log2();
    let sixth_root = |x: f32| (1.0 + x.powi(6)).powf(1.0 / 6.0);
    25.0 * (sixth_root(x) - 3.0 * sixth_root(x / 3.0) + 2.0)
}

/// The mean opinion score of a rating, in hundredths (G.107, annex B).
pub fn mos_hundredths(rating: f32) -> u32 {
    let mos = match rating {
        r if r <= 0.0 => 1.0,
        r if r >= 100.0 => 4.5,
        r => 1.0 + 0.035 * r + r * (r - 60.0) * (100.0 - r) * 7e-6,
    };
    // The polynomial dips below 1 for the lowest ratings.
    (mos.max(1.0) * 100.0).round() as u32
}

#[cfg(test)]
mod tests;

//! The one place that reads a clock.

use std::time::Duration;

use base::Instant;
use rustix::time::{ClockId, clock_gettime};

/// The calendar's time since the beginning of 1970, UTC.
pub fn unix() -> Duration {
    let time = clock_gettime(ClockId::Realtime);
    Duration::from_secs(time.tv_sec.unsigned_abs())
}

/// CLOCK_MONOTONIC, which all processes of this boot share.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    Instant::from_nanos(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

//! The one place that reads a clock.

use base::Instant;
use rustix::time::{ClockId, clock_gettime};

/// CLOCK_MONOTONIC, which all processes of this boot share.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    Instant::from_nanos(time.tv_sec.unsigned_abs() * 1_000_000_000 + time.tv_nsec.unsigned_abs())
}

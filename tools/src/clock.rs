//! The one clock that all processes of a boot share (see [`base::Instant`]).

use base::Instant;
use rustix::time::{ClockId, clock_gettime};

/// The time now.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

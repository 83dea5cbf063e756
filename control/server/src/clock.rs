use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base::Instant;
use rustix::time::{ClockId, clock_gettime};

/// Now, on the clock that the data planes share with us.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Instant::from_nanos(seconds * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0))
}

/// Milliseconds since 1970 of an instant of the shared clock.
pub fn unix_ms(at: Instant) -> u64 {
    let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let wall = wall.saturating_sub(now().since(at)) + at.since(now());
    u64::try_from(wall.as_millis()).unwrap_or(u64::MAX)
}

/// Until `at`; zero when it is past.
pub fn until(at: Instant) -> Duration {
    at.since(now())
}

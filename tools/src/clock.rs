//! The one clock that all processes of a boot share (see [`base::Instant`]), and the kernel's, which stamps datagrams.

use base::Instant;
use nix::sys::socket::ControlMessageOwned;
use rustix::time::{ClockId, clock_gettime};

/// The time now.
pub fn now() -> Instant {
    let time = clock_gettime(ClockId::Monotonic);
    Instant::from_nanos(time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64)
}

/// The time of day in nanoseconds: the clock of the kernel's receive timestamps.
pub fn realtime() -> u64 {
    let time = clock_gettime(ClockId::Realtime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// When the kernel received a datagram, on that clock, if this says it.
pub fn stamp(message: ControlMessageOwned) -> Option<u64> {
    match message {
        ControlMessageOwned::ScmTimestampns(time) => {
            Some(time.tv_sec() as u64 * 1_000_000_000 + time.tv_nsec() as u64)
        }
        _ => None,
    }
}

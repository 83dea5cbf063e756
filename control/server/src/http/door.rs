//! What stands between passwords and those who guess them: counts, a log that no flood can fill, and
//! a wait for names that were tried with too many wrong passwords.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use base::Instant;

/// Wrong passwords for one name from one address within [`WINDOW_S`] after which the next has to wait.
const WRONG: u32 = 30;
/// How long wrong passwords are counted together.
const WINDOW_S: u64 = 60;
/// Names that are remembered; there is time for far fewer checks within [`WINDOW_S`].
const NAMES: usize = 65_536;
/// The log tells of refused logins at most once in this time.
const TELL_MS: u64 = 1_000;

/// Whom a login names, whether there is such an agent or not, and from where: a stranger's tries do not
/// lock the agent out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Name(u64);

/// The door of the AgentProxy.
#[derive(Debug, Default)]
pub struct Door {
    ok: AtomicU64,
    refused: AtomicU64,
    throttled: AtomicU64,
    /// Names are kept as hashes under a key that nobody knows.
    key: RandomState,
    wrong: Mutex<HashMap<Name, Tries>>,
    told: Mutex<Told>,
}

#[derive(Clone, Copy, Debug)]
struct Tries {
    since: Instant,
    count: u32,
}

#[derive(Debug, Default)]
struct Told {
    next_at: Option<Instant>,
    counts: LoginCounts,
}

/// Logins since the process began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LoginCounts {
    /// Granted.
    pub ok: u64,
    /// Answered by 401.
    pub refused: u64,
    /// Told to come later before their password was looked at.
    pub throttled: u64,
}

impl Door {
    /// What that agent or operator of that tenant, tried from that address, is remembered by.
    pub fn name(&self, peer: IpAddr, tenant: &str, name: &str, is_operator: bool) -> Name {
        Name(self.key.hash_one((peer, tenant, name, is_operator)))
    }

    /// How many seconds that name has to wait, when it has to.
    pub fn must_wait_s(&self, now: Instant, name: Name) -> Option<u32> {
        let wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        let tries = wrong.get(&name).filter(|tries| tries.count >= WRONG)?;
        let left = (tries.since + Duration::from_secs(WINDOW_S)).since(now);
        (!left.is_zero()).then(|| u32::try_from(left.as_secs()).unwrap_or(u32::MAX) + 1)
    }

    /// The password of that name was wrong.
    pub fn wrong(&self, now: Instant, name: Name) {
        let is_new = |tries: &Tries| now.since(tries.since).as_secs() < WINDOW_S;
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if wrong.len() >= NAMES {
            wrong.retain(|_, tries| is_new(tries));
            if wrong.len() >= NAMES {
                wrong.clear();
            }
        }
        let tries = wrong.entry(name).or_insert(Tries { since: now, count: 0 });
        if !is_new(tries) {
            *tries = Tries { since: now, count: 0 };
        }
        tries.count += 1;
    }

    /// The password of that name was right.
    pub fn right(&self, name: Name) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
    }

    /// A login was granted.
    pub fn count_ok(&self) {
        self.ok.fetch_add(1, Ordering::Relaxed);
    }

    /// A login was told to come later.
    pub fn throttle(&self, now: Instant, peer: IpAddr) {
        self.throttled.fetch_add(1, Ordering::Relaxed);
        self.tell(now, peer);
    }

    /// A login was refused.
    pub fn refuse(&self, now: Instant, peer: IpAddr) {
        self.refused.fetch_add(1, Ordering::Relaxed);
        self.tell(now, peer);
    }

    fn tell(&self, now: Instant, peer: IpAddr) {
        if let Some(LoginCounts { refused, throttled, .. }) = self.untold(now) {
            tracing::warn!(%peer, refused, throttled, "logins were refused, the last of this peer");
        }
    }

    /// What the log was not told yet, when it is time for that.
    fn untold(&self, now: Instant) -> Option<LoginCounts> {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.next_at.is_some_and(|at| now < at) {
            return None;
        }
        told.next_at = Some(now + Duration::from_millis(TELL_MS));
        let counts = self.counts();
        let before = std::mem::replace(&mut told.counts, counts);
        Some(LoginCounts {
            ok: counts.ok - before.ok,
            refused: counts.refused - before.refused,
            throttled: counts.throttled - before.throttled,
        })
    }

    /// Logins since the process began.
    pub fn counts(&self) -> LoginCounts {
        LoginCounts {
            ok: self.ok.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
            throttled: self.throttled.load(Ordering::Relaxed),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const T0: Instant = Instant::from_nanos(1_000_000_000);

    fn after(seconds: u64) -> Instant {
        T0 + Duration::from_secs(seconds)
    }

    #[test]
    fn too_many_wrong_passwords_in_a_minute_cost_the_rest_of_it() {
        let door = Door::default();
        let here = "192.0.2.1".parse().expect("an address");
        let name = door.name(here, "demo", "1001", false);
        let other = door.name(here, "demo", "1001", true);
        let elsewhere = door.name("192.0.2.2".parse().expect("an address"), "demo", "1001", false);
        assert_ne!(name, other);
        for second in 0..WRONG {
            assert_eq!(door.must_wait_s(after(u64::from(second)), name), None);
            door.wrong(after(u64::from(second)), name);
        }
        assert_eq!(door.must_wait_s(after(30), name), Some(31));
        assert_eq!(door.must_wait_s(after(30), other), None);
        assert_eq!(door.must_wait_s(after(30), elsewhere), None);
        assert_eq!(door.must_wait_s(after(60), name), None);
        door.wrong(after(60), name);
        assert_eq!(door.must_wait_s(after(60), name), None);
        (1..WRONG).for_each(|_| door.wrong(after(61), name));
        assert!(door.must_wait_s(after(62), name).is_some());
        door.right(name);
        assert_eq!(door.must_wait_s(after(62), name), None);
    }

    #[test]
    fn the_log_is_told_once_a_second() {
        let door = Door::default();
        let peer = IpAddr::from([192, 0, 2, 1]);
        door.refuse(T0, peer);
        assert_eq!(door.untold(T0), None, "it was told just now");
        door.refuse(T0, peer);
        (0..3).for_each(|_| door.throttle(T0, peer));
        door.count_ok();
        assert_eq!(door.untold(after(1)), Some(LoginCounts { ok: 1, refused: 1, throttled: 3 }));
        assert_eq!(door.untold(after(2)), Some(LoginCounts::default()));
        assert_eq!(door.counts(), LoginCounts { ok: 1, refused: 2, throttled: 3 });
    }
}

use std::sync::{Arc, Mutex, PoisonError};

use argon2::password_hash::phc::PasswordHash;
use argon2::password_hash::{PasswordHasher, PasswordVerifier};
use argon2::{Algorithm, Argon2, Params, Version};
use tokio::sync::Semaphore;

use crate::config::HashCost;
use crate::secret::Secret;

/// The argon2id hash of `password` as a PHC string, with a fresh salt.
///
/// # Panics
/// When `cost` is outside of what RFC 9106 allows; the costs of this crate are inside.
pub fn hash(password: &str, cost: HashCost) -> Secret {
    let params = Params::new(cost.memory_kib, cost.passes, cost.lanes, None)
        .expect("the cost is within the bounds of RFC 9106");
    let hash = Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
        .hash_password(password.as_bytes())
        .expect("the kernel gives a salt");
    Secret::new(hash.to_string())
}

/// True when `password` is that of `hash`; a hash that is none matches nothing.
pub fn verify(password: &str, hash: &Secret) -> bool {
    PasswordHash::new(hash.expose())
        .is_ok_and(|hash| Argon2::default().verify_password(password.as_bytes(), &hash).is_ok())
}

/// Passwords that may wait for their turn; it takes some seconds until the last of them has it.
const WAITING: usize = 64;

/// Too many passwords wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Busy;

/// Checks passwords off the runtime's threads, a bounded number at a time.
#[derive(Clone, Debug)]
pub struct PasswordCheck {
    turns: Arc<Semaphore>,
    /// Places for those who have a turn or wait for one.
    places: Arc<Semaphore>,
    /// What an unknown agent's password is compared with, so that its 401 costs the same time.
    nobody: Arc<Mutex<Secret>>,
}

impl PasswordCheck {
    /// A check with `parallel` turns; unknown agents cost what a hash of `cost` does.
    pub fn new(parallel: usize, cost: HashCost) -> Self {
        let parallel = parallel.max(1);
        let turns = Arc::new(Semaphore::new(parallel));
        let places = Arc::new(Semaphore::new(parallel + WAITING));
        let nobody = Arc::new(Mutex::new(hash("no agent has this password", cost)));
        PasswordCheck { turns, places, nobody }
    }

    /// Unknown agents cost what `sample` does from now on, a hash as the directory's hashes are.
    pub fn set_sample(&self, sample: Secret) {
        *self.nobody.lock().unwrap_or_else(PoisonError::into_inner) = sample;
    }

    /// True when `password` is that of `hash`; without a hash it takes as long and is false.
    /// [`Busy`] at once when too many wait.
    pub async fn matches(&self, password: Secret, hash: Option<Secret>) -> Result<bool, Busy> {
        let place = self.places.clone().try_acquire_owned().map_err(|_| Busy)?;
        let turn = self.turns.clone().acquire_owned().await.map_err(|_| Busy)?;
        let known = hash.is_some();
        let nobody = || self.nobody.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let hash = hash.unwrap_or_else(nobody);
        let checked = tokio::task::spawn_blocking(move || {
            let matches = verify(password.expose(), &hash);
            drop((turn, place));
            matches
        });
        Ok(checked.await.unwrap_or(false) && known)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_of_a_known_agent_matches() {
        let check = PasswordCheck::new(1, HashCost::DEMO);
        let right = hash("right", HashCost::DEMO);
        assert!(right.expose().starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
        let matches = async |password, hash| check.matches(Secret::new(password), hash).await;
        assert_eq!(matches("right", Some(right.clone())).await, Ok(true));
        assert_eq!(matches("wrong", Some(right)).await, Ok(false));
        assert_eq!(matches("no agent has this password", None).await, Ok(false));
        assert_eq!(matches("x", Some(Secret::new("not a hash"))).await, Ok(false));
    }

    #[tokio::test]
    async fn no_more_wait_than_there_are_places() {
        let check = PasswordCheck::new(1, HashCost::DEMO);
        let held = check.turns.clone().acquire_owned().await.expect("a turn");
        let tries = (0..=WAITING).map(|_| {
            let check = check.clone();
            tokio::spawn(async move { check.matches(Secret::new("x"), None).await })
        });
        let tries: Vec<_> = tries.collect();
        while check.places.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(check.matches(Secret::new("x"), None).await, Err(Busy));
        drop(held);
        for tried in tries {
            assert_eq!(tried.await.expect("it ends"), Ok(false));
        }
        assert_eq!(check.matches(Secret::new("x"), None).await, Ok(false));
    }

    #[test]
    fn the_real_cost_is_owasps() {
        let hash = hash("x", HashCost::REAL);
        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    }
}

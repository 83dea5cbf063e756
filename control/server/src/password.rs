use std::sync::Arc;

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

/// Checks passwords off the runtime's threads, a bounded number at a time.
#[derive(Clone, Debug)]
pub struct PasswordCheck {
    turns: Arc<Semaphore>,
    /// What an unknown agent's password is compared with, so that its 401 costs the same time.
    nobody: Secret,
}

impl PasswordCheck {
    /// A check with `parallel` turns. `sample` is a hash as the directory's hashes are; without one a
    /// hash of `cost` takes its place.
    pub fn new(parallel: usize, sample: Option<Secret>, cost: HashCost) -> Self {
        let turns = Arc::new(Semaphore::new(parallel.max(1)));
        let nobody = sample.unwrap_or_else(|| hash("no agent has this password", cost));
        PasswordCheck { turns, nobody }
    }

    /// True when `password` is that of `hash`; without a hash it takes as long and is false.
    pub async fn matches(&self, password: Secret, hash: Option<Secret>) -> bool {
        let Ok(turn) = self.turns.clone().acquire_owned().await else { return false };
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobody.clone());
        let checked = tokio::task::spawn_blocking(move || {
            let matches = verify(password.expose(), &hash);
            drop(turn);
            matches
        });
        checked.await.unwrap_or(false) && known
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_the_right_password_of_a_known_agent_matches() {
        let check = PasswordCheck::new(1, None, HashCost::DEMO);
        let right = hash("right", HashCost::DEMO);
        assert!(right.expose().starts_with("$argon2id$v=19$m=8,t=1,p=1$"));
        assert!(check.matches(Secret::new("right"), Some(right.clone())).await);
        assert!(!check.matches(Secret::new("wrong"), Some(right)).await);
        assert!(!check.matches(Secret::new("no agent has this password"), None).await);
        assert!(!check.matches(Secret::new("x"), Some(Secret::new("not a hash"))).await);
    }

    #[test]
    fn the_real_cost_is_owasps() {
        let hash = hash("x", HashCost::REAL);
        assert!(hash.expose().starts_with("$argon2id$v=19$m=19456,t=2,p=1$"));
    }
}

//! Who has which claim, as far as one blade knows: what its clock and the revisions allow it to try.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use control_core::cluster::{CLAIM_LIFE_MS, Claim, Key};
use tokio::time::Instant;

const LIFE: Duration = Duration::from_millis(CLAIM_LIFE_MS);

/// The claims of a session.
#[derive(Debug, Default)]
pub struct Claims {
    standing: HashMap<Key, Standing>,
    held: HashMap<Key, Held>,
    open: HashSet<Key>,
}

/// What stands under a key.
#[derive(Debug)]
struct Standing {
    claim: Claim,
    revision: u64,
    term: u64,
    seen_at: Instant,
}

/// A claim of ours.
#[derive(Debug)]
struct Held {
    claim: Claim,
    revision: u64,
    term: u64,
    /// When it was last renewed: when the renewal was sent, since the others count from when they saw it.
    at: Instant,
}

/// A claim to be written, if what stands there is of the expected revision.
#[derive(Debug)]
pub struct Attempt {
    /// Ours.
    pub claim: Claim,
    /// The revision that must stand there; 0 for none.
    pub expected: u64,
    /// The term that we have when it is won.
    pub term: u64,
    at: Instant,
}

impl Attempt {
    /// The same, for when nothing stands there any more; none when that was tried.
    pub fn on_nothing(self) -> Option<Attempt> {
        (self.expected != 0).then_some(Attempt { expected: 0, ..self })
    }
}

impl Claims {
    /// What is to be written to have that claim; none while somebody else has it, or while we are at it.
    pub fn attempt(&mut self, key: &Key, claim: Claim, now: Instant) -> Option<Attempt> {
        if self.open.contains(key) {
            return None;
        }
        let ours = self.held.get(key).filter(|held| held.claim == claim && now < held.at + LIFE);
        let (expected, term) = match (ours, self.standing.get(key)) {
            (Some(held), _) => (held.revision, held.term),
            (None, None) => (0, next_term(0)),
            (None, Some(standing)) => {
                // An earlier control process of ours is dead, since we are here.
                let is_ours = standing.claim.blade == claim.blade
                    && standing.claim.incarnation <= claim.incarnation;
                if !is_ours && now < standing.seen_at + LIFE {
                    return None;
                }
                (standing.revision, next_term(standing.term))
            }
        };
        self.open.insert(key.clone());
        Some(Attempt { claim, expected, term, at: now })
    }

    /// It was written.
    pub fn won(&mut self, key: &Key, attempt: Attempt, revision: u64, now: Instant) {
        self.open.remove(key);
        let Attempt { claim, term, at, .. } = attempt;
        self.held.insert(key.clone(), Held { claim: claim.clone(), revision, term, at });
        self.seen(key, &claim, term, revision, now);
    }

    /// Somebody else was first.
    pub fn lost(&mut self, key: &Key) {
        self.open.remove(key);
        self.held.remove(key);
    }

    /// Takes note of what stands there.
    pub fn seen(&mut self, key: &Key, claim: &Claim, term: u64, revision: u64, now: Instant) {
        if self.standing.get(key).is_none_or(|standing| standing.revision < revision) {
            let standing = Standing { claim: claim.clone(), revision, term, seen_at: now };
            self.standing.insert(key.clone(), standing);
        }
    }

    /// Nobody has it any more.
    pub fn gone(&mut self, key: &Key, revision: u64) {
        if let Some(standing) = self.standing.get_mut(key).filter(|it| it.revision < revision) {
            // Its mark stands there, which the next claim must expect.
            standing.revision = revision;
            standing.claim.blade = "".into();
            standing.seen_at -= LIFE;
        }
    }

    /// Gives up what we have; its revision.
    pub fn disclaim(&mut self, key: &Key) -> Option<u64> {
        self.held.remove(key).map(|held| held.revision)
    }

    /// The session ends: the keys of claims that are still waited for.
    pub fn give_up(&mut self) -> Vec<Key> {
        self.open.drain().collect()
    }
}

/// A term that is later than `last`, and than any before a loss of the store: it is a time, in milliseconds.
fn next_term(last: u64) -> u64 {
    let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    (last + 1).max(u64::try_from(since_1970.as_millis()).unwrap_or(u64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(blade: &str, incarnation: u64) -> Claim {
        Claim { blade: blade.into(), incarnation }
    }

    #[tokio::test]
    async fn a_claim_is_tried_only_when_the_others_is_old_by_our_clock() {
        let (mut claims, t0) = (Claims::default(), Instant::now());
        claims.seen(&Key::Leader, &claim("a", 1), 7, 40, t0);
        assert!(claims.attempt(&Key::Leader, claim("b", 1), t0 + LIFE / 2).is_none());
        claims.seen(&Key::Leader, &claim("a", 1), 7, 41, t0 + LIFE / 2);
        assert!(claims.attempt(&Key::Leader, claim("b", 1), t0 + LIFE).is_none());
        let late = t0 + LIFE / 2 + LIFE;
        let attempt = claims.attempt(&Key::Leader, claim("b", 1), late).expect("it is old");
        assert_eq!(attempt.expected, 41);
        assert!(attempt.term > 7);
        assert!(claims.attempt(&Key::Leader, claim("b", 1), late).is_none(), "one at a time");
        let term = attempt.term;
        claims.won(&Key::Leader, attempt, 42, late);
        let renewal = claims.attempt(&Key::Leader, claim("b", 1), late + LIFE / 2).expect("ours");
        assert_eq!((renewal.expected, renewal.term), (42, term));
    }

    #[tokio::test]
    async fn who_could_not_renew_in_time_begins_a_new_term() {
        let (mut claims, t0) = (Claims::default(), Instant::now());
        let first = claims.attempt(&Key::Leader, claim("a", 1), t0).expect("nobody has it");
        assert_eq!(first.expected, 0);
        let term = first.term;
        claims.won(&Key::Leader, first, 5, t0);
        let again = claims.attempt(&Key::Leader, claim("a", 1), t0 + LIFE).expect("it is old");
        assert!(again.expected == 5 && again.term > term);
        let created = again.on_nothing().expect("the server dropped it");
        assert_eq!(created.expected, 0);
        assert!(created.on_nothing().is_none());
    }

    #[tokio::test]
    async fn what_was_given_up_and_what_our_dead_process_had_is_free_at_once() {
        let (mut claims, t0) = (Claims::default(), Instant::now() + LIFE);
        claims.seen(&Key::Leader, &claim("a", 1), 7, 40, t0);
        claims.gone(&Key::Leader, 41);
        let attempt = claims.attempt(&Key::Leader, claim("b", 1), t0).expect("it is free");
        assert_eq!(attempt.expected, 41);
        claims.lost(&Key::Leader);
        claims.seen(&Key::Leader, &claim("b", 1), 8, 42, t0);
        assert!(claims.attempt(&Key::Leader, claim("b", 2), t0).is_some());
    }
}

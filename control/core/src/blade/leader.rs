//! Who leads the CDM (G-10, G-14), and what the leader says.
//!
//! A leader claims [`Key::Leader`] anew every half second. It leads until its claim is [`CLAIM_LIFE_MS`] old,
//! counted from when it said so by its own clock; others count from when they saw it, which is later. So two never
//! lead at a time, also when one of them was paused.

use std::collections::VecDeque;
use std::time::Duration;

use base::{CcbId, Instant};

use super::Blade;
use super::cluster::Cluster;
use crate::cluster::{Answer, BladeName, CLAIM_LIFE_MS, Claim, Key, Place, Placed, REPORT_MS, Say};
use crate::login::LoginKey;
use crate::message::Output;

/// How often who stands by looks whether the leader is silent, in milliseconds.
const LOOK_MS: u64 = 100;
/// Who leads after another does not know what that one granted; for so long it picks the better of two at random.
const NEW_LEADER_MS: u64 = 30_000;
/// A grant that its CCB does not report counts for so long, in milliseconds.
const PLACED_MS: u64 = 5_000;

const LIFE: Duration = Duration::from_millis(CLAIM_LIFE_MS);

/// What a blade knows of the leadership.
#[derive(Debug)]
pub(super) struct Leadership {
    /// Who claimed it last, and when we heard that.
    seen: Option<(Instant, Claim)>,
    /// Our claim, while it is ours.
    held: Option<Held>,
    /// When we said a claim whose outcome we do not know.
    open: Option<Instant>,
    claim_at: Instant,
    /// When another blade was last heard to lead.
    followed: Option<Instant>,
    /// What we placed, until its CCB reports it or it is too old.
    placed: VecDeque<(Instant, CcbId, LoginKey)>,
}

#[derive(Clone, Copy, Debug)]
struct Held {
    term: u64,
    until: Instant,
    since: Instant,
}

impl Leadership {
    pub(super) fn new(now: Instant) -> Self {
        Leadership {
            seen: None,
            held: None,
            open: None,
            claim_at: now,
            followed: None,
            placed: VecDeque::new(),
        }
    }

    pub(super) fn deadline(&self) -> Instant {
        self.claim_at
    }
}

impl Cluster {
    /// Our term while we lead.
    pub(super) fn term(&self, now: Instant) -> Option<u64> {
        let held = self.leadership.held.filter(|held| now < held.until)?;
        (self.connected && self.is_confirmed()).then_some(held.term)
    }

    /// Our term, and since when it is ours, while we lead.
    pub(super) fn leads_since(&self, now: Instant) -> Option<(u64, Instant)> {
        let term = self.term(now)?;
        Some((term, self.leadership.held?.since))
    }

    /// Who leads, as far as we know.
    pub(super) fn leader(&self, now: Instant) -> Option<BladeName> {
        if self.term(now).is_some() {
            return Some(self.name.clone());
        }
        let (at, claim) = self.leadership.seen.as_ref()?;
        let stands = self.connected && now < *at + LIFE && claim.blade != self.name;
        stands.then(|| claim.blade.clone())
    }

    /// Somebody claimed the leadership, or gave it up.
    pub(super) fn leader_heard(
        &mut self,
        now: Instant,
        claim: Option<Claim>,
        out: &mut Vec<Output>,
    ) {
        let ours = self.claim();
        match claim {
            Some(claim) if claim == ours => {}
            Some(claim) => {
                self.step_down(out);
                self.leadership.seen = Some((now, claim));
                self.leadership.followed = Some(now);
            }
            None => {
                self.leadership.seen = None;
                self.leadership.claim_at = now;
            }
        }
    }

    /// What became of our claim.
    pub(super) fn claimed(&mut self, now: Instant, term: Option<u64>, out: &mut Vec<Output>) {
        let said_at = self.leadership.open.take();
        let (Some(term), Some(said_at)) = (term, said_at) else {
            return self.step_down(out);
        };
        let before = self.leadership.held.filter(|held| held.term == term);
        if before.is_none() {
            out.push(Output::Leads { term: Some(term) });
        }
        let since = before.map_or(now, |held| held.since);
        self.leadership.held = Some(Held { term, until: said_at + LIFE, since });
        self.leadership.seen = None;
    }

    /// Claims, renews, or stops leading, as it is due.
    pub(super) fn lead(&mut self, now: Instant, out: &mut Vec<Output>) {
        if self.leadership.held.is_some_and(|held| held.until <= now) {
            self.step_down(out);
        }
        if now < self.leadership.claim_at {
            return;
        }
        let holds = self.leadership.held.is_some();
        let pause = if holds { REPORT_MS } else { LOOK_MS };
        self.leadership.claim_at = now + Duration::from_millis(pause);
        let seen = self.leadership.seen.as_ref();
        let is_silent = holds || seen.is_none_or(|(at, _)| *at + LIFE <= now);
        let may = self.connected && self.agent_proxy.is_none();
        if may && is_silent && self.is_confirmed() && self.leadership.open.is_none() {
            self.leadership.open = Some(now);
            out.push(Output::Bus(Say::Claim { key: Key::Leader, claim: self.claim() }));
        }
    }

    /// The bus came or went: nobody is known to lead.
    pub(super) fn bus_changed(&mut self, now: Instant, is: bool, out: &mut Vec<Output>) {
        self.step_down(out);
        if !is {
            self.leadership.seen = None;
            self.leadership.open = None;
        }
        self.leadership.claim_at = now;
    }

    fn step_down(&mut self, out: &mut Vec<Output>) {
        if self.leadership.held.take().is_some() {
            out.push(Output::Leads { term: None });
        }
    }

    /// Gives the leadership up, if we have it.
    pub(super) fn resign(&mut self, out: &mut Vec<Output>) {
        if self.leadership.held.is_some() {
            out.push(Output::Bus(Say::Disclaim { key: Key::Leader }));
            self.step_down(out);
        }
    }

    /// Grants that nobody reported in time count no more.
    pub(super) fn lapse_placed(&mut self, now: Instant) {
        let life = Duration::from_millis(PLACED_MS);
        while let Some((at, ccb, login)) = self.leadership.placed.front().copied()
            && at + life <= now
        {
            self.leadership.placed.pop_front();
            self.cdm.settle(ccb, login);
        }
    }

    /// Chooses a CCB of any blade, and counts the grant (S1-056, G-10).
    pub(super) fn choose(&mut self, now: Instant, place: &Place) -> Option<Placed> {
        let open: Vec<CcbId>;
        let eligible = match place.refused.is_empty() {
            true => &place.eligible,
            false => {
                let all = place.eligible.iter().copied();
                open = all.filter(|ccb| !place.refused.contains(ccb)).collect();
                &open
            }
        };
        let young = Duration::from_millis(NEW_LEADER_MS);
        let by_chance = match (self.leadership.held, self.leadership.followed) {
            // Others may choose at the same time.
            (None, _) => true,
            (Some(held), Some(other_at)) => {
                now < held.since + young && held.since < other_at + young
            }
            (Some(_), None) => false,
        };
        let ccb = match by_chance {
            true => self.cdm.allocate_at_random(eligible, &place.location, &mut self.rng)?,
            false => self.cdm.allocate(eligible, &place.location)?,
        };
        // Who has been silent for three heartbeats is not given out, even if nobody took note yet (S1-081).
        let blade = self.ccb(now, ccb)?.0.clone();
        self.cdm.grant(ccb, place.login);
        self.leadership.placed.push_back((now, ccb, place.login));
        Some(Placed { blade, ccb })
    }
}

impl Blade {
    /// Answers another blade that needs a place for a login.
    pub(super) fn place_for_other(&mut self, now: Instant, place: &Place) -> Answer {
        match self.cluster.as_mut() {
            Some(cluster) if cluster.term(now).is_some() => {
                Answer::Placed(cluster.choose(now, place))
            }
            _ => Answer::NotHere,
        }
    }
}

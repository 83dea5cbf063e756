//! Too much to do: new calls are refused before those that stand suffer.

use base::Rng;

/// Per mille of new calls refused more with each observation of a worker that is too busy; less, twice as
/// much, with one that is not. From none to all takes a second.
const STEP: u32 = 50;

/// How busy the worker is, and what part of the new calls it refuses for that.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Overload {
    /// Thousandths of its time, smoothed over some eight observations.
    busy: u32,
    /// Thousandths of new calls.
    refused: u32,
}

impl Overload {
    /// Takes how busy the worker was of late, and the most that it should be.
    pub fn observe(&mut self, busy: u32, limit: u32) {
        self.busy = (self.busy * 7 + busy.min(1_000)).div_ceil(8);
        self.refused = match self.busy > limit {
            true => (self.refused + STEP).min(1_000),
            false => self.refused.saturating_sub(2 * STEP),
        };
    }

    /// True when the next new call is to be refused.
    pub fn refuses(&self, rng: &mut Rng) -> bool {
        self.refused > 0 && rng.below(1_000) < u64::from(self.refused)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_stays_too_busy_refuses_more_and_more_and_recovers() {
        let (mut overload, mut rng) = (Overload::default(), Rng::from_number(1));
        let refused = |overload: &Overload, rng: &mut Rng| {
            (0..1_000).filter(|_| overload.refuses(rng)).count()
        };
        // One busy moment is none.
        overload.observe(1_000, 950);
        assert_eq!(refused(&overload, &mut rng), 0);
        for _ in 0..60 {
            overload.observe(1_000, 950);
        }
        assert_eq!(refused(&overload, &mut rng), 1_000);
        overload.observe(0, 950);
        let some = refused(&overload, &mut rng);
        assert!((850..950).contains(&some), "{some}");
        for _ in 0..10 {
            overload.observe(0, 950);
        }
        assert_eq!(refused(&overload, &mut rng), 0);
        for _ in 0..100 {
            overload.observe(1_000, 1_001);
        }
        assert_eq!(refused(&overload, &mut rng), 0, "it is switched off");
    }
}

/// The packets behind the highest that are told apart (RFC 3711, 3.3.2: "at least 64").
const WINDOW: u64 = 128;

/// The highest index that was seen, and which of those before it were.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Window {
    /// One more than the highest; 0 before the first.
    next: u64,
    /// Bit n is set when the highest less n was seen.
    seen: u128,
}

impl Window {
    /// A window whose indices up to `highest` count as seen.
    pub fn up_to(highest: Option<u64>) -> Window {
        match highest {
            Some(highest) => Window { next: highest + 1, seen: u128::MAX },
            None => Window::default(),
        }
    }

    pub fn highest(&self) -> Option<u64> {
        self.next.checked_sub(1)
    }

    /// False for what was seen, and for what is too old to know.
    pub fn is_new(&self, index: u64) -> bool {
        if index >= self.next {
            return true;
        }
        let behind = self.next - 1 - index;
        behind < WINDOW && self.seen & (1 << behind) == 0
    }

    /// Notes an index that is new.
    pub fn note(&mut self, index: u64) {
        if index < self.next {
            let behind = self.next - 1 - index;
            self.seen |= if behind < WINDOW { 1 << behind } else { 0 };
            return;
        }
        let ahead = index - self.next + 1;
        self.seen = if ahead < WINDOW { self.seen << ahead | 1 } else { 1 };
        self.next = index + 1;
    }

    /// The index of a packet, of which 16 bits are told: the one nearest to the highest (RFC 3711, 3.3.1 and
    /// appendix A). The first packet has a rollover counter of `first_roc`.
    pub fn index_of(&self, sequence: u16, first_roc: u32) -> u64 {
        let Some(highest) = self.highest() else {
            return u64::from(first_roc) << 16 | u64::from(sequence);
        };
        let ahead = i64::from(sequence.wrapping_sub(highest as u16).cast_signed());
        // Before the first rollover there is no counter to go back to.
        highest.checked_add_signed(ahead).unwrap_or(u64::from(sequence))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// Against a set that forgets nothing.
        #[test]
        fn a_window_is_a_set_of_the_newest(steps in prop::collection::vec(-200_i64..200, 1..200)) {
            let (mut window, mut set) = (Window::default(), BTreeSet::new());
            let mut at = 1_000_i64;
            for step in steps {
                at = (at + step).max(0);
                let index = at as u64;
                let highest = set.last().copied();
                let is_known = highest.is_none_or(|highest| index + WINDOW > highest);
                prop_assert_eq!(window.is_new(index), is_known && !set.contains(&index));
                if window.is_new(index) {
                    window.note(index);
                    set.insert(index);
                }
                prop_assert_eq!(window.highest(), set.last().copied());
            }
        }

        /// Whoever is less than 2^15 away from the highest is found, on either side of a rollover.
        #[test]
        fn an_index_is_found_by_its_sequence(highest in 40_000_u64..1 << 47, away in -32_000_i64..32_000) {
            let mut window = Window::default();
            window.note(highest);
            let index = highest.checked_add_signed(away).expect("far from zero");
            prop_assert_eq!(window.index_of(index as u16, 0), index);
        }
    }

    #[test]
    fn before_the_first_rollover_nothing_goes_back() {
        let mut window = Window::default();
        assert_eq!(window.index_of(65_535, 0), 65_535);
        assert_eq!(window.index_of(65_535, 2), 3 * 65_536 - 1);
        window.note(5);
        assert_eq!(window.index_of(65_000, 0), 65_000, "not -536");
        assert_eq!(window.index_of(4, 0), 4);
        window.note(65_530);
        assert_eq!(window.index_of(3, 0), 65_539);
    }
}

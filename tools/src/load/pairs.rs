//! Which agents call each other: any two, two of one CCB, or two of two CCBs.

use std::collections::BTreeMap;

use clap::ValueEnum;

/// Who calls whom.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Pairs {
    /// Every agent with the next number, wherever they are
    #[default]
    Any,
    /// Agents of one CCB
    Within,
    /// Agents of two CCBs
    Across,
}

impl Pairs {
    /// Puts agents into the order in which each second one is called by the one before it; how many of them, from
    /// the first on, have a partner. Who has none comes last.
    pub fn order<T>(self, agents: Vec<T>, ccb: impl Fn(&T) -> u16) -> (Vec<T>, usize) {
        let count = agents.len();
        if self == Pairs::Any {
            return (agents, count / 2 * 2);
        }
        let mut by_ccb: BTreeMap<u16, Vec<usize>> = BTreeMap::new();
        for (place, agent) in agents.iter().enumerate() {
            by_ccb.entry(ccb(agent)).or_default().push(place);
        }
        let mut order = Vec::new();
        loop {
            let mut groups: Vec<&mut Vec<usize>> = by_ccb.values_mut().collect();
            groups.sort_by_key(|group| std::cmp::Reverse(group.len()));
            let pair = match (self, groups.as_mut_slice()) {
                (Pairs::Within, [most, ..]) if most.len() > 1 => [most.pop(), most.pop()],
                (Pairs::Across, [one, other, ..]) if !other.is_empty() => [one.pop(), other.pop()],
                _ => break,
            };
            order.extend(pair.into_iter().flatten());
        }
        let paired = order.len();
        order.extend(by_ccb.into_values().flatten());
        let mut agents: Vec<Option<T>> = agents.into_iter().map(Some).collect();
        (order.into_iter().filter_map(|place| agents[place].take()).collect(), paired)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partners_are_of_one_ccb_or_of_two() {
        let ccbs = [1, 2, 2, 3, 1, 2, 3, 3, 3];
        for pairs in [Pairs::Any, Pairs::Within, Pairs::Across] {
            let (ordered, paired) = pairs.order(ccbs.to_vec(), |ccb| *ccb);
            let mut same = ordered.clone();
            same.sort_unstable();
            assert_eq!(same, [1, 1, 2, 2, 2, 3, 3, 3, 3], "{pairs:?}");
            assert_eq!(paired, 8, "{pairs:?}");
            for pair in ordered[..paired].chunks(2).filter(|_| pairs != Pairs::Any) {
                assert_eq!(pair[0] == pair[1], pairs == Pairs::Within, "{pairs:?}: {ordered:?}");
            }
        }
        assert_eq!(Pairs::Across.order(vec![1, 1, 1], |ccb| *ccb).1, 0);
        assert_eq!(Pairs::Within.order(vec![1, 2, 3], |ccb| *ccb).1, 0);
    }
}

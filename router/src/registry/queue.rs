//! A fair queue: callers take turns, so that one with a thousand requests does
//! not starve another. Pure state.

use std::{collections::VecDeque, sync::Arc};

/// Waiting items by caller. A caller's own items are served in their order.
#[derive(Debug)]
pub(super) struct FairQueue<T> {
    /// In the order of their next turns; none is without items.
    callers: VecDeque<Caller<T>>,
    len: usize,
}

#[derive(Debug)]
struct Caller<T> {
    name: Arc<str>,
    items: VecDeque<T>,
}

impl<T> Default for FairQueue<T> {
    fn default() -> Self {
        Self {
            callers: VecDeque::new(),
            len: 0,
        }
    }
}

impl<T> FairQueue<T> {
    /// Items that wait, of all callers.
    pub(super) fn len(&self) -> usize {
        self.len
    }

    /// Items of one caller that wait.
    pub(super) fn len_of(&self, caller: &str) -> usize {
        let found = self.callers.iter().find(|it| *it.name == *caller);
        found.map_or(0, |caller| caller.items.len())
    }

    /// Adds an item. A caller that had none has its turn after all others.
    pub(super) fn push(&mut self, caller: &Arc<str>, item: T) {
        self.len += 1;
        if let Some(known) = self.callers.iter_mut().find(|it| it.name == *caller) {
            known.items.push_back(item);
            return;
        }
        self.callers.push_back(Caller {
            name: caller.clone(),
            items: VecDeque::from([item]),
        });
    }

    /// Puts an item back that was taken: it is the next of its caller, whose turn it is.
    pub(super) fn restore(&mut self, caller: &Arc<str>, item: T) {
        self.len += 1;
        let turn = self.callers.iter().position(|it| it.name == *caller);
        let known = turn.and_then(|turn| self.callers.remove(turn));
        let mut caller = known.unwrap_or_else(|| Caller {
            name: caller.clone(),
            items: VecDeque::new(),
        });
        caller.items.push_front(item);
        self.callers.push_front(caller);
    }

    /// Takes the first item that fits, of the caller whose turn it is or of the
    /// next one that may have a turn and has such an item; that caller's next turn comes last.
    pub(super) fn take(
        &mut self,
        may: impl Fn(&str) -> bool,
        fits: impl Fn(&T) -> bool,
    ) -> Option<T> {
        let (turn, index) = self.find(may, fits)?;
        let mut caller = self.callers.remove(turn)?;
        let item = caller.items.remove(index)?;
        self.len -= 1;
        if !caller.items.is_empty() {
            self.callers.push_back(caller);
        }
        Some(item)
    }

    /// Whether there is an item to [take](Self::take).
    pub(super) fn has(&self, may: impl Fn(&str) -> bool, fits: impl Fn(&T) -> bool) -> bool {
        self.find(may, fits).is_some()
    }

    /// The place of a caller in the row, and of its item.
    fn find(
        &self,
        may: impl Fn(&str) -> bool,
        fits: impl Fn(&T) -> bool,
    ) -> Option<(usize, usize)> {
        let mut row = self.callers.iter().enumerate();
        row.find_map(|(turn, caller)| {
            let index = match may(&caller.name) {
                true => caller.items.iter().position(&fits)?,
                false => return None,
            };
            Some((turn, index))
        })
    }

    /// Drops what does not need to wait any more.
    pub(super) fn retain(&mut self, keep: impl Fn(&T) -> bool) {
        for caller in &mut self.callers {
            caller.items.retain(&keep);
        }
        self.callers.retain(|caller| !caller.items.is_empty());
        self.len = self.callers.iter().map(|it| it.items.len()).sum();
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_with_many_requests_does_not_starve_another() {
        let mut queue = FairQueue::default();
        for n in 0..1000 {
            queue.push(&"greedy".into(), n);
        }
        queue.push(&"modest".into(), 7000);
        queue.push(&"late".into(), 8000);

        let served: Vec<_> = (0..5)
            .filter_map(|_| queue.take(|_| true, |_| true))
            .collect();

        assert_eq!(served, [0, 7000, 8000, 1, 2]);
        assert_eq!((queue.len(), queue.len_of("greedy")), (997, 997));
    }

    #[test]
    fn what_is_put_back_is_the_next() {
        let mut queue = FairQueue::default();
        for (caller, item) in [("one", 1), ("one", 2), ("other", 3), ("gone", 4)] {
            queue.push(&caller.into(), item);
        }
        let mut take = || queue.take(|_| true, |_| true);
        let taken = [take(), take(), take()];

        queue.restore(&"one".into(), 1);
        queue.restore(&"gone".into(), 4);

        assert_eq!(taken, [Some(1), Some(3), Some(4)]);
        let mut take = || queue.take(|_| true, |_| true);
        assert_eq!(
            [take(), take(), take(), take()],
            [Some(4), Some(1), Some(2), None]
        );
        assert_eq!(queue.len(), 0);
    }

    #[test]
    fn one_who_has_enough_is_passed_over() {
        let mut queue = FairQueue::default();
        for (caller, item) in [("greedy", 1), ("greedy", 2), ("modest", 3)] {
            queue.push(&caller.into(), item);
        }
        let modest = |caller: &str| caller == "modest";

        assert_eq!(queue.take(modest, |_| true), Some(3));
        assert!(!queue.has(modest, |_| true));
        assert_eq!(queue.take(modest, |_| true), None);
        assert_eq!(queue.take(|_| true, |_| true), Some(1));
    }

    proptest! {
        #[test]
        fn nobody_waits_longer_than_a_round_and_nothing_is_lost(
            steps in prop::collection::vec(prop_oneof![(0..4u8).prop_map(Some), Just(None)], 0..200)
        ) {
            let mut queue = FairQueue::default();
            let mut waiting: BTreeMap<u8, VecDeque<usize>> = BTreeMap::new();
            let mut passed: BTreeMap<u8, BTreeMap<u8, usize>> = BTreeMap::new();

            for (number, step) in steps.into_iter().enumerate() {
                if let Some(caller) = step {
                    queue.push(&caller.to_string().into(), (caller, number));
                    waiting.entry(caller).or_default().push_back(number);
                    continue;
                }
                let Some((caller, number)) = queue.take(|_| true, |_| true) else {
                    prop_assert!(waiting.values().all(VecDeque::is_empty));
                    continue;
                };
                prop_assert_eq!(waiting.get_mut(&caller).unwrap().pop_front(), Some(number));
                passed.remove(&caller);
                for (other, items) in &waiting {
                    if *other == caller || items.is_empty() {
                        continue;
                    }
                    let turns = passed.entry(*other).or_default().entry(caller).or_default();
                    *turns += 1;
                    prop_assert!(*turns <= 2, "{caller} is served again and again before {other}");
                }
                passed.retain(|other, _| !waiting[other].is_empty());
            }

            prop_assert_eq!(queue.len(), waiting.values().map(VecDeque::len).sum::<usize>());
        }
    }
}

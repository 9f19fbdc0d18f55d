//! An agent's tunnels in use, by caller: the last tenth is reserved for callers that use none, so that one with
//! hundreds of watches does not keep others out. Pure state.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;

/// Tunnels that one agentk opens at most, in use or idle.
const MAX_TUNNELS_PER_AGENTK: usize = 500;
/// The part of all tunnels that is reserved for callers that use none: one in so many.
const RESERVED_ONE_IN: usize = 10;

/// Tunnels in use, by caller.
#[derive(Debug, Default)]
pub(super) struct Callers {
    total: usize,
    /// No count is zero.
    by: HashMap<Arc<str>, usize, RandomState>,
}

impl Callers {
    /// Whether a caller may use one more of an agent's tunnels, of which so many are `alive`: more
    /// than one agentk opens are those of several, and each opens more when they are used.
    pub(super) fn may_take(&self, caller: &str, alive: usize) -> bool {
        self.used_up(caller, alive).is_none()
    }

    /// The limit of tunnels for callers that use one already, if that is why this caller may not use one more.
    pub(super) fn used_up(&self, caller: &str, alive: usize) -> Option<usize> {
        let most = alive.div_ceil(MAX_TUNNELS_PER_AGENTK).max(1) * MAX_TUNNELS_PER_AGENTK;
        let limit = most - most / RESERVED_ONE_IN;
        (self.total >= limit && self.by.contains_key(caller)).then_some(limit)
    }

    /// A caller uses one more.
    pub(super) fn took(&mut self, caller: &Arc<str>) {
        self.total += 1;
        match self.by.get_mut(caller) {
            Some(used) => *used += 1,
            None => drop(self.by.insert(caller.clone(), 1)),
        }
    }

    /// A caller uses one less.
    pub(super) fn released(&mut self, caller: &str) {
        let Some(used) = self.by.get_mut(caller) else {
            return;
        };
        *used -= 1;
        self.total -= 1;
        if *used == 0 {
            self.by.remove(caller);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(callers: &mut Callers, caller: &str, alive: usize) -> bool {
        let may = callers.may_take(caller, alive);
        if may {
            callers.took(&caller.into());
        }
        may
    }

    #[test]
    fn the_last_tenth_of_the_tunnels_is_for_those_who_use_none() {
        let mut callers = Callers::default();

        let greedy = (0..600)
            .filter(|_| take(&mut callers, "greedy", 500))
            .count();
        assert_eq!(greedy, 450);
        assert!(take(&mut callers, "bystander", 500));
        assert!(!take(&mut callers, "bystander", 500), "it has one");
        assert_eq!(callers.used_up("greedy", 500), Some(450));
        assert_eq!(callers.used_up("newcomer", 500), None);

        callers.released("bystander");
        callers.released("greedy");
        assert!(take(&mut callers, "greedy", 500));
        assert!(take(&mut callers, "bystander", 500));
    }

    #[test]
    fn an_agent_with_few_tunnels_opens_more_and_several_pods_have_more() {
        let mut callers = Callers::default();
        let served = |callers: &mut Callers, alive| {
            (0..1000).filter(|_| take(callers, "one", alive)).count()
        };

        assert_eq!(served(&mut callers, 10), 450);
        assert_eq!(served(&mut callers, 501), 450, "of 1000 all but a tenth");
    }
}

//! Which owner to ask next. Pure state.
//!
//! The next owner is asked as soon as one has no idle tunnel or fails, or is
//! silent for the hedge timeout, or when the owners may have changed. All
//! requests stay open: an owner without a tunnel may get one.

use std::collections::HashSet;

use cluster_state::{Owner, ReplicaId};

/// The course of one search.
#[derive(Debug)]
pub(super) struct Plan {
    asked: HashSet<ReplicaId>,
    turn: Turn,
}

/// What to do next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// The next owner is to be picked.
    Pick,
    /// The owner that was asked last has the hedge timeout to itself.
    Hedge,
    /// All owners are being asked.
    Wait,
}

impl Plan {
    pub(super) fn new() -> Self {
        Self {
            asked: HashSet::new(),
            turn: Turn::Pick,
        }
    }

    pub(super) fn turn(&self) -> Turn {
        self.turn
    }

    /// Picks the first owner that is not being asked.
    pub(super) fn pick(&mut self, owners: Vec<Owner>) -> Option<Owner> {
        let mut owners = owners.into_iter();
        let owner = owners.find(|owner| !self.asked.contains(&owner.replica));
        self.turn = match &owner {
            Some(owner) => {
                self.asked.insert(owner.replica.clone());
                Turn::Hedge
            }
            None => Turn::Wait,
        };
        owner
    }

    /// Whether all owners that are being asked match.
    pub(super) fn asks_only(&self, matches: impl Fn(&ReplicaId) -> bool) -> bool {
        self.asked.iter().all(matches)
    }

    /// The hedge timeout is over, an owner has no tunnel, or the owners have changed.
    pub(super) fn go_on(&mut self) {
        self.turn = Turn::Pick;
    }

    /// The request to this owner has ended; it may be asked again.
    pub(super) fn over(&mut self, replica: &ReplicaId) {
        self.asked.remove(replica);
        self.go_on();
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn owner(number: u8) -> Owner {
        Owner {
            replica: ReplicaId::new(&number.to_string()),
            url: String::new(),
        }
    }

    #[derive(Debug, Clone)]
    enum Step {
        Hedged,
        None,
        Failed(usize),
        Owners(Vec<u8>),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let owners = prop::collection::hash_set(0..5u8, 0..5);
        let step = prop_oneof![
            Just(Step::Hedged),
            Just(Step::None),
            any::<usize>().prop_map(Step::Failed),
            owners.prop_map(|owners| Step::Owners(owners.into_iter().collect())),
        ];
        prop::collection::vec(step, 0..50)
    }

    proptest! {
        #[test]
        fn each_owner_has_one_request_and_all_are_asked_in_the_end(steps in steps()) {
            let mut plan = Plan::new();
            let mut owners = Vec::new();
            let mut open: Vec<Owner> = Vec::new();

            for step in steps {
                match step {
                    Step::Hedged | Step::None => plan.go_on(),
                    Step::Failed(index) if !open.is_empty() => {
                        let failed = open.remove(index % open.len());
                        plan.over(&failed.replica);
                    }
                    Step::Failed(_) => {}
                    Step::Owners(now) => {
                        owners = now;
                        plan.go_on();
                    }
                }
                if plan.turn() == Turn::Pick
                    && let Some(picked) = plan.pick(owners.iter().copied().map(owner).collect())
                {
                    prop_assert!(!open.contains(&picked), "one request at a time");
                    open.push(picked);
                }
            }

            while plan.turn() != Turn::Wait {
                plan.go_on();
                open.extend(plan.pick(owners.iter().copied().map(owner).collect()));
            }
            for number in owners {
                prop_assert!(open.contains(&owner(number)));
            }
        }
    }
}

//! Which replica dials an agent, and when another one gives its connection up. Pure.

use cluster_state::{AgentId, Owner, ReplicaId, Ring};

/// The replica that is to dial an agent, as one replica sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Assignee {
    ThisReplica,
    Replica(ReplicaId),
}

impl Assignee {
    pub(super) fn new(ring: &Ring, agent: AgentId, me: &ReplicaId) -> Self {
        match ring.assignee(agent) {
            Some(replica) if replica != me => Self::Replica(replica.clone()),
            // An empty ring knows of no other.
            Some(_) | None => Self::ThisReplica,
        }
    }

    pub(super) fn is_this_replica(&self) -> bool {
        *self == Self::ThisReplica
    }

    /// Whether this replica may close its connection: another is the assignee, and owns the agent. While it is
    /// not `certain` who owns it, no connection is closed.
    pub(super) fn has_taken_over(&self, owners: &[Owner], certain: bool) -> bool {
        match self {
            Self::ThisReplica => false,
            Self::Replica(replica) => certain && owners.iter().any(|it| it.replica == *replica),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const AGENT: AgentId = AgentId(7);

    /// Replicas that each know the live ones as of some time ago, and which of them are connected to the agent.
    #[derive(Debug, Default)]
    struct World {
        live: BTreeSet<u8>,
        views: Vec<(u8, BTreeSet<u8>)>,
        connected: BTreeSet<u8>,
    }

    #[derive(Debug, Clone)]
    enum Event {
        Join(u8),
        Leave(u8),
        /// A replica reads who lives.
        Read(u8),
        /// A replica does what it should.
        Act(u8),
    }

    impl World {
        fn view(&mut self, of: u8) -> &mut BTreeSet<u8> {
            let at = self.views.iter().position(|(it, _)| *it == of);
            let at = at.unwrap_or_else(|| {
                self.views.push((of, BTreeSet::from([of])));
                self.views.len() - 1
            });
            &mut self.views[at].1
        }

        fn assignee(&mut self, of: u8) -> Assignee {
            let names: Vec<_> = self.view(of).iter().map(|it| id(*it)).collect();
            Assignee::new(&Ring::new(&names), AGENT, &id(of))
        }

        fn owners(&self, but: u8) -> Vec<Owner> {
            let others = self.connected.iter().filter(|it| **it != but);
            others.map(|it| owner(*it)).collect()
        }

        fn happen(&mut self, event: &Event) {
            match *event {
                Event::Join(it) => {
                    self.live.insert(it);
                }
                Event::Leave(it) => {
                    self.live.remove(&it);
                    self.connected.remove(&it);
                    self.views.retain(|(of, _)| *of != it);
                }
                Event::Read(it) if self.live.contains(&it) => {
                    let live = self.live.clone();
                    *self.view(it) = live;
                }
                Event::Act(it) if self.live.contains(&it) => {
                    let assignee = self.assignee(it);
                    if assignee.is_this_replica() {
                        self.connected.insert(it);
                    } else if assignee.has_taken_over(&self.owners(it), true) {
                        self.connected.remove(&it);
                    }
                }
                Event::Read(_) | Event::Act(_) => {}
            }
        }
    }

    fn id(number: u8) -> ReplicaId {
        ReplicaId::new(&format!("kas-{number}"))
    }

    fn owner(number: u8) -> Owner {
        Owner {
            replica: id(number),
            url: String::new(),
        }
    }

    fn event() -> impl Strategy<Value = Event> {
        let replica = 0..5u8;
        prop_oneof![
            1 => replica.clone().prop_map(Event::Join),
            1 => replica.clone().prop_map(Event::Leave),
            3 => replica.clone().prop_map(Event::Read),
            3 => replica.prop_map(Event::Act),
        ]
    }

    proptest! {
        /// Whatever replicas know of each other: as long as the one that holds the
        /// agent lives, somebody holds it; and when all know who lives, one does.
        #[test]
        fn the_agent_is_held_without_a_gap_and_by_one_in_the_end(
            events in prop::collection::vec(event(), 1..200)
        ) {
            let mut world = World::default();
            for event in &events {
                let held = !world.connected.is_empty();
                world.happen(event);
                if held && !matches!(event, Event::Leave(_)) {
                    prop_assert!(!world.connected.is_empty(), "nobody after {:?}", event);
                }
            }

            let live: Vec<_> = world.live.iter().copied().collect();
            live.iter().for_each(|it| world.happen(&Event::Read(*it)));
            for _ in 0..2 {
                live.iter().for_each(|it| world.happen(&Event::Act(*it)));
            }
            prop_assert_eq!(world.connected.len(), usize::from(!live.is_empty()));
        }
    }

    #[test]
    fn nothing_goes_while_it_is_not_certain_who_holds_the_agent_or_another_does() {
        let assignee = Assignee::Replica(id(1));

        assert!(assignee.has_taken_over(&[owner(1)], true));
        assert!(!assignee.has_taken_over(&[owner(1)], false));
        assert!(!assignee.has_taken_over(&[owner(2)], true));
        assert!(!Assignee::ThisReplica.has_taken_over(&[owner(2)], true));
    }
}

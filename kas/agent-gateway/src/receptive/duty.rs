//! Who dials an agent, and when a connection is given up: decided in plain values.

use cluster_state::{AgentId, Owner, ReplicaId, Ring};

/// Who is to dial an agent, as one replica sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Duty {
    /// This replica.
    Mine,
    /// Another.
    Of(ReplicaId),
}

impl Duty {
    pub(super) fn new(ring: &Ring, agent: AgentId, me: &ReplicaId) -> Self {
        match ring.duty(agent) {
            Some(replica) if replica != me => Self::Of(replica.clone()),
            // An empty ring knows of no other.
            Some(_) | None => Self::Mine,
        }
    }

    pub(super) fn is_mine(&self) -> bool {
        *self == Self::Mine
    }

    /// Whether a connection may go: whoever has the duty holds the agent. While
    /// it is not `certain` who holds it, nothing goes.
    pub(super) fn is_done_by(&self, owners: &[Owner], certain: bool) -> bool {
        match self {
            Self::Mine => false,
            Self::Of(replica) => certain && owners.iter().any(|it| it.replica == *replica),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const AGENT: AgentId = AgentId(7);

    /// Replicas that each know who lives as of some time ago, and who of them is
    /// connected to the agent.
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

        fn duty(&mut self, of: u8) -> Duty {
            let names: Vec<_> = self.view(of).iter().map(|it| id(*it)).collect();
            Duty::new(&Ring::new(&names), AGENT, &id(of))
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
                    let duty = self.duty(it);
                    if duty.is_mine() {
                        self.connected.insert(it);
                    } else if duty.is_done_by(&self.owners(it), true) {
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
        let duty = Duty::Of(id(1));

        assert!(duty.is_done_by(&[owner(1)], true));
        assert!(!duty.is_done_by(&[owner(1)], false));
        assert!(!duty.is_done_by(&[owner(2)], true));
        assert!(!Duty::Mine.is_done_by(&[owner(2)], true));
    }
}

//! Assigns work to replicas by consistent hashing: all replicas agree, and
//! little moves when one comes or goes.

use hashring::HashRing;

use crate::id::{AgentId, ReplicaId};

/// Virtual nodes of each replica: more make shares more even.
const VIRTUAL_NODES: u32 = 32;

/// Replicas in a ring.
#[derive(Debug, Clone)]
pub struct Ring(HashRing<Point>);

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Point {
    replica: ReplicaId,
    number: u32,
}

impl Ring {
    /// A ring of these replicas, in whatever order.
    pub fn new<'a>(replicas: impl IntoIterator<Item = &'a ReplicaId>) -> Self {
        let points = replicas.into_iter().flat_map(|replica| {
            (0..VIRTUAL_NODES).map(|number| Point {
                replica: replica.clone(),
                number,
            })
        });
        let mut ring = HashRing::new();
        ring.batch_add(points.collect());
        Self(ring)
    }

    /// The one replica that does what only one should do for the agent; `None` in an empty ring.
    #[must_use]
    pub fn assignee(&self, agent: AgentId) -> Option<&ReplicaId> {
        self.0.get(&agent.0).map(|point| &point.replica)
    }

    /// All replicas, the agent's assignee first.
    #[must_use]
    pub fn order(&self, agent: AgentId) -> Vec<ReplicaId> {
        self.order_for(agent.0)
    }

    /// All replicas, the assignee of this number first.
    #[must_use]
    pub fn order_for(&self, number: i64) -> Vec<ReplicaId> {
        let others = self.0.len().saturating_sub(1);
        let points = self.0.get_with_replicas(&number, others);
        let mut order = Vec::new();
        for point in points.unwrap_or_default() {
            if !order.contains(&point.replica) {
                order.push(point.replica);
            }
        }
        order
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replicas(names: &[&str]) -> Vec<ReplicaId> {
        names.iter().map(|name| ReplicaId::new(name)).collect()
    }

    #[test]
    fn a_leaving_replica_moves_only_its_own_agents() {
        let all = replicas(&["a", "b", "c"]);
        let before = Ring::new(&all);
        let after = Ring::new(&all[..2]);

        for agent in (0..500).map(AgentId) {
            let kept = before.assignee(agent).filter(|it| **it != all[2]);
            if kept.is_some() {
                assert_eq!(after.assignee(agent), kept);
            }
        }
        for replica in &all {
            let share = (0..500)
                .filter(|id| before.assignee(AgentId(*id)) == Some(replica))
                .count();
            assert!(share > 50, "{replica} has {share} of 500");
        }
    }

    #[test]
    fn the_order_has_every_replica_once_and_does_not_depend_on_how_they_came() {
        let ring = Ring::new(&replicas(&["a", "b", "c"]));
        let other = Ring::new(&replicas(&["c", "a", "b"]));

        for agent in (0..50).map(AgentId) {
            let order = ring.order(agent);
            assert_eq!(order, other.order(agent));
            assert_eq!(order.first(), ring.assignee(agent));
            let mut sorted = order.clone();
            sorted.sort();
            assert_eq!(sorted, replicas(&["a", "b", "c"]));
        }
        assert_eq!(Ring::new(&[]).assignee(AgentId(1)), None);
    }
}

//! Agents and replicas that come and go, as events.
//!
//! Each replica looks at who is connected to any, so that each knows what has changed; one of them tells it, the first
//! in the ring of live replicas. While the store cannot say who is connected, nothing is told.

use std::{
    collections::{BTreeMap, HashSet},
    sync::Arc,
    time::Duration,
};

use cluster_state::{AgentId, PresenceQuery, ReplicaId, RoutingTable};
use control_plane::ControlPlane;
use jiff::Timestamp;
use proto::events::rpc::{Batch, FleetChange};
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::Events;
use crate::tracker::processes;

/// How often it is looked who is connected.
const POLL_INTERVAL: Duration = Duration::from_secs(10);
/// How many looks in a row must miss an agent or a replica that counts as gone: connections move between replicas.
const MISSES_UNTIL_GONE: u8 = 2;
/// Changes that are told together.
pub(super) const MAX_CHANGES_PER_BATCH: usize = 500;
/// What the replica that tells is chosen by.
const TELLER: i64 = 0;

/// What has changed.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Connected(AgentId),
    Disconnected(AgentId),
    Up(ReplicaId),
    Down(ReplicaId),
}

/// Those that are there, with the looks that have missed them.
#[derive(Debug)]
struct Present<T>(BTreeMap<T, u8>);

impl<T: Ord + Clone> Present<T> {
    fn new(now: impl IntoIterator<Item = T>) -> Self {
        Self(now.into_iter().map(|it| (it, 0)).collect())
    }

    /// Who has come and who has gone.
    fn look(&mut self, now: impl IntoIterator<Item = T>) -> (Vec<T>, Vec<T>) {
        for misses in self.0.values_mut() {
            *misses = misses.saturating_add(1);
        }
        let mut came = Vec::new();
        for one in now {
            if self.0.insert(one.clone(), 0).is_none() {
                came.push(one);
            }
        }
        let gone = self
            .0
            .iter()
            .filter(|(_, misses)| **misses >= MISSES_UNTIL_GONE);
        let gone: Vec<_> = gone.map(|(one, _)| one.clone()).collect();
        for one in &gone {
            self.0.remove(one);
        }
        (came, gone)
    }
}

/// The fleet as it was seen last.
#[derive(Debug)]
struct Fleet {
    agents: Present<AgentId>,
    replicas: Present<ReplicaId>,
}

impl Fleet {
    fn look(&mut self, agents: HashSet<AgentId>, replicas: Vec<ReplicaId>) -> Vec<Change> {
        let (connected, disconnected) = self.agents.look(agents);
        let (up, down) = self.replicas.look(replicas);
        let agents = connected.into_iter().map(Change::Connected);
        let agents = agents.chain(disconnected.into_iter().map(Change::Disconnected));
        let replicas = up.into_iter().map(Change::Up);
        let replicas = replicas.chain(down.into_iter().map(Change::Down));
        agents.chain(replicas).collect()
    }
}

/// Tells what changes, until `stop`.
pub(super) async fn watch(
    events: Events,
    me: ReplicaId,
    table: Arc<dyn RoutingTable>,
    control_plane: Arc<dyn ControlPlane>,
    stop: CancellationToken,
) {
    let mut fleet: Option<Fleet> = None;
    let mut ticks = interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while stop.run_until_cancelled(ticks.tick()).await.is_some() {
        if !table.is_authoritative() {
            continue;
        }
        let Ok(entries) = table.find_presence(&PresenceQuery::All).await else {
            continue;
        };
        // What is known of a process stays published for a while after it has gone.
        let agents = processes(&entries).into_iter();
        let agents = agents.map(|it| AgentId(it.info.agent_id)).collect();
        let replicas = table.ring().order_for(TELLER);
        let tells = replicas.first() == Some(&me);
        let changes = match &mut fleet {
            Some(fleet) => fleet.look(agents, replicas),
            None => {
                fleet = Some(Fleet {
                    agents: Present::new(agents),
                    replicas: Present::new(replicas),
                });
                Vec::new()
            }
        };
        if tells {
            for changes in changes.chunks(MAX_CHANGES_PER_BATCH) {
                events.publish(batch(changes, &*control_plane).await).await;
            }
        }
    }
}

async fn batch(changes: &[Change], control_plane: &dyn ControlPlane) -> Batch {
    let mut batch = Batch::default();
    for change in changes {
        let (kind, agent) = match change {
            Change::Connected(agent) => ("agent.connected", Some(*agent)),
            Change::Disconnected(agent) => ("agent.disconnected", Some(*agent)),
            Change::Up(_) => ("replica.up", None),
            Change::Down(_) => ("replica.down", None),
        };
        let mut told = about(kind, agent, control_plane).await;
        if let Change::Up(replica) | Change::Down(replica) = change {
            told.replica = replica.to_string();
        }
        batch.changes.push(told);
    }
    batch
}

/// A change of this kind that is noticed now, about this agent.
pub(super) async fn about(
    kind: &str,
    agent: Option<AgentId>,
    control_plane: &dyn ControlPlane,
) -> FleetChange {
    let now = Timestamp::now();
    let mut told = FleetChange {
        id: format!("{:032x}", rand::random::<u128>()),
        r#type: kind.to_owned(),
        time: Some(prost_types::Timestamp {
            seconds: now.as_second(),
            nanos: now.subsec_nanosecond(),
        }),
        ..FleetChange::default()
    };
    if let Some(agent) = agent {
        told.agent_id = agent.0;
        if let Some(info) = control_plane.agent(agent).await {
            told.agent_name.clone_from(&info.name);
            told.project_id = info.project_id;
            told.project_path.clone_from(&info.project_path);
        }
    }
    told
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agents(ids: &[i64]) -> HashSet<AgentId> {
        ids.iter().copied().map(AgentId).collect()
    }

    fn replicas(names: &[&str]) -> Vec<ReplicaId> {
        names.iter().map(|name| ReplicaId::new(name)).collect()
    }

    #[test]
    fn who_is_away_for_one_look_has_not_gone() {
        let mut fleet = Fleet {
            agents: Present::new(agents(&[1, 2])),
            replicas: Present::new(replicas(&["a", "b"])),
        };

        assert_eq!(fleet.look(agents(&[1]), replicas(&["a"])), []);
        assert_eq!(fleet.look(agents(&[1, 2]), replicas(&["a", "b"])), []);
        assert_eq!(fleet.look(agents(&[1]), replicas(&["a"])), []);
        let gone = fleet.look(agents(&[1, 3]), replicas(&["a", "c"]));

        let b = ReplicaId::new("b");
        assert_eq!(
            gone,
            [
                Change::Connected(AgentId(3)),
                Change::Disconnected(AgentId(2)),
                Change::Up(ReplicaId::new("c")),
                Change::Down(b),
            ]
        );
        assert_eq!(fleet.look(agents(&[1, 3]), replicas(&["a", "c"])), []);
    }
}

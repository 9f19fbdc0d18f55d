//! How agents leave a replica that drains, or a connection that is old: how fast they are told, which tunnels
//! stay for calls until the agent has others, and for how long.
//!
//! What this means for one connection is in `connection::lifecycle`. The order of a replica's drain is the
//! server's.

mod pace;

use std::{collections::HashMap, sync::Arc, time::Duration};

use router::AgentId;

use super::AgentGateway;
pub(super) use pace::DrainPace;

/// How often this replica's tunnels are counted while an agent moves from one connection to another.
const REGISTRY_POLL_INTERVAL: Duration = Duration::from_millis(100);
/// How long an agent's only tunnel is kept: an agent that opens another only when one has ended waits for this
/// one's end.
const ONLY_TUNNEL_TIMEOUT: Duration = Duration::from_secs(2);

/// How agents are moved off a replica that drains, or off a connection that is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DrainSettings {
    /// Connections that get GOAWAY in a second.
    pub connections_per_second: u32,
    /// Time in which all connections must have got it, however many there are.
    pub goaway_limit: Duration,
    /// How long an agent's last idle tunnel is kept while the agent has none elsewhere.
    pub last_tunnel_timeout: Duration,
}

impl Default for DrainSettings {
    fn default() -> Self {
        Self {
            connections_per_second: 200,
            goaway_limit: Duration::from_secs(60),
            last_tunnel_timeout: Duration::from_secs(10),
        }
    }
}

/// The idle tunnel of an agent that is kept for now when its connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LastTunnel {
    pub(super) agent: AgentId,
    /// The agent had no other on the connection.
    pub(super) only: bool,
}

/// Chooses which idle tunnels end at once: all but one of each agent. Keeping more would not do: an agent without
/// calls opens another only when it has less than two.
pub(super) fn choose(idle: impl Iterator<Item = AgentId>) -> (Vec<bool>, Vec<LastTunnel>) {
    let mut counts: HashMap<AgentId, usize> = HashMap::new();
    let mut ends = Vec::new();
    for agent in idle {
        let count = counts.entry(agent).or_default();
        *count += 1;
        ends.push(*count > 1);
    }
    let kept = counts.into_iter().map(|(agent, count)| LastTunnel {
        agent,
        only: count == 1,
    });
    (ends, kept.collect())
}

/// Waits until the agent has tunnels elsewhere, or was given enough time.
pub(super) async fn moved(gateway: Arc<AgentGateway>, tunnel: LastTunnel, drains: bool) {
    let limit = gateway.settings.drain.last_tunnel_timeout;
    let limit = if tunnel.only {
        limit.min(ONLY_TUNNEL_TIMEOUT)
    } else {
        limit
    };
    let elsewhere = has_tunnels_elsewhere(&gateway, tunnel.agent, drains);
    if tokio::time::timeout(limit, elsewhere).await.is_err() {
        tracing::debug!(
            agent.id = tunnel.agent.0,
            "agent has no tunnel elsewhere yet; ending its last idle tunnel here"
        );
    }
}

async fn has_tunnels_elsewhere(gateway: &AgentGateway, agent: AgentId, drains: bool) {
    let mut changes = gateway.table.changes(agent);
    loop {
        changes.mark_unchanged();
        if !gateway.table.owners(agent).await.is_empty() {
            return;
        }
        // All connections of a replica that drains end: another one here does not count.
        if !drains && gateway.registry.tunnels(agent).idle > 1 {
            return;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(REGISTRY_POLL_INTERVAL), if !drains => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_tunnels_of_an_agent_end_but_one() {
        let agents = [1, 2, 1, 1].map(AgentId);

        let (ends, mut kept) = choose(agents.into_iter());
        kept.sort_by_key(|it| it.agent);

        assert_eq!(ends, [false, false, true, true]);
        let tunnel = |agent, only| LastTunnel {
            agent: AgentId(agent),
            only,
        };
        assert_eq!(kept, [tunnel(1, false), tunnel(2, true)]);
    }
}

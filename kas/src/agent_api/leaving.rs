//! When an agent that was asked to leave can be let go: when it has tunnels
//! elsewhere.

use std::{collections::HashMap, sync::Arc, time::Duration};

use router::AgentId;

use super::AgentApi;

/// How often the tunnels of this replica are looked at.
const LOOK: Duration = Duration::from_millis(100);
/// How long a tunnel that is its agent's only one is kept: an agent that opens
/// another only when one has ended waits for this one's end.
const ONLY_ONE: Duration = Duration::from_secs(2);

/// How agents are moved away from a replica that drains, or off a connection
/// that is old.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Leaving {
    /// Connections told in a second when draining.
    pub per_second: u32,
    /// Time in which all of them must have been told.
    pub within: Duration,
    /// How long an agent's last idle tunnels stay while it is not seen elsewhere.
    pub elsewhere: Duration,
}

impl Default for Leaving {
    fn default() -> Self {
        Self {
            per_second: 200,
            within: Duration::from_secs(60),
            elsewhere: Duration::from_secs(10),
        }
    }
}

/// What stays idle of one agent's tunnels when its connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Staying {
    pub(super) agent: AgentId,
    pub(super) idle: usize,
    pub(super) only_one: bool,
}

/// Chooses which idle tunnels end at once: every other one of each agent, so
/// that it opens others elsewhere while it still has some here.
pub(super) fn choose(idle: impl Iterator<Item = AgentId>) -> (Vec<bool>, Vec<Staying>) {
    let mut counts: HashMap<AgentId, usize> = HashMap::new();
    let mut ends = Vec::new();
    for agent in idle {
        let count = counts.entry(agent).or_default();
        *count += 1;
        ends.push(count.is_multiple_of(2));
    }
    let staying = counts.into_iter().map(|(agent, count)| Staying {
        agent,
        idle: count.div_ceil(2),
        only_one: count == 1,
    });
    let staying = staying.collect();
    (ends, staying)
}

/// Waits until the agent has tunnels elsewhere, or was given enough time.
pub(super) async fn moved(api: Arc<AgentApi>, staying: Staying, drains: bool) {
    let limit = api.settings.leaving.elsewhere;
    let limit = if staying.only_one {
        limit.min(ONLY_ONE)
    } else {
        limit
    };
    if tokio::time::timeout(limit, elsewhere(&api, staying, drains))
        .await
        .is_err()
    {
        tracing::debug!(
            agent_id = staying.agent.0,
            "an agent that was asked to leave is not seen elsewhere yet"
        );
    }
}

async fn elsewhere(api: &AgentApi, staying: Staying, drains: bool) {
    let mut changes = api.table.changes(staying.agent);
    loop {
        changes.mark_unchanged();
        if !api.table.owners(staying.agent).await.is_empty() {
            return;
        }
        // All connections of a replica that drains go.
        if !drains && api.registry.presence(staying.agent).idle > staying.idle {
            return;
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(LOOK), if !drains => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_other_tunnel_of_an_agent_ends_and_an_only_one_stays() {
        let agents = [1, 2, 1, 1, 1].map(AgentId);

        let (ends, mut staying) = choose(agents.into_iter());
        staying.sort_by_key(|it| it.agent);

        assert_eq!(ends, [false, false, true, false, true]);
        let stay = |agent, idle, only_one| Staying {
            agent: AgentId(agent),
            idle,
            only_one,
        };
        assert_eq!(staying, [stay(1, 2, false), stay(2, 1, true)]);
    }
}

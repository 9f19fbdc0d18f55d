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

/// The idle tunnel of an agent that stays for now when its connection is to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Staying {
    pub(super) agent: AgentId,
    /// The agent had no other.
    pub(super) only_one: bool,
}

/// Chooses which idle tunnels end at once: all but one of each agent. Fewer would
/// not do: an agent that has had nothing to do opens another only when it is
/// left with less than two.
pub(super) fn choose(idle: impl Iterator<Item = AgentId>) -> (Vec<bool>, Vec<Staying>) {
    let mut counts: HashMap<AgentId, usize> = HashMap::new();
    let mut ends = Vec::new();
    for agent in idle {
        let count = counts.entry(agent).or_default();
        *count += 1;
        ends.push(*count > 1);
    }
    let staying = counts.into_iter().map(|(agent, count)| Staying {
        agent,
        only_one: count == 1,
    });
    (ends, staying.collect())
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
        if !drains && api.registry.presence(staying.agent).idle > 1 {
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
    fn all_tunnels_of_an_agent_end_but_one() {
        let agents = [1, 2, 1, 1].map(AgentId);

        let (ends, mut staying) = choose(agents.into_iter());
        staying.sort_by_key(|it| it.agent);

        assert_eq!(ends, [false, false, true, true]);
        let stay = |agent, only_one| Staying {
            agent: AgentId(agent),
            only_one,
        };
        assert_eq!(staying, [stay(1, false), stay(2, true)]);
    }
}

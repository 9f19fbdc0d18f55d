//! What a call for an agent would meet now, for people: the same questions that a search asks, without a call.

use std::time::Duration;

use cluster_state::{AgentId, Owner};
use tokio::time::Instant;

use super::Router;
use crate::{error::OpenError, opening::Need, registry::AgentTunnels};

/// Where a tunnel of an agent would be looked for.
#[derive(Debug, Clone)]
pub struct Explanation {
    /// The agent's tunnels to this replica, which are tried first.
    pub here: AgentTunnels,
    /// The other replicas that would be asked, in this order.
    pub owners: Vec<Owner>,
    /// Time since any replica had a tunnel of it; zero while one has, `None` if none ever had.
    pub last_seen: Option<Duration>,
    /// Whether these are all owners. If not, they are all live replicas.
    pub authoritative: bool,
    /// How long a tunnel would be waited for if there were none now.
    pub hold: Duration,
    /// Why the call would be refused then.
    pub refusal: OpenError,
}

impl Router {
    /// Explains where a call for the agent would go that needs this of a tunnel.
    pub async fn explain(&self, agent: AgentId, need: &Need) -> Explanation {
        let now = Instant::now();
        let owners = self.table.owners(agent).await;
        Explanation {
            here: self.registry.tunnels(agent),
            owners,
            last_seen: self.last_seen(agent).await,
            authoritative: self.table.is_authoritative_for(agent),
            hold: self.hold_time(agent, need, now).await,
            refusal: self.reason(agent, need, now).await,
        }
    }
}

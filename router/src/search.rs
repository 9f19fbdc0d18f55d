//! Finding a tunnel for a call: here, at an owner, or after a hold.

mod owners;
mod plan;

use std::{sync::Arc, time::Duration};

use cluster_state::{AgentId, RoutingTable};
use tokio::time::Instant;

use crate::{
    call::{Call, Opening},
    error::OpenError,
    peers::Peers,
    refusal::Refusal,
    registry::{Registry, Waiting},
};
use owners::{Owners, Trouble};

/// How long after its last tunnel an agent's return is plausible: agentk's own
/// backoff grows to 20 s for each tunnel.
const PLAUSIBLE: Duration = Duration::from_secs(120);
/// How long after its start a replica cannot know yet who is absent.
const YOUNG: Duration = Duration::from_secs(15);
/// Tunnels of this replica that may turn out dead in one search.
const STALE: usize = 8;
/// How long an agent is waited for while nobody can say who is absent.
const UNCERTAIN: Duration = Duration::from_secs(30);

/// What a call needs of a tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Need {
    /// Path of the method.
    pub method: Arc<str>,
    /// The agent must act on behalf of somebody, and be known to do so.
    pub impersonation: bool,
    /// The connection changes its protocol, and the agent must carry what follows.
    pub upgrade: bool,
    /// On whose behalf, as in `user:alice`: those who wait for one agent take turns by caller.
    pub caller: Arc<str>,
}

/// Opens calls on agents.
#[derive(Debug)]
pub struct Router {
    registry: Arc<Registry>,
    table: Arc<dyn RoutingTable>,
    peers: Peers,
    born: Instant,
}

impl Router {
    /// A router over these tunnels, this table and these peers.
    #[must_use]
    pub fn new(registry: Arc<Registry>, table: Arc<dyn RoutingTable>, peers: Peers) -> Self {
        let looks_after = table.clone();
        let peers = peers.looked_after_by(Arc::new(move |url| looks_after.lost(url)));
        Self {
            registry,
            table,
            peers,
            born: Instant::now(),
        }
    }

    /// The tunnels of this replica.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Begins a call on the agent, at the latest at `deadline`. Cancelled, it
    /// has begun nothing.
    ///
    /// # Errors
    /// [`OpenError`] says why there was no tunnel.
    pub async fn open(
        &self,
        agent: AgentId,
        need: &Need,
        opening: &Opening,
        deadline: Instant,
    ) -> Result<Call, OpenError> {
        for _ in 0..STALE {
            let Some(tunnel) = self.registry.take(agent, need) else {
                break;
            };
            // A tunnel that breaks at once was dead already: nothing was sent.
            if let Ok(call) = Call::through_tunnel(tunnel, opening.clone()) {
                return Ok(call);
            }
        }
        let waiting = self.registry.wait(agent, need)?;
        let started = Instant::now();
        let trouble = Trouble::default();
        tokio::select! {
            biased;
            call = self.search(agent, need, opening, waiting, &trouble) => call,
            refusal = self.refused(agent, need, &trouble) => Err(refusal.into()),
            reason = self.give_up(agent, need, started, deadline) => Err(match reason {
                OpenError::CannotImpersonate
                | OpenError::NotOffered
                | OpenError::NoUpgrades
                | OpenError::ShareUsed { .. }
                | OpenError::NeverConnected => reason,
                reason => trouble.reason().map_or(reason, OpenError::OwnerUnreachable),
            }),
        }
    }

    async fn search(
        &self,
        agent: AgentId,
        need: &Need,
        opening: &Opening,
        mut waiting: Waiting,
        trouble: &Trouble,
    ) -> Result<Call, OpenError> {
        let (peers, table) = (&self.peers, self.table.as_ref());
        let mut owners = Owners::new(peers, table, agent, need, opening, trouble);
        loop {
            tokio::select! {
                biased;
                tunnel = waiting.next() => {
                    let Some(tunnel) = tunnel else { return std::future::pending().await };
                    if let Ok(call) = Call::through_tunnel(tunnel, opening.clone()) {
                        return Ok(call);
                    }
                    waiting = self.registry.wait(agent, need)?;
                }
                asked = owners.ready() => {
                    if let Ok(call) = asked.start(opening) {
                        return Ok(call);
                    }
                }
            }
        }
    }

    /// Waits until those who hold the agent's tunnels refuse, this replica included if it is one of them.
    async fn refused(&self, agent: AgentId, need: &Need, trouble: &Trouble) -> Refusal {
        loop {
            let refusal = trouble.refused().await;
            let holds = self.registry.presence(agent).alive > 0;
            if !holds || self.registry.refusal(agent, need).is_some() {
                return refusal;
            }
        }
    }

    /// Waits until a hold makes no more sense, and says why it was in vain.
    async fn give_up(
        &self,
        agent: AgentId,
        need: &Need,
        started: Instant,
        deadline: Instant,
    ) -> OpenError {
        loop {
            let patience = self.patience(agent, need, started).await;
            if patience.is_zero() || Instant::now() >= deadline {
                return self.reason(agent, need, started).await;
            }
            // Looked at again each second, since an agent may leave meanwhile.
            let next = Instant::now() + patience.min(Duration::from_secs(1));
            tokio::time::sleep_until(next.min(deadline)).await;
        }
    }

    /// How much longer the agent's tunnel may plausibly appear.
    async fn patience(&self, agent: AgentId, need: &Need, started: Instant) -> Duration {
        if let Some(refusal) = self.registry.refusal(agent, need) {
            return refusal.patience().saturating_sub(started.elapsed());
        }
        let plausible = match self.last_seen(agent).await {
            Some(ago) => PLAUSIBLE.saturating_sub(ago),
            None => Duration::ZERO,
        };
        let uncertain = if self.table.certain_of(agent) {
            Duration::ZERO
        } else {
            UNCERTAIN.saturating_sub(started.elapsed())
        };
        let plausible = plausible.max(uncertain);
        plausible.max(YOUNG.saturating_sub(self.born.elapsed()))
    }

    async fn reason(&self, agent: AgentId, need: &Need, started: Instant) -> OpenError {
        if let Some(refusal) = self.registry.refusal(agent, need) {
            return refusal.into();
        }
        match self.last_seen(agent).await {
            None if !self.table.certain_of(agent) => OpenError::Uncertain,
            None => OpenError::NeverConnected,
            Some(Duration::ZERO) => OpenError::AllBusy {
                waited: started.elapsed(),
            },
            Some(ago) => OpenError::Disconnected { ago },
        }
    }

    /// How long ago the agent was connected to any replica.
    pub async fn last_seen(&self, agent: AgentId) -> Option<Duration> {
        let presence = self.registry.presence(agent);
        if presence.alive > 0 {
            return Some(Duration::ZERO);
        }
        let here = presence.last_seen.map(|at| at.elapsed());
        let anywhere = self.table.last_seen(agent).await;
        [here, anywhere].into_iter().flatten().min()
    }
}

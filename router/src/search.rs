//! Finding a tunnel for a call: on this replica, at an owner, or after a hold.

mod explanation;
mod owners;
mod plan;

use std::{sync::Arc, time::Duration};

use cluster_state::{AgentId, RoutingTable};
use tokio::time::Instant;
use tracing::Instrument as _;

use crate::{
    call::Call,
    error::OpenError,
    opening::{Need, Opening},
    peers::Peers,
    refusal::Refusal,
    registry::{Registry, Waiting},
};
pub use explanation::Explanation;
use owners::{Failures, OwnerSearch};

/// How long after its last tunnel an agent may be reconnecting: agentk's own
/// backoff grows to 20 s for each tunnel.
const RECONNECT_TIMEOUT: Duration = Duration::from_secs(120);
/// How long after its start a replica waits for agents, whatever is known of them.
const STARTUP_GRACE_TIMEOUT: Duration = Duration::from_secs(15);
/// Tunnels of this replica that one search tries, at most: each may be dead.
const MAX_LOCAL_ATTEMPTS: usize = 8;
/// How long an agent is waited for while the table is not authoritative.
const NOT_AUTHORITATIVE_TIMEOUT: Duration = Duration::from_secs(30);

/// Opens calls on agents.
#[derive(Debug)]
pub struct Router {
    registry: Arc<Registry>,
    table: Arc<dyn RoutingTable>,
    peers: Peers,
    started: Instant,
}

impl Router {
    /// A router over these tunnels, this table and these peers.
    #[must_use]
    pub fn new(registry: Arc<Registry>, table: Arc<dyn RoutingTable>, peers: Peers) -> Self {
        let members = table.clone();
        let peers = peers.on_connection_lost(Arc::new(move |url| members.connection_lost(url)));
        Self {
            registry,
            table,
            peers,
            started: Instant::now(),
        }
    }

    /// The tunnels of this replica.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// The connections to other replicas.
    #[must_use]
    pub fn peers(&self) -> &Peers {
        &self.peers
    }

    /// Begins a call on the agent, at the latest at `deadline`. Cancel-safe: a
    /// cancelled search has begun nothing.
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
        let span = tracing::debug_span!(
            "call",
            request_id = opening.request_id(),
            agent.id = agent.0,
            method = &*need.method,
        );
        if let Some(call) = span.in_scope(|| self.open_here(agent, need, opening)) {
            return Ok(call);
        }
        // Apart, since what is seldom needed is large, and is part of each request.
        let found = Box::pin(self.find(agent, need, opening, deadline));
        found.instrument(span).await
    }

    /// Begins the call on an idle tunnel of this replica.
    fn open_here(&self, agent: AgentId, need: &Need, opening: &Opening) -> Option<Call> {
        for _ in 0..MAX_LOCAL_ATTEMPTS {
            let tunnel = self.registry.take(agent, need)?;
            // A tunnel that breaks at once was dead already: nothing was sent.
            if let Ok(call) = Call::through_tunnel(tunnel, opening) {
                tracing::debug!("call started through an idle tunnel of this replica");
                return Some(call);
            }
        }
        None
    }

    async fn find(
        &self,
        agent: AgentId,
        need: &Need,
        opening: &Opening,
        deadline: Instant,
    ) -> Result<Call, OpenError> {
        tracing::debug!("no idle tunnel on this replica; asking the owners");
        let waiting = self.registry.wait(agent, need)?;
        let started = Instant::now();
        let failures = Failures::default();
        tokio::select! {
            biased;
            call = self.search(agent, need, opening, waiting, &failures) => call,
            refusal = self.refused(agent, need, &failures) => Err(refusal.into()),
            reason = self.give_up(agent, need, started, deadline) => Err(match reason {
                OpenError::CannotImpersonate
                | OpenError::NotOffered
                | OpenError::NoUpgrades
                | OpenError::ShareUsed { .. }
                | OpenError::NeverConnected => reason,
                reason => failures.reason().map_or(reason, OpenError::OwnerUnreachable),
            }),
        }
    }

    async fn search(
        &self,
        agent: AgentId,
        need: &Need,
        opening: &Opening,
        mut waiting: Waiting,
        failures: &Failures,
    ) -> Result<Call, OpenError> {
        let (peers, table) = (&self.peers, self.table.as_ref());
        let mut owners = OwnerSearch::new(peers, table, agent, need, opening, failures);
        loop {
            tokio::select! {
                biased;
                tunnel = waiting.next() => {
                    let Some(tunnel) = tunnel else { return std::future::pending().await };
                    if let Ok(call) = Call::through_tunnel(tunnel, opening) {
                        tracing::debug!("call started through a tunnel of this replica, after a wait");
                        return Ok(call);
                    }
                    waiting = self.registry.wait(agent, need)?;
                }
                request = owners.ready() => {
                    if let Ok(call) = Call::through_peer(request, opening) {
                        return Ok(call);
                    }
                }
            }
        }
    }

    /// Waits until all owners refuse, this replica included if it is one.
    async fn refused(&self, agent: AgentId, need: &Need, failures: &Failures) -> Refusal {
        loop {
            let refusal = failures.refused().await;
            let holds = self.registry.tunnels(agent).alive > 0;
            if !holds || self.registry.refusal(agent, need).is_some() {
                return refusal;
            }
        }
    }

    /// Waits until a tunnel is not to be expected any more; returns why there is none.
    async fn give_up(
        &self,
        agent: AgentId,
        need: &Need,
        started: Instant,
        deadline: Instant,
    ) -> OpenError {
        loop {
            let left = self.hold_time(agent, need, started).await;
            if left.is_zero() || Instant::now() >= deadline {
                return self.reason(agent, need, started).await;
            }
            // Checked each second, since an agent may disconnect meanwhile.
            let next = Instant::now() + left.min(Duration::from_secs(1));
            tokio::time::sleep_until(next.min(deadline)).await;
        }
    }

    /// How much longer a tunnel of the agent is to be expected.
    async fn hold_time(&self, agent: AgentId, need: &Need, started: Instant) -> Duration {
        if let Some(refusal) = self.last_refusal(agent, need).await {
            return refusal.hold_time().saturating_sub(started.elapsed());
        }
        let reconnect = match self.last_seen(agent).await {
            Some(ago) => RECONNECT_TIMEOUT.saturating_sub(ago),
            None => Duration::ZERO,
        };
        let unknown = if self.table.is_authoritative_for(agent) {
            Duration::ZERO
        } else {
            NOT_AUTHORITATIVE_TIMEOUT.saturating_sub(started.elapsed())
        };
        let left = reconnect.max(unknown);
        left.max(STARTUP_GRACE_TIMEOUT.saturating_sub(self.started.elapsed()))
    }

    /// Why the tunnels of this replica cannot serve the call, unless those of another may.
    async fn last_refusal(&self, agent: AgentId, need: &Need) -> Option<Refusal> {
        let refusal = self.registry.refusal(agent, need)?;
        let others = self.table.owners(agent).await;
        others.is_empty().then_some(refusal)
    }

    async fn reason(&self, agent: AgentId, need: &Need, started: Instant) -> OpenError {
        if let Some(refusal) = self.last_refusal(agent, need).await {
            return refusal.into();
        }
        match self.last_seen(agent).await {
            None if !self.table.is_authoritative_for(agent) => OpenError::Uncertain,
            None => OpenError::NeverConnected,
            Some(Duration::ZERO) => OpenError::AllBusy {
                waited: started.elapsed(),
            },
            Some(ago) => OpenError::Disconnected { ago },
        }
    }

    /// Time since the agent was connected to any replica; zero while it is.
    pub async fn last_seen(&self, agent: AgentId) -> Option<Duration> {
        let tunnels = self.registry.tunnels(agent);
        if tunnels.alive > 0 {
            return Some(Duration::ZERO);
        }
        let here = tunnels.last_seen.map(|at| at.elapsed());
        let anywhere = self.table.last_seen(agent).await;
        [here, anywhere].into_iter().flatten().min()
    }
}

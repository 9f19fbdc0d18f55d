//! Requests tunnels from the owners of an agent. The first that has one wins.

use std::{
    collections::BTreeMap,
    future::Future,
    pin::Pin,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use cluster_state::{AgentId, Owner, ReplicaId, RoutingTable};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::{Notify, watch};
use tonic::{Code, Status};

use super::plan::{Plan, Turn};
use crate::{
    opening::{Need, Opening},
    peers::{Peers, TunnelReply, TunnelRequest},
    refusal::Refusal,
};

/// How long an owner may be silent before the next one is asked too.
const HEDGE_TIMEOUT: Duration = Duration::from_millis(10);
/// How long an owner that failed is not asked again.
const RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// Why owners provide no tunnel.
#[derive(Debug, Default)]
pub(super) struct Failures {
    /// The last failure of a request to an owner.
    failure: Mutex<Option<Status>>,
    /// Why all owners refuse.
    refusal: Mutex<Option<Refusal>>,
    refused: Notify,
}

impl Failures {
    /// The last failure.
    pub(super) fn reason(&self) -> Option<String> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.as_ref().map(|status| status.message().to_owned())
    }

    /// Waits until all owners that were asked refuse. Cancel-safe.
    pub(super) async fn refused(&self) -> Refusal {
        loop {
            self.refused.notified().await;
            let mut refusal = self.refusal.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(refusal) = refusal.take() {
                return refusal;
            }
        }
    }

    fn refuse(&self, refusal: Refusal) {
        *self.refusal.lock().unwrap_or_else(PoisonError::into_inner) = Some(refusal);
        self.refused.notify_one();
    }

    fn set_failure(&self, status: Option<Status>) {
        *self.failure.lock().unwrap_or_else(PoisonError::into_inner) = status;
    }
}

/// The requests to the owners of an agent, for one call.
pub(super) struct OwnerSearch<'a> {
    peers: &'a Peers,
    table: &'a dyn RoutingTable,
    agent: AgentId,
    need: &'a Need,
    opening: &'a Opening,
    failures: &'a Failures,
    changes: watch::Receiver<u64>,
    requests: FuturesUnordered<Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>>,
    plan: Plan,
    /// Owners that refuse.
    refusals: BTreeMap<ReplicaId, Refusal>,
    /// Whether the next request may begin the call: the first only, since others
    /// are sent when that is slow or fails.
    begins: bool,
}

struct Outcome {
    owner: Owner,
    reply: Result<(TunnelReply, TunnelRequest), Status>,
}

impl<'a> OwnerSearch<'a> {
    pub(super) fn new(
        peers: &'a Peers,
        table: &'a dyn RoutingTable,
        agent: AgentId,
        need: &'a Need,
        opening: &'a Opening,
        failures: &'a Failures,
    ) -> Self {
        Self {
            peers,
            table,
            agent,
            need,
            opening,
            failures,
            changes: table.changes(agent),
            requests: FuturesUnordered::new(),
            plan: Plan::new(),
            refusals: BTreeMap::new(),
            begins: opening.safe && opening.close,
        }
    }

    /// Waits for an owner that has reserved a tunnel. Cancel-safe.
    pub(super) async fn ready(&mut self) -> TunnelRequest {
        loop {
            if self.plan.turn() == Turn::Pick {
                self.ask_next().await;
            }
            let hedge = self.plan.turn() == Turn::Hedge;
            tokio::select! {
                biased;
                Some(outcome) = self.requests.next(), if !self.requests.is_empty() => {
                    if let Some(request) = self.consider(outcome) {
                        return request;
                    }
                }
                changed = self.changes.changed() => match changed {
                    Ok(()) => self.plan.go_on(),
                    Err(_) => return std::future::pending().await,
                },
                () = tokio::time::sleep(HEDGE_TIMEOUT), if hedge => self.plan.go_on(),
            }
        }
    }

    async fn ask_next(&mut self) {
        self.changes.mark_unchanged();
        let owners = self.table.owners(self.agent).await;
        let Some(owner) = self.plan.pick(owners) else {
            return;
        };
        let (peers, table) = (self.peers, self.table);
        let (agent, need, opening) = (self.agent, self.need, self.opening);
        let begin = std::mem::take(&mut self.begins);
        self.requests.push(Box::pin(async move {
            let reply = request(peers, &owner, agent, need, opening, begin).await;
            if let Err(status) = &reply {
                if status.code() == Code::Unavailable {
                    table.mark_unreachable(&owner.replica);
                }
                tokio::time::sleep(RETRY_INTERVAL).await;
            }
            Outcome { owner, reply }
        }));
    }

    fn consider(&mut self, outcome: Outcome) -> Option<TunnelRequest> {
        let Outcome { owner, reply } = outcome;
        match reply {
            Ok((TunnelReply::Ready, request)) => {
                tracing::debug!(peer = owner.url, replica = %owner.replica, "call started through a peer");
                self.plan.over(&owner.replica);
                return Some(request);
            }
            Ok((TunnelReply::NoneYet, request)) if request.has_begun() => {
                self.failures.set_failure(None);
                self.plan.over(&owner.replica);
            }
            Ok((TunnelReply::NoneYet, mut request)) => {
                self.failures.set_failure(None);
                self.requests.push(Box::pin(async move {
                    let reply = request.reply().await.map(|reply| (reply, request));
                    Outcome { owner, reply }
                }));
                self.plan.go_on();
            }
            Err(status) => {
                tracing::debug!(
                    peer = owner.url,
                    replica = %owner.replica,
                    error = %status,
                    "owner provides no tunnel"
                );
                self.plan.over(&owner.replica);
                match Refusal::from_owner(&status) {
                    Some(refusal) => {
                        self.refusals.insert(owner.replica, refusal);
                    }
                    None => self.failures.set_failure(Some(status)),
                }
                self.conclude();
            }
        }
        None
    }

    /// Refuses the call once every owner that is being asked has refused. While the table is not authoritative,
    /// replicas that hold no tunnels are asked too: these are not waited for.
    fn conclude(&self) {
        let all = self.plan.asks_only(|it| self.refusals.contains_key(it));
        if let Some(best) = self.refusals.values().max()
            && (all || !self.table.is_authoritative_for(self.agent))
        {
            self.failures.refuse(*best);
        }
    }
}

async fn request(
    peers: &Peers,
    owner: &Owner,
    agent: AgentId,
    need: &Need,
    opening: &Opening,
    begin: bool,
) -> Result<(TunnelReply, TunnelRequest), Status> {
    let mut request = if begin {
        peers
            .request_tunnel_and_begin(&owner.url, agent, need, opening)
            .await
    } else {
        peers.request_tunnel(&owner.url, agent, need, opening).await
    }?;
    Ok((request.reply().await?, request))
}

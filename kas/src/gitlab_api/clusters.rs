//! `Clusters`, our own: which cluster each agent is pinned to, and what was refused lately.

use std::{sync::Arc, time::Duration};

use agent_gateway::{Clusters, Tracker};
use cluster_state::{
    AgentId, ClusterUid, ConnectionEvent, ConnectionRecord, RecordSubject, RecordsPage, StoreError,
};
use futures_util::{StreamExt as _, stream};
use jiff::Timestamp;
use proto::clusters::rpc::{
    AgentCluster, ListRequest, ListResponse, PinRequest, PinResponse, Refusal, clusters_server,
};
use tonic::{Request, Response, Status};

/// Agents that one query may be about.
const AGENTS_PER_QUERY_MAX: usize = 10_000;
/// Agents whose records are read at a time.
const READS_AT_ONCE: usize = 64;
/// How old a refusal may be that is told of.
const REFUSAL_AGE_MAX: Duration = Duration::from_secs(15 * 60);

/// The service.
#[derive(Debug)]
pub(super) struct ClusterPinning {
    pub(super) clusters: Arc<Clusters>,
    pub(super) tracker: Arc<Tracker>,
}

#[tonic::async_trait]
impl clusters_server::Clusters for ClusterPinning {
    async fn list(&self, request: Request<ListRequest>) -> Result<Response<ListResponse>, Status> {
        let ids = request.into_inner().agent_ids;
        if ids.len() > AGENTS_PER_QUERY_MAX {
            return Err(Status::invalid_argument(format!(
                "{} ids, more than the {AGENTS_PER_QUERY_MAX} allowed",
                ids.len()
            )));
        }
        let pins = self.clusters.all().await.map_err(unavailable)?;
        let agents = stream::iter(ids.into_iter().map(AgentId)).map(|agent| {
            let pinned = pins.get(&agent);
            async move {
                let refusal = self.refusal(agent).await?;
                let known = pinned.is_some() || refusal.is_some();
                let agent = AgentCluster {
                    agent_id: agent.0,
                    pinned: pinned.map(ToString::to_string).unwrap_or_default(),
                    refusal,
                };
                Ok::<_, StoreError>(known.then_some(agent))
            }
        });
        let mut agents = agents.buffered(READS_AT_ONCE);
        let mut known = Vec::new();
        while let Some(agent) = agents.next().await {
            known.extend(agent.map_err(unavailable)?);
        }
        Ok(Response::new(ListResponse { agents: known }))
    }

    async fn pin(&self, request: Request<PinRequest>) -> Result<Response<PinResponse>, Status> {
        let PinRequest { agent_id, cluster } = request.into_inner();
        let cluster = match cluster.as_str() {
            "" => None,
            text => Some(ClusterUid::parse(text)),
        };
        let cluster = cluster.transpose();
        let cluster = cluster.map_err(|error| Status::invalid_argument(error.to_string()))?;
        let set = self.clusters.set(AgentId(agent_id), cluster).await;
        set.map_err(unavailable)?;
        Ok(Response::new(PinResponse {}))
    }
}

impl ClusterPinning {
    /// The last refusal, if there was one lately.
    async fn refusal(&self, agent: AgentId) -> Result<Option<Refusal>, StoreError> {
        let subject = RecordSubject::Agent(agent);
        let log = self.tracker.log();
        let records = log.read(subject, RecordsPage::default()).await?;
        let age_max = i64::try_from(REFUSAL_AGE_MAX.as_millis()).unwrap_or(i64::MAX);
        let since = Timestamp::now().as_millisecond() - age_max;
        let at = |record: &ConnectionRecord| i64::try_from(record.at).unwrap_or(0);
        let lately = records.into_iter().filter(|it| at(it) >= since);
        let mut refused = lately.filter(|it| it.event == ConnectionEvent::Refused);
        Ok(refused.next().map(|record| Refusal {
            at_ms: at(&record),
            reason: record.reason,
            remote_addr: record.remote_addr,
            cluster: record.cluster.unwrap_or_default(),
        }))
    }
}

fn unavailable(error: StoreError) -> Status {
    tracing::warn!(%error, "could not read or change the agents' cluster pins");
    Status::unavailable(error.to_string())
}

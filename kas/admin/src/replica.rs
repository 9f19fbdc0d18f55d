//! What a replica tells of itself: to whoever asks it, and to the other replicas on the private API.

pub(crate) mod errors;
pub(crate) mod loads;
pub(crate) mod problems;
pub(crate) mod sessions;

use std::sync::Arc;

use agent_gateway::Tracker;
use cluster_state::{AgentId, MemberState, ReplicaId, RoutingTable};
use jiff::Timestamp;
use router::Registry;
use runtime::{
    reloads,
    telemetry::{self, LogLevel},
};
use tokio::time::Instant;
use tonic::{Request, Response, Status, service::Routes};
use user_gateway::Metrics;

use crate::{
    Failure, Life,
    dial::{PeerDialer, dial_all},
    sources::store,
    v1::{
        AgentReference, Certificate, DialPeersRequest, DialPeersResponse, EndSessionRequest,
        EndSessionResponse, GetReplicaRequest, GetTunnelsRequest, ListErrorsResponse,
        ListLoadsRequest, ListLoadsResponse, ListOwnErrorsRequest, ListOwnProblemsRequest,
        ListOwnProblemsResponse, ListOwnSessionsRequest, ListRefusalsRequest, ListRefusalsResponse,
        ListRequestsRequest, ListRequestsResponse, ListSessionsResponse, Refusal, ReplicaDetails,
        ReplicaLogLevel, RequestInProgress, SetLogLevelRequest, SetLogLevelResponse, Tunnels,
        replica_server::{Replica, ReplicaServer},
    },
};

/// What paths of these questions begin with.
pub const PEER_SERVICE: &str = "/kas.admin.v1.Replica/";
pub(crate) const GET_REPLICA: &str = "/kas.admin.v1.Replica/GetReplica";
pub(crate) const LIST_OWN_REQUESTS: &str = "/kas.admin.v1.Replica/ListOwnRequests";
pub(crate) const LIST_OWN_SESSIONS: &str = "/kas.admin.v1.Replica/ListOwnSessions";
pub(crate) const END_OWN_SESSION: &str = "/kas.admin.v1.Replica/EndOwnSession";
pub(crate) const SET_OWN_LOG_LEVEL: &str = "/kas.admin.v1.Replica/SetOwnLogLevel";
pub(crate) const LIST_OWN_ERRORS: &str = "/kas.admin.v1.Replica/ListOwnErrors";
pub(crate) const LIST_OWN_LOADS: &str = "/kas.admin.v1.Replica/ListOwnLoads";
pub(crate) const LIST_OWN_PROBLEMS: &str = "/kas.admin.v1.Replica/ListOwnProblems";
pub(crate) const LIST_REFUSALS: &str = "/kas.admin.v1.Replica/ListRefusals";
pub(crate) const GET_TUNNELS: &str = "/kas.admin.v1.Replica/GetTunnels";
/// Requests or sessions in one answer, at most.
const MAX_REQUESTS: u32 = 500;
/// The same where nobody says.
const DEFAULT_REQUESTS: u32 = 100;

/// The certificates of this process, by their files.
fn certificates() -> Vec<Certificate> {
    let ends = reloads::certificate_ends().into_iter();
    ends.map(|(file, not_after)| Certificate {
        file,
        not_after: Timestamp::from_second(not_after)
            .unwrap_or(Timestamp::MAX)
            .to_string(),
        replica: String::new(),
    })
    .collect()
}

/// What a replica's state is called.
pub(crate) fn state(state: MemberState) -> &'static str {
    match state {
        MemberState::Serving => "serving",
        MemberState::Draining => "draining",
        MemberState::Unreachable => "unreachable",
        MemberState::Silent => "silent",
    }
}

/// The parts of a replica that know what is asked of it alone.
#[derive(Debug, Clone)]
pub struct Own {
    /// Its id.
    pub id: ReplicaId,
    /// Since when it runs.
    pub started_at: Timestamp,
    /// Its tunnels.
    pub registry: Arc<Registry>,
    /// The other replicas.
    pub table: Arc<dyn RoutingTable>,
    /// Its requests.
    pub requests: Metrics,
    /// What it has survived.
    pub life: Life,
    /// Knows its agents, where it has any.
    pub tracker: Option<Arc<Tracker>>,
    /// Dials other replicas, where there can be any.
    pub dialer: Option<Arc<dyn PeerDialer>>,
}

/// Answers the questions of other replicas about this one.
pub fn peer_questions(own: Own) -> Routes {
    Routes::new(ReplicaServer::new(own)).prepare()
}

impl Own {
    pub(crate) fn details(&self) -> ReplicaDetails {
        let (idle, alive) = self.registry.counts();
        let (requests_total, requests_failed) = self.requests.requests_over();
        let agents = self.registry.agents().len();
        ReplicaDetails {
            started_at: self.started_at.to_string(),
            agents: count(agents),
            tunnels: Some(Tunnels {
                idle: count(idle),
                alive: count(alive),
            }),
            requests_in_progress: count(self.requests.admitted_requests()),
            requests_total,
            requests_failed,
            store: store(self.table.store_health()).to_owned(),
            log_level: telemetry::current_level()
                .map_or(String::new(), |it| it.as_str().to_owned()),
            survived: Some(self.life.survived()),
            waiting: self.life.waiting(agents),
            certificates: certificates(),
        }
    }

    /// Changes how much this process logs.
    ///
    /// # Errors
    /// When there is no such level.
    pub(crate) fn set_log_level(
        &self,
        asked: &SetLogLevelRequest,
    ) -> Result<ReplicaLogLevel, Failure> {
        let wanted = level(&asked.level)?;
        let changed = telemetry::set_level(wanted);
        if changed.is_ok() {
            tracing::info!(
                level = wanted.as_str(),
                "log level changed by the admin API"
            );
        }
        Ok(ReplicaLogLevel {
            replica: self.id.to_string(),
            level: self.details().log_level,
            problem: changed.err().map_or(String::new(), |it| it.to_string()),
        })
    }

    pub(crate) fn tunnels(&self, agent: AgentId) -> Tunnels {
        let tunnels = self.registry.tunnels(agent);
        Tunnels {
            idle: count(tunnels.idle),
            alive: count(tunnels.alive),
        }
    }

    /// What was refused of agents here.
    pub(crate) fn refusals(&self, asked: &ListRefusalsRequest) -> ListRefusalsResponse {
        let tracker = self.tracker.as_ref();
        let (found, last) =
            tracker.map_or_else(Default::default, |it| it.refusals_after(asked.after));
        let told = found.into_iter().map(|it| Refusal {
            agent_id: it.agent.0,
            reason: it.reason,
            count: it.count,
            remote_addr: it.remote_addr,
        });
        ListRefusalsResponse {
            refusals: told.collect(),
            last,
        }
    }

    pub(crate) fn requests(&self, asked: &ListRequestsRequest) -> ListRequestsResponse {
        let agent = Some(AgentId(asked.agent_id)).filter(|it| it.0 != 0);
        let limit = limit(asked.limit);
        let (found, total) = self.requests.oldest_requests(agent, limit);
        let (now, clock) = (Instant::now(), Timestamp::now());
        let replica = self.id.to_string();
        let told = found.into_iter().map(|it| RequestInProgress {
            id: it.id,
            caller: it.caller.to_string(),
            agent: Some(AgentReference {
                id: it.agent.0,
                name: String::new(),
            }),
            verb: it.verb,
            path: it.path,
            started_at: (clock - now.saturating_duration_since(it.started)).to_string(),
            remote_addr: it.remote_addr.to_string(),
            replica: replica.clone(),
        });
        ListRequestsResponse {
            requests: told.collect(),
            total: count(total),
            coverage: None,
        }
    }
}

/// The level of this name.
pub(crate) fn level(name: &str) -> Result<LogLevel, Failure> {
    let all = [
        LogLevel::Debug,
        LogLevel::Info,
        LogLevel::Warn,
        LogLevel::Error,
    ];
    let found = all.into_iter().find(|it| it.as_str() == name);
    found.ok_or_else(|| {
        Failure::Invalid("level must be `debug`, `info`, `warn` or `error`".to_owned())
    })
}

/// The number of requests or sessions that an answer may have.
pub(crate) fn limit(asked: u32) -> usize {
    let limit = match asked {
        0 => DEFAULT_REQUESTS,
        asked => asked.min(MAX_REQUESTS),
    };
    usize::try_from(limit).unwrap_or(usize::MAX)
}

/// A number for a message.
pub(crate) fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

#[tonic::async_trait]
impl Replica for Own {
    async fn get_replica(
        &self,
        _: Request<GetReplicaRequest>,
    ) -> Result<Response<ReplicaDetails>, Status> {
        Ok(Response::new(self.details()))
    }

    async fn list_own_requests(
        &self,
        request: Request<ListRequestsRequest>,
    ) -> Result<Response<ListRequestsResponse>, Status> {
        Ok(Response::new(self.requests(request.get_ref())))
    }

    async fn list_own_errors(
        &self,
        request: Request<ListOwnErrorsRequest>,
    ) -> Result<Response<ListErrorsResponse>, Status> {
        let agent = AgentId(request.get_ref().agent_id);
        Ok(Response::new(self.errors(agent)))
    }

    async fn list_own_loads(
        &self,
        request: Request<ListLoadsRequest>,
    ) -> Result<Response<ListLoadsResponse>, Status> {
        Ok(Response::new(self.loads(request.get_ref())?))
    }

    async fn list_own_sessions(
        &self,
        request: Request<ListOwnSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        Ok(Response::new(self.sessions(request.get_ref())?))
    }

    async fn end_own_session(
        &self,
        request: Request<EndSessionRequest>,
    ) -> Result<Response<EndSessionResponse>, Status> {
        Ok(Response::new(self.end_session(request.get_ref())?))
    }

    async fn list_own_problems(
        &self,
        _: Request<ListOwnProblemsRequest>,
    ) -> Result<Response<ListOwnProblemsResponse>, Status> {
        Ok(Response::new(self.problems()))
    }

    async fn list_refusals(
        &self,
        request: Request<ListRefusalsRequest>,
    ) -> Result<Response<ListRefusalsResponse>, Status> {
        Ok(Response::new(self.refusals(request.get_ref())))
    }

    async fn set_own_log_level(
        &self,
        request: Request<SetLogLevelRequest>,
    ) -> Result<Response<SetLogLevelResponse>, Status> {
        let replicas = vec![self.set_log_level(request.get_ref())?];
        Ok(Response::new(SetLogLevelResponse { replicas }))
    }

    async fn dial_peers(
        &self,
        _: Request<DialPeersRequest>,
    ) -> Result<Response<DialPeersResponse>, Status> {
        let answer = match &self.dialer {
            Some(dialer) => dial_all(&*self.table, &self.id, dialer).await,
            None => DialPeersResponse::default(),
        };
        Ok(Response::new(answer))
    }

    async fn get_tunnels(
        &self,
        request: Request<GetTunnelsRequest>,
    ) -> Result<Response<Tunnels>, Status> {
        let agent = AgentId(request.get_ref().agent_id);
        Ok(Response::new(self.tunnels(agent)))
    }
}

//! `Joiner.Join`: an agentk that has a join token makes a token of its own known, of which only the hash comes here.

use std::{net::IpAddr, sync::Arc, time::Duration};

use cluster_state::{AgentId, ConnectionEvent, ConnectionRecord, RecordSubject};
use control_plane::{AgentInfo, ControlPlane, JoinError, TokenHash};
use proto::{
    bounds::Bounds,
    frame::Frame,
    join::rpc::{JoinRequest, JoinResponse},
};
use runtime::{
    grpc::{answer, receive},
    patience::within,
    shares::{Limits, Rate, Rates, Shares},
    telemetry::Causes,
};
use tokio::time::Instant;
use tonic::{Code, Status};

use super::super::service::{Method, RunnerCall, refuse};
use crate::tracker::{Origin, Tracker};

const PATH: &str = "/gitlab.agent.kas_join.rpc.Joiner/Join";
const NAME: &str = "Join";
/// A hash, and what later versions may add.
const REQUEST: Bounds = Bounds::bytes(1 << 10);
/// How long it may take to write the agent's token down, behind other writers.
const JOIN_TIMEOUT: Duration = Duration::from_secs(20);
/// Join tokens that are not known, by address: each has the file looked at again.
const UNKNOWN: Rate = Rate {
    per_second: 0.2,
    burst: 10,
};
/// Addresses whose rate is remembered.
const MAX_ADDRESSES: usize = 10_000;
/// Agents that are joining, by join token: one is written down after the other.
const JOINING: Limits = Limits {
    total: 64,
    each: 2,
    reserved: 16,
};

struct Joiner {
    control_plane: Arc<dyn ControlPlane>,
    tracker: Arc<Tracker>,
    unknown: Rates<IpAddr>,
    joining: Shares<TokenHash>,
}

/// Agents obtain their tokens by it.
pub(super) fn join(control_plane: Arc<dyn ControlPlane>, tracker: Arc<Tracker>) -> Method {
    let joiner = Arc::new(Joiner {
        control_plane,
        tracker,
        unknown: Rates::new(UNKNOWN, MAX_ADDRESSES),
        joining: Shares::new(JOINING),
    });
    Method::joining(PATH, move |call| {
        let joiner = joiner.clone();
        Box::pin(async move {
            joiner.serve(call).await;
            // What comes after it on the connection has to show an agent's token in time, as on any other.
            false
        })
    })
}

impl Joiner {
    async fn serve(&self, call: RunnerCall) {
        let RunnerCall {
            token,
            from,
            origin,
            request,
            respond,
            counted,
        } = call;
        let joined = async {
            // By the headers alone: nothing is read of who has no join token.
            let owner = self.owner(&token, from)?;
            let share = self.joining.take(token, 1);
            let _share = share.map_err(|full| {
                Refusal::busy(owner, format!("too many agents are joining: {full}"))
            })?;
            let (head, mut stream) = request.into_parts();
            let request: JoinRequest = receive(&head.headers, &mut stream, &REQUEST)
                .await
                .map_err(|status| Refusal {
                    owner: Some(owner),
                    status,
                })?;
            if let Some(call) = &counted {
                call.received();
            }
            self.join(owner, token, &request, from).await
        };
        match joined.await {
            Ok(agent) => {
                tracing::info!(
                    agent.id = agent.id.0,
                    agent.name = agent.name,
                    remote_addr = origin.address(),
                    "agent has joined by its join token"
                );
                if let Some(call) = &counted {
                    call.sent();
                    call.ends(Code::Ok);
                }
                let response = JoinResponse {
                    agent_id: agent.id.0,
                    agent_name: agent.name.clone(),
                };
                // An agent that is gone asks again.
                let _ = answer(respond, Frame::message(&response));
            }
            Err(Refusal { owner, status }) => {
                self.record(&token, owner, &status, &origin);
                if let Some(call) = &counted {
                    call.ends(status.code());
                }
                refuse(respond, &status, NAME);
            }
        }
    }

    /// The agent that the join token is for.
    fn owner(&self, token: &TokenHash, from: IpAddr) -> Result<AgentId, Refusal> {
        if let Some(agent) = self.control_plane.join_token_owner(token) {
            return Ok(agent);
        }
        if !self.unknown.take(&from, Instant::now()) {
            let status = Status::resource_exhausted(
                "too many join tokens from this address are not known: try again later",
            );
            return Err(Refusal {
                owner: None,
                status,
            });
        }
        let found = self.control_plane.find_join_token(token);
        found.map_err(|error| Refusal {
            owner: None,
            status: status(&error),
        })
    }

    async fn join(
        &self,
        owner: AgentId,
        token: TokenHash,
        request: &JoinRequest,
        from: IpAddr,
    ) -> Result<Arc<AgentInfo>, Refusal> {
        let refusal = |status| Refusal {
            owner: Some(owner),
            status,
        };
        let own: [u8; 32] = request.token_sha256[..].try_into().map_err(|_| {
            refusal(Status::invalid_argument(
                "token_sha256 must be a SHA-256: 32 bytes",
            ))
        })?;
        let joining = self.control_plane.join(token, TokenHash::new(own), from);
        let joined = within(JOIN_TIMEOUT, joining).await;
        let joined =
            joined.map_err(|_| refusal(Status::unavailable("the server is busy: try again")))?;
        joined.map_err(|error| {
            if let JoinError::NotKept { .. } = &error {
                tracing::error!(
                    agent.id = owner.0,
                    error = %Causes(&error),
                    "an agent could not join: its token cannot be written down"
                );
            }
            refusal(status(&error))
        })
    }

    fn record(&self, token: &TokenHash, owner: Option<AgentId>, status: &Status, from: &Origin) {
        let subject = owner.map_or(RecordSubject::Strangers, RecordSubject::Agent);
        let record = ConnectionRecord {
            reason: status.message().to_owned(),
            token: Some(token.fingerprint()),
            remote_addr: from.address(),
            scheme: from.scheme().to_owned(),
            ..self.tracker.record_of(ConnectionEvent::Refused)
        };
        self.tracker.refused(subject, record);
    }
}

/// What is told, and of which agent.
struct Refusal {
    owner: Option<AgentId>,
    status: Status,
}

impl Refusal {
    fn busy(owner: AgentId, message: String) -> Self {
        Self {
            owner: Some(owner),
            status: Status::resource_exhausted(message),
        }
    }
}

fn status(error: &JoinError) -> Status {
    let code = match error {
        JoinError::Unknown | JoinError::Expired { .. } => Code::Unauthenticated,
        JoinError::Used { .. } => Code::PermissionDenied,
        JoinError::Unsupported
        | JoinError::TooManyTokens { .. }
        | JoinError::TokenInUse
        | JoinError::NotKept {
            read_only: true, ..
        } => Code::FailedPrecondition,
        JoinError::NotKept { .. } => Code::Unavailable,
    };
    match error {
        JoinError::NotKept {
            read_only: true, ..
        } => Status::new(
            code,
            "this server may not write its file of agents, so that nobody can join here: start agentk with the token \
             that `kas agent rotate-token` prints",
        ),
        JoinError::NotKept { .. } => {
            Status::new(code, format!("{error}: its log says why; try again"))
        }
        _ => Status::new(code, error.to_string()),
    }
}

//! Authenticates agents by their tokens, and limits how many new connections a token may make.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use cluster_state::{AgentId, ConnectionEvent, ConnectionRecord, RecordSubject};
use control_plane::{AgentInfo, AuthError, ControlPlane, Token, TokenHash};
use prometheus_client::metrics::counter::Counter;
use runtime::{
    metrics::limiters::Limiter,
    patience::within,
    shares::{Rate, Rates},
};
use tokio::time::{Duration, Instant};
use tonic::Status;

use crate::tracker::{Origin, Tracker};

/// How long an agent waits for an answer of the control plane: longer than that takes to say why it cannot.
pub(super) const CONTROL_PLANE_TIMEOUT: Duration = Duration::from_secs(25);
/// Tokens whose rate of new connections is remembered.
const MAX_REMEMBERED_TOKENS: usize = 100_000;
/// Tokens that were good here, whose agents are known when they are good no more.
const MAX_GOOD_TOKENS: usize = 20_000;
const RATE_EXCEEDED: &str = "new connection rate limit exhausted for this agent, try again later";

/// Checks tokens.
#[derive(Debug)]
pub(super) struct Authenticator {
    control_plane: Arc<dyn ControlPlane>,
    connections: Rates<TokenHash>,
    exceeded: Counter,
    limiter: Limiter,
    /// Records what is refused; `None` if nobody wants to know.
    tracker: Option<Arc<Tracker>>,
    good: Mutex<HashMap<TokenHash, AgentId>>,
}

impl Authenticator {
    /// Asks `control_plane`. A token may make `limit` new connections in a minute.
    pub(super) fn new(
        control_plane: Arc<dyn ControlPlane>,
        limit: u32,
        exceeded: Counter,
        tracker: Option<Arc<Tracker>>,
    ) -> Self {
        let connections = Rate {
            per_second: f64::from(limit) / 60.0,
            burst: limit,
        };
        Self {
            control_plane,
            connections: Rates::new(connections, MAX_REMEMBERED_TOKENS),
            exceeded,
            limiter: Limiter::new("agent_connection", "{connection/token/m}", f64::from(limit)),
            tracker,
            good: Mutex::default(),
        }
    }

    /// The agent of a token that came on a connection.
    pub(super) async fn agent(
        &self,
        token: &Token,
        from: &Origin,
    ) -> Result<Arc<AgentInfo>, Status> {
        let asked = (self.control_plane).agent_by_token_from(token, from.remote_addr.ip());
        let answer = within(CONTROL_PLANE_TIMEOUT, asked).await;
        let answer = answer.map_err(|_| Status::unavailable("unavailable"))?;
        answer.map_err(|error| {
            if !error.is_retryable() {
                let owner = self.owner(token);
                let reason = match (&error, owner) {
                    (AuthError::UnknownToken, Some(_)) => "the token was revoked".to_owned(),
                    _ => error.to_string(),
                };
                self.record_refusal(token, owner, reason, from);
            }
            status(&error)
        })
    }

    /// Counts a new connection of a valid token.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when the token has made too many lately.
    pub(super) fn connected(
        &self,
        token: &Token,
        agent: AgentId,
        from: &Origin,
    ) -> Result<(), Status> {
        if self.connections.take(&token.hash(), Instant::now()) {
            self.limiter.passed(Duration::ZERO);
            if self.tracker.is_some() {
                let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
                if good.len() >= MAX_GOOD_TOKENS {
                    // Those that are in use come again.
                    good.clear();
                }
                good.insert(token.hash(), agent);
            }
            return Ok(());
        }
        self.exceeded.inc();
        self.limiter.refused();
        self.record_refusal(token, Some(agent), RATE_EXCEEDED.to_owned(), from);
        Err(Status::resource_exhausted(RATE_EXCEEDED))
    }

    /// Those of the tokens that are not valid any more. While the control plane cannot say, a token stays valid.
    pub(super) async fn revoked(&self, tokens: Vec<Token>, from: &Origin) -> Vec<TokenHash> {
        let mut revoked = Vec::new();
        for token in tokens {
            if matches!(self.agent(&token, from).await, Err(status) if is_refusal(&status)) {
                revoked.push(token.hash());
            }
        }
        revoked
    }

    /// Whose token it was, if that is known.
    fn owner(&self, token: &Token) -> Option<AgentId> {
        let owner = self.control_plane.token_owner(token);
        owner.or_else(|| {
            let good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
            good.get(&token.hash()).copied()
        })
    }

    fn record_refusal(&self, token: &Token, owner: Option<AgentId>, reason: String, from: &Origin) {
        let Some(tracker) = &self.tracker else {
            return;
        };
        let subject = owner.map_or(RecordSubject::Strangers, RecordSubject::Agent);
        let record = ConnectionRecord {
            reason,
            token: Some(token.hash().fingerprint()),
            remote_addr: from.address(),
            scheme: from.scheme().to_owned(),
            ..tracker.record_of(ConnectionEvent::Refused)
        };
        tracker.refused(subject, record);
    }
}

/// Whether a token was refused, rather than not checked.
pub(super) fn is_refusal(status: &Status) -> bool {
    use tonic::Code::{ResourceExhausted, Unavailable};
    !matches!(status.code(), Unavailable | ResourceExhausted)
}

fn status(error: &AuthError) -> Status {
    match error {
        AuthError::UnknownToken | AuthError::Expired { .. } => {
            Status::unauthenticated("unauthenticated")
        }
        AuthError::Forbidden => Status::permission_denied("forbidden"),
        AuthError::NoAgent => Status::not_found("agent not found"),
        AuthError::TooManyUnknownCredentials => Status::resource_exhausted(error.to_string()),
        AuthError::Unavailable(_) => Status::unavailable("unavailable"),
    }
}

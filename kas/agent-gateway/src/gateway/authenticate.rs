//! Authenticates agents by their tokens, and limits how many new connections a token may make.

use std::{net::IpAddr, sync::Arc};

use control_plane::{AgentInfo, AuthError, ControlPlane, Token, TokenHash};
use prometheus_client::metrics::counter::Counter;
use runtime::{
    metrics::limiters::Limiter,
    shares::{Rate, Rates},
};
use tokio::time::{Duration, Instant};
use tonic::Status;

/// How long an agent waits for an answer of the control plane: longer than that takes to say why it cannot.
pub(super) const CONTROL_PLANE_TIMEOUT: Duration = Duration::from_secs(25);
/// Tokens whose rate of new connections is remembered.
const MAX_REMEMBERED_TOKENS: usize = 100_000;

/// Checks tokens.
#[derive(Debug)]
pub(super) struct Authenticator {
    control_plane: Arc<dyn ControlPlane>,
    connections: Rates<TokenHash>,
    exceeded: Counter,
    limiter: Limiter,
}

impl Authenticator {
    /// Asks `control_plane`. A token may make `limit` new connections in a minute.
    pub(super) fn new(control_plane: Arc<dyn ControlPlane>, limit: u32, exceeded: Counter) -> Self {
        let connections = Rate {
            per_second: f64::from(limit) / 60.0,
            burst: limit,
        };
        Self {
            control_plane,
            connections: Rates::new(connections, MAX_REMEMBERED_TOKENS),
            exceeded,
            limiter: Limiter::new("agent_connection", "{connection/token/m}", f64::from(limit)),
        }
    }

    /// The agent of a token that came `from` an address.
    pub(super) async fn agent(
        &self,
        token: &Token,
        from: IpAddr,
    ) -> Result<Arc<AgentInfo>, Status> {
        let asked = self.control_plane.agent_by_token_from(token, from);
        let answer = tokio::time::timeout(CONTROL_PLANE_TIMEOUT, asked).await;
        let answer = answer.map_err(|_| Status::unavailable("unavailable"))?;
        answer.map_err(|error| status(&error))
    }

    /// Counts a new connection of a valid token.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when the token has made too many lately.
    pub(super) fn connected(&self, token: TokenHash) -> Result<(), Status> {
        if self.connections.take(&token, Instant::now()) {
            self.limiter.passed(Duration::ZERO);
            return Ok(());
        }
        self.exceeded.inc();
        self.limiter.refused();
        Err(Status::resource_exhausted(
            "new connection rate limit exhausted for this agent, try again later",
        ))
    }

    /// Those of the tokens that are not valid any more. While the control plane cannot say, a token stays valid.
    pub(super) async fn revoked(&self, tokens: Vec<Token>, from: IpAddr) -> Vec<TokenHash> {
        let mut revoked = Vec::new();
        for token in tokens {
            if matches!(self.agent(&token, from).await, Err(status) if is_refusal(&status)) {
                revoked.push(token.hash());
            }
        }
        revoked
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

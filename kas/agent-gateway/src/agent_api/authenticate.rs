//! Who an agent is: its token, asked of the control plane, and how often a
//! token may make new connections.

use std::{net::IpAddr, sync::Arc};

use http::HeaderMap;
use prometheus_client::metrics::counter::Counter;
use runtime::{
    grpc::bearer,
    shares::{Rate, Rates},
};
use tokio::time::{Duration, Instant};
use tonic::Status;

use control_plane::{AgentInfo, AuthError, ControlPlane, Token, TokenHash};

/// How long an agent waits for the control plane at most.
pub(super) const ASKING: Duration = Duration::from_secs(10);
/// Good tokens of which it is remembered how often they connected.
const MAX_TOKENS: usize = 100_000;
/// Checks tokens.
#[derive(Debug)]
pub(super) struct Authenticator {
    control_plane: Arc<dyn ControlPlane>,
    connections: Rates<TokenHash>,
    exceeded: Counter,
}

/// A token that a call has shown.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    pub(super) token: Token,
    pub(super) hash: TokenHash,
}

impl Shown {
    /// The token in a call's headers.
    ///
    /// # Errors
    /// UNAUTHENTICATED, when they carry none.
    pub(super) fn read(headers: &HeaderMap) -> Result<Self, Status> {
        let token = Token::new(bearer(headers)?);
        let hash = token.hash();
        Ok(Self { token, hash })
    }
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
            connections: Rates::new(connections, MAX_TOKENS),
            exceeded,
        }
    }

    /// Whose a token is that came `from` an address.
    pub(super) async fn agent(
        &self,
        token: &Token,
        from: IpAddr,
    ) -> Result<Arc<AgentInfo>, Status> {
        let asked = self.control_plane.agent_by_token_from(token, from);
        let answer = tokio::time::timeout(ASKING, asked).await;
        let answer = answer.map_err(|_| Status::unavailable("unavailable"))?;
        answer.map_err(|error| status(&error))
    }

    /// Counts a connection on which a good token is new.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when the token has made too many lately.
    pub(super) fn connected(&self, token: TokenHash) -> Result<(), Status> {
        if self.connections.take(&token, Instant::now()) {
            return Ok(());
        }
        self.exceeded.inc();
        Err(Status::resource_exhausted(
            "new connection rate limit exhausted for this agent, try again later",
        ))
    }

    /// Which of these tokens are good no more. One that nobody can say anything of stays.
    pub(super) async fn revoked(&self, shown: Vec<Shown>, from: IpAddr) -> Vec<TokenHash> {
        let mut revoked = Vec::new();
        for Shown { token, hash } in shown {
            if matches!(self.agent(&token, from).await, Err(status) if is_refusal(&status)) {
                revoked.push(hash);
            }
        }
        revoked
    }
}

/// Whether a token was refused, and not only nobody could say.
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
        AuthError::TooManyStrangers => Status::resource_exhausted(error.to_string()),
        AuthError::Unavailable(_) => Status::unavailable("unavailable"),
    }
}

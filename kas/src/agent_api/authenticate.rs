//! Who an agent is: its token, asked of the control plane, and how often a
//! token may make new connections.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use http::HeaderMap;
use prometheus_client::metrics::counter::Counter;
use runtime::grpc::bearer;
use tokio::time::{Duration, Instant};
use tonic::Status;

use super::dialled::Dialled;
use crate::control_plane::{AgentInfo, AuthError, ControlPlane, Token, TokenHash};

/// Tokens that one connection may carry: behind a load balancer that shares
/// connections, the streams of many agents arrive on one.
const MAX_TOKENS: usize = 10_000;
/// The window of the limit of new connections.
const WINDOW: Duration = Duration::from_secs(60);
/// How long an agent waits for the control plane at most.
pub(super) const ASKING: Duration = Duration::from_secs(10);

/// Checks tokens.
#[derive(Debug)]
pub(super) struct Authenticator {
    control_plane: Arc<dyn ControlPlane>,
    limit: u32,
    window: Mutex<Window>,
    exceeded: Counter,
}

#[derive(Debug)]
struct Window {
    began: Instant,
    connections: HashMap<TokenHash, u32>,
}

/// The tokens that a connection has shown so far, and whose they must be if this
/// replica dialled it.
#[derive(Debug, Clone)]
pub(super) struct Shown {
    tokens: Arc<Mutex<Vec<(TokenHash, Token)>>>,
    from: IpAddr,
    pub(super) dialled: Option<Arc<Dialled>>,
}

impl Shown {
    pub(super) fn new(from: IpAddr, dialled: Option<Arc<Dialled>>) -> Self {
        Self {
            tokens: Arc::default(),
            from,
            dialled,
        }
    }

    fn tokens(&self) -> Vec<Token> {
        let shown = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        shown.iter().map(|(_, token)| token.clone()).collect()
    }
}

impl Authenticator {
    pub(super) fn new(control_plane: Arc<dyn ControlPlane>, limit: u32, exceeded: Counter) -> Self {
        let window = Mutex::new(Window {
            began: Instant::now(),
            connections: HashMap::new(),
        });
        Self {
            control_plane,
            limit,
            window,
            exceeded,
        }
    }

    /// The agent whose token a call carries.
    pub(super) async fn agent(
        &self,
        headers: &HeaderMap,
        shown: &Shown,
    ) -> Result<Arc<AgentInfo>, Status> {
        let token = Token::new(bearer(headers)?);
        self.admit(&token, shown)?;
        let asked = self.control_plane.agent_by_token_from(&token, shown.from);
        let asked = tokio::time::timeout(ASKING, asked).await;
        let asked = asked.map_err(|_| Status::unavailable("unavailable"))?;
        let agent = asked.map_err(|error| status(&error));
        if let Some(dialled) = &shown.dialled {
            dialled.check(&agent)?;
        }
        agent
    }

    /// Counts a connection once for each token it shows.
    fn admit(&self, token: &Token, shown: &Shown) -> Result<(), Status> {
        let hash = token.hash();
        let mut shown = shown.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        if shown.iter().any(|(known, _)| *known == hash) {
            return Ok(());
        }
        if shown.len() >= MAX_TOKENS || !self.count(hash) {
            self.exceeded.inc();
            return Err(Status::resource_exhausted(
                "new connection rate limit exhausted for this agent, try again later",
            ));
        }
        shown.push((hash, token.clone()));
        Ok(())
    }

    /// Whether a token that the connection has shown is good no more.
    pub(super) async fn any_revoked(&self, shown: &Shown) -> bool {
        for token in shown.tokens() {
            let asked = tokio::time::timeout(ASKING, self.control_plane.agent_by_token(&token));
            if matches!(asked.await, Ok(Err(error)) if !error.is_retryable()) {
                return true;
            }
        }
        false
    }

    fn count(&self, hash: TokenHash) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began.elapsed() >= WINDOW {
            window.began = Instant::now();
            window.connections.clear();
        }
        let connections = window.connections.entry(hash).or_default();
        *connections += 1;
        *connections <= self.limit
    }
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

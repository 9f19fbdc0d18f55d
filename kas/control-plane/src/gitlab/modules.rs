//! `modules/…`: the part of GitLab's internal API that agents' modules reach through kas.
//!
//! GitLab finds the agent by its token, so the path that is asked for below it is the module's own business; that
//! it stays below is [`ModulePath`]'s.

mod path;
mod request;
mod turns;

use std::sync::Arc;

use cluster_state::AgentId;
use http::{Method, Response, StatusCode};
use hyper::body::Incoming;
use tokio::time::{Duration, Instant};
use tonic::Status;

use super::{
    super::Token,
    GitLab, Inner,
    error::CallError,
    retry::{ATTEMPTS_MAX, pause},
};
pub use path::{ModulePath, PathError};
pub(super) use request::ModuleHead;
pub use request::{ModuleBody, ModuleRequest, RequestError, StreamedBody};
pub(super) use turns::ModuleTurns;

/// How long a request waits for its turn at GitLab.
const TURN_TIMEOUT: Duration = Duration::from_secs(9);

/// Why a module's request was not answered.
#[derive(Debug, thiserror::Error)]
pub enum ModuleError {
    /// GitLab gave no answer.
    #[error(transparent)]
    Call(#[from] CallError),
    /// There was no connection, so that nothing was sent.
    #[error("GitLab cannot be reached")]
    NoConnection {
        /// What happened, with addresses.
        detail: String,
    },
    /// The agent did not send its body.
    #[error("{}", .0.message())]
    Body(Status),
}

/// GitLab's API for agents' modules. Clones share it.
#[derive(Debug, Clone)]
pub struct ModuleApi(Arc<Inner>);

impl GitLab {
    /// Its API for agents' modules.
    #[must_use]
    pub fn module_api(&self) -> ModuleApi {
        ModuleApi(self.0.clone())
    }
}

impl ModuleApi {
    /// Makes a request of an agent with its token. Whatever GitLab answers is the answer, redirections and refusals
    /// too. What has its body in memory is repeated where GitLab failed, as GitLab's kas does. Cancel-safe.
    ///
    /// # Errors
    /// When GitLab cannot be asked, or the body does not come.
    pub async fn request(
        &self,
        agent: AgentId,
        token: &Token,
        request: ModuleRequest,
    ) -> Result<Response<Incoming>, ModuleError> {
        let answered = self.ask(agent, token, request).await;
        let metrics = self.0.client.metrics();
        match &answered {
            Ok(answer) => metrics.count_module(Some(answer.status())),
            Err(ModuleError::Call(CallError::RateLimited)) => metrics.count_module_held_back(),
            Err(ModuleError::Call(_) | ModuleError::NoConnection { .. }) => {
                metrics.count_module(None);
            }
            // GitLab has no part in it.
            Err(ModuleError::Body(_)) => {}
        }
        answered
    }

    async fn ask(
        &self,
        agent: AgentId,
        token: &Token,
        request: ModuleRequest,
    ) -> Result<Response<Incoming>, ModuleError> {
        let (head, body) = request.into_parts();
        let client = &self.0.client;
        let whole = match body {
            ModuleBody::Streamed(body) => {
                self.turn(agent).await?;
                return client.send_module(token, &head, body).await;
            }
            ModuleBody::Whole(body) => body,
        };
        let mut number = 0;
        loop {
            self.turn(agent).await?;
            let body = ModuleBody::from_bytes(whole.clone());
            let answered = client.send_module(token, &head, body).await;
            let last = number + 1 == ATTEMPTS_MAX || !is_worth_a_retry(&head.method, &answered);
            if last || !self.0.module_turns.may_retry() {
                return answered;
            }
            tokio::time::sleep(pause(number, rand::random())).await;
            number += 1;
        }
    }

    /// Waits for a turn of this agent, and then for one of all that ask GitLab.
    async fn turn(&self, agent: AgentId) -> Result<(), CallError> {
        let deadline = Instant::now() + TURN_TIMEOUT;
        let wait = self
            .0
            .module_turns
            .take(agent, Instant::now(), TURN_TIMEOUT)?;
        tokio::time::sleep(wait).await;
        self.0
            .client
            .turn(super::call::Requester::Known, deadline)
            .await
    }
}

/// Whether to repeat it may help, and does no harm: what may have changed something is repeated only where GitLab
/// says that it did not look at it.
fn is_worth_a_retry(method: &Method, answered: &Result<Response<Incoming>, ModuleError>) -> bool {
    let repeatable = method.is_idempotent();
    match answered {
        Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE => true,
        Ok(answer) => {
            let status = answer.status();
            repeatable && status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
        }
        Err(ModuleError::NoConnection { .. }) => true,
        Err(ModuleError::Call(CallError::Unreachable { .. })) => repeatable,
        Err(_) => false,
    }
}

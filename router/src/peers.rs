//! Calls to other replicas: pooled connections, and the question whether a
//! peer has a tunnel.

mod asked;
mod hop;
mod pool;

use std::sync::Arc;

use http::{HeaderMap, Request};
use proto::metadata::Meta;
use runtime::grpc::status_from;
use tonic::Status;

pub use asked::{Answer, Asked};
pub(crate) use hop::Question;
pub use hop::{AGENT_ID, CALLER, IMPERSONATION};
pub(crate) use pool::Lease;
pub use pool::{Dial, Peers, Random};

use crate::{call::Opening, id::AgentId, search::Need};

/// Metadata that prove this replica's identity, made anew for each call.
pub type Credentials = Arc<dyn Fn() -> HeaderMap + Send + Sync>;

impl Peers {
    /// Asks the peer at `url` for a tunnel of the agent, for a call with
    /// `meta`. A connection that turns out to be dead is not held against the
    /// peer: it is asked once more through another.
    ///
    /// # Errors
    /// A status when the peer cannot be reached, or refuses.
    pub async fn ask(
        &self,
        url: &str,
        agent: AgentId,
        need: &Need,
        meta: &Meta,
    ) -> Result<Asked, Status> {
        let question = || hop::request(agent, need, meta, self.credentials());
        self.ask_twice(url, &question, None).await
    }

    /// Asks, and begins the call in the same breath, which saves it a journey:
    /// the peer need not hear that its tunnel is wanted. A peer that has none now
    /// says so, and does not wait for one. The call may already run when another
    /// peer is faster, so it must be [safe](Opening::safe).
    ///
    /// # Errors
    /// A status when the peer cannot be reached, or refuses.
    pub async fn ask_and_begin(
        &self,
        url: &str,
        agent: AgentId,
        need: &Need,
        opening: &Opening,
    ) -> Result<Asked, Status> {
        let question = || {
            let mut question = hop::request(agent, need, &opening.meta, self.credentials());
            hop::say_that_it_begins(&mut question);
            question
        };
        self.ask_twice(url, &question, Some(opening)).await
    }

    async fn ask_twice(
        &self,
        url: &str,
        question: &(dyn Fn() -> Request<()> + Sync),
        begin: Option<&Opening>,
    ) -> Result<Asked, Status> {
        match self.ask_once(url, question(), begin).await? {
            Ok(asked) => Ok(asked),
            Err(error) if is_of_the_connection(&error) => self
                .ask_once(url, question(), begin)
                .await?
                .map_err(|error| status_from(&error)),
            Err(error) => Err(status_from(&error)),
        }
    }

    /// Asks until the peer has begun to answer.
    async fn ask_once(
        &self,
        url: &str,
        question: Request<()>,
        begin: Option<&Opening>,
    ) -> Result<Result<Asked, h2::Error>, Status> {
        let (mut connection, lease) = self.connection(url).await?;
        let (response, mut send) = match connection.send_request(question, false) {
            Ok(sent) => sent,
            Err(error) => return Ok(Err(error)),
        };
        let begun = begin.map(|opening| asked::begin(&mut send, opening.clone()));
        if let Some(Err(error)) = begun {
            return Ok(Err(error));
        }
        let response = match response.await {
            Ok(response) => response,
            Err(error) => return Ok(Err(error)),
        };
        lease.answered();
        if let Some(status) = Status::from_header_map(response.headers()) {
            return Err(status);
        }
        let recv = response.into_body();
        Ok(Ok(Asked::new(send, recv, lease, begin.is_some())))
    }
}

/// Whether the connection failed rather than the question.
fn is_of_the_connection(error: &h2::Error) -> bool {
    error.is_io() || error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

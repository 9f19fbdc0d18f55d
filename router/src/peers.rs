//! Calls to other replicas: pooled connections, and the question whether a
//! peer has a tunnel.

mod asked;
mod hop;
mod pool;

use cluster_state::AgentId;
use http::{HeaderMap, Request};
use runtime::grpc::status_from;
use tonic::{Code, Status};

pub use asked::{Answer, Asked};
pub(crate) use hop::Question;
pub use hop::{AGENT_ID, CALLER, IMPERSONATION};
pub(crate) use pool::Lease;
pub use pool::{Dial, Peers, Random};

use crate::{call::Opening, search::Need};

/// How this replica proves to its peers who it is, and they to it.
pub trait Credentials: Send + Sync {
    /// What whoever answers on a new connection to `url` must prove before anything of a user goes
    /// there. None where nobody proves anything.
    fn greet(&self, _url: &str) -> Option<Box<dyn Greeting>> {
        None
    }

    /// Metadata for a question to the peer at `url`, made anew for each. They are of use on connections of this
    /// `audience` only, which the peer's answer to the greeting has named; empty without one.
    fn prove(&self, url: &str, audience: &str) -> HeaderMap;

    /// A peer has refused them, with these metadata. Whether other ones can be
    /// made now, so that it makes sense to ask once more.
    fn refused(&self, _url: &str, _refusal: &HeaderMap) -> bool {
        false
    }
}

/// The question by which a peer is found to be one.
pub trait Greeting: Send + Sync {
    /// The question, which tells whoever answers nothing.
    fn question(&self) -> Request<()>;

    /// For whom credentials on this connection are, if the metadata of the answer prove that a replica
    /// has answered that is published at the URL.
    fn audience(&self, answer: &HeaderMap) -> Option<String>;
}

/// For peers that need no proof.
impl Credentials for () {
    fn prove(&self, _: &str, _: &str) -> HeaderMap {
        HeaderMap::new()
    }
}

/// Why a question was not answered.
struct Failed {
    status: Status,
    /// Whether it makes sense to ask once more.
    again: bool,
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        let again = false;
        Self { status, again }
    }
}

impl From<h2::Error> for Failed {
    fn from(error: h2::Error) -> Self {
        Self {
            status: status_from(&error),
            again: is_of_the_connection(&error),
        }
    }
}

impl Peers {
    /// Asks the peer at `url` for a tunnel of the agent, for the call that
    /// `opening` begins. A connection that turns out to be dead is not held
    /// against the peer: it is asked once more through another, and so is one
    /// that refused credentials which can be mended.
    ///
    /// # Errors
    /// A status when the peer cannot be reached, or refuses.
    pub async fn ask(
        &self,
        url: &str,
        agent: AgentId,
        need: &Need,
        opening: &Opening,
    ) -> Result<Asked, Status> {
        let question = |audience: &str| {
            let credentials = self.credentials.prove(url, audience);
            hop::request(agent, need, opening, credentials)
        };
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
        let question = |audience: &str| {
            let credentials = self.credentials.prove(url, audience);
            let mut question = hop::request(agent, need, opening, credentials);
            hop::say_that_it_begins(&mut question);
            question
        };
        self.ask_twice(url, &question, Some(opening)).await
    }

    async fn ask_twice(
        &self,
        url: &str,
        question: &(dyn Fn(&str) -> Request<()> + Sync),
        begin: Option<&Opening>,
    ) -> Result<Asked, Status> {
        let asked = match self.ask_once(url, question, begin).await {
            Err(failed) if failed.again => self.ask_once(url, question, begin).await,
            asked => asked,
        };
        asked.map_err(|failed| failed.status)
    }

    /// Asks until the peer has begun to answer.
    async fn ask_once(
        &self,
        url: &str,
        question: &(dyn Fn(&str) -> Request<()> + Sync),
        begin: Option<&Opening>,
    ) -> Result<Asked, Failed> {
        let (mut connection, lease) = self.connection(url).await?;
        let question = question(&connection.audience);
        let (response, mut send) = connection.send.send_request(question, false)?;
        if let Some(opening) = begin {
            asked::begin(&mut send, opening.clone())?;
        }
        let response = response.await?;
        lease.answered();
        if let Some(status) = Status::from_header_map(response.headers()) {
            let again = status.code() == Code::Unauthenticated
                && self.credentials.refused(url, response.headers());
            return Err(Failed { status, again });
        }
        let recv = response.into_body();
        Ok(Asked::new(send, recv, lease, begin.is_some()))
    }
}

/// Whether the connection failed rather than the question.
fn is_of_the_connection(error: &h2::Error) -> bool {
    error.is_io() || error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

//! Calls through other replicas: pooled connections, and requests for tunnels.

mod pool;
mod query;
mod question;
mod tunnel_request;

use cluster_state::AgentId;
use http::{HeaderMap, Request};
use runtime::grpc::status_from;
use tonic::{Code, Status};

pub(crate) use pool::StreamPermit;
pub use pool::{Dial, Peers, Random};
pub(crate) use query::TunnelQuery;
pub use query::{AGENT_ID, CALLER, IMPERSONATION};
pub(crate) use tunnel_request::PeerStream;
pub use tunnel_request::{TunnelReply, TunnelRequest};

use crate::opening::{Need, Opening};

/// Mutual authentication of replicas.
pub trait Credentials: Send + Sync {
    /// The challenge that the other side of a new connection to `url` has to pass before any request
    /// is sent on it; `None` if it need not authenticate itself.
    fn challenge(&self, _url: &str) -> Option<Box<dyn Challenge>> {
        None
    }

    /// Metadata that authenticate a request to the peer at `url`. They are valid on connections of this
    /// `audience` only, which the answer to the challenge named; empty without a challenge.
    fn metadata(&self, url: &str, audience: &str) -> HeaderMap;

    /// A peer has rejected the metadata, and answered with these. Returns whether
    /// new ones may be accepted, so that the request is sent once more.
    fn rejected(&self, _url: &str, _rejection: &HeaderMap) -> bool {
        false
    }
}

/// Proves that the other side of a connection is a replica.
pub trait Challenge: Send + Sync {
    /// The request. It reveals no secret.
    fn request(&self) -> Request<()>;

    /// Verifies the metadata of the answer: the audience of credentials for this connection, if they prove that
    /// a replica has answered that is published at the URL.
    fn verify(&self, answer: &HeaderMap) -> Option<String>;
}

/// For peers that need no authentication.
impl Credentials for () {
    fn metadata(&self, _: &str, _: &str) -> HeaderMap {
        HeaderMap::new()
    }
}

/// A request for a tunnel that failed.
struct Failed {
    status: Status,
    /// Whether to send it once more.
    retry: bool,
}

impl From<Status> for Failed {
    fn from(status: Status) -> Self {
        let retry = false;
        Self { status, retry }
    }
}

impl From<h2::Error> for Failed {
    fn from(error: h2::Error) -> Self {
        Self {
            status: status_from(&error),
            retry: is_connection_error(&error),
        }
    }
}

impl Peers {
    /// Requests a tunnel of the agent from the peer at `url`, for the call that
    /// `opening` begins. Sent once more through another connection if the first
    /// was dead, or if the peer rejected credentials that can be renewed.
    ///
    /// # Errors
    /// A status when the peer is unreachable or refuses.
    pub async fn request_tunnel(
        &self,
        url: &str,
        agent: AgentId,
        need: &Need,
        opening: &Opening,
    ) -> Result<TunnelRequest, Status> {
        let query = |audience: &str| {
            let credentials = self.credentials.metadata(url, audience);
            query::request(agent, need, opening, credentials)
        };
        self.send_with_retry(url, &query, None).await
    }

    /// Requests a tunnel and begins the call at once, which saves a round trip. A
    /// peer without an idle tunnel says so and does not wait for one. The call may
    /// already run when another peer is faster, so it must be
    /// [safe](Opening::safe).
    ///
    /// # Errors
    /// A status when the peer is unreachable or refuses.
    pub async fn request_tunnel_and_begin(
        &self,
        url: &str,
        agent: AgentId,
        need: &Need,
        opening: &Opening,
    ) -> Result<TunnelRequest, Status> {
        let query = |audience: &str| {
            let credentials = self.credentials.metadata(url, audience);
            let mut request = query::request(agent, need, opening, credentials);
            query::set_begins(&mut request);
            request
        };
        self.send_with_retry(url, &query, Some(opening)).await
    }

    async fn send_with_retry(
        &self,
        url: &str,
        query: &(dyn Fn(&str) -> Request<()> + Sync),
        begin: Option<&Opening>,
    ) -> Result<TunnelRequest, Status> {
        let sent = match self.send_once(url, query, begin).await {
            Err(failed) if failed.retry => self.send_once(url, query, begin).await,
            sent => sent,
        };
        sent.map_err(|failed| failed.status)
    }

    /// Sends the request and waits for the response headers.
    async fn send_once(
        &self,
        url: &str,
        query: &(dyn Fn(&str) -> Request<()> + Sync),
        begin: Option<&Opening>,
    ) -> Result<TunnelRequest, Failed> {
        let (mut connection, permit) = self.connection(url).await?;
        let request = query(&connection.audience);
        let (response, mut send) = connection.send.send_request(request, false)?;
        if let Some(opening) = begin {
            tunnel_request::begin(&mut send, opening)?;
        }
        let response = response.await?;
        permit.answered();
        if let Some(status) = Status::from_header_map(response.headers()) {
            let retry = status.code() == Code::Unauthenticated
                && self.credentials.rejected(url, response.headers());
            return Err(Failed { status, retry });
        }
        let recv = response.into_body();
        Ok(TunnelRequest::new(send, recv, permit, begin.is_some()))
    }
}

/// Whether the connection failed rather than the request.
fn is_connection_error(error: &h2::Error) -> bool {
    error.is_io() || error.is_go_away() || error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

//! The right to a request, which is asked for again before the request is made again: who was
//! revoked meanwhile must not go on with what they were once allowed.

use std::{net::IpAddr, sync::Arc, time::Duration};

use http::StatusCode;
use prost::Message as _;
use proto::{
    agent::{
        grpctool::{HttpRequest, http_request},
        kubernetes_api::rpc::ImpersonationConfig,
    },
    frame::Payload,
};
use router::{AgentId, Opening};
use tokio::time::Instant;

use super::{failure, request, status::Failure};
use crate::control_plane::{Access, ControlPlane, Credentials};

/// How long the control plane may take to decide.
pub(super) const DECISION_TIMEOUT: Duration = Duration::from_secs(10);
/// How old a decision may be when another call is made on it.
const DECISION_TTL: Duration = Duration::from_secs(5);

/// What it takes to ask again. The credentials are kept as long as the request lives; their `Debug`
/// shows nothing of them.
#[derive(Debug)]
pub(super) struct Rights {
    control_plane: Arc<dyn ControlPlane>,
    /// None where they were good for one use.
    credentials: Option<Credentials>,
    agent: AgentId,
    from: IpAddr,
    decided: Instant,
}

impl Rights {
    /// Rights to an agent, of somebody who asks from an address, that are decided on now.
    pub(super) fn new(
        control_plane: Arc<dyn ControlPlane>,
        credentials: Option<Credentials>,
        agent: AgentId,
        from: IpAddr,
    ) -> Self {
        Self {
            control_plane,
            credentials,
            agent,
            from,
            decided: Instant::now(),
        }
    }

    /// Whether the decision is too old for another call to be made on it.
    pub(super) fn are_old(&self) -> bool {
        self.decided.elapsed() >= DECISION_TTL
    }

    /// Asks whether the request is allowed still, and as whom. Cancel-safe.
    ///
    /// # Errors
    /// The refusal; one that passes when nobody can say, which includes the control plane's grace
    /// for outages.
    pub(super) async fn ask(&self) -> Result<Access, Failure> {
        let Some(credentials) = &self.credentials else {
            return Err(failure::of_credentials(
                "the WebSocket token was good for one request",
            ));
        };
        let decision = self
            .control_plane
            .authorize_from(credentials, self.agent, self.from);
        tokio::time::timeout(DECISION_TIMEOUT, decision)
            .await
            .map_err(|_| {
                let message = "the control plane did not decide in time";
                Failure::passing(StatusCode::SERVICE_UNAVAILABLE, message)
            })?
            .map_err(|reason| failure::of_denial(&reason))
    }

    /// What the caller showed, unless it was good for one use.
    pub(super) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }
}

/// The same call on behalf of this identity, which may be another than that of the first decision.
/// None if the call is no HTTP request.
pub(super) fn on_behalf_of(
    opening: &Opening,
    impersonation: Option<&ImpersonationConfig>,
) -> Option<Opening> {
    let mut request = HttpRequest::decode(opening.messages.first()?.head.clone()).ok()?;
    let Some(http_request::Message::Header(header)) = &mut request.message else {
        return None;
    };
    header.extra = impersonation.map(request::extra);
    let mut opening = opening.clone();
    *opening.messages.first_mut()? = Payload::message(&request);
    Some(opening)
}

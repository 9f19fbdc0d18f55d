//! The right to a request, which is asked for again before the request is made again: who was
//! revoked meanwhile must not go on with what they were once allowed.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

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
    decided: Mutex<Instant>,
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
            decided: Mutex::new(Instant::now()),
        }
    }

    /// Whether the decision is too old for another call to be made on it.
    pub(super) fn are_old(&self) -> bool {
        self.age() >= DECISION_TTL
    }

    fn age(&self) -> Duration {
        let decided = self.decided.lock();
        decided.unwrap_or_else(PoisonError::into_inner).elapsed()
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
        let access = tokio::time::timeout(DECISION_TIMEOUT, decision)
            .await
            .map_err(|_| {
                let message = "the control plane did not decide in time";
                Failure::passing(StatusCode::SERVICE_UNAVAILABLE, message)
            })?
            .map_err(|reason| failure::of_denial(&reason))?;
        *self.decided.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        Ok(access)
    }

    /// Asks again and again while a call waits for its agent, so that the decision is never old when the call is
    /// sent. Ends when the call may only be made as another, who is given. Credentials that were good for one
    /// use cannot be asked for again: their call waits on. Cancel-safe.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(super) async fn lapse(&self, opening: &Opening) -> Result<Access, Failure> {
        if self.credentials.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(DECISION_TTL.saturating_sub(self.age())).await;
            let access = self.ask().await?;
            if !is_on_behalf_of(opening, access.impersonation.as_ref()) {
                return Ok(access);
            }
        }
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
    let mut header = header(opening)?;
    header.extra = impersonation.map(request::extra);
    let message = Some(http_request::Message::Header(header));
    let mut opening = opening.clone();
    *opening.messages.first_mut()? = Payload::message(&HttpRequest { message });
    Some(opening)
}

/// Whether the call is made on behalf of this identity already.
fn is_on_behalf_of(opening: &Opening, impersonation: Option<&ImpersonationConfig>) -> bool {
    header(opening).is_none_or(|header| header.extra == impersonation.map(request::extra))
}

fn header(opening: &Opening) -> Option<http_request::Header> {
    let request = HttpRequest::decode(opening.messages.first()?.head.clone()).ok()?;
    match request.message? {
        http_request::Message::Header(header) => Some(header),
        http_request::Message::Data(_)
        | http_request::Message::Trailer(_)
        | http_request::Message::UpgradeData(_) => None,
    }
}

//! The right to make a request, which is checked again before the request is made again: a caller whose access was
//! revoked meanwhile must not go on.

use std::{
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use control_plane::{Access, ControlPlane, Credentials};
use futures_util::future::BoxFuture;
use http::StatusCode;
use proto::agent::kubernetes_api::rpc::ImpersonationConfig;
use router::AgentId;
use runtime::patience::within;
use tokio::time::Instant;

use super::denial;
use crate::{failure::Failure, sessions::Authority};

/// How long the control plane may take to decide: longer than it takes to say why it cannot.
pub(super) const DECISION_TIMEOUT: Duration = Duration::from_secs(25);
/// How old a decision may be when another call is made on it.
const DECISION_TTL: Duration = Duration::from_secs(5);

/// The control plane takes too long.
pub(super) fn undecided() -> Failure {
    let message = "the control plane did not decide in time";
    Failure::retryable(StatusCode::SERVICE_UNAVAILABLE, message)
}

/// What it takes to ask again. The credentials are kept as long as the request lives; their `Debug`
/// shows nothing of them.
#[derive(Debug)]
pub(crate) struct Rights {
    control_plane: Arc<dyn ControlPlane>,
    /// None where they were good for one use.
    credentials: Option<Credentials>,
    agent: AgentId,
    from: IpAddr,
    /// When the question was put.
    decided: Mutex<Instant>,
    /// What credentials that were good for one use gave, and until when it lasts.
    granted: Option<Box<(Access, Instant)>>,
}

impl Rights {
    /// Rights to an agent, of somebody who asks from an address, that are decided on now.
    pub(crate) fn new(
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
            granted: None,
        }
    }

    /// The same rights for another request, which are as old.
    pub(crate) fn again(&self) -> Self {
        let decided = *self.decided.lock().unwrap_or_else(PoisonError::into_inner);
        Self {
            control_plane: self.control_plane.clone(),
            credentials: self.credentials.clone(),
            agent: self.agent,
            from: self.from,
            decided: Mutex::new(decided),
            granted: self.granted.clone(),
        }
    }

    /// Where the credentials were good for one use, which began a conversation: what they gave holds as long as
    /// that may last.
    pub(crate) fn lasting(self, access: &Access, until: Instant) -> Self {
        let granted = self.credentials.is_none();
        Self {
            granted: granted.then(|| Box::new((access.clone(), until))),
            ..self
        }
    }

    /// Whether the decision is too old for another call to be made on it.
    pub(crate) fn are_old(&self) -> bool {
        self.age() >= DECISION_TTL
    }

    fn age(&self) -> Duration {
        self.decided().elapsed()
    }

    /// Whoever can be asked again about a session that has these rights; nobody where the credentials were good for
    /// one use.
    pub(crate) fn authority(&self) -> Option<Box<dyn Authority>> {
        let again = self.credentials.as_ref().map(|_| self.again())?;
        Some(Box::new(again))
    }

    /// Asks whether the request is allowed still, and as whom. Cancel-safe.
    ///
    /// # Errors
    /// The refusal; a retryable one when the control plane is unavailable for longer than its grace for outages.
    pub(crate) async fn ask(&self) -> Result<Access, Failure> {
        let Some(credentials) = &self.credentials else {
            if let Some((access, until)) = self.granted.as_deref()
                && Instant::now() < *until
            {
                return Ok(access.clone());
            }
            return Err(denial::of_credentials(
                "the WebSocket token was good for one request",
            ));
        };
        let asked = Instant::now();
        let decision = self
            .control_plane
            .authorize_from(credentials, self.agent, self.from);
        let access = within(DECISION_TIMEOUT, decision)
            .await
            .map_err(|_| undecided())?
            .map_err(|reason| denial::of_denial(&reason))?;
        *self.decided.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        Ok(access)
    }

    /// Asks again and again while a call waits for its agent, so that the decision is never old when the call is
    /// sent. Ends when the call may only be made as another, who is given; `is_same` says whether somebody is the one
    /// as whom it would be made. Credentials that were good for one
    /// use cannot be asked for again: their call waits on. Cancel-safe.
    ///
    /// # Errors
    /// As [`Self::ask`].
    pub(crate) async fn lapse(
        &self,
        is_same: impl Fn(Option<&ImpersonationConfig>) -> bool,
    ) -> Result<Access, Failure> {
        if self.credentials.is_none() {
            return std::future::pending().await;
        }
        loop {
            tokio::time::sleep(DECISION_TTL.saturating_sub(self.age())).await;
            let access = self.ask().await?;
            if !is_same(access.impersonation.as_ref()) {
                return Ok(access);
            }
        }
    }

    /// What the caller showed, unless it was good for one use.
    pub(crate) fn credentials(&self) -> Option<&Credentials> {
        self.credentials.as_ref()
    }
}

impl Authority for Rights {
    fn decided(&self) -> Instant {
        *self.decided.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ask(&self) -> BoxFuture<'_, Result<Access, Failure>> {
        Box::pin(self.ask())
    }
}

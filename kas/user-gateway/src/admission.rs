//! Who may use which agent: a request's credentials are read and checked by the control plane, and a request that is
//! allowed takes a place among those in progress.

mod credentials;
mod denial;
mod rights;

use std::{net::IpAddr, sync::Arc};

use control_plane::{
    Access, ControlPlane, LoginIssuer, Permitted,
    usage::{AccessKind, Usage},
};
use http::{HeaderMap, request::Parts};
use router::AgentId;

pub(crate) use credentials::Malformed;
pub(crate) use rights::Rights;

use crate::{
    failure::Failure,
    places::Places,
    scope::Scope,
    websocket_tokens::{self, Purpose, WebSocketTokens},
};

/// Admits requests.
#[derive(Debug)]
pub(crate) struct Admission {
    control_plane: Arc<dyn ControlPlane>,
    places: Arc<Places>,
    websocket_tokens: Option<WebSocketTokens>,
    usage: Option<Usage>,
}

impl Admission {
    /// Admits callers whom `control_plane` allows, and browsers with one of these tokens; `usage` counts them.
    pub(crate) fn new(
        control_plane: Arc<dyn ControlPlane>,
        places: Arc<Places>,
        websocket_tokens: Option<WebSocketTokens>,
        usage: Option<Usage>,
    ) -> Self {
        Self {
            control_plane,
            places,
            websocket_tokens,
            usage,
        }
    }

    /// Admits a request to `path`, as it was sent.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) async fn admit(
        &self,
        head: &Parts,
        path: &str,
        from: IpAddr,
        scope: &mut Scope,
    ) -> Result<(Access, Rights), Failure> {
        let (access, rights) = self.identify(head, path, from, scope).await?;
        scope.allowed(&access);
        scope.admitted(self.places.begin(scope.caller())?);
        Ok((access, rights))
    }

    /// Admits another request of a caller who was allowed this already.
    ///
    /// # Errors
    /// The refusal where the caller has too many requests in progress.
    pub(crate) fn admit_again(&self, access: &Access, scope: &mut Scope) -> Result<(), Failure> {
        scope.asks_for(access.agent.id);
        scope.allowed(access);
        scope.admitted(self.places.begin(scope.caller())?);
        Ok(())
    }

    /// The agent that a request's credentials are for, which are not checked.
    pub(crate) fn agent_of(headers: &HeaderMap) -> Result<AgentId, Malformed> {
        credentials::read(headers, "").map(|presented| presented.agent)
    }

    /// What whoever presents these credentials may do, if they may use the agent that they name.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) async fn rights_of(
        &self,
        headers: &HeaderMap,
        from: IpAddr,
    ) -> Result<(Access, Rights), Failure> {
        let presented = credentials::read(headers, "");
        let presented = presented.map_err(denial::of_credentials)?;
        let (credentials, agent) = (presented.credentials, presented.agent);
        let rights = Rights::new(self.control_plane.clone(), Some(credentials), agent, from);
        Ok((rights.ask().await?, rights))
    }

    /// Who makes a request, and which agents they may use, whatever agent the credentials are for.
    ///
    /// # Errors
    /// The refusal.
    pub(crate) async fn permitted(
        &self,
        head: &Parts,
        from: IpAddr,
        scope: &mut Scope,
    ) -> Result<Permitted, Failure> {
        let presented = credentials::read(&head.headers, head.uri.query().unwrap_or(""));
        let presented = presented.map_err(denial::of_credentials)?;
        let permitted = {
            let _place = self.places.check(from)?;
            let question = self.control_plane.permitted(&presented.credentials);
            let answer = tokio::time::timeout(rights::DECISION_TIMEOUT, question).await;
            answer
                .map_err(|_| rights::undecided())?
                .map_err(|reason| denial::of_denial(&reason))?
        };
        scope.identified(permitted.identity.clone());
        scope.admitted(self.places.begin(scope.caller())?);
        Ok(permitted)
    }

    /// Where people log in.
    pub(crate) fn login_issuers(&self) -> Vec<LoginIssuer> {
        self.control_plane.login_issuers()
    }

    /// Whom the credentials of a request make it, which has a place among those that are checked until that is known.
    async fn identify(
        &self,
        head: &Parts,
        path: &str,
        from: IpAddr,
        scope: &mut Scope,
    ) -> Result<(Access, Rights), Failure> {
        if let Some(tokens) = &self.websocket_tokens
            && let Some(token) = websocket_tokens::presented(&head.headers)
        {
            let access = tokens.redeem(token, &Purpose::of(head, path)).await;
            let access = access.map_err(denial::of_credentials)?;
            scope.asks_for(access.agent.id);
            let rights = Rights::new(self.control_plane.clone(), None, access.agent.id, from);
            return Ok((access, rights));
        }
        let presented = credentials::read(&head.headers, head.uri.query().unwrap_or(""));
        let presented = presented.map_err(denial::of_credentials)?;
        scope.asks_for(presented.agent);
        let _place = self.places.check(from)?;
        let (credentials, agent) = (presented.credentials, presented.agent);
        let rights = Rights::new(self.control_plane.clone(), Some(credentials), agent, from);
        let access = rights.ask().await.map_err(|mut failure| {
            if let Some(who) = failure.refused.take() {
                scope.refused_as(*who);
            }
            failure
        })?;
        if let Some(usage) = &self.usage
            && let Some(credentials) = rights.credentials()
        {
            let (kind, agent) = (AccessKind::of(credentials), &access.agent);
            usage.allowed(kind, access.user_id, agent.id, agent.project_id);
        }
        Ok((access, rights))
    }
}

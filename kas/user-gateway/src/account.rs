//! The routes for the command line of people: where they log in, who they are then, and which agents they may use.

use std::sync::Arc;

use bytes::Bytes;
use control_plane::{LoginIssuer, Permitted};
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use runtime::drain::Drain;
use serde_json::{Value, json};

use crate::{
    admission::Admission,
    body::Content,
    failure::{Failure, JSON},
    prefix::Prefix,
    route::{Answer, Route, UserRequest},
    scope::Scope,
};

/// Below the prefix of the Kubernetes API; no API has such paths.
const AGENTS: &str = "/-/agents";
const ISSUERS: &str = "/-/issuers";
/// Agents of one answer.
const AGENTS_MAX: usize = 10_000;

/// Answers `GET /-/agents` to callers with credentials for any agent, and `GET /-/issuers` to anybody.
#[derive(Debug)]
pub(crate) struct AccountRoute {
    admission: Arc<Admission>,
    prefix: Prefix,
}

impl AccountRoute {
    /// Routes below this prefix.
    pub(crate) fn new(admission: Arc<Admission>, prefix: Prefix) -> Self {
        Self { admission, prefix }
    }

    async fn answer(
        &self,
        request: &mut UserRequest,
        scope: &mut Scope,
    ) -> Result<Answer, Failure> {
        if request.head.method != Method::GET {
            let message = "only GET is answered here";
            return Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, message));
        }
        let body = if self.prefix.leads_to(ISSUERS, request) {
            issuers(&self.admission.login_issuers())
        } else {
            let from = request.remote_addr.ip();
            let permitted = self.admission.permitted(&request.head, from, scope);
            agents(&permitted.await?)
        };
        let headers = HeaderMap::from_iter([
            (header::CONTENT_TYPE, JSON),
            (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
        ]);
        let content = Content::from(Bytes::from(body.to_string()));
        Ok(Answer::new(StatusCode::OK, headers, content))
    }
}

fn issuers(issuers: &[LoginIssuer]) -> Value {
    let one = |it: &LoginIssuer| json!({"issuer": it.issuer, "client_id": it.client_id, "scopes": it.scopes});
    json!({"issuers": issuers.iter().map(one).collect::<Vec<_>>()})
}

fn agents(permitted: &Permitted) -> Value {
    let agents = permitted.agents.iter().take(AGENTS_MAX);
    let agents: Vec<_> = agents
        .map(|it| json!({"id": it.id.0, "name": it.name}))
        .collect();
    json!({
        "identity": permitted.identity.to_string(),
        "groups": permitted.groups,
        "agents": agents,
        "truncated": permitted.agents.len() > AGENTS_MAX,
    })
}

impl Route for AccountRoute {
    fn matches(&self, request: &UserRequest) -> bool {
        self.prefix.leads_to(AGENTS, request) || self.prefix.leads_to(ISSUERS, request)
    }

    fn takes_ambient_credentials(&self) -> bool {
        true
    }

    fn serve<'a>(
        &'a self,
        request: &'a mut UserRequest,
        scope: &'a mut Scope,
        _drain: &'a Drain,
    ) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(self.answer(request, scope))
    }
}

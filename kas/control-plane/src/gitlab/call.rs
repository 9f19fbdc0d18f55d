//! A request to GitLab's internal API, before it is signed and sent.

use std::net::IpAddr;

use bytes::Bytes;
use http::{HeaderName, Method, header};

use super::super::{Token, TokenHash};

/// The calls that exist. Each is ill or well on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    AgentInfo,
    AllowedAgents,
    AuthorizeProxyUser,
    AgentConfiguration,
    UsageMetrics,
    VerifyProjectAccess,
    ReceptiveAgents,
    AgentEvents,
    JobRequest,
}

impl Endpoint {
    pub(super) const ALL: [Self; 9] = [
        Self::AgentInfo,
        Self::AllowedAgents,
        Self::AuthorizeProxyUser,
        Self::AgentConfiguration,
        Self::UsageMetrics,
        Self::VerifyProjectAccess,
        Self::ReceptiveAgents,
        Self::AgentEvents,
        Self::JobRequest,
    ];

    /// As in logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AgentInfo => "agent_info",
            Self::AllowedAgents => "allowed_agents",
            Self::AuthorizeProxyUser => "authorize_proxy_user",
            Self::AgentConfiguration => "agent_configuration",
            Self::UsageMetrics => "usage_metrics",
            Self::VerifyProjectAccess => "verify_project_access",
            Self::ReceptiveAgents => "receptive_agents",
            Self::AgentEvents => "agent_events",
            Self::JobRequest => "jobs_request",
        }
    }
}

/// For whom GitLab is asked: whose turns a call takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Requester {
    /// This server, or somebody whose token was good before.
    Known,
    /// Somebody at this address whose token was never good.
    Unknown(IpAddr),
}

/// What a good answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// 200 or 201 with JSON.
    Json,
    /// 200 or 204 with anything.
    Nothing,
}

/// A request.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) endpoint: Endpoint,
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// The one parameter of its query, if it has any.
    pub(super) query: Option<(&'static str, String)>,
    /// Whether it carries this server's own token.
    pub(super) signed: bool,
    /// Whose business it is: a header and its secret value.
    pub(super) credential: Option<(HeaderName, Token)>,
    /// Whose business it is, wherever the secret is sent: what goes wrong is held against them first.
    pub(super) caller: Option<TokenHash>,
    /// JSON, if there is a body.
    pub(super) body: Option<Bytes>,
    pub(super) expect: Expect,
    /// Whether it changes nothing when it is repeated, and is worth it.
    pub(super) retried: bool,
    /// For whom it is made.
    pub(super) requester: Requester,
}

impl Call {
    /// A GET that is answered with JSON.
    pub(super) fn get(endpoint: Endpoint, path: &'static str) -> Self {
        Self {
            endpoint,
            method: Method::GET,
            path,
            query: None,
            signed: true,
            credential: None,
            caller: None,
            body: None,
            expect: Expect::Json,
            retried: true,
            requester: Requester::Known,
        }
    }

    /// A POST of JSON.
    pub(super) fn post(
        endpoint: Endpoint,
        path: &'static str,
        body: Bytes,
        expect: Expect,
    ) -> Self {
        Self {
            method: Method::POST,
            body: Some(body),
            expect,
            ..Self::get(endpoint, path)
        }
    }

    /// The same in the turns of whoever asks.
    pub(super) fn requested_by(self, requester: Requester) -> Self {
        Self { requester, ..self }
    }

    /// The same on behalf of an agent.
    pub(super) fn for_agent(self, token: &Token) -> Self {
        let bearer = Token::new(format!("Bearer {}", token.expose()));
        Self {
            credential: Some((header::AUTHORIZATION, bearer)),
            caller: Some(token.hash()),
            ..self
        }
    }
}

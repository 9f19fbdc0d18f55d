//! A request to GitLab's internal API, before it is signed and sent.

use bytes::Bytes;
use http::{HeaderName, Method};

use super::super::Token;

/// The calls that exist. Each is ill or well on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Endpoint {
    AgentInfo,
    AllowedAgents,
    AuthorizeProxyUser,
    AgentConfiguration,
}

impl Endpoint {
    pub(super) const ALL: [Self; 4] = [
        Self::AgentInfo,
        Self::AllowedAgents,
        Self::AuthorizeProxyUser,
        Self::AgentConfiguration,
    ];

    /// As in logs.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::AgentInfo => "agent_info",
            Self::AllowedAgents => "allowed_agents",
            Self::AuthorizeProxyUser => "authorize_proxy_user",
            Self::AgentConfiguration => "agent_configuration",
        }
    }
}

/// What a good answer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expect {
    /// 200 or 201 with JSON.
    Json,
    /// 200 or 204 with anything.
    Nothing,
}

/// A request. None of these changes anything when it is repeated.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) endpoint: Endpoint,
    pub(super) method: Method,
    pub(super) path: &'static str,
    /// Whether it carries this server's own token.
    pub(super) signed: bool,
    /// Whose business it is: a header and its secret value.
    pub(super) credential: Option<(HeaderName, Token)>,
    /// JSON, if there is a body.
    pub(super) body: Option<Bytes>,
    pub(super) expect: Expect,
}

impl Call {
    /// A GET that is answered with JSON.
    pub(super) fn get(endpoint: Endpoint, path: &'static str) -> Self {
        Self {
            endpoint,
            method: Method::GET,
            path,
            signed: true,
            credential: None,
            body: None,
            expect: Expect::Json,
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
}

//! Questions of a person to a server, below its users' port.

use std::path::Path;

use runtime::connect::ConnectOptions;
use serde::Deserialize;

use super::{
    LoginError,
    provider::{get, options},
};

const SERVER: &str = "the server";

/// A server, as a person asks it.
#[derive(Debug)]
pub(in super::super) struct Account {
    server: String,
    options: ConnectOptions,
}

/// Where people log in.
#[derive(Debug, Clone, Deserialize)]
pub(in super::super) struct LoginIssuer {
    pub(in super::super) issuer: String,
    pub(in super::super) client_id: String,
    pub(in super::super) scopes: Vec<String>,
}

/// Who somebody is, and what they may use.
#[derive(Debug, Deserialize)]
pub(in super::super) struct Permitted {
    pub(in super::super) identity: String,
    pub(in super::super) agents: Vec<PermittedAgent>,
}

/// An agent that may be used.
#[derive(Debug, Deserialize)]
pub(in super::super) struct PermittedAgent {
    pub(in super::super) id: i64,
    pub(in super::super) name: String,
}

#[derive(Deserialize)]
struct Issuers {
    issuers: Vec<LoginIssuer>,
}

impl Account {
    /// The server at the URL of its Kubernetes API proxy.
    ///
    /// # Errors
    /// When the CA cannot be used.
    pub(in super::super) fn new(server: &str, ca: Option<&Path>) -> Result<Self, LoginError> {
        Ok(Self {
            server: server.trim_end_matches('/').to_owned(),
            options: options(ca.map(Path::to_owned))?,
        })
    }

    /// Its URL, without a slash at the end.
    pub(in super::super) fn server(&self) -> &str {
        &self.server
    }

    /// Where people log in.
    ///
    /// # Errors
    /// When the server does not say.
    pub(in super::super) async fn issuers(&self) -> Result<Vec<LoginIssuer>, LoginError> {
        let url = format!("{}/-/issuers", self.server);
        let answer: Issuers = get(SERVER, &url, None, &self.options).await?;
        Ok(answer.issuers)
    }

    /// Whose credentials these are, and what they may use.
    ///
    /// # Errors
    /// When the server does not say.
    pub(in super::super) async fn agents(&self, bearer: &str) -> Result<Permitted, LoginError> {
        let url = format!("{}/-/agents", self.server);
        get(SERVER, &url, Some(bearer), &self.options).await
    }
}

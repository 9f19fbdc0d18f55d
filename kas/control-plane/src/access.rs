//! The answer to "may they use this agent, and as whom".

use std::sync::Arc;

use proto::agent::kubernetes_api::rpc::ImpersonationConfig;

use super::AgentInfo;

/// A permission to use an agent.
#[derive(Debug, Clone, PartialEq)]
pub struct Access {
    /// The agent it is for.
    pub agent: Arc<AgentInfo>,
    /// Who asked.
    pub identity: Identity,
    /// GitLab's number of the user who asked, or whose job did; 0 if there is none.
    pub user_id: i64,
    /// Whom the agent impersonates in its cluster; `None` means the agent itself.
    pub impersonation: Option<ImpersonationConfig>,
    /// By what it was given.
    pub basis: Basis,
}

/// By what a permission was given, for the audit trail; safe to log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Basis {
    /// Who vouches for the caller; `None` is the control plane itself.
    pub issuer: Option<Arc<str>>,
    /// The access rule, where it is known.
    pub rule: Option<Arc<str>>,
    /// Whether sessions in containers are recorded.
    pub record: RecordSessions,
}

/// Whether sessions in containers (exec and attach) are recorded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RecordSessions {
    /// Not for this permission's sake.
    #[default]
    No,
    /// Where that is possible.
    Yes,
    /// There are none without a recording.
    Required,
}

/// What somebody may use.
#[derive(Debug, Clone, PartialEq)]
pub struct Permitted {
    /// Who asked.
    pub identity: Identity,
    /// The groups that this caller is in.
    pub groups: Vec<String>,
    /// The agents, by number.
    pub agents: Vec<Arc<AgentInfo>>,
}

/// An OpenID provider at which people log in, and as which client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoginIssuer {
    /// Its URL.
    pub issuer: String,
    /// The client, which is no secret.
    pub client_id: String,
    /// What is asked for.
    pub scopes: Vec<String>,
}

/// Who made a request; safe to log.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Identity {
    /// What sort of caller.
    pub kind: IdentityKind,
    /// Its name, unique within its kind.
    pub name: String,
}

impl Identity {
    /// Its kind and its name, as it is displayed.
    #[must_use]
    pub fn named(&self) -> String {
        [self.kind.as_str(), ":", &self.name].concat()
    }
}

impl std::fmt::Display for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}:{}", self.kind, self.name)
    }
}

/// The sorts of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IdentityKind {
    /// A person.
    User,
    /// A CI job, or a service that uses a token like one.
    CiJob,
}

impl IdentityKind {
    fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::CiJob => "ci_job",
        }
    }
}

impl std::fmt::Display for IdentityKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

//! As whom a caller appears in the cluster.
//!
//! Names follow GitLab's, so that role bindings made for it fit:
//!
//! | `access_as` | for | username | groups |
//! |---|---|---|---|
//! | `agent` | all | the agent's own | – |
//! | `user` | users | `gitlab:user:NAME` | `gitlab:user`, `gitlab:group:GROUP` for each of the user's groups |
//! | `ci_job` | services | `gitlab:ci_job:NAME` | `gitlab:ci_job`, `gitlab:group:GROUP` for each of the service's groups |
//! | `impersonate` | all | as written | as written, with `uid` and `extra` |
//!
//! `user` and `ci_job` add `agent.gitlab.com/id`, `…/config_project_id` and
//! `…/username` as extra values, `user` also `…/access_type`.

use proto::agent::kubernetes_api::rpc::{ExtraKeyVal, ImpersonationConfig};
use serde::{Deserialize, Serialize};

use super::caller::Caller;
use crate::{AgentInfo, IdentityKind};

/// As whom a rule lets its callers in.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessAs {
    /// As the agent itself.
    Agent,
    /// As the user who asks; matches users only.
    User,
    /// As the service that asks; matches services only.
    CiJob,
    /// As somebody named in the rule.
    Impersonate(Impersonate),
}

/// Somebody to impersonate.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Impersonate {
    /// The user name, not empty.
    pub username: String,
    /// The groups.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub groups: Vec<String>,
    /// The unique id, empty for none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub uid: String,
    /// Extra values.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub extra: Vec<Extra>,
}

/// An extra value of an identity.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Extra {
    /// Its key.
    pub key: String,
    /// Its values, at least one.
    pub val: Vec<String>,
}

impl AccessAs {
    /// Its name in the file.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Agent => "agent",
            Self::User => "user",
            Self::CiJob => "ci_job",
            Self::Impersonate(_) => "impersonate",
        }
    }

    /// Whether a caller of that sort can appear so.
    #[must_use]
    pub fn fits(&self, kind: IdentityKind) -> bool {
        match self {
            Self::Agent | Self::Impersonate(_) => true,
            Self::User => kind == IdentityKind::User,
            Self::CiJob => kind == IdentityKind::CiJob,
        }
    }

    /// What the agent is told; `None` to act as itself.
    #[must_use]
    pub fn impersonation(&self, who: &Caller, agent: &AgentInfo) -> Option<ImpersonationConfig> {
        match self {
            Self::Agent => None,
            Self::User => Some(named("user", who, agent)),
            Self::CiJob => Some(named("ci_job", who, agent)),
            Self::Impersonate(whom) => Some(whom.to_message()),
        }
    }
}

impl Impersonate {
    fn to_message(&self) -> ImpersonationConfig {
        ImpersonationConfig {
            username: self.username.clone(),
            groups: self.groups.clone(),
            uid: self.uid.clone(),
            extra: self
                .extra
                .iter()
                .map(|extra| ExtraKeyVal {
                    key: extra.key.clone(),
                    val: extra.val.clone(),
                })
                .collect(),
        }
    }
}

fn named(kind: &str, caller: &Caller, agent: &AgentInfo) -> ImpersonationConfig {
    let who = &caller.identity;
    let memberships = caller
        .groups
        .iter()
        .map(|group| format!("gitlab:group:{group}"));
    let mut extra = vec![
        value("id", agent.id.to_string()),
        value("username", who.name.clone()),
    ];
    if who.kind == IdentityKind::User {
        extra.push(value("access_type", caller.access_type.to_owned()));
    }
    extra.push(value("config_project_id", agent.project_id.to_string()));
    ImpersonationConfig {
        username: format!("gitlab:{kind}:{}", who.name),
        groups: std::iter::once(format!("gitlab:{kind}"))
            .chain(memberships)
            .collect(),
        uid: String::new(),
        extra,
    }
}

fn value(key: &str, value: String) -> ExtraKeyVal {
    ExtraKeyVal {
        key: format!("agent.gitlab.com/{key}"),
        val: vec![value],
    }
}

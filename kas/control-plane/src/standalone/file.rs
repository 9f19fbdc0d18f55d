//! The file of the standalone control plane, as written.
//!
//! ```yaml
//! agents:
//!   - id: 1
//!     name: demo
//!     project: {id: 7, path: group/project}         # optional
//!     tokens:
//!       - hash: sha256:…                            # at most two live ones
//!         created_at: 2026-01-01T00:00:00Z
//!         expires_at: 2027-01-01T00:00:00Z          # optional
//!     receptive:                                    # optional: kas dials the agent
//!       url: grpcs://agent.example.com:8182
//!       jwt: {private_key_file: /keys/demo.key}     # or mtls: {certificate_file: …, key_file: …}
//!     config:                                       # as GitLab's .gitlab/agents/NAME/config.yaml
//!       observability: {logging: {level: debug}}
//! users:
//!   - {name: alice, groups: [admins], tokens: [{hash: …, created_at: …}]}
//! services:                                         # tokens used like those of CI jobs
//!   - {name: deployer, groups: [ci], tokens: [{hash: …, created_at: …}]}
//! issuers:                                          # ID tokens that are taken: `issuers` has all keys
//!   - {issuer: https://idp.example.com, client_id: kas, username_claim: email, groups_claim: groups}
//! access:                                           # the first rule that matches decides
//!   - {agents: '*', groups: [admins], access_as: agent}
//!   - {agents: [demo], users: [alice], access_as: user}
//!   - {agents: [demo], services: [deployer], access_as: ci_job}
//!   - agents: [demo]
//!     groups: [ci]
//!     access_as: {impersonate: {username: deployer, groups: [deployers]}}
//! ```

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    access_as::AccessAs,
    issuers::{Callers, IssuerEntry},
    names::{AgentName, Name},
    receptive::ReceptiveEntry,
    tokens::TokenEntry,
};
use runtime::yaml::{Spot, list};

/// The whole file. `C` is how the configurations of agents are held.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(bound(deserialize = "C: Deserialize<'de>"))]
pub struct Document<C> {
    /// The agents.
    #[serde(default = "Vec::new", deserialize_with = "list")]
    pub agents: Vec<Spot<AgentEntry<C>>>,
    /// The users.
    #[serde(default, deserialize_with = "list")]
    pub users: Vec<Spot<CallerEntry>>,
    /// The services, whose tokens are used like those of CI jobs.
    #[serde(default, deserialize_with = "list")]
    pub services: Vec<Spot<CallerEntry>>,
    /// Those who say who somebody is.
    #[serde(
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub issuers: Vec<Spot<IssuerEntry>>,
    /// Who may use which agent, and as whom; the first match decides.
    #[serde(default, deserialize_with = "list")]
    pub access: Vec<Spot<Rule>>,
}

/// An agent.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentEntry<C> {
    /// Its number, above zero; never given to another agent.
    pub id: i64,
    /// Its name.
    pub name: AgentName,
    /// Its configuration project, where there is one.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub project: Option<Project>,
    /// Its tokens.
    #[serde(default, deserialize_with = "list")]
    pub tokens: Vec<TokenEntry>,
    /// Where it waits to be dialled, if it does not dial.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub receptive: Option<ReceptiveEntry>,
    /// Its configuration.
    #[serde(default = "none", skip_serializing_if = "Option::is_none")]
    pub config: Option<C>,
}

/// A configuration project.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// Its number.
    pub id: i64,
    /// Its full path.
    pub path: String,
    /// Its default branch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub default_branch: Option<String>,
}

/// A user or a service.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallerEntry {
    /// Its name.
    pub name: Name,
    /// The groups it is in.
    #[serde(
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub groups: Vec<Name>,
    /// Its tokens.
    #[serde(default, deserialize_with = "list")]
    pub tokens: Vec<TokenEntry>,
}

impl<C> Document<C> {
    /// Whether there may be callers of this kind whom the file does not list.
    #[must_use]
    pub fn has_issuer_for(&self, callers: Callers) -> bool {
        self.issuers.iter().any(|it| it.value.callers == callers)
    }
}

/// An access rule: who may use which agents, and as whom.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which agents.
    pub agents: Agents,
    /// These users,
    #[serde(
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub users: Vec<Name>,
    /// these services,
    #[serde(
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub services: Vec<Name>,
    /// and the users and services of these groups.
    #[serde(
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub groups: Vec<Name>,
    /// As whom.
    pub access_as: AccessAs,
}

/// The agents of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agents {
    /// `'*'`
    All,
    /// By name.
    Named(Vec<AgentName>),
}

impl<C> Default for Document<C> {
    fn default() -> Self {
        Self {
            agents: Vec::new(),
            users: Vec::new(),
            services: Vec::new(),
            issuers: Vec::new(),
            access: Vec::new(),
        }
    }
}

fn none<T>() -> Option<T> {
    None
}

impl Serialize for Agents {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::All => to.serialize_str("*"),
            Self::Named(names) => names.serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Agents {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AgentsVisitor)
    }
}

struct AgentsVisitor;

impl<'de> de::Visitor<'de> for AgentsVisitor {
    type Value = Agents;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("'*' or a list of names of agents")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Agents, E> {
        if text == "*" {
            return Ok(Agents::All);
        }
        Err(E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut seq: A) -> Result<Agents, A::Error> {
        let mut names = Vec::new();
        while let Some(name) = seq.next_element::<String>()? {
            if name == "*" {
                while seq.next_element::<de::IgnoredAny>()?.is_some() {}
                return Ok(Agents::All);
            }
            names.push(AgentName::try_from(name).map_err(de::Error::custom)?);
        }
        if names.is_empty() {
            return Err(de::Error::custom(
                "a rule needs at least one agent, or '*' for all",
            ));
        }
        Ok(Agents::Named(names))
    }
}

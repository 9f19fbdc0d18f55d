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
//!     join_tokens:                                  # `kas agent join-token`
//!       - {hash: sha256:…, created_at: …, expires_at: …, used_by: sha256:…}
//!     receptive:                                    # optional: kas dials the agent
//!       url: grpcs://agent.example.com:8182
//!       jwt: {private_key_file: /keys/demo.key}     # or mtls: {certificate_file: …, key_file: …}
//!     labels: {env: prod}                           # optional: for rules
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
//!   - {agents: [demo], users: [alice], access_as: user, expires_at: 2026-01-01T12:00:00Z}
//!   - {agents: {labels: {env: prod}}, groups: [devs], access_as: user, record: required}
//!   - {agents: [demo], services: [deployer], access_as: ci_job}
//!   - agents: [demo]
//!     groups: [ci]
//!     access_as: {impersonate: {username: deployer, groups: [deployers]}}
//! ```

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use super::{
    access_as::AccessAs,
    issuers::{Callers, IssuerEntry},
    join_tokens::JoinTokenEntry,
    names::{AgentName, LabelText, Name},
    receptive::ReceptiveEntry,
    tokens::TokenEntry,
};
use crate::RecordSessions;
use runtime::yaml::{Spanned, list};

/// The whole file. `C` is how the configurations of agents are held.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(
    test,
    schemars(
        title = "The standalone file of kas",
        description = "Agents, users, services, issuers, and who may use which agent"
    )
)]
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[serde(bound(deserialize = "C: Deserialize<'de>"))]
pub struct Document<C> {
    /// The agents.
    #[cfg_attr(test, schemars(with = "Vec<AgentEntry<C>>"))]
    #[serde(
        default = "Vec::<Spanned<AgentEntry<C>>>::new",
        deserialize_with = "list"
    )]
    pub agents: Vec<Spanned<AgentEntry<C>>>,
    /// The users.
    #[cfg_attr(test, schemars(with = "Vec<CallerEntry>"))]
    #[serde(default, deserialize_with = "list")]
    pub users: Vec<Spanned<CallerEntry>>,
    /// The services, whose tokens are used like those of CI jobs.
    #[cfg_attr(test, schemars(with = "Vec<CallerEntry>"))]
    #[serde(default, deserialize_with = "list")]
    pub services: Vec<Spanned<CallerEntry>>,
    /// Those who say who somebody is.
    #[serde(
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    #[cfg_attr(test, schemars(with = "Vec<IssuerEntry>"))]
    pub issuers: Vec<Spanned<IssuerEntry>>,
    /// Who may use which agent, and as whom; the first match decides.
    #[cfg_attr(test, schemars(with = "Vec<Rule>"))]
    #[serde(default, deserialize_with = "list")]
    pub access: Vec<Spanned<Rule>>,
}

/// An agent.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AgentEntry<C> {
    /// Its number, above zero; never given to another agent.
    pub id: i64,
    /// Its name.
    pub name: AgentName,
    /// Its configuration project, where there is one.
    #[serde(default = "none::<Project>", skip_serializing_if = "Option::is_none")]
    pub project: Option<Project>,
    /// What rules may choose it by.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<LabelText, LabelText>,
    /// Its tokens.
    #[serde(default, deserialize_with = "list")]
    pub tokens: Vec<TokenEntry>,
    /// What an agentk may obtain a token by.
    #[serde(
        default,
        deserialize_with = "list",
        skip_serializing_if = "Vec::is_empty"
    )]
    pub join_tokens: Vec<JoinTokenEntry>,
    /// Where it waits to be dialled, if it does not dial.
    #[serde(
        default = "none::<ReceptiveEntry>",
        skip_serializing_if = "Option::is_none"
    )]
    pub receptive: Option<ReceptiveEntry>,
    /// Its configuration.
    #[serde(default = "none::<C>", skip_serializing_if = "Option::is_none")]
    pub config: Option<C>,
}

/// A configuration project.
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
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
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// Which agents.
    #[cfg_attr(test, schemars(with = "AgentsForm"))]
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
    /// From when on it counts no more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[cfg_attr(test, schemars(with = "Option<String>"))]
    pub expires_at: Option<Timestamp>,
    /// Whether sessions in containers (exec and attach) are recorded: `true`, or `required`, without which there are none.
    #[serde(default, skip_serializing_if = "RecordSessions::is_no")]
    #[cfg_attr(test, schemars(with = "super::record::RecordForm"))]
    pub record: RecordSessions,
}

impl Rule {
    /// What the rule at a place of the list, counted from 0, is called in records, as a path in the file.
    #[must_use]
    pub fn path(at: usize) -> String {
        format!("access[{at}]")
    }

    /// What the rule of a number, counted from 1, is called to people: `1 (access[0])`.
    #[must_use]
    pub fn named(number: usize) -> String {
        format!("{number} ({})", Self::path(number.saturating_sub(1)))
    }
}

/// The agents of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Agents {
    /// `'*'`
    All,
    /// By name.
    Named(Vec<AgentName>),
    /// Those with all of these labels.
    Labelled(BTreeMap<LabelText, LabelText>),
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
            Self::Labelled(labels) => Chosen {
                labels: labels.clone(),
            }
            .serialize(to),
        }
    }
}

impl<'de> Deserialize<'de> for Agents {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(AgentsVisitor)
    }
}

/// Agents that are not named.
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Chosen {
    labels: BTreeMap<LabelText, LabelText>,
}

struct AgentsVisitor;

/// How they are written.
#[cfg(test)]
#[derive(schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "for the schema only")]
enum AgentsForm {
    /// `*` means all.
    All(String),
    /// By name.
    Named(Vec<AgentName>),
    /// Those with all of these labels.
    Labelled(Chosen),
}

impl<'de> de::Visitor<'de> for AgentsVisitor {
    type Value = Agents;

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("'*' or a list of names of agents, or {labels: …}")
    }

    fn visit_str<E: de::Error>(self, text: &str) -> Result<Agents, E> {
        if text == "*" {
            return Ok(Agents::All);
        }
        Err(E::invalid_value(de::Unexpected::Str(text), &self))
    }

    fn visit_map<A: de::MapAccess<'de>>(self, map: A) -> Result<Agents, A::Error> {
        let from = de::value::MapAccessDeserializer::new(map);
        let Chosen { labels } = Chosen::deserialize(from)?;
        if labels.is_empty() {
            return Err(de::Error::custom(
                "a rule needs at least one label, or '*' for all agents",
            ));
        }
        Ok(Agents::Labelled(labels))
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

//! `ci_access` and `user_access`: who may use an agent, in GitLab's terms.

use proto::agent::agentcfg::{self as wire, ci_access_as_cf::As};
use serde::{Deserialize, Serialize};

use runtime::yaml::NonEmpty;

/// A choice without any of its keys, or with several.
pub(super) const ONE_KEY: &str = "exactly one key must be given here";

/// Which CI jobs may use the agent.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct CiAccess {
    projects: Option<Vec<CiGrant>>,
    groups: Option<Vec<CiGrant>>,
}

/// A project or group whose jobs may use the agent.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct CiGrant {
    id: NonEmpty,
    default_namespace: Option<String>,
    access_as: Option<CiAccessAs>,
    #[serde(default)]
    environments: Option<Vec<NonEmpty>>,
}

/// One that is not known here is left to GitLab.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", try_from = "CiAccessAsKeys")]
enum CiAccessAs {
    Agent {},
    Impersonate(Impersonate),
    CiJob {},
    #[serde(untagged)]
    Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct CiAccessAsKeys {
    agent: Option<Nothing>,
    impersonate: Option<Impersonate>,
    ci_job: Option<Nothing>,
    #[serde(rename = "__unknown")]
    unknown: bool,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Impersonate {
    username: NonEmpty,
    groups: Option<Vec<NonEmpty>>,
    uid: Option<String>,
    extra: Option<Vec<Extra>>,
}

/// `{}`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Extra {
    key: NonEmpty,
    val: Vec<NonEmpty>,
}

/// Which users may use the agent.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct UserAccess {
    /// As whom they use it.
    pub access_as: Option<UserAccessAs>,
    /// Members of these projects.
    pub projects: Option<Vec<UserGrant>>,
    /// Members of these groups.
    pub groups: Option<Vec<UserGrant>>,
}

/// As whom users use an agent.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", try_from = "UserAccessAsKeys")]
pub enum UserAccessAs {
    /// As the agent itself.
    Agent {},
    /// As themselves.
    User {},
    /// As GitLab knows.
    #[serde(untagged)]
    Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct UserAccessAsKeys {
    agent: Option<Nothing>,
    user: Option<Nothing>,
    #[serde(rename = "__unknown")]
    unknown: bool,
}

impl TryFrom<CiAccessAsKeys> for CiAccessAs {
    type Error = &'static str;

    fn try_from(keys: CiAccessAsKeys) -> Result<Self, &'static str> {
        match (keys.agent, keys.impersonate, keys.ci_job) {
            (Some(Nothing {}), None, None) => Ok(Self::Agent {}),
            (None, Some(whom), None) => Ok(Self::Impersonate(whom)),
            (None, None, Some(Nothing {})) => Ok(Self::CiJob {}),
            (None, None, None) if keys.unknown => Ok(Self::Unknown),
            _ => Err(ONE_KEY),
        }
    }
}

impl TryFrom<UserAccessAsKeys> for UserAccessAs {
    type Error = &'static str;

    fn try_from(keys: UserAccessAsKeys) -> Result<Self, &'static str> {
        match (keys.agent, keys.user) {
            (Some(Nothing {}), None) => Ok(Self::Agent {}),
            (None, Some(Nothing {})) => Ok(Self::User {}),
            (None, None) if keys.unknown => Ok(Self::Unknown),
            _ => Err(ONE_KEY),
        }
    }
}

/// A project or group whose members may use the agent.
#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct UserGrant {
    /// Its full path.
    pub id: NonEmpty,
}

impl CiAccess {
    pub(super) fn to_message(&self) -> wire::CiAccessCf {
        wire::CiAccessCf {
            projects: grants(&self.projects).map(CiGrant::to_project).collect(),
            groups: grants(&self.groups).map(CiGrant::to_group).collect(),
        }
    }
}

impl CiGrant {
    fn to_project(&self) -> wire::CiAccessProjectCf {
        let group = self.to_group();
        wire::CiAccessProjectCf {
            id: group.id,
            default_namespace: group.default_namespace,
            access_as: group.access_as,
            environments: group.environments,
        }
    }

    fn to_group(&self) -> wire::CiAccessGroupCf {
        wire::CiAccessGroupCf {
            id: self.id.0.clone(),
            default_namespace: self.default_namespace.clone().unwrap_or_default(),
            access_as: self.access_as.as_ref().and_then(CiAccessAs::to_message),
            environments: texts(&self.environments),
        }
    }
}

impl CiAccessAs {
    fn to_message(&self) -> Option<wire::CiAccessAsCf> {
        let case = match self {
            Self::Unknown => return None,
            Self::Agent {} => As::Agent(wire::CiAccessAsAgentCf {}),
            Self::CiJob {} => As::CiJob(wire::CiAccessAsCiJobCf {}),
            Self::Impersonate(Impersonate {
                username,
                groups,
                uid,
                extra,
            }) => As::Impersonate(wire::CiAccessAsImpersonateCf {
                username: username.0.clone(),
                groups: texts(groups),
                uid: uid.clone().unwrap_or_default(),
                extra: each(extra, Extra::to_message),
            }),
        };
        Some(wire::CiAccessAsCf { r#as: Some(case) })
    }
}

impl Extra {
    fn to_message(&self) -> wire::ExtraKeyValCf {
        wire::ExtraKeyValCf {
            key: self.key.0.clone(),
            val: self.val.iter().map(|text| text.0.clone()).collect(),
        }
    }
}

/// Without those that say nothing that is known of as whom jobs act: that would mean as the agent.
fn grants(all: &Option<Vec<CiGrant>>) -> impl Iterator<Item = &CiGrant> {
    let unknown = |it: &&CiGrant| it.access_as == Some(CiAccessAs::Unknown);
    all.iter().flatten().filter(move |it| !unknown(it))
}

fn each<T, U>(items: &Option<Vec<T>>, convert: impl FnMut(&T) -> U) -> Vec<U> {
    items.iter().flatten().map(convert).collect()
}

fn texts(items: &Option<Vec<NonEmpty>>) -> Vec<String> {
    each(items, |text| text.0.clone())
}

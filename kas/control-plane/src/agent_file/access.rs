//! `ci_access` and `user_access`: who may use an agent, in GitLab's terms.

use proto::agent::agentcfg::{self as wire, ci_access_as_cf::As};
use serde::{Deserialize, Serialize};

use runtime::yaml::NonEmpty;

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

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum CiAccessAs {
    Agent {},
    Impersonate {
        username: NonEmpty,
        #[serde(default)]
        groups: Option<Vec<NonEmpty>>,
        #[serde(default)]
        uid: Option<String>,
        #[serde(default)]
        extra: Option<Vec<Extra>>,
    },
    CiJob {},
}

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
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum UserAccessAs {
    /// As the agent itself.
    Agent {},
    /// As themselves.
    User {},
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
            projects: each(&self.projects, CiGrant::to_project),
            groups: each(&self.groups, CiGrant::to_group),
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
            access_as: self.access_as.as_ref().map(CiAccessAs::to_message),
            environments: texts(&self.environments),
        }
    }
}

impl CiAccessAs {
    fn to_message(&self) -> wire::CiAccessAsCf {
        let case = match self {
            Self::Agent {} => As::Agent(wire::CiAccessAsAgentCf {}),
            Self::CiJob {} => As::CiJob(wire::CiAccessAsCiJobCf {}),
            Self::Impersonate {
                username,
                groups,
                uid,
                extra,
            } => As::Impersonate(wire::CiAccessAsImpersonateCf {
                username: username.0.clone(),
                groups: texts(groups),
                uid: uid.clone().unwrap_or_default(),
                extra: each(extra, Extra::to_message),
            }),
        };
        wire::CiAccessAsCf { r#as: Some(case) }
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

fn each<T, U>(items: &Option<Vec<T>>, convert: impl FnMut(&T) -> U) -> Vec<U> {
    items.iter().flatten().map(convert).collect()
}

fn texts(items: &Option<Vec<NonEmpty>>) -> Vec<String> {
    each(items, |text| text.0.clone())
}

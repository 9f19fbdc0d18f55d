//! `gitops`: manifests that the agent applies from repositories.

use proto::agent::agentcfg::{self as wire, git_ref_cf::Ref, manifest_project_cf::PruneOneof};
use serde::{Deserialize, Serialize};

use super::{access::ONE_KEY, modules::wire_duration};
use runtime::yaml::{NonEmpty, Seconds};

/// Manifests to apply.
#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gitops {
    manifest_projects: Option<Vec<ManifestProject>>,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize, Serialize)]
#[serde(default, deny_unknown_fields)]
struct ManifestProject {
    id: Option<NonEmpty>,
    default_namespace: Option<String>,
    paths: Option<Vec<Glob>>,
    reconcile_timeout: Option<Seconds>,
    dry_run_strategy: Option<DryRun>,
    prune: Option<bool>,
    prune_timeout: Option<Seconds>,
    prune_propagation_policy: Option<Propagation>,
    inventory_policy: Option<Inventory>,
    r#ref: Option<GitRef>,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Glob {
    glob: NonEmpty,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum DryRun {
    None,
    Client,
    Server,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case")]
enum Propagation {
    Orphan,
    Background,
    Foreground,
}

#[derive(Debug, Clone, Copy, PartialEq, Deserialize, Serialize)]
enum Inventory {
    #[serde(rename = "must_match")]
    MustMatch,
    #[serde(rename = "adopt_if_no_inventory")]
    AdoptUnowned,
    #[serde(rename = "adopt_all")]
    AdoptAll,
}

#[derive(Debug, Clone, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "snake_case", try_from = "GitRefKeys")]
enum GitRef {
    Tag(NonEmpty),
    Branch(NonEmpty),
    Commit(NonEmpty),
    /// One that is not known here.
    #[serde(untagged)]
    Unknown,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct GitRefKeys {
    tag: Option<NonEmpty>,
    branch: Option<NonEmpty>,
    commit: Option<NonEmpty>,
    #[serde(rename = "__unknown")]
    unknown: bool,
}

impl TryFrom<GitRefKeys> for GitRef {
    type Error = &'static str;

    fn try_from(keys: GitRefKeys) -> Result<Self, &'static str> {
        match (keys.tag, keys.branch, keys.commit) {
            (Some(tag), None, None) => Ok(Self::Tag(tag)),
            (None, Some(branch), None) => Ok(Self::Branch(branch)),
            (None, None, Some(commit)) => Ok(Self::Commit(commit)),
            (None, None, None) if keys.unknown => Ok(Self::Unknown),
            _ => Err(ONE_KEY),
        }
    }
}

impl Gitops {
    pub(super) fn to_message(&self) -> wire::GitopsCf {
        wire::GitopsCf {
            manifest_projects: self
                .manifest_projects
                .iter()
                .flatten()
                // Without its ref it would mean the default branch.
                .filter(|it| it.r#ref != Some(GitRef::Unknown))
                .map(ManifestProject::to_message)
                .collect(),
        }
    }
}

impl ManifestProject {
    fn to_message(&self) -> wire::ManifestProjectCf {
        wire::ManifestProjectCf {
            id: self.id.clone().map(String::from),
            default_namespace: self.default_namespace.clone().unwrap_or_default(),
            paths: self.paths.iter().flatten().map(Glob::to_message).collect(),
            reconcile_timeout: self.reconcile_timeout.map(|s| wire_duration(s.0)),
            dry_run_strategy: self.dry_run_strategy.map_or("", DryRun::name).to_owned(),
            prune_oneof: self.prune.map(PruneOneof::Prune),
            prune_timeout: self.prune_timeout.map(|s| wire_duration(s.0)),
            prune_propagation_policy: self
                .prune_propagation_policy
                .map_or("", Propagation::name)
                .to_owned(),
            inventory_policy: self.inventory_policy.map_or("", Inventory::name).to_owned(),
            r#ref: self.r#ref.as_ref().and_then(GitRef::to_message),
        }
    }
}

impl Glob {
    fn to_message(&self) -> wire::PathCf {
        wire::PathCf {
            glob: self.glob.0.clone(),
        }
    }
}

impl DryRun {
    fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Client => "client",
            Self::Server => "server",
        }
    }
}

impl Propagation {
    fn name(self) -> &'static str {
        match self {
            Self::Orphan => "orphan",
            Self::Background => "background",
            Self::Foreground => "foreground",
        }
    }
}

impl Inventory {
    fn name(self) -> &'static str {
        match self {
            Self::MustMatch => "must_match",
            Self::AdoptUnowned => "adopt_if_no_inventory",
            Self::AdoptAll => "adopt_all",
        }
    }
}

impl GitRef {
    fn to_message(&self) -> Option<wire::GitRefCf> {
        let at = match self {
            Self::Unknown => return None,
            Self::Tag(name) => Ref::Tag(name.0.clone()),
            Self::Branch(name) => Ref::Branch(name.0.clone()),
            Self::Commit(name) => Ref::Commit(name.0.clone()),
        };
        Some(wire::GitRefCf { r#ref: Some(at) })
    }
}

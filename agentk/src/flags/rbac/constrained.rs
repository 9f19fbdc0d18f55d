//! Constrained impersonation (Kubernetes 1.36 and newer): as whom the agent may act, and for what. Both must be
//! granted, and the person whose name is used needs rights as well.

use std::str::FromStr;

use clap::Args;

/// What Kubernetes itself asks for besides the first: kubectl's discovery, and "who am I, what may I do".
const ALWAYS: &str = r#"{nonResourceURLs: [/api, "/api/*", /apis, "/apis/*", "/openapi/*", /version], verbs: ["impersonate-on:user-info:get"]}
  - {apiGroups: [authentication.k8s.io], resources: [selfsubjectreviews], verbs: ["impersonate-on:user-info:create"]}
  - {apiGroups: [authorization.k8s.io], resources: [selfsubjectaccessreviews, selfsubjectrulesreviews], verbs: ["impersonate-on:user-info:create"]}"#;
/// What kas says of its callers besides name and groups, below `agent.gitlab.com/`.
const EXTRAS: [&str; 9] = [
    "id",
    "config_project_id",
    "username",
    "access_type",
    "project_id",
    "ci_pipeline_id",
    "ci_job_id",
    "environment_slug",
    "environment_tier",
];
/// Of Kubernetes' own identities: service accounts, nodes, components, `system:masters`.
const RESERVED: &str = "system:";

/// As whom the agent may act, and for what.
#[derive(Debug, Args)]
pub(super) struct Constrained {
    /// Let the agent act as the callers whom kas names, within these bounds only. Needs Kubernetes 1.36
    #[arg(long)]
    constrained: bool,
    /// A group whose members the agent may act as; may be repeated
    #[arg(
        long,
        value_name = "NAME",
        default_value = "gitlab:user",
        requires = "constrained"
    )]
    as_group: Vec<Impersonated>,
    /// A user as whom the agent may act; may be repeated. Without it, any that is not Kubernetes' own
    #[arg(long, value_name = "NAME", requires = "constrained")]
    as_user: Vec<Impersonated>,
    /// What for, as verbs and resources such as `create,patch:deployments.apps,pods/exec`; may be repeated
    #[arg(
        long,
        value_name = "VERBS:RESOURCES",
        default_value = "get,list,watch:*",
        requires = "constrained"
    )]
    on: Vec<Deed>,
}

impl Constrained {
    /// The rules, if they are asked for.
    pub(super) fn rules(&self) -> Option<Vec<String>> {
        self.constrained.then(|| {
            let users = (!self.as_user.is_empty()).then_some(&self.as_user[..]);
            let extras: Vec<_> = EXTRAS
                .iter()
                .map(|it| format!("userextras/agent.gitlab.com/{it}"))
                .collect();
            let mut rules = vec![
                whom("users", users),
                whom("groups", Some(&self.as_group)),
                whom(&format!("uids, {}", extras.join(", ")), None),
                ALWAYS.to_owned(),
            ];
            rules.extend(self.on.iter().flat_map(Deed::rules));
            rules
        })
    }
}

fn whom(resources: &str, names: Option<&[Impersonated]>) -> String {
    let names = names.map_or_else(String::new, |names| {
        let quoted: Vec<_> = names.iter().map(|it| quoted(&it.0)).collect();
        format!(" resourceNames: [{}],", quoted.join(", "))
    });
    format!(
        r#"{{apiGroups: [authentication.k8s.io], resources: [{resources}],{names} verbs: ["impersonate:user-info"]}}"#
    )
}

/// A user or a group as whom the agent may act.
#[derive(Debug, Clone)]
struct Impersonated(String);

/// Why somebody is nobody to act as.
#[derive(Debug, thiserror::Error)]
enum BadName {
    #[error("names of Kubernetes' own users and groups (system:…) are not for callers")]
    Reserved,
    #[error("each name must be given in full: rights know no patterns of names")]
    Pattern,
}

impl FromStr for Impersonated {
    type Err = BadName;

    fn from_str(text: &str) -> Result<Self, BadName> {
        if text.starts_with(RESERVED) {
            return Err(BadName::Reserved);
        }
        if text.is_empty() || text.contains('*') {
            return Err(BadName::Pattern);
        }
        Ok(Self(text.to_owned()))
    }
}

/// Verbs on resources.
#[derive(Debug, Clone)]
struct Deed {
    verbs: Vec<String>,
    /// Resources with their groups, as rules have both.
    resources: Vec<(String, String)>,
}

/// Why this names no verbs and resources.
#[derive(Debug, thiserror::Error)]
enum BadDeed {
    #[error("verbs and resources are wanted, as in get,list:pods,deployments.apps")]
    Form,
    #[error(
        "each verb must be named, as in get,list,watch: there is no pattern for those of impersonation"
    )]
    Verb,
    #[error("{0:?} is no resource such as pods, pods/exec, deployments.apps or *")]
    Resource(String),
}

impl FromStr for Deed {
    type Err = BadDeed;

    fn from_str(text: &str) -> Result<Self, BadDeed> {
        let (verbs, resources) = text.split_once(':').ok_or(BadDeed::Form)?;
        let verbs: Vec<_> = verbs.split(',').map(str::to_owned).collect();
        let is_verb =
            |verb: &String| !verb.is_empty() && verb.bytes().all(|it| it.is_ascii_lowercase());
        if !verbs.iter().all(is_verb) {
            return Err(BadDeed::Verb);
        }
        let resources = resources
            .split(',')
            .map(resource)
            .collect::<Result<_, _>>()?;
        Ok(Self { verbs, resources })
    }
}

/// A resource as kubectl names it: `RESOURCE[.GROUP][/SUBRESOURCE]`.
fn resource(text: &str) -> Result<(String, String), BadDeed> {
    if text == "*" {
        return Ok(("*".to_owned(), "*".to_owned()));
    }
    let (name, subresource) = text
        .split_once('/')
        .map_or((text, None), |(name, below)| (name, Some(below)));
    let (name, group) = name.split_once('.').unwrap_or((name, ""));
    let is_word = |word: &str, others: &str| {
        let good = |it: char| it.is_ascii_lowercase() || it.is_ascii_digit() || others.contains(it);
        !word.is_empty() && word.chars().all(good)
    };
    let good = (name == "*" && !group.is_empty() || is_word(name, "-"))
        && (group.is_empty() || is_word(group, ".-"))
        && subresource.is_none_or(|below| is_word(below, "-"));
    if !good {
        return Err(BadDeed::Resource(text.to_owned()));
    }
    let below = subresource.map_or_else(String::new, |below| format!("/{below}"));
    Ok((group.to_owned(), format!("{name}{below}")))
}

impl Deed {
    fn rules(&self) -> Vec<String> {
        let verbs: Vec<_> = (self.verbs.iter())
            .map(|verb| quoted(&format!("impersonate-on:user-info:{verb}")))
            .collect();
        let verbs = verbs.join(", ");
        let rule = |(group, resource): &(String, String)| {
            let (group, resource) = (quoted(group), quoted(resource));
            format!("{{apiGroups: [{group}], resources: [{resource}], verbs: [{verbs}]}}")
        };
        self.resources.iter().map(rule).collect()
    }
}

/// A text as YAML has it whatever is in it.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

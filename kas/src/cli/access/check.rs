//! `kas access check`: which rule decides, and why no other does.

use std::path::Path;

use clap::Args;
use cluster_state::AgentId;
use control_plane::{
    IdentityKind,
    standalone::{
        Directory, caller::Caller, change::names, explain::AccessExplanation, file::Rule, read,
        view,
    },
};
use jiff::Timestamp;
use serde::Serialize;

use super::usage;
use crate::cli::{CommandError, Output, output::Format};

/// Whose access to which agent.
#[derive(Debug, Args)]
pub struct Check {
    /// User who wants to use the agent
    #[arg(long, required_unless_present = "service", conflicts_with = "service")]
    user: Option<String>,
    /// Service that wants to use the agent
    #[arg(long)]
    service: Option<String>,
    /// Group that the token of an OIDC issuer says; may be repeated. Groups of the file are known
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Agent
    #[arg(long)]
    agent: String,
    /// Kubernetes verb: who decides on it
    #[arg(long)]
    verb: Option<String>,
    /// Kubernetes resource that the verb is for
    #[arg(long, default_value = "pods", requires = "verb")]
    resource: String,
    /// Namespace that the verb is in
    #[arg(long, requires = "verb")]
    namespace: Option<String>,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Serialize)]
struct Explanation {
    allowed: bool,
    who: String,
    groups: Vec<String>,
    agent: String,
    rule: Option<usize>,
    path: Option<String>,
    cluster_user: Option<String>,
    cluster_groups: Vec<String>,
    verdicts: Vec<Verdict>,
}

#[derive(Serialize)]
struct Verdict {
    rule: usize,
    path: String,
    agents: String,
    callers: String,
    access_as: String,
    verdict: &'static str,
}

pub(super) fn run(file: &Path, args: &Check, output: &mut Output<'_>) -> Result<(), CommandError> {
    let now = Timestamp::now();
    let document = view(file)?;
    let directory = read(file, now)?;
    let agent = document.agent(&args.agent)?.id;
    let caller = caller(args, &directory)?;
    let explained = directory.explain(caller, AgentId(agent), now);
    let explained = explained.ok_or_else(|| usage("the file has changed just now: try again"))?;
    match args.output {
        Format::Json => output.json(&explanation(args, &explained)),
        Format::Table => {
            let each = (1..).zip(&explained.verdicts);
            let rows: Vec<_> = each
                .map(|(number, told): (usize, _)| {
                    let rule = told.rule.clone();
                    let access_as = rule.access_as_until();
                    let verdict = told.verdict.to_owned();
                    [
                        number.to_string(),
                        Rule::path(number - 1),
                        rule.agents,
                        rule.callers,
                        access_as,
                        verdict,
                    ]
                })
                .collect();
            output.table(["NO", "PATH", "AGENTS", "WHO", "AS", "VERDICT"], &rows)?;
            output.hint(&conclusion(args, &explained))
        }
    }
}

fn caller(args: &Check, directory: &Directory) -> Result<Caller, CommandError> {
    let (kind, name) = match (&args.user, &args.service) {
        (Some(name), _) => (IdentityKind::User, name),
        (None, Some(name)) => (IdentityKind::CiJob, name),
        (None, None) => return Err(usage("give --user or --service")),
    };
    let groups = names(&args.groups)?;
    let groups = groups.iter().map(|it| it.as_str().to_owned()).collect();
    Ok(directory.caller_named(kind, name, groups))
}

fn explanation(args: &Check, explained: &AccessExplanation) -> Explanation {
    let access = explained.access.as_ref();
    let whom = access.and_then(|it| it.impersonation.as_ref());
    let each = (1..).zip(&explained.verdicts);
    Explanation {
        allowed: access.is_some(),
        who: explained.caller.identity.to_string(),
        groups: explained.caller.groups.clone(),
        agent: args.agent.clone(),
        rule: explained.rule(),
        path: explained.rule().map(|number| Rule::path(number - 1)),
        cluster_user: whom.map(|it| it.username.clone()),
        cluster_groups: whom.map(|it| it.groups.clone()).unwrap_or_default(),
        verdicts: each
            .map(|(rule, told)| Verdict {
                rule,
                path: Rule::path(rule - 1),
                agents: told.rule.agents.clone(),
                callers: told.rule.callers.clone(),
                access_as: told.rule.access_as_until(),
                verdict: told.verdict,
            })
            .collect(),
    }
}

/// The answer, and where the cluster decides further, how it is asked.
fn conclusion(args: &Check, explained: &AccessExplanation) -> String {
    let sentence = explained.sentence();
    let (Some(verb), Some(access)) = (&args.verb, &explained.access) else {
        return sentence;
    };
    let whom = access.impersonation.as_ref();
    let resource = &args.resource;
    let namespace = args.namespace.as_ref();
    let namespace = namespace.map(|it| format!(" --namespace {it}"));
    let namespace = namespace.unwrap_or_default();
    let identity = whom.map(|it| {
        let groups = it
            .groups
            .iter()
            .map(|group| format!(" --as-group '{group}'"));
        format!(" --as '{}'{}", it.username, groups.collect::<String>())
    });
    let identity = identity.unwrap_or_default();
    let who = if whom.is_some() {
        ""
    } else {
        ", as the agent's service account"
    };
    format!(
        "{sentence}\nWhether it may {verb} {resource} is for the cluster's RBAC; ask there{who}: \
         kubectl auth can-i {verb} {resource}{namespace}{identity}"
    )
}

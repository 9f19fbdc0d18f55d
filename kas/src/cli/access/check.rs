//! `kas access check`: which rule decides, and why no other does.

use std::path::Path;

use clap::Args;
use cluster_state::AgentId;
use control_plane::{
    Access, Identity, IdentityKind,
    standalone::{Directory, RuleVerdict, caller::Caller, change::names, file::Rule, read, view},
};
use jiff::Timestamp;
use serde::Serialize;

use super::{columns, sentence, usage};
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
    cluster_user: Option<String>,
    cluster_groups: Vec<String>,
    verdicts: Vec<Verdict>,
}

#[derive(Serialize)]
struct Verdict {
    rule: usize,
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
    let verdicts = directory
        .verdicts(&caller, AgentId(agent), now)
        .unwrap_or_default();
    let rules: Vec<_> = document.access.iter().map(|it| &it.value).collect();
    let decides = verdicts.iter().position(|it| *it == RuleVerdict::Matches);
    let access = directory.permit(&caller, AgentId(agent), now).ok();
    match args.output {
        Format::Json => output.json(&explanation(args, &caller, &rules, &verdicts, access)),
        Format::Table => {
            let each = rules.iter().zip(&verdicts).enumerate();
            let rows: Vec<_> = each
                .map(|(at, (rule, verdict))| {
                    let (agents, callers, access_as) = columns(rule);
                    let words = words(*verdict, decides.is_some_and(|it| it < at));
                    [
                        (at + 1).to_string(),
                        agents,
                        callers,
                        access_as,
                        words.to_owned(),
                    ]
                })
                .collect();
            output.table(["NO", "AGENTS", "WHO", "AS", "VERDICT"], &rows)?;
            output.hint(&conclusion(args, &caller, decides, &rules, access.as_ref()))
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
    let caller = Caller {
        identity: Identity {
            kind,
            name: name.clone(),
        },
        groups: groups.iter().map(|it| it.as_str().to_owned()).collect(),
        access_type: "",
        issuer: None,
    };
    Ok(directory.with_own_groups(caller))
}

fn words(verdict: RuleVerdict, decided: bool) -> &'static str {
    match verdict {
        RuleVerdict::Matches if decided => "would match, but another decided",
        RuleVerdict::Matches => "decides",
        RuleVerdict::Expired => "has expired",
        RuleVerdict::OtherAgents => "is for other agents",
        RuleVerdict::OtherCallers => "is for others",
        RuleVerdict::OtherKind => "is for the other kind of caller",
    }
}

fn explanation(
    args: &Check,
    caller: &Caller,
    rules: &[&Rule],
    verdicts: &[RuleVerdict],
    access: Option<Access>,
) -> Explanation {
    let decides = verdicts.iter().position(|it| *it == RuleVerdict::Matches);
    let each = rules.iter().zip(verdicts).enumerate();
    let whom = access.as_ref().and_then(|it| it.impersonation.as_ref());
    Explanation {
        allowed: access.is_some(),
        who: caller.identity.to_string(),
        groups: caller.groups.clone(),
        agent: args.agent.clone(),
        rule: decides.map(|at| at + 1),
        cluster_user: whom.map(|it| it.username.clone()),
        cluster_groups: whom.map(|it| it.groups.clone()).unwrap_or_default(),
        verdicts: each
            .map(|(at, (rule, verdict))| {
                let (agents, callers, access_as) = columns(rule);
                Verdict {
                    rule: at + 1,
                    agents,
                    callers,
                    access_as,
                    verdict: words(*verdict, decides.is_some_and(|it| it < at)),
                }
            })
            .collect(),
    }
}

fn conclusion(
    args: &Check,
    caller: &Caller,
    decides: Option<usize>,
    rules: &[&Rule],
    access: Option<&Access>,
) -> String {
    let (who, agent) = (&caller.identity, &args.agent);
    let groups = match caller.groups.is_empty() {
        true => "no group".to_owned(),
        false => format!("the groups {}", caller.groups.join(", ")),
    };
    let Some(at) = decides else {
        return format!(
            "Refused: {who}, in {groups}, may not use agent {agent}: no rule is for both. Add one with `kas access grant`."
        );
    };
    let rule = rules.get(at).map(|rule| sentence(rule)).unwrap_or_default();
    let number = at + 1;
    let allowed =
        format!("Allowed: {who}, in {groups}, may use agent {agent}, by rule {number}: {rule}.");
    let whom = access.and_then(|it| it.impersonation.as_ref());
    let Some(verb) = &args.verb else {
        return allowed;
    };
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
        "{allowed}\nWhether it may {verb} {resource} is for the cluster's RBAC; ask there{who}: \
         kubectl auth can-i {verb} {resource}{namespace}{identity}"
    )
}

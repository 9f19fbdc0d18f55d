//! `kas access …`

mod check;

use std::{collections::BTreeMap, path::Path, time::Duration};

use clap::{Args, Subcommand, ValueEnum};
use control_plane::RecordSessions;
use control_plane::standalone::{
    Editable,
    access_as::{AccessAs, Extra, Impersonate},
    change::{ChangeError, names},
    edit,
    file::{Agents, Rule},
    names::{AgentName, LabelText},
    schema::SCHEMA,
    shadowed, view,
};
use jiff::Timestamp;
use serde::Serialize;

use super::{CommandError, Output, duration, now, output::Format};
use check::Check;

/// `kas access` subcommands.
#[derive(Debug, Subcommand)]
pub enum Action {
    /// Append a rule; the first rule that matches decides
    Grant(Grant),
    /// List the rules in order of evaluation
    List {
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: Format,
    },
    /// Explain which rule decides whether somebody may use an agent
    Check(Check),
    /// Print the JSON Schema of the file, for editors
    Schema,
    /// Remove a rule
    Remove {
        /// Number of the rule in the list, or its path, as in access[0]
        #[arg(value_name = "NUMBER|PATH", value_parser = RuleNumber::parse)]
        rule: RuleNumber,
    },
}

/// A rule, counted from 1.
#[derive(Debug, Clone, Copy)]
pub struct RuleNumber(usize);

/// What names no rule.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error(
    "give the number of a rule as `kas access list` counts, or its path in the file, such as access[0]"
)]
struct NoRule;

impl RuleNumber {
    fn parse(text: &str) -> Result<Self, NoRule> {
        let at = text
            .strip_prefix("access[")
            .and_then(|it| it.strip_suffix(']'));
        let number = match at {
            Some(at) => at.parse::<usize>().ok().and_then(|at| at.checked_add(1)),
            None => text.parse().ok(),
        };
        number.map(Self).ok_or(NoRule)
    }
}

/// A rule to append.
#[derive(Debug, Args)]
pub struct Grant {
    /// Agent, or '*' for all agents; may be repeated
    #[arg(
        long = "agent",
        value_name = "AGENT",
        required_unless_present = "agent_labels"
    )]
    agents: Vec<String>,
    /// Label of the agents, in place of their names; may be repeated: agents with all of them
    #[arg(
        long = "agent-label",
        value_name = "KEY=VALUE",
        conflicts_with = "agents"
    )]
    agent_labels: Vec<String>,
    /// How long the rule counts; for ever if absent
    #[arg(long = "for", value_name = "DURATION", value_parser = duration::parse_positive)]
    lasts: Option<Duration>,
    /// Record exec and attach of those whom this rule lets in; `required` refuses what cannot be recorded
    #[arg(long, value_enum, value_name = "WHEN", num_args = 0..=1, default_missing_value = "possible")]
    record: Option<Record>,
    /// User who may use the agents; may be repeated
    #[arg(long = "user", value_name = "USER")]
    users: Vec<String>,
    /// Group whose users and services may use the agents; may be repeated
    #[arg(long = "group", value_name = "GROUP")]
    groups: Vec<String>,
    /// Service that may use the agents; may be repeated
    #[arg(long = "service", value_name = "SERVICE")]
    services: Vec<String>,
    /// Identity that requests have in the cluster
    #[arg(long = "as", value_enum)]
    access_as: As,
    /// With --as impersonate: user name
    #[arg(long)]
    as_user: Option<String>,
    /// With --as impersonate: group; may be repeated
    #[arg(long = "as-group", value_name = "GROUP")]
    as_groups: Vec<String>,
    /// With --as impersonate: UID
    #[arg(long)]
    as_uid: Option<String>,
    /// With --as impersonate: extra value; may be repeated
    #[arg(long = "as-extra", value_name = "KEY=VALUE")]
    as_extra: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum As {
    /// The agent's own
    Agent,
    /// The calling user
    User,
    /// The calling service
    #[value(name = "ci_job", alias = "ci-job")]
    CiJob,
    /// The one of --as-user
    Impersonate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Record {
    /// Where that is possible
    Possible,
    /// Without a recording there is no session
    Required,
}

pub(super) fn run(
    file: &Path,
    action: Action,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    match action {
        Action::Grant(args) => grant(file, args, output),
        Action::List { output: format } => list(&view(file)?, format, output),
        Action::Check(args) => check::run(file, &args, output),
        Action::Schema => output.result(SCHEMA),
        Action::Remove { rule } => remove(file, rule.0, output),
    }
}

fn grant(file: &Path, args: Grant, output: &mut Output<'_>) -> Result<(), CommandError> {
    let rule = args.into_rule()?;
    let text = sentence(&rule);
    let (number, hidden) = edit(file, |document: &mut Editable| -> Result<_, ChangeError> {
        let number = document.grant(rule)?;
        let mut hidden = shadowed(document).into_iter();
        Ok((number, hidden.find(|it| it.rule == number)))
    })?;
    output.hint(&format!("Rule {}: {text}.", numbers(&[number])))?;
    match hidden {
        None => Ok(()),
        Some(hidden) => output.hint(&format!(
            "Note: it has no effect: rule {} decides for all that it names.",
            numbers(&hidden.by)
        )),
    }
}

fn list(document: &Editable, format: Format, output: &mut Output<'_>) -> Result<(), CommandError> {
    let rules = (1..).zip(document.access.iter().map(|it| &it.value));
    match format {
        Format::Json => {
            let view = |(number, rule)| RuleView {
                number,
                path: Rule::path(number - 1),
                rule,
            };
            output.json(&rules.map(view).collect::<Vec<_>>())
        }
        Format::Table if document.access.is_empty() => output.hint(
            "There are no access rules, so no agent can be used: add one with `kas access grant`.",
        ),
        Format::Table => {
            let row = |(number, rule): (usize, &Rule)| {
                let words = rule.words(now());
                let access_as = words.access_as_until();
                let path = Rule::path(number - 1);
                [
                    number.to_string(),
                    path,
                    words.agents,
                    words.callers,
                    access_as,
                ]
            };
            output.table(
                ["NO", "PATH", "AGENTS", "WHO", "AS"],
                &rules.map(row).collect::<Vec<_>>(),
            )?;
            shadowed(document).iter().try_for_each(|it| {
                let (rule, by) = (numbers(&[it.rule]), numbers(&it.by));
                output.hint(&format!(
                    "Rule {rule} has no effect: rule {by} decides for all that it names."
                ))
            })
        }
    }
}

fn remove(file: &Path, number: usize, output: &mut Output<'_>) -> Result<(), CommandError> {
    let rule = edit(file, |document: &mut Editable| -> Result<_, ChangeError> {
        document.remove_rule(number)
    })?;
    output.hint(&format!(
        "Removed rule {}: {}. The rules after it are renumbered.",
        numbers(&[number]),
        sentence(&rule)
    ))
}

impl Grant {
    fn into_rule(self) -> Result<Rule, CommandError> {
        if self.users.is_empty() && self.groups.is_empty() && self.services.is_empty() {
            return Err(usage(
                "no user, group or service is given: use --user, --group or --service",
            ));
        }
        Ok(Rule {
            agents: match self.agent_labels.is_empty() {
                true => agents(&self.agents)?,
                false => Agents::Labelled(labels(&self.agent_labels)?),
            },
            users: names(&self.users)?,
            services: names(&self.services)?,
            groups: names(&self.groups)?,
            access_as: self.access_as()?,
            expires_at: self.lasts.map(end).transpose()?,
            record: match self.record {
                None => RecordSessions::No,
                Some(Record::Possible) => RecordSessions::Yes,
                Some(Record::Required) => RecordSessions::Required,
            },
        })
    }

    fn access_as(&self) -> Result<AccessAs, CommandError> {
        let whom = self.as_user.is_some()
            || self.as_uid.is_some()
            || !self.as_groups.is_empty()
            || !self.as_extra.is_empty();
        if whom && self.access_as != As::Impersonate {
            return Err(usage(
                "--as-user, --as-group, --as-uid and --as-extra need --as impersonate",
            ));
        }
        match self.access_as {
            As::Agent => Ok(AccessAs::Agent),
            As::User if !self.services.is_empty() => Err(usage(
                "--as user is for users and groups: use --as ci_job for a --service",
            )),
            As::User => Ok(AccessAs::User),
            As::CiJob if !self.users.is_empty() => Err(usage(
                "--as ci_job is for services and groups: use --as user for a --user",
            )),
            As::CiJob => Ok(AccessAs::CiJob),
            As::Impersonate => self.impersonate(),
        }
    }

    fn impersonate(&self) -> Result<AccessAs, CommandError> {
        let username = self.as_user.clone().filter(|name| !name.is_empty());
        Ok(AccessAs::Impersonate(Impersonate {
            username: username
                .ok_or_else(|| usage("--as impersonate needs --as-user with the name to act as"))?,
            groups: self.as_groups.clone(),
            uid: self.as_uid.clone().unwrap_or_default(),
            extra: extra(&self.as_extra)?,
        }))
    }
}

fn agents(texts: &[String]) -> Result<Agents, CommandError> {
    if texts.iter().any(|text| text == "*") {
        return Ok(Agents::All);
    }
    let names = texts.iter().cloned().map(AgentName::try_from);
    Ok(Agents::Named(names.collect::<Result<_, _>>()?))
}

/// Labels of agents.
pub(super) fn labels(texts: &[String]) -> Result<BTreeMap<LabelText, LabelText>, CommandError> {
    let label = |text: &String| -> Result<_, CommandError> {
        let (key, value) = text
            .split_once('=')
            .ok_or_else(|| usage(&format!("label `{text}` must be KEY=VALUE")))?;
        let part = |text: &str| LabelText::try_from(text.to_owned());
        Ok((part(key)?, part(value)?))
    };
    texts.iter().map(label).collect()
}

/// When a rule ends that begins now.
fn end(lasts: Duration) -> Result<Timestamp, CommandError> {
    let end = now().checked_add(lasts);
    end.map_err(|_| usage("--for is too long"))
}

/// Rules by number and path: `1 (access[0])`, `1 (access[0]), 2 (access[1])`.
pub(super) fn numbers(numbers: &[usize]) -> String {
    let numbers: Vec<_> = numbers.iter().map(|it| Rule::named(*it)).collect();
    numbers.join(", ")
}

/// Merges values of the same key.
fn extra(texts: &[String]) -> Result<Vec<Extra>, CommandError> {
    let mut extras: Vec<Extra> = Vec::new();
    for text in texts {
        let (key, value) = text
            .split_once('=')
            .filter(|(key, _)| !key.is_empty())
            .ok_or_else(|| usage(&format!("--as-extra `{text}` must be KEY=VALUE")))?;
        match extras.iter_mut().find(|it| it.key == key) {
            Some(extra) => extra.val.push(value.to_owned()),
            None => extras.push(Extra {
                key: key.to_owned(),
                val: vec![value.to_owned()],
            }),
        }
    }
    Ok(extras)
}

fn usage(text: &str) -> CommandError {
    CommandError::Usage(text.to_owned())
}

fn sentence(rule: &Rule) -> String {
    rule.words(now()).sentence()
}

#[derive(Serialize)]
struct RuleView<'a> {
    number: usize,
    path: String,
    #[serde(flatten)]
    rule: &'a Rule,
}

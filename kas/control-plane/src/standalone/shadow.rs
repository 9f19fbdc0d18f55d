//! Rules that never decide, since rules before them do for all that they name.

use std::collections::BTreeMap;

use super::{
    file::{AgentEntry, Agents, Document, Rule},
    names::{AgentName, LabelText, Name},
};
use crate::IdentityKind;
use runtime::yaml::Spot;

/// A rule without effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shadowed {
    /// Its number in the file, from 1.
    pub rule: usize,
    /// Its line.
    pub line: u64,
    /// The rules that decide in its place, from 1, the first first.
    pub by: Vec<usize>,
}

/// The rules of a document that never decide.
#[must_use]
pub fn shadowed<C>(document: &Document<C>) -> Vec<Shadowed> {
    let rules: Vec<_> = document.access.iter().collect();
    let each = (0..rules.len()).filter_map(|at| {
        let by = shadow(document, &rules[at].value, &rules[..at])?;
        Some(Shadowed {
            rule: at + 1,
            line: rules[at].referenced.line(),
            by,
        })
    });
    each.collect()
}

/// Which of those before it decide for each agent and caller that a rule names, if some do for each.
fn shadow<C>(document: &Document<C>, rule: &Rule, before: &[&Spot<Rule>]) -> Option<Vec<usize>> {
    let mut by = Vec::new();
    for part in parts(&rule.agents) {
        for subject in subjects(rule) {
            let decides = |earlier: &Rule| {
                lasts_as_long(earlier, rule)
                    && has_part(document, &earlier.agents, part)
                    && has_subject(document, earlier, subject)
            };
            let at = before.iter().position(|it| decides(&it.value))?;
            by.push(at + 1);
        }
    }
    by.sort_unstable();
    by.dedup();
    Some(by)
}

#[derive(Clone, Copy)]
enum Part<'a> {
    All,
    Named(&'a AgentName),
    Labelled(&'a BTreeMap<LabelText, LabelText>),
}

/// A caller or group, of one kind.
#[derive(Clone, Copy)]
struct Subject<'a> {
    kind: IdentityKind,
    name: &'a Name,
    is_group: bool,
}

fn parts(agents: &Agents) -> Vec<Part<'_>> {
    match agents {
        Agents::All => vec![Part::All],
        Agents::Named(names) => names.iter().map(Part::Named).collect(),
        Agents::Labelled(labels) => vec![Part::Labelled(labels)],
    }
}

fn subjects(rule: &Rule) -> Vec<Subject<'_>> {
    use IdentityKind::{CiJob, User};
    let named = [
        (User, &rule.users, false),
        (CiJob, &rule.services, false),
        (User, &rule.groups, true),
        (CiJob, &rule.groups, true),
    ];
    let fitting = named
        .into_iter()
        .filter(|(kind, ..)| rule.access_as.fits(*kind));
    let subjects = fitting.flat_map(|(kind, names, is_group)| {
        names.iter().map(move |name| Subject {
            kind,
            name,
            is_group,
        })
    });
    subjects.collect()
}

fn lasts_as_long(earlier: &Rule, rule: &Rule) -> bool {
    match (earlier.expires_at, rule.expires_at) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(earlier), Some(end)) => earlier >= end,
    }
}

fn has_part<C>(document: &Document<C>, agents: &Agents, part: Part<'_>) -> bool {
    match (agents, part) {
        (Agents::All, _) => true,
        (Agents::Named(names), Part::Named(name)) => names.contains(name),
        (Agents::Labelled(labels), Part::Named(name)) => {
            let mut all = document.agents.iter();
            let agent = all.find(|it: &&Spot<AgentEntry<C>>| it.value.name == *name);
            let has = |agent: &AgentEntry<C>| {
                let mut labels = labels.iter();
                labels.all(|(key, value)| agent.labels.get(key) == Some(value))
            };
            agent.is_some_and(|it| has(&it.value))
        }
        (Agents::Labelled(labels), Part::Labelled(wanted)) => {
            let mut labels = labels.iter();
            labels.all(|(key, value)| wanted.get(key) == Some(value))
        }
        (Agents::Named(_) | Agents::Labelled(_), Part::All)
        | (Agents::Named(_), Part::Labelled(_)) => false,
    }
}

fn has_subject<C>(document: &Document<C>, rule: &Rule, subject: Subject<'_>) -> bool {
    if !rule.access_as.fits(subject.kind) {
        return false;
    }
    if subject.is_group {
        return rule.groups.contains(subject.name);
    }
    let (named, callers) = match subject.kind {
        IdentityKind::User => (&rule.users, &document.users),
        IdentityKind::CiJob => (&rule.services, &document.services),
    };
    let mut callers = callers.iter();
    let own = callers.find(|it| it.value.name == *subject.name);
    let own_groups = own.map(|it| it.value.groups.as_slice()).unwrap_or_default();
    named.contains(subject.name) || own_groups.iter().any(|it| rule.groups.contains(it))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use runtime::yaml;

    use super::*;
    use crate::standalone::Editable;

    fn numbers(rules: &str) -> Vec<(usize, Vec<usize>)> {
        let text = format!(
            "agents: [{{id: 1, name: a, labels: {{env: prod}}}}, {{id: 2, name: b}}]\n\
             users: [{{name: ana, groups: [devs]}}, {{name: bob}}]\naccess:\n{rules}"
        );
        let document: Editable = yaml::read(Path::new("f"), &text).unwrap();
        let found = shadowed(&document).into_iter();
        found.map(|it| (it.rule, it.by)).collect()
    }

    #[test]
    fn a_rule_is_shadowed_by_those_before_it_that_decide_for_all_that_it_names() {
        for (rules, expected) in [
            // All agents, the same user.
            (
                "- {agents: '*', users: [ana], access_as: agent}\n- {agents: [a], users: [ana], access_as: user}\n",
                vec![(2, vec![1])],
            ),
            // Two together.
            (
                "- {agents: [a], users: [ana], access_as: agent}\n- {agents: [b], users: [ana], access_as: agent}\n\
                 - {agents: [b, a], users: [ana], access_as: user}\n",
                vec![(3, vec![1, 2])],
            ),
            // By a group of the file, and by a label.
            (
                "- {agents: {labels: {env: prod}}, groups: [devs], access_as: agent}\n\
                 - {agents: [a], users: [ana], access_as: user}\n",
                vec![(2, vec![1])],
            ),
            // Another agent, another user, all agents after one, users after jobs, for ever after for a while.
            (
                "- {agents: [a], users: [ana], access_as: agent}\n- {agents: [b], users: [ana], access_as: user}\n",
                vec![],
            ),
            (
                "- {agents: '*', users: [ana], access_as: agent}\n- {agents: '*', users: [ana, bob], access_as: user}\n",
                vec![],
            ),
            (
                "- {agents: [a, b], users: [ana], access_as: agent}\n- {agents: '*', users: [ana], access_as: user}\n",
                vec![],
            ),
            (
                "- {agents: '*', groups: [devs], access_as: ci_job}\n- {agents: '*', groups: [devs], access_as: agent}\n",
                vec![],
            ),
            (
                "- {agents: '*', users: [ana], access_as: agent, expires_at: 2026-01-01T00:00:00Z}\n\
                 - {agents: '*', users: [ana], access_as: user}\n",
                vec![],
            ),
        ] {
            assert_eq!(numbers(rules), expected, "{rules}");
        }
    }
}

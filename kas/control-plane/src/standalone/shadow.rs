//! Rules that never decide, since rules before them do for all that they name.

use std::collections::BTreeMap;

use super::{
    file::{Agents, Document, Rule},
    names::{AgentName, LabelText, Name},
};
use crate::IdentityKind;

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

/// What is known of those whom rules name.
pub(super) trait Known {
    /// The labels of an agent, if there is one.
    fn labels(&self, agent: &AgentName) -> Option<&BTreeMap<LabelText, LabelText>>;

    /// Whether a caller is in one of these groups.
    fn is_in_any(&self, kind: IdentityKind, name: &Name, groups: &[Name]) -> bool;
}

/// The rules of a document that never decide.
#[must_use]
pub fn shadowed<C>(document: &Document<C>) -> Vec<Shadowed> {
    let rules = document.access.iter();
    let rules: Vec<_> = rules.map(|it| (&it.value, it.referenced.line())).collect();
    among(document, &rules)
}

/// Which of these rules, each with its line, never decide.
pub(super) fn among(known: &impl Known, rules: &[(&Rule, u64)]) -> Vec<Shadowed> {
    let each = (0..rules.len()).filter_map(|at| {
        let (rule, line) = rules[at];
        Some(Shadowed {
            rule: at + 1,
            line,
            by: shadow(known, rule, &rules[..at])?,
        })
    });
    each.collect()
}

/// Which of those before it decide for each agent and caller that a rule names, if some do for each.
fn shadow(known: &impl Known, rule: &Rule, before: &[(&Rule, u64)]) -> Option<Vec<usize>> {
    let mut by = Vec::new();
    for part in parts(&rule.agents) {
        for subject in subjects(rule) {
            let decides = |earlier: &Rule| {
                lasts_as_long(earlier, rule)
                    && has_part(known, &earlier.agents, part)
                    && has_subject(known, earlier, subject)
            };
            let at = before.iter().position(|(it, _)| decides(it))?;
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

fn has_part(known: &impl Known, agents: &Agents, part: Part<'_>) -> bool {
    let all_in = |wanted: &BTreeMap<LabelText, LabelText>, own: &BTreeMap<LabelText, LabelText>| {
        let mut wanted = wanted.iter();
        wanted.all(|(key, value)| own.get(key) == Some(value))
    };
    match (agents, part) {
        (Agents::All, _) => true,
        (Agents::Named(names), Part::Named(name)) => names.contains(name),
        (Agents::Labelled(labels), Part::Named(name)) => {
            known.labels(name).is_some_and(|own| all_in(labels, own))
        }
        (Agents::Labelled(labels), Part::Labelled(wanted)) => all_in(labels, wanted),
        (Agents::Named(_) | Agents::Labelled(_), Part::All)
        | (Agents::Named(_), Part::Labelled(_)) => false,
    }
}

fn has_subject(known: &impl Known, rule: &Rule, subject: Subject<'_>) -> bool {
    if !rule.access_as.fits(subject.kind) {
        return false;
    }
    if subject.is_group {
        return rule.groups.contains(subject.name);
    }
    let named = match subject.kind {
        IdentityKind::User => &rule.users,
        IdentityKind::CiJob => &rule.services,
    };
    named.contains(subject.name) || known.is_in_any(subject.kind, subject.name, &rule.groups)
}

impl<C> Known for Document<C> {
    fn labels(&self, agent: &AgentName) -> Option<&BTreeMap<LabelText, LabelText>> {
        let mut all = self.agents.iter().map(|it| &it.value);
        all.find(|it| it.name == *agent).map(|it| &it.labels)
    }

    fn is_in_any(&self, kind: IdentityKind, name: &Name, groups: &[Name]) -> bool {
        let callers = match kind {
            IdentityKind::User => &self.users,
            IdentityKind::CiJob => &self.services,
        };
        let mut callers = callers.iter().map(|it| &it.value);
        let own = callers.find(|it| it.name == *name);
        own.is_some_and(|it| it.groups.iter().any(|own| groups.contains(own)))
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use runtime::yaml;

    use super::*;
    use crate::{
        agent_file::AgentFile,
        standalone::{Directory, Editable},
    };

    fn numbers(rules: &str) -> Vec<(usize, Vec<usize>)> {
        let text = format!(
            "agents: [{{id: 1, name: a, labels: {{env: prod}}}}, {{id: 2, name: b}}]\n\
             users: [{{name: ana, groups: [devs]}}, {{name: bob}}]\naccess:\n{rules}"
        );
        let document: Editable = yaml::read(Path::new("f"), &text).unwrap();
        let found = shadowed(&document);
        let ready: Document<AgentFile> = yaml::read(Path::new("f"), &text).unwrap();
        assert_eq!(
            Directory::new(&ready).shadowed(),
            found,
            "in force as in the file"
        );
        found.into_iter().map(|it| (it.rule, it.by)).collect()
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

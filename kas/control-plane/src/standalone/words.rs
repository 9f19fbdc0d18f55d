//! What access rules say, in words, for whoever administers them.

use jiff::Timestamp;

use super::{
    access_as::AccessAs,
    file::{Agents, Rule},
    names::{AgentName, Name},
};
use crate::RecordSessions;

/// The parts of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleWords {
    /// `*`, names, or labels in brackets.
    pub agents: String,
    /// As in `user alice, group admins`.
    pub callers: String,
    /// As whom, without until when.
    pub access_as: String,
    /// Whether sessions are recorded, with a space before; empty where they are not.
    pub recorded: &'static str,
    /// Until when, with a space before; empty for a rule without an end.
    pub until: String,
}

impl RuleWords {
    /// As whom, whether recorded, and until when.
    #[must_use]
    pub fn access_as_until(&self) -> String {
        format!("{}{}{}", self.access_as, self.recorded, self.until)
    }

    /// The rule in one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        let (agents, callers) = (&self.agents, &self.callers);
        format!("{callers} may use {agents} as {}", self.access_as_until())
    }
}

impl Rule {
    /// What it says, at this time.
    #[must_use]
    pub fn words(&self, now: Timestamp) -> RuleWords {
        let kinds = [
            ("user", &self.users),
            ("group", &self.groups),
            ("service", &self.services),
        ];
        let callers = kinds.iter().flat_map(|(kind, names)| {
            let names = names.iter();
            names.map(move |name: &Name| format!("{kind} {}", name.as_str()))
        });
        RuleWords {
            agents: self.agents.words(),
            callers: callers.collect::<Vec<_>>().join(", "),
            access_as: self.access_as.words(),
            recorded: match self.record {
                RecordSessions::No => "",
                RecordSessions::Yes => " recorded",
                RecordSessions::Required => " recorded (required)",
            },
            until: self
                .expires_at
                .map(|end| until(end, now))
                .unwrap_or_default(),
        }
    }
}

impl Agents {
    fn words(&self) -> String {
        match self {
            Self::All => "*".to_owned(),
            Self::Named(names) => {
                let names: Vec<_> = names.iter().map(AgentName::as_str).collect();
                names.join(",")
            }
            Self::Labelled(labels) => {
                let labels = labels.iter();
                let labels =
                    labels.map(|(key, value)| format!("{}={}", key.as_str(), value.as_str()));
                format!("[{}]", labels.collect::<Vec<_>>().join(","))
            }
        }
    }
}

impl AccessAs {
    fn words(&self) -> String {
        match self {
            Self::Impersonate(whom) if whom.groups.is_empty() => whom.username.clone(),
            Self::Impersonate(whom) => format!("{} ({})", whom.username, whom.groups.join(",")),
            Self::Agent | Self::User | Self::CiJob => self.name().to_owned(),
        }
    }
}

fn until(end: Timestamp, now: Timestamp) -> String {
    match end <= now {
        true => format!(" until {end} (over)"),
        false => format!(" until {end}"),
    }
}

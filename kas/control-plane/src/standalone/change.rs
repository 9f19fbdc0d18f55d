//! The changes that commands make to the file's document. Pure: tokens and time are arguments.

use std::{collections::BTreeMap, time::Duration};

use jiff::Timestamp;

use super::{
    edit::EditError,
    file::{AgentEntry, Agents, CallerEntry, Document, Rule},
    issuers::Callers,
    names::{AgentName, LabelText, Name, NameError},
    receptive::ReceptiveEntry,
    tokens::{self, TokenEntry},
};
use runtime::yaml::{Spanned, nearest};

/// Why a change cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum ChangeError {
    /// The name is not one.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The name is in use.
    #[error("{kind} {name} exists already: use rotate-token for another token")]
    Exists {
        /// agent, user or service.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// The number is in use.
    #[error("the agent id {id} is taken by agent {name}: choose another --id, or none")]
    IdTaken {
        /// The number.
        id: i64,
        /// Whose it is.
        name: String,
    },
    /// The number is no id.
    #[error("--id must be above 0")]
    BadId,
    /// There is nothing of that name.
    #[error("there is no {kind} {name}{hint}")]
    Missing {
        /// agent, user or service.
        kind: &'static str,
        /// The name.
        name: String,
        /// A similar name, or what to do.
        hint: String,
    },
    /// It is one agent's name and another one's number.
    #[error(
        "{name} is the name of the agent with the number {id} and the number of agent {other}: give the first one another \
         name in the file"
    )]
    NameOrNumber {
        /// The name.
        name: String,
        /// The number of the agent with this name.
        id: i64,
        /// The name of the agent with this number.
        other: String,
    },
    /// There is no such rule.
    #[error("there is no access rule {number}: `kas access list` shows 1 to {count}")]
    NoRule {
        /// The number asked for.
        number: usize,
        /// How many there are.
        count: usize,
    },
    /// It needs a token when it is dialled.
    #[error(
        "kas dials agent {name}, which cannot join: give it the token that `kas agent rotate-token {name}` prints"
    )]
    DialledAgentJoins {
        /// The agent's name.
        name: String,
    },
    /// It has as many tokens as an agent may have.
    #[error(
        "agent {name} has two tokens already, and joining makes another: `kas agent revoke {name}` takes them away"
    )]
    NoRoomToJoin {
        /// The agent's name.
        name: String,
    },
    /// The file could not be changed.
    #[error(transparent)]
    Edit(#[from] EditError),
}

/// The two sorts of callers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerKind {
    /// People.
    User,
    /// Services, whose tokens are used like those of CI jobs.
    Service,
}

impl CallerKind {
    /// Its name in messages.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Service => "service",
        }
    }
}

impl<C> Document<C> {
    /// Adds an agent and returns its number: the given one, or one above all others. Without a token it cannot
    /// connect before it has joined.
    pub fn create_agent(
        &mut self,
        name: &str,
        id: Option<i64>,
        token: impl Into<Option<TokenEntry>>,
    ) -> Result<i64, ChangeError> {
        let name = AgentName::of_new_agent(name)?;
        if self.agents.iter().any(|it| it.value.name == name) {
            return Err(ChangeError::Exists {
                kind: "agent",
                name: name.into(),
            });
        }
        let id = self.free_id(id)?;
        self.agents.push(unplaced(AgentEntry {
            id,
            name,
            project: None,
            labels: BTreeMap::new(),
            tokens: token.into().into_iter().collect(),
            join_tokens: Vec::new(),
            receptive: None,
            config: None,
        }));
        Ok(id)
    }

    /// Has an agent dialled from now on.
    pub fn receive_agent(
        &mut self,
        name: &str,
        receptive: ReceptiveEntry,
    ) -> Result<(), ChangeError> {
        let at = self.agent_index(name)?;
        self.agents[at].value.receptive = Some(receptive);
        Ok(())
    }

    /// Gives an agent these labels, and takes others away.
    pub fn label_agent(
        &mut self,
        name: &str,
        set: BTreeMap<LabelText, LabelText>,
        remove: &[LabelText],
    ) -> Result<(), ChangeError> {
        let at = self.agent_index(name)?;
        let labels = &mut self.agents[at].value.labels;
        labels.retain(|key, _| !remove.contains(key));
        labels.extend(set);
        Ok(())
    }

    fn free_id(&self, wanted: Option<i64>) -> Result<i64, ChangeError> {
        let Some(id) = wanted else {
            let highest = self.agents.iter().map(|it| it.value.id).max();
            return Ok(highest.unwrap_or(0) + 1);
        };
        if id <= 0 {
            return Err(ChangeError::BadId);
        }
        match self.agents.iter().find(|it| it.value.id == id) {
            None => Ok(id),
            Some(other) => Err(ChangeError::IdTaken {
                id,
                name: other.value.name.as_str().to_owned(),
            }),
        }
    }

    /// The agent of a name.
    pub fn agent(&self, name: &str) -> Result<&AgentEntry<C>, ChangeError> {
        let at = self.agent_index(name)?;
        Ok(&self.agents[at].value)
    }

    pub(super) fn agent_mut(&mut self, name: &str) -> Result<&mut AgentEntry<C>, ChangeError> {
        let at = self.agent_index(name)?;
        Ok(&mut self.agents[at].value)
    }

    fn agent_index(&self, name: &str) -> Result<usize, ChangeError> {
        let names = self.agents.iter().map(|it| it.value.name.as_str());
        let found = names.clone().position(|it| it == name);
        let at = found.ok_or_else(|| missing("agent", name, names))?;
        self.check_name_is_no_number(&self.agents[at].value)?;
        Ok(at)
    }

    /// Refuses an agent whose name is another one's number: old files may have such.
    fn check_name_is_no_number(&self, agent: &AgentEntry<C>) -> Result<(), ChangeError> {
        let Ok(number) = agent.name.as_str().parse::<i64>() else {
            return Ok(());
        };
        let mut others = self.agents.iter().map(|it| &it.value);
        match others.find(|it| it.id == number && it.id != agent.id) {
            None => Ok(()),
            Some(other) => Err(ChangeError::NameOrNumber {
                name: agent.name.as_str().to_owned(),
                id: agent.id,
                other: other.name.as_str().to_owned(),
            }),
        }
    }

    /// Gives an agent a new token; returns how many old ones ended at once.
    pub fn rotate_agent(
        &mut self,
        name: &str,
        token: TokenEntry,
        grace: Duration,
        now: Timestamp,
    ) -> Result<usize, ChangeError> {
        let at = self.agent_index(name)?;
        let tokens = &mut self.agents[at].value.tokens;
        Ok(tokens::rotate(tokens, token, grace, now))
    }

    /// Takes all tokens from an agent, which stays known, and all join tokens; returns how many tokens.
    pub fn revoke_agent(&mut self, name: &str) -> Result<usize, ChangeError> {
        let agent = self.agent_mut(name)?;
        agent.join_tokens.clear();
        Ok(std::mem::take(&mut agent.tokens).len())
    }

    /// The users, or the services.
    #[must_use]
    pub fn callers(&self, kind: CallerKind) -> &[Spanned<CallerEntry>] {
        match kind {
            CallerKind::User => &self.users,
            CallerKind::Service => &self.services,
        }
    }

    fn callers_mut(&mut self, kind: CallerKind) -> &mut Vec<Spanned<CallerEntry>> {
        match kind {
            CallerKind::User => &mut self.users,
            CallerKind::Service => &mut self.services,
        }
    }

    /// Adds a user or service.
    pub fn create_caller(
        &mut self,
        kind: CallerKind,
        name: &str,
        groups: &[String],
        token: TokenEntry,
    ) -> Result<(), ChangeError> {
        let name = Name::try_from(name.to_owned())?;
        let groups = names(groups)?;
        let callers = self.callers_mut(kind);
        if callers.iter().any(|it| it.value.name == name) {
            return Err(ChangeError::Exists {
                kind: kind.name(),
                name: name.into(),
            });
        }
        callers.push(unplaced(CallerEntry {
            name,
            groups,
            tokens: vec![token],
        }));
        Ok(())
    }

    /// The user or service of a name.
    pub fn caller(&self, kind: CallerKind, name: &str) -> Result<&CallerEntry, ChangeError> {
        let at = self.caller_index(kind, name)?;
        Ok(&self.callers(kind)[at].value)
    }

    fn caller_index(&self, kind: CallerKind, name: &str) -> Result<usize, ChangeError> {
        let names = self.callers(kind).iter().map(|it| it.value.name.as_str());
        names
            .clone()
            .position(|it| it == name)
            .ok_or_else(|| missing(kind.name(), name, names))
    }

    /// Gives a user or service a new token; returns how many old ones ended at once.
    pub fn rotate_caller(
        &mut self,
        kind: CallerKind,
        name: &str,
        token: TokenEntry,
        grace: Duration,
        now: Timestamp,
    ) -> Result<usize, ChangeError> {
        let at = self.caller_index(kind, name)?;
        let tokens = &mut self.callers_mut(kind)[at].value.tokens;
        Ok(tokens::rotate(tokens, token, grace, now))
    }

    /// Takes all tokens from a user or service, which stays known; returns how many.
    pub fn revoke_caller(&mut self, kind: CallerKind, name: &str) -> Result<usize, ChangeError> {
        let at = self.caller_index(kind, name)?;
        Ok(std::mem::take(&mut self.callers_mut(kind)[at].value.tokens).len())
    }

    /// Appends an access rule and returns its number, from 1.
    pub fn grant(&mut self, rule: Rule) -> Result<usize, ChangeError> {
        if let Agents::Named(names) = &rule.agents {
            for name in names {
                self.agent_index(name.as_str())?;
            }
        }
        if !self.has_issuer_for(Callers::Users) {
            for name in &rule.users {
                self.caller_index(CallerKind::User, name.as_str())?;
            }
        }
        if !self.has_issuer_for(Callers::Services) {
            for name in &rule.services {
                self.caller_index(CallerKind::Service, name.as_str())?;
            }
        }
        self.access.push(unplaced(rule));
        Ok(self.access.len())
    }

    /// Removes the access rule of a number, from 1.
    pub fn remove_rule(&mut self, number: usize) -> Result<Rule, ChangeError> {
        let count = self.access.len();
        if number == 0 || number > count {
            return Err(ChangeError::NoRule { number, count });
        }
        Ok(self.access.remove(number - 1).value)
    }
}

/// The names of callers or groups.
pub fn names(texts: &[String]) -> Result<Vec<Name>, NameError> {
    texts.iter().cloned().map(Name::try_from).collect()
}

fn missing<'a>(
    kind: &'static str,
    name: &str,
    known: impl Iterator<Item = &'a str>,
) -> ChangeError {
    let hint = match nearest(name, known) {
        Some(near) => format!(", did you mean {near}?"),
        None => format!(": `kas {kind} list` shows those that exist"),
    };
    ChangeError::Missing {
        kind,
        name: name.to_owned(),
        hint,
    }
}

fn unplaced<T>(value: T) -> Spanned<T> {
    let nowhere = serde_saphyr::Location::UNKNOWN;
    Spanned::new(value, nowhere, nowhere)
}

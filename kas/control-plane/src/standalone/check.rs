//! The rules of the file that span several of its entries.

use std::{
    collections::{HashMap, HashSet},
    path::Path,
};

use jiff::Timestamp;

use super::{
    access_as::AccessAs,
    file::{Agents, CallerEntry, Document, Rule},
    issuers::{Callers, IssuerEntry},
    names::Name,
    tokens::{MAX_LIVE_TOKENS, TokenEntry, live},
};
use runtime::yaml::{Spanned, YamlError, nearest};

use crate::TokenHash;

/// Refuses a document that contradicts itself, naming the first place where it does.
pub(super) fn check<C>(
    file: &Path,
    document: &Document<C>,
    now: Timestamp,
) -> Result<(), YamlError> {
    let checker = Checker { file, now };
    checker.agents(document)?;
    checker.callers("user", &document.users)?;
    checker.callers("service", &document.services)?;
    checker.token_owners(document)?;
    checker.issuers(&document.issuers)?;
    let known = Known::of(document);
    let mut rules = document.access.iter();
    rules.try_for_each(|rule| checker.rule(rule, document, &known))
}

/// All that rules may name: there may be as many rules as agents.
struct Known<'a> {
    agents: HashSet<&'a str>,
    users: HashSet<&'a str>,
    services: HashSet<&'a str>,
}

impl<'a> Known<'a> {
    fn of<C>(document: &'a Document<C>) -> Self {
        let callers = |all: &'a [Spanned<CallerEntry>]| -> HashSet<&'a str> {
            all.iter().map(|it| it.value.name.as_str()).collect()
        };
        let agents = document.agents.iter();
        Self {
            agents: agents.map(|it| it.value.name.as_str()).collect(),
            users: callers(&document.users),
            services: callers(&document.services),
        }
    }
}

struct Checker<'a> {
    file: &'a Path,
    now: Timestamp,
}

impl Checker<'_> {
    fn agents<C>(&self, document: &Document<C>) -> Result<(), YamlError> {
        let mut ids = HashMap::new();
        let mut names = HashMap::new();
        for entry in &document.agents {
            let agent = &entry.value;
            if agent.id <= 0 {
                return Err(self.at(
                    entry,
                    format!("the id of agent {} must be above 0", agent.name.as_str()),
                ));
            }
            if let Some(line) = ids.insert(agent.id, entry.referenced.line()) {
                return Err(self.at(
                    entry,
                    format!("the agent id {} is already used in line {line}", agent.id),
                ));
            }
            if let Some(line) = names.insert(agent.name.as_str(), entry.referenced.line()) {
                return Err(self.at(
                    entry,
                    format!(
                        "the agent name {} is already used in line {line}",
                        agent.name.as_str()
                    ),
                ));
            }
            self.tokens(entry, "agent", agent.name.as_str(), &agent.tokens)?;
            if let Some(mistake) = agent.receptive.as_ref().and_then(|it| it.mistake()) {
                let name = agent.name.as_str();
                return Err(self.at(entry, format!("receptive of agent {name}: {mistake}")));
            }
        }
        Ok(())
    }

    fn callers(&self, kind: &str, callers: &[Spanned<CallerEntry>]) -> Result<(), YamlError> {
        let mut names = HashMap::new();
        for entry in callers {
            let name = entry.value.name.as_str();
            if let Some(line) = names.insert(name, entry.referenced.line()) {
                return Err(self.at(
                    entry,
                    format!("the {kind} name {name} is already used in line {line}"),
                ));
            }
            self.tokens(entry, kind, name, &entry.value.tokens)?;
        }
        Ok(())
    }

    fn tokens<T>(
        &self,
        entry: &Spanned<T>,
        kind: &str,
        name: &str,
        tokens: &[TokenEntry],
    ) -> Result<(), YamlError> {
        let live = live(tokens, self.now);
        if live > MAX_LIVE_TOKENS {
            return Err(self.at(
                entry,
                format!(
                    "{kind} {name} has {live} live tokens, at most {MAX_LIVE_TOKENS} are allowed: \
                     remove one or give it an expires_at"
                ),
            ));
        }
        Ok(())
    }

    /// No token may belong to two owners, or it would be chance whose it is.
    fn token_owners<C>(&self, document: &Document<C>) -> Result<(), YamlError> {
        fn tokens<'t, T>(
            entry: &'t Spanned<T>,
            tokens: &'t [TokenEntry],
        ) -> impl Iterator<Item = (Spanned<()>, TokenHash)> + use<'t, T> {
            tokens.iter().map(|it| (without_value(entry), it.hash))
        }
        let agents = document.agents.iter();
        let callers = document.users.iter().chain(&document.services);
        let joining = agents.clone().flat_map(|entry| {
            let joining = entry.value.join_tokens.iter();
            joining.map(|it| (without_value(entry), it.hash))
        });
        let owned = agents
            .flat_map(|entry| tokens(entry, &entry.value.tokens))
            .chain(callers.flat_map(|entry| tokens(entry, &entry.value.tokens)))
            .chain(joining);
        let mut seen: HashMap<TokenHash, u64> = HashMap::new();
        for (entry, hash) in owned {
            if let Some(line) = seen.insert(hash, entry.referenced.line()) {
                return Err(self.at(
                    &entry,
                    format!("a token here is the same as one of line {line}"),
                ));
            }
        }
        Ok(())
    }

    fn issuers(&self, issuers: &[Spanned<IssuerEntry>]) -> Result<(), YamlError> {
        for (at, entry) in issuers.iter().enumerate() {
            let name = &entry.value.issuer;
            if let Some(mistake) = entry.value.mistake() {
                return Err(self.at(entry, format!("issuer {name}: {mistake}")));
            }
            for other in &issuers[..at] {
                if let Some(key) = entry.value.collides_with(&other.value) {
                    let line = other.referenced.line();
                    return Err(self.at(
                        entry,
                        format!(
                            "issuer {name} could give the same names as the issuer of line {line}: give each a \
                             {key} with which none of the other's begins"
                        ),
                    ));
                }
            }
        }
        Ok(())
    }

    fn rule<C>(
        &self,
        entry: &Spanned<Rule>,
        document: &Document<C>,
        known: &Known<'_>,
    ) -> Result<(), YamlError> {
        let rule = &entry.value;
        if let Agents::Named(names) = &rule.agents {
            for name in names {
                self.known(entry, "agent", name.as_str(), &known.agents)?;
            }
        }
        // Whom an issuer knows is not for the file to say.
        if !document.has_issuer_for(Callers::Users) {
            self.known_callers(entry, "user", &rule.users, &known.users)?;
        }
        if !document.has_issuer_for(Callers::Services) {
            self.known_callers(entry, "service", &rule.services, &known.services)?;
        }
        if rule.users.is_empty() && rule.services.is_empty() && rule.groups.is_empty() {
            return Err(self.at(
                entry,
                "the rule is for nobody: give it users, groups or services",
            ));
        }
        self.access_as(entry)
    }

    fn known_callers(
        &self,
        entry: &Spanned<Rule>,
        kind: &str,
        names: &[Name],
        known: &HashSet<&str>,
    ) -> Result<(), YamlError> {
        names
            .iter()
            .try_for_each(|name| self.known(entry, kind, name.as_str(), known))
    }

    fn known(
        &self,
        entry: &Spanned<Rule>,
        kind: &str,
        name: &str,
        known: &HashSet<&str>,
    ) -> Result<(), YamlError> {
        if known.contains(name) {
            return Ok(());
        }
        // The same one each time, of those that are as near.
        let mut known: Vec<_> = known.iter().copied().collect();
        known.sort_unstable();
        let hint = nearest(name, known).map(|near| format!(", did you mean {near}?"));
        Err(self.at(
            entry,
            format!(
                "the rule names the {kind} {name}, which does not exist{}",
                hint.unwrap_or_default()
            ),
        ))
    }

    fn access_as(&self, entry: &Spanned<Rule>) -> Result<(), YamlError> {
        match &entry.value.access_as {
            AccessAs::User if !entry.value.services.is_empty() => {
                Err(self.at(entry, "a rule with services cannot have access_as: user, use ci_job, agent or impersonate"))
            }
            AccessAs::CiJob if !entry.value.users.is_empty() => {
                Err(self.at(entry, "a rule with users cannot have access_as: ci_job, use user, agent or impersonate"))
            }
            AccessAs::Impersonate(whom) if whom.username.is_empty() => {
                Err(self.at(entry, "impersonate needs a username that is not empty"))
            }
            AccessAs::Impersonate(whom) if whom.groups.iter().any(String::is_empty) => {
                Err(self.at(entry, "impersonate has an empty group"))
            }
            AccessAs::Impersonate(whom)
                if whom.extra.iter().any(|it| it.key.is_empty() || it.val.is_empty()) =>
            {
                Err(self.at(entry, "impersonate has an extra without key or values"))
            }
            AccessAs::Agent | AccessAs::User | AccessAs::CiJob | AccessAs::Impersonate(_) => Ok(()),
        }
    }

    fn at<T>(&self, entry: &Spanned<T>, message: impl Into<String>) -> YamlError {
        YamlError::at(self.file, entry, message)
    }
}

fn without_value<T>(entry: &Spanned<T>) -> Spanned<()> {
    Spanned::new((), entry.referenced, entry.defined)
}

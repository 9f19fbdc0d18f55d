//! The file, made ready for questions. Pure: time is an argument.

use std::{
    collections::BTreeMap,
    sync::{Arc, OnceLock},
};

use cluster_state::AgentId;
use foldhash::{HashMap, HashSet};
use jiff::Timestamp;
use prost::Message;
use sha2::{Digest, Sha256};

use super::{
    caller::Caller,
    file::{AgentEntry, Agents, CallerEntry, Document, Rule},
    issuers::IssuerEntry,
    join_tokens::JoinTokenEntry,
    names::{AgentName, LabelText, Name},
    shadow::{self, Known, Shadowed},
    tokens::TokenEntry,
};
use crate::{
    Access, AgentConfigurationVersion, AgentInfo, AuthError, Basis, DenyReason, Identity,
    IdentityKind, ReceptiveAgent, TokenHash, agent_file::AgentFile,
};

/// How callers proved who they are who have a token of the file, as GitLab's kas names it.
const ACCESS_TYPE: &str = "personal_access_token";

/// All that one state of the file says.
#[derive(Debug, Default)]
pub struct Directory {
    agents: BTreeMap<AgentId, Agent>,
    agent_tokens: HashMap<TokenHash, (AgentId, Option<Timestamp>)>,
    join_tokens: HashMap<TokenHash, (AgentId, JoinTokenEntry)>,
    caller_tokens: HashMap<TokenHash, (Arc<Caller>, Option<Timestamp>)>,
    /// By name, for those who prove who they are elsewhere.
    callers: HashMap<Identity, Arc<Caller>>,
    issuers: Vec<IssuerEntry>,
    rules: Vec<CompiledRule>,
    receptive: Vec<ReceptiveAgent>,
    ends: Vec<Timestamp>,
    /// Found out when somebody asks.
    shadowed: OnceLock<Vec<Shadowed>>,
}

#[derive(Debug)]
struct Agent {
    info: Arc<AgentInfo>,
    configuration: Arc<AgentConfigurationVersion>,
    labels: Labels,
}

type Labels = BTreeMap<LabelText, LabelText>;

#[derive(Debug)]
struct CompiledRule {
    agents: Chosen,
    users: HashSet<String>,
    services: HashSet<String>,
    groups: HashSet<String>,
    /// What it is called where somebody was let in by it.
    label: Arc<str>,
    /// As it is written.
    rule: Rule,
    /// The line where it begins.
    line: u64,
}

#[derive(Debug)]
enum Chosen {
    All,
    Named(HashSet<String>),
    Labelled(Labels),
}

/// What a rule says to somebody who wants to use an agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleVerdict {
    /// It is for both.
    Matches,
    /// It is over.
    Expired,
    /// It is for other agents.
    OtherAgents,
    /// It is for other users, services and groups.
    OtherCallers,
    /// It is for them, but a user cannot appear as a job, nor a service as a user.
    OtherKind,
}

impl Directory {
    /// Makes a checked document ready.
    #[must_use]
    pub fn new(document: &Document<AgentFile>) -> Self {
        let mut directory = Self::default();
        for agent in &document.agents {
            directory.add_agent(&agent.value);
        }
        for user in &document.users {
            directory.add_caller(IdentityKind::User, &user.value);
        }
        for service in &document.services {
            directory.add_caller(IdentityKind::CiJob, &service.value);
        }
        let rules = document.access.iter();
        let rules = rules.enumerate();
        let rules = rules
            .map(|(number, rule)| CompiledRule::new(number, &rule.value, rule.referenced.line()));
        directory.rules = rules.collect();
        let ends = directory
            .rules
            .iter()
            .filter_map(|rule| rule.rule.expires_at);
        directory.ends.extend(ends);
        let issuers = document.issuers.iter();
        directory.issuers = issuers.map(|it| it.value.clone()).collect();
        directory.ends.sort();
        directory
    }

    /// The agent of a token.
    pub fn agent_by_token(
        &self,
        token: &TokenHash,
        now: Timestamp,
    ) -> Result<Arc<AgentInfo>, AuthError> {
        let (id, end) = self
            .agent_tokens
            .get(token)
            .ok_or(AuthError::UnknownToken)?;
        let agent = self.agent(*id).ok_or(AuthError::UnknownToken)?;
        if is_over(*end, now) {
            return Err(AuthError::Expired {
                agent: agent.name.clone(),
            });
        }
        Ok(agent)
    }

    /// The agent whose token this is, though it may have expired.
    #[must_use]
    pub fn token_owner(&self, token: &TokenHash) -> Option<AgentId> {
        self.agent_tokens.get(token).map(|(agent, _)| *agent)
    }

    /// A join token, and the agent that it is for.
    #[must_use]
    pub(super) fn join_token(&self, token: &TokenHash) -> Option<&(AgentId, JoinTokenEntry)> {
        self.join_tokens.get(token)
    }

    /// The agents' tokens that another state of the file does not have.
    pub fn tokens_missing_in<'a>(
        &'a self,
        other: &'a Self,
    ) -> impl Iterator<Item = (TokenHash, AgentId)> + 'a {
        let all = self.agent_tokens.iter();
        let gone = all.filter(|(token, _)| !other.agent_tokens.contains_key(token));
        gone.map(|(token, (agent, _))| (*token, *agent))
    }

    /// The agent of a number.
    #[must_use]
    pub fn agent(&self, id: AgentId) -> Option<Arc<AgentInfo>> {
        self.agents.get(&id).map(|agent| agent.info.clone())
    }

    /// All agents, by number.
    pub fn agents(&self) -> impl Iterator<Item = &Arc<AgentInfo>> {
        self.agents.values().map(|agent| &agent.info)
    }

    /// All configurations, by agent.
    pub fn configurations(
        &self,
    ) -> impl Iterator<Item = (AgentId, &Arc<AgentConfigurationVersion>)> {
        self.agents
            .iter()
            .map(|(id, agent)| (*id, &agent.configuration))
    }

    /// The agents that wait to be dialled.
    #[must_use]
    pub fn receptive(&self) -> &[ReceptiveAgent] {
        &self.receptive
    }

    /// Whether the owner of a token may use an agent, by the first rule that matches.
    pub fn authorize(
        &self,
        kind: IdentityKind,
        token: &TokenHash,
        agent: AgentId,
        now: Timestamp,
    ) -> Result<Access, DenyReason> {
        self.permit(self.caller(kind, token, now)?, agent, now)
    }

    /// Whether a caller may use an agent, by the first rule that matches.
    pub fn permit(
        &self,
        caller: &Caller,
        agent: AgentId,
        now: Timestamp,
    ) -> Result<Access, DenyReason> {
        let known = self.agents.get(&agent);
        let known = known.ok_or(DenyReason::UnknownAgent { agent })?;
        let agent = known.info.clone();
        let rule = self
            .rules
            .iter()
            .find(|rule| rule.verdict(caller, known, now) == RuleVerdict::Matches)
            .ok_or_else(|| DenyReason::NotAllowed {
                who: caller.identity.clone(),
                agent: agent.name.clone(),
            })?;
        let impersonation = rule.rule.access_as.impersonation(caller, &agent);
        Ok(Access {
            agent,
            identity: caller.identity.clone(),
            user_id: 0,
            impersonation,
            basis: Basis {
                issuer: caller.issuer.clone(),
                rule: Some(rule.label.clone()),
                record: rule.rule.record,
            },
        })
    }

    /// The agents that a caller may use, by number.
    #[must_use]
    pub fn permitted(&self, caller: &Caller, now: Timestamp) -> Vec<Arc<AgentInfo>> {
        let may_use = |agent: &&Agent| {
            let mut rules = self.rules.iter();
            rules.any(|rule| rule.verdict(caller, agent, now) == RuleVerdict::Matches)
        };
        let agents = self.agents.values().filter(may_use);
        agents.map(|agent| agent.info.clone()).collect()
    }

    /// What each rule says to a caller who wants to use an agent, in order; the first that matches decides. `None`
    /// where there is no such agent.
    #[must_use]
    pub fn verdicts(
        &self,
        caller: &Caller,
        agent: AgentId,
        now: Timestamp,
    ) -> Option<Vec<RuleVerdict>> {
        let agent = self.agents.get(&agent)?;
        let rules = self.rules.iter();
        Some(rules.map(|rule| rule.verdict(caller, agent, now)).collect())
    }

    /// The first rule that is for a caller and an agent, by its place.
    #[must_use]
    pub fn deciding_rule(&self, caller: &Caller, agent: AgentId, now: Timestamp) -> Option<usize> {
        let agent = self.agents.get(&agent)?;
        let mut rules = self.rules.iter();
        rules.position(|rule| rule.verdict(caller, agent, now) == RuleVerdict::Matches)
    }

    /// The rules, in order of evaluation.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &Rule> {
        self.rules.iter().map(|it| &it.rule)
    }

    /// The places of the rules that are for an agent, whoever asks.
    pub fn rules_for(&self, agent: AgentId) -> Vec<usize> {
        let Some(agent) = self.agents.get(&agent) else {
            return Vec::new();
        };
        let rules = self.rules.iter().enumerate();
        let fitting = rules.filter(|(_, rule)| rule.agents.has(agent));
        fitting.map(|(at, _)| at).collect()
    }

    /// The users and services that the file lists.
    pub fn callers(&self) -> impl Iterator<Item = &Caller> {
        self.callers.values().map(|it| &**it)
    }

    /// The rules that never decide. The first to ask compares all of them with each other: not for async code.
    pub fn shadowed(&self) -> &[Shadowed] {
        self.shadowed.get_or_init(|| {
            let agents = self.agents.values();
            let known = Names {
                callers: &self.callers,
                labels: agents
                    .map(|it| (it.info.name.as_str(), &it.labels))
                    .collect(),
            };
            let rules: Vec<_> = self.rules.iter().map(|it| (&it.rule, it.line)).collect();
            shadow::among(&known, &rules)
        })
    }

    /// The issuers whose tokens are taken.
    #[must_use]
    pub fn issuers(&self) -> &[IssuerEntry] {
        &self.issuers
    }

    /// A caller of an issuer, with the groups that the file gives who has this name.
    #[must_use]
    pub fn with_own_groups(&self, mut caller: Caller) -> Caller {
        if let Some(own) = self.callers.get(&caller.identity) {
            let more = own.groups.iter();
            let more: Vec<_> = more
                .filter(|it| !caller.groups.contains(it))
                .cloned()
                .collect();
            caller.groups.extend(more);
        }
        caller
    }

    /// Who a caller's token belongs to.
    pub fn identity(&self, token: &TokenHash, now: Timestamp) -> Option<&Identity> {
        let (caller, end) = self.caller_tokens.get(token)?;
        (!is_over(*end, now)).then_some(&caller.identity)
    }

    /// Whether a token ended after `from`, and not after `to`.
    #[must_use]
    pub fn any_token_expired(&self, from: Timestamp, to: Timestamp) -> bool {
        let first = self.ends.partition_point(|end| *end <= from);
        self.ends.get(first).is_some_and(|end| *end <= to)
    }

    /// The user or service of a token.
    pub(super) fn caller(
        &self,
        kind: IdentityKind,
        token: &TokenHash,
        now: Timestamp,
    ) -> Result<&Caller, DenyReason> {
        let (caller, end) = self
            .caller_tokens
            .get(token)
            .filter(|(caller, _)| caller.identity.kind == kind)
            .ok_or(DenyReason::BadToken)?;
        if is_over(*end, now) {
            return Err(DenyReason::Expired {
                who: caller.identity.to_string(),
            });
        }
        Ok(caller)
    }

    fn add_agent(&mut self, entry: &AgentEntry<AgentFile>) {
        let info = info(entry);
        let id = info.id;
        let configuration = configuration(&info, entry.config.as_ref());
        let receptive = entry.receptive.as_ref();
        self.receptive.extend(receptive.and_then(|it| it.agent(id)));
        self.note_ends(&entry.tokens);
        let tokens = entry.tokens.iter();
        self.agent_tokens
            .extend(tokens.map(|token| (token.hash, (id, token.expires_at))));
        let joining = entry.join_tokens.iter();
        self.join_tokens
            .extend(joining.map(|token| (token.hash, (id, token.clone()))));
        self.agents.insert(
            id,
            Agent {
                info: Arc::new(info),
                configuration: Arc::new(configuration),
                labels: entry.labels.clone(),
            },
        );
    }

    fn add_caller(&mut self, kind: IdentityKind, entry: &CallerEntry) {
        let name = entry.name.as_str().to_owned();
        let caller = Arc::new(Caller {
            identity: Identity { kind, name },
            groups: texts(&entry.groups),
            access_type: ACCESS_TYPE,
            issuer: None,
        });
        self.callers.insert(caller.identity.clone(), caller.clone());
        self.note_ends(&entry.tokens);
        let tokens = entry.tokens.iter();
        self.caller_tokens
            .extend(tokens.map(|token| (token.hash, (caller.clone(), token.expires_at))));
    }

    fn note_ends(&mut self, tokens: &[TokenEntry]) {
        self.ends
            .extend(tokens.iter().filter_map(|token| token.expires_at));
    }
}

/// Whom and what rules name, as far as the file tells more.
struct Names<'a> {
    callers: &'a HashMap<Identity, Arc<Caller>>,
    labels: HashMap<&'a str, &'a Labels>,
}

impl Known for Names<'_> {
    fn labels(&self, agent: &AgentName) -> Option<&Labels> {
        self.labels.get(agent.as_str()).copied()
    }

    fn is_in_any(&self, kind: IdentityKind, name: &Name, groups: &[Name]) -> bool {
        let name = name.as_str().to_owned();
        let own = self.callers.get(&Identity { kind, name });
        own.is_some_and(|it| {
            let mut own = it.groups.iter();
            own.any(|own| groups.iter().any(|it| it.as_str() == own))
        })
    }
}

impl CompiledRule {
    fn new(number: usize, rule: &Rule, line: u64) -> Self {
        let set = |names: &[Name]| texts(names).into_iter().collect();
        Self {
            agents: match &rule.agents {
                Agents::All => Chosen::All,
                Agents::Named(names) => {
                    Chosen::Named(names.iter().map(|name| name.as_str().to_owned()).collect())
                }
                Agents::Labelled(labels) => Chosen::Labelled(labels.clone()),
            },
            users: set(&rule.users),
            services: set(&rule.services),
            groups: set(&rule.groups),
            label: Rule::path(number).into(),
            rule: rule.clone(),
            line,
        }
    }

    fn verdict(&self, caller: &Caller, agent: &Agent, now: Timestamp) -> RuleVerdict {
        let named = match caller.identity.kind {
            IdentityKind::User => &self.users,
            IdentityKind::CiJob => &self.services,
        };
        let is_caller = || {
            named.contains(&caller.identity.name)
                || caller
                    .groups
                    .iter()
                    .any(|group| self.groups.contains(group))
        };
        if !self.agents.has(agent) {
            RuleVerdict::OtherAgents
        } else if !is_caller() {
            RuleVerdict::OtherCallers
        } else if !self.rule.access_as.fits(caller.identity.kind) {
            RuleVerdict::OtherKind
        } else if is_over(self.rule.expires_at, now) {
            RuleVerdict::Expired
        } else {
            RuleVerdict::Matches
        }
    }
}

impl Chosen {
    fn has(&self, agent: &Agent) -> bool {
        match self {
            Self::All => true,
            Self::Named(names) => names.contains(&agent.info.name),
            Self::Labelled(labels) => {
                let mut labels = labels.iter();
                labels.all(|(key, value)| agent.labels.get(key) == Some(value))
            }
        }
    }
}

fn is_over(end: Option<Timestamp>, now: Timestamp) -> bool {
    end.is_some_and(|end| end <= now)
}

fn texts(names: &[Name]) -> Vec<String> {
    names.iter().map(|name| name.as_str().to_owned()).collect()
}

fn info(entry: &AgentEntry<AgentFile>) -> AgentInfo {
    let project = entry.project.as_ref();
    AgentInfo {
        id: AgentId(entry.id),
        name: entry.name.as_str().to_owned(),
        project_id: project.map_or(0, |it| it.id),
        project_path: project.map(|it| it.path.clone()).unwrap_or_default(),
        default_branch: project
            .and_then(|it| it.default_branch.clone())
            .unwrap_or_default(),
    }
}

fn configuration(info: &AgentInfo, file: Option<&AgentFile>) -> AgentConfigurationVersion {
    let mut configuration = file.map(AgentFile::to_message).unwrap_or_default();
    configuration.agent_id = info.id.0;
    configuration.project_id = info.project_id;
    configuration.project_path = info.project_path.clone();
    let digest = Sha256::digest(configuration.encode_to_vec());
    AgentConfigurationVersion {
        commit_id: hex::encode(&digest[..20]),
        configuration,
    }
}

#[cfg(test)]
mod tests;

//! Who may use which agent and as whom, as the control plane decides it.

use std::collections::BTreeMap;

use cluster_state::AgentId;
use control_plane::{
    AgentInfo, IdentityKind, RecordSessions,
    standalone::{
        Directory, caller::Caller, explain::AccessExplanation, file::Rule, words::RuleWords,
    },
};
use jiff::Timestamp;

use super::{Admin, find, reference};
use crate::{
    Failure,
    coverage::complete,
    replica::count,
    v1::{
        AccessAnswer, AccessCell, AccessMatrix, AccessRow, AccessRule, AgentAccess, AgentReference,
        GetAccessRequest, GetAgentAccessRequest, RuleVerdict,
    },
};

/// Who decides where a file is the control plane, and in which words.
const FILE: (&str, &str) = (
    "standalone",
    "The first rule of the file that is for both the caller and the cluster decides.",
);
/// The same where a GitLab is.
const GITLAB: (&str, &str) = (
    "gitlab",
    "GitLab decides: by `ci_access` and `user_access` in the configuration file of each agent, and by the roles that \
     people and jobs have in the projects and groups that are named there. kas asks GitLab and has no rules of its own, \
     so there is nothing to show here: look at the agent's configuration file.",
);
/// Rules of an answer.
const MAX_RULES: usize = 500;
/// Columns of the matrix.
const MAX_AGENTS: usize = 20;
/// Rows of the matrix.
const MAX_ROWS: usize = 100;
/// Bytes of a rule's agents, callers or identity.
const MAX_WORDS_BYTES: usize = 512;
/// Bytes of a name in a question.
const MAX_NAME_BYTES: usize = 1024;
/// Groups in a question.
const MAX_GROUPS: usize = 100;

/// About whom is asked.
#[derive(Debug)]
struct Wanted {
    kind: IdentityKind,
    name: String,
    groups: Vec<String>,
}

/// A row of the matrix before it is filled.
type Subject = (Kind, String);

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Kind {
    User,
    Service,
    Group,
}

impl Admin {
    /// Who may use an agent and as whom; and why somebody may or may not, if anybody is named.
    ///
    /// # Errors
    /// When there is no such agent, or the question is not understood.
    pub async fn agent_access(
        &self,
        asked: &GetAgentAccessRequest,
    ) -> Result<AgentAccess, Failure> {
        let wanted = Wanted::of(asked)?;
        let fleet = self.fleet.snapshot().await;
        let agent = reference(find(&fleet, &asked.agent)?);
        let id = AgentId(agent.id);
        let told = match &self.sources.standalone {
            None => by(GITLAB),
            Some(standalone) => {
                let directory = standalone.directory();
                blocking(move || of_agent(&directory, id, wanted)).await?
            }
        };
        Ok(AgentAccess {
            agent: Some(agent),
            coverage: Some(complete(&self.sources.me.replica)),
            ..told
        })
    }

    /// Who may use which agents, and all rules.
    ///
    /// # Errors
    /// When the question is not understood.
    pub async fn access(&self, asked: &GetAccessRequest) -> Result<AccessMatrix, Failure> {
        check_length(&asked.agent)?;
        check_length(&asked.caller)?;
        let coverage = Some(complete(&self.sources.me.replica));
        let told = match &self.sources.standalone {
            None => AccessMatrix {
                decided_by: GITLAB.0.to_owned(),
                explanation: GITLAB.1.to_owned(),
                ..AccessMatrix::default()
            },
            Some(standalone) => {
                let (directory, asked) = (standalone.directory(), asked.clone());
                blocking(move || matrix(&directory, &asked)).await?
            }
        };
        Ok(AccessMatrix { coverage, ..told })
    }
}

impl Wanted {
    fn of(asked: &GetAgentAccessRequest) -> Result<Option<Self>, Failure> {
        let (kind, name) = match (&*asked.user, &*asked.service) {
            ("", "") => return Ok(None),
            (user, "") => (IdentityKind::User, user),
            ("", service) => (IdentityKind::CiJob, service),
            (_, _) => {
                let words = "name a user or a service, not both".to_owned();
                return Err(Failure::Invalid(words));
            }
        };
        check_length(name)?;
        check_length(&asked.groups)?;
        let groups = asked.groups.split(',').map(str::trim);
        let groups = groups.filter(|it| !it.is_empty()).take(MAX_GROUPS);
        Ok(Some(Self {
            kind,
            name: name.to_owned(),
            groups: groups.map(str::to_owned).collect(),
        }))
    }
}

fn check_length(name: &str) -> Result<(), Failure> {
    if name.len() > MAX_NAME_BYTES {
        let words = format!("names have up to {MAX_NAME_BYTES} bytes here");
        return Err(Failure::Invalid(words));
    }
    Ok(())
}

/// Comparing many rules takes a while.
async fn blocking<T: Send + 'static>(
    answer: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    let answer = tokio::task::spawn_blocking(answer).await;
    answer.map_err(|_| Failure::Unavailable("reading the rules failed, see the log".to_owned()))
}

fn by((decided_by, explanation): (&str, &str)) -> AgentAccess {
    AgentAccess {
        decided_by: decided_by.to_owned(),
        explanation: explanation.to_owned(),
        ..AgentAccess::default()
    }
}

fn of_agent(directory: &Directory, agent: AgentId, wanted: Option<Wanted>) -> AgentAccess {
    let now = Timestamp::now();
    let places = directory.rules_for(agent);
    let rules: Vec<_> = directory.rules().collect();
    let told = places.iter().take(MAX_RULES);
    let told = told.map(|at| rule(directory, *at, rules[*at], rules[*at].words(now), now));
    let answer = wanted.and_then(|it| {
        let caller = directory.caller_named(it.kind, &it.name, it.groups);
        let explained = directory.explain(caller, agent, now)?;
        Some(answer(directory, explained, &rules, now))
    });
    AgentAccess {
        rules: told.collect(),
        rules_total: count(places.len()),
        answer,
        ..by(FILE)
    }
}

fn answer(
    directory: &Directory,
    explained: AccessExplanation,
    rules: &[&Rule],
    now: Timestamp,
) -> AccessAnswer {
    let (decides, sentence) = (explained.rule(), explained.sentence());
    let allowed = explained.access.is_some();
    let whom = explained.access.and_then(|it| it.impersonation);
    let whom = whom.unwrap_or_default();
    let each = explained.verdicts.into_iter().zip(rules).enumerate();
    let verdicts = each.take(MAX_RULES).map(|(at, (told, its))| RuleVerdict {
        rule: Some(rule(directory, at, its, told.rule, now)),
        verdict: told.verdict.to_owned(),
    });
    AccessAnswer {
        allowed,
        who: explained.caller.identity.to_string(),
        groups: explained.caller.groups,
        rule: count(decides.unwrap_or(0)),
        cluster_user: whom.username,
        cluster_groups: whom.groups,
        sentence,
        verdicts: verdicts.collect(),
    }
}

/// The rule at a place, as it is told.
fn rule(
    directory: &Directory,
    at: usize,
    rule: &Rule,
    words: RuleWords,
    now: Timestamp,
) -> AccessRule {
    let RuleWords {
        agents,
        callers,
        access_as,
        ..
    } = words;
    let shadowed = directory.shadowed();
    let found = shadowed.binary_search_by_key(&(at + 1), |it| it.rule);
    let by = found.map_or(&[][..], |at| &shadowed[at].by);
    AccessRule {
        number: count(at + 1),
        agents: cut(agents),
        callers: cut(callers),
        access_as: cut(access_as),
        expires_at: rule.expires_at.map_or(String::new(), |it| it.to_string()),
        expired: rule.expires_at.is_some_and(|it| it <= now),
        shadowed_by: by.iter().take(MAX_RULES).map(|it| count(*it)).collect(),
        recorded: match rule.record {
            RecordSessions::No => String::new(),
            RecordSessions::Yes => "possible".to_owned(),
            RecordSessions::Required => "required".to_owned(),
        },
    }
}

fn cut(text: String) -> String {
    match text.floor_char_boundary(MAX_WORDS_BYTES) {
        whole if whole == text.len() => text,
        part => format!("{}…", &text[..part]),
    }
}

fn matrix(directory: &Directory, asked: &GetAccessRequest) -> AccessMatrix {
    let now = Timestamp::now();
    let agents = directory.agents().filter(|it| has(&it.name, &asked.agent));
    let agents: Vec<&AgentInfo> = agents.map(|it| &**it).collect();
    let subjects = subjects(directory);
    let rows = subjects
        .iter()
        .filter(|((_, name), _)| has(name, &asked.caller));
    let rows: Vec<_> = rows.collect();
    let rules: Vec<_> = directory.rules().collect();
    let columns = &agents[..agents.len().min(MAX_AGENTS)];
    let words: Vec<_> = rules.iter().map(|it| it.words(now)).collect();
    let identities: Vec<_> = words.iter().map(|it| cut(it.access_as.clone())).collect();
    let cell = |subject: &Subject, agent: &AgentInfo| {
        let decides = decides(directory, subject, agent.id, now);
        decides.map_or(AccessCell::default(), |at| AccessCell {
            rule: count(at + 1),
            access_as: identities[at].clone(),
        })
    };
    let each = rows
        .iter()
        .take(MAX_ROWS)
        .map(|(subject, groups)| AccessRow {
            kind: subject.0.word().to_owned(),
            name: subject.1.clone(),
            groups: (*groups).clone(),
            cells: columns.iter().map(|agent| cell(subject, agent)).collect(),
        });
    let told = rules.iter().zip(words).enumerate().take(MAX_RULES);
    AccessMatrix {
        decided_by: FILE.0.to_owned(),
        explanation: FILE.1.to_owned(),
        agents: columns.iter().map(|it| named(it)).collect(),
        agents_total: count(agents.len()),
        rows: each.collect(),
        rows_total: count(rows.len()),
        rules: told
            .map(|(at, (its, words))| rule(directory, at, its, words, now))
            .collect(),
        rules_total: count(rules.len()),
        coverage: None,
    }
}

fn has(name: &str, part: &str) -> bool {
    part.is_empty() || name.to_lowercase().contains(&part.to_lowercase())
}

fn named(agent: &AgentInfo) -> AgentReference {
    AgentReference {
        id: agent.id.0,
        name: agent.name.clone(),
    }
}

/// Whoever is in the file, and whoever rules name: issuers know more than the file does. With their groups.
fn subjects(directory: &Directory) -> BTreeMap<Subject, Vec<String>> {
    let mut all = BTreeMap::new();
    for rule in directory.rules() {
        let kinds = [
            (Kind::User, &rule.users),
            (Kind::Service, &rule.services),
            (Kind::Group, &rule.groups),
        ];
        for (kind, names) in kinds {
            let names = names.iter().map(|it| it.as_str().to_owned());
            all.extend(names.map(|name| ((kind, name), Vec::new())));
        }
    }
    for caller in directory.callers() {
        let kind = match caller.identity.kind {
            IdentityKind::User => Kind::User,
            IdentityKind::CiJob => Kind::Service,
        };
        for group in &caller.groups {
            all.entry((Kind::Group, group.clone())).or_default();
        }
        all.insert((kind, caller.identity.name.clone()), caller.groups.clone());
    }
    all
}

/// The place of the rule that lets somebody in. Of a group that is a user in it, or else a service.
fn decides(
    directory: &Directory,
    (kind, name): &Subject,
    agent: AgentId,
    now: Timestamp,
) -> Option<usize> {
    let decides = |caller: &Caller| directory.deciding_rule(caller, agent, now);
    let named = |kind| decides(&directory.caller_named(kind, name, Vec::new()));
    // Nobody has the empty name.
    let member = |kind| decides(&directory.caller_named(kind, "", vec![name.clone()]));
    match kind {
        Kind::User => named(IdentityKind::User),
        Kind::Service => named(IdentityKind::CiJob),
        Kind::Group => member(IdentityKind::User).or_else(|| member(IdentityKind::CiJob)),
    }
}

impl Kind {
    fn word(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Service => "service",
            Self::Group => "group",
        }
    }
}

//! The questions, whichever way they come.

mod access;
mod change;
mod errors;
mod loads;
mod log_level;
mod registration;
mod sessions;

use std::{collections::HashMap, sync::Arc, time::Duration};

use cluster_state::{AgentId, Member, RecordSubject};

use self::change::Changes;
use crate::{
    Failure, Sources,
    absence::Absences,
    agent_state::{DEGRADED, DISCONNECTED},
    caller::Caller,
    coverage::{complete, silent},
    events::{Events, Listener, refusals::RefusalFeed},
    explain,
    filter::Filter,
    fleet::{Fleet, Snapshot},
    peers::{self, AskError, Question},
    records,
    replica::{GET_REPLICA, LIST_OWN_REQUESTS, Own, count, limit, state},
    role::Role,
    v1::{
        self, Agent, AgentReference, Certificate, Explanation, FleetStatus, GetAgentRequest,
        GetAgentResponse, GetReplicaRequest, ListAgentsRequest, ListAgentsResponse,
        ListRecordsRequest, ListRecordsResponse, ListReplicasResponse, ListRequestsRequest,
        ListRequestsResponse, ReplicaDetails, ReplicaEntry, RoleOfCaller,
    },
};

/// Agents in the headline that are not connected, and that are degraded.
const LISTED_AGENTS: usize = 20;
/// Bytes of an agent's name, at most.
const MAX_NAME_BYTES: usize = 253;
/// Certificates in the headline.
const LISTED_CERTIFICATES: usize = 20;
/// How long an agent's last time may be looked up.
const LAST_SEEN_TIMEOUT: Duration = Duration::from_secs(2);

/// Answers operators' questions, for the whole set.
#[derive(Debug)]
pub struct Admin {
    sources: Sources,
    own: Own,
    fleet: Arc<Fleet>,
    events: Arc<Events>,
    changes: Changes,
    absences: Absences,
}

impl Admin {
    /// Answers from these.
    #[must_use]
    pub fn new(sources: Sources) -> Self {
        let own = Own {
            id: sources.me.replica.clone(),
            started_at: sources.started_at,
            registry: sources.registry.clone(),
            table: sources.table.clone(),
            requests: sources.requests.clone(),
            life: sources.life.clone(),
            tracker: Some(sources.tracker.clone()),
            dialer: None,
        };
        let fleet = Fleet::new(sources.clone(), own.clone());
        let refusals = RefusalFeed::new(own.clone(), sources.router.clone());
        Self {
            events: Events::new(fleet.clone(), sources.table.clone(), refusals),
            own,
            fleet,
            sources,
            changes: Changes::default(),
            absences: Absences::default(),
        }
    }

    /// What changes, from now on.
    ///
    /// # Errors
    /// When there are too many who listen.
    pub(crate) async fn listen(&self, caller: Arc<str>) -> Result<Listener, Failure> {
        self.events.listen(caller).await
    }

    /// The headline.
    pub async fn status(&self) -> FleetStatus {
        let (fleet, replicas) = tokio::join!(self.fleet.snapshot(), self.replicas());
        let details = replicas
            .replicas
            .iter()
            .filter_map(|it| it.details.as_ref());
        let certificates = first_to_end(&replicas.replicas);
        let mut status = FleetStatus {
            agents: count(fleet.agents.len()),
            agents_connected: count(fleet.connected),
            agents_degraded: count(fleet.degraded),
            agents_unknown: count(fleet.unknown),
            disconnected: first(&fleet, |it| it.state == DISCONNECTED),
            degraded: first(&fleet, |it| it.health == DEGRADED),
            replicas: count(replicas.replicas.len()),
            store: self.own.details().store,
            certificates,
            coverage: Some(fleet.coverage.with(replicas.coverage)),
            ..FleetStatus::default()
        };
        let mut answered = 0;
        for details in details {
            answered += 1;
            status.requests_in_progress += details.requests_in_progress;
            status.requests_total += details.requests_total;
            status.requests_failed += details.requests_failed;
            if let Some(its) = &details.survived {
                let all = status.survived.get_or_insert_default();
                all.tunnels_lost += its.tunnels_lost;
                all.replays += its.replays;
                all.resumes += its.resumes;
                all.minutes = all.minutes.max(its.minutes);
            }
        }
        status.replicas_silent = status.replicas.saturating_sub(answered);
        status
    }

    /// A page of agents.
    ///
    /// # Errors
    /// When the filter is not understood.
    pub async fn list_agents(
        &self,
        asked: &ListAgentsRequest,
    ) -> Result<ListAgentsResponse, Failure> {
        let filter = Filter::try_from(asked)?;
        let fleet = self.fleet.snapshot().await;
        let mut page = filter.page(&fleet.agents);
        self.absences.explain(&self.sources, &mut page.agents).await;
        page.coverage = Some(fleet.coverage.clone());
        Ok(page)
    }

    /// One agent.
    ///
    /// # Errors
    /// When there is none of this number or name.
    pub async fn agent(&self, asked: &GetAgentRequest) -> Result<GetAgentResponse, Failure> {
        let fleet = self.fleet.snapshot().await;
        let agent = find(&fleet, &asked.agent)?.clone();
        let last_seen = self.sources.router.last_seen(AgentId(agent.id));
        let id = AgentId(agent.id);
        let mut told = [agent];
        let (last_seen, cluster, ()) = tokio::join!(
            tokio::time::timeout(LAST_SEEN_TIMEOUT, last_seen),
            self.cluster(id),
            self.absences.explain(&self.sources, &mut told)
        );
        let [agent] = told;
        Ok(GetAgentResponse {
            cluster,
            last_seen_seconds: last_seen.ok().flatten().map(|it| it.as_secs()),
            agent: Some(agent),
            coverage: Some(fleet.coverage.clone()),
        })
    }

    /// Where a request for an agent would go.
    ///
    /// # Errors
    /// When there is none of this number or name.
    pub async fn explain(&self, asked: &GetAgentRequest) -> Result<Explanation, Failure> {
        let fleet = self.fleet.snapshot().await;
        let found = find(&fleet, &asked.agent)?;
        let (agent, problems) = (reference(found), found.problems.clone());
        let id = AgentId(agent.id);
        let (explained, last_refusal) = tokio::join!(
            explain::explain(&self.sources, id),
            records::last_refusal(&self.sources.tracker, RecordSubject::Agent(id))
        );
        Ok(Explanation {
            last_refusal,
            problems,
            agent: Some(agent),
            coverage: Some(fleet.coverage.clone()),
            ..explained
        })
    }

    /// What happened to an agent's connections, or to those of tokens that are nobody's.
    ///
    /// # Errors
    /// When there is no agent of this number or name.
    pub async fn records(
        &self,
        asked: &ListRecordsRequest,
    ) -> Result<ListRecordsResponse, Failure> {
        let subject = if asked.agent.is_empty() {
            RecordSubject::Strangers
        } else {
            let fleet = self.fleet.snapshot().await;
            RecordSubject::Agent(AgentId(find(&fleet, &asked.agent)?.id))
        };
        let mut coverage = complete(&self.sources.me.replica);
        let page = records::page(&self.sources.tracker, subject, asked).await;
        let page = page.unwrap_or_else(|error| {
            coverage.nothing(format!("{error}; what happened is kept there"));
            ListRecordsResponse::default()
        });
        Ok(ListRecordsResponse {
            coverage: Some(coverage),
            ..page
        })
    }

    /// The cluster that an agent is pinned to; empty if it is pinned to none or that is not known.
    async fn cluster(&self, agent: AgentId) -> String {
        let Some(clusters) = &self.sources.clusters else {
            return String::new();
        };
        let pin = tokio::time::timeout(LAST_SEEN_TIMEOUT, clusters.pin_of(agent)).await;
        let pin = pin.ok().and_then(Result::ok).flatten();
        pin.map(|it| it.to_string()).unwrap_or_default()
    }

    /// The replicas, with what each tells of itself.
    pub async fn replicas(&self) -> ListReplicasResponse {
        let members = peers::members(&*self.sources.table);
        let question = Question::new(GET_REPLICA, &GetReplicaRequest {});
        let own = || Ok(self.own.details());
        let answers = self.sources.ask_each(&members, question, own);
        let told = members.iter().zip(answers.await);
        let replicas: Vec<_> = told.map(|(it, told)| self.replica(it, told)).collect();
        let answered = replicas.iter().filter(|it| it.details.is_some()).count();
        // More than are asked, if there are too many.
        let all = self.sources.table.members().len().max(replicas.len());
        let coverage = silent(&self.sources.me.replica, all - answered, all);
        ListReplicasResponse {
            replicas,
            coverage: Some(coverage),
        }
    }

    /// Requests in progress at all replicas, the oldest first.
    pub async fn requests(&self, asked: &ListRequestsRequest) -> ListRequestsResponse {
        let own = || Ok(self.own.requests(asked));
        let question = Question::new(LIST_OWN_REQUESTS, asked);
        let told = self.sources.ask_all(question, own).await;
        let coverage = told.coverage();
        let mut all = ListRequestsResponse::default();
        for its in told.answers {
            all.requests.extend(its.requests);
            all.total = all.total.saturating_add(its.total);
        }
        all.requests.sort_by(|a, b| a.started_at.cmp(&b.started_at));
        all.requests.truncate(limit(asked.limit));
        let names: HashMap<i64, String> = self.names();
        for request in &mut all.requests {
            if let Some(agent) = &mut request.agent
                && let Some(name) = names.get(&agent.id)
            {
                agent.name.clone_from(name);
            }
        }
        all.coverage = Some(coverage);
        all
    }

    /// Who asks, and what they may do.
    pub(crate) fn caller(&self, caller: &Caller) -> v1::Caller {
        let roles = Role::ALL.map(|role| {
            let problem = caller.require(role).err().map(|it| it.to_string());
            RoleOfCaller {
                role: role.to_string(),
                held: problem.is_none(),
                problem: problem.unwrap_or_default(),
            }
        });
        v1::Caller {
            name: caller.name.to_string(),
            role: caller.role.to_string(),
            proof: caller.proof.as_str().to_owned(),
            roles: roles.into(),
        }
    }

    fn replica(&self, member: &Member, told: Result<ReplicaDetails, AskError>) -> ReplicaEntry {
        let answering = self.is_me(member);
        let (details, problem) = match told {
            Ok(details) => (Some(details), String::new()),
            Err(error) => (None, error.to_string()),
        };
        let version = match &*member.version {
            "" => self.sources.version,
            told => told,
        };
        ReplicaEntry {
            id: member.replica.replica.to_string(),
            url: member.replica.url.clone(),
            state: state(member.state).to_owned(),
            version: version.to_owned(),
            answering,
            details,
            problem,
        }
    }

    fn is_me(&self, member: &Member) -> bool {
        member.replica.replica == self.sources.me.replica
    }

    fn names(&self) -> HashMap<i64, String> {
        let known = self.sources.control_plane.known_agents();
        known.iter().map(|it| (it.id.0, it.name.clone())).collect()
    }
}

/// The first agents of which this holds.
fn first(fleet: &Snapshot, holds: impl Fn(&Agent) -> bool) -> Vec<AgentReference> {
    let found = fleet.agents.iter().filter(|it| holds(it));
    found.take(LISTED_AGENTS).map(reference).collect()
}

fn reference(agent: &Agent) -> AgentReference {
    AgentReference {
        id: agent.id,
        name: agent.name.clone(),
    }
}

/// An agent by its number, or else by its name: GitLab and old files have names of digits, which programs that ask by
/// numbers must not meet. Names of a GitLab are unique in their projects only.
fn find<'a>(fleet: &'a Snapshot, wanted: &str) -> Result<&'a Agent, Failure> {
    if wanted.is_empty() || wanted.len() > MAX_NAME_BYTES {
        let words = format!(
            "an agent is named by its number, or by its name of up to {MAX_NAME_BYTES} bytes"
        );
        return Err(Failure::Invalid(words));
    }
    let id = wanted.parse::<i64>().ok();
    if let Some(id) = id
        && let Ok(at) = fleet.agents.binary_search_by_key(&id, |agent| agent.id)
    {
        return Ok(&fleet.agents[at]);
    }
    let mut named = fleet.agents.iter().filter(|agent| agent.name == wanted);
    match (named.next(), named.next()) {
        (Some(agent), None) => Ok(agent),
        (Some(_), Some(_)) => Err(Failure::Invalid(
            "several agents have this name, in different projects: give the number".to_owned(),
        )),
        (None, _) => Err(Failure::NotFound(match id {
            Some(id) => format!(
                "no agent with the number {id} is known: it is neither registered nor connected"
            ),
            None => "no agent of this name is known: see `kas agent list`".to_owned(),
        })),
    }
}

/// The certificates of all replicas that end first.
fn first_to_end(replicas: &[ReplicaEntry]) -> Vec<Certificate> {
    let all = replicas.iter().flat_map(|replica| {
        let told = replica.details.iter().flat_map(|it| &it.certificates);
        told.map(|it| Certificate {
            replica: replica.id.clone(),
            ..it.clone()
        })
    });
    let mut all: Vec<_> = all.collect();
    // Texts of RFC 3339 in UTC are in the order of their times to the second.
    all.sort_by(|a, b| (&a.not_after, &a.file).cmp(&(&b.not_after, &b.file)));
    all.truncate(LISTED_CERTIFICATES);
    all
}

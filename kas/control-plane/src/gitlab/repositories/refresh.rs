//! One refresh of a repository: which commit counts, and what its files say to the
//! agents that are connected here.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use cluster_state::AgentId;

use super::{
    super::{super::Problem, GitLab, agent_info::RegisteredAgent},
    PollSharing,
    assignee::{AssigneeTracker, Assignment, Head, PostedHead},
    reader::{self, Content},
    subscribers::{Has, Subscribers, Trigger},
};
use crate::gitaly::{AgentFileName, ErrorKind, GitalyError, RepositoryLocation};

/// What is remembered from refresh to refresh.
pub(super) struct Refresher {
    gitlab: GitLab,
    subscribers: Arc<Subscribers>,
    sharing: Option<PollSharing>,
    assignee: AssigneeTracker,
    head: Option<Head>,
    delivered: HashMap<AgentId, Delivered>,
}

/// What an agent was sent.
struct Delivered {
    commit: String,
    /// The content, and what names it where that is known.
    content: Arc<Content>,
    blob: Option<String>,
    /// Whether GitLab has it.
    reported: bool,
    /// Whether GitLab is told in any case: the agent has begun anew.
    restarted: bool,
}

impl Refresher {
    pub(super) fn new(
        gitlab: GitLab,
        subscribers: Arc<Subscribers>,
        sharing: Option<PollSharing>,
    ) -> Self {
        Self {
            gitlab,
            subscribers,
            sharing,
            assignee: AssigneeTracker::default(),
            head: None,
            delivered: HashMap::new(),
        }
    }

    /// Refreshes, and serves the agents. Returns whether the present commit was looked up,
    /// rather than the known one passed on.
    pub(super) async fn refresh(&mut self, trigger: Trigger) -> Result<bool, GitalyError> {
        let agents = self.agents();
        let Some(any) = agents.values().next() else {
            return Ok(false);
        };
        let old = trigger == Trigger::Subscribed && self.head.is_some();
        let own = trigger == Trigger::Posted && self.assignee.is_assignee();
        let asked = !old && !own;
        if asked {
            let any = any.clone();
            self.head = self.find(trigger, &any).await?.or(self.head.take());
        }
        match self.head.clone() {
            None | Some(Head::Empty) => {}
            Some(Head::Missing(why)) => self.refuse(&agents, &why),
            Some(Head::Commit(commit)) => self.deliver(&agents, &commit).await?,
        }
        Ok(asked)
    }

    /// Removes this replica from those that follow the repository.
    pub(super) async fn leave(&self) {
        if let Some(sharing) = &self.sharing
            && let Err(error) = sharing.polls.leave(self.subscribers.project).await
        {
            tracing::debug!(%error, project_id = self.subscribers.project, "could not leave the shared poll state; the other replicas notice by the lease");
        }
    }

    /// The agents that are still connected.
    fn agents(&mut self) -> BTreeMap<AgentId, Arc<RegisteredAgent>> {
        let mut agents = BTreeMap::new();
        for id in self.subscribers.agents() {
            if let Some(registered) = self.following(id) {
                agents.insert(id, registered);
            } else {
                self.delivered.remove(&id);
                // Nobody keeps it up to date now. An agent that comes back waits for what its file says then:
                // given an old mistake its stream would end before anybody has looked, again and again.
                self.gitlab.0.agents.configure(id, |it| {
                    it.verified = false;
                    it.problem = None;
                });
            }
        }
        agents
    }

    /// An agent that is still connected; one that is not is unsubscribed.
    fn following(&self, id: AgentId) -> Option<Arc<RegisteredAgent>> {
        let agents = &self.gitlab.0.agents;
        agents.following(id).or_else(|| {
            self.subscribers.unsubscribe(id);
            // It may have come back just before it was taken out.
            let back = agents.following(id)?;
            self.subscribers.subscribe(id, Has::KnownVersion);
            Some(back)
        })
    }

    /// Which commit counts, by the assignee.
    async fn find(
        &mut self,
        trigger: Trigger,
        any: &RegisteredAgent,
    ) -> Result<Option<Head>, GitalyError> {
        let project = self.subscribers.project;
        let Some(sharing) = self.sharing.clone() else {
            return self.poll(any).await.map(Some);
        };
        let posted = match sharing.polls.join(project).await {
            Ok(posted) => posted,
            Err(error) => {
                tracing::debug!(%error, project_id = project, "shared poll state cannot be read; polling without it");
                return self.poll(any).await.map(Some);
            }
        };
        let (me, live) = (sharing.polls.me(), (sharing.live)());
        match self.assignee.decide(trigger, me, project, &posted, &live) {
            Assignment::Follow(head) => Ok(head),
            Assignment::Poll { beat, gone } => {
                let head = self.poll(any).await?;
                let found = PostedHead { beat, head };
                if let Err(error) = sharing.polls.post(project, &found.write(), &gone).await {
                    tracing::debug!(%error, project_id = project, "shared poll state cannot be written");
                }
                Ok(Some(found.head))
            }
        }
    }

    async fn poll(&self, any: &RegisteredAgent) -> Result<Head, GitalyError> {
        let gitaly = &self.gitlab.0.repositories.settings.gitaly;
        match gitaly.head(location(any), &any.agent.default_branch).await {
            Ok(head) => Ok(head.into()),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(Head::Missing(error.to_string())),
            Err(error) => Err(error),
        }
    }

    fn refuse(&mut self, agents: &BTreeMap<AgentId, Arc<RegisteredAgent>>, why: &str) {
        for id in agents.keys() {
            self.gitlab.0.agents.configure(*id, |it| {
                it.problem = Some(Problem::NoBranch(why.to_owned()));
            });
        }
    }

    /// Gives each agent what its file says as of a commit. One that fails does
    /// not keep the others from theirs.
    async fn deliver(
        &mut self,
        agents: &BTreeMap<AgentId, Arc<RegisteredAgent>>,
        commit: &str,
    ) -> Result<(), GitalyError> {
        let without = |id: &AgentId| self.delivered.get(id).is_none_or(|it| it.commit != commit);
        let waiting: Vec<_> = agents.keys().copied().filter(without).collect();
        let blobs = match waiting.as_slice() {
            [] | [_] => None,
            [first, ..] => Some(self.blobs(&agents[first], commit).await?),
        };
        let mut failed = None;
        for (id, registered) in agents {
            if waiting.contains(id) {
                match self.read(registered, commit, blobs.as_ref()).await {
                    Ok(delivered) => {
                        self.delivered.insert(*id, delivered);
                    }
                    Err(error) => {
                        failed = Some(error);
                        continue;
                    }
                }
            }
            self.put_in_force(*id);
        }
        for id in agents.keys() {
            self.report(*id).await;
        }
        failed.map_or(Ok(()), Err)
    }

    /// What names the content of each agent's file, in one question for all.
    async fn blobs(
        &self,
        any: &RegisteredAgent,
        commit: &str,
    ) -> Result<HashMap<String, String>, GitalyError> {
        let gitaly = &self.gitlab.0.repositories.settings.gitaly;
        let listed = gitaly.files(location(any), commit, AgentFileName::DIRECTORY);
        let listed = match listed.await {
            Err(error) if error.kind == ErrorKind::NotFound => Vec::new(),
            listed => listed?,
        };
        let blobs = listed.into_iter().filter_map(|file| {
            let name = AgentFileName::parse(&file.path)?;
            Some((name.path, file.blob))
        });
        Ok(blobs.collect())
    }

    async fn read(
        &self,
        registered: &RegisteredAgent,
        commit: &str,
        blobs: Option<&HashMap<String, String>>,
    ) -> Result<Delivered, GitalyError> {
        let path = AgentFileName::of(&registered.agent.name).path;
        let blob = blobs.and_then(|it| it.get(&path).cloned());
        let before = self.delivered.get(&registered.agent.id);
        let same = before.filter(|it| blob.is_some() && it.blob == blob);
        let content = match (same, blobs) {
            (Some(same), _) => same.content.clone(),
            // It is in no listing, so it is not there.
            (None, Some(_)) if blob.is_none() => Arc::default(),
            (None, _) => {
                let settings = &self.gitlab.0.repositories.settings;
                Arc::new(reader::read(settings, registered, commit, &path).await?)
            }
        };
        Ok(Delivered {
            commit: commit.to_owned(),
            content,
            blob,
            reported: false,
            restarted: false,
        })
    }

    fn put_in_force(&self, id: AgentId) {
        if let Some(delivered) = self.delivered.get(&id) {
            let agents = &self.gitlab.0.agents;
            agents.configure(id, |it| delivered.content.put_in(it, &delivered.commit));
        }
    }

    /// Sends GitLab what an agent's file says, unless another replica did. GitLab hears it again of an agent that
    /// has begun anew, so that a restart of the agent mends what GitLab has lost.
    async fn report(&mut self, id: AgentId) {
        let Some(delivered) = self.delivered.get_mut(&id) else {
            return;
        };
        delivered.restarted |= self.subscribers.take_restarted(id);
        if delivered.reported && !delivered.restarted {
            return;
        }
        let Some(file) = delivered.content.reported() else {
            (delivered.reported, delivered.restarted) = (true, false);
            return;
        };
        let polls = self.sharing.as_ref().map(|it| &it.polls);
        if let Some(polls) = polls
            && let Ok(false) = polls.claim(id, &delivered.commit).await
            && !delivered.restarted
        {
            delivered.reported = true;
            return;
        }
        match self
            .gitlab
            .client()
            .post_agent_configuration(id, &file)
            .await
        {
            Ok(()) => (delivered.reported, delivered.restarted) = (true, false),
            // The agent was deleted.
            Err(error) if error.refusal() == Some(404) => {
                (delivered.reported, delivered.restarted) = (true, false);
            }
            Err(error) => {
                tracing::warn!(agent.id = id.0, %error, "could not send the agent's configuration to GitLab; retrying");
                if let Some(polls) = polls {
                    // Whoever claims it next sends it; nobody else has to know.
                    polls.disclaim(id).await.ok();
                }
            }
        }
    }
}

fn location(registered: &RegisteredAgent) -> RepositoryLocation<'_> {
    RepositoryLocation {
        server: &registered.gitaly,
        repository: &registered.repository,
    }
}

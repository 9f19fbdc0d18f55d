//! One look at a repository: which commit counts, and what its files say to the
//! agents that are connected here.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use cluster_state::AgentId;

use super::{
    super::{super::Problem, GitLab, agent_info::Registered},
    Sharing,
    duty::{Duty, Found, Head, Watch},
    follower::{Due, Follower},
    reader::{self, Content},
};
use crate::gitaly::{AgentFileName, ErrorKind, GitalyError, Place};

/// Why a look came to nothing.
pub(super) type Failed = GitalyError;

/// What is remembered from look to look.
pub(super) struct Round {
    gitlab: GitLab,
    follower: Arc<Follower>,
    sharing: Option<Sharing>,
    watch: Watch,
    head: Option<Head>,
    given: HashMap<AgentId, Given>,
}

/// What an agent was given.
struct Given {
    commit: String,
    /// The content, and what names it where that is known.
    content: Arc<Content>,
    blob: Option<String>,
    /// Whether GitLab knows.
    told: bool,
}

impl Round {
    pub(super) fn new(gitlab: GitLab, follower: Arc<Follower>, sharing: Option<Sharing>) -> Self {
        Self {
            gitlab,
            follower,
            sharing,
            watch: Watch::default(),
            head: None,
            given: HashMap::new(),
        }
    }

    /// Looks, and serves the agents. Says whether it was asked which commit
    /// counts now, rather than what is known passed on.
    pub(super) async fn look(&mut self, due: Due) -> Result<bool, Failed> {
        let agents = self.agents();
        let Some(any) = agents.values().next() else {
            return Ok(false);
        };
        let old = due == Due::Agent && self.head.is_some();
        let own = due == Due::Posted && self.watch.on_duty();
        let asked = !old && !own;
        if asked {
            let any = any.clone();
            self.head = self.find(due, &any).await?.or(self.head.take());
        }
        match self.head.clone() {
            None | Some(Head::Empty) => {}
            Some(Head::Missing(why)) => self.refuse(&agents, &why),
            Some(Head::Commit(commit)) => self.give(&agents, &commit).await?,
        }
        Ok(asked)
    }

    /// Says that nobody here follows any more.
    pub(super) async fn leave(&self) {
        if let Some(sharing) = &self.sharing
            && let Err(error) = sharing.polls.leave(self.follower.project).await
        {
            tracing::debug!(%error, "the others find out by themselves");
        }
    }

    /// The agents that are still connected.
    fn agents(&mut self) -> BTreeMap<AgentId, Arc<Registered>> {
        let mut agents = BTreeMap::new();
        for id in self.follower.agents() {
            if let Some(registered) = self.following(id) {
                agents.insert(id, registered);
            } else {
                self.given.remove(&id);
                // Nobody keeps it up to date now. An agent that comes back waits for what its file says then:
                // told of an old mistake its stream would end before anybody has looked, again and again.
                self.gitlab.0.agents.configure(id, |it| {
                    it.verified = false;
                    it.problem = None;
                });
            }
        }
        agents
    }

    /// An agent that is still connected; one that is not is followed no more.
    fn following(&self, id: AgentId) -> Option<Arc<Registered>> {
        let agents = &self.gitlab.0.agents;
        agents.following(id).or_else(|| {
            self.follower.part(id);
            // It may have come back just before it was taken out.
            let back = agents.following(id)?;
            self.follower.join(id, false);
            Some(back)
        })
    }

    /// Which commit counts, by the one who is on duty.
    async fn find(&mut self, due: Due, any: &Registered) -> Result<Option<Head>, Failed> {
        let project = self.follower.project;
        let Some(sharing) = self.sharing.clone() else {
            return self.poll(any).await.map(Some);
        };
        let posted = match sharing.polls.join(project).await {
            Ok(posted) => posted,
            Err(error) => {
                tracing::debug!(%error, project, "the board cannot be read: everybody polls");
                return self.poll(any).await.map(Some);
            }
        };
        let (me, live) = (sharing.polls.me(), (sharing.live)());
        match self.watch.decide(due, me, project, &posted, &live) {
            Duty::Others(head) => Ok(head),
            Duty::Mine { beat, gone } => {
                let head = self.poll(any).await?;
                let found = Found { beat, head };
                if let Err(error) = sharing.polls.post(project, &found.write(), &gone).await {
                    tracing::debug!(%error, project, "the board cannot be written");
                }
                Ok(Some(found.head))
            }
        }
    }

    async fn poll(&self, any: &Registered) -> Result<Head, Failed> {
        let gitaly = &self.gitlab.0.repositories.reading.gitaly;
        match gitaly.head(place(any), &any.agent.default_branch).await {
            Ok(head) => Ok(head.into()),
            Err(error) if error.kind == ErrorKind::NotFound => Ok(Head::Missing(error.to_string())),
            Err(error) => Err(error),
        }
    }

    fn refuse(&mut self, agents: &BTreeMap<AgentId, Arc<Registered>>, why: &str) {
        for id in agents.keys() {
            self.gitlab.0.agents.configure(*id, |it| {
                it.problem = Some(Problem::NoBranch(why.to_owned()));
            });
        }
    }

    /// Gives each agent what its file says as of a commit. One that fails does
    /// not keep the others from theirs.
    async fn give(
        &mut self,
        agents: &BTreeMap<AgentId, Arc<Registered>>,
        commit: &str,
    ) -> Result<(), Failed> {
        let without = |id: &AgentId| self.given.get(id).is_none_or(|it| it.commit != commit);
        let waiting: Vec<_> = agents.keys().copied().filter(without).collect();
        let blobs = match waiting.as_slice() {
            [] | [_] => None,
            [first, ..] => Some(self.blobs(&agents[first], commit).await?),
        };
        let mut failed = None;
        for (id, registered) in agents {
            if waiting.contains(id) {
                match self.read(registered, commit, blobs.as_ref()).await {
                    Ok(given) => {
                        self.given.insert(*id, given);
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
            self.tell(*id).await;
        }
        failed.map_or(Ok(()), Err)
    }

    /// What names the content of each agent's file, in one question for all.
    async fn blobs(
        &self,
        any: &Registered,
        commit: &str,
    ) -> Result<HashMap<String, String>, Failed> {
        let gitaly = &self.gitlab.0.repositories.reading.gitaly;
        let listed = gitaly.files(place(any), commit, AgentFileName::DIRECTORY);
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
        registered: &Registered,
        commit: &str,
        blobs: Option<&HashMap<String, String>>,
    ) -> Result<Given, Failed> {
        let path = AgentFileName::of(&registered.agent.name).path;
        let blob = blobs.and_then(|it| it.get(&path).cloned());
        let before = self.given.get(&registered.agent.id);
        let same = before.filter(|it| blob.is_some() && it.blob == blob);
        let content = match (same, blobs) {
            (Some(same), _) => same.content.clone(),
            // It is in no listing, so it is not there.
            (None, Some(_)) if blob.is_none() => Arc::default(),
            (None, _) => {
                let reading = &self.gitlab.0.repositories.reading;
                Arc::new(reader::read(reading, registered, commit, &path).await?)
            }
        };
        Ok(Given {
            commit: commit.to_owned(),
            content,
            blob,
            told: false,
        })
    }

    fn put_in_force(&self, id: AgentId) {
        if let Some(given) = self.given.get(&id) {
            let agents = &self.gitlab.0.agents;
            agents.configure(id, |it| given.content.put_in(it, &given.commit));
        }
    }

    /// Tells GitLab what an agent's file says, unless another replica did.
    async fn tell(&mut self, id: AgentId) {
        let Some(given) = self.given.get_mut(&id).filter(|it| !it.told) else {
            return;
        };
        let Some(file) = given.content.told() else {
            given.told = true;
            return;
        };
        let board = self.sharing.as_ref().map(|it| &it.polls);
        if let Some(board) = board
            && let Ok(false) = board.claim(id, &given.commit).await
        {
            given.told = true;
            return;
        }
        match self
            .gitlab
            .client()
            .post_agent_configuration(id, &file)
            .await
        {
            Ok(()) => given.told = true,
            // The agent was deleted.
            Err(error) if error.refusal() == Some(404) => given.told = true,
            Err(error) => {
                tracing::warn!(agent_id = id.0, %error, "GitLab could not be told an agent's configuration; it is tried again");
                if let Some(board) = board {
                    // Whoever claims it next tells it; nobody else has to know.
                    board.disclaim(id).await.ok();
                }
            }
        }
    }
}

fn place(registered: &Registered) -> Place<'_> {
    Place {
        server: &registered.gitaly,
        repository: &registered.repository,
    }
}

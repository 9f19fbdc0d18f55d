//! Several replicas with GitLab as their control plane, a Redis, and agents that
//! are connected to one of them.

use anyhow::Result;
use tempfile::TempDir;

use crate::{
    agentk::{Agentk, Links},
    gitlab_double::{GitLabDouble, Scenario},
    gitlab_member::{LIMIT, Member},
    redis::Redis,
    stub_api::StubApi,
};

/// Seconds between polls of repositories, as kas has it by itself.
const POLL: u32 = 300;

/// GitLab, replicas, and what they share.
#[derive(Debug)]
pub struct GitLabSite {
    /// GitLab.
    pub double: GitLabDouble,
    /// What the replicas share.
    pub redis: Redis,
    /// The replicas.
    pub members: Vec<Member>,
    stub: StubApi,
    folder: TempDir,
}

impl GitLabSite {
    /// Starts a Redis, the double with its sample, and `count` replicas.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(count: usize) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let double = GitLabDouble::start(Scenario::sample()).await?;
        double.write_secret(&folder.path().join("secret"))?;
        let redis = Redis::start(folder.path()).await?;
        let mut members = Vec::new();
        for number in 0..count {
            let member = Member::start(number, POLL, &double, redis.port(), folder.path());
            members.push(member.await?);
        }
        Ok(Self {
            double,
            redis,
            members,
            stub: StubApi::start().await?,
            folder,
        })
    }

    /// Kills a replica and starts another one in its place, at other ports.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn replace(&mut self, number: usize) -> Result<()> {
        let process = &mut self.members[number].process;
        process.end_by("KILL", LIMIT).await?;
        let (redis, folder) = (self.redis.port(), self.folder.path());
        let next = Member::start(number, POLL, &self.double, redis, folder).await?;
        self.members[number] = next;
        Ok(())
    }

    /// Starts an agent that knows one replica only, and does not wait.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn agentk(&self, name: &str, token: &str, member: usize) -> Result<Agentk> {
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", self.members[member].agents),
            ca: None,
            kubeconfig: self.stub.kubeconfig(self.folder.path())?,
        };
        Agentk::start(name, &links, token, self.folder.path())
    }
}

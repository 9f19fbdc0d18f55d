//! Several replicas with GitLab as their control plane, a Redis, and agents that
//! are connected to one of them.

use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    agentk::{Agentk, Links},
    gitlab_double::{GitLabDouble, Scenario},
    ports,
    process::Process,
    programs,
    redis::Redis,
    stub_api::StubApi,
    wait::until_accepts,
};

/// How long a replica may take to listen.
const START: Duration = Duration::from_secs(30);

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

/// A replica.
#[derive(Debug)]
pub struct Member {
    /// The process.
    pub process: Process,
    /// Where agents connect.
    pub agents: u16,
    /// Where users connect.
    pub users: u16,
    /// Where GitLab calls.
    pub api: u16,
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
        let mut site = Self {
            double,
            redis: Redis::start(folder.path()).await?,
            members: Vec::new(),
            stub: StubApi::start().await?,
            folder,
        };
        for number in 0..count {
            let member = site.add(number).await?;
            site.members.push(member);
        }
        Ok(site)
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

    async fn add(&self, number: usize) -> Result<Member> {
        let first = ports::free_block(5);
        let [agents, users, observability, peers, api] =
            [0, 1, 2, 3, 4].map(|offset| first + offset);
        let secret = self.folder.path().join("secret");
        let file = self.folder.path().join(format!("kas-{number}.yaml"));
        let configuration = json!({
            "gitlab": {"address": self.double.url(), "authentication_secret_file": secret},
            "agent": {
                "listen": {"address": at(agents), "listen_grace_period": "1s"},
                "kubernetes_api": {
                    "listen": {"address": at(users), "listen_grace_period": "1s", "shutdown_grace_period": "10s"},
                    "url_path_prefix": "/k8s-proxy/",
                },
            },
            "observability": {
                "listen": {"address": at(observability)}, "usage_reporting_period": "1s",
            },
            "redis": {"server": {"address": at(self.redis.port())}},
            "api": {"listen": {"address": at(api), "authentication_secret_file": secret}},
            "private_api": {"listen": {"address": at(peers), "authentication_secret_file": secret}},
        });
        std::fs::write(&file, configuration.to_string())?;
        let mut command = Command::new(programs::kas()?);
        command.arg("--configuration-file").arg(&file);
        command.env("OWN_PRIVATE_API_URL", format!("grpc://127.0.0.1:{peers}"));
        let name = format!("kas-{number}");
        let process = Process::spawn(&name, &mut command, self.folder.path())?;
        for port in [agents, users, observability, peers, api] {
            let listens = until_accepts(port, START).await;
            listens.with_context(|| process.tail())?;
        }
        Ok(Member {
            process,
            agents,
            users,
            api,
        })
    }
}

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

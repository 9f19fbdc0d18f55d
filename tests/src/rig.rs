//! kas, one agent, and a stand-in for its cluster: enough for requests that need no real Kubernetes.

use std::{path::Path, time::Duration};

use ::http::Response;
use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use tempfile::TempDir;

use crate::{
    agentk::{Agentk, Links},
    certs::Certs,
    http,
    kas::{Kas, Options},
    stub_api::StubApi,
    wait::until,
};

/// An agent connects within a second; a busy machine takes longer.
const CONNECT: Duration = Duration::from_secs(60);

/// A working set, with a user who may use every agent.
#[derive(Debug)]
pub struct Rig {
    /// The server.
    pub kas: Kas,
    /// What the agents take for their cluster.
    pub stub: StubApi,
    /// Certificates for the test's own use, and of the agents' listener where it speaks TLS.
    pub certs: Certs,
    user: String,
    folder: TempDir,
}

/// An agent of a [`Rig`].
#[derive(Debug)]
pub struct RigAgent {
    /// The process.
    pub agentk: Agentk,
    /// The agent's token.
    pub token: String,
    id: String,
}

impl Rig {
    /// Starts kas without TLS, and the stand-in.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start() -> Result<Self> {
        Self::start_with(false).await
    }

    /// Starts kas with or without TLS for agents, and the stand-in.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start_with(agent_tls: bool) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let certs = Certs::create(&folder.path().join("certs"))?;
        let options = Options {
            agent_tls: agent_tls.then_some(&certs),
            ..Options::default()
        };
        let kas = Kas::start(options, folder.path()).await?;
        Self::around(kas, certs, folder).await
    }

    /// The same without TLS, with these options of kas.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start_with_options(options: Options<'_>) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let certs = Certs::create(&folder.path().join("certs"))?;
        let kas = Kas::start(options, folder.path()).await?;
        Self::around(kas, certs, folder).await
    }

    /// A rig around a kas that was started in this folder.
    ///
    /// # Errors
    /// When the stand-in does not start, or no user can be made.
    pub async fn around(kas: Kas, certs: Certs, folder: TempDir) -> Result<Self> {
        let stub = StubApi::start().await?;
        let user = kas.create_user("tester", "*", &["agent"]).await?;
        Ok(Self {
            kas,
            stub,
            certs,
            user,
            folder,
        })
    }

    /// Makes an agent, starts it, and waits until it serves.
    ///
    /// # Errors
    /// When it does not connect.
    pub async fn agent(&self, name: &str) -> Result<RigAgent> {
        let token = self.kas.create_agent(name).await?;
        let agentk = self.agentk(name, &token)?;
        let agent = RigAgent {
            agentk,
            token,
            id: self.kas.agent_id(name).await?,
        };
        let connected = async || self.get(&agent, "/version").await.ok().filter(is_ok);
        let connected = until(&format!("agent {name}"), CONNECT, connected).await;
        connected.with_context(|| self.tails(&agent))?;
        Ok(agent)
    }

    /// Starts an agent process with any token, and does not wait.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn agentk(&self, name: &str, token: &str) -> Result<Agentk> {
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", self.kas.agents),
            ca: None,
            kubeconfig: self.stub.kubeconfig(self.folder.path())?,
        };
        Agentk::start(name, &links, token, self.folder.path())
    }

    /// A folder for the test's files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The bearer token of the rig's user for an agent id.
    #[must_use]
    pub fn bearer(&self, agent_id: &str) -> String {
        format!("pat:{agent_id}:{}", self.user)
    }

    /// The bearer token of the rig's user for an agent.
    #[must_use]
    pub fn bearer_for(&self, agent: &RigAgent) -> String {
        self.bearer(&agent.id)
    }

    /// Asks for a path through an agent.
    ///
    /// # Errors
    /// When kas gives no answer.
    pub async fn get(&self, agent: &RigAgent, path: &str) -> Result<Response<Bytes>> {
        self.get_as(&self.bearer_for(agent), path).await
    }

    /// Asks for a path with any bearer token.
    ///
    /// # Errors
    /// When kas gives no answer.
    pub async fn get_as(&self, bearer: &str, path: &str) -> Result<Response<Bytes>> {
        http::get(
            &format!("http://127.0.0.1:{}/k8s-proxy{path}", self.kas.users),
            bearer,
        )
        .await
    }

    /// Checks that an agent serves as if nothing had happened.
    ///
    /// # Errors
    /// When it does not.
    pub async fn check_serves(&self, agent: &RigAgent) -> Result<()> {
        for _ in 0..5 {
            let answer = self.get(agent, "/version").await?;
            ensure!(is_ok(&answer), "{answer:?}\n{}", self.tails(agent));
        }
        Ok(())
    }

    fn tails(&self, agent: &RigAgent) -> String {
        format!(
            "{}\n{}",
            self.kas.process.tail(),
            agent.agentk.process.tail()
        )
    }
}

fn is_ok(answer: &Response<Bytes>) -> bool {
    answer.status().is_success()
}

//! A double of GitLab, kas as its agent server, agents, and a stand-in for their cluster.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{Request, Response, request::Builder};
use serde_json::Value;
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    agentk::{Agentk, Links},
    gitlab_double::{GitLabDouble, Scenario},
    http as client, ports,
    process::Process,
    programs,
    stub_api::StubApi,
    wait::{until, until_accepts},
};

/// A start or a connection takes a second; a busy machine takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// How long kas remembers answers, in seconds.
#[derive(Debug, Clone, Copy)]
pub struct Times {
    /// Good ones.
    pub good: u32,
    /// Refusals.
    pub refused: u32,
    /// For agents, when GitLab is away.
    pub agents_grace: u32,
    /// For callers, when GitLab is away.
    pub callers_grace: u32,
}

/// A working set.
#[derive(Debug)]
pub struct GitLabRig {
    /// GitLab.
    pub double: GitLabDouble,
    /// The server.
    pub kas: Process,
    /// Where agents connect.
    pub agents: u16,
    /// Where callers connect.
    pub users: u16,
    observability: u16,
    stub: StubApi,
    folder: TempDir,
}

impl GitLabRig {
    /// Starts the double with its sample, and kas.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start(times: Times) -> Result<Self> {
        Self::start_with(Scenario::sample(), times, "").await
    }

    /// The same with another double, and one more line under `agent` in kas's configuration.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start_with(scenario: Scenario, times: Times, agent: &str) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let double = GitLabDouble::start(scenario).await?;
        let secret = folder.path().join("secret");
        double.write_secret(&secret)?;
        let [agents, users, observability] = [ports::free(), ports::free(), ports::free()];
        let text = format!(
            "gitlab:\n  address: {url}\n  external_url: https://gitlab.example.com\n  \
             authentication_secret_file: {secret}\n  \
             outage_grace: {{agents: {agents_grace}s, callers: {callers_grace}s}}\n\
             agent:\n  {agent}\n  listen: {{address: '127.0.0.1:{agents}'}}\n  \
             info_cache_ttl: {good}s\n  info_cache_error_ttl: {refused}s\n  kubernetes_api:\n    \
             listen: {{address: '127.0.0.1:{users}'}}\n    url_path_prefix: /k8s-proxy/\n    websocket_token_secret_file: {secret}\n    \
             allowed_agent_cache_ttl: {good}s\n    allowed_agent_cache_error_ttl: {refused}s\n\
             observability: {{listen: {{address: '127.0.0.1:{observability}'}}, logging: {{level: debug}}}}\n",
            url = double.url(),
            secret = secret.display(),
            agents_grace = times.agents_grace,
            callers_grace = times.callers_grace,
            good = times.good,
            refused = times.refused,
        );
        let kas = start_kas(&text, folder.path(), &[]).await?;
        for port in [agents, users, observability] {
            let listens = until_accepts(port, LIMIT).await;
            listens.with_context(|| kas.tail())?;
        }
        Ok(Self {
            double,
            kas,
            agents,
            users,
            observability,
            stub: StubApi::start().await?,
            folder,
        })
    }

    /// Starts an agent with a token, and does not wait.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn agentk(&self, name: &str, token: &str) -> Result<Agentk> {
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", self.agents),
            ca: None,
            kubeconfig: self.stub.kubeconfig(self.folder.path())?,
        };
        Agentk::start(name, &links, token, self.folder.path())
    }

    /// Starts an agent that waits to be dialled, as these flags say.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn receptive(&self, name: &str, token: &str, flags: &[String]) -> Result<Agentk> {
        let kubeconfig = self.stub.kubeconfig(self.folder.path())?;
        Agentk::receptive(name, flags, &kubeconfig, token, self.folder.path())
    }

    /// Starts an agent, and waits until it serves a caller.
    ///
    /// # Errors
    /// When it does not connect.
    pub async fn connected(&self, name: &str, token: &str, bearer: &str) -> Result<Agentk> {
        let agentk = self.agentk(name, token)?;
        let serves = async || {
            self.get(bearer, "/version")
                .await
                .ok()
                .filter(|it| it.status() == 200)
        };
        let serving = until(&format!("agent {name}"), LIMIT, serves).await;
        serving.with_context(|| format!("{}\n{}", self.kas.tail(), agentk.process.tail()))?;
        Ok(agentk)
    }

    /// What kas counts.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self) -> Result<String> {
        let url = format!("http://127.0.0.1:{}/metrics", self.observability);
        let answer = client::send(Request::get(url).body(Bytes::new())?).await?;
        Ok(String::from_utf8_lossy(answer.body()).into_owned())
    }

    /// A request to a path below the prefix.
    #[must_use]
    pub fn request(&self, path: &str) -> Builder {
        Request::get(format!("http://127.0.0.1:{}/k8s-proxy{path}", self.users))
    }

    /// Asks for a path with a bearer token.
    ///
    /// # Errors
    /// When kas gives no answer.
    pub async fn get(&self, bearer: &str, path: &str) -> Result<Response<Bytes>> {
        let request = self
            .request(path)
            .header("authorization", format!("Bearer {bearer}"));
        client::send(request.body(Bytes::new())?).await
    }

    /// As whom the cluster sees a request: the impersonation headers that reached it.
    ///
    /// # Errors
    /// When the request does not get through.
    pub async fn seen_as(&self, request: Builder) -> Result<Vec<(String, String)>> {
        self.as_whom(&client::send(request.body(Bytes::new())?).await?)
    }

    /// The same of an answer of `/echo`.
    ///
    /// # Errors
    /// When it is another answer.
    pub fn as_whom(&self, answer: &Response<Bytes>) -> Result<Vec<(String, String)>> {
        let told: Value = serde_json::from_slice(answer.body())
            .with_context(|| format!("{answer:?}\n{}", self.kas.tail()))?;
        let headers = told["headers"]
            .as_array()
            .with_context(|| format!("{answer:?}"))?;
        let pairs = headers.iter().map(|it| {
            let text = |at: usize| it[at].as_str().unwrap_or_default().to_lowercase();
            (text(0), text(1))
        });
        Ok(pairs
            .filter(|(name, _)| name.starts_with("impersonate-"))
            .collect())
    }
}

/// Starts kas with a configuration and more environment, and does not wait.
///
/// # Errors
/// When it is not built.
pub async fn start_kas(text: &str, folder: &Path, variables: &[(&str, &str)]) -> Result<Process> {
    let file = folder.join("kas.yaml");
    tokio::fs::write(&file, text).await?;
    let mut command = Command::new(programs::kas()?);
    command.arg("--configuration-file").arg(&file);
    command.envs(variables.iter().copied());
    Process::spawn("kas", &mut command, folder)
}

//! Queries a running server for connected agent processes, over the API port.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, bail};
use control_plane::standalone::view;
use http::{HeaderMap, Uri, header::AUTHORIZATION};
use jiff::Timestamp;
use proto::{
    agent::agent_tracker::{
        ConnectedAgentInfo,
        rpc::{GetConnectedAgentsByAgentIDsRequest, agent_tracker_client::AgentTrackerClient},
    },
    clusters::rpc::{AgentCluster, ListRequest, PinRequest, clusters_client::ClustersClient},
};
use runtime::{
    connect::{ConnectOptions, Target, connect},
    grpc::Channel,
    jwt::{self, Secret},
    tls::{ClientTls, ClientTlsOptions},
};
use serde::Serialize;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::UnixStream,
};
use tonic::Code;

use crate::config::{self, ApiListen, ControlPlaneConfig, Listens as _, Network};

/// How long the server may take to answer.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// Agents in one query.
const MAX_AGENTS_PER_QUERY: usize = 10_000;

/// A running server, found by its configuration file.
#[derive(Debug)]
pub(super) struct Server {
    listen: ApiListen,
    /// The file of its standalone control plane; `None` if a GitLab is.
    agents: Option<PathBuf>,
}

/// A connected agent process.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Process {
    #[serde(skip)]
    pub(super) agent: i64,
    pub(super) version: String,
    pub(super) pod: String,
    pub(super) kubernetes: String,
    pub(super) since: Timestamp,
}

impl Server {
    pub(super) fn of(file: &Path) -> anyhow::Result<Self> {
        let config = config::load(file)?.config;
        let agents = match config.control_plane() {
            ControlPlaneConfig::Standalone(agents) => Some(agents.to_owned()),
            ControlPlaneConfig::GitLab(_) => None,
        };
        let api = config.api;
        let listen = api
            .map(|api| api.listen)
            .context("it has no section api: add api.listen.address and api.listen.authentication_secret_file, and restart it")?;
        Ok(Self { listen, agents })
    }

    /// The file of its standalone control plane.
    pub(super) fn agents(&self) -> anyhow::Result<&Path> {
        self.agents.as_deref().context(
            "its agents are registered in GitLab, which lists them on the pages of their projects",
        )
    }

    /// The number of an agent, by its name in the file or, where there is none, by the number itself.
    pub(super) fn agent_id(&self, name: &str) -> anyhow::Result<i64> {
        match &self.agents {
            Some(file) => Ok(view(file)?.agent(name)?.id),
            None => name.parse().with_context(|| {
                format!("{name:?} is no number, and agents that are registered in GitLab are named by their numbers")
            }),
        }
    }

    /// Which clusters these agents are pinned to, and what was refused; nothing from a server that does not know.
    pub(super) async fn clusters(&self, agents: &[i64]) -> anyhow::Result<Vec<AgentCluster>> {
        let mut all = Vec::new();
        for agents in agents.chunks(MAX_AGENTS_PER_QUERY) {
            let request = ListRequest {
                agent_ids: agents.to_vec(),
            };
            let ask = async |channel| ClustersClient::new(channel).list(request.clone()).await;
            match self.call(ask).await? {
                Ok(answer) => all.extend(answer.into_inner().agents),
                Err(status) if status.code() == Code::Unimplemented => break,
                Err(status) => return Err(status.into()),
            }
        }
        Ok(all)
    }

    /// Pins an agent to a cluster; an empty one removes the pin.
    pub(super) async fn pin(&self, agent_id: i64, cluster: &str) -> anyhow::Result<()> {
        let request = PinRequest {
            agent_id,
            cluster: cluster.to_owned(),
        };
        let ask = async |channel| ClustersClient::new(channel).pin(request.clone()).await;
        self.call(ask).await??;
        Ok(())
    }

    /// The processes of these agents that are connected to any replica.
    pub(super) async fn connected(&self, agents: &[i64]) -> anyhow::Result<Vec<Process>> {
        let mut all = Vec::new();
        for agents in agents.chunks(MAX_AGENTS_PER_QUERY) {
            all.extend(self.query(agents).await?);
        }
        Ok(all)
    }

    async fn query(&self, agents: &[i64]) -> anyhow::Result<Vec<Process>> {
        let request = GetConnectedAgentsByAgentIDsRequest {
            agent_ids: agents.to_vec(),
        };
        let ask = async |channel| {
            let mut client = AgentTrackerClient::new(channel);
            client.get_connected_agents_by_agent_i_ds(request).await
        };
        let agents = self.call(ask).await??.into_inner().agents;
        Ok(agents.into_iter().map(Process::of).collect())
    }

    /// Makes a call on a connection of its own.
    async fn call<T>(&self, ask: impl AsyncFnOnce(Channel) -> T) -> anyhow::Result<T> {
        let called = async {
            let (address, tls) = (self.listen.socket(), self.listen.tls());
            if address.network == Network::Unix {
                let socket = UnixStream::connect(&address.address).await;
                let socket = socket.with_context(|| address.address.clone())?;
                return call(socket, self.token()?, ask).await;
            }
            let scheme = if tls.is_some() { "grpcs" } else { "grpc" };
            let target = format!("{scheme}://{}", dial_address(&address.host_port()));
            let trusted = tls.iter().map(|it| it.certificate_file.clone()).collect();
            let options = ConnectOptions {
                tls: Some(ClientTls::load(&ClientTlsOptions {
                    ca_files: trusted,
                    ..ClientTlsOptions::default()
                })?),
                ..ConnectOptions::default()
            };
            let connected = connect(&Target::parse(&target)?, &options).await?;
            call(connected.io, self.token()?, ask).await
        };
        let answer = tokio::time::timeout(QUERY_TIMEOUT, called).await;
        answer.with_context(|| format!("no answer within {QUERY_TIMEOUT:?}"))?
    }

    /// The authorization header, signed with the server's API secret.
    fn token(&self) -> anyhow::Result<HeaderMap> {
        let secret = Secret::read(&self.listen.authentication_secret_file)?;
        let token = jwt::sign(&secret, "kas", "gitlab-kas")?;
        let value = format!("Bearer {token}").parse()?;
        Ok(HeaderMap::from_iter([(AUTHORIZATION, value)]))
    }
}

async fn call<S, T>(
    io: S,
    token: HeaderMap,
    ask: impl AsyncFnOnce(Channel) -> T,
) -> anyhow::Result<T>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (send, connection) = runtime::grpc::client_settings().handshake(io).await?;
    let channel = Channel::new(send, Uri::from_static("http://kas"), token);
    tokio::select! {
        biased;
        answer = ask(channel) => Ok(answer),
        _ = connection => bail!("the connection was closed before the answer"),
    }
}

/// The address to dial for a listen address; the wildcard addresses become localhost.
fn dial_address(address: &str) -> String {
    let port = ["0.0.0.0:", "[::]:"]
        .iter()
        .find_map(|all| address.strip_prefix(all));
    port.map_or_else(|| address.to_owned(), |port| format!("localhost:{port}"))
}

impl Process {
    fn of(info: ConnectedAgentInfo) -> Self {
        let meta = info.agent_meta.unwrap_or_default();
        let pod = [meta.pod_namespace, meta.pod_name];
        let at = info.connected_at.unwrap_or_default();
        Self {
            agent: info.agent_id,
            version: meta.version,
            pod: pod
                .into_iter()
                .filter(|it| !it.is_empty())
                .collect::<Vec<_>>()
                .join("/"),
            kubernetes: meta.kubernetes_version.unwrap_or_default().git_version,
            since: Timestamp::from_second(at.seconds).unwrap_or_default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_listens_on_all_interfaces_is_reached_on_loopback() {
        assert_eq!(dial_address("0.0.0.0:8153"), "localhost:8153");
        assert_eq!(dial_address("[::]:8153"), "localhost:8153");
        assert_eq!(dial_address("10.0.0.1:8153"), "10.0.0.1:8153");
    }

    #[test]
    fn a_server_that_cannot_be_asked_says_what_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("kas.yaml");
        let why = |text: &str| {
            std::fs::write(&file, text).unwrap();
            Server::of(&file).unwrap_err().to_string()
        };

        assert!(why("standalone: {file: agents.yaml}").contains("no section api"));
        let gitlab = "gitlab: {address: 'http://g', authentication_secret_file: s}";
        assert!(why(gitlab).contains("no section api"));
        let api = "{listen: {address: 'localhost:1', authentication_secret_file: s}}";
        std::fs::write(&file, format!("{gitlab}\napi: {api}")).unwrap();
        let server = Server::of(&file).unwrap();
        let error = server.agents().unwrap_err().to_string();
        assert!(error.contains("GitLab"), "{error}");
        assert_eq!(server.agent_id("7").unwrap(), 7);
        assert!(server.agent_id("name").is_err());
    }
}

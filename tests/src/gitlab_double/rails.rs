//! GitLab's side of the API that it calls: the calls of its Rails application,
//! with tokens as that signs them.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use anyhow::Result;
use http::{HeaderValue, Request, Response, Uri, header::AUTHORIZATION};
use hyper::{body::Incoming, client::conn::http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::agent::{
    agent_tracker::{
        ConnectedAgentInfo,
        rpc::{
            CountAgentsByAgentVersionsRequest, GetConnectedAgentsByAgentIDsRequest,
            GetConnectedAgentsByProjectIDsRequest, GetConnectedAgentsRequest,
            agent_tracker_client::AgentTrackerClient, get_connected_agents_request::Request as By,
        },
    },
    configuration_project::rpc::{
        ListAgentConfigFilesRequest, configuration_project_client::ConfigurationProjectClient,
    },
    entity::{GitalyInfo, GitalyRepository, ServerInfo},
    event::{GitPushEvent, Project},
    notifications::rpc::{GitPushEventRequest, notifications_client::NotificationsClient},
    server_info::rpc::{GetServerInfoRequest, server_info_client::ServerInfoClient},
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, body::Body};
use tower::Service;

use super::{GitLabDouble, server::now, token};

/// GitLab, connected to a kas.
#[derive(Debug)]
pub struct Rails {
    caller: Caller,
    _connection: AbortOnDropHandle<()>,
}

/// Makes calls on a connection.
#[derive(Debug, Clone)]
pub struct Caller {
    send: http2::SendRequest<Body>,
    origin: String,
    authorization: Option<HeaderValue>,
}

impl GitLabDouble {
    /// Connects to the API of a kas, as GitLab does.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn rails(&self, port: u16) -> Result<Rails> {
        self.rails_with(port, |_| {}).await
    }

    /// The same with other claims in the token than GitLab's.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn rails_with(&self, port: u16, change: impl FnOnce(&mut Value)) -> Result<Rails> {
        let secret = self.change(|scenario| scenario.secret());
        let mut claims = claims(now());
        change(&mut claims);
        Rails::connect(port, Some(&token::sign(&claims, &secret))).await
    }
}

/// What GitLab writes in its tokens.
fn claims(now: i64) -> Value {
    json!({
        "iss": "gitlab.example.com", "aud": "gitlab-kas", "jti": "0b1",
        "iat": now, "nbf": now - 5, "exp": now + 60,
    })
}

impl Rails {
    /// Connects with any token, or with none.
    ///
    /// # Errors
    /// When nobody listens there.
    pub async fn connect(port: u16, token: Option<&str>) -> Result<Self> {
        let socket = TcpStream::connect(("127.0.0.1", port)).await?;
        let executor = TokioExecutor::new();
        let (send, connection) = http2::handshake(executor, TokioIo::new(socket)).await?;
        let connection = tokio::spawn(async move {
            // A server that goes away is what some tests are about.
            connection.await.ok();
        });
        // GitLab writes the scheme like this.
        let authorization = token.map(|it| HeaderValue::from_str(&format!("bearer {it}")));
        Ok(Self {
            caller: Caller {
                send,
                origin: format!("http://127.0.0.1:{port}"),
                authorization: authorization.transpose()?,
            },
            _connection: AbortOnDropHandle::new(connection),
        })
    }

    /// For calls that are not here.
    #[must_use]
    pub fn caller(&self) -> Caller {
        self.caller.clone()
    }

    /// Which version answers.
    ///
    /// # Errors
    /// As kas says.
    pub async fn server_info(&self) -> Result<ServerInfo, Status> {
        let mut client = ServerInfoClient::new(self.caller());
        let answer = client.get_server_info(GetServerInfoRequest {}).await?;
        Ok(answer.into_inner().current_server_info.unwrap_or_default())
    }

    /// Who is connected, as GitLab 16.5 asks.
    ///
    /// # Errors
    /// As kas says.
    pub async fn connected(&self, by: Option<By>) -> Result<Vec<ConnectedAgentInfo>, Status> {
        let mut client = AgentTrackerClient::new(self.caller());
        let request = GetConnectedAgentsRequest { request: by };
        Ok(client
            .get_connected_agents(request)
            .await?
            .into_inner()
            .agents)
    }

    /// Who of these agents is connected, as later GitLabs ask.
    ///
    /// # Errors
    /// As kas says.
    pub async fn connected_by_agents(
        &self,
        ids: &[i64],
    ) -> Result<Vec<ConnectedAgentInfo>, Status> {
        let mut client = AgentTrackerClient::new(self.caller());
        let agent_ids = ids.to_vec();
        let request = GetConnectedAgentsByAgentIDsRequest { agent_ids };
        let answer = client.get_connected_agents_by_agent_i_ds(request).await?;
        Ok(answer.into_inner().agents)
    }

    /// The same as GitLab 18 asks.
    ///
    /// # Errors
    /// As kas says.
    pub async fn connected_agentks(&self, ids: &[i64]) -> Result<Vec<ConnectedAgentInfo>, Status> {
        let mut client = AgentTrackerClient::new(self.caller());
        let agent_ids = ids.to_vec();
        let request = GetConnectedAgentsByAgentIDsRequest { agent_ids };
        let answer = client.get_connected_agentks_by_agent_i_ds(request).await?;
        Ok(answer.into_inner().agents)
    }

    /// Who of the agents of these projects is connected.
    ///
    /// # Errors
    /// As kas says.
    pub async fn connected_by_projects(
        &self,
        ids: &[i64],
    ) -> Result<Vec<ConnectedAgentInfo>, Status> {
        let mut client = AgentTrackerClient::new(self.caller());
        let project_ids = ids.to_vec();
        let request = GetConnectedAgentsByProjectIDsRequest { project_ids };
        let answer = client.get_connected_agents_by_project_i_ds(request).await?;
        Ok(answer.into_inner().agents)
    }

    /// How many agents of each version are connected.
    ///
    /// # Errors
    /// As kas says.
    pub async fn versions(&self) -> Result<Vec<(String, i64)>, Status> {
        let mut client = AgentTrackerClient::new(self.caller());
        let request = CountAgentsByAgentVersionsRequest {};
        let answer = client.count_agents_by_agent_versions(request).await?;
        let mut versions: Vec<_> = answer.into_inner().agent_versions.into_iter().collect();
        versions.sort();
        Ok(versions)
    }

    /// Which agents a project has files for: their names and files. As GitLab asks of late,
    /// without a branch.
    ///
    /// # Errors
    /// As kas says.
    pub async fn config_files(
        &self,
        repository: GitalyRepository,
        gitaly: GitalyInfo,
    ) -> Result<Vec<(String, String)>, Status> {
        let mut client = ConfigurationProjectClient::new(self.caller());
        let request = ListAgentConfigFilesRequest {
            repository: Some(repository),
            gitaly_info: Some(gitaly),
            default_branch: String::new(),
        };
        let answer = client.list_agent_config_files(request).await?;
        let files = answer.into_inner().config_files.into_iter();
        Ok(files.map(|it| (it.agent_name, it.name)).collect())
    }

    /// Tells of a push to a project.
    ///
    /// # Errors
    /// As kas says.
    pub async fn push(&self, id: i64, path: &str) -> Result<(), Status> {
        let mut client = NotificationsClient::new(self.caller());
        let project = Some(Project {
            id,
            full_path: path.to_owned(),
        });
        let event = Some(GitPushEvent { project });
        client.git_push_event(GitPushEventRequest { event }).await?;
        Ok(())
    }
}

impl Service<Request<Body>> for Caller {
    type Response = Response<Incoming>;
    type Error = hyper::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Incoming>, hyper::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), hyper::Error>> {
        self.send.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let uri = format!("{}{}", self.origin, request.uri().path());
        *request.uri_mut() = Uri::try_from(uri).expect("an origin and a path make a URI");
        if let Some(authorization) = &self.authorization {
            let headers = request.headers_mut();
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        Box::pin(self.send.send_request(request))
    }
}

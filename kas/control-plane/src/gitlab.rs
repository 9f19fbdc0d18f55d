//! GitLab as the control plane: asked over its internal HTTP API.
//!
//! What it answered is remembered by the hash of all that an answer depends on.
//! When GitLab is away, good answers count on for a bounded grace, so that
//! connected agents and recent callers keep working; a refusal counts at once.

mod agent_configuration;
mod agent_info;
mod agents;
mod allowed_agents;
mod base;
mod breaker;
mod cache_keys;
mod call;
mod client;
mod connector;
mod error;
mod health;
mod impersonation;
mod job_request;
mod metrics;
mod modules;
mod number;
mod project_access;
mod proxy_user;
mod receptive_agents;
mod repositories;
mod retry;
mod token_recheck;
mod usage_metrics;

pub use agent_info::RegisteredAgent;
pub use client::Client;
pub use error::{AnswerError, CallError};
pub use job_request::JobAnswer;
pub use metrics::GitLabMetrics;
pub use modules::{
    ModuleApi, ModuleBody, ModuleError, ModulePath, ModuleRequest, PathError, RequestError,
    StreamedBody,
};
pub use repositories::{PollSharing, RepositorySettings};

use std::{net::IpAddr, path::PathBuf, sync::Arc, time::Duration};

use cluster_state::AgentId;
use futures_util::future::{BoxFuture, FutureExt, ready};
use http::HeaderValue;
use moka::sync::Cache;
use runtime::{
    connect::{ProxySetting, TargetError},
    jwt::SecretError,
    tls::TlsError,
};
use tokio::{sync::watch, time::Instant};

use super::{
    Access, AgentInfo, AuthError, Basis, CachePolicy, Configuration, ControlPlane, Credentials,
    DenyReason, Identity, IdentityKind, ReceptiveAgent, RefusedKind, Standing, Token, TokenCache,
    TokenHash,
};
use crate::{config, gitaly::Gitaly};
use agent_info::AgentInfoPaths;
use agents::Agents;
use allowed_agents::AllowedAgents;
use call::Requester;
use modules::ModuleTurns;
use proxy_user::{ProxyUser, UserProof};
use repositories::{Has, Repositories};

/// Why GitLab cannot be used as configured.
#[derive(Debug, thiserror::Error)]
pub enum SetupError {
    /// The address is none.
    #[error("gitlab.address: {0}")]
    Address(#[from] TargetError),
    /// The secret cannot be read.
    #[error("gitlab.authentication_secret_file: {0}")]
    Secret(#[from] SecretError),
    /// The secret is not GitLab's.
    #[error(
        "gitlab.authentication_secret_file: {} has {size} bytes, but GitLab's secret has 32 (in base64)",
        file.display()
    )]
    SecretSize {
        /// The file.
        file: PathBuf,
        /// How many it has.
        size: usize,
    },
    /// The CA cannot be used.
    #[error("gitlab.ca_certificate_file: {0}")]
    Tls(#[from] TlsError),
}

/// How long GitLab's answers are remembered.
#[derive(Debug, Clone, Copy)]
pub struct CachePolicies {
    /// Those about agents' tokens.
    pub agents: CachePolicy,
    /// Those about jobs and users.
    pub callers: CachePolicy,
}

/// The control plane that GitLab is. Cheap to clone.
#[derive(Debug, Clone)]
pub struct GitLab(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    client: Client,
    paths: AgentInfoPaths,
    /// How often connected agents' tokens are asked about.
    recheck: Duration,
    registered: TokenCache<Arc<RegisteredAgent>, AuthError>,
    jobs: TokenCache<Arc<AllowedAgents>, DenyReason>,
    users: TokenCache<Arc<ProxyUser>, DenyReason>,
    /// Users' tokens that were good for some agent.
    known_users: Cache<TokenHash, ()>,
    projects: TokenCache<bool, AuthError>,
    agents: Agents,
    module_turns: ModuleTurns,
    repositories: Repositories,
    receptive: watch::Sender<Arc<[ReceptiveAgent]>>,
    revision: watch::Sender<u64>,
}

impl GitLab {
    /// A control plane by its configuration. Nothing is sent yet.
    ///
    /// # Errors
    /// When a file or the address cannot be used.
    pub fn new(
        settings: &config::GitLab,
        policies: CachePolicies,
        repositories: RepositorySettings,
        proxy: ProxySetting,
        user_agent: HeaderValue,
    ) -> Result<Self, SetupError> {
        Ok(Self(Arc::new(Inner {
            client: Client::new(settings, proxy, user_agent)?,
            paths: AgentInfoPaths::default(),
            recheck: policies.agents.ttl,
            registered: TokenCache::new(policies.agents),
            jobs: TokenCache::new(policies.callers),
            users: TokenCache::new(policies.callers),
            known_users: Cache::new(policies.callers.capacity),
            projects: TokenCache::new(CachePolicy::default()),
            agents: Agents::default(),
            module_turns: ModuleTurns::new(settings.api_rate_limit, Instant::now()),
            repositories: Repositories::new(repositories),
            receptive: watch::Sender::new(Arc::from([])),
            revision: watch::Sender::new(0),
        })))
    }

    /// The client under it, for what is not remembered.
    #[must_use]
    pub fn client(&self) -> &Client {
        &self.0.client
    }

    /// What reads its repositories.
    #[must_use]
    pub fn gitaly(&self) -> &Gitaly {
        &self.0.repositories.settings.gitaly
    }

    /// What GitLab knows of the agent of a token, and where its repository is.
    ///
    /// # Errors
    /// When GitLab refuses the token, or cannot be asked.
    pub async fn registered(&self, token: &Token) -> Result<Arc<RegisteredAgent>, AuthError> {
        self.registered_from(token, None).await
    }

    /// The same for somebody at an address.
    async fn registered_from(
        &self,
        token: &Token,
        from: Option<IpAddr>,
    ) -> Result<Arc<RegisteredAgent>, AuthError> {
        let ask = |standing| {
            let (inner, token) = (self.0.clone(), token.clone());
            async move { inner.ask_agent(&token, requester(standing, from)).await }.boxed()
        };
        let registered = self.0.registered.get(token.hash(), ask).await?;
        self.0.agents.saw(&registered, token);
        Ok(registered)
    }

    async fn authorize_job(
        &self,
        token: &Token,
        agent: AgentId,
        from: Option<IpAddr>,
    ) -> Result<Access, DenyReason> {
        let ask = |standing| {
            let (inner, token) = (self.0.clone(), token.clone());
            async move {
                let answer = allowed_agents::allowed_agents(
                    &inner.client,
                    &token,
                    requester(standing, from),
                )
                .await;
                answer
                    .map(Arc::new)
                    .map_err(|e| allowed_agents::refusal(&e))
            }
            .boxed()
        };
        let allowed = self.0.jobs.get(token.hash(), ask).await?;
        let found = allowed.agents.iter().find(|it| it.id == agent);
        let found = found.ok_or_else(|| DenyReason::Refused {
            kind: RefusedKind::Forbidden,
            words: "agentId is not allowed".to_owned(),
        })?;
        Ok(Access {
            agent: self.0.agent(agent, found.config_project),
            identity: Identity {
                kind: IdentityKind::CiJob,
                name: allowed.job.id.to_string(),
            },
            user_id: allowed.job.user_id,
            impersonation: impersonation::of_job(&allowed.job, found),
            basis: Basis::default(),
        })
    }

    async fn authorize_user(
        &self,
        proof: UserProof,
        agent: AgentId,
        from: Option<IpAddr>,
    ) -> Result<Access, DenyReason> {
        if agent.0 <= 0 {
            return Err(DenyReason::UnknownAgent { agent });
        }
        let ask = |standing| {
            let (inner, proof) = (self.0.clone(), proof.clone());
            async move {
                // A user who is known is no stranger at the next agent.
                let secret = proof.secret().hash();
                let requester = match inner.known_users.contains_key(&secret) {
                    true => Requester::Known,
                    false => requester(standing, from),
                };
                let answer = proxy_user::authorize(&inner.client, agent, &proof, requester).await;
                if answer.is_ok() {
                    inner.known_users.insert(secret, ());
                }
                answer
                    .map(Arc::new)
                    .map_err(|e| proxy_user::refusal(&e, agent))
            }
            .boxed()
        };
        let user = self
            .0
            .users
            .get(cache_keys::of_user(agent, &proof), ask)
            .await?;
        Ok(Access {
            agent: self.0.agent(agent, user.config_project),
            identity: Identity {
                kind: IdentityKind::User,
                name: user.username.clone(),
            },
            user_id: user.id,
            impersonation: impersonation::of_user(&user, proof.access_type()),
            basis: Basis::default(),
        })
    }
}

/// Whose turn it is to ask: this server's own questions are of those whom it knows.
fn requester(standing: Standing, from: Option<IpAddr>) -> Requester {
    match (standing, from) {
        (Standing::Unknown, Some(from)) => Requester::Unknown(from),
        (Standing::Known, _) | (Standing::Unknown, None) => Requester::Known,
    }
}

impl GitLab {
    async fn decide(
        &self,
        credentials: &Credentials,
        agent: AgentId,
        from: Option<IpAddr>,
    ) -> Result<Access, DenyReason> {
        let proof = match credentials.clone() {
            Credentials::Ci { token } => return self.authorize_job(&token, agent, from).await,
            Credentials::Pat { token } => UserProof::Token(token),
            Credentials::Oidc { .. } => {
                return Err(DenyReason::Unsupported {
                    kind: "OIDC tokens",
                });
            }
            Credentials::Session {
                access_key,
                csrf_token,
            } => UserProof::Session {
                access_key,
                csrf_token,
            },
        };
        self.authorize_user(proof, agent, from).await
    }
}

impl Inner {
    async fn ask_agent(
        &self,
        token: &Token,
        requester: Requester,
    ) -> Result<Arc<RegisteredAgent>, AuthError> {
        let answer = self.paths.agent_info(&self.client, token, requester).await;
        answer.map(Arc::new).map_err(|error| {
            if error.refusal().is_some() {
                tracing::info!(%error, "GitLab rejected an agent token");
            }
            agent_info::refusal(&error)
        })
    }

    /// An agent by what is known of it, at least its number and project.
    fn agent(&self, id: AgentId, project_id: i64) -> Arc<AgentInfo> {
        self.agents.get(id).unwrap_or_else(|| {
            Arc::new(AgentInfo {
                id,
                name: String::new(),
                project_id,
                project_path: String::new(),
                default_branch: String::new(),
            })
        })
    }
}

impl ControlPlane for GitLab {
    fn agent_by_token<'a>(
        &'a self,
        token: &'a Token,
    ) -> BoxFuture<'a, Result<Arc<AgentInfo>, AuthError>> {
        async { Ok(self.registered(token).await?.agent.clone()) }.boxed()
    }

    fn agent_by_token_from<'a>(
        &'a self,
        token: &'a Token,
        from: IpAddr,
    ) -> BoxFuture<'a, Result<Arc<AgentInfo>, AuthError>> {
        async move {
            let registered = self.registered_from(token, Some(from)).await?;
            Ok(registered.agent.clone())
        }
        .boxed()
    }

    fn agent(&self, id: AgentId) -> BoxFuture<'_, Option<Arc<AgentInfo>>> {
        ready(self.0.agents.get(id)).boxed()
    }

    fn authorize<'a>(
        &'a self,
        credentials: &'a Credentials,
        agent: AgentId,
    ) -> BoxFuture<'a, Result<Access, DenyReason>> {
        self.decide(credentials, agent, None).boxed()
    }

    fn authorize_from<'a>(
        &'a self,
        credentials: &'a Credentials,
        agent: AgentId,
        from: IpAddr,
    ) -> BoxFuture<'a, Result<Access, DenyReason>> {
        self.decide(credentials, agent, Some(from)).boxed()
    }

    fn configuration(&self, agent: AgentId, has: &str) -> Option<watch::Receiver<Configuration>> {
        let stream = self.0.agents.configuration(agent, has)?;
        let project = stream.registered.agent.project_id;
        let has = match stream.unknown_version {
            true => Has::UnknownVersion,
            false if has.is_empty() => Has::Nothing,
            false => Has::KnownVersion,
        };
        self.0.repositories.subscribe(project, agent, has);
        Some(stream.configuration)
    }

    fn revision(&self) -> watch::Receiver<u64> {
        self.0.revision.subscribe()
    }

    fn known_agents(&self) -> Vec<Arc<AgentInfo>> {
        self.0.agents.all()
    }

    fn may_read_project<'a>(
        &'a self,
        token: &'a Token,
        path: &'a str,
    ) -> BoxFuture<'a, Result<bool, AuthError>> {
        self.may_read_project(token, path).boxed()
    }

    fn receptive_agents(&self) -> watch::Receiver<Arc<[ReceptiveAgent]>> {
        self.0.receptive.subscribe()
    }
}

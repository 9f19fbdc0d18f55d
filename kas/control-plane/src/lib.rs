//! Whoever knows agents, tokens, users and access rules, behind one seam: [`ControlPlane`].
//!
//! [`standalone`] reads one file; [`gitlab`] asks a GitLab, and reads agents' configurations by [`gitaly`].
//! It knows no listener, no tunnel and no request of a user: both gateways see only the trait, and which
//! one runs is chosen where the process is composed.

mod access;
mod agent;
pub mod agent_file;
mod call_metrics;
pub mod config;
mod credentials;
mod error;
pub mod gitaly;
pub mod gitlab;
mod join;
pub mod kubeconfig;
pub mod notifications;
mod receptive;
pub mod standalone;
mod token_bucket;
mod token_cache;
pub mod usage;

pub use access::{Access, Basis, Identity, IdentityKind, LoginIssuer, Permitted, RecordSessions};
pub use agent::{AgentConfigurationVersion, AgentInfo, Configuration, Problem};
pub use credentials::{Credentials, Token, TokenHash};
pub use error::{AuthError, DenyReason, IdTokenRefusal, RefusedKind};
pub use join::JoinError;
pub use receptive::{ClientCertificate, Material, MaterialError, Proof, ReceptiveAgent};
pub use token_cache::{CachePolicy, Retryable, Standing, TokenCache};

use std::{net::IpAddr, sync::Arc};

use cluster_state::AgentId;
use futures_util::future::BoxFuture;
use tokio::sync::watch;

/// Knows the agents, their configuration, and who may use them.
///
/// All futures are cancel-safe: dropping one leaves nothing behind. A caller
/// puts its own deadline around them.
pub trait ControlPlane: std::fmt::Debug + Send + Sync + 'static {
    /// The agent that a token belongs to.
    fn agent_by_token<'a>(
        &'a self,
        token: &'a Token,
    ) -> BoxFuture<'a, Result<Arc<AgentInfo>, AuthError>>;

    /// The same for somebody who connects from an address: those whose tokens were never good share
    /// what there is for their address. By default all are asked about alike.
    fn agent_by_token_from<'a>(
        &'a self,
        token: &'a Token,
        _from: IpAddr,
    ) -> BoxFuture<'a, Result<Arc<AgentInfo>, AuthError>> {
        self.agent_by_token(token)
    }

    /// The agent whose token this is or was, for records of what is refused; `None` if that is not known without
    /// asking anybody.
    fn token_owner(&self, _token: &Token) -> Option<AgentId> {
        None
    }

    /// The agent that a join token is for, if that is known without asking anybody.
    fn join_token_owner(&self, _token: &TokenHash) -> Option<AgentId> {
        None
    }

    /// The same for one that is not known yet. May read a file.
    ///
    /// # Errors
    /// When it is not found either, or there are no join tokens here, as by default.
    fn find_join_token(&self, _token: &TokenHash) -> Result<AgentId, JoinError> {
        Err(JoinError::Unsupported)
    }

    /// Makes `own` the hash of a token of the agent that the join token is for: once, for the first who asks, and
    /// again for the same.
    ///
    /// # Errors
    /// When it is not so.
    fn join(
        &self,
        _token: TokenHash,
        _own: TokenHash,
        _from: IpAddr,
    ) -> BoxFuture<'_, Result<Arc<AgentInfo>, JoinError>> {
        Box::pin(std::future::ready(Err(JoinError::Unsupported)))
    }

    /// The agent of that number, if there is one.
    ///
    /// A remote control plane may answer from what it learned lately.
    fn agent(&self, id: AgentId) -> BoxFuture<'_, Option<Arc<AgentInfo>>>;

    /// Whether credentials may use an agent, and as whom.
    fn authorize<'a>(
        &'a self,
        credentials: &'a Credentials,
        agent: AgentId,
    ) -> BoxFuture<'a, Result<Access, DenyReason>>;

    /// The same for somebody who asks from an address: those whose credentials were never good share
    /// what there is for their address. By default all are asked about alike.
    fn authorize_from<'a>(
        &'a self,
        credentials: &'a Credentials,
        agent: AgentId,
        _from: IpAddr,
    ) -> BoxFuture<'a, Result<Access, DenyReason>> {
        self.authorize(credentials, agent)
    }

    /// Whose credentials these are, and which agents they may use; no answer by default.
    fn permitted<'a>(
        &'a self,
        _credentials: &'a Credentials,
    ) -> BoxFuture<'a, Result<Permitted, DenyReason>> {
        let kind = "questions which agents somebody may use";
        Box::pin(std::future::ready(Err(DenyReason::Unsupported { kind })))
    }

    /// Where people log in who use this control plane; none by default.
    fn login_issuers(&self) -> Vec<LoginIssuer> {
        Vec::new()
    }

    /// The configuration of an agent, now and on every change, for an agent that
    /// has the version named `has`, or none yet (empty).
    ///
    /// `None` for an agent that is not known. The sender goes away, and
    /// `changed()` fails, when the agent is removed: its streams should end.
    fn configuration(&self, agent: AgentId, has: &str) -> Option<watch::Receiver<Configuration>>;

    /// A number that grows whenever tokens, agents or rules may have changed.
    ///
    /// Who caches an answer of this trait drops it then, and who serves a
    /// connected agent asks again whether its token is still good.
    fn revision(&self) -> watch::Receiver<u64>;

    /// The agents known without asking anybody, for messages and lists.
    fn known_agents(&self) -> Vec<Arc<AgentInfo>>;

    /// Whether these are all that there are. By default they are those that were here lately.
    fn knows_all_agents(&self) -> bool {
        false
    }

    /// Whether the agent of a token may read the project of this path; none by
    /// default, as whoever knows no projects cannot say of any.
    fn may_read_project<'a>(
        &'a self,
        _token: &'a Token,
        _path: &'a str,
    ) -> BoxFuture<'a, Result<bool, AuthError>> {
        Box::pin(std::future::ready(Ok(false)))
    }

    /// The agents that wait to be dialled, now and on every change; none by default.
    fn receptive_agents(&self) -> watch::Receiver<Arc<[ReceptiveAgent]>> {
        watch::channel(Arc::from([])).1
    }
}

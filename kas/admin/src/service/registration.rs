//! Agents that are added, their tokens, and what kubectl needs for their clusters: by the code of the command line, on
//! the standalone file, for administrators.

use std::{path::Path, sync::Arc, time::Duration};

use control_plane::{
    AgentInfo, IdentityKind, Token,
    kubeconfig::{self, Context, Credential, PLACEHOLDER},
    standalone::{
        EditError, Standalone,
        change::ChangeError,
        installation::{Installation, KasAddressError},
        registration::{self, Invitation, RegistrationError},
    },
};
use jiff::Timestamp;
use runtime::shell::quoted;

use super::{
    Admin,
    change::{Allowed, Subject},
    find, reference,
};
use crate::{
    Failure,
    caller::Caller,
    replica::count,
    role::{Action, Role},
    v1::{
        AddAgentRequest, AgentReference, AgentToken, CreateJoinTokenRequest, GetKubeconfigRequest,
        JoinToken, Kubeconfig, Registration, RevokeAgentRequest, RevokeAgentResponse,
        RotateAgentTokenRequest,
    },
};

/// In the place of a URL that is not known.
const UNKNOWN_SERVER: &str = "https://KAS-ADDRESS/k8s-proxy/";
/// Bytes of a URL, at most.
const MAX_SERVER_BYTES: usize = 1024;
/// Why nothing is changed where a GitLab is the control plane.
const IN_GITLAB: &str = "agents and their tokens are registered in GitLab: add and revoke them there, in the agent's \
                         project under Operate > Kubernetes clusters";

impl Admin {
    /// Whether `caller` may add agents and change their tokens here.
    pub(crate) async fn registration(&self, caller: &Caller) -> Registration {
        let possible = async {
            let standalone = self.standalone()?;
            caller.require(Role::Administrator)?;
            let writable = standalone.check_writable().await;
            writable.map_err(failure)
        };
        let problem = possible.await.err().map(|it| it.to_string());
        Registration {
            possible: problem.is_none(),
            problem: problem.unwrap_or_default(),
        }
    }

    /// Registers an agent, with a join token.
    ///
    /// # Errors
    /// When the caller may not, the name is taken or none, or the file cannot be changed.
    pub(crate) async fn add_agent(
        &self,
        asked: AddAgentRequest,
        caller: &Caller,
    ) -> Result<JoinToken, Failure> {
        let subject = Subject::named(format!("agent {}", asked.name));
        let (standalone, allowed) = self.registrar(caller, Action::AddAgent, &subject)?;
        let installation = installation(&asked.kas_address)?;
        let (name, lifetime) = (asked.name, lifetime(asked.lifetime_seconds));
        let adding = async move {
            let made = standalone
                .register(move |file| registration::add_agent(file, &name, None, lifetime, now()));
            let made = made.await.map_err(failure)?;
            Ok(join_token(&made, &installation))
        };
        self.change(allowed, subject, adding).await
    }

    /// Makes a join token for an agent that there is.
    ///
    /// # Errors
    /// When the caller may not, the agent cannot join, or the file cannot be changed.
    pub(crate) async fn create_join_token(
        &self,
        asked: CreateJoinTokenRequest,
        caller: &Caller,
    ) -> Result<JoinToken, Failure> {
        let subject = Subject::named(format!("agent {}", asked.agent));
        let (standalone, allowed) = self.registrar(caller, Action::CreateJoinToken, &subject)?;
        let installation = installation(&asked.kas_address)?;
        let lifetime = lifetime(asked.lifetime_seconds);
        let agent = registered(&standalone, &asked.agent)?;
        let name = agent.name.clone();
        let making = async move {
            let made =
                standalone.register(move |file| registration::invite(file, &name, lifetime, now()));
            let made = made.await.map_err(failure)?;
            Ok(join_token(&made, &installation))
        };
        self.change(allowed, Subject::agent(&agent), making).await
    }

    /// Gives an agent a new token.
    ///
    /// # Errors
    /// When the caller may not, there is no such agent, or the file cannot be changed.
    pub(crate) async fn rotate_token(
        &self,
        asked: RotateAgentTokenRequest,
        caller: &Caller,
    ) -> Result<AgentToken, Failure> {
        let subject = Subject::named(format!("agent {}", asked.agent));
        let (standalone, allowed) = self.registrar(caller, Action::RotateAgentToken, &subject)?;
        let grace = asked.grace_seconds.map(Duration::from_secs);
        let grace = grace.unwrap_or(registration::ROTATION_GRACE);
        let agent = registered(&standalone, &asked.agent)?;
        let (name, subject) = (agent.name.clone(), Subject::agent(&agent));
        let about = subject.clone();
        let rotating = async move {
            let made = standalone
                .register(move |file| registration::rotate_token(file, &name, grace, now()));
            let made = made.await.map_err(failure)?;
            let told = AgentToken {
                agent: Some(agent),
                token: made.token.expose().to_owned(),
                ended: count(made.ended),
                grace_seconds: grace.as_secs(),
            };
            Ok((told, about))
        };
        self.change(allowed, subject, rotating).await
    }

    /// Takes all tokens from an agent.
    ///
    /// # Errors
    /// When the caller may not, there is no such agent, or the file cannot be changed.
    pub(crate) async fn revoke_agent(
        &self,
        asked: RevokeAgentRequest,
        caller: &Caller,
    ) -> Result<RevokeAgentResponse, Failure> {
        let subject = Subject::named(format!("agent {}", asked.agent));
        let (standalone, allowed) = self.registrar(caller, Action::RevokeAgent, &subject)?;
        let agent = registered(&standalone, &asked.agent)?;
        let (name, subject) = (agent.name.clone(), Subject::agent(&agent));
        let about = subject.clone();
        let revoking = async move {
            let revoked = standalone.register(move |file| registration::revoke(file, &name));
            let revoked = revoked.await.map_err(failure)?;
            let told = RevokeAgentResponse {
                agent: Some(agent),
                revoked: count(revoked),
            };
            Ok((told, about))
        };
        self.change(allowed, subject, revoking).await
    }

    /// What kubectl needs to reach an agent's cluster. It holds no token: nobody gets another person's by it.
    ///
    /// # Errors
    /// When there is no such agent, or the server is no URL.
    pub(crate) async fn kubeconfig(
        &self,
        asked: &GetKubeconfigRequest,
    ) -> Result<Kubeconfig, Failure> {
        let server = match &*asked.server {
            "" => UNKNOWN_SERVER,
            given => given,
        };
        if server.len() > MAX_SERVER_BYTES || !kubeconfig::is_server(server) {
            return Err(Failure::Invalid(
                "server must be a URL such as https://kas.example.com/k8s-proxy/".to_owned(),
            ));
        }
        let fleet = self.fleet.snapshot().await;
        let agent = reference(find(&fleet, &asked.agent)?);
        let name = match &*agent.name {
            "" => format!("agent-{}", agent.id),
            name => name.to_owned(),
        };
        let (placeholder, by_login) = (
            Token::new(PLACEHOLDER),
            !self.sources.control_plane.login_issuers().is_empty(),
        );
        let file = kubeconfig::Kubeconfig {
            server,
            certificate_authority: None,
            contexts: vec![Context {
                agent: cluster_state::AgentId(agent.id),
                name: &name,
                who: "you".to_owned(),
                credential: match by_login {
                    true => Credential::Exec(Path::new("kas")),
                    false => Credential::Token(IdentityKind::User, &placeholder),
                },
            }],
        };
        let text = file
            .to_yaml()
            .map_err(|error| Failure::Invalid(error.to_string()))?;
        let credential = if by_login { "login" } else { "placeholder" };
        Ok(Kubeconfig {
            agent: Some(agent),
            kubeconfig: text,
            credential: credential.to_owned(),
            explanation: self.explanation(server, by_login),
        })
    }

    fn explanation(&self, server: &str, by_login: bool) -> String {
        let what = match (by_login, &self.sources.standalone) {
            (true, _) => format!(
                "It holds no token: kubectl calls `kas credential`, after `kas login --server {}`.",
                quoted(server)
            ),
            (false, Some(_)) => format!(
                "It holds no token: put yours in the place of {PLACEHOLDER}. `kas user create` and `kas user \
                 rotate-token` make one."
            ),
            (false, None) => format!(
                "It holds no token: put a personal access token of GitLab with the scope k8s_proxy in the place of \
                 {PLACEHOLDER}."
            ),
        };
        let clear = match server.starts_with("http://") {
            true => " kubectl sends tokens to https:// servers only, not to this one.",
            false => "",
        };
        format!(
            "{what} A CA that systems do not know goes into the file as certificate-authority-data.{clear}"
        )
    }

    fn standalone(&self) -> Result<&Arc<Standalone>, Failure> {
        let standalone = self.sources.standalone.as_ref();
        standalone.ok_or_else(|| Failure::Invalid(IN_GITLAB.to_owned()))
    }

    /// What keeps agents, for a caller who may change it.
    fn registrar(
        &self,
        caller: &Caller,
        action: Action,
        subject: &Subject,
    ) -> Result<(Arc<Standalone>, Allowed), Failure> {
        let standalone = self.standalone()?.clone();
        Ok((standalone, self.allow(caller, action, subject)?))
    }
}

/// The answer about a join token that was made, and whose it is.
fn join_token(made: &Invitation, installation: &Installation) -> (JoinToken, Subject) {
    let agent = AgentReference {
        id: made.agent,
        name: made.name.clone(),
    };
    let subject = Subject::agent(&agent);
    let told = JoinToken {
        agent: Some(agent),
        token: made.token.expose().to_owned(),
        expires_at: made.expires_at.to_string(),
        helm: installation.helm(made),
        agentk: installation.agentk(made),
        ended: count(made.ended),
    };
    (told, subject)
}

/// An agent of the file whose tokens are to be changed, by its number or name. One that was made just now is known. A
/// number that is another agent's name is taken for neither.
fn registered(standalone: &Standalone, wanted: &str) -> Result<AgentReference, Failure> {
    let directory = standalone.directory();
    let id: Option<i64> = wanted.parse().ok();
    let numbered = id.and_then(|id| directory.agents().find(|agent| agent.id.0 == id));
    let named = directory.agents().find(|agent| agent.name == wanted);
    match (numbered, named) {
        (Some(numbered), Some(named)) if numbered.id != named.id => Err(Failure::Invalid(format!(
            "{wanted} is the number of agent {} and the name of the agent with the number {}: say which by its other \
             one",
            numbered.name, named.id.0
        ))),
        (Some(agent), _) | (None, Some(agent)) => Ok(reference_of(agent)),
        (None, None) => Err(Failure::NotFound(
            "no agent of this number or name is registered: see `kas agent list`".to_owned(),
        )),
    }
}

fn reference_of(agent: &AgentInfo) -> AgentReference {
    AgentReference {
        id: agent.id.0,
        name: agent.name.clone(),
    }
}

/// For agents that reach kas at this address; an empty one is not known.
fn installation(kas_address: &str) -> Result<Installation, Failure> {
    let address = Some(kas_address).filter(|it| !it.is_empty());
    let address = address.map(str::parse).transpose();
    Ok(Installation {
        kas_address: address
            .map_err(|error: KasAddressError| Failure::Invalid(error.to_string()))?,
        ..Installation::from_environment()
    })
}

fn lifetime(seconds: u64) -> Duration {
    match seconds {
        0 => registration::JOIN_TOKEN_LIFETIME,
        seconds => Duration::from_secs(seconds),
    }
}

/// The time, in whole seconds as people read it.
fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()
}

fn failure(error: RegistrationError) -> Failure {
    let words = error.to_string();
    match error {
        RegistrationError::Change(ChangeError::Missing { .. }) => Failure::NotFound(words),
        RegistrationError::Change(ChangeError::Edit(EditError::Io { .. })) => {
            Failure::Unavailable(format!(
                "this replica cannot change the file of agents ({words}): use `kas cluster` and `kas agent` where the \
                 file is kept, or give replicas a volume that they may write"
            ))
        }
        RegistrationError::Change(ChangeError::Edit(_)) | RegistrationError::Random(_) => {
            Failure::Unavailable(words)
        }
        RegistrationError::Interrupted(_) => Failure::Unfinished(words),
        RegistrationError::Change(
            ChangeError::Name(_)
            | ChangeError::Exists { .. }
            | ChangeError::IdTaken { .. }
            | ChangeError::BadId
            | ChangeError::NameOrNumber { .. }
            | ChangeError::NoRule { .. }
            | ChangeError::DialledAgentJoins { .. }
            | ChangeError::NoRoomToJoin { .. },
        )
        | RegistrationError::Lifetime => Failure::Invalid(words),
    }
}

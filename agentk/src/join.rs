//! Obtains the agent's token by a join token, when there is none yet.
//!
//! The agent makes its token itself, writes it down as one that waits, and tells kas its hash only. If it ends
//! before it knows the answer, it asks again with the same token, which changes nothing at kas; and pods that start
//! together agree on the one that was written down first.

mod keeper;

use std::{path::PathBuf, time::Duration};

use http::HeaderValue;
use proto::join::rpc::{JoinRequest, JoinResponse, joiner_client::JoinerClient};
use rand::{TryRngCore, rngs::OsRng};
use runtime::{backoff::Backoff, connect::ConnectError, telemetry::Causes, tls::TlsError};
use sha2::{Digest, Sha256};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::{Code, Status};

use crate::{
    cluster::Cluster,
    config::{Config, Join, Link},
    last_failure::LastFailure,
    session::Dialer,
    token::{Secret, Token},
};
use keeper::{Keeper, KeeperError, Kept};

/// How long one attempt may take, from dialling to the answer.
const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(30);
/// What tokens of agents begin with.
const PREFIX: &str = "glagent-";
const RANDOM_BYTES: usize = 32;

/// An agent that cannot join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// There is no join token.
    #[error("cannot read the join token file {}", file.display())]
    Read {
        /// The file.
        file: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It is none.
    #[error("the join token in {} is empty or has characters that no token has", .0.display())]
    Unusable(PathBuf),
    /// It is not for this.
    #[error("an agent that kas dials cannot join")]
    Dialled,
    /// kas refuses it.
    #[error("kas refuses the join token: {0}")]
    Refused(String),
    /// kas knows no join tokens.
    #[error(
        "this kas knows no join tokens, as it is an older one or GitLab's: start agentk with --token-file alone"
    )]
    NotKnown,
    /// The token cannot be kept.
    #[error(transparent)]
    Keeper(#[from] KeeperError),
    /// No TLS to kas.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// No random numbers.
    #[error("cannot make a token: the operating system gives no random numbers")]
    Random(#[source] std::io::Error),
}

/// An attempt that failed, and may succeed later.
#[derive(Debug, thiserror::Error)]
enum AttemptError {
    #[error("cannot connect to kas")]
    Connect(#[from] ConnectError),
    #[error("kas did not answer in time")]
    Late,
    #[error("{}", .0.message())]
    Failed(Box<Status>),
}

/// The agent's token: the one that it has, or else a new one that kas knows from now on. `None` if the agent is to
/// stop before that.
pub(crate) async fn token(
    config: &Config,
    join: &Join,
    cluster: &Cluster,
    stop: &CancellationToken,
) -> Result<Option<Token>, JoinError> {
    stop.run_until_cancelled(obtain(config, join, cluster))
        .await
        .transpose()
}

async fn obtain(config: &Config, join: &Join, cluster: &Cluster) -> Result<Token, JoinError> {
    let keeper = Keeper::open(join, config.pod.as_ref(), cluster)?;
    let kept = match keeper.read().await? {
        Kept::Nothing => keeper.write_waiting(new_token()?).await?,
        kept => kept,
    };
    let own = match kept {
        // It has joined before.
        Kept::Token(own) => return Ok(keeper.token(own)),
        Kept::Waiting(own) => own,
        Kept::Nothing => return Err(KeeperError::Lost.into()),
    };
    let Link::Dial(target) = &config.link else {
        return Err(JoinError::Dialled);
    };
    let dialer = Dialer::new(target.clone(), config)?;
    let joined = ask_until_answered(&dialer, join, &own).await?;
    tracing::info!(
        agent.id = joined.agent_id,
        agent.name = joined.agent_name,
        "joined: kas knows this agent's own token"
    );
    let own = keeper.write_token(own).await?;
    Ok(keeper.token(own))
}

async fn ask_until_answered(
    dialer: &Dialer,
    join: &Join,
    own: &Secret,
) -> Result<JoinResponse, JoinError> {
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX, 1.8);
    let mut last_failure = LastFailure::default();
    loop {
        let authorization = join_token(join).await?;
        let asked = tokio::time::timeout(JOIN_TIMEOUT, ask(dialer, authorization, own)).await;
        let error = match asked.unwrap_or(Err(AttemptError::Late)) {
            Ok(response) => return Ok(response),
            Err(AttemptError::Failed(status)) => final_refusal(status)?,
            Err(error) => error,
        };
        let error = Causes(&error).to_string();
        if last_failure.is_new(&error) {
            tracing::warn!(kas_url = %dialer.address(), error, "could not join; trying again");
        }
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
}

/// What will not be otherwise the next time ends the agent.
fn final_refusal(status: Box<Status>) -> Result<AttemptError, JoinError> {
    use Code::{
        FailedPrecondition, InvalidArgument, PermissionDenied, Unauthenticated, Unimplemented,
    };
    match status.code() {
        Unimplemented => Err(JoinError::NotKnown),
        Unauthenticated | PermissionDenied | FailedPrecondition | InvalidArgument => {
            Err(JoinError::Refused(status.message().to_owned()))
        }
        _ => Ok(AttemptError::Failed(status)),
    }
}

async fn ask(
    dialer: &Dialer,
    authorization: HeaderValue,
    own: &Secret,
) -> Result<JoinResponse, AttemptError> {
    let (connection, driver) = dialer.dial(authorization, Vec::new()).await?;
    let _driver = AbortOnDropHandle::new(tokio::spawn(driver));
    let request = JoinRequest {
        token_sha256: Sha256::digest(own.expose()).to_vec().into(),
    };
    let answer = JoinerClient::new(connection.channel()).join(request).await;
    let answer = answer.map_err(|status| AttemptError::Failed(Box::new(status)))?;
    Ok(answer.into_inner())
}

/// Read for each attempt: a Secret may have another one by then.
async fn join_token(join: &Join) -> Result<HeaderValue, JoinError> {
    let text = tokio::fs::read_to_string(&join.token_file).await;
    let text = text.map_err(|source| JoinError::Read {
        file: join.token_file.clone(),
        source,
    })?;
    let unusable = || JoinError::Unusable(join.token_file.clone());
    let token = text.trim();
    if token.is_empty() {
        return Err(unusable());
    }
    let mut value = HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| unusable())?;
    value.set_sensitive(true);
    Ok(value)
}

fn new_token() -> Result<Secret, JoinError> {
    let mut random = [0; RANDOM_BYTES];
    OsRng
        .try_fill_bytes(&mut random)
        .map_err(|error| JoinError::Random(std::io::Error::other(error)))?;
    Ok(format!("{PREFIX}{}", hex::encode(random)).into())
}

//! What a doctor asks of Redis. It reads only.

use std::time::{Duration, SystemTime};

use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::{ClientLike as _, EventInterface as _},
    types::{ClusterHash, CustomCommand, FromValue, Value},
};
use tokio::time::{Instant, timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{
    StoreMetrics, fields,
    format::{self, Keys, MAX_LEASES},
    options::RedisOptions,
    signature::Signer,
};
use crate::store::Lease;

/// What Redis has told.
#[derive(Debug)]
pub struct Diagnosis {
    /// Its version.
    pub version: String,
    /// How long the quickest of a few pings took.
    pub latency: Duration,
    /// The time by its clock.
    pub time: SystemTime,
    /// How long the question about that took.
    pub time_took: Duration,
    /// The replicas that have a lease, also ones that have just ended.
    pub leases: Vec<Lease>,
    /// Whether there are leases that were not signed with the secret of this replica.
    pub has_strangers: bool,
}

/// Why Redis tells nothing.
#[derive(Debug, thiserror::Error)]
pub enum DiagnosisError {
    /// User or password are wrong, or are missing.
    #[error("{0}")]
    Credentials(#[source] Error),
    /// It cannot be used for another reason.
    #[error("{0}")]
    Failed(#[source] Error),
    /// The relay to the servers behind sentinels cannot be opened.
    #[error("{0}")]
    Relay(#[from] std::io::Error),
    /// It does not answer.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
}

impl From<Error> for DiagnosisError {
    fn from(error: Error) -> Self {
        match error.kind() {
            ErrorKind::Auth => Self::Credentials(error),
            _ => Self::Failed(error),
        }
    }
}

const PINGS: usize = 3;

/// Asks a Redis what there is to know, within so much time.
///
/// # Errors
/// [`DiagnosisError`], which tells wrong credentials from other reasons.
pub async fn diagnose(
    options: &RedisOptions,
    limit: Duration,
) -> Result<Diagnosis, DiagnosisError> {
    match timeout(limit, ask(options)).await {
        Ok(asked) => asked,
        Err(_) => Err(DiagnosisError::Timeout(limit)),
    }
}

async fn ask(options: &RedisOptions) -> Result<Diagnosis, DiagnosisError> {
    let relay = options.relay().transpose()?;
    let client = options.client(relay.as_ref())?;
    let mut errors = client.error_rx();
    let _connection = AbortOnDropHandle::new(client.connect());
    // It would try again for ever; the first reason is the one to tell.
    tokio::select! {
        biased;
        Ok((error, _)) = errors.recv() => return Err(error.into()),
        connected = client.wait_for_connect() => connected?,
    }
    let mut latency = Duration::MAX;
    for _ in 0..PINGS {
        let began = Instant::now();
        command::<Value>(&client, "PING", &[]).await?;
        latency = latency.min(began.elapsed());
    }
    let began = Instant::now();
    let time: Vec<u64> = command(&client, "TIME", &[]).await?;
    let time_took = began.elapsed();
    let seconds = time.first().copied().unwrap_or_default();
    let micros = time.get(1).copied().unwrap_or_default();
    let info: String = command(&client, "INFO", &["server"]).await?;
    let version = info.lines().find_map(|line| {
        let version = line.strip_prefix("valkey_version:");
        version.or_else(|| line.strip_prefix("redis_version:"))
    });
    let keys = Keys::new(&options.key_prefix, options.secret.is_some());
    let (leases, _) = fields(&client, keys.replicas.as_str(), MAX_LEASES).await?;
    let all = leases.len();
    let signer = Signer::new(options.secret.as_ref(), StoreMetrics::default());
    let leases = format::read_leases(leases, &signer);
    Ok(Diagnosis {
        version: version.unwrap_or("unknown").trim().to_owned(),
        latency,
        time: SystemTime::UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros),
        time_took,
        has_strangers: leases.len() < all,
        leases,
    })
}

async fn command<T: FromValue>(
    client: &Client,
    name: &'static str,
    arguments: &[&'static str],
) -> Result<T, Error> {
    let command = CustomCommand::new_static(name, ClusterHash::Random, false);
    let arguments: Vec<Value> = arguments.iter().map(|it| (*it).into()).collect();
    client.custom(command, arguments).await
}

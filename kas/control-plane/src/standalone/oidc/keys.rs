//! The published keys of one issuer, and the task that fetches them.
//!
//! Fetched are they when they are first needed, every ten minutes, and when a token names one that is not known: then
//! at most once in ten seconds, however many such tokens come, and never on the way of a token whose key is known.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, header};
use runtime::{
    connect::{ConnectOptions, ExchangeError, exchange},
    jwt::public_keys::{KeySetError, PublicKeys},
    telemetry::Untrusted,
    tls::{ClientTls, ClientTlsOptions, TlsError},
};
use serde::Deserialize;
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep_until, timeout},
};

use super::super::issuers::{IssuerEntry, insecure};
use crate::{DenyReason, IdTokenRefusal};

/// How often keys are fetched anyway, so that those that are withdrawn go.
const REFRESH_INTERVAL: Duration = Duration::from_secs(600);
/// The same after a failure.
const RETRY_INTERVAL: Duration = Duration::from_secs(30);
/// The shortest time between two attempts, whoever asks.
const MIN_INTERVAL: Duration = Duration::from_secs(10);
/// How long each of the two requests of an attempt may take.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a token whose key is not known waits for keys.
const WAIT_TIMEOUT: Duration = Duration::from_secs(6);
/// Bytes of a discovery document and of a key set, at most.
const DOCUMENT_MAX_BYTES: usize = 256 << 10;

/// The keys of one issuer.
#[derive(Debug)]
pub(super) struct IssuerKeys {
    issuer: String,
    discovery_url: String,
    ca_file: Option<PathBuf>,
    state: watch::Sender<State>,
    wanted: Notify,
}

#[derive(Debug, Clone, Default)]
struct State {
    /// The last that could be fetched; those of an issuer that is away go on counting.
    keys: Arc<PublicKeys>,
    /// Whether any were fetched.
    fetched: bool,
    /// Whether the last attempt failed.
    away: bool,
    attempts: u64,
    attempted: Option<Instant>,
}

/// Why keys could not be fetched.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Exchange(#[from] ExchangeError),
    #[error("cannot make the request: {0}")]
    Request(#[from] http::Error),
    #[error("the discovery document cannot be read: {0}")]
    Discovery(#[source] serde_json::Error),
    #[error(
        "the discovery document is of the issuer {0}: `issuer` in the file must be the same text"
    )]
    OtherIssuer(String),
    #[error("jwks_uri: {0}")]
    Insecure(String),
    #[error("jwks_uri: {0}")]
    KeySet(#[from] KeySetError),
}

/// What is read of a discovery document.
#[derive(Deserialize)]
struct Discovery {
    issuer: String,
    jwks_uri: String,
}

impl IssuerKeys {
    /// No keys yet.
    pub(super) fn new(entry: &IssuerEntry) -> Self {
        Self {
            issuer: entry.issuer.clone(),
            discovery_url: entry.discovery_url(),
            ca_file: entry.ca_file.clone(),
            state: watch::Sender::new(State::default()),
            wanted: Notify::new(),
        }
    }

    /// Whether they are of this issuer, fetched in this way.
    pub(super) fn are_of(&self, issuer: &str, ca_file: Option<&Path>) -> bool {
        self.issuer == issuer && self.ca_file.as_deref() == ca_file
    }

    /// The keys, and how many attempts were made.
    pub(super) fn known(&self) -> (Arc<PublicKeys>, u64) {
        let state = self.state.borrow();
        (state.keys.clone(), state.attempts)
    }

    /// The keys after the next attempt, if that may be made now; else those that are known. Cancel-safe.
    ///
    /// # Errors
    /// When none were ever fetched.
    pub(super) async fn newer_than(&self, attempts: u64) -> Result<Arc<PublicKeys>, DenyReason> {
        let mut state = self.state.subscribe();
        let may_ask = {
            let now = state.borrow_and_update();
            let recent = now.attempted.is_some_and(|at| at.elapsed() < MIN_INTERVAL);
            now.attempts == attempts && !recent
        };
        if may_ask {
            self.wanted.notify_one();
            let attempt = state.wait_for(|state| state.attempts != attempts);
            // What is known when the time is over decides.
            let _ = timeout(WAIT_TIMEOUT, attempt).await;
        }
        let state = self.state.borrow();
        if !state.fetched {
            let issuer = &self.issuer;
            let why = format!("the keys of {issuer} could not be fetched yet");
            return Err(DenyReason::Unavailable(why));
        }
        Ok(state.keys.clone())
    }

    /// Why a token is refused whose key is not among them.
    pub(super) fn unknown_key(&self) -> IdTokenRefusal {
        let issuer = self.issuer.clone();
        match self.state.borrow().away {
            true => IdTokenRefusal::UnknownKeyInOutage { issuer },
            false => IdTokenRefusal::UnknownKey { issuer },
        }
    }

    /// Fetches them now and then, and when they are wanted. Never ends; dropping it stops.
    pub(super) async fn keep(&self) {
        loop {
            let (attempted, away) = {
                let state = self.state.borrow();
                (state.attempted, state.away)
            };
            if let Some(at) = attempted {
                let interval = if away {
                    RETRY_INTERVAL
                } else {
                    REFRESH_INTERVAL
                };
                tokio::select! {
                    () = sleep_until(at + interval) => {}
                    () = self.wanted.notified() => sleep_until(at + MIN_INTERVAL).await,
                }
            }
            let fetched = self.fetch().await;
            self.attempted(fetched);
        }
    }

    fn attempted(&self, fetched: Result<PublicKeys, FetchError>) {
        let issuer = self.issuer.as_str();
        self.state.send_modify(|state| {
            match fetched {
                Ok(keys) => {
                    if !state.fetched || state.away || !state.keys.ids().eq(keys.ids()) {
                        let keys = keys.ids().count();
                        tracing::info!(issuer, keys, "keys of an OIDC issuer fetched");
                    }
                    state.keys = Arc::new(keys);
                    (state.fetched, state.away) = (true, false);
                }
                Err(error) => {
                    if !state.away {
                        tracing::warn!(
                            issuer,
                            %error,
                            "keys of an OIDC issuer cannot be fetched; tokens of keys known before are accepted"
                        );
                    }
                    state.away = true;
                }
            }
            state.attempts += 1;
            state.attempted = Some(Instant::now());
        });
    }

    async fn fetch(&self) -> Result<PublicKeys, FetchError> {
        let options = ConnectOptions {
            // Read anew each time: a CA may be renewed.
            tls: Some(ClientTls::load(&ClientTlsOptions {
                ca_files: self.ca_file.iter().cloned().collect(),
                ..ClientTlsOptions::default()
            })?),
            timeout: REQUEST_TIMEOUT,
            ..ConnectOptions::default()
        };
        let document = get(&self.discovery_url, &options).await?;
        let discovery: Discovery =
            serde_json::from_slice(&document).map_err(FetchError::Discovery)?;
        if discovery.issuer != self.issuer {
            return Err(FetchError::OtherIssuer(
                Untrusted(&discovery.issuer).to_string(),
            ));
        }
        if let Some(why) = insecure(&discovery.jwks_uri) {
            return Err(FetchError::Insecure(why));
        }
        let keys = get(&discovery.jwks_uri, &options).await?;
        Ok(PublicKeys::parse(&keys)?)
    }
}

async fn get(url: &str, options: &ConnectOptions) -> Result<Bytes, FetchError> {
    let request = Request::get(url)
        .header(header::ACCEPT, HeaderValue::from_static("application/json"))
        .body(Bytes::new())?;
    let host = request.uri().host().unwrap_or_default().to_owned();
    let answer = exchange(request, options, DOCUMENT_MAX_BYTES).await?;
    match answer.status() {
        http::StatusCode::OK => Ok(answer.into_body()),
        status => Err(ExchangeError::Refused { host, status }.into()),
    }
}

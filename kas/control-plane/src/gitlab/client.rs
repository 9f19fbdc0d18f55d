//! The HTTP client for GitLab: signs, takes turns, repeats, and gives up in time.

mod answer;
mod attempt;
mod limiter;
mod module;

use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::HeaderValue;
use http_body_util::Full;
use hyper_util::{client::legacy, rt::TokioExecutor, rt::TokioTimer};
use runtime::{
    connect::{ConnectOptions, ProxySetting},
    jwt::Secret,
    tls::{ClientTls, ClientTlsOptions},
};
use tokio::{sync::Semaphore, time::Instant};

use super::{
    SetupError,
    base::Base,
    breaker::{Breaker, Change},
    call::{Call, Endpoint, Requester},
    connector::Connector,
    error::CallError,
    metrics::GitLabMetrics,
    modules::StreamedBody,
    retry::{self, Budget},
};
use crate::config;
use limiter::RequestLimiter;

/// From the first attempt to the last: less than those who wait have patience,
/// so that they hear the reason.
const CALL_TIMEOUT: Duration = Duration::from_secs(9);
/// Of that, what is left for GitLab: whoever would get its turn later is told so, instead of that GitLab is slow.
const ANSWER_MIN_TIMEOUT: Duration = Duration::from_secs(3);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Connections at a time, busy or idle.
const CONNECTIONS_MAX: usize = 50;
/// Of these, those for tokens that were never good: a slow GitLab keeps each for seconds.
const UNKNOWN_CONNECTIONS_MAX: usize = 12;
/// Connections for agents' modules that are kept while nobody uses them.
const MODULE_CONNECTIONS_IDLE_MAX: usize = 16;
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);
/// GitLab's secret has this many bytes.
const SECRET_BYTES: usize = 32;

/// A client of one GitLab.
#[derive(Debug)]
pub struct Client {
    base: Base,
    http: legacy::Client<Connector, Full<Bytes>>,
    /// Connections of their own for agents' modules, so that theirs cannot keep others waiting. How many there are
    /// is bounded by the requests of agents in progress.
    modules: legacy::Client<Connector, module::SentBody<StreamedBody>>,
    secret: Secret,
    user_agent: HeaderValue,
    proxy_authorization: Option<HeaderValue>,
    limiter: RequestLimiter,
    connections: Semaphore,
    unknown_connections: Semaphore,
    breakers: [Mutex<Breaker>; Endpoint::ALL.len()],
    budget: Mutex<Budget>,
    metrics: GitLabMetrics,
}

impl Client {
    /// A client by its configuration. Nothing is sent yet.
    ///
    /// # Errors
    /// When a file or the address cannot be used.
    pub fn new(
        settings: &config::GitLab,
        proxy: ProxySetting,
        user_agent: HeaderValue,
    ) -> Result<Self, SetupError> {
        let base = Base::parse(&settings.address.0)?;
        let secret = Secret::read(&settings.authentication_secret_file)?;
        if secret.size() != SECRET_BYTES {
            return Err(SetupError::SecretSize {
                file: settings.authentication_secret_file.0.clone(),
                size: secret.size(),
            });
        }
        let (absolute, proxy_authorization) = in_clear_through(&proxy, &base);
        let options = ConnectOptions {
            tls: Some(ClientTls::load(&ClientTlsOptions {
                ca_files: settings.ca_certificate_file.iter().cloned().collect(),
                ..ClientTlsOptions::default()
            })?),
            user_agent: String::from_utf8_lossy(user_agent.as_bytes()).into_owned(),
            proxy,
            timeout: CONNECT_TIMEOUT,
            ..ConnectOptions::default()
        };
        let connector = Connector::new(base.target().clone(), options, absolute);
        let http = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(CONNECTIONS_MAX)
            .build(connector.clone());
        let modules = legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIMEOUT)
            .pool_max_idle_per_host(MODULE_CONNECTIONS_IDLE_MAX)
            .build(connector);
        Ok(Self {
            base,
            http,
            modules,
            secret,
            user_agent,
            proxy_authorization,
            limiter: RequestLimiter::new(settings.api_rate_limit, Instant::now()),
            connections: Semaphore::new(CONNECTIONS_MAX),
            unknown_connections: Semaphore::new(UNKNOWN_CONNECTIONS_MAX),
            breakers: Default::default(),
            budget: Mutex::default(),
            metrics: GitLabMetrics::default(),
        })
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &GitLabMetrics {
        &self.metrics
    }

    /// Makes a call, with retries, within the deadline. Cancel-safe.
    pub(super) async fn call(&self, call: &Call) -> Result<Bytes, CallError> {
        lock(&self.budget).deposit();
        let deadline = Instant::now() + CALL_TIMEOUT;
        let mut number = 0;
        loop {
            let result = self.attempt(call, deadline).await;
            self.metrics.count(call.endpoint, &result);
            let error = match result {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let pause = retry::pause(number, rand::random());
            number += 1;
            let again = call.retried
                && error.is_worth_a_retry()
                && number < retry::ATTEMPTS_MAX
                && Instant::now() + pause < deadline
                && lock(&self.budget).withdraw();
            if !again {
                return Err(error);
            }
            tokio::time::sleep(pause).await;
        }
    }

    /// One attempt in its turn, if the endpoint is well; tells how it went.
    async fn attempt(&self, call: &Call, deadline: Instant) -> Result<Bytes, CallError> {
        let breaker = &self.breakers[call.endpoint as usize];
        let admitted = lock(breaker).admit(Instant::now());
        admitted.map_err(|open| CallError::CircuitOpen {
            since: open.since,
            last: open.last,
        })?;
        let result = match self.turn(call.requester, deadline).await {
            Ok(()) => self.send_until(call, deadline).await,
            Err(error) => Err(error),
        };
        self.report(call.endpoint, &result);
        result
    }

    /// Waits for a turn, if that leaves GitLab time to answer before the deadline.
    pub(super) async fn turn(
        &self,
        requester: Requester,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let now = Instant::now();
        let patience = deadline.saturating_duration_since(now);
        let patience = patience.saturating_sub(ANSWER_MIN_TIMEOUT);
        let wait = self.limiter.take(requester, now, patience)?;
        tokio::time::sleep(wait).await;
        Ok(())
    }

    async fn send_until(&self, call: &Call, deadline: Instant) -> Result<Bytes, CallError> {
        let began = Instant::now();
        let sent = tokio::time::timeout_at(deadline, self.send(call)).await;
        sent.unwrap_or_else(|_| Err(CallError::Timeout(began.elapsed())))
    }

    fn report(&self, endpoint: Endpoint, result: &Result<Bytes, CallError>) {
        let (now, mut breaker) = (Instant::now(), lock(&self.breakers[endpoint as usize]));
        let change = match result {
            Err(CallError::Status {
                status: 429,
                retry_after,
                ..
            }) => {
                let pause = retry_after.unwrap_or(Duration::from_secs(1));
                breaker.pause_for(now, pause, "GitLab asks to slow down (429)".to_owned());
                Change::None
            }
            Err(error) if error.is_outage() => {
                breaker.failure(now, error.to_string(), rand::random())
            }
            Err(CallError::RateLimited | CallError::TooManyUnknown) => {
                breaker.unused(now);
                Change::None
            }
            Ok(_) | Err(_) => breaker.success(now),
        };
        drop(breaker);
        log(endpoint, change, result.as_ref().err());
    }
}

/// What an operator must know.
fn log(endpoint: Endpoint, change: Change, error: Option<&CallError>) {
    let call = endpoint.name();
    match (change, error) {
        (Change::Closed(after), _) => {
            tracing::info!(call, outage = ?after, "GitLab responds again");
        }
        (change, Some(error)) if error.is_outage() => {
            let detail = match error {
                CallError::Unreachable { detail } => detail.as_str(),
                _ => "",
            };
            if change == Change::Opened {
                tracing::error!(call, %error, detail, "GitLab is unavailable; using cached answers within gitlab.outage_grace");
            } else {
                tracing::debug!(call, %error, detail, "GitLab request failed");
            }
        }
        (_, Some(error @ (CallError::OwnToken(_) | CallError::InvalidRequest(_)))) => {
            tracing::error!(call, %error, "GitLab does not accept this server's requests");
        }
        (_, Some(error)) => tracing::debug!(call, %error, "GitLab request was refused"),
        (_, None) => {}
    }
}

/// Whether requests go in clear to a proxy, and what it wants to see.
fn in_clear_through(proxy: &ProxySetting, base: &Base) -> (bool, Option<HeaderValue>) {
    let target = base.target();
    match proxy.proxy_for(target) {
        Some(url) if !target.scheme().is_tls() => {
            let value = url.authorization();
            (true, value.and_then(|it| HeaderValue::from_str(it).ok()))
        }
        Some(_) | None => (false, None),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

//! The HTTP client for GitLab: signs, takes turns, repeats, and gives up in time.

mod answer;
mod attempt;
mod connections;
mod limiter;
mod module;

use std::time::Duration;

use bytes::Bytes;
use http::HeaderValue;
use http_body_util::Full;
use hyper_util::{client::legacy, rt::TokioExecutor, rt::TokioTimer};
use runtime::{
    connect::{ConnectOptions, ProxySetting},
    jwt::Secret,
    metrics::limiters::Limiter,
    telemetry::Repeats,
    tls::{ClientTls, ClientTlsOptions},
};
use tokio::time::Instant;

use super::{
    SetupError,
    base::Base,
    breaker::Change,
    call::{Call, Endpoint, Requester},
    connector::Connector,
    error::CallError,
    health::{Admission, Health},
    metrics::GitLabMetrics,
    modules::StreamedBody,
    retry,
};
use crate::config;
use connections::Connections;
use limiter::RequestLimiter;

/// From the first attempt until the last begins: as long an outage is waited for.
const RETRY_WINDOW: Duration = Duration::from_secs(9);
/// From the beginning of a call to its end: less than those who wait have patience, so that they hear the reason.
const CALL_TIMEOUT: Duration = Duration::from_secs(24);
/// An attempt's, as in GitLab's kas.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
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
    limiter_metrics: Limiter,
    connections: Connections,
    health: [Health; Endpoint::ALL.len()],
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
            .pool_max_idle_per_host(connections::IDLE_MAX)
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
            limiter_metrics: Limiter::new(
                "gitlab_client",
                "{refill/s}",
                settings.api_rate_limit.refill_rate_per_second,
            ),
            connections: Connections::default(),
            health: Default::default(),
            metrics: GitLabMetrics::default(),
        })
    }

    /// What it counts.
    #[must_use]
    pub fn metrics(&self) -> &GitLabMetrics {
        &self.metrics
    }

    /// Makes a call, with retries, within its time. Cancel-safe.
    pub(super) async fn call(&self, call: &Call) -> Result<Bytes, CallError> {
        let began = Instant::now();
        let window = match call.retried {
            true => began + RETRY_WINDOW,
            false => began,
        };
        let health = &self.health[call.endpoint as usize];
        let (mut number, mut last) = (0, None);
        loop {
            let admission = match health.admitted(call, window).await {
                Ok(admission) => admission,
                Err(open) => {
                    let open = Err(CallError::CircuitOpen {
                        since: open.since,
                        last: open.last,
                    });
                    self.metrics.count(call.endpoint, &open);
                    return last.map_or(open, Err);
                }
            };
            let result = self.attempt(call, began).await;
            self.metrics.count(call.endpoint, &result);
            let asked_pause = report(call.endpoint, admission, &result);
            let error = match result {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let pause = asked_pause.unwrap_or_else(|| retry::pause(number, rand::random()));
            number += 1;
            if !error.is_worth_a_retry() || Instant::now() + pause >= window {
                return Err(error);
            }
            last = Some(error);
            tokio::time::sleep(pause).await;
        }
    }

    /// Waits for a turn, if it comes before the deadline.
    pub(super) async fn turn(
        &self,
        requester: Requester,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let now = Instant::now();
        let patience = deadline.saturating_duration_since(now);
        let wait = self.limiter.take(requester, now, patience);
        let wait = wait.inspect_err(|_| self.limiter_metrics.refused())?;
        tokio::time::sleep(wait).await;
        self.limiter_metrics.passed(wait);
        Ok(())
    }

    /// One attempt in its turn.
    async fn attempt(&self, call: &Call, began: Instant) -> Result<Bytes, CallError> {
        self.turn(call.requester, began + RETRY_WINDOW).await?;
        let connection = self.connections.take(call.requester);
        let connection = tokio::time::timeout_at(began + RETRY_WINDOW, connection).await;
        let connection = connection.map_err(|_| CallError::NoConnection)?;
        let sent = Instant::now();
        let deadline = (sent + ANSWER_TIMEOUT).min(began + CALL_TIMEOUT);
        let answer = tokio::time::timeout_at(deadline, self.send(call)).await;
        drop(connection);
        answer.unwrap_or_else(|_| Err(CallError::Timeout(sent.elapsed())))
    }
}

/// Says how an attempt went. Gives the pause that GitLab asked for.
fn report(
    endpoint: Endpoint,
    admission: Admission<'_>,
    result: &Result<Bytes, CallError>,
) -> Option<Duration> {
    static THROTTLED: Repeats = Repeats::new("GitLab throttles requests");
    let (change, asked_pause) = admission.report(result, Instant::now());
    if let Some(pause) = asked_pause
        && THROTTLED.admit()
    {
        tracing::warn!(
            call = endpoint.name(),
            ?pause,
            "GitLab throttles requests (429); the caller whose credential it was waits"
        );
    }
    log(endpoint, change, result.as_ref().err());
    asked_pause
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
                CallError::Unreachable { detail, .. } => detail.as_str(),
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

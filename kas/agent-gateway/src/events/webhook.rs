//! A webhook: signed requests, as in the Standard Webhooks specification, from a queue of its own, so that one
//! that hangs delays no other.

mod request;
#[cfg(test)]
mod tests;

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use jiff::Timestamp;
use proto::events::rpc::Batch;
use runtime::{
    backoff::Backoff,
    connect::{ConnectOptions, Target, TargetError},
    jwt::{Secret, SecretError},
    tls::{ClientTls, ClientTlsOptions, TlsError},
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::{
    body,
    metrics::{EventMetrics, Outcome},
};
use crate::config;
use request::Endpoint;

/// Batches that wait for one webhook.
const QUEUE_BATCHES: usize = 100;
/// Attempts for each batch.
const MAX_ATTEMPTS: usize = 6;
const RETRY_BACKOFF_MIN: Duration = Duration::from_secs(1);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(60);
/// How long one attempt may take.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long deliveries may go on when the replica ends.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Why a webhook cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Its URL cannot be parsed.
    #[error("agent.events.webhooks: {0}")]
    Url(#[from] TargetError),
    /// Its secret cannot be read.
    #[error("agent.events.webhooks: {0}")]
    Secret(#[from] SecretError),
    /// Its CA cannot be loaded.
    #[error("agent.events.webhooks: {0}")]
    Tls(#[from] TlsError),
}

/// The batches that wait for a webhook.
#[derive(Debug)]
pub(super) struct WebhookQueue {
    host: String,
    batches: mpsc::Sender<Arc<Batch>>,
    /// Whether the last batch was dropped.
    full: AtomicBool,
    metrics: EventMetrics,
}

impl WebhookQueue {
    /// Adds a batch, or drops it when the queue is full; the first of several in a row is logged.
    pub(super) fn push(&self, batch: &Arc<Batch>) {
        let full = self.batches.try_send(batch.clone()).is_err();
        if full {
            self.metrics.webhook(Outcome::Dropped);
        }
        if full && !self.full.swap(full, Ordering::Relaxed) {
            tracing::warn!(
                webhook = self.host,
                "webhook queue is full; dropping events"
            );
        } else if !full {
            self.full.store(false, Ordering::Relaxed);
        }
    }
}

/// A webhook, and its end of the queue.
#[derive(Debug)]
pub(super) struct Webhook {
    endpoint: Endpoint,
    batches: mpsc::Receiver<Arc<Batch>>,
    metrics: EventMetrics,
}

impl Webhook {
    pub(super) fn new(
        settings: &config::Webhook,
        user_agent: &str,
        metrics: EventMetrics,
    ) -> Result<(WebhookQueue, Self), WebhookError> {
        let tls = ClientTls::load(&ClientTlsOptions {
            ca_files: settings.ca_certificate_file.iter().cloned().collect(),
            ..ClientTlsOptions::default()
        })?;
        let endpoint = Endpoint {
            target: Target::parse_http(&settings.url.0)?,
            secret: Secret::read(&settings.secret_file)?,
            options: ConnectOptions {
                tls: Some(tls),
                user_agent: user_agent.to_owned(),
                timeout: ATTEMPT_TIMEOUT,
                ..ConnectOptions::default()
            },
        };
        let (sender, batches) = mpsc::channel(QUEUE_BATCHES);
        let queue = WebhookQueue {
            host: endpoint.host().to_owned(),
            batches: sender,
            full: AtomicBool::new(false),
            metrics: metrics.clone(),
        };
        let webhook = Self {
            endpoint,
            batches,
            metrics,
        };
        Ok((queue, webhook))
    }

    /// Delivers batch after batch, until `stop`, and then what is left within [`SHUTDOWN_TIMEOUT`].
    pub(super) async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.deliver_all()).await;
        self.batches.close();
        if tokio::time::timeout(SHUTDOWN_TIMEOUT, self.deliver_all())
            .await
            .is_err()
        {
            tracing::warn!(
                webhook = self.endpoint.host(),
                "shutting down before all events were delivered to the webhook"
            );
        }
    }

    /// Ends when the queue is empty and closed.
    async fn deliver_all(&mut self) {
        while let Some(batch) = self.batches.recv().await {
            self.deliver(&batch).await;
        }
    }

    async fn deliver(&self, batch: &Batch) {
        let id = format!("{:032x}", rand::random::<u128>());
        let body = body::encode(batch, Timestamp::now());
        let mut backoff = Backoff::new(RETRY_BACKOFF_MIN, RETRY_BACKOFF_MAX, 3.0);
        for left in (0..MAX_ATTEMPTS).rev() {
            let sent = self.endpoint.send(&id, body.clone(), Timestamp::now());
            let error = match tokio::time::timeout(ATTEMPT_TIMEOUT, sent).await {
                Ok(Ok(())) => return self.metrics.webhook(Outcome::Ok),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "no response in time".to_owned(),
            };
            let webhook = self.endpoint.host();
            if left == 0 {
                self.metrics.webhook(Outcome::Failed);
                tracing::warn!(
                    webhook,
                    error,
                    "webhook delivery failed; giving the batch up"
                );
                return;
            }
            self.metrics.webhook(Outcome::Retried);
            tracing::debug!(webhook, error, "webhook delivery failed; retrying");
            tokio::time::sleep(backoff.next(rand::random())).await;
        }
    }
}

//! A webhook: signed requests, as the Standard Webhooks specification has them,
//! from a queue of its own, so that one that hangs keeps nobody else waiting.

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
    json,
    metrics::{EventMetrics, Outcome},
};
use crate::config;
use request::Endpoint;

/// Batches that wait for one webhook.
const QUEUE: usize = 100;
/// Attempts for each.
const ATTEMPTS: usize = 6;
/// The waits between them, at first and at most.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));
/// How long one attempt may take.
const DEADLINE: Duration = Duration::from_secs(10);
/// How long what waits may take when the replica ends.
const FAREWELL: Duration = Duration::from_secs(5);

/// A webhook that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum WebhookError {
    /// Its URL.
    #[error("agent.events.webhooks: {0}")]
    Url(#[from] TargetError),
    /// Its secret.
    #[error("agent.events.webhooks: {0}")]
    Secret(#[from] SecretError),
    /// Its CA.
    #[error("agent.events.webhooks: {0}")]
    Tls(#[from] TlsError),
}

/// What waits for a webhook.
#[derive(Debug)]
pub(super) struct Queue {
    host: String,
    batches: mpsc::Sender<Arc<Batch>>,
    /// Whether the last batch found no room.
    full: AtomicBool,
    metrics: EventMetrics,
}

impl Queue {
    /// Without room the batch is dropped, and counted; the first of several in a
    /// row is said.
    pub(super) fn push(&self, batch: &Arc<Batch>) {
        let full = self.batches.try_send(batch.clone()).is_err();
        if full {
            self.metrics.webhook(Outcome::Dropped);
        }
        if full && !self.full.swap(full, Ordering::Relaxed) {
            tracing::warn!(
                webhook = self.host,
                "a webhook is too slow; events for it are dropped"
            );
        } else if !full {
            self.full.store(false, Ordering::Relaxed);
        }
    }
}

/// A webhook and what it is to be told.
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
    ) -> Result<(Queue, Self), WebhookError> {
        let tls = ClientTls::load(&ClientTlsOptions {
            ca_files: settings.ca_certificate_file.iter().cloned().collect(),
            ..ClientTlsOptions::default()
        })?;
        let endpoint = Endpoint {
            target: Target::parse_http(&settings.url)?,
            secret: Secret::read(&settings.secret_file)?,
            options: ConnectOptions {
                tls: Some(tls),
                user_agent: user_agent.to_owned(),
                timeout: DEADLINE,
                ..ConnectOptions::default()
            },
        };
        let (sender, batches) = mpsc::channel(QUEUE);
        let queue = Queue {
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

    /// Tells batch after batch, until `stop`, and then what is left within a moment.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(self.tell_all()).await;
        self.batches.close();
        if tokio::time::timeout(FAREWELL, self.tell_all())
            .await
            .is_err()
        {
            tracing::warn!(
                webhook = self.endpoint.host(),
                "a webhook was not told all events"
            );
        }
    }

    /// Ends when no more can come.
    async fn tell_all(&mut self) {
        while let Some(batch) = self.batches.recv().await {
            self.tell(&batch).await;
        }
    }

    async fn tell(&self, batch: &Batch) {
        let id = format!("{:032x}", rand::random::<u128>());
        let body = json::body(batch, Timestamp::now());
        let mut backoff = Backoff::new(RETRY.0, RETRY.1, 3.0);
        for left in (0..ATTEMPTS).rev() {
            let sent = self.endpoint.send(&id, body.clone(), Timestamp::now());
            let error = match tokio::time::timeout(DEADLINE, sent).await {
                Ok(Ok(())) => return self.metrics.webhook(Outcome::Ok),
                Ok(Err(error)) => error.to_string(),
                Err(_) => "it does not answer in time".to_owned(),
            };
            let webhook = self.endpoint.host();
            if left == 0 {
                self.metrics.webhook(Outcome::Failed);
                tracing::warn!(
                    webhook,
                    error,
                    "a webhook does not take events; they are given up"
                );
                return;
            }
            self.metrics.webhook(Outcome::Retried);
            tracing::debug!(
                webhook,
                error,
                "a webhook does not take events; they are sent again"
            );
            tokio::time::sleep(backoff.next(rand::random())).await;
        }
    }
}

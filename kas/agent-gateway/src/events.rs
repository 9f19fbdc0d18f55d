//! What agents tell of their clusters, passed on to whoever is to know: the log,
//! webhooks, and readers of any replica.
//!
//! The replica that an agent tells serves the log and the webhooks; readers of
//! the others hear through Redis. Nothing is kept here, and neither webhooks nor
//! readers are waited for.

mod json;
mod line;
mod metrics;
mod reader;
mod webhook;

use std::sync::Arc;

use bytes::Bytes;
use cluster_state::redis::{Channel, Heard};
use prometheus_client::registry::Registry;
use prost::Message as _;
use proto::events::rpc::Batch;
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::config;
use metrics::EventMetrics;
pub use reader::Reader;
pub use webhook::WebhookError;
use webhook::{Queue, Webhook};

/// The channel of replicas; its name has no prefix.
pub const CHANNEL: &str = "kas_cluster_events";
/// Batches on their way to readers; one that falls behind hears that it missed some.
const QUEUE: usize = 64;

/// What a reader hears.
#[derive(Debug, Clone)]
enum Told {
    Batch(Arc<Batch>),
    Missed,
}

/// Passes events on. Clones share everything.
#[derive(Debug, Clone)]
pub struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: bool,
    webhooks: Vec<Queue>,
    readers: broadcast::Sender<Told>,
    channel: Option<Channel>,
    metrics: EventMetrics,
    leaving: CancellationToken,
}

/// What works until the replica ends.
#[derive(Debug)]
pub struct Work {
    events: Events,
    webhooks: Vec<Webhook>,
}

impl Events {
    /// As configured; readers of other replicas are told through the channel.
    ///
    /// # Errors
    /// When a webhook's secret or certificates cannot be read.
    pub fn open(
        settings: &config::Events,
        channel: Option<Channel>,
        user_agent: &str,
        registry: &mut Registry,
    ) -> Result<Work, WebhookError> {
        let metrics = EventMetrics::default();
        metrics.register(registry);
        let (mut queues, mut webhooks) = (Vec::new(), Vec::new());
        for settings in &settings.webhooks {
            let (queue, webhook) = Webhook::new(settings, user_agent, metrics.clone())?;
            queues.push(queue);
            webhooks.push(webhook);
        }
        let events = Self(Arc::new(Inner {
            log: settings.log,
            webhooks: queues,
            readers: broadcast::Sender::new(QUEUE),
            channel,
            metrics,
            leaving: CancellationToken::new(),
        }));
        Ok(Work { events, webhooks })
    }

    /// Ends the streams of readers: they come back elsewhere.
    pub fn leave(&self) {
        self.0.leaving.cancel();
    }

    /// Passes on what an agent told this replica.
    pub(crate) async fn pass_on(&self, batch: Batch) {
        let inner = &self.0;
        inner.metrics.received(&batch);
        if inner.log {
            line::log(&batch);
        }
        let batch = Arc::new(batch);
        for webhook in &inner.webhooks {
            webhook.push(&batch);
        }
        match &inner.channel {
            None => self.tell(Told::Batch(batch)),
            Some(channel) => {
                let message = Bytes::from(batch.encode_to_vec());
                if let Err(error) = channel.publish(message).await {
                    tracing::warn!(%error, "readers of other replicas miss events of a cluster");
                    self.tell(Told::Batch(batch));
                }
            }
        }
    }

    /// Nobody may read, which is fine.
    fn tell(&self, told: Told) {
        let _ = self.0.readers.send(told);
    }

    async fn hear(&self, stop: CancellationToken) {
        let Some(channel) = &self.0.channel else {
            return;
        };
        let listening = channel.listen(|heard| match heard {
            Heard::Gap => self.tell(Told::Missed),
            Heard::Message(message) => match Batch::decode(message) {
                Ok(batch) => self.tell(Told::Batch(Arc::new(batch))),
                Err(error) => {
                    tracing::warn!(channel = CHANNEL, %error, "a message that is not understood");
                }
            },
        });
        stop.run_until_cancelled(listening).await;
    }
}

impl Work {
    /// What takes events.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// Hears other replicas and tells webhooks, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        for webhook in self.webhooks {
            tasks.spawn(webhook.run(stop.clone()));
        }
        self.events.hear(stop).await;
        tasks.close();
        tasks.wait().await;
    }
}

//! Events of agents' clusters, published to the log, to webhooks, and to readers at any replica.
//!
//! The replica that gets a report writes the log and calls the webhooks; readers at others get it through Redis.
//! Nothing is stored, and nobody waits for webhooks or readers.

mod body;
mod fleet;
mod log;
mod metrics;
mod reader;
mod refusals;
mod webhook;

use std::sync::Arc;

use bytes::Bytes;
use cluster_state::{Channel, ChannelEvent, ReplicaId, RoutingTable};
use control_plane::ControlPlane;
use prometheus_client::registry::Registry;
use prost::Message as _;
use proto::events::rpc::Batch;
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{config, tracker::Tracker};
use metrics::EventMetrics;
pub use reader::Reader;
pub use webhook::WebhookError;
use webhook::{Webhook, WebhookQueue};

/// The Redis channel of all replicas; its name has no prefix.
pub const CHANNEL: &str = "kas_cluster_events";
/// Batches that a reader may be behind; one that falls further behind gets a note that it missed some.
const READER_QUEUE_BATCHES: usize = 64;

/// What a reader gets.
#[derive(Debug, Clone)]
enum Delivery {
    Batch(Arc<Batch>),
    /// Batches may have been lost.
    Missed,
}

/// Publishes events. Clones share everything.
#[derive(Debug, Clone)]
pub struct Events(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    log: bool,
    presence: bool,
    webhooks: Vec<WebhookQueue>,
    readers: broadcast::Sender<Delivery>,
    channel: Option<Arc<dyn Channel>>,
    metrics: EventMetrics,
    readers_end: CancellationToken,
}

/// The tasks behind [`Events`], which run until the replica ends.
#[derive(Debug)]
pub struct EventWorkers {
    events: Events,
    webhooks: Vec<Webhook>,
}

impl Events {
    /// As configured; readers at other replicas get events through the channel.
    ///
    /// # Errors
    /// When a webhook's secret or certificates cannot be read.
    pub fn open(
        settings: &config::Events,
        channel: Option<Arc<dyn Channel>>,
        user_agent: &str,
        registry: &mut Registry,
    ) -> Result<EventWorkers, WebhookError> {
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
            presence: settings.presence,
            webhooks: queues,
            readers: broadcast::Sender::new(READER_QUEUE_BATCHES),
            channel,
            metrics,
            readers_end: CancellationToken::new(),
        }));
        Ok(EventWorkers { events, webhooks })
    }

    /// Ends the streams of readers, who come back at another replica.
    pub fn end_readers(&self) {
        self.0.readers_end.cancel();
    }

    /// Publishes what an agent has reported to this replica.
    pub(crate) async fn publish(&self, batch: Batch) {
        let inner = &self.0;
        inner.metrics.received(&batch);
        if inner.log {
            log::write(&batch);
        }
        let batch = Arc::new(batch);
        for webhook in &inner.webhooks {
            webhook.push(&batch);
        }
        match &inner.channel {
            None => self.deliver(Delivery::Batch(batch)),
            Some(channel) => {
                let message = Bytes::from(batch.encode_to_vec());
                if let Err(error) = channel.publish(message).await {
                    tracing::warn!(%error, "could not publish cluster events to other replicas; their readers miss them");
                    self.deliver(Delivery::Batch(batch));
                }
            }
        }
    }

    fn deliver(&self, delivery: Delivery) {
        // An error means that there is no reader.
        let _ = self.0.readers.send(delivery);
    }

    /// Delivers what other replicas publish.
    async fn follow_channel(&self, stop: CancellationToken) {
        let Some(channel) = &self.0.channel else {
            return;
        };
        let mut on_event = |event| match event {
            ChannelEvent::Gap => self.deliver(Delivery::Missed),
            ChannelEvent::Message(message) => match Batch::decode(message) {
                Ok(batch) => self.deliver(Delivery::Batch(Arc::new(batch))),
                Err(error) => {
                    tracing::warn!(
                        channel = CHANNEL,
                        %error,
                        "could not decode a message of cluster events; ignoring it"
                    );
                }
            },
        };
        let listening = channel.listen(&mut on_event);
        stop.run_until_cancelled(listening).await;
    }
}

impl EventWorkers {
    /// The handle by which events are published.
    #[must_use]
    pub fn events(&self) -> &Events {
        &self.events
    }

    /// What tells of agents and replicas that come and go, until `stop`, for the replica `me`; `None` if that is not
    /// configured.
    pub fn watch_fleet(
        &self,
        me: ReplicaId,
        table: Arc<dyn RoutingTable>,
        control_plane: Arc<dyn ControlPlane>,
        stop: CancellationToken,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let events = self.events.clone();
        let watch = move || fleet::watch(events, me, table, control_plane, stop);
        self.events.0.presence.then(watch)
    }

    /// What tells of agents that `tracker` sees refused, until `stop`; `None` if that is not configured.
    pub fn watch_refusals(
        &self,
        tracker: Arc<Tracker>,
        control_plane: Arc<dyn ControlPlane>,
        stop: CancellationToken,
    ) -> Option<impl Future<Output = ()> + Send + use<>> {
        let events = self.events.clone();
        let watch = move || refusals::watch(events, tracker, control_plane, stop);
        self.events.0.presence.then(watch)
    }

    /// Follows the channel and calls webhooks, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let tasks = TaskTracker::new();
        for webhook in self.webhooks {
            tasks.spawn(webhook.run(stop.clone()));
        }
        self.events.follow_channel(stop).await;
        tasks.close();
        tasks.wait().await;
    }
}

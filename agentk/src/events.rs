//! Reports the cluster's events to kas, on the pod that leads.
//!
//! kas is asked first whether it collects events: one that does not costs a call for each
//! connection, and the cluster is not watched.

mod convert;
mod delivery;
mod queue;
mod rate;
mod seen;
mod watch;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use runtime::telemetry::Causes;

use crate::{cluster::Cluster, leader::LeaderOnly, metrics::Metrics, session::Uplink};
use delivery::Delivery;
use queue::{Offered, Queue};

/// Events that are queued while kas cannot be reached.
const QUEUE_EVENTS: usize = 10_000;

/// The feature.
#[derive(Debug)]
pub(crate) struct Events {
    cluster: Cluster,
    uplink: Uplink,
    metrics: Metrics,
}

impl Events {
    pub(crate) fn new(cluster: Cluster, uplink: Uplink, metrics: Metrics) -> Self {
        Self {
            cluster,
            uplink,
            metrics,
        }
    }

    /// As work for the pod that leads.
    pub(crate) fn leader_only(self) -> LeaderOnly {
        let events = Arc::new(self);
        let work = move |stop: CancellationToken| -> Pin<Box<dyn Future<Output = ()> + Send>> {
            let events = events.clone();
            Box::pin(async move {
                stop.run_until_cancelled(events.collect()).await;
            })
        };
        LeaderOnly(Arc::new(work))
    }

    /// Ends only when there is no client for the cluster.
    async fn collect(&self) {
        let client = match self.cluster.typed() {
            Ok(client) => client,
            Err(error) => {
                return tracing::error!(
                    error = %Causes(&error),
                    "cannot report events: no client for the Kubernetes API"
                );
            }
        };
        let mut delivery = Delivery::new(self.uplink.clone());
        loop {
            delivery.until_wanted().await;
            tracing::info!("reporting the cluster's events to kas");
            let pending = PendingEvents::new(self.metrics.clone());
            tokio::select! {
                () = watch::run(&client, |event| pending.offer(event)) => {}
                () = delivery.run(&pending) => {
                    tracing::info!("kas does not collect events any more");
                }
            }
        }
    }
}

/// The queue between the cluster and kas.
#[derive(Debug)]
struct PendingEvents {
    queue: Mutex<Queue>,
    filled: Notify,
    metrics: Metrics,
}

impl PendingEvents {
    fn new(metrics: Metrics) -> Self {
        Self {
            queue: Mutex::new(Queue::new(QUEUE_EVENTS)),
            filled: Notify::new(),
            metrics,
        }
    }

    fn offer(&self, event: proto::events::rpc::Event) {
        match self.queue().offer(event) {
            Offered::Duplicate => return,
            Offered::Queued => {}
            Offered::QueuedInsteadOf { dropped } => {
                self.metrics.events_dropped.inc_by(dropped);
            }
        }
        self.filled.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

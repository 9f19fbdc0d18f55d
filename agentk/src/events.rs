//! Collects what happens in the cluster, on the pod that leads, and tells kas.
//!
//! kas is asked first whether it wants events: one that does not know them costs
//! a call a connection, and the cluster is not watched.

mod delivery;
mod occurrence;
mod pace;
mod queue;
mod seen;
mod watch;

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::{cluster::Cluster, leader::LeaderOnly, metrics::Metrics, session::Uplink};
use delivery::Delivery;
use queue::{Offered, Queue};

/// Events that wait while kas cannot be reached.
const LIMIT: usize = 10_000;

/// What collects and tells.
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

    /// Never ends, unless the cluster cannot be asked at all.
    async fn collect(&self) {
        let client = match self.cluster.typed() {
            Ok(client) => client,
            Err(error) => return tracing::error!(%error, "no events are collected"),
        };
        let mut delivery = Delivery::new(self.uplink.clone());
        loop {
            delivery.until_wanted().await;
            tracing::info!("events of the cluster are collected");
            let waiting = Waiting::new(self.metrics.clone());
            tokio::select! {
                () = watch::run(&client, |event| waiting.offer(event)) => {}
                () = delivery.run(&waiting) => {
                    tracing::info!("kas wants no events any more");
                }
            }
        }
    }
}

/// The queue between the cluster and kas.
#[derive(Debug)]
struct Waiting {
    queue: Mutex<Queue>,
    filled: Notify,
    metrics: Metrics,
}

impl Waiting {
    fn new(metrics: Metrics) -> Self {
        Self {
            queue: Mutex::new(Queue::new(LIMIT)),
            filled: Notify::new(),
            metrics,
        }
    }

    fn offer(&self, event: proto::events::rpc::Event) {
        match self.queue().offer(event) {
            Offered::Known => return,
            Offered::Taken => {}
            Offered::TakenFor { dropped } => {
                self.metrics.events_dropped.inc_by(dropped);
            }
        }
        self.filled.notify_one();
    }

    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

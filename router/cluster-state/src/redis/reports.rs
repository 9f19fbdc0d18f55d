//! What Redis reports by itself: keys that changed, connections that broke.
//!
//! Reports count from the moment that tracking is switched on, on every new
//! connection again; what was read before that is declared void afterwards.

use std::time::Duration;

use fred::{
    clients::Client,
    error::Error,
    interfaces::{ClientLike as _, EventInterface as _, TrackingInterface as _},
    types::{client::Invalidation, config::Server},
};
use tokio::{
    sync::{
        broadcast::{
            self, Receiver,
            error::{RecvError, TryRecvError},
        },
        mpsc,
    },
    time::{sleep, timeout},
};

use super::{format::Keys, metrics::StoreMetrics};
use crate::store::StoreEvent;

/// How long switching tracking on may take.
const TRACKING: Duration = Duration::from_secs(5);
/// The wait before that is tried again.
const RETRY: Duration = Duration::from_millis(200);

pub(super) struct Reports {
    pub(super) client: Client,
    pub(super) keys: Keys,
    pub(super) server: String,
    pub(super) metrics: StoreMetrics,
    pub(super) events: mpsc::Sender<StoreEvent>,
    pub(super) boards: broadcast::Sender<i64>,
}

impl Reports {
    /// Passes reports on until nobody listens or the client ends.
    pub(super) async fn run(self) {
        let mut invalidations = self.client.invalidation_rx();
        let mut connections = self.client.reconnect_rx();
        let mut changes = self.client.cluster_change_rx();
        let mut errors = self.client.error_rx();
        let mut lost = false;
        if !self.connects(&mut errors).await {
            return;
        }
        self.metrics.connected.set(1);
        tracing::info!(server = self.server, "the routing store is connected");
        let mut heard = self.track().await;
        while heard {
            heard = tokio::select! {
                biased;
                invalidation = invalidations.recv() => self.invalidated(invalidation).await,
                connection = connections.recv() => {
                    if std::mem::take(&mut lost) {
                        tracing::info!(server = self.server, "the routing store is connected again");
                    }
                    forget(&mut errors);
                    self.metrics.connected.set(1);
                    going_on(&connection) && self.track().await && self.tell(StoreEvent::Back).await
                }
                change = changes.recv() => going_on(&change) && self.track().await,
                error = errors.recv() => {
                    if let Ok((error, _)) = &error
                        && !std::mem::replace(&mut lost, true)
                    {
                        tracing::warn!(server = self.server, %error, "the routing store is lost; known and local agents stay reachable");
                        self.metrics.connected.set(0);
                    }
                    going_on(&error)
                }
            };
        }
    }

    /// Waits for the first connection; what is in its way is told once.
    async fn connects(&self, errors: &mut Receiver<(Error, Option<Server>)>) -> bool {
        let mut connection = std::pin::pin!(self.client.wait_for_connect());
        let mut told = false;
        loop {
            tokio::select! {
                biased;
                connected = &mut connection => {
                    forget(errors);
                    return connected.is_ok();
                }
                Ok((error, _)) = errors.recv(), if !told => {
                    told = true;
                    tracing::warn!(server = self.server, %error, "the routing store cannot be reached; other replicas are not found");
                }
            }
        }
    }

    /// Switches tracking on, and voids what was read without it.
    async fn track(&self) -> bool {
        loop {
            let started = self.client.start_tracking(None, false, false, false, false);
            match timeout(TRACKING, started).await {
                Ok(Ok(())) => return self.tell(StoreEvent::Missed).await,
                Ok(Err(error)) => tracing::debug!(%error, "tracking could not be switched on"),
                Err(_) => tracing::debug!("tracking was not switched on in time"),
            }
            if self.events.is_closed() {
                return false;
            }
            sleep(RETRY).await;
        }
    }

    async fn invalidated(&self, invalidation: Result<Invalidation, RecvError>) -> bool {
        match invalidation {
            Ok(Invalidation { keys, .. }) => {
                for key in keys {
                    if let Some(project) = key.as_str().and_then(|it| self.keys.project_of(it)) {
                        // Nobody may read boards, which is fine.
                        let _ = self.boards.send(project);
                        continue;
                    }
                    let agent = key.as_str().and_then(|key| self.keys.agent_of(key));
                    if let Some(agent) = agent
                        && !self.tell(StoreEvent::Changed(agent)).await
                    {
                        return false;
                    }
                }
                true
            }
            Err(RecvError::Lagged(_)) => self.tell(StoreEvent::Missed).await,
            Err(RecvError::Closed) => false,
        }
    }

    async fn tell(&self, event: StoreEvent) -> bool {
        self.events.send(event).await.is_ok()
    }
}

/// Drops the errors from before a connection: they say nothing about it.
fn forget(errors: &mut Receiver<(Error, Option<Server>)>) {
    while !matches!(
        errors.try_recv(),
        Err(TryRecvError::Empty | TryRecvError::Closed)
    ) {}
}

fn going_on<T>(received: &Result<T, RecvError>) -> bool {
    !matches!(received, Err(RecvError::Closed))
}

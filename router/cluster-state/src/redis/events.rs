//! Store events from Redis: invalidated keys, and the state of the connection.
//!
//! Key tracking has to be enabled on every new connection. What was read before
//! that may have changed unnoticed, so each time is reported as missed events.

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

use super::{format::Keys, gitlab_kas, metrics::StoreMetrics};
use crate::store::{StoreError, StoreEvent};

/// How long enabling key tracking may take.
const TRACKING_TIMEOUT: Duration = Duration::from_secs(5);
/// The wait before enabling it is tried again.
const RETRY_INTERVAL: Duration = Duration::from_millis(200);

/// Turns what the client reports into store events.
pub(super) struct EventSource {
    pub(super) client: Client,
    pub(super) keys: Keys,
    /// Keys of GitLab's kas, if its records are read.
    pub(super) gitlab_kas: Option<gitlab_kas::Keys>,
    pub(super) server: String,
    pub(super) metrics: StoreMetrics,
    pub(super) events: mpsc::Sender<StoreEvent>,
    pub(super) poll_changes: broadcast::Sender<i64>,
}

impl EventSource {
    /// Runs until the table or the client has ended.
    pub(super) async fn run(self) {
        let mut invalidations = self.client.invalidation_rx();
        let mut connections = self.client.reconnect_rx();
        let mut changes = self.client.cluster_change_rx();
        let mut errors = self.client.error_rx();
        let mut lost = false;
        if !self.connect(&mut errors).await {
            return;
        }
        self.metrics.connected.set(1);
        tracing::info!(server = self.server, "connected to the routing store");
        let mut running = self.track().await;
        while running {
            running = tokio::select! {
                biased;
                invalidation = invalidations.recv() => self.invalidated(invalidation).await,
                connection = connections.recv() => {
                    if std::mem::take(&mut lost) {
                        tracing::info!(server = self.server, "reconnected to the routing store");
                    }
                    discard(&mut errors);
                    self.metrics.connected.set(1);
                    is_open(&connection) && self.track().await && self.report(StoreEvent::Reconnected).await
                }
                change = changes.recv() => is_open(&change) && self.track().await,
                error = errors.recv() => {
                    if let Ok((error, _)) = &error
                        && !std::mem::replace(&mut lost, true)
                    {
                        tracing::warn!(server = self.server, %error, "connection to the routing store lost; reconnecting");
                        self.metrics.connected.set(0);
                    }
                    is_open(&error)
                }
            };
        }
    }

    /// Waits for the first connection; its first error is logged.
    async fn connect(&self, errors: &mut Receiver<(Error, Option<Server>)>) -> bool {
        let mut connection = std::pin::pin!(self.client.wait_for_connect());
        let mut reported = false;
        loop {
            tokio::select! {
                biased;
                connected = &mut connection => {
                    discard(errors);
                    return connected.is_ok();
                }
                Ok((error, _)) = errors.recv(), if !reported => {
                    reported = true;
                    tracing::warn!(server = self.server, %error, "cannot connect to the routing store; other replicas are not found until that succeeds");
                }
            }
        }
    }

    /// Enables key tracking; what was read without it does not count.
    async fn track(&self) -> bool {
        loop {
            let started = self.client.start_tracking(None, false, false, false, false);
            match timeout(TRACKING_TIMEOUT, started).await {
                Ok(Ok(())) => return self.report(StoreEvent::EventsMissed).await,
                Ok(Err(error)) => tracing::debug!(%error, "enabling key tracking failed; retrying"),
                Err(_) => {
                    let error = StoreError::Timeout(TRACKING_TIMEOUT);
                    tracing::debug!(%error, "enabling key tracking failed; retrying");
                }
            }
            if self.events.is_closed() {
                return false;
            }
            sleep(RETRY_INTERVAL).await;
        }
    }

    async fn invalidated(&self, invalidation: Result<Invalidation, RecvError>) -> bool {
        match invalidation {
            Ok(Invalidation { keys, .. }) => {
                for key in keys {
                    if let Some(project) = key.as_str().and_then(|it| self.keys.project_of(it)) {
                        // There may be no subscriber.
                        let _ = self.poll_changes.send(project);
                        continue;
                    }
                    let agent = key.as_str().and_then(|key| self.keys.agent_of(key));
                    let gitlab_kas = self.gitlab_kas.as_ref();
                    let agent = agent.or_else(|| gitlab_kas?.agent_of(key.as_bytes()));
                    if let Some(agent) = agent
                        && !self.report(StoreEvent::RecordChanged(agent)).await
                    {
                        return false;
                    }
                }
                true
            }
            Err(RecvError::Lagged(_)) => self.report(StoreEvent::EventsMissed).await,
            Err(RecvError::Closed) => false,
        }
    }

    async fn report(&self, event: StoreEvent) -> bool {
        self.events.send(event).await.is_ok()
    }
}

/// Discards errors from before a connection: they do not concern it.
fn discard(errors: &mut Receiver<(Error, Option<Server>)>) {
    while !matches!(
        errors.try_recv(),
        Err(TryRecvError::Empty | TryRecvError::Closed)
    ) {}
}

fn is_open<T>(received: &Result<T, RecvError>) -> bool {
    !matches!(received, Err(RecvError::Closed))
}

//! A pool of connections to peers: dialled on demand, shared, closed when idle.

mod connection;
mod state;

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use runtime::{grpc::SendRequest, io::ByteStream};
use tokio::{sync::watch, time::Instant};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;
use tracing::Instrument as _;

use super::Credentials;
use connection::{DialError, End};
use state::{Checkout, ConnectionId, State};

/// Dials the private API of a peer by its URL.
pub type Dial = Arc<
    dyn Fn(String) -> Pin<Box<dyn Future<Output = std::io::Result<ByteStream>> + Send>>
        + Send
        + Sync,
>;

/// Source of jitter: uniform in `0.0..1.0`.
pub type Random = Arc<dyn Fn() -> f64 + Send + Sync>;

/// Called with the URL of a peer whose connection broke without a goodbye.
pub(crate) type OnConnectionLost = Arc<dyn Fn(&str) + Send + Sync>;

/// A connection, as requests use it.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    pub(super) send: SendRequest,
    /// The audience of credentials on this connection.
    pub(super) audience: Arc<str>,
}

/// A pool of connections to peers.
pub struct Peers {
    dial: Dial,
    random: Random,
    pub(super) credentials: Arc<dyn Credentials>,
    peers: Mutex<HashMap<String, Arc<Peer>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    on_connection_lost: OnConnectionLost,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").finish_non_exhaustive()
    }
}

impl Peers {
    /// An empty pool. Its tasks end with `stop`.
    #[must_use]
    pub fn new(dial: Dial, credentials: Arc<dyn Credentials>, stop: CancellationToken) -> Self {
        Self {
            dial,
            random: Arc::new(rand::random),
            credentials,
            peers: Mutex::default(),
            tasks: TaskTracker::new(),
            stop,
            on_connection_lost: Arc::new(|_| {}),
        }
    }

    /// Replaces the source of jitter, for simulations.
    #[must_use]
    pub fn with_random(mut self, random: Random) -> Self {
        self.random = random;
        self
    }

    /// Sets what is called when a connection broke.
    #[must_use]
    pub(crate) fn on_connection_lost(mut self, callback: OnConnectionLost) -> Self {
        self.on_connection_lost = callback;
        self
    }

    /// A connection to the peer at `url`, dialled if there is none.
    ///
    /// # Errors
    /// A status with the URL and the reason.
    pub(super) async fn connection(&self, url: &str) -> Result<(Handle, StreamPermit), Status> {
        let peer = self.peer(url);
        let mut changes = peer.changes.subscribe();
        loop {
            match peer.check_out() {
                Checkout::Use { id, handle, dial } => {
                    if dial {
                        self.dial(peer.clone());
                    }
                    return Ok((handle, StreamPermit { peer, id }));
                }
                Checkout::Dial => self.dial(peer.clone()),
                Checkout::Wait => {}
                Checkout::Refuse { reason, pause } => return Err(unreachable(url, &reason, pause)),
            }
            // Dialling has a deadline, and the peer outlives this wait.
            let _ = changes.changed().await;
        }
    }

    fn peer(&self, url: &str) -> Arc<Peer> {
        let mut peers = self.peers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(peer) = peers.get(url) {
            return peer.clone();
        }
        peers.retain(|_, peer| !peer.is_forgettable());
        let peer = Arc::new(Peer::new(url, self.random.clone()));
        peers.insert(url.to_owned(), peer.clone());
        peer
    }

    /// Dials for all requests that wait, even if all of them are cancelled meanwhile.
    fn dial(&self, peer: Arc<Peer>) {
        let (dial, stop) = (self.dial.clone(), self.stop.clone());
        let credentials = self.credentials.clone();
        let on_connection_lost = self.on_connection_lost.clone();
        let span = tracing::info_span!(parent: None, "peer_connection", peer = peer.url);
        let connection = async move {
            let opened = tokio::select! {
                biased;
                opened = connection::open(&dial, &*credentials, &peer.url) => opened,
                () = stop.cancelled() => Err(DialError::Leaving),
            };
            match opened {
                Ok(connection) => {
                    tracing::debug!("connected to a peer");
                    let id = peer.dialled(connection.handle.clone());
                    if connection.drive(&peer, id, &stop).await == End::Broken {
                        on_connection_lost(&peer.url);
                    }
                }
                Err(error) => {
                    tracing::debug!(%error, "connecting to a peer failed");
                    peer.failed(&error.to_string());
                }
            }
        };
        self.tasks.spawn(connection.instrument(span));
    }
}

fn unreachable(url: &str, reason: &str, pause: Duration) -> Status {
    Status::unavailable(format!(
        "cannot connect to the replica at {url}: {reason} (next attempt in {} ms)",
        pause.as_millis()
    ))
}

/// A peer and the connections to it.
struct Peer {
    url: String,
    random: Random,
    born: Instant,
    state: Mutex<State<Handle>>,
    /// Changes when dialling has ended.
    changes: watch::Sender<()>,
}

impl std::fmt::Debug for Peer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peer")
            .field("url", &self.url)
            .finish_non_exhaustive()
    }
}

impl Peer {
    fn new(url: &str, random: Random) -> Self {
        Self {
            url: url.to_owned(),
            random,
            born: Instant::now(),
            state: Mutex::new(State::new(Duration::ZERO)),
            changes: watch::Sender::new(()),
        }
    }

    fn check_out(&self) -> Checkout<Handle> {
        self.state().check_out(self.now())
    }

    fn is_busy(&self, id: ConnectionId) -> bool {
        self.state().is_busy(id)
    }

    fn is_forgettable(&self) -> bool {
        self.state().is_forgettable(self.now())
    }

    fn dialled(&self, handle: Handle) -> ConnectionId {
        let id = self.state().dialled(handle, self.now());
        self.changes.send_replace(());
        id
    }

    fn failed(&self, reason: &str) {
        self.state().failed(reason, (self.random)(), self.now());
        self.changes.send_replace(());
    }

    fn remove(&self, id: ConnectionId, fault: Option<&str>) {
        self.state().remove(id, fault, (self.random)(), self.now());
    }

    fn retire(&self, id: ConnectionId) -> bool {
        self.state().retire(id, self.now())
    }

    fn answered(&self, id: ConnectionId) {
        self.state().answered(id);
    }

    fn release(&self, id: ConnectionId) {
        self.state().release(id, self.now());
    }

    fn now(&self) -> Duration {
        self.born.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State<Handle>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Permission for one stream on a connection, held as long as the stream lasts.
#[derive(Debug)]
pub(crate) struct StreamPermit {
    peer: Arc<Peer>,
    id: ConnectionId,
}

impl StreamPermit {
    /// The URL of the peer.
    pub(crate) fn url(&self) -> &str {
        &self.peer.url
    }

    /// The peer has answered on the connection, so the connection works.
    pub(super) fn answered(&self) {
        self.peer.answered(self.id);
    }
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.peer.release(self.id);
    }
}

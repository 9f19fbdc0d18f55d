//! Connections to peers: dialled when needed, shared, and let go.

mod link;
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

use super::Credentials;
use link::End;
use state::{LinkId, State, Take};

/// Dials the private API of a peer by its URL.
pub type Dial = Arc<
    dyn Fn(String) -> Pin<Box<dyn Future<Output = std::io::Result<ByteStream>> + Send>>
        + Send
        + Sync,
>;

/// Where pauses get their jitter from: uniform in `0.0..1.0`.
pub type Random = Arc<dyn Fn() -> f64 + Send + Sync>;

/// Is told the URL of a peer whose connection broke without a word.
pub(crate) type Lost = Arc<dyn Fn(&str) + Send + Sync>;

/// What a call makes requests with.
#[derive(Debug, Clone)]
pub(super) struct Handle {
    pub(super) send: SendRequest,
    /// For whom credentials on this connection are.
    pub(super) audience: Arc<str>,
}

/// Connections to peers.
pub struct Peers {
    dial: Dial,
    random: Random,
    pub(super) credentials: Arc<dyn Credentials>,
    peers: Mutex<HashMap<String, Arc<Peer>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
    lost: Lost,
}

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").finish_non_exhaustive()
    }
}

impl Peers {
    /// No connections yet. Their tasks end with `stop`.
    #[must_use]
    pub fn new(dial: Dial, credentials: Arc<dyn Credentials>, stop: CancellationToken) -> Self {
        Self {
            dial,
            random: Arc::new(rand::random),
            credentials,
            peers: Mutex::default(),
            tasks: TaskTracker::new(),
            stop,
            lost: Arc::new(|_| {}),
        }
    }

    /// The same with another source of jitter, as a simulation needs it.
    #[must_use]
    pub fn jittered_by(mut self, random: Random) -> Self {
        self.random = random;
        self
    }

    /// The same, with somebody who looks after peers that broke off.
    #[must_use]
    pub(crate) fn looked_after_by(mut self, lost: Lost) -> Self {
        self.lost = lost;
        self
    }

    /// A connection to the peer at `url`, dialled if there is none.
    ///
    /// # Errors
    /// A status that names the URL and says why the peer cannot be reached.
    pub(super) async fn connection(&self, url: &str) -> Result<(Handle, Lease), Status> {
        let peer = self.peer(url);
        let mut changes = peer.changes.subscribe();
        loop {
            match peer.take() {
                Take::Use { id, handle, dial } => {
                    if dial {
                        self.dial(peer.clone());
                    }
                    return Ok((handle, Lease { peer, id }));
                }
                Take::Dial => self.dial(peer.clone()),
                Take::Wait => {}
                Take::Refuse { reason, pause } => return Err(unreachable(url, &reason, pause)),
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

    /// Dials for all who wait, even if none of them goes on waiting.
    fn dial(&self, peer: Arc<Peer>) {
        let (dial, stop, lost) = (self.dial.clone(), self.stop.clone(), self.lost.clone());
        let credentials = self.credentials.clone();
        self.tasks.spawn(async move {
            let opened = tokio::select! {
                biased;
                opened = link::open(&dial, &*credentials, &peer.url) => opened,
                () = stop.cancelled() => Err("this replica is leaving".to_owned()),
            };
            match opened {
                Ok(link) => {
                    let id = peer.dialled(link.handle.clone());
                    if link.drive(&peer, id, &stop).await == End::Broke {
                        lost(&peer.url);
                    }
                }
                Err(reason) => {
                    tracing::debug!(url = peer.url, reason, "a peer could not be dialled");
                    peer.failed(&reason);
                }
            }
        });
    }
}

fn unreachable(url: &str, reason: &str, pause: Duration) -> Status {
    Status::unavailable(format!(
        "the replica at {url} cannot be reached: {reason} (not tried again for {} ms)",
        pause.as_millis()
    ))
}

/// A peer, and the connections to it.
struct Peer {
    url: String,
    random: Random,
    born: Instant,
    state: Mutex<State<Handle>>,
    /// Changes when dialling is over.
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

    fn take(&self) -> Take<Handle> {
        self.state().take(self.now())
    }

    fn is_busy(&self, id: LinkId) -> bool {
        self.state().is_busy(id)
    }

    fn is_forgettable(&self) -> bool {
        self.state().is_forgettable(self.now())
    }

    fn dialled(&self, handle: Handle) -> LinkId {
        let id = self.state().dialled(handle, self.now());
        self.changes.send_replace(());
        id
    }

    fn failed(&self, reason: &str) {
        self.state().failed(reason, (self.random)(), self.now());
        self.changes.send_replace(());
    }

    fn leave(&self, id: LinkId, fault: Option<&str>) {
        self.state().leave(id, fault, (self.random)(), self.now());
    }

    fn retire(&self, id: LinkId) -> bool {
        self.state().retire(id, self.now())
    }

    fn answered(&self, id: LinkId) {
        self.state().answered(id);
    }

    fn release(&self, id: LinkId) {
        self.state().release(id, self.now());
    }

    fn now(&self) -> Duration {
        self.born.elapsed()
    }

    fn state(&self) -> MutexGuard<'_, State<Handle>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The right to one stream on a connection, held as long as the stream lasts.
#[derive(Debug)]
pub(crate) struct Lease {
    peer: Arc<Peer>,
    id: LinkId,
}

impl Lease {
    /// The peer has answered on the connection: it is of use.
    pub(super) fn answered(&self) {
        self.peer.answered(self.id);
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.peer.release(self.id);
    }
}

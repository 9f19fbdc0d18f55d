//! One HTTP/2 connection to each peer, dialled when needed and kept.

use std::{
    collections::HashMap,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::HeaderMap;
use runtime::{grpc::SendRequest, io::ByteStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::Status;

use super::Credentials;

/// How long dialling a peer may take, HTTP/2 handshake included.
const DIAL: Duration = Duration::from_secs(5);
/// How often a peer must answer a ping, and how long it may take.
const PING: Duration = Duration::from_secs(5);

/// Dials the private API of a peer by its URL.
pub type Dial = Arc<
    dyn Fn(String) -> Pin<Box<dyn Future<Output = std::io::Result<ByteStream>> + Send>>
        + Send
        + Sync,
>;

/// Connections to peers.
pub struct Peers {
    dial: Dial,
    credentials: Credentials,
    connections: Mutex<HashMap<String, Arc<Peer>>>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A peer's connection; the lock is held while one caller dials for all.
type Peer = tokio::sync::Mutex<Option<SendRequest>>;

impl std::fmt::Debug for Peers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Peers").finish_non_exhaustive()
    }
}

impl Peers {
    /// No connections yet. Their tasks end with `stop`.
    #[must_use]
    pub fn new(dial: Dial, credentials: Credentials, stop: CancellationToken) -> Self {
        let connections = Mutex::default();
        Self {
            dial,
            credentials,
            connections,
            tasks: TaskTracker::new(),
            stop,
        }
    }

    pub(super) fn credentials(&self) -> HeaderMap {
        (self.credentials)()
    }

    /// The connection to the peer at `url`, dialled if there is none.
    pub(super) async fn connection(&self, url: &str) -> Result<SendRequest, Status> {
        let peer = {
            let mut peers = self
                .connections
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            peers.entry(url.to_owned()).or_default().clone()
        };
        let mut connection = peer.lock().await;
        if let Some(open) = &*connection {
            return Ok(open.clone());
        }
        let dialled = tokio::time::timeout(DIAL, self.dial(url, peer.clone())).await;
        let open = dialled.map_err(|_| unreachable(url, "it did not answer in time"))??;
        *connection = Some(open.clone());
        Ok(open)
    }

    async fn dial(&self, url: &str, peer: Arc<Peer>) -> Result<SendRequest, Status> {
        let stream = (self.dial)(url.to_owned())
            .await
            .map_err(|error| unreachable(url, error))?;
        let (send, connection) = runtime::grpc::client_settings()
            .handshake(stream)
            .await
            .map_err(|error| unreachable(url, error))?;
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            drive(connection, stop).await;
            *peer.lock().await = None;
        });
        Ok(send)
    }
}

/// Runs a connection until it ends, stops answering pings, or `stop`.
async fn drive(
    mut connection: h2::client::Connection<ByteStream, proto::frame::Frame>,
    stop: CancellationToken,
) {
    let Some(pings) = connection.ping_pong() else {
        return;
    };
    tokio::select! {
        result = connection => {
            if let Err(error) = result {
                tracing::debug!(%error, "the connection to a peer ended");
            }
        }
        () = unanswered(pings) => tracing::warn!("a peer stopped answering; its connection is closed"),
        () = stop.cancelled() => {}
    }
}

async fn unanswered(mut pings: h2::PingPong) {
    loop {
        tokio::time::sleep(PING).await;
        match tokio::time::timeout(PING, pings.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

fn unreachable(url: &str, why: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("the replica at {url} cannot be reached: {why}"))
}

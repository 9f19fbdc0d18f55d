//! An HTTP/2 connection to the API server that requests share.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use http::{Request, Response};
use hyper::{
    body::Incoming,
    client::conn::{TrySendError, http2::SendRequest},
};
use tokio::time::Instant;

use super::RequestBody;

/// Requests that a connection carries before another one is opened to take turns with it.
const SPREAD_REQUESTS: usize = 16;
/// Requests that a connection carries, below the 100 that API servers allow.
const MAX_REQUESTS: usize = 64;
/// Requests that are reset on a connection before it gets no more. A server may go on with what was reset, and counts it:
/// Go's ends a connection (ENHANCE_YOUR_CALM) when more than four times the requests that it allows at once, 400, wait
/// behind those; Envoy at 500 in all.
const MAX_RESETS: usize = 100;
/// How long a connection is kept without requests.
const IDLE_TIMEOUT: Duration = Duration::from_secs(90);

/// A request that was sent, until its answer begins. Dropping it resets it.
pub(super) type Sending = Pin<
    Box<dyn Future<Output = Result<Response<Incoming>, TrySendError<Request<RequestBody>>>> + Send>,
>;

/// A connection. It ends when it is dropped and its last request is over.
///
/// Requests hold a [`Lease`] and not the connection: one that is queued in the very moment in which the connection ends
/// is given back only once nobody can queue another one, so it would wait for itself.
#[derive(Debug)]
pub(super) struct Connection {
    send: SendRequest<RequestBody>,
    load: Arc<Mutex<Load>>,
}

#[derive(Debug)]
struct Load {
    requests: usize,
    resets: usize,
    idle_since: Instant,
}

/// A request's place on a connection.
#[derive(Debug)]
pub(super) struct Lease {
    load: Arc<Mutex<Load>>,
    ended: bool,
}

impl Connection {
    pub(super) fn new(send: SendRequest<RequestBody>) -> Arc<Self> {
        let load = Load {
            requests: 0,
            resets: 0,
            idle_since: Instant::now(),
        };
        Arc::new(Self {
            send,
            load: Arc::new(Mutex::new(load)),
        })
    }

    /// Whether it takes requests at all.
    pub(super) fn is_usable(&self) -> bool {
        let load = lock(&self.load);
        let idle = load.requests == 0 && load.idle_since.elapsed() > IDLE_TIMEOUT;
        !self.is_closed() && load.resets < MAX_RESETS && !idle
    }

    /// Whether it has ended.
    pub(super) fn is_closed(&self) -> bool {
        self.send.is_closed()
    }

    /// Requests that it carries.
    pub(super) fn requests(&self) -> usize {
        lock(&self.load).requests
    }

    /// A place for one more request.
    pub(super) fn lease(&self) -> Lease {
        lock(&self.load).requests += 1;
        Lease {
            load: self.load.clone(),
            ended: false,
        }
    }

    /// Makes a request.
    pub(super) fn send(&self, request: Request<RequestBody>) -> Sending {
        Box::pin(self.send.clone().try_send_request(request))
    }
}

fn lock(load: &Mutex<Load>) -> MutexGuard<'_, Load> {
    load.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a connection with so many requests should get another one beside it.
pub(super) fn is_busy(requests: usize) -> bool {
    requests >= SPREAD_REQUESTS
}

/// Whether it should have no more.
pub(super) fn is_full(requests: usize) -> bool {
    requests >= MAX_REQUESTS
}

impl Lease {
    /// The API server has ended the request, or the connection: no reset was needed.
    pub(super) fn ended(&mut self) {
        self.ended = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut load = lock(&self.load);
        load.requests -= 1;
        load.idle_since = Instant::now();
        load.resets += usize::from(!self.ended);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hyper::client::conn::http2;
    use hyper_util::rt::TokioIo;

    use super::*;
    use crate::cluster::driver;

    #[tokio::test]
    async fn whoever_has_a_place_on_a_connection_does_not_keep_it() {
        let (client, server) = tokio::io::duplex(64 << 10);
        let server = tokio::spawn(async move {
            // It may be over before it has begun.
            if let Ok(mut connection) = h2::server::handshake(server).await {
                while connection.accept().await.is_some() {}
            }
        });
        let parts = driver::Parts::default();
        let builder = http2::Builder::new(parts.clone());
        let handshake = builder.handshake(TokioIo::new(client));
        let (send, running) = handshake.await.unwrap();
        let connection = Connection::new(send);
        let lease = connection.lease();

        drop(connection);

        let mut is_closed = false;
        let ended = driver::run(running, parts, || is_closed = true);
        let ended = tokio::time::timeout(Duration::from_secs(30), ended);
        ended.await.expect("nobody can make a request any more");
        drop(lease);
        assert!(is_closed);
        server.await.unwrap();
    }
}

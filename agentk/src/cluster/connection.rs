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
#[derive(Debug)]
pub(super) struct Connection {
    send: SendRequest<RequestBody>,
    load: Mutex<Load>,
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
    connection: Arc<Connection>,
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
            load: Mutex::new(load),
        })
    }

    /// Whether it takes requests at all.
    pub(super) fn is_usable(&self) -> bool {
        let load = self.load();
        let idle = load.requests == 0 && load.idle_since.elapsed() > IDLE_TIMEOUT;
        !self.send.is_closed() && load.resets < MAX_RESETS && !idle
    }

    /// Requests that it carries.
    pub(super) fn requests(&self) -> usize {
        self.load().requests
    }

    /// A place for one more request.
    pub(super) fn lease(self: &Arc<Self>) -> Lease {
        self.load().requests += 1;
        Lease {
            connection: self.clone(),
            ended: false,
        }
    }

    fn load(&self) -> MutexGuard<'_, Load> {
        self.load.lock().unwrap_or_else(PoisonError::into_inner)
    }
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
    /// Makes the request.
    pub(super) fn send(&self, request: Request<RequestBody>) -> Sending {
        Box::pin(self.connection.send.clone().try_send_request(request))
    }

    /// The API server has ended the request, or the connection: no reset was needed.
    pub(super) fn ended(&mut self) {
        self.ended = true;
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut load = self.connection.load();
        load.requests -= 1;
        load.idle_since = Instant::now();
        load.resets += usize::from(!self.ended);
    }
}

//! HTTP/2 connections to the API server: one as a rule, a few under load, and always another one when the API server
//! ends one, or could think that it was abused by what was reset on it.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures_util::future::{BoxFuture, FutureExt, Shared};
use http::Uri;
use hyper_rustls::HttpsConnector;
use hyper_util::{client::legacy::connect::Connection as _, rt::TokioTimer};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::{
    BoxError, CONNECTION_WINDOW_BYTES, MAX_RESPONSE_HEAD_BYTES, PING_INTERVAL, PING_TIMEOUT,
    STREAM_WINDOW_BYTES,
    connection::{self, Connection, Lease},
    connector::ApiConnector,
    driver,
};

/// Connections that requests are spread over.
const SPREAD_CONNECTIONS: usize = 4;
/// Connections in all; when these are full, requests wait within them.
const MAX_CONNECTIONS: usize = 16;
/// New connections that a request waits for.
const MAX_DIALS: usize = 10;
/// How long a server that has no HTTP/2 is not asked for it again.
const HTTP1_TTL: Duration = Duration::from_secs(300);

/// The connections to one server. Clones share them.
#[derive(Debug, Clone)]
pub(super) struct Pool {
    url: Uri,
    connector: HttpsConnector<ApiConnector>,
    tasks: TaskTracker,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    connections: Vec<Arc<Connection>>,
    dialing: Option<Dialing>,
    http1_until: Option<Instant>,
}

/// One attempt to connect, for all who wait for it.
type Dialing = Shared<BoxFuture<'static, Result<(), DialError>>>;

/// There is no connection.
#[derive(Debug, Clone, thiserror::Error)]
#[error("cannot connect to the Kubernetes API")]
pub(super) struct DialError(#[source] Arc<BoxError>);

/// A connection for a request, and the request's place on it.
pub(super) struct Place {
    pub(super) connection: Arc<Connection>,
    pub(super) lease: Lease,
}

impl Place {
    fn on(connection: &Arc<Connection>) -> Self {
        Self {
            connection: connection.clone(),
            lease: connection.lease(),
        }
    }
}

/// Where a request goes.
enum Choice {
    Here(Place),
    Http1,
    Wait(Dialing),
}

impl Pool {
    /// A pool of connections to the server of this URL.
    pub(super) fn new(
        url: Uri,
        connector: HttpsConnector<ApiConnector>,
        tasks: TaskTracker,
    ) -> Self {
        Self {
            url,
            connector,
            tasks,
            state: Arc::default(),
        }
    }

    /// A place for a request; `None` where the server has no HTTP/2.
    pub(super) async fn place(&self) -> Result<Option<Place>, DialError> {
        for _ in 0..MAX_DIALS {
            match self.choose() {
                Choice::Here(place) => return Ok(Some(place)),
                Choice::Http1 => return Ok(None),
                Choice::Wait(dialing) => dialing.await?,
            }
        }
        let why = "its connections end as soon as they begin, or are full";
        Err(DialError(Arc::new(why.into())))
    }

    fn choose(&self) -> Choice {
        let mut state = self.state();
        if self.url.scheme() == Some(&http::uri::Scheme::HTTP)
            || state
                .http1_until
                .is_some_and(|until| Instant::now() < until)
        {
            return Choice::Http1;
        }
        state.connections.retain(|it| it.is_usable());
        let count = state.connections.len();
        // The first that is not busy, so that those which are opened under load become idle after it.
        let quiet = |it: &&Arc<Connection>| !connection::is_busy(it.requests());
        if let Some(quiet) = state.connections.iter().find(quiet) {
            return Choice::Here(Place::on(quiet));
        }
        let least = state.connections.iter().min_by_key(|it| it.requests());
        let least = least.cloned().map(|it| (it.requests(), it));
        if let Some((requests, least)) = least
            && (!connection::is_full(requests) || count >= MAX_CONNECTIONS)
        {
            if count < SPREAD_CONNECTIONS {
                drop(self.dial(&mut state));
            }
            return Choice::Here(Place::on(&least));
        }
        Choice::Wait(self.dial(&mut state))
    }

    /// Connects in a task of its own: whoever asked for it may leave.
    fn dial(&self, state: &mut State) -> Dialing {
        if let Some(dialing) = &state.dialing {
            return dialing.clone();
        }
        let pool = self.clone();
        let dialing = async move {
            let connected = pool.connect().await;
            let mut state = pool.state();
            state.dialing = None;
            match connected {
                Ok(Some(connection)) => state.connections.push(connection),
                Ok(None) => state.http1_until = Some(Instant::now() + HTTP1_TTL),
                Err(error) => return Err(DialError(Arc::new(error))),
            }
            Ok(())
        };
        let dialing = dialing.boxed().shared();
        state.dialing = Some(dialing.clone());
        self.tasks.spawn(dialing.clone());
        dialing
    }

    async fn connect(&self) -> Result<Option<Arc<Connection>>, BoxError> {
        let io = self.connector.clone().oneshot(self.url.clone()).await?;
        if !io.connected().is_negotiated_h2() {
            return Ok(None);
        }
        let parts = driver::Parts::default();
        let (send, running) = hyper::client::conn::http2::Builder::new(parts.clone())
            .timer(TokioTimer::new())
            .max_header_list_size(u32::try_from(MAX_RESPONSE_HEAD_BYTES).unwrap_or(u32::MAX))
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .keep_alive_interval(PING_INTERVAL)
            .keep_alive_timeout(PING_TIMEOUT)
            .handshake(io)
            .await?;
        let pool = self.clone();
        let forget = move || pool.state().connections.retain(|it| !it.is_closed());
        self.tasks.spawn(driver::run(running, parts, forget));
        Ok(Some(Connection::new(send)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! The demo cluster: a Kubernetes API in memory, good enough for kubectl.
//!
//! It keeps objects and their versions, answers lists, watches, patches and tables, and pretends that
//! deployments become pods that run. It runs no containers.

use std::io;
use std::sync::Arc;

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Duration, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use self::clock::Clock;
use self::cluster::Cluster;
use self::store::{Limits, Store};

mod clock;
mod cluster;
mod controller;
mod defaults;
mod discovery;
mod failure;
mod http;
mod kinds;
mod logs;
mod object;
mod openapi;
mod patch;
mod protobuf;
mod request;
mod review;
mod schema;
mod seed;
mod selector;
mod shape;
mod store;
mod table;
mod validate;
mod verbs;
mod watch;

const MAX_CONNECTIONS: usize = 1_024;
const HEADER_READ_TIMEOUT: Duration = Duration::from_secs(30);
const ACCEPT_BACKOFF: Duration = Duration::from_millis(50);
/// What a connection whose client does not read may hold back.
const CONNECTION_BUFFER_BYTES: usize = 64 << 10;
/// How long connections may take to finish once `stop` is given.
const CONNECTION_SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(2);

/// Serves a new demo cluster, over plain HTTP/1.1, until `stop`; then ends its streams and returns.
///
/// # Errors
/// Fails when the first objects do not fit, which the built-in limits rule out.
pub async fn serve(listener: TcpListener, stop: CancellationToken) -> io::Result<()> {
    let cluster = Arc::new(new_cluster(stop.child_token())?);
    let tasks = TaskTracker::new();
    tasks.spawn(controller::run(Arc::clone(&cluster)));
    let permits = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let permit = Arc::clone(&permits).acquire_owned();
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = async { (permit.await, listener.accept().await) } => accepted,
        };
        match accepted {
            (Ok(permit), Ok((connection, _))) => {
                tasks.spawn(serve_connection(Arc::clone(&cluster), connection, permit));
            }
            (_, Err(error)) => {
                tracing::debug!(%error, "demo cluster: cannot accept a connection");
                sleep(ACCEPT_BACKOFF).await;
            }
            (Err(_), Ok(_)) => break,
        }
    }
    cluster.stop.cancel();
    tasks.close();
    tasks.wait().await;
    Ok(())
}

fn new_cluster(stop: CancellationToken) -> io::Result<Cluster> {
    let clock = Clock::start();
    let now = clock.now();
    // Revisions start at the time of day: those of an earlier demo cluster are then recognised as old.
    let revision = u64::try_from(now.as_second()).unwrap_or_default();
    let mut store = Store::new(Limits::default(), revision, rand::random());
    seed::plant(&mut store, now).map_err(io::Error::other)?;
    Ok(Cluster::new(store, clock, stop))
}

async fn serve_connection(
    cluster: Arc<Cluster>,
    connection: TcpStream,
    _permit: OwnedSemaphorePermit,
) {
    let stop = cluster.stop.clone();
    let service = service_fn(move |request| {
        let cluster = Arc::clone(&cluster);
        async move { Ok::<_, std::convert::Infallible>(http::answer(cluster, request).await) }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_READ_TIMEOUT)
        .max_buf_size(CONNECTION_BUFFER_BYTES)
        .serve_connection(TokioIo::new(connection), service);
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            tokio::select! {
                ended = connection => ended,
                () = sleep(CONNECTION_SHUTDOWN_TIMEOUT) => Ok(()),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "demo cluster: connection failed");
    }
}

//! Drives a connection: reads, writes, pings, and signals when it drains.

use std::{
    future::poll_fn,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};

use proto::frame::Frame;
use runtime::{
    grpc::{Keepalive, KeepaliveOptions, SendRequest},
    io::ByteStream,
    telemetry::Causes,
};
use tokio_util::sync::CancellationToken;

/// Often enough to notice a connection that a load balancer has
/// silently forgotten, and less often than GitLab's kas tolerates (20 s).
pub(super) const KEEPALIVE: KeepaliveOptions = KeepaliveOptions {
    interval: Duration::from_secs(30),
    timeout: Duration::from_secs(10),
    in_use: Duration::from_secs(10),
};

/// Signals that no new calls can begin on a connection.
#[derive(Debug)]
pub(super) struct DrainSignal {
    /// Cancelled then.
    pub(super) draining: CancellationToken,
    /// Set before that if the reason is a GOAWAY.
    pub(super) goaway: Arc<AtomicBool>,
}

/// Drives the connection to its end, and signals when no new calls can begin on it: the server sent
/// GOAWAY, or it broke.
pub(super) async fn drive(
    mut http2: h2::client::Connection<ByteStream, Frame>,
    probe: SendRequest,
    mut pings: Option<Keepalive>,
    signal: DrainSignal,
) {
    let mut probe = Some(probe);
    let mut draining = std::pin::pin!(signal.draining.cancelled());
    poll_fn(|cx| {
        let dead = pings
            .as_mut()
            .is_some_and(|pings| pings.poll_timed_out(cx).is_ready());
        if dead {
            tracing::warn!("HTTP/2 keepalive timed out; closing the connection to kas");
            return Poll::Ready(());
        }
        let polled = Pin::new(&mut http2).poll(cx);
        if probe.is_some() && draining.as_mut().poll(cx).is_ready() {
            // The connection ends when nobody holds it any more.
            probe = None;
        }
        // After a GOAWAY the connection lives on, but takes no new calls.
        if let Some(requests) = &mut probe
            && let Poll::Ready(Err(_)) = requests.poll_ready(cx)
        {
            probe = None;
            signal.goaway.store(polled.is_pending(), Ordering::Relaxed);
            signal.draining.cancel();
        }
        polled.map(|result| {
            if let Err(error) = result {
                tracing::debug!(error = %Causes(&error), "connection to kas broke");
            }
        })
    })
    .await;
    signal.draining.cancel();
}

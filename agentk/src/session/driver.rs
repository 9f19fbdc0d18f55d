//! Does a connection's work: reads, writes, pings, and notices when to leave.

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
    grpc::{Pace, Pings, SendRequest},
    io::ByteStream,
};
use tokio_util::sync::CancellationToken;

/// Pings ask soon enough to notice a connection that a load balancer has
/// silently forgotten, and less often than GitLab's kas minds (20 s).
pub(super) const PACE: Pace = Pace {
    interval: Duration::from_secs(30),
    timeout: Duration::from_secs(10),
    in_use: Duration::from_secs(10),
};

/// How a connection tells that no new calls can begin on it.
#[derive(Debug)]
pub(super) struct End {
    /// Cancelled then.
    pub(super) left: CancellationToken,
    /// Set before, if it is because the server said so.
    pub(super) told: Arc<AtomicBool>,
}

/// Works until the connection has ended, and tells `end` when no new calls can
/// begin on it: the server said so, or it broke.
pub(super) async fn drive(
    mut http2: h2::client::Connection<ByteStream, Frame>,
    probe: SendRequest,
    mut pings: Option<Pings>,
    end: End,
) {
    let mut probe = Some(probe);
    let mut left = std::pin::pin!(end.left.cancelled());
    poll_fn(|cx| {
        let dead = pings
            .as_mut()
            .is_some_and(|pings| pings.poll_unanswered(cx).is_ready());
        if dead {
            tracing::warn!("kas does not answer pings; the connection is given up");
            return Poll::Ready(());
        }
        let polled = Pin::new(&mut http2).poll(cx);
        if probe.is_some() && left.as_mut().poll(cx).is_ready() {
            // The connection ends when nobody holds it any more.
            probe = None;
        }
        // After a GOAWAY the connection lives on, but takes no new calls.
        if let Some(requests) = &mut probe
            && let Poll::Ready(Err(_)) = requests.poll_ready(cx)
        {
            probe = None;
            end.told.store(polled.is_pending(), Ordering::Relaxed);
            end.left.cancel();
        }
        polled.map(|result| {
            if let Err(error) = result {
                tracing::debug!(%error, "the connection to kas broke");
            }
        })
    })
    .await;
    end.left.cancel();
}

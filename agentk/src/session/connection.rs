//! A connection to kas, as its users see it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use http::{HeaderMap, Uri};
use runtime::grpc::{Channel, SendRequest};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

/// The metadata by which kas asks for a delay.
const RETRY_AFTER_KEY: &str = "kas-retry-after-ms";
/// The longest delay that kas may ask for.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(60);
/// How long after a failed call it is waited for the end of its connection, which may have caused the failure.
const END_NOTICE_TIMEOUT: Duration = Duration::from_millis(100);

/// What kas thinks of this agent.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// Nothing yet.
    None,
    /// It answers the agent's calls.
    Accepted,
    /// It rejected the agent's token.
    Refused(Status),
}

/// A connection to kas. Clones share it; it closes in order when all are gone
/// and no call is in progress.
#[derive(Debug, Clone)]
pub(crate) struct Connection(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    parts: Parts,
    verdict: watch::Sender<Verdict>,
    retry_after: std::sync::Mutex<Option<Duration>>,
    idle: AtomicUsize,
}

/// What a connection is made of.
#[derive(Debug)]
pub(super) struct Parts {
    /// Makes requests.
    pub(super) send: SendRequest,
    /// Scheme and authority of all requests.
    pub(super) origin: Uri,
    /// Headers of all requests.
    pub(super) metadata: HeaderMap,
    /// Cancelled when new calls must use another connection.
    pub(super) draining: CancellationToken,
    /// Whether the server sent GOAWAY.
    pub(super) goaway: Arc<AtomicBool>,
    /// The address it leads to; `None` through a proxy or when kas dialled.
    pub(super) remote_addr: Option<SocketAddr>,
}

/// Counted as an idle tunnel of its connection, as long as it is held.
#[derive(Debug)]
pub(crate) struct IdleTunnel(Connection);

impl Drop for IdleTunnel {
    fn drop(&mut self) {
        self.0.0.idle.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Connection {
    pub(super) fn new(parts: Parts) -> Self {
        Self(Arc::new(Inner {
            parts,
            verdict: watch::Sender::new(Verdict::None),
            retry_after: std::sync::Mutex::new(None),
            idle: AtomicUsize::new(0),
        }))
    }

    /// Counts a tunnel that waits for a call.
    pub(crate) fn idle_tunnel(&self) -> IdleTunnel {
        self.0.idle.fetch_add(1, Ordering::Relaxed);
        IdleTunnel(self.clone())
    }

    /// How many of its tunnels wait for a call.
    pub(crate) fn idle_tunnels(&self) -> usize {
        self.0.idle.load(Ordering::Relaxed)
    }

    /// The address it leads to; `None` through a proxy or when kas dialled.
    pub(super) fn remote_addr(&self) -> Option<SocketAddr> {
        self.0.parts.remote_addr
    }

    /// Makes requests.
    pub(crate) fn requests(&self) -> SendRequest {
        self.0.parts.send.clone()
    }

    /// For tonic's clients.
    pub(crate) fn channel(&self) -> Channel {
        Channel::new(
            self.requests(),
            self.0.parts.origin.clone(),
            self.0.parts.metadata.clone(),
        )
    }

    /// Scheme and authority of all requests.
    pub(crate) fn origin(&self) -> &Uri {
        &self.0.parts.origin
    }

    /// Headers of all requests.
    pub(crate) fn metadata(&self) -> &HeaderMap {
        &self.0.parts.metadata
    }

    /// Whether new calls must use another connection.
    pub(crate) fn is_draining(&self) -> bool {
        self.0.parts.draining.is_cancelled()
    }

    /// Waits until new calls must use another connection. Cancel-safe.
    pub(crate) async fn draining(&self) {
        self.0.parts.draining.cancelled().await;
    }

    /// Whether the server sent GOAWAY: it ends what is idle on the connection.
    pub(crate) fn has_goaway(&self) -> bool {
        self.0.parts.goaway.load(Ordering::Relaxed)
    }

    /// Whether a call failed because its connection ends, which may be noticed a
    /// moment after the call.
    pub(crate) async fn is_ending(&self) -> bool {
        tokio::time::timeout(END_NOTICE_TIMEOUT, self.draining())
            .await
            .is_ok()
    }

    /// Makes new calls use another connection.
    pub(crate) fn start_draining(&self) {
        self.0.parts.draining.cancel();
    }

    /// Whether kas has answered a call.
    pub(crate) fn is_accepted(&self) -> bool {
        matches!(*self.0.verdict.borrow(), Verdict::Accepted)
    }

    /// Waits until kas has answered a call. Cancel-safe.
    pub(super) async fn accepted(&self) {
        let accepted = |verdict: &Verdict| matches!(verdict, Verdict::Accepted);
        if self.verdicts().wait_for(accepted).await.is_err() {
            std::future::pending().await
        }
    }

    pub(super) fn verdicts(&self) -> watch::Receiver<Verdict> {
        self.0.verdict.subscribe()
    }

    /// Notes that kas answers the agent's calls.
    pub(crate) fn mark_accepted(&self) {
        self.0.verdict.send_if_modified(|verdict| {
            let first = matches!(verdict, Verdict::None);
            if first {
                *verdict = Verdict::Accepted;
            }
            first
        });
    }

    /// Notes what a call's failure says about the connection.
    pub(crate) fn note_failure(&self, status: &Status) {
        if let Some(asked) = retry_after(status) {
            *self
                .0
                .retry_after
                .lock()
                .unwrap_or_else(|held| held.into_inner()) = Some(asked);
        }
        if is_refusal(status) {
            self.0.verdict.send_if_modified(|verdict| {
                let first = !matches!(verdict, Verdict::Refused(_));
                if first {
                    *verdict = Verdict::Refused(status.clone());
                }
                first
            });
        }
    }

    /// How long the server asked to wait before the next connection.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        *self
            .0
            .retry_after
            .lock()
            .unwrap_or_else(|held| held.into_inner())
    }
}

/// Whether a status means that kas rejects the agent's token.
pub(crate) fn is_refusal(status: &Status) -> bool {
    matches!(
        status.code(),
        Code::Unauthenticated | Code::PermissionDenied | Code::NotFound
    )
}

/// How long the server asks to wait.
pub(crate) fn retry_after(status: &Status) -> Option<Duration> {
    let millis = status
        .metadata()
        .get(RETRY_AFTER_KEY)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    Some(Duration::from_millis(millis).min(RETRY_AFTER_MAX))
}

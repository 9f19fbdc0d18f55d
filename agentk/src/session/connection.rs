//! One connection, as those who call on it see it.

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

/// The metadata by which a server says how long to wait.
const RETRY_AFTER: &str = "kas-retry-after-ms";
/// Longest wait that a server may ask for.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(60);
/// How much later than a call its connection may be seen to end.
const MOMENT: Duration = Duration::from_millis(100);

/// What kas thinks of this agent.
#[derive(Debug, Clone)]
pub(crate) enum Verdict {
    /// Nothing yet.
    None,
    /// It answers the agent's calls.
    Accepted,
    /// It does not want the agent's token.
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
    hint: std::sync::Mutex<Option<Duration>>,
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
    /// New calls should go elsewhere.
    pub(super) left: CancellationToken,
    /// The server said that it will end.
    pub(super) told: Arc<AtomicBool>,
    /// Where it leads to.
    pub(super) peer: Option<SocketAddr>,
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
            hint: std::sync::Mutex::new(None),
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

    /// Where it leads to.
    pub(super) fn peer(&self) -> Option<SocketAddr> {
        self.0.parts.peer
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

    /// Whether new calls should go elsewhere.
    pub(crate) fn is_left(&self) -> bool {
        self.0.parts.left.is_cancelled()
    }

    /// Waits until new calls should go elsewhere. Cancel-safe.
    pub(crate) async fn left(&self) {
        self.0.parts.left.cancelled().await;
    }

    /// Whether the server said that it will end: it sees to what is idle on it.
    pub(crate) fn is_ended_by_server(&self) -> bool {
        self.0.parts.told.load(Ordering::Relaxed)
    }

    /// Whether a call failed because its connection ends, which may be noticed a
    /// moment after the call.
    pub(crate) async fn ends(&self) -> bool {
        tokio::time::timeout(MOMENT, self.left()).await.is_ok()
    }

    /// Sends new calls elsewhere.
    pub(crate) fn leave(&self) {
        self.0.parts.left.cancel();
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
    pub(crate) fn accept(&self) {
        self.0.verdict.send_if_modified(|verdict| {
            let first = matches!(verdict, Verdict::None);
            if first {
                *verdict = Verdict::Accepted;
            }
            first
        });
    }

    /// Notes what a call's failure says about the connection.
    pub(crate) fn judge(&self, status: &Status) {
        if let Some(hint) = retry_after(status) {
            *self.0.hint.lock().unwrap_or_else(|held| held.into_inner()) = Some(hint);
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
    pub(super) fn hint(&self) -> Option<Duration> {
        *self.0.hint.lock().unwrap_or_else(|held| held.into_inner())
    }
}

/// Whether it is the token that kas does not want.
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
        .get(RETRY_AFTER)?
        .to_str()
        .ok()?
        .parse()
        .ok()?;
    Some(Duration::from_millis(millis).min(MAX_RETRY_AFTER))
}

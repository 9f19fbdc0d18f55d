//! The connections to one peer: which of them a request uses, and when another
//! is dialled. Pure state. Times are since any fixed moment.

use std::{sync::Arc, time::Duration};

use runtime::backoff::Backoff;

/// Streams on a connection from which on another one is dialled. With the windows
/// of [`runtime::grpc`], so many stalled readers leave room for the others.
pub(super) const MAX_STREAMS: usize =
    (runtime::grpc::CONNECTION_WINDOW_BYTES / runtime::grpc::STREAM_WINDOW_BYTES) as usize;
/// Connections to one peer, at most.
pub(super) const MAX_CONNECTIONS: usize = 4;
/// How long one of several connections may be idle.
pub(super) const SURPLUS_IDLE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the only connection may be idle, and an unused peer is remembered.
pub(super) const PEER_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// A connection that ends earlier than this, and never answered a request, has failed.
pub(super) const MIN_LIFETIME: Duration = Duration::from_secs(1);
/// The pause after a peer's first failure.
const DIAL_BACKOFF_MIN: Duration = Duration::from_millis(100);
/// The longest pause after failures.
const DIAL_BACKOFF_MAX: Duration = Duration::from_secs(2);

/// Identifies a connection to one peer.
pub(super) type ConnectionId = u64;

/// The connections to one peer; `C` is a connection, as requests use it.
#[derive(Debug)]
pub(super) struct State<C> {
    connections: Vec<Connection<C>>,
    next: ConnectionId,
    dialling: bool,
    failure: Option<Failure>,
    backoff: Backoff,
    used: Duration,
}

#[derive(Debug)]
struct Connection<C> {
    id: ConnectionId,
    handle: C,
    streams: usize,
    born: Duration,
    idle_since: Duration,
    answered: bool,
}

#[derive(Debug)]
struct Failure {
    reason: Arc<str>,
    until: Duration,
}

/// The outcome of checking out a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Checkout<C> {
    /// Use this one, and release it by its id.
    Use {
        /// Its id.
        id: ConnectionId,
        /// The connection.
        handle: C,
        /// Whether to dial another one now, for later requests.
        dial: bool,
    },
    /// Dial, then check out again.
    Dial,
    /// Another request dials: check out again when that has ended.
    Wait,
    /// The peer has failed lately.
    Refuse {
        /// Why it failed.
        reason: Arc<str>,
        /// Time until the next attempt.
        pause: Duration,
    },
}

impl<C: Clone> State<C> {
    /// No connections.
    pub(super) fn new(now: Duration) -> Self {
        Self {
            connections: Vec::new(),
            next: 0,
            dialling: false,
            failure: None,
            backoff: Backoff::new(DIAL_BACKOFF_MIN, DIAL_BACKOFF_MAX, 2.0),
            used: now,
        }
    }

    /// Checks out the least loaded connection.
    pub(super) fn check_out(&mut self, now: Duration) -> Checkout<C> {
        self.used = now;
        let wanted = self.wants_another(now);
        let Some(it) = self.connections.iter_mut().min_by_key(|it| it.streams) else {
            return self.without_connection(now);
        };
        it.streams += 1;
        self.dialling |= wanted;
        Checkout::Use {
            id: it.id,
            handle: it.handle.clone(),
            dial: wanted,
        }
    }

    fn wants_another(&self, now: Duration) -> bool {
        let full = self.connections.iter().all(|it| it.streams >= MAX_STREAMS);
        full && self.connections.len() < MAX_CONNECTIONS
            && !self.dialling
            && self.pause(now).is_none()
    }

    fn without_connection(&mut self, now: Duration) -> Checkout<C> {
        if self.dialling {
            return Checkout::Wait;
        }
        if let Some((reason, pause)) = self.pause(now) {
            return Checkout::Refuse { reason, pause };
        }
        self.dialling = true;
        Checkout::Dial
    }

    fn pause(&self, now: Duration) -> Option<(Arc<str>, Duration)> {
        let failure = self.failure.as_ref()?;
        let pause = failure.until.checked_sub(now)?;
        (!pause.is_zero()).then(|| (failure.reason.clone(), pause))
    }

    /// A request that used the connection has ended.
    pub(super) fn release(&mut self, id: ConnectionId, now: Duration) {
        self.used = now;
        if let Some(it) = self.connections.iter_mut().find(|it| it.id == id) {
            it.streams = it.streams.saturating_sub(1);
            it.idle_since = now;
        }
    }

    /// The peer has answered a request on the connection.
    pub(super) fn answered(&mut self, id: ConnectionId) {
        if let Some(it) = self.connections.iter_mut().find(|it| it.id == id) {
            it.answered = true;
        }
    }

    /// Dialling has succeeded.
    pub(super) fn dialled(&mut self, handle: C, now: Duration) -> ConnectionId {
        self.dialling = false;
        self.failure = None;
        let id = self.next;
        self.next += 1;
        self.connections.push(Connection {
            id,
            handle,
            streams: 0,
            born: now,
            idle_since: now,
            answered: false,
        });
        id
    }

    /// Dialling has failed. `random` is uniform in `0.0..1.0`.
    pub(super) fn failed(&mut self, reason: &str, random: f64, now: Duration) {
        self.dialling = false;
        self.failure = Some(Failure {
            reason: reason.into(),
            until: now + self.backoff.next(random),
        });
    }

    /// Whether requests use the connection.
    pub(super) fn is_busy(&self, id: ConnectionId) -> bool {
        let it = self.connections.iter().find(|it| it.id == id);
        it.is_none_or(|it| it.streams > 0)
    }

    /// Removes a connection that has ended or takes no new requests. A `fault`
    /// starts a pause, and so does a lifetime too short to be of use.
    pub(super) fn remove(
        &mut self,
        id: ConnectionId,
        fault: Option<&str>,
        random: f64,
        now: Duration,
    ) {
        let Some(at) = self.connections.iter().position(|it| it.id == id) else {
            return;
        };
        let it = self.connections.remove(at);
        let failed_early = !it.answered && now < it.born + MIN_LIFETIME;
        if !failed_early {
            self.backoff.reset();
        }
        let fault = fault.or(failed_early.then_some("it closes connections at once"));
        if let Some(reason) = fault
            && self.connections.is_empty()
            && !self.dialling
        {
            self.failed(reason, random, now);
        }
    }

    /// Removes a connection that has been idle for long; `true` if it is to be closed.
    pub(super) fn retire(&mut self, id: ConnectionId, now: Duration) -> bool {
        let Some(at) = self.connections.iter().position(|it| it.id == id) else {
            return false;
        };
        let it = &self.connections[at];
        let idle = now.saturating_sub(it.idle_since);
        let limit = if self.connections.len() > 1 {
            SURPLUS_IDLE_TIMEOUT
        } else {
            PEER_IDLE_TIMEOUT
        };
        let retires = it.streams == 0 && idle >= limit;
        if retires {
            self.connections.remove(at);
        }
        retires
    }

    /// Whether the peer has no connections and was not used for long.
    pub(super) fn is_forgettable(&self, now: Duration) -> bool {
        self.connections.is_empty()
            && !self.dialling
            && now.saturating_sub(self.used) >= PEER_IDLE_TIMEOUT
    }
}

#[cfg(test)]
mod tests;

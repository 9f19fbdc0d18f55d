//! Which connections to one peer there are, which of them a call takes, and
//! when another is dialled: decisions only. Times are since any fixed moment.

use std::{sync::Arc, time::Duration};

use runtime::backoff::Backoff;

/// Streams on a connection from which on another is wanted. With the windows of
/// [`runtime::grpc`], as many stalled readers leave the others their room.
pub(super) const FULL: usize =
    (runtime::grpc::CONNECTION_WINDOW / runtime::grpc::STREAM_WINDOW) as usize;
/// Connections to one peer, at most.
pub(super) const MOST: usize = 4;
/// How long a connection beside another may be idle.
pub(super) const SURPLUS: Duration = Duration::from_secs(30);
/// How long a peer that nobody asks is remembered.
pub(super) const FORGET: Duration = Duration::from_secs(300);
/// A connection that ends younger than this, and of no use to anybody, has failed.
pub(super) const YOUNG: Duration = Duration::from_secs(1);
/// How long a peer is left alone after its first failure, and after many.
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// Names a connection to one peer.
pub(super) type LinkId = u64;

/// The connections to one peer; `C` is what a call makes requests with.
#[derive(Debug)]
pub(super) struct State<C> {
    links: Vec<Link<C>>,
    next: LinkId,
    dialling: bool,
    failure: Option<Failure>,
    backoff: Backoff,
    used: Duration,
}

#[derive(Debug)]
struct Link<C> {
    id: LinkId,
    handle: C,
    streams: usize,
    born: Duration,
    idle_since: Duration,
    useful: bool,
}

#[derive(Debug)]
struct Failure {
    reason: Arc<str>,
    until: Duration,
}

/// What a call that asks for a connection is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Take<C> {
    /// Use this one, and give it back by its name.
    Use {
        /// Its name.
        id: LinkId,
        /// The connection.
        handle: C,
        /// Whether another must be dialled now, for those who come later.
        dial: bool,
    },
    /// Dial, then ask again.
    Dial,
    /// Somebody dials: ask again when that is over.
    Wait,
    /// The peer has failed lately.
    Refuse {
        /// How it failed.
        reason: Arc<str>,
        /// How long it is left alone.
        pause: Duration,
    },
}

impl<C: Clone> State<C> {
    /// No connections.
    pub(super) fn new(now: Duration) -> Self {
        Self {
            links: Vec::new(),
            next: 0,
            dialling: false,
            failure: None,
            backoff: Backoff::new(PAUSE, LONGEST_PAUSE, 2.0),
            used: now,
        }
    }

    /// A call wants a connection: the least loaded.
    pub(super) fn take(&mut self, now: Duration) -> Take<C> {
        self.used = now;
        let wanted = self.wants_another(now);
        let Some(link) = self.links.iter_mut().min_by_key(|link| link.streams) else {
            return self.take_none(now);
        };
        link.streams += 1;
        self.dialling |= wanted;
        Take::Use {
            id: link.id,
            handle: link.handle.clone(),
            dial: wanted,
        }
    }

    fn wants_another(&self, now: Duration) -> bool {
        let full = self.links.iter().all(|link| link.streams >= FULL);
        full && self.links.len() < MOST && !self.dialling && self.pause(now).is_none()
    }

    fn take_none(&mut self, now: Duration) -> Take<C> {
        if self.dialling {
            return Take::Wait;
        }
        if let Some((reason, pause)) = self.pause(now) {
            return Take::Refuse { reason, pause };
        }
        self.dialling = true;
        Take::Dial
    }

    fn pause(&self, now: Duration) -> Option<(Arc<str>, Duration)> {
        let failure = self.failure.as_ref()?;
        let pause = failure.until.checked_sub(now)?;
        (!pause.is_zero()).then(|| (failure.reason.clone(), pause))
    }

    /// A call is over that was told to use the connection.
    pub(super) fn release(&mut self, id: LinkId, now: Duration) {
        self.used = now;
        if let Some(link) = self.links.iter_mut().find(|link| link.id == id) {
            link.streams = link.streams.saturating_sub(1);
            link.idle_since = now;
        }
    }

    /// A call was answered on the connection.
    pub(super) fn answered(&mut self, id: LinkId) {
        if let Some(link) = self.links.iter_mut().find(|link| link.id == id) {
            link.useful = true;
        }
    }

    /// Dialling has brought a connection.
    pub(super) fn dialled(&mut self, handle: C, now: Duration) -> LinkId {
        self.dialling = false;
        self.failure = None;
        let id = self.next;
        self.next += 1;
        self.links.push(Link {
            id,
            handle,
            streams: 0,
            born: now,
            idle_since: now,
            useful: false,
        });
        id
    }

    /// Dialling was in vain. `random` is uniform in `0.0..1.0`.
    pub(super) fn failed(&mut self, reason: &str, random: f64, now: Duration) {
        self.dialling = false;
        self.failure = Some(Failure {
            reason: reason.into(),
            until: now + self.backoff.next(random),
        });
    }

    /// Whether calls use the connection.
    pub(super) fn is_busy(&self, id: LinkId) -> bool {
        let link = self.links.iter().find(|link| link.id == id);
        link.is_none_or(|link| link.streams > 0)
    }

    /// The peer takes no new calls on the connection, or it is over: nobody is
    /// told to use it any more. A `fault` is a reason to leave the peer alone,
    /// and so is a life too short to be of any use.
    pub(super) fn leave(&mut self, id: LinkId, fault: Option<&str>, random: f64, now: Duration) {
        let Some(at) = self.links.iter().position(|link| link.id == id) else {
            return;
        };
        let link = self.links.remove(at);
        let in_vain = !link.useful && now < link.born + YOUNG;
        if !in_vain {
            self.backoff.reset();
        }
        let fault = fault.or(in_vain.then_some("it closes connections at once"));
        if let Some(reason) = fault
            && self.links.is_empty()
            && !self.dialling
        {
            self.failed(reason, random, now);
        }
    }

    /// Takes a connection out that is not needed any more; true if it is to be closed.
    pub(super) fn retire(&mut self, id: LinkId, now: Duration) -> bool {
        let Some(at) = self.links.iter().position(|link| link.id == id) else {
            return false;
        };
        let link = &self.links[at];
        let idle = now.saturating_sub(link.idle_since);
        let limit = if self.links.len() > 1 {
            SURPLUS
        } else {
            FORGET
        };
        let retires = link.streams == 0 && idle >= limit;
        if retires {
            self.links.remove(at);
        }
        retires
    }

    /// Whether nothing would be lost by forgetting the peer.
    pub(super) fn is_forgettable(&self, now: Duration) -> bool {
        self.links.is_empty() && !self.dialling && now.saturating_sub(self.used) >= FORGET
    }
}

#[cfg(test)]
mod tests;

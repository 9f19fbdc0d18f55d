//! Those who have shown a good token on a connection, and the places each of them has there.
//!
//! A load balancer may carry the calls of many agents on one connection: whatever one of them does or is
//! refused, the others keep their places, and who is revoked goes alone.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use control_plane::{AgentInfo, Token, TokenHash};
use router::{AgentId, tunnel::Cutter};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::{authenticate::Shown, offers::Methods};
use crate::tracker::Registrations;

/// Tokens that may be good on one connection at a time: it carries as many streams.
const MAX_CALLERS: usize = runtime::grpc::MAX_STREAMS as usize;
/// Tunnels that one token may have on a connection, as agentk's pool has at most.
const MAX_TUNNELS: usize = 500;
/// Calls other than tunnels that one token may have in progress on a connection: two streams of each of an
/// agent's hundred pods.
const MAX_CALLS: usize = 200;
/// Different lists of methods that a token's tunnels on a connection may offer: its pods offer the same, but
/// for an upgrade.
const MAX_OFFERS: usize = 8;
/// Callers from which on those who have gone are looked for.
const SWEEP_FROM: usize = 32;

/// A token that is good on this connection.
#[derive(Debug)]
pub(super) struct Caller {
    shown: Shown,
    pub(super) agent: AgentId,
    /// Its processes that registered here.
    pub(super) registrations: Registrations,
    /// Ends its streams: the connection is left, or the token was revoked.
    pub(super) leaving: CancellationToken,
    revoked: AtomicBool,
    tunnels: AtomicUsize,
    calls: AtomicUsize,
    /// What its tunnels offer, by a fingerprint of how it says so.
    offers: Mutex<Vec<(u64, Methods)>>,
    cutters: Mutex<Vec<Cutter>>,
}

/// Whose call it is: somebody who has shown a good token. Nobody else gets to a service.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) caller: Arc<Caller>,
    pub(super) agent: Arc<AgentInfo>,
}

/// A place that a caller has on its connection, given back when it is dropped.
#[derive(Debug)]
pub(super) struct Place {
    pub(super) caller: Arc<Caller>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Tunnel,
    Call,
}

impl Caller {
    pub(super) fn new(shown: Shown, agent: AgentId, leaving: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            shown,
            agent,
            registrations: Registrations::default(),
            leaving,
            revoked: AtomicBool::new(false),
            tunnels: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            offers: Mutex::default(),
            cutters: Mutex::default(),
        })
    }

    /// The token, to ask with.
    pub(super) fn token(&self) -> &Token {
        &self.shown.token
    }

    /// A place for a tunnel.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when the caller has all that it may have.
    pub(super) fn tunnel(self: &Arc<Self>) -> Result<Place, Status> {
        let full = "too many tunnels of this agent on one connection";
        self.place(Kind::Tunnel, MAX_TUNNELS, full)
    }

    /// A place for another call.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when the caller has all that it may have.
    pub(super) fn call(self: &Arc<Self>) -> Result<Place, Status> {
        let full = "too many calls of this agent on one connection";
        self.place(Kind::Call, MAX_CALLS, full)
    }

    fn place(self: &Arc<Self>, kind: Kind, limit: usize, full: &str) -> Result<Place, Status> {
        // Only the connection's own task takes places.
        if self.places(kind).load(Ordering::Relaxed) >= limit {
            return Err(Status::resource_exhausted(full));
        }
        self.places(kind).fetch_add(1, Ordering::Relaxed);
        let caller = self.clone();
        Ok(Place { caller, kind })
    }

    fn places(&self, kind: Kind) -> &AtomicUsize {
        match kind {
            Kind::Tunnel => &self.tunnels,
            Kind::Call => &self.calls,
        }
    }

    /// The methods of a descriptor, which is `read` only if it is a new one.
    ///
    /// # Errors
    /// The refusal of `read`, or RESOURCE_EXHAUSTED when its tunnels offer too many different lists.
    pub(super) fn offer(
        &self,
        fingerprints: &RandomState,
        descriptor: &[u8],
        read: impl FnOnce() -> Result<Methods, Status>,
    ) -> Result<Methods, Status> {
        let fingerprint = fingerprints.hash_one(descriptor);
        let mut offers = lock(&self.offers);
        if let Some((_, methods)) = offers.iter().find(|(known, _)| *known == fingerprint) {
            return Ok(methods.clone());
        }
        let methods = read()?;
        if let Some(same) = offers.iter_mut().find(|(_, known)| *known == methods) {
            // The same in another order.
            same.0 = fingerprint;
            return Ok(methods);
        }
        if offers.len() >= MAX_OFFERS {
            // One is here, one where all of the replica are.
            offers.retain(|(_, methods)| Arc::strong_count(methods) > 2);
        }
        if offers.len() >= MAX_OFFERS {
            return Err(Status::resource_exhausted(format!(
                "the tunnels of an agent on one connection offer {MAX_OFFERS} different lists of methods at most"
            )));
        }
        offers.push((fingerprint, methods.clone()));
        Ok(methods)
    }

    /// Whether its token is good no more.
    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Relaxed)
    }

    /// Waits until its token is good no more.
    pub(super) async fn revoked(&self) {
        self.leaving.cancelled().await;
        if !self.is_revoked() {
            std::future::pending().await
        }
    }

    /// Notes what ends a tunnel of this caller.
    pub(super) fn opened(&self, cutter: Cutter) {
        let mut cutters = lock(&self.cutters);
        if cutters.len() == cutters.capacity() {
            cutters.retain(Cutter::is_of_use);
        }
        cutters.push(cutter);
    }

    /// Ends all that the caller has: its streams, its tunnels and the calls that use them, its registrations.
    fn revoke(&self) {
        self.revoked.store(true, Ordering::Relaxed);
        self.leaving.cancel();
        self.registrations.clear();
        for cutter in std::mem::take(&mut *lock(&self.cutters)) {
            cutter.cut();
        }
    }

    fn is_idle(&self) -> bool {
        let places = [Kind::Tunnel, Kind::Call].map(|kind| self.places(kind));
        places.iter().all(|it| it.load(Ordering::Relaxed) == 0)
            && !self.registrations.are_any()
            && !lock(&self.cutters).iter().any(Cutter::is_of_use)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.caller
            .places(self.kind)
            .fetch_sub(1, Ordering::Relaxed);
    }
}

/// Those who are known on a connection.
#[derive(Debug, Default)]
pub(super) struct Callers(Vec<Arc<Caller>>);

impl Callers {
    /// Who has shown this token.
    pub(super) fn find(&self, token: &TokenHash) -> Option<&Arc<Caller>> {
        self.0.iter().find(|caller| caller.shown.hash == *token)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes in somebody whose token was found good.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when there is no place for more.
    pub(super) fn add(&mut self, caller: Arc<Caller>) -> Result<(), Status> {
        if self.0.len() >= SWEEP_FROM && self.0.len() == self.0.capacity() {
            self.0.retain(|caller| !caller.is_idle());
        }
        if self.0.len() >= MAX_CALLERS {
            return Err(Status::resource_exhausted(
                "too many agents on one connection",
            ));
        }
        self.0.push(caller);
        Ok(())
    }

    /// All tokens, to ask whether they are still good.
    pub(super) fn shown(&self) -> Vec<Shown> {
        self.0.iter().map(|caller| caller.shown.clone()).collect()
    }

    /// Ends all that somebody has whose token is good no more; nothing of anybody else's.
    pub(super) fn revoke(&mut self, token: &TokenHash) -> Option<Arc<Caller>> {
        let at = self.0.iter().position(|it| it.shown.hash == *token)?;
        let caller = self.0.swap_remove(at);
        caller.revoke();
        Some(caller)
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

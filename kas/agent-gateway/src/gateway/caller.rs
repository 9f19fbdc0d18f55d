//! The callers on a connection, one for each valid token, and how much each may have there.
//!
//! A load balancer may carry the calls of many agents on one connection: limits, refusals and the end of a token
//! concern its own caller only.

mod open_tunnel;
mod told;

use std::{
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use cluster_state::ClusterUid;
use control_plane::{AgentInfo, Token, TokenHash};
use router::{AgentId, tunnel::Cutter};
use runtime::grpc::CountedCall;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};

use super::descriptor::Methods;
use crate::tracker::{End, Origin, Registrations};
pub(super) use open_tunnel::OpenTunnel;
pub(super) use told::{METHOD, Told, told};

/// Callers that one connection may have: as many as it has streams.
const MAX_CALLERS: usize = runtime::grpc::MAX_STREAMS as usize;
/// Tunnels that a caller may have on a connection, as many as agentk's pool has at most.
const MAX_TUNNELS_PER_CALLER: usize = 500;
/// Other calls that a caller may have in progress on a connection: two streams of each of an agent's hundred pods.
const MAX_CALLS_PER_CALLER: usize = 200;
/// Different lists of methods that a caller's tunnels on a connection may offer: each process has one, which names it, of an
/// agent's hundred pods and of those that take their place.
const MAX_METHOD_LISTS_PER_CALLER: usize = 200;
/// Methods in all of these lists.
const MAX_METHODS_PER_CALLER: usize = 2048;
/// Callers whose tokens are compared before the hash of a token is calculated, which costs more than some of them.
const FEW_CALLERS: usize = 4;
/// Number of callers from which on idle ones are removed to make room.
const SWEEP_MIN_CALLERS: usize = 32;

/// A caller: a valid token on this connection.
#[derive(Debug)]
pub(super) struct Caller {
    token: Token,
    pub(super) agent: AgentId,
    /// Its connection.
    pub(super) origin: Arc<Origin>,
    /// The agent's processes that registered with it.
    pub(super) registrations: Registrations,
    /// Ends its streams: the connection gets GOAWAY, or the token was revoked.
    pub(super) streams_end: CancellationToken,
    revoked: AtomicBool,
    tunnels: AtomicUsize,
    calls: AtomicUsize,
    /// The methods that its tunnels offer, by a fingerprint of the descriptor.
    methods: Mutex<Vec<(u64, Methods)>>,
    /// What ends its tunnels, with the clusters that they lead to as far as those are known.
    cutters: Mutex<Vec<(Cutter, Option<ClusterUid>)>>,
    /// What was found of the cluster that its tunnels lead to, where they do not tell.
    cluster: Mutex<CallerCluster>,
    /// Whether it is listed among the callers of its agent.
    listed: AtomicBool,
    /// Calls and tunnels that it has begun.
    streams: AtomicUsize,
}

/// What was found of the cluster that a caller's tunnels lead to.
#[derive(Debug, Default)]
pub(super) enum CallerCluster {
    #[default]
    NotAsked,
    /// Tunnels that wait for the answer.
    Asking(Vec<OpenTunnel>),
    Known(ClusterUid),
    /// The agent may not tell it.
    Hidden,
    /// It did not answer at this time.
    Unanswered(Instant),
}

/// Whose call it is. Only calls with a valid token have one, and get to a service.
#[derive(Debug, Clone)]
pub(super) struct Identity {
    pub(super) caller: Arc<Caller>,
    pub(super) agent: Arc<AgentInfo>,
}

/// Permits one call or tunnel of a caller, and counts it until it is dropped.
#[derive(Debug)]
pub(super) struct Permit {
    pub(super) caller: Arc<Caller>,
    kind: Kind,
    /// Counts it in the metrics.
    counted: Option<CountedCall>,
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Tunnel,
    Call,
}

impl Caller {
    pub(super) fn new(
        token: Token,
        agent: AgentId,
        streams_end: CancellationToken,
        origin: Arc<Origin>,
    ) -> Arc<Self> {
        Arc::new(Self {
            token,
            agent,
            origin,
            registrations: Registrations::default(),
            streams_end,
            revoked: AtomicBool::new(false),
            tunnels: AtomicUsize::new(0),
            calls: AtomicUsize::new(0),
            methods: Mutex::default(),
            cutters: Mutex::default(),
            cluster: Mutex::default(),
            listed: AtomicBool::new(false),
            streams: AtomicUsize::new(0),
        })
    }

    /// The token, for questions to the control plane.
    pub(super) fn token(&self) -> &Token {
        &self.token
    }

    /// A permit for a tunnel.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when the caller has as many as it may have.
    pub(super) fn tunnel(self: &Arc<Self>) -> Result<Permit, Status> {
        let full = "too many tunnels of this agent on one connection";
        self.permit(Kind::Tunnel, MAX_TUNNELS_PER_CALLER, full)
    }

    /// A permit for another call.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when the caller has as many as it may have.
    pub(super) fn call(self: &Arc<Self>) -> Result<Permit, Status> {
        let full = "too many calls of this agent on one connection";
        self.permit(Kind::Call, MAX_CALLS_PER_CALLER, full)
    }

    fn permit(self: &Arc<Self>, kind: Kind, limit: usize, full: &str) -> Result<Permit, Status> {
        // Only the connection's own task takes permits.
        if self.count(kind).load(Ordering::Relaxed) >= limit {
            return Err(Status::resource_exhausted(full));
        }
        self.count(kind).fetch_add(1, Ordering::Relaxed);
        self.streams.fetch_add(1, Ordering::Relaxed);
        Ok(Permit {
            caller: self.clone(),
            kind,
            counted: None,
        })
    }

    fn count(&self, kind: Kind) -> &AtomicUsize {
        match kind {
            Kind::Tunnel => &self.tunnels,
            Kind::Call => &self.calls,
        }
    }

    /// The methods of a descriptor, which is decoded by `read` only if it is a new one.
    ///
    /// # Errors
    /// The refusal of `read`, or RESOURCE_EXHAUSTED when its tunnels offer too many different lists.
    pub(super) fn methods(
        &self,
        fingerprints: &RandomState,
        descriptor: &[u8],
        read: impl FnOnce() -> Result<Methods, Status>,
    ) -> Result<Methods, Status> {
        let fingerprint = fingerprints.hash_one(descriptor);
        let mut lists = lock(&self.methods);
        if let Some((_, methods)) = lists.iter().find(|(known, _)| *known == fingerprint) {
            return Ok(methods.clone());
        }
        let methods = read()?;
        if let Some(same) = lists.iter_mut().find(|(_, known)| *known == methods) {
            // The same methods in another order.
            same.0 = fingerprint;
            return Ok(methods);
        }
        let is_full = |lists: &[(u64, Methods)]| {
            let all: usize = lists.iter().map(|(_, known)| known.len()).sum();
            lists.len() >= MAX_METHOD_LISTS_PER_CALLER
                || all + methods.len() > MAX_METHODS_PER_CALLER
        };
        if is_full(&lists) {
            // One reference is here, one in the replica's `MethodLists`.
            lists.retain(|(_, methods)| Arc::strong_count(methods) > 2);
        }
        if is_full(&lists) {
            return Err(Status::resource_exhausted(format!(
                "the tunnels of an agent on one connection offer {MAX_METHOD_LISTS_PER_CALLER} different lists of {MAX_METHODS_PER_CALLER} methods at most"
            )));
        }
        if lists.is_empty() {
            // Most callers offer one.
            lists.reserve_exact(1);
        }
        lists.push((fingerprint, methods.clone()));
        Ok(methods)
    }

    /// Whether its token is not valid any more.
    pub(super) fn is_revoked(&self) -> bool {
        self.revoked.load(Ordering::Relaxed)
    }

    /// Waits until its token is not valid any more.
    pub(super) async fn revoked(&self) {
        self.streams_end.cancelled().await;
        if !self.is_revoked() {
            std::future::pending().await
        }
    }

    /// What was found of its cluster.
    pub(super) fn cluster(&self) -> MutexGuard<'_, CallerCluster> {
        lock(&self.cluster)
    }

    /// Whether it was listed before, which it is from now on.
    pub(super) fn is_listed(&self) -> bool {
        self.listed.load(Ordering::Relaxed) || self.listed.swap(true, Ordering::Relaxed)
    }

    /// How many calls and tunnels it has begun.
    pub(super) fn streams(&self) -> usize {
        self.streams.load(Ordering::Relaxed)
    }

    /// Keeps what ends a tunnel of this caller, which leads to this cluster as far as that is known.
    pub(super) fn opened(&self, cutter: Cutter, cluster: Option<ClusterUid>) {
        let mut cutters = lock(&self.cutters);
        if cutters.len() == cutters.capacity() {
            cutters.retain(|(cutter, _)| cutter.is_of_use());
        }
        cutters.push((cutter, cluster));
    }

    /// Whether any of its tunnels can be used, or is.
    pub(super) fn has_tunnels(&self) -> bool {
        let cutters = lock(&self.cutters);
        cutters.iter().any(|(cutter, _)| cutter.is_of_use())
    }

    /// Ends its tunnels that do not lead to this cluster for sure.
    pub(super) fn cut_others(&self, cluster: &ClusterUid) {
        let mut others = Vec::new();
        lock(&self.cutters).retain(|(cutter, of)| {
            let stays = of.as_ref() == Some(cluster);
            if !stays {
                others.push(cutter.clone());
            }
            stays
        });
        for cutter in others {
            cutter.cut();
        }
    }

    /// Ends the caller's streams, its tunnels with the calls that use them, and its registrations.
    fn revoke(&self) {
        self.revoked.store(true, Ordering::Relaxed);
        self.streams_end.cancel();
        self.registrations.clear(End::REVOKED);
        for (cutter, _) in std::mem::take(&mut *lock(&self.cutters)) {
            cutter.cut();
        }
    }

    fn is_idle(&self) -> bool {
        let counts = [Kind::Tunnel, Kind::Call].map(|kind| self.count(kind));
        counts.iter().all(|it| it.load(Ordering::Relaxed) == 0)
            && !self.registrations.are_any()
            && !lock(&self.cutters)
                .iter()
                .any(|(cutter, _)| cutter.is_of_use())
    }
}

impl Permit {
    /// The same, counted in the metrics too.
    pub(super) fn counted(mut self, call: Option<CountedCall>) -> Self {
        self.counted = call;
        self
    }

    /// A message of the call came.
    pub(super) fn received(&self) {
        self.counted.as_ref().inspect(|it| it.received());
    }

    /// A message of the call was sent.
    pub(super) fn sent(&self) {
        self.counted.as_ref().inspect(|it| it.sent());
    }

    /// How the call ends, if it is not cancelled.
    pub(super) fn ends(&self, code: Code) {
        self.counted.as_ref().inspect(|it| it.ends(code));
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.caller.count(self.kind).fetch_sub(1, Ordering::Relaxed);
    }
}

/// The callers on a connection.
#[derive(Debug, Default)]
pub(super) struct Callers(Vec<Arc<Caller>>);

impl Callers {
    /// The caller with this token.
    pub(super) fn find(&self, token: &TokenHash) -> Option<&Arc<Caller>> {
        self.0.iter().find(|caller| caller.token.hash() == *token)
    }

    /// The token with this secret, if it is that of one of a few callers: its hash is known.
    pub(super) fn token(&self, secret: &str) -> Option<Token> {
        let mut few = self.0.iter().take(FEW_CALLERS);
        let caller = few.find(|caller| caller.token.is(secret))?;
        Some(caller.token.clone())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a caller whose token is valid.
    ///
    /// # Errors
    /// RESOURCE_EXHAUSTED when the connection has as many as it may have.
    pub(super) fn add(&mut self, caller: Arc<Caller>) -> Result<(), Status> {
        if self.0.len() >= SWEEP_MIN_CALLERS && self.0.len() == self.0.capacity() {
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

    /// All tokens, to ask whether they are still valid.
    pub(super) fn tokens(&self) -> Vec<Token> {
        self.0.iter().map(|caller| caller.token.clone()).collect()
    }

    /// Removes the caller with this token, and ends everything it has.
    pub(super) fn revoke(&mut self, token: &TokenHash) -> Option<Arc<Caller>> {
        let at = self.0.iter().position(|it| it.token.hash() == *token)?;
        let caller = self.0.swap_remove(at);
        caller.revoke();
        Some(caller)
    }
}

fn lock<T>(of: &Mutex<T>) -> MutexGuard<'_, T> {
    of.lock().unwrap_or_else(PoisonError::into_inner)
}

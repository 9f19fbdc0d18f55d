//! One replica, composed: its listeners, its router, and how it leaves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use prometheus_client::registry::Registry as Metrics;
use router::{Owner, Registry, ReplicaId, Router, peers::Peers, store::memory::MemoryStore};
use runtime::{
    connect::ConnectOptions,
    drain::Drain,
    jwt::Secret,
    listen::{AgentAcceptor, Listener, PlainAcceptor},
    metrics,
};
use tokio::net::TcpListener;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    agent_api::{self, AgentApi, AgentMetrics},
    control_plane::ControlPlane,
    kubernetes_api::{self, KubernetesApi},
    private_api::{self, PrivateApi},
    tracker::Tracker,
};

/// What a replica is made of.
#[derive(Debug)]
pub struct Setup {
    /// Its name, and where peers reach it.
    pub me: Owner,
    /// Who knows agents and users.
    pub control_plane: Arc<dyn ControlPlane>,
    /// The routing table, shared by the replicas of the process.
    pub store: MemoryStore,
    /// The agents' port.
    pub agents: Port<AgentAcceptor, agent_api::Settings>,
    /// The users' port.
    pub users: Option<Port<PlainAcceptor, kubernetes_api::Settings>>,
    /// The peers' port.
    pub peers: Option<Port<PlainAcceptor, PeerSettings>>,
    /// Metrics and probes.
    pub observability: Option<(TcpListener, metrics::Paths)>,
}

/// A listener, how its connections are accepted, and how they are treated.
#[derive(Debug)]
pub struct Port<A, S> {
    /// Where.
    pub listener: Listener,
    /// The handshakes.
    pub acceptor: A,
    /// What comes after them.
    pub settings: S,
}

/// How replicas talk to each other.
#[derive(Debug)]
pub struct PeerSettings {
    /// The secret that all replicas share.
    pub secret: Secret,
    /// How to dial a peer.
    pub dial: ConnectOptions,
}

/// How long each step of leaving may take.
#[derive(Debug, Clone, Copy)]
pub struct Graces {
    /// How long new connections are still accepted after readiness is gone.
    pub listen: Duration,
    /// How long requests in progress may go on.
    pub requests: Duration,
}

/// A running replica.
#[derive(Debug)]
pub struct Replica {
    id: ReplicaId,
    ready: Arc<AtomicBool>,
    users: Drain,
    agents: Drain,
    peers: Drain,
    background: TaskTracker,
    stop: CancellationToken,
    registry: Arc<Registry>,
}

impl Replica {
    /// Starts serving on all ports.
    #[must_use]
    pub fn start(setup: Setup) -> Self {
        let mut numbers = Metrics::default();
        let table = Arc::new(setup.store.table(setup.me.clone()));
        let registry = Registry::new(table.clone());
        let replica = Self {
            id: setup.me.replica,
            ready: Arc::new(AtomicBool::new(true)),
            users: Drain::new(),
            agents: Drain::new(),
            peers: Drain::new(),
            background: TaskTracker::new(),
            stop: CancellationToken::new(),
            registry: registry.clone(),
        };
        let peers = replica.serve_peers(setup.peers);
        let router = Arc::new(Router::new(registry, table, peers));
        replica.serve_agents(setup.agents, &setup.control_plane, &mut numbers);
        if let Some(port) = setup.users {
            replica.serve_users(port, router, setup.control_plane, &mut numbers);
        }
        crate::numbers::register(&mut numbers, &replica.registry);
        if let Some((listener, paths)) = setup.observability {
            replica.serve_observability(listener, paths, numbers);
        }
        replica
    }

    /// Its name.
    #[must_use]
    pub fn id(&self) -> &ReplicaId {
        &self.id
    }

    /// Its tunnels.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// Leaves: takes no new work, asks its agents to go elsewhere, finishes
    /// what it carries. `force` ends it early; says whether all was finished.
    pub async fn leave(self, graces: Graces, force: CancellationToken) -> bool {
        self.ready.store(false, Ordering::Relaxed);
        tokio::select! {
            () = tokio::time::sleep(graces.listen) => {}
            () = force.cancelled() => {}
        }
        self.users.start();
        self.agents.start();
        self.peers.start();
        let finished = async {
            // Requests of users and peers need the agents' connections, so
            // those are waited for last; they end with their calls.
            let users = self.users.finished(graces.requests).await;
            let peers = self.peers.finished(graces.requests).await;
            let agents = self.agents.finished(Duration::from_secs(5)).await;
            if !agents {
                tracing::info!(replica = %self.id, "some agents did not leave in time");
            }
            users && peers
        };
        let finished = tokio::select! {
            finished = finished => finished,
            () = force.cancelled() => false,
        };
        self.stop.cancel();
        self.background.close();
        self.background.wait().await;
        finished
    }

    fn serve_agents(
        &self,
        port: Port<AgentAcceptor, agent_api::Settings>,
        control_plane: &Arc<dyn ControlPlane>,
        numbers: &mut Metrics,
    ) {
        let counts = AgentMetrics::default();
        counts.register(numbers);
        let tracker = Arc::new(Tracker::default());
        let registry = self.registry.clone();
        let api = AgentApi::new(
            port.settings,
            control_plane.clone(),
            registry,
            tracker,
            counts,
        );
        self.agents
            .spawn(api.serve(port.listener, port.acceptor, self.agents.clone()));
    }

    fn serve_users(
        &self,
        port: Port<PlainAcceptor, kubernetes_api::Settings>,
        router: Arc<Router>,
        control_plane: Arc<dyn ControlPlane>,
        numbers: &mut Metrics,
    ) {
        let counts = kubernetes_api::Metrics::default();
        counts.register(numbers);
        let api = KubernetesApi::new(port.settings, router, control_plane, counts);
        self.users
            .spawn(api.serve(port.listener, port.acceptor, self.users.clone()));
    }

    fn serve_peers(&self, port: Option<Port<PlainAcceptor, PeerSettings>>) -> Peers {
        let Some(port) = port else {
            let nobody = private_api::dial(ConnectOptions::default());
            return Peers::new(nobody, Arc::new(http::HeaderMap::new), self.stop.clone());
        };
        let PeerSettings { secret, dial } = port.settings;
        let api = PrivateApi::new(self.registry.clone(), secret.clone());
        self.peers
            .spawn(api.serve(port.listener, port.acceptor, self.peers.clone()));
        let credentials = private_api::credentials(secret);
        Peers::new(private_api::dial(dial), credentials, self.stop.clone())
    }

    fn serve_observability(&self, listener: TcpListener, paths: metrics::Paths, numbers: Metrics) {
        let ready = self.ready.clone();
        let readiness: metrics::Readiness = Arc::new(move || {
            if ready.load(Ordering::Relaxed) {
                Ok(())
            } else {
                Err("kas: leaving".to_owned())
            }
        });
        let stop = self.stop.clone();
        self.background.spawn(async move {
            let served = metrics::serve(listener, &paths, Arc::new(numbers), readiness, stop);
            if let Err(error) = served.await {
                tracing::error!(%error, "the observability listener failed");
            }
        });
    }
}

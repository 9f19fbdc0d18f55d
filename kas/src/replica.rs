//! One replica, composed: its listeners, its router, and how it leaves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use agent_gateway::{
    AgentApi, AgentMetrics, Keeper, ReceptiveStates,
    events::{self, Events},
};
use prometheus_client::registry::Registry as Metrics;
use router::{Owner, Registry, ReplicaId, Router, RoutingTable, peers::Peers};
use runtime::{
    connect::ConnectOptions,
    drain::Drain,
    listen::{AgentAcceptor, AnyListener, Listener, PlainAcceptor},
    metrics,
    panics::vital,
};
use tokio::time::Instant;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    control_plane::ControlPlane,
    gitlab_api::GitLabApi,
    graph::Graph,
    kubernetes_api::{self, KubernetesApi},
    notifications::Notifications,
    private_api::{self, PrivateApi},
};

pub use crate::{port::Port, private_api::PeerSettings};

/// How long before the end of the grace period watches are ended in order.
const LAST_CALL: Duration = Duration::from_secs(5);
/// How long agents' connections may take to close when nothing runs on them.
const AGENTS_CLOSE: Duration = Duration::from_secs(5);
/// How long GitLab's calls may take to end; each is short.
const GITLAB_CLOSE: Duration = Duration::from_secs(10);
/// How long the routing table may take to forget this replica.
const GOODBYE: Duration = Duration::from_secs(5);
/// The same when whoever runs the replica is in a hurry.
const HURRIED_GOODBYE: Duration = Duration::from_secs(1);
/// How long connections may take to close on which nothing is in progress.
const MOMENT: Duration = Duration::from_millis(100);

/// What a replica is made of.
#[derive(Debug)]
pub struct Setup {
    /// Its name, and where peers reach it.
    pub me: Owner,
    /// Who knows agents and users.
    pub control_plane: Arc<dyn ControlPlane>,
    /// The routing table.
    pub table: Arc<dyn RoutingTable>,
    /// What GitLab tells all replicas.
    pub notifications: Notifications,
    /// What the table and others count; the replica adds its own.
    pub metrics: Metrics,
    /// The agents' port.
    pub agents: Port<AgentAcceptor, agent_gateway::Settings>,
    /// The users' port.
    pub users: Option<Port<PlainAcceptor, kubernetes_api::Settings>>,
    /// The peers' port.
    pub peers: Option<Port<PlainAcceptor, PeerSettings>>,
    /// GitLab's port.
    pub gitlab: Option<GitLabPort>,
    /// What passing on events of agents' clusters needs done, if they are taken.
    pub events: Option<events::Work>,
    /// What serves watches of clusters' objects, through the users' port.
    pub graph: Graph,
    /// Metrics and probes.
    pub observability: Option<(Listener, metrics::Paths)>,
}

/// Where GitLab calls, and what it finds there.
#[derive(Debug)]
pub struct GitLabPort {
    /// Where.
    pub listener: AnyListener,
    /// The handshakes.
    pub acceptor: PlainAcceptor,
    /// What comes after them.
    pub api: Arc<GitLabApi>,
}

/// How long each step of leaving may take.
#[derive(Debug, Clone, Copy)]
pub struct Graces {
    /// How long new connections are still accepted after readiness is gone.
    pub listen: Duration,
    /// How long requests in progress may go on.
    pub requests: Duration,
}

/// What was cut when a replica left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cut {
    /// Connections and requests of users.
    pub users: usize,
    /// Connections of other replicas, whose requests were passed on here.
    pub peers: usize,
}

impl Cut {
    /// Whether everything had been finished.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl std::fmt::Display for Cut {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { users, peers } = self;
        write!(
            f,
            "{users} connections or requests of users, {peers} connections of other replicas"
        )
    }
}

/// A running replica.
#[derive(Debug)]
pub struct Replica {
    id: ReplicaId,
    table: Arc<dyn RoutingTable>,
    agent_api: Option<Arc<AgentApi>>,
    ready: Arc<AtomicBool>,
    users: Drain,
    agents: Drain,
    peers: Drain,
    gitlab: Drain,
    background: TaskTracker,
    stop: CancellationToken,
    registry: Arc<Registry>,
    events: Option<Events>,
}

impl Replica {
    /// Starts serving on all ports.
    #[must_use]
    pub fn start(setup: Setup) -> Self {
        let mut numbers = setup.metrics;
        let table = setup.table;
        let registry = Registry::new(table.clone());
        let mut replica = Self {
            id: setup.me.replica.clone(),
            table: table.clone(),
            agent_api: None,
            ready: Arc::new(AtomicBool::new(true)),
            users: Drain::new(),
            agents: Drain::new(),
            peers: Drain::new(),
            gitlab: Drain::new(),
            background: TaskTracker::new(),
            stop: CancellationToken::new(),
            registry: registry.clone(),
            events: setup.events.as_ref().map(|work| work.events().clone()),
        };
        if let Some(work) = setup.events {
            replica.background.spawn(work.run(replica.stop.clone()));
        }
        let peers = replica.serve_peers(setup.me, setup.peers);
        let router = Arc::new(Router::new(registry, table, peers));
        replica.serve_agents(setup.agents, &setup.control_plane, &mut numbers);
        if let Some(port) = setup.users {
            replica.serve_users(
                port,
                router,
                setup.control_plane,
                &setup.graph,
                &mut numbers,
            );
        }
        crate::numbers::register(&mut numbers, &replica.registry);
        let (readers, stop) = (replica.registry.readers().clone(), replica.stop.clone());
        let watching = async move { stop.run_until_cancelled(readers.watch()).await };
        let watching = vital("unread answers", watching);
        replica.background.spawn(watching);
        let hearing = setup.notifications.run(replica.stop.clone());
        replica.background.spawn(vital("notifications", hearing));
        if let Some(port) = setup.gitlab {
            let served = port
                .api
                .serve(port.listener, port.acceptor, replica.gitlab.clone());
            replica.gitlab.spawn(vital("GitLab's port", served));
        }
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

    /// Leaves: says so, takes no new work after a while, moves its agents
    /// elsewhere, finishes what it carries. `force` ends it early.
    pub async fn leave(self, graces: Graces, force: CancellationToken) -> Cut {
        self.ready.store(false, Ordering::Relaxed);
        self.table.drain();
        self.users.announce();
        let finishing = force.run_until_cancelled(self.finish(graces));
        let forced = finishing.await.is_none();
        if forced {
            self.hurry().await;
        }
        let cut = Cut {
            users: self.users.in_progress(),
            peers: self.peers.in_progress(),
        };
        let limit = if forced { HURRIED_GOODBYE } else { GOODBYE };
        if tokio::time::timeout(limit, self.table.leave())
            .await
            .is_err()
        {
            tracing::warn!(replica = %self.id, "the routing table was not told in time; this replica's entries expire by themselves");
        }
        self.stop.cancel();
        self.background.close();
        self.background.wait().await;
        cut
    }

    /// Lets those go who have nothing in progress.
    async fn hurry(&self) {
        for leaving in [&self.users, &self.peers, &self.agents, &self.gitlab] {
            leaving.start();
        }
        tokio::join!(
            self.users.finished(MOMENT),
            self.peers.finished(MOMENT),
            self.gitlab.finished(MOMENT),
        );
    }

    async fn finish(&self, graces: Graces) {
        tokio::time::sleep(graces.listen).await;
        let deadline = Instant::now() + graces.requests;
        self.users.start();
        self.gitlab.start();
        if let Some(events) = &self.events {
            events.leave();
        }
        self.agents.start();
        tokio::select! {
            () = self.finish_work(deadline) => {}
            () = self.call_last(deadline, graces.requests) => {}
        }
    }

    /// Ends what would go on until the deadline, such as watches, shortly before it; those of other
    /// replicas' users go on through another owner.
    async fn call_last(&self, deadline: Instant, grace: Duration) {
        let ahead = LAST_CALL.min(grace / 4);
        tokio::time::sleep_until(deadline - ahead).await;
        self.users.last_call();
        self.peers.last_call();
        std::future::pending().await
    }

    async fn finish_work(&self, deadline: Instant) {
        let left = || deadline.saturating_duration_since(Instant::now());
        // Peers find this replica as long as agents have not moved.
        if let Some(api) = &self.agent_api {
            api.moved(left()).await;
        }
        self.peers.start();
        // Requests of users and peers need the agents' connections, so those
        // are waited for last; they end with their calls.
        tokio::join!(
            self.users.finished(left()),
            self.peers.finished(left()),
            self.gitlab.finished(left().min(GITLAB_CLOSE)),
        );
        if !self.agents.finished(AGENTS_CLOSE).await {
            tracing::info!(replica = %self.id, "some agents did not leave in time");
        }
    }

    fn serve_agents(
        &mut self,
        port: Port<AgentAcceptor, agent_gateway::Settings>,
        control_plane: &Arc<dyn ControlPlane>,
        numbers: &mut Metrics,
    ) {
        let counts = AgentMetrics::default();
        counts.register(numbers);
        let registry = self.registry.clone();
        let api = AgentApi::new(
            port.settings,
            control_plane.clone(),
            registry,
            self.table.clone(),
            counts,
        );
        self.agent_api = Some(api.clone());
        let states = ReceptiveStates::default();
        states.register(numbers);
        let keeper = Keeper::new(
            self.id.clone(),
            api.clone(),
            self.table.clone(),
            states,
            &crate::version::server(),
        );
        let listed = control_plane.receptive_agents();
        let keeping = keeper.run(listed, self.agents.clone());
        self.agents.spawn(vital("receptive agents", keeping));
        let serving = api.serve(port.listener, port.acceptor, self.agents.clone());
        self.agents.spawn(vital("agents' port", serving));
    }

    fn serve_users(
        &self,
        port: Port<PlainAcceptor, kubernetes_api::Settings>,
        router: Arc<Router>,
        control_plane: Arc<dyn ControlPlane>,
        graph: &Graph,
        numbers: &mut Metrics,
    ) {
        let counts = kubernetes_api::Metrics::default();
        counts.register(numbers);
        let api = KubernetesApi::new(port.settings, router.clone(), control_plane, counts);
        graph.open(&api, router, self.users.clone());
        let serving = api.serve(port.listener, port.acceptor, self.users.clone());
        self.users.spawn(vital("users' port", serving));
    }

    fn serve_peers(&self, me: Owner, port: Option<Port<PlainAcceptor, PeerSettings>>) -> Peers {
        let Some(port) = port else {
            let nobody = private_api::dial(ConnectOptions::default());
            return Peers::new(nobody, Arc::new(()), self.stop.clone());
        };
        let PeerSettings { tokens, dial } = port.settings;
        let api = PrivateApi::new(me, self.registry.clone(), tokens.clone());
        let serving = api.serve(port.listener, port.acceptor, self.peers.clone());
        self.peers.spawn(vital("other replicas' port", serving));
        Peers::new(private_api::dial(dial), tokens, self.stop.clone())
    }

    fn serve_observability(&self, listener: Listener, paths: metrics::Paths, numbers: Metrics) {
        let ready = self.ready.clone();
        let readiness: metrics::Readiness = Arc::new(move || {
            if ready.load(Ordering::Relaxed) {
                Ok(())
            } else {
                Err("kas: leaving".to_owned())
            }
        });
        let stop = self.stop.clone();
        let served = metrics::serve(listener, paths, Arc::new(numbers), readiness, stop);
        self.background.spawn(vital("observability port", served));
    }
}

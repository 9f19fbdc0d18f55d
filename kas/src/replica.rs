//! One replica, composed: its ports, its router, and its drain.

mod drain;

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use admin::{Admin, AdminApi, Drains, Life, Sources};
use agent_gateway::{
    AgentGateway, AgentMetrics, ReceptiveStates, ReceptiveSupervisor, Tracker,
    config::ReceptiveForm,
    events::{EventWorkers, Events},
};
use audit::Audit;
use control_plane::{ControlPlane, notifications::Notifications, standalone::Standalone};
use jiff::Timestamp;
use prometheus_client::registry::Registry as Metrics;
use router::{Owner, Registry, ReplicaId, Router, RoutingTable, peers::Peers};
use runtime::{
    connect::ConnectOptions,
    drain::Drain,
    listen::{AgentAcceptor, AnyListener, PlainAcceptor},
    metrics,
    panics::vital,
    tls::ServerTls,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::service::Routes;
use user_gateway::{Graph, UserGateway};

use crate::{
    gitlab_api::GitLabApi,
    private_api::{self, PrivateApi},
};

pub use crate::{port::Port, private_api::PeerSettings};
pub use drain::{Cut, GracePeriods};

/// What a replica is made of.
#[derive(Debug)]
pub struct Setup {
    /// Its id, and its URL for peers.
    pub me: Owner,
    /// The control plane.
    pub control_plane: Arc<dyn ControlPlane>,
    /// The routing table.
    pub table: Arc<dyn RoutingTable>,
    /// Pushes to repositories, of which GitLab notifies one replica.
    pub notifications: Notifications,
    /// The registry of metrics; the replica adds its own.
    pub metrics: Metrics,
    /// The agents' port.
    pub agents: Port<AgentAcceptor, agent_gateway::Settings>,
    /// How calls of agents come that are dialled.
    pub receptive_form: ReceptiveForm,
    /// The users' port.
    pub users: Option<Port<PlainAcceptor, user_gateway::Settings>>,
    /// The peers' port.
    pub peers: Option<Port<PlainAcceptor, PeerSettings>>,
    /// GitLab's port.
    pub gitlab: Option<GitLabPort>,
    /// The tasks that publish events of agents' clusters; `None` if events are not configured.
    pub events: Option<EventWorkers>,
    /// Serves watches of clusters' objects, at the users' port.
    pub graph: Graph,
    /// The operators' port.
    pub admin: Option<AdminPort>,
    /// How many agents have metrics of their own, at most.
    pub max_agent_series: usize,
    /// Metrics and probes.
    pub observability: Option<(AnyListener, PlainAcceptor, metrics::Paths)>,
}

impl Setup {
    /// The TLS of each port that has it.
    pub fn certificates(&self) -> impl Iterator<Item = &ServerTls> {
        let plain = [
            self.users.as_ref().map(|port| &port.acceptor),
            self.peers.as_ref().map(|port| &port.acceptor),
            self.gitlab.as_ref().map(|port| &port.acceptor),
            self.admin.as_ref().map(|port| &port.acceptor),
            self.admin.as_ref().map(|port| &port.acceptor),
            self.observability.as_ref().map(|(_, acceptor, _)| acceptor),
        ];
        let plain = plain.into_iter().flatten();
        let agents = self.agents.acceptor.tls();
        agents
            .into_iter()
            .chain(plain.filter_map(|acceptor| acceptor.tls.as_ref()))
    }
}

/// The port that GitLab calls.
#[derive(Debug)]
pub struct GitLabPort {
    /// The listener.
    pub listener: AnyListener,
    /// Does the handshakes.
    pub acceptor: PlainAcceptor,
    /// Serves what comes after them.
    pub api: Arc<GitLabApi>,
}

/// The port that operators call.
#[derive(Debug)]
pub struct AdminPort {
    /// The listener.
    pub listener: AnyListener,
    /// Does the handshakes.
    pub acceptor: PlainAcceptor,
    /// Who may ask.
    pub settings: admin::Settings,
    /// Takes records of what operators change.
    pub audit: Audit,
    /// The connected agent processes.
    pub tracker: Arc<Tracker>,
    /// The control plane, where that is a file.
    pub standalone: Option<Arc<Standalone>>,
}

/// A running replica.
#[derive(Debug)]
pub struct Replica {
    id: ReplicaId,
    table: Arc<dyn RoutingTable>,
    agent_gateway: Option<Arc<AgentGateway>>,
    ready: Arc<AtomicBool>,
    users: Drain,
    agents: Drain,
    peers: Drain,
    gitlab: Drain,
    /// Other replicas' calls that cannot go on elsewhere.
    peer_calls: TaskTracker,
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
            agent_gateway: None,
            ready: Arc::new(AtomicBool::new(true)),
            users: Drain::new(),
            agents: Drain::new(),
            peers: Drain::new(),
            gitlab: Drain::new(),
            peer_calls: TaskTracker::new(),
            background: TaskTracker::new(),
            stop: CancellationToken::new(),
            registry: registry.clone(),
            events: setup.events.as_ref().map(|work| work.events().clone()),
        };
        if let Some(work) = setup.events {
            let watching = work.watch_fleet(
                replica.id.clone(),
                table.clone(),
                setup.control_plane.clone(),
                replica.stop.clone(),
            );
            if let Some(watching) = watching {
                replica.background.spawn(vital("fleet", watching));
            }
            let refusing = setup
                .agents
                .settings
                .services
                .tracker()
                .and_then(|tracker| {
                    let (tracker, plane) = (tracker.clone(), setup.control_plane.clone());
                    work.watch_refusals(tracker, plane, replica.stop.clone())
                });
            if let Some(refusing) = refusing {
                replica.background.spawn(vital("refusals", refusing));
            }
            replica.background.spawn(work.run(replica.stop.clone()));
        }
        let max_callers = setup
            .users
            .as_ref()
            .map_or(0, |it| it.settings.max_caller_series);
        let (requests, started_at) = (user_gateway::Metrics::new(max_callers), Timestamp::now());
        let counted = setup.gitlab.as_ref().map(|port| port.api.calls().clone());
        let counts = AgentMetrics {
            calls: counted.unwrap_or_default(),
            ..AgentMetrics::default()
        };
        let life = replica.life(&requests, &counts);
        let me = setup.me.clone();
        let questions = admin::peer_questions(admin::Own {
            id: me.replica.clone(),
            started_at,
            registry: registry.clone(),
            table: table.clone(),
            requests: requests.clone(),
            life: life.clone(),
            tracker: setup.agents.settings.services.tracker().cloned(),
            dialer: setup
                .peers
                .as_ref()
                .map(|it| Arc::new(it.settings.clone()) as _),
        });
        let peers = replica.serve_peers(setup.me, setup.peers, questions);
        let router = Arc::new(Router::new(registry.clone(), table.clone(), peers));
        crate::numbers::register_agents(
            &mut numbers,
            &replica.registry,
            crate::numbers::KnownAgents {
                control_plane: setup.control_plane.clone(),
                clusters: setup.agents.settings.services.clusters().cloned(),
            },
            requests.clone(),
            setup.max_agent_series,
        );
        let usual = user_gateway::Settings::default().hold;
        let hold = setup.users.as_ref().map_or(usual, |it| it.settings.hold);
        if let Some(port) = setup.admin {
            let sources = Sources {
                audit: port.audit.clone(),
                me,
                version: crate::version::VERSION,
                started_at,
                control_plane: setup.control_plane.clone(),
                standalone: port.standalone.clone(),
                tracker: port.tracker.clone(),
                clusters: setup.agents.settings.services.clusters().cloned(),
                table,
                registry,
                requests: requests.clone(),
                life,
                router: router.clone(),
                hold,
            };
            replica.serve_operators(port, sources);
        }
        replica.serve_agents(
            setup.agents,
            setup.receptive_form,
            &setup.control_plane,
            counts,
            &mut numbers,
        );
        if let Some(port) = setup.users {
            replica.serve_users(
                port,
                router,
                setup.control_plane,
                &setup.graph,
                requests,
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
        if let Some((listener, acceptor, paths)) = setup.observability {
            replica.serve_observability(listener, acceptor, paths, numbers);
        }
        replica
    }

    /// Its id.
    #[must_use]
    pub fn id(&self) -> &ReplicaId {
        &self.id
    }

    /// Its tunnels.
    #[must_use]
    pub fn registry(&self) -> &Arc<Registry> {
        &self.registry
    }

    /// What operators are told of its life, which is noted from now on.
    fn life(&self, requests: &user_gateway::Metrics, agents: &AgentMetrics) -> Life {
        let drains = Drains {
            users: self.users.clone(),
            peers: self.peers.clone(),
            gitlab: self.gitlab.clone(),
        };
        let life = Life::new(requests.clone(), agents.tunnels_lost.clone(), drains);
        let noting = life.clone().run(self.stop.clone());
        self.background.spawn(vital("what was survived", noting));
        life
    }

    fn serve_agents(
        &mut self,
        port: Port<AgentAcceptor, agent_gateway::Settings>,
        receptive_form: ReceptiveForm,
        control_plane: &Arc<dyn ControlPlane>,
        counts: AgentMetrics,
        numbers: &mut Metrics,
    ) {
        counts.register(numbers);
        if let Some(clusters) = port.settings.services.clusters() {
            let following = clusters.clone().run(self.stop.clone());
            self.background.spawn(vital("agents' clusters", following));
        }
        if let Some(tracker) = port.settings.services.tracker() {
            let tracking = tracker.clone().run(self.stop.clone());
            self.background.spawn(vital("agents' presence", tracking));
        }
        let registry = self.registry.clone();
        let gateway = AgentGateway::new(
            port.settings,
            control_plane.clone(),
            registry,
            self.table.clone(),
            counts,
        );
        self.agent_gateway = Some(gateway.clone());
        let states = ReceptiveStates::default();
        states.register(numbers);
        let supervisor = ReceptiveSupervisor::new(
            self.id.clone(),
            gateway.clone(),
            self.table.clone(),
            states,
            &crate::version::server(),
        )
        .with_form(receptive_form);
        let listed = control_plane.receptive_agents();
        let supervising = supervisor.run(listed, self.agents.clone());
        self.agents.spawn(vital("receptive agents", supervising));
        let following = gateway.clone().follow(self.id.clone(), self.stop.clone());
        self.background.spawn(vital("agents' notices", following));
        let serving = gateway.serve(port.listener, port.acceptor, self.agents.clone());
        self.agents.spawn(vital("agents' port", serving));
    }

    fn serve_users(
        &self,
        port: Port<PlainAcceptor, user_gateway::Settings>,
        router: Arc<Router>,
        control_plane: Arc<dyn ControlPlane>,
        graph: &Graph,
        counts: user_gateway::Metrics,
        numbers: &mut Metrics,
    ) {
        counts.register(numbers);
        let revision = control_plane.revision();
        let sessions = counts.sessions().clone();
        let checking = sessions.recheck(revision, self.stop.clone());
        self.background.spawn(vital("sessions", checking));
        let gateway = UserGateway::new(port.settings, router, control_plane, counts);
        gateway.open_graph(graph, self.users.clone());
        let serving = gateway.serve(port.listener, port.acceptor, self.users.clone());
        self.users.spawn(vital("users' port", serving));
    }

    fn serve_peers(
        &mut self,
        me: Owner,
        port: Option<Port<PlainAcceptor, PeerSettings>>,
        questions: Routes,
    ) -> Peers {
        let Some(port) = port else {
            let nobody = private_api::dial(ConnectOptions::default(), "");
            return Peers::new(nobody, Arc::new(()), self.stop.clone());
        };
        let PeerSettings { tokens, dial, own } = port.settings;
        let api = PrivateApi::new(me, self.registry.clone(), tokens.clone(), questions);
        self.peer_calls = api.calls_to_finish().clone();
        let serving = api.serve(port.listener, port.acceptor, self.peers.clone());
        self.peers.spawn(vital("other replicas' port", serving));
        Peers::new(private_api::dial(dial, &own), tokens, self.stop.clone())
    }

    fn serve_operators(&self, port: AdminPort, sources: Sources) {
        let api = AdminApi::new(port.settings, Arc::new(Admin::new(sources)));
        let serving = api.serve(port.listener, port.acceptor, self.stop.clone());
        self.background.spawn(vital("admin port", serving));
    }

    fn serve_observability(
        &self,
        listener: AnyListener,
        acceptor: PlainAcceptor,
        paths: metrics::Paths,
        numbers: Metrics,
    ) {
        let (ready, table) = (self.ready.clone(), self.table.clone());
        let (agents, me) = (self.agent_gateway.clone(), self.id.clone());
        let readiness: metrics::Readiness = Arc::new(move || {
            if !ready.load(Ordering::Relaxed) {
                return Err(metrics::NotReady("kas: leaving"));
            }
            // An outage later takes no readiness away: replicas do without the store.
            if !table.was_reached() {
                return Err(metrics::NotReady("kas: Redis was not reached yet"));
            }
            if agents.as_ref().is_some_and(|it| it.is_full_beside(&me)) {
                return Err(metrics::NotReady(
                    "kas: nearly as many connections of agents as agent.listen.max_connections; other replicas have room",
                ));
            }
            Ok(())
        });
        let stop = self.stop.clone();
        let served = metrics::serve(
            listener,
            acceptor,
            paths,
            Arc::new(numbers),
            readiness,
            stop,
        );
        self.background.spawn(vital("observability port", served));
    }
}

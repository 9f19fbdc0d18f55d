//! Accepts the connections of agents, and serves what they call.
//!
//! Each connection is one task, which also keeps the idle tunnels and streams on it: they have no task and no
//! buffer of their own.

mod authenticate;
mod caller;
mod clusters;
mod connection;
mod connections;
mod descriptor;
mod dialled;
mod draining;
mod idle_tunnel;
mod kind;
mod metrics;
mod rebalance;
mod service;
mod services;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use cluster_state::ReplicaId;
use control_plane::ControlPlane;
use router::{Registry, RoutingTable};
use runtime::{
    drain::{Drain, Working},
    listen::{Accepted, AgentAcceptor, AnyListener},
    serve::Server,
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use authenticate::Authenticator;
pub use clusters::{CHANNEL as CLUSTER_PINS_CHANNEL, Clusters};
use connections::AgentConnections;
pub use connections::default_max_connections;
pub use dialled::{DialledAgent, DialledConnection};
use draining::DrainPace;
pub use draining::DrainSettings;
pub use metrics::AgentMetrics;
pub use service::Method;
pub use services::{Services, make_request, reconcile_projects, report_events, route_jobs};

/// How often a WebSocket connection of an agent is pinged: more often than load balancers close silent ones,
/// commonly after 60 s.
pub const WEBSOCKET_PING_INTERVAL: Duration = Duration::from_secs(45);
/// How long a native gRPC stream is silent as a rule, at most, for the same reason.
pub const STREAM_RENEWAL_INTERVAL: Duration = Duration::from_secs(45);

/// Settings of the agents' port.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Age at which a connection gets GOAWAY, before jitter.
    pub max_connection_age: Duration,
    /// How long a native gRPC stream may be silent. Load balancers that take gRPC apart cut silent streams, commonly
    /// after 60 s, and do not count HTTP/2 pings; nothing may be sent on an idle tunnel. So it is ended in order
    /// before that, and the agent opens another at once. Inside WebSocket pings suffice.
    pub stream_renewal_interval: Duration,
    /// Limit of new connections for each token.
    pub connections_per_token_per_minute: u32,
    /// How many connections agents may have to this replica.
    pub max_connections: u32,
    /// Whether agents are asked to move when the replica has far more than others.
    pub rebalance: bool,
    /// How agents are moved to other replicas.
    pub drain: DrainSettings,
    /// The methods that agents may call.
    pub services: Services,
    /// The answer to requests that are no gRPC, such as kubectl's: where the Kubernetes API is.
    pub directions: String,
}

impl Settings {
    /// The defaults of a port that has these methods.
    #[must_use]
    pub fn new(services: Services) -> Self {
        Self {
            max_connection_age: Duration::from_secs(7200),
            stream_renewal_interval: STREAM_RENEWAL_INTERVAL,
            connections_per_token_per_minute: 40_000,
            max_connections: default_max_connections(),
            rebalance: true,
            drain: DrainSettings::default(),
            services,
            directions: "Agents connect here, by gRPC or WebSocket.".to_owned(),
        }
    }
}

/// Serves the connections of agents.
#[derive(Debug)]
pub struct AgentGateway {
    settings: Settings,
    control_plane: Arc<dyn ControlPlane>,
    authenticator: Authenticator,
    registry: Arc<Registry>,
    table: Arc<dyn RoutingTable>,
    metrics: AgentMetrics,
    connections: Arc<AgentConnections>,
    notices: watch::Sender<Notices>,
    /// Connections on which idle tunnels are, or may come.
    holding: Drain,
    drain_pace: OnceLock<DrainPace>,
    drain_turns: AtomicU32,
}

/// What all connections hear of, and what hardly ever changes: each has one thing to wait for.
#[derive(Debug, Clone, Copy, Default)]
struct Notices {
    /// Grows when tokens may have been revoked.
    revision: u64,
    /// Connections up to this one are asked to leave, see [`AgentConnections`].
    leave: u64,
}

impl AgentGateway {
    /// A gateway whose tunnels go to `registry`, which announces them to `table`.
    #[must_use]
    pub fn new(
        settings: Settings,
        control_plane: Arc<dyn ControlPlane>,
        registry: Arc<Registry>,
        table: Arc<dyn RoutingTable>,
        metrics: AgentMetrics,
    ) -> Arc<Self> {
        let authenticator = Authenticator::new(
            control_plane.clone(),
            settings.connections_per_token_per_minute,
            metrics.rate_exceeded.clone(),
            settings.services.tracker().cloned(),
        );
        settings.services.count(&metrics.calls);
        let connections = AgentConnections::new(settings.max_connections);
        Arc::new(Self {
            settings,
            control_plane,
            authenticator,
            registry,
            table,
            metrics,
            connections,
            notices: watch::Sender::default(),
            holding: Drain::new(),
            drain_pace: OnceLock::new(),
            drain_turns: AtomicU32::new(0),
        })
    }

    /// Waits, once draining has started, until no idle tunnel is left here, at most for `limit`; says whether
    /// it is so. Calls in progress may go on after that.
    pub async fn agents_moved(&self, limit: Duration) -> bool {
        self.holding.start();
        self.holding.finished(limit).await
    }

    /// How many connections of agents have idle tunnels here, or may have them.
    #[must_use]
    pub fn agents_here(&self) -> usize {
        self.holding.in_progress()
    }

    /// Tells connections of tokens that may have been revoked, and the other replicas how many agents are here, until
    /// `stop`. Where this replica has far more of them, some are asked to move.
    pub async fn follow(self: Arc<Self>, me: ReplicaId, stop: CancellationToken) {
        tokio::join!(
            stop.run_until_cancelled(self.follow_tokens()),
            rebalance::run(self.clone(), me, stop.clone())
        );
    }

    async fn follow_tokens(&self) {
        let mut revision = self.control_plane.revision();
        while revision.changed().await.is_ok() {
            self.notices.send_modify(|it| it.revision += 1);
        }
    }

    /// Asks so many connections to leave, those first that came first.
    fn ask_to_leave(&self, count: usize) {
        if let Some(last) = self.connections.last_of_first(count) {
            self.notices.send_modify(|it| it.leave = last);
        }
    }

    /// Whether agents should come to other replicas now, which have room, since this one has hardly any.
    #[must_use]
    pub fn is_full_beside(&self, me: &ReplicaId) -> bool {
        self.connections.is_nearly_full() && rebalance::others_have_room(&*self.table, me)
    }

    /// Held by a connection while idle tunnels may be on it.
    fn holds_tunnels(&self) -> Working {
        self.holding.working()
    }

    /// When the next connection gets GOAWAY, counted from the start of the drain.
    fn drain_turn(&self) -> Duration {
        let pace = self.drain_pace.get_or_init(|| {
            let connections = usize::try_from(self.metrics.connections.get()).unwrap_or(0);
            DrainPace::new(connections, &self.settings.drain)
        });
        let turn = self.drain_turns.fetch_add(1, Ordering::Relaxed);
        pace.turn(turn, rand::random())
    }

    /// What agents can call.
    pub(crate) fn services(&self) -> &Services {
        &self.settings.services
    }

    /// Serves a connection that this replica dialled, as if the agent had dialled it, to its end.
    pub async fn serve_dialled(
        self: Arc<Self>,
        accepted: Accepted,
        dialled: Arc<DialledConnection>,
        drain: Drain,
    ) {
        connection::serve(self, accepted, Some(dialled), drain).await;
    }

    /// Accepts agents until draining starts.
    pub async fn serve(
        self: Arc<Self>,
        listener: impl Into<AnyListener>,
        acceptor: AgentAcceptor,
        drain: Drain,
    ) {
        let leaving = drain.clone();
        let serve = move |accepted| connection::serve(self, accepted, None, leaving);
        let server = Server::new("agents", listener.into(), acceptor);
        server.run(drain, serve).await;
    }
}

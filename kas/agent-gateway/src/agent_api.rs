//! The agents' port: everything agents call, on connections that live long.
//!
//! Each connection is one task. Idle tunnels and configuration streams are
//! parked in it without tasks or buffers of their own.

mod authenticate;
mod caller;
mod connection;
mod dialled;
mod idle;
mod leaving;
mod metrics;
mod offers;
mod pacing;
mod service;
mod services;

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use runtime::{
    drain::{Drain, Working},
    listen::{Accepted, AgentAcceptor, Listener},
    serve::Server,
};

pub use dialled::{Answer, Dialled};
pub use leaving::Leaving;
pub use metrics::AgentMetrics;
pub use service::Method;
pub use services::{Services, reconcile_projects, report_events};

use authenticate::Authenticator;
use control_plane::ControlPlane;
use pacing::Pacing;
use router::{Registry, RoutingTable};

/// How often agents' WebSocket connections are pinged: more often than load
/// balancers give up silent ones, commonly after 60 s.
pub const WEBSOCKET_PING_INTERVAL: Duration = Duration::from_secs(45);

/// How agents' connections are treated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Age at which a connection is asked to leave, before jitter.
    pub max_connection_age: Duration,
    /// New connections that one token may make in a minute.
    pub connections_per_token_per_minute: u32,
    /// How agents are moved away.
    pub leaving: Leaving,
    /// What agents may call.
    pub services: Services,
    /// What those are told who are no agents: where they should have gone.
    pub directions: String,
}

/// What serves agents.
#[derive(Debug)]
pub struct AgentApi {
    settings: Settings,
    control_plane: Arc<dyn ControlPlane>,
    authenticator: Authenticator,
    registry: Arc<Registry>,
    table: Arc<dyn RoutingTable>,
    metrics: AgentMetrics,
    /// Connections on which tunnels wait, or may.
    staying: Drain,
    pacing: OnceLock<Pacing>,
    turns: AtomicU32,
}

impl AgentApi {
    /// An agent API whose tunnels go to `registry`, which announces them to `table`.
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
        );
        Arc::new(Self {
            settings,
            control_plane,
            authenticator,
            registry,
            table,
            metrics,
            staying: Drain::new(),
            pacing: OnceLock::new(),
            turns: AtomicU32::new(0),
        })
    }

    /// Waits, once draining has started, until no agent waits here for calls
    /// any more, at most for `limit`; says whether it is so. Calls in progress
    /// may go on after that.
    pub async fn moved(&self, limit: Duration) -> bool {
        self.staying.start();
        self.staying.finished(limit).await
    }

    fn stays(&self) -> Working {
        self.staying.working()
    }

    /// How long the next connection waits before it leaves a replica that drains.
    fn turn(&self) -> Duration {
        let pacing = self.pacing.get_or_init(|| {
            let connections = self.metrics.connections.get();
            let Leaving {
                per_second, within, ..
            } = self.settings.leaving;
            Pacing::new(
                usize::try_from(connections).unwrap_or(0),
                per_second,
                within,
            )
        });
        pacing.turn(self.turns.fetch_add(1, Ordering::Relaxed), rand::random())
    }

    /// Serves a connection that this replica made, as if the agent had made it,
    /// to its end.
    pub async fn serve_dialled(
        self: Arc<Self>,
        accepted: Accepted,
        dialled: Arc<Dialled>,
        drain: Drain,
    ) {
        connection::serve(self, accepted, Some(dialled), drain).await;
    }

    /// Accepts agents until draining starts.
    pub async fn serve(self: Arc<Self>, listener: Listener, acceptor: AgentAcceptor, drain: Drain) {
        let leaving = drain.clone();
        let serve = move |accepted| connection::serve(self, accepted, None, leaving);
        let server = Server::new("agents", listener, acceptor);
        server.run(drain, serve).await;
    }
}

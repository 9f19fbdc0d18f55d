//! The agents' port: everything agents call, on connections that live long.
//!
//! Each connection is one task. Idle tunnels and configuration streams are
//! parked in it without tasks or buffers of their own.

mod authenticate;
mod configuration;
mod connect;
mod connection;
mod idle;
mod metrics;
mod pings;
mod registrar;
mod version;

use std::{sync::Arc, time::Duration};

use runtime::{
    drain::Drain,
    listen::{AcceptError, AgentAcceptor, Listener},
};

pub use metrics::AgentMetrics;

use crate::{control_plane::ControlPlane, tracker::Tracker};
use authenticate::Authenticator;
use router::Registry;

/// How agents' connections are treated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Age at which a connection is asked to leave, before jitter.
    pub max_connection_age: Duration,
    /// New connections that one token may make in a minute.
    pub connections_per_token_per_minute: u32,
    /// Sent to agents so that they know which GitLab they serve; may be empty.
    pub external_url: String,
}

/// What serves agents.
#[derive(Debug)]
pub struct AgentApi {
    settings: Settings,
    control_plane: Arc<dyn ControlPlane>,
    authenticator: Authenticator,
    registry: Arc<Registry>,
    tracker: Arc<Tracker>,
    metrics: AgentMetrics,
}

impl AgentApi {
    /// An agent API whose tunnels go to `registry`.
    #[must_use]
    pub fn new(
        settings: Settings,
        control_plane: Arc<dyn ControlPlane>,
        registry: Arc<Registry>,
        tracker: Arc<Tracker>,
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
            tracker,
            metrics,
        })
    }

    /// Accepts agents until draining starts.
    pub async fn serve(self: Arc<Self>, listener: Listener, acceptor: AgentAcceptor, drain: Drain) {
        loop {
            let (socket, peer) = tokio::select! {
                accepted = listener.accept() => accepted,
                () = drain.wait() => return,
            };
            let (api, acceptor, leaving) = (self.clone(), acceptor.clone(), drain.clone());
            drain.spawn(async move {
                match Box::pin(acceptor.accept(socket, peer)).await {
                    Ok(accepted) => connection::serve(api, accepted, leaving).await,
                    Err(error) => report(&error, peer),
                }
            });
        }
    }
}

fn report(error: &AcceptError, peer: std::net::SocketAddr) {
    if error.is_harmless() {
        tracing::debug!(%error, %peer, "a connection to the agents' port came to nothing");
    } else {
        tracing::info!(%error, %peer, "a connection to the agents' port was refused");
    }
}

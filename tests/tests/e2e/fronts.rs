//! What stands between agents, users and the replicas: HAProxy and nginx, and before them a net that misbehaves.

use std::{path::Path, path::PathBuf};

use anyhow::Result;
use tests::{
    balancer::{Balancer, Front},
    certs::Certs,
    chaos::{Chaos, Mode},
    nginx::Nginx,
    replicas::{Replica, Replicas},
};

/// The way of an agent to kas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Route {
    /// HAProxy, WebSocket.
    WebSocket,
    /// HAProxy, gRPC that it takes apart.
    Grpc,
    /// nginx that ends TLS, WebSocket.
    NginxWebSocket,
    /// nginx that ends TLS, gRPC that it takes apart.
    NginxGrpc,
}

impl Route {
    pub(crate) const ALL: [Self; 4] = [
        Self::WebSocket,
        Self::NginxWebSocket,
        Self::Grpc,
        Self::NginxGrpc,
    ];
}

/// Both load balancers, and the net before them.
#[derive(Debug)]
pub(crate) struct Fronts {
    pub(crate) haproxy: Balancer,
    pub(crate) nginx: Nginx,
    websocket: Chaos,
    grpc: Chaos,
    to_nginx: Chaos,
    certs: Certs,
}

impl Fronts {
    pub(crate) async fn start(replicas: &Replicas, folder: &Path) -> Result<Self> {
        let certs = Certs::create(&folder.join("certs"))?;
        let servers = replicas.members.iter().map(Replica::server).collect();
        let haproxy = Balancer::start(servers, folder).await?;
        let agents: Vec<_> = replicas.members.iter().map(|it| it.agents).collect();
        let nginx = Nginx::start(&agents, &certs, folder).await?;
        Ok(Self {
            websocket: Chaos::start(&[haproxy.port(Front::WebSocket)]).await?,
            grpc: Chaos::start(&[haproxy.port(Front::Grpc)]).await?,
            to_nginx: Chaos::start(&[nginx.port()]).await?,
            haproxy,
            nginx,
            certs,
        })
    }

    /// `--kas-address` of an agent that takes this way.
    pub(crate) fn address(&self, route: Route) -> String {
        match route {
            Route::WebSocket => format!("ws://127.0.0.1:{}/", self.websocket.port()),
            Route::Grpc => format!("grpc://127.0.0.1:{}", self.grpc.port()),
            Route::NginxWebSocket => format!("wss://localhost:{}/", self.to_nginx.port()),
            Route::NginxGrpc => format!("grpcs://localhost:{}", self.to_nginx.port()),
        }
    }

    /// The authority of nginx.
    pub(crate) fn ca(&self) -> PathBuf {
        self.certs.ca.clone()
    }

    /// Where users connect.
    pub(crate) fn users(&self) -> u16 {
        self.haproxy.port(Front::Users)
    }

    /// Resets all connections of agents.
    pub(crate) fn cut(&self) {
        self.links().for_each(Chaos::cut);
    }

    /// Changes what becomes of all connections of agents.
    pub(crate) fn set(&self, mode: Mode) {
        self.links().for_each(|link| link.set(mode));
    }

    fn links(&self) -> impl Iterator<Item = &Chaos> {
        [&self.websocket, &self.grpc, &self.to_nginx].into_iter()
    }
}

//! How a kas is run, and where it listens.

use std::path::PathBuf;

use super::product::Product;
use crate::ports::{free, loopback};

/// How a kas is run.
#[derive(Debug, Clone)]
pub(crate) struct Setup {
    pub(crate) program: PathBuf,
    pub(crate) product: Product,
    /// With TLS for agents.
    pub(crate) tls: bool,
    /// With TLS for users.
    pub(crate) https: bool,
    /// With WebSocket for agents, besides gRPC.
    pub(crate) websocket: bool,
    /// The port of a Redis that it shares with others.
    pub(crate) redis: Option<u16>,
    /// The port of a GitLab that it asks; else it has its agents in a file.
    pub(crate) gitlab: Option<u16>,
}

impl Setup {
    /// Our kas, alone, in clear.
    pub(crate) fn new(program: PathBuf) -> Self {
        Self {
            program,
            product: Product::Kas,
            tls: false,
            https: false,
            websocket: true,
            redis: None,
            gitlab: None,
        }
    }

    /// Where agents connect, if that is this port of loopback.
    pub(crate) fn address_of_agents(&self, port: u16) -> String {
        let scheme = match (self.websocket, self.tls) {
            (true, false) => "ws",
            (true, true) => "wss",
            (false, false) => "grpc",
            (false, true) => "grpcs",
        };
        let path = if self.websocket { "/" } else { "" };
        format!("{scheme}://{}{path}", loopback(port))
    }
}

/// Where a replica listens on loopback.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Ports {
    pub(crate) agents: u16,
    pub(crate) users: u16,
    pub(crate) observability: u16,
    pub(crate) peers: u16,
    pub(crate) api: u16,
    /// For operators.
    pub(crate) admin: u16,
}

impl Ports {
    pub(super) fn choose() -> anyhow::Result<Self> {
        let [agents, users, observability, peers, api, admin] = free()?;
        Ok(Self {
            agents,
            users,
            observability,
            peers,
            api,
            admin,
        })
    }
}

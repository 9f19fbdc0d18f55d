//! What runs.

use std::path::PathBuf;

use serde::Deserialize;

use crate::topology::Product;

/// What is started, or attached to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct Topology {
    /// Whose kas.
    pub(crate) target: Product,
    /// How many replicas.
    pub(crate) replicas: usize,
    /// Whether agents reach the replicas through the built-in load balancer; otherwise
    /// they dial them in turns, which needs fewer open files.
    pub(crate) balancer: bool,
    /// How agents connect.
    pub(crate) scheme: Scheme,
    /// A running kas, instead of starting one.
    pub(crate) attach: Option<Attach>,
}

/// A kas that runs already.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Attach {
    /// Where agents connect: `wss://kas.example.com/`.
    pub(crate) kas_address: String,
    /// The Kubernetes API proxy: `https://kas.example.com/k8s-proxy`.
    pub(crate) url: String,
    /// One agent token a line.
    pub(crate) token_file: PathBuf,
    /// A file with the bearer token of requests; `{agent}` in it stands for the agent's number.
    pub(crate) bearer_file: PathBuf,
    /// A CA certificate for both.
    #[serde(default)]
    pub(crate) ca_cert_file: Option<PathBuf>,
    /// Process ids of its replicas on this machine, for figures and signals.
    #[serde(default)]
    pub(crate) pids: Vec<u32>,
    /// `host:port` of its Redis.
    #[serde(default)]
    pub(crate) redis: Option<String>,
    /// Process id of its Redis, likewise.
    #[serde(default)]
    pub(crate) redis_pid: Option<u32>,
    /// URLs of its metrics, one for each replica.
    #[serde(default)]
    pub(crate) metrics: Vec<String>,
}

/// How agents connect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scheme {
    /// WebSocket.
    Ws,
    /// WebSocket in TLS.
    Wss,
    /// gRPC.
    Grpc,
    /// gRPC in TLS.
    Grpcs,
}

impl Scheme {
    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Wss | Self::Grpcs)
    }

    pub(crate) fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }
}

impl Default for Topology {
    fn default() -> Self {
        Self {
            target: Product::Kas,
            replicas: 1,
            balancer: false,
            scheme: Scheme::Ws,
            attach: None,
        }
    }
}

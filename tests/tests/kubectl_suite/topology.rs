//! The ways that agents and users reach kas.

use tests::parts::Part;

/// The scheme of `--kas-address`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scheme {
    Ws,
    Wss,
    Grpc,
    Grpcs,
}

impl Scheme {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Ws => "ws",
            Self::Wss => "wss",
            Self::Grpc => "grpc",
            Self::Grpcs => "grpcs",
        }
    }

    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::Wss | Self::Grpcs)
    }

    fn is_websocket(self) -> bool {
        matches!(self, Self::Ws | Self::Wss)
    }

    /// The address of a server on a port of loopback; WebSocket takes any path.
    pub(crate) fn address(self, port: u16) -> String {
        let path = if self.is_websocket() {
            "/-/kubernetes-agent/"
        } else {
            ""
        };
        format!("{}://localhost:{port}{path}", self.name())
    }
}

/// What stands between a client and kas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Via {
    Direct,
    HaproxyTcp,
    HaproxyHttp,
    NginxHttp,
}

impl Via {
    /// Whether TLS ends there, so that kas sees none.
    pub(crate) fn ends_tls(self) -> bool {
        matches!(self, Self::HaproxyHttp | Self::NginxHttp)
    }

    fn needs(self) -> Option<Part> {
        match self {
            Self::Direct => None,
            Self::HaproxyTcp | Self::HaproxyHttp => Some(Part::Haproxy),
            Self::NginxHttp => Some(Part::Nginx),
        }
    }
}

/// One way through kas: kubectl -> `users` -> kas <- `agents` <- agentk.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) scheme: Scheme,
    pub(crate) agents: Via,
    pub(crate) users: Via,
}

/// What kubectl talks to.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Server {
    /// The API server itself, which shows what the scenarios need of it.
    Cluster,
    /// Three replicas, their agent and all that belongs to them, by one command.
    Up,
    /// kas.
    Kas(Way),
}

/// A server by name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Topology {
    pub(crate) name: &'static str,
    pub(crate) server: Server,
}

impl Topology {
    fn new(name: &'static str, scheme: Scheme, agents: Via, users: Via) -> Self {
        Self {
            name,
            server: Server::Kas(Way {
                scheme,
                agents,
                users,
            }),
        }
    }

    /// Whether users and agents of kas can be made in it.
    pub(crate) fn has_accounts(&self) -> bool {
        matches!(self.server, Server::Kas(_))
    }

    /// Real parts that it is made of.
    pub(crate) fn needs(&self) -> Vec<Part> {
        let way = match self.server {
            Server::Kas(way) => Some(way),
            Server::Cluster | Server::Up => None,
        };
        let balancers = way.into_iter().flat_map(|way| [way.agents, way.users]);
        balancers
            .filter_map(Via::needs)
            .chain([Part::Cluster])
            .collect()
    }
}

/// Every topology of the suite.
pub(crate) fn all() -> Vec<Topology> {
    use Scheme::{Grpc, Grpcs, Ws, Wss};
    use Via::{Direct, HaproxyHttp, HaproxyTcp, NginxHttp};
    vec![
        Topology {
            name: "without_kas",
            server: Server::Cluster,
        },
        Topology {
            name: "kas_up",
            server: Server::Up,
        },
        Topology::new("wss_direct", Wss, Direct, Direct),
        Topology::new("ws_direct", Ws, Direct, Direct),
        Topology::new("grpc_direct", Grpc, Direct, Direct),
        Topology::new("grpcs_direct", Grpcs, Direct, Direct),
        Topology::new("wss_haproxy_l4", Wss, HaproxyTcp, Direct),
        Topology::new("grpcs_haproxy_l4", Grpcs, HaproxyTcp, Direct),
        Topology::new("wss_haproxy_l7", Wss, HaproxyHttp, Direct),
        Topology::new("grpcs_haproxy_l7", Grpcs, HaproxyHttp, Direct),
        Topology::new("wss_nginx_l7", Wss, NginxHttp, Direct),
        Topology::new("grpcs_nginx_l7", Grpcs, NginxHttp, Direct),
        Topology::new("users_haproxy_l4", Wss, Direct, HaproxyTcp),
        Topology::new("users_haproxy_l7", Wss, Direct, HaproxyHttp),
        Topology::new("users_nginx_l7", Wss, Direct, NginxHttp),
    ]
}

//! kas, agentk, and what stands between them and kubectl.

use std::path::Path;

use anyhow::Result;
use tests::{
    agentk::{Agentk, Links},
    certs::Certs,
    haproxy::{Front, Haproxy},
    kas::{Kas, Options, Server},
    kube::Cluster,
    kubectl::Kubectl,
    nginx::Nginx,
};

use crate::topology::{Via, Way};

/// The agent's name, the same everywhere.
const AGENT: &str = "site";

/// The processes of one way through kas.
#[derive(Debug)]
pub(crate) struct ThroughKas {
    kas: Kas,
    agent: Agentk,
    balancers: [Balancer; 2],
    server: Server,
}

impl ThroughKas {
    pub(crate) async fn start(way: Way, cluster: &Cluster, folder: &Path) -> Result<Self> {
        let certs = Certs::create(&folder.join("certs"))?;
        let kas = start_kas(way, &certs, folder).await?;
        let agents = Balancer::start(way.agents, Front::Agents, kas.agents, &certs, folder).await?;
        let users = Balancer::start(way.users, Front::Users, kas.users, &certs, folder).await?;

        let token = kas.create_agent(AGENT).await?;
        let links = Links {
            kas: way.scheme.address(agents.port_or(kas.agents)),
            ca: way.scheme.is_tls().then(|| certs.ca.clone()),
            kubeconfig: cluster.agent_kubeconfig(),
        };
        let agent = Agentk::start("agentk", &links, &token, folder)?;
        let url = format!("https://localhost:{}/k8s-proxy/", users.port_or(kas.users));
        let server = Server { url, ca: certs.ca };
        Ok(Self {
            kas,
            agent,
            balancers: [agents, users],
            server,
        })
    }

    /// kubectl as a new user, who acts as `access` says.
    pub(crate) async fn user(&self, name: &str, access: &[&str]) -> Result<Kubectl> {
        let token = self.kas.create_user(name, AGENT, access).await?;
        self.connect(["--user", name], &token).await
    }

    /// kubectl as a new service.
    pub(crate) async fn service(&self, name: &str, access: &[&str]) -> Result<Kubectl> {
        let token = self.kas.create_service(name, AGENT, access).await?;
        self.connect(["--service", name], &token).await
    }

    /// kubectl as a new user without any right.
    pub(crate) async fn user_without_access(&self, name: &str) -> Result<Kubectl> {
        let token = self.kas.cli(&["user", "create", name]).await?;
        self.connect(["--user", name], &token).await
    }

    /// kubectl with this token.
    pub(crate) async fn connect(&self, who: [&str; 2], token: &str) -> Result<Kubectl> {
        self.kas.kubectl(AGENT, who, token, &self.server).await
    }

    /// The last lines of every process's log.
    pub(crate) fn tails(&self) -> String {
        let own = [self.kas.process.tail(), self.agent.process.tail()];
        let balancers = self.balancers.iter().filter_map(Balancer::tail);
        own.into_iter()
            .chain(balancers)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

async fn start_kas(way: Way, certs: &Certs, folder: &Path) -> Result<Kas> {
    let agent_tls = way.scheme.is_tls() && !way.agents.ends_tls();
    // nginx makes a connection for each gRPC call, and they all count as new ones.
    let listen = if way.agents == Via::NginxHttp {
        "connections_per_token_per_minute: 100000"
    } else {
        ""
    };
    let options = Options {
        agent_tls: agent_tls.then_some(certs),
        user_tls: (!way.users.ends_tls()).then_some(certs),
        agent_listen: listen,
        ..Options::default()
    };
    Kas::start(options, folder).await
}

/// What stands between a client and kas.
#[derive(Debug)]
enum Balancer {
    None,
    Haproxy(Haproxy),
    Nginx(Nginx),
}

impl Balancer {
    async fn start(
        via: Via,
        front: Front,
        target: u16,
        certs: &Certs,
        folder: &Path,
    ) -> Result<Self> {
        Ok(match via {
            Via::Direct => Self::None,
            Via::HaproxyTcp => {
                Self::Haproxy(Haproxy::start(Front::Tcp, target, certs, folder).await?)
            }
            Via::HaproxyHttp => Self::Haproxy(Haproxy::start(front, target, certs, folder).await?),
            Via::NginxHttp => Self::Nginx(Nginx::start(&[target], certs, folder).await?),
        })
    }

    fn port_or(&self, direct: u16) -> u16 {
        match self {
            Self::None => direct,
            Self::Haproxy(haproxy) => haproxy.port(),
            Self::Nginx(nginx) => nginx.port(),
        }
    }

    fn tail(&self) -> Option<String> {
        match self {
            Self::None => None,
            Self::Haproxy(haproxy) => Some(haproxy.tail()),
            Self::Nginx(nginx) => Some(nginx.tail()),
        }
    }
}

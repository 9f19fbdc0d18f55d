//! One topology, running: kas, agentk, what stands between, and a namespace with pods to work on.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use tests::{
    agentk::{Agentk, Links},
    certs::Certs,
    haproxy::{Front, Haproxy},
    kas::{Kas, Options, Server},
    kube::Cluster,
    kubectl::Kubectl,
    nginx::Nginx,
    wait::until,
};

use crate::topology::{Topology, Via};

/// The agent's name, the same everywhere.
pub(crate) const AGENT: &str = "site";

/// Agents dial again within seconds when they came before the server was ready.
const CONNECT: Duration = Duration::from_secs(60);

/// A running topology.
#[derive(Debug)]
pub(crate) struct Site {
    /// kubectl through kas, as a user who acts as the agent, in the site's namespace.
    pub(crate) kubectl: Kubectl,
    /// kubectl straight to the API server.
    pub(crate) admin: Kubectl,
    /// For files of scenarios.
    pub(crate) folder: std::path::PathBuf,
    kas: Kas,
    agent: Agentk,
    balancers: Vec<Balancer>,
    server: Server,
}

impl Site {
    pub(crate) async fn start(
        topology: Topology,
        cluster: &Cluster,
        folder: &Path,
    ) -> Result<Self> {
        std::fs::remove_dir_all(folder).ok();
        std::fs::create_dir_all(folder)?;
        let certs = Certs::create(&folder.join("certs"))?;
        let kas = start_kas(topology, &certs, folder).await?;
        let agents =
            Balancer::start(topology.agents, Front::Agents, kas.agents, &certs, folder).await?;
        let users =
            Balancer::start(topology.users, Front::Users, kas.users, &certs, folder).await?;

        let token = kas.create_agent(AGENT).await?;
        let links = Links {
            kas: topology.scheme.address(agents.port_or(kas.agents)),
            ca: topology.scheme.is_tls().then(|| certs.ca.clone()),
            kubeconfig: cluster.agent_kubeconfig(),
        };
        let agent = Agentk::start("agentk", &links, &token, folder)?;

        let user = kas.create_user("operator", AGENT, &["agent"]).await?;
        let url = format!("https://localhost:{}/k8s-proxy/", users.port_or(kas.users));
        let server = Server {
            url,
            ca: certs.ca.clone(),
        };
        let kubectl = kas
            .kubectl(AGENT, ["--user", "operator"], &user, &server)
            .await?;
        let namespace = topology.name.replace('_', "-");
        let site = Self {
            kubectl: kubectl.in_namespace(&namespace),
            admin: cluster.admin().in_namespace(&namespace),
            folder: folder.to_owned(),
            kas,
            agent,
            balancers: vec![agents, users],
            server,
        };
        site.prepare().await.with_context(|| site.tails())?;
        Ok(site)
    }

    /// kubectl through kas as another user, who acts as `access` says.
    pub(crate) async fn user(&self, name: &str, access: &[&str]) -> Result<Kubectl> {
        let token = self.kas.create_user(name, AGENT, access).await?;
        self.connect(["--user", name], &token).await
    }

    /// kubectl through kas as a service.
    pub(crate) async fn service(&self, name: &str, access: &[&str]) -> Result<Kubectl> {
        let token = self.kas.create_service(name, AGENT, access).await?;
        self.connect(["--service", name], &token).await
    }

    /// kubectl through kas with this token.
    pub(crate) async fn connect(&self, who: [&str; 2], token: &str) -> Result<Kubectl> {
        let kubectl = self.kas.kubectl(AGENT, who, token, &self.server).await?;
        Ok(kubectl.in_namespace(self.kubectl.namespace()))
    }

    /// kas's own command line.
    pub(crate) fn kas(&self) -> &Kas {
        &self.kas
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

    /// The pods come by the direct way, while the agent connects.
    async fn prepare(&self) -> Result<()> {
        self.admin
            .ok(&["create", "namespace", self.admin.namespace()])
            .await?;
        self.admin.apply(PODS).await?;
        let connected = async || self.kubectl.ok(&["get", "--raw", "/version"]).await.ok();
        until("the agent's connection", CONNECT, connected).await?;
        self.admin
            .ok(&[
                "wait",
                "--for=condition=Ready",
                "pod/box",
                "pod/echo",
                "--timeout=60s",
            ])
            .await?;
        Ok(())
    }
}

async fn start_kas(topology: Topology, certs: &Certs, folder: &Path) -> Result<Kas> {
    let agent_tls = topology.scheme.is_tls() && !topology.agents.ends_tls();
    // nginx makes a connection for each gRPC call, and they all count as new ones.
    let listen = if topology.agents == Via::NginxHttp {
        "connections_per_token_per_minute: 100000"
    } else {
        ""
    };
    let options = Options {
        agent_tls: agent_tls.then_some(certs),
        user_tls: (!topology.users.ends_tls()).then_some(certs),
        agent_listen: listen,
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
            Via::NginxHttp => Self::Nginx(Nginx::start(target, certs, folder).await?),
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

/// `box` serves HTTP and counts seconds in its log; `echo` says what it is told.
const PODS: &str = r#"
apiVersion: v1
kind: List
items:
- apiVersion: v1
  kind: Pod
  metadata: {name: box, labels: {app: box}}
  spec:
    terminationGracePeriodSeconds: 0
    containers:
    - name: box
      image: local/busybox:1
      imagePullPolicy: Never
      command: [sh, -c, "httpd -p 8080 -h /www; i=0; while true; do echo tick $i; i=$((i+1)); sleep 1; done"]
- apiVersion: v1
  kind: Pod
  metadata: {name: echo}
  spec:
    terminationGracePeriodSeconds: 0
    containers:
    - name: echo
      image: local/busybox:1
      imagePullPolicy: Never
      stdin: true
      command: [cat]
- apiVersion: v1
  kind: Service
  metadata: {name: box}
  spec:
    selector: {app: box}
    ports: [{port: 80, targetPort: 8080}]
"#;

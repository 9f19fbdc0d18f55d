//! One topology, running, and a namespace with pods to work on.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tests::{kube::Cluster, kubectl::Kubectl, up::Up, wait::until};

use crate::{
    through_kas::ThroughKas,
    topology::{Server, Topology},
};

/// Agents dial again within seconds when they came before the server was ready.
const CONNECT: Duration = Duration::from_secs(60);

/// A running topology.
#[derive(Debug)]
pub(crate) struct Site {
    /// kubectl as the topology says, with all rights, in the site's namespace.
    pub(crate) kubectl: Kubectl,
    /// kubectl straight to the API server.
    pub(crate) admin: Kubectl,
    /// For files of scenarios.
    pub(crate) folder: PathBuf,
    way: Way,
}

/// What stands between kubectl and the API server.
#[derive(Debug)]
enum Way {
    Direct,
    Up(Box<Up>),
    Kas(Box<ThroughKas>),
}

impl Site {
    pub(crate) async fn start(
        topology: Topology,
        cluster: &Cluster,
        folder: &Path,
    ) -> Result<Self> {
        std::fs::remove_dir_all(folder).ok();
        std::fs::create_dir_all(folder)?;
        let namespace = topology.name.replace('_', "-");
        let admin = cluster.admin().in_namespace(&namespace);
        let way = match topology.server {
            Server::Cluster => Way::Direct,
            Server::Up => Way::Up(Box::new(start_up(cluster).await?)),
            Server::Kas(way) => {
                let kas = ThroughKas::start(way, cluster, folder).await?;
                Way::Kas(Box::new(kas))
            }
        };
        let kubectl = match &way {
            Way::Direct => admin.clone(),
            Way::Up(up) => up.kubectl().in_namespace(&namespace),
            Way::Kas(kas) => kas
                .user("operator", &["agent"])
                .await?
                .in_namespace(&namespace),
        };
        let site = Self {
            kubectl,
            admin,
            folder: folder.to_owned(),
            way,
        };
        site.prepare().await.with_context(|| site.tails())?;
        Ok(site)
    }

    /// The kas that this topology leads through.
    pub(crate) fn kas(&self) -> Result<&ThroughKas> {
        match &self.way {
            Way::Kas(kas) => Ok(kas),
            Way::Direct | Way::Up(_) => bail!("this topology has no kas with accounts"),
        }
    }

    /// The last lines of every process's log.
    pub(crate) fn tails(&self) -> String {
        match &self.way {
            Way::Direct => String::new(),
            Way::Up(up) => up.process.tail(),
            Way::Kas(kas) => kas.tails(),
        }
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
                "--timeout=120s",
            ])
            .await?;
        Ok(())
    }
}

/// `kas up` on the cluster, with the rights of the cluster's agent.
async fn start_up(cluster: &Cluster) -> Result<Up> {
    let kubeconfig = cluster.agent_kubeconfig().display().to_string();
    Up::start(&["--kubeconfig", &kubeconfig]).await
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

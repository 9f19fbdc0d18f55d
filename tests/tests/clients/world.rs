//! The cluster, two replicas, their agent behind a proxy that resets its connections, and what is there to be looked at.

use std::{
    fmt::Write as _,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use tests::{
    agentk::{Agentk, Links},
    certs::Certs,
    chaos::Chaos,
    haproxy::{Front, Haproxy},
    http as client,
    kube::Cluster,
    kubectl::Kubectl,
    replicas::Replicas,
    wait::until,
};

/// The pod that says things, and its container; clients have a copy of these words.
pub(crate) const POD: &str = "box";
/// What it runs for clients, and is told.
pub(crate) const COMMAND: &str = "read -r said; echo heard $said; echo trouble >&2; exit 3";
pub(crate) const SAID: &str = "hello\n";
/// Where it serves, and what.
pub(crate) const PORT: u16 = 8080;
pub(crate) const LARGE: &str = "/large";
/// The label of the one object that changes.
pub(crate) const WATCHED: &str = "watched=yes";
/// Clients list by so many.
pub(crate) const PAGE: u32 = 100;

const OBJECTS: usize = 250;
const SOON: Duration = Duration::from_secs(60);
const PODS: &str = r#"
apiVersion: v1
kind: Pod
metadata: {name: box}
spec:
  terminationGracePeriodSeconds: 0
  containers:
  - name: box
    image: local/busybox:1
    imagePullPolicy: Never
    command: [sh, -c, "seq 1 400; mkdir /served; yes kas | head -c 300000 > /served/large; exec httpd -f -p 8080 -h /served"]
---
apiVersion: v1
kind: ConfigMap
metadata: {name: watched, labels: {watched: "yes", round: "0"}}
"#;

/// All of it. End the cluster with [`Cluster::down`] afterwards.
pub(crate) struct World {
    pub(crate) chaos: Chaos,
    pub(crate) admin: Kubectl,
    pub(crate) folder: PathBuf,
    /// The way around kas, and the way through it.
    pub(crate) ways: [Way; 2],
    replicas: Replicas,
    _agent: Agentk,
    _front: Haproxy,
}

/// A way to the API server.
#[derive(Debug, Clone)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) kubeconfig: PathBuf,
}

impl World {
    pub(crate) async fn start(cluster: &Cluster, folder: &Path) -> Result<Self> {
        let admin = cluster.admin();
        admin.apply(PODS).await?;
        admin.apply(&objects()?).await?;
        let replicas = Replicas::start(2, folder).await?;
        let agents = replicas.members.iter().map(|it| it.agents);
        let chaos = Chaos::start(&agents.collect::<Vec<_>>()).await?;
        let token = replicas.cli(&["agent", "create", "site"]).await?;
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", chaos.port()),
            ca: None,
            kubeconfig: cluster.agent_kubeconfig(),
        };
        let agent = Agentk::start("agentk", &links, &token, folder)?;
        let certs = Certs::create(&folder.join("certs"))?;
        let users = replicas.members[0].users;
        let front = Haproxy::start(Front::Users, users, &certs, folder).await?;
        let through = replicas
            .kubeconfig_as_agent("site", front.port(), &certs.ca)
            .await?;
        let kas = Kubectl::new(&through);
        let connected = async || kas.ok(&["get", "--raw", "/version"]).await.ok();
        until("the agent", SOON, connected).await?;
        let ready = ["wait", "--for=condition=Ready", "pod/box", "--timeout=60s"];
        admin.ok(&ready).await?;
        let direct = Way {
            name: "direct",
            kubeconfig: cluster.agent_kubeconfig(),
        };
        let through = Way {
            name: "kas",
            kubeconfig: through,
        };
        Ok(Self {
            chaos,
            admin,
            folder: folder.to_owned(),
            ways: [direct, through],
            replicas,
            _agent: agent,
            _front: front,
        })
    }

    /// Changes the object that is watched.
    pub(crate) async fn change(&self, round: usize) -> Result<()> {
        let label = format!("round={round}");
        let args = ["label", "configmap", "watched", "--overwrite", &label];
        self.admin.ok(&args).await.map(drop)
    }

    /// How often kas has resumed a watch.
    pub(crate) async fn resumes(&self) -> Result<f64> {
        let port = self.replicas.members[0].observability;
        let metrics = client::get(&format!("http://127.0.0.1:{port}/metrics"), "").await?;
        let text = String::from_utf8_lossy(metrics.body()).into_owned();
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix("k8s_api_proxy_watch_resumes_total "));
        Ok(line.context("no metric of resumes")?.parse()?)
    }

    /// The last lines of the replicas' logs.
    pub(crate) fn tails(&self) -> String {
        let tails = self.replicas.members.iter().map(|it| it.process.tail());
        tails.collect::<Vec<_>>().join("\n")
    }
}

fn objects() -> Result<String> {
    let mut text = String::new();
    for number in 0..OBJECTS {
        writeln!(
            text,
            "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {{name: map-{number:03}}}"
        )?;
    }
    Ok(text)
}

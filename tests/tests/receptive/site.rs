//! Three replicas, an agent that one of them dials through a load balancer, and
//! kubectl through each of them to a real cluster.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result};
use tempfile::TempDir;
use tests::{
    agentk::Agentk,
    certs::Certs,
    haproxy::{Front, Haproxy},
    http as client,
    kube::Cluster,
    kubectl::Kubectl,
    ports,
    process::Process,
    replicas::Replicas,
    wait::until,
};

pub(crate) const REPLICAS: usize = 3;
/// For what has no deadline of its own.
const SOON: Duration = Duration::from_secs(60);
const AGENT: &str = "behind";

/// How the agent is reached, and how kas proves who it is.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Way {
    pub(crate) name: &'static str,
    pub(crate) front: Front,
    pub(crate) scheme: &'static str,
    pub(crate) mutual: bool,
}

pub(crate) struct Site {
    pub(crate) replicas: Replicas,
    pub(crate) agent: Agentk,
    kubectl: Kubectl,
    users: Vec<Haproxy>,
    _agents: Haproxy,
    _folder: TempDir,
}

impl Site {
    /// Starts everything, and waits until kubectl works through each replica.
    pub(crate) async fn start(way: Way, cluster: &Cluster) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path();
        let certs = Certs::create(&path.join("certs"))?;
        let port = ports::free();
        let agents = Haproxy::start(way.front, port, &certs, path).await?;
        let url = format!("{}://localhost:{}/", way.scheme, agents.port());
        let replicas = Replicas::start(REPLICAS, path).await?;
        let create = ["agent", "create", AGENT, "--receptive", &url];
        let token = replicas.cli(&create).await?;
        trust(&path.join("agents.yaml"), &certs, way.mutual)?;
        let flags = flags(port, path, &certs, way.mutual);
        let kubeconfig = cluster.agent_kubeconfig();
        let agent = Agentk::receptive(AGENT, &flags, &kubeconfig, &token, path)?;
        let mut users = Vec::new();
        for member in &replicas.members {
            users.push(Haproxy::start(Front::Users, member.users, &certs, path).await?);
        }
        let site = Self {
            kubectl: operator(&replicas, &certs, path).await?,
            replicas,
            agent,
            users,
            _agents: agents,
            _folder: folder,
        };
        for number in 0..REPLICAS {
            let served = async || site.works_through(number).await.ok();
            let served = until("the agent", SOON, served).await;
            served.with_context(|| site.tails())?;
        }
        Ok(site)
    }

    /// Asks the cluster by kubectl through this replica.
    pub(crate) async fn works_through(&self, number: usize) -> Result<()> {
        let url = format!("https://localhost:{}/k8s-proxy/", self.users[number].port());
        let ask = ["get", "namespace", "default", "--server", &url];
        self.kubectl.ok(&ask).await.map(drop)
    }

    /// Waits until exactly one replica has dialled the agent, and no other has tunnels of it any more; gives it.
    pub(crate) async fn owner(&self, limit: Duration) -> Result<usize> {
        let one = async || match self
            .with("receptive_agent", r#"state="connected"} 1"#)
            .await[..]
        {
            [one] => {
                (self.with("agent_up", r#"agent_name="behind"} 1"#).await == [one]).then_some(one)
            }
            _ => None,
        };
        let owner = until("one replica that dials", limit, one).await;
        owner.with_context(|| self.tails())
    }

    /// The replicas that have this metric of the agent.
    async fn with(&self, metric: &str, rest: &str) -> Vec<usize> {
        let line = format!(r#"{metric}{{agent_id="2",{rest}"#);
        let mut with = Vec::new();
        for (number, member) in self.replicas.members.iter().enumerate() {
            let url = format!("http://127.0.0.1:{}/metrics", member.observability);
            let shown = client::get(&url, "").await;
            if shown.is_ok_and(|it| String::from_utf8_lossy(it.body()).contains(&line)) {
                with.push(number);
            }
        }
        with
    }

    pub(crate) fn tails(&self) -> String {
        let replicas = self.replicas.members.iter().map(|it| &it.process);
        let all = replicas.chain([&self.agent.process]).map(Process::tail);
        all.collect::<Vec<_>>().join("\n")
    }
}

/// kubectl as a user who may do what the agent may.
async fn operator(replicas: &Replicas, certs: &Certs, folder: &Path) -> Result<Kubectl> {
    let token = replicas.cli(&["user", "create", "ana"]).await?;
    let grant = ["access", "grant", "--agent", "*", "--user", "ana"];
    replicas
        .cli(&[&grant[..], &["--as", "agent"]].concat())
        .await?;
    let ca = certs.ca.display().to_string();
    let server = "https://localhost/";
    let place = [
        "kubeconfig",
        AGENT,
        "--server",
        server,
        "--certificate-authority",
        &ca,
    ];
    let who = ["--user", "ana", "--token", &token];
    let file = folder.join("kubeconfig-ana");
    std::fs::write(
        &file,
        replicas.cli(&[&place[..], &who].concat()).await? + "\n",
    )?;
    Ok(Kubectl::new(&file))
}

/// Has kas trust the test's authority, and show a certificate instead of a token.
fn trust(file: &Path, certs: &Certs, mutual: bool) -> Result<()> {
    let text = std::fs::read_to_string(file)?;
    let mut lines = Vec::new();
    for line in text.lines() {
        let token = line.contains("jwt:") || line.contains("private_key_file:");
        if !(mutual && token) {
            lines.push(line.to_owned());
        }
        let content = line.trim_start();
        if content.starts_with("url:") {
            let indent = " ".repeat(line.len() - content.len());
            let ca = certs.ca.display();
            lines.push(format!("{indent}ca_certificate_file: {ca}"));
            if mutual {
                let (certificate, key) = (certs.certificate.display(), certs.key.display());
                let pair = format!("{{certificate_file: {certificate}, key_file: {key}}}");
                lines.push(format!("{indent}mtls: {pair}"));
            }
        }
    }
    // Replaced as a whole: kas reads it at any time.
    let new = file.with_extension("new");
    std::fs::write(&new, lines.join("\n") + "\n")?;
    Ok(std::fs::rename(new, file)?)
}

fn flags(port: u16, folder: &Path, certs: &Certs, mutual: bool) -> Vec<String> {
    let listen = format!("--api-listen-address=127.0.0.1:{port}");
    if !mutual {
        let key = folder.join(format!("{AGENT}-receptive.pub"));
        return vec![listen, format!("--api-jwt-file={}", key.display())];
    }
    vec![
        listen,
        format!("--api-cert-file={}", certs.certificate.display()),
        format!("--api-key-file={}", certs.key.display()),
        format!("--api-ca-cert-file={}", certs.ca.display()),
    ]
}

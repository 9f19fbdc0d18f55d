//! Agents that kas dials, behind a load balancer, with several replicas: one dials, and when it dies
//! another does, and requests that came meanwhile are answered.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use http::StatusCode;
use tempfile::TempDir;
use tests::{
    agentk::Agentk,
    certs::Certs,
    haproxy::{Front, Haproxy},
    http as client,
    parts::{Part, skipped},
    ports,
    replicas::Replicas,
    stub_api::StubApi,
    wait::until,
};
use tokio::task::JoinSet;

const NEEDS: &[Part] = &[Part::Haproxy, Part::Redis];
const LIMIT: Duration = Duration::from_secs(60);
const REPLICAS: usize = 3;

/// How the agent is reached, and how kas proves who it is.
struct Way {
    front: Front,
    scheme: &'static str,
    mutual: bool,
}

struct Site {
    replicas: Replicas,
    bearer: String,
    agent: Agentk,
    _stub: StubApi,
    _haproxy: Haproxy,
    _folder: TempDir,
}

impl Site {
    async fn start(way: Way) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let path = folder.path();
        let certs = Certs::create(&path.join("certs"))?;
        let port = ports::free();
        let haproxy = Haproxy::start(way.front, port, &certs, path).await?;
        let url = format!("{}://localhost:{}/", way.scheme, haproxy.port());
        let replicas = Replicas::start(REPLICAS, path).await?;
        let create = ["agent", "create", "behind", "--receptive", &url];
        let token = replicas.cli(&create).await?;
        trust(&path.join("agents.yaml"), &certs, way.mutual)?;
        let user = replicas.cli(&["user", "create", "ana"]).await?;
        let grant = ["access", "grant", "--agent", "*", "--user", "ana"];
        replicas
            .cli(&[&grant[..], &["--as", "agent"]].concat())
            .await?;
        let stub = StubApi::start().await?;
        let flags = flags(port, path, &certs, way.mutual);
        let agent = Agentk::receptive("behind", &flags, &stub.kubeconfig(path)?, &token, path)?;
        let site = Self {
            replicas,
            bearer: format!("pat:2:{user}"),
            agent,
            _stub: stub,
            _haproxy: haproxy,
            _folder: folder,
        };
        for number in 0..REPLICAS {
            let served = async || (site.ask(number).await.ok()? == StatusCode::OK).then_some(());
            let served = until("the agent", LIMIT, served).await;
            served.with_context(|| site.tails())?;
        }
        Ok(site)
    }

    /// The answer to a request that comes to this replica.
    async fn ask(&self, number: usize) -> Result<StatusCode> {
        get(self.replicas.members[number].users, &self.bearer).await
    }

    /// Whether this replica has dialled the agent and is connected.
    async fn dialled_by(&self, number: usize) -> bool {
        let port = self.replicas.members[number].observability;
        let url = format!("http://127.0.0.1:{port}/metrics");
        let connected = r#"receptive_agent{agent_id="2",state="connected"} 1"#;
        let answer = client::get(&url, "").await;
        answer.is_ok_and(|it| String::from_utf8_lossy(it.body()).contains(connected))
    }

    async fn dialling(&self) -> Vec<usize> {
        let mut dialling = Vec::new();
        for number in 0..REPLICAS {
            if self.dialled_by(number).await {
                dialling.push(number);
            }
        }
        dialling
    }

    /// Waits until exactly one replica has dialled the agent, and gives it.
    async fn owner(&self) -> Result<usize> {
        let one = async || match self.dialling().await.as_slice() {
            [one] => Some(*one),
            _ => None,
        };
        let owner = until("one replica that dials", LIMIT, one).await;
        owner.with_context(|| self.tails())
    }

    fn tails(&self) -> String {
        let members = self.replicas.members.iter();
        let mut tails: Vec<_> = members.map(|it| it.process.tail()).collect();
        tails.push(self.agent.process.tail());
        tails.join("\n")
    }
}

async fn get(users: u16, bearer: &str) -> Result<StatusCode> {
    let url = format!("http://127.0.0.1:{users}/k8s-proxy/version");
    Ok(client::get(&url, bearer).await?.status())
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
            lines.push(format!(
                "{indent}ca_certificate_file: {}",
                certs.ca.display()
            ));
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
        let key = folder.join("behind-receptive.pub");
        return vec![listen, format!("--api-jwt-file={}", key.display())];
    }
    vec![
        listen,
        format!("--api-cert-file={}", certs.certificate.display()),
        format!("--api-key-file={}", certs.key.display()),
        format!("--api-ca-cert-file={}", certs.ca.display()),
    ]
}

async fn another_dials(test: &str, way: Way) -> Result<()> {
    if skipped(test, NEEDS) {
        return Ok(());
    }
    let mut site = Site::start(way).await?;
    let owner = site.owner().await?;

    site.replicas.members[owner].process.signal("KILL").await?;
    let mut held = JoinSet::new();
    for number in (0..REPLICAS).filter(|it| *it != owner).cycle().take(8) {
        let (users, bearer) = (site.replicas.members[number].users, site.bearer.clone());
        held.spawn(async move { get(users, &bearer).await });
    }

    while let Some(answer) = held.join_next().await {
        let status = answer??;
        ensure!(status == StatusCode::OK, "{status}\n{}", site.tails());
    }
    ensure!(site.owner().await? != owner);
    site.replicas.restart(owner).await?;
    site.owner().await?;
    for number in 0..REPLICAS {
        ensure!(
            site.ask(number).await? == StatusCode::OK,
            "{}",
            site.tails()
        );
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_dials_by_token_over_grpc_when_the_owner_is_killed() -> Result<()> {
    let way = Way {
        front: Front::Agents,
        scheme: "grpcs",
        mutual: false,
    };
    another_dials(
        "another_dials_by_token_over_grpc_when_the_owner_is_killed",
        way,
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_dials_by_token_over_websocket_when_the_owner_is_killed() -> Result<()> {
    let way = Way {
        front: Front::Agents,
        scheme: "wss",
        mutual: false,
    };
    another_dials(
        "another_dials_by_token_over_websocket_when_the_owner_is_killed",
        way,
    )
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_dials_by_certificate_when_the_owner_is_killed() -> Result<()> {
    let way = Way {
        front: Front::Tcp,
        scheme: "grpcs",
        mutual: true,
    };
    another_dials("another_dials_by_certificate_when_the_owner_is_killed", way).await
}

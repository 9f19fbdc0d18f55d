//! The files of `deploy/load-balancers` as they are, but for addresses and paths: three replicas behind one address,
//! agents by WebSocket and by gRPC, users by HTTP/1.1 and HTTP/2, and a replica that leaves.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tests::{
    agentk::{Agentk, Links},
    certs::Certs,
    parts::{self, Part, skipped},
    ports,
    process::Process,
    programs,
    replicas::Replicas,
    stub_api::StubApi,
    wait::until,
};
use tokio::process::Command;

const LIMIT: Duration = Duration::from_secs(60);
const HAPROXY: &str = include_str!("../../deploy/load-balancers/haproxy.cfg");
const NGINX: &str = include_str!("../../deploy/load-balancers/nginx.conf");
const ENVOY: &str = include_str!("../../deploy/load-balancers/envoy.yaml");
const TRAEFIK: &str = include_str!("../../deploy/load-balancers/traefik.yaml");
const TRAEFIK_DYNAMIC: &str = include_str!("../../deploy/load-balancers/traefik-dynamic.yaml");

/// Replicas, an API server that agents answer for, and what is put in front.
struct Site {
    folder: tempfile::TempDir,
    certs: Certs,
    replicas: Replicas,
    stub: StubApi,
    port: u16,
}

impl Site {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let certs = Certs::create(&folder.path().join("certs"))?;
        let replicas = Replicas::start(3, folder.path()).await?;
        Ok(Self {
            certs,
            replicas,
            stub: StubApi::start().await?,
            port: ports::free(),
            folder,
        })
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    /// A file with the addresses of this machine: each is named once at least, or the test would try something else.
    fn file(&self, name: &str, text: &str, changes: &[(String, String)]) -> Result<PathBuf> {
        let mut text = text.to_owned();
        for (from, to) in changes {
            ensure!(text.contains(from), "{name} has no `{from}`");
            text = text.replace(from, to);
        }
        let file = self.path().join(name);
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// An agent that comes through the load balancer.
    async fn agent(&self, scheme: &str) -> Result<Agent> {
        let name = format!("by-{scheme}");
        let token = self.replicas.cli(&["agent", "create", &name]).await?;
        let user = self.replicas.cli(&["user", "create", &name]).await?;
        let grant = ["access", "grant", "--agent", &name, "--user", &name];
        let grant = [&grant[..], &["--as", "agent"]].concat();
        self.replicas.cli(&grant).await?;
        let list = self.replicas.cli(&["agent", "list", "-o", "json"]).await?;
        let agents: Vec<serde_json::Value> = serde_json::from_str(&list)?;
        let agent = agents.iter().find(|agent| agent["name"] == *name);
        let id = agent.with_context(|| list.clone())?["id"].to_string();
        let links = Links {
            kas: format!("{scheme}://127.0.0.1:{}/", self.port),
            ca: Some(self.certs.ca.clone()),
            kubeconfig: self.stub.kubeconfig(self.path())?,
        };
        Ok(Agent {
            agentk: Agentk::with_flags(&[], &name, &links, &token, self.path())?,
            bearer: format!("pat:{id}:{user}"),
        })
    }

    /// Waits for the agent's answer to requests of both versions of HTTP.
    async fn answers(&self, agent: &Agent) -> Result<()> {
        for version in ["--http1.1", "--http2"] {
            let answers = async || {
                let status = self.get(version, &agent.bearer).await.ok()?;
                (status == "200").then_some(())
            };
            let answered = until("the agent's answer", LIMIT, answers).await;
            answered.with_context(|| format!("{version}: {}", agent.agentk.process.tail()))?;
        }
        Ok(())
    }

    /// The status of a request of a user's, by curl.
    async fn get(&self, version: &str, bearer: &str) -> Result<String> {
        let mut command = Command::new(parts::program("curl").context("no curl")?);
        command
            .args([version, "--silent", "--max-time", "20", "--output"])
            .arg(self.path().join("answer"))
            .args(["--write-out", "%{http_code}", "--cacert"])
            .arg(&self.certs.ca)
            .args(["--header", &format!("Authorization: Bearer {bearer}")])
            .arg(format!("https://127.0.0.1:{}/k8s-proxy/version", self.port))
            .kill_on_drop(true);
        Ok(String::from_utf8(command.output().await?.stdout)?)
    }

    /// Both kinds of agents, and a replica that leaves while they are there.
    async fn serves(&mut self) -> Result<()> {
        let agents = [self.agent("wss").await?, self.agent("grpcs").await?];
        for agent in &agents {
            self.answers(agent).await?;
        }
        let leaving = &mut self.replicas.members[0].process;
        leaving.end_by("TERM", LIMIT).await?;
        for agent in &agents {
            self.answers(agent).await?;
        }
        Ok(())
    }

    /// What takes the place of each replica's address in a file.
    fn addresses(&self, separator: &str) -> Vec<(String, String)> {
        let members = self.replicas.members.iter().enumerate();
        let pairs = members.flat_map(|(number, member)| {
            let host = format!("kas-{}", number + 1);
            [(8154, member.users), (8150, member.agents)].map(|(documented, port)| {
                (
                    format!("{host}{separator}{documented}"),
                    format!("127.0.0.1{separator}{port}"),
                )
            })
        });
        pairs.collect()
    }
}

/// An agent, and what its user shows.
struct Agent {
    agentk: Agentk,
    bearer: String,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_and_users_come_through_haproxy() -> Result<()> {
    let name = "agents_and_users_come_through_haproxy";
    if skipped(name, &[Part::Haproxy, Part::Redis, Part::Curl]) {
        return Ok(());
    }
    let mut site = Site::start().await?;
    let mut changes = site.addresses(":");
    // Each replica has an observability port of its own here.
    for (number, member) in site.replicas.members.iter().enumerate() {
        let server = format!("kas-{} 127.0.0.1", number + 1);
        let servers = [
            format!("{server}:{} check port ", member.users),
            format!("{server}:{} check port ", member.agents),
            format!("{server}:{} proto h2 check port ", member.agents),
        ];
        let port = |it: String| (format!("{it}8151"), format!("{it}{}", member.observability));
        changes.extend(servers.map(port));
    }
    changes.push((":443 ".into(), format!("127.0.0.1:{} ", site.port)));
    changes.push((
        "/etc/haproxy/kas.pem".into(),
        site.certs.both.display().to_string(),
    ));
    let file = site.file("haproxy.cfg", HAPROXY, &changes)?;
    let mut command = Command::new(parts::program("haproxy").context("no haproxy")?);
    command.args(["-db", "-f"]).arg(&file);
    let haproxy = Process::listening("haproxy", &mut command, site.port, site.path()).await?;

    let served = site.serves().await;

    served.with_context(|| haproxy.tail())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_and_users_come_through_nginx() -> Result<()> {
    let name = "agents_and_users_come_through_nginx";
    if skipped(name, &[Part::Nginx, Part::Redis, Part::Curl]) {
        return Ok(());
    }
    let mut site = Site::start().await?;
    let mut changes = site.addresses(":");
    changes.push((
        "listen 443 ".into(),
        format!("listen 127.0.0.1:{} ", site.port),
    ));
    changes.push((
        "/etc/nginx/kas.crt".into(),
        site.certs.certificate.display().to_string(),
    ));
    changes.push((
        "/etc/nginx/kas.key".into(),
        site.certs.key.display().to_string(),
    ));
    let file = site.file("nginx.conf", NGINX, &changes)?;
    // Where it keeps its own files, and that it is a child of the test, is no matter of kas.
    let own = format!(
        "daemon off; master_process off; pid {0}/nginx.pid; error_log stderr info;",
        site.path().display()
    );
    let mut command = Command::new(parts::program("nginx").context("no nginx")?);
    command
        .arg("-p")
        .arg(site.path())
        .arg("-c")
        .arg(&file)
        .args(["-g", &own]);
    let nginx = Process::listening("nginx", &mut command, site.port, site.path()).await?;

    let served = site.serves().await;

    served.with_context(|| nginx.tail())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_and_users_come_through_envoy() -> Result<()> {
    let name = "agents_and_users_come_through_envoy";
    if skipped(name, &[Part::Envoy, Part::Redis, Part::Curl]) {
        return Ok(());
    }
    let mut site = Site::start().await?;
    let mut changes = site.addresses(", port_value: ");
    changes.push((
        "address: 0.0.0.0, port_value: 443".into(),
        format!("address: 127.0.0.1, port_value: {}", site.port),
    ));
    changes.push((
        "/etc/envoy/kas.crt".into(),
        site.certs.certificate.display().to_string(),
    ));
    changes.push((
        "/etc/envoy/kas.key".into(),
        site.certs.key.display().to_string(),
    ));
    let file = site.file("envoy.yaml", ENVOY, &changes)?;
    let mut command = Command::new(parts::program("envoy").context("no envoy")?);
    command
        .arg("-c")
        .arg(&file)
        .args(["--concurrency", "1", "--base-id"]);
    command.arg(site.port.to_string());
    let envoy = Process::listening("envoy", &mut command, site.port, site.path()).await?;

    let served = site.serves().await;

    served.with_context(|| envoy.tail())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn agents_and_users_come_through_traefik() -> Result<()> {
    let name = "agents_and_users_come_through_traefik";
    let Some(traefik) = programs::given("TRAEFIK", name)? else {
        return Ok(());
    };
    if skipped(name, &[Part::Redis, Part::Curl]) {
        return Ok(());
    }
    let mut site = Site::start().await?;
    let mut changes = site.addresses(":");
    let certificate = [("crt", &site.certs.certificate), ("key", &site.certs.key)];
    changes.extend(certificate.map(|(kind, file)| {
        let documented = format!("/etc/traefik/kas.{kind}");
        (documented, file.display().to_string())
    }));
    let dynamic = site.file("dynamic.yaml", TRAEFIK_DYNAMIC, &changes)?;
    let changes = [
        (":443".into(), format!("127.0.0.1:{}", site.port)),
        (
            "/etc/traefik/dynamic.yaml".into(),
            dynamic.display().to_string(),
        ),
    ];
    let file = site.file("traefik.yaml", TRAEFIK, &changes)?;
    let mut command = Command::new(traefik);
    command.arg(format!("--configFile={}", file.display()));
    let traefik = Process::listening("traefik", &mut command, site.port, site.path()).await?;

    let served = site.serves().await;

    served.with_context(|| traefik.tail())
}

#[test]
fn traefiks_file_is_yaml_and_names_the_same_ports() -> Result<()> {
    let file: serde_json::Value = serde_saphyr::from_str(TRAEFIK_DYNAMIC)?;
    let services = file["http"]["services"].as_object().context("services")?;
    for (name, service) in services {
        let servers = service["loadBalancer"]["servers"].as_array();
        let port = if name == "users" { ":8154" } else { ":8150" };
        let urls = servers
            .into_iter()
            .flatten()
            .filter_map(|it| it["url"].as_str());
        let urls: Vec<_> = urls.collect();
        ensure!(urls.len() == 3, "{name}: {urls:?}");
        ensure!(
            urls.iter().all(|url| url.ends_with(port)),
            "{name}: {urls:?}"
        );
    }
    Ok(())
}

//! Replicas on machines of their own, of which one does not reach Redis, or the other replica: whatever some way
//! leads to is answered. They prove themselves by certificates and find their own addresses.

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use tests::{
    certs::Certs,
    kas::run_cli,
    netns::{HUB, Net, address, command},
    parts::{self, Part, skipped},
    process::Process,
    programs,
    wait::until,
};
use tokio::time::sleep;

const NEEDS: &[Part] = &[Part::Redis, Part::Namespaces];
const SOON: Duration = Duration::from_secs(60);
const REDIS: u16 = 6379;
const AGENTS: u16 = 8150;
const USERS: u16 = 8154;
const PEERS: u16 = 8155;
/// Longer than a lease lasts that nobody renews, in seconds.
const WITHOUT_REDIS: u64 = 22;
const APART: u64 = 10;

/// Two replicas, and in the hub their Redis, agents and users.
struct Site {
    net: Net,
    user: String,
    processes: Vec<Process>,
    folder: tempfile::TempDir,
}

impl Site {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let file = folder.path().join("agents.yaml");
        let user = run_cli(&file, &["user", "create", "ana"]).await?;
        let grant = ["access", "grant", "--agent", "*", "--user", "ana"];
        run_cli(&file, &[&grant[..], &["--as", "agent"]].concat()).await?;
        let mut site = Self {
            net: Net::start(2).await?,
            user,
            processes: Vec::new(),
            folder,
        };
        site.redis().await?;
        let certs = Certs::create(&site.path().join("certs"))?;
        std::fs::write(site.path().join("secret"), STANDARD.encode([7; 32]))?;
        for number in 0..2 {
            site.replica(number, &certs).await?;
        }
        Ok(site)
    }

    async fn redis(&mut self) -> Result<()> {
        let program = parts::program("redis-server").context("no redis-server")?;
        let mut command = command(&self.net.hub(), &program);
        command.args(["--port", &REDIS.to_string(), "--bind", HUB]);
        command.args(["--protected-mode", "no", "--save", "", "--appendonly", "no"]);
        self.run("redis", &mut command, "Ready to accept connections")
            .await
    }

    async fn replica(&mut self, number: usize, certs: &Certs) -> Result<()> {
        let at = |port| format!("{}:{port}", address(number));
        let configuration = json!({
            "standalone": {"file": self.path().join("agents.yaml")},
            "agent": {
                "listen": {"address": at(AGENTS), "websocket": true},
                "kubernetes_api": {"listen": {"address": at(USERS)}, "url_path_prefix": "/k8s-proxy/"},
            },
            "redis": {"server": {"address": format!("{HUB}:{REDIS}")}},
            "private_api": {"listen": {
                "address": format!("0.0.0.0:{PEERS}"),
                "authentication_secret_file": self.path().join("secret"),
                "certificate_file": certs.certificate,
                "key_file": certs.key,
                "ca_certificate_file": certs.ca,
                "client_ca_certificate_file": certs.ca,
            }},
        });
        let file = self.path().join(format!("kas-{number}.yaml"));
        std::fs::write(&file, configuration.to_string())?;
        let mut command = command(&self.net.machine(number), &programs::kas()?);
        command
            .arg("--configuration-file")
            .arg(file)
            .env("OWN_PRIVATE_API_SCHEME", "grpcs")
            .env("OWN_PRIVATE_API_HOST", "localhost");
        self.run(&format!("kas-{number}"), &mut command, "kas is up")
            .await
    }

    /// A new agent of this number, with a pod at each of these replicas.
    async fn agent(&mut self, id: u32, replicas: &[usize]) -> Result<()> {
        let (name, id) = (format!("agent-{id}"), id.to_string());
        let file = self.path().join("agents.yaml");
        let token = run_cli(&file, &["agent", "create", &name, "--id", &id]).await?;
        let tokens = self.path().join(format!("{name}.token"));
        std::fs::write(&tokens, token)?;
        for replica in replicas {
            let mut command = command(&self.net.hub(), &programs::loadtest()?);
            let kas = format!("ws://{}:{AGENTS}/", address(*replica));
            command.args(["fleet", "--agents", "1", "--kas-address", &kas]);
            command.arg("--token-file").arg(&tokens);
            let name = format!("{name}-at-{replica}");
            self.run(&name, &mut command, "ready:").await?;
        }
        Ok(())
    }

    async fn run(
        &mut self,
        name: &str,
        command: &mut tokio::process::Command,
        says: &str,
    ) -> Result<()> {
        let mut process = Process::spawn(name, command, self.path())?;
        process.wait_for(says, SOON).await?;
        self.processes.push(process);
        Ok(())
    }

    /// Requests for an agent that come in at a replica: all must succeed.
    async fn ask(&self, id: u32, replica: usize, how: &[&str]) -> Result<()> {
        let mut command = command(&self.net.hub(), &programs::loadtest()?);
        let url = format!("http://{}:{USERS}/k8s-proxy/json/4096", address(replica));
        let bearer = format!("pat:{id}:{}", self.user);
        command.args([
            "traffic",
            "--timeout",
            "60",
            "--url",
            &url,
            "--bearer",
            &bearer,
        ]);
        let output = command.args(how).kill_on_drop(true).output().await?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "agent {id} through replica {replica}: {said}{}",
            self.processes.iter().map(Process::tail).collect::<String>()
        );
        Ok(())
    }

    async fn ask_for(&self, id: u32, replica: usize, seconds: u64) -> Result<()> {
        let seconds = seconds.to_string();
        self.ask(
            id,
            replica,
            &["--rate", "20", "--clients", "8", "--duration", &seconds],
        )
        .await
    }

    async fn answers(&self, id: u32, replica: usize) -> Result<()> {
        let once = async || self.ask(id, replica, &["--requests", "1"]).await.ok();
        until(&format!("agent {id} through {replica}"), SOON, once).await
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_some_way_leads_to_is_answered_whoever_does_not_reach_whom() -> Result<()> {
    let name = "what_some_way_leads_to_is_answered_whoever_does_not_reach_whom";
    if skipped(name, NEEDS) {
        return Ok(());
    }
    let mut site = Site::start().await?;
    site.agent(101, &[0]).await?;
    site.agent(102, &[0, 1]).await?;
    for id in [101, 102] {
        for replica in [0, 1] {
            site.answers(id, replica).await?;
        }
    }

    one_without_redis(&mut site)
        .await
        .context("a replica without Redis")?;
    both_apart(&site).await.context("replicas apart")
}

/// The first replica does not reach Redis: it keeps its agents, and gets others.
async fn one_without_redis(site: &mut Site) -> Result<()> {
    site.net.cut(0, HUB, Some(REDIS)).await?;
    site.agent(103, &[0]).await?;
    tokio::try_join!(
        site.ask_for(101, 1, WITHOUT_REDIS),
        site.ask_for(102, 0, WITHOUT_REDIS),
        site.answers(103, 1),
    )?;
    site.ask_for(103, 1, 1).await?;

    site.net.heal(0).await?;
    for id in [101, 102, 103] {
        site.answers(id, 1).await?;
    }
    Ok(())
}

/// Both reach Redis, and not each other: what is held here is used, and what is not is waited for.
async fn both_apart(site: &Site) -> Result<()> {
    site.net.cut(0, &address(1), None).await?;
    tokio::try_join!(
        site.ask_for(101, 0, APART),
        site.ask_for(102, 0, APART),
        site.ask_for(102, 1, APART),
        // Asked while there is no way, answered when there is one again.
        site.ask(101, 1, &["--requests", "1"]),
        async {
            sleep(Duration::from_secs(APART)).await;
            site.net.heal(0).await
        },
    )?;
    site.ask_for(101, 1, 1).await
}

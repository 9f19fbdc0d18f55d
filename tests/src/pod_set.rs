//! Several kas processes that share a Redis, restarted in place, behind a load balancer that asks them whether they are ready.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    balancer::{Balancer, Front, Server},
    kas::run_cli,
    ports,
    process::Process,
    programs,
    redis::Redis,
    wait::until,
};

/// How long a replica may take to start, or to leave.
const LIMIT: Duration = Duration::from_secs(60);

/// Replicas on fixed ports, as the pods of a set have fixed names.
#[derive(Debug)]
pub struct PodSet {
    /// Where agents connect by WebSocket.
    pub agents: u16,
    /// Where users connect.
    pub users: u16,
    replicas: Vec<Replica>,
    balancer: Balancer,
    _redis: Redis,
    folder: TempDir,
}

/// What a test may want otherwise.
#[derive(Debug, Clone)]
pub struct Settings {
    /// How long requests in progress may go on when a replica leaves.
    pub grace: Duration,
    /// Where all requests' traces go.
    pub traces: Option<String>,
    /// Whether each replica has an audit trail, see [`PodSet::audit_file`].
    pub audit: bool,
    /// How many connections of agents a replica takes; 0 is its default.
    pub max_connections: u32,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(30),
            traces: None,
            audit: false,
            max_connections: 0,
        }
    }
}

/// One of them.
#[derive(Debug)]
pub struct Replica {
    /// Where its users connect, without the load balancer.
    pub users: u16,
    /// Where its agents connect, without the load balancer.
    pub agents: u16,
    peers: u16,
    observability: u16,
    configuration: PathBuf,
    process: Process,
}

impl PodSet {
    /// Starts so many, a Redis, and HAProxy in front of them.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn start(count: usize) -> Result<Self> {
        Self::with(count, &Settings::default()).await
    }

    /// The same with other settings.
    ///
    /// # Errors
    /// When one of them does not start.
    pub async fn with(count: usize, settings: &Settings) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let redis = Redis::start(folder.path()).await?;
        run_cli(&file(folder.path()), &["agent", "create", "first"]).await?;
        std::fs::write(secret(folder.path()), BASE64_STANDARD.encode([7; 32]))?;
        let mut replicas = Vec::new();
        for number in 0..count {
            replicas.push(Replica::start(number, redis.port(), settings, folder.path()).await?);
        }
        let servers = replicas.iter().map(Replica::server).collect();
        let balancer = Balancer::start(servers, folder.path()).await?;
        Ok(Self {
            agents: balancer.port(Front::WebSocket),
            users: balancer.port(Front::Users),
            replicas,
            balancer,
            _redis: redis,
            folder,
        })
    }

    /// A folder for the test's files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Runs `kas ARGS` on the file that all replicas read.
    ///
    /// # Errors
    /// When it exits with an error.
    pub async fn cli(&self, args: &[&str]) -> Result<String> {
        run_cli(&file(self.folder.path()), args).await
    }

    /// One of the replicas.
    #[must_use]
    pub fn replica(&self, number: usize) -> &Replica {
        &self.replicas[number]
    }

    /// The audit trail of a replica.
    #[must_use]
    pub fn audit_file(&self, number: usize) -> PathBuf {
        audit_file(self.folder.path(), self.replicas[number].peers)
    }

    /// Tells a replica to end.
    ///
    /// # Errors
    /// When it has ended already.
    pub async fn signal(&self, number: usize, signal: &str) -> Result<()> {
        self.replicas[number].process.signal(signal).await
    }

    /// Waits for a replica's end.
    ///
    /// # Errors
    /// When it takes too long.
    pub async fn ended(&mut self, number: usize) -> Result<ExitStatus> {
        self.replicas[number].process.ended(LIMIT).await
    }

    /// Starts a replica again that has ended, and waits until it is ready.
    ///
    /// # Errors
    /// When it does not become ready.
    pub async fn restart(&mut self, number: usize) -> Result<()> {
        let folder = self.folder.path().to_owned();
        let replica = &mut self.replicas[number];
        replica.process = replica.spawn(number, &folder)?;
        replica.ready().await
    }

    /// The file that all replicas read agents, tokens and rules from.
    #[must_use]
    pub fn agents_file(&self) -> PathBuf {
        file(self.folder.path())
    }

    /// The configuration file of a replica.
    #[must_use]
    pub fn configuration(&self, number: usize) -> &Path {
        &self.replicas[number].configuration
    }

    /// The metrics of a replica.
    ///
    /// # Errors
    /// When it does not answer.
    pub async fn metrics(&self, number: usize) -> Result<String> {
        let port = self.replicas[number].observability;
        let answer = crate::http::get(&format!("http://127.0.0.1:{port}/metrics"), "").await?;
        Ok(String::from_utf8_lossy(answer.body()).into_owned())
    }

    /// A metric of a replica without labels; `None` if it does not answer.
    pub async fn metric(&self, number: usize, name: &str) -> Option<u64> {
        let text = self.metrics(number).await.ok()?;
        let value = text
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value?.parse().ok()
    }

    /// Whether a replica says that it is ready; `None` if it does not answer.
    pub async fn is_ready(&self, number: usize) -> Option<bool> {
        let url = format!(
            "http://127.0.0.1:{}/readiness",
            self.replicas[number].observability
        );
        let answer = crate::http::get(&url, "").await.ok()?;
        Some(answer.status().is_success())
    }

    /// What a replica has written.
    #[must_use]
    pub fn output(&self, number: usize) -> String {
        self.replicas[number].process.output()
    }

    /// The last lines of everybody, for error messages.
    #[must_use]
    pub fn tails(&self) -> String {
        let mut tails: Vec<_> = self.replicas.iter().map(|it| it.process.tail()).collect();
        tails.push(self.balancer.tail());
        tails.join("\n")
    }
}

impl Replica {
    /// Where its metrics and probes are.
    #[must_use]
    pub fn observability(&self) -> u16 {
        self.observability
    }

    async fn start(number: usize, store: u16, settings: &Settings, folder: &Path) -> Result<Self> {
        let [users, agents, peers, observability] = [(); 4].map(|()| ports::free());
        let configuration = folder.join(format!("kas-{number}.yaml"));
        let text = configure(
            [users, agents, peers, observability],
            store,
            settings,
            folder,
        )?;
        std::fs::write(&configuration, text)?;
        let replica = Self {
            users,
            agents,
            peers,
            observability,
            process: spawn(number, peers, &configuration, folder)?,
            configuration,
        };
        replica.ready().await?;
        Ok(replica)
    }

    fn server(&self) -> Server {
        Server {
            agents: self.agents,
            users: self.users,
            observability: self.observability,
        }
    }

    fn spawn(&self, number: usize, folder: &Path) -> Result<Process> {
        spawn(number, self.peers, &self.configuration, folder)
    }

    async fn ready(&self) -> Result<()> {
        let url = format!("http://127.0.0.1:{}/readiness", self.observability);
        let ready = async || {
            let answer = crate::http::get(&url, "").await.ok()?;
            answer.status().is_success().then_some(())
        };
        let ready = until("a replica to be ready", LIMIT, ready).await;
        ready.with_context(|| self.process.tail())
    }
}

fn spawn(number: usize, peers: u16, configuration: &Path, folder: &Path) -> Result<Process> {
    let mut command = Command::new(programs::kas()?);
    command
        .arg("--configuration-file")
        .arg(configuration)
        .env("OWN_PRIVATE_API_URL", format!("grpc://127.0.0.1:{peers}"));
    Process::spawn(&format!("kas-{number}"), &mut command, folder)
}

fn configure(ports: [u16; 4], store: u16, settings: &Settings, folder: &Path) -> Result<String> {
    let [users, agents, peers, observability] = ports;
    let mut text = String::new();
    writeln!(
        text,
        "standalone: {{file: {}}}\n\
         agent:\n\
         \x20 listen: {{address: '127.0.0.1:{agents}', websocket: true, listen_grace_period: 1s, max_connections: {}}}\n\
         \x20 kubernetes_api:\n\
         \x20   url_path_prefix: /k8s-proxy/\n\
         \x20   listen: {{address: '127.0.0.1:{users}', listen_grace_period: 1s, shutdown_grace_period: {}s}}\n\
         private_api:\n\
         \x20 listen: {{address: '127.0.0.1:{peers}', authentication_secret_file: {}}}\n\
         redis: {{server: {{address: '127.0.0.1:{store}'}}}}\n\
         observability:\n\
         \x20 listen: {{address: '127.0.0.1:{observability}'}}\n\
         \x20 logging: {{level: debug}}",
        file(folder).display(),
        settings.max_connections,
        settings.grace.as_secs(),
        secret(folder).display(),
    )?;
    if let Some(endpoint) = &settings.traces {
        write!(
            text,
            "\n\x20 tracing: {{otlp_endpoint: '{endpoint}', sample_ratio: 1}}"
        )?;
    }
    if settings.audit {
        let file = audit_file(folder, peers);
        write!(
            text,
            "\naudit: {{sinks: [{{file: {{path: {}}}}}]}}",
            file.display()
        )?;
    }
    Ok(text)
}

fn audit_file(folder: &Path, peers: u16) -> PathBuf {
    folder.join(format!("audit-{peers}.jsonl"))
}

fn file(folder: &Path) -> PathBuf {
    folder.join("agents.yaml")
}

fn secret(folder: &Path) -> PathBuf {
    folder.join("private-api-secret")
}

//! Several replicas with a Redis, and every link between them through a proxy that can be disturbed.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::json;
use tokio::process::Command;

use crate::{
    balancer::Server,
    chaos::Chaos,
    kas::run_cli,
    ports,
    process::Process,
    programs,
    redis::{Redis, Store},
    wait::until_accepts,
};

/// How long a replica may take to listen.
const START: Duration = Duration::from_secs(60);

/// Replicas that share a Redis and a standalone file.
#[derive(Debug)]
pub struct Replicas {
    /// What they share.
    pub store: Store,
    /// The replicas.
    pub members: Vec<Replica>,
    file: PathBuf,
    folder: PathBuf,
    secret: PathBuf,
}

/// One replica, and its links.
#[derive(Debug)]
pub struct Replica {
    /// The process, while it runs.
    pub process: Process,
    /// Where agents connect.
    pub agents: u16,
    /// Where users connect.
    pub users: u16,
    /// Metrics and probes.
    pub observability: u16,
    /// The way that other replicas take to it.
    pub from_peers: Chaos,
    /// Its way to Redis, if that is a single server.
    pub to_redis: Chaos,
    /// The port behind that way.
    pub peers: u16,
    /// Where operators connect.
    pub admin: u16,
    number: usize,
}

impl Replicas {
    /// Starts a Redis and `count` replicas.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(count: usize, folder: &Path) -> Result<Self> {
        let redis = Redis::start(folder).await?;
        Self::sharing(Store::Single(Box::new(redis)), count, folder).await
    }

    /// Starts `count` replicas that share this.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn sharing(store: Store, count: usize, folder: &Path) -> Result<Self> {
        let file = folder.join("agents.yaml");
        run_cli(&file, &["agent", "create", "first"]).await?;
        let secret = folder.join("secret");
        std::fs::write(&secret, STANDARD.encode([7; 32]))?;
        let mut replicas = Self {
            store,
            members: Vec::new(),
            file,
            folder: folder.to_owned(),
            secret,
        };
        for number in 0..count {
            let member = replicas.add(number).await?;
            replicas.members.push(member);
        }
        Ok(replicas)
    }

    /// Runs `kas ARGS --file …` and gives what it prints.
    ///
    /// # Errors
    /// When it exits with an error.
    pub async fn cli(&self, args: &[&str]) -> Result<String> {
        run_cli(&self.file, args).await
    }

    /// Makes a user who may do everything at an agent's cluster that the agent itself may, and writes the kubeconfig
    /// `kubeconfig-kas` with which they reach it at this port of a load balancer, whose certificate is by `ca`.
    ///
    /// # Errors
    /// When a command of `kas` exits with an error, or the file cannot be written.
    pub async fn kubeconfig_as_agent(&self, agent: &str, port: u16, ca: &Path) -> Result<PathBuf> {
        const USER: &str = "ana";
        let token = self.cli(&["user", "create", USER]).await?;
        let grant = ["access", "grant", "--agent", agent, "--user", USER];
        self.cli(&[&grant[..], &["--as", "agent"]].concat()).await?;
        let (server, ca) = (
            format!("https://localhost:{port}/k8s-proxy/"),
            ca.display().to_string(),
        );
        let place = ["kubeconfig", agent, "--server", &server];
        let who = ["--user", USER, "--token", &token];
        let authority = ["--certificate-authority", &ca];
        let text = self.cli(&[&place[..], &authority, &who].concat()).await?;
        let file = self.folder.join("kubeconfig-kas");
        std::fs::write(&file, text + "\n")?;
        Ok(file)
    }

    /// Starts the process of a member again, once it has ended: who was just killed may still have its ports.
    ///
    /// # Errors
    /// When it does not end, or does not start.
    pub async fn restart(&mut self, number: usize) -> Result<()> {
        self.restart_with(number, &[]).await
    }

    /// The same, with these variables in its environment.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn restart_with(&mut self, number: usize, env: &[(&str, &str)]) -> Result<()> {
        self.members[number].process.ended(START).await?;
        let member = &self.members[number];
        let process = self.spawn(member.number, member.from_peers.port(), env)?;
        self.members[number].process = process;
        self.members[number].listens().await
    }

    async fn add(&self, number: usize) -> Result<Replica> {
        let first = ports::free_block(6);
        let [agents, users, observability, peers, admin] =
            [first, first + 1, first + 2, first + 3, first + 4];
        let api = first + 5;
        let from_peers = Chaos::start(&[peers]).await?;
        let to_redis = Chaos::start(&[self.store.port()]).await?;
        let configuration = json!({
            "standalone": {"file": self.file},
            "agent": {
                "listen": {
                    "address": at(agents), "websocket": true, "listen_grace_period": "1s",
                    "connections_per_token_per_minute": 100_000,
                },
                "kubernetes_api": {
                    "listen": {
                        "address": at(users), "listen_grace_period": "1s", "shutdown_grace_period": "12s",
                    },
                    "url_path_prefix": "/k8s-proxy/",
                },
            },
            "observability": {"listen": {"address": at(observability)}, "logging": {"level": "info"}},
            "admin": {"listen": {"address": at(admin)}},
            "api": {"listen": {"address": at(api), "authentication_secret_file": self.secret}},
            "redis": self.store.configuration(to_redis.port()),
            "private_api": {"listen": {"address": at(peers), "authentication_secret_file": self.secret}},
        });
        std::fs::write(self.configuration(number), configuration.to_string())?;
        let mut replica = Replica {
            process: self.spawn(number, from_peers.port(), &[])?,
            agents,
            users,
            observability,
            from_peers,
            to_redis,
            number,
            peers,
            admin,
        };
        replica.listens().await?;
        Ok(replica)
    }

    /// The configuration file of a member.
    #[must_use]
    pub fn configuration(&self, number: usize) -> PathBuf {
        self.folder.join(format!("kas-{number}.yaml"))
    }

    /// Changes the configuration file of a member, for its next start.
    ///
    /// # Errors
    /// When the file cannot be read or written.
    pub fn configure(
        &self,
        number: usize,
        change: impl FnOnce(&mut serde_json::Value),
    ) -> Result<()> {
        let file = self.configuration(number);
        let mut configuration = serde_json::from_slice(&std::fs::read(&file)?)?;
        change(&mut configuration);
        Ok(std::fs::write(&file, configuration.to_string())?)
    }

    fn spawn(&self, number: usize, from_peers: u16, env: &[(&str, &str)]) -> Result<Process> {
        let mut command = Command::new(programs::kas()?);
        command
            .arg("--configuration-file")
            .arg(self.configuration(number))
            .env(
                "OWN_PRIVATE_API_URL",
                format!("grpc://127.0.0.1:{from_peers}"),
            )
            .envs(env.iter().copied());
        // Each run has a log of its own, so that none is lost.
        let runs = (1..).map(|run| format!("kas-{number}-run-{run}"));
        let name = runs
            .into_iter()
            .find(|name| !self.folder.join(format!("{name}.log")).exists())
            .context("there is always a next number")?;
        Process::spawn(&name, &mut command, &self.folder)
    }
}

impl Replica {
    /// Its ports, for a load balancer.
    #[must_use]
    pub fn server(&self) -> Server {
        Server {
            agents: self.agents,
            users: self.users,
            observability: self.observability,
        }
    }

    /// Kills the process, and has its port refuse others, as if no proxy were
    /// before it. It has another port when it starts again.
    ///
    /// # Errors
    /// When it cannot be signalled, or there is no port.
    pub async fn kill(&mut self) -> Result<()> {
        // First, so that nobody finds a proxy that still accepts.
        self.from_peers = Chaos::start(&[self.peers]).await?;
        self.process.signal("KILL").await
    }

    async fn listens(&mut self) -> Result<()> {
        for port in [
            self.agents,
            self.users,
            self.peers,
            self.observability,
            self.admin,
        ] {
            let listens = until_accepts(port, START).await;
            listens.with_context(|| self.process.tail())?;
        }
        Ok(())
    }
}

fn at(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

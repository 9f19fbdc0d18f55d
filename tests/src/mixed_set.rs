//! Replicas of GitLab's kas 16.5, which `GO_KAS` names, and of ours on one Redis, with a double of GitLab behind them,
//! HAProxy in front, and agents of both kinds.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Command,
};

use crate::{
    agentk::{Agentk, Links},
    gitlab_double::{GitLabDouble, Scenario},
    http, parts, ports,
    process::Process,
    programs,
    redis::Redis,
    stub_api::StubApi,
    wait::{until, until_accepts},
};

/// A start takes a second; a busy machine takes longer.
const LIMIT: Duration = Duration::from_secs(60);
/// How long a replica may take to leave, of which ours and GitLab's need some seconds.
const LEAVES: Duration = Duration::from_secs(90);
/// The job's token that may use all agents.
const JOB: &str = "job-100";
/// Numbers of the agents that are GitLab's agentk, and of those that are ours.
const GITLABS_AGENTS: [i64; 4] = [21, 22, 23, 24];
const OUR_AGENTS: [i64; 4] = [31, 32, 33, 34];

/// Whose kas.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// GitLab's 16.5.
    GitLabs,
    /// Ours, which understands GitLab's.
    Ours,
    /// Ours, as it is without the keys for a mixed set.
    OursAlone,
}

/// One replica, perhaps not running.
#[derive(Debug)]
pub struct Seat {
    /// The process, while it runs.
    pub process: Option<Process>,
    /// Whose.
    pub kind: Kind,
    /// Where GitLab calls.
    pub api: u16,
    /// Where callers connect.
    pub users: u16,
    agents: u16,
    peers: u16,
    observability: u16,
}

impl Seat {
    /// Where other replicas reach it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("grpc://127.0.0.1:{}", self.peers)
    }
}

/// A working set.
#[derive(Debug)]
pub struct MixedSet {
    /// GitLab.
    pub double: GitLabDouble,
    /// The replicas.
    pub seats: Vec<Seat>,
    /// Where callers connect, by HAProxy.
    pub users: u16,
    /// Numbers of the agents.
    pub agents: Vec<i64>,
    /// Keys of the listener for callers besides its address, for replicas that are started from now on.
    pub users_listen: String,
    agents_port: u16,
    agentks: Vec<Agentk>,
    balancer: Option<Process>,
    redis: Redis,
    stub: StubApi,
    folder: TempDir,
}

impl MixedSet {
    /// Prepares replicas of these kinds, of which none runs yet, and the rest.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn prepare(kinds: &[Kind]) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let double = GitLabDouble::start(Scenario::sample()).await?;
        double.change(add_agents);
        double.write_secret(&folder.path().join("secret"))?;
        // An empty repository would be an error to GitLab's kas.
        let repository = double.repository(3).await?;
        let file = ".gitlab/agents/production/config.yaml";
        repository.commit("main", &[(file, Some("{}\n"))]).await?;
        std::fs::write(
            folder.path().join("private"),
            BASE64_STANDARD.encode([7; 32]),
        )?;
        let seats = kinds.iter().map(|kind| {
            let [agents, users, api, peers, observability] = [(); 5].map(|()| ports::free());
            Seat {
                process: None,
                kind: *kind,
                api,
                users,
                agents,
                peers,
                observability,
            }
        });
        let mut set = Self {
            double,
            seats: seats.collect(),
            users: ports::free(),
            agents: Vec::new(),
            users_listen: "shutdown_grace_period: 30s".to_owned(),
            agents_port: ports::free(),
            agentks: Vec::new(),
            balancer: None,
            redis: Redis::start(folder.path()).await?,
            stub: StubApi::start().await?,
            folder,
        };
        set.balancer = Some(set.balance().await?);
        Ok(set)
    }

    /// Starts a replica and waits until HAProxy sends to it.
    ///
    /// # Errors
    /// When it does not start.
    pub async fn start(&mut self, number: usize) -> Result<()> {
        let file = self.folder.path().join(format!("kas-{number}.yaml"));
        let seat = &self.seats[number];
        std::fs::write(&file, self.configuration(seat))?;
        let program = match seat.kind {
            Kind::GitLabs => programs::go_kas()?.context("GO_KAS names no kas of GitLab's")?,
            Kind::Ours | Kind::OursAlone => programs::kas()?,
        };
        let mut command = Command::new(program);
        command
            .arg(format!("--configuration-file={}", file.display()))
            .env("OWN_PRIVATE_API_URL", seat.url());
        let name = format!("kas-{number}");
        let process = Process::spawn(&name, &mut command, self.folder.path())?;
        for port in [
            seat.agents,
            seat.users,
            seat.api,
            seat.peers,
            seat.observability,
        ] {
            let listens = until_accepts(port, LIMIT).await;
            listens.with_context(|| process.tail())?;
        }
        self.seats[number].process = Some(process);
        for front in ["agents", "users"] {
            let server = format!("{front},kas{number},");
            let up = async || {
                let all = self.admin("show stat").await.ok()?;
                let line = all.lines().find(|line| line.starts_with(&server))?;
                line.contains(",UP,").then_some(())
            };
            until("HAProxy to find it ready", LIMIT, up).await?;
        }
        Ok(())
    }

    /// As Kubernetes stops a pod: nobody is sent to it any more, and it gets SIGTERM. Waits for its end.
    ///
    /// # Errors
    /// When it does not end.
    pub async fn stop(&mut self, number: usize) -> Result<()> {
        let mut process = self.leave(number).await?;
        process.end_by("TERM", LEAVES).await?;
        Ok(())
    }

    /// The same, but after `grace` it is killed. Whether it has ended by itself.
    ///
    /// # Errors
    /// When HAProxy does not listen.
    pub async fn stop_within(&mut self, number: usize, grace: Duration) -> Result<bool> {
        self.leave(number).await?.terminated(grace).await
    }

    /// Sends nobody to a replica any more.
    async fn leave(&mut self, number: usize) -> Result<Process> {
        for front in ["agents", "users"] {
            let drain = format!("set server {front}/kas{number} state drain");
            let said = self.admin(&drain).await?;
            ensure!(said.trim().is_empty(), "{said}");
        }
        self.seats[number].process.take().context("it does not run")
    }

    /// Starts four agents of ours and, where `AGENTK_BIN` names it, as many of GitLab's.
    ///
    /// # Errors
    /// When a program is not there.
    pub fn start_agents(&mut self) -> Result<()> {
        let kubeconfig = self.stub.kubeconfig(self.folder.path())?;
        self.start_agents_of(kubeconfig)
    }

    /// The same, in another cluster.
    ///
    /// # Errors
    /// When a program is not there.
    pub fn start_agents_of(&mut self, kubeconfig: PathBuf) -> Result<()> {
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", self.agents_port),
            ca: None,
            kubeconfig,
        };
        let ours = OUR_AGENTS.map(|id| (id, programs::own_agentk()));
        let theirs = GITLABS_AGENTS.map(|id| (id, programs::other_agentk().context("AGENTK_BIN")));
        let theirs = theirs.into_iter().filter(|(_, program)| program.is_ok());
        for (id, program) in theirs.chain(ours) {
            let (name, token) = (format!("agentk-{id}"), format!("token-{id}"));
            let agentk = Agentk::run(program?, &name, &links, &token, self.folder.path())?;
            self.agentks.push(agentk);
            self.agents.push(id);
        }
        Ok(())
    }

    /// Waits until each agent answers through each replica that runs.
    ///
    /// # Errors
    /// When one does not.
    pub async fn all_answer(&self) -> Result<()> {
        for (number, seat) in self.seats.iter().enumerate() {
            if seat.process.is_none() {
                continue;
            }
            for agent in &self.agents {
                let answers = async || get(seat.users, *agent).await.ok();
                let what = format!("agent {agent} through kas-{number} ({:?})", seat.kind);
                let answered = until(&what, LIMIT, answers).await;
                answered.with_context(|| self.tails())?;
            }
        }
        Ok(())
    }

    /// Where files of this set are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// What redis-cli says.
    ///
    /// # Errors
    /// When it fails.
    pub async fn redis(&self, args: &[&str]) -> Result<String> {
        self.redis.cli(args).await
    }

    /// Copies all logs to this folder.
    ///
    /// # Errors
    /// When that fails.
    pub fn keep_logs(&self, to: &Path) -> Result<()> {
        std::fs::create_dir_all(to)?;
        for entry in std::fs::read_dir(self.folder.path())? {
            let file = entry?.path();
            let name = file.file_name().unwrap_or_default();
            if file.extension().is_some_and(|it| it == "log") {
                std::fs::copy(&file, to.join(name))?;
            }
        }
        Ok(())
    }

    /// The last lines of everybody, for error messages.
    #[must_use]
    pub fn tails(&self) -> String {
        let replicas = self.seats.iter().filter_map(|it| it.process.as_ref());
        let agents = self.agentks.iter().map(|it| &it.process);
        let tails: Vec<_> = replicas.chain(agents).map(Process::tail).collect();
        tails.join("\n")
    }

    fn configuration(&self, seat: &Seat) -> String {
        let folder = self.folder.path();
        let (mixed, tokens) = match seat.kind {
            Kind::GitLabs | Kind::OursAlone => ("", ""),
            Kind::Ours => (", compatibility: gitlab-16.5", ", gitlab_tokens: true"),
        };
        format!(
            "gitlab: {{address: '{gitlab}', authentication_secret_file: {secret}}}\n\
             agent:\n  listen: {{address: '127.0.0.1:{agents}', websocket: true, listen_grace_period: 2s, \
             connections_per_token_per_minute: 100000}}\n  \
             kubernetes_api:\n    listen: {{address: '127.0.0.1:{users}', listen_grace_period: 2s, \
             {users_listen}}}\n    url_path_prefix: /k8s-proxy/\n\
             api: {{listen: {{address: '127.0.0.1:{api}', authentication_secret_file: {secret}, \
             listen_grace_period: 2s}}}}\n\
             private_api: {{listen: {{address: '127.0.0.1:{peers}', authentication_secret_file: {private}, \
             listen_grace_period: 2s{tokens}}}}}\n\
             redis: {{server: {{address: '127.0.0.1:{redis}'}}{mixed}}}\n\
             observability: {{listen: {{address: '127.0.0.1:{observability}'}}, logging: {{level: info}}}}\n",
            gitlab = self.double.url(),
            secret = folder.join("secret").display(),
            private = folder.join("private").display(),
            agents = seat.agents,
            users = seat.users,
            users_listen = self.users_listen,
            api = seat.api,
            peers = seat.peers,
            observability = seat.observability,
            redis = self.redis.port(),
        )
    }

    /// Connections stay where they are; a replica gets none before it is ready.
    async fn balance(&self) -> Result<Process> {
        let mut text = format!(
            "global\n  maxconn 4000\n  stats socket {} mode 600 level admin\n{DEFAULTS}",
            self.socket().display()
        );
        for (front, port) in [("agents", self.agents_port), ("users", self.users)] {
            writeln!(text, "listen {front}\n  bind 127.0.0.1:{port}")?;
            for (number, seat) in self.seats.iter().enumerate() {
                let (target, check) = match front {
                    "agents" => (seat.agents, seat.observability),
                    _ => (seat.users, seat.observability),
                };
                writeln!(
                    text,
                    "  server kas{number} 127.0.0.1:{target} check port {check} inter 100ms fall 1 rise 1"
                )?;
            }
        }
        let file = self.folder.path().join("haproxy.cfg");
        std::fs::write(&file, text)?;
        let program = parts::program("haproxy").context("no haproxy")?;
        let mut command = Command::new(program);
        command.args(["-db", "-f"]).arg(&file);
        Process::listening("haproxy", &mut command, self.users, self.folder.path()).await
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("haproxy.sock")
    }

    async fn admin(&self, command: &str) -> Result<String> {
        admin(&self.socket(), command).await
    }
}

/// The connection of one agent's caller: a GET of its own connection, whose answer must be the cluster's.
///
/// # Errors
/// What came instead.
pub async fn get(users: u16, agent: i64) -> Result<()> {
    let url = format!("http://127.0.0.1:{users}/k8s-proxy/echo/{agent}");
    let answer = http::get(&url, &bearer(agent)).await?;
    let body = String::from_utf8_lossy(answer.body());
    let wanted = format!("\"/echo/{agent}\"");
    ensure!(
        answer.status() == 200 && body.contains(&wanted),
        "{}: {body}",
        answer.status()
    );
    Ok(())
}

/// What a caller of this agent shows.
#[must_use]
pub fn bearer(agent: i64) -> String {
    format!("ci:{agent}:{JOB}")
}

async fn admin(socket: &Path, command: &str) -> Result<String> {
    let asked = async {
        let mut socket = UnixStream::connect(socket).await?;
        socket.write_all(format!("{command}\n").as_bytes()).await?;
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    let answer = tokio::time::timeout(LIMIT, asked).await;
    answer.with_context(|| format!("HAProxy does not answer to {command:?}"))?
}

fn add_agents(scenario: &mut Scenario) {
    let (like, allowed) = (
        scenario.agents[0].clone(),
        scenario.jobs[0].agents[1].clone(),
    );
    for id in GITLABS_AGENTS.into_iter().chain(OUR_AGENTS) {
        let mut agent = like.clone();
        agent.id = id;
        agent.name = format!("agent-{id}");
        agent.tokens = vec![format!("token-{id}")];
        scenario.agents.push(agent);
        let mut use_of = allowed.clone();
        use_of.id = id;
        scenario.jobs[0].agents.push(use_of);
    }
}

const DEFAULTS: &str = "\
defaults
  mode tcp
  balance roundrobin
  option httpchk GET /readiness
  option redispatch 1
  retries 5
  timeout connect 2s
  timeout check 20s
  timeout client 1h
  timeout server 1h
";

//! A double of GitLab with a Gitaly, and replicas of kas as its agent server: a
//! Redis between them, HAProxy in front.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use base64::{Engine, prelude::BASE64_STANDARD};
use prost::Message as _;
use prost_types::Any;
use proto::agent::event::{GitPushEvent, Project};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    process::Command,
};

use crate::{
    agentk::{Agentk, Links},
    certs::Certs,
    gitlab_double::{GitLabDouble, Scenario},
    http, parts, ports,
    process::Process,
    programs,
    redis::Redis,
    wait::{until, until_accepts},
};

/// A start takes a second; a busy machine takes longer.
const LIMIT: Duration = Duration::from_secs(60);

/// A working set.
#[derive(Debug)]
pub struct GitLabSet {
    /// GitLab, and its Gitaly.
    pub double: GitLabDouble,
    /// The replicas.
    pub replicas: Vec<Member>,
    /// Where agents connect.
    pub agents: u16,
    /// Where callers connect, with TLS.
    pub users: u16,
    certs: Certs,
    balancer: Process,
    redis: Redis,
    folder: TempDir,
}

/// One replica.
#[derive(Debug)]
pub struct Member {
    /// The process.
    pub process: Process,
    /// Where GitLab calls.
    pub api: u16,
    agents: u16,
    users: u16,
    observability: u16,
}

impl GitLabSet {
    /// Starts so many replicas that poll repositories every `poll` seconds.
    ///
    /// # Errors
    /// When something does not start.
    pub async fn start(count: usize, poll: u32) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let certs = Certs::create(&folder.path().join("certs"))?;
        let double = GitLabDouble::start(Scenario::sample()).await?;
        double.write_secret(&folder.path().join("secret"))?;
        std::fs::write(
            folder.path().join("private"),
            BASE64_STANDARD.encode([7; 32]),
        )?;
        let redis = Redis::start(folder.path()).await?;
        let mut replicas = Vec::new();
        for number in 0..count {
            let member = Member::start(number, poll, &double, redis.port(), folder.path());
            replicas.push(member.await?);
        }
        // Before agents come, so that one of them polls.
        for member in &replicas {
            member.knows(count).await?;
        }
        let (agents, users) = (ports::free(), ports::free());
        let balancer = balancer([agents, users], &replicas, &certs, folder.path()).await?;
        Ok(Self {
            double,
            replicas,
            agents,
            users,
            certs,
            balancer,
            redis,
            folder,
        })
    }

    /// A folder for the test's files.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Starts an agent through the load balancer, and does not wait.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn agentk(&self, name: &str, token: &str, kubeconfig: &Path) -> Result<Agentk> {
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", self.agents),
            ca: None,
            kubeconfig: kubeconfig.to_owned(),
        };
        Agentk::start(name, &links, token, self.folder.path())
    }

    /// A kubeconfig as GitLab writes it for its jobs, for a caller (`ci:<job's
    /// token>` or `pat:<token>`) and an agent.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn kubeconfig(&self, project: &str, agent: i64, caller: &str) -> Result<PathBuf> {
        let (kind, token) = caller.split_once(':').context("ci: or pat:")?;
        let ca = BASE64_STANDARD.encode(std::fs::read(&self.certs.ca)?);
        let text = format!(
            "apiVersion: v1\nkind: Config\n\
             clusters:\n- name: gitlab\n  cluster:\n    server: https://localhost:{users}/k8s-proxy/\n    \
             certificate-authority-data: {ca}\n\
             users:\n- name: agent:{agent}\n  user: {{token: '{kind}:{agent}:{token}'}}\n\
             contexts:\n- name: {project}:{agent}\n  context: {{cluster: gitlab, user: 'agent:{agent}'}}\n\
             current-context: {project}:{agent}\n",
            users = self.users,
        );
        let file = self
            .folder
            .path()
            .join(format!("kubeconfig-{kind}-{token}-{agent}"));
        std::fs::write(&file, text)?;
        Ok(file)
    }

    /// Tells all replicas of a push, on their channel, as the one that GitLab
    /// told would.
    ///
    /// # Errors
    /// When Redis does not take it.
    pub async fn push(&self, id: i64, full_path: &str) -> Result<()> {
        let project = Project {
            id,
            full_path: full_path.to_owned(),
        };
        let event = GitPushEvent {
            project: Some(project),
        };
        let message = Any {
            type_url: "type.googleapis.com/gitlab.agent.event.GitPushEvent".to_owned(),
            value: event.encode_to_vec(),
        };
        let message = message.encode_to_vec();
        let mut redis = TcpStream::connect(("127.0.0.1", self.redis.port())).await?;
        let head = format!(
            "*3\r\n$7\r\nPUBLISH\r\n$10\r\nkas_events\r\n${}\r\n",
            message.len()
        );
        redis
            .write_all(&[head.as_bytes(), &message, b"\r\n"].concat())
            .await?;
        let taken = redis.read_u8().await?;
        ensure!(taken == b':', "Redis refuses the message");
        Ok(())
    }

    /// How often each replica called a method of Gitaly; nothing for those that are gone.
    pub async fn called(&self, method: &str) -> Vec<u64> {
        let mut counts = Vec::new();
        for member in &self.replicas {
            counts.push(member.called(method).await.unwrap_or_default());
        }
        counts
    }

    /// The last lines of everybody, for error messages.
    #[must_use]
    pub fn tails(&self) -> String {
        let mut tails: Vec<_> = self.replicas.iter().map(|it| it.process.tail()).collect();
        tails.push(self.balancer.tail());
        tails.join("\n")
    }
}

impl Member {
    async fn start(
        number: usize,
        poll: u32,
        double: &GitLabDouble,
        redis: u16,
        folder: &Path,
    ) -> Result<Self> {
        let [api, agents, users, peers, observability] = [(); 5].map(|()| ports::free());
        let file = folder.join(format!("kas-{number}.yaml"));
        let (secret, private) = (folder.join("secret"), folder.join("private"));
        let text = format!(
            "gitlab: {{address: '{gitlab}', authentication_secret_file: {secret}}}\n\
             agent:\n  listen: {{address: '127.0.0.1:{agents}', websocket: true, listen_grace_period: 1s}}\n  \
             configuration: {{poll_period: {poll}s}}\n  kubernetes_api:\n    \
             listen: {{address: '127.0.0.1:{users}', listen_grace_period: 1s}}\n    url_path_prefix: /k8s-proxy/\n\
             api: {{listen: {{address: '127.0.0.1:{api}', authentication_secret_file: {secret}}}}}\n\
             private_api: {{listen: {{address: '127.0.0.1:{peers}', authentication_secret_file: {private}}}}}\n\
             redis: {{server: {{address: '127.0.0.1:{redis}'}}}}\n\
             observability: {{listen: {{address: '127.0.0.1:{observability}'}}, logging: {{level: debug}}}}\n",
            gitlab = double.url(),
            secret = secret.display(),
            private = private.display(),
        );
        std::fs::write(&file, text)?;
        let mut command = Command::new(programs::kas()?);
        command
            .arg("--configuration-file")
            .arg(&file)
            .env("OWN_PRIVATE_API_URL", format!("grpc://127.0.0.1:{peers}"));
        let process = Process::spawn(&format!("kas-{number}"), &mut command, folder)?;
        for port in [api, agents, users, observability] {
            let listens = until_accepts(port, LIMIT).await;
            listens.with_context(|| process.tail())?;
        }
        Ok(Self {
            process,
            api,
            agents,
            users,
            observability,
        })
    }

    /// Waits until it knows so many replicas.
    async fn knows(&self, count: usize) -> Result<()> {
        let known = async || {
            let replicas = self.sample("routing_replicas ").await?;
            (replicas == count as u64).then_some(())
        };
        let known = until("the replicas to know each other", LIMIT, known).await;
        known.with_context(|| self.process.tail())
    }

    /// How often it called a method of Gitaly; nothing while it does not answer.
    pub async fn called(&self, method: &str) -> Option<u64> {
        let name = format!("gitaly_requests_total{{call=\"{method}\",outcome=\"Ok\"}} ");
        self.sample(&name).await
    }

    async fn sample(&self, name: &str) -> Option<u64> {
        let url = format!("http://127.0.0.1:{}/metrics", self.observability);
        let answer = http::get(&url, "").await.ok()?;
        let text = String::from_utf8_lossy(answer.body()).into_owned();
        let value = text.lines().find_map(|line| line.strip_prefix(name))?;
        value.trim().parse().ok()
    }
}

async fn balancer(
    fronts: [u16; 2],
    replicas: &[Member],
    certs: &Certs,
    folder: &Path,
) -> Result<Process> {
    let [agents, users] = fronts;
    let mut text = GLOBAL.to_owned();
    let tls = format!(" ssl crt {}", certs.both.display());
    for (name, front, tls) in [("agents", agents, ""), ("users", users, &tls)] {
        writeln!(text, "listen {name}\n  bind 127.0.0.1:{front}{tls}")?;
        for (number, replica) in replicas.iter().enumerate() {
            let port = match name {
                "agents" => replica.agents,
                _ => replica.users,
            };
            let check = replica.observability;
            writeln!(
                text,
                "  server kas{number} 127.0.0.1:{port} check port {check} inter 100ms fall 1 rise 1"
            )?;
        }
    }
    let file = folder.join("haproxy.cfg");
    std::fs::write(&file, text)?;
    let program = parts::program("haproxy").context("no haproxy")?;
    let mut command = Command::new(program);
    command.args(["-db", "-f"]).arg(&file);
    let process = Process::spawn("haproxy", &mut command, folder)?;
    let listens = until_accepts(users, LIMIT).await;
    listens.with_context(|| process.tail())?;
    Ok(process)
}

const GLOBAL: &str = "\
global
  maxconn 2000
defaults
  mode tcp
  balance roundrobin
  option httpchk GET /readiness
  option redispatch 1
  retries 5
  timeout connect 2s
  timeout check 2s
  timeout client 1h
  timeout server 1h
";

//! A double of GitLab with a Gitaly, and replicas of kas as its agent server: a
//! Redis between them, HAProxy in front.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use base64::{Engine, prelude::BASE64_STANDARD};
use tempfile::TempDir;
use tokio::process::Command;

use crate::{
    agentk::{Agentk, Links},
    certs::Certs,
    gitlab_double::{GitLabDouble, Scenario},
    gitlab_member::{LIMIT, Member},
    parts, ports,
    process::Process,
    redis::Redis,
    wait::until_accepts,
};

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
    _redis: Redis,
    folder: TempDir,
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
            _redis: redis,
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

    /// GitLab tells a replica of a push.
    ///
    /// # Errors
    /// When it does not take it.
    pub async fn push(&self, id: i64, full_path: &str) -> Result<()> {
        let rails = self.double.rails(self.replicas[0].api).await?;
        Ok(rails.push(id, full_path).await?)
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
  timeout check 20s
  timeout client 1h
  timeout server 1h
";

//! The agents: our agentk, simulated ones with the timing of GitLab's, and GitLab's own if it is given.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use tests::{
    agentk::{Agentk, Links},
    counting_api::CountingApi,
    kas::run_cli,
    process::Process,
    programs,
    replicas::Replicas,
    wait::until,
};
use tokio::{process::Command, time::Instant};

/// How long simulated agents may take to connect.
const READY: Duration = Duration::from_secs(60);
/// How long agents may take to be reachable from everywhere.
const REACHABLE: Duration = Duration::from_secs(120);

/// Which agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Kind {
    /// Ours.
    Own,
    /// The one that `AGENTK_BIN` names.
    Other,
    /// `loadtest fleet`.
    Simulated,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Own => "our agentk",
            Self::Other => "AGENTK_BIN",
            Self::Simulated => "simulated, Go timing",
        }
    }

    /// Whether its API counts what is posted.
    pub(crate) fn counts(self) -> bool {
        self != Self::Simulated
    }
}

/// An agent that users ask.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) kind: Kind,
}

/// All agents, running.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) agents: Vec<Agent>,
    /// What our agentk and `AGENTK_BIN` stand in front of.
    pub(crate) api: Arc<CountingApi>,
    _processes: Vec<Agentk>,
    _simulated: Process,
}

impl Fleet {
    /// Starts `count` agents, half of them processes, and registers them in the standalone file.
    pub(crate) async fn start(
        count: usize,
        kas_address: &str,
        file: &Path,
        folder: &Path,
    ) -> Result<Self> {
        let api = Arc::new(CountingApi::start().await?);
        let links = Links {
            kas: kas_address.to_owned(),
            ca: None,
            kubeconfig: api.kubeconfig(folder)?,
        };
        let (mut agents, mut processes, mut tokens) = (Vec::new(), Vec::new(), Vec::new());
        for number in 0..count {
            let name = format!("agent-{number}");
            let id = (100 + number).to_string();
            let token = run_cli(file, &["agent", "create", &name, "--id", &id]).await?;
            let kind = kind(number);
            match kind {
                Kind::Own => {
                    let program = programs::own_agentk()?;
                    processes.push(Agentk::run(program, &name, &links, &token, folder)?);
                }
                Kind::Other => processes.push(Agentk::start(&name, &links, &token, folder)?),
                Kind::Simulated => tokens.push(token),
            }
            agents.push(Agent { id, kind });
        }
        Ok(Self {
            agents,
            api,
            _processes: processes,
            _simulated: simulated(&tokens, kas_address, folder).await?,
        })
    }
}

/// Agents that come later.
#[derive(Debug)]
pub(crate) struct Newcomers {
    links: Links,
    file: PathBuf,
    folder: PathBuf,
    user_token: String,
}

impl Newcomers {
    /// Agents of this kas, which a user with this token may ask.
    pub(crate) fn new(
        kas_address: &str,
        api: &CountingApi,
        folder: &Path,
        user_token: &str,
    ) -> Result<Self> {
        Ok(Self {
            links: Links {
                kas: kas_address.to_owned(),
                ca: None,
                kubeconfig: api.kubeconfig(folder)?,
            },
            file: folder.join("agents.yaml"),
            folder: folder.to_owned(),
            user_token: user_token.to_owned(),
        })
    }

    /// Starts a new agent, waits until it answers through every replica, and ends it.
    pub(crate) async fn one(&self, replicas: &Replicas) -> Result<()> {
        let id = "99".to_owned();
        let create = ["agent", "create", "newcomer", "--id", &id];
        let token = run_cli(&self.file, &create).await?;
        let program = programs::own_agentk()?;
        let process = Agentk::run(program, "newcomer", &self.links, &token, &self.folder)?;
        let agent = Agent {
            id,
            kind: Kind::Own,
        };
        let reached = reachable(replicas, &[agent], &self.user_token).await;
        reached.with_context(|| process.process.tail())
    }
}

/// Waits until every agent answers through every replica.
pub(crate) async fn reachable(replicas: &Replicas, agents: &[Agent], token: &str) -> Result<()> {
    let deadline = Instant::now() + REACHABLE;
    for agent in agents {
        for replica in &replicas.members {
            let url = format!("http://127.0.0.1:{}/k8s-proxy/json/1", replica.users);
            let bearer = format!("pat:{}:{token}", agent.id);
            let answers = async || {
                let answer = tests::http::get(&url, &bearer).await.ok()?;
                answer.status().is_success().then_some(())
            };
            let what = format!("agent {} ({})", agent.id, agent.kind.name());
            let left = deadline.saturating_duration_since(Instant::now());
            until(&what, left, answers).await?;
        }
    }
    Ok(())
}

/// Every second one is simulated; of the others every second is the given one, if there is one.
fn kind(number: usize) -> Kind {
    match (number % 4, programs::other_agentk()) {
        (0, _) | (2, None) => Kind::Own,
        (2, Some(_)) => Kind::Other,
        (_, _) => Kind::Simulated,
    }
}

async fn simulated(tokens: &[String], kas_address: &str, folder: &Path) -> Result<Process> {
    let file = folder.join("tokens");
    std::fs::write(&file, tokens.join("\n"))?;
    let mut command = Command::new(programs::loadtest()?);
    command
        .args(["fleet", "--kas-address", kas_address, "--agents"])
        .arg(tokens.len().to_string())
        .arg("--token-file")
        .arg(&file);
    let mut process = Process::spawn("fleet", &mut command, folder)?;
    let ready = process.wait_for("ready:", READY).await;
    ready.context("the simulated agents")?;
    Ok(process)
}

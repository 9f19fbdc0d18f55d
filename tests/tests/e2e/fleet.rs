//! The agents: our agentk, simulated ones with the timing of GitLab's, and GitLab's own if it is given.

use std::{
    collections::BTreeMap,
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

use crate::fronts::{Fronts, Route};

/// How long simulated agents may take to connect.
const READY: Duration = Duration::from_secs(60);
/// How long agents may take to be reachable from everywhere.
const REACHABLE: Duration = Duration::from_secs(120);
/// The number of the first agent.
const FIRST: usize = 100;

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
    /// Those that there are.
    pub(crate) fn all() -> Vec<Self> {
        let other = programs::other_agentk().map(|_| Self::Other);
        [Some(Self::Own), Some(Self::Simulated), other]
            .into_iter()
            .flatten()
            .collect()
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Own => "our agentk",
            Self::Other => "AGENTK_BIN",
            Self::Simulated => "simulated, Go timing",
        }
    }

    /// What the bodies of its API consist of, so that answers show whose they are.
    fn letter(self) -> u8 {
        match self {
            Self::Own => b'o',
            Self::Other => b'g',
            Self::Simulated => b's',
        }
    }
}

/// An agent that users ask.
#[derive(Debug, Clone)]
pub(crate) struct Agent {
    pub(crate) id: String,
    pub(crate) name: String,
    pub(crate) kind: Kind,
}

/// What stands behind the agents of each kind.
pub(crate) type Apis = Arc<BTreeMap<Kind, CountingApi>>;

/// All agents, running.
#[derive(Debug)]
pub(crate) struct Fleet {
    pub(crate) agents: Vec<Agent>,
    pub(crate) apis: Apis,
    _processes: Vec<Agentk>,
    _simulated: Vec<Process>,
}

impl Fleet {
    /// Starts `count` agents, as many of each kind, each kind by all routes, and registers them in the
    /// standalone file.
    pub(crate) async fn start(count: usize, fronts: &Fronts, folder: &Path) -> Result<Self> {
        let kinds = Kind::all();
        let mut apis = BTreeMap::new();
        for kind in &kinds {
            apis.insert(*kind, CountingApi::start(kind.letter()).await?);
        }
        let mut fleet = Self {
            agents: Vec::new(),
            apis: Arc::new(apis),
            _processes: Vec::new(),
            _simulated: Vec::new(),
        };
        let mut simulated = Route::ALL.map(|route| (route, Vec::new()));
        for number in 0..count {
            let (kind, turn) = (kinds[number % kinds.len()], number / kinds.len());
            let (name, id) = (format!("agent-{number}"), (FIRST + number).to_string());
            let token = create(&name, &id, folder).await?;
            let (route, tokens) = &mut simulated[turn % Route::ALL.len()];
            let links = links(*route, &fleet.apis[&kind], fronts, folder)?;
            match kind {
                Kind::Own | Kind::Other => {
                    let process = Agentk::run(program(kind)?, &name, &links, &token, folder)?;
                    fleet._processes.push(process);
                }
                Kind::Simulated => tokens.push(token),
            }
            fleet.agents.push(Agent { id, name, kind });
        }
        for (route, tokens) in simulated.into_iter().filter(|(_, it)| !it.is_empty()) {
            let api = &fleet.apis[&Kind::Simulated];
            let process = simulate(&tokens, route, api, fronts, folder).await?;
            fleet._simulated.push(process);
        }
        Ok(fleet)
    }

    /// Requests whose answers their API is putting off.
    pub(crate) fn slow(&self) -> usize {
        self.apis.values().map(CountingApi::slow).sum()
    }
}

/// Registers an agent and gives its token.
pub(crate) async fn create(name: &str, id: &str, folder: &Path) -> Result<String> {
    let file = folder.join("agents.yaml");
    run_cli(&file, &["agent", "create", name, "--id", id]).await
}

/// How an agent reaches kas by this way, and its API.
pub(crate) fn links(
    route: Route,
    api: &CountingApi,
    fronts: &Fronts,
    folder: &Path,
) -> Result<Links> {
    let tls = matches!(route, Route::NginxWebSocket | Route::NginxGrpc);
    Ok(Links {
        kas: fronts.address(route),
        ca: tls.then(|| fronts.ca()),
        kubeconfig: api.kubeconfig(folder)?,
    })
}

/// Waits until every agent answers through every replica.
pub(crate) async fn reachable(replicas: &Replicas, agents: &[Agent], token: &str) -> Result<()> {
    let deadline = Instant::now() + REACHABLE;
    for agent in agents {
        for replica in &replicas.members {
            let url = format!("http://127.0.0.1:{}/k8s-proxy/bytes/1", replica.users);
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

fn program(kind: Kind) -> Result<PathBuf> {
    match kind {
        Kind::Own | Kind::Simulated => programs::own_agentk(),
        Kind::Other => programs::agentk(),
    }
}

async fn simulate(
    tokens: &[String],
    route: Route,
    api: &CountingApi,
    fronts: &Fronts,
    folder: &Path,
) -> Result<Process> {
    let name = format!("fleet-{route:?}");
    let file = folder.join(format!("{name}.tokens"));
    std::fs::write(&file, tokens.join("\n"))?;
    let links = links(route, api, fronts, folder)?;
    let mut command = Command::new(programs::loadtest()?);
    command
        .args(["fleet", "--kas-address", &links.kas, "--agents"])
        .arg(tokens.len().to_string())
        .args(["--backend", &format!("http://127.0.0.1:{}", api.port())])
        .arg("--token-file")
        .arg(&file);
    if let Some(ca) = &links.ca {
        command.arg("--ca-cert-file").arg(ca);
    }
    let mut process = Process::spawn(&name, &mut command, folder)?;
    let ready = process.wait_for("ready:", READY).await;
    ready.with_context(|| name.clone())?;
    Ok(process)
}

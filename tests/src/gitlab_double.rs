//! A stand-in for GitLab's internal API and for its Gitaly: answers and refuses
//! as they would, by a scenario, and fails on demand.

mod counters;
mod faults;
mod gitaly;
mod modules;
mod questions;
mod rails;
mod recorded;
mod scenario;
mod server;
mod token;

pub use counters::{Counters, Endpoint};
pub use faults::{Fault, FaultKind};
pub use modules::ModuleCall;
pub use rails::{Caller, Rails};
pub use recorded::Recorded;
pub use scenario::{Job, Paths, Scenario};

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use proto::agent::entity::{GitalyInfo, GitalyRepository};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::{TcpListener, UnixListener};
use tokio_util::task::AbortOnDropHandle;

use crate::{certs::Certs, git::Repository};

/// The name of Gitaly's Unix socket.
const SOCKET: &str = "gitaly.sock";

/// A running double; dropping it stops it.
#[derive(Debug)]
pub struct GitLabDouble {
    port: u16,
    tls: bool,
    shared: Arc<Shared>,
    _serving: [AbortOnDropHandle<()>; 2],
}

/// What its connections share.
#[derive(Debug)]
struct Shared {
    scenario: Mutex<Scenario>,
    counters: Mutex<Counters>,
    configurations: Mutex<Vec<(i64, Value)>>,
    usage: Mutex<Vec<Value>>,
    modules: Mutex<Vec<ModuleCall>>,
    events: Mutex<Vec<Value>>,
    /// All requests, once somebody wants them.
    recorded: Mutex<Option<Vec<Recorded>>>,
    /// Of repositories, and of Gitaly's socket.
    folder: TempDir,
    gitaly: String,
}

impl GitLabDouble {
    /// Starts a double on a free port of loopback.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start(scenario: Scenario) -> Result<Self> {
        Self::listen(scenario, "127.0.0.1:0", None).await
    }

    /// Starts a double that speaks TLS.
    ///
    /// # Errors
    /// When no port is free, or the certificate cannot be used.
    pub async fn start_tls(scenario: Scenario, certs: &Certs) -> Result<Self> {
        Self::listen(scenario, "127.0.0.1:0", Some(certs)).await
    }

    /// Starts a double on an address.
    ///
    /// # Errors
    /// When the address is taken, or the certificate cannot be used.
    pub async fn listen(scenario: Scenario, address: &str, certs: Option<&Certs>) -> Result<Self> {
        let listener = TcpListener::bind(address)
            .await
            .context("the double's port")?;
        let port = listener.local_addr()?.port();
        let folder = tempfile::tempdir()?;
        let gitaly = TcpListener::bind("127.0.0.1:0").await?;
        let shared = Arc::new(Shared {
            scenario: Mutex::new(scenario),
            counters: Mutex::default(),
            configurations: Mutex::default(),
            usage: Mutex::default(),
            modules: Mutex::default(),
            events: Mutex::default(),
            recorded: Mutex::default(),
            gitaly: match certs {
                Some(_) => format!("tls://localhost:{}", gitaly.local_addr()?.port()),
                None => format!("tcp://{}", gitaly.local_addr()?),
            },
            folder,
        });
        let acceptor = |alpn| certs.map(|it| server::acceptor(it, alpn)).transpose();
        let listening = gitaly::Listening {
            tcp: gitaly,
            unix: UnixListener::bind(shared.folder.path().join(SOCKET))?,
            tls: acceptor("h2")?,
        };
        let serving = [
            tokio::spawn(server::serve(
                listener,
                acceptor("http/1.1")?,
                shared.clone(),
            )),
            tokio::spawn(gitaly::serve(listening, shared.clone())),
        ];
        Ok(Self {
            port,
            tls: certs.is_some(),
            shared,
            _serving: serving.map(AbortOnDropHandle::new),
        })
    }

    /// Its URL, without a slash at the end.
    #[must_use]
    pub fn url(&self) -> String {
        match self.tls {
            true => format!("https://localhost:{}", self.port),
            false => format!("http://127.0.0.1:{}", self.port),
        }
    }

    /// The address of its Gitaly.
    #[must_use]
    pub fn gitaly(&self) -> &str {
        &self.shared.gitaly
    }

    /// The address of its Gitaly's Unix socket.
    #[must_use]
    pub fn gitaly_socket(&self) -> String {
        let path = self.shared.folder.path().join(SOCKET);
        format!("unix:{}", path.display())
    }

    /// What GitLab says of where a project's repository is.
    #[must_use]
    pub fn place(&self, project: i64) -> (GitalyRepository, GitalyInfo) {
        let repository = GitalyRepository {
            storage_name: "default".to_owned(),
            relative_path: questions::relative_path(project),
            ..GitalyRepository::default()
        };
        let server = self.change(|it| it.gitaly.clone());
        let gitaly = GitalyInfo {
            address: self.shared.gitaly.clone(),
            token: server.token,
            features: server.features.into_iter().collect(),
        };
        (repository, gitaly)
    }

    /// The repository of a project; made, empty, when it is asked for first.
    ///
    /// # Errors
    /// When `git` fails or is not installed.
    pub async fn repository(&self, project: i64) -> Result<Repository> {
        let relative = questions::relative_path(project);
        Repository::open(&gitaly::folder(&self.shared, &relative)).await
    }

    /// Changes the scenario from the next request on.
    pub fn change<T>(&self, change: impl FnOnce(&mut Scenario) -> T) -> T {
        change(&mut lock(&self.shared.scenario))
    }

    /// What it was asked so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        lock(&self.shared.counters).clone()
    }

    /// The agent configurations it was told, oldest first.
    #[must_use]
    pub fn configurations(&self) -> Vec<(i64, Value)> {
        lock(&self.shared.configurations).clone()
    }

    /// The usage reports that it took, oldest first.
    #[must_use]
    pub fn usage(&self) -> Vec<Value> {
        lock(&self.shared.usage).clone()
    }

    /// What agents' modules asked for, oldest first.
    #[must_use]
    pub fn module_calls(&self) -> Vec<ModuleCall> {
        lock(&self.shared.modules).clone()
    }

    /// Keeps all requests from now on.
    pub fn record(&self) {
        lock(&self.shared.recorded).get_or_insert_default();
    }

    /// The requests that it kept, oldest first.
    #[must_use]
    pub fn recorded(&self) -> Vec<Recorded> {
        lock(&self.shared.recorded).clone().unwrap_or_default()
    }

    /// The events that it took, oldest report first.
    #[must_use]
    pub fn events(&self) -> Vec<Value> {
        lock(&self.shared.events).clone()
    }

    /// Writes the secret that kas must have.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn write_secret(&self, file: &Path) -> Result<()> {
        let secret = self.change(|scenario| STANDARD.encode(scenario.secret()));
        std::fs::write(file, secret + "\n").with_context(|| file.display().to_string())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

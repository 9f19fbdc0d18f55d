//! A stand-in for GitLab's internal API: answers and refuses as GitLab would,
//! by a scenario, and fails on demand.

mod counters;
mod faults;
mod questions;
mod scenario;
mod server;
mod token;

pub use counters::{Counters, Endpoint};
pub use faults::{Fault, FaultKind};
pub use scenario::{Paths, Scenario};

use std::{
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio_util::task::AbortOnDropHandle;

use crate::certs::Certs;

/// A running double; dropping it stops it.
#[derive(Debug)]
pub struct GitLabDouble {
    port: u16,
    tls: bool,
    shared: Arc<Shared>,
    _serving: AbortOnDropHandle<()>,
}

/// What its connections share.
#[derive(Debug)]
struct Shared {
    scenario: Mutex<Scenario>,
    counters: Mutex<Counters>,
    configurations: Mutex<Vec<(i64, Value)>>,
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
        let shared = Arc::new(Shared {
            scenario: Mutex::new(scenario),
            counters: Mutex::default(),
            configurations: Mutex::default(),
        });
        let acceptor = certs.map(server::acceptor).transpose()?;
        let serving = tokio::spawn(server::serve(listener, acceptor, shared.clone()));
        Ok(Self {
            port,
            tls: certs.is_some(),
            shared,
            _serving: AbortOnDropHandle::new(serving),
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

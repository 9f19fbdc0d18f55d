//! The agents' side of a benchmark: simulated ones, or agentk with a backend.

use std::{path::Path, time::Duration};

use anyhow::Context;
use serde::Serialize;

use super::Bench;
use crate::{
    backend::kubeconfig,
    ports::{free, loopback},
    process::{Process, Sample},
    topology::Replica,
};

/// How long simulated agents may take to be ready, beyond their ramp.
const READY_TIMEOUT: Duration = Duration::from_secs(120);
/// How long a program may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// Who answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Kind {
    /// A simulated agent with a scripted API inside.
    Simulated,
    /// Our agentk, in front of the scripted API as an HTTP server.
    Agentk,
    /// GitLab's agentk, likewise.
    GoAgentk,
}

/// Running agents.
#[derive(Debug)]
pub(super) struct Agents {
    pub(super) process: Process,
    backend: Option<Process>,
}

impl Agents {
    /// One agent, of the given kind.
    pub(super) async fn one(bench: &Bench, replica: &Replica, kind: Kind) -> anyhow::Result<Self> {
        match kind {
            Kind::Simulated => Self::fleet(bench, &replica.kas_address(), 1).await,
            Kind::Agentk => Self::agentk(bench, &bench.agentk, replica).await,
            Kind::GoAgentk => {
                let program = bench.go_agentk.as_deref().context("name GitLab's agentk")?;
                Self::agentk(bench, program, replica).await
            }
        }
    }

    /// Simulated agents, each with its own token; ready when this returns. Several addresses, with commas between
    /// them, are dialled in turns.
    pub(super) async fn fleet(bench: &Bench, address: &str, agents: usize) -> anyhow::Result<Self> {
        let control = &bench.control;
        let arguments = [
            "fleet".to_owned(),
            format!("--kas-address={address}"),
            format!("--token-file={}", control.tokens.display()),
            format!("--ca-cert-file={}", control.certificate.display()),
            format!("--agents={agents}"),
            format!("--ramp={}", bench.options.ramp),
        ];
        let own = std::env::current_exe()?;
        let mut process = Process::start("fleet", &own, arguments, &[], bench.logs())?;
        process.line("ready:", READY_TIMEOUT).await?;
        Ok(Self {
            process,
            backend: None,
        })
    }

    async fn agentk(bench: &Bench, program: &Path, replica: &Replica) -> anyhow::Result<Self> {
        let own = std::env::current_exe()?;
        let mut backend = Process::start("backend", &own, ["backend"], &[], bench.logs())?;
        let server = backend.line("ready:", START_TIMEOUT).await?;
        let kubeconfig = kubeconfig(bench.dir.path(), &server)?;
        let [observability] = free()?;
        let arguments = [
            format!("--kas-address={}", replica.kas_address()),
            format!("--token-file={}", bench.control.first.display()),
            format!("--kubeconfig={}", kubeconfig.display()),
            format!("--ca-cert-file={}", bench.control.certificate.display()),
            format!("--observability-listen-address={}", loopback(observability)),
        ];
        let pod = [("POD_NAMESPACE", "bench"), ("POD_NAME", "bench")];
        let process = Process::start("agentk", program, arguments, &pod, bench.logs())?;
        Ok(Self {
            process,
            backend: Some(backend),
        })
    }

    pub(super) fn sample(&self) -> anyhow::Result<Sample> {
        self.process.sample()
    }

    pub(super) async fn end(self) {
        self.process.end().await;
        if let Some(backend) = self.backend {
            backend.end().await;
        }
    }
}

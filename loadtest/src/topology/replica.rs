//! A kas on loopback.

use std::{
    path::{Path, PathBuf},
    process::ExitStatus,
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::Pid;
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};

use super::{
    configuration,
    control::ControlPlane,
    setup::{Ports, Setup},
};
use crate::{
    ports::loopback,
    process::{Process, Sample},
};

/// How long it may take to start.
const START_TIMEOUT: Duration = Duration::from_secs(20);

/// A kas and its addresses.
#[derive(Debug)]
pub(crate) struct Replica {
    pub(crate) name: String,
    pub(crate) ports: Ports,
    process: Option<Process>,
    setup: Setup,
    file: PathBuf,
    published: u16,
    runs: u32,
}

impl Replica {
    /// Starts one and waits until it listens.
    pub(crate) async fn start(
        setup: &Setup,
        control: &ControlPlane,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let mut replica = Self::prepare("kas", setup, control, dir)?;
        replica.launch().await?;
        Ok(replica)
    }

    /// Writes its configuration; it does not run yet.
    pub(crate) fn prepare(
        name: &str,
        setup: &Setup,
        control: &ControlPlane,
        dir: &Path,
    ) -> anyhow::Result<Self> {
        let ports = Ports::choose()?;
        let configuration = configuration::of_replica(setup, control, ports);
        let file = dir.join(format!("{name}-{}.yaml", ports.agents));
        std::fs::write(&file, configuration.to_string()).context("cannot write kas.yaml")?;
        Ok(Self {
            name: name.to_owned(),
            ports,
            process: None,
            setup: setup.clone(),
            file,
            published: ports.peers,
            runs: 0,
        })
    }

    /// Has other replicas reach it by this port.
    pub(crate) fn publish(&mut self, port: u16) {
        self.published = port;
    }

    /// Starts it, or starts it again, and waits until it listens.
    pub(crate) async fn launch(&mut self) -> anyhow::Result<()> {
        self.runs += 1;
        let flag = format!("--configuration-file={}", self.file.display());
        let url = format!("grpc://{}", loopback(self.published));
        let mut environment = vec![];
        if self.setup.redis.is_some() {
            environment.push(("OWN_PRIVATE_API_URL", url.as_str()));
        }
        self.process = Some(Process::start(
            &format!("{}-{}-run-{}", self.name, self.ports.agents, self.runs),
            &self.setup.program,
            [flag],
            &environment,
            self.file.parent().unwrap_or(Path::new(".")),
        )?);
        self.listens().await
    }

    async fn listens(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        for port in [self.ports.agents, self.ports.users] {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                let process = self.process.as_mut().context("it was not started")?;
                if !process.is_running() {
                    bail!(
                        "{} ended while it started: {}",
                        self.name,
                        process.last_words()
                    );
                }
                if Instant::now() > deadline {
                    bail!(
                        "{} does not listen on port {port} after {START_TIMEOUT:?}",
                        self.name
                    );
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Where agents connect.
    pub(crate) fn kas_address(&self) -> String {
        self.setup.address_of_agents(self.ports.agents)
    }

    /// The URL of a path of the Kubernetes API, through the proxy.
    pub(crate) fn url(&self, path: &str) -> String {
        self.url_at(self.ports.users, path)
    }

    /// The same, where users come in by another port.
    pub(crate) fn url_at(&self, port: u16, path: &str) -> String {
        let scheme = if self.setup.https { "https" } else { "http" };
        format!("{scheme}://127.0.0.1:{port}/k8s-proxy{path}")
    }

    /// Where operators ask, and have their page.
    pub(crate) fn admin_url(&self) -> String {
        format!("http://{}/", loopback(self.ports.admin))
    }

    /// What it uses; nothing while it is away.
    pub(crate) fn sample(&self) -> anyhow::Result<Sample> {
        self.running()?.sample()
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> anyhow::Result<Pid> {
        Ok(self.running()?.pid())
    }

    fn running(&self) -> anyhow::Result<&Process> {
        let process = self.process.as_ref();
        process.with_context(|| format!("{} does not run", self.name))
    }

    /// Waits for its end after a signal.
    pub(crate) async fn ended(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        let process = self.process.take();
        let mut process = process.with_context(|| format!("{} does not run", self.name))?;
        process.ended(within).await
    }

    /// Ends it, if it runs.
    pub(crate) async fn end(self) {
        if let Some(process) = self.process {
            process.end().await;
        }
    }
}

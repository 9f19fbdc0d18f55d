//! Real agentk processes among the simulated agents, in front of the same scripted API.

use std::{path::Path, sync::atomic::Ordering::Relaxed, time::Duration};

use anyhow::{Context, bail, ensure};
use futures_util::future::join_all;
use http::StatusCode;
use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{net::TcpListener, time::timeout};
use tokio_util::task::AbortOnDropHandle;

use super::{options::Options, stats::Stats};
use crate::{
    backend, http_get, output,
    ports::{free, loopback},
    process::Process,
    script::Script,
    topology::beside,
};

/// How long a probe may take.
const PROBE_INTERVAL: Duration = Duration::from_secs(1);
/// How long an agentk may take to end.
const END_TIMEOUT: Duration = Duration::from_secs(5);

/// Running ones; dropping it kills them.
pub(super) struct Real {
    agents: Vec<Agentk>,
    _api: AbortOnDropHandle<()>,
    _folder: TempDir,
}

struct Agentk {
    process: Process,
    readiness: String,
}

impl Real {
    /// Starts as many as the options say, with the first tokens; nothing if they say none.
    ///
    /// # Errors
    /// When one cannot be started.
    pub(super) async fn start(options: &Options) -> anyhow::Result<Option<Self>> {
        if options.real == 0 {
            return Ok(None);
        }
        ensure!(
            options.real <= options.agents,
            "--real cannot be more than --agents"
        );
        let program = beside(options.agentk.as_deref(), "agentk")?;
        ensure!(
            program.is_file(),
            "there is no agentk at {}; name one by --agentk, or build it",
            program.display()
        );
        let folder = TempDir::new()?;
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let server = match &options.backend {
            Some(backend) => backend.to_string(),
            None => format!("http://{}", listener.local_addr()?),
        };
        backend::kubeconfig(folder.path(), &server)?;
        let serving = backend::serve(listener, Script::new(options.response_bytes));
        let api = tokio::spawn(async {
            if let Err(error) = serving.await {
                tracing::warn!(%error, "scripted backend for agentk stopped");
            }
        });
        let agents =
            (0..options.real).map(|number| agentk(options, &program, number, folder.path()));
        Ok(Some(Self {
            agents: agents.collect::<anyhow::Result<_>>()?,
            _api: AbortOnDropHandle::new(api),
            _folder: folder,
        }))
    }

    /// Counts those that run and say that they are ready.
    ///
    /// # Errors
    /// When one has ended, which none should.
    pub(super) async fn look(&mut self, stats: &Stats) -> anyhow::Result<()> {
        for (number, agentk) in (1..).zip(&mut self.agents) {
            if !agentk.process.is_running() {
                let words = agentk.process.last_words();
                bail!("agentk {number} has ended: {words}");
            }
        }
        let ready = join_all(self.agents.iter().map(Agentk::is_ready)).await;
        let ready = ready.into_iter().filter(|ready| *ready).count();
        stats.real.store(ready, Relaxed);
        Ok(())
    }

    /// Ends them all.
    pub(super) async fn end(self) {
        let end = async |mut agentk: Agentk| {
            // One that is gone, or has to be killed, has ended too.
            let _ = agentk.process.signal(Signal::TERM);
            let _ = agentk.process.ended(END_TIMEOUT).await;
        };
        join_all(self.agents.into_iter().map(end)).await;
    }
}

impl Agentk {
    async fn is_ready(&self) -> bool {
        let probe = timeout(PROBE_INTERVAL, http_get::get(&self.readiness)).await;
        matches!(probe, Ok(Ok((StatusCode::OK, _))))
    }
}

fn agentk(
    options: &Options,
    program: &Path,
    number: usize,
    folder: &Path,
) -> anyhow::Result<Agentk> {
    let (addresses, tokens) = (options.addresses(), options.tokens()?);
    let address = addresses.get(number % addresses.len());
    let token = folder.join(format!("token-{number}"));
    std::fs::write(&token, &tokens[number % tokens.len()])?;
    let [port] = free()?;
    let mut arguments = vec![
        format!("--kas-address={}", address.context("give a --kas-address")?),
        format!("--token-file={}", token.display()),
        format!("--kubeconfig={}", folder.join("kubeconfig").display()),
        format!("--observability-listen-address={}", loopback(port)),
    ];
    if let Some(certificate) = &options.ca_cert_file {
        arguments.push(format!("--ca-cert-file={}", certificate.display()));
    }
    let name = format!("agentk-{}", number + 1);
    let pod = [("POD_NAMESPACE", "loadtest"), ("POD_NAME", name.as_str())];
    let logs = options.logs.as_deref().unwrap_or(folder);
    let process = Process::start(&name, program, arguments, &pod, logs)?;
    output::line(&format!("agentk: {}", process.pid().as_raw_nonzero()));
    Ok(Agentk {
        process,
        readiness: format!("http://{}/readiness", loopback(port)),
    })
}

//! The fleet of a run: a process of its own, which says each second how it is.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal};
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::{process::Process, record, scenario::Scenario, topology::beside};

/// How long the fleet may take beyond its ramp.
const READY_TIMEOUT: Duration = Duration::from_secs(180);

/// Where agents go, and who they are.
#[derive(Debug)]
pub(super) struct FleetOptions {
    /// Addresses that agents dial in turns.
    pub(super) addresses: Vec<String>,
    pub(super) tokens: std::path::PathBuf,
    pub(super) certificate: Option<std::path::PathBuf>,
}

/// A running fleet.
#[derive(Debug)]
pub(super) struct Agents {
    process: Process,
    output: watch::Receiver<FleetOutput>,
    ready_within: Duration,
    _reading: AbortOnDropHandle<()>,
}

/// What it said last.
#[derive(Debug, Clone, Default)]
pub(super) struct FleetOutput {
    pub(super) status: Option<record::Fleet>,
    /// Its agentk processes.
    pub(super) agentks: Vec<Pid>,
    /// How many times it was ready.
    ready: usize,
    ended: bool,
    /// Its closing report, line by line.
    rest: String,
}

impl Agents {
    /// Starts to connect them.
    pub(super) fn start(
        scenario: &Scenario,
        options: &FleetOptions,
        logs: &Path,
    ) -> anyhow::Result<Self> {
        let fleet = &scenario.fleet;
        let mut arguments = vec![
            "fleet".to_owned(),
            "--status".to_owned(),
            format!("--kas-address={}", options.addresses.join(",")),
            format!("--token-file={}", options.tokens.display()),
            format!("--agents={}", fleet.agents),
            format!("--tunnels={}", fleet.tunnels),
            format!("--ramp={}", fleet.ramp),
            format!("--ready-within={}", READY_TIMEOUT.as_secs()),
        ];
        if let Some(certificate) = &options.certificate {
            arguments.push(format!("--ca-cert-file={}", certificate.display()));
        }
        for (flag, wanted) in [("--eager", fleet.eager), ("--impatient", fleet.impatient)] {
            arguments.extend(wanted.then(|| flag.to_owned()));
        }
        if fleet.churn > 0.0 {
            arguments.push(format!("--churn-rate={}", fleet.churn));
        }
        if fleet.real > 0 {
            let program = beside(fleet.agentk.as_deref(), "agentk")?;
            arguments.push(format!("--real={}", fleet.real));
            arguments.push(format!("--agentk={}", program.display()));
            arguments.push(format!("--logs={}", logs.display()));
        }
        let own = std::env::current_exe()?;
        let mut process = Process::start("fleet", &own, arguments, &[], logs)?;
        let mut lines = process.take_lines().context("its output is there")?;
        let (sender, output) = watch::channel(FleetOutput::default());
        let reading = async move {
            while let Ok(Some(line)) = lines.next_line().await {
                sender.send_modify(|output| output.read_line(&line));
            }
            sender.send_modify(|output| output.ended = true);
        };
        let ramp = Duration::try_from_secs_f64(fleet.agents as f64 / fleet.ramp)?;
        Ok(Self {
            process,
            output,
            ready_within: READY_TIMEOUT + ramp,
            _reading: AbortOnDropHandle::new(tokio::spawn(reading)),
        })
    }

    /// Waits until all agents are connected and registered.
    pub(super) async fn ready(&self) -> anyhow::Result<()> {
        let mut output = self.output.clone();
        let ready = output.wait_for(|output| output.ready > 0 || output.ended);
        match tokio::time::timeout(self.ready_within, ready).await {
            Ok(Ok(output)) if output.ready > 0 => Ok(()),
            Ok(_) => bail!(
                "the fleet ended before all agents were ready: {}{}",
                self.process.last_words(),
                self.output.borrow().why()
            ),
            Err(_) => bail!("not all agents were ready in time"),
        }
    }

    pub(super) fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// What it says of itself as it comes.
    pub(super) fn output(&self) -> watch::Receiver<FleetOutput> {
        self.output.clone()
    }

    /// Has all agents connect anew.
    pub(super) fn reconnect(&self) -> anyhow::Result<()> {
        self.process.signal(Signal::USR1)
    }

    /// Ends them; gives what they counted as failures, by reason.
    pub(super) async fn end(self) -> BTreeMap<String, u64> {
        self.process.end().await;
        let mut output = self.output;
        // Its last words come when it is gone; whatever came within a second counts.
        let closed = output.wait_for(|output| output.ended);
        let _ = tokio::time::timeout(Duration::from_secs(1), closed).await;
        output.borrow().failures()
    }
}

impl FleetOutput {
    fn read_line(&mut self, line: &str) {
        if let Some(status) = line.strip_prefix("status: ") {
            self.status = serde_json::from_str(status).ok();
        } else if let Some(pid) = line.strip_prefix("agentk: ") {
            self.agentks
                .extend(pid.parse().ok().and_then(Pid::from_raw));
        } else if line.starts_with("ready:") {
            self.ready += 1;
        } else if self.rest.len() < 1 << 16 {
            self.rest.push_str(line);
            self.rest.push('\n');
        }
    }

    /// What the closing report says went wrong, by reason.
    pub(super) fn failures(&self) -> BTreeMap<String, u64> {
        let report: serde_json::Value = serde_json::from_str(&self.rest).unwrap_or_default();
        serde_json::from_value(report["failures"].clone()).unwrap_or_default()
    }

    fn why(&self) -> String {
        let failures = self.failures();
        let failures = failures
            .iter()
            .map(|(reason, count)| format!(" ({reason}: {count})"));
        failures.collect()
    }
}

//! A kas on loopback.

use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use serde_json::json;
use tokio::{
    net::{TcpListener, TcpStream},
    time::{Instant, sleep},
};

use super::Bench;
use crate::process::{Process, Sample};

/// How long it may take to start.
const START: Duration = Duration::from_secs(20);

/// How requests reach the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Route {
    /// Through the replica that the agent is connected to.
    Direct,
    /// Through another one.
    Forwarded,
}

/// How a kas is run.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Run {
    /// With TLS for agents.
    pub(super) tls: bool,
    /// The port of a Redis that it shares with others.
    pub(super) redis: Option<u16>,
}

/// A running kas and its addresses.
#[derive(Debug)]
pub(super) struct Replica {
    process: Process,
    tls: bool,
    agents: u16,
    api: u16,
}

impl Replica {
    /// Starts it and waits until it listens.
    pub(super) async fn start(bench: &Bench, run: Run) -> anyhow::Result<Self> {
        let [agents, api, observability, peers] = free_ports().await?;
        let control = &bench.control;
        let mut agent_listen = json!({ "address": loopback(agents), "websocket": true });
        if run.tls {
            agent_listen["certificate_file"] = json!(control.certificate);
            agent_listen["key_file"] = json!(control.key);
        }
        let mut configuration = json!({
            "standalone": { "file": control.agents },
            "agent": {
                "listen": agent_listen,
                "kubernetes_api": {
                    "listen": { "address": loopback(api) },
                    "url_path_prefix": "/k8s-proxy/",
                },
            },
            "observability": {
                "listen": { "address": loopback(observability) },
                "logging": { "level": "warn" },
            },
        });
        if let Some(redis) = run.redis {
            configuration["redis"] = json!({ "server": { "address": loopback(redis) } });
            configuration["private_api"] = json!({ "listen": {
                "address": loopback(peers),
                "authentication_secret_file": control.secret,
            } });
        }
        let file = bench.dir.path().join(format!("kas-{agents}.yaml"));
        std::fs::write(&file, configuration.to_string()).context("cannot write kas.yaml")?;
        let flag = format!("--configuration-file={}", file.display());
        let process = Process::start(
            &format!("kas-{agents}"),
            &bench.kas,
            [flag],
            &[],
            bench.logs(),
        )?;
        let mut replica = Self {
            process,
            tls: run.tls,
            agents,
            api,
        };
        replica.listens().await?;
        Ok(replica)
    }

    async fn listens(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + START;
        for port in [self.agents, self.api] {
            while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
                if !self.process.is_running() {
                    bail!("kas ended while it started; see its log");
                }
                if Instant::now() > deadline {
                    bail!("kas does not listen on port {port} after {START:?}");
                }
                sleep(Duration::from_millis(20)).await;
            }
        }
        Ok(())
    }

    /// Where agents connect.
    pub(super) fn kas_address(&self) -> String {
        let scheme = if self.tls { "wss" } else { "ws" };
        format!("{scheme}://127.0.0.1:{}/", self.agents)
    }

    /// The URL of a path of the Kubernetes API, through the proxy.
    pub(super) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}/k8s-proxy{path}", self.api)
    }

    pub(super) fn sample(&self) -> anyhow::Result<Sample> {
        self.process.sample()
    }

    pub(super) async fn end(self) {
        self.process.end().await;
    }
}

/// Ports that were free a moment ago.
pub(super) async fn free_ports<const N: usize>() -> anyhow::Result<[u16; N]> {
    let mut ports = [0; N];
    let mut held = Vec::new();
    for port in &mut ports {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        *port = listener.local_addr()?.port();
        held.push(listener);
    }
    Ok(ports)
}

pub(super) fn loopback(port: u16) -> String {
    format!("127.0.0.1:{port}")
}

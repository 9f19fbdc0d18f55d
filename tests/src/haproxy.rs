//! HAProxy in front of kas.

use std::path::Path;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::{certs::Certs, parts, ports, process::Process};

/// What the load balancer understands of what it carries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// Bytes.
    Tcp,
    /// Agents: ends TLS; WebSocket goes on as HTTP/1.1 and gRPC as HTTP/2.
    Agents,
    /// Users: ends TLS; requests go on as HTTP/1.1.
    Users,
    /// Bytes, and cuts what is silent for seven seconds.
    ImpatientTcp,
}

/// A running HAProxy.
#[derive(Debug)]
pub struct Haproxy {
    process: Process,
    port: u16,
}

impl Haproxy {
    /// Starts HAProxy in front of a port of loopback.
    ///
    /// # Errors
    /// When it refuses its configuration or does not listen.
    pub async fn start(front: Front, target: u16, certs: &Certs, folder: &Path) -> Result<Self> {
        Self::balancing(front, &[target], certs, folder).await
    }

    /// The same in front of several ports, in turn.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn balancing(
        front: Front,
        targets: &[u16],
        certs: &Certs,
        folder: &Path,
    ) -> Result<Self> {
        let port = ports::free();
        let file = folder.join(format!("haproxy-{port}.cfg"));
        std::fs::write(&file, configuration(front, port, targets, certs))?;
        let program = parts::program("haproxy").context("no haproxy")?;
        let mut command = Command::new(program);
        command.args(["-db", "-f"]).arg(&file);
        let name = format!("haproxy-{port}");
        let process = Process::listening(&name, &mut command, port, folder).await?;
        Ok(Self { process, port })
    }

    /// The port it listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Its last lines of log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.process.tail()
    }
}

fn configuration(front: Front, port: u16, targets: &[u16], certs: &Certs) -> String {
    let tls = format!(
        "bind 127.0.0.1:{port} ssl crt {} alpn h2,http/1.1",
        certs.both.display()
    );
    let servers = servers(targets, "");
    let body = match front {
        Front::Tcp => format!("listen tcp\n  mode tcp\n  bind 127.0.0.1:{port}\n{servers}"),
        Front::ImpatientTcp => format!(
            "listen tcp\n  mode tcp\n  bind 127.0.0.1:{port}\n{servers}  \
               timeout client 7s\n  timeout server 7s\n  timeout tunnel 7s\n"
        ),
        Front::Agents => format!(
            "frontend agents\n  mode http\n  {tls}\n  use_backend websocket if {{ hdr(Upgrade) -i websocket }}\n  \
               default_backend grpc\n\
             backend grpc\n  mode http\n{}\
             backend websocket\n  mode http\n  timeout tunnel 60s\n{servers}",
            self::servers(targets, " proto h2")
        ),
        Front::Users => format!("listen users\n  mode http\n  {tls}\n{servers}"),
    };
    format!("{GLOBAL}{body}")
}

fn servers(targets: &[u16], options: &str) -> String {
    let line = |(number, target): (usize, &u16)| {
        format!("  server kas-{number} 127.0.0.1:{target}{options}\n")
    };
    targets.iter().enumerate().map(line).collect()
}

/// Calls may be silent for an hour, as kas's documentation asks of a load balancer.
const GLOBAL: &str = "\
global
  maxconn 2000
  tune.h2.max-concurrent-streams 1000
defaults
  timeout connect 5s
  timeout client 1h
  timeout server 1h
  timeout tunnel 1h
";

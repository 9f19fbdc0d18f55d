//! HAProxy in front of several replicas, which it asks whether they are ready.

use std::{
    fmt::Write,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    process::Command,
};

use crate::{parts, ports, process::Process};

/// How long it may take to answer on its admin socket.
const ADMIN: Duration = Duration::from_secs(60);

/// Ports of a replica.
#[derive(Debug, Clone, Copy)]
pub struct Server {
    /// Where agents connect.
    pub agents: u16,
    /// Where users connect.
    pub users: u16,
    /// Where it is asked whether it is ready.
    pub observability: u16,
}

/// What comes in at one place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Front {
    /// Agents by WebSocket, which it looks into as far as HTTP goes.
    WebSocket,
    /// Agents by gRPC, which it takes apart into streams.
    Grpc,
    /// Users, whose bytes it passes on.
    Users,
}

impl Front {
    const ALL: [Self; 3] = [Self::WebSocket, Self::Grpc, Self::Users];

    fn name(self) -> &'static str {
        match self {
            Self::WebSocket => "websocket",
            Self::Grpc => "grpc",
            Self::Users => "users",
        }
    }
}

/// A running HAProxy.
#[derive(Debug)]
pub struct Balancer {
    process: Process,
    /// Processes from before a reload, which end by themselves.
    leaving: Vec<Process>,
    ports: [u16; 3],
    servers: Vec<Server>,
    folder: PathBuf,
    runs: usize,
}

impl Balancer {
    /// Starts it in front of these replicas.
    ///
    /// # Errors
    /// When it refuses its configuration or does not listen.
    pub async fn start(servers: Vec<Server>, folder: &Path) -> Result<Self> {
        let ports = [(); 3].map(|()| ports::free());
        configure(ports, &servers, PATIENT, folder)?;
        Ok(Self {
            process: run(1, &[], ports, folder).await?,
            leaving: Vec::new(),
            ports,
            servers,
            folder: folder.to_owned(),
            runs: 1,
        })
    }

    /// Where to connect.
    #[must_use]
    pub fn port(&self, front: Front) -> u16 {
        self.ports[front as usize]
    }

    /// Cuts what it carries from here, by its admin socket.
    ///
    /// # Errors
    /// When the socket does not answer.
    pub async fn shut_down_sessions(&self, front: Front) -> Result<()> {
        for number in 0..self.servers.len() {
            let server = format!("{}/kas{number}", front.name());
            self.admin(&format!("shutdown sessions server {server}"))
                .await?;
        }
        Ok(())
    }

    /// A new process takes the listeners over; what the old one carries after two seconds is cut.
    ///
    /// # Errors
    /// When the new one does not start.
    pub async fn reload(&mut self) -> Result<()> {
        self.reload_with(PATIENT).await
    }

    /// The same, with this time after which it cuts agents' connections or streams that are silent.
    ///
    /// # Errors
    /// As [`Self::reload`].
    pub async fn reload_impatient(&mut self, idle: Duration) -> Result<()> {
        self.reload_with(idle).await
    }

    /// Its last lines of log.
    #[must_use]
    pub fn tail(&self) -> String {
        self.process.tail()
    }

    async fn reload_with(&mut self, idle: Duration) -> Result<()> {
        configure(self.ports, &self.servers, idle, &self.folder)?;
        self.runs += 1;
        let old = self.process.id().context("HAProxy has ended")?.to_string();
        let socket = socket(&self.folder).display().to_string();
        // The listeners are handed over, so that nobody is refused in between.
        let take_over = ["-x", &socket, "-sf", &old];
        let new = run(self.runs, &take_over, self.ports, &self.folder).await?;
        self.leaving.retain_mut(Process::is_running);
        self.leaving.push(std::mem::replace(&mut self.process, new));
        Ok(())
    }

    async fn admin(&self, command: &str) -> Result<String> {
        let asked = async {
            let mut socket = UnixStream::connect(socket(&self.folder)).await?;
            socket.write_all(format!("{command}\n").as_bytes()).await?;
            let mut answer = String::new();
            socket.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = tokio::time::timeout(ADMIN, asked).await;
        let answer = answer.with_context(|| format!("no answer to {command:?}"))??;
        anyhow::ensure!(answer.trim().is_empty(), "{command}: {answer}");
        Ok(answer)
    }
}

async fn run(number: usize, args: &[&str], ports: [u16; 3], folder: &Path) -> Result<Process> {
    let program = parts::program("haproxy").context("no haproxy")?;
    let mut command = Command::new(program);
    command.args(["-db", "-f"]).arg(file(folder)).args(args);
    let name = format!("haproxy-run-{number}");
    Process::listening(&name, &mut command, ports[0], folder).await
}

fn file(folder: &Path) -> PathBuf {
    folder.join("haproxy.cfg")
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("haproxy.sock")
}

fn configure(ports: [u16; 3], servers: &[Server], idle: Duration, folder: &Path) -> Result<()> {
    let mut text = format!(
        "global\n  maxconn 4000\n  hard-stop-after 2s\n  tune.h2.max-concurrent-streams 1000\n  \
         stats socket {} mode 600 level admin expose-fd listeners\n{DEFAULTS}",
        socket(folder).display()
    );
    let idle = idle.as_secs();
    for front in Front::ALL {
        let (name, port) = (front.name(), ports[front as usize]);
        let (bind, rest) = match front {
            Front::WebSocket => ("", format!("  mode http\n  timeout tunnel {idle}s\n")),
            Front::Grpc => (
                " proto h2",
                format!("  mode http\n  timeout client {idle}s\n  timeout server {idle}s\n"),
            ),
            Front::Users => (
                "",
                "  mode tcp\n  option httpchk GET /readiness\n".to_owned(),
            ),
        };
        writeln!(text, "listen {name}\n  bind 127.0.0.1:{port}{bind}\n{rest}")?;
        for (number, server) in servers.iter().enumerate() {
            let line = match front {
                Front::WebSocket => format!("{} track users/kas{number}", server.agents),
                Front::Grpc => format!("{} proto h2 track users/kas{number}", server.agents),
                Front::Users => format!(
                    "{} check port {} inter 100ms fall 1 rise 1",
                    server.users, server.observability
                ),
            };
            writeln!(text, "  server kas{number} 127.0.0.1:{line}")?;
        }
    }
    Ok(std::fs::write(file(folder), text)?)
}

const PATIENT: Duration = Duration::from_secs(60);

/// A connection goes where it is accepted, and stays when a server is ready no more.
const DEFAULTS: &str = "\
defaults
  balance roundrobin
  option redispatch 1
  retries 5
  timeout connect 2s
  timeout check 5s
  timeout client 1h
  timeout server 1h
";

//! A Redis on loopback for replicas to share, and how much it is asked.

use std::{path::Path, time::Duration};

use anyhow::{Context, ensure};
use rustix::process::{Pid, Signal};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    ports::{self, loopback},
    process::Process,
};

const START_TIMEOUT: Duration = Duration::from_secs(10);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// A running redis-server.
#[derive(Debug)]
pub(crate) struct Store {
    process: Process,
    port: u16,
}

/// Counters of a Redis.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct RedisStats {
    /// Commands since its start.
    pub(crate) commands: u64,
    /// Bytes of memory that it uses.
    pub(crate) memory: u64,
}

impl Store {
    /// Starts it and waits until it answers.
    pub(crate) async fn start(program: &Path, logs: &Path) -> anyhow::Result<Self> {
        let [port] = ports::free()?;
        Self::on(port, program, logs).await
    }

    /// Starts it, empty, on this port.
    pub(crate) async fn on(port: u16, program: &Path, logs: &Path) -> anyhow::Result<Self> {
        let arguments = [
            format!("--port {port}"),
            "--bind 127.0.0.1".to_owned(),
            "--save ''".to_owned(),
            "--appendonly no".to_owned(),
        ];
        let arguments: Vec<&str> = arguments.iter().flat_map(|it| it.split(' ')).collect();
        let arguments = arguments.iter().map(|it| it.trim_matches('\''));
        let process = Process::start("redis-server", program, arguments, &[], logs)?;
        let store = Self { process, port };
        let deadline = Instant::now() + START_TIMEOUT;
        while store.stats().await.is_err() {
            ensure!(Instant::now() < deadline, "redis-server does not answer");
            sleep(Duration::from_millis(20)).await;
        }
        Ok(store)
    }

    /// Where it is reached.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }

    /// How much it was asked; the question itself is one command.
    pub(crate) async fn stats(&self) -> anyhow::Result<RedisStats> {
        stats(&loopback(self.port), ANSWER_TIMEOUT).await
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        self.process.pid()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.process.signal(signal)
    }

    pub(crate) async fn end(self) {
        self.process.end().await;
    }
}

/// How much the Redis at `host:port` was asked.
///
/// # Errors
/// When it does not answer in time.
pub(crate) async fn stats(address: &str, within: Duration) -> anyhow::Result<RedisStats> {
    let answer = timeout(within, info(address)).await;
    answer.context("redis-server does not answer in time")?
}

async fn info(address: &str) -> anyhow::Result<RedisStats> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(b"INFO\r\nQUIT\r\n").await?;
    let mut lines = BufReader::new(stream).lines();
    let mut stats = RedisStats::default();
    while let Some(line) = lines.next_line().await? {
        if let Some(count) = line.strip_prefix("total_commands_processed:") {
            stats.commands = count.trim().parse()?;
        }
        if let Some(bytes) = line.strip_prefix("used_memory:") {
            stats.memory = bytes.trim().parse()?;
        }
    }
    ensure!(stats.memory > 0, "redis-server gave no figures");
    Ok(stats)
}

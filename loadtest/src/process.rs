//! Programs that this one starts, ends and looks at.

mod measure;

use std::{
    ffi::OsStr,
    fmt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, bail};
use rustix::process::{Pid, Signal, kill_process};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

pub(crate) use measure::{Sample, sample};

/// How long a program may take to end after it was asked to.
const END_TIMEOUT: Duration = Duration::from_secs(10);

/// A running program; killed when dropped.
pub(crate) struct Process {
    name: String,
    child: Child,
    pid: Pid,
    lines: Option<Lines<BufReader<ChildStdout>>>,
    log: PathBuf,
}

impl fmt::Debug for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Process")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Process {
    /// Starts `program`; its stderr goes to a file in `logs`.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start<A: AsRef<OsStr>>(
        name: &str,
        program: &Path,
        arguments: impl IntoIterator<Item = A>,
        environment: &[(&str, &str)],
        logs: &Path,
    ) -> anyhow::Result<Self> {
        let log = logs.join(format!("{name}.log"));
        let stderr = std::fs::File::create(&log)
            .with_context(|| format!("cannot write {}", log.display()))?;
        let mut child = Command::new(program)
            .args(arguments)
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(stderr)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", program.display()))?;
        let stdout = child.stdout.take().context("stdout is piped")?;
        let pid = child.id().and_then(|id| i32::try_from(id).ok());
        Ok(Self {
            name: name.to_owned(),
            pid: pid.and_then(Pid::from_raw).context("it has no pid")?,
            child,
            lines: Some(BufReader::new(stdout).lines()),
            log,
        })
    }

    /// Waits for a line of its stdout that begins with `prefix`; gives the rest.
    ///
    /// # Errors
    /// When it ends or takes too long.
    pub(crate) async fn line(&mut self, prefix: &str, within: Duration) -> anyhow::Result<String> {
        let lines = self.lines.as_mut().context("its output was taken")?;
        let found = async {
            while let Some(line) = lines.next_line().await? {
                if let Some(rest) = line.strip_prefix(prefix) {
                    return Ok(rest.trim().to_owned());
                }
            }
            bail!(
                "{} ended before it said {prefix:?}: {}",
                self.name,
                last_words(&self.log)
            )
        };
        match timeout(within, found).await {
            Ok(found) => found,
            Err(_) => bail!("{} did not say {prefix:?} within {within:?}", self.name),
        }
    }

    /// Its process id.
    pub(crate) fn pid(&self) -> Pid {
        self.pid
    }

    /// What it uses now.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn sample(&self) -> anyhow::Result<Sample> {
        sample(self.pid).with_context(|| format!("{} cannot be measured", self.name))
    }

    /// The lines of its stdout, for somebody who reads them as they come.
    pub(crate) fn take_lines(&mut self) -> Option<Lines<BufReader<ChildStdout>>> {
        self.lines.take()
    }

    /// The last line of its log.
    pub(crate) fn last_words(&self) -> String {
        last_words(&self.log)
    }

    /// Waits for its end; kills it when it takes too long.
    ///
    /// # Errors
    /// When it took too long.
    pub(crate) async fn ended(&mut self, within: Duration) -> anyhow::Result<ExitStatus> {
        if let Ok(status) = timeout(within, self.child.wait()).await {
            return Ok(status?);
        }
        // Fails only when it has ended meanwhile.
        let _ = self.child.kill().await;
        bail!("{} did not end within {within:?}", self.name)
    }

    /// Whether it runs.
    pub(crate) fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it is gone.
    pub(crate) fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        kill_process(self.pid, signal).with_context(|| format!("{} is gone", self.name))
    }

    /// Asks it to end and waits; kills it when it does not.
    pub(crate) async fn end(mut self) {
        let asked = self.is_running() && self.signal(Signal::TERM).is_ok();
        if asked && timeout(END_TIMEOUT, self.child.wait()).await.is_ok() {
            return;
        }
        // Fails only when it has ended meanwhile.
        let _ = self.child.kill().await;
    }
}

fn last_words(log: &Path) -> String {
    let log = std::fs::read(log).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let last = log.lines().rev().find(|line| !line.trim().is_empty());
    last.unwrap_or("its log is empty").to_owned()
}

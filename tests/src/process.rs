//! A child process with its output in a file: started, watched, ended by its own id.

use std::{
    fs::{File, OpenOptions},
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail};
use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStdin, Command},
};

use crate::wait::{until, until_accepts};

/// How long a program may take to listen.
const LISTENS: Duration = Duration::from_secs(60);

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdin: Option<ChildStdin>,
    log: PathBuf,
}

impl Process {
    /// Starts `command`; both its outputs are written to `folder/name.log`.
    ///
    /// # Errors
    /// When the program cannot be started.
    pub fn spawn(name: &str, command: &mut Command, folder: &Path) -> Result<Self> {
        let log = folder.join(format!("{name}.log"));
        let (out, err) = log_files(&log)?;
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(out)
            .stderr(err)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {name}: {command:?}"))?;
        let stdin = child.stdin.take();
        Ok(Self {
            name: name.to_owned(),
            child,
            stdin,
            log,
        })
    }

    /// The same, and waits until it accepts connections on `port` of loopback.
    ///
    /// # Errors
    /// When the program cannot be started or does not listen soon.
    pub async fn listening(
        name: &str,
        command: &mut Command,
        port: u16,
        folder: &Path,
    ) -> Result<Self> {
        let process = Self::spawn(name, command, folder)?;
        let listens = until_accepts(port, LISTENS).await;
        listens.with_context(|| process.tail())?;
        Ok(process)
    }

    /// The process id, while it runs.
    #[must_use]
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// What it has written so far.
    #[must_use]
    pub fn output(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    /// The same as bytes, of which not all may be text.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        std::fs::read(&self.log).unwrap_or_default()
    }

    /// Its last lines of output, for error messages.
    #[must_use]
    pub fn tail(&self) -> String {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        let last = lines[lines.len().saturating_sub(25)..].join("\n");
        format!("--- {} ({})\n{last}", self.name, self.log.display())
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Writes to its standard input.
    ///
    /// # Errors
    /// When it no longer reads.
    pub async fn write(&mut self, text: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("standard input is closed")?;
        stdin.write_all(text.as_bytes()).await?;
        stdin.flush().await.context("flush standard input")
    }

    /// Waits until a line of its output contains `text`, and gives that line.
    ///
    /// # Errors
    /// When `limit` is over, or the process ended without writing it.
    pub async fn wait_for(&mut self, text: &str, limit: Duration) -> Result<String> {
        let what = format!("{text:?} from {}", self.name);
        let found = until(&what, limit, async || {
            let ended = !self.is_running();
            let output = self.output();
            // A line may be read while it is being written.
            let whole = output.rfind('\n').filter(|_| !ended);
            let lines = whole.map_or(if ended { &output[..] } else { "" }, |end| &output[..end]);
            let line = lines
                .lines()
                .find(|line| line.contains(text))
                .map(str::to_owned);
            line.map(Ok)
                .or_else(|| ended.then(|| Err(anyhow!("{} ended", self.name))))
        });
        match found.await {
            Ok(Ok(line)) => Ok(line),
            Ok(Err(error)) | Err(error) => bail!("no {text:?}: {error}\n{}", self.tail()),
        }
    }

    /// Sends a signal by name, as `kill` takes it: `INT`, `TERM`, ...
    ///
    /// # Errors
    /// When it is gone already.
    pub async fn signal(&self, signal: &str) -> Result<()> {
        let id = self
            .id()
            .with_context(|| format!("{} has ended", self.name))?;
        let script = format!("kill -{signal} {id}");
        let status = Command::new("sh").args(["-c", &script]).status().await?;
        if !status.success() {
            bail!("cannot send {signal} to {}", self.name);
        }
        Ok(())
    }

    /// Waits for its end.
    ///
    /// # Errors
    /// When it does not end within `limit`; it is killed then.
    pub async fn ended(&mut self, limit: Duration) -> Result<ExitStatus> {
        if let Ok(status) = tokio::time::timeout(limit, self.child.wait()).await {
            return status.context("wait for a child");
        }
        self.child.kill().await.ok();
        bail!(
            "{} did not end within {limit:?}\n{}",
            self.name,
            self.tail()
        )
    }

    /// Ends it as Kubernetes ends a pod: by SIGTERM, and by SIGKILL after `grace`. Whether it has ended by itself.
    ///
    /// # Errors
    /// As [`Self::signal`].
    pub async fn terminated(&mut self, grace: Duration) -> Result<bool> {
        self.signal("TERM").await?;
        if tokio::time::timeout(grace, self.child.wait()).await.is_ok() {
            return Ok(true);
        }
        self.child.kill().await.context("kill a child")?;
        Ok(false)
    }

    /// Ends it by a signal and waits.
    ///
    /// # Errors
    /// As [`Self::signal`] and [`Self::ended`].
    pub async fn end_by(&mut self, signal: &str, limit: Duration) -> Result<ExitStatus> {
        self.signal(signal).await?;
        self.ended(limit).await
    }
}

fn log_files(log: &Path) -> Result<(File, File)> {
    let open = || OpenOptions::new().create(true).append(true).open(log);
    File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
    Ok((open()?, open()?))
}

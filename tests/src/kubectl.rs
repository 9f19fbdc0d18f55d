//! The real kubectl, with one kubeconfig and its own caches.

use std::{
    ffi::OsStr,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use tokio::{io::AsyncWriteExt, process::Command};

use crate::{parts, process::Process};

/// How long one command may take unless [`Kubectl::patient`] says otherwise.
const LIMIT: Duration = Duration::from_secs(180);

/// A Deployment named `web`, of one pod that serves.
pub const WEB: &str = r#"
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 0
      containers:
      - {name: web, image: "local/busybox:1", imagePullPolicy: Never, command: [httpd, -f, -p, "8080", -h, /www]}
"#;

/// What carries exec, attach, cp and port-forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Streams {
    /// kubectl's default today.
    WebSocket,
    /// What older kubectl versions speak.
    Spdy,
}

/// A way to call kubectl.
#[derive(Debug, Clone)]
pub struct Kubectl {
    kubeconfig: PathBuf,
    namespace: String,
    streams: Streams,
    limit: Duration,
}

/// What a finished command left.
#[derive(Debug)]
pub struct Output {
    /// The exit code; -1 after a signal.
    pub code: i32,
    /// Standard output.
    pub stdout: Vec<u8>,
    /// Standard error.
    pub stderr: String,
}

impl Output {
    /// Standard output as text.
    #[must_use]
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

impl Kubectl {
    /// Calls kubectl with this kubeconfig in the namespace `default`.
    #[must_use]
    pub fn new(kubeconfig: &Path) -> Self {
        Self {
            kubeconfig: kubeconfig.to_owned(),
            namespace: "default".to_owned(),
            streams: Streams::WebSocket,
            limit: LIMIT,
        }
    }

    /// The same in another namespace.
    #[must_use]
    pub fn in_namespace(&self, namespace: &str) -> Self {
        Self {
            namespace: namespace.to_owned(),
            ..self.clone()
        }
    }

    /// The same with streams carried in this way.
    #[must_use]
    pub fn over(&self, streams: Streams) -> Self {
        Self {
            streams,
            ..self.clone()
        }
    }

    /// The same with more time for each command.
    #[must_use]
    pub fn patient(&self, limit: Duration) -> Self {
        Self {
            limit,
            ..self.clone()
        }
    }

    /// The namespace that commands run in.
    #[must_use]
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// Runs a command that must succeed, and gives its standard output.
    ///
    /// # Errors
    /// When it fails or takes too long.
    pub async fn ok<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String> {
        self.ok_with(args, b"").await
    }

    /// Runs a command that must succeed, with this on its standard input.
    ///
    /// # Errors
    /// When it fails or takes too long.
    pub async fn ok_with<S: AsRef<OsStr>>(&self, args: &[S], stdin: &[u8]) -> Result<String> {
        let output = self.run_with(args, stdin).await?;
        if output.code != 0 {
            bail!(
                "kubectl {} exits {}: {}{}",
                line(args),
                output.code,
                output.stderr,
                output.text()
            );
        }
        Ok(output.text())
    }

    /// Runs a command that must fail, and gives what it says.
    ///
    /// # Errors
    /// When it succeeds or takes too long.
    pub async fn refused<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<String> {
        let output = self.run(args).await?;
        if output.code == 0 {
            bail!("kubectl {} succeeds: {}", line(args), output.text());
        }
        Ok(output.stderr)
    }

    /// Applies a manifest.
    ///
    /// # Errors
    /// When kubectl does not succeed.
    pub async fn apply(&self, manifest: &str) -> Result<String> {
        self.ok_with(&["apply", "-f", "-"], manifest.as_bytes())
            .await
    }

    /// Runs a command.
    ///
    /// # Errors
    /// When it takes too long.
    pub async fn run<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Output> {
        self.run_with(args, b"").await
    }

    /// Runs a command with this on its standard input.
    ///
    /// # Errors
    /// When it takes too long.
    pub async fn run_with<S: AsRef<OsStr>>(&self, args: &[S], stdin: &[u8]) -> Result<Output> {
        let run = run(self.command(args)?, stdin);
        tokio::time::timeout(self.limit, run)
            .await
            .with_context(|| format!("kubectl {} takes over {:?}", line(args), self.limit))?
    }

    /// Starts a command that goes on, with its output in `folder/name.log`.
    ///
    /// # Errors
    /// When kubectl cannot be started.
    pub fn start<S: AsRef<OsStr>>(&self, name: &str, args: &[S], folder: &Path) -> Result<Process> {
        Process::spawn(name, &mut self.command(args)?, folder)
    }

    /// Starts a command at a terminal of its own.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn at_terminal(&self, name: &str, args: &[&str], folder: &Path) -> Result<Process> {
        let inner = self.command(args)?;
        let words = std::iter::once(inner.as_std().get_program())
            .chain(inner.as_std().get_args())
            .map(|word| quoted(&word.to_string_lossy()));
        let mut command = Command::new("script");
        command.args(["-qefc", &words.collect::<Vec<_>>().join(" "), "/dev/null"]);
        for (key, value) in inner.as_std().get_envs() {
            command.env(key, value.unwrap_or_default());
        }
        Process::spawn(name, &mut command, folder)
    }

    fn command<S: AsRef<OsStr>>(&self, args: &[S]) -> Result<Command> {
        let websocket = if self.streams == Streams::WebSocket {
            "true"
        } else {
            "false"
        };
        let mut command = Command::new(parts::program("kubectl").context("no kubectl")?);
        command
            .arg("--kubeconfig")
            .arg(&self.kubeconfig)
            .args(["--namespace", &self.namespace])
            .args(args)
            .env("KUBECACHEDIR", self.kubeconfig.with_extension("cache"))
            .env("KUBECTL_REMOTE_COMMAND_WEBSOCKETS", websocket)
            .env("KUBECTL_PORT_FORWARD_WEBSOCKETS", websocket)
            .env("KUBERC", "off")
            .kill_on_drop(true);
        Ok(command)
    }
}

async fn run(mut command: Command, stdin: &[u8]) -> Result<Output> {
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = command.spawn().context("cannot start kubectl")?;
    let mut pipe = child.stdin.take().context("standard input")?;
    let feed = async {
        // A command that ends without reading its input is no error.
        pipe.write_all(stdin).await.ok();
        drop(pipe);
    };
    let ((), output) = tokio::join!(feed, child.wait_with_output());
    let output = output?;
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        stdout: output.stdout,
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

fn line<S: AsRef<OsStr>>(args: &[S]) -> String {
    let words = args
        .iter()
        .map(|arg| arg.as_ref().to_string_lossy().into_owned());
    words.collect::<Vec<_>>().join(" ")
}

fn quoted(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

//! An agent process: ours, or the one that `AGENTK_BIN` names.

use std::path::{Path, PathBuf};

use anyhow::Result;
use tokio::process::Command;

use crate::{ports, process::Process, programs};

/// How an agent reaches its two ends.
#[derive(Debug, Clone)]
pub struct Links {
    /// `--kas-address`.
    pub kas: String,
    /// The authority of kas's certificate, where TLS is used.
    pub ca: Option<PathBuf>,
    /// The kubeconfig of its cluster.
    pub kubeconfig: PathBuf,
}

/// A running agent.
#[derive(Debug)]
pub struct Agentk {
    /// The process itself.
    pub process: Process,
    /// The file it reads its token from.
    pub token_file: PathBuf,
    /// Where its metrics and probes are.
    pub observability: u16,
}

impl Agentk {
    /// Starts an agent; it connects in the background.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn start(name: &str, links: &Links, token: &str, folder: &Path) -> Result<Self> {
        Self::run(programs::agentk()?, name, links, token, folder)
    }

    /// Our agent, with more flags.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn with_flags(
        flags: &[&str],
        name: &str,
        links: &Links,
        token: &str,
        folder: &Path,
    ) -> Result<Self> {
        let mut command = Command::new(programs::own_agentk()?);
        command.args(flags);
        Self::dialling(command, name, links, token, folder)
    }

    /// The same with this program.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn run(
        program: PathBuf,
        name: &str,
        links: &Links,
        token: &str,
        folder: &Path,
    ) -> Result<Self> {
        Self::dialling(Command::new(program), name, links, token, folder)
    }

    fn dialling(
        mut command: Command,
        name: &str,
        links: &Links,
        token: &str,
        folder: &Path,
    ) -> Result<Self> {
        command.args(["--kas-address", &links.kas]);
        if let Some(ca) = &links.ca {
            command.arg("--ca-cert-file").arg(ca);
        }
        Self::launch(command, name, &links.kubeconfig, token, folder)
    }

    /// Starts an agent of ours that waits to be dialled, as these flags say.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn receptive(
        name: &str,
        flags: &[String],
        kubeconfig: &Path,
        token: &str,
        folder: &Path,
    ) -> Result<Self> {
        Self::receptive_in(&[], name, flags, kubeconfig, token, folder)
    }

    /// The same with these variables in its environment.
    ///
    /// # Errors
    /// When the program is not there.
    pub fn receptive_in(
        variables: &[(&str, &str)],
        name: &str,
        flags: &[String],
        kubeconfig: &Path,
        token: &str,
        folder: &Path,
    ) -> Result<Self> {
        let mut command = Command::new(programs::own_agentk()?);
        command.args(flags).envs(variables.iter().copied());
        Self::launch(command, name, kubeconfig, token, folder)
    }

    fn launch(
        mut command: Command,
        name: &str,
        kubeconfig: &Path,
        token: &str,
        folder: &Path,
    ) -> Result<Self> {
        let token_file = folder.join(format!("{name}.token"));
        std::fs::write(&token_file, token)?;
        let observability = ports::free();
        command
            .arg("--token-file")
            .arg(&token_file)
            .arg("--kubeconfig")
            .arg(kubeconfig)
            .args([
                "--observability-listen-address",
                &format!("127.0.0.1:{observability}"),
            ])
            .env("POD_NAMESPACE", "default")
            .env("POD_NAME", name)
            .env_remove("KUBECONFIG");
        let process = Process::spawn(name, &mut command, folder)?;
        Ok(Self {
            process,
            token_file,
            observability,
        })
    }
}

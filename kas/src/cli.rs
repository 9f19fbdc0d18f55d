//! The command line: `kas --configuration-file F`, `kas up`, and commands on the standalone file.

mod access;
mod agent;
mod caller;
mod check_config;
mod connected;
mod duration;
mod kubeconfig;
mod output;
mod receptive;
mod up;

pub use kubeconfig::{Kubeconfig, KubeconfigArgs};
pub use output::Output;
pub use up::UpArgs;

use std::path::PathBuf;

use clap::{ArgAction, Args, Parser, Subcommand};
use control_plane::{
    Token,
    standalone::{
        EditError, StandaloneError,
        change::{CallerKind, ChangeError},
        names::NameError,
        tokens::{TokenEntry, TokenKind},
    },
};
use jiff::Timestamp;

use crate::config::ConfigError;

/// The agent server for Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "kas", version = crate::version::LONG.as_str(), disable_version_flag = true)]
pub struct Cli {
    /// Run a server with this configuration file
    #[arg(long, value_name = "FILE")]
    pub configuration_file: Option<PathBuf>,

    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,

    /// Command; without one, a server runs.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// Commands besides running a server.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Try it out: run replicas, a load balancer, an agent and a demo cluster in one process
    #[cfg_attr(not(feature = "playground"), command(hide = true))]
    Up(UpArgs),
    /// Commands on files.
    #[command(flatten)]
    File(FileCommand),
}

/// Commands on files: mostly that of the standalone control plane.
#[derive(Debug, Subcommand)]
pub enum FileCommand {
    /// Print the effective configuration, keys without effect and likely mistakes
    CheckConfig {
        /// The configuration file
        file: PathBuf,
    },
    /// Manage agents and their tokens
    Agent {
        /// The control plane's file.
        #[command(flatten)]
        file: FileArg,
        /// Subcommand.
        #[command(subcommand)]
        action: agent::Action,
    },
    /// Manage users and their tokens
    User {
        /// The control plane's file.
        #[command(flatten)]
        file: FileArg,
        /// Subcommand.
        #[command(subcommand)]
        action: caller::Action,
    },
    /// Manage services and their tokens, which are used like CI job tokens
    Service {
        /// The control plane's file.
        #[command(flatten)]
        file: FileArg,
        /// Subcommand.
        #[command(subcommand)]
        action: caller::Action,
    },
    /// Manage access rules: who may use which agents, and as which identity
    Access {
        /// The control plane's file.
        #[command(flatten)]
        file: FileArg,
        /// Subcommand.
        #[command(subcommand)]
        action: access::Action,
    },
    /// Print a kubeconfig for an agent's cluster
    Kubeconfig {
        /// The control plane's file.
        #[command(flatten)]
        file: FileArg,
        /// Agent, server and token.
        #[command(flatten)]
        args: KubeconfigArgs,
    },
}

/// The file of the standalone control plane.
#[derive(Debug, Args)]
pub struct FileArg {
    /// The file of the standalone control plane
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        default_value = "./kas-data/agents.yaml"
    )]
    pub file: PathBuf,
}

/// A failed command; each message names a remedy.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The change cannot be made.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] StandaloneError),
    /// A flag contradicts another, or the file.
    #[error("{0}")]
    Usage(String),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[source] std::io::Error),
    /// A running server does not answer.
    #[error("cannot query the server of {}", file.display())]
    Server {
        /// Its configuration file.
        file: PathBuf,
        /// The cause.
        #[source]
        error: anyhow::Error,
    },
    /// The configuration file is not usable.
    #[error(transparent)]
    Configuration(#[from] ConfigError),
    /// The server would not start with it.
    #[error("the server would not start with {}:{}", file.display(), listed(.refusals))]
    WouldNotStart {
        /// The configuration file.
        file: PathBuf,
        /// Why.
        refusals: Vec<anyhow::Error>,
    },
    /// A file named by a flag, or a key file, cannot be read or written.
    #[error("{attempt}")]
    Io {
        /// What was attempted.
        attempt: String,
        /// The cause.
        #[source]
        error: std::io::Error,
    },
    /// A key pair cannot be generated.
    #[error("cannot generate a key pair")]
    Key(#[source] rcgen::Error),
    /// No random numbers.
    #[error("cannot generate a token: the operating system gives no random numbers")]
    Random(#[source] std::io::Error),
}

/// One on each line.
fn listed(refusals: &[anyhow::Error]) -> String {
    let lines = refusals.iter().map(|error| format!("\n  {error:#}"));
    lines.collect()
}

impl From<EditError> for CommandError {
    fn from(error: EditError) -> Self {
        Self::Change(error.into())
    }
}

impl From<NameError> for CommandError {
    fn from(error: NameError) -> Self {
        Self::Change(error.into())
    }
}

impl FileCommand {
    /// Runs the command.
    pub async fn run(self, output: &mut Output<'_>) -> Result<(), CommandError> {
        match self {
            Self::CheckConfig { file } => check_config::run(&file, output),
            Self::Agent { file, action } => agent::run(&file.file, action, output).await,
            Self::User { file, action } => {
                caller::run(&file.file, CallerKind::User, action, output)
            }
            Self::Service { file, action } => {
                caller::run(&file.file, CallerKind::Service, action, output)
            }
            Self::Access { file, action } => access::run(&file.file, action, output),
            Self::Kubeconfig { file, args } => kubeconfig::run(&file.file, args, output),
        }
    }
}

/// A new token and what the file keeps of it.
fn new_token(kind: TokenKind, now: Timestamp) -> Result<(Token, TokenEntry), CommandError> {
    let token = kind.generate().map_err(CommandError::Random)?;
    let entry = TokenEntry::new(&token, now);
    Ok((token, entry))
}

/// The time, in whole seconds as people read it.
fn now() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap_or_default()
}

#[cfg(test)]
mod tests;

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
use jiff::Timestamp;

use crate::control_plane::Token;
use crate::control_plane::standalone::{
    EditError, StandaloneError,
    change::{CallerKind, ChangeError},
    names::NameError,
    tokens::{TokenEntry, TokenKind},
};

/// The agent server for Kubernetes.
#[derive(Debug, Parser)]
#[command(name = "kas", version = crate::version::LONG.as_str(), disable_version_flag = true)]
pub struct Cli {
    /// Run a server with this configuration
    #[arg(long, value_name = "FILE")]
    pub configuration_file: Option<PathBuf>,

    /// Print the version
    #[arg(short = 'v', long, action = ArgAction::Version)]
    version: Option<bool>,

    /// What to do instead of running a server.
    #[command(subcommand)]
    pub command: Option<Command>,
}

/// What kas can do besides running a server.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Start everything here: servers, a load balancer, an agent and, unless there is one, a demo cluster
    #[cfg_attr(not(feature = "playground"), command(hide = true))]
    Up(UpArgs),
    /// Commands on files.
    #[command(flatten)]
    File(FileCommand),
}

/// Commands on files: mostly that of the standalone control plane.
#[derive(Debug, Subcommand)]
pub enum FileCommand {
    /// Say what a configuration file means: every value in effect, and what is ignored and why
    CheckConfig {
        /// The configuration file
        file: PathBuf,
    },
    /// Create agents, list them, change their tokens
    Agent {
        /// Which file.
        #[command(flatten)]
        file: FileArg,
        /// What to do.
        #[command(subcommand)]
        action: agent::Action,
    },
    /// Create users, list them, change their tokens
    User {
        /// Which file.
        #[command(flatten)]
        file: FileArg,
        /// What to do.
        #[command(subcommand)]
        action: caller::Action,
    },
    /// Create services, list them, change their tokens, which are used like those of CI jobs
    Service {
        /// Which file.
        #[command(flatten)]
        file: FileArg,
        /// What to do.
        #[command(subcommand)]
        action: caller::Action,
    },
    /// Say who may use which agents, and as whom
    Access {
        /// Which file.
        #[command(flatten)]
        file: FileArg,
        /// What to do.
        #[command(subcommand)]
        action: access::Action,
    },
    /// Print a kubeconfig for an agent's cluster
    Kubeconfig {
        /// Which file.
        #[command(flatten)]
        file: FileArg,
        /// What it is for.
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

/// Why a command failed; each says what to do about it.
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
    #[error("cannot write the output: {0}")]
    Output(std::io::Error),
    /// A running server cannot be asked.
    #[error("cannot ask the server of {}: {error:#}", file.display())]
    Server {
        /// Its configuration file.
        file: PathBuf,
        /// Why.
        error: anyhow::Error,
    },
    /// No random numbers.
    #[error("the operating system gives no random numbers for a token: {0}")]
    Random(std::io::Error),
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

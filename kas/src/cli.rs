//! The command line: `kas --configuration-file F`, `kas up`, and commands on the standalone file.

mod access;
mod agent;
mod audit;
mod caller;
mod check_config;
mod connected;
mod credential;
mod doctor;
mod duration;
mod fleet;
mod join;
mod kubeconfig;
mod login;
mod output;
mod receptive;
mod server;
mod top;
mod up;

pub use credential::CredentialArgs;
pub use doctor::DoctorArgs;
pub use fleet::{agents::FleetFilter, sessions::SessionFilter, view::View};
pub use kubeconfig::KubeconfigArgs;
pub use login::{LoginArgs, LoginError, LogoutArgs};
pub use output::Output;
pub use server::ServerArgs;
pub use up::UpArgs;

use std::path::PathBuf;

use ::audit::recording::play::PlayError;
use admin::ClientError;
use clap::{ArgAction, Args, CommandFactory as _, Parser, Subcommand};
use control_plane::{
    Token,
    kubeconfig::KubeconfigError,
    standalone::{
        EditError, StandaloneError,
        change::{CallerKind, ChangeError},
        names::NameError,
        registration::RegistrationError,
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
    /// Read the audit trail: who did what in which cluster
    Audit {
        /// Subcommand.
        #[command(subcommand)]
        action: audit::Action,
    },
    /// Look at what keeps a server from serving, from its files to the load balancer, and say what to mend
    ///
    /// Changes nothing. Exits with 1 if anything does not work.
    Doctor(DoctorArgs),
    /// Manage agents and their tokens
    Agent {
        /// The control plane's file.
        #[command(flatten)]
        file: FileArg,
        /// Subcommand.
        #[command(subcommand)]
        action: agent::Action,
    },
    /// Add clusters
    Cluster {
        /// The control plane's file.
        #[command(flatten)]
        file: FileArg,
        /// Subcommand.
        #[command(subcommand)]
        action: join::ClusterAction,
    },
    /// Say where a request for an agent would go now, and why
    Explain {
        /// Number or name of the agent
        agent: String,
        /// The server to ask.
        #[command(flatten)]
        server: ServerArgs,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: View,
    },
    /// Watch fleet, replicas and requests of a running server on a terminal
    Top {
        /// The server to ask.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Look at the replicas of a running server
    Replica {
        /// Subcommand.
        #[command(subcommand)]
        action: ReplicaAction,
    },
    /// Change how much the replicas of a running server log, until they are started again or reloaded
    LogLevel {
        /// The level
        level: fleet::replicas::LogLevel,
        /// Id of one replica; without it all
        #[arg(long, value_name = "ID")]
        replica: Option<String>,
        /// The server to ask.
        #[command(flatten)]
        server: ServerArgs,
    },
    /// Look at requests in progress of a running server
    Request {
        /// Subcommand.
        #[command(subcommand)]
        action: RequestAction,
    },
    /// Look at what users of a running server have open (exec, logs, watches and the like), and end it
    Session {
        /// Subcommand.
        #[command(subcommand)]
        action: SessionAction,
    },
    /// Say as whom a running server's admin API knows you, and what you may do there
    Whoami {
        /// The server to ask.
        #[command(flatten)]
        server: ServerArgs,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: View,
    },
    /// Print a script that completes commands and flags in a shell
    Completions {
        /// The shell
        shell: clap_complete::Shell,
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
    /// Log in at the OpenID provider of a server
    Login(LoginArgs),
    /// Forget a login
    Logout(LogoutArgs),
    /// Print a token for kubectl, which calls this (exec plugin); see `kas kubeconfig --all`
    Credential(CredentialArgs),
    /// Print a kubeconfig for an agent's cluster, or for all clusters of who is logged in
    Kubeconfig {
        /// The control plane's file.
        #[command(flatten)]
        file: FileArg,
        /// Agent, server and token.
        #[command(flatten)]
        args: KubeconfigArgs,
    },
}

/// `kas replica` subcommands.
#[derive(Debug, Subcommand)]
pub enum ReplicaAction {
    /// List the replicas of a running server
    List {
        /// The server to ask.
        #[command(flatten)]
        server: ServerArgs,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: View,
    },
}

/// `kas request` subcommands.
#[derive(Debug, Subcommand)]
pub enum RequestAction {
    /// List requests in progress, the oldest first
    List {
        /// The server to ask.
        #[command(flatten)]
        server: ServerArgs,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: View,
    },
}

/// `kas session` subcommands.
#[derive(Debug, Subcommand)]
pub enum SessionAction {
    /// List what users have open, the oldest first
    List {
        /// Filter.
        #[command(flatten)]
        filter: SessionFilter,
        /// The server to ask.
        #[command(flatten)]
        server: ServerArgs,
        /// Output format
        #[arg(short, long, value_enum, default_value_t)]
        output: View,
    },
    /// End sessions; their clients are told, and the audit log has who ended them
    Kill {
        /// Ids of sessions
        #[arg(required = true)]
        id: Vec<String>,
        /// The server to ask.
        #[command(flatten)]
        server: ServerArgs,
    },
}

/// The file of the standalone control plane.
#[derive(Debug, Args)]
pub struct FileArg {
    /// The file of the standalone control plane [default: ./kas-data/agents.yaml]
    #[arg(long, global = true, value_name = "FILE")]
    pub file: Option<PathBuf>,
}

impl FileArg {
    /// Where the file is.
    fn path(&self) -> PathBuf {
        let given = self.file.clone();
        given.unwrap_or_else(|| "./kas-data/agents.yaml".into())
    }
}

/// A failed command; each message names a remedy.
#[derive(Debug, thiserror::Error)]
pub enum CommandError {
    /// The change cannot be made.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// An agent or a token of one cannot be made or taken away.
    #[error(transparent)]
    Registration(#[from] RegistrationError),
    /// The file cannot be used.
    #[error(transparent)]
    File(#[from] StandaloneError),
    /// A flag contradicts another, or the file.
    #[error("{0}")]
    Usage(String),
    /// The output cannot be written.
    #[error("cannot write the output")]
    Output(#[source] std::io::Error),
    /// A kubeconfig cannot be made.
    #[error(transparent)]
    Kubeconfig(#[from] KubeconfigError),
    /// A running server does not answer.
    #[error("cannot query the server of {}", file.display())]
    Server {
        /// Its configuration file.
        file: PathBuf,
        /// The cause.
        #[source]
        error: anyhow::Error,
    },
    /// There is no connection to a running server.
    #[error("cannot ask the server's admin API")]
    Connect(#[from] ClientError),
    /// Somebody is not logged in.
    #[error(transparent)]
    Login(#[from] LoginError),
    /// A running server refuses.
    #[error("the server says: {}", .0.message())]
    Refused(Box<tonic::Status>),
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
    /// A doctor has found what does not work; its report says what.
    #[error("not everything works: see the checks that failed")]
    Unhealthy,
    /// A file named by a flag, or a key file, cannot be read or written.
    #[error("{attempt}")]
    Io {
        /// What was attempted.
        attempt: String,
        /// The cause.
        #[source]
        error: std::io::Error,
    },
    /// An audit trail is not as it was written.
    #[error("the audit trail is not sound: {findings} findings")]
    NotSound {
        /// How many.
        findings: u64,
    },
    /// The recording of a session cannot be played.
    #[error("cannot play {}", recording.display())]
    Play {
        /// Which.
        recording: PathBuf,
        /// Why.
        #[source]
        error: PlayError,
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

impl From<tonic::Status> for CommandError {
    fn from(status: tonic::Status) -> Self {
        Self::Refused(Box::new(status))
    }
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
            Self::Audit { action } => audit::run(action, output),
            Self::Doctor(args) => doctor::run(args, output).await,
            Self::Agent { file, action } => agent::run(&file, action, output).await,
            Self::Cluster { file, action } => join::cluster(&file.path(), action, output),
            Self::User { file, action } => {
                caller::run(&file.path(), CallerKind::User, action, output)
            }
            Self::Service { file, action } => {
                caller::run(&file.path(), CallerKind::Service, action, output)
            }
            Self::Access { file, action } => access::run(&file.path(), action, output),
            Self::Kubeconfig { file, args } => kubeconfig::run(&file.path(), args, output).await,
            Self::Login(args) => login::login(args, output).await,
            Self::Logout(args) => login::logout(&args, output),
            Self::Credential(args) => credential::run(args, output).await,
            Self::Explain {
                agent,
                server,
                output: view,
            } => fleet::agents::explain(&server, agent, view, output).await,
            Self::Replica {
                action:
                    ReplicaAction::List {
                        server,
                        output: view,
                    },
            } => fleet::replicas::list(&server, view, output).await,
            Self::Request {
                action:
                    RequestAction::List {
                        server,
                        output: view,
                    },
            } => fleet::requests::list(&server, view, output).await,
            Self::Session { action } => match action {
                SessionAction::List {
                    filter,
                    server,
                    output: view,
                } => fleet::sessions::list(&server, filter, view, output).await,
                SessionAction::Kill { id, server } => {
                    fleet::sessions::kill(&server, id, output).await
                }
            },
            Self::Top { server } => top::run(&server).await,
            Self::LogLevel {
                level,
                replica,
                server,
            } => fleet::replicas::set_log_level(&server, level, replica, output).await,
            Self::Whoami {
                server,
                output: view,
            } => fleet::whoami::show(&server, view, output).await,
            Self::Completions { shell } => completions(shell, output),
        }
    }
}

fn completions(shell: clap_complete::Shell, output: &mut Output<'_>) -> Result<(), CommandError> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "kas", &mut script);
    output.result(&String::from_utf8_lossy(&script))
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

//! `kas kubeconfig …`: what kubectl needs to reach an agent's cluster through kas.

mod all;

use std::{
    io::Read,
    path::{Path, PathBuf},
};

use clap::Args;
use control_plane::{
    AgentInfo, Identity, IdentityKind, Token,
    kubeconfig::{Context, Credential, Kubeconfig, is_server},
    standalone::{Directory, read},
};
use jiff::Timestamp;
use runtime::yaml::nearest;

use super::{CommandError, Output};

/// `kas kubeconfig` arguments.
#[derive(Debug, Args)]
pub struct KubeconfigArgs {
    /// Name of the agent, also used for the context
    #[arg(required_unless_present = "all", conflicts_with = "all")]
    agent: Option<String>,
    /// One file with a context for each agent that who is logged in (`kas login`) may use
    #[arg(long)]
    all: bool,
    /// URL of the Kubernetes API proxy, usually ending in /k8s-proxy/
    #[arg(long, value_name = "URL")]
    server: String,
    /// User who owns the token; found by the token if absent
    #[arg(long, value_name = "USER", conflicts_with = "service")]
    user: Option<String>,
    /// Service that owns the token; found by the token if absent
    #[arg(long, value_name = "SERVICE")]
    service: Option<String>,
    /// Token of the user or service; `-` reads it from standard input
    #[arg(
        long,
        env = "KAS_TOKEN",
        hide_env_values = true,
        value_parser = token,
        required_unless_present = "all"
    )]
    token: Option<Token>,
    /// PEM file with the CA of the server's certificate, to be embedded
    #[arg(long, value_name = "FILE")]
    certificate_authority: Option<PathBuf>,
    /// With --all: what kubectl calls, if not `kas`
    #[arg(long, value_name = "PATH", requires = "all")]
    exec_command: Option<PathBuf>,
}

/// The longest token that is read from standard input, in bytes.
const MAX_TOKEN_BYTES: u64 = 16 << 10;

/// A `--token` that cannot be used.
#[derive(Debug, thiserror::Error)]
enum TokenError {
    #[error("the token is empty")]
    Empty,
    #[error("cannot read standard input: {0}")]
    StandardInput(std::io::Error),
}

fn token(text: &str) -> Result<Token, TokenError> {
    let mut read = String::new();
    let text = if text == "-" {
        let all = std::io::stdin()
            .take(MAX_TOKEN_BYTES)
            .read_to_string(&mut read);
        all.map_err(TokenError::StandardInput)?;
        read.trim()
    } else {
        text.trim()
    };
    if text.is_empty() {
        return Err(TokenError::Empty);
    }
    Ok(Token::new(text))
}

pub(super) async fn run(
    file: &Path,
    args: KubeconfigArgs,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let (Some(name), Some(token)) = (args.agent.as_deref(), args.token.as_ref()) else {
        return all::run(args, output).await;
    };
    check_server(&args.server)?;
    let now = Timestamp::now();
    let directory = read(file, now)?;
    let agent = find(&directory, name)?;
    let identity = owner(&directory, &args, token, file, now)?;
    let ca = args
        .certificate_authority
        .as_deref()
        .map(read_ca)
        .transpose()?;
    let kubeconfig = Kubeconfig {
        server: &args.server,
        certificate_authority: ca.as_deref(),
        contexts: vec![Context {
            agent: agent.id,
            name: &agent.name,
            who: identity.to_string(),
            credential: Credential::Token(identity.kind, token),
        }],
    };
    output.result(&kubeconfig.to_yaml()?)?;
    if args.server.starts_with("http://") {
        output.hint("Note: kubectl sends its token to https:// servers only, not to this one.")?;
    }
    let allowed = directory.authorize(identity.kind, &token.hash(), agent.id, now);
    match allowed {
        Ok(_) => Ok(()),
        Err(denied) => output.hint(&format!("Note: {denied}. Add one with `kas access grant`.")),
    }
}

fn check_server(server: &str) -> Result<(), CommandError> {
    if is_server(server) {
        return Ok(());
    }
    Err(CommandError::Usage(format!(
        "--server `{server}` must be a URL such as https://kas.example.com/k8s-proxy/"
    )))
}

fn find<'a>(directory: &'a Directory, name: &str) -> Result<&'a AgentInfo, CommandError> {
    if let Some(agent) = directory.agents().find(|agent| agent.name == name) {
        return Ok(agent);
    }
    let names = directory.agents().map(|agent| agent.name.as_str());
    let hint = match nearest(name, names) {
        Some(near) => format!("did you mean {near}?"),
        None => "`kas agent list` shows those that exist".to_owned(),
    };
    Err(CommandError::Usage(format!(
        "there is no agent {name}: {hint}"
    )))
}

fn owner<'a>(
    directory: &'a Directory,
    args: &KubeconfigArgs,
    token: &Token,
    file: &Path,
    now: Timestamp,
) -> Result<&'a Identity, CommandError> {
    let identity = directory.identity(&token.hash(), now).ok_or_else(|| {
        CommandError::Usage(format!(
            "--token belongs to no user or service of {}: it has expired or was revoked, or is mistyped",
            file.display()
        ))
    })?;
    let claimed = match (&args.user, &args.service) {
        (Some(name), _) => Some((IdentityKind::User, name)),
        (None, Some(name)) => Some((IdentityKind::CiJob, name)),
        (None, None) => None,
    };
    match claimed {
        Some((kind, name)) if (kind, name) != (identity.kind, &identity.name) => {
            Err(CommandError::Usage(format!(
                "--token belongs to {}: leave --user and --service out, or correct them",
                describe(identity)
            )))
        }
        Some(_) | None => Ok(identity),
    }
}

fn describe(identity: &Identity) -> String {
    match identity.kind {
        IdentityKind::User => format!("the user {}", identity.name),
        IdentityKind::CiJob => format!("the service {}", identity.name),
    }
}

fn read_ca(file: &Path) -> Result<Vec<u8>, CommandError> {
    std::fs::read(file).map_err(|error| CommandError::Io {
        attempt: format!("cannot read --certificate-authority {}", file.display()),
        error,
    })
}

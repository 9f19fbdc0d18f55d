//! `kas agent join-token` and `kas cluster add`: what an agentk obtains its own token by.

use std::{path::Path, time::Duration};

use clap::{Args, Subcommand};
use control_plane::standalone::{
    Editable,
    change::ChangeError,
    edit,
    join_tokens::JoinTokenEntry,
    tokens::{TokenEntry, TokenKind},
};

use super::{CommandError, Output, duration, now};

/// The longest time for which a join token is good.
const LIFETIME_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// In the place of an address that is not known.
const ADDRESS: &str = "wss://KAS-ADDRESS";

/// What a join token is made with.
#[derive(Debug, Args)]
pub struct JoinTokenArgs {
    /// How long the join token is good, at most 168h
    #[arg(long = "for", value_name = "DURATION", default_value = "30m", value_parser = duration::parse_positive)]
    lifetime: Duration,
    /// Address of kas as agents see it, for the printed commands
    #[arg(long, value_name = "URL", default_value = ADDRESS)]
    kas_address: String,
}

/// `kas cluster` subcommands.
#[derive(Debug, Subcommand)]
pub enum ClusterAction {
    /// Create an agent for a cluster, and print what installs it there
    Add {
        /// Name of the agent: lower-case letters, digits and `-`
        name: String,
        /// Id of the agent; by default the highest id in use plus one
        #[arg(long)]
        id: Option<i64>,
        /// Its join token.
        #[command(flatten)]
        join: JoinTokenArgs,
    },
}

pub(super) fn cluster(
    file: &Path,
    action: ClusterAction,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let ClusterAction::Add { name, id, join } = action;
    let create = |document: &mut Editable| {
        let id = document.create_agent(&name, id, None::<TokenEntry>)?;
        let created = format!("Agent {name} has id {id} in {}.", file.display());
        Ok::<_, ChangeError>(created)
    };
    give(file, &name, &join, create, output)
}

/// Makes a join token for an agent that there is.
pub(super) fn join_token(
    file: &Path,
    name: &str,
    args: &JoinTokenArgs,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let find = |document: &mut Editable| {
        document.agent(name)?;
        Ok::<_, ChangeError>(format!("Agent {name} may join."))
    };
    give(file, name, args, find, output)
}

/// Gives the agent that `prepare` finds or makes a join token, and prints it.
fn give(
    file: &Path,
    name: &str,
    args: &JoinTokenArgs,
    prepare: impl FnOnce(&mut Editable) -> Result<String, ChangeError>,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    if args.lifetime > LIFETIME_MAX {
        return Err(CommandError::Usage(
            "--for is at most 168h: a join token is to be used soon".to_owned(),
        ));
    }
    let now = now();
    let end = now.checked_add(args.lifetime);
    let end = end.map_err(|_| CommandError::Usage("--for ends too late".to_owned()))?;
    let token = TokenKind::Join.generate().map_err(CommandError::Random)?;
    let entry = JoinTokenEntry::new(&token, now, end);
    let (prepared, ended) = edit(file, |document: &mut Editable| {
        let prepared = prepare(document)?;
        let ended = document.add_join_token(name, entry, now)?;
        Ok::<_, ChangeError>((prepared, ended))
    })?;
    output.result(token.expose())?;
    let ended = match ended {
        0 => "",
        _ => " Its earlier join token is good no more.",
    };
    output.hint(&format!(
        "{prepared} The join token above is shown only once; it is good for one agentk, once, until {end}.{ended}\n\
         In a cluster:\n  {}\nElsewhere:\n  {}",
        helm(name, &args.kas_address, token.expose()),
        agentk(name, &args.kas_address, token.expose()),
    ))
}

pub(super) fn revoke_join_tokens(
    file: &Path,
    name: &str,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let now = now();
    let count = edit(file, |document: &mut Editable| -> Result<_, ChangeError> {
        document.revoke_join_tokens(name, now)
    })?;
    output.hint(&format!(
        "Revoked {count} join token(s) of agent {name} that nobody had used; who has joined stays: \
         `kas agent revoke {name}` ends that too."
    ))
}

fn helm(name: &str, address: &str, token: &str) -> String {
    format!(
        "helm install {name} deploy/k8s/charts/agentk -n agentk --create-namespace \
         --set config.kasAddress={address},config.joinToken={token}"
    )
}

fn agentk(name: &str, address: &str, token: &str) -> String {
    format!(
        "(umask 077; echo {token} > join-token) && POD_NAMESPACE=default POD_NAME={name} agentk \
         --kas-address={address} --join-token-file=join-token --token-file=agent-token"
    )
}

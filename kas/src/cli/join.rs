//! `kas agent join-token` and `kas cluster add`: what an agentk obtains its own token by.

use std::{path::Path, time::Duration};

use clap::{Args, Subcommand};
use control_plane::standalone::{
    Editable,
    change::ChangeError,
    edit,
    registration::{self, Invitation, KasAddress},
};

use super::{CommandError, Output, duration, now};

/// What a join token is made with.
#[derive(Debug, Args)]
pub struct JoinTokenArgs {
    /// How long the join token is good, at most 168h
    #[arg(long = "for", value_name = "DURATION", default_value = "30m", value_parser = duration::parse_positive)]
    lifetime: Duration,
    /// Address of kas as agents see it, for the printed commands
    #[arg(long, value_name = "URL")]
    kas_address: Option<KasAddress>,
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
    let made = registration::add_agent(file, &name, id, join.lifetime, now())?;
    let created = format!("Agent {name} has id {} in {}.", made.agent, file.display());
    show(&made, &created, join.kas_address, output)
}

/// Makes a join token for an agent that there is.
pub(super) fn join_token(
    file: &Path,
    name: &str,
    args: JoinTokenArgs,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    let made = registration::invite(file, name, args.lifetime, now())?;
    let found = format!("Agent {name} may join.");
    show(&made, &found, args.kas_address, output)
}

/// Prints a join token, and what to do with it.
fn show(
    made: &Invitation,
    prepared: &str,
    address: Option<KasAddress>,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    output.result(made.token.expose())?;
    let ended = match made.ended {
        0 => "",
        _ => " Its earlier join token is good no more.",
    };
    let address = address.unwrap_or_default();
    output.hint(&format!(
        "{prepared} The join token above is shown only once; it is good for one agentk, once, until {}.{ended}\n\
         In a cluster:\n  {}\nElsewhere:\n  {}",
        made.expires_at,
        made.helm(&address),
        made.agentk(&address),
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

//! `kas agent join-token` and `kas cluster add`: what an agentk obtains its own token by.

use std::{path::Path, time::Duration};

use clap::{Args, Subcommand};
use control_plane::standalone::{
    Editable,
    change::ChangeError,
    edit,
    installation::{CaFile, ImageRegistry, Installation, KasAddress},
    registration::{self, Invitation},
};

use super::{CommandError, Output, duration, now};

/// What a join token is made with.
#[derive(Debug, Args)]
pub struct JoinTokenArgs {
    /// How long the join token is good, at most 168h
    #[arg(long = "for", value_name = "DURATION", default_value = "30m", value_parser = duration::parse_positive)]
    lifetime: Duration,
    /// For the printed commands.
    #[command(flatten)]
    installation: InstallationArgs,
}

/// What the printed commands are made of.
#[derive(Debug, Args)]
struct InstallationArgs {
    /// Address of kas as agents see it, for the printed commands
    #[arg(long, value_name = "URL")]
    kas_address: Option<KasAddress>,
    /// CA of kas's certificate, or that itself, for the printed commands, if the system does not know it
    #[arg(long, value_name = "FILE")]
    kas_ca_file: Option<CaFile>,
    /// Where agentk's image is kept, and under `charts/` its chart, for the printed commands [environment:
    /// AGENTK_IMAGE_REGISTRY]
    #[arg(long, value_name = "REGISTRY")]
    image_registry: Option<ImageRegistry>,
    /// agentk's chart as Helm takes it, such as a file, for the printed commands; by default that in the registry
    /// [environment: AGENTK_CHART]
    #[arg(long, value_name = "CHART")]
    chart: Option<String>,
}

impl From<InstallationArgs> for Installation {
    fn from(args: InstallationArgs) -> Self {
        let told = Self::from_environment();
        Self {
            kas_address: args.kas_address,
            kas_ca_file: args.kas_ca_file,
            image_registry: args.image_registry.or(told.image_registry),
            chart: args.chart.or(told.chart),
        }
    }
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
    show(&made, &created, &join.installation.into(), output)
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
    show(&made, &found, &args.installation.into(), output)
}

/// Prints a join token, and what to do with it.
fn show(
    made: &Invitation,
    prepared: &str,
    installation: &Installation,
    output: &mut Output<'_>,
) -> Result<(), CommandError> {
    output.result(made.token.expose())?;
    let ended = match made.ended {
        0 => "",
        _ => " Its earlier join token is good no more.",
    };
    output.hint(&format!(
        "{prepared} The join token above is shown only once; it is good for one agentk, once, until {}.{ended}\n\
         In a cluster:\n  {}\nElsewhere:\n  {}{}",
        made.expires_at,
        installation.helm(made),
        installation.agentk(made),
        left_to_fill_in(installation),
    ))
}

/// What somebody has to put into the commands, if that is anything.
fn left_to_fill_in(installation: &Installation) -> String {
    let unknown: Vec<_> = installation
        .unknown()
        .map(|(what, word)| format!("{word} is {what}"))
        .collect();
    match unknown.is_empty() {
        true => String::new(),
        false => format!(
            "\n{}: put yours, or give --kas-address and --image-registry.",
            unknown.join(", ")
        ),
    }
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

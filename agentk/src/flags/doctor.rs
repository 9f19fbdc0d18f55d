//! `agentk doctor`: the agent's own flags, and how its findings are printed.

use std::time::Duration;

use clap::{Args, ValueEnum};
use jiff::SignedDuration;

use super::Flags;
use crate::{config::ConfigError, doctor};

/// The shortest and the longest silence that is of use.
const IDLE_LIMITS: [Duration; 2] = [Duration::from_secs(1), Duration::from_secs(300)];

/// Look at the way to kas and at the cluster, with the flags that the agent has, and say what to mend
///
/// Changes nothing: no agent appears connected by it. In the agent's container no flags are needed. Exits with 1 if
/// anything does not work.
#[derive(Debug, Args)]
pub struct Doctor {
    /// The agent's flags.
    #[command(flatten)]
    flags: Flags,
    /// How long to be silent on a connection, to see who on the way cuts it
    #[arg(long, value_name = "DURATION", default_value = "60s", value_parser = idle_limit)]
    idle_limit: Duration,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// How findings are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Format {
    /// A line for each check
    #[default]
    Text,
    /// JSON
    Json,
}

/// A limit that is of no use.
#[derive(Debug, thiserror::Error)]
#[error("give a duration from 1s to 5m, such as 60s")]
struct IdleLimitError;

fn idle_limit(text: &str) -> Result<Duration, IdleLimitError> {
    let [least, most] = IDLE_LIMITS;
    let limit: SignedDuration = text.parse().map_err(|_| IdleLimitError)?;
    let limit = Duration::try_from(limit).map_err(|_| IdleLimitError)?;
    match (least..=most).contains(&limit) {
        true => Ok(limit),
        false => Err(IdleLimitError),
    }
}

impl Doctor {
    /// Examines, and gives what is to be printed, and whether everything works.
    ///
    /// # Errors
    /// What is wrong with the flags.
    pub async fn examine(
        self,
        variable: impl Fn(&str) -> Option<String>,
    ) -> anyhow::Result<(String, bool)> {
        let Self {
            flags,
            idle_limit,
            output,
        } = self;
        let config = configuration(flags, variable)?;
        let report = doctor::examine(&config, idle_limit).await;
        let text = match output {
            Format::Text => report.to_string(),
            Format::Json => report.json()?,
        };
        Ok((text, !report.has_failed()))
    }
}

/// A doctor need not be in the agent's pod.
fn configuration(
    flags: Flags,
    variable: impl Fn(&str) -> Option<String>,
) -> Result<crate::Config, ConfigError> {
    flags.into_config(|name| {
        let set = variable(name).filter(|it| !it.is_empty() || name == "AGENTK_TOKEN");
        let elsewhere = matches!(name, "POD_NAMESPACE" | "POD_NAME");
        set.or_else(|| elsewhere.then(|| "default".to_owned()))
    })
}

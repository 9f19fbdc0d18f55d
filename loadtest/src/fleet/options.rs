//! The command line of `loadtest fleet`.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, bail, ensure};
use clap::Args;
use ipnet::IpNet;
use runtime::{
    connect::{ConnectOptions, Target},
    tls::{ClientTls, ClientTlsOptions},
};

/// Simulated agents.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Where kas is: grpc://, grpcs://, ws:// or wss://host:port/path; several are dialled in turns.
    #[arg(long, required = true, value_delimiter = ',')]
    pub(super) kas_address: Vec<String>,
    /// A token for all agents (several instances of one agent).
    #[arg(long, conflicts_with = "token_file")]
    token: Option<String>,
    /// A file with one token a line, taken in turns.
    #[arg(long)]
    token_file: Option<PathBuf>,
    /// How many agents.
    #[arg(long, default_value_t = 1)]
    pub(super) agents: usize,
    /// A scheme to use instead of the address's own.
    #[arg(long, value_parser = ["grpc", "grpcs", "ws", "wss"])]
    scheme: Option<String>,
    /// A CA certificate for kas, beside the system's.
    #[arg(long)]
    pub(super) ca_cert_file: Option<PathBuf>,
    /// Idle tunnels that each agent holds at least.
    #[arg(long, default_value_t = 2)]
    pub(super) tunnels: usize,
    /// Agents that begin to connect in a second, as `500/s` or `500`.
    #[arg(long, default_value = "500/s", value_parser = ramp)]
    pub(super) ramp: f64,
    /// Length of the default answer's body.
    #[arg(long, default_value_t = 4096)]
    pub(super) response_bytes: usize,
    /// A Kubernetes API, http://host:port, that answers instead of the script.
    #[arg(long)]
    pub(super) backend: Option<http::Uri>,
    /// Local addresses to dial from; on loopback all of 127.0.0.0/8 if not given.
    #[arg(long)]
    pub(super) source_range: Option<IpNet>,
    /// Rounds in which all agents drop their connections and connect anew.
    #[arg(long, default_value_t = 0)]
    pub(super) churn: u64,
    /// Agents, chosen at random, that drop their connections in a second once all are ready.
    #[arg(long, default_value_t = 0.0, value_parser = churn_rate)]
    pub(super) churn_rate: f64,
    /// Connect again at once, without grpc-go's backoff.
    #[arg(long)]
    pub(super) impatient: bool,
    /// How many of the agents are agentk processes; the others are simulated.
    #[arg(long, default_value_t = 0)]
    pub(super) real: usize,
    /// Their program, ours or GitLab's; by default the agentk beside this program.
    #[arg(long)]
    pub(super) agentk: Option<PathBuf>,
    /// The folder for their logs, which are not kept otherwise.
    #[arg(long)]
    pub(super) logs: Option<PathBuf>,
    /// Open tunnels on a new connection at once, as our agentk does; otherwise each
    /// tunnel that was cut first waits for its own backoff, as GitLab's agentk does.
    #[arg(long)]
    pub(super) eager: bool,
    /// Say each second how it goes, as a line of JSON after `status: `.
    #[arg(long)]
    pub(super) status: bool,
    /// Seconds after which to end; otherwise at SIGTERM or SIGINT.
    #[arg(long, value_parser = seconds)]
    pub(super) duration: Option<Duration>,
    /// Seconds that all agents together may take to be ready, beyond the ramp.
    #[arg(long, default_value = "120", value_parser = seconds)]
    pub(super) ready_within: Duration,
}

impl Options {
    pub(super) fn targets(&self) -> anyhow::Result<Vec<Target>> {
        let addresses = self.addresses();
        let targets = addresses.iter().map(|address| Ok(address.parse()?));
        targets.collect()
    }

    /// Where agents connect, with the scheme that they use.
    pub(super) fn addresses(&self) -> Vec<String> {
        let address = |address: &String| match (&self.scheme, address.split_once("://")) {
            (Some(scheme), Some((_, rest))) => format!("{scheme}://{rest}"),
            (Some(_) | None, _) => address.clone(),
        };
        self.kas_address.iter().map(address).collect()
    }

    /// Agents that are simulated.
    pub(super) fn simulated(&self) -> usize {
        self.agents.saturating_sub(self.real)
    }

    pub(super) fn tokens(&self) -> anyhow::Result<Vec<String>> {
        let tokens = match (&self.token, &self.token_file) {
            (Some(token), _) => vec![token.clone()],
            (None, Some(file)) => read_tokens(file)?,
            (None, None) => bail!("give the agents a --token or a --token-file"),
        };
        ensure!(!tokens.is_empty(), "the token file has no token");
        Ok(tokens)
    }

    /// How to dial, but for the local address.
    pub(super) fn connect(&self, target: &Target) -> anyhow::Result<ConnectOptions> {
        let tls = target.scheme().is_tls().then(|| {
            ClientTls::load(&ClientTlsOptions {
                only_ca_files: self.ca_cert_file.is_some(),
                ca_files: self.ca_cert_file.iter().cloned().collect(),
                ..Default::default()
            })
        });
        Ok(ConnectOptions {
            tls: tls.transpose()?,
            user_agent: super::user_agent(),
            ..Default::default()
        })
    }

    /// When all agents must be ready, counted from the first.
    pub(super) fn deadline(&self) -> Duration {
        self.ready_within + Duration::from_secs_f64(self.agents as f64 / self.ramp)
    }
}

fn read_tokens(file: &PathBuf) -> anyhow::Result<Vec<String>> {
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read the token file {}", file.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    Ok(lines.map(str::to_owned).collect())
}

fn ramp(text: &str) -> Result<f64, String> {
    let rate: f64 = text
        .trim_end_matches("/s")
        .parse()
        .map_err(|_| format!("{text:?} is not a number of agents a second, such as 500/s"))?;
    if rate >= 0.01 && rate.is_finite() {
        return Ok(rate);
    }
    Err("the ramp must be above 0".to_owned())
}

fn churn_rate(text: &str) -> Result<f64, String> {
    let rate: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    let sane = (0.0..=1e6).contains(&rate);
    sane.then_some(rate)
        .ok_or_else(|| "the churn rate must not be below 0".to_owned())
}

fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| format!("{text:?} is no number"))?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ramps_are_agents_a_second() {
        assert_eq!(ramp("500/s"), Ok(500.0));
        assert_eq!(ramp("0.5"), Ok(0.5));
        assert!(ramp("0").is_err());
        assert!(ramp("fast").unwrap_err().contains("500/s"));
    }
}

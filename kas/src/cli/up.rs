//! The options of `kas up`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::duration;

/// The options of `kas up`.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// Number of replicas
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub replicas: u8,

    /// Directory for the control plane's file, tokens and the kubeconfig
    #[arg(long, value_name = "DIRECTORY", default_value = "./kas-data")]
    pub data_dir: PathBuf,

    /// Connect the agent to the cluster of this kubeconfig instead of a demo cluster
    ///
    /// The environment variable KUBECONFIG is not looked at: it may name a cluster that nobody wants to try things on
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// Context of that kubeconfig; by default its current one
    #[arg(long, value_name = "NAME", requires = "kubeconfig")]
    pub context: Option<String>,

    /// Keep the routing table in this Redis instead of in memory
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,

    /// Reset all agents' connections at the load balancer at this interval, such as 5s, and count requests meanwhile
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    pub drop_every: Option<Duration>,

    /// Port of the load balancer for agents; 0 for any free port, which also replaces the default if it is in use
    #[arg(long, value_name = "PORT", default_value_t = 8150)]
    pub agent_port: u16,

    /// Port of the load balancer for users; 0 for any free port, which also replaces the default if it is in use
    #[arg(long, value_name = "PORT", default_value_t = 8154)]
    pub api_port: u16,
}

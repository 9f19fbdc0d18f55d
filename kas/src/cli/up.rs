//! The options of `kas up`.

use std::{path::PathBuf, time::Duration};

use clap::Args;

use super::duration;

/// The options of `kas up`.
#[derive(Debug, Clone, Args)]
pub struct UpArgs {
    /// How many servers to start
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u8).range(1..=16))]
    pub replicas: u8,

    /// Where to keep the control plane's file, tokens and the kubeconfig
    #[arg(long, value_name = "DIRECTORY", default_value = "./kas-data")]
    pub data_dir: PathBuf,

    /// Put the agent on the cluster of this kubeconfig instead of on a demo cluster
    ///
    /// Without the flag, the environment variable KUBECONFIG counts if it is set and not empty
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<PathBuf>,

    /// The context of that kubeconfig, if not its current one
    #[arg(long, value_name = "NAME")]
    pub context: Option<String>,

    /// Share the routing table in this Redis instead of in memory
    #[arg(long, value_name = "URL")]
    pub redis: Option<String>,

    /// Let the load balancer cut every connection of agents that often, such as 5s
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    pub drop_every: Option<Duration>,

    /// The port of the load balancer for agents; 0 takes any free one, as does the default when it is taken
    #[arg(long, value_name = "PORT", default_value_t = 8150)]
    pub agent_port: u16,

    /// The port of the load balancer for users; 0 takes any free one, as does the default when it is taken
    #[arg(long, value_name = "PORT", default_value_t = 8154)]
    pub api_port: u16,
}

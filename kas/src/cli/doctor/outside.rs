//! The load balancer from outside: as an agent, and as a user.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use http::HeaderMap;
use runtime::{
    connect::{ConnectOptions, ProxySetting, Target, TargetError},
    doctor::{AgentPath, Finding, Report, UserPath},
    tls::ClientTlsOptions,
};

use crate::{cli::duration, version};

/// The addresses that agents and users know.
#[derive(Debug, Args)]
pub(super) struct OutsideArgs {
    /// The address that agents dial: ws://, wss://, grpc:// or grpcs://, as in their --kas-address
    #[arg(long, value_name = "URL", value_parser = Target::parse)]
    agents_url: Option<Target>,
    /// The address of the Kubernetes API for users, as in their kubeconfigs: https://HOST/PREFIX/
    #[arg(long, value_name = "URL", value_parser = user_target)]
    users_url: Option<Target>,
    /// File with CA certificates (PEM) that agents and users trust, besides those of the system
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// How long to be silent on an agent's connection, to see who cuts it; 25s at most, since kas cuts strangers then
    #[arg(long, value_name = "DURATION", default_value = "20s", value_parser = duration::parse_positive)]
    idle_limit: Duration,
}

fn user_target(address: &str) -> Result<Target, TargetError> {
    Target::parse_http(address)
}

/// Dials both addresses.
pub(super) async fn examine(args: &OutsideArgs, report: &mut Report) {
    let tls = ClientTlsOptions {
        ca_files: args.ca_file.iter().cloned().collect(),
        ..ClientTlsOptions::default()
    };
    let options = ConnectOptions {
        user_agent: version::server(),
        proxy: ProxySetting::None,
        ..ConnectOptions::default()
    };
    match &args.agents_url {
        None => {
            let why = "name the address that agents dial by --agents-url";
            report.add("load balancer", "as an agent", Finding::not_checked(why));
        }
        Some(target) => {
            let path = AgentPath::new(
                target.clone(),
                options.clone(),
                tls.clone(),
                HeaderMap::new(),
            );
            let path = path.with_idle_limit(args.idle_limit);
            path.examine(report).await;
        }
    }
    match &args.users_url {
        None => {
            let why = "name the address of the Kubernetes API by --users-url";
            report.add("load balancer", "as a user", Finding::not_checked(why));
        }
        Some(target) => {
            UserPath::new(target.clone(), options, tls)
                .examine(report)
                .await;
        }
    }
}

//! `kas doctor FILE`: what keeps this server from serving, from its files to the load balancer in front of it.

mod files;
mod gitlab;
mod outside;
mod peers;
mod ports;
mod store;

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use runtime::doctor::{Fault, Finding, Report};

use super::{CommandError, Output, check_config::mistakes};
use crate::{app::preflight, config};
use outside::OutsideArgs;

/// The part of the way that is this machine.
const HERE: &str = "kas";

/// How findings are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    /// A line for each check
    #[default]
    Text,
    /// JSON
    Json,
}

/// What to look at.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// The configuration file
    file: PathBuf,
    /// The way from outside.
    #[command(flatten)]
    outside: OutsideArgs,
    /// Output format
    #[arg(short, long, value_enum, default_value_t)]
    output: ReportFormat,
}

/// How long the store may take, and each peer.
const PART_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks at everything, prints it, and fails if something does not work.
pub(super) async fn run(args: DoctorArgs, output: &mut Output<'_>) -> Result<(), CommandError> {
    let mut report = Report::default();
    examine(&args, &mut report).await;
    match args.output {
        ReportFormat::Text => output.result(&report.to_string())?,
        ReportFormat::Json => output.json(&report)?,
    }
    match report.has_failed() {
        true => Err(CommandError::Unhealthy),
        false => Ok(()),
    }
}

async fn examine(args: &DoctorArgs, report: &mut Report) {
    let loaded = match config::load(&args.file) {
        Ok(loaded) => loaded,
        Err(error) => {
            let finding = Finding::failed(Fault::Configuration, error.to_string());
            report.add(HERE, "configuration", finding);
            return;
        }
    };
    let config = &loaded.config;
    let shown = args.file.display();
    for note in &loaded.notes {
        let finding = Finding::warning(Fault::Configuration, format!("{shown}:{note}"));
        report.add(HERE, "ignored key", finding);
    }
    for mistake in mistakes(config) {
        let finding = Finding::warning(Fault::Configuration, mistake);
        report.add(HERE, "likely mistake", finding);
    }
    let refusals = preflight::refusals(config);
    for refusal in &refusals {
        let finding = Finding::failed(Fault::Configuration, format!("{refusal:#}"));
        report.add(HERE, "configuration", finding);
    }
    if refusals.is_empty() {
        let seen = format!("{shown}: the server would start with it");
        report.add(HERE, "configuration", Finding::ok(seen));
    }
    files::examine(&config.show(), report);
    ports::examine(config, report).await;
    let leases = store::examine(config, report).await;
    peers::examine(config, &leases, report).await;
    gitlab::examine(config, report).await;
    outside::examine(&args.outside, report).await;
}

//! `loadtest`: measures a kas over the public wire only, whoever wrote it.

mod backend;
mod bench;
mod body;
pub mod chaos;
mod content;
mod faults;
mod fleet;
mod http_body;
mod http_get;
mod limits;
mod origin;
mod output;
pub mod ports;
mod process;
mod record;
mod report;
mod run;
mod scenario;
mod script;
mod topology;
mod traffic;

use clap::{Parser, Subcommand};

/// Simulated agents, traffic and benchmarks for a kas.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version = origin::LOADTEST)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Connects many simulated agents that answer from a scripted Kubernetes API.
    Fleet(fleet::Options),
    /// Sends requests to a Kubernetes proxy and verifies every body.
    Traffic(traffic::Options),
    /// Injects faults into links and processes at given times.
    Faults(faults::Options),
    /// Serves the scripted Kubernetes API over HTTP, for real agents.
    Backend(backend::Options),
    /// Runs a scenario (topology, phases, faults), checks its objectives and writes a report.
    Run(run::Options),
    /// Writes a report that compares several runs.
    Compare(report::CompareOptions),
    /// Computes memory and CPU per agent and replica from runs with idle agents.
    Sizing(report::SizingOptions),
    /// Starts a kas on loopback and measures it; ends within minutes.
    Bench(bench::Options),
    /// Measures our kas and GitLab's alternately; prints the ratios.
    BenchCompare(bench::CompareOptions),
}

/// Does what the command line asks for.
///
/// # Errors
/// When that cannot be done, or a measured target did not do what was asked of it.
pub async fn run() -> anyhow::Result<()> {
    let command = CommandLine::parse().command;
    runtime::telemetry::start(
        runtime::telemetry::LogLevel::Warn,
        runtime::telemetry::Format::Text,
    );
    match command {
        Command::Fleet(options) => fleet::run(options).await,
        Command::Traffic(options) => traffic::run(options).await,
        Command::Faults(options) => faults::run(options).await,
        Command::Backend(options) => backend::run(options).await,
        Command::Run(options) => run::run(options).await,
        Command::Compare(options) => report::compare(&options),
        Command::Bench(options) => bench::run(options).await,
        Command::Sizing(options) => report::sizing(&options),
        Command::BenchCompare(options) => bench::compare(options).await,
    }
}

//! `loadtest`: measures a kas over the public wire only, whoever wrote it.

mod backend;
mod bench;
mod body;
mod content;
mod fleet;
mod http_body;
mod limits;
mod output;
mod process;
mod script;
mod traffic;

use clap::{Parser, Subcommand};

/// Simulated agents, traffic and benchmarks for a kas.
#[derive(Debug, Parser)]
#[command(name = "loadtest", version)]
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
    /// Serves the scripted Kubernetes API over HTTP, for real agents.
    Backend(backend::Options),
    /// Starts a kas on loopback and measures it; ends within minutes.
    Bench(bench::Options),
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let command = CommandLine::parse().command;
    runtime::telemetry::start(
        tracing::level_filters::LevelFilter::WARN,
        runtime::telemetry::Format::Text,
    );
    match command {
        Command::Fleet(options) => fleet::run(options).await,
        Command::Traffic(options) => traffic::run(options).await,
        Command::Backend(options) => backend::run(options).await,
        Command::Bench(options) => bench::run(options).await,
    }
}

//! `loadtest`: measures a kas over the public wire only, whoever wrote it.

use std::{io::Write, process::ExitCode};

#[tokio::main]
async fn main() -> ExitCode {
    let Err(error) = loadtest::run().await else {
        return ExitCode::SUCCESS;
    };
    // Nobody may be reading, which changes nothing.
    let _ = writeln!(std::io::stderr(), "error: {error:#}");
    ExitCode::FAILURE
}

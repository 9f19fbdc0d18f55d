//! The agent server for Kubernetes.

use std::process::ExitCode;

use clap::Parser;
use kas::{
    app,
    cli::{Cli, Command, Output},
};
use runtime::core_dumps;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    if let Err(error) = core_dumps::turn_off() {
        warn(&error);
    }
    match run(Cli::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report(&error);
            ExitCode::FAILURE
        }
    }
}

async fn run(cli: Cli) -> anyhow::Result<()> {
    match (cli.command, cli.configuration_file) {
        #[cfg(feature = "playground")]
        (Some(Command::Up(args)), _) => kas::up::up(args).await,
        #[cfg(not(feature = "playground"))]
        (Some(Command::Up(_)), _) => anyhow::bail!(
            "`kas up` is not part of this build, which is for servers: build kas with its default features"
        ),
        (Some(Command::File(command)), _) => {
            let (mut results, mut hints) = (std::io::stdout(), std::io::stderr());
            Ok(command
                .run(&mut Output::new(&mut results, &mut hints))
                .await?)
        }
        (None, Some(file)) => app::run(&file).await,
        (None, None) => anyhow::bail!(
            "nothing to do: use --configuration-file FILE to run a server, or `kas up` to try it out (see --help)"
        ),
    }
}

#[expect(
    clippy::print_stderr,
    reason = "there is no log yet, and of most commands never"
)]
fn warn(error: &std::io::Error) {
    eprintln!("cannot turn core dumps off, so a crash may write secrets to a file: {error}");
}

#[expect(clippy::print_stderr, reason = "the last words of the process")]
fn report(error: &anyhow::Error) {
    eprintln!("Program aborted: {error:#}");
}

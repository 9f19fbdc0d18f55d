//! The agent's binary: flags, logs, signals.

use std::{process::ExitCode, sync::Arc};

use agentk::{
    Config, SetLogLevel, doctor,
    flags::{CommandLine, Doctor, Flags},
    logging,
};
use runtime::{
    core_dumps,
    signal::{Hangup, Termination},
};
use tokio_util::sync::CancellationToken;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() -> ExitCode {
    if let Err(error) = core_dumps::turn_off() {
        warn(&error);
    }
    let line = doctor::with_flags_of_the_agent(std::env::args_os().collect());
    let flags = match CommandLine::read(line) {
        Ok(CommandLine::Run(flags)) => *flags,
        Ok(CommandLine::Rbac(rbac)) => {
            print(&rbac.yaml());
            return ExitCode::SUCCESS;
        }
        Ok(CommandLine::Doctor(asked)) => return examine(*asked).await,
        Err(error) => error.exit(),
    };
    let set_level = logging::start();
    runtime::panics::log_and_count();
    runtime::descriptors::raise_limit();
    match start(flags, Arc::new(set_level)).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

async fn examine(asked: Doctor) -> ExitCode {
    let examined = asked.examine(|name| std::env::var(name).ok()).await;
    match examined {
        Ok((text, healthy)) => {
            print(&text);
            match healthy {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            }
        }
        Err(error) => {
            print_error(&error);
            ExitCode::FAILURE
        }
    }
}

async fn start(
    flags: Flags,
    set_level: Arc<dyn Fn(agentk::LogLevel) + Send + Sync>,
) -> anyhow::Result<()> {
    let mut config: Config = flags.into_config(|name| std::env::var(name).ok())?;
    config.log_level = Some(SetLogLevel(set_level));
    let mut signals = Termination::listen()?;
    let mut hangup = Hangup::listen()?;
    let (stop, force) = (CancellationToken::new(), CancellationToken::new());
    let running = agentk::run(config, stop.clone(), force.clone());
    tokio::pin!(running);
    let signal = loop {
        tokio::select! {
            result = &mut running => return Ok(result?),
            signal = signals.next() => break signal,
            () = hangup.next() => tracing::info!(
                "SIGHUP: nothing to reload; token and certificates are read again when they change, flags need a restart"
            ),
        }
    };
    tracing::info!(
        signal,
        "stopping; send the signal again to cancel calls in progress"
    );
    stop.cancel();
    tokio::select! {
        result = &mut running => return Ok(result?),
        signal = signals.force() => tracing::warn!(signal, "second signal; cancelling calls in progress"),
    }
    force.cancel();
    Ok(running.await?)
}

#[expect(clippy::print_stdout, reason = "the output of a command")]
fn print(text: &str) {
    print!("{text}");
}

#[expect(clippy::print_stderr, reason = "there is no log yet")]
fn warn(error: &std::io::Error) {
    eprintln!("cannot turn core dumps off, so a crash may write secrets to a file: {error}");
}

#[expect(clippy::print_stderr, reason = "the error that ends the process")]
fn print_error(error: &anyhow::Error) {
    eprintln!("Program aborted: {error:#}");
}

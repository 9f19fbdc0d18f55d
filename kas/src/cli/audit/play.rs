//! `kas audit play`: what the user of a session saw.

use std::{path::PathBuf, time::Duration};

use ::audit::recording::play::{self, PlayError};
use clap::Args;

use crate::cli::{CommandError, Output, duration};

/// Which recording, and how.
#[derive(Debug, Args)]
pub struct Play {
    /// File of a recording; with --folder, the id of a session or of the request that opened it
    recording: PathBuf,
    /// The folder of recordings (audit.recording.folder)
    #[arg(long)]
    folder: Option<PathBuf>,
    /// How many times as fast as it was
    #[arg(long, value_name = "FACTOR", default_value = "1", value_parser = speed)]
    speed: f64,
    /// Longest pause that is waited for, such as 2s
    #[arg(long, value_name = "DURATION", value_parser = duration::parse_positive)]
    max_pause: Option<Duration>,
    /// Print all at once
    #[arg(long, conflicts_with_all = ["speed", "max_pause"])]
    no_wait: bool,
}

/// What is no speed.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("give a number above zero, such as 2 or 0.5")]
struct NoSpeed;

/// A step on the way, which may also fail to print.
#[derive(Debug)]
enum Step {
    Read(PlayError),
    Print(CommandError),
}

impl From<PlayError> for Step {
    fn from(error: PlayError) -> Self {
        Self::Read(error)
    }
}

pub(super) fn run(args: &Play, output: &mut Output<'_>) -> Result<(), CommandError> {
    let failed = |error| CommandError::Play {
        recording: args.recording.clone(),
        error,
    };
    let file = match &args.folder {
        Some(folder) => {
            let id = args.recording.to_string_lossy();
            play::find(folder, &id).map_err(failed)?
        }
        None => args.recording.clone(),
    };
    let mut before = Duration::ZERO;
    let played = play::read(&file, |event| {
        let pause = event.at.saturating_sub(before);
        before = event.at;
        if event.code != "o" {
            return Ok(());
        }
        if !args.no_wait {
            let pause = pause.div_f64(args.speed);
            wait(args.max_pause.map_or(pause, |most| pause.min(most)));
        }
        output.raw(&event.data).map_err(Step::Print)
    });
    played.map_err(|step| match step {
        Step::Read(error) => failed(error),
        Step::Print(error) => error,
    })
}

fn speed(text: &str) -> Result<f64, NoSpeed> {
    let speed = text.parse::<f64>().map_err(|_| NoSpeed)?;
    let sound = speed.is_finite() && (0.001..=1_000_000.0).contains(&speed);
    if sound { Ok(speed) } else { Err(NoSpeed) }
}

#[expect(
    clippy::disallowed_methods,
    reason = "this command does nothing else meanwhile"
)]
fn wait(pause: Duration) {
    std::thread::sleep(pause);
}

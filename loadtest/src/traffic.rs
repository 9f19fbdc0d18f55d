//! `loadtest traffic`: requests to a Kubernetes proxy, every body verified.

mod client;
mod options;
mod pace;
mod report;
mod target;
mod verify;

use std::{sync::Arc, time::Duration};

use anyhow::ensure;
use runtime::signal::Termination;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{limits, output};
use client::Client;
pub(crate) use options::Options;
use pace::Pace;
pub(crate) use report::Report;
use report::Tally;
use target::Target;
use verify::Expected;

/// How long clients may take to finish after the end was called.
const FINISH: Duration = Duration::from_secs(40);

/// What all clients share.
#[derive(Debug)]
struct Work {
    target: Target,
    expected: Expected,
    pace: Pace,
    timeout: Duration,
}

/// Sends the traffic, prints the report, fails if any request failed.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let report = send(&options).await?;
    output::json(&report)?;
    ensure!(report.errors() == 0, "{} requests failed", report.errors());
    Ok(())
}

/// Sends the traffic, until its end or a signal.
pub(crate) async fn send(options: &Options) -> anyhow::Result<Report> {
    limits::make_room(options.clients())?;
    let target = Target::new(options)?;
    let work = Arc::new(Work {
        expected: Expected::new(target.path(), options.post),
        target,
        pace: Pace::new(options.rate, options.requests(), options.duration()),
        timeout: options.timeout(),
    });
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for _ in 0..options.clients() {
        clients.spawn(Client::new(work.clone(), stop.clone()).run());
    }
    let tally = gather(clients, stop).await?;
    Ok(Report::new(tally, work.pace.elapsed()))
}

/// Waits for all clients; a signal stops them.
async fn gather(mut clients: JoinSet<Tally>, stop: CancellationToken) -> anyhow::Result<Tally> {
    let mut termination = Termination::listen()?;
    let mut all = Tally::default();
    loop {
        tokio::select! {
            joined = clients.join_next() => match joined {
                Some(tally) => all.add(&tally?),
                None => return Ok(all),
            },
            _ = termination.next(), if !stop.is_cancelled() => stop.cancel(),
            () = late(&stop) => return Ok(all),
        }
    }
}

async fn late(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(FINISH).await;
}

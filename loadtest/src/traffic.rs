//! `loadtest traffic`: requests to a Kubernetes proxy, every body verified.

mod client;
mod exec;
mod kind;
mod mix;
mod options;
mod pacer;
mod report;
mod series;
mod target;
mod verify;

use std::{pin::pin, sync::Arc, time::Duration};

use anyhow::ensure;
use runtime::signal::Termination;
use tokio::{task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{limits, output, script};
use client::Client;
pub(crate) use exec::Exec;
pub(crate) use kind::{Kind, Traffic};
pub(crate) use options::{Options, USERS};
use pacer::Pacer;
#[cfg(test)]
pub(crate) use report::Latency;
pub(crate) use report::{Report, Tally};
pub(crate) use series::{Point, Series};
use target::Target;
use verify::Expected;

/// How long clients may take to finish after the end was called.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);

/// What all clients share.
#[derive(Debug)]
struct Work {
    target: Target,
    expected: Expected,
    pacer: Pacer,
    timeout: Duration,
    retries: u32,
    /// Bytes a second at which answers are read.
    read_rate: Option<f64>,
    /// What is said where the answer is a WebSocket.
    exec: Option<Exec>,
    /// The time that an answer takes by its script.
    scripted: Duration,
    series: Option<Arc<Series>>,
}

/// Sends the traffic, prints the report, fails if any request failed.
pub(crate) async fn run(options: Options) -> anyhow::Result<()> {
    let errors = if options.mix.is_empty() {
        let report = send(&options).await?;
        output::json(&report)?;
        report.errors()
    } else {
        let reports = mix::send(&options).await?;
        output::json(&reports)?;
        reports.values().map(Report::errors).sum()
    };
    ensure!(errors == 0, "{errors} requests failed");
    Ok(())
}

/// Sends the traffic, until its end or a signal.
pub(crate) async fn send(options: &Options) -> anyhow::Result<Report> {
    limits::make_room(options.clients())?;
    let mut termination = Termination::listen()?;
    let stop = CancellationToken::new();
    let began = Instant::now();
    let mut sending = pin!(send_until(options, None, stop.clone()));
    let tally = tokio::select! {
        tally = &mut sending => tally?,
        _ = termination.next() => {
            stop.cancel();
            sending.await?
        }
    };
    Ok(Report::new(&tally, began.elapsed()))
}

/// Sends the traffic, until its end or `stop`; what it counts is in `series` too.
pub(crate) async fn send_until(
    options: &Options,
    series: Option<Arc<Series>>,
    stop: CancellationToken,
) -> anyhow::Result<Tally> {
    let target = Target::new(options)?;
    let expected = Expected::new(target.path(), options.post);
    let exec = options.exec;
    let (delay, _) = script::delay(target.path());
    let work = Arc::new(Work {
        scripted: delay + expected.scripted() + exec.map_or(Duration::ZERO, |it| it.scripted()),
        exec,
        expected,
        target,
        pacer: Pacer::new(options.rate, options.requests(), options.duration()),
        timeout: options.timeout(),
        retries: options.retries,
        read_rate: options.read_rate(),
        series,
    });
    let mut clients = JoinSet::new();
    for _ in 0..options.clients() {
        clients.spawn(Client::new(work.clone(), stop.clone()).run());
    }
    gather(clients, stop).await
}

/// Waits for all clients.
async fn gather(mut clients: JoinSet<Tally>, stop: CancellationToken) -> anyhow::Result<Tally> {
    let mut all = Tally::default();
    loop {
        tokio::select! {
            joined = clients.join_next() => match joined {
                Some(tally) => all.add(&tally?),
                None => return Ok(all),
            },
            () = overdue(&stop) => return Ok(all),
        }
    }
}

async fn overdue(stop: &CancellationToken) {
    stop.cancelled().await;
    tokio::time::sleep(FINISH_TIMEOUT).await;
}

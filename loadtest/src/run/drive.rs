//! The course of a run: agents come, phases follow each other, everything is written down.

use std::{path::Path, pin::pin, sync::Arc, time::Duration};

use anyhow::bail;
use futures_util::{StreamExt, stream::FuturesUnordered};
use runtime::signal::Termination;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;

use super::{
    progress::Progress,
    sampler::{Sampler, Seen},
    stage::Stage,
};
use crate::{
    faults,
    record::{Mark, Record, Span, Stream},
    scenario::{Action, Fault, Phase, Scenario},
    traffic::{self, Kind, Report, Series, Tally, Traffic},
};

/// How long requests in progress may take after the last phase.
const FINISH_TIMEOUT: Duration = Duration::from_secs(60);
/// Intervals of latency in one run, at most.
const MAX_POINTS: f64 = 600.0;

/// One run in progress.
pub(super) struct Drive<'a> {
    scenario: &'a Scenario,
    stage: &'a Stage,
    record: &'a mut Record,
    began: Instant,
    /// Length of an interval of latencies.
    every: Duration,
    seen: Arc<Seen>,
    streams: JoinSet<anyhow::Result<Over>>,
    stop: CancellationToken,
}

/// Traffic that is over.
struct Over {
    phase: String,
    kind: Kind,
    warm_up: bool,
    seconds: Duration,
    tally: Tally,
    series: Arc<Series>,
}

impl<'a> Drive<'a> {
    pub(super) fn new(scenario: &'a Scenario, stage: &'a Stage, record: &'a mut Record) -> Self {
        let began = Instant::now();
        let seen = Arc::new(Seen::default());
        let every = Duration::from_secs_f64((scenario.seconds() / MAX_POINTS).max(1.0));
        record.empty_kib = stage.empty_kib.iter().cloned().collect();
        Self {
            scenario,
            stage,
            record,
            began,
            every,
            seen,
            streams: JoinSet::new(),
            stop: CancellationToken::new(),
        }
    }

    /// Goes on to the end of the last phase, or to a signal.
    pub(super) async fn run(
        mut self,
        folder: &Path,
        termination: &mut Termination,
    ) -> anyhow::Result<()> {
        let every = Duration::from_secs_f64(self.scenario.sample_every);
        let (stage, stop, began) = (self.stage, self.stop.clone(), self.began);
        let mut sampler = Sampler::new(self.seen.clone(), began, folder)?;
        let progress = Progress::new(self.scenario, self.began);
        let result = {
            let sampling = sampler.run(stage, every, &progress);
            let course = self.course();
            tokio::select! {
                result = course => result,
                never = sampling => match never {},
                signal = termination.next() => {
                    stop.cancel();
                    Err(anyhow::anyhow!("ended by {signal}"))
                }
            }
        };
        progress.end();
        stop.cancel();
        let result = result.and(self.finish().await);
        self.record.samples = sampler.end(stage).await;
        self.record.seconds = began.elapsed().as_secs_f64();
        result
    }

    async fn course(&mut self) -> anyhow::Result<()> {
        self.stage.agents.ready().await?;
        for (number, pid) in (1..).zip(&self.stage.agents.said().borrow().agentks) {
            self.stage
                .reach
                .census
                .came(&format!("agentk {number}"), *pid);
        }
        let ready = self.began.elapsed().as_secs_f64();
        self.record
            .figures
            .insert("ready_seconds".to_owned(), ready);
        self.span("agents connect", 0.0, true, false);
        for phase in &self.scenario.phases {
            self.phase(&phase.value).await?;
        }
        let mut finishing = pin!(sleep(FINISH_TIMEOUT));
        while !self.streams.is_empty() {
            tokio::select! {
                Some(over) = self.streams.join_next() => self.over(over??),
                () = &mut finishing => bail!("requests of the last phase are not over after {FINISH_TIMEOUT:?}"),
            }
        }
        Ok(())
    }

    fn span(&mut self, name: &str, from: f64, warm_up: bool, idle: bool) {
        self.record.phases.push(Span {
            name: name.to_owned(),
            from,
            to: self.began.elapsed().as_secs_f64(),
            warm_up,
            idle,
        });
    }

    async fn phase(&mut self, phase: &'a Phase) -> anyhow::Result<()> {
        let from = Instant::now();
        self.seen.phase(&phase.name);
        let end = from + Duration::from_secs_f64(phase.seconds);
        for traffic in &phase.traffic {
            self.start(phase, &traffic.value);
        }
        let (began, stage) = (self.began, self.stage);
        let happen = async |fault: &Fault| {
            sleep_until(from + Duration::from_secs_f64(fault.at)).await;
            let mark = began.elapsed().as_secs_f64();
            let result = match fault.action {
                Action::Reconnect => stage.agents.reconnect(),
                _ => faults::happen(fault, &stage.reach).await,
            };
            let to = began.elapsed().as_secs_f64();
            result.map(|()| Mark {
                what: fault.name(),
                from: mark,
                to,
            })
        };
        let faults = phase.faults.iter().map(|fault| &fault.value);
        let mut happening: FuturesUnordered<_> = faults.map(happen).collect();
        let mut over = pin!(sleep_until(end));
        let mut in_time = true;
        while in_time || !happening.is_empty() {
            tokio::select! {
                Some(mark) = happening.next(), if !happening.is_empty() => {
                    self.record.marks.push(mark?);
                }
                () = &mut over, if in_time => in_time = false,
                Some(over) = self.streams.join_next(), if !self.streams.is_empty() => {
                    self.over(over??);
                }
            }
        }
        let from = (from - self.began).as_secs_f64();
        self.span(
            &phase.name,
            from,
            phase.warm_up,
            phase.traffic.is_empty() && phase.faults.is_empty(),
        );
        Ok(())
    }

    fn start(&mut self, phase: &Phase, traffic: &Traffic) {
        let series = Arc::new(Series::new(self.began, self.every));
        self.seen.watch(series.clone());
        let options = self.options(phase, traffic);
        let (name, kind, warm_up) = (phase.name.clone(), traffic.kind, phase.warm_up);
        let stop = self.stop.clone();
        self.streams.spawn(async move {
            let began = Instant::now();
            let tally = traffic::send_until(&options, Some(series.clone()), stop).await?;
            Ok(Over {
                phase: name,
                kind,
                warm_up,
                seconds: began.elapsed(),
                tally,
                series,
            })
        });
    }

    fn options(&self, phase: &Phase, traffic: &Traffic) -> traffic::Options {
        let place = &self.stage.place;
        traffic.options(&traffic::Options {
            url: place.url.clone(),
            bearer: Some(place.bearer.clone()),
            agents: Some((1, self.scenario.fleet.agents as u64)),
            duration: Some(phase.seconds),
            ca_cert_file: place.certificate.clone(),
            ..Default::default()
        })
    }

    fn over(&mut self, over: Over) {
        self.record.streams.push(Stream {
            phase: over.phase,
            kind: over.kind,
            warm_up: over.warm_up,
            total: Report::new(&over.tally, over.seconds),
            points: over.series.points(),
        });
    }

    /// Takes in what is still on its way.
    async fn finish(&mut self) -> anyhow::Result<()> {
        while let Some(over) = self.streams.join_next().await {
            self.over(over??);
        }
        Ok(())
    }
}

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
    environment::Environment,
    progress::Progress,
    sampler::{LiveState, Sampler},
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
pub(super) struct Runner<'a> {
    scenario: &'a Scenario,
    environment: &'a Environment,
    record: &'a mut Record,
    began: Instant,
    /// Length of an interval of latencies.
    every: Duration,
    live: Arc<LiveState>,
    streams: JoinSet<anyhow::Result<FinishedTraffic>>,
    stop: CancellationToken,
}

/// Traffic that is over.
struct FinishedTraffic {
    phase: String,
    kind: Kind,
    warm_up: bool,
    seconds: Duration,
    tally: Tally,
    series: Arc<Series>,
}

impl<'a> Runner<'a> {
    pub(super) fn new(
        scenario: &'a Scenario,
        environment: &'a Environment,
        record: &'a mut Record,
    ) -> Self {
        let began = Instant::now();
        let live = Arc::new(LiveState::default());
        let every = Duration::from_secs_f64((scenario.seconds() / MAX_POINTS).max(1.0));
        record.empty_kib = environment.empty_kib.iter().cloned().collect();
        Self {
            scenario,
            environment,
            record,
            began,
            every,
            live,
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
        let (environment, stop, began) = (self.environment, self.stop.clone(), self.began);
        let mut sampler = Sampler::new(self.live.clone(), began, folder)?;
        let progress = Progress::new(self.scenario, self.began);
        let result = {
            let sampling = sampler.run(environment, every, &progress);
            let phases = self.run_phases();
            tokio::select! {
                result = phases => result,
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
        self.record.samples = sampler.end(environment).await;
        self.record.seconds = began.elapsed().as_secs_f64();
        result
    }

    async fn run_phases(&mut self) -> anyhow::Result<()> {
        self.environment.agents.ready().await?;
        for (number, pid) in (1..).zip(&self.environment.agents.output().borrow().agentks) {
            self.environment
                .subjects
                .processes
                .insert(&format!("agentk {number}"), *pid);
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
                Some(over) = self.streams.join_next() => self.finished(over??),
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
        self.live.phase(&phase.name);
        let end = from + Duration::from_secs_f64(phase.seconds);
        for traffic in &phase.traffic {
            self.start(phase, &traffic.value);
        }
        let (began, environment) = (self.began, self.environment);
        let inject = async |fault: &Fault| {
            sleep_until(from + Duration::from_secs_f64(fault.at)).await;
            let mark = began.elapsed().as_secs_f64();
            let result = match fault.action {
                Action::Reconnect => environment.agents.reconnect(),
                _ => faults::inject(fault, &environment.subjects).await,
            };
            let to = began.elapsed().as_secs_f64();
            result.map(|()| Mark {
                what: fault.name(),
                from: mark,
                to,
            })
        };
        let faults = phase.faults.iter().map(|fault| &fault.value);
        let mut injecting: FuturesUnordered<_> = faults.map(inject).collect();
        let mut over = pin!(sleep_until(end));
        let mut in_time = true;
        while in_time || !injecting.is_empty() {
            tokio::select! {
                Some(mark) = injecting.next(), if !injecting.is_empty() => {
                    self.record.marks.push(mark?);
                }
                () = &mut over, if in_time => in_time = false,
                Some(over) = self.streams.join_next(), if !self.streams.is_empty() => {
                    self.finished(over??);
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
        self.live.watch(series.clone());
        let options = self.options(phase, traffic);
        let (name, kind, warm_up) = (phase.name.clone(), traffic.kind, phase.warm_up);
        let stop = self.stop.clone();
        self.streams.spawn(async move {
            let began = Instant::now();
            let tally = traffic::send_until(&options, Some(series.clone()), stop).await?;
            Ok(FinishedTraffic {
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
        let endpoints = &self.environment.endpoints;
        traffic.options(&traffic::Options {
            url: endpoints.url.clone(),
            bearer: Some(endpoints.bearer.clone()),
            agents: Some((1, self.scenario.fleet.agents as u64)),
            duration: Some(phase.seconds),
            ca_cert_file: endpoints.certificate.clone(),
            ..Default::default()
        })
    }

    fn finished(&mut self, over: FinishedTraffic) {
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
            self.finished(over??);
        }
        Ok(())
    }
}

//! What every process uses, again and again, written down as it is seen.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::Context;
use rustix::process::Pid;
use tokio::time::{Instant, MissedTickBehavior, interval, timeout};

use super::{environment::Environment, progress::Progress};
use crate::{
    http_get, process,
    record::{Redis, Sample, Usage},
    topology::store,
    traffic::Series,
};

/// How long Redis or a replica may take to answer: less than the time between two samples.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(700);
/// Samples that are kept for the report; all of them are in the file.
const MAX_SAMPLES: usize = 20_000;

/// What goes on, for whoever looks from outside.
#[derive(Debug, Default)]
pub(super) struct LiveState(Mutex<Live>);

#[derive(Debug, Default)]
struct Live {
    phase: String,
    series: Vec<Arc<Series>>,
}

impl LiveState {
    pub(super) fn phase(&self, name: &str) {
        name.clone_into(&mut self.lock().phase);
    }

    pub(super) fn watch(&self, series: Arc<Series>) {
        self.lock().series.push(series);
    }

    /// The phase, and how many requests were answered and failed so far.
    pub(super) fn counts(&self) -> (String, u64, u64) {
        let now = self.lock();
        let counts = now.series.iter().map(|series| series.counts());
        let (answered, failed) =
            counts.fold((0, 0), |sum, count| (sum.0 + count.0, sum.1 + count.1));
        (now.phase.clone(), answered, failed)
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Samples so far.
pub(super) struct Sampler {
    live: Arc<LiveState>,
    began: Instant,
    file: BufWriter<File>,
    /// CPU of processes by name: the whole, and that of the process that has the name now.
    cpu: BTreeMap<String, (Duration, Pid, Duration)>,
    /// How often Redis was asked from here.
    own_commands: u64,
    samples: Vec<Sample>,
}

impl Sampler {
    /// Writes to `samples.jsonl` in `folder`.
    pub(super) fn new(live: Arc<LiveState>, began: Instant, folder: &Path) -> anyhow::Result<Self> {
        let file = folder.join("samples.jsonl");
        let file =
            File::create(&file).with_context(|| format!("cannot write {}", file.display()))?;
        Ok(Self {
            live,
            began,
            file: BufWriter::new(file),
            cpu: BTreeMap::new(),
            own_commands: 0,
            samples: Vec::new(),
        })
    }

    /// Goes on until it is dropped.
    pub(super) async fn run(
        &mut self,
        environment: &Environment,
        every: Duration,
        progress: &Progress,
    ) -> Infallible {
        let mut ticks = interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            let sample = self.sample(environment).await;
            progress.show(&self.live.counts().0, &sample);
            self.keep(sample);
        }
    }

    /// Takes a last sample; gives all.
    pub(super) async fn end(mut self, environment: &Environment) -> Vec<Sample> {
        let last = self.sample(environment).await;
        self.keep(last);
        self.samples
    }

    fn keep(&mut self, sample: Sample) {
        // What cannot be written is in the report nevertheless.
        if let Ok(line) = serde_json::to_string(&sample) {
            let _ = writeln!(self.file, "{line}").and_then(|()| self.file.flush());
        }
        if self.samples.len() < MAX_SAMPLES {
            self.samples.push(sample);
        }
    }

    async fn sample(&mut self, environment: &Environment) -> Sample {
        let at = self.began.elapsed().as_secs_f64();
        let (_, answered, failed) = self.live.counts();
        let processes = environment.subjects.processes.all().into_iter();
        let processes = processes.filter_map(|(name, pid)| {
            let usage = self.usage(&name, pid)?;
            Some((name, usage))
        });
        let processes = processes.collect();
        let redis = async {
            let redis = environment.endpoints.redis.as_deref()?;
            store::stats(redis, ANSWER_TIMEOUT).await.ok()
        };
        let metrics = environment
            .endpoints
            .metrics
            .iter()
            .map(|(name, url)| async move {
                let metrics = timeout(ANSWER_TIMEOUT, scrape(url)).await.ok()?.ok()?;
                Some((name.clone(), metrics))
            });
        let (redis, metrics) = tokio::join!(redis, futures_util::future::join_all(metrics));
        let redis = redis.map(|redis| {
            let commands = redis.commands.saturating_sub(self.own_commands);
            self.own_commands += 1;
            Redis {
                commands,
                bytes: redis.memory,
            }
        });
        Sample {
            at,
            answered,
            failed,
            processes,
            redis,
            metrics: metrics.into_iter().flatten().collect(),
            fleet: environment.agents.output().borrow().status,
        }
    }

    fn usage(&mut self, name: &str, pid: Pid) -> Option<Usage> {
        let sample = process::sample(pid).ok()?;
        let known = self.cpu.entry(name.to_owned());
        // Before the first sample it counts nothing; a new process counts from its start.
        let (whole, of, last) = known.or_insert((Duration::ZERO, pid, sample.cpu));
        let more = if *of == pid {
            sample.cpu.saturating_sub(*last)
        } else {
            sample.cpu
        };
        *whole += more;
        (*of, *last) = (pid, sample.cpu);
        Some(Usage {
            cpu_ms: whole.as_secs_f64() * 1e3,
            resident_kib: sample.resident,
            files: sample.files,
        })
    }
}

/// The metrics at a URL, each summed over its labels.
pub(crate) async fn scrape(url: &str) -> anyhow::Result<BTreeMap<String, f64>> {
    let (_, body) = http_get::get(url).await?;
    Ok(parse(&String::from_utf8_lossy(&body)))
}

/// Reads the text format of Prometheus; histograms keep only sum and count.
fn parse(text: &str) -> BTreeMap<String, f64> {
    let mut metrics = BTreeMap::new();
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    for line in lines {
        let name_ends = line.find(['{', ' ']).unwrap_or(line.len());
        let (name, rest) = line.split_at(name_ends);
        let value = rest.rsplit_once('}').map_or(rest, |(_, value)| value);
        let value = value
            .split_whitespace()
            .next()
            .and_then(|it| it.parse::<f64>().ok());
        if let Some(value) = value.filter(|value| value.is_finite() && !name.ends_with("_bucket")) {
            *metrics.entry(name.to_owned()).or_default() += value;
        }
    }
    metrics
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_are_summed_over_their_labels() {
        let text = "# HELP a b\na{x=\"1\"} 2\na{x=\"}\"} 3 1700000000\nb 1.5\nc_bucket{le=\"1\"} 9\nd NaN\n";

        let metrics = parse(text);

        let seen: Vec<_> = metrics
            .iter()
            .map(|(name, value)| (&**name, *value))
            .collect();
        assert_eq!(seen, [("a", 5.0), ("b", 1.5)]);
    }
}

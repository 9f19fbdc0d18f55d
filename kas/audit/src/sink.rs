//! A sink: a bounded queue, and the task that writes it.

mod client;
mod file;
mod http;
mod syslog;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use runtime::{
    backoff::Backoff,
    jwt::Secret,
    shares::{Limits, Share, Shares},
    telemetry::Repeats,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::{
    Identity, Kind, OpenError, Record,
    chain::Chain,
    config::{AuditSection, SinkSection},
    metrics::{AuditMetrics, Outcome},
    record::encode,
};
use file::FileOutput;
use http::HttpOutput;
use syslog::SyslogOutput;

/// Records that wait for one sink, by who asked; strangers are one.
const QUEUE: Limits = Limits {
    total: 4096,
    each: 1024,
    reserved: 512,
};
/// Records that are written together.
const BATCH_RECORDS: usize = 256;
const RETRY_BACKOFF_MIN: Duration = Duration::from_millis(100);
const RETRY_BACKOFF_MAX: Duration = Duration::from_secs(10);
/// How long writing may go on when the process ends.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// Why lines were not written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// They may be later.
    #[error("{0}")]
    Retry(String),
    /// They never will.
    #[error("{0}")]
    Refused(String),
}

/// Where lines go.
#[derive(Debug)]
pub(crate) enum Output {
    File(Option<FileOutput>),
    Syslog(Box<SyslogOutput>),
    Http(Box<HttpOutput>),
}

/// A sink that was opened.
#[derive(Debug)]
pub(crate) struct Opened {
    name: String,
    output: Output,
    chain: Chain,
    /// What was found wrong when it was.
    remark: Option<String>,
}

/// An end of a sink's queue.
#[derive(Debug)]
pub(crate) struct Queue {
    name: Arc<str>,
    entries: mpsc::Sender<Entry>,
    places: Shares<Arc<str>>,
    lost: Arc<AtomicU64>,
    metrics: AuditMetrics,
}

#[derive(Debug)]
struct Entry {
    /// A record's line, open for the chain.
    open: Arc<str>,
    /// Told when it is written.
    told: Option<oneshot::Sender<()>>,
    /// Its place, until it is written; what a sink says of itself has none.
    _place: Option<Share<Arc<str>>>,
}

/// Writes a queue to its sink.
#[derive(Debug)]
pub(crate) struct Writer {
    sink: Opened,
    entries: mpsc::Receiver<Entry>,
    identity: Identity,
    lost: Arc<AtomicU64>,
    metrics: AuditMetrics,
}

/// Opens the sinks of a section.
pub(crate) fn open(
    section: &AuditSection,
    key: Option<&Secret>,
    identity: &Identity,
) -> Result<Vec<Opened>, OpenError> {
    let mut opened: Vec<Opened> = Vec::new();
    for (number, sink) in section.sinks.iter().enumerate() {
        let at = format!("audit.sinks[{number}]");
        let mut sink = open_one(sink, at, key.cloned(), identity)?;
        let alike = opened.iter().filter(|it| it.name.starts_with(&sink.name));
        match alike.count() {
            0 => {}
            others => sink.name = format!("{}-{}", sink.name, others + 1),
        }
        opened.push(sink);
    }
    Ok(opened)
}

fn open_one(
    sink: &SinkSection,
    at: String,
    key: Option<Secret>,
    identity: &Identity,
) -> Result<Opened, OpenError> {
    if let Some(file) = &sink.file {
        let (output, found) = FileOutput::open(file, &at)?;
        let chain = match found.link {
            Some(link) => Chain::continued(link, key),
            None => Chain::new(key),
        };
        return Ok(Opened {
            name: "file".to_owned(),
            output: Output::File(Some(output)),
            chain,
            remark: found.remark,
        });
    }
    let (name, output) = match (&sink.syslog, &sink.http) {
        (Some(syslog), _) => {
            let output = SyslogOutput::new(syslog, &at, identity)?;
            ("syslog", Output::Syslog(Box::new(output)))
        }
        (None, Some(http)) => {
            let output = HttpOutput::new(http, &at, identity)?;
            ("http", Output::Http(Box::new(output)))
        }
        (None, None) => unreachable!("a section that was checked has one kind of sink"),
    };
    Ok(Opened {
        name: name.to_owned(),
        output,
        chain: Chain::new(key),
        remark: None,
    })
}

/// Whether sinks can be opened, as far as that is seen without opening them.
pub(crate) fn check(section: &AuditSection) -> Result<(), OpenError> {
    let nobody = Identity {
        replica: String::new(),
        version: String::new(),
    };
    for (number, sink) in section.sinks.iter().enumerate() {
        let at = format!("audit.sinks[{number}]");
        if let Some(file) = &sink.file {
            file::check(file, &at)?;
        }
        if let Some(syslog) = &sink.syslog {
            SyslogOutput::new(syslog, &at, &nobody)?;
        }
        if let Some(http) = &sink.http {
            HttpOutput::new(http, &at, &nobody)?;
        }
    }
    Ok(())
}

/// A queue to a sink, and what writes it.
pub(crate) fn connect(sink: Opened, identity: Identity, metrics: AuditMetrics) -> (Queue, Writer) {
    let (sender, entries) = mpsc::channel(QUEUE.total);
    let lost = Arc::<AtomicU64>::default();
    metrics.records(&sink.name, Outcome::Written, 0);
    metrics.records(&sink.name, Outcome::Dropped, 0);
    metrics.failing(&sink.name, false);
    let queue = Queue {
        name: sink.name.as_str().into(),
        entries: sender,
        places: Shares::new(QUEUE),
        lost: lost.clone(),
        metrics: metrics.clone(),
    };
    let writer = Writer {
        sink,
        entries,
        identity,
        lost,
        metrics,
    };
    (queue, writer)
}

impl Queue {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Adds a record of a caller, or drops it where there is no room.
    pub(crate) fn push(&self, open: &Arc<str>, caller: &Arc<str>) {
        if let Ok(place) = self.places.take(caller.clone(), 1) {
            let entry = Entry {
                open: open.clone(),
                told: None,
                _place: Some(place),
            };
            if self.entries.try_send(entry).is_ok() {
                return;
            }
        }
        static FULL: Repeats = Repeats::sparse("audit records dropped");
        self.lost.fetch_add(1, Ordering::Relaxed);
        self.metrics.records(&self.name, Outcome::Dropped, 1);
        if FULL.admit() {
            tracing::error!(
                sink = &*self.name,
                caller = &**caller,
                limit = QUEUE.total,
                limit_of_caller = QUEUE.each,
                "the queue of an audit sink is full; a record is lost there"
            );
        }
    }

    /// Adds a record of a caller that waits to be written; tells whether there is room.
    pub(crate) fn push_awaited(
        &self,
        open: &Arc<str>,
        caller: &Arc<str>,
        told: oneshot::Sender<()>,
    ) -> bool {
        let Ok(place) = self.places.take(caller.clone(), 1) else {
            return false;
        };
        let entry = Entry {
            open: open.clone(),
            told: Some(told),
            _place: Some(place),
        };
        self.entries.try_send(entry).is_ok()
    }
}

impl Writer {
    /// Writes until `stop`, and then what is left within [`CLOSE_TIMEOUT`].
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let name = self.sink.name.clone();
        let metrics = self.metrics.clone();
        let late = async {
            stop.cancelled().await;
            tokio::time::sleep(CLOSE_TIMEOUT).await;
        };
        tokio::select! {
            () = self.write_all(&stop) => {}
            () = late => {
                self.entries.close();
                let left = self.entries.len() as u64;
                metrics.records(&name, Outcome::Dropped, left);
                tracing::error!(
                    sink = name,
                    records = left,
                    "an audit sink was not written in time at the end; these records are lost there"
                );
            }
        }
    }

    async fn write_all(&mut self, stop: &CancellationToken) {
        let mut start = Record::new(Kind::Start);
        let version = self.identity.version.clone();
        start.version = Some(&version);
        start.hash_algorithm = Some(self.sink.chain.algorithm());
        let remark = self.sink.remark.take();
        start.reason = remark.as_deref().map(Into::into);
        self.write_own(&start).await;
        let mut batch = Vec::new();
        loop {
            let next = self.entries.recv_many(&mut batch, BATCH_RECORDS);
            if stop
                .run_until_cancelled(next)
                .await
                .is_none_or(|it| it == 0)
            {
                break;
            }
            self.write(&mut batch).await;
        }
        self.entries.close();
        // What was taken when the stop came is in the batch.
        while !batch.is_empty() || self.entries.recv_many(&mut batch, BATCH_RECORDS).await > 0 {
            self.write(&mut batch).await;
        }
        self.write_own(&Record::new(Kind::Stop)).await;
        let link = self.sink.chain.link();
        tracing::info!(
            sink = self.sink.name,
            chain = link.id,
            last = format!("{}:{}", link.next.saturating_sub(1), link.prev),
            "audit trail closed; `kas audit verify --last` takes the last record"
        );
    }

    async fn write_own(&mut self, record: &Record<'_>) {
        let open = encode(&self.identity, record).into();
        let entry = Entry {
            open,
            told: None,
            _place: None,
        };
        self.write(&mut vec![entry]).await;
    }

    /// Writes a batch, as often as it takes, and empties it.
    async fn write(&mut self, batch: &mut Vec<Entry>) {
        let mut lines = Vec::with_capacity(batch.len() + 1);
        let lost = self.lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let mut record = Record::new(Kind::Dropped);
            record.dropped = Some(lost);
            let open = encode(&self.identity, &record);
            lines.push(self.sink.chain.seal(&open));
        }
        for entry in &*batch {
            lines.push(self.sink.chain.seal(&entry.open));
        }
        let number = lines.len() as u64;
        if self.deliver(lines.into()).await {
            self.metrics
                .records(&self.sink.name, Outcome::Written, number);
            for told in batch.drain(..).filter_map(|entry| entry.told) {
                // Who has given up does not hear it.
                let _ = told.send(());
            }
        } else {
            self.lost.fetch_add(number, Ordering::Relaxed);
            self.metrics
                .records(&self.sink.name, Outcome::Dropped, number);
            batch.clear();
        }
    }

    /// Whether lines were taken.
    async fn deliver(&mut self, lines: Arc<[String]>) -> bool {
        let mut backoff = Backoff::new(RETRY_BACKOFF_MIN, RETRY_BACKOFF_MAX, 2.0);
        let (mut done, mut failed) = (0, false);
        loop {
            let (error, again) = match self.sink.output.write(&lines, &mut done).await {
                Ok(()) => break,
                Err(error @ WriteError::Retry(_)) => (error, true),
                Err(error @ WriteError::Refused(_)) => (error, false),
            };
            let sink = &*self.sink.name;
            if !failed {
                failed = true;
                self.metrics.failing(sink, true);
                tracing::error!(sink, %error, again, "an audit sink cannot be written");
            }
            if !again {
                self.metrics.failing(sink, false);
                return false;
            }
            tokio::time::sleep(backoff.next(rand::random())).await;
        }
        if failed {
            let sink = &*self.sink.name;
            self.metrics.failing(sink, false);
            tracing::info!(sink, "the audit sink is written again");
        }
        true
    }
}

impl Output {
    /// Writes lines, of which `done` were written before; counts it up.
    async fn write(&mut self, lines: &Arc<[String]>, done: &mut usize) -> Result<(), WriteError> {
        match self {
            Self::File(output) => {
                let lost = || WriteError::Retry("the file is being written elsewhere".to_owned());
                let mut file = output.take().ok_or_else(lost)?;
                let lines = lines.clone();
                let written = tokio::task::spawn_blocking(move || {
                    let written = file.write(&lines);
                    (file, written)
                });
                let (file, written) = written
                    .await
                    .map_err(|error| WriteError::Retry(error.to_string()))?;
                *output = Some(file);
                written.map_err(|error| WriteError::Retry(error.to_string()))
            }
            Self::Syslog(output) => output.write(lines, done).await,
            Self::Http(output) => output.write(lines).await,
        }
    }
}

//! Gives records to all sinks.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all, ready};
use prometheus_client::registry::Registry;
use runtime::jwt::Secret;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Class, Identity, Kind, NotRecorded, OpenError, Reads, Record, Recorded, Recording,
    RecordingError, Text,
    config::{AuditSection, RecordedSessions},
    metrics::AuditMetrics,
    record::encode,
    recording::{self, Note, Recordings},
    sink::{self, Queue, Writer},
};

/// Takes records. Clones share everything; without sinks it does nothing.
#[derive(Debug, Clone, Default)]
pub struct Audit(Option<Arc<Inner>>);

/// Tells an agent's cluster, as far as it is known.
struct ClusterOf(Box<dyn Fn(i64) -> Option<String> + Send + Sync>);

impl fmt::Debug for ClusterOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ClusterOf")
    }
}

#[derive(Debug)]
struct Inner {
    cluster_of: OnceLock<ClusterOf>,
    identity: Identity,
    queues: Vec<Queue>,
    required: bool,
    timeout: Duration,
    reads: Reads,
    recordings: Option<Recordings>,
    records_all: bool,
    metrics: AuditMetrics,
}

/// The tasks that write to sinks.
#[derive(Debug, Default)]
pub struct Writers {
    sinks: Vec<Writer>,
    recordings: Option<Recordings>,
}

impl Writers {
    /// Writes what comes until `stop`, and then what is left: recordings, and what sinks are to be told, within five
    /// seconds each.
    pub async fn run(self, stop: CancellationToken) {
        let Self { sinks, recordings } = self;
        let close = CancellationToken::new();
        let recorded = async {
            stop.cancelled().await;
            if let Some(recordings) = &recordings {
                recordings.flush().await;
            }
            close.cancel();
        };
        let sinks = sinks.into_iter().map(|writer| writer.run(close.clone()));
        tokio::join!(recorded, join_all(sinks));
    }
}

impl Audit {
    /// Opens all sinks.
    ///
    /// # Errors
    /// The first one that cannot be used.
    pub fn open(
        section: &AuditSection,
        identity: Identity,
        registry: &mut Registry,
    ) -> Result<(Self, Writers), OpenError> {
        let metrics = AuditMetrics::default();
        if section.sinks.is_empty() {
            return Ok((Self::default(), Writers::default()));
        }
        metrics.register(registry);
        let (mut queues, mut writers) = (Vec::new(), Vec::new());
        for output in sink::open(section, key(section)?.as_ref(), &identity)? {
            let (queue, writer) = sink::connect(output, identity.clone(), metrics.clone());
            queues.push(queue);
            writers.push(writer);
        }
        let made = section.recording.as_ref().map(|section| {
            let (recordings, jobs) = Recordings::new(section);
            let (writer, left) = recording::Writer::open(section, jobs)?;
            Ok::<_, OpenError>((recordings, writer, left))
        });
        let made = made.transpose()?;
        let recordings = made.as_ref().map(|(recordings, ..)| recordings.clone());
        let all = section.recording.as_ref();
        let inner = Inner {
            recordings: recordings.clone(),
            records_all: all.is_some_and(|it| it.sessions == RecordedSessions::All),
            cluster_of: OnceLock::new(),
            identity,
            queues,
            required: section.required,
            timeout: section.required_timeout.0,
            reads: section.reads,
            metrics,
        };
        let inner = Arc::new(inner);
        if let (Some((_, writer, left)), Some(section)) = (made, &section.recording) {
            for recorded in left {
                inner.note_recording(Note::of(recorded));
            }
            let audit = Arc::downgrade(&inner);
            let note = move |note| {
                if let Some(audit) = audit.upgrade() {
                    audit.note_recording(note);
                }
            };
            let started = writer.start(note);
            started.map_err(|source| OpenError::Recordings {
                folder: section.folder.to_path_buf(),
                source,
            })?;
        }
        let writers = Writers {
            sinks: writers,
            recordings,
        };
        Ok((Self(Some(inner)), writers))
    }

    /// Whether a section names what can be opened, as far as that is seen without opening it.
    ///
    /// # Errors
    /// The first sink that cannot.
    pub fn check(section: &AuditSection) -> Result<(), OpenError> {
        key(section)?;
        let recording = section.recording.as_ref();
        recording.map_or(Ok(()), recording::check)?;
        sink::check(section)
    }

    /// Whether all sessions are to be recorded, whatever access rules say.
    #[must_use]
    pub fn records_all(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.records_all)
    }

    /// Whether nothing may be done that leaves no record.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.required)
    }

    /// Begins the recording of the session of a record, in a file of this name. Where it is required there is something
    /// to wait for.
    pub fn open_recording(
        &self,
        name: String,
        record: &Record<'_>,
        required: bool,
    ) -> BoxFuture<'static, Result<Recording, RecordingError>> {
        let inner = self.0.as_ref();
        let Some((inner, recordings)) =
            inner.and_then(|inner| Some((inner, inner.recordings.clone()?)))
        else {
            return Box::pin(ready(Err(RecordingError::NoFolder)));
        };
        let (head, caller) = (recording::head(record), caller(record));
        let request_id = record.request_id.unwrap_or_default().to_owned();
        let limit = required.then_some(inner.timeout);
        Box::pin(async move {
            recordings
                .open((name, request_id), caller, head, limit)
                .await
        })
    }

    /// Counts what became of a recording whose session has a record.
    pub fn count_recording(&self, recorded: &Recorded) {
        if let Some(inner) = &self.0 {
            inner.metrics.recording(recorded);
        }
    }

    /// Whether there is any sink.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether a request of this class has a record when it begins.
    #[must_use]
    pub fn begins(&self, class: Class) -> bool {
        self.0.as_ref().is_some_and(|inner| match class {
            Class::Open | Class::Change => true,
            Class::Read => inner.reads == Reads::BeginAndEnd,
        })
    }

    /// Whether it has one when it is over.
    #[must_use]
    pub fn ends(&self, class: Class) -> bool {
        self.0.as_ref().is_some_and(|inner| match class {
            Class::Open | Class::Change => true,
            Class::Read => inner.reads != Reads::None,
        })
    }

    /// Has records tell the cluster of an agent by this. The first call counts.
    pub fn find_clusters(&self, of: impl Fn(i64) -> Option<String> + Send + Sync + 'static) {
        if let Some(inner) = &self.0 {
            let _ = inner.cluster_of.set(ClusterOf(Box::new(of)));
        }
    }

    /// The cluster of an agent, as far as it is known.
    #[must_use]
    pub fn cluster_of(&self, agent: i64) -> Option<String> {
        (self.0.as_ref()?.cluster_of.get()?.0)(agent)
    }

    /// The replica that writes; empty where nothing is written.
    #[must_use]
    pub fn replica(&self) -> &str {
        self.0.as_ref().map_or("", |it| &it.identity.replica)
    }

    /// Records what has happened. Where a sink's queue is full the record is lost there, and counted.
    pub fn note(&self, record: &Record<'_>) {
        let Some(inner) = &self.0 else {
            return;
        };
        inner.note(record);
    }

    /// Records what is about to happen. Where that is required there is something to wait for, and it must not happen
    /// unless that succeeds.
    #[must_use]
    pub fn announce(
        &self,
        record: &Record<'_>,
    ) -> Option<BoxFuture<'static, Result<(), NotRecorded>>> {
        let Some(inner) = self.0.as_ref().filter(|inner| inner.required) else {
            self.note(record);
            return None;
        };
        let open = encode(&inner.identity, record).into();
        Some(Box::pin(inner.clone().written(open, caller(record))))
    }
}

impl Inner {
    fn note(&self, record: &Record<'_>) {
        let open = encode(&self.identity, record).into();
        let caller = caller(record);
        for queue in &self.queues {
            queue.push(&open, &caller);
        }
    }

    /// Records what became of a recording whose session has no record of its end any more.
    fn note_recording(&self, note: Note) {
        self.metrics.recording(&note.recorded);
        let mut record = Record::new(Kind::Recording);
        record.request_id = (!note.request_id.is_empty()).then_some(&*note.request_id);
        record.user = Text::given(&note.caller);
        record.recording = Some(note.recorded);
        self.note(&record);
    }

    /// Waits until all sinks have written a record.
    async fn written(self: Arc<Self>, open: Arc<str>, caller: Arc<str>) -> Result<(), NotRecorded> {
        let deadline = Instant::now() + self.timeout;
        let mut pending = Vec::with_capacity(self.queues.len());
        for queue in &self.queues {
            let (told, written) = oneshot::channel();
            pending.push((queue, written));
            if !queue.push_awaited(&open, &caller, told) {
                return Err(self.not_recorded(queue));
            }
        }
        for (queue, written) in pending {
            let written = tokio::time::timeout_at(deadline, written).await;
            if !matches!(written, Ok(Ok(()))) {
                return Err(self.not_recorded(queue));
            }
        }
        Ok(())
    }

    fn not_recorded(&self, queue: &Queue) -> NotRecorded {
        self.metrics.refused();
        NotRecorded {
            sink: queue.name().to_owned(),
            waited: self.timeout,
        }
    }
}

/// Who has the place of a record among those that wait.
fn caller(record: &Record<'_>) -> Arc<str> {
    record.user.as_ref().map_or("", |user| &user.0).into()
}

fn key(section: &AuditSection) -> Result<Option<Secret>, OpenError> {
    let file = section.key_file.as_deref();
    Ok(file.map(Secret::read).transpose()?)
}

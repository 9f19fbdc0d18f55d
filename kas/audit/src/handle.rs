//! Gives records to all sinks.

use std::{
    fmt,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::future::{BoxFuture, join_all};
use prometheus_client::registry::Registry;
use runtime::jwt::Secret;
use tokio::{sync::oneshot, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Class, Identity, NotRecorded, OpenError, Reads, Record,
    config::AuditSection,
    metrics::AuditMetrics,
    record::encode,
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
    metrics: AuditMetrics,
}

/// The tasks that write to sinks.
#[derive(Debug, Default)]
pub struct Writers(Vec<Writer>);

impl Writers {
    /// Writes what comes until `stop`, and then what is left, within five seconds.
    pub async fn run(self, stop: CancellationToken) {
        join_all(self.0.into_iter().map(|writer| writer.run(stop.clone()))).await;
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
        let inner = Inner {
            cluster_of: OnceLock::new(),
            identity,
            queues,
            required: section.required,
            timeout: section.required_timeout.0,
            reads: section.reads,
            metrics,
        };
        Ok((Self(Some(Arc::new(inner))), Writers(writers)))
    }

    /// Whether a section names what can be opened, as far as that is seen without opening it.
    ///
    /// # Errors
    /// The first sink that cannot.
    pub fn check(section: &AuditSection) -> Result<(), OpenError> {
        key(section)?;
        sink::check(section)
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
        let open = encode(&inner.identity, record).into();
        let caller = caller(record);
        for queue in &inner.queues {
            queue.push(&open, &caller);
        }
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

//! Pod logs: a line every second since the container started, computed when it is read.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use tokio::sync::watch;

use super::clock;
use super::cluster::Cluster;
use super::failure::Failure;
use super::object::{self, list, text};
use super::request::Query;
use super::store::Key;

/// Lines computed at a time.
const CHUNK: i64 = 500;
/// Lines that a container's log keeps, as a rotated file would.
const KEPT: i64 = 100_000;

/// Which lines are wanted and how they are written.
#[derive(Debug)]
struct LogReader {
    cluster: Arc<Cluster>,
    revisions: watch::Receiver<u64>,
    pod: Key,
    uid: String,
    container: String,
    started: Timestamp,
    timestamps: bool,
    follow: bool,
    next: i64,
    budget: Option<usize>,
}

/// The log of a container of the pod.
///
/// # Errors
/// Refuses when there is no such pod or container, or when it did not start yet.
pub(crate) fn open(
    cluster: Arc<Cluster>,
    key: &Key,
    query: &Query,
) -> Result<impl Stream<Item = Bytes> + Send + use<>, Failure> {
    let revisions = cluster.revisions();
    let pod = cluster
        .read(|store| store.get(key).cloned())
        .ok_or_else(|| Failure::not_found(key.kind, &key.name))?;
    let container = container(&pod, query.get("container"))?;
    if query.flag("previous") {
        return Err(Failure::bad_request(format!(
            "previous terminated container \"{container}\" in pod \"{}\" not found",
            key.name
        )));
    }
    let started = started(&pod, &container)?;
    let budget = query.number("limitBytes")?;
    let mut reader = LogReader {
        revisions,
        pod: key.clone(),
        uid: object::uid(&pod).to_owned(),
        container,
        started,
        timestamps: query.flag("timestamps"),
        follow: query.flag("follow"),
        next: 0,
        budget: budget.map(|bytes| usize::try_from(bytes).unwrap_or(usize::MAX)),
        cluster,
    };
    reader.next = first(&reader, query)?;
    Ok(stream::unfold(reader, LogReader::read))
}

fn container(pod: &Value, wanted: Option<&str>) -> Result<String, Failure> {
    let pod_name = object::name(pod);
    let names: Vec<_> = list(pod, "/spec/containers")
        .iter()
        .map(|container| text(container, "/name"))
        .collect();
    match (wanted, names.as_slice()) {
        (Some(wanted), _) if names.contains(&wanted) => Ok(wanted.to_owned()),
        (Some(wanted), _) => Err(Failure::bad_request(format!(
            "container {wanted} is not valid for pod {pod_name}"
        ))),
        (None, [only]) => Ok((*only).to_owned()),
        (None, _) => Err(Failure::bad_request(format!(
            "a container name must be specified for pod {pod_name}, choose one of: {names:?}"
        ))),
    }
}

fn started(pod: &Value, container: &str) -> Result<Timestamp, Failure> {
    list(pod, "/status/containerStatuses")
        .iter()
        .filter(|status| status["name"] == container)
        .find_map(|status| text(status, "/state/running/startedAt").parse().ok())
        .ok_or_else(|| {
            Failure::bad_request(format!(
                "container \"{container}\" in pod \"{}\" is waiting to start: ContainerCreating",
                object::name(pod)
            ))
        })
}

/// The first line that the query asks for.
fn first(reader: &LogReader, query: &Query) -> Result<i64, Failure> {
    let end = reader.written();
    let mut first = (end - KEPT).max(0);
    if let Some(seconds) = query.number("sinceSeconds")? {
        first = first.max(end - i64::try_from(seconds).unwrap_or(i64::MAX));
    }
    if let Some(since) = query
        .get("sinceTime")
        .and_then(|t| t.parse::<Timestamp>().ok())
    {
        let after = since.duration_since(reader.started).as_secs();
        first = first.max(after.saturating_add(1));
    }
    if let Some(lines) = query.number("tailLines")? {
        first = first.max(end - i64::try_from(lines).unwrap_or(i64::MAX));
    }
    Ok(first.min(end).max(0))
}

impl LogReader {
    /// How many lines the container has written by now.
    fn written(&self) -> i64 {
        let running = self.cluster.clock.now().duration_since(self.started);
        running.as_secs().max(0) + 1
    }

    fn time_of(&self, line: i64) -> Timestamp {
        let time = self.started.saturating_add(SignedDuration::from_secs(line));
        time.unwrap_or(self.started)
    }

    async fn read(mut self) -> Option<(Bytes, Self)> {
        loop {
            if self.budget == Some(0) {
                return None;
            }
            let end = self.written().min(self.next + CHUNK);
            if self.next < end {
                let lines = self.lines(end);
                return Some((Bytes::from(lines), self));
            }
            if !self.follow || !self.wait().await {
                return None;
            }
        }
    }

    fn lines(&mut self, end: i64) -> Vec<u8> {
        let mut text = String::new();
        for line in self.next..end {
            if self.timestamps {
                text.push_str(&clock::nanoseconds(self.time_of(line)));
                text.push(' ');
            }
            text.push_str(&format!(
                "{} {}: line {line}\n",
                self.pod.name, self.container
            ));
        }
        self.next = end;
        let mut bytes = text.into_bytes();
        if let Some(budget) = &mut self.budget {
            bytes.truncate(*budget);
            *budget -= bytes.len();
        }
        bytes
    }

    /// Waits for the next line; `false` when the pod is gone.
    async fn wait(&mut self) -> bool {
        let due = self.cluster.clock.instant(self.time_of(self.next));
        loop {
            if !self.pod_is_there() {
                return false;
            }
            tokio::select! {
                () = self.cluster.stop.cancelled() => return false,
                () = tokio::time::sleep_until(due) => return true,
                changed = self.revisions.changed() => if changed.is_err() { return false },
            }
        }
    }

    fn pod_is_there(&self) -> bool {
        let uid = |pod: &Arc<Value>| object::uid(pod) == self.uid;
        self.cluster
            .read(|store| store.get(&self.pod).is_some_and(uid))
    }
}

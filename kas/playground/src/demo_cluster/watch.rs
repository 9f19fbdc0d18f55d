//! Watches: pulled from the store's history, so a reader that stalls holds no queue.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures_util::{Stream, stream};
use jiff::Timestamp;
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::cluster::Cluster;
use super::failure::Failure;
use super::request::{Query, Selection};
use super::shape::Shape;
use super::store::{Change, Store, Verb};

const BOOKMARK_INTERVAL: Duration = Duration::from_secs(60);
const DEFAULT_TIMEOUT_SECONDS: u64 = 45 * 60;
const MAX_TIMEOUT_SECONDS: u64 = 24 * 60 * 60;
/// A chunk of the response is closed when it is as long as this.
const CHUNK: usize = 64 << 10;

/// A running watch.
#[derive(Debug)]
struct Watch {
    cluster: Arc<Cluster>,
    revisions: watch::Receiver<u64>,
    selection: Selection,
    shape: Shape,
    /// Everything up to this revision has been told.
    told: u64,
    initial: VecDeque<Arc<Value>>,
    columns_told: bool,
    bookmarks: bool,
    /// The bookmark that ends the initial events is still due.
    initial_end: bool,
    next_bookmark: Instant,
    end: Instant,
    over: bool,
}

/// The chunks of the watch that the query asks for.
///
/// # Errors
/// Refuses revisions that were never given out and parameters that cannot be read.
pub(crate) fn open(
    cluster: Arc<Cluster>,
    selection: Selection,
    shape: Shape,
    query: &Query,
) -> Result<impl Stream<Item = Bytes> + Send + use<>, Failure> {
    let revisions = cluster.revisions();
    let asked = query.number("resourceVersion")?.unwrap_or(0);
    let wants_initial = query.flag("sendInitialEvents");
    let length = query
        .number("timeoutSeconds")?
        .unwrap_or(DEFAULT_TIMEOUT_SECONDS);
    let (told, initial) = cluster.read(|store| start(store, &selection, asked, wants_initial))?;
    let now = Instant::now();
    let watch = Watch {
        revisions,
        selection,
        shape,
        told,
        initial,
        columns_told: false,
        bookmarks: query.flag("allowWatchBookmarks"),
        initial_end: wants_initial,
        next_bookmark: now + BOOKMARK_INTERVAL,
        end: now + Duration::from_secs(length.min(MAX_TIMEOUT_SECONDS)),
        over: false,
        cluster,
    };
    Ok(stream::unfold(watch, Watch::next))
}

fn start(
    store: &Store,
    selection: &Selection,
    asked: u64,
    wants_initial: bool,
) -> Result<(u64, VecDeque<Arc<Value>>), Failure> {
    if asked > store.revision() {
        return Err(Failure::from_the_future(asked, store.revision()));
    }
    if asked > 0 && !wants_initial {
        return Ok((asked, VecDeque::new()));
    }
    let initial = store
        .list(selection.kind, selection.namespace.as_deref())
        .filter(|object| selection.holds(object))
        .cloned()
        .collect();
    Ok((store.revision(), initial))
}

impl Watch {
    async fn next(mut self) -> Option<(Bytes, Self)> {
        loop {
            if self.over {
                return None;
            }
            let chunk = self.chunk();
            if !chunk.is_empty() {
                return Some((Bytes::from(chunk), self));
            }
            if !self.wait().await {
                return None;
            }
        }
    }

    /// What there is to tell now.
    fn chunk(&mut self) -> Vec<u8> {
        let mut chunk = Vec::new();
        let now = self.cluster.clock.now();
        while chunk.len() < CHUNK
            && let Some(object) = self.initial.pop_front()
        {
            self.event(&mut chunk, "ADDED", &object, now);
        }
        if !self.initial.is_empty() {
            return chunk;
        }
        if std::mem::take(&mut self.initial_end) {
            self.bookmark(&mut chunk, true);
        }
        self.changes(&mut chunk, now);
        if chunk.is_empty() && self.bookmarks && Instant::now() >= self.next_bookmark {
            self.next_bookmark = Instant::now() + BOOKMARK_INTERVAL;
            self.bookmark(&mut chunk, false);
        }
        chunk
    }

    fn changes(&mut self, chunk: &mut Vec<u8>, now: Timestamp) {
        let cluster = Arc::clone(&self.cluster);
        let news: Result<Vec<_>, Failure> = cluster.read(|store| {
            let changes = store.since(self.told)?;
            Ok(changes.take(1_000).cloned().collect())
        });
        match news {
            Ok(changes) => {
                for change in changes {
                    if chunk.len() >= CHUNK {
                        return;
                    }
                    self.told = change.revision;
                    if let Some(verb) = self.meaning(&change) {
                        self.event(chunk, verb, &change.object, now);
                    }
                }
            }
            Err(expired) => {
                write(chunk, "ERROR", &expired.status());
                self.over = true;
            }
        }
    }

    /// What the change is to someone who sees only what is selected.
    fn meaning(&self, change: &Change) -> Option<&'static str> {
        let namespace = self.selection.namespace.as_deref();
        let here = change.key.kind == self.selection.kind
            && namespace.is_none_or(|namespace| namespace == change.key.namespace);
        if !here {
            return None;
        }
        let held = |object: &Arc<Value>| self.selection.holds(object);
        let before = change.previous.as_ref().is_some_and(held);
        let after = change.verb != Verb::Deleted && held(&change.object);
        match (before, after) {
            (false, true) => Some("ADDED"),
            (true, true) => Some("MODIFIED"),
            (true, false) => Some("DELETED"),
            (false, false) => None,
        }
    }

    fn event(&mut self, chunk: &mut Vec<u8>, verb: &str, object: &Value, now: Timestamp) {
        let mut shaped = self.shape.one(self.selection.kind, object, now);
        if matches!(self.shape, Shape::Table(_)) && std::mem::replace(&mut self.columns_told, true)
        {
            shaped["columnDefinitions"] = Value::Null;
        }
        write(chunk, verb, &shaped);
    }

    fn bookmark(&self, chunk: &mut Vec<u8>, initial_end: bool) {
        let object = self
            .shape
            .bookmark(self.selection.kind, self.told, initial_end);
        write(chunk, "BOOKMARK", &object);
    }

    /// Waits for something to tell; `false` at the end of the watch.
    async fn wait(&mut self) -> bool {
        let wake = if self.bookmarks {
            self.end.min(self.next_bookmark)
        } else {
            self.end
        };
        tokio::select! {
            () = self.cluster.stop.cancelled() => false,
            changed = self.revisions.changed() => changed.is_ok(),
            () = tokio::time::sleep_until(wake) => Instant::now() < self.end,
        }
    }
}

fn write(chunk: &mut Vec<u8>, verb: &str, object: &Value) {
    let event = json!({"type": verb, "object": object});
    serde_json::to_writer(&mut *chunk, &event).expect("a vector takes all, keys are strings");
    chunk.push(b'\n');
}

#[cfg(test)]
mod tests;

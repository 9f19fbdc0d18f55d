//! What watchers are told.

use std::pin::{Pin, pin};

use futures_util::StreamExt;
use tokio_util::sync::CancellationToken;

use super::super::clock::Clock;
use super::super::kinds;
use super::super::request::Target;
use super::super::store::{Key, Limits};
use super::*;

const FIRST: u64 = 100;

fn cluster() -> Arc<Cluster> {
    let limits = Limits {
        changes: 50,
        ..Limits::default()
    };
    let store = Store::new(limits, FIRST, 1);
    let stop = CancellationToken::new();
    Arc::new(Cluster::new(store, Clock::start(), stop))
}

fn key(name: &str) -> Key {
    Key::new(kinds::named("configmaps"), "default", name)
}

fn object(name: &str, colour: &str) -> Value {
    json!({"metadata": {"name": name, "namespace": "default", "labels": {"colour": colour}}})
}

fn paint(cluster: &Cluster, name: &str, colour: &str) {
    let object = object(name, colour);
    cluster.write(|store| match store.get(&key(name)) {
        Some(_) => store.replace(key(name), object).unwrap(),
        None => store.insert(key(name), object).unwrap(),
    });
}

fn watch(
    cluster: &Arc<Cluster>,
    query: &str,
) -> Result<impl Stream<Item = Bytes> + Send + use<>, Failure> {
    let target = Target {
        kind: kinds::named("configmaps"),
        namespace: Some("default".to_owned()),
        name: None,
        subresource: None,
    };
    let query = Query::parse(query);
    let selection = Selection::of(&target, &query)?;
    open(Arc::clone(cluster), selection, Shape::Plain, &query)
}

/// The types of the events in the next chunk, with the names of their objects.
async fn told<S: Stream<Item = Bytes>>(chunks: &mut Pin<&mut S>) -> Vec<(String, String)> {
    let chunk = chunks.next().await.expect("the watch goes on");
    let lines = chunk.split(|byte| *byte == b'\n');
    lines
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice::<Value>(line).unwrap())
        .map(|event| {
            let name = event["object"]["metadata"]["name"].as_str();
            let name = name.unwrap_or_default().to_owned();
            (event["type"].as_str().unwrap().to_owned(), name)
        })
        .collect()
}

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.to_owned(), name.to_owned())
}

#[tokio::test(start_paused = true)]
async fn objects_come_into_and_leave_the_selection() {
    let cluster = cluster();
    paint(&cluster, "a", "red");
    paint(&cluster, "b", "blue");
    let mut chunks = pin!(watch(&cluster, "labelSelector=colour=red").unwrap());
    assert_eq!(told(&mut chunks).await, [event("ADDED", "a")]);

    paint(&cluster, "b", "red");
    paint(&cluster, "a", "blue");
    paint(&cluster, "c", "blue");
    cluster.write(|store| store.remove(&key("b")));

    assert_eq!(
        told(&mut chunks).await,
        [
            event("ADDED", "b"),
            event("DELETED", "a"),
            event("DELETED", "b")
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn a_watch_goes_on_from_the_revision_it_names() {
    let cluster = cluster();
    paint(&cluster, "a", "red");
    paint(&cluster, "b", "red");

    let mut chunks = pin!(watch(&cluster, "resourceVersion=101").unwrap());

    assert_eq!(told(&mut chunks).await, [event("ADDED", "b")]);
}

#[tokio::test(start_paused = true)]
async fn a_watcher_that_sleeps_too_long_is_told_so() {
    let cluster = cluster();
    paint(&cluster, "a", "red");
    let mut chunks = pin!(watch(&cluster, "").unwrap());
    assert_eq!(told(&mut chunks).await, [event("ADDED", "a")]);

    for turn in 0..100 {
        paint(&cluster, "a", &turn.to_string());
    }

    assert_eq!(told(&mut chunks).await, [event("ERROR", "")]);
    assert!(chunks.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn bookmarks_come_when_asked_for() {
    let cluster = cluster();
    paint(&cluster, "a", "red");
    let query = "sendInitialEvents=true&allowWatchBookmarks=true&timeoutSeconds=100";
    let mut chunks = pin!(watch(&cluster, query).unwrap());

    let bookmark = event("BOOKMARK", "");
    assert_eq!(
        told(&mut chunks).await,
        [event("ADDED", "a"), bookmark.clone()]
    );
    assert_eq!(told(&mut chunks).await, [bookmark]);
    assert!(chunks.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn revisions_out_of_reach_are_refused() {
    let cluster = cluster();

    let future = watch(&cluster, "resourceVersion=999").err().unwrap();
    assert_eq!(future.code, 504);

    let mut past = pin!(watch(&cluster, "resourceVersion=5").unwrap());
    assert_eq!(told(&mut past).await, [event("ERROR", "")]);
}

#[tokio::test(start_paused = true)]
async fn watches_end_with_the_cluster() {
    let cluster = cluster();
    let mut chunks = pin!(watch(&cluster, "").unwrap());

    cluster.stop.cancel();

    assert!(chunks.next().await.is_none());
}

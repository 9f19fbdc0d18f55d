//! The controllers: they bring the objects to what their specs want.

use std::collections::HashMap;
use std::sync::Arc;

use jiff::{SignedDuration, Timestamp};
use tokio::sync::watch;
use tokio::time::{Duration, Instant};

use super::cluster::Cluster;
use super::failure::Failure;
use super::object;
use super::store::{Change, Store, Verb};

mod deployments;
mod endpoints;
mod events;
mod garbage;
mod namespaces;
mod pods;
mod replicasets;

/// Controllers look at the cluster at most this often, and at least every `IDLE_ROUND_INTERVAL`.
const MIN_ROUND_INTERVAL: Duration = Duration::from_millis(25);
const IDLE_ROUND_INTERVAL: Duration = Duration::from_secs(30);
const RETRY: SignedDuration = SignedDuration::from_secs(1);

/// What the controllers remember between two looks.
#[derive(Debug, Default)]
pub(crate) struct ControllerState {
    /// When each pod was first seen in its present stage.
    stages: HashMap<String, pods::Stage>,
    addresses: u32,
}

/// Runs the controllers until the cluster stops.
pub(crate) async fn run(cluster: Arc<Cluster>) {
    let mut revisions = cluster.revisions();
    let mut state = ControllerState::default();
    loop {
        let now = cluster.clock.now();
        let (due, seen) = cluster.write(|store| {
            let seen = store.revision();
            (reconcile(store, &mut state, now), seen)
        });
        let wake = due.map_or_else(
            || Instant::now() + IDLE_ROUND_INTERVAL,
            |due| cluster.clock.instant(due),
        );
        tokio::select! {
            () = cluster.stop.cancelled() => return,
            () = tokio::time::sleep_until(wake) => {}
            () = wait_for_change(&cluster, &mut revisions, seen) => {}
        }
        tokio::time::sleep(MIN_ROUND_INTERVAL).await;
    }
}

/// Waits for a change after `seen` that concerns the controllers.
async fn wait_for_change(cluster: &Cluster, revisions: &mut watch::Receiver<u64>, mut seen: u64) {
    loop {
        revisions.mark_unchanged();
        let concerned = cluster.read(|store| {
            let since = std::mem::replace(&mut seen, store.revision());
            match store.since(since) {
                Ok(mut changes) => changes.any(concerns),
                Err(_) => true,
            }
        });
        if concerned || revisions.changed().await.is_err() {
            return;
        }
    }
}

/// Writes of plain data are the bulk of what users do and nothing follows from them.
fn concerns(change: &Change) -> bool {
    let plain = matches!(
        change.key.kind.info().plural,
        "configmaps" | "secrets" | "leases" | "events"
    );
    let owned = !object::list(&change.object, "/metadata/ownerReferences").is_empty();
    !plain || owned || change.verb == Verb::Deleted
}

/// Brings everything one step closer; answers when there is more to do.
pub(crate) fn reconcile(
    store: &mut Store,
    state: &mut ControllerState,
    now: Timestamp,
) -> Option<Timestamp> {
    let steps = [
        namespaces::reconcile(store, now),
        deployments::reconcile(store, now),
        replicasets::reconcile(store, now),
        endpoints::reconcile(store, now),
        garbage::collect(store, now),
    ];
    for error in steps.iter().filter_map(|step| step.as_ref().err()) {
        tracing::debug!(%error, "demo cluster: controller failed; retrying");
    }
    let retry = steps.iter().any(Result::is_err);
    let retry = retry.then(|| now.saturating_add(RETRY).unwrap_or(now));
    let due = pods::reconcile(store, state, now);
    events::expire(store, now);
    due.into_iter().chain(retry).min()
}

/// What a controller's step ends with; a full store is tried again later.
type Step = Result<(), Failure>;

#[cfg(test)]
mod tests;

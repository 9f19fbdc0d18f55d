//! Events: what the controllers tell about what they did.

use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

use super::super::store::{Key, Store};
use super::super::{clock, kinds, object};

/// Older events go when there are more than this.
const MAX_EVENTS: usize = 500;
const KEPT_FOR: SignedDuration = SignedDuration::from_hours(1);

/// Records an event about an object; a full store loses it.
pub(super) fn record(
    store: &mut Store,
    about: &Value,
    reason: &str,
    message: &str,
    now: Timestamp,
) {
    let warning = reason.starts_with("Failed");
    // Revisions in the name keep events of the same second in order.
    let name = format!("{}.{:016x}", object::name(about), store.revision());
    let namespace = object::namespace(about);
    let uid = store.new_uid();
    let time = clock::seconds(now);
    let component = match about["kind"].as_str() {
        Some("Deployment") => "deployment-controller",
        Some("ReplicaSet") => "replicaset-controller",
        _ if matches!(reason, "Scheduled" | "FailedScheduling") => "default-scheduler",
        _ => "kubelet",
    };
    let event = json!({
        "apiVersion": "v1", "kind": "Event",
        "metadata": {"name": name, "namespace": namespace, "uid": uid, "creationTimestamp": time},
        "involvedObject": {"apiVersion": about["apiVersion"], "kind": about["kind"],
                           "name": object::name(about), "namespace": namespace,
                           "uid": object::uid(about),
                           "resourceVersion": about["metadata"]["resourceVersion"]},
        "reason": reason, "message": message, "type": if warning { "Warning" } else { "Normal" },
        "source": {"component": component}, "reportingComponent": component,
        "reportingInstance": "", "count": 1,
        "firstTimestamp": time, "lastTimestamp": time, "eventTime": null,
    });
    let key = Key::new(kinds::named("events"), namespace, &name);
    if let Err(error) = store.insert(key, event) {
        tracing::debug!(%error, "demo cluster: cannot record an event");
    }
}

/// Removes events that are old or too many.
pub(super) fn expire(store: &mut Store, now: Timestamp) {
    let kind = kinds::named("events");
    let end = now.saturating_sub(KEPT_FOR).unwrap_or(now);
    let end = clock::seconds(end);
    let mut events: Vec<_> = store
        .list(kind, None)
        .map(|event| {
            let time = object::text(event, "/metadata/creationTimestamp").to_owned();
            (time, Key::of(kind, event))
        })
        .collect();
    events.sort();
    let surplus = events.len().saturating_sub(MAX_EVENTS);
    for (index, (time, key)) in events.iter().enumerate() {
        if index < surplus || *time < end {
            store.remove(key);
        }
    }
}

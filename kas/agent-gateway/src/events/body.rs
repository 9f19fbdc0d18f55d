//! The body of a webhook's request.

use jiff::Timestamp;
use proto::events::rpc::{Batch, Event, FleetChange};
use serde_json::{Value, json};

/// The body of a request, made at `now`.
pub(super) fn encode(batch: &Batch, now: Timestamp) -> String {
    if !batch.changes.is_empty() {
        let changes: Vec<_> = batch.changes.iter().map(change).collect();
        let body = json!({
            "type": "kas.fleet",
            "timestamp": now.to_string(),
            "data": {"changes": changes},
        });
        return body.to_string();
    }
    let events: Vec<_> = batch.events.iter().map(event).collect();
    let body = json!({
        "type": "kubernetes.events",
        "timestamp": now.to_string(),
        "data": {
            "agent": {"id": batch.agent_id, "name": batch.agent_name},
            "project": {"id": batch.project_id, "path": batch.project_path},
            "events": events,
            "dropped": batch.dropped,
        },
    });
    body.to_string()
}

fn event(event: &Event) -> Value {
    let object = event.regarding.clone().unwrap_or_default();
    json!({
        "id": event.id,
        "type": event.r#type,
        "reason": event.reason,
        "message": event.message,
        "action": event.action,
        "regarding": {
            "apiVersion": object.api_version,
            "kind": object.kind,
            "namespace": object.namespace,
            "name": object.name,
            "uid": object.uid,
        },
        "reporter": event.reporter,
        "firstSeen": event.first_seen.as_ref().and_then(time),
        "lastSeen": event.last_seen.as_ref().and_then(time),
        "count": event.count,
        "occurrences": event.occurrences,
    })
}

fn change(change: &FleetChange) -> Value {
    let mut told = json!({
        "id": change.id,
        "type": change.r#type,
        "time": change.time.as_ref().and_then(time),
    });
    if change.agent_id != 0 {
        told["agent"] = json!({"id": change.agent_id, "name": change.agent_name});
        told["project"] = json!({"id": change.project_id, "path": change.project_path});
    }
    if !change.replica.is_empty() {
        told["replica"] = json!(change.replica);
    }
    if !change.reason.is_empty() {
        told["reason"] = json!(change.reason);
        told["count"] = json!(change.count);
        told["remoteAddr"] = json!(change.remote_addr);
    }
    told
}

fn time(time: &prost_types::Timestamp) -> Option<String> {
    let time = Timestamp::new(time.seconds, time.nanos).ok()?;
    Some(time.to_string())
}

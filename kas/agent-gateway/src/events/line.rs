//! Events as lines of the log.

use proto::events::rpc::{Batch, Event};

/// One line an event, and one if the agent had to drop some.
pub(super) fn log(batch: &Batch) {
    for event in &batch.events {
        line(batch, event);
    }
    if batch.dropped > 0 {
        tracing::warn!(
            agent_id = batch.agent_id,
            dropped = batch.dropped,
            "an agent had no room for events of its cluster"
        );
    }
}

fn line(batch: &Batch, event: &Event) {
    let object = event.regarding.clone().unwrap_or_default();
    tracing::info!(
        agent_id = batch.agent_id,
        agent_name = batch.agent_name,
        project_id = batch.project_id,
        event_id = event.id,
        event_type = event.r#type,
        reason = event.reason,
        kind = object.kind,
        namespace = object.namespace,
        name = object.name,
        reporter = event.reporter,
        count = event.count,
        note = event.message,
        "an event of a cluster"
    );
}

//! Events in the log.

use proto::events::rpc::{Batch, Event};

/// One line for each event, and one if the agent has dropped some.
pub(super) fn write(batch: &Batch) {
    for event in &batch.events {
        write_event(batch, event);
    }
    for change in &batch.changes {
        tracing::info!(
            change = change.r#type,
            agent.id = (change.agent_id != 0).then_some(change.agent_id),
            agent.name = (change.agent_id != 0).then_some(&*change.agent_name),
            replica = (!change.replica.is_empty()).then_some(&*change.replica),
            reason = (!change.reason.is_empty()).then_some(&*change.reason),
            count = (change.count > 0).then_some(change.count),
            "fleet changed"
        );
    }
    if batch.dropped > 0 {
        tracing::warn!(
            agent.id = batch.agent_id,
            agent.name = batch.agent_name,
            dropped = batch.dropped,
            "agent dropped cluster events: its queue was full"
        );
    }
}

fn write_event(batch: &Batch, event: &Event) {
    let object = event.regarding.clone().unwrap_or_default();
    tracing::info!(
        agent.id = batch.agent_id,
        agent.name = batch.agent_name,
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
        "cluster event"
    );
}

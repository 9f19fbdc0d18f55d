//! An event of the cluster in the form that kas receives.
//!
//! What is written through `events.k8s.io` is read through the core API too: it
//! is the same object there, with its series and its own time.

use jiff::Timestamp;
use k8s_openapi::api::core::v1::{self, ObjectReference};
use proto::events::rpc::{Event, Object};

/// Longer messages are cut: the API server takes them up to 1 KiB where it looks.
const MESSAGE_BYTES: usize = 1024;

/// Converts an event; `None` for one without a uid.
pub(super) fn from_kubernetes(event: v1::Event) -> Option<Event> {
    let uid = event.metadata.uid?;
    let count = count(event.count, event.series.as_ref().and_then(|it| it.count));
    let created = event.metadata.creation_timestamp.map(|it| it.0);
    let own = event.event_time.map(|it| it.0);
    let first = event.first_timestamp.map(|it| it.0).or(own).or(created);
    let series = event.series.and_then(|it| it.last_observed_time);
    let last = series.map(|it| it.0);
    let last = last.or(event.last_timestamp.map(|it| it.0)).or(first);
    let source = event.source.and_then(|it| it.component);
    let reporter = event.reporting_component.filter(|it| !it.is_empty());
    Some(Event {
        id: format!("{uid}-{count}"),
        r#type: event.type_.unwrap_or_default(),
        reason: event.reason.unwrap_or_default(),
        message: cut(event.message.unwrap_or_default()),
        action: event.action.unwrap_or_default(),
        regarding: Some(object(event.involved_object)),
        reporter: reporter.or(source).unwrap_or_default(),
        first_seen: first.map(time),
        last_seen: last.map(time),
        count,
        occurrences: count,
    })
}

/// Whichever API counts it.
fn count(core: Option<i32>, series: Option<i32>) -> i64 {
    i64::from(core.unwrap_or(1).max(series.unwrap_or(1)).max(1))
}

fn object(object: ObjectReference) -> Object {
    Object {
        api_version: object.api_version.unwrap_or_default(),
        kind: object.kind.unwrap_or_default(),
        namespace: object.namespace.unwrap_or_default(),
        name: object.name.unwrap_or_default(),
        uid: object.uid.unwrap_or_default(),
    }
}

fn cut(mut message: String) -> String {
    message.truncate(message.floor_char_boundary(MESSAGE_BYTES));
    message
}

fn time(time: Timestamp) -> prost_types::Timestamp {
    prost_types::Timestamp {
        seconds: time.as_second(),
        nanos: time.subsec_nanosecond(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn read(event: Value) -> Option<Event> {
        from_kubernetes(serde_json::from_value(event).unwrap())
    }

    #[test]
    fn an_event_of_the_core_api_is_counted_by_its_count() {
        let event = read(json!({
            "metadata": {"uid": "u", "name": "web.1", "namespace": "ns"},
            "involvedObject": {"kind": "Pod", "name": "web", "namespace": "ns", "uid": "p"},
            "type": "Warning", "reason": "BackOff", "message": "again", "count": 7,
            "source": {"component": "kubelet", "host": "n"}, "reportingComponent": "",
            "firstTimestamp": "2026-01-02T03:04:05Z", "lastTimestamp": "2026-01-02T04:04:05Z",
        }));

        let event = event.unwrap();
        assert_eq!((&*event.id, event.count), ("u-7", 7));
        assert_eq!(event.reporter, "kubelet");
        assert_eq!(event.regarding.unwrap().name, "web");
        let seconds = |time: Option<prost_types::Timestamp>| time.unwrap().seconds;
        assert_eq!(seconds(event.last_seen) - seconds(event.first_seen), 3600);
    }

    #[test]
    fn an_event_of_the_newer_api_is_counted_by_its_series() {
        let event = read(json!({
            "metadata": {"uid": "u"}, "involvedObject": {},
            "eventTime": "2026-01-02T03:04:05.000000Z", "reportingComponent": "c",
            "series": {"count": 3, "lastObservedTime": "2026-01-02T03:04:09.000000Z"},
        }));

        let event = event.unwrap();
        assert_eq!((&*event.id, &*event.reporter), ("u-3", "c"));
        let seconds = event.last_seen.unwrap().seconds - event.first_seen.unwrap().seconds;
        assert_eq!(seconds, 4);
    }

    #[test]
    fn an_event_that_says_little_is_one_and_a_long_message_is_cut() {
        let long = "ä".repeat(MESSAGE_BYTES);
        let event = json!({"metadata": {"uid": "u"}, "involvedObject": {}, "message": long});

        let event = read(event).unwrap();

        assert_eq!((&*event.id, event.message.len()), ("u-1", MESSAGE_BYTES));
        assert_eq!(read(json!({"metadata": {}, "involvedObject": {}})), None);
    }
}

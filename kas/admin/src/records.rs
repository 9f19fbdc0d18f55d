//! What happened to agents' connections, as the store keeps it.

use std::time::Duration;

use agent_gateway::Tracker;
use cluster_state::{
    ConnectionEvent, ConnectionRecord as Kept, RECORDS_OF_STRANGERS, RecordSubject, RecordsPage,
    StoreError,
};
use jiff::Timestamp;

use crate::v1::{ConnectionRecord, ListRecordsRequest, ListRecordsResponse};

/// How long the store may take.
const STORE_TIMEOUT: Duration = Duration::from_secs(2);

/// A page of the subject's records.
///
/// # Errors
/// When the store cannot say.
pub(crate) async fn page(
    tracker: &Tracker,
    subject: RecordSubject,
    asked: &ListRecordsRequest,
) -> Result<ListRecordsResponse, StoreError> {
    let limit = match usize::try_from(asked.limit) {
        Ok(0) | Err(_) => RECORDS_OF_STRANGERS,
        Ok(limit) => limit.min(RECORDS_OF_STRANGERS),
    };
    let before = Some(asked.before).filter(|it| *it != 0);
    let found = read(tracker, subject, RecordsPage { before, limit }).await?;
    let last = found.last().map(|it| it.at);
    Ok(ListRecordsResponse {
        // Perhaps there is nothing behind a page that is full.
        next_before: last.filter(|_| found.len() == limit).unwrap_or_default(),
        records: found.into_iter().map(told).collect(),
        coverage: None,
    })
}

/// What was refused last, of those records that are kept; nothing if the store cannot say.
pub(crate) async fn last_refusal(
    tracker: &Tracker,
    subject: RecordSubject,
) -> Option<ConnectionRecord> {
    let found = read(tracker, subject, RecordsPage::default()).await.ok()?;
    let mut refused = found
        .into_iter()
        .filter(|it| it.event == ConnectionEvent::Refused);
    refused.next().map(told)
}

async fn read(
    tracker: &Tracker,
    subject: RecordSubject,
    page: RecordsPage,
) -> Result<Vec<Kept>, StoreError> {
    let read = tracker.log().read(subject, page);
    let read = tokio::time::timeout(STORE_TIMEOUT, read).await;
    read.unwrap_or(Err(StoreError::Timeout(STORE_TIMEOUT)))
}

/// A record's time, for messages.
pub(crate) fn instant(milliseconds: u64) -> String {
    let at = i64::try_from(milliseconds).unwrap_or(i64::MAX);
    Timestamp::from_millisecond(at)
        .unwrap_or_default()
        .to_string()
}

fn told(record: Kept) -> ConnectionRecord {
    let event = match record.event {
        ConnectionEvent::Connected => "connected",
        ConnectionEvent::Disconnected => "disconnected",
        ConnectionEvent::Refused => "refused",
    };
    ConnectionRecord {
        at: instant(record.at),
        event: event.to_owned(),
        reason: record.reason,
        instance: record.instance,
        version: record.version,
        remote_addr: record.remote_addr,
        replica: record.replica,
        scheme: record.scheme,
        duration_milliseconds: record.duration_ms,
        token: record.token.unwrap_or_default(),
        cluster: record.cluster.unwrap_or_default(),
        left_out: record.left_out,
    }
}

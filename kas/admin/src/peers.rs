//! Questions to the other replicas: all at once, each within a deadline, and never more than a bounded number.

use std::time::Duration;

use cluster_state::{Member, RoutingTable};
use futures_util::{StreamExt, stream};
use prost::Message;
use proto::bounds::Bounds;
use router::Router;
use tonic::Status;

/// How long a replica may take to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(1);
/// Replicas that are asked, at most.
pub(crate) const MAX_REPLICAS: usize = 100;
/// Replicas that are asked at the same time.
const AT_ONCE: usize = 16;
/// A replica's answer: 500 requests in progress, with room to spare.
const ANSWER_BOUNDS: Bounds = Bounds::bytes(1 << 20);

/// Why a replica did not answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    #[error("it publishes no URL, so it cannot be asked")]
    NoUrl,
    #[error("{}", .0.message())]
    Refused(Box<Status>),
    #[error("it did not answer within {ANSWER_TIMEOUT:?}")]
    Timeout,
    #[error("its answer is empty")]
    Empty,
}

/// The replicas that may live, by their ids, this one included.
pub(crate) fn members(table: &dyn RoutingTable) -> Vec<Member> {
    let mut members = table.members();
    members.sort_by(|a, b| a.replica.replica.cmp(&b.replica.replica));
    members.truncate(MAX_REPLICAS);
    members
}

/// Asks a replica.
///
/// # Errors
/// When it does not answer.
pub(crate) async fn ask<A: Message + Default>(
    router: &Router,
    url: &str,
    method: &'static str,
    question: &impl Message,
) -> Result<A, AskError> {
    if url.is_empty() {
        return Err(AskError::NoUrl);
    }
    let asked = router.peers().ask(url, method, question, &ANSWER_BOUNDS);
    match tokio::time::timeout(ANSWER_TIMEOUT, asked).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(status)) => Err(AskError::Refused(Box::new(status))),
        Err(_) => Err(AskError::Timeout),
    }
}

/// Asks several, and gives the answers in their order.
pub(crate) async fn all<T, F: Future<Output = T>>(questions: Vec<F>) -> Vec<T> {
    stream::iter(questions).buffered(AT_ONCE).collect().await
}

//! Follows the cluster's events.

use std::time::Duration;

use k8s_openapi::api::core::v1;
use kube::Client;
use proto::events::rpc::Event;
use runtime::{backoff::Backoff, telemetry::Causes};

use super::convert;
use crate::{
    informer::{self, Informer},
    last_failure::LastFailure,
};

/// The events of all namespaces.
const PATH: &str = "/api/v1/events";
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Offers each event, those of a new list again. Never ends.
pub(super) async fn run(client: &Client, offer: impl Fn(Event)) {
    let informer = Informer::new(client, PATH.to_owned(), false);
    let offer = |event: v1::Event| {
        if let Some(event) = convert::from_kubernetes(event) {
            offer(event);
        }
    };
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX, 2.0);
    let mut failure = LastFailure::default();
    loop {
        let handle = |event| {
            match event {
                informer::Event::Page(events) => events.into_iter().for_each(offer),
                informer::Event::Applied(event) => offer(event),
                informer::Event::ListStarted
                | informer::Event::Listed(_)
                | informer::Event::Deleted(_)
                | informer::Event::Bookmark(_) => {}
            }
            Ok(())
        };
        let error = informer.follow(|| backoff.reset(), handle).await;
        let text = Causes(&error).to_string();
        if error.is_expired() {
            tracing::debug!("resource version of the events expired; listing them again");
        } else if failure.is_new(&text) {
            tracing::warn!(
                error = text,
                "cannot follow the cluster's events; `agentk rbac --features events` prints the required rights"
            );
        }
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
}

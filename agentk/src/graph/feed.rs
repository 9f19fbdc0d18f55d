//! Fills a cache from the Kubernetes API.

use std::time::Duration;

use kube::{
    Client,
    core::{ApiResource, DynamicObject},
};
use object_cache::{ObjectCache, StagedList};
use proto::graph::rpc::Update;
use runtime::{backoff::Backoff, telemetry::Causes};
use tonic::Status;

use super::{
    Key,
    discovery::{self, DiscoveryError},
    object,
};
use crate::informer::{Event, Informer, InformerError};

const BACKOFF_MIN: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// Feeds the cache until that is of no use any more; the status says why.
pub(super) async fn run(client: &Client, key: &Key, cache: &ObjectCache) -> Status {
    let mut backoff = Backoff::new(BACKOFF_MIN, BACKOFF_MAX, 2.0);
    loop {
        let error = match discovery::find(client, &key.collection).await {
            Ok(kind) => follow(client, key, &kind, cache, || backoff.reset())
                .await
                .into(),
            Err(error) => error,
        };
        if let DiscoveryError::Api(error) = &error
            && error.is_expired()
        {
            continue;
        }
        if let Some(status) = final_status(&error) {
            return status;
        }
        let error = Causes(&error).to_string();
        tracing::debug!(error, resource = %key.collection, "cannot follow a resource of the cluster; retrying");
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
}

async fn follow(
    client: &Client,
    key: &Key,
    kind: &ApiResource,
    cache: &ObjectCache,
    listed: impl FnOnce(),
) -> InformerError {
    let informer = Informer::new(client, key.collection.path(), !key.whole);
    let mut list: Option<StagedList<'_>> = None;
    let convert = |item| object::from_kubernetes(kind, item, key.whole);
    let handle = |event: Event<DynamicObject>| {
        let update = match event {
            Event::ListStarted => {
                list = Some(cache.begin_list());
                return Ok(());
            }
            Event::Page(items) => {
                let page = items.into_iter().map(convert).collect();
                return list.as_mut().map_or(Ok(()), |list| list.push(page));
            }
            Event::Listed(version) => {
                if let Some(list) = list.take() {
                    list.commit(version);
                }
                return Ok(());
            }
            Event::Applied(item) => {
                let object = convert(item);
                Update {
                    version: object.resource_version.clone(),
                    changed: vec![object],
                    ..Update::default()
                }
            }
            Event::Deleted(item) => Update {
                version: item.metadata.resource_version.unwrap_or_default(),
                removed: item.metadata.uid.into_iter().collect(),
                ..Update::default()
            },
            Event::Bookmark(version) => Update {
                version,
                ..Update::default()
            },
        };
        cache.apply(update);
        Ok(())
    };
    informer.follow(listed, handle).await
}

/// What watchers receive if another try is of no use.
fn final_status(error: &DiscoveryError) -> Option<Status> {
    match error {
        DiscoveryError::Unknown => Some(Status::not_found(error.to_string())),
        DiscoveryError::Api(InformerError::Api(kube::Error::Api(status))) => match status.code {
            403 => Some(Status::permission_denied(format!(
                "the agent lacks rights in its cluster: {}; `agentk rbac --features …` prints those that are needed",
                status.message
            ))),
            404 | 405 => Some(Status::not_found(status.message.clone())),
            _ => None,
        },
        DiscoveryError::Api(InformerError::Handler(status)) => Some(status.clone()),
        DiscoveryError::Api(
            InformerError::Api(_) | InformerError::Watch(_) | InformerError::Timeout,
        )
        | DiscoveryError::Path(_) => None,
    }
}

//! Follows one resource at the API server: finds it, lists it, watches it.

use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::APIResourceList;
use kube::{
    Client,
    api::{ListParams, WatchEvent, WatchParams},
    core::{ApiResource, DynamicObject, ObjectList, Request},
};
use object_cache::Hub;
use proto::graph::rpc::Update;
use runtime::backoff::Backoff;
use tonic::Status;

use super::{Key, object};

/// Objects of one answer to a list.
const PAGE: u32 = 500;
/// How long one answer may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a watch lasts; the API server ends it then.
const WATCH: u32 = 290;
/// How much later a watch that did not end is given up.
const OVERDUE: Duration = Duration::from_secs(15);

/// Feeds `hub` until that has no sense any more, which the status explains.
pub(super) async fn run(client: &Client, key: &Key, hub: &Hub) -> Status {
    let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(30), 2.0);
    loop {
        let error = match find(client, key).await {
            Ok(api) => {
                let informer = Informer::new(client, key, api);
                match informer.follow(hub, || backoff.reset()).await {
                    Ok(()) => continue,
                    Err(error) => error,
                }
            }
            Err(error) => error,
        };
        if let Some(status) = error.last_word() {
            return status;
        }
        tracing::debug!(%error, resource = %key.collection, "objects cannot be followed; trying again");
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("{0}")]
    Watch(#[from] Box<kube::core::Status>),
    #[error("the Kubernetes API does not answer")]
    Silent,
    #[error("the cluster has no such resource")]
    Unknown,
    #[error("{0}")]
    Full(#[from] Status),
    #[error("{0}")]
    Request(Box<http::Error>),
}

impl Failure {
    fn is_expired(&self) -> bool {
        match self {
            Self::Api(kube::Error::Api(status)) | Self::Watch(status) => status.code == 410,
            Self::Api(_) | Self::Silent | Self::Unknown | Self::Full(_) | Self::Request(_) => false,
        }
    }

    /// What is told if another try has no sense.
    fn last_word(&self) -> Option<Status> {
        match self {
            Self::Unknown => Some(Status::not_found(self.to_string())),
            Self::Api(kube::Error::Api(status)) => match status.code {
                403 => Some(Status::permission_denied(format!(
                    "the agent lacks rights in its cluster: {}; `agentk rbac --features …` prints those that are needed",
                    status.message
                ))),
                404 | 405 => Some(Status::not_found(status.message.clone())),
                _ => None,
            },
            Self::Full(status) => Some(status.clone()),
            Self::Api(_) | Self::Watch(_) | Self::Silent | Self::Request(_) => None,
        }
    }
}

/// Asks the API server what it calls the resource.
async fn find(client: &Client, key: &Key) -> Result<ApiResource, Failure> {
    let collection = &key.collection;
    let request = http::Request::get(collection.api_path()).body(Vec::new());
    let request = request.map_err(|error| Failure::Request(Box::new(error)))?;
    let asked = client.request::<APIResourceList>(request);
    let list = tokio::time::timeout(DEADLINE, asked).await;
    let list = list.map_err(|_| Failure::Silent)??;
    let found = list
        .resources
        .into_iter()
        .find(|it| it.name == collection.plural());
    let found = found.ok_or(Failure::Unknown)?;
    Ok(ApiResource {
        group: collection.group().to_owned(),
        version: collection.version().to_owned(),
        api_version: collection.api_version(),
        kind: found.kind,
        plural: found.name,
    })
}

struct Informer<'a> {
    client: &'a Client,
    key: &'a Key,
    api: ApiResource,
    requests: Request,
}

impl<'a> Informer<'a> {
    fn new(client: &'a Client, key: &'a Key, api: ApiResource) -> Self {
        Self {
            client,
            key,
            api,
            requests: Request::new(key.collection.path()),
        }
    }

    /// Ends when the place in the changes is too old.
    async fn follow(&self, hub: &Hub, mut well: impl FnMut()) -> Result<(), Failure> {
        let mut version = self.list(hub).await?;
        well();
        loop {
            let limit = Duration::from_secs(WATCH.into()) + OVERDUE;
            let watched = tokio::time::timeout(limit, self.watch(hub, &mut version)).await;
            match watched {
                Ok(Err(error)) if error.is_expired() => return Ok(()),
                Ok(Err(error)) => return Err(error),
                Ok(Ok(())) | Err(_) => {}
            }
        }
    }

    async fn list(&self, hub: &Hub) -> Result<String, Failure> {
        let mut params = ListParams::default().limit(PAGE);
        let mut all = hub.stage();
        loop {
            let request = if self.key.whole {
                self.requests.list(&params)
            } else {
                self.requests.list_metadata(&params)
            };
            let request = request.map_err(kube::Error::BuildRequest)?;
            let asked = self.client.request::<ObjectList<DynamicObject>>(request);
            let page = tokio::time::timeout(DEADLINE, asked).await;
            let page = page.map_err(|_| Failure::Silent)??;
            let told = |item| object::told(&self.api, item, self.key.whole);
            all.push(page.items.into_iter().map(told).collect())?;
            match page.metadata.continue_.filter(|it| !it.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => {
                    let version = page.metadata.resource_version.unwrap_or_default();
                    all.commit(version.clone());
                    return Ok(version);
                }
            }
        }
    }

    /// One watch, from `version` on, which moves.
    async fn watch(&self, hub: &Hub, version: &mut String) -> Result<(), Failure> {
        let params = WatchParams::default().timeout(WATCH);
        let request = if self.key.whole {
            self.requests.watch(&params, version)
        } else {
            self.requests.watch_metadata(&params, version)
        };
        let request = request.map_err(kube::Error::BuildRequest)?;
        let begun = self.client.request_events::<DynamicObject>(request);
        let begun = tokio::time::timeout(DEADLINE, begun).await;
        let stream = begun.map_err(|_| Failure::Silent)??;
        pin_mut!(stream);
        while let Some(event) = stream.next().await {
            let mut update = Update::default();
            match event? {
                WatchEvent::Added(item) | WatchEvent::Modified(item) => {
                    let object = object::told(&self.api, item, self.key.whole);
                    update.version.clone_from(&object.resource_version);
                    update.changed.push(object);
                }
                WatchEvent::Deleted(item) => {
                    update.version = item.metadata.resource_version.unwrap_or_default();
                    update.removed.extend(item.metadata.uid);
                }
                WatchEvent::Bookmark(mark) => update.version = mark.metadata.resource_version,
                WatchEvent::Error(status) => return Err(Failure::Watch(status)),
            }
            version.clone_from(&update.version);
            hub.apply(update);
        }
        Ok(())
    }
}

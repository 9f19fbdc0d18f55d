//! Follows the objects of one collection at the Kubernetes API: lists them, then watches from there on.
//!
//! kube-runtime's `watcher` does the same, but hides the collection's resource version and bookmarks, which
//! watchers of a cache need to go on where they were; has no timeout for a page or for starting a watch; and goes
//! on forever with a version for which a watch is refused with 410 when it starts.

use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use kube::{
    Client, ResourceExt,
    api::{ListParams, WatchEvent, WatchParams},
    core::{ObjectList, Request},
};
use serde::de::DeserializeOwned;
use tonic::Status;

/// Objects in one page of a list: no more are in memory at once before the handler has them.
const PAGE_OBJECTS: u32 = 500;
/// How long the API server may take for a page, or to start a watch.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long the API server keeps a watch open.
const WATCH_SECONDS: u32 = 290;
/// How much later a watch is given up that the API server has not ended.
const WATCH_GRACE_TIMEOUT: Duration = Duration::from_secs(15);

/// What becomes of a collection.
#[derive(Debug)]
pub(crate) enum Event<K> {
    /// A list begins, the first one or because the place in the changes is lost.
    ListStarted,
    /// A page of the list.
    Page(Vec<K>),
    /// The list is complete, at this resource version.
    Listed(String),
    /// An object was added or modified.
    Applied(K),
    /// An object was deleted.
    Deleted(K),
    /// Nothing changed up to this resource version.
    Bookmark(String),
}

/// Why a collection cannot be followed any more.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InformerError {
    /// A request failed.
    #[error("the request to the Kubernetes API failed")]
    Api(#[from] kube::Error),
    /// The API server ended the watch.
    #[error("the Kubernetes API ended the watch")]
    Watch(#[from] Box<kube::core::Status>),
    /// No answer came in time.
    #[error("the Kubernetes API did not answer within {} s", RESPONSE_TIMEOUT.as_secs())]
    Timeout,
    /// The handler does not want to go on.
    #[error("{}", .0.message())]
    Handler(Status),
}

impl InformerError {
    /// Whether the API server has forgotten the place in the changes: list again.
    pub(crate) fn is_expired(&self) -> bool {
        match self {
            Self::Api(kube::Error::Api(status)) | Self::Watch(status) => status.code == 410,
            Self::Api(_) | Self::Timeout | Self::Handler(_) => false,
        }
    }
}

/// Follows one collection.
pub(crate) struct Informer<'a> {
    client: &'a Client,
    requests: Request,
    metadata_only: bool,
}

/// Within how long an answer must come.
pub(crate) async fn within<T>(
    answer: impl Future<Output = Result<T, kube::Error>>,
) -> Result<T, InformerError> {
    let answer = tokio::time::timeout(RESPONSE_TIMEOUT, answer).await;
    Ok(answer.map_err(|_| InformerError::Timeout)??)
}

impl<'a> Informer<'a> {
    /// Of the collection at a path. With `metadata_only` the API server leaves out the rest of the objects.
    pub(crate) fn new(client: &'a Client, path: String, metadata_only: bool) -> Self {
        Self {
            client,
            requests: Request::new(path),
            metadata_only,
        }
    }

    /// Lists and watches until something fails; `listed` is called behind a complete list.
    pub(crate) async fn follow<K: ResourceExt + Clone + DeserializeOwned>(
        &self,
        listed: impl FnOnce(),
        mut handle: impl FnMut(Event<K>) -> Result<(), Status>,
    ) -> InformerError {
        let mut version = match self.list(&mut handle).await {
            Ok(version) => version,
            Err(error) => return error,
        };
        listed();
        loop {
            let limit = Duration::from_secs(WATCH_SECONDS.into()) + WATCH_GRACE_TIMEOUT;
            let watch = self.watch(&mut version, &mut handle);
            if let Ok(Err(error)) = tokio::time::timeout(limit, watch).await {
                return error;
            }
        }
    }

    async fn list<K: Clone + DeserializeOwned>(
        &self,
        handle: &mut impl FnMut(Event<K>) -> Result<(), Status>,
    ) -> Result<String, InformerError> {
        let mut params = ListParams::default().limit(PAGE_OBJECTS);
        handle(Event::ListStarted).map_err(InformerError::Handler)?;
        loop {
            let request = if self.metadata_only {
                self.requests.list_metadata(&params)
            } else {
                self.requests.list(&params)
            };
            let request = request.map_err(kube::Error::BuildRequest)?;
            let page = within(self.client.request::<ObjectList<K>>(request)).await?;
            handle(Event::Page(page.items)).map_err(InformerError::Handler)?;
            match page.metadata.continue_.filter(|it| !it.is_empty()) {
                Some(token) => params = params.continue_token(&token),
                None => {
                    let version = page.metadata.resource_version.unwrap_or_default();
                    handle(Event::Listed(version.clone())).map_err(InformerError::Handler)?;
                    return Ok(version);
                }
            }
        }
    }

    /// One watch, from `version` on, which moves.
    async fn watch<K: ResourceExt + Clone + DeserializeOwned>(
        &self,
        version: &mut String,
        handle: &mut impl FnMut(Event<K>) -> Result<(), Status>,
    ) -> Result<(), InformerError> {
        let params = WatchParams::default().timeout(WATCH_SECONDS);
        let request = if self.metadata_only {
            self.requests.watch_metadata(&params, version)
        } else {
            self.requests.watch(&params, version)
        };
        let request = request.map_err(kube::Error::BuildRequest)?;
        let stream = within(self.client.request_events::<K>(request)).await?;
        pin_mut!(stream);
        while let Some(event) = stream.next().await {
            let (event, reached) = match event? {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => {
                    let reached = object.resource_version();
                    (Event::Applied(object), reached)
                }
                WatchEvent::Deleted(object) => {
                    let reached = object.resource_version();
                    (Event::Deleted(object), reached)
                }
                WatchEvent::Bookmark(mark) => {
                    let reached = mark.metadata.resource_version;
                    (Event::Bookmark(reached.clone()), Some(reached))
                }
                WatchEvent::Error(status) => return Err(InformerError::Watch(status)),
            };
            if let Some(reached) = reached {
                *version = reached;
            }
            handle(event).map_err(InformerError::Handler)?;
        }
        Ok(())
    }
}

//! Follows the cluster's events: lists them, then watches from there on.

use std::time::Duration;

use futures_util::{StreamExt, pin_mut};
use k8s_openapi::api::core::v1;
use kube::{
    Client,
    api::{Api, ListParams, WatchEvent, WatchParams},
};
use proto::events::rpc::Event;
use runtime::backoff::Backoff;

use super::occurrence;

/// Events of one answer to a list.
const PAGE: u32 = 500;
/// How long one answer may take.
const DEADLINE: Duration = Duration::from_secs(30);
/// How long a watch lasts; the API server ends it then.
const WATCH: u32 = 290;
/// How much later a watch that did not end is given up.
const OVERDUE: Duration = Duration::from_secs(15);

/// Never ends. What was offered before is offered again when the list is read anew.
pub(super) async fn run(client: &Client, offer: impl Fn(Event)) {
    let api: Api<v1::Event> = Api::all(client.clone());
    let offer = |event| {
        if let Some(event) = occurrence::told(event) {
            offer(event);
        }
    };
    let mut backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(60), 2.0);
    let mut complaint = None;
    loop {
        match follow(&api, &offer, || backoff.reset()).await {
            End::Expired => {
                tracing::debug!("the place in the events is too old; they are listed again")
            }
            End::Failed(error) => {
                let error = error.to_string();
                if complaint.as_ref() != Some(&error) {
                    tracing::warn!(
                        error,
                        "cannot follow the cluster's events; `agentk rbac --features events` prints the rights that are needed"
                    );
                    complaint = Some(error);
                }
            }
        }
        tokio::time::sleep(backoff.next(rand::random())).await;
    }
}

/// Why the events cannot be followed from where they were.
enum End {
    /// The API server has forgotten the place.
    Expired,
    Failed(Failure),
}

#[derive(Debug, thiserror::Error)]
enum Failure {
    #[error("{0}")]
    Api(#[from] kube::Error),
    #[error("{0}")]
    Watch(String),
    #[error("the Kubernetes API does not answer")]
    Silent,
}

async fn follow(api: &Api<v1::Event>, offer: &impl Fn(v1::Event), mut well: impl FnMut()) -> End {
    let mut version = match list(api, offer).await {
        Ok(version) => version,
        Err(failure) => return End::Failed(failure),
    };
    well();
    loop {
        let limit = Duration::from_secs(WATCH.into()) + OVERDUE;
        let watched = tokio::time::timeout(limit, watch(api, offer, &mut version)).await;
        if let Ok(Some(end)) = watched {
            return end;
        }
    }
}

async fn list(api: &Api<v1::Event>, offer: &impl Fn(v1::Event)) -> Result<String, Failure> {
    let mut params = ListParams::default().limit(PAGE);
    loop {
        let listed = tokio::time::timeout(DEADLINE, api.list(&params)).await;
        let page = listed.map_err(|_| Failure::Silent)??;
        page.items.into_iter().for_each(offer);
        match page.metadata.continue_.filter(|it| !it.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => return Ok(page.metadata.resource_version.unwrap_or_default()),
        }
    }
}

/// One watch, from `version` on, which moves. None: it ended in order.
async fn watch(
    api: &Api<v1::Event>,
    offer: &impl Fn(v1::Event),
    version: &mut String,
) -> Option<End> {
    let params = WatchParams::default().timeout(WATCH);
    let begun = tokio::time::timeout(DEADLINE, api.watch(&params, version)).await;
    let stream = match begun {
        Ok(Ok(stream)) => stream,
        Ok(Err(kube::Error::Api(status))) if status.code == 410 => return Some(End::Expired),
        Ok(Err(error)) => return Some(End::Failed(error.into())),
        Err(_) => return Some(End::Failed(Failure::Silent)),
    };
    pin_mut!(stream);
    while let Some(event) = stream.next().await {
        match event {
            Ok(WatchEvent::Added(event) | WatchEvent::Modified(event)) => {
                moved(version, event.metadata.resource_version.as_ref());
                offer(event);
            }
            Ok(WatchEvent::Deleted(event)) => {
                moved(version, event.metadata.resource_version.as_ref());
            }
            Ok(WatchEvent::Bookmark(mark)) => version.clone_from(&mark.metadata.resource_version),
            Ok(WatchEvent::Error(status)) if status.code == 410 => return Some(End::Expired),
            Ok(WatchEvent::Error(status)) => {
                return Some(End::Failed(Failure::Watch(status.message)));
            }
            Err(error) => return Some(End::Failed(error.into())),
        }
    }
    None
}

fn moved(version: &mut String, to: Option<&String>) {
    if let Some(to) = to {
        version.clone_from(to);
    }
}

//! The service that lets kas watch the cluster's objects: one watch at the API server for all who
//! watch the same resource.

mod discovery;
mod feed;
mod object;

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use object_cache::{Limits, ObjectCache, ObjectCaches, Watch};
use prost::Message as _;
use proto::{
    agent::reverse_tunnel::rpc::connect_response::Msg,
    frame::Payload,
    graph::rpc::{Known, Resource, SourceRequest},
};
use runtime::names::Collection;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use crate::{
    call::{CallError, Inbound, Outbound, TunnelError, add_trailer},
    cluster::Cluster,
    services::Service,
};

/// The method, as calls name it.
pub(crate) const PATH: &str = "/gitlab.agent.kas_graph.rpc.Source/Watch";
/// The same as an older kas names it.
pub(crate) const FORMER_PATH: &str = "/kas.graph.rpc.Source/Watch";

/// `ConnectRequest.message`, `Message.data`.
const MESSAGE: &[u32] = &[3, 1];
const LIMITS: Limits = Limits {
    bytes: 256 << 20,
    bytes_per_group: 256 << 20,
    bytes_reserved: 0,
    bytes_per_cache: 128 << 20,
    caches: 200,
    idle_ttl: Duration::from_secs(60),
};
/// How long the first list may take, and how long the cache may be older than what kas knows.
const FIRST_LIST_TIMEOUT: Duration = Duration::from_secs(60);
/// How long kas may take to read an update.
const SEND_TIMEOUT: Duration = Duration::from_secs(60);

/// The service. Clones share the caches.
#[derive(Clone)]
pub(crate) struct Graph {
    client: kube::Client,
    caches: ObjectCaches<Key>,
}

/// What a cache is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    collection: Collection,
    whole: bool,
}

impl std::fmt::Debug for Graph {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Graph").finish_non_exhaustive()
    }
}

impl Graph {
    pub(crate) fn new(cluster: &Cluster, stop: CancellationToken) -> Result<Self, kube::Error> {
        Ok(Self {
            client: cluster.typed()?,
            caches: ObjectCaches::new(LIMITS, stop),
        })
    }

    /// A watch for the agent itself.
    pub(crate) async fn objects(&self, resource: Resource) -> Result<Watch, Status> {
        self.cache(resource)?
            .watch(&Known::default(), FIRST_LIST_TIMEOUT)
            .await
    }

    fn cache(&self, resource: Resource) -> Result<Arc<ObjectCache>, Status> {
        let key = Key::of(&resource)?;
        let client = self.client.clone();
        let followed = key.clone();
        let feed =
            |cache: Arc<ObjectCache>| async move { feed::run(&client, &followed, &cache).await };
        // One agent, one group.
        self.caches.get(key, 0, || Ok(()), feed)
    }

    async fn watch(&self, inbound: &mut Inbound, outbound: &mut Outbound) -> Result<(), CallError> {
        let request = request(inbound).await?;
        let cache = self.cache(request.resource.unwrap_or_default())?;
        let known = Known {
            version: request.version,
            ..Known::default()
        };
        let mut watch = outbound
            .unless_reset(cache.watch(&known, FIRST_LIST_TIMEOUT))
            .await??;
        loop {
            let update = tokio::select! {
                update = watch.next() => update?,
                message = inbound.next() => match message? {
                    Some(_) => continue,
                    None => break,
                },
            };
            let payload = Payload::message(&update);
            let frame = outbound.builder().nested(MESSAGE, payload).build();
            let sent = tokio::time::timeout(SEND_TIMEOUT, outbound.send(frame)).await;
            sent.map_err(|_| Status::aborted("kas did not read an update in time"))??;
        }
        Ok(outbound.end(add_trailer(outbound.builder()).build())?)
    }
}

async fn request(inbound: &mut Inbound) -> Result<SourceRequest, CallError> {
    match inbound.next().await? {
        Some(Msg::Message(message)) => SourceRequest::decode(message.data)
            .map_err(|error| Status::internal(format!("a request cannot be read: {error}")).into()),
        Some(Msg::RequestInfo(_) | Msg::CloseSend(_)) => {
            Err(Status::invalid_argument("a call without a request").into())
        }
        None => Err(TunnelError::Ended(Status::ok("")).into()),
    }
}

impl Service for Graph {
    fn serve<'a>(
        &'a self,
        inbound: &'a mut Inbound,
        outbound: &'a mut Outbound,
    ) -> BoxFuture<'a, Result<(), CallError>> {
        Box::pin(self.watch(inbound, outbound))
    }
}

impl Key {
    /// Parsed here again: what kas sends becomes a path that is read with the agent's own rights.
    fn of(resource: &Resource) -> Result<Self, Status> {
        let collection = Collection::parse(resource)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Self {
            collection,
            whole: resource.whole,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kas_sends_is_no_path_of_its_own() {
        let resource = Resource {
            version: "v1".into(),
            resource: "configmaps".into(),
            namespace: "kube-system/secrets?x=".into(),
            whole: true,
            ..Resource::default()
        };

        let refused = Key::of(&resource).unwrap_err();

        assert_eq!(refused.code(), tonic::Code::InvalidArgument);
        assert!(refused.message().contains("the namespace"), "{refused}");
    }
}

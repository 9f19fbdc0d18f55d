//! Tells kas of the cluster's objects, one watch at the API server for all who
//! ask for the same.

mod informer;
mod object;

use std::{sync::Arc, time::Duration};

use object_cache::{Hub, Hubs, Limits, Watch};
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
    cluster::Cluster,
    kubernetes_api::Failure,
    tunnels::{Inbound, Lost, Outbound, add_trailer},
};

/// The service's full name.
pub(crate) const SERVICE: &str = "kas.graph.rpc.Source";
/// Its only method.
pub(crate) const METHOD: &str = "Watch";
/// Both, as calls name them.
pub(crate) const PATH: &str = "/kas.graph.rpc.Source/Watch";

/// `ConnectRequest.message`, `Message.data`.
const MESSAGE: &[u32] = &[3, 1];
const LIMITS: Limits = Limits {
    bytes: 256 << 20,
    bytes_of_group: 256 << 20,
    bytes_reserved: 0,
    bytes_each: 128 << 20,
    hubs: 200,
    linger: Duration::from_secs(60),
};
/// How long the first list may take, and how long versions may lag behind.
const FIRST: Duration = Duration::from_secs(60);
/// How long kas may have no room for an update.
const UNREAD: Duration = Duration::from_secs(60);

/// The service. Clones share what it keeps.
#[derive(Clone)]
pub(crate) struct Graph {
    client: kube::Client,
    hubs: Hubs<Key>,
}

/// What a watch at the API server is of.
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
            hubs: Hubs::new(LIMITS, stop),
        })
    }

    /// Objects and what becomes of them, for the agent itself.
    pub(crate) async fn objects(&self, resource: Resource) -> Result<Watch, Status> {
        self.hub(resource)?.watch(&Known::default(), FIRST).await
    }

    fn hub(&self, resource: Resource) -> Result<Arc<Hub>, Status> {
        let key = Key::of(&resource)?;
        let client = self.client.clone();
        let followed = key.clone();
        let feed = |hub: Arc<Hub>| async move { informer::run(&client, &followed, &hub).await };
        // One agent, one group.
        self.hubs.get(key, 0, || Ok(()), feed)
    }

    /// Serves a call until kas ends it, or there is nothing more to tell.
    pub(crate) async fn watch(
        &self,
        inbound: &mut Inbound,
        outbound: &mut Outbound,
    ) -> Result<(), Failure> {
        let request = request(inbound).await?;
        let hub = self.hub(request.resource.unwrap_or_default())?;
        let known = Known {
            version: request.version,
            ..Known::default()
        };
        let mut watch = outbound.unless_reset(hub.watch(&known, FIRST)).await??;
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
            let sent = tokio::time::timeout(UNREAD, outbound.send(frame)).await;
            sent.map_err(|_| Status::aborted("kas does not read what it is told"))??;
        }
        Ok(outbound.end(add_trailer(outbound.builder()).build())?)
    }
}

async fn request(inbound: &mut Inbound) -> Result<SourceRequest, Failure> {
    match inbound.next().await? {
        Some(Msg::Message(message)) => SourceRequest::decode(message.data)
            .map_err(|error| Status::internal(format!("a request cannot be read: {error}")).into()),
        Some(Msg::RequestInfo(_) | Msg::CloseSend(_)) => {
            Err(Status::invalid_argument("a call without a request").into())
        }
        None => Err(Lost::Ended(Status::ok("")).into()),
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

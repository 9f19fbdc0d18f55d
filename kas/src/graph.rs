//! Objects of agents' clusters and what becomes of them, for programs that show
//! clusters: one stream from the agent for all who watch the same, each with
//! the caller's own rights.

mod caller;
mod feed;
mod websocket;

use std::{
    pin::Pin,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use futures_util::{Stream, stream};
use proto::graph::rpc::{Resource, Update, WatchRequest, graph_server};
use router::{AgentId, Router};
use runtime::{
    drain::Drain,
    graph::{Hubs, Limits, Watch},
};
use tokio::sync::{Semaphore, mpsc};
use tonic::{Request, Response, Status};

use crate::kubernetes_api::KubernetesApi;
use caller::Caller;

const LIMITS: Limits = Limits {
    bytes: 512 << 20,
    hubs: 1000,
    linger: Duration::from_secs(20),
};
/// How long the agent may take to tell its objects.
const FIRST: Duration = Duration::from_secs(60);
/// Those who watch, at most.
const WATCHERS: usize = 10_000;
/// Updates that are on their way to one who watches.
const QUEUE: usize = 16;
/// How long they may wait to be read.
const UNREAD: Duration = Duration::from_secs(30);
/// The longest name of a group, a resource or a namespace.
const LONGEST: usize = 253;

/// The service. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Graph(Arc<OnceLock<Reach>>);

/// The ways to agents, once there are any.
#[derive(Debug)]
struct Reach {
    /// Weak, since its settings hold the service.
    api: Weak<KubernetesApi>,
    router: Arc<Router>,
    drain: Drain,
    hubs: Hubs<Key>,
    places: Arc<Semaphore>,
}

/// What one stream of an agent is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    agent: AgentId,
    group: String,
    version: String,
    resource: String,
    namespace: String,
    whole: bool,
}

impl Graph {
    /// Watches begin to be served: rights are asked of `api`. They end with `drain`.
    pub(crate) fn open(&self, api: &Arc<KubernetesApi>, router: Arc<Router>, drain: Drain) {
        let hubs = Hubs::new(LIMITS, drain.token().clone());
        let reach = Reach {
            api: Arc::downgrade(api),
            router,
            drain,
            hubs,
            places: Arc::new(Semaphore::new(WATCHERS)),
        };
        // It is opened once, by the replica it belongs to.
        drop(self.0.set(reach));
    }
}

type Updates = mpsc::Receiver<Result<Update, Status>>;

impl Graph {
    /// Begins a watch, if the caller may; its end is told as an error.
    async fn start(&self, request: WatchRequest) -> Result<Updates, Status> {
        let reach = self.0.get();
        let api = reach.and_then(|reach| Some((reach, reach.api.upgrade()?)));
        let (reach, api) = api.ok_or_else(|| Status::unavailable("this kas serves no users"))?;
        let place = reach.places.clone().try_acquire_owned();
        let place = place.map_err(|_| Status::resource_exhausted("too many watch"))?;
        let WatchRequest {
            credentials,
            resource,
            known,
        } = request;
        let caller = Caller::new(&credentials, api, reach.drain.clone())?;
        let key = Key::of(caller.agent(), resource.unwrap_or_default())?;
        caller.check(&key).await?;
        let router = reach.router.clone();
        let hub = reach.hubs.get(key.clone(), |hub| {
            let key = key.clone();
            async move { feed::run(&router, &key, &hub).await }
        })?;
        let watch = hub.watch(&known.unwrap_or_default(), FIRST).await?;
        let (sender, receiver) = mpsc::channel(QUEUE);
        let drain = reach.drain.clone();
        reach.drain.spawn(async move {
            let _place = place;
            let end = tokio::select! {
                end = pass_on(watch, &sender) => end,
                end = caller.lost(&key) => end,
                () = drain.wait() => Status::unavailable("this replica leaves: watch again"),
                () = sender.closed() => return,
            };
            // Whoever does not read is not told.
            let _ = sender.send_timeout(Err(end), UNREAD).await;
        });
        Ok(receiver)
    }
}

#[tonic::async_trait]
impl graph_server::Graph for Graph {
    type WatchStream = Pin<Box<dyn Stream<Item = Result<Update, Status>> + Send>>;

    async fn watch(
        &self,
        request: Request<WatchRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let receiver = self.start(request.into_inner()).await?;
        let updates = stream::unfold(receiver, |mut receiver| async {
            Some((receiver.recv().await?, receiver))
        });
        Ok(Response::new(Box::pin(updates)))
    }
}

async fn pass_on(mut watch: Watch, sender: &mpsc::Sender<Result<Update, Status>>) -> Status {
    loop {
        let update = match watch.next().await {
            Ok(update) => update,
            Err(end) => return end,
        };
        if sender.send_timeout(Ok(update), UNREAD).await.is_err() {
            return Status::aborted("updates were not read: watch again");
        }
    }
}

impl Key {
    fn of(agent: AgentId, resource: Resource) -> Result<Self, Status> {
        let Resource {
            group,
            version,
            resource,
            namespace,
            whole,
        } = resource;
        if version.is_empty() || resource.is_empty() {
            let message = "a version and a resource are needed, such as v1 and configmaps";
            return Err(Status::invalid_argument(message));
        }
        let names = [&group, &version, &resource, &namespace];
        if names.iter().any(|name| name.len() > LONGEST) {
            return Err(Status::invalid_argument("a name is too long"));
        }
        Ok(Self {
            agent,
            group,
            version,
            resource,
            namespace,
            whole,
        })
    }

    fn resource(&self) -> Resource {
        Resource {
            group: self.group.clone(),
            version: self.version.clone(),
            resource: self.resource.clone(),
            namespace: self.namespace.clone(),
            whole: self.whole,
        }
    }
}

//! Objects of agents' clusters and what becomes of them, for programs that show
//! clusters: one stream from the agent for all who watch the same, each with
//! the caller's own rights.

mod caller;
mod feed;
mod websocket;

use std::{
    net::{IpAddr, Ipv6Addr},
    pin::Pin,
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use control_plane::Identity;
use futures_util::{Stream, stream};
use object_cache::{Limits, ObjectCache, ObjectCaches, Watch};
use proto::graph::rpc::{Known, Resource, Update, WatchRequest, graph_server};
use router::{AgentId, Router};
use runtime::{
    drain::Drain,
    names::Collection,
    shares::{self, Share, Shares},
};
use tokio::{sync::mpsc, time::Instant};
use tonic::{Code, Request, Response, Status};

use crate::{
    admission::Admission,
    front::Front,
    request_id::RequestId,
    sessions::{Ground, NewSession, Session, SessionKind, Sessions},
};
use caller::{Caller, REVIEWS};
pub(crate) use websocket::GraphRoute;

const LIMITS: Limits = Limits {
    bytes: 512 << 20,
    // Of one agent's objects, which are a group.
    bytes_per_group: 256 << 20,
    bytes_reserved: 64 << 20,
    bytes_per_cache: 128 << 20,
    caches: 1000,
    idle_ttl: Duration::from_secs(20),
};
/// How long the agent may take to send all its objects.
const FIRST_UPDATE_TIMEOUT: Duration = Duration::from_secs(60);
/// Watches, by caller.
const WATCHES: shares::Limits = shares::Limits {
    total: 10_000,
    each: 500,
    reserved: 1_000,
};
/// Streams of agents, by the caller whose watch opened them.
const STREAMS: shares::Limits = shares::Limits {
    total: 1_000,
    each: 250,
    reserved: 100,
};
/// Streams of one agent.
const STREAMS_OF_AGENT: shares::Limits = shares::Limits {
    total: 1_000,
    each: 400,
    reserved: 100,
};
/// Bytes of the states that callers resume from, until they have got the changes since.
const KNOWN: shares::Limits = shares::Limits {
    total: 128 << 20,
    each: 32 << 20,
    reserved: 16 << 20,
};
/// Watches of one agent's objects.
const WATCHES_OF_AGENT: shares::Limits = shares::Limits {
    total: 10_000,
    each: 5_000,
    reserved: 1_000,
};
/// WebSockets that have not authenticated yet, by address.
const UNAUTHENTICATED: shares::Limits = shares::Limits {
    total: 1_024,
    each: 128,
    reserved: 128,
};
/// The longest message with the state that a caller resumes from, in bytes.
const KNOWN_BYTES: usize = 4 << 20;
/// What an object of such a state costs besides its texts.
const KNOWN_OBJECT_BYTES: usize = 128;
/// The most objects of such a state.
const KNOWN_OBJECTS: usize = 100_000;
/// How long a place for such a message is waited for.
const KNOWN_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it is tried again.
const KNOWN_RETRY_INTERVAL: Duration = Duration::from_millis(100);
/// Updates that are on their way to one who watches.
const QUEUED_UPDATES: usize = 1;
/// How long they may wait to be read.
const UNREAD_TIMEOUT: Duration = Duration::from_secs(30);

/// The service. Clones share everything.
#[derive(Debug, Clone, Default)]
pub struct Graph(Arc<OnceLock<Reach>>);

/// What it takes to serve watches; set once the replica serves users.
#[derive(Debug)]
struct Reach {
    /// Weak, since one of its routes holds the service.
    front: Weak<Front>,
    reviews: Arc<str>,
    admission: Arc<Admission>,
    router: Arc<Router>,
    drain: Drain,
    caches: ObjectCaches<Key>,
    watches: Shares<Identity>,
    by_agent: Shares<AgentId>,
    streams: Shares<Identity>,
    streams_of_agent: Shares<AgentId>,
    known: Shares<Identity>,
    sessions: Sessions,
    unauthenticated: Shares<IpAddr>,
}

/// What one stream of an agent is of.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Key {
    agent: AgentId,
    collection: Collection,
    whole: bool,
}

impl Graph {
    /// Watches begin to be served: the cluster is asked for rights through `front`, below the prefix of the Kubernetes
    /// API there. They end with `drain`.
    pub(crate) fn open(
        &self,
        (front, prefix): (&Arc<Front>, &str),
        admission: Arc<Admission>,
        (router, sessions): (Arc<Router>, Sessions),
        drain: Drain,
    ) {
        let caches = ObjectCaches::new(LIMITS, drain.token().clone());
        let reach = Reach {
            front: Arc::downgrade(front),
            reviews: format!("{prefix}{REVIEWS}").into(),
            admission,
            router,
            drain,
            caches,
            watches: Shares::new(WATCHES),
            by_agent: Shares::new(WATCHES_OF_AGENT),
            streams: Shares::new(STREAMS),
            streams_of_agent: Shares::new(STREAMS_OF_AGENT),
            known: Shares::new(KNOWN),
            sessions,
            unauthenticated: Shares::new(UNAUTHENTICATED),
        };
        // It is opened once, by the replica it belongs to.
        drop(self.0.set(reach));
    }
}

type Updates = mpsc::Receiver<Result<Update, Status>>;

/// A watch that may begin: whose, and of what. Dropping it ends it, and writes its audit record.
#[derive(Debug)]
struct Admitted {
    caller: Caller,
    key: Key,
    record: Record,
    session: Session,
    _places: (Share<Identity>, Share<AgentId>),
}

/// The audit record of a watch, written when it is dropped.
#[derive(Debug)]
struct Record {
    who: Identity,
    agent: AgentId,
    collection: Collection,
    remote: IpAddr,
    /// That of the WebSocket, if it came by one.
    request_id: Option<RequestId>,
    started: Instant,
    status: Code,
}

impl Drop for Record {
    fn drop(&mut self) {
        let duration = self.started.elapsed().as_millis();
        tracing::info!(
            target: "audit",
            request_id = self.request_id.as_ref().map(tracing::field::display),
            who = %self.who,
            agent.id = self.agent.0,
            verb = "GRAPH",
            path = self.collection.path(),
            status = ?self.status,
            duration_ms = u64::try_from(duration).unwrap_or(u64::MAX),
            remote_addr = %self.remote,
            "graph watch"
        );
    }
}

impl Graph {
    /// Admits a caller who may watch this, which the cluster says.
    async fn admit(
        &self,
        credentials: &str,
        resource: &Resource,
        remote: IpAddr,
        request_id: Option<&RequestId>,
    ) -> Result<Admitted, Status> {
        let reach = self.0.get();
        let front = reach.and_then(|reach| Some((reach, reach.front.upgrade()?)));
        let (reach, front) = front.ok_or_else(no_users)?;
        let caller = Caller::new(
            credentials,
            reach.reviews.clone(),
            front,
            reach.admission.clone(),
            reach.drain.clone(),
        )?;
        let key = Key::of(caller.agent(), resource)?;
        let (access, rights) = caller.identify(remote).await?;
        let who = access.identity;
        let full = |full| too_many("graph watches", full);
        let places = (
            reach.watches.take(who.clone(), 1).map_err(full)?,
            reach.by_agent.take(key.agent, 1).map_err(full)?,
        );
        let mut record = Record {
            who,
            agent: key.agent,
            collection: key.collection.clone(),
            remote,
            request_id: request_id.cloned(),
            started: Instant::now(),
            status: Code::Ok,
        };
        if let Err(status) = caller.check(&key).await {
            record.status = status.code();
            return Err(status);
        }
        let ground = rights.authority().map(|authority| Ground {
            authority,
            identity: record.who.clone(),
            acts_as: access.impersonation,
        });
        let id = request_id.map(RequestId::to_string);
        let session = reach.sessions.open(NewSession {
            id: None,
            kind: SessionKind::Graph,
            caller: record.who.to_string().into(),
            agent: key.agent,
            path: key.collection.path(),
            remote_addr: remote.to_string(),
            request_id: id.unwrap_or_default(),
            ground,
        });
        Ok(Admitted {
            caller,
            key,
            record,
            session,
            _places: places,
        })
    }

    /// A place for what a caller knows, which may be large.
    async fn known(&self, admitted: &Admitted, bytes: usize) -> Result<Share<Identity>, Status> {
        let reach = self.0.get();
        let reach = reach.ok_or_else(no_users)?;
        let deadline = Instant::now() + KNOWN_TIMEOUT;
        loop {
            match reach.known.take(admitted.record.who.clone(), bytes) {
                Ok(place) => return Ok(place),
                // A dashboard that comes back has many watches, each of which needs it for a moment.
                Err(_) if Instant::now() < deadline => {
                    tokio::time::sleep(KNOWN_RETRY_INTERVAL).await
                }
                Err(full) => return Err(too_many("bytes of what is known", full)),
            }
        }
    }

    /// Begins a watch; it ends with an error.
    async fn start(&self, mut admitted: Admitted, known: &Known) -> Result<Updates, Status> {
        let reach = self.0.get();
        let reach = reach.ok_or_else(no_users)?;
        let router = reach.router.clone();
        let key = admitted.key.clone();
        let (agent, who) = (key.agent, admitted.record.who.clone());
        let place = || {
            let full = |full| too_many("different resources watched", full);
            Ok((
                reach.streams.take(who, 1).map_err(full)?,
                reach.streams_of_agent.take(agent, 1).map_err(full)?,
            ))
        };
        let fed = key.clone();
        let feed = |cache: Arc<ObjectCache>| async move { feed::run(&router, &fed, &cache).await };
        let cache = reach.caches.get(key, agent.0.unsigned_abs(), place, feed);
        let watch = match cache {
            Ok(cache) => cache.watch(known, FIRST_UPDATE_TIMEOUT).await,
            Err(full) => Err(full),
        };
        let watch = watch.inspect_err(|end| admitted.record.status = end.code())?;
        let (sender, receiver) = mpsc::channel(QUEUED_UPDATES);
        let drain = reach.drain.clone();
        reach.drain.spawn(async move {
            // As a whole: its places and its audit record are held until the watch is over.
            let admitted = admitted;
            let end = tokio::select! {
                biased;
                failure = admitted.session.ended() => caller::refused(failure),
                end = pass_on(watch, &sender, &admitted) => end,
                end = admitted.caller.lost(&admitted.key) => end,
                () = drain.wait() => Status::unavailable("this replica is shutting down: watch again"),
                () = sender.closed() => return,
            };
            // Its audit record is written when it is dropped, with the places.
            let mut ended = admitted;
            ended.record.status = end.code();
            // A client that does not read does not get the reason.
            let _ = sender.send_timeout(Err(end), UNREAD_TIMEOUT).await;
            drop(ended);
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
        let remote = request.remote_addr();
        let remote = remote.map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |it| it.ip());
        let WatchRequest {
            credentials,
            resource,
            known,
        } = request.into_inner();
        let resource = resource.unwrap_or_default();
        let admitted = self.admit(&credentials, &resource, remote, None).await?;
        let known = known.unwrap_or_default();
        if known.objects.len() > KNOWN_OBJECTS {
            return Err(Status::invalid_argument(format!(
                "more than {KNOWN_OBJECTS} objects are known: watch without them"
            )));
        }
        let _place = self.known(&admitted, known_bytes(&known)).await?;
        let receiver = self.start(admitted, &known).await?;
        let updates = stream::unfold(receiver, |mut receiver| async {
            Some((receiver.recv().await?, receiver))
        });
        Ok(Response::new(Box::pin(updates)))
    }
}

fn no_users() -> Status {
    Status::unavailable("graphs are not available: this kas serves no users (agent.kubernetes_api)")
}

/// About how much memory it takes.
fn known_bytes(known: &Known) -> usize {
    let objects = known.objects.iter();
    let each = objects.map(|(uid, version)| KNOWN_OBJECT_BYTES + uid.len() + version.len());
    each.sum()
}

fn too_many(what: &str, full: shares::Full) -> Status {
    Status::resource_exhausted(format!("too many {what}: {full}"))
}

/// What comes by another way, after one has broken, waits until the control plane has said that the
/// caller may go on.
async fn pass_on(
    mut watch: Watch,
    sender: &mpsc::Sender<Result<Update, Status>>,
    admitted: &Admitted,
) -> Status {
    let (caller, record) = (&admitted.caller, &admitted.record);
    let mut interruptions = watch.interruptions();
    loop {
        let update = tokio::select! {
            biased;
            () = interruptions.next() => match caller.remains(&record.who, record.remote).await {
                Ok(()) => continue,
                Err(end) => return end,
            },
            update = watch.next() => update,
        };
        let update = match update {
            Ok(update) => update,
            Err(end) => return end,
        };
        if sender
            .send_timeout(Ok(update), UNREAD_TIMEOUT)
            .await
            .is_err()
        {
            return Status::aborted("updates were not read: watch again");
        }
    }
}

impl Key {
    fn of(agent: AgentId, resource: &Resource) -> Result<Self, Status> {
        let collection = Collection::parse(resource)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        Ok(Self {
            agent,
            collection,
            whole: resource.whole,
        })
    }
}

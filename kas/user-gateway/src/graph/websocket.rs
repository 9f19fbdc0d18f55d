//! The same over WebSocket, in JSON, for pages in browsers.

use std::{collections::HashMap, fmt, net::IpAddr, time::Duration};

use futures_util::{StreamExt, future::BoxFuture};
use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use proto::graph::rpc::{Known, Object, Resource, Update};
use runtime::{
    drain::Drain,
    shares::Share,
    websocket::messages::{CloseCode, Incoming, Message},
};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Value, json};
use tonic::Status;

use super::{Graph, KNOWN_BYTES, KNOWN_OBJECTS, Updates, known_bytes};
use crate::{
    failure::Failure,
    prefix::Prefix,
    route::{Answer, Route, UserRequest},
    scope::Scope,
    websocket::{self, Handshake, PING_INTERVAL, Reader, Writer, Writing},
};

/// Below the prefix of the Kubernetes API; no API has such a path.
const PATH: &str = "/-/graph";
/// How long a client may take to say what it wants.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest message of somebody who has not proved yet who it is.
const FIRST_MESSAGE_BYTES: usize = 16 << 10;
/// What a client says first.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    credentials: String,
    resource: WantedResource,
    #[serde(default)]
    known: WantedKnown,
    /// Whether what is known comes in a message of its own, once the caller may watch.
    #[serde(default)]
    known_follows: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WantedResource {
    #[serde(default)]
    group: String,
    version: String,
    resource: String,
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    whole: bool,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct WantedKnown {
    version: String,
    #[serde(deserialize_with = "bounded")]
    objects: HashMap<String, String>,
}

/// The route of watches over WebSocket. The credentials come in the first message, so that no other page can use what
/// a browser remembers.
#[derive(Debug)]
pub(crate) struct GraphRoute {
    graph: Graph,
    prefix: Prefix,
}

impl GraphRoute {
    /// A route to `graph`, below this prefix.
    pub(crate) fn new(graph: Graph, prefix: Prefix) -> Self {
        Self { graph, prefix }
    }

    fn accept(&self, request: &mut UserRequest) -> Result<Answer, Failure> {
        let Some(Handshake { answer, upgrade }) = Handshake::of(request) else {
            let message =
                "graphs are watched over WebSocket: the request is not the handshake of one";
            return Err(Failure::new(StatusCode::UPGRADE_REQUIRED, message));
        };
        let reach = self.graph.0.get().ok_or_else(|| {
            Failure::retryable(StatusCode::SERVICE_UNAVAILABLE, "this kas is starting")
        })?;
        let remote = request.remote_addr.ip();
        let place = reach.unauthenticated.take(remote, 1).map_err(|full| {
            let message =
                format!("too many WebSockets from this address wait for their credentials: {full}");
            Failure::retryable(StatusCode::TOO_MANY_REQUESTS, message)
        })?;
        let graph = self.graph.clone();
        let upgraded = move |scope| Box::pin(graph.converse(upgrade, remote, place, scope)) as _;
        Ok(Answer::Upgrade(answer, Box::new(upgraded)))
    }
}

impl Route for GraphRoute {
    fn matches(&self, request: &UserRequest) -> bool {
        self.prefix.leads_to(PATH, request)
    }

    fn takes_ambient_credentials(&self) -> bool {
        false
    }

    fn serve<'a>(
        &'a self,
        request: &'a mut UserRequest,
        _scope: &'a mut Scope,
        _drain: &'a Drain,
    ) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(std::future::ready(self.accept(request)))
    }
}

impl Graph {
    /// Serves a WebSocket to its end.
    async fn converse(
        self,
        upgrade: OnUpgrade,
        remote: IpAddr,
        place: Share<IpAddr>,
        mut scope: Box<Scope>,
    ) {
        let Some((reader, mut writer)) = websocket::take_over(upgrade, &mut scope).await else {
            return;
        };
        let scope = &mut *scope;
        let mut incoming = Incoming::new(reader);
        let watched = self.begin(&mut incoming, remote, place, scope).await;
        let mut heard = std::pin::pin!(websocket::heard(incoming, FIRST_MESSAGE_BYTES));
        let mut updates = match watched {
            Ok(updates) => updates,
            Err(status) => return end(&mut writer, &status, scope).await,
        };
        let mut ping = tokio::time::interval(PING_INTERVAL);
        loop {
            let writing = tokio::select! {
                update = updates.recv() => match update {
                    Some(Ok(update)) => Writing::Text(json_of(update).to_string().into_bytes()),
                    Some(Err(status)) => return end(&mut writer, &status, scope).await,
                    None => return,
                },
                message = heard.next() => match message {
                    Some(Ok(Message::Ping(bytes))) => Writing::Pong(bytes),
                    Some(Ok(Message::Pong)) => continue,
                    Some(Ok(Message::Close)) => {
                        scope.cut = false;
                        return;
                    }
                    Some(Ok(Message::Text(_)) | Err(_)) | None => return,
                },
                _ = ping.tick() => Writing::Ping,
            };
            if !writing.run(&mut writer).await {
                scope.reason = "the client did not read its updates".into();
                return;
            }
            if let Writing::Text(text) = writing {
                scope.sent += text.len() as u64;
            }
        }
    }
}

impl Graph {
    /// Reads who wants to watch what, and begins the watch. The place among the unauthenticated is given back as soon as
    /// the caller is known.
    async fn begin(
        &self,
        incoming: &mut Incoming<Reader>,
        remote: IpAddr,
        place: Share<IpAddr>,
        scope: &mut Scope,
    ) -> Result<Updates, Status> {
        let first = text(incoming, FIRST_MESSAGE_BYTES).await?;
        scope.received += first.len() as u64;
        let wanted: Wanted = serde_json::from_slice(&first)
            .map_err(|error| Status::invalid_argument(format!("the first message: {error}")))?;
        let resource = wanted.resource.into();
        let id = Some(scope.id());
        let admitted = self
            .admit(&wanted.credentials, &resource, remote, id)
            .await?;
        scope.asks_for(admitted.key.agent);
        scope.identified(admitted.record.who.clone());
        drop(place);
        let mut place = None;
        let known = if wanted.known_follows {
            place = Some(self.known(&admitted, KNOWN_BYTES).await?);
            let known = text(incoming, KNOWN_BYTES).await?;
            scope.received += known.len() as u64;
            serde_json::from_slice(&known)
                .map_err(|error| Status::invalid_argument(format!("what is known: {error}")))?
        } else {
            wanted.known
        };
        let known = Known {
            version: known.version,
            objects: known.objects,
        };
        if let Some(place) = &mut place {
            place.shrink(KNOWN_BYTES.saturating_sub(known_bytes(&known)));
        }
        let started = self.start(admitted, &known).await;
        drop(place);
        started
    }
}

/// No more objects than a caller may know, however short their names are.
fn bounded<'de, D: Deserializer<'de>>(from: D) -> Result<HashMap<String, String>, D::Error> {
    struct Objects;

    impl<'de> Visitor<'de> for Objects {
        type Value = HashMap<String, String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(f, "versions by uid, of at most {KNOWN_OBJECTS} objects")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
            let mut objects = HashMap::new();
            while let Some((uid, version)) = map.next_entry()? {
                if objects.len() >= KNOWN_OBJECTS {
                    return Err(A::Error::invalid_length(KNOWN_OBJECTS + 1, &self));
                }
                objects.insert(uid, version);
            }
            Ok(objects)
        }
    }

    from.deserialize_map(Objects)
}

/// A message of a client that has something to say now.
async fn text(incoming: &mut Incoming<Reader>, limit: usize) -> Result<Vec<u8>, Status> {
    let read = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, incoming.next(limit)).await;
    let read = read.map_err(|_| Status::deadline_exceeded("no message came in time"))?;
    match read {
        Ok(Message::Text(text)) => Ok(text),
        Ok(Message::Ping(_) | Message::Pong | Message::Close) => {
            Err(Status::invalid_argument("a text message is expected"))
        }
        Err(error) => Err(Status::invalid_argument(error.to_string())),
    }
}

async fn end(io: &mut Writer, status: &Status, scope: &mut Scope) {
    scope.reason = status.message().to_owned();
    let code = format!("{:?}", status.code());
    let text = json!({"error": {"code": code, "message": status.message()}}).to_string();
    scope.sent += text.len() as u64;
    // A client that is gone needs no reason.
    let told = Writing::Text(text.into_bytes()).run(io).await;
    scope.cut = !(told && websocket::close(io, CloseCode::Normal, status.message()).await);
}

impl From<WantedResource> for Resource {
    fn from(wanted: WantedResource) -> Self {
        Self {
            group: wanted.group,
            version: wanted.version,
            resource: wanted.resource,
            namespace: wanted.namespace,
            whole: wanted.whole,
        }
    }
}

fn json_of(update: Update) -> Value {
    json!({
        "changed": update.changed.into_iter().map(object).collect::<Vec<_>>(),
        "removed": update.removed, "synced": update.synced, "version": update.version,
    })
}

fn object(object: Object) -> Value {
    let owners = object.owners.into_iter().map(|owner| {
        json!({
            "apiVersion": owner.api_version, "kind": owner.kind, "name": owner.name,
            "uid": owner.uid, "controller": owner.controller,
        })
    });
    let mut value = json!({
        "apiVersion": object.api_version, "kind": object.kind,
        "namespace": object.namespace, "name": object.name, "uid": object.uid,
        "resourceVersion": object.resource_version, "labels": object.labels,
        "owners": owners.collect::<Vec<_>>(), "deleting": object.deleting,
    });
    if let Ok(whole) = serde_json::from_slice::<Value>(&object.json) {
        value["object"] = whole;
    }
    value
}

//! The same over WebSocket, in JSON, for pages in browsers.

use std::{
    collections::HashMap,
    fmt, io,
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use futures_util::{StreamExt, stream};
use http::{HeaderValue, Method, Response, StatusCode, header, request::Parts};
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use proto::graph::rpc::{Known, Object, Resource, Update};
use runtime::{
    shares::Share,
    websocket::{
        handshake::accept_key,
        messages::{self, Message},
    },
};
use serde::{
    Deserialize, Deserializer,
    de::{Error as _, MapAccess, Visitor},
};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::Status;

use super::{Graph, KNOWN_BYTES, KNOWN_OBJECTS, UNREAD, Updates, known_bytes};
use crate::kubernetes_api::ProxyBody;

/// Below the prefix of the Kubernetes API; no API has such a path.
const PATH: &str = "/-/graph";
/// How long a client may take to say what it wants.
const FIRST_WORDS: Duration = Duration::from_secs(10);
/// The longest message of somebody who has not proved yet who it is.
const FIRST_BYTES: usize = 16 << 10;
/// How often clients are pinged: more often than load balancers give up silent connections.
const PING: Duration = Duration::from_secs(45);

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

impl Graph {
    /// Whether this path, below the prefix, is for graphs.
    pub(crate) fn is_asked_for(path: &str) -> bool {
        path == PATH
    }

    /// Answers a handshake. The credentials come in the first message, so that
    /// no other page can use what a browser remembers.
    pub(crate) fn accept(
        &self,
        head: &Parts,
        upgrade: Option<OnUpgrade>,
        remote: SocketAddr,
    ) -> Response<ProxyBody> {
        let headers = &head.headers;
        let is = |name, value: &str| {
            let given = headers
                .get(name)
                .and_then(|it: &HeaderValue| it.to_str().ok());
            given.is_some_and(|it| it.eq_ignore_ascii_case(value))
        };
        let key = headers.get(header::SEC_WEBSOCKET_KEY);
        let key = key.and_then(|key| key.to_str().ok()).map(accept_key);
        let key = key.and_then(|key| HeaderValue::from_str(&key).ok());
        let valid = head.method == Method::GET
            && is(header::UPGRADE, "websocket")
            && is(header::SEC_WEBSOCKET_VERSION, "13");
        let mut response = Response::new(ProxyBody::from(bytes::Bytes::new()));
        let (Some(upgrade), Some(key), Some(reach), true) = (upgrade, key, self.0.get(), valid)
        else {
            *response.status_mut() = StatusCode::UPGRADE_REQUIRED;
            return response;
        };
        let Ok(place) = reach.strangers.take(remote.ip(), 1) else {
            *response.status_mut() = StatusCode::TOO_MANY_REQUESTS;
            return response;
        };
        let graph = self.clone();
        reach.drain.spawn(async move {
            let Ok(upgraded) = tokio::time::timeout(FIRST_WORDS, upgrade).await else {
                return;
            };
            match upgraded {
                Ok(io) => graph.speak(TokioIo::new(io), remote.ip(), place).await,
                Err(error) => tracing::debug!(%error, "a WebSocket did not begin"),
            }
        });
        *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
        let headers = response.headers_mut();
        headers.insert(header::CONNECTION, HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
        headers.insert(header::SEC_WEBSOCKET_ACCEPT, key);
        response
    }

    async fn speak(
        &self,
        io: TokioIo<hyper::upgrade::Upgraded>,
        remote: IpAddr,
        place: Share<IpAddr>,
    ) {
        let (mut reader, mut writer) = tokio::io::split(io);
        let watched = self.begin(&mut reader, remote, place).await;
        let heard = stream::unfold(reader, |mut reader| async {
            Some((messages::read(&mut reader, FIRST_BYTES).await, reader))
        });
        let mut heard = std::pin::pin!(heard);
        let mut updates = match watched {
            Ok(updates) => updates,
            Err(status) => return end(&mut writer, &status).await,
        };
        let mut ping = tokio::time::interval(PING);
        loop {
            let writing = tokio::select! {
                update = updates.recv() => match update {
                    Some(Ok(update)) => Writing::Text(told(update).to_string()),
                    Some(Err(status)) => return end(&mut writer, &status).await,
                    None => return,
                },
                message = heard.next() => match message {
                    Some(Ok(Message::Ping(bytes))) => Writing::Pong(bytes),
                    Some(Ok(Message::Pong)) => continue,
                    Some(Ok(Message::Text(_) | Message::Close) | Err(_)) | None => return,
                },
                _ = ping.tick() => Writing::Ping,
            };
            let written = tokio::time::timeout(UNREAD, writing.run(&mut writer)).await;
            if !matches!(written, Ok(Ok(()))) {
                return;
            }
        }
    }
}

impl Graph {
    /// Hears who wants what, and begins the watch. The stranger's place is given back as soon as
    /// the caller is known.
    async fn begin(
        &self,
        reader: &mut (impl AsyncRead + Unpin),
        remote: IpAddr,
        place: Share<IpAddr>,
    ) -> Result<Updates, Status> {
        let first = text(reader, FIRST_BYTES).await?;
        let wanted: Wanted = serde_json::from_slice(&first)
            .map_err(|error| Status::invalid_argument(format!("the first message: {error}")))?;
        let resource = wanted.resource.into();
        let admitted = self.admit(&wanted.credentials, &resource, remote).await?;
        drop(place);
        let mut place = None;
        let known = if wanted.known_follows {
            place = Some(self.known(&admitted, KNOWN_BYTES).await?);
            let known = text(reader, KNOWN_BYTES).await?;
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
async fn text(reader: &mut (impl AsyncRead + Unpin), limit: usize) -> Result<Vec<u8>, Status> {
    let read = tokio::time::timeout(FIRST_WORDS, messages::read(reader, limit)).await;
    let read = read.map_err(|_| Status::deadline_exceeded("no message came in time"))?;
    match read {
        Ok(Message::Text(text)) => Ok(text),
        Ok(Message::Ping(_) | Message::Pong | Message::Close) => {
            Err(Status::invalid_argument("a text message is expected"))
        }
        Err(error) => Err(Status::invalid_argument(error.to_string())),
    }
}

enum Writing {
    Text(String),
    Pong(Vec<u8>),
    Ping,
}

impl Writing {
    async fn run(&self, io: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
        match self {
            Self::Text(text) => messages::text(io, text.as_bytes()).await,
            Self::Pong(bytes) => messages::pong(io, bytes).await,
            Self::Ping => messages::ping(io).await,
        }
    }
}

async fn end(io: &mut (impl AsyncWrite + Unpin), status: &Status) {
    let code = format!("{:?}", status.code());
    let text = json!({"error": {"code": code, "message": status.message()}}).to_string();
    let ending = async {
        messages::text(io, text.as_bytes()).await?;
        messages::close(io).await
    };
    // Whoever is gone needs no reason.
    drop(tokio::time::timeout(UNREAD, ending).await);
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

fn told(update: Update) -> Value {
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

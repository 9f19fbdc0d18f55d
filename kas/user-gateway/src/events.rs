//! The events of a watch that kas asks for on behalf of a caller, one by one. When the cluster ends it in order it is
//! asked for again, behind what was said.

use std::{borrow::Cow, sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use control_plane::Identity;
use http::{Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use runtime::{backoff::jittered, shares::Share, telemetry::Causes};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{body::ResponseBody, caller::Caller, failure::Failure, target::Target};

/// The longest event, in bytes: more than any object that a cluster keeps.
const MAX_EVENT_BYTES: usize = 4 << 20;
/// Bytes of a refusal that are read, at most.
const MAX_REFUSAL_BYTES: usize = 64 << 10;
/// How long the cluster may serve a watch, in seconds; it is begun anew then.
const TIMEOUT_SECONDS: &str = "14400";
/// How long to wait before a watch is begun anew that the cluster ended.
const AGAIN_INTERVAL: Duration = Duration::from_secs(1);

/// A watch in progress. Dropping it ends it.
#[derive(Debug)]
pub(crate) struct Events {
    caller: Arc<Caller>,
    target: Target,
    answer: Option<ResponseBody>,
    buffer: BytesMut,
    /// How much of the buffer has no end of an event.
    searched: usize,
    /// The version behind which the cluster has told everything. Where it does not begin behind one it is known
    /// since the first bookmark: the objects that are there at first come in any order.
    version: Option<String>,
    bytes: Share<Identity>,
}

/// What has to be known of an event.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(rename = "type", borrow)]
    kind: Cow<'a, str>,
    #[serde(borrow, default)]
    object: Object<'a>,
}

#[derive(Deserialize, Default)]
struct Object<'a> {
    #[serde(borrow, default)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase")]
struct Metadata<'a> {
    #[serde(borrow, default)]
    resource_version: Cow<'a, str>,
}

impl Event<'_> {
    /// The version of its object.
    fn version(&self) -> Option<String> {
        let version = &self.object.metadata.resource_version;
        (!version.is_empty()).then(|| version.clone().into_owned())
    }
}

impl Events {
    /// Events of what is at `target`, behind this version. The first request is made when the first event is asked
    /// for. What is read and not taken counts in `bytes`.
    pub(crate) fn new(
        caller: Arc<Caller>,
        mut target: Target,
        version: Option<String>,
        bytes: Share<Identity>,
    ) -> Self {
        target.set("watch", "true");
        target.set("allowWatchBookmarks", "true");
        target.set("timeoutSeconds", TIMEOUT_SECONDS);
        Self {
            caller,
            target,
            answer: None,
            buffer: BytesMut::new(),
            searched: 0,
            version,
            bytes,
        }
    }

    /// The next event, in JSON; the one before is done with.
    ///
    /// # Errors
    /// Why there are no more: a Kubernetes `Status`, or a message.
    pub(crate) async fn next(&mut self) -> Result<Bytes, Value> {
        let held = self.bytes.places();
        self.bytes.shrink(held.saturating_sub(self.buffer.len()));
        loop {
            while let Some(line) = self.line() {
                if let Some(event) = self.understand(line)? {
                    return Ok(event);
                }
            }
            self.read().await?;
        }
    }

    /// An event that is whole.
    fn line(&mut self) -> Option<Bytes> {
        let end = self.buffer[self.searched..]
            .iter()
            .position(|it| *it == b'\n');
        let Some(end) = end else {
            self.searched = self.buffer.len();
            return None;
        };
        let line = self.buffer.split_to(self.searched + end + 1).freeze();
        self.searched = 0;
        Some(line.slice(..line.len() - 1))
    }

    /// The event, unless it is for us.
    fn understand(&mut self, line: Bytes) -> Result<Option<Bytes>, Value> {
        if line.trim_ascii().is_empty() {
            return Ok(None);
        }
        let event: Event<'_> = serde_json::from_slice(&line)
            .map_err(|error| message(format!("the cluster sent an event that is none: {error}")))?;
        match &*event.kind {
            "ERROR" => {
                let error = serde_json::from_slice::<Value>(&line).unwrap_or_default();
                Err(error["object"].clone())
            }
            "BOOKMARK" => {
                self.version = event.version();
                Ok(None)
            }
            _ => {
                if self.version.is_some() {
                    self.version = event.version();
                }
                Ok(Some(line))
            }
        }
    }

    /// Reads more, of a request that is made if there is none.
    async fn read(&mut self) -> Result<(), Value> {
        let Some(answer) = &mut self.answer else {
            let mut target = self.target.clone();
            if let Some(version) = &self.version {
                target.set("resourceVersion", version);
            }
            self.answer = Some(begin(&self.caller, target).await?);
            return Ok(());
        };
        let data = match answer.frame().await {
            Some(Ok(frame)) => frame.into_data().unwrap_or_default(),
            Some(Err(error)) => return Err(message(Causes(&error).to_string())),
            None if self.version.is_some() && self.buffer.is_empty() => {
                self.answer = None;
                tokio::time::sleep(jittered(AGAIN_INTERVAL)).await;
                return Ok(());
            }
            None => return Err(message("the cluster ended the watch: watch again")),
        };
        if self.buffer.len() + data.len() > MAX_EVENT_BYTES {
            let whole = self.buffer.is_empty() && data.ends_with(b"\n");
            if !whole {
                let limit = MAX_EVENT_BYTES;
                return Err(message(format!("an event of more than {limit} bytes")));
            }
        }
        self.bytes
            .grow(data.len())
            .map_err(|full| message(format!("too many bytes of events are not read: {full}")))?;
        self.buffer.extend_from_slice(&data);
        Ok(())
    }
}

async fn begin(caller: &Caller, target: Target) -> Result<ResponseBody, Value> {
    let response = caller.get(target).await.map_err(|it| status(&it))?;
    if response.status() == StatusCode::OK {
        return Ok(response.into_body());
    }
    Err(refusal(response).await)
}

/// What the cluster says against a request.
pub(crate) async fn refusal(response: Response<ResponseBody>) -> Value {
    let code = response.status();
    let body = Limited::new(response.into_body(), MAX_REFUSAL_BYTES);
    let body = body.collect().await.map(|it| it.to_bytes());
    let refusal = body.ok().and_then(|it| serde_json::from_slice(&it).ok());
    match refusal {
        Some(status @ Value::Object(_)) if status["message"].is_string() => status,
        _ => message(format!("the cluster answers {code}")),
    }
}

/// What kas says itself to the end of a watch.
pub(crate) fn message(text: impl Into<String>) -> Value {
    json!({"message": text.into()})
}

/// A refusal, or a failure, as a `Status`.
pub(crate) fn status(failure: &Failure) -> Value {
    let status = serde_json::from_str(&failure.body(false));
    status.unwrap_or_else(|_| message(failure.message.clone()))
}

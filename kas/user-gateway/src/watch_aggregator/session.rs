//! A WebSocket with its watches, from the handshake to the end of both. One task: who does not read lets nothing more
//! be read from the cluster.

use std::{collections::HashMap, pin::Pin, sync::Arc};

use control_plane::Identity;
use futures_util::{
    StreamExt,
    future::{AbortHandle, Abortable, Aborted, BoxFuture},
    stream::FuturesUnordered,
};
use hyper::upgrade::OnUpgrade;
use runtime::{
    shares::{Full, Share},
    websocket::messages::{CloseCode, Incoming, Message},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    Quotas, WATCHES_OF_SOCKET,
    message::{self, Asked, Wanted, WatchId},
    watching::{Next, Watching},
};
use crate::{
    caller::Caller,
    events,
    scope::Scope,
    websocket::{self, PING_INTERVAL, Writer, Writing},
};

/// The longest message of a client, in bytes.
const MESSAGE_BYTES: usize = 16 << 10;

type Step = BoxFuture<'static, (Watching, Next)>;

/// The watches of a WebSocket.
pub(super) struct Session {
    caller: Arc<Caller>,
    quotas: Quotas,
    leaving: Pin<Box<WaitForCancellationFutureOwned>>,
    running: FuturesUnordered<Abortable<Step>>,
    by_id: HashMap<WatchId, AbortHandle>,
}

/// Why a watch does not begin.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    /// Its id is taken.
    #[error("there is a watch with this id on the WebSocket")]
    SameId,
    /// The WebSocket has enough.
    #[error("too many watches on the WebSocket (limit: {WATCHES_OF_SOCKET})")]
    TooManyOfSocket,
    /// The caller has enough, or all callers together.
    #[error("too many watches: {0}")]
    TooMany(#[source] Full),
    /// The caller does not read.
    #[error("too many bytes of events are not read: {0}")]
    Unread(#[source] Full),
}

/// Why a WebSocket ends.
struct End {
    code: CloseCode,
    reason: String,
}

impl End {
    fn new(code: CloseCode, reason: impl Into<String>) -> Self {
        let reason = reason.into();
        Self { code, reason }
    }
}

impl Session {
    /// One without watches, of this caller. It ends when the replica is `leaving`.
    pub(super) fn new(
        caller: Caller,
        quotas: Quotas,
        leaving: WaitForCancellationFutureOwned,
    ) -> Self {
        Self {
            caller: Arc::new(caller),
            quotas,
            leaving: Box::pin(leaving),
            running: FuturesUnordered::new(),
            by_id: HashMap::new(),
        }
    }

    /// Serves it to its end.
    pub(super) async fn run(
        mut self,
        upgrade: OnUpgrade,
        _place: Share<Identity>,
        mut scope: Box<Scope>,
    ) {
        let Some((reader, mut writer)) = websocket::take_over(upgrade, &mut scope).await else {
            return;
        };
        let scope = &mut *scope;
        let heard = websocket::heard(Incoming::new(reader), MESSAGE_BYTES);
        let mut heard = std::pin::pin!(heard);
        let mut ping = tokio::time::interval(PING_INTERVAL);
        let expiry = tokio::time::sleep_until(self.caller.until());
        let mut expiry = std::pin::pin!(expiry);
        let mut ended = std::pin::pin!(scope.ended());
        let end = loop {
            let writing = tokio::select! {
                message = heard.next() => match message {
                    Some(Ok(Message::Text(text))) => {
                        scope.received += text.len() as u64;
                        match self.take(&text) {
                            Some(error) => Writing::Text(error),
                            None => continue,
                        }
                    }
                    Some(Ok(Message::Ping(bytes))) => Writing::Pong(bytes),
                    Some(Ok(Message::Pong)) => continue,
                    Some(Ok(Message::Close)) => break End::new(CloseCode::Normal, ""),
                    Some(Err(error)) => break End::new(error.close_code(), error.to_string()),
                    None => return,
                },
                Some(step) = self.running.next(), if !self.running.is_empty() => {
                    match self.go_on(step) {
                        Some(text) => Writing::Text(text),
                        None => continue,
                    }
                }
                _ = ping.tick() => Writing::Ping,
                () = &mut self.leaving => {
                    break End::new(CloseCode::GoingAway, "this replica is shutting down: watch again");
                }
                failure = &mut ended => break End::new(CloseCode::Policy, failure.message),
                () = &mut expiry => {
                    break End::new(CloseCode::GoingAway, "the WebSocket is too old: watch again");
                }
            };
            if !write(&writing, &mut writer, scope).await {
                return;
            }
        };
        scope.reason.clone_from(&end.reason);
        for text in self.finish(&end) {
            if !write(&Writing::Text(text), &mut writer, scope).await {
                return;
            }
        }
        scope.cut = !websocket::close(&mut writer, end.code, &end.reason).await;
    }

    /// Does what a message asks for; gives what is to be said against it.
    fn take(&mut self, text: &[u8]) -> Option<Vec<u8>> {
        let (id, asked) = message::read(text);
        let refused = match asked {
            Ok(Asked::Watch(wanted)) => self.begin(&id, wanted).err()?.to_string(),
            Ok(Asked::Unwatch) => {
                if let Some(handle) = self.by_id.remove(&id) {
                    handle.abort();
                }
                return None;
            }
            Err(error) => error.to_string(),
        };
        Some(message::error(&id, &events::message(refused)))
    }

    fn begin(&mut self, id: &WatchId, wanted: Wanted) -> Result<(), Refusal> {
        if self.by_id.contains_key(id) {
            return Err(Refusal::SameId);
        }
        if self.by_id.len() >= WATCHES_OF_SOCKET {
            return Err(Refusal::TooManyOfSocket);
        }
        let who = || self.caller.identity().clone();
        let place = self.quotas.watches.take(who(), 1);
        let place = place.map_err(Refusal::TooMany)?;
        let bytes = self.quotas.bytes.take(who(), 0);
        let bytes = bytes.map_err(Refusal::Unread)?;
        let watching = Watching::new(id.clone(), self.caller.clone(), wanted, (place, bytes));
        self.step(watching);
        Ok(())
    }

    /// Waits for the next event of a watch, beside those of the others.
    fn step(&mut self, watching: Watching) {
        let (handle, registration) = AbortHandle::new_pair();
        self.by_id.insert(watching.id().clone(), handle);
        let step: Step = Box::pin(watching.next());
        self.running.push(Abortable::new(step, registration));
    }

    /// What is to be said of a watch that has got on; nothing of one that was ended by its client.
    fn go_on(&mut self, step: Result<(Watching, Next), Aborted>) -> Option<Vec<u8>> {
        let (watching, next) = step.ok()?;
        Some(match next {
            Next::Event(event) => {
                let text = message::event(watching.id(), &event);
                self.step(watching);
                text
            }
            Next::Ended(object) => {
                self.by_id.remove(watching.id());
                message::error(watching.id(), &object)
            }
        })
    }

    /// Ends all watches; gives what is to be said of them.
    fn finish(self, end: &End) -> Vec<Vec<u8>> {
        if end.code == CloseCode::Normal {
            return Vec::new();
        }
        let object = events::message(end.reason.as_str());
        let ids = self.by_id.keys();
        ids.map(|id| message::error(id, &object)).collect()
    }
}

/// Writes; says whether the client took it.
async fn write(writing: &Writing, writer: &mut Writer, scope: &mut Scope) -> bool {
    if !writing.run(writer).await {
        scope.reason = "the client did not read its events".into();
        return false;
    }
    if let Writing::Text(text) = writing {
        scope.sent += text.len() as u64;
    }
    true
}

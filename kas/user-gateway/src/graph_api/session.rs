//! A WebSocket, from the query to the end. One task tells the client; while that does not read, nothing more is read
//! from the cluster.

mod graph;

use std::{pin::Pin, sync::Arc, time::Duration};

use control_plane::Identity;
use futures_util::{StreamExt, stream::Stream};
use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use runtime::{
    shares::Share,
    websocket::messages::{CloseCode, Incoming, Message, ReadError},
};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::Code;

use super::{
    Shared,
    message::{End, Query},
};
use crate::{
    caller::Caller,
    failure::Failure,
    scope::Scope,
    websocket::{self, PING_INTERVAL, Writer, Writing},
};
use graph::begin;

/// How long a client may take to say what it wants.
const QUERY_TIMEOUT: Duration = Duration::from_secs(10);
/// The longest message of a client, in bytes.
const MESSAGE_BYTES: usize = 64 << 10;
/// How long changes are collected before they are told.
const TELL_INTERVAL: Duration = Duration::from_millis(250);
/// A conversation.
pub(super) struct Session {
    caller: Arc<Caller>,
    shared: Shared,
    leaving: Pin<Box<WaitForCancellationFutureOwned>>,
}

/// What a client is told next.
enum Event {
    Say(Writing),
    Nothing,
    End(End),
    /// The client ended it.
    Closed,
    /// What it sent is no WebSocket's, or too long.
    Broken(ReadError),
}

impl Session {
    /// One of this caller, that ends when the replica is `leaving`.
    pub(super) fn new(
        caller: Caller,
        shared: Shared,
        leaving: WaitForCancellationFutureOwned,
    ) -> Self {
        Self {
            caller: Arc::new(caller),
            shared,
            leaving: Box::pin(leaving),
        }
    }

    /// Serves it to its end.
    pub(super) async fn run(
        self,
        upgrade: OnUpgrade,
        _place: Share<Identity>,
        mut scope: Box<Scope>,
    ) {
        let Some((reader, mut writer)) = websocket::take_over(upgrade, &mut scope).await else {
            return;
        };
        let heard = websocket::heard(Incoming::new(reader), MESSAGE_BYTES);
        let mut heard = std::pin::pin!(heard);
        let scope = &mut *scope;
        let (code, reason) = match self.converse(&mut heard, &mut writer, scope).await {
            Event::Closed => (CloseCode::Normal, String::new()),
            Event::Broken(error) => {
                scope.reason = error.to_string();
                (error.close_code(), error.to_string())
            }
            Event::End(end) => {
                scope.reason.clone_from(&end.reason);
                if !write(Writing::Text(end.text()), &mut writer, scope).await {
                    return;
                }
                let code = match end.code {
                    Code::Unavailable => CloseCode::GoingAway,
                    _ => CloseCode::Policy,
                };
                (code, end.reason)
            }
            Event::Nothing | Event::Say(_) => return,
        };
        scope.cut = !websocket::close(&mut writer, code, &reason).await;
    }

    /// The conversation; gives how it ends, or nothing where the client is gone.
    async fn converse(
        mut self,
        heard: &mut (impl Stream<Item = Result<Message, ReadError>> + Unpin),
        writer: &mut Writer,
        scope: &mut Scope,
    ) -> Event {
        let mut ended = std::pin::pin!(scope.ended());
        let query = match query(heard, scope).await {
            Ok(query) => query,
            Err(end) => return end,
        };
        let beginning = begin(&self.caller, &self.shared, query);
        let begun = tokio::select! {
            begun = beginning => begun,
            message = heard.next() => return over(message),
            failure = &mut ended => return Event::End(revoked(failure)),
        };
        let mut graph = match begun {
            Ok(graph) => graph,
            Err(end) => return Event::End(end),
        };
        let mut ping = tokio::time::interval(PING_INTERVAL);
        let mut tell = tokio::time::interval(TELL_INTERVAL);
        tell.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let expiry = tokio::time::sleep_until(self.caller.until());
        let mut expiry = std::pin::pin!(expiry);
        loop {
            let event = tokio::select! {
                message = heard.next() => match message {
                    Some(Ok(Message::Ping(bytes))) => Event::Say(Writing::Pong(bytes)),
                    Some(Ok(Message::Pong)) => Event::Nothing,
                    other => return over(other),
                },
                Some((feed, update)) = graph.feeds.next(), if !graph.feeds.is_empty() => {
                    match graph.take(feed, update) {
                        Ok(()) => Event::Nothing,
                        Err(end) => Event::End(end),
                    }
                }
                _ = tell.tick(), if graph.changed => {
                    match graph.tell(&self.shared.evaluator, writer, scope).await {
                        Ok(true) => Event::Nothing,
                        Ok(false) => return Event::Nothing,
                        Err(end) => Event::End(end),
                    }
                }
                _ = ping.tick() => Event::Say(Writing::Ping),
                () = &mut self.leaving => Event::End(leaves("this replica is shutting down: ask again")),
                failure = &mut ended => Event::End(revoked(failure)),
                () = &mut expiry => Event::End(leaves("the WebSocket is too old: ask again")),
            };
            match event {
                Event::Nothing => {}
                Event::Say(writing) => {
                    if !write(writing, writer, scope).await {
                        return Event::Nothing;
                    }
                }
                end => return end,
            }
        }
    }
}

fn leaves(reason: &str) -> End {
    End::new(Code::Unavailable, reason)
}

/// The session was ended.
fn revoked(failure: Failure) -> End {
    let code = match failure.code {
        StatusCode::UNAUTHORIZED => Code::Unauthenticated,
        _ => Code::PermissionDenied,
    };
    End::new(code, failure.message)
}

/// How it ends when a client says this.
fn over(message: Option<Result<Message, ReadError>>) -> Event {
    match message {
        Some(Ok(Message::Close)) | None => Event::Closed,
        Some(Ok(_)) => {
            let reason = "a WebSocket is for one query";
            Event::End(End::new(Code::InvalidArgument, reason))
        }
        Some(Err(error)) => Event::Broken(error),
    }
}

async fn query(
    heard: &mut (impl Stream<Item = Result<Message, ReadError>> + Unpin),
    scope: &mut Scope,
) -> Result<Query, Event> {
    let first = tokio::time::timeout(QUERY_TIMEOUT, heard.next()).await;
    let first =
        first.map_err(|_| Event::End(End::new(Code::DeadlineExceeded, "no query came in time")))?;
    let text = match first {
        Some(Ok(Message::Text(text))) => text,
        other => return Err(over(other)),
    };
    scope.received += text.len() as u64;
    Query::read(&text)
        .map_err(|error| Event::End(End::new(Code::InvalidArgument, error.to_string())))
}

/// Writes; says whether the client took it.
async fn write(writing: Writing, writer: &mut Writer, scope: &mut Scope) -> bool {
    if !writing.run(writer).await {
        scope.reason = "the client did not read".into();
        return false;
    }
    if let Writing::Text(text) = writing {
        scope.sent += text.len() as u64;
    }
    true
}

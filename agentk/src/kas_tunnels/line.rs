//! A connection of the session, whose calls go through tunnels.

use std::{future::poll_fn, pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt};
use proto::receptive::rpc::{
    Chunk,
    receptive_server::{Receptive, ReceptiveServer},
};
use runtime::{
    grpc::{self, ServerConnection, refuse},
    io::ByteStream,
};
use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tonic::{Request, Response, Status, Streaming};

use super::offers::{Call, Offers};

/// How long a call waits for a tunnel.
const TUNNEL_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the session may take to begin with HTTP/2.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// By it the connections of this agent's other pods come.
const ATTACH: &str = "/gitlab.agent.kas_receptive.rpc.Receptive/Attach";

/// How a line ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LineEnd {
    /// kas let it go, by opening no more tunnels.
    Starved,
    /// The session closed it.
    Closed,
}

/// Serves a line until it is closed. `carries`: it may carry those of other pods.
pub(super) async fn serve(offers: Arc<Offers>, io: ByteStream, carries: bool) -> LineEnd {
    let handshake = grpc::server_settings().handshake(io);
    let http2 = tokio::time::timeout(HANDSHAKE_TIMEOUT, handshake).await;
    let Ok(Ok(mut http2)): Result<Result<ServerConnection<_>, _>, _> = http2 else {
        return LineEnd::Closed;
    };
    let mut calls = JoinSet::new();
    let mut end = LineEnd::Closed;
    loop {
        tokio::select! {
            accepted = http2.accept() => match accepted {
                Some(Ok((request, respond))) => {
                    let call = Box::new(Call { request, respond });
                    calls.spawn(route(offers.clone(), call, carries));
                }
                Some(Err(_)) | None => break,
            },
            Some(_) = calls.join_next() => {}
            () = offers.starved(), if end == LineEnd::Closed => {
                tracing::debug!("kas opens no more tunnels on a connection");
                end = LineEnd::Starved;
                http2.graceful_shutdown();
                if carries {
                    offers.line_left();
                }
            }
        }
    }
    end
}

/// Gives a call to a tunnel as soon as there is one for it.
async fn route(offers: Arc<Offers>, mut call: Box<Call>, carries: bool) {
    let deadline = Instant::now() + TUNNEL_TIMEOUT;
    let mut changes = offers.changes();
    loop {
        changes.mark_unchanged();
        call = match offers.give(call) {
            Ok(()) => return,
            Err(call) => call,
        };
        let path = call.request.uri().path();
        if !offers.may_offer(path) {
            if path == ATTACH {
                return carry(offers, call, carries).await;
            }
            let unknown = unimplemented(&offers, path);
            // Fails only when the session has given the call up.
            return drop(refuse(call.respond, &unknown));
        }
        tokio::select! {
            Ok(()) = changes.changed() => {}
            () = tokio::time::sleep_until(deadline) => {
                let none = Status::unavailable("kas has opened no tunnel for this call");
                return drop(refuse(call.respond, &none));
            }
            _ = poll_fn(|cx| call.respond.poll_reset(cx)) => return,
        }
    }
}

/// As a gRPC server says it.
fn unimplemented(offers: &Offers, path: &str) -> Status {
    let (service, method) = path.rsplit_once('/').unwrap_or(("", path));
    let service = service.trim_start_matches('/');
    match offers.offers_service_of(path) {
        true => Status::unimplemented(format!("unknown method {method} for service {service}")),
        false => Status::unimplemented(format!("unknown service {service}")),
    }
}

/// Serves another pod of this agent where kas does not: GitLab's has no connections inside of others.
async fn carry(offers: Arc<Offers>, call: Box<Call>, carries: bool) {
    let Call { request, respond } = *call;
    if !carries {
        let refusal = Status::failed_precondition(
            "only a pod that kas has dialled can let others use its connection",
        );
        return drop(refuse(respond, &refusal));
    }
    let (sender, mut carried) = mpsc::channel(1);
    let mut service = ReceptiveServer::new(Carrier(sender));
    let inside = async {
        if let Some(io) = carried.recv().await {
            serve_inside(offers, io).await;
        }
    };
    // How it ends shows inside.
    let _ = tokio::join!(grpc::serve(&mut service, request, respond), inside);
}

fn serve_inside(offers: Arc<Offers>, io: ByteStream) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move {
        serve(offers, io, false).await;
    })
}

struct Carrier(mpsc::Sender<ByteStream>);

#[tonic::async_trait]
impl Receptive for Carrier {
    type AttachStream = Pin<Box<dyn Stream<Item = Result<Chunk, Status>> + Send>>;

    async fn attach(
        &self,
        request: Request<Streaming<Chunk>>,
    ) -> Result<Response<Self::AttachStream>, Status> {
        let (outgoing, chunks) = grpc::outgoing();
        let io = grpc::carried(request.into_inner(), outgoing);
        let over = |_| Status::unavailable("the connection from kas has ended");
        self.0.send(io).await.map_err(over)?;
        Ok(Response::new(Box::pin(chunks.map(Ok))))
    }
}

//! The double's Gitaly: serves local repositories by gRPC, refuses who does not
//! know the token, and fails on demand.

mod credentials;
mod repository;
mod service;

use std::{
    path::PathBuf,
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use hyper::body::Incoming;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use proto::gitaly::{
    commit_service_server::CommitServiceServer, smart_http_service_server::SmartHttpServiceServer,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;
use tonic::{body::Body, service::Routes};
use tower::Service;

use super::{Endpoint, FaultKind, Shared, lock};
use service::Gitaly;

/// Where the double's Gitaly is.
pub(super) struct Listening {
    pub(super) tcp: TcpListener,
    pub(super) unix: UnixListener,
    /// For TCP.
    pub(super) tls: Option<TlsAcceptor>,
}

/// Serves until it is dropped.
pub(super) async fn serve(listening: Listening, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        let shared = shared.clone();
        tokio::select! {
            accepted = listening.tcp.accept() => {
                let Ok((socket, _)) = accepted else { return };
                let tls = listening.tls.clone();
                connections.spawn(async move {
                    match tls {
                        None => connection(socket, shared).await,
                        // A client that does not trust us is what some tests are about.
                        Some(tls) => if let Ok(socket) = tls.accept(socket).await {
                            connection(socket, shared).await;
                        },
                    }
                });
            }
            accepted = listening.unix.accept() => {
                let Ok((socket, _)) = accepted else { return };
                connections.spawn(async move { connection(socket, shared).await });
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

async fn connection(
    socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    shared: Arc<Shared>,
) {
    let gitaly = Gitaly(shared.clone());
    let routes = Routes::new(SmartHttpServiceServer::new(gitaly.clone()))
        .add_service(CommitServiceServer::new(gitaly));
    let service = TowerToHyperService::new(Faulty { routes, shared });
    let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    // A connection that breaks is what some tests are about.
    pin!(server.serve_connection(TokioIo::new(socket), service))
        .await
        .ok();
}

/// The services, with what goes wrong before they see a call.
#[derive(Clone)]
struct Faulty {
    routes: Routes,
    shared: Arc<Shared>,
}

/// The stream is reset.
#[derive(Debug, thiserror::Error)]
#[error("down")]
struct Gone;

impl Service<Request<Incoming>> for Faulty {
    type Response = Response<Body>;
    type Error = Gone;
    type Future = BoxFuture<'static, Result<Response<Body>, Gone>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Gone>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Incoming>) -> Self::Future {
        let (mut routes, shared) = (self.routes.clone(), self.shared.clone());
        Box::pin(async move {
            let endpoint = endpoint(request.uri().path());
            let fault = lock(&shared.scenario).fault(endpoint);
            match fault {
                Some(FaultKind::Down) => {
                    lock(&shared.counters).count(endpoint, 0);
                    return Err(Gone);
                }
                Some(FaultKind::Hang) => {
                    lock(&shared.counters).count(endpoint, 0);
                    return std::future::pending().await;
                }
                Some(FaultKind::Slow(milliseconds)) => {
                    tokio::time::sleep(std::time::Duration::from_millis(milliseconds)).await;
                }
                Some(fault) => {
                    lock(&shared.counters).count(endpoint, 200);
                    return Ok(service::broken(endpoint, &fault));
                }
                None => {}
            }
            let answered = routes.call(request).await;
            let answered = answered.map_err(|never| match never {})?;
            lock(&shared.counters).count(endpoint, answered.status().as_u16());
            Ok(answered)
        })
    }
}

fn endpoint(path: &str) -> Endpoint {
    match path {
        "/gitaly.SmartHTTPService/InfoRefsUploadPack" => Endpoint::InfoRefs,
        "/gitaly.CommitService/TreeEntry" => Endpoint::TreeEntry,
        "/gitaly.CommitService/GetTreeEntries" => Endpoint::TreeEntries,
        _ => Endpoint::Unknown,
    }
}

/// Where a repository is, by its path on its storage.
pub(super) fn folder(shared: &Shared, relative: &str) -> PathBuf {
    shared.folder.path().join(relative)
}

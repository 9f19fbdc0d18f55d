//! The API that GitLab calls: who is connected, what was pushed, who answers.
//!
//! gRPC on a port of its own. Every call carries a JWT signed with the secret
//! that GitLab shares; only the question of health needs none.

mod agent_tracker;
mod authenticate;
mod configuration_project;
mod notifications;
mod server_info;
mod services;

use std::{pin::pin, sync::Arc, time::Duration};

use http::Request;
use runtime::{
    backoff::jittered,
    drain::Drain,
    grpc::{Patience, SendResponse, refuse, silence},
    io::ByteStream,
    jwt::Secret,
    listen::{AnyListener, PlainAcceptor},
};
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic_health::ServingStatus;

use authenticate::Doorman;
use services::Served;
pub use services::Services;

/// How long the HTTP/2 handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// Connections are asked whether they live as upstream does.
const PATIENCE: Patience = Patience {
    busy: Duration::from_secs(50),
    idle: Duration::from_secs(50),
    answer: Duration::from_secs(20),
};
/// Calls that one connection may have in progress.
const MAX_CALLS: usize = 1000;

/// How GitLab's connections are treated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What GitLab's tokens are signed with.
    pub secret: Secret,
    /// Age at which a connection is asked to leave, before jitter.
    pub max_connection_age: Duration,
}

/// Serves GitLab.
#[derive(Debug)]
pub struct GitLabApi {
    served: Served,
    doorman: Doorman,
    max_connection_age: Duration,
}

impl GitLabApi {
    /// An API of these services.
    pub async fn new(settings: Settings, services: Services) -> Arc<Self> {
        Arc::new(Self {
            served: services.complete().await,
            doorman: Doorman::new(settings.secret),
            max_connection_age: settings.max_connection_age,
        })
    }

    /// Accepts connections until draining starts; calls in progress are finished.
    pub async fn serve(
        self: Arc<Self>,
        listener: AnyListener,
        acceptor: PlainAcceptor,
        drain: Drain,
    ) {
        loop {
            let socket = tokio::select! {
                socket = listener.accept() => socket,
                () = drain.wait() => break,
            };
            let (api, acceptor, leaving) = (self.clone(), acceptor.clone(), drain.clone());
            drain.spawn(async move {
                let peer = socket.peer();
                match acceptor.accept_any(socket).await {
                    Ok(io) => api.connection(io, &peer, leaving).await,
                    Err(error) => error.report("GitLab", &peer),
                }
            });
        }
        let health = &self.served.health;
        health
            .set_service_status("", ServingStatus::NotServing)
            .await;
    }

    async fn connection(self: Arc<Self>, mut stream: ByteStream, peer: &str, drain: Drain) {
        let heard = stream.heard();
        let handshake = runtime::grpc::server_settings().handshake(stream);
        let Ok(Ok(mut http2)) = tokio::time::timeout(HANDSHAKE, handshake).await else {
            return tracing::debug!(peer, "a connection to GitLab's port is no HTTP/2");
        };
        let Some(pings) = http2.ping_pong() else {
            return;
        };
        let calls = TaskTracker::new();
        let mut silence = pin!(silence(pings, heard, PATIENCE, || !calls.is_empty()));
        let mut age = pin!(tokio::time::sleep(jittered(self.max_connection_age)));
        let mut leaving = false;
        loop {
            tokio::select! {
                accepted = http2.accept() => match accepted {
                    Some(Ok((request, respond))) if calls.len() < MAX_CALLS => {
                        calls.spawn(self.clone().call(request, respond));
                    }
                    Some(Ok((_, respond))) => {
                        let status = Status::resource_exhausted("too many calls on one connection");
                        // Whoever is gone needs no answer.
                        let _ = refuse(respond, &status);
                    }
                    Some(Err(error)) => {
                        return tracing::debug!(%error, peer, "a connection of GitLab broke");
                    }
                    None => return,
                },
                () = &mut silence => return tracing::debug!(peer, "GitLab does not answer pings"),
                () = async { tokio::select! { () = &mut age => {}, () = drain.wait() => {} } }, if !leaving => {
                    leaving = true;
                    http2.graceful_shutdown();
                }
            }
        }
    }

    async fn call(self: Arc<Self>, request: Request<h2::RecvStream>, respond: SendResponse) {
        let directions = "This is the port that GitLab calls, for gRPC. The Kubernetes API is served at the address \
             of agent.kubernetes_api.listen (by default port 8154).";
        let Some(respond) = runtime::grpc::turn_away(&request, respond, directions) else {
            return;
        };
        let path = request.uri().path();
        if let Err(status) = self.doorman.check(path, request.headers()) {
            // Whoever is gone needs no answer.
            let _ = refuse(respond, &status);
            return;
        }
        if let Some(unknown) = self.unknown(path) {
            let _ = refuse(respond, &unknown);
            return;
        }
        let mut routes = self.served.routes.clone();
        if let Err(error) = runtime::grpc::serve(&mut routes, request, respond).await {
            tracing::debug!(%error, "GitLab left during a call");
        }
    }
}

impl GitLabApi {
    /// grpc-go's words for services that are not served.
    fn unknown(&self, path: &str) -> Option<Status> {
        let service = path.trim_start_matches('/').split('/').next()?;
        let known = self.served.names.contains(&service);
        (!known).then(|| Status::unimplemented(format!("unknown service {service}")))
    }
}

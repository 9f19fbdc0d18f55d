//! The API that GitLab calls: who is connected, what was pushed, who answers.
//!
//! gRPC on a port of its own. Every call carries a JWT signed with the secret
//! that GitLab shares; only the question of health needs none. Who calls is known before anything of a
//! message is read, and each method has its own longest one.

mod agent_tracker;
mod authenticate;
mod configuration_project;
mod limits;
mod notifications;
mod server_info;
mod services;

use std::{pin::pin, sync::Arc, time::Duration};

use h2::{Reason, RecvStream};
use http::Request;
use runtime::{
    backoff::jittered,
    drain::Drain,
    grpc::{Patience, SendResponse, UNKNOWN_TIMEOUT, refuse, silence},
    io::ByteStream,
    jwt::Secret,
    listen::{AnyListener, PlainAcceptor},
};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;
use tonic::Status;
use tonic_health::ServingStatus;

use authenticate::{Doorman, Who};
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
/// The same before anybody on it has shown a good token: probes have none.
const MAX_CALLS_UNKNOWN: usize = 8;

/// How GitLab's connections are treated.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What GitLab's tokens are signed with.
    pub secret: Secret,
    /// Age at which a connection is asked to leave, before jitter.
    pub max_connection_age: Duration,
    /// What those are told whose request is no call: where they should have gone.
    pub directions: String,
}

/// Serves GitLab.
#[derive(Debug)]
pub struct GitLabApi {
    served: Served,
    doorman: Doorman,
    max_connection_age: Duration,
    directions: String,
}

impl GitLabApi {
    /// An API of these services.
    pub async fn new(settings: Settings, services: Services) -> Arc<Self> {
        Arc::new(Self {
            served: services.complete().await,
            doorman: Doorman::new(settings.secret),
            max_connection_age: settings.max_connection_age,
            directions: settings.directions,
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
        let handshake = runtime::grpc::unknown(runtime::grpc::server_settings()).handshake(stream);
        let Ok(Ok(mut http2)) = tokio::time::timeout(HANDSHAKE, handshake).await else {
            return tracing::debug!(peer, "a connection to GitLab's port is no HTTP/2");
        };
        let Some(pings) = http2.ping_pong() else {
            return;
        };
        let calls = TaskTracker::new();
        let mut silence = pin!(silence(pings, heard, PATIENCE, || !calls.is_empty()));
        let mut age = pin!(tokio::time::sleep(UNKNOWN_TIMEOUT));
        let (mut known, mut aged, mut leaving) = (false, false, false);
        loop {
            tokio::select! {
                accepted = http2.accept() => match accepted {
                    Some(Ok((request, respond))) => {
                        let Some((who, respond)) = self.admit(&request, respond) else {
                            continue;
                        };
                        if who == Who::GitLab && !known {
                            known = true;
                            runtime::grpc::welcome(&mut http2);
                            age.as_mut().reset(Instant::now() + jittered(self.max_connection_age));
                        }
                        if calls.len() < if known { MAX_CALLS } else { MAX_CALLS_UNKNOWN } {
                            calls.spawn(self.clone().call(request, respond));
                        } else {
                            let status = Status::resource_exhausted("too many calls on one connection");
                            // Whoever is gone needs no answer.
                            let _ = refuse(respond, &status);
                        }
                    }
                    Some(Err(error)) => {
                        return tracing::debug!(%error, peer, "a connection of GitLab broke");
                    }
                    None => return,
                },
                () = &mut silence => return tracing::debug!(peer, "GitLab does not answer pings"),
                () = &mut age, if !aged => {
                    aged = true;
                    if !known {
                        // Nobody is waited for whom nobody knows.
                        http2.abrupt_shutdown(Reason::NO_ERROR);
                    } else if !leaving {
                        leaving = true;
                        http2.graceful_shutdown();
                    }
                }
                () = drain.wait(), if !leaving => {
                    leaving = true;
                    http2.graceful_shutdown();
                }
            }
        }
    }

    /// Looks at who makes a call, and at nothing else of it.
    fn admit(
        &self,
        request: &Request<RecvStream>,
        respond: SendResponse,
    ) -> Option<(Who, SendResponse)> {
        let respond = runtime::grpc::turn_away(request, respond, &self.directions)?;
        let path = request.uri().path();
        let admitted = self.doorman.check(path, request.headers());
        let admitted = admitted.and_then(|who| self.known(path).map(|()| who));
        match admitted {
            Ok(who) => Some((who, respond)),
            Err(status) => {
                // Whoever is gone needs no answer.
                let _ = refuse(respond, &status);
                None
            }
        }
    }

    /// Refuses services that are not served in grpc-go's words.
    fn known(&self, path: &str) -> Result<(), Status> {
        let service = path.trim_start_matches('/').split('/').next();
        let service = service.unwrap_or_default();
        if self.served.names.contains(&service) {
            return Ok(());
        }
        Err(Status::unimplemented(format!("unknown service {service}")))
    }

    async fn call(self: Arc<Self>, request: Request<RecvStream>, respond: SendResponse) {
        let mut routes = self.served.routes.clone();
        let served = match limits::of(request.uri().path()) {
            Some(bounds) => {
                runtime::grpc::serve_bounded(&mut routes, request, respond, bounds).await
            }
            None => runtime::grpc::serve(&mut routes, request, respond).await,
        };
        if let Err(error) = served {
            tracing::debug!(%error, "GitLab left during a call");
        }
    }
}

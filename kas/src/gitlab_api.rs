//! The API that GitLab calls: who is connected, what was pushed, who answers.
//!
//! gRPC on a port of its own. Every call carries a JWT signed with the secret
//! that GitLab shares; only the question of health needs none. Who calls is known before anything of a
//! message is read, and each method has its own longest one.

mod agent_tracker;
mod authenticate;
mod calls;
mod clusters;
mod configuration_project;
mod limits;
mod notifications;
mod server_info;
mod services;

use std::{sync::Arc, time::Duration};

use h2::RecvStream;
use http::Request;
use proto::former_names::present;
use runtime::{
    drain::Drain,
    grpc::{ProbeTimeouts, SendResponse, ServerMetrics, refuse, serve_counted},
    jwt::Secret,
    listen::{AnyListener, PlainAcceptor, RemoteAddr},
    serve::{
        Server,
        http2::{self, Caller},
    },
};
use tonic::Status;
use tonic_health::ServingStatus;
use tracing::Span;

use authenticate::{Authenticator, Who};
use calls::Calls;
use services::Served;
pub use services::Services;

/// Connections are asked whether they live as upstream does.
const KEEPALIVE: ProbeTimeouts = ProbeTimeouts {
    busy: Duration::from_secs(50),
    idle: Duration::from_secs(50),
    answer: Duration::from_secs(20),
};
/// Calls that one connection may have in progress.
const CALLS_MAX: usize = 1000;
/// The same before anybody on it has shown a good token: probes have none.
const UNAUTHENTICATED_CALLS_MAX: usize = 8;

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
    calls: Calls,
    authenticator: Authenticator,
    max_connection_age: Duration,
    directions: String,
}

impl GitLabApi {
    /// An API of these services.
    pub async fn new(settings: Settings, services: Services) -> Arc<Self> {
        Arc::new(Self {
            served: services.complete().await,
            calls: Calls::new(),
            authenticator: Authenticator::new(settings.secret),
            max_connection_age: settings.max_connection_age,
            directions: settings.directions,
        })
    }

    /// What it counts of calls. The replica registers it.
    #[must_use]
    pub fn calls(&self) -> &ServerMetrics {
        self.calls.metrics()
    }

    /// Accepts connections until draining starts; calls in progress are finished.
    pub async fn serve(
        self: Arc<Self>,
        listener: AnyListener,
        acceptor: PlainAcceptor,
        drain: Drain,
    ) {
        let (api, leaving) = (self.clone(), drain.clone());
        let serve = move |(io, remote_addr)| {
            let options = api.options();
            http2::serve(io, remote_addr, options, api, leaving)
        };
        let server = Server::new("GitLab", listener, acceptor);
        server.run(drain, serve).await;
        let health = &self.served.health;
        health
            .set_service_status("", ServingStatus::NotServing)
            .await;
    }

    fn options(&self) -> http2::Options {
        http2::Options {
            settings: runtime::grpc::server_settings(),
            liveness: KEEPALIVE,
            max_age: Some(self.max_connection_age),
            max_calls: CALLS_MAX,
            max_calls_unauthenticated: UNAUTHENTICATED_CALLS_MAX,
        }
    }

    /// Refuses services that are not served in grpc-go's words.
    fn known(&self, path: &str) -> Result<(), Status> {
        if self.served.names.contains(&service(&present(path))) {
            return Ok(());
        }
        let service = service(path);
        Err(Status::unimplemented(format!("unknown service {service}")))
    }
}

impl http2::Service for GitLabApi {
    type Session = ();

    fn connected(&self) {}

    fn span(&self, remote_addr: RemoteAddr) -> Span {
        tracing::debug_span!("gitlab_connection", %remote_addr)
    }

    fn admit(
        &self,
        (): &(),
        request: &Request<RecvStream>,
        respond: SendResponse,
    ) -> Option<(Caller, SendResponse)> {
        let respond = runtime::grpc::reject_non_grpc(request, respond, &self.directions)?;
        let path = request.uri().path();
        let admitted = self.authenticator.check(path, request.headers());
        let admitted = admitted.and_then(|who| self.known(path).map(|()| who));
        match admitted {
            Ok(Who::GitLab) => Some((Caller::Authenticated, respond)),
            Ok(_) => Some((Caller::Anonymous, respond)),
            Err(status) => {
                if let Some(call) = self.calls.begin(&present(path)) {
                    call.ends(status.code());
                }
                // Whoever is gone needs no answer.
                let _ = refuse(respond, &status);
                None
            }
        }
    }

    async fn call(
        self: Arc<Self>,
        request: Request<RecvStream>,
        respond: SendResponse,
        _drain: Drain,
    ) {
        let mut routes = self.served.routes.clone();
        let request = runtime::grpc::with_present_name(request);
        let path = request.uri().path();
        let (bounds, counted) = (limits::of(path), self.calls.begin(path));
        let serving = serve_counted(&mut routes, request, respond, bounds, counted.as_ref());
        let served = serving.await;
        if let Err(error) = served {
            tracing::debug!(%error, "GitLab connection broke during a call");
        }
    }
}

/// The service in the path of a method.
fn service(path: &str) -> &str {
    let service = path.trim_start_matches('/').split('/').next();
    service.unwrap_or_default()
}

//! The private API: replicas ask each other for tunnels.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use http::{HeaderMap, HeaderValue, Request, header::AUTHORIZATION};
use router::{Registry, owner};
use runtime::{
    connect::{ConnectOptions, Target, connect},
    drain::Drain,
    grpc::{SendResponse, status_from},
    io::ByteStream,
    jwt::{self, Secret},
    listen::{Listener, PlainAcceptor},
};
use tokio_util::task::TaskTracker;
use tonic::Status;

/// Issuer and audience of the tokens between replicas, as GitLab's kas has it.
const NAME: &str = "gitlab-kas";
/// How long the HTTP/2 handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// Answers peers that ask for tunnels held here.
#[derive(Debug)]
pub struct PrivateApi {
    registry: Arc<Registry>,
    secret: Secret,
}

impl PrivateApi {
    /// Serves tunnels of `registry` to peers that sign with `secret`.
    #[must_use]
    pub fn new(registry: Arc<Registry>, secret: Secret) -> Arc<Self> {
        Arc::new(Self { registry, secret })
    }

    /// Accepts peers until draining starts; calls in progress are finished.
    pub async fn serve(self: Arc<Self>, listener: Listener, acceptor: PlainAcceptor, drain: Drain) {
        loop {
            let (socket, peer) = tokio::select! {
                accepted = listener.accept() => accepted,
                () = drain.wait() => return,
            };
            let (api, acceptor, leaving) = (self.clone(), acceptor.clone(), drain.clone());
            drain.spawn(async move {
                match acceptor.accept(socket, peer).await {
                    Ok(accepted) => api.connection(accepted.io, peer, leaving).await,
                    Err(error) => tracing::debug!(%error, %peer, "a peer's connection was refused"),
                }
            });
        }
    }

    async fn connection(self: Arc<Self>, stream: ByteStream, peer: SocketAddr, drain: Drain) {
        let handshake = runtime::grpc::server_settings().handshake(stream);
        let Ok(Ok(mut http2)) = tokio::time::timeout(HANDSHAKE, handshake).await else {
            return tracing::debug!(%peer, "a peer's connection did not begin with HTTP/2");
        };
        let calls = TaskTracker::new();
        let mut leaving = false;
        loop {
            tokio::select! {
                accepted = http2.accept() => match accepted {
                    Some(Ok((request, respond))) => {
                        calls.spawn(self.clone().call(request, respond, drain.clone()));
                    }
                    Some(Err(error)) => {
                        return tracing::debug!(%peer, status = %status_from(&error), "a peer's connection broke");
                    }
                    None => return,
                },
                () = drain.wait(), if !leaving => {
                    leaving = true;
                    http2.graceful_shutdown();
                }
            }
        }
    }

    async fn call(
        self: Arc<Self>,
        request: Request<h2::RecvStream>,
        respond: SendResponse,
        leaving: Drain,
    ) {
        if let Err(status) = self.admit(request.headers()) {
            // A peer that is gone needs no answer.
            let _ = runtime::grpc::refuse(respond, &status);
            return;
        }
        owner::serve(&self.registry, request, respond, &leaving).await;
    }

    fn admit(&self, headers: &HeaderMap) -> Result<(), Status> {
        let refused = || Status::unauthenticated("JWT validation failed");
        let value = headers
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let token = value
            .and_then(|value| value.strip_prefix("Bearer "))
            .ok_or_else(refused)?;
        jwt::verify(&self.secret, token, NAME, Some(NAME)).map_err(|error| {
            tracing::debug!(%error, "refused a peer");
            refused()
        })
    }
}

/// Credentials for calls to peers: a JWT signed anew for each.
#[must_use]
pub fn credentials(secret: Secret) -> router::peers::Credentials {
    Arc::new(move || {
        let mut headers = HeaderMap::new();
        if let Ok(token) = jwt::sign(&secret, NAME, NAME)
            && let Ok(value) = HeaderValue::from_str(&format!("Bearer {token}"))
        {
            headers.insert(AUTHORIZATION, value);
        }
        headers
    })
}

/// Dials peers by their private API URL (`grpc://` or `grpcs://`).
#[must_use]
pub fn dial(options: ConnectOptions) -> router::peers::Dial {
    let options = Arc::new(options);
    Arc::new(move |url| {
        let options = options.clone();
        Box::pin(async move {
            let target = Target::parse(&url).map_err(std::io::Error::other)?;
            let connected = connect(&target, &options)
                .await
                .map_err(std::io::Error::other)?;
            Ok(connected.io)
        })
    })
}

//! The listener for metrics and probes.

use std::{convert::Infallible, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use prometheus_client::registry::Registry;
use runtime::listen::{BindError, Listener, PlainAcceptor, bind};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::{config::Observability, session::Uplink, version};

/// Connections at once.
const CONNECTIONS: usize = 100;
/// How long a request's head may take.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A bound listener.
#[derive(Debug)]
pub(crate) struct Endpoints {
    listener: Listener,
    acceptor: PlainAcceptor,
    registry: Arc<Registry>,
    /// What the agent needs to be ready.
    needed: Option<Uplink>,
}

/// A listener that cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// The address.
    #[error("--observability-listen-address: {0}")]
    Bind(#[from] BindError),
    /// The certificate.
    #[error("--observability-cert-file: {0}")]
    Tls(#[from] runtime::tls::TlsError),
}

impl Endpoints {
    /// The agent is ready when kas has accepted it on what is `needed`; at once
    /// if that is nothing.
    pub(crate) async fn bind(
        config: &Observability,
        registry: Registry,
        needed: Option<Uplink>,
    ) -> Result<Self, ListenError> {
        let tls = config
            .tls
            .clone()
            .map(|identity| runtime::tls::ServerTls::load(identity, &[runtime::tls::HTTP_1_1]))
            .transpose()?;
        Ok(Self {
            listener: bind(&config.address).await?,
            acceptor: PlainAcceptor::new(tls),
            registry: Arc::new(registry),
            needed,
        })
    }

    /// Answers until `stop`.
    pub(crate) async fn serve(self, stop: CancellationToken) {
        tracing::info!(net_address = %self.listener.local_addr(), "metrics and probes are served");
        let mut connections = JoinSet::new();
        loop {
            tokio::select! {
                (socket, peer) = self.listener.accept(), if connections.len() < CONNECTIONS => {
                    let acceptor = self.acceptor.clone();
                    let (registry, needed) = (self.registry.clone(), self.needed.clone());
                    connections.spawn(async move {
                        match acceptor.accept(socket, peer).await {
                            Ok(accepted) => talk(accepted.io, registry, needed).await,
                            Err(error) => tracing::debug!(%error, "a probe did not come through"),
                        }
                    });
                }
                Some(_) = connections.join_next() => {}
                () = stop.cancelled() => return,
            }
        }
    }
}

async fn talk(io: runtime::io::ByteStream, registry: Arc<Registry>, needed: Option<Uplink>) {
    let service = service_fn(move |request| {
        let answer = answer(&request, &registry, needed.as_ref());
        async move { Ok::<_, Infallible>(answer) }
    });
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(READ_TIMEOUT)
        .serve_connection(TokioIo::new(io), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "a probe's connection broke");
    }
}

fn answer(
    request: &Request<Incoming>,
    registry: &Registry,
    needed: Option<&Uplink>,
) -> Response<Full<Bytes>> {
    let mut response = match request.uri().path() {
        "/metrics" => metrics(registry),
        "/liveness" => Response::default(),
        "/readiness" if needed.is_none_or(Uplink::accepted) => Response::default(),
        "/readiness" => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "kas: there is no connection that kas has accepted",
        ),
        _ => text(
            StatusCode::NOT_FOUND,
            "see /metrics, /liveness and /readiness",
        ),
    };
    let server = HeaderValue::from_str(&version::user_agent());
    response
        .headers_mut()
        .insert(header::SERVER, server.expect("the version is plain text"));
    response
}

fn metrics(registry: &Registry) -> Response<Full<Bytes>> {
    let mut lines = String::new();
    prometheus_client::encoding::text::encode(&mut lines, registry)
        .expect("writing to a string cannot fail");
    let mut response = Response::new(Full::from(lines));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8"),
    );
    response
}

fn text(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    response
}

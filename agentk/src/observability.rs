//! The listener for metrics and probes.

use std::sync::Arc;

use http::{HeaderMap, StatusCode, header};
use prometheus_client::registry::Registry;
use runtime::{
    listen::{BindError, Listener, PlainAcceptor, bind},
    metrics::metrics,
    probes::{self, Answer, text},
};
use tokio_util::sync::CancellationToken;

use crate::{config::Observability, session::Uplink, version};

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
    #[error("--observability-listen-address")]
    Bind(#[from] BindError),
    /// The certificate.
    #[error("--observability-cert-file")]
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
        tracing::info!(local_addr = %self.listener.local_addr(), "serving metrics and probes");
        let (registry, needed) = (self.registry, self.needed);
        let answer = move |path: &str, headers: &HeaderMap| {
            answer(path, headers, &registry, needed.as_ref())
        };
        probes::serve(self.listener, self.acceptor, answer, stop).await;
    }
}

fn answer(path: &str, headers: &HeaderMap, registry: &Registry, needed: Option<&Uplink>) -> Answer {
    let mut response = match path {
        "/metrics" => metrics(registry, headers),
        "/liveness" => Answer::default(),
        "/readiness" if needed.is_none_or(Uplink::accepted) => Answer::default(),
        "/readiness" => text(
            StatusCode::INTERNAL_SERVER_ERROR,
            "kas: no connection on which kas has accepted the agent",
        ),
        _ => text(
            StatusCode::NOT_FOUND,
            "see /metrics, /liveness and /readiness",
        ),
    };
    response
        .headers_mut()
        .insert(header::SERVER, version::USER_AGENT);
    response
}

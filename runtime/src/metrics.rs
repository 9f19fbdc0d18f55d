//! The observability listener: metrics, liveness and readiness.

use std::sync::Arc;

use axum::{Router, http::StatusCode, routing::get};
use prometheus_client::registry::Registry;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Says whether a process is ready; the error is the reason why not.
pub type Readiness = Arc<dyn Fn() -> Result<(), String> + Send + Sync>;

/// Paths of the three endpoints.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Prometheus text format.
    pub metrics: String,
    /// 200 as long as the process runs.
    pub liveness: String,
    /// 200 when ready, 500 with the reason otherwise.
    pub readiness: String,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            metrics: "/metrics".into(),
            liveness: "/liveness".into(),
            readiness: "/readiness".into(),
        }
    }
}

/// Serves the endpoints until `stop`.
///
/// # Errors
/// When the listener fails.
pub async fn serve(
    listener: TcpListener,
    paths: &Paths,
    registry: Arc<Registry>,
    readiness: Readiness,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let metrics = move || {
        let text = encode(&registry);
        async move {
            (
                [(
                    "content-type",
                    "application/openmetrics-text; version=1.0.0; charset=utf-8",
                )],
                text,
            )
        }
    };
    let ready = move || {
        let answer = match readiness() {
            Ok(()) => (StatusCode::OK, String::new()),
            Err(reason) => (StatusCode::INTERNAL_SERVER_ERROR, reason),
        };
        async move { answer }
    };
    let routes = Router::new()
        .route(&paths.metrics, get(metrics))
        .route(&paths.readiness, get(ready))
        .route(&paths.liveness, get(|| async {}));
    axum::serve(listener, routes)
        .with_graceful_shutdown(stop.cancelled_owned())
        .await
}

fn encode(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_client::encoding::text::encode(&mut text, registry)
        .expect("writing to a string cannot fail");
    text
}

//! What the observability port answers: metrics, liveness and readiness.

mod classic;
pub mod limiters;
mod process;

use std::sync::Arc;

use http::{
    HeaderMap, HeaderValue, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use prometheus_client::registry::Registry;
use tokio_util::sync::CancellationToken;

use crate::{
    listen::{AnyListener, PlainAcceptor},
    probes::{self, Answer, text},
};

pub use process::ProcessMetrics;

/// Says whether a process is ready.
pub type Readiness = Arc<dyn Fn() -> Result<(), NotReady> + Send + Sync>;

/// Why a process is not ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct NotReady(pub &'static str);

/// Paths of the three endpoints.
#[derive(Debug, Clone)]
pub struct Paths {
    /// Prometheus text format.
    pub metrics: String,
    /// 200 as long as the process runs.
    pub liveness: String,
    /// 200 when ready, 500 with the reason otherwise.
    pub readiness: String,
    /// Where those should have gone who ask for any other path.
    pub directions: String,
}

impl Default for Paths {
    fn default() -> Self {
        Self {
            metrics: "/metrics".into(),
            liveness: "/liveness".into(),
            readiness: "/readiness".into(),
            directions: String::new(),
        }
    }
}

impl Paths {
    fn answer(
        &self,
        path: &str,
        headers: &HeaderMap,
        registry: &Registry,
        readiness: &Readiness,
    ) -> Answer {
        if path == self.metrics {
            return metrics(registry, headers);
        }
        if path == self.liveness {
            return Answer::default();
        }
        if path == self.readiness {
            return match readiness() {
                Ok(()) => Answer::default(),
                Err(NotReady(reason)) => text(StatusCode::INTERNAL_SERVER_ERROR, reason),
            };
        }
        text(StatusCode::NOT_FOUND, self.elsewhere())
    }

    fn elsewhere(&self) -> String {
        let Self {
            metrics,
            liveness,
            readiness,
            directions,
        } = self;
        format!("This port serves {metrics}, {liveness} and {readiness}. {directions}\n")
    }
}

/// Serves the endpoints until `stop`.
pub async fn serve(
    listener: impl Into<AnyListener>,
    acceptor: PlainAcceptor,
    paths: Paths,
    registry: Arc<Registry>,
    readiness: Readiness,
    stop: CancellationToken,
) {
    let paths = Arc::new(paths);
    let answer =
        move |path: &str, headers: &HeaderMap| paths.answer(path, headers, &registry, &readiness);
    probes::serve(listener, acceptor, answer, stop).await;
}

/// All metrics, as Prometheus reads them: by default in `OpenMetrics`' format, for a request with these headers.
#[must_use]
pub fn metrics(registry: &Registry, headers: &HeaderMap) -> Answer {
    const CLASSIC: HeaderValue =
        HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    const OPEN_METRICS: HeaderValue =
        HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    let mut lines = String::new();
    prometheus_client::encoding::text::encode(&mut lines, registry)
        .expect("writing to a string cannot fail");
    let accept = headers.get(ACCEPT).and_then(|it| it.to_str().ok());
    let (lines, kind) = match accept.is_some_and(classic::is_wanted) {
        true => (classic::of(&lines), CLASSIC),
        false => (lines, OPEN_METRICS),
    };
    let mut answer = text(StatusCode::OK, lines);
    answer.headers_mut().insert(CONTENT_TYPE, kind);
    answer
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    async fn ask(path: &str, ready: Result<(), &'static str>) -> (u16, String) {
        let paths = Paths {
            directions: "Elsewhere is port 8154.".into(),
            ..Paths::default()
        };
        let readiness: Readiness = Arc::new(move || ready.map_err(NotReady));
        let answer = paths.answer(path, &HeaderMap::new(), &Registry::default(), &readiness);
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn each_path_has_its_answer() {
        assert_eq!(ask("/liveness", Err("leaving")).await, (200, String::new()));
        assert_eq!(ask("/readiness", Ok(())).await, (200, String::new()));
        let leaving = (500, "leaving".to_owned());
        assert_eq!(ask("/readiness", Err("leaving")).await, leaving);
        assert_eq!(ask("/metrics", Ok(())).await, (200, "# EOF\n".to_owned()));
    }

    #[tokio::test]
    async fn other_paths_are_answered_with_directions() {
        let (status, words) = ask("/api", Ok(())).await;

        assert_eq!(status, 404);
        assert!(words.contains("/liveness"), "{words}");
        assert!(words.contains("port 8154"), "{words}");
    }

    #[tokio::test]
    async fn a_scraper_that_asks_for_the_classic_format_gets_it() {
        let kind = |accept: &'static str| {
            let headers = [(ACCEPT, HeaderValue::from_static(accept))];
            let answer = metrics(&Registry::default(), &headers.into_iter().collect());
            answer.headers()[CONTENT_TYPE].clone()
        };

        let classic = "text/plain; version=0.0.4; charset=utf-8";
        assert_eq!(kind("text/plain;version=0.0.4;q=1,*/*;q=0.1"), classic);
        assert!(
            kind("*/*")
                .to_str()
                .unwrap()
                .starts_with("application/openmetrics-text")
        );
    }
}

//! How the users' port is served: limits, timeouts, names.

use std::time::Duration;

use audit::Audit;
use control_plane::usage::Usage;
use http::{HeaderName, HeaderValue};
use ipnet::IpNet;

use crate::{Graph, Origins, WebSocketTokens, metrics::DEFAULT_CALLER_SERIES};

/// How the users' port is served.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the API begins.
    pub url_path_prefix: String,
    /// Whether paths outside of it are refused; else they are those of the cluster.
    pub prefix_required: bool,
    /// How long a request waits for a tunnel.
    pub hold: Duration,
    /// The `Server` header, which also names us in `Via`.
    pub server: HeaderValue,
    /// How long a client may take for its first request's head, or for the
    /// preface of HTTP/2.
    pub first_request: Duration,
    /// How long a client may pause in the middle of a body for which there is
    /// no answer yet.
    pub body_pause: Duration,
    /// How long the cluster may take to begin its answer.
    pub response_header: Duration,
    /// How long nothing may come, or be taken, in the middle of an answer.
    pub idle: Duration,
    /// How long an upgraded connection whose tunnel broke may take to be resumed on another; zero does not resume.
    pub resume: Duration,
    /// Bytes of a request's line and headers, at most; an API server takes as many.
    pub max_head: usize,
    /// Requests in progress, at most; one caller may have a quarter.
    pub max_in_flight: usize,
    /// How many callers have metrics of their own, at most.
    pub max_caller_series: usize,
    /// Whose pages may call with what a browser adds by itself.
    pub origins: Origins,
    /// Headers that clusters' answers may carry besides those of Kubernetes.
    pub response_headers: Vec<HeaderName>,
    /// Issues tokens to browsers' sessions, for their WebSockets; `None` disables them.
    pub websocket_tokens: Option<WebSocketTokens>,
    /// Counts allowed requests for GitLab; `None` counts none.
    pub usage: Option<Usage>,
    /// Takes the records of requests.
    pub audit: Audit,
    /// Whether callers may ask who they are, which agents they may use, and where people log in.
    pub account: bool,
    /// Proxies that are believed where a request comes from.
    pub trusted_proxies: Vec<IpNet>,
    /// Serves watches of clusters' objects over WebSocket; `None` disables them.
    pub graph: Option<Graph>,
}

impl Default for Settings {
    fn default() -> Self {
        let hours = Duration::from_secs(4 * 3600);
        Self {
            url_path_prefix: "/".into(),
            prefix_required: false,
            hold: Duration::from_secs(60),
            server: HeaderValue::from_static(concat!("kas/", env!("CARGO_PKG_VERSION"))),
            first_request: Duration::from_secs(10),
            body_pause: Duration::from_secs(300),
            response_header: hours,
            idle: hours,
            resume: Duration::from_secs(60),
            max_head: (1 << 20) + (4 << 10),
            max_in_flight: 10_000,
            max_caller_series: DEFAULT_CALLER_SERIES,
            origins: Origins::default(),
            response_headers: Vec::new(),
            websocket_tokens: None,
            usage: None,
            audit: Audit::default(),
            account: false,
            trusted_proxies: Vec::new(),
            graph: None,
        }
    }
}

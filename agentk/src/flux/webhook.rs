//! Calls Receivers at Flux's notification controller.

use std::time::Duration;

use http::{Request, StatusCode, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use kube::client::Body;
use runtime::{
    connect::{ConnectError, ConnectOptions, Target, TargetError, connect_http},
    tls::{ClientTls, ClientTlsOptions, TlsError},
};

use crate::version;

/// Where Flux installs the controller by default.
const DEFAULT_URL: &str = "http://webhook-receiver.flux-system.svc.cluster.local";
/// How long a call may take.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// Where the controller is.
#[derive(Debug, Clone)]
pub(super) enum WebhookClient {
    /// A service, through the API server's proxy.
    Cluster(String),
    /// A URL, called directly.
    Direct(String, Box<ConnectOptions>),
}

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum WebhookError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Connect(#[from] Box<ConnectError>),
    #[error(transparent)]
    Http(#[from] hyper::Error),
    #[error(transparent)]
    Request(#[from] http::Error),
    #[error(transparent)]
    Cluster(#[from] kube::Error),
    #[error("the notification controller did not answer in time")]
    Timeout,
    #[error("the notification controller answered {0}")]
    Refused(StatusCode),
}

impl WebhookClient {
    /// As configured: a URL, or the path of a service behind the API server.
    pub(super) fn new(url: &str) -> Result<Self, WebhookError> {
        let url = url.trim_end_matches('/');
        if url.starts_with('/') {
            return Ok(Self::Cluster(url.to_owned()));
        }
        let url = if url.is_empty() { DEFAULT_URL } else { url };
        Target::parse_http(url)?;
        let options = ConnectOptions {
            tls: Some(ClientTls::load(&ClientTlsOptions::default())?),
            user_agent: version::user_agent(),
            timeout: CALL_TIMEOUT,
            ..ConnectOptions::default()
        };
        Ok(Self::Direct(url.to_owned(), Box::new(options)))
    }

    /// Calls a Receiver by its path.
    pub(super) async fn call(&self, client: &kube::Client, path: &str) -> Result<(), WebhookError> {
        let called = async {
            match self {
                Self::Cluster(service) => {
                    let request = Request::post(format!("{service}{path}"));
                    let answer = client.send(request.body(Body::empty())?).await?;
                    Ok(answer.status())
                }
                Self::Direct(url, options) => post(&format!("{url}{path}"), options).await,
            }
        };
        let called = tokio::time::timeout(CALL_TIMEOUT, called).await;
        match called.map_err(|_| WebhookError::Timeout)?? {
            StatusCode::OK => Ok(()),
            status => Err(WebhookError::Refused(status)),
        }
    }
}

/// The connection is used once.
async fn post(url: &str, options: &ConnectOptions) -> Result<StatusCode, WebhookError> {
    let target = Target::parse_http(url)?;
    let request = Request::post(target.path_and_query())
        .header(header::HOST, target.authority())
        .header(header::USER_AGENT, &options.user_agent)
        .header(header::CONNECTION, "close")
        .body(Empty::<bytes::Bytes>::new())?;
    let io = connect_http(&target, options).await.map_err(Box::new)?;
    let (mut send, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
    let exchange = async move { send.send_request(request).await.map(|it| it.status()) };
    let (status, _) = tokio::join!(exchange, connection);
    Ok(status?)
}

//! Calls the notification controller, so that it has Flux look.

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

/// Where Flux has the controller by default.
const DEFAULT: &str = "http://webhook-receiver.flux-system.svc.cluster.local";
/// How long a call may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// Where the controller is.
#[derive(Debug, Clone)]
pub(super) enum Hooks {
    /// A service that the API server calls.
    Cluster(String),
    /// It is called without the API server's help.
    Direct(String, Box<ConnectOptions>),
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub(super) enum HookError {
    #[error(transparent)]
    Target(#[from] TargetError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(transparent)]
    Connect(#[from] Box<ConnectError>),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("{0}")]
    Request(#[from] http::Error),
    #[error("{0}")]
    Cluster(#[from] kube::Error),
    #[error("it does not answer in time")]
    Late,
    #[error("it answers {0}")]
    Refused(StatusCode),
}

impl Hooks {
    /// As configured: a URL, or the path of a service behind the API server.
    pub(super) fn new(url: &str) -> Result<Self, HookError> {
        let url = url.trim_end_matches('/');
        if url.starts_with('/') {
            return Ok(Self::Cluster(url.to_owned()));
        }
        let url = if url.is_empty() { DEFAULT } else { url };
        Target::parse_http(url)?;
        let options = ConnectOptions {
            tls: Some(ClientTls::load(&ClientTlsOptions::default())?),
            user_agent: version::user_agent(),
            timeout: DEADLINE,
            ..ConnectOptions::default()
        };
        Ok(Self::Direct(url.to_owned(), Box::new(options)))
    }

    /// Calls a Receiver by its path.
    pub(super) async fn call(&self, client: &kube::Client, path: &str) -> Result<(), HookError> {
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
        let called = tokio::time::timeout(DEADLINE, called).await;
        match called.map_err(|_| HookError::Late)?? {
            StatusCode::OK => Ok(()),
            status => Err(HookError::Refused(status)),
        }
    }
}

/// The connection is used once.
async fn post(url: &str, options: &ConnectOptions) -> Result<StatusCode, HookError> {
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

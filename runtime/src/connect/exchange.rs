//! One request to a plain HTTP server, on a connection of its own.

use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use http_body_util::{BodyExt, Full, LengthLimitError, Limited};
use hyper_util::rt::TokioIo;

use super::{ConnectError, ConnectOptions, Target, TargetError, connect_http};

/// Why there is no whole answer.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The request's URL is none of a server.
    #[error(transparent)]
    Target(#[from] TargetError),
    /// There is no connection.
    #[error(transparent)]
    Connect(#[from] Box<ConnectError>),
    /// The exchange broke off.
    #[error("{host} broke off: {error}")]
    Http {
        /// The server's host.
        host: String,
        /// What hyper says.
        #[source]
        error: hyper::Error,
    },
    /// The request cannot be written.
    #[error(transparent)]
    Request(#[from] http::Error),
    /// The answer is longer than wanted.
    #[error("the answer of {host} is longer than {limit} bytes")]
    TooLong {
        /// The server's host.
        host: String,
        /// The limit.
        limit: usize,
    },
    /// It took too long.
    #[error("{host} did not answer within {limit:?}")]
    Timeout {
        /// The server's host.
        host: String,
        /// The deadline.
        limit: Duration,
    },
    /// The answer has another status than was hoped for.
    #[error("{host} answered {status}")]
    Refused {
        /// The server's host.
        host: String,
        /// The status.
        status: StatusCode,
    },
}

/// Sends a request, whose URI is the whole URL, and reads the answer: at most `max_bytes` of body, all within
/// `options.timeout`. A redirect is an answer like others. No proxy is asked but for `https`.
///
/// # Errors
/// Why there is no whole answer. No part of the URL but its host is in it.
pub async fn exchange(
    request: Request<Bytes>,
    options: &ConnectOptions,
    max_bytes: usize,
) -> Result<Response<Bytes>, ExchangeError> {
    let target = Target::parse_http(&request.uri().to_string())?;
    let host = target.host().to_owned();
    let limit = options.timeout;
    let whole = Box::pin(attempt(request, &target, options, max_bytes));
    let answered = tokio::time::timeout(limit, whole).await;
    answered.unwrap_or(Err(ExchangeError::Timeout { host, limit }))
}

/// Sends a request on a connection of its own, and gives the status of the answer, of which nothing more is read. The
/// caller has a deadline.
///
/// # Errors
/// Why there is no answer. No part of the URL but its host is in it.
pub async fn status_of(
    request: Request<Full<Bytes>>,
    target: &Target,
    options: &ConnectOptions,
) -> Result<StatusCode, ExchangeError> {
    let broken = |error| ExchangeError::Http {
        host: target.host().to_owned(),
        error,
    };
    let io = connect_http(target, options).await.map_err(Box::new)?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(io));
    let (mut send, connection) = handshake.await.map_err(broken)?;
    let exchange = async move { send.send_request(request).await.map(|it| it.status()) };
    let (status, _) = tokio::join!(exchange, connection);
    status.map_err(broken)
}

async fn attempt(
    mut request: Request<Bytes>,
    target: &Target,
    options: &ConnectOptions,
    max_bytes: usize,
) -> Result<Response<Bytes>, ExchangeError> {
    let host = || target.host().to_owned();
    let broken = |error| ExchangeError::Http {
        host: host(),
        error,
    };
    let path: Uri = target.path_and_query().parse().map_err(http::Error::from)?;
    *request.uri_mut() = path;
    let own = [
        (header::HOST, target.authority()),
        (header::USER_AGENT, options.user_agent.clone()),
        (header::CONNECTION, "close".to_owned()),
    ];
    for (name, value) in own {
        let value = HeaderValue::from_str(&value).map_err(http::Error::from)?;
        request
            .headers_mut()
            .try_insert(name, value)
            .map_err(http::Error::from)?;
    }
    let io = connect_http(target, options).await.map_err(Box::new)?;
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(io));
    let (mut send, connection) = handshake.await.map_err(broken)?;
    let exchange = async move {
        let answer = send.send_request(request.map(Full::new)).await;
        let (head, body) = answer.map_err(broken)?.into_parts();
        let body = Limited::new(body, max_bytes).collect().await;
        let body = body.map_err(|error| match error.downcast::<hyper::Error>() {
            Ok(error) => broken(*error),
            Err(error) => {
                debug_assert!(error.is::<LengthLimitError>());
                ExchangeError::TooLong {
                    host: host(),
                    limit: max_bytes,
                }
            }
        })?;
        Ok(Response::from_parts(head, body.to_bytes()))
    };
    let (answer, _) = tokio::join!(exchange, connection);
    answer
}

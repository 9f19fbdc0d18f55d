//! A login in a browser: authorization code with PKCE, which comes back to a port of localhost (RFC 8252).

use std::{collections::HashMap, convert::Infallible, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use oauth2::CsrfToken;
use tokio::{
    net::TcpListener,
    sync::mpsc,
    time::{Instant, timeout, timeout_at},
};

use super::{
    super::Output,
    LoginError,
    provider::{Provider, Tokens},
};
use crate::cli::CommandError;

const PATH: &str = "/callback";
/// How long a person may take.
const LOGIN_MINUTES: u64 = 5;
/// How long one connection of the browser may take.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);
const DONE: &str = "You are logged in; this window can be closed.";

/// What the browser brings.
enum Outcome {
    /// The code.
    Code(String),
    /// The words of an issuer that refuses.
    Refused(String),
}

/// Logs in.
///
/// # Errors
/// Why nobody is logged in.
pub(super) async fn log_in(
    provider: &Provider,
    scopes: &[String],
    port: u16,
    open: bool,
    output: &mut Output<'_>,
) -> Result<Tokens, CommandError> {
    let listener = TcpListener::bind(("127.0.0.1", port)).await;
    let listener = listener.map_err(|error| LoginError::Io {
        attempt: format!("listen on port {port} of localhost"),
        error,
    })?;
    let port = listener.local_addr().map_err(|error| LoginError::Io {
        attempt: "find a port of localhost".to_owned(),
        error,
    })?;
    let redirect = format!("http://localhost:{}{PATH}", port.port());
    let question = provider.question(scopes, &redirect)?;
    output.hint(&format!("Log in with a browser:\n\n    {}\n", question.url))?;
    if open {
        // Who has no browser reads the line above.
        let _ = open::that_detached(&question.url);
    }
    let code = come_back(&listener, &question.state).await?;
    Ok(provider.exchange_code(code, question, redirect).await?)
}

/// Waits until the browser comes with the code.
async fn come_back(listener: &TcpListener, state: &CsrfToken) -> Result<String, LoginError> {
    let deadline = Instant::now() + Duration::from_secs(60 * LOGIN_MINUTES);
    let (sender, mut receiver) = mpsc::channel(1);
    loop {
        let accepted = timeout_at(deadline, listener.accept()).await;
        let accepted = accepted.map_err(|_| LoginError::Timeout(LOGIN_MINUTES))?;
        let Ok((socket, _)) = accepted else { continue };
        let service = service_fn(|request: Request<Incoming>| {
            let outcome = outcome(&request, state.secret());
            let page = page(outcome.as_ref());
            if let Some(outcome) = outcome {
                // The first counts.
                let _ = sender.try_send(outcome);
            }
            async move { Ok::<_, Infallible>(page) }
        });
        let mut http = http1::Builder::new();
        let connection = http
            .keep_alive(false)
            .serve_connection(TokioIo::new(socket), service);
        // A browser that opens a connection and says nothing is no failure.
        let _ = timeout(CONNECTION_TIMEOUT, connection).await;
        if let Ok(outcome) = receiver.try_recv() {
            return match outcome {
                Outcome::Code(code) => Ok(code),
                Outcome::Refused(words) => Err(LoginError::Refused {
                    what: "the issuer",
                    words,
                }),
            };
        }
    }
}

/// What a request tells; nothing where it is not the one that is waited for.
fn outcome(request: &Request<Incoming>, state: &str) -> Option<Outcome> {
    if request.uri().path() != PATH {
        return None;
    }
    let query = request.uri().query().unwrap_or_default();
    let query: HashMap<_, _> = url::form_urlencoded::parse(query.as_bytes()).collect();
    // Whoever does not know the state is not the browser that was sent.
    query.get("state").filter(|it| *it == state)?;
    if let Some(code) = query.get("code") {
        return Some(Outcome::Code(code.clone().into_owned()));
    }
    let error = query.get("error")?;
    let words = query.get("error_description").unwrap_or(error);
    let words = words.chars().filter(|c| !c.is_control());
    Some(Outcome::Refused(words.take(200).collect()))
}

fn page(outcome: Option<&Outcome>) -> Response<Full<Bytes>> {
    let (status, text) = match outcome {
        Some(Outcome::Code(_)) => (StatusCode::OK, DONE),
        Some(Outcome::Refused(_)) => (
            StatusCode::OK,
            "The login was refused; the terminal says why.",
        ),
        None => (
            StatusCode::NOT_FOUND,
            "This is no login that is waited for.",
        ),
    };
    let mut response = Response::new(Full::from(text));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    // There is room for one header.
    let _ = response
        .headers_mut()
        .try_insert(header::CONTENT_TYPE, plain);
    response
}

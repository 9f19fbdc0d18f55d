//! The way of a user to the Kubernetes API of kas: HTTP/1.1, HTTP/2 and upgrades. No user's token is needed: kas refuses
//! whoever shows none, and that it does so shows that it is reached.

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, Method, header};
use tokio::time::timeout;

use super::{
    QUESTION_TIMEOUT,
    clock::check_clock,
    http1::{self, Http1Answer, Http1Error},
    network::check_network,
    remedies::Fault,
    report::{Finding, Report},
    session::{Body, Session},
    upgrade::{UpgradeError, upgrade},
};
use crate::{
    connect::{ConnectOptions, Target},
    io::Scheme,
    tls::{ClientTls, ClientTlsOptions, H2},
    websocket::{answers_message, handshake::client::HandshakeError},
};

const PADDING: HeaderName = HeaderName::from_static("x-kas-doctor");
/// The token of a user may be so long.
const HEADER_BYTES: usize = 4 << 10;
const BODY_BYTES: usize = 2 << 20;
/// Where kas speaks WebSocket itself, below the prefix.
const GRAPH: &str = "graph";
/// Where it speaks one that asks for nothing before its first message.
const OWN_GRAPH: &str = "-/graph";
/// How long an answer over an upgraded connection may take.
const MESSAGE_TIMEOUT: Duration = Duration::from_secs(5);
/// By which kas tells its own refusals.
const OWN_REFUSAL: &str = "gitlab-unauthorized";

/// The way of a user.
#[derive(Debug)]
pub struct UserPath {
    target: Target,
    options: ConnectOptions,
    tls: ClientTlsOptions,
}

impl UserPath {
    /// The way to the prefix of the Kubernetes API, `https://HOST/PREFIX/`.
    #[must_use]
    pub fn new(target: Target, options: ConnectOptions, tls: ClientTlsOptions) -> Self {
        Self {
            target,
            options: ConnectOptions {
                tls: ClientTls::load(&tls).ok(),
                timeout: QUESTION_TIMEOUT,
                ..options
            },
            tls,
        }
    }

    fn path(&self, below: &str) -> String {
        let prefix = self.target.path_and_query();
        format!("{}/{below}", prefix.trim_end_matches('/'))
    }

    /// Looks at all of it.
    pub async fn examine(&self, report: &mut Report) {
        let network = check_network(report, &self.target, &self.options, &self.tls).await;
        let Some(alpn) = network else {
            return;
        };
        let hop = self.target.host_and_port();
        let path = self.path("version");
        let asked = http1::get(&self.target, &self.options, &path, &HeaderMap::new()).await;
        if let Ok(answer) = &asked
            && let Some(time) = answer.date()
        {
            check_clock(report, &hop, time, answer.took + Duration::from_secs(1));
        }
        let seen = "kas answers: a request without a token is refused (401)";
        if !report.add(&hop, "HTTP/1.1", refused(asked, Fault::NotKas, seen)) {
            return;
        }
        if self.target.scheme() == Scheme::Https {
            let finding = self.http2(alpn.as_deref(), &path).await;
            report.add(&hop, "HTTP/2", finding);
        }
        let padding = HeaderValue::from_str(&"x".repeat(HEADER_BYTES)).ok();
        let headers = HeaderMap::from_iter(padding.map(|it| (PADDING, it)));
        let asked = http1::get(&self.target, &self.options, &path, &headers).await;
        let seen = format!("{} KiB pass", HEADER_BYTES >> 10);
        report.add(&hop, "headers", refused(asked, Fault::HeaderLimit, &seen));
        let chunked = (
            header::TRANSFER_ENCODING,
            HeaderValue::from_static("chunked"),
        );
        let asked = self.post(&path, chunked).await;
        let seen = "a request is passed on before its body ends";
        report.add(
            &hop,
            "streams to kas",
            refused(asked, Fault::Buffered, seen),
        );
        let length = (header::CONTENT_LENGTH, HeaderValue::from(BODY_BYTES));
        let asked = self.post(&path, length).await;
        let seen = format!("a body of {} KiB is passed on", BODY_BYTES >> 10);
        report.add(&hop, "bodies", refused(asked, Fault::BodyLimit, &seen));
        let finding = self.upgrade().await;
        if report.add(&hop, "WebSocket upgrade", finding) {
            let finding = self.both_ways().await;
            report.add(&hop, "upgraded connections", finding);
        }
    }

    /// A request of which only the head is sent.
    async fn post(
        &self,
        path: &str,
        header: (HeaderName, HeaderValue),
    ) -> Result<Http1Answer, Http1Error> {
        let headers = HeaderMap::from_iter([header]);
        http1::ask(&self.target, &self.options, "POST", path, &headers).await
    }

    async fn http2(&self, alpn: Option<&[u8]>, path: &str) -> Finding {
        if alpn != Some(H2) {
            return Finding::ok("not offered; kubectl takes HTTP/1.1");
        }
        // The same place, dialled as HTTP/2.
        let target = self.target.by(Scheme::Grpcs);
        let opened = Session::open(&target, &self.options, &HeaderMap::new()).await;
        let mut session = match opened {
            Ok(session) => session,
            Err(error) => return Finding::failed(Fault::NoHttp2, error.to_string()),
        };
        let request = session.request(Method::GET, path, &HeaderMap::new());
        match session.ask(request, Body::None, QUESTION_TIMEOUT).await {
            Err(error) => Finding::failed(Fault::NoHttp2, error.to_string()),
            Ok(answer) if answer.headers.contains_key(OWN_REFUSAL) => {
                Finding::ok("kas answers: a request without a token is refused (401)")
            }
            Ok(answer) => Finding::failed(Fault::NotKas, format!("HTTP {}", answer.status)),
        }
    }

    /// kas looks at the handshake of a graph before it asks who it is, and says what is wrong with it: the subprotocol
    /// (400), or that it is none (426).
    async fn upgrade(&self) -> Finding {
        let headers = [
            (header::CONNECTION, "Upgrade"),
            (header::UPGRADE, "websocket"),
            (header::SEC_WEBSOCKET_VERSION, "13"),
            (header::SEC_WEBSOCKET_KEY, "a2FzIGRvY3RvciBwcm9iZQ=="),
            (header::SEC_WEBSOCKET_PROTOCOL, "kas-doctor"),
        ];
        let headers = headers.map(|(name, value)| (name, HeaderValue::from_static(value)));
        let headers = HeaderMap::from_iter(headers);
        let path = self.path(GRAPH);
        match http1::get(&self.target, &self.options, &path, &headers).await {
            Err(error) => Finding::failed(Fault::NoUpgrade, error.to_string()),
            Ok(answer) if answer.is_of_kas() && answer.status == 400 => {
                Finding::ok("the handshake of a WebSocket gets to kas")
            }
            Ok(answer) => Finding::failed(
                Fault::NoUpgrade,
                format!(
                    "HTTP {}: the handshake of a WebSocket does not get to kas as one",
                    answer.status
                ),
            ),
        }
    }
}

impl UserPath {
    /// What is sent over an upgraded connection, such as that of `kubectl exec`, has to come through, and so has what
    /// comes back: kas answers the first message of a graph, whatever it is.
    async fn both_ways(&self) -> Finding {
        let path = self.path(OWN_GRAPH);
        let opened = upgrade(&self.target, &self.options, &path, &HeaderMap::new()).await;
        let mut io = match opened {
            Ok(io) => io,
            // It has been shown that kas sees the handshake: it does not take it there, or not now.
            Err(UpgradeError::Handshake(HandshakeError::Status { status, .. }))
                if matches!(status, 401 | 404) =>
            {
                return Finding::not_checked(format!(
                    "kas opens no WebSocket to strangers (HTTP {status}): agent.graph.enabled is off"
                ));
            }
            Err(UpgradeError::Handshake(HandshakeError::Status { status, .. }))
                if matches!(status, 429 | 503) =>
            {
                return Finding::not_checked(format!(
                    "no WebSocket is opened now (HTTP {status}); try again later"
                ));
            }
            Err(error) => return Finding::failed(Fault::NoUpgrade, error.to_string()),
        };
        match timeout(MESSAGE_TIMEOUT, answers_message(&mut io)).await {
            Ok(Ok(())) => Finding::ok("bytes pass both ways"),
            Ok(Err(error)) => Finding::failed(
                Fault::NoUpgrade,
                format!("the connection is upgraded, and breaks with the first message: {error}"),
            ),
            Err(_) => Finding::failed(
                Fault::Buffered,
                format!(
                    "the connection is upgraded, and no answer to a message comes within {MESSAGE_TIMEOUT:?}, as if \
                     what is sent were kept back: kubectl exec would hang"
                ),
            ),
        }
    }
}

/// Whether kas itself has refused.
fn refused(asked: Result<Http1Answer, Http1Error>, fault: Fault, seen: &str) -> Finding {
    match asked {
        Ok(answer) if answer.header(OWN_REFUSAL).is_some() => Finding::ok(seen),
        Ok(answer) => {
            let server = answer.header("server").unwrap_or("a server without a name");
            let fault = match answer.status {
                413 => Fault::BodyLimit,
                431 => Fault::HeaderLimit,
                502..=504 => Fault::NoUpstream,
                _ => fault,
            };
            Finding::failed(fault, format!("HTTP {} from {server}", answer.status))
        }
        Err(error) => Finding::failed(fault, error.to_string()),
    }
}

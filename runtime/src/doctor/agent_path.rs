//! The way of an agent to kas: by WebSocket or by gRPC, with whatever stands between.

mod hold;
mod idle;
mod pings;

use std::time::Duration;

use http::{HeaderMap, HeaderName, HeaderValue, header};
use tokio::time::Instant;
use tonic::Code;

use super::{
    QUESTION_TIMEOUT,
    answer::{KNOWN_CALL, Obstacle},
    clock::check_clock,
    http1,
    network::check_network,
    remedies::Fault,
    report::{Finding, Report},
    session::{Body, PING_TIMEOUT, Session},
};
use crate::{
    connect::{ConnectOptions, Target},
    io::Scheme,
    tls::{ClientTls, ClientTlsOptions, H2},
};
use hold::{Begun, End, hold};

/// A header of no meaning.
const PADDING: HeaderName = HeaderName::from_static("x-kas-doctor");
/// Sizes of headers that are tried; agents need the first.
const HEADER_BYTES: [usize; 3] = [4 << 10, 7 << 10, 12 << 10];
/// The size of a body that is announced, and of a message that is sent.
const BODY_BYTES: usize = 3 << 19;
/// How long kas may take to refuse a call whose body has not ended.
const OPEN_BODY_TIMEOUT: Duration = Duration::from_secs(5);
/// The pause in the middle of an answer that shows whether the beginning is kept back.
const ANSWER_PAUSE: Duration = Duration::from_secs(1);

/// The way of an agent to kas.
#[derive(Debug)]
pub struct AgentPath {
    target: Target,
    options: ConnectOptions,
    tls: ClientTlsOptions,
    metadata: HeaderMap,
    token: Option<HeaderValue>,
    idle_limit: Duration,
}

impl AgentPath {
    /// The way to `target`, dialled with `options`, whose TLS is made of `tls`. `metadata` is sent with each call.
    #[must_use]
    pub fn new(
        target: Target,
        options: ConnectOptions,
        tls: ClientTlsOptions,
        metadata: HeaderMap,
    ) -> Self {
        Self {
            target,
            options: ConnectOptions {
                // What cannot be set up the handshake says.
                tls: ClientTls::load(&tls).ok(),
                timeout: QUESTION_TIMEOUT,
                ..options
            },
            tls,
            metadata,
            token: None,
            idle_limit: Duration::from_secs(60),
        }
    }

    /// Makes calls as the agent with this token (`Bearer …`) too.
    #[must_use]
    pub fn with_token(mut self, token: HeaderValue) -> Self {
        self.token = Some(token);
        self
    }

    /// Is silent for so long, to see who cuts that.
    #[must_use]
    pub fn with_idle_limit(mut self, limit: Duration) -> Self {
        self.idle_limit = limit;
        self
    }

    /// Looks at all of it, from the name to what becomes of silence.
    pub async fn examine(&self, report: &mut Report) {
        let network = check_network(report, &self.target, &self.options, &self.tls).await;
        let Some(alpn) = network else {
            return;
        };
        let hop = self.front(report).await;
        let websocket = self.target.scheme().is_websocket();
        if websocket && !self.check_upgrade(&hop, report).await {
            return;
        }
        if self.target.scheme() == Scheme::Grpcs
            && let Some(alpn) = alpn
            && alpn != H2
        {
            let chosen = String::from_utf8_lossy(&alpn).into_owned();
            return self
                .no_http2(&hop, &format!("ALPN chose {chosen}"), report)
                .await;
        }
        let Some(mut session) = self.check_call(&hop, report).await else {
            return;
        };
        self.check_ping(&mut session, &hop, report).await;
        if !websocket {
            self.check_headers(&hop, report).await;
            self.check_open_body(&hop, report).await;
        }
        let holds = self.check_token(&hop, report).await;
        match (&self.token, holds) {
            (Some(token), true) => {
                let headers = HeaderMap::from_iter([(header::AUTHORIZATION, token.clone())]);
                self.check_body(&hop, &headers, report).await;
                self.check_answers(&hop, &headers, report).await;
                idle::check_streams(self, &hop, &headers, report).await;
            }
            _ => idle::check_connection(self, &hop, report).await,
        }
    }

    /// Who answers plain HTTP here, and what time it is there.
    async fn front(&self, report: &mut Report) -> String {
        let host = self.target.host_and_port();
        let path = self.target.path_and_query();
        let answered = http1::get(&self.target, &self.options, path, &HeaderMap::new()).await;
        let Ok(answer) = answered else {
            return host;
        };
        let server = answer.header("server").unwrap_or_default();
        let hop = match server {
            "" => host,
            kas if kas.starts_with("gitlab-kas") => host,
            other => format!("{other} at {host}"),
        };
        if let Some(time) = answer.date() {
            // The header has whole seconds.
            check_clock(report, &hop, time, answer.took + Duration::from_secs(1));
        }
        hop
    }

    async fn check_upgrade(&self, hop: &str, report: &mut Report) -> bool {
        let began = Instant::now();
        let upgraded = pings::upgrade(&self.target, &self.options, &HeaderMap::new()).await;
        let mut io = match upgraded {
            Ok(io) => io,
            Err(error) => {
                let finding = Finding::failed(error.fault(), error.to_string());
                return report.add(hop, "WebSocket upgrade", finding);
            }
        };
        let seen = format!("HTTP 101 in {:?}", began.elapsed());
        report.add(hop, "WebSocket upgrade", Finding::ok(seen));
        let finding = match pings::pong(&mut io).await {
            Some(took) => Finding::ok(format!("answered in {took:?}")),
            None => Finding::failed(
                Fault::PingsSwallowed,
                "a WebSocket ping was not answered: what is upgraded does not pass in both directions",
            ),
        };
        if !report.add(hop, "WebSocket ping", finding) {
            return false;
        }
        let mut passed = 0;
        let mut refused = None;
        for bytes in HEADER_BYTES {
            match pings::upgrade(&self.target, &self.options, &padding(bytes)).await {
                Ok(_) => passed = bytes,
                Err(error) => {
                    refused = Some(error.to_string());
                    break;
                }
            }
        }
        report.add(hop, "headers", headers(passed, refused));
        true
    }

    /// Makes the call that every kas refuses without a token.
    async fn check_call(&self, hop: &str, report: &mut Report) -> Option<Session> {
        let check = match self.target.scheme().is_websocket() {
            true => "gRPC in WebSocket",
            false => "gRPC",
        };
        let obstacle = match Session::open(&self.target, &self.options, &self.metadata).await {
            Err(error) => error.obstacle(Fault::NoHttp2),
            Ok(mut session) => {
                let call = session.call(KNOWN_CALL, &HeaderMap::new());
                match session.ask(call, Body::None, QUESTION_TIMEOUT).await {
                    Err(error) => error.obstacle(Fault::NoHttp2),
                    Ok(answer) => match answer.reached() {
                        Err(obstacle) => obstacle,
                        Ok(status) => {
                            let seen = format!(
                                "kas answers: a call without a token is refused ({:?})",
                                status.code()
                            );
                            report.add(hop, check, Finding::ok(seen));
                            return Some(session);
                        }
                    },
                }
            }
        };
        let Obstacle { fault, seen } = obstacle;
        if fault == Fault::NoHttp2 && !self.target.scheme().is_websocket() {
            self.no_http2(hop, &seen, report).await;
        } else {
            report.add(hop, check, Finding::failed(fault, seen));
        }
        None
    }

    /// Says whether WebSocket would do.
    async fn no_http2(&self, hop: &str, why: &str, report: &mut Report) {
        let scheme = match self.target.scheme().is_tls() {
            true => Scheme::Wss,
            false => Scheme::Ws,
        };
        let target = self.target.by(scheme);
        let seen = match pings::upgrade(&target, &self.options, &HeaderMap::new()).await {
            Ok(_) => format!("no HTTP/2 ({why}), but WebSocket works at {target}"),
            Err(_) => format!("no HTTP/2 ({why}), and no WebSocket at {target}"),
        };
        report.add(hop, "HTTP/2", Finding::failed(Fault::NoHttp2, seen));
    }

    async fn check_ping(&self, session: &mut Session, hop: &str, report: &mut Report) {
        let finding = match session.ping().await {
            Some(took) => Finding::ok(format!("answered in {took:?}")),
            None => Finding::failed(
                Fault::PingsSwallowed,
                format!(
                    "not answered within {PING_TIMEOUT:?}, while calls are: agents take the connection for dead and \
                     make another again and again"
                ),
            ),
        };
        report.add(hop, "HTTP/2 ping", finding);
    }

    async fn check_headers(&self, hop: &str, report: &mut Report) {
        let mut passed = 0;
        let mut refused = None;
        for bytes in HEADER_BYTES {
            if let Err(obstacle) = self
                .refused(padding(bytes), Body::None, QUESTION_TIMEOUT)
                .await
            {
                refused = Some(obstacle.seen);
                break;
            }
            passed = bytes;
        }
        report.add(hop, "headers", headers(passed, refused));
    }

    /// Calls whose bodies are not there yet: kas refuses them at once.
    async fn check_open_body(&self, hop: &str, report: &mut Report) {
        let open = self
            .refused(HeaderMap::new(), Body::Open, OPEN_BODY_TIMEOUT)
            .await;
        let finding = match open {
            Ok(()) => Finding::ok("a call is passed on before it ends"),
            Err(Obstacle { seen, .. }) => Finding::failed(
                Fault::Buffered,
                format!(
                    "a call whose body goes on does not get to kas ({seen}), as if it were kept until its end: tunnels \
                     never end"
                ),
            ),
        };
        if !report.add(hop, "streams to kas", finding) {
            return;
        }
        let length =
            HeaderMap::from_iter([(header::CONTENT_LENGTH, HeaderValue::from(BODY_BYTES))]);
        let finding = match self.refused(length, Body::Open, OPEN_BODY_TIMEOUT).await {
            Ok(()) => Finding::ok(format!("a body of {} KiB is passed on", BODY_BYTES >> 10)),
            Err(Obstacle { seen, .. }) => Finding::failed(
                Fault::BodyLimit,
                format!("a body of {} KiB is refused: {seen}", BODY_BYTES >> 10),
            ),
        };
        report.add(hop, "bodies", finding);
    }

    /// Makes the known call on a connection of its own.
    async fn refused(
        &self,
        headers: HeaderMap,
        body: Body,
        limit: Duration,
    ) -> Result<(), Obstacle> {
        let opened = Session::open(&self.target, &self.options, &self.metadata).await;
        let mut session = opened.map_err(|error| error.obstacle(Fault::NotKas))?;
        let call = session.call(KNOWN_CALL, &headers);
        let answer = session.ask(call, body, limit).await;
        let answer = answer.map_err(|error| error.obstacle(Fault::NotKas))?;
        answer.reached().map(drop)
    }

    /// Whether the token is good, and whether kas knows our own call.
    async fn check_token(&self, hop: &str, report: &mut Report) -> bool {
        let Some(token) = &self.token else {
            report.add(
                "kas",
                "token",
                Finding::not_checked("no agent's token is at hand"),
            );
            return false;
        };
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, token.clone())]);
        let opened = Session::open(&self.target, &self.options, &self.metadata).await;
        let mut session = match opened {
            Ok(session) => session,
            Err(error) => {
                report.add(hop, "token", Finding::not_checked(error.to_string()));
                return false;
            }
        };
        match hold(&mut session, &headers, Duration::ZERO, 0).await {
            Ok(Begun::Held(held)) => {
                report.add("kas", "token", Finding::ok("kas knows the agent"));
                check_clock(report, "kas", held.time, held.took);
                true
            }
            Ok(Begun::Refused(answer)) => {
                let code = answer.grpc.as_ref().map(tonic::Status::code);
                if code == Some(Code::Unimplemented) || answer.reached().is_err() {
                    self.check_token_by_known_call(&mut session, &headers, report)
                        .await;
                } else if let Some(status) = answer.grpc {
                    report.add("kas", "token", refusal(&status));
                }
                false
            }
            Err(error) => {
                report.add(hop, "token", Finding::not_checked(error.to_string()));
                false
            }
        }
    }

    /// GitLab's kas does not know our call: a tunnel that ends before it begins is no tunnel.
    async fn check_token_by_known_call(
        &self,
        session: &mut Session,
        headers: &HeaderMap,
        report: &mut Report,
    ) {
        let call = session.call(KNOWN_CALL, headers);
        let finding = match session.ask(call, Body::None, QUESTION_TIMEOUT).await {
            Err(error) => Finding::not_checked(error.to_string()),
            Ok(answer) => match answer.grpc {
                Some(status) => refusal(&status),
                None => Finding::ok("kas knows the agent"),
            },
        };
        report.add("kas", "token", finding);
    }

    /// A message as long as those of uploads.
    async fn check_body(&self, hop: &str, headers: &HeaderMap, report: &mut Report) {
        let opened = Session::open(&self.target, &self.options, &self.metadata).await;
        let finding = match opened {
            Err(error) => Finding::not_checked(error.to_string()),
            Ok(mut session) => {
                match hold(&mut session, headers, Duration::ZERO, BODY_BYTES).await {
                    Ok(Begun::Held(held)) => {
                        Finding::ok(format!("{} KiB in {:?}", BODY_BYTES >> 10, held.took))
                    }
                    Ok(Begun::Refused(answer)) => {
                        let seen = answer.reached().map(|it| it.to_string());
                        let seen = seen.unwrap_or_else(|obstacle| obstacle.seen);
                        Finding::failed(Fault::BodyLimit, seen)
                    }
                    Err(error) => Finding::failed(Fault::BodyLimit, error.to_string()),
                }
            }
        };
        report.add(hop, "uploads", finding);
    }

    /// An answer in two parts: the first has to come before the second is there.
    async fn check_answers(&self, hop: &str, headers: &HeaderMap, report: &mut Report) {
        let opened = Session::open(&self.target, &self.options, &self.metadata).await;
        let finding = match opened {
            Err(error) => Finding::not_checked(error.to_string()),
            Ok(mut session) => match hold(&mut session, headers, ANSWER_PAUSE, 0).await {
                Ok(Begun::Held(mut held)) => {
                    let ended = tokio::time::timeout(ANSWER_PAUSE / 10, held.end()).await;
                    match ended {
                        Ok(End::InOrder) => Finding::failed(
                            Fault::Buffered,
                            "an answer in two parts came as a whole after its end: watches would not show changes",
                        ),
                        _ => Finding::ok("an answer is passed on before it ends"),
                    }
                }
                Ok(Begun::Refused(_)) => Finding::not_checked("the call was refused"),
                Err(error) => Finding::failed(Fault::Buffered, error.to_string()),
            },
        };
        report.add(hop, "streams from kas", finding);
    }
}

fn padding(bytes: usize) -> HeaderMap {
    let value = HeaderValue::from_str(&"x".repeat(bytes));
    HeaderMap::from_iter(value.ok().map(|value| (PADDING, value)))
}

/// What the sizes of headers mean that have passed.
fn headers(passed: usize, refused: Option<String>) -> Finding {
    let [needed, ..] = HEADER_BYTES;
    match refused {
        None => Finding::ok(format!("{} KiB pass", passed >> 10)),
        Some(_) if passed >= needed => {
            Finding::ok(format!("{} KiB pass, more do not", passed >> 10))
        }
        Some(why) => Finding::failed(
            Fault::HeaderLimit,
            format!("a header of {} KiB does not pass: {why}", needed >> 10),
        ),
    }
}

/// What kas's answer says about the token.
fn refusal(status: &tonic::Status) -> Finding {
    let seen = format!("kas says {:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::NotFound => {
            Finding::failed(Fault::TokenRefused, seen)
        }
        Code::Unavailable => Finding::warning(Fault::ControlPlaneAway, seen),
        Code::ResourceExhausted => Finding::not_checked(seen),
        // It looked at the call itself, which it does after the token.
        _ => Finding::ok("kas knows the agent"),
    }
}

//! The way of an agent to kas: by WebSocket or by gRPC, with whatever stands between.

mod hold;
mod idle;
mod limits;
mod pings;
mod token;

use std::time::Duration;

use http::{HeaderMap, HeaderValue, header};
use tokio::time::Instant;

use super::{
    QUESTION_TIMEOUT,
    answer::{KNOWN_CALL, Obstacle},
    clock::check_clock,
    http1,
    network::check_network,
    remedies::Fault,
    report::{Finding, Report},
    session::{Body, PING_TIMEOUT, Session},
    upgrade::{UpgradeError, upgrade},
};
use crate::{
    connect::{ConnectOptions, Target},
    io::{Scheme, Transport},
    tls::{ClientTls, ClientTlsOptions, H2},
};
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

    /// Asks for a WebSocket as agents do, with these headers besides theirs.
    async fn websocket(
        &self,
        target: &Target,
        more: &HeaderMap,
    ) -> Result<Transport, UpgradeError> {
        upgrade(target, &self.options, target.path_and_query(), more).await
    }

    async fn check_upgrade(&self, hop: &str, report: &mut Report) -> bool {
        let began = Instant::now();
        let upgraded = self.websocket(&self.target, &HeaderMap::new()).await;
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
        self.check_upgrade_headers(hop, report).await;
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
        let seen = match self.websocket(&target, &HeaderMap::new()).await {
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
}

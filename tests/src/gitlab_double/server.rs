//! The HTTP side of a double.

use std::{
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header, request::Parts};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpListener,
    task::JoinSet,
};
use tokio_rustls::{TlsAcceptor, rustls::ServerConfig};

use super::{
    Endpoint, FaultKind, ModuleCall, Recorded, Shared, lock, modules,
    questions::{self, Answer},
    scenario::{Paths, Scenario},
    token,
};
use crate::certs::Certs;

const LARGE: usize = 3 << 20;

/// The connection is to be closed without an answer.
#[derive(Debug, thiserror::Error)]
#[error("down")]
struct Gone;

pub(super) fn acceptor(certs: &Certs, alpn: &str) -> Result<TlsAcceptor> {
    let chain: Result<Vec<_>, _> = CertificateDer::pem_file_iter(&certs.certificate)?.collect();
    let key = PrivateKeyDer::from_pem_file(&certs.key)?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(
        tokio_rustls::rustls::crypto::aws_lc_rs::default_provider(),
    ))
    .with_safe_default_protocol_versions()?
    .with_no_client_auth()
    .with_single_cert(chain?, key)
    .context("the double's certificate")?;
    config.alpn_protocols = vec![alpn.as_bytes().to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

pub(super) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, shared: Arc<Shared>) {
    let mut connections = JoinSet::new();
    while let Ok((socket, _)) = listener.accept().await {
        let (tls, shared) = (tls.clone(), shared.clone());
        connections.spawn(async move {
            match tls {
                None => connection(socket, shared).await,
                // A client that does not trust us is what some tests are about.
                Some(tls) => {
                    if let Ok(socket) = tls.accept(socket).await {
                        connection(socket, shared).await;
                    }
                }
            }
        });
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(socket: impl AsyncRead + AsyncWrite + Unpin, shared: Arc<Shared>) {
    let service = service_fn(|request| answer(request, shared.clone()));
    let server = hyper::server::conn::http1::Builder::new();
    // A connection that breaks is what some tests are about.
    server
        .serve_connection(TokioIo::new(socket), service)
        .await
        .ok();
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
) -> Result<Response<Full<Bytes>>, Gone> {
    let (head, body) = request.into_parts();
    let body = body.collect().await.map_err(|_| Gone)?.to_bytes();
    if let Some(recorded) = lock(&shared.recorded).as_mut() {
        recorded.push(Recorded::new(&head, &body));
    }
    let endpoint = endpoint(&head, lock(&shared.scenario).paths);
    let fault = lock(&shared.scenario).fault(endpoint);
    let answered = match fault {
        None => Ok(told(&shared, endpoint, &head, &body)),
        Some(FaultKind::Slow(milliseconds)) => {
            tokio::time::sleep(Duration::from_millis(milliseconds)).await;
            Ok(told(&shared, endpoint, &head, &body))
        }
        Some(FaultKind::Hang) => {
            lock(&shared.counters).count(endpoint, 0);
            return std::future::pending().await;
        }
        Some(kind) => broken(&kind),
    };
    let status = answered.as_ref().map_or(0, |it| it.status().as_u16());
    lock(&shared.counters).count(endpoint, status);
    let ahead = lock(&shared.scenario).clock_ahead;
    answered.map(|response| dated(response, ahead))
}

fn endpoint(head: &Parts, paths: Paths) -> Endpoint {
    match (head.method.as_str(), head.uri.path()) {
        ("GET", "/api/v4/internal/kubernetes/agent_info") if paths == Paths::Old => {
            Endpoint::AgentInfo
        }
        ("GET", "/api/v4/internal/agents/agentk/agent_info") if paths == Paths::New => {
            Endpoint::NewAgentInfo
        }
        ("GET", "/api/v4/job/allowed_agents") => Endpoint::AllowedAgents,
        ("POST", "/api/v4/internal/kubernetes/authorize_proxy_user") => {
            Endpoint::AuthorizeProxyUser
        }
        ("POST", "/api/v4/internal/kubernetes/agent_configuration") => Endpoint::AgentConfiguration,
        ("POST", "/api/v4/internal/kubernetes/usage_metrics") => Endpoint::UsageMetrics,
        ("GET", "/api/v4/internal/kubernetes/verify_project_access") => {
            Endpoint::VerifyProjectAccess
        }
        ("GET", "/api/v4/internal/kubernetes/receptive_agents") if paths == Paths::New => {
            Endpoint::ReceptiveAgents
        }
        (_, path) if path.starts_with(modules::PREFIX) => Endpoint::Modules,
        ("POST", "/api/v4/internal/kubernetes/agent_events") if paths == Paths::New => {
            Endpoint::AgentEvents
        }
        ("POST", "/api/v4/jobs/request") => Endpoint::JobRequest,
        ("GET", "/api/v4/runners/router/discovery") => Endpoint::RouterDiscovery,
        _ => Endpoint::Unknown,
    }
}

fn told(shared: &Shared, endpoint: Endpoint, head: &Parts, body: &Bytes) -> Response<Full<Bytes>> {
    let scenario = lock(&shared.scenario);
    let (status, body) = match gate(&scenario, endpoint, &head.headers) {
        Err(refused) => refused,
        Ok(()) => {
            let (answer, remembered) = ask(shared, &scenario, endpoint, head, body);
            match remembered {
                Some(Remembered::Configuration(agent, file)) => {
                    lock(&shared.configurations).push((agent, file));
                }
                Some(Remembered::Usage(report)) => lock(&shared.usage).push(report),
                Some(Remembered::Module(call)) => lock(&shared.modules).push(call),
                Some(Remembered::Events(events)) => lock(&shared.events).push(events),
                None => {}
            }
            answer
        }
    };
    let text = body.map_or_else(String::new, |it| it.to_string());
    let mut response = response(status, "application/json", text);
    if endpoint == Endpoint::JobRequest {
        let seen = HeaderValue::from_static("queue-7");
        response.headers_mut().insert("x-gitlab-last-update", seen);
    }
    response
}

/// What a call leaves behind.
enum Remembered {
    Configuration(i64, Value),
    Usage(Value),
    Module(ModuleCall),
    Events(Value),
}

type Told = (Answer, Option<Remembered>);

fn ask(
    shared: &Shared,
    scenario: &Scenario,
    endpoint: Endpoint,
    head: &Parts,
    body: &Bytes,
) -> Told {
    let headers = &head.headers;
    let json = || serde_json::from_slice(body).unwrap_or_default();
    let answer = match endpoint {
        Endpoint::AgentInfo | Endpoint::NewAgentInfo => {
            questions::agent_info(scenario, &shared.gitaly, headers)
        }
        Endpoint::AllowedAgents => questions::allowed_agents(scenario, headers),
        Endpoint::AuthorizeProxyUser => questions::authorize_proxy_user(scenario, &json()),
        Endpoint::AgentConfiguration => {
            let (answer, told) = questions::agent_configuration(scenario, &json());
            return (
                answer,
                told.map(|(id, file)| Remembered::Configuration(id, file)),
            );
        }
        Endpoint::UsageMetrics => {
            let (answer, report) = questions::usage_metrics(json());
            return (answer, report.map(Remembered::Usage));
        }
        Endpoint::AgentEvents => {
            let (answer, events) = questions::agent_events(json());
            return (answer, events.map(Remembered::Events));
        }
        Endpoint::JobRequest => questions::job_request(scenario, &json()),
        Endpoint::RouterDiscovery => questions::router_discovery(scenario),
        Endpoint::VerifyProjectAccess => {
            questions::verify_project_access(scenario, headers, head.uri.query())
        }
        Endpoint::ReceptiveAgents => {
            let agents = serde_json::json!({"agents": scenario.receptive_agents});
            (200, Some(agents))
        }
        Endpoint::Modules => {
            let (answer, call) = modules::answer(scenario, head, body);
            return (answer, call.map(Remembered::Module));
        }
        Endpoint::InfoRefs | Endpoint::TreeEntry | Endpoint::TreeEntries | Endpoint::Unknown => {
            (404, Some(serde_json::json!({"error": "404 Not Found"})))
        }
    };
    (answer, None)
}

/// What GitLab checks before it looks at the question.
fn gate(scenario: &Scenario, endpoint: Endpoint, headers: &HeaderMap) -> Result<(), Answer> {
    use Endpoint::{AllowedAgents, JobRequest, RouterDiscovery, Unknown};
    let is_open = matches!(
        endpoint,
        AllowedAgents | JobRequest | RouterDiscovery | Unknown
    );
    if is_open {
        return Ok(());
    }
    let token = headers.get("gitlab-kas-api-request");
    let token = token.and_then(|it| it.to_str().ok()).unwrap_or_default();
    let now = now() + scenario.clock_ahead;
    token::check(token, &scenario.secret(), now)
        .map_err(|_| questions::refused(401, "KAS JWT authentication invalid"))
}

fn broken(kind: &FaultKind) -> Result<Response<Full<Bytes>>, Gone> {
    let json = "application/json";
    Ok(match kind {
        FaultKind::Status(status) => {
            let text = StatusCode::from_u16(*status).unwrap_or_default();
            let message = format!("{status} {}", text.canonical_reason().unwrap_or_default());
            let body = serde_json::json!({"message": message});
            response(*status, json, body.to_string())
        }
        FaultKind::Busy(seconds) => {
            let mut busy = response(429, "text/plain", "Retry later".to_owned());
            busy.headers_mut()
                .insert(header::RETRY_AFTER, (*seconds).into());
            busy
        }
        FaultKind::Page(status) => response(*status, "text/html", "<h1>No entry</h1>".into()),
        FaultKind::Garbage => response(200, json, "{\"agent_id\": ".to_owned()),
        FaultKind::Html => response(200, "text/html", "<h1>GitLab is not available</h1>".into()),
        FaultKind::Flood => response(200, json, " ".repeat(LARGE)),
        FaultKind::Down | FaultKind::Hang | FaultKind::Slow(_) => return Err(Gone),
    })
}

fn response(status: u16, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or_default();
    let kind = HeaderValue::from_static(kind);
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

/// With the time by the double's own clock, where that is another.
fn dated(mut response: Response<Full<Bytes>>, ahead: i64) -> Response<Full<Bytes>> {
    if ahead != 0 {
        let time = UNIX_EPOCH + Duration::from_secs((now() + ahead).unsigned_abs());
        let date = httpdate::fmt_http_date(time);
        if let Ok(date) = HeaderValue::from_str(&date) {
            response.headers_mut().insert(header::DATE, date);
        }
    }
    response
}

pub(super) fn now() -> i64 {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(now.as_secs()).unwrap_or(i64::MAX)
}

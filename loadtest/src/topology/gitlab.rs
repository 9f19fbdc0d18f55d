//! As much of GitLab's internal API as a kas needs to let agents and one user in.

use std::{collections::HashMap, convert::Infallible, sync::Arc, time::Duration};

use anyhow::Context;
use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::sleep,
};
use tokio_util::task::AbortOnDropHandle;

use super::control::{ControlPlane, USER};
use crate::traffic::USERS;

const MAX_CONNECTIONS: usize = 1024;
const MAX_BODY_BYTES: usize = 1 << 20;
/// Agents that a job may use; GitLab's own limit.
const MAX_ALLOWED: usize = 500;

/// A running player of GitLab; dropping it ends it.
#[derive(Debug)]
pub(crate) struct GitLab {
    port: u16,
    _serving: AbortOnDropHandle<()>,
}

/// Who is who.
#[derive(Debug)]
struct Known {
    agents: HashMap<String, usize>,
    /// How users' tokens begin; a number follows.
    user_token: String,
}

type Answer = (StatusCode, Option<Value>);

impl GitLab {
    /// Starts one that knows the agents and the users of `control`.
    ///
    /// # Errors
    /// When it cannot listen.
    pub(crate) async fn start(control: &ControlPlane) -> anyhow::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let known = Arc::new(Known {
            agents: control.numbered()?,
            user_token: control.user_token().to_owned(),
        });
        Ok(Self {
            port: listener.local_addr().context("it listens")?.port(),
            _serving: AbortOnDropHandle::new(tokio::spawn(serve(listener, known))),
        })
    }

    /// Where it is reached.
    pub(crate) fn port(&self) -> u16 {
        self.port
    }
}

async fn serve(listener: TcpListener, known: Arc<Known>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept(), if connections.len() < MAX_CONNECTIONS => match accepted {
                Ok((socket, _)) => {
                    connections.spawn(connection(socket, known.clone()));
                }
                // Out of file descriptors, say: it goes on when there are some.
                Err(_) => sleep(Duration::from_millis(10)).await,
            },
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
        }
    }
}

async fn connection(socket: TcpStream, known: Arc<Known>) {
    let service = service_fn(|request| respond(request, &known));
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .serve_connection(TokioIo::new(socket), service);
    if let Err(error) = connection.await {
        tracing::debug!(%error, "simulated GitLab: connection failed");
    }
}

async fn respond(
    request: Request<Incoming>,
    known: &Known,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let (head, body) = request.into_parts();
    let body = Limited::new(body, MAX_BODY_BYTES).collect().await;
    let body = body.map(|body| body.to_bytes()).unwrap_or_default();
    let (status, body) = known.answer(&head.method, head.uri.path(), &head.headers, &body);
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    if let Some(body) = body {
        let json = http::HeaderValue::from_static("application/json");
        response.headers_mut().insert(header::CONTENT_TYPE, json);
        *response.body_mut() = Full::new(body.to_string().into());
    }
    Ok(response)
}

impl Known {
    fn answer(&self, method: &Method, path: &str, headers: &HeaderMap, body: &[u8]) -> Answer {
        let call = path.rsplit('/').next().unwrap_or_default();
        match (method, call) {
            (&Method::GET, "agent_info") => self.agent_info(headers),
            (&Method::GET, "allowed_agents") => self.allowed_agents(headers),
            (&Method::POST, "authorize_proxy_user") => self.authorize(body),
            (&Method::POST, "agent_configuration" | "agent_events" | "usage_metrics") => {
                (StatusCode::NO_CONTENT, None)
            }
            _ => (StatusCode::NOT_FOUND, None),
        }
    }

    fn agent_info(&self, headers: &HeaderMap) -> Answer {
        let token = text(headers, "authorization");
        let token = token.strip_prefix("Bearer ").unwrap_or_default();
        let Some(id) = self.agents.get(token) else {
            return (StatusCode::UNAUTHORIZED, None);
        };
        let info = json!({
            "project_id": 1,
            "agent_id": id,
            "agent_name": format!("bench-{id}"),
            "gitaly_info": { "address": "tcp://127.0.0.1:1", "token": "none", "features": {} },
            "gitaly_repository": {
                "storage_name": "default",
                "relative_path": "bench.git",
                "gl_repository": "project-1",
                "gl_project_path": "bench/bench",
            },
            "default_branch": "main",
        });
        (StatusCode::OK, Some(info))
    }

    fn allowed_agents(&self, headers: &HeaderMap) -> Answer {
        let Some(user) = self.user(text(headers, "job-token")) else {
            return (StatusCode::UNAUTHORIZED, None);
        };
        let mut ids: Vec<_> = self.agents.values().copied().collect();
        ids.sort_unstable();
        let agent =
            |id: &usize| json!({ "id": id, "config_project": { "id": 1 }, "configuration": {} });
        let allowed = json!({
            "allowed_agents": ids.iter().take(MAX_ALLOWED).map(agent).collect::<Vec<_>>(),
            "job": { "id": 1 },
            "pipeline": { "id": 1 },
            "project": { "id": 1, "groups": [] },
            "user": user,
        });
        (StatusCode::OK, Some(allowed))
    }

    fn authorize(&self, body: &[u8]) -> Answer {
        let body: Value = serde_json::from_slice(body).unwrap_or_default();
        let key = body["access_key"].as_str().unwrap_or_default();
        let Some(user) = self.user(key) else {
            return (StatusCode::UNAUTHORIZED, None);
        };
        let id = &body["agent_id"];
        let id = id.as_u64().or_else(|| id.as_str()?.parse().ok());
        let authorized = json!({
            "agent": { "id": id, "config_project": { "id": 1 } },
            "user": user,
            "access_as": { "agent": {} },
        });
        (StatusCode::OK, Some(authorized))
    }

    /// Whose token it is.
    fn user(&self, token: &str) -> Option<Value> {
        let user: u64 = token.strip_prefix(&self.user_token)?.parse().ok()?;
        (user < USERS).then(|| json!({ "id": user + 1, "username": format!("{USER}{user}") }))
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> &'a str {
    let value = headers.get(name);
    value.and_then(|it| it.to_str().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> Known {
        Known {
            agents: HashMap::from([("one".to_owned(), 1)]),
            user_token: "user".to_owned(),
        }
    }

    #[test]
    fn only_known_tokens_are_let_in() {
        let ask = |token: &str| {
            let headers = HeaderMap::from_iter([(
                header::AUTHORIZATION,
                format!("Bearer {token}").parse().unwrap(),
            )]);
            known().answer(&Method::GET, "/api/v4/x/agent_info", &headers, b"")
        };

        assert_eq!(ask("one").1.unwrap()["agent_id"], 1);
        assert_eq!(ask("two").0, StatusCode::UNAUTHORIZED);
    }

    #[test]
    fn the_user_may_use_any_agent() {
        let ask = |key: &str| {
            let body = json!({ "agent_id": "7", "access_key": key }).to_string();
            let path = "/api/v4/internal/kubernetes/authorize_proxy_user";
            known().answer(&Method::POST, path, &HeaderMap::new(), body.as_bytes())
        };

        assert_eq!(ask("user1").1.unwrap()["agent"]["id"], 7);
        assert_eq!(ask("user").0, StatusCode::UNAUTHORIZED);
        assert_eq!(ask("guess").0, StatusCode::UNAUTHORIZED);
    }
}

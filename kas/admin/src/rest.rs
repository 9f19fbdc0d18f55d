//! The questions as REST: routes, and the OpenAPI document that is made of the same definitions.

mod document;

use std::{convert::Infallible, sync::Arc, time::Duration};

use axum::{
    Extension, Router,
    body::Body,
    extract::{Path, RawQuery, Request, State},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderValue, StatusCode, header};
use serde::{Serialize, de::DeserializeOwned};
use utoipa::OpenApi as _;
use utoipa_axum::{router::OpenApiRouter, routes};

use self::document::Document;
use crate::{
    Admin, Failure,
    caller::Caller,
    v1::{
        self, AccessMatrix, AddAgentRequest, AgentAccess, AgentToken, CreateJoinTokenRequest,
        EndSessionRequest, EndSessionResponse, Event, Explanation, FleetStatus, GetAccessRequest,
        GetAgentAccessRequest, GetAgentRequest, GetAgentResponse, GetKubeconfigRequest, JoinToken,
        Kubeconfig, ListAgentsRequest, ListAgentsResponse, ListErrorsRequest, ListErrorsResponse,
        ListLoadsRequest, ListLoadsResponse, ListRecordsRequest, ListRecordsResponse,
        ListReplicasResponse, ListRequestsRequest, ListRequestsResponse, ListSessionsRequest,
        ListSessionsResponse, Problem, Registration, RevokeAgentRequest, RevokeAgentResponse,
        RotateAgentTokenRequest, SetLogLevelRequest, SetLogLevelResponse,
    },
};

/// How often listeners hear something, so that no load balancer takes the connection for dead.
const SIGN_OF_LIFE_INTERVAL: Duration = Duration::from_secs(15);
/// Bytes of JSON in a request, at most.
const MAX_JSON_BYTES: usize = 16 << 10;
const JSON: HeaderValue = HeaderValue::from_static("application/json");

/// All routes, the document among them.
pub(crate) fn router(admin: Arc<Admin>) -> Router {
    let (router, mut document) = OpenApiRouter::with_openapi(Document::openapi())
        .routes(routes!(status))
        .routes(routes!(whoami))
        .routes(routes!(agents, add_agent))
        .routes(routes!(agent))
        .routes(routes!(create_join_token))
        .routes(routes!(rotate_token))
        .routes(routes!(revoke_agent))
        .routes(routes!(kubeconfig))
        .routes(routes!(registration))
        .routes(routes!(explain))
        .routes(routes!(records))
        .routes(routes!(errors))
        .routes(routes!(strangers))
        .routes(routes!(replicas))
        .routes(routes!(requests))
        .routes(routes!(loads))
        .routes(routes!(sessions))
        .routes(routes!(end_session))
        .routes(routes!(agent_access))
        .routes(routes!(access))
        .routes(routes!(log_level))
        .routes(routes!(events))
        .split_for_parts();
    document::say_roles(&mut document);
    let document = serde_json::to_vec(&document).expect("a document of texts is JSON");
    let document = Bytes::from(document);
    let told = move || {
        let document = document.clone();
        async move { raw(StatusCode::OK, document) }
    };
    router
        .route("/openapi.json", get(told))
        .fallback(nothing)
        .with_state(admin)
}

/// The headline: how the fleet and the replicas are.
#[utoipa::path(get, path = "/v1/status", responses((status = 200, body = FleetStatus), (status = "default", body = Problem)))]
async fn status(State(admin): State<Arc<Admin>>) -> Response {
    json(StatusCode::OK, &admin.status().await)
}

/// Who asks, and what they may do.
#[utoipa::path(get, path = "/v1/caller", responses((status = 200, body = v1::Caller), (status = "default", body = Problem)))]
async fn whoami(State(admin): State<Arc<Admin>>, Extension(caller): Extension<Caller>) -> Response {
    json(StatusCode::OK, &admin.caller(&caller))
}

/// Agents, in the order of their ids, a page at a time.
#[utoipa::path(get, path = "/v1/agents", params(ListAgentsRequest), responses((status = 200, body = ListAgentsResponse), (status = "default", body = Problem)))]
async fn agents(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Response {
    let answer = async { admin.list_agents(&read(query.as_deref())?).await };
    answered(answer.await)
}

/// One agent, by its number or name, with all its processes.
#[utoipa::path(get, path = "/v1/agents/{agent}", params(("agent" = String, Path, description = "Its number, or its name")), responses((status = 200, body = GetAgentResponse), (status = "default", body = Problem)))]
async fn agent(State(admin): State<Arc<Admin>>, Path(agent): Path<String>) -> Response {
    answered(admin.agent(&GetAgentRequest { agent }).await)
}

/// Where a request for an agent would go now, and why.
#[utoipa::path(get, path = "/v1/agents/{agent}/explain", params(("agent" = String, Path, description = "Its number, or its name")), responses((status = 200, body = Explanation), (status = "default", body = Problem)))]
async fn explain(State(admin): State<Arc<Admin>>, Path(agent): Path<String>) -> Response {
    answered(admin.explain(&GetAgentRequest { agent }).await)
}

/// What happened to an agent's connections, the newest first.
#[utoipa::path(get, path = "/v1/agents/{agent}/records", params(
    ("agent" = String, Path, description = "Its number, or its name"),
    ("before" = Option<u64>, Query, description = "Records before this time only, in milliseconds since 1970"),
    ("limit" = Option<u32>, Query, description = "Records at most"),
), responses((status = 200, body = ListRecordsResponse), (status = "default", body = Problem)))]
async fn records(
    State(admin): State<Arc<Admin>>,
    Path(agent): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let answer = async {
        let asked = read(query.as_deref())?;
        admin.records(&ListRecordsRequest { agent, ..asked }).await
    };
    answered(answer.await)
}

/// The last errors of requests for an agent at any replica, the newest first.
#[utoipa::path(get, path = "/v1/agents/{agent}/errors", params(("agent" = String, Path, description = "Its number, or its name")), responses((status = 200, body = ListErrorsResponse), (status = "default", body = Problem)))]
async fn errors(State(admin): State<Arc<Admin>>, Path(agent): Path<String>) -> Response {
    answered(admin.errors(&ListErrorsRequest { agent }).await)
}

/// What happened to connections with tokens that belong to no agent that is known, the newest first.
#[utoipa::path(get, path = "/v1/records", params(
    ("before" = Option<u64>, Query, description = "Records before this time only, in milliseconds since 1970"),
    ("limit" = Option<u32>, Query, description = "Records at most"),
), responses((status = 200, body = ListRecordsResponse), (status = "default", body = Problem)))]
async fn strangers(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Response {
    let answer = async {
        let asked = read(query.as_deref())?;
        let agent = String::new();
        admin.records(&ListRecordsRequest { agent, ..asked }).await
    };
    answered(answer.await)
}

/// The replicas of the set.
#[utoipa::path(get, path = "/v1/replicas", responses((status = 200, body = ListReplicasResponse), (status = "default", body = Problem)))]
async fn replicas(State(admin): State<Arc<Admin>>) -> Response {
    json(StatusCode::OK, &admin.replicas().await)
}

/// Requests of users that are in progress at any replica, the oldest first.
#[utoipa::path(get, path = "/v1/requests", params(ListRequestsRequest), responses((status = 200, body = ListRequestsResponse), (status = "default", body = Problem)))]
async fn requests(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Response {
    match read(query.as_deref()) {
        Ok(asked) => json(StatusCode::OK, &admin.requests(&asked).await),
        Err(failure) => failure.into_response(),
    }
}

/// How many requests agents had in the last half hour, by the minute, and how long they took.
#[utoipa::path(get, path = "/v1/loads", params(ListLoadsRequest), responses((status = 200, body = ListLoadsResponse), (status = "default", body = Problem)))]
async fn loads(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Response {
    let answer = async { admin.loads(&read(query.as_deref())?).await };
    answered(answer.await)
}

/// What users have open at any replica: execs, watches and the like, the oldest first, a page at a time.
#[utoipa::path(get, path = "/v1/sessions", params(ListSessionsRequest), responses((status = 200, body = ListSessionsResponse), (status = "default", body = Problem)))]
async fn sessions(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Response {
    let answer = async { admin.sessions(&read(query.as_deref())?).await };
    answered(answer.await)
}

/// Ends a session, at whichever replica it is. Its client is told, where its protocol has a place for that.
#[utoipa::path(delete, path = "/v1/sessions/{id}", params(("id" = String, Path, description = "The id of the session")), responses((status = 200, body = EndSessionResponse), (status = "default", body = Problem)))]
async fn end_session(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Response {
    let asked = EndSessionRequest { id };
    answered(admin.end_session(asked, &caller).await)
}

/// Whether who asks may add agents and change their tokens at this replica.
#[utoipa::path(get, path = "/v1/registration", responses((status = 200, body = Registration), (status = "default", body = Problem)))]
async fn registration(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
) -> Response {
    json(StatusCode::OK, &admin.registration(&caller).await)
}

/// Registers an agent for a cluster, with a join token, which is told in this answer only.
#[utoipa::path(post, path = "/v1/agents", request_body = AddAgentRequest, responses((status = 200, body = JoinToken), (status = "default", body = Problem)))]
async fn add_agent(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let answer = async { admin.add_agent(sent(request).await?, &caller).await };
    answered(answer.await)
}

/// Makes a join token for an agent that there is; it is told in this answer only.
#[utoipa::path(post, path = "/v1/agents/{agent}/join-token", params(("agent" = String, Path, description = "Its number, or its name")), request_body = CreateJoinTokenRequest, responses((status = 200, body = JoinToken), (status = "default", body = Problem)))]
async fn create_join_token(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    request: Request,
) -> Response {
    let answer = async {
        let asked = sent(request).await?;
        let asked = CreateJoinTokenRequest { agent, ..asked };
        admin.create_join_token(asked, &caller).await
    };
    answered(answer.await)
}

/// Gives an agent a new token, which is told in this answer only.
#[utoipa::path(post, path = "/v1/agents/{agent}/rotate-token", params(("agent" = String, Path, description = "Its number, or its name")), request_body = RotateAgentTokenRequest, responses((status = 200, body = AgentToken), (status = "default", body = Problem)))]
async fn rotate_token(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
    request: Request,
) -> Response {
    let answer = async {
        let asked = sent(request).await?;
        let asked = RotateAgentTokenRequest { agent, ..asked };
        admin.rotate_token(asked, &caller).await
    };
    answered(answer.await)
}

/// Takes all tokens from an agent, join tokens too, so that it cannot connect.
#[utoipa::path(delete, path = "/v1/agents/{agent}/tokens", params(("agent" = String, Path, description = "Its number, or its name")), responses((status = 200, body = RevokeAgentResponse), (status = "default", body = Problem)))]
async fn revoke_agent(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    Path(agent): Path<String>,
) -> Response {
    let asked = RevokeAgentRequest { agent };
    answered(admin.revoke_agent(asked, &caller).await)
}

/// What kubectl needs to reach an agent's cluster; it holds no token.
#[utoipa::path(get, path = "/v1/agents/{agent}/kubeconfig", params(
    ("agent" = String, Path, description = "Its number, or its name"),
    ("server" = Option<String>, Query, description = "The URL of the Kubernetes API proxy, as in `https://kas.example.com/k8s-proxy/`"),
), responses((status = 200, body = Kubeconfig), (status = "default", body = Problem)))]
async fn kubeconfig(
    State(admin): State<Arc<Admin>>,
    Path(agent): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let answer = async {
        let asked = read(query.as_deref())?;
        let asked = GetKubeconfigRequest { agent, ..asked };
        admin.kubeconfig(&asked).await
    };
    answered(answer.await)
}

/// Who may use an agent and as whom; and why somebody may or may not, if a user or service is named.
#[utoipa::path(get, path = "/v1/agents/{agent}/access", params(
    ("agent" = String, Path, description = "Its number, or its name"),
    ("user" = Option<String>, Query, description = "The user who wants to use it"),
    ("service" = Option<String>, Query, description = "The service, in place of a user"),
    ("groups" = Option<String>, Query, description = "Groups that their token says, with commas between"),
), responses((status = 200, body = AgentAccess), (status = "default", body = Problem)))]
async fn agent_access(
    State(admin): State<Arc<Admin>>,
    Path(agent): Path<String>,
    RawQuery(query): RawQuery,
) -> Response {
    let answer = async {
        let asked = read(query.as_deref())?;
        let asked = GetAgentAccessRequest { agent, ..asked };
        admin.agent_access(&asked).await
    };
    answered(answer.await)
}

/// Who may use which agents, and the rules that decide it.
#[utoipa::path(get, path = "/v1/access", params(GetAccessRequest), responses((status = 200, body = AccessMatrix), (status = "default", body = Problem)))]
async fn access(State(admin): State<Arc<Admin>>, RawQuery(query): RawQuery) -> Response {
    let answer = async { admin.access(&read(query.as_deref())?).await };
    answered(answer.await)
}

/// Changes how much replicas log, until they are started again or their configuration is reloaded.
#[utoipa::path(put, path = "/v1/log-level", request_body = SetLogLevelRequest, responses((status = 200, body = SetLogLevelResponse), (status = "default", body = Problem)))]
async fn log_level(
    State(admin): State<Arc<Admin>>,
    Extension(caller): Extension<Caller>,
    request: Request,
) -> Response {
    let answer = async { admin.set_log_level(sent(request).await?, &caller).await };
    answered(answer.await)
}

/// What changes, from now on, as server-sent events: `event:` is the type, `data:` the event as JSON.
#[utoipa::path(get, path = "/v1/events", responses((status = 200, body = Event, content_type = "text/event-stream"), (status = "default", body = Problem)))]
async fn events(State(admin): State<Arc<Admin>>, Extension(caller): Extension<Caller>) -> Response {
    let listener = match admin.listen(caller.name).await {
        Ok(listener) => listener,
        Err(failure) => return failure.into_response(),
    };
    // The first line tells a client at once that it listens.
    let told = stream::once(async { Bytes::from_static(b": listening\n\n") });
    let events = stream::unfold(listener, |mut listener| async {
        let next = tokio::time::timeout(SIGN_OF_LIFE_INTERVAL, listener.next()).await;
        let text = match next {
            Ok(Some(event)) => server_sent(&event),
            Ok(None) => return None,
            Err(_) => Bytes::from_static(b": still here\n\n"),
        };
        Some((text, listener))
    });
    let frames = told.chain(events).map(Ok::<_, Infallible>);
    let mut response = Response::new(Body::from_stream(frames));
    let kind = HeaderValue::from_static("text/event-stream");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    response
}

fn server_sent(event: &Event) -> Bytes {
    let data = serde_json::to_string(event).expect("messages of numbers and texts are JSON");
    format!("event: {}\ndata: {data}\n\n", event.r#type).into()
}

/// The JSON that a request carries. A page of another site cannot send this type without asking first.
async fn sent<T: DeserializeOwned>(request: Request) -> Result<T, Failure> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|it| it.to_str().ok()).unwrap_or_default();
    if kind.split(';').next().map(str::trim) != Some("application/json") {
        return Err(Failure::Invalid(
            "send JSON, as `Content-Type: application/json`".to_owned(),
        ));
    }
    let wrong = |why: String| Failure::Invalid(format!("the JSON is not understood: {why}"));
    let body = axum::body::to_bytes(request.into_body(), MAX_JSON_BYTES);
    let body = body.await.map_err(|error| wrong(error.to_string()))?;
    serde_json::from_slice(&body).map_err(|error| wrong(error.to_string()))
}

async fn nothing() -> Failure {
    Failure::NotFound("nothing is served at this path: see /openapi.json".to_owned())
}

fn read<T: DeserializeOwned>(query: Option<&str>) -> Result<T, Failure> {
    let query = query.unwrap_or_default();
    serde_urlencoded::from_str(query)
        .map_err(|error| Failure::Invalid(format!("the query is not understood: {error}")))
}

fn answered<T: Serialize>(answer: Result<T, Failure>) -> Response {
    match answer {
        Ok(answer) => json(StatusCode::OK, &answer),
        Err(failure) => failure.into_response(),
    }
}

fn json(status: StatusCode, value: &impl Serialize) -> Response {
    let text = serde_json::to_vec(value).expect("messages of numbers and texts are JSON");
    raw(status, text.into())
}

fn raw(status: StatusCode, text: Bytes) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, JSON);
    response
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let mut response = json(self.status(), &self.problem());
        let headers = response.headers_mut();
        match self {
            Self::Unauthenticated(_) => {
                let scheme = HeaderValue::from_static("Bearer");
                headers.insert(header::WWW_AUTHENTICATE, scheme);
            }
            Self::Busy(_) | Self::Unavailable(_) => {
                headers.insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
            }
            Self::Invalid(_) | Self::NotFound(_) | Self::Forbidden(_) | Self::Unfinished(_) => {}
        }
        response
    }
}

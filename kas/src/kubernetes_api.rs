//! The Kubernetes API proxy: HTTP in, calls on agents out.
//!
//! A request is checked (origin, credentials, rights), cleaned, and carried to
//! the agent on one call; the answer's body reads from that call as fast as the
//! client takes it. Nothing is buffered whole, and every error is a Kubernetes
//! `Status` with the true reason.

mod audit;
mod body;
mod cors;
mod credentials;
mod exchange;
mod failure;
mod guard;
mod headers;
mod idle;
mod leftover;
mod metrics;
mod places;
mod query;
mod request;
mod request_head;
mod response_head;
mod rights;
mod route;
mod serve;
mod settings;
mod status;
mod target;
mod upgrade;
mod upload;
mod watch;
mod websocket_token;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header, request::Parts};
use http_body::Body;
use router::{AgentId, Router};
use runtime::{drain::Drain, request_filter, shares::Shares};

pub use body::{CutShort, ProxyBody};
pub use cors::{Origins, origin_of};
pub use metrics::Metrics;
pub use settings::Settings;
pub use websocket_token::WebSocketTokens;

use crate::{
    control_plane::{Access, ControlPlane, Identity},
    graph::Graph,
    usage::Way,
};
use audit::Record;
use cors::Caller;
use leftover::Leftover;
use places::Places;
use request::{Length, Outline};
use request_head::LongHeads;
use response_head::ResponseHeads;
use rights::Rights;
use status::Failure;
use target::Target;
use upload::{BoxError, Upload};

/// Serves the Kubernetes APIs of agents' clusters.
#[derive(Debug)]
pub struct KubernetesApi {
    settings: Settings,
    via: HeaderValue,
    heads: Arc<ResponseHeads>,
    long_heads: LongHeads,
    unfinished_heads: Shares<IpAddr>,
    method: Arc<str>,
    exact_method: Arc<str>,
    router: Arc<Router>,
    control_plane: Arc<dyn ControlPlane>,
    metrics: Metrics,
    places: Places,
}

/// A request that may go on.
struct Admitted {
    /// Where to, without our prefix.
    target: Target,
    /// As whom.
    access: Access,
    /// Asks again.
    rights: Rights,
}

impl KubernetesApi {
    /// A proxy to the agents that `router` finds, for those whom
    /// `control_plane` lets.
    #[must_use]
    pub fn new(
        settings: Settings,
        router: Arc<Router>,
        control_plane: Arc<dyn ControlPlane>,
        metrics: Metrics,
    ) -> Arc<Self> {
        let via = [b"gRPC/1.0 ", settings.server.as_bytes()].concat();
        let via = HeaderValue::from_maybe_shared(Bytes::from(via))
            .expect("a prefix of plain letters keeps a header value valid");
        let heads = ResponseHeads::new(via.clone(), &settings.response_headers);
        Arc::new(Self {
            via,
            heads: Arc::new(heads),
            long_heads: LongHeads::default(),
            unfinished_heads: request_head::unfinished(),
            method: request::METHOD.into(),
            exact_method: request::EXACT_METHOD.into(),
            places: Places::new(settings.max_in_flight, metrics.clone()),
            settings,
            router,
            control_plane,
            metrics,
        })
    }

    /// The agent that a request's credentials are for, which are not checked.
    pub(crate) fn agent_of(headers: &HeaderMap) -> Result<AgentId, String> {
        credentials::read(headers, "").map(|presented| presented.agent)
    }

    /// Who presents these credentials, if they may use the agent that they name; else the status
    /// and the reason.
    pub(crate) async fn identity_of(
        &self,
        headers: &HeaderMap,
        from: IpAddr,
    ) -> Result<Identity, (StatusCode, String)> {
        let presented =
            credentials::read(headers, "").map_err(|detail| (StatusCode::UNAUTHORIZED, detail))?;
        let decision =
            self.control_plane
                .authorize_from(&presented.credentials, presented.agent, from);
        match tokio::time::timeout(rights::DECISION_TIMEOUT, decision).await {
            Ok(Ok(access)) => Ok(access.identity),
            Ok(Err(reason)) => {
                let failure = failure::of_denial(&reason);
                Err((failure.code, failure.message))
            }
            Err(_) => {
                let message = "the control plane did not decide in time";
                Err((StatusCode::SERVICE_UNAVAILABLE, message.to_owned()))
            }
        }
    }

    /// Answers one request. Dropping the future, or the answer's body before
    /// its end, cancels the request in the cluster.
    pub async fn handle<B>(
        &self,
        mut request: Request<B>,
        peer: SocketAddr,
        drain: &Drain,
    ) -> Response<ProxyBody>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let on_upgrade = wants_upgrade(&request).then(|| hyper::upgrade::on(&mut request));
        let (head, body) = request.into_parts();
        if let Some(graph) = &self.settings.graph
            && Graph::is_asked_for(target::strip_prefix(
                head.uri.path(),
                &self.settings.url_path_prefix,
            ))
        {
            return graph.accept(&head, on_upgrade, peer);
        }
        let mut record = Record::begin(&head, peer, &self.metrics);
        let caller = Caller::of(&head, &self.settings.origins);
        let indented = status::wants_indented(&head.headers, head.uri.query().unwrap_or(""));
        let leftover = Leftover::of(&head, &body);
        let turned_away = match caller.check(&head.headers) {
            Ok(()) => self.long_heads.hold(&head, peer),
            Err(failure) => Err(failure),
        };
        let _long_head = match turned_away {
            Ok(held) => held,
            Err(failure) => {
                let mut response = self.refuse(&failure, indented, record);
                leftover.dispose(body, response.headers_mut()).await;
                return response;
            }
        };
        if head.method == Method::OPTIONS {
            return self.preflight(&head, &caller, record);
        }
        let admitted = match self.admit(&head, peer.ip(), &mut record).await {
            Ok(admitted) => admitted,
            Err(failure) => {
                let mut response = self.refuse(&failure, indented, record);
                caller.mark(response.headers_mut());
                leftover.dispose(body, response.headers_mut()).await;
                return response;
            }
        };
        let Admitted {
            target,
            access,
            rights,
        } = admitted;
        let answer = if self.is_asked_for_a_token(&head) {
            let purpose = websocket_token::Purpose::of(&head, target.sent_path());
            self.give_token(purpose, &access, record)
        } else {
            let outline = outline(
                head,
                target,
                access.impersonation.clone(),
                &body,
                on_upgrade.is_some(),
            );
            record.watch = query::is_true(outline.target.query(), "watch");
            let pause = self.settings.body_pause;
            let upload = (outline.length != Length::None)
                .then(|| Upload::new(body, on_upgrade.is_none(), pause));
            let agent = access.agent.id;
            self.route((agent, rights), outline, upload, on_upgrade, record, drain)
                .await
        };
        let mut response = answer.unwrap_or_else(|(failure, record)| {
            let mut response = self.refuse(&failure, indented, record);
            leftover.abandon(response.headers_mut());
            response
        });
        response_head::forbid_sniffing(response.headers_mut());
        caller.mark(response.headers_mut());
        response
    }

    /// Checks whether the request may go on, to where, and as whom.
    async fn admit(
        &self,
        head: &Parts,
        from: IpAddr,
        record: &mut Record,
    ) -> Result<Admitted, Failure> {
        if let Some(refusal) = request_filter::refusal(head.uri.path()) {
            return Err(Failure::new(refusal.code, refusal.words));
        }
        request_head::check(head, self.settings.max_head)?;
        let target = self.target(head)?;
        let (access, rights) = self
            .identify(head, target.sent_path(), from, record)
            .await?;
        record.allowed(&access);
        record.admitted(self.places.begin(record.caller())?);
        Ok(Admitted {
            target,
            access,
            rights,
        })
    }

    /// Whom the credentials of a request make it, with a place among strangers until that is known.
    async fn identify(
        &self,
        head: &Parts,
        path: &str,
        from: IpAddr,
        record: &mut Record,
    ) -> Result<(Access, Rights), Failure> {
        if let Some(tokens) = &self.settings.websocket_tokens
            && let Some(token) = websocket_token::shown(&head.headers)
        {
            let purpose = websocket_token::Purpose::of(head, path);
            let access = tokens.take(token, &purpose).await;
            let access = access.map_err(|detail| failure::of_credentials(&detail))?;
            record.asks_for(access.agent.id);
            let rights = Rights::new(self.control_plane.clone(), None, access.agent.id, from);
            return Ok((access, rights));
        }
        let presented = credentials::read(&head.headers, head.uri.query().unwrap_or(""))
            .map_err(|detail| failure::of_credentials(&detail))?;
        record.asks_for(presented.agent);
        let _place = self.places.ask(from)?;
        let (credentials, agent) = (presented.credentials, presented.agent);
        let rights = Rights::new(self.control_plane.clone(), Some(credentials), agent, from);
        let access = rights.ask().await?;
        if let Some(usage) = &self.settings.usage
            && let Some(credentials) = rights.credentials()
        {
            let way = Way::of(credentials);
            usage.allowed(way, access.user_id, access.agent.id);
        }
        Ok((access, rights))
    }

    fn is_asked_for_a_token(&self, head: &Parts) -> bool {
        self.settings.websocket_tokens.is_some() && websocket_token::is_asked_for(head)
    }

    /// Answers with a token for a WebSocket that asks for the same.
    fn give_token(
        &self,
        purpose: websocket_token::Purpose,
        access: &Access,
        mut record: Box<Record>,
    ) -> Result<Response<ProxyBody>, (Failure, Box<Record>)> {
        let tokens = self.settings.websocket_tokens.as_ref();
        let Some(Ok(answer)) = tokens.map(|it| it.give(purpose, access)) else {
            let message = "a WebSocket token cannot be signed";
            let failure = Failure::new(StatusCode::INTERNAL_SERVER_ERROR, message);
            return Err((failure, record));
        };
        record.status = StatusCode::OK.as_u16();
        let mut response = Response::new(ProxyBody::from(Bytes::from(answer)));
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, status::JSON);
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        headers.insert(header::SERVER, self.settings.server.clone());
        Ok(response)
    }

    fn target(&self, head: &Parts) -> Result<Target, Failure> {
        if head.method == Method::CONNECT {
            let message = "CONNECT is not for a Kubernetes API";
            return Err(Failure::new(StatusCode::METHOD_NOT_ALLOWED, message));
        }
        Target::of(&head.uri, &self.settings.url_path_prefix)
            .map_err(|error| Failure::new(StatusCode::BAD_REQUEST, format!("Bad request: {error}")))
    }

    fn preflight(
        &self,
        head: &Parts,
        caller: &Caller,
        mut record: Box<Record>,
    ) -> Response<ProxyBody> {
        let (status, headers) = cors::preflight(caller, &head.headers);
        record.status = status.as_u16();
        let mut response = Response::new(ProxyBody::empty());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
            .headers_mut()
            .insert(header::SERVER, self.settings.server.clone());
        caller.mark(response.headers_mut());
        response
    }

    fn refuse(
        &self,
        failure: &Failure,
        indented: bool,
        mut record: Box<Record>,
    ) -> Response<ProxyBody> {
        let mut response = failure.response(indented);
        record.status = failure.code.as_u16();
        record.sent = response.body().size_hint().lower();
        record.reason.clone_from(&failure.message);
        response
            .headers_mut()
            .insert(header::SERVER, self.settings.server.clone());
        response
    }
}

fn wants_upgrade<B>(request: &Request<B>) -> bool {
    request.version() == http::Version::HTTP_11 && request.headers().contains_key(header::UPGRADE)
}

fn outline(
    head: Parts,
    target: Target,
    impersonation: Option<proto::agent::kubernetes_api::rpc::ImpersonationConfig>,
    body: &impl Body,
    upgrade: bool,
) -> Outline {
    Outline {
        method: head.method,
        target,
        headers: head.headers,
        length: Length::of(body),
        upgrade,
        impersonation,
    }
}

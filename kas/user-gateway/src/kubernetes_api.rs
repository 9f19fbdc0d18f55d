//! The route of Kubernetes' API: a request is admitted, cleaned, and carried to the agent on one call; the answer is
//! read from that call as fast as the client takes it. Nothing is buffered whole, and every failure is a Kubernetes
//! `Status` with the true reason.

mod exchange;
mod failure;
mod further_calls;
mod proxy_request;
mod recovery;
mod replay;
mod request_head;
mod response_head;
mod streamed;
mod upgrade;
mod upload;
mod watch;

use std::{hash::RandomState, net::SocketAddr, sync::Arc, time::Duration};

use audit::Audit;
use bytes::Bytes;
use control_plane::Access;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use router::Router;
use runtime::drain::Drain;
use tracing::Instrument;

use crate::{
    admission::{Admission, Rights},
    body::ResponseBody,
    failure::Failure,
    metrics::Metrics,
    places::Places,
    prefix::Prefix,
    query,
    route::{Answer, Length, Route, UserRequest},
    scope::Scope,
    target::Target,
};
use request_head::RequestHead;
use response_head::ResponseHeads;
use upload::Upload;
#[cfg(feature = "fuzzing")]
pub(crate) use watch::fuzzing as watch_fuzzing;

/// How requests are carried to agents.
#[derive(Debug)]
pub(crate) struct Settings {
    /// Where the API begins.
    pub(crate) prefix: Prefix,
    /// How long a request waits for a tunnel.
    pub(crate) hold: Duration,
    /// What names us in `Via`.
    pub(crate) server: HeaderValue,
    /// How long a client may pause in the middle of a body for which there is no answer yet.
    pub(crate) body_pause: Duration,
    /// How long the cluster may take to begin its answer.
    pub(crate) response_header: Duration,
    /// How long nothing may come in the middle of an answer.
    pub(crate) idle: Duration,
    /// How long an upgraded connection may be without a tunnel; zero for not at all.
    pub(crate) resume: Duration,
    /// Headers that clusters' answers may carry besides those of Kubernetes.
    pub(crate) response_headers: Vec<HeaderName>,
    /// Takes the records of requests.
    pub(crate) audit: Audit,
}

/// Serves the Kubernetes APIs of agents' clusters.
#[derive(Debug)]
pub(crate) struct KubernetesApi {
    settings: Settings,
    via: HeaderValue,
    heads: Arc<ResponseHeads>,
    method: Arc<str>,
    exact_method: Arc<str>,
    router: Arc<Router>,
    admission: Arc<Admission>,
    metrics: Metrics,
    places: Arc<Places>,
    /// Names callers to agents by numbers that say nothing of them.
    callers: RandomState,
}

impl KubernetesApi {
    /// A proxy to the agents that `router` finds, for those whom `admission` lets in.
    pub(crate) fn new(
        settings: Settings,
        router: Arc<Router>,
        admission: Arc<Admission>,
        places: Arc<Places>,
        metrics: Metrics,
    ) -> Self {
        let via = [b"gRPC/1.0 ", settings.server.as_bytes()].concat();
        let via = HeaderValue::from_maybe_shared(Bytes::from(via))
            .expect("a prefix of plain letters keeps a header value valid");
        let heads = ResponseHeads::new(
            via.clone(),
            &settings.response_headers,
            settings.prefix.base(),
            metrics.clone(),
        );
        Self {
            settings,
            via,
            heads: Arc::new(heads),
            method: request_head::METHOD.into(),
            exact_method: request_head::EXACT_METHOD.into(),
            router,
            admission,
            metrics,
            places,
            callers: RandomState::new(),
        }
    }

    /// Reads from the cluster on behalf of a caller who was admitted already: a request of theirs, with a place, an
    /// audit record and an id of its own, which is a part of their session.
    ///
    /// # Errors
    /// The refusal, or why there is no answer.
    pub(crate) async fn get(
        &self,
        (access, rights): (Access, Rights),
        target: Target,
        (headers, remote_addr): (HeaderMap, SocketAddr),
        drain: &Drain,
    ) -> Result<Response<ResponseBody>, Failure> {
        let uri = target.sent_path().parse().unwrap_or_default();
        let (mut asked, ()) = Request::new(()).into_parts();
        (asked.uri, asked.headers) = (uri, headers);
        let mut scope = Scope::begin(&asked, remote_addr, &self.metrics, &self.settings.audit);
        scope.watch = query::is_true(target.query(), "watch");
        scope.is_part = true;
        let span = scope.span().clone();
        let answered = async {
            self.admission.admit_again(&access, &mut scope)?;
            let whose = (&access, rights.credentials());
            let (what, at) = ((&asked.method, &asked.headers), target.asked());
            scope.asks(whose, what, at, false);
            if let Some(recorded) = scope.announce() {
                recorded.await?;
            }
            let head = RequestHead {
                method: asked.method,
                target,
                headers: asked.headers,
                length: Length::None,
                upgrade: false,
                impersonation: access.impersonation,
                resume: None,
                keep: None,
            };
            let planned = self.plan((access.agent.id, rights), head, &mut scope);
            let scope = (&mut *scope, drain);
            self.forward(planned, &mut None, None, scope).await
        };
        match answered.instrument(span).await {
            Ok(Answer::Response(response)) => {
                scope.answered(response.status(), response.headers());
                Ok(response.map(|content| ResponseBody::new(content, scope)))
            }
            Ok(Answer::Upgrade(..)) => {
                let message = "the cluster switched protocols without being asked";
                Err(Failure::new(StatusCode::BAD_GATEWAY, message))
            }
            Err(failure) => {
                scope.failed(&failure);
                Err(failure)
            }
        }
    }

    async fn proxy(
        &self,
        request: &mut UserRequest,
        scope: &mut Scope,
        drain: &Drain,
    ) -> Result<Answer, Failure> {
        let target = Target::of_request(&request.head, &self.settings.prefix)?;
        let (path, from) = (target.sent_path(), request.remote_addr.ip());
        let admitted = self.admission.admit(&request.head, path, from, scope);
        let (access, rights) = admitted.await?;
        let whose = (&access, rights.credentials());
        let what = (&request.head.method, &request.head.headers);
        let (at, upgrade) = (target.asked(), request.on_upgrade.is_some());
        scope.asks(whose, what, at, upgrade);
        if let Some(opening) = scope.open_recording() {
            let recording = opening.await?;
            scope.has_recording(recording);
        }
        if let Some(recorded) = scope.announce() {
            recorded.await?;
        }
        let Access {
            agent,
            impersonation,
            ..
        } = access;
        scope.watch = query::is_true(target.query(), "watch");
        let on_upgrade = request.on_upgrade.take();
        let head = RequestHead {
            method: request.head.method.clone(),
            target,
            headers: std::mem::take(&mut request.head.headers),
            length: request.length,
            upgrade: on_upgrade.is_some(),
            impersonation,
            resume: None,
            keep: None,
        };
        let pause = self.settings.body_pause;
        let body = request.body.take();
        let mut upload = body.map(|body| Upload::new(body, on_upgrade.is_none(), pause));
        let planned = self.plan((agent.id, rights), head, scope);
        self.forward(planned, &mut upload, on_upgrade, (scope, drain))
            .await
    }
}

impl Route for KubernetesApi {
    fn matches(&self, _request: &UserRequest) -> bool {
        true
    }

    fn takes_ambient_credentials(&self) -> bool {
        true
    }

    fn serve<'a>(
        &'a self,
        request: &'a mut UserRequest,
        scope: &'a mut Scope,
        drain: &'a Drain,
    ) -> BoxFuture<'a, Result<Answer, Failure>> {
        Box::pin(self.proxy(request, scope, drain))
    }
}

//! What every request at the users' port passes before a route answers it: the limits of its connection and of its
//! head, the check of its origin, its id and its audit record.

mod connection;
mod forwarded;
mod guard;
mod head_timer;
mod leftover;
mod origin;
mod request_head;

use std::{net::IpAddr, sync::Arc, time::Duration};

use audit::Audit;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use ipnet::IpNet;
use runtime::{drain::Drain, request_filter, shares::Shares};
use tracing::Instrument;

pub use origin::{Origins, origin_of};

use crate::{
    body::{Content, ResponseBody},
    failure::{Failure, Wanted},
    metrics::Metrics,
    request_id,
    route::{Answer, Route, UserRequest},
    scope::Scope,
};
use leftover::Leftover;
use origin::Caller;
use request_head::LongHeads;

const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");

/// How connections and heads of requests are treated.
#[derive(Debug)]
pub(crate) struct Settings {
    /// The `Server` header of answers that are no cluster's.
    pub(crate) server: HeaderValue,
    /// How long a client may take for its first request's head, or for the preface of HTTP/2.
    pub(crate) first_request: Duration,
    /// How long a client may leave a write waiting.
    pub(crate) idle: Duration,
    /// Bytes of a request's line and headers, at most.
    pub(crate) max_head: usize,
    /// Whose pages may call with what a browser adds by itself.
    pub(crate) origins: Origins,
    /// Takes the records of requests.
    pub(crate) audit: Audit,
    /// Proxies that are believed where a request comes from.
    pub(crate) trusted_proxies: Vec<IpNet>,
}

/// The front, and the routes behind it.
#[derive(Debug)]
pub(crate) struct Front {
    settings: Settings,
    routes: Vec<Box<dyn Route>>,
    long_heads: LongHeads,
    unfinished_heads: Shares<IpAddr>,
    metrics: Metrics,
}

/// What becomes of a request that is not refused.
enum Passed {
    /// It is a browser's question whether it may make another.
    Preflight,
    Answered(Answer),
}

impl Front {
    /// A front for these routes, the first of which that matches answers. The last one must match all requests.
    pub(crate) fn new(
        settings: Settings,
        routes: Vec<Box<dyn Route>>,
        metrics: Metrics,
    ) -> Arc<Self> {
        Arc::new(Self {
            settings,
            routes,
            long_heads: LongHeads::default(),
            unfinished_heads: request_head::unfinished(),
            metrics,
        })
    }

    /// Answers one request. Dropping the future, or the answer's body before its end, cancels the request.
    pub(crate) async fn handle(
        &self,
        request: Box<UserRequest>,
        drain: &Drain,
    ) -> Response<ResponseBody> {
        let (head, audit) = (&request.head, &self.settings.audit);
        let scope = Scope::begin(head, request.remote_addr, &self.metrics, audit);
        let span = scope.span().clone();
        let id = scope.id().value();
        let answered = self.answer(request, scope, drain).instrument(span);
        let mut response = answered.await;
        put(response.headers_mut(), request_id::HEADER, id);
        response
    }

    async fn answer(
        &self,
        mut request: Box<UserRequest>,
        mut scope: Box<Scope>,
        drain: &Drain,
    ) -> Response<ResponseBody> {
        let head = &request.head;
        let caller = Caller::of(head, &self.settings.origins);
        let wanted = Wanted::of(&head.headers, head.uri.query().unwrap_or(""));
        let leftover = Leftover::of(head, request.body.is_some());
        let passed = self.pass(&mut request, &caller, &mut scope, drain).await;
        let mut response = match passed {
            Ok(Passed::Preflight) => self.preflight(&request.head.headers, &caller, scope),
            Ok(Passed::Answered(answer)) => finish(answer, scope, drain),
            Err(failure) => {
                let mut response = self.refuse(&failure, &wanted, scope);
                match request.body.take() {
                    Some(body) => leftover.dispose(body, response.headers_mut()).await,
                    None => leftover.abandon(response.headers_mut()),
                }
                response
            }
        };
        let headers = response.headers_mut();
        put(headers, header::X_CONTENT_TYPE_OPTIONS, NOSNIFF);
        if !headers.contains_key(header::VIA) && !headers.contains_key(header::SERVER) {
            put(headers, header::SERVER, self.settings.server.clone());
        }
        caller.mark(headers);
        response
    }

    /// Checks a request, and gives it to its route.
    async fn pass(
        &self,
        request: &mut UserRequest,
        caller: &Caller,
        scope: &mut Scope,
        drain: &Drain,
    ) -> Result<Passed, Failure> {
        let route = self.routes.iter().find(|route| route.matches(request));
        let route = route.ok_or_else(|| {
            let message = "Not found: nothing is served at this path";
            Failure::new(StatusCode::NOT_FOUND, message)
        })?;
        let head = &request.head;
        if route.takes_ambient_credentials() {
            caller.check(&head.headers)?;
        }
        let _held = self.long_heads.hold(head, request.remote_addr)?;
        if head.method == Method::OPTIONS {
            return Ok(Passed::Preflight);
        }
        if let Some(refusal) = request_filter::refusal(head.uri.path()) {
            return Err(Failure::new(refusal.code, refusal.words));
        }
        request_head::check(head, self.settings.max_head)?;
        let answer = route.serve(request, scope, drain).await?;
        Ok(Passed::Answered(answer))
    }

    fn preflight(
        &self,
        asked: &HeaderMap,
        caller: &Caller,
        mut scope: Box<Scope>,
    ) -> Response<ResponseBody> {
        let (status, headers) = origin::preflight(caller, asked);
        scope.status = status.as_u16();
        let mut response = Response::new(ResponseBody::empty());
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        response
    }

    fn refuse(
        &self,
        failure: &Failure,
        wanted: &Wanted,
        mut scope: Box<Scope>,
    ) -> Response<ResponseBody> {
        scope.failed(failure);
        let response = failure.response(wanted);
        response.map(|body| ResponseBody::new(Content::from(body), scope))
    }
}

/// The response of an answer, with which the request's scope goes on.
fn finish(answer: Answer, mut scope: Box<Scope>, drain: &Drain) -> Response<ResponseBody> {
    match answer {
        Answer::Response(response) => {
            scope.answered(response.status(), response.headers());
            response.map(|content| ResponseBody::new(content, scope))
        }
        Answer::Upgrade(headers, upgraded) => {
            scope.answered(StatusCode::SWITCHING_PROTOCOLS, &headers);
            let span = scope.span().clone();
            drain.spawn(upgraded(scope).instrument(span));
            let mut response = Response::new(ResponseBody::empty());
            *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
            *response.headers_mut() = headers;
            response
        }
    }
}

/// Sets a header; an answer has room for these few.
fn put(headers: &mut HeaderMap, name: HeaderName, value: HeaderValue) {
    let _ = headers.try_insert(name, value);
}

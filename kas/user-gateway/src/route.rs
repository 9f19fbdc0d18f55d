//! What a route of the users' port is.

use std::{fmt, net::SocketAddr, pin::Pin, sync::Arc};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response, StatusCode, header, request::Parts};
use http_body::Body;
use http_body_util::BodyExt;
use hyper::upgrade::OnUpgrade;
use runtime::drain::Drain;

use crate::{body::Content, failure::Failure, scope::Scope};

/// Any error of a client's body.
pub(crate) type BoxError = Box<dyn std::error::Error + Send + Sync>;
/// Any client's body.
pub(crate) type BoxBody = Pin<Box<dyn Body<Data = Bytes, Error = BoxError> + Send>>;

/// Answers some of the requests at the users' port.
pub(crate) trait Route: fmt::Debug + Send + Sync {
    /// Whether it answers this request.
    fn matches(&self, request: &UserRequest) -> bool;

    /// Whether a browser can add what the route takes for credentials by itself, as it does with cookies. Pages of
    /// other origins are refused then.
    fn takes_ambient_credentials(&self) -> bool;

    /// Answers. Dropping the future, or the answer's content before its end, cancels the request.
    fn serve<'a>(
        &'a self,
        request: &'a mut UserRequest,
        scope: &'a mut Scope,
        drain: &'a Drain,
    ) -> BoxFuture<'a, Result<Answer, Failure>>;
}

impl<R: Route> Route for Arc<R> {
    fn matches(&self, request: &UserRequest) -> bool {
        (**self).matches(request)
    }

    fn takes_ambient_credentials(&self) -> bool {
        (**self).takes_ambient_credentials()
    }

    fn serve<'a>(
        &'a self,
        request: &'a mut UserRequest,
        scope: &'a mut Scope,
        drain: &'a Drain,
    ) -> BoxFuture<'a, Result<Answer, Failure>> {
        (**self).serve(request, scope, drain)
    }
}

/// A request as it came.
pub(crate) struct UserRequest {
    /// Its head. A route may take headers out of it.
    pub(crate) head: Parts,
    /// Its body, until a route takes it; `None` where there is none.
    pub(crate) body: Option<BoxBody>,
    /// How long its body is.
    pub(crate) length: Length,
    /// The connection behind the answer, if another protocol is asked for.
    pub(crate) on_upgrade: Option<OnUpgrade>,
    /// Where it comes from.
    pub(crate) remote_addr: SocketAddr,
}

/// How long a request's body is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Length {
    /// There is none.
    None,
    /// So many bytes.
    Known(u64),
    /// It ends somewhere.
    Unknown,
}

impl Length {
    fn of(body: &impl Body) -> Self {
        match body.size_hint().exact() {
            Some(0) => Self::None,
            Some(length) => Self::Known(length),
            None if body.is_end_stream() => Self::None,
            None => Self::Unknown,
        }
    }
}

impl UserRequest {
    /// Boxed, since futures that hold it are moved.
    pub(crate) fn new<B>(mut request: Request<B>, remote_addr: SocketAddr) -> Box<Self>
    where
        B: Body<Data = Bytes> + Send + 'static,
        B::Error: Into<BoxError>,
    {
        let on_upgrade = wants_upgrade(&request).then(|| hyper::upgrade::on(&mut request));
        let (head, body) = request.into_parts();
        let length = Length::of(&body);
        let body =
            (length != Length::None).then(|| -> BoxBody { Box::pin(body.map_err(Into::into)) });
        Box::new(Self {
            head,
            body,
            length,
            on_upgrade,
            remote_addr,
        })
    }
}

impl fmt::Debug for UserRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("UserRequest")
            .field("head", &self.head)
            .field("length", &self.length)
            .field("remote_addr", &self.remote_addr)
            .finish_non_exhaustive()
    }
}

fn wants_upgrade<B>(request: &Request<B>) -> bool {
    request.version() == http::Version::HTTP_11 && request.headers().contains_key(header::UPGRADE)
}

/// What a route answers with.
pub(crate) enum Answer {
    /// A response, over which the request's scope lives as long as its content.
    Response(Response<Content>),
    /// Another protocol, over which it lives as long as that is spoken.
    Upgrade(HeaderMap, Upgraded),
}

/// Speaks the other protocol once the answer is written.
pub(crate) type Upgraded = Box<dyn FnOnce(Box<Scope>) -> BoxFuture<'static, ()> + Send>;

impl Answer {
    /// A response with this head.
    pub(crate) fn new(status: StatusCode, headers: HeaderMap, content: Content) -> Self {
        let mut response = Response::new(content);
        *response.status_mut() = status;
        *response.headers_mut() = headers;
        Self::Response(response)
    }
}

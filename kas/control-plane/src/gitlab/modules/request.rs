//! What a module asks for, and how its body comes.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, Method, header};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use tonic::Status;

use super::path::{ModulePath, PathError};

/// Headers that are passed on. Others would speak for kas, which GitLab trusts: credentials, forwarded addresses,
/// GitLab's own.
const PASSED_ON: [HeaderName; 12] = [
    header::ACCEPT,
    header::ACCEPT_ENCODING,
    header::ACCEPT_LANGUAGE,
    header::CONTENT_ENCODING,
    header::CONTENT_LANGUAGE,
    header::CONTENT_TYPE,
    header::IF_MATCH,
    header::IF_MODIFIED_SINCE,
    header::IF_NONE_MATCH,
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
    HeaderName::from_static("x-request-id"),
];
const METHODS: [Method; 6] = [
    Method::GET,
    Method::HEAD,
    Method::POST,
    Method::PUT,
    Method::PATCH,
    Method::DELETE,
];

/// A body that comes while it is sent.
pub type StreamedBody = UnsyncBoxBody<Bytes, Status>;

/// A body.
pub enum ModuleBody {
    /// It is here.
    Whole(Bytes),
    /// It comes.
    Streamed(StreamedBody),
}

/// A request of an agent's module.
#[derive(Debug)]
pub struct ModuleRequest {
    head: ModuleHead,
    body: ModuleBody,
}

/// All of it but the body.
#[derive(Debug)]
pub(in super::super) struct ModuleHead {
    pub(in super::super) method: Method,
    pub(in super::super) path: ModulePath,
    pub(in super::super) headers: HeaderMap,
}

/// Why a request is none of a module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// HTTP or modules have no such method.
    #[error("a module's request is a GET, HEAD, POST, PUT, PATCH or DELETE")]
    Method,
    /// Its path is none of a module.
    #[error(transparent)]
    Path(#[from] PathError),
}

impl ModuleRequest {
    /// A request to a path; of the headers, only those are passed on that speak of the body and the answer.
    ///
    /// # Errors
    /// [`RequestError::Method`] for a method that modules do not have.
    pub fn new(
        method: &str,
        path: ModulePath,
        headers: &HeaderMap,
        body: ModuleBody,
    ) -> Result<Self, RequestError> {
        let method = METHODS.into_iter().find(|it| it.as_str() == method);
        let mut passed_on = HeaderMap::new();
        for name in &PASSED_ON {
            for value in headers.get_all(name) {
                // Beyond thousands of lines, which no message holds.
                let _ = passed_on.try_append(name, value.clone());
            }
        }
        let head = ModuleHead {
            method: method.ok_or(RequestError::Method)?,
            path,
            headers: passed_on,
        };
        Ok(Self { head, body })
    }

    pub(super) fn into_parts(self) -> (ModuleHead, ModuleBody) {
        (self.head, self.body)
    }
}

impl ModuleBody {
    pub(super) fn from_bytes(bytes: Bytes) -> StreamedBody {
        Full::new(bytes)
            .map_err(|never| match never {})
            .boxed_unsync()
    }
}

impl std::fmt::Debug for ModuleBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Whole(bytes) => f.debug_tuple("Whole").field(&bytes.len()).finish(),
            Self::Streamed(_) => f.write_str("Streamed"),
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_speaks_for_kas_is_not_passed_on() {
        let path = ModulePath::parse("m", "/", Vec::new()).unwrap();
        let mut headers = HeaderMap::new();
        for name in [
            "accept",
            "authorization",
            "connection",
            "content-length",
            "content-type",
            "cookie",
            "gitlab-kas-api-request",
            "gitlab-workhorse",
            "host",
            "job-token",
            "private-token",
            "transfer-encoding",
            "upgrade",
            "user-agent",
            "x-forwarded-for",
            "x-http-method-override",
        ] {
            headers.insert(name, HeaderValue::from_static("1"));
        }

        let body = ModuleBody::Whole(Bytes::new());
        let request = ModuleRequest::new("PUT", path.clone(), &headers, body).unwrap();

        let mut passed: Vec<_> = request
            .head
            .headers
            .keys()
            .map(HeaderName::as_str)
            .collect();
        passed.sort_unstable();
        assert_eq!(passed, ["accept", "content-type"]);
        for method in ["CONNECT", "OPTIONS", "TRACE", "get", "", "G T"] {
            let body = ModuleBody::Whole(Bytes::new());
            let refused = ModuleRequest::new(method, path.clone(), &headers, body);
            assert_eq!(refused.unwrap_err(), RequestError::Method, "{method}");
        }
    }
}

//! Failures as Kubernetes clients expect them: a `Status` in JSON.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

const UNAUTHORIZED: HeaderName = HeaderName::from_static("gitlab-unauthorized");
/// The type of an answer that kas gives itself.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
const TRUE: HeaderValue = HeaderValue::from_static("true");

/// An answer that kas gives itself because it has none from the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// The HTTP status.
    pub(crate) code: StatusCode,
    /// What went wrong, for people.
    pub(crate) message: String,
    /// After how many seconds a retry may succeed.
    pub(crate) retry_after: Option<u32>,
}

impl Failure {
    /// A failure that a retry will not mend soon.
    pub(crate) fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: None,
        }
    }

    /// A failure after which a retry may succeed.
    pub(crate) fn retryable(code: StatusCode, message: impl Into<String>) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(code, message)
        }
    }

    /// The answer; `indented` for people who read it as it is.
    pub(crate) fn response(&self, indented: bool) -> Response<Bytes> {
        let mut response = Response::new(Bytes::from(self.body(indented)));
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, JSON);
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.code == StatusCode::UNAUTHORIZED {
            headers.insert(UNAUTHORIZED, TRUE);
        }
        response
    }

    /// The `Status`, as JSON.
    pub(crate) fn body(&self, indented: bool) -> String {
        let status = Status {
            kind: "Status",
            api_version: "v1",
            metadata: Metadata {},
            status: "Failure",
            message: format!("GitLab Agent Server: {}", self.message),
            reason: reason(self.code),
            code: self.code.as_u16(),
        };
        let text = if indented {
            serde_json::to_string_pretty(&status)
        } else {
            serde_json::to_string(&status)
        };
        let mut text = text.expect("strings and numbers are always JSON");
        text.push('\n');
        text
    }
}

/// Whether JSON is read by a person rather than a program.
pub(crate) fn wants_indented(headers: &HeaderMap, raw_query: &str) -> bool {
    let agent = headers
        .get(header::USER_AGENT)
        .map_or(&b""[..], HeaderValue::as_bytes);
    [&b"curl"[..], b"Wget", b"Mozilla/5.0"]
        .iter()
        .any(|prefix| agent.starts_with(prefix))
        || raw_query.split('&').any(|pair| pair == "pretty=true")
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    kind: &'static str,
    api_version: &'static str,
    metadata: Metadata,
    status: &'static str,
    message: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    reason: &'static str,
    code: u16,
}

#[derive(Debug, Serialize)]
struct Metadata {}

/// The reason that Kubernetes gives with an HTTP status.
pub(crate) fn reason(code: StatusCode) -> &'static str {
    match code.as_u16() {
        400 => "BadRequest",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "NotFound",
        405 => "MethodNotAllowed",
        406 => "NotAcceptable",
        409 => "Conflict",
        410 => "Gone",
        413 => "RequestEntityTooLarge",
        415 => "UnsupportedMediaType",
        422 => "Invalid",
        429 => "TooManyRequests",
        500 => "InternalError",
        503 => "ServiceUnavailable",
        504 => "Timeout",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_is_a_kubernetes_status() {
        let failure = Failure::new(StatusCode::FORBIDDEN, "no \"rule\"");

        assert_eq!(
            failure.body(false),
            concat!(
                r#"{"kind":"Status","apiVersion":"v1","metadata":{},"status":"Failure","#,
                r#""message":"GitLab Agent Server: no \"rule\"","reason":"Forbidden","code":403}"#,
                "\n"
            )
        );
        assert!(failure.body(true).starts_with("{\n  \"kind\": \"Status\""));
    }

    #[test]
    fn a_bad_gateway_has_no_reason() {
        assert!(
            !Failure::new(StatusCode::BAD_GATEWAY, "x")
                .body(false)
                .contains("reason")
        );
    }

    #[test]
    fn only_our_own_401_says_that_it_is_ours() {
        let header = |code| {
            let response = Failure::retryable(code, "x").response(false);
            (
                response.headers().contains_key("gitlab-unauthorized"),
                response.headers()["retry-after"].clone(),
            )
        };
        assert_eq!(
            header(StatusCode::UNAUTHORIZED),
            (true, HeaderValue::from(1))
        );
        assert!(!header(StatusCode::SERVICE_UNAVAILABLE).0);
    }

    #[test]
    fn people_get_indented_json() {
        let agent = |name: &'static str| {
            HeaderMap::from_iter([(header::USER_AGENT, HeaderValue::from_static(name))])
        };
        assert!(wants_indented(&agent("curl/8.1"), ""));
        assert!(wants_indented(&HeaderMap::new(), "a=b&pretty=true"));
        assert!(!wants_indented(&agent("kubectl/v1.33"), "pretty=false"));
    }
}

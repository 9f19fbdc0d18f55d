//! Failures as Kubernetes clients expect them: a `Status` in the form that they want.

mod accept;
pub(crate) mod protobuf;

use bytes::Bytes;
use control_plane::Identity;
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde::Serialize;

use accept::MediaType;
pub(crate) use accept::Wanted;

const UNAUTHORIZED: HeaderName = HeaderName::from_static("gitlab-unauthorized");
/// The type of an answer that kas gives itself.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
const YAML: HeaderValue = HeaderValue::from_static("application/yaml");
const PROTOBUF: HeaderValue = HeaderValue::from_static("application/vnd.kubernetes.protobuf");
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
    /// Whether the agent or its way to the cluster is at fault, and neither the caller nor this kas.
    pub(crate) of_agent: bool,
    /// Who was refused, where that is known of somebody who was not let in.
    pub(crate) refused: Option<Box<Identity>>,
}

impl Failure {
    /// A failure that a retry will not mend soon.
    pub(crate) fn new(code: StatusCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: None,
            of_agent: false,
            refused: None,
        }
    }

    /// A failure after which a retry may succeed.
    pub(crate) fn retryable(code: StatusCode, message: impl Into<String>) -> Self {
        Self {
            retry_after: Some(1),
            ..Self::new(code, message)
        }
    }

    /// The same, for which the agent or its way to the cluster is at fault.
    pub(crate) fn of_agent(self) -> Self {
        Self {
            of_agent: true,
            ..self
        }
    }

    /// The same, for somebody who was not let in although it is known who they are.
    pub(crate) fn of_caller(self, who: Identity) -> Self {
        Self {
            refused: Some(Box::new(who)),
            ..self
        }
    }

    /// The answer in the form that is wanted. Who wants none that there is gets JSON, as from an API server, which does
    /// not hide a failure behind another.
    pub(crate) fn response(&self, wanted: &Wanted) -> Response<Bytes> {
        let (kind, body) = match wanted.media_type() {
            MediaType::Json { indented } => (JSON, Bytes::from(self.body(indented))),
            MediaType::Yaml => (YAML, Bytes::from(self.yaml())),
            MediaType::Protobuf => {
                let status = self.status();
                let reason = status.reason.to_owned();
                (
                    PROTOBUF,
                    protobuf::status(self.code, status.message, reason),
                )
            }
        };
        let mut response = Response::new(body);
        *response.status_mut() = self.code;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, kind);
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, seconds.into());
        }
        if self.code == StatusCode::UNAUTHORIZED {
            headers.insert(UNAUTHORIZED, TRUE);
        }
        response
    }

    /// The `Status`, as YAML with its keys in order.
    fn yaml(&self) -> String {
        let status = serde_json::to_value(self.status());
        let mut status = status.expect("strings and numbers are always JSON");
        status.sort_all_objects();
        runtime::yaml::write(&status)
    }

    fn status(&self) -> Status {
        Status {
            kind: "Status",
            api_version: "v1",
            metadata: Metadata {},
            status: "Failure",
            message: format!("GitLab Agent Server: {}", self.message),
            reason: reason(self.code),
            code: self.code.as_u16(),
        }
    }

    /// The `Status`, as JSON.
    pub(crate) fn body(&self, indented: bool) -> String {
        let status = self.status();
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
    use http::HeaderMap;
    use prost::Message as _;

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
            let response =
                Failure::retryable(code, "x").response(&Wanted::of(&HeaderMap::new(), ""));
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
    fn who_wants_another_form_gets_it() {
        let accept = |value| {
            let headers = [(header::ACCEPT, HeaderValue::from_static(value))];
            let wanted = Wanted::of(&headers.into_iter().collect(), "");
            Failure::retryable(StatusCode::UNAUTHORIZED, "who: \"you\"").response(&wanted)
        };

        let yaml = accept("application/yaml");
        let protobuf = accept("application/vnd.kubernetes.protobuf");
        let none = accept("text/html");

        assert_eq!(yaml.headers()["content-type"], "application/yaml");
        assert_eq!(
            yaml.body(),
            "apiVersion: v1\ncode: 401\nkind: Status\nmessage: \"GitLab Agent Server: who: \\\"you\\\"\"\n\
             metadata: {}\nreason: Unauthorized\nstatus: Failure\n"
        );
        let kind = &protobuf.headers()["content-type"];
        assert_eq!(kind, "application/vnd.kubernetes.protobuf");
        assert_eq!(protobuf.headers()["gitlab-unauthorized"], "true");
        let unknown = protobuf.body().strip_prefix(protobuf::MAGIC).unwrap();
        let unknown = protobuf::Unknown::decode(unknown).unwrap();
        let status = protobuf::Status::decode(&unknown.raw.unwrap()[..]).unwrap();
        assert_eq!(
            (status.code, status.reason.as_deref()),
            (Some(401), Some("Unauthorized"))
        );
        assert_eq!(none.status(), StatusCode::UNAUTHORIZED);
        assert_eq!(none.headers()["content-type"], "application/json");
    }
}

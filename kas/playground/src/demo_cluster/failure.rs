//! A refusal and its Kubernetes `Status` body.

use serde_json::{Value, json};

use super::kinds::KindId;

/// Why a request was refused; becomes the response's `Status`.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{message}")]
pub(crate) struct Failure {
    pub(crate) code: u16,
    reason: &'static str,
    message: String,
    details: Option<Value>,
}

impl Failure {
    fn new(code: u16, reason: &'static str, message: impl Into<String>) -> Self {
        Self {
            code,
            reason,
            message: message.into(),
            details: None,
        }
    }

    fn about(mut self, kind: KindId, name: &str) -> Self {
        let kind = kind.info();
        self.details = Some(json!({"name": name, "group": kind.group, "kind": kind.plural}));
        self
    }

    /// The path or the verb on it means nothing here.
    pub(crate) fn no_such_path() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    /// No object has that name.
    pub(crate) fn not_found(kind: KindId, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.info().qualified());
        Self::new(404, "NotFound", message).about(kind, name)
    }

    /// An object of that name is there already.
    pub(crate) fn already_exists(kind: KindId, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.info().qualified());
        Self::new(409, "AlreadyExists", message).about(kind, name)
    }

    /// The object changed since the caller read it.
    pub(crate) fn conflict(kind: KindId, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            kind.info().qualified()
        );
        Self::new(409, "Conflict", message).about(kind, name)
    }

    /// The object breaks a rule of its kind.
    pub(crate) fn invalid(kind: KindId, name: &str, field: &str, why: &str) -> Self {
        let info = kind.info();
        let qualified = if info.group.is_empty() {
            info.kind.to_owned()
        } else {
            format!("{}.{}", info.kind, info.group)
        };
        let message = format!("{qualified} \"{name}\" is invalid: {field}: {why}");
        let mut failure = Self::new(422, "Invalid", message);
        failure.details = Some(json!({
            "name": name, "group": info.group, "kind": info.kind,
            "causes": [{"reason": "FieldValueInvalid", "message": why, "field": field}],
        }));
        failure
    }

    /// The request itself makes no sense.
    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    /// The caller may not do this to that object.
    pub(crate) fn forbidden(kind: KindId, name: &str, why: &str) -> Self {
        let message = format!("{} \"{name}\" is forbidden: {why}", kind.info().qualified());
        Self::new(403, "Forbidden", message).about(kind, name)
    }

    /// The revision asked for is no longer in the history.
    pub(crate) fn expired(asked: u64, oldest: u64) -> Self {
        Self::new(
            410,
            "Expired",
            format!("too old resource version: {asked} ({oldest})"),
        )
    }

    /// The revision asked for was never given out.
    pub(crate) fn from_the_future(asked: u64, current: u64) -> Self {
        let message = format!("Too large resource version: {asked}, current: {current}");
        let mut failure = Self::new(504, "Timeout", message);
        failure.details = Some(json!({
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        }));
        failure
    }

    /// The body or the object is larger than the demo cluster takes.
    pub(crate) fn too_large(limit: usize) -> Self {
        Self::new(
            413,
            "RequestEntityTooLarge",
            format!("the demo cluster takes at most {limit} bytes an object"),
        )
    }

    /// The demo cluster holds as much as it may.
    pub(crate) fn full(what: &str) -> Self {
        Self::new(
            507,
            "InsufficientStorage",
            format!("the demo cluster is full ({what}); delete something first"),
        )
    }

    /// The verb is not served on this path.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    /// None of the encodings that the client accepts is served.
    pub(crate) fn not_acceptable() -> Self {
        Self::new(
            406,
            "NotAcceptable",
            "only application/json is served by the demo cluster",
        )
    }

    /// The body is in an encoding that is not read here.
    pub(crate) fn unsupported_media(content_type: &str) -> Self {
        Self::new(
            415,
            "UnsupportedMediaType",
            format!("the body of the request was in an unsupported format: {content_type:?}"),
        )
    }

    /// The body did not arrive in time.
    pub(crate) fn slow_body() -> Self {
        Self::new(408, "Timeout", "the request's body did not arrive in time")
    }

    /// The demo cluster has no containers to do this with.
    pub(crate) fn no_containers(what: &str) -> Self {
        Self::new(
            501,
            "NotImplemented",
            format!(
                "{what} is not possible: the demo cluster runs no containers; \
                 start kas with --kubeconfig to use a real cluster"
            ),
        )
    }

    /// The `Status` object that says so.
    pub(crate) fn status(&self) -> Value {
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": self.message, "reason": self.reason,
        });
        if let Some(details) = &self.details {
            status["details"] = details.clone();
        }
        status["code"] = self.code.into();
        status
    }
}

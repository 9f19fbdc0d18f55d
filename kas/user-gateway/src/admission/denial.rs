//! Credentials that are not enough, as failures: the one place that gives their codes.

use control_plane::{DenyReason, RefusedKind};
use http::StatusCode;

use crate::failure::Failure;

/// The credentials are missing, malformed or not valid.
pub(super) fn of_credentials(detail: impl std::fmt::Display) -> Failure {
    Failure::new(StatusCode::UNAUTHORIZED, format!("Unauthorized: {detail}"))
}

/// The control plane denies access.
pub(super) fn of_denial(reason: &DenyReason) -> Failure {
    match reason {
        DenyReason::BadToken
        | DenyReason::Expired { .. }
        | DenyReason::IdToken(_)
        | DenyReason::Unsupported { .. } => of_credentials(reason),
        DenyReason::UnknownAgent { .. } => {
            Failure::new(StatusCode::NOT_FOUND, format!("Not found: {reason}"))
        }
        DenyReason::NotAllowed { who, .. } => {
            Failure::new(StatusCode::FORBIDDEN, format!("Forbidden: {reason}"))
                .of_caller(who.clone())
        }
        DenyReason::Refused { kind, words } => of_refusal(*kind, words),
        DenyReason::TooManyUnknownCredentials => {
            Failure::retryable(StatusCode::TOO_MANY_REQUESTS, reason.to_string())
        }
        DenyReason::Unavailable(_) => {
            Failure::retryable(StatusCode::SERVICE_UNAVAILABLE, reason.to_string())
        }
    }
}

/// GitLab denies access.
fn of_refusal(kind: RefusedKind, words: &str) -> Failure {
    match kind {
        RefusedKind::Unauthenticated => of_credentials(words),
        RefusedKind::Forbidden => {
            Failure::new(StatusCode::FORBIDDEN, format!("Forbidden: {words}"))
        }
        RefusedKind::NotFound => Failure::new(StatusCode::NOT_FOUND, format!("Not found: {words}")),
    }
}

#[cfg(test)]
mod tests {
    use control_plane::{IdTokenRefusal, Identity, IdentityKind};
    use router::AgentId;

    use super::*;

    #[test]
    fn every_reason_has_its_code() {
        let agent = AgentId(7);
        let gitlab = |kind| {
            let words = "in GitLab's words".to_owned();
            of_denial(&DenyReason::Refused { kind, words })
        };
        let table = [
            (of_denial(&DenyReason::BadToken), 401, false),
            (
                of_denial(&DenyReason::Expired { who: "joe".into() }),
                401,
                false,
            ),
            (
                of_denial(&DenyReason::IdToken(IdTokenRefusal::UnknownIssuer)),
                401,
                false,
            ),
            (of_denial(&DenyReason::UnknownAgent { agent }), 404, false),
            (
                of_denial(&DenyReason::NotAllowed {
                    who: Identity {
                        kind: IdentityKind::User,
                        name: "joe".into(),
                    },
                    agent: "a".into(),
                }),
                403,
                false,
            ),
            (of_denial(&DenyReason::TooManyUnknownCredentials), 429, true),
            (of_denial(&DenyReason::Unavailable("x".into())), 503, true),
            (gitlab(RefusedKind::Unauthenticated), 401, false),
            (gitlab(RefusedKind::Forbidden), 403, false),
            (gitlab(RefusedKind::NotFound), 404, false),
        ];
        for (failure, code, retryable) in table {
            assert_eq!(failure.code, code, "{failure:?}");
            assert_eq!(failure.retry_after.is_some(), retryable, "{failure:?}");
        }
    }
}

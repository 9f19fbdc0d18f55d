//! Calls that failed, as failures: the one place that gives their codes.

use http::StatusCode;
use router::OpenError;
use tonic::Code;

use super::exchange::Interrupted;
use crate::{failure::Failure, query::Reencoding};

/// How agentk begins its refusal to impersonate twice.
const NESTED: &str = "nested impersonation";

/// No tunnel could be opened.
pub(super) fn of_open(error: &OpenError) -> Failure {
    match error {
        OpenError::NeverConnected
        | OpenError::Disconnected { .. }
        | OpenError::AllBusy { .. }
        | OpenError::OwnerUnreachable(_) => unavailable(error).of_agent(),
        OpenError::Uncertain => unavailable(error),
        OpenError::TooManyWaiting | OpenError::ShareUsed { .. } => {
            Failure::retryable(StatusCode::TOO_MANY_REQUESTS, error.to_string())
        }
        OpenError::NotOffered | OpenError::NoUpgrades => {
            Failure::new(StatusCode::NOT_IMPLEMENTED, error.to_string())
        }
        OpenError::CannotImpersonate => Failure::new(StatusCode::FORBIDDEN, error.to_string()),
        OpenError::Broken(_) => Failure::new(StatusCode::BAD_GATEWAY, error.to_string()).of_agent(),
    }
}

/// The agent would change the request.
pub(super) fn of_reencoding(change: Reencoding) -> Failure {
    let message = format!(
        "the agent's agentk would change the request, for it encodes paths and queries anew: {change}; \
         the agentk that belongs to this kas sends them as they are"
    );
    Failure::new(StatusCode::BAD_REQUEST, message)
}

/// The exchange ended before there was an answer; `safe` says whether the
/// request cannot have changed anything.
pub(super) fn of_interruption(error: &Interrupted, safe: bool) -> Failure {
    let bad_gateway = |message: String| Failure::new(StatusCode::BAD_GATEWAY, message).of_agent();
    match error {
        Interrupted::Client(_) => Failure::new(StatusCode::BAD_REQUEST, error.to_string()),
        Interrupted::Pause(_) => Failure::new(StatusCode::REQUEST_TIMEOUT, error.to_string()),
        Interrupted::Agent(status)
            if status.code == Code::Unavailable as i32 && status.message.contains(NESTED) =>
        {
            Failure::new(StatusCode::BAD_REQUEST, status.message.clone())
        }
        Interrupted::Agent(status) if error.is_not_taken() => {
            let why = status.message.trim_start_matches("gRPC -> HTTP: ");
            let message = format!("the cluster's Kubernetes API has not taken the request: {why}");
            Failure::retryable(StatusCode::SERVICE_UNAVAILABLE, message).of_agent()
        }
        Interrupted::Agent(_) => {
            bad_gateway(format!("HTTP->gRPC: failed to read gRPC response: {error}"))
        }
        Interrupted::Broken(_) | Interrupted::Order(_) | Interrupted::Malformed(_) => {
            bad_gateway(format!("{error}{}", outcome(safe)))
        }
        Interrupted::Denied(failure) => failure.clone(),
        Interrupted::Silence(_) => Failure::new(
            StatusCode::GATEWAY_TIMEOUT,
            format!("{error}{}", outcome(safe)),
        )
        .of_agent(),
    }
}

fn unavailable(error: &impl std::fmt::Display) -> Failure {
    Failure::retryable(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
}

/// What is to be said of the effect of a request that got no answer.
pub(super) fn outcome(safe: bool) -> &'static str {
    if safe {
        ""
    } else {
        "; the outcome is unknown: the cluster may have carried out the request"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::google::rpc::Status;
    use router::Broken;
    use std::time::Duration;

    #[test]
    fn every_reason_for_no_tunnel_has_its_code() {
        let table = [
            (of_open(&OpenError::NeverConnected), 503, true, true),
            (
                of_open(&OpenError::Disconnected {
                    ago: Duration::from_secs(5),
                }),
                503,
                true,
                true,
            ),
            (
                of_open(&OpenError::AllBusy {
                    waited: Duration::ZERO,
                }),
                503,
                true,
                true,
            ),
            (of_open(&OpenError::TooManyWaiting), 429, true, false),
            (
                of_open(&OpenError::ShareUsed { limit: 450 }),
                429,
                true,
                false,
            ),
            (of_open(&OpenError::Uncertain), 503, true, false),
            (
                of_open(&OpenError::OwnerUnreachable("x".into())),
                503,
                true,
                true,
            ),
            (of_open(&OpenError::CannotImpersonate), 403, false, false),
            (of_open(&OpenError::NotOffered), 501, false, false),
            (of_open(&OpenError::NoUpgrades), 501, false, false),
        ];
        for (failure, code, retryable, of_agent) in table {
            assert_eq!(failure.code, code, "{failure:?}");
            assert_eq!(failure.of_agent, of_agent, "{failure:?}");
            assert_eq!(failure.retry_after.is_some(), retryable, "{failure:?}");
        }
    }

    #[test]
    fn a_refused_nested_impersonation_is_a_bad_request_and_other_errors_are_the_agents() {
        let agent = |code: Code, message: &str| {
            let message = message.to_owned();
            let status = Status {
                code: code as i32,
                message,
                details: vec![],
            };
            of_interruption(&Interrupted::Agent(status), true)
        };

        assert_eq!(
            agent(
                Code::Unavailable,
                "gRPC -> HTTP: nested impersonation is not supported"
            )
            .code,
            400
        );
        let refused = agent(Code::Unavailable, "gRPC -> HTTP: connection refused");
        assert_eq!(refused.code, 502);
        assert!(
            refused
                .message
                .ends_with("code = Unavailable desc = gRPC -> HTTP: connection refused")
        );
    }

    #[test]
    fn what_the_cluster_has_not_taken_may_be_asked_again() {
        let status = Status {
            code: Code::Unavailable as i32,
            message: "gRPC -> HTTP: connection refused".into(),
            details: vec![proto::not_taken::detail()],
        };

        let failure = of_interruption(&Interrupted::Agent(status), false);

        assert_eq!(failure.code, 503);
        assert!(failure.retry_after.is_some());
        assert!(
            failure
                .message
                .ends_with("not taken the request: connection refused")
        );
    }

    #[test]
    fn only_what_may_have_changed_something_has_an_unknown_outcome() {
        let broken = Interrupted::Broken(Broken::Connection("reset".into()));

        assert!(of_interruption(&broken, false).message.contains("unknown"));
        assert!(!of_interruption(&broken, true).message.contains("unknown"));
    }
}

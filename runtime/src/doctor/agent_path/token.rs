//! Whether kas takes the agent's token.

use std::time::Duration;

use http::{HeaderMap, header};
use tonic::Code;

use super::{
    super::{
        QUESTION_TIMEOUT,
        answer::KNOWN_CALL,
        clock::check_clock,
        remedies::Fault,
        report::{Finding, Report},
        session::{Body, Session},
    },
    AgentPath,
    hold::{Begun, hold},
};

impl AgentPath {
    /// Whether the token is good, and whether kas knows our own call.
    pub(super) async fn check_token(&self, hop: &str, report: &mut Report) -> bool {
        let Some(token) = &self.token else {
            report.add(
                "kas",
                "token",
                Finding::not_checked("no agent's token is at hand"),
            );
            return false;
        };
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, token.clone())]);
        let opened = Session::open(&self.target, &self.options, &self.metadata).await;
        let mut session = match opened {
            Ok(session) => session,
            Err(error) => {
                report.add(hop, "token", Finding::not_checked(error.to_string()));
                return false;
            }
        };
        match hold(&mut session, &headers, Duration::ZERO, 0).await {
            Ok(Begun::Held(held)) => {
                report.add("kas", "token", Finding::ok("kas knows the agent"));
                check_clock(report, "kas", held.time, held.took);
                true
            }
            Ok(Begun::Refused(answer)) => {
                let code = answer.grpc.as_ref().map(tonic::Status::code);
                if code == Some(Code::Unimplemented) || answer.reached().is_err() {
                    self.check_token_by_known_call(&mut session, &headers, report)
                        .await;
                } else if let Some(status) = answer.grpc {
                    report.add("kas", "token", refusal(&status));
                }
                false
            }
            Err(error) => {
                report.add(hop, "token", Finding::not_checked(error.to_string()));
                false
            }
        }
    }

    /// GitLab's kas does not know our call: a tunnel that ends before it begins is no tunnel.
    async fn check_token_by_known_call(
        &self,
        session: &mut Session,
        headers: &HeaderMap,
        report: &mut Report,
    ) {
        let call = session.call(KNOWN_CALL, headers);
        let finding = match session.ask(call, Body::None, QUESTION_TIMEOUT).await {
            Err(error) => Finding::not_checked(error.to_string()),
            Ok(answer) => match answer.grpc {
                Some(status) => refusal(&status),
                None => Finding::ok("kas knows the agent"),
            },
        };
        report.add("kas", "token", finding);
    }
}

/// What kas's answer says about the token.
fn refusal(status: &tonic::Status) -> Finding {
    let seen = format!("kas says {:?}: {}", status.code(), status.message());
    match status.code() {
        Code::Unauthenticated | Code::PermissionDenied | Code::NotFound => {
            Finding::failed(Fault::TokenRefused, seen)
        }
        Code::Unavailable => Finding::warning(Fault::ControlPlaneAway, seen),
        Code::ResourceExhausted => Finding::not_checked(seen),
        // It looked at the call itself, which it does after the token.
        _ => Finding::ok("kas knows the agent"),
    }
}

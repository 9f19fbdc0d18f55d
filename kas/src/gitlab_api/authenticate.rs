//! Who may call: whoever shows a token that GitLab signed for kas.

use http::HeaderMap;
use runtime::{
    jwt::{self, Secret},
    telemetry::{Repeats, Untrusted},
};
use tonic::Status;

use runtime::grpc::bearer;

/// For whom GitLab's tokens are. Who issued them is not looked at: GitLab
/// writes its own host name there.
const AUDIENCE: &str = "gitlab-kas";
/// Probes have no secret, and learn nothing from it.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// Who makes a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Who {
    /// Whoever has the secret.
    GitLab,
    /// A probe, or anybody else.
    Anybody,
}

/// Checks tokens.
#[derive(Debug)]
pub(super) struct Authenticator(Secret);

impl Authenticator {
    pub(super) fn new(secret: Secret) -> Self {
        Self(secret)
    }

    /// Who makes a call.
    ///
    /// # Errors
    /// The refusal, in upstream's words.
    pub(super) fn check(&self, path: &str, headers: &HeaderMap) -> Result<Who, Status> {
        if path.starts_with(HEALTH) {
            return Ok(Who::Anybody);
        }
        let token = bearer(headers)?;
        let checked = jwt::verify(&self.0, token, AUDIENCE, None);
        checked.map(|()| Who::GitLab).map_err(|error| {
            static REFUSED: Repeats =
                Repeats::new("rejected a call to GitLab's API: invalid token");
            if REFUSED.admit() {
                let path = Untrusted(path);
                tracing::info!(%error, %path, "rejected a call to GitLab's API: invalid token");
            }
            Status::unauthenticated("JWT validation failed")
        })
    }
}

#[cfg(test)]
mod tests {
    use http::header::AUTHORIZATION;

    use super::*;

    const CALL: &str = "/gitlab.agent.agent_tracker.rpc.AgentTracker/GetConnectedAgents";

    fn check(path: &str, authorization: Option<&str>) -> Result<Who, String> {
        let authenticator = Authenticator::new(Secret::new(vec![1; 32]));
        let headers = authorization.map(|value| (AUTHORIZATION, value.parse().unwrap()));
        let checked = authenticator.check(path, &HeaderMap::from_iter(headers));
        checked.map_err(|status| {
            assert_eq!(status.code(), tonic::Code::Unauthenticated);
            status.message().to_owned()
        })
    }

    #[test]
    fn a_token_of_gitlab_for_kas_is_let_in_whatever_its_host_is() {
        let secret = Secret::new(vec![1; 32]);
        for issuer in ["gitlab.example.com", ""] {
            let token = jwt::sign(&secret, issuer, AUDIENCE).unwrap();
            for scheme in ["Bearer", "bearer"] {
                assert_eq!(
                    check(CALL, Some(&format!("{scheme} {token}"))),
                    Ok(Who::GitLab)
                );
            }
        }
    }

    #[test]
    fn anything_else_is_refused_in_upstreams_words() {
        let sign = |secret: u8, audience: &str| {
            let secret = Secret::new(vec![secret; 32]);
            format!("Bearer {}", jwt::sign(&secret, "gitlab", audience).unwrap())
        };
        let (missing, invalid) = (
            "Request unauthenticated with bearer",
            "JWT validation failed",
        );
        for (authorization, words) in [
            (None, missing),
            (Some("Basic eDp5".to_owned()), missing),
            (Some("Bearer".to_owned()), "Bad authorization string"),
            (Some("Bearer a.b.c".to_owned()), invalid),
            (Some(sign(2, AUDIENCE)), invalid),
            (Some(sign(1, "gitlab")), invalid),
        ] {
            assert_eq!(check(CALL, authorization.as_deref()), Err(words.to_owned()));
        }
    }

    #[test]
    fn only_health_needs_no_token() {
        assert_eq!(
            check("/grpc.health.v1.Health/Check", None),
            Ok(Who::Anybody)
        );
        assert!(check("/grpc.health.v1.Healthy/Check", None).is_err());
        assert!(
            check(
                "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
                None
            )
            .is_err()
        );
    }
}

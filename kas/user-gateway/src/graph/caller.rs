//! Whether a caller may watch, as the cluster says: asked as the caller,
//! through the Kubernetes API proxy, again and again.

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use control_plane::{Access, Identity};
use http::{HeaderMap, HeaderValue, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use router::AgentId;
use runtime::{backoff::jittered, drain::Drain, telemetry::Causes};
use serde_json::{Value, json};
use tonic::Status;

use super::Key;
use crate::{
    admission::{Admission, Rights},
    failure::Failure,
    front::Front,
    route::UserRequest,
};

/// How often rights are asked again.
const RECHECK_INTERVAL: Duration = Duration::from_secs(30);
/// How long to wait when the control plane does not answer.
const UNDECIDED_RETRY_INTERVAL: Duration = Duration::from_secs(2);
/// Checks in a row that may fail.
const MAX_FAILURES: u32 = 10;
/// How long one check may take.
const REVIEW_TIMEOUT: Duration = Duration::from_secs(60);
/// The longest answer.
const MAX_REVIEW_BYTES: usize = 64 << 10;
/// Where a cluster is asked for the rights of whoever asks.
pub(super) const REVIEWS: &str = "/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";

/// Who watches.
#[derive(Debug)]
pub(super) struct Caller {
    authorization: HeaderValue,
    agent: AgentId,
    /// Where the cluster is asked for rights, below the prefix of the Kubernetes API.
    reviews: Arc<str>,
    front: Arc<Front>,
    admission: Arc<Admission>,
    drain: Drain,
}

impl Caller {
    /// One with these credentials, which are not checked yet.
    pub(super) fn new(
        credentials: &str,
        reviews: Arc<str>,
        front: Arc<Front>,
        admission: Arc<Admission>,
        drain: Drain,
    ) -> Result<Self, Status> {
        let mut authorization = HeaderValue::from_str(&format!("Bearer {credentials}"))
            .map_err(|_| Status::unauthenticated("credentials: invalid value"))?;
        authorization.set_sensitive(true);
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, authorization.clone())]);
        let agent = Admission::agent_of(&headers)
            .map_err(|error| Status::unauthenticated(error.to_string()))?;
        Ok(Self {
            authorization,
            agent,
            reviews,
            front,
            admission,
            drain,
        })
    }

    /// Who it is and what they may do, as the control plane knows them by their credentials.
    pub(super) async fn identify(&self, from: IpAddr) -> Result<(Access, Rights), Status> {
        let headers = HeaderMap::from_iter([(header::AUTHORIZATION, self.authorization.clone())]);
        let asked = self.admission.rights_of(&headers, from).await;
        asked.map_err(refused)
    }

    /// The agent that the credentials are for.
    pub(super) fn agent(&self) -> AgentId {
        self.agent
    }

    /// Whether the caller may list and watch this.
    pub(super) async fn check(&self, key: &Key) -> Result<(), Status> {
        for verb in ["list", "watch"] {
            let asked = tokio::time::timeout(REVIEW_TIMEOUT, self.ask(key, verb)).await;
            asked.map_err(|_| {
                Status::unavailable(
                    "the cluster did not answer in time whether the caller may watch",
                )
            })??;
        }
        Ok(())
    }

    /// Ends when the caller may not any more, and says why.
    pub(super) async fn lost(&self, key: &Key) -> Status {
        let mut failures = 0;
        loop {
            tokio::time::sleep(jittered(RECHECK_INTERVAL)).await;
            match self.check(key).await {
                Ok(()) => failures = 0,
                Err(status)
                    if status.code() == tonic::Code::Unavailable && failures < MAX_FAILURES =>
                {
                    failures += 1;
                }
                Err(status) => return status,
            }
        }
    }

    /// Whether the credentials still belong to this caller, who may still use the agent. Updates that come by another
    /// tunnel wait for the answer.
    pub(super) async fn remains(&self, who: &Identity, from: IpAddr) -> Result<(), Status> {
        let mut failures = 0;
        loop {
            match self.identify(from).await {
                Ok((now, _)) if now.identity == *who => return Ok(()),
                Ok(_) => {
                    return Err(Status::permission_denied(
                        "the credentials now belong to another caller",
                    ));
                }
                Err(status)
                    if status.code() == tonic::Code::Unavailable && failures < MAX_FAILURES =>
                {
                    failures += 1;
                    tokio::time::sleep(jittered(UNDECIDED_RETRY_INTERVAL)).await;
                }
                Err(status) => return Err(status),
            }
        }
    }

    async fn ask(&self, key: &Key, verb: &str) -> Result<(), Status> {
        let attributes = json!({
            "verb": verb, "group": key.collection.group(), "version": key.collection.version(),
            "resource": key.collection.plural(), "namespace": key.collection.namespace(),
        });
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        });
        let request = Request::post(&*self.reviews)
            .header(header::AUTHORIZATION, self.authorization.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .header(header::ACCEPT, "application/json")
            .body(Full::new(Bytes::from(review.to_string())))
            .map_err(|error| Status::internal(error.to_string()))?;
        let local = SocketAddr::from(([127, 0, 0, 1], 0));
        let response = self
            .front
            .handle(UserRequest::new(request, local), &self.drain)
            .await;
        let status = response.status();
        let body = Limited::new(response.into_body(), MAX_REVIEW_BYTES)
            .collect()
            .await;
        let body = body.map_err(|error| Status::unavailable(Causes(&*error).to_string()))?;
        let answer: Value = serde_json::from_slice(&body.to_bytes()).unwrap_or_default();
        judge(status, &answer, key, verb)
    }
}

/// A refusal, as a watch ends with it.
pub(super) fn refused(failure: Failure) -> Status {
    match failure.code.as_u16() {
        401 => Status::unauthenticated(failure.message),
        403 | 404 => Status::permission_denied(failure.message),
        _ => Status::unavailable(failure.message),
    }
}

fn judge(status: StatusCode, answer: &Value, key: &Key, verb: &str) -> Result<(), Status> {
    let message = || {
        answer["message"]
            .as_str()
            .unwrap_or(status.as_str())
            .to_owned()
    };
    match status.as_u16() {
        200 | 201 if answer["status"]["allowed"] == true => Ok(()),
        200 | 201 => {
            let reason = answer["status"]["reason"].as_str().unwrap_or_default();
            let what = key.collection.plural();
            let message = format!("the caller may not {verb} {what} in the cluster: {reason}");
            Err(Status::permission_denied(message))
        }
        401 => Err(Status::unauthenticated(message())),
        400 | 403 | 404 => Err(Status::permission_denied(message())),
        _ => Err(Status::unavailable(message())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proto::graph::rpc::Resource;
    use runtime::names::Collection;
    use tonic::Code;

    #[test]
    fn only_a_clear_yes_lets_in() {
        let key = Key {
            agent: AgentId(1),
            collection: Collection::parse(&Resource {
                version: "v1".into(),
                resource: "secrets".into(),
                ..Resource::default()
            })
            .unwrap(),
            whole: false,
        };
        let yes = json!({"status": {"allowed": true}});
        let no = json!({"status": {"allowed": false, "reason": "no RBAC"}});
        let code = |status: u16, answer: &Value| {
            let status = StatusCode::from_u16(status).unwrap();
            judge(status, answer, &key, "list").map_err(|status| status.code())
        };

        assert_eq!(code(201, &yes), Ok(()));
        assert_eq!(code(201, &no), Err(Code::PermissionDenied));
        assert_eq!(code(201, &Value::Null), Err(Code::PermissionDenied));
        assert_eq!(code(401, &yes), Err(Code::Unauthenticated));
        assert_eq!(code(403, &yes), Err(Code::PermissionDenied));
        assert_eq!(code(503, &yes), Err(Code::Unavailable));
    }
}

//! `GitlabAccess.MakeRequest`: an agent's modules call GitLab's API for them, one HTTP request a call. Its body and
//! that of the answer pass as they come.

mod head;
mod messages;
mod request_body;

use std::time::Duration;

use bytes::Bytes;
use control_plane::gitlab::{CallError, ModuleApi, ModuleError};
use h2::RecvStream;
use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use proto::{
    agent::grpctool::{HttpResponse, http_response},
    bounds::{Bounds, Repeated},
};
use router::AgentId;
use runtime::{
    grpc::MESSAGE_TIMEOUT,
    shares::{Limits, Shares},
};
use tonic::Status;

use super::super::{
    caller::Identity,
    service::{Bidirectional, Call, Method, Responses, code},
};
use messages::Messages;

/// Requests in progress. With what is read ahead of each ([`request_body::READ_AHEAD_BYTES`]) and what HTTP/2 lets an
/// agent send, an agent's take some megabytes.
const CONCURRENT_REQUESTS: Limits = Limits {
    total: 128,
    each: 8,
    reserved: 32,
};
/// From a request's first message to its answer's last.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(300);
/// How long GitLab may pause in the middle of an answer.
const ANSWER_PAUSE_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of an answer in a message, as upstream sends them.
const CHUNK_BYTES: usize = 32 << 10;

struct MakeRequest {
    api: ModuleApi,
    in_progress: Shares<AgentId>,
}

/// Agents' modules reach GitLab by it.
#[must_use]
pub fn make_request(api: ModuleApi) -> Method {
    Method::bidirectional(MakeRequest {
        api,
        in_progress: Shares::new(CONCURRENT_REQUESTS),
    })
}

impl Bidirectional for MakeRequest {
    const PATH: &'static str = "/gitlab.agent.gitlab_access.rpc.GitlabAccess/MakeRequest";
    /// Agents send 32 KiB of a body in a message.
    const BOUNDS: Bounds = Bounds {
        bytes: 1 << 20,
        repeated: &[
            Repeated {
                path: &[1, 1, 2],
                most: 100,
                what: "headers",
            },
            Repeated {
                path: &[1, 1, 2, 2, 1],
                most: 200,
                what: "values of headers",
            },
            Repeated {
                path: &[1, 1, 4],
                most: 100,
                what: "query parameters",
            },
            Repeated {
                path: &[1, 1, 4, 2, 1],
                most: 200,
                what: "values of query parameters",
            },
        ],
    };

    async fn serve(&self, call: Call) {
        let Call {
            identity,
            request,
            respond,
            permit,
            ..
        } = call;
        let mut responses = Responses::Unopened(respond);
        let relayed = async {
            let relayed = self.relay(&identity, request, &mut responses);
            let relayed = tokio::time::timeout(REQUEST_TIMEOUT, relayed).await;
            relayed.unwrap_or_else(|_| {
                let seconds = REQUEST_TIMEOUT.as_secs();
                let words = format!("gRPC -> HTTP: the request was not over after {seconds} s");
                Err(Status::deadline_exceeded(words))
            })
        };
        let ended = tokio::select! {
            ended = relayed => ended,
            () = identity.caller.revoked() => Err(Status::unauthenticated("unauthenticated")),
        };
        permit.ends(code(&ended));
        responses.end(ended, "MakeRequest");
    }
}

impl MakeRequest {
    async fn relay(
        &self,
        identity: &Identity,
        request: Request<RecvStream>,
        responses: &mut Responses,
    ) -> Result<(), Status> {
        let agent = identity.agent.id;
        let _share = self.in_progress.take(agent, 1).map_err(|full| {
            Status::resource_exhausted(format!(
                "too many requests of agents' modules in progress: {full}"
            ))
        })?;
        let (head, stream) = request.into_parts();
        let mut messages = Messages::new(&head.headers, stream)?;
        let header = tokio::time::timeout(MESSAGE_TIMEOUT, messages.header()).await;
        let header = header.map_err(|_| {
            Status::deadline_exceeded("the request's header did not come in time")
        })??;
        let head = head::read(header)?;
        responses.open()?;
        let body = request_body::read_ahead(messages).await?;
        let request = head.with(body)?;
        let asked = self.api.request(agent, identity.caller.token(), request);
        let answer = tokio::select! {
            answer = asked => answer.map_err(|error| status(&error))?,
            gone = responses.gone() => return Err(gone),
        };
        let (head, body) = answer.into_parts();
        send(responses, head::of_answer(&head)).await?;
        pass_on(body, responses).await?;
        send(
            responses,
            http_response::Message::Trailer(http_response::Trailer {}),
        )
        .await
    }
}

async fn pass_on(mut body: Incoming, responses: &mut Responses) -> Result<(), Status> {
    loop {
        let frame = tokio::select! {
            frame = tokio::time::timeout(ANSWER_PAUSE_TIMEOUT, body.frame()) => frame,
            gone = responses.gone() => return Err(gone),
        };
        let frame = match frame {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => return Err(unavailable("GitLab's answer broke off")),
            Err(_) => {
                let seconds = ANSWER_PAUSE_TIMEOUT.as_secs();
                let words = format!("GitLab's answer did not go on for {seconds} s");
                return Err(unavailable(&words));
            }
        };
        // Trailers of HTTP have no place in an answer.
        let mut data: Bytes = frame.into_data().unwrap_or_default();
        while !data.is_empty() {
            let data = data.split_to(data.len().min(CHUNK_BYTES));
            send(
                responses,
                http_response::Message::Data(http_response::Data { data }),
            )
            .await?;
        }
    }
}

async fn send(responses: &mut Responses, message: http_response::Message) -> Result<(), Status> {
    let message = Some(message);
    responses.send(&HttpResponse { message }).await
}

/// With the codes and the prefix of GitLab's kas.
fn status(error: &ModuleError) -> Status {
    match error {
        ModuleError::Body(status) => status.clone(),
        ModuleError::Call(CallError::RateLimited) => {
            Status::resource_exhausted(format!("gRPC -> HTTP: {error}"))
        }
        ModuleError::Call(CallError::InvalidRequest(_)) => {
            Status::invalid_argument(format!("gRPC -> HTTP: {error}"))
        }
        ModuleError::Call(_) | ModuleError::NoConnection { .. } => unavailable(&error.to_string()),
    }
}

fn unavailable(why: &str) -> Status {
    Status::unavailable(format!("gRPC -> HTTP: {why}"))
}

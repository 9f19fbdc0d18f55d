//! Calls that are no tunnels, of those who are known.

use std::sync::Arc;

use http::Request;
use proto::{frame::Frame, receptive::rpc::receptive_server::ReceptiveServer};
use runtime::{
    grpc::{SendResponse, answer, receive},
    telemetry::{Repeats, Untrusted},
};
use tonic::Status;

use super::super::{
    AgentApi,
    caller::Known,
    collector,
    method::Method,
    registrar,
    relay::{self, Relay},
};

/// Serves a call of one message and one answer.
pub(super) async fn unary(
    api: Arc<AgentApi>,
    method: Method,
    known: Known,
    request: Request<h2::RecvStream>,
    respond: SendResponse,
) {
    let (head, mut stream) = request.into_parts();
    let headers = &head.headers;
    let answered = async {
        Ok(match method {
            Method::Register => {
                let asked = receive(headers, &mut stream, &registrar::REQUEST).await?;
                Frame::message(&registrar::register(&api, &known, asked)?)
            }
            Method::Unregister => {
                let asked = receive(headers, &mut stream, &registrar::REQUEST).await?;
                Frame::message(&registrar::unregister(&api, &known, &asked))
            }
            _ => {
                let events = api.settings.events.as_ref();
                let events = events.ok_or_else(|| Status::unimplemented("no events are taken"))?;
                let _place = collector::place(&api, known.agent.id)?;
                let asked = receive(headers, &mut stream, &collector::REPORT).await?;
                Frame::message(&collector::report(&known, events, asked).await)
            }
        })
    };
    let answered: Result<Frame, Status> = answered.await;
    match answered {
        // An agent that is gone needs no answer.
        Ok(frame) => drop(answer(respond, frame)),
        Err(status) => api.refuse(respond, &status, method.name()),
    }
}

/// Carries the bytes of another pod's connection.
pub(super) async fn attach(
    relay: Relay,
    known: Known,
    request: Request<h2::RecvStream>,
    respond: SendResponse,
) {
    let mut service = ReceptiveServer::new(relay).max_decoding_message_size(relay::MAX_CHUNK_BYTES);
    let served = runtime::grpc::serve(&mut service, request, respond);
    tokio::select! {
        served = served => if let Err(error) = served {
            tracing::debug!(%error, "a pod that carried another's connection left");
        },
        () = known.caller.revoked() => {}
    }
}

impl AgentApi {
    /// Refuses a call, and says so in the log.
    pub(in crate::agent_api) fn refuse(
        &self,
        respond: SendResponse,
        status: &Status,
        call: &'static str,
    ) {
        if status.code() == tonic::Code::Unauthenticated {
            self.metrics.unauthenticated.inc();
        }
        static REFUSED: Repeats = Repeats::new("refused an agent's call");
        if REFUSED.admit() {
            let reason = Untrusted(status.message());
            tracing::info!(code = ?status.code(), %reason, call, "refused an agent's call");
        }
        // An agent that is gone needs no answer.
        let _ = runtime::grpc::refuse(respond, status);
    }
}

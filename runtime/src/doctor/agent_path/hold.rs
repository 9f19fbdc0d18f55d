//! The call of our own by which a doctor looks what becomes of a stream.

use std::{
    future::poll_fn,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use h2::RecvStream;
use http::{HeaderMap, StatusCode};
use prost::Message as _;
use proto::{
    doctor::rpc::{HoldRequest, HoldResponse},
    frame::{Deframer, Encoding, Frame},
};
use tokio::time::{Instant, timeout};
use tonic::Status;

use super::super::{
    QUESTION_TIMEOUT,
    session::{Answer, Session, SessionError},
};
use crate::grpc::{self, SendStream};

const PATH: &str = "/gitlab.agent.kas_doctor.rpc.Doctor/Hold";
const MAX_MESSAGE_BYTES: usize = 64;

/// A stream whose first answer is here.
pub(super) struct Held {
    /// The time by kas's clock.
    pub(super) time: SystemTime,
    /// From the request to the answer.
    pub(super) took: Duration,
    recv: RecvStream,
    deframer: Deframer,
    _request: SendStream,
}

/// How a call began.
pub(super) enum Begun {
    /// With an answer.
    Held(Box<Held>),
    /// With a refusal, or something that is no gRPC.
    Refused(Answer),
}

/// How a silent stream ended.
pub(super) enum End {
    /// In order, after the second answer.
    InOrder,
    /// With a status of kas's.
    Status(Status),
    /// It was cut.
    Cut,
}

/// Calls, and waits for the first answer.
pub(super) async fn hold(
    session: &mut Session,
    headers: &HeaderMap,
    silence: Duration,
    padding: usize,
) -> Result<Begun, SessionError> {
    let request = session.call(PATH, headers);
    let message = HoldRequest {
        silence_ms: u32::try_from(silence.as_millis()).unwrap_or(u32::MAX),
        padding: Bytes::from(vec![0; padding]),
    };
    let calling = async {
        let began = Instant::now();
        poll_fn(|cx| session.send.poll_ready(cx)).await?;
        let (response, mut stream) = session.send.send_request(request, false)?;
        let sending = async {
            // Who refuses does not read all of it; the answer says why.
            if grpc::send_frame(&mut stream, Frame::message(&message))
                .await
                .is_ok()
            {
                let _ = stream.send_data(Frame::raw(Bytes::new()), true);
            }
            stream
        };
        let (response, stream) = tokio::join!(response, sending);
        let (head, mut recv) = response?.into_parts();
        let refusal = Status::from_header_map(&head.headers);
        if refusal.is_some() || head.status != StatusCode::OK {
            return Ok(Begun::Refused(Answer {
                status: head.status,
                headers: head.headers,
                grpc: refusal,
            }));
        }
        let mut deframer = Deframer::limited(Encoding::Identity, MAX_MESSAGE_BYTES);
        let first = grpc::message(&mut recv, &mut deframer).await.ok().flatten();
        let Some(first) = first.and_then(|it| HoldResponse::decode(it).ok()) else {
            let trailers = recv.trailers().await.ok().flatten().unwrap_or_default();
            return Ok(Begun::Refused(Answer {
                status: head.status,
                headers: head.headers,
                grpc: Status::from_header_map(&trailers),
            }));
        };
        let time = Duration::from_millis(first.time_ms.unsigned_abs());
        Ok(Begun::Held(Box::new(Held {
            time: SystemTime::UNIX_EPOCH + time,
            took: began.elapsed(),
            recv,
            deframer,
            _request: stream,
        })))
    };
    let limit = QUESTION_TIMEOUT + silence;
    match timeout(limit, calling).await {
        Ok(begun) => begun,
        Err(_) => Err(SessionError::Timeout(limit)),
    }
}

impl Held {
    /// Waits for the end. The caller has a deadline. Cancel-safe.
    pub(super) async fn end(&mut self) -> End {
        if let Ok(Some(_)) = grpc::message(&mut self.recv, &mut self.deframer).await {
            return End::InOrder;
        }
        let trailers = self.recv.trailers().await.ok().flatten();
        let status = trailers.and_then(|it| Status::from_header_map(&it));
        status.map_or(End::Cut, End::Status)
    }
}

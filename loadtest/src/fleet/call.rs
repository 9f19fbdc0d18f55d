//! A call that came down a tunnel: its request is read, and the messages of its answer are made.

use std::collections::VecDeque;

use bytes::Bytes;
use prost::Message as _;
use proto::{
    agent::{
        grpctool::{HttpRequest, HttpResponse, http_request, http_response},
        prototool,
        reverse_tunnel::rpc::{
            ConnectRequest, ConnectResponse, Header, Trailer, connect_request,
            connect_response::Msg,
        },
    },
    frame::{Frame, FrameBuilder, Payload},
};
use runtime::grpc::SendStream;

use super::rpc::{Failure, Inbound};

/// Longest request body that is kept.
const MAX_KEPT_BYTES: usize = 16 << 20;
/// `ConnectRequest.message`, `Message.data`.
pub(super) const MESSAGE: &[u32] = &[3, 1];
/// The same, then `HttpResponse.data`, `Data.data`.
pub(super) const DATA: &[u32] = &[3, 1, 2, 1];

/// The two directions of a call.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) send: SendStream,
    pub(super) inbound: Inbound,
}

/// A call's request.
pub(super) struct Request {
    pub(super) head: prototool::HttpRequest,
    /// Its body, if it was to be kept.
    pub(super) body: VecDeque<Bytes>,
}

/// Reads the request to its end, with its body if `keep` says so; an upgrade, whose stream
/// goes on, to the end of its body.
pub(super) async fn read(
    call: &mut Call,
    keep: impl Fn(&prototool::HttpRequest) -> bool,
) -> Result<Request, Failure> {
    let mut request: Option<Request> = None;
    let (mut kept, mut length) = (false, 0);
    while let Some(message) = call.inbound.message().await? {
        let message = match ConnectResponse::decode(message)?.msg {
            Some(Msg::Message(message)) => HttpRequest::decode(message.data)?.message,
            Some(Msg::CloseSend(_)) => {
                return request.ok_or(Failure::Protocol("a call without a request"));
            }
            Some(Msg::RequestInfo(_)) | None => {
                return Err(Failure::Protocol("not a message of a call"));
            }
        };
        match message {
            Some(http_request::Message::Header(header)) => {
                let head = header.request.unwrap_or_default();
                kept = keep(&head);
                let body = VecDeque::new();
                request = Some(Request { head, body });
            }
            Some(http_request::Message::Data(data)) => {
                let Some(request) = request.as_mut().filter(|_| kept) else {
                    continue;
                };
                length += data.data.len();
                if length > MAX_KEPT_BYTES {
                    return Err(Failure::Protocol("a body too long to be kept"));
                }
                request.body.push_back(data.data);
            }
            Some(http_request::Message::Trailer(_)) => {
                if request.as_ref().is_some_and(|it| wants_upgrade(&it.head)) {
                    return request.ok_or(Failure::Protocol("a call without a request"));
                }
            }
            Some(http_request::Message::UpgradeData(_) | http_request::Message::Segment(_)) => {}
            None => return Err(Failure::Protocol("an empty message")),
        }
    }
    Err(Failure::Protocol("a call that ended before its request"))
}

/// Whether a request asks for another protocol.
pub(super) fn wants_upgrade(head: &prototool::HttpRequest) -> bool {
    header(head, "upgrade").is_some()
}

/// The first value of a header.
pub(super) fn header<'a>(head: &'a prototool::HttpRequest, name: &str) -> Option<&'a str> {
    let mut headers = head.header.iter();
    let entry = headers.find(|it| it.key.eq_ignore_ascii_case(name.as_bytes()))?;
    std::str::from_utf8(entry.value.as_ref()?.value.first()?).ok()
}

/// The beginning of an answer.
pub(super) fn head(head: prototool::HttpResponse) -> FrameBuilder {
    let response = http_response::Header {
        response: Some(head),
        resume: None,
    };
    FrameBuilder::default()
        .message(&to_kas(connect_request::Msg::Header(Header::default())))
        .nested(MESSAGE, message(http_response::Message::Header(response)))
}

/// A piece of an answer's body.
pub(super) fn piece(body: Bytes) -> Frame {
    Frame::nested(DATA, payload(body))
}

/// The end of an answer, behind what else is to be sent.
pub(super) fn tail(frame: FrameBuilder) -> Frame {
    let trailer = http_response::Message::Trailer(http_response::Trailer {});
    frame
        .nested(MESSAGE, message(trailer))
        .message(&to_kas(connect_request::Msg::Trailer(Trailer::default())))
        .build()
}

pub(super) fn message(message: http_response::Message) -> Payload {
    Payload::message(&HttpResponse {
        message: Some(message),
    })
}

pub(super) fn payload(body: Bytes) -> Payload {
    Payload {
        head: Bytes::new(),
        body,
    }
}

pub(super) fn to_kas(msg: connect_request::Msg) -> ConnectRequest {
    ConnectRequest { msg: Some(msg) }
}

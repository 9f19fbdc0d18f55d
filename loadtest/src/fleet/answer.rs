//! Answers a call of `KubernetesApi.MakeRequest` by the script.

use std::{collections::VecDeque, time::Duration};

use bytes::Bytes;
use prost::Message as _;
use proto::{
    agent::{
        grpctool::{HttpRequest, HttpResponse, http_request, http_response},
        prototool::{self, Values},
        reverse_tunnel::rpc::{
            ConnectRequest, ConnectResponse, Header, Trailer, connect_request,
            connect_response::Msg,
        },
    },
    frame::{Frame, FrameBuilder, Payload},
};
use runtime::grpc::{SendStream, send_frame};

use super::{rpc::Failure, tunnel::Taken, upgrade};
use crate::{
    body::Body,
    script::{self, Answer, Script},
};

/// Longest request body that is kept.
const MAX_KEPT: usize = 16 << 20;
/// Longest body that leaves together with its head and trailer.
const SMALL: u64 = 16 << 10;
/// `ConnectRequest.message`, `Message.data`.
pub(super) const MESSAGE: &[u32] = &[3, 1];
/// The same, then `HttpResponse.data`, `Data.data`.
const DATA: &[u32] = &[3, 1, 2, 1];

/// A call's request.
pub(super) struct Asked {
    pub(super) head: prototool::HttpRequest,
    /// Its body, if it was to be kept.
    pub(super) body: VecDeque<Bytes>,
}

/// Reads the call, answers it and waits for its end; gives the length of the
/// body that was sent.
pub(super) async fn serve(script: &Script, mut call: Taken) -> Result<u64, Failure> {
    let answer = |head: &prototool::HttpRequest| script.answer(&head.url_path);
    let asked = read(&mut call, |head| answer(head) == Answer::Echo).await?;
    let answer = answer(&asked.head);
    let (delay, _) = script::delay(&asked.head.url_path);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let head = scripted(&answer);
    let sent = match answer {
        Answer::Json(body) => body_of(&mut call.send, head, body.into()).await?,
        Answer::Bytes(length) => body_of(&mut call.send, head, Body::pattern(length)).await?,
        Answer::Echo => body_of(&mut call.send, head, Body::Pieces(asked.body)).await?,
        Answer::Watch { events, every } => watch(&mut call, head, events, every).await?,
        Answer::Exec => return upgrade::echo(&asked.head, call).await,
    };
    while call.inbound.message().await?.is_some() {}
    Ok(sent)
}

/// Reads the request to its end, with its body if `keep` says so; an upgrade, whose stream
/// goes on, to the end of its body.
pub(super) async fn read(
    call: &mut Taken,
    keep: impl Fn(&prototool::HttpRequest) -> bool,
) -> Result<Asked, Failure> {
    let mut asked: Option<Asked> = None;
    let (mut kept, mut length) = (false, 0);
    while let Some(message) = call.inbound.message().await? {
        let request = match ConnectResponse::decode(message)?.msg {
            Some(Msg::Message(message)) => HttpRequest::decode(message.data)?.message,
            Some(Msg::CloseSend(_)) => {
                return asked.ok_or(Failure::Protocol("a call without a request"));
            }
            Some(Msg::RequestInfo(_)) | None => {
                return Err(Failure::Protocol("not a message of a call"));
            }
        };
        match request {
            Some(http_request::Message::Header(header)) => {
                let head = header.request.unwrap_or_default();
                kept = keep(&head);
                let body = VecDeque::new();
                asked = Some(Asked { head, body });
            }
            Some(http_request::Message::Data(data)) => {
                let Some(asked) = asked.as_mut().filter(|_| kept) else {
                    continue;
                };
                length += data.data.len();
                if length > MAX_KEPT {
                    return Err(Failure::Protocol("a body too long to be kept"));
                }
                asked.body.push_back(data.data);
            }
            Some(http_request::Message::Trailer(_)) => {
                if asked.as_ref().is_some_and(|it| upgrade::wanted(&it.head)) {
                    return asked.ok_or(Failure::Protocol("a call without a request"));
                }
            }
            Some(http_request::Message::UpgradeData(_)) => {}
            None => return Err(Failure::Protocol("an empty message")),
        }
    }
    Err(Failure::Protocol("a call that ended before its request"))
}

async fn body_of(send: &mut SendStream, head: FrameBuilder, body: Body) -> Result<u64, Failure> {
    let length = body.len();
    if length <= SMALL {
        let whole = body.fold(head, |frame, piece| frame.nested(DATA, payload(piece)));
        send.send_data(tail(whole), true)?;
        return Ok(length);
    }
    send_frame(send, head.build()).await?;
    for body in body {
        send_frame(send, piece(body)).await?;
    }
    send.send_data(tail(FrameBuilder::default()), true)?;
    Ok(length)
}

async fn watch(
    call: &mut Taken,
    head: FrameBuilder,
    events: u64,
    every: Duration,
) -> Result<u64, Failure> {
    send_frame(&mut call.send, head.build()).await?;
    let (mut number, mut sent) = (0, 0);
    while events == 0 || number < events {
        tokio::select! {
            () = tokio::time::sleep(every) => {}
            // kas says nothing more until it ends the call.
            ended = call.inbound.message() => return ended.map(|_| sent),
        }
        let event = script::event(number);
        number += 1;
        sent += event.len() as u64;
        send_frame(&mut call.send, piece(event)).await?;
    }
    call.send.send_data(tail(FrameBuilder::default()), true)?;
    Ok(sent)
}

fn scripted(answer: &Answer) -> FrameBuilder {
    let one = |value: String| Values { value: vec![value] };
    let mut headers = prototool::HttpResponse::default().header;
    headers.insert("Content-Type".into(), one(answer.content_type().to_owned()));
    if let Some(length) = answer.length() {
        headers.insert("Content-Length".into(), one(length.to_string()));
    }
    head(prototool::HttpResponse {
        status_code: 200,
        status: "200 OK".into(),
        header: headers,
    })
}

/// The beginning of an answer.
pub(super) fn head(head: prototool::HttpResponse) -> FrameBuilder {
    let response = http_response::Header {
        response: Some(head),
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

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Buf;
    use proto::{
        frame::{Deframer, Encoding},
        sequence::{CONNECT_REQUEST, END, FieldNumber, HTTP, Sequence},
    };

    #[test]
    fn a_small_answer_is_one_frame_in_the_protocols_order() {
        let head = scripted(&Script::new(4096).answer("/"));
        let frame = head.nested(DATA, payload(crate::content::json(4096)));
        let mut frame = tail(frame);
        let mut deframer = Deframer::new(Encoding::Identity);
        let (mut tunnel, mut http) = (Sequence::new(CONNECT_REQUEST), Sequence::new(HTTP));
        tunnel.step(1).unwrap();
        let mut body = Vec::new();

        deframer.push(frame.copy_to_bytes(frame.remaining()));

        while let Some(bytes) = deframer.next_message().unwrap() {
            let message = ConnectRequest::decode(bytes).unwrap().msg.unwrap();
            tunnel.step(message.field_number()).unwrap();
            if let connect_request::Msg::Message(message) = message {
                let message = HttpResponse::decode(message.data).unwrap().message.unwrap();
                http.step(message.field_number()).unwrap();
                if let http_response::Message::Data(data) = message {
                    body.extend_from_slice(&data.data);
                }
            }
        }
        tunnel.step(END).unwrap();
        http.step(END).unwrap();
        assert_eq!(body, crate::content::json(4096));
    }
}

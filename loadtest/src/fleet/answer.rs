//! Answers a call of `KubernetesApi.MakeRequest` by the script.

use std::time::Duration;

use proto::{agent::prototool, frame::FrameBuilder, metadata::entry};
use runtime::grpc::{SendStream, send_frame};

use super::{
    call::{Call, DATA, head, payload, piece, read, tail},
    rpc::Failure,
    upgrade,
};
use crate::{
    body::Body,
    script::{self, Answer, Script},
};

/// Longest body that leaves together with its head and trailer.
const SMALL_BODY_BYTES: u64 = 16 << 10;

/// Reads the call, answers it and waits for its end; gives the length of the
/// body that was sent.
pub(super) async fn serve(script: &Script, mut call: Call) -> Result<u64, Failure> {
    let answer = |head: &prototool::HttpRequest| script.answer(&head.url_path);
    let request = read(&mut call, |head| answer(head) == Answer::Echo).await?;
    let answer = answer(&request.head);
    let (delay, _) = script::delay(&request.head.url_path);
    if !delay.is_zero() {
        tokio::time::sleep(delay).await;
    }
    let head = scripted(&answer);
    let sent = match answer {
        Answer::Json(body) => body_of(&mut call.send, head, body.into()).await?,
        Answer::Bytes(length) => body_of(&mut call.send, head, Body::pattern(length)).await?,
        Answer::Echo => body_of(&mut call.send, head, Body::Pieces(request.body)).await?,
        Answer::Watch { events, every } => watch(&mut call, head, events, every).await?,
        Answer::Exec => return upgrade::echo(&request.head, call).await,
    };
    while call.inbound.message().await?.is_some() {}
    Ok(sent)
}

async fn body_of(send: &mut SendStream, head: FrameBuilder, body: Body) -> Result<u64, Failure> {
    let length = body.len();
    if length <= SMALL_BODY_BYTES {
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
    call: &mut Call,
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
    let mut headers = vec![entry("Content-Type", [answer.content_type()])];
    if let Some(length) = answer.length() {
        headers.push(entry("Content-Length", [length.to_string()]));
    }
    head(prototool::HttpResponse {
        status_code: 200,
        status: "200 OK".into(),
        header: headers,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Buf;
    use prost::Message as _;
    use proto::{
        agent::{
            grpctool::{HttpResponse, http_response},
            reverse_tunnel::rpc::{ConnectRequest, connect_request},
        },
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

//! One tunnel that kas has opened: its descriptor, the wait for a call, and the call.

use std::{future::poll_fn, sync::Arc};

use bytes::Bytes;
use http::{HeaderMap, Request};
use prost::Message as _;
use proto::{
    agent::reverse_tunnel::rpc::{
        CloseSend, ConnectRequest, ConnectResponse, connect_request, connect_response,
    },
    frame::{Deframer, Frame, MAX_MESSAGE, Payload},
    google::rpc,
    metadata::request_info,
    sequence::{CONNECT_REQUEST, END, FieldNumber, Sequence},
};
use runtime::{
    grpc::{
        MESSAGE_TIMEOUT, SendResponse, SendStream, deframer, first_message, message, refuse,
        response_headers, send_frame, trailers,
    },
    tunnel::{DESCRIPTOR_BOUNDS, answer_headers, call_meta, methods},
};
use tonic::{Code, Status};

use super::offers::{Call, Offers};

/// The field of `ConnectResponse.request_info`.
const REQUEST_INFO: &[u32] = &[1];
/// Where a message is in what the tunnel carries: `ConnectResponse.message`, `Message.data`.
const TO_KAS: &[u32] = &[2, 1];

/// kas's side of a tunnel.
struct Incoming {
    recv: h2::RecvStream,
    deframer: Deframer,
    order: Sequence,
}

/// The call or its tunnel is gone.
struct Lost;

/// Serves the tunnel to its end.
pub(super) async fn serve(
    offers: Arc<Offers>,
    request: Request<h2::RecvStream>,
    mut respond: SendResponse,
) {
    let (head, recv) = request.into_parts();
    let reading = tokio::time::timeout(MESSAGE_TIMEOUT, open(&head.headers, recv));
    let late = |_| Status::deadline_exceeded("the tunnel's descriptor did not come");
    let (methods, mut incoming) = match reading.await.map_err(late).and_then(|read| read) {
        Ok(opened) => opened,
        // Fails only when kas has gone.
        Err(status) => return drop(refuse(respond, &status)),
    };
    let mut waiting = offers.add(methods);
    let call = tokio::select! {
        // A call that was given is carried, unless kas was heard to be gone before.
        call = &mut waiting => call.ok(),
        // Nothing may come before the call.
        _ = incoming.next() => None,
        _ = poll_fn(|cx| respond.poll_reset(cx)) => None,
    };
    // One that was given in this moment.
    waiting.close();
    let unserved = waiting.try_recv();
    offers.sweep();
    if let Some(call) = call {
        return carry(*call, incoming, respond).await;
    }
    if let Ok(mut call) = unserved {
        // Nothing was done of it: the session may make it again.
        call.respond.send_reset(h2::Reason::REFUSED_STREAM);
    }
    // Fails only when kas has gone.
    let _ = refuse(respond, &Status::ok(""));
}

/// Reads the descriptor.
async fn open(
    headers: &HeaderMap,
    mut recv: h2::RecvStream,
) -> Result<(Vec<String>, Incoming), Status> {
    let mut deframer = deframer(headers, DESCRIPTOR_BOUNDS.bytes)?;
    let descriptor = first_message(&mut recv, &mut deframer).await?;
    let methods = methods(descriptor)?;
    deframer.set_limit(MAX_MESSAGE);
    let mut order = Sequence::new(CONNECT_REQUEST);
    let stepped = order.step(1);
    stepped.map_err(|error| Status::internal(error.to_string()))?;
    let incoming = Incoming {
        recv,
        deframer,
        order,
    };
    Ok((methods, incoming))
}

impl Incoming {
    /// The next message, in a right place; `None` at an end in order. Cancel-safe.
    async fn next(&mut self) -> Result<Option<connect_request::Msg>, Lost> {
        let message = message(&mut self.recv, &mut self.deframer).await;
        let Some(message) = message.map_err(|_| Lost)? else {
            self.deframer.finish().map_err(|_| Lost)?;
            return self.order.step(END).map(|()| None).map_err(|_| Lost);
        };
        let message = ConnectRequest::decode(message).map_err(|_| Lost)?;
        let message = message.msg.ok_or(Lost)?;
        self.order.step(message.field_number()).map_err(|_| Lost)?;
        Ok(Some(message))
    }
}

/// Carries a call to its end, in whichever way.
async fn carry(call: Call, mut incoming: Incoming, mut tunnel: SendResponse) {
    let Call {
        request,
        mut respond,
    } = call;
    let (head, body) = request.into_parts();
    let Ok(mut to_kas) = tunnel.send_response(response_headers(), false) else {
        return respond.send_reset(h2::Reason::REFUSED_STREAM);
    };
    let carried = {
        let calling = call_kas(&head, body, &mut to_kas);
        let answering = answer(&mut incoming, &mut respond);
        tokio::select! {
            Lost = calling => Err(Lost),
            answered = answering => answered,
        }
    };
    match carried {
        Ok(()) => {
            // Fails only when kas has gone.
            let _ = to_kas.send_trailers(trailers(&Status::ok("")));
        }
        Err(Lost) => {
            to_kas.send_reset(h2::Reason::CANCEL);
            respond.send_reset(h2::Reason::CANCEL);
        }
    }
}

/// Sends the call, until the session cancels it.
async fn call_kas(
    head: &http::request::Parts,
    mut body: h2::RecvStream,
    to_kas: &mut SendStream,
) -> Lost {
    let info = Payload {
        head: request_info(head.uri.path(), &call_meta(&head.headers)),
        body: Bytes::new(),
    };
    let Ok(mut deframer) = deframer(&head.headers, MAX_MESSAGE) else {
        return Lost;
    };
    let mut frame = Frame::nested(REQUEST_INFO, info);
    loop {
        if send_frame(to_kas, frame).await.is_err() {
            return Lost;
        }
        frame = match message(&mut body, &mut deframer).await {
            Ok(Some(body)) => {
                let payload = Payload {
                    head: Bytes::new(),
                    body,
                };
                Frame::nested(TO_KAS, payload)
            }
            Ok(None) => break,
            Err(_) => return Lost,
        };
    }
    let close = ConnectResponse {
        msg: Some(connect_response::Msg::CloseSend(CloseSend {})),
    };
    if send_frame(to_kas, Frame::message(&close)).await.is_err() {
        return Lost;
    }
    // kas can cancel only by a reset now, which its side of the tunnel shows.
    std::future::pending().await
}

/// Passes on the answer.
async fn answer(incoming: &mut Incoming, respond: &mut SendResponse) -> Result<(), Lost> {
    use connect_request::Msg;
    let mut answer: Option<SendStream> = None;
    let (mut meta, mut status) = (HeaderMap::new(), Status::ok(""));
    loop {
        let reset = poll_fn(|cx| match &mut answer {
            Some(answer) => answer.poll_reset(cx),
            None => respond.poll_reset(cx),
        });
        let next = tokio::select! {
            next = incoming.next() => next?,
            _ = reset => return Err(Lost),
        };
        match (next, &mut answer) {
            (Some(Msg::Header(header)), None) => {
                let mut response = response_headers();
                let headers = answer_headers(&header.meta).ok_or(Lost)?;
                response.headers_mut().extend(headers);
                let begun = respond.send_response(response, false);
                answer = Some(begun.map_err(|_| Lost)?);
            }
            (Some(Msg::Message(message)), Some(answer)) => {
                let payload = Payload {
                    head: Bytes::new(),
                    body: message.data,
                };
                let sent = send_frame(answer, Frame::nested(&[], payload)).await;
                sent.map_err(|_| Lost)?;
            }
            (Some(Msg::Trailer(trailer)), _) => {
                meta = answer_headers(&trailer.meta).ok_or(Lost)?;
            }
            (Some(Msg::Error(error)), _) => status = failed(error.status.unwrap_or_default()),
            (None, answer) => return end(respond, answer.take(), meta, &status),
            (Some(Msg::Descriptor(_) | Msg::Header(_) | Msg::Message(_)), _) => return Err(Lost),
        }
    }
}

fn end(
    respond: &mut SendResponse,
    answer: Option<SendStream>,
    meta: HeaderMap,
    status: &Status,
) -> Result<(), Lost> {
    let mut end = trailers(status);
    end.extend(meta);
    let ended = match answer {
        Some(mut answer) => answer.send_trailers(end),
        None => {
            let mut response = response_headers();
            response.headers_mut().extend(end);
            respond.send_response(response, true).map(drop)
        }
    };
    ended.map_err(|_| Lost)
}

fn failed(status: rpc::Status) -> Status {
    let details = match status.details.is_empty() {
        true => Bytes::new(),
        false => status.encode_to_vec().into(),
    };
    let code = Code::from(status.code);
    Status::with_details(code, status.message, details)
}

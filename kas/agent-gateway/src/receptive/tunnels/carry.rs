//! Carries a call of the agent's from its tunnel to the agents' port.

use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Uri, header, uri::PathAndQuery};
use prost::Message as _;
use proto::{
    agent::reverse_tunnel::rpc::{
        ConnectRequest, Error, Header, RequestInfo, Trailer, connect_request, connect_response,
    },
    frame::{Deframer, Encoding, Frame, FrameBuilder, Payload},
    google::rpc,
    metadata::RawMeta,
};
use runtime::{
    grpc::{self, SendRequest, SendStream, send_frame, status_from},
    tunnel::{Inbound, Outbound, answer_meta, call_headers},
};
use tonic::{Code, Status};

use super::Tunnel;

/// How long the agent may take to end a tunnel after its call has ended.
const END_TIMEOUT: Duration = Duration::from_secs(60);
/// Where a message of the answer is in what the tunnel carries: `ConnectRequest.message`, `Message.data`.
const TO_AGENT: &[u32] = &[3, 1];
/// What the user agent of an agent begins with.
const AGENT_PREFIX: &str = "gitlab-agent/";
/// The version of an agent whose calls do not say it: what tells versions apart is older than tunnels to agents.
const UNSAID_VERSION: HeaderValue = HeaderValue::from_static("gitlab-agent/17.0.0/receptive");

/// The call or its tunnel is gone.
struct Lost;

/// Carries the call to its end.
pub(super) async fn carry(tunnel: Tunnel, gateway: &SendRequest) {
    let Tunnel {
        mut inbound,
        mut outbound,
        info,
    } = tunnel;
    let Some(request) = info.as_ref().and_then(request) else {
        tracing::debug!("a receptive agent makes a call with metadata that HTTP/2 cannot carry");
        let status = Status::invalid_argument("the call's path or metadata cannot be carried");
        return outbound.fail(&status);
    };
    let sent = match gateway.clone().ready().await {
        Ok(mut gateway) => gateway.send_request(request, false),
        Err(error) => Err(error),
    };
    // The agents' port takes no more calls: nothing was done of this one.
    let Ok((response, mut send)) = sent else {
        return outbound.refuse();
    };
    let carried = tokio::select! {
        Lost = to_gateway(&mut inbound, &mut send) => false,
        answered = to_agent(response, &mut outbound) => answered.is_ok(),
    };
    if !carried {
        send.send_reset(h2::Reason::CANCEL);
        return outbound.cancel();
    }
    // Whatever of the call the agents' port has not read, it does not want.
    drop(send);
    if !inbound.drain(END_TIMEOUT).await {
        outbound.cancel();
    }
}

fn request(info: &RequestInfo) -> Option<Request<()>> {
    let path = PathAndQuery::try_from(&info.method_name).ok()?;
    let mut parts = Uri::from_static("http://kas/").into_parts();
    parts.path_and_query = Some(path);
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.version_mut() = http::Version::HTTP_2;
    *request.uri_mut() = Uri::from_parts(parts).ok()?;
    *request.headers_mut() = call_headers(&info.meta)?;
    let headers = request.headers_mut();
    if !names_its_version(headers) {
        headers.insert(header::USER_AGENT, UNSAID_VERSION);
    }
    let grpc = HeaderValue::from_static("application/grpc");
    headers.insert(header::CONTENT_TYPE, grpc);
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    Some(request)
}

fn names_its_version(headers: &HeaderMap) -> bool {
    let named = headers.get(header::USER_AGENT);
    named.is_some_and(|named| named.as_bytes().starts_with(AGENT_PREFIX.as_bytes()))
}

/// Passes on what the agent sends, until it cancels the call.
async fn to_gateway(inbound: &mut Inbound, send: &mut SendStream) -> Lost {
    use connect_response::Msg;
    let mut open = true;
    loop {
        let sent = match inbound.next().await {
            Ok(Some(Msg::Message(message))) if open => {
                let payload = Payload {
                    head: Bytes::new(),
                    body: message.data,
                };
                send_frame(send, Frame::nested(&[], payload)).await
            }
            Ok(Some(Msg::CloseSend(_))) if open => {
                open = false;
                send.send_data(Frame::default(), true)
            }
            Ok(Some(_) | None) | Err(_) => return Lost,
        };
        if sent.is_err() {
            // The answer says why.
            return std::future::pending().await;
        }
    }
}

/// Passes on the answer, and ends the tunnel.
async fn to_agent(
    response: h2::client::ResponseFuture,
    outbound: &mut Outbound,
) -> Result<(), Lost> {
    let response = match response.await {
        Ok(response) => response,
        Err(error) => {
            outbound.fail(&status_from(&error));
            return Ok(());
        }
    };
    let (head, mut recv) = response.into_parts();
    if let Some(status) = Status::from_header_map(&head.headers) {
        return end(outbound, answer_meta(&head.headers), &status);
    }
    let header = FrameBuilder::default().message(&message(connect_request::Msg::Header(Header {
        meta: answer_meta(&head.headers),
    })));
    outbound.send(header.build()).await.map_err(|_| Lost)?;
    let mut deframer = Deframer::new(Encoding::Identity);
    loop {
        match grpc::message(&mut recv, &mut deframer).await {
            Ok(Some(body)) => {
                let payload = Payload {
                    head: Bytes::new(),
                    body,
                };
                let sent = outbound.send(Frame::nested(TO_AGENT, payload)).await;
                sent.map_err(|_| Lost)?;
            }
            Ok(None) => break,
            Err(error) => return end(outbound, RawMeta::new(), &grpc::not_received(&error)),
        }
    }
    let trailers = match poll_fn(|cx| recv.poll_trailers(cx)).await {
        Ok(trailers) => trailers.unwrap_or_default(),
        Err(error) => return end(outbound, RawMeta::new(), &status_from(&error)),
    };
    let status = Status::from_header_map(&trailers)
        .unwrap_or_else(|| Status::unavailable("the call ended without a status"));
    end(outbound, answer_meta(&trailers), &status)
}

fn end(outbound: &mut Outbound, meta: RawMeta, status: &Status) -> Result<(), Lost> {
    let trailer = message(connect_request::Msg::Trailer(Trailer { meta }));
    let mut frame = outbound.builder().message(&trailer);
    if status.code() != Code::Ok {
        let details = rpc::Status::decode(status.details());
        let error = Error {
            status: Some(rpc::Status {
                code: status.code() as i32,
                message: status.message().to_owned(),
                details: details.map(|it| it.details).unwrap_or_default(),
            }),
        };
        frame = frame.message(&message(connect_request::Msg::Error(error)));
    }
    outbound.end(frame.build()).map_err(|_| Lost)
}

fn message(msg: connect_request::Msg) -> ConnectRequest {
    ConnectRequest { msg: Some(msg) }
}

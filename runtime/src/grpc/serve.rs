//! Runs a tonic service on one accepted HTTP/2 stream.

use std::{convert::Infallible, future::poll_fn, pin::pin};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Body as _;
use http_body_util::Full;
use proto::{bounds::Bounds, frame::Frame};
use tonic::{Code, Status, body::Body};
use tower::Service;

use super::{CountedCall, SendResponse, SendStream, StreamBody, refuse, unary};

/// Calls `service` with the request and sends its answer. Ends when the answer
/// is sent, or when the client has reset the stream.
///
/// # Errors
/// When the stream or its connection broke.
pub async fn serve<S>(
    service: &mut S,
    request: Request<h2::RecvStream>,
    respond: SendResponse,
) -> Result<(), h2::Error>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let request = request.map(|stream| Body::new(StreamBody::new(stream)));
    call(service, request, respond, None).await
}

/// The same, counted. Where there are `bounds`, the method takes one message, which must be here in time and within
/// them before the service hears of the call.
///
/// # Errors
/// When the stream or its connection broke.
pub async fn serve_counted<S>(
    service: &mut S,
    request: Request<h2::RecvStream>,
    respond: SendResponse,
    bounds: Option<&Bounds>,
    counted: Option<&CountedCall>,
) -> Result<(), h2::Error>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let Some(bounds) = bounds else {
        let request = request.map(|stream| Body::new(StreamBody::new(stream)));
        return call(service, request, respond, counted).await;
    };
    let (mut head, mut stream) = request.into_parts();
    let message = match unary::read(&head.headers, &mut stream, bounds).await {
        Ok(message) => message,
        Err(status) => {
            if let Some(counted) = counted {
                counted.ends(status.code());
            }
            return refuse(respond, &status);
        }
    };
    if let (Some(counted), Some(_)) = (counted, &message) {
        counted.received();
    }
    head.headers.remove(&unary::ENCODING);
    // Whether there must be one, the service says, which may not know the method.
    let framed = message.as_deref().map(unary::framed).unwrap_or_default();
    let body = Body::new(Full::new(framed));
    call(service, Request::from_parts(head, body), respond, counted).await
}

async fn call<S>(
    service: &mut S,
    request: Request<Body>,
    mut respond: SendResponse,
    counted: Option<&CountedCall>,
) -> Result<(), h2::Error>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let call = service.call(request);
    let response = tokio::select! {
        response = call => match response {
            Ok(response) => response,
            Err(never) => match never {},
        },
        reset = poll_fn(|cx| respond.poll_reset(cx)) => return reset.map(drop),
    };
    let (head, body) = response.into_parts();
    let over = body.is_end_stream();
    if over && let Some(counted) = counted {
        counted.ends(code(&head.headers));
    }
    let mut stream = respond.send_response(Response::from_parts(head, ()), over)?;
    if over {
        return Ok(());
    }
    send_body(&mut stream, body, counted).await
}

/// How a call ends, as its trailers say.
fn code(trailers: &HeaderMap) -> Code {
    Status::from_header_map(trailers).map_or(Code::Unknown, |status| status.code())
}

/// How many messages there are in whole frames of gRPC.
fn messages(mut frames: &[u8]) -> usize {
    let mut count = 0;
    while let Some((head, rest)) = frames.split_first_chunk::<5>() {
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
        let length = usize::try_from(length).unwrap_or(usize::MAX);
        frames = rest.get(length..).unwrap_or_default();
        count += 1;
    }
    count
}

async fn send_body(
    stream: &mut SendStream,
    body: Body,
    counted: Option<&CountedCall>,
) -> Result<(), h2::Error> {
    let ends = |code| {
        if let Some(counted) = counted {
            counted.ends(code);
        }
    };
    let mut body = pin!(body);
    loop {
        let frame = tokio::select! {
            frame = poll_fn(|cx| body.as_mut().poll_frame(cx)) => frame,
            reset = poll_fn(|cx| stream.poll_reset(cx)) => return reset.map(drop),
        };
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => {
                    if let Some(counted) = counted {
                        (0..messages(&data)).for_each(|_| counted.sent());
                    }
                    send_frame(stream, Frame::raw(data)).await?;
                }
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    ends(code(&trailers));
                    return stream.send_trailers(trailers);
                }
            },
            Some(Err(status)) => {
                ends(status.code());
                return stream.send_trailers(super::trailers(&status));
            }
            None => {
                ends(Code::Unknown);
                return stream.send_data(Frame::raw(Bytes::new()), true);
            }
        }
    }
}

/// Sends a frame once the peer's flow control has room for all of it, or in
/// pieces where it never has. Cancel-safe only between frames.
///
/// # Errors
/// When the stream or its connection broke.
pub async fn send_frame(stream: &mut SendStream, frame: Frame) -> Result<(), h2::Error> {
    use bytes::Buf;
    let wanted = frame.remaining();
    if wanted > 0 {
        stream.reserve_capacity(wanted);
        // Any capacity will do: h2 holds the rest back, and the next frame waits.
        if stream.capacity() == 0 {
            match poll_fn(|cx| stream.poll_capacity(cx)).await {
                Some(granted) => {
                    granted?;
                }
                None => return Err(h2::Reason::CANCEL.into()),
            }
        }
    }
    stream.send_data(frame, false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_a_frame_are_counted_and_a_call_without_a_status_is_unknown() {
        assert_eq!(messages(b""), 0);
        assert_eq!(messages(b"\0\0\0\0\0\0\0\0\0\x02ab"), 2);
        assert_eq!(messages(b"\0\xff\xff\xff\xffab"), 1);
        assert_eq!(code(&HeaderMap::new()), Code::Unknown);
    }
}

//! Runs a tonic service on one accepted HTTP/2 stream.

use std::{convert::Infallible, future::poll_fn, pin::pin};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body as _;
use http_body_util::Full;
use proto::{bounds::Bounds, frame::Frame};
use tonic::body::Body;
use tower::Service;

use super::{SendResponse, SendStream, StreamBody, refuse, unary};

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
    call(service, request, respond).await
}

/// The same for methods that take one message: it must be here in time and within `bounds` before the service
/// hears of the call.
///
/// # Errors
/// When the stream or its connection broke.
pub async fn serve_bounded<S>(
    service: &mut S,
    request: Request<h2::RecvStream>,
    respond: SendResponse,
    bounds: &Bounds,
) -> Result<(), h2::Error>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
{
    let (mut head, mut stream) = request.into_parts();
    let message = match unary::read(&head.headers, &mut stream, bounds).await {
        Ok(message) => message,
        Err(status) => return refuse(respond, &status),
    };
    head.headers.remove(unary::ENCODING);
    // Whether there must be one, the service says, which may not know the method.
    let framed = message.as_deref().map(unary::framed).unwrap_or_default();
    let body = Body::new(Full::new(framed));
    call(service, Request::from_parts(head, body), respond).await
}

async fn call<S>(
    service: &mut S,
    request: Request<Body>,
    mut respond: SendResponse,
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
    let mut stream = respond.send_response(Response::from_parts(head, ()), over)?;
    if over {
        return Ok(());
    }
    send_body(&mut stream, body).await
}

async fn send_body(stream: &mut SendStream, body: Body) -> Result<(), h2::Error> {
    let mut body = pin!(body);
    loop {
        let frame = tokio::select! {
            frame = poll_fn(|cx| body.as_mut().poll_frame(cx)) => frame,
            reset = poll_fn(|cx| stream.poll_reset(cx)) => return reset.map(drop),
        };
        match frame {
            Some(Ok(frame)) => match frame.into_data() {
                Ok(data) => send_frame(stream, Frame::raw(data)).await?,
                Err(frame) => {
                    let trailers = frame.into_trailers().unwrap_or_default();
                    return stream.send_trailers(trailers);
                }
            },
            Some(Err(status)) => return stream.send_trailers(super::trailers(&status)),
            None => return stream.send_data(Frame::raw(Bytes::new()), true),
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

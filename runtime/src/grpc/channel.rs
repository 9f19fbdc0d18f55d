//! What tonic's clients call through: one HTTP/2 connection.

use std::{
    future::poll_fn,
    pin::{Pin, pin},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body::{Body as _, Frame as BodyFrame};
use proto::frame::Frame;
use tonic::{Status, body::Body};
use tower::Service;

use super::{SendRequest, SendStream, StreamBody, send_frame};

/// A connection as tonic's clients want it. Clones share the connection.
#[derive(Clone)]
pub struct Channel {
    send: SendRequest,
    origin: Uri,
    metadata: HeaderMap,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Channel")
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// A call that got no response.
#[derive(Debug, thiserror::Error)]
#[error("the call failed: {0}")]
pub struct CallFailed(#[from] h2::Error);

impl Channel {
    /// Calls go to `origin` (scheme and authority), each with `metadata`.
    #[must_use]
    pub fn new(send: SendRequest, origin: Uri, metadata: HeaderMap) -> Self {
        Self {
            send,
            origin,
            metadata,
        }
    }

    fn request(&self, path: &Uri) -> Request<()> {
        let mut parts = self.origin.clone().into_parts();
        parts.path_and_query = path.path_and_query().cloned();
        let mut request = Request::new(());
        *request.method_mut() = http::Method::POST;
        *request.version_mut() = http::Version::HTTP_2;
        *request.uri_mut() = Uri::from_parts(parts).expect("an origin and a path make a URI");
        request.headers_mut().extend(self.metadata.clone());
        request
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<ResponseBody>;
    type Error = CallFailed;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, CallFailed>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), CallFailed>> {
        self.send.poll_ready(cx).map_err(CallFailed)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (parts, body) = request.into_parts();
        let mut head = self.request(&parts.uri);
        head.headers_mut().extend(parts.headers);
        let sent = self.send.send_request(head, false);
        Box::pin(async move {
            let (response, stream) = sent?;
            let mut pump: Pump = Box::pin(pump(stream, body));
            let mut response = pin!(response);
            let mut pumping = true;
            let response = poll_fn(|cx| {
                // The pump's own failure shows as the response's.
                if pumping && pump.as_mut().poll(cx).is_ready() {
                    pumping = false;
                }
                response.as_mut().poll(cx)
            })
            .await?;
            let pump = pumping.then_some(pump);
            Ok(response.map(|stream| ResponseBody {
                pump,
                body: StreamBody::new(stream),
            }))
        })
    }
}

type Pump = Pin<Box<dyn Future<Output = Result<(), h2::Error>> + Send>>;

/// Sends a request's body. Dropped unfinished, it resets the stream.
async fn pump(mut stream: SendStream, body: Body) -> Result<(), h2::Error> {
    let mut body = pin!(body);
    while let Some(frame) = poll_fn(|cx| body.as_mut().poll_frame(cx)).await {
        let Ok(frame) = frame else {
            stream.send_reset(h2::Reason::CANCEL);
            return Ok(());
        };
        if let Ok(data) = frame.into_data() {
            send_frame(&mut stream, Frame::raw(data)).await?;
        }
    }
    stream.send_data(Frame::raw(Bytes::new()), true)
}

/// A response's body; reading it also drives what is left of the request's.
pub struct ResponseBody {
    pump: Option<Pump>,
    body: StreamBody,
}

impl std::fmt::Debug for ResponseBody {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ResponseBody")
            .field("body", &self.body)
            .finish_non_exhaustive()
    }
}

impl http_body::Body for ResponseBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<BodyFrame<Bytes>, Status>>> {
        if let Some(pump) = &mut self.pump
            && pump.as_mut().poll(cx).is_ready()
        {
            self.pump = None;
        }
        Pin::new(&mut self.body).poll_frame(cx)
    }
}

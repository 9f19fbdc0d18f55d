//! gRPC's status, as headers and trailers and as what HTTP/2 errors mean.

use http::{HeaderMap, HeaderValue, Response, header::CONTENT_TYPE};
use tonic::{Code, Status};

use super::SendResponse;

const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// The head of a gRPC response that is not over yet.
#[must_use]
pub fn response_headers() -> Response<()> {
    let mut response = Response::new(());
    response.headers_mut().insert(CONTENT_TYPE, GRPC);
    response
}

/// Trailers that end a call with `status`.
#[must_use]
pub fn trailers(status: &Status) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    if status.add_header(&mut trailers).is_err() {
        trailers.insert("grpc-status", HeaderValue::from(Code::Internal as i32));
    }
    trailers
}

/// Trailers that end a call well.
#[must_use]
pub fn ok_trailers() -> HeaderMap {
    HeaderMap::from_iter([(
        http::HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )])
}

/// Answers a request with nothing but a status.
///
/// # Errors
/// When the stream is gone already.
pub fn refuse(mut respond: SendResponse, status: &Status) -> Result<(), h2::Error> {
    let mut response = response_headers();
    response.headers_mut().extend(trailers(status));
    respond.send_response(response, true).map(drop)
}

/// What an HTTP/2 error means to a gRPC call
/// (<https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md#errors>).
#[must_use]
pub fn status_from(error: &h2::Error) -> Status {
    let code = match error.reason() {
        Some(h2::Reason::CANCEL) => Code::Cancelled,
        Some(h2::Reason::ENHANCE_YOUR_CALM) => Code::ResourceExhausted,
        Some(h2::Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
        Some(h2::Reason::NO_ERROR | h2::Reason::REFUSED_STREAM) => Code::Unavailable,
        None if error.is_io() => Code::Unavailable,
        Some(_) | None => Code::Internal,
    };
    Status::new(code, error.to_string())
}

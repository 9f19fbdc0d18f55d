//! Requests that are no calls of gRPC, at a port that serves nothing else.

use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header::CONTENT_TYPE};
use proto::frame::Frame;

use super::SendResponse;

const TEXT: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// Gives back what answers a call of gRPC. Any other request, such as kubectl's at the wrong port, is
/// answered here: 415 (as gRPC has it for other content types), and `directions` to the right port.
#[must_use]
pub fn reject_non_grpc<B>(
    request: &Request<B>,
    mut respond: SendResponse,
    directions: &str,
) -> Option<SendResponse> {
    if is_grpc(request) {
        return Some(respond);
    }
    // A client that is gone needs no answer.
    if let Ok(mut stream) = respond.send_response(unsupported(), false) {
        let text = Bytes::from(format!("{directions}\n"));
        let _ = stream.send_data(Frame::raw(text), true);
    }
    None
}

fn unsupported() -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = StatusCode::UNSUPPORTED_MEDIA_TYPE;
    response.headers_mut().insert(CONTENT_TYPE, TEXT);
    response
}

/// As the protocol says: `application/grpc`, and what may follow it.
fn is_grpc<B>(request: &Request<B>) -> bool {
    let content = request.headers().get(CONTENT_TYPE);
    content.is_some_and(|content| {
        let rest = content.as_bytes().strip_prefix(b"application/grpc");
        rest.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn grpc_is_known_by_its_content_type() {
        let cases = [
            ("application/grpc", true),
            ("application/grpc+proto", true),
            ("application/grpc;x=y", true),
            ("application/grpc-web", false),
            ("application/json", false),
        ];

        for (content, expected) in cases {
            let request = Request::builder().header(CONTENT_TYPE, content);
            assert_eq!(is_grpc(&request.body(()).unwrap()), expected, "{content}");
        }
        assert!(!is_grpc(&Request::new(())));
    }
}

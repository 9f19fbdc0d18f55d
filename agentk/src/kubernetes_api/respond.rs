//! Streams the API server's response to kas.

use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue, Response, Version, header, response::Parts};
use http_body::Body as _;
use proto::{agent::prototool, metadata};
use runtime::grpc::CHUNK_BYTES;
use tonic::Status;

use super::{batch::Batch, unavailable};
use crate::{
    call::{CallError, Outbound},
    cluster::AnswerBody,
    metrics::Metrics,
    version,
};

/// How long a response's head may wait for its body, so that a short response is one frame.
const COALESCE_TIMEOUT: Duration = Duration::from_millis(2);

/// Headers that are about the connection to the API server.
const CONNECTION_HEADERS: [HeaderName; 3] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    HeaderName::from_static("keep-alive"),
];

/// Sends a response and ends the call.
pub(super) async fn whole(
    outbound: &mut Outbound,
    response: Response<AnswerBody>,
    metrics: &Metrics,
) -> Result<(), CallError> {
    let (head, body) = response.into_parts();
    let mut batch = Batch::new();
    batch.header(outbound, of_response(head));
    let mut pieces = Pieces::new(body);
    pass_on(outbound, batch, &mut pieces, metrics).await
}

/// Where the pieces of a response's body come from, each fit for a message.
pub(super) trait Source {
    /// The next piece; none at the end.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>>;
}

/// Sends a response whose head is in the batch, and ends the call.
pub(super) async fn pass_on(
    outbound: &mut Outbound,
    mut batch: Batch,
    pieces: &mut impl Source,
    metrics: &Metrics,
) -> Result<(), CallError> {
    let mut wait = COALESCE_TIMEOUT;
    loop {
        let piece = match soon(pieces, std::mem::take(&mut wait)).await {
            Some(piece) => piece,
            None => {
                batch.flush(outbound).await?;
                let next = poll_fn(|cx| pieces.poll_next(cx));
                outbound.unless_reset(next).await?
            }
        };
        match piece {
            Ok(Some(bytes)) => {
                metrics.bytes_sent.inc_by(bytes.len() as u64);
                batch.data(outbound, bytes);
            }
            Ok(None) => {
                batch.trailer(outbound);
                return Ok(batch.end(outbound)?);
            }
            Err(status) => {
                batch.flush(outbound).await?;
                return Err(status.into());
            }
        }
        if batch.is_full() {
            batch.flush(outbound).await?;
        }
    }
}

/// The next piece if it comes within `wait`. Cancel-safe.
async fn soon(pieces: &mut impl Source, wait: Duration) -> Option<Result<Option<Bytes>, Status>> {
    if wait.is_zero() {
        return poll_fn(|cx| {
            Poll::Ready(match pieces.poll_next(cx) {
                Poll::Ready(piece) => Some(piece),
                Poll::Pending => None,
            })
        })
        .await;
    }
    let next = poll_fn(|cx| pieces.poll_next(cx));
    tokio::time::timeout(wait, next).await.ok()
}

/// A response's head as kas wants it.
pub(super) fn of_response(mut head: Parts) -> prototool::HttpResponse {
    // Where both are given the transfer coding counts, and the length is not that of the body (RFC 9112, 6.3).
    if head.headers.contains_key(header::TRANSFER_ENCODING) {
        head.headers.remove(header::CONTENT_LENGTH);
    }
    if head.status != http::StatusCode::SWITCHING_PROTOCOLS {
        for name in CONNECTION_HEADERS {
            head.headers.remove(name);
        }
    }
    leave_out_what_would_change(&mut head.headers);
    add_via(&mut head.headers, head.version);
    prototool::HttpResponse {
        status_code: i32::from(head.status.as_u16()),
        status: head.status.to_string(),
        header: metadata::raw_from_headers(&head.headers, metadata::canonical),
    }
}

/// Servers of GitLab up to 17 take values for texts in UTF-8. Other values are dropped with a warning header.
fn leave_out_what_would_change(headers: &mut HeaderMap) {
    let is_sendable = |value: &HeaderValue| {
        value.as_bytes().is_ascii() || std::str::from_utf8(value.as_bytes()).is_ok()
    };
    if headers.values().all(is_sendable) {
        return;
    }
    let is_lost =
        |(name, value): (&HeaderName, &HeaderValue)| (!is_sendable(value)).then(|| name.clone());
    let mut lost: Vec<_> = headers.iter().filter_map(is_lost).collect();
    lost.dedup();
    for name in lost {
        headers.remove(&name);
        let text = format!("299 agentk \"header {name} was left out: its value is not UTF-8\"");
        if let Ok(warning) = HeaderValue::from_str(&text) {
            let _ = headers.try_append(header::WARNING, warning);
        }
    }
}

fn add_via(headers: &mut HeaderMap, version: Version) {
    let via = match version {
        Version::HTTP_2 => version::VIA_HTTP_2,
        Version::HTTP_10 => version::VIA_HTTP_10,
        _ => version::VIA_HTTP_11,
    };
    // Where there is no room for one more it stays out.
    let _ = headers.try_append(header::VIA, via);
}

/// A body in pieces that fit into messages.
pub(super) struct Pieces {
    body: AnswerBody,
    rest: Bytes,
}

impl Pieces {
    pub(super) fn new(body: AnswerBody) -> Self {
        Self {
            body,
            rest: Bytes::new(),
        }
    }
}

impl Source for Pieces {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        while self.rest.is_empty() {
            if self.body.is_end_stream() {
                return Poll::Ready(Ok(None));
            }
            match ready!(Pin::new(&mut self.body).poll_frame(cx)) {
                None => return Poll::Ready(Ok(None)),
                Some(Err(error)) => return Poll::Ready(Err(unavailable(&error))),
                // The protocol has no place for trailers.
                Some(Ok(frame)) => self.rest = frame.into_data().unwrap_or_default(),
            }
        }
        let length = self.rest.len().min(CHUNK_BYTES);
        Poll::Ready(Ok(Some(self.rest.split_to(length))))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_that_would_be_changed_is_left_out_with_a_warning() {
        let response = Response::builder()
            .header("x-name", HeaderValue::from_bytes(b"caf\xE9").unwrap())
            .header(
                "x-other",
                HeaderValue::from_bytes("café".as_bytes()).unwrap(),
            );

        let head = of_response(response.body(()).unwrap().into_parts().0);

        let values = |name| metadata::values(&head.header, name).collect::<Vec<_>>();
        assert!(values("X-Name").is_empty());
        assert_eq!(values("X-Other"), ["café".as_bytes()]);
        let warning = b"299 agentk \"header x-name was left out: its value is not UTF-8\"";
        assert_eq!(values("Warning"), [warning]);
    }

    #[test]
    fn a_length_beside_a_coding_does_not_count() {
        let response = Response::builder()
            .header("transfer-encoding", "chunked")
            .header("content-length", "7");

        let head = of_response(response.body(()).unwrap().into_parts().0);

        let names: Vec<_> = head.header.iter().map(|it| &it.key[..]).collect();
        assert_eq!(names, [b"Via"]);
    }
}

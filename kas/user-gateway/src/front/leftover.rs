//! The body of a request that was refused before it was read.
//!
//! Over HTTP/1.1 the next request stands behind it, and a client that is still sending it may lose
//! the answer when the connection is closed. HTTP/2 has streams for that.

use std::{pin::pin, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Version, header, request::Parts};
use http_body::Body;
use http_body_util::BodyExt;

/// Bytes of an unwanted body that are read, at most: as many as Go's server reads.
const DISCARDED_BYTES: usize = 256 << 10;
/// How long that may take.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

/// What becomes of the body of a refused request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Leftover {
    /// Nothing needs to: there is none, or other requests do not wait behind it.
    Harmless,
    /// It is read, so that the connection can go on.
    Read,
    /// It has not been asked for, and the connection ends.
    Unasked,
}

impl Leftover {
    /// For a request with this head, which may have a body.
    pub(super) fn of(head: &Parts, has_body: bool) -> Self {
        if head.version >= Version::HTTP_2 || !has_body {
            Self::Harmless
        } else if head.headers.contains_key(header::EXPECT) {
            Self::Unasked
        } else {
            Self::Read
        }
    }

    /// Disposes of the body ahead of an answer with these headers. Nothing is kept of it.
    pub(super) async fn dispose<B>(self, body: B, headers: &mut HeaderMap)
    where
        B: Body<Data = Bytes>,
    {
        let goes_on = match self {
            Self::Harmless => true,
            Self::Read => is_read_whole(body).await,
            Self::Unasked => false,
        };
        if !goes_on {
            close_behind(headers);
        }
    }

    /// The same where the body is already gone, read or not.
    pub(super) fn abandon(self, headers: &mut HeaderMap) {
        if self != Self::Harmless {
            close_behind(headers);
        }
    }
}

/// Says that the connection ends behind an answer with these headers.
pub(super) fn close_behind(headers: &mut HeaderMap) {
    headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
}

async fn is_read_whole<B: Body<Data = Bytes>>(body: B) -> bool {
    let mut body = pin!(body);
    let reading = async {
        let mut read = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            read += frame.data_ref().map_or(0, Bytes::len);
            if read > DISCARDED_BYTES {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(DISCARD_TIMEOUT, reading)
        .await
        .unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::Request;
    use http_body_util::Full;

    async fn closes(version: Version, length: usize, expects: bool) -> bool {
        let body = Full::new(Bytes::from(vec![0; length]));
        let mut request = Request::post("/").version(version);
        if expects {
            request = request.header("expect", "100-continue");
        }
        let (head, body) = request.body(body).unwrap().into_parts();
        let mut headers = HeaderMap::new();
        Leftover::of(&head, !body.is_end_stream())
            .dispose(body, &mut headers)
            .await;
        headers.contains_key(header::CONNECTION)
    }

    #[tokio::test]
    async fn a_connection_ends_behind_what_is_not_read() {
        assert!(!closes(Version::HTTP_11, 0, false).await);
        assert!(!closes(Version::HTTP_11, DISCARDED_BYTES, false).await);
        assert!(closes(Version::HTTP_11, DISCARDED_BYTES + 1, false).await);
        assert!(closes(Version::HTTP_11, 1, true).await);
        assert!(!closes(Version::HTTP_2, 1 << 20, false).await);
    }
}

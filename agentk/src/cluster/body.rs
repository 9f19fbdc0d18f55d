//! The body of a request to the API server, fed from a tunnel.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// A piece of a body on its way from the tunnel.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Bytes.
    Data(Bytes),
    /// There are no more; without it the body was cut short.
    End,
}

/// A request's body.
#[derive(Debug)]
pub(crate) struct RequestBody(Option<Streamed>);

#[derive(Debug)]
struct Streamed {
    pieces: mpsc::Receiver<Piece>,
    left: Option<u64>,
}

/// kas did not send all of the body.
#[derive(Debug, thiserror::Error)]
#[error("the request's body was cut short")]
pub(crate) struct CutShort;

impl RequestBody {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self(None)
    }

    /// A body of so many bytes, where that is known.
    pub(crate) fn streamed(pieces: mpsc::Receiver<Piece>, length: Option<u64>) -> Self {
        Self(Some(Streamed {
            pieces,
            left: length,
        }))
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = CutShort;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CutShort>>> {
        let Some(streamed) = &mut self.0 else {
            return Poll::Ready(None);
        };
        match ready!(streamed.pieces.poll_recv(cx)) {
            Some(Piece::Data(bytes)) => {
                if let Some(left) = &mut streamed.left {
                    *left = left.saturating_sub(bytes.len() as u64);
                }
                Poll::Ready(Some(Ok(Frame::data(bytes))))
            }
            Some(Piece::End) => {
                self.0 = None;
                Poll::Ready(None)
            }
            None => Poll::Ready(Some(Err(CutShort))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none()
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            None => SizeHint::with_exact(0),
            Some(streamed) => streamed
                .left
                .map_or_else(SizeHint::default, SizeHint::with_exact),
        }
    }
}

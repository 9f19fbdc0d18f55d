//! The next message of a received HTTP/2 stream.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use proto::frame::{Deframer, FrameError};

/// Why there is no next message.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The stream or its connection broke.
    #[error(transparent)]
    Stream(#[from] h2::Error),
    /// The bytes are no messages.
    #[error(transparent)]
    Frame(#[from] FrameError),
}

/// Waits for the next message; `None` at the end of the data, where the
/// deframer may be left with a part of one. Cancel-safe.
pub fn poll_message(
    recv: &mut h2::RecvStream,
    deframer: &mut Deframer,
    cx: &mut Context<'_>,
) -> Poll<Result<Option<Bytes>, ReceiveError>> {
    loop {
        if let Some(message) = deframer.next_message()? {
            return Poll::Ready(Ok(Some(message)));
        }
        let Some(data) = ready!(recv.poll_data(cx)).transpose()? else {
            return Poll::Ready(Ok(None));
        };
        // Fails only when the stream is gone, which the next poll reports.
        let _ = recv.flow_control().release_capacity(data.len());
        deframer.push(data);
    }
}

/// [`poll_message`] as a future.
///
/// # Errors
/// [`ReceiveError`] when there can be no next message.
pub async fn message(
    recv: &mut h2::RecvStream,
    deframer: &mut Deframer,
) -> Result<Option<Bytes>, ReceiveError> {
    std::future::poll_fn(|cx| poll_message(recv, deframer, cx)).await
}

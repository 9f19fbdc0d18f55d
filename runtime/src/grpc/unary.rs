//! The one message of a unary call, read within the method's bounds and in time.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName};
use proto::{
    bounds::{Bounds, OutOfBounds},
    frame::{Deframer, Encoding, Frame, FrameError},
};
use tonic::Status;

use super::{ReceiveError, SendResponse, message, ok_trailers, response_headers, status_from};

/// How long the message of a unary call may take to be here, from its first byte to its last.
pub const MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Where a call says how its messages are compressed.
pub(super) static ENCODING: HeaderName = HeaderName::from_static("grpc-encoding");

/// The message of a call, decoded. Nothing is allocated for what its sender only announces.
///
/// # Errors
/// The refusal: not in time, out of bounds, or not understood.
pub async fn receive<M: prost::Message + Default>(
    headers: &HeaderMap,
    stream: &mut h2::RecvStream,
    bounds: &Bounds,
) -> Result<M, Status> {
    let message = in_time(first(headers, stream, bounds)).await?;
    bounds
        .decode(message)
        .map_err(|error| out_of_bounds(&error))
}

/// The message of a call, checked and still encoded; none if the call ended without one.
pub(super) async fn read(
    headers: &HeaderMap,
    stream: &mut h2::RecvStream,
    bounds: &Bounds,
) -> Result<Option<Bytes>, Status> {
    let read = async {
        let mut deframer = deframer(headers, bounds.bytes)?;
        let message = message(stream, &mut deframer).await;
        message.map_err(|error| not_received(&error))
    };
    let message = in_time(read).await?;
    if let Some(message) = &message {
        let checked = bounds.check(message);
        checked.map_err(|error| out_of_bounds(&error))?;
    }
    Ok(message)
}

async fn in_time<T>(read: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let late = |_| Status::deadline_exceeded("the message of the call did not come in time");
    tokio::time::timeout(MESSAGE_TIMEOUT, read)
        .await
        .map_err(late)?
}

async fn first(
    headers: &HeaderMap,
    stream: &mut h2::RecvStream,
    bounds: &Bounds,
) -> Result<Bytes, Status> {
    let mut deframer = deframer(headers, bounds.bytes)?;
    first_message(stream, &mut deframer).await
}

/// A deframer for what these headers announce, for messages of up to `limit` bytes.
///
/// # Errors
/// UNIMPLEMENTED for a compression that is not known.
pub fn deframer(headers: &HeaderMap, limit: usize) -> Result<Deframer, Status> {
    Encoding::from_header(headers.get(&ENCODING))
        .map(|encoding| Deframer::limited(encoding, limit))
        .map_err(|error| Status::unimplemented(error.to_string()))
}

/// The first message of a stream. The caller has a deadline.
///
/// # Errors
/// When there is none, or it is none that the deframer takes.
pub async fn first_message(
    stream: &mut h2::RecvStream,
    deframer: &mut Deframer,
) -> Result<Bytes, Status> {
    match message(stream, deframer).await {
        Ok(Some(message)) => Ok(message),
        Ok(None) => Err(Status::invalid_argument(
            "the stream ended before its first message",
        )),
        Err(error) => Err(not_received(&error)),
    }
}

/// What to tell who sent something that is no message.
#[must_use]
pub fn not_received(error: &ReceiveError) -> Status {
    match error {
        ReceiveError::Stream(error) => status_from(error),
        ReceiveError::Frame(error @ FrameError::TooLong { .. }) => {
            Status::resource_exhausted(error.to_string())
        }
        ReceiveError::Frame(error) => Status::invalid_argument(error.to_string()),
    }
}

/// What to tell who sent a message out of bounds.
#[must_use]
pub fn out_of_bounds(error: &OutOfBounds) -> Status {
    match error {
        OutOfBounds::TooLong { .. } | OutOfBounds::TooMany { .. } => {
            Status::resource_exhausted(error.to_string())
        }
        OutOfBounds::Malformed(_) => Status::invalid_argument(error.to_string()),
    }
}

/// Answers a call with one message, well.
///
/// # Errors
/// When the stream is gone.
pub fn answer(mut respond: SendResponse, message: Frame) -> Result<(), h2::Error> {
    let mut send = respond.send_response(response_headers(), false)?;
    send.send_data(message, false)?;
    send.send_trailers(ok_trailers())
}

/// An encoded message as gRPC frames it, uncompressed.
pub(super) fn framed(message: &[u8]) -> Bytes {
    let mut framed = BytesMut::with_capacity(5 + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).expect("bounds are far below 4 GiB"));
    framed.put_slice(message);
    framed.freeze()
}

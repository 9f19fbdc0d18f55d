//! The body of a module's request: in memory where it is short, else sent as it comes.

use std::{
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use control_plane::gitlab::ModuleBody;
use http_body_util::BodyExt;
use hyper::body::{Body, Frame};
use proto::agent::grpctool::http_request::Message;
use tokio::time::{Instant, Sleep};
use tonic::Status;

use super::messages::Messages;

/// Bytes of a body that are read before GitLab is asked. What is whole by then has a length, and can be sent again.
pub(super) const READ_AHEAD_BYTES: usize = 256 << 10;
/// How long an agent may pause in the middle of a body.
const PAUSE_TIMEOUT: Duration = Duration::from_secs(30);

/// A part of a body.
enum Part {
    Data(Bytes),
    End,
}

struct RequestBody {
    ahead: VecDeque<Bytes>,
    messages: Messages,
    pause: Pin<Box<Sleep>>,
    ended: bool,
}

/// Reads the beginning of a body, and all of it if it is short.
pub(super) async fn read_ahead(messages: Messages) -> Result<ModuleBody, Status> {
    let mut body = RequestBody {
        ahead: VecDeque::new(),
        messages,
        pause: Box::pin(tokio::time::sleep(PAUSE_TIMEOUT)),
        ended: false,
    };
    let mut bytes = 0;
    while bytes < READ_AHEAD_BYTES {
        match poll_fn(|cx| body.poll_part(cx)).await? {
            Part::Data(data) => {
                bytes += data.len();
                body.ahead.push_back(data);
            }
            Part::End => {
                let mut whole = BytesMut::with_capacity(bytes);
                body.ahead
                    .iter()
                    .for_each(|data| whole.extend_from_slice(data));
                return Ok(ModuleBody::Whole(whole.freeze()));
            }
        }
    }
    Ok(ModuleBody::Streamed(body.boxed_unsync()))
}

impl RequestBody {
    fn poll_part(&mut self, cx: &mut Context<'_>) -> Poll<Result<Part, Status>> {
        loop {
            let Poll::Ready(message) = self.messages.poll_next(cx) else {
                ready!(self.pause.as_mut().poll(cx));
                let seconds = PAUSE_TIMEOUT.as_secs();
                let words = format!("the request's body did not go on for {seconds} s");
                return Poll::Ready(Err(Status::deadline_exceeded(words)));
            };
            self.pause.as_mut().reset(Instant::now() + PAUSE_TIMEOUT);
            return Poll::Ready(match message? {
                // Nothing is kept for it, and it takes nobody further.
                Some(Message::Data(data)) if data.data.is_empty() => continue,
                Some(Message::Data(data)) => Ok(Part::Data(data.data)),
                Some(Message::Trailer(_)) => Ok(Part::End),
                Some(Message::UpgradeData(_) | Message::Segment(_)) => Err(Status::internal(
                    "unexpected HttpRequest_UpgradeData message for non-upgrade request",
                )),
                Some(Message::Header(_)) | None => Err(Status::invalid_argument(
                    "the request ended before its trailer",
                )),
            });
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(data) = self.ahead.pop_front() {
            return Poll::Ready(Some(Ok(Frame::data(data))));
        }
        if self.ended {
            return Poll::Ready(None);
        }
        let part = ready!(self.poll_part(cx));
        Poll::Ready(match part {
            Ok(Part::Data(data)) => Some(Ok(Frame::data(data))),
            Ok(Part::End) => {
                self.ended = true;
                None
            }
            Err(status) => {
                self.ended = true;
                Some(Err(status))
            }
        })
    }
}

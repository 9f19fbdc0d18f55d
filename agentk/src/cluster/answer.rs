//! An answer of the API server, and what becomes of requests that nobody waits for any more.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use super::{
    BoxError, RequestBody,
    connection::{Lease, Sending},
    outcome::RequestError,
    pool::Place,
};

/// How long a request may go on that nobody waits for: most are over by then, and need no reset.
const LINGER_TIMEOUT: Duration = Duration::from_secs(1);
/// Bytes of its answer that are read.
const LINGER_BYTES: usize = 256 << 10;
/// Requests of the process that go on like this; more are reset at once.
const LINGERING_REQUESTS: usize = 256;

/// Lets requests that were given up come to their end.
#[derive(Debug, Clone)]
pub(super) struct Lingering {
    places: Arc<Semaphore>,
    tasks: TaskTracker,
}

impl Lingering {
    pub(super) fn new(tasks: TaskTracker) -> Self {
        Self {
            places: Arc::new(Semaphore::new(LINGERING_REQUESTS)),
            tasks,
        }
    }

    /// `rest` says whether the request came to its end; if not, dropping it resets it.
    fn finish(&self, mut lease: Lease, rest: impl Future<Output = bool> + Send + 'static) {
        let place = self.places.clone().try_acquire_owned();
        let (Ok(place), true) = (place, tokio::runtime::Handle::try_current().is_ok()) else {
            return;
        };
        self.tasks.spawn(async move {
            let ended = tokio::time::timeout(LINGER_TIMEOUT, rest).await;
            if ended.unwrap_or(false) {
                lease.ended();
            }
            drop(place);
        });
    }
}

/// The body of an answer. Dropped before its end, it cancels the request.
#[derive(Debug)]
pub(crate) struct AnswerBody {
    /// Empty only while it is dropped.
    body: Option<Incoming>,
    /// The place of the request on an HTTP/2 connection that others share.
    held: Option<(Lease, Lingering)>,
}

impl AnswerBody {
    /// An answer on a connection of its own.
    pub(crate) fn alone(body: Incoming) -> Self {
        let body = Some(body);
        Self { body, held: None }
    }
}

impl Body for AnswerBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let frame = match &mut self.body {
            Some(body) => ready!(Pin::new(body).poll_frame(cx)),
            None => None,
        };
        if !matches!(frame, Some(Ok(_)))
            && let Some((mut lease, _)) = self.held.take()
        {
            lease.ended();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.as_ref().map(Body::size_hint);
        hint.unwrap_or_default()
    }
}

impl Drop for AnswerBody {
    fn drop(&mut self) {
        let Some((mut lease, lingering)) = self.held.take() else {
            return;
        };
        match self.body.take() {
            Some(body) if !body.is_end_stream() => lingering.finish(lease, read_up(body)),
            Some(_) | None => lease.ended(),
        }
    }
}

/// Whether the rest of a body came, and was short.
async fn read_up(mut body: Incoming) -> bool {
    let mut read = 0;
    while let Some(frame) = body.frame().await {
        let Ok(frame) = frame else { return true };
        read += frame.data_ref().map_or(0, Bytes::len);
        if read > LINGER_BYTES {
            return false;
        }
    }
    true
}

/// A request on an HTTP/2 connection that others share, until its answer begins.
pub(super) struct Asked {
    sending: Option<Sending>,
    held: Option<(Lease, Lingering)>,
}

impl Asked {
    /// Makes a request.
    pub(super) fn of(request: Request<RequestBody>, place: Place, lingering: Lingering) -> Self {
        let Place { connection, lease } = place;
        Self {
            sending: Some(connection.send(request)),
            held: Some((lease, lingering)),
        }
    }
}

impl Future for Asked {
    type Output = Result<Response<AnswerBody>, RequestError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Some(sending) = &mut self.sending else {
            return Poll::Pending;
        };
        let answer = ready!(sending.as_mut().poll(cx));
        self.sending = None;
        let mut held = self.held.take();
        Poll::Ready(match answer {
            Ok(response) => Ok(response.map(|body| AnswerBody {
                body: Some(body),
                held,
            })),
            Err(error) => {
                if let Some((lease, _)) = &mut held {
                    lease.ended();
                }
                Err(RequestError::of(BoxError::from(error.into_error())))
            }
        })
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        let (Some(sending), Some((lease, lingering))) = (self.sending.take(), self.held.take())
        else {
            return;
        };
        lingering.finish(lease, async move {
            match sending.await {
                Ok(response) => read_up(response.into_body()).await,
                Err(_) => true,
            }
        });
    }
}

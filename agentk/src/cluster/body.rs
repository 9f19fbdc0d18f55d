//! The body of a request to the API server, fed from a tunnel. What was sent of it is kept, up to a bound, so that the
//! request can be made again.

use std::{
    collections::VecDeque,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::sync::mpsc;

/// Bytes of one request that are kept: more than that no API server takes.
const KEPT_BYTES_PER_REQUEST: usize = 3 << 20;
/// Bytes that are kept of all requests of the process.
const KEPT_BYTES: usize = 32 << 20;

static KEPT: AtomicUsize = AtomicUsize::new(0);

/// A piece of a body on its way from the tunnel.
#[derive(Debug)]
pub(crate) enum Piece {
    /// Bytes.
    Data(Bytes),
    /// There are no more; without it the body was cut short.
    End,
}

/// What the body of a request comes from, for each time that the request is made.
#[derive(Debug, Clone)]
pub(crate) struct Upload(Option<Arc<Mutex<Source>>>);

/// A request's body, for one time that the request is made.
#[derive(Debug)]
pub(crate) struct RequestBody(Option<Streamed>);

#[derive(Debug)]
struct Streamed {
    source: Arc<Mutex<Source>>,
    attempt: u32,
    left: Option<u64>,
}

#[derive(Debug)]
struct Source {
    pieces: mpsc::Receiver<Piece>,
    length: Option<u64>,
    /// The attempt that reads; those before it are over.
    attempt: u32,
    /// What was read from the beginning, as long as all of it is kept.
    kept: VecDeque<Bytes>,
    kept_bytes: usize,
    /// How many of these the attempt has read.
    read: usize,
    keeps: bool,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Coming,
    Whole,
    CutShort,
}

/// kas did not send all of the body.
#[derive(Debug, thiserror::Error)]
#[error("the request's body was cut short")]
pub(crate) struct CutShort;

impl Upload {
    /// No body.
    pub(crate) fn empty() -> Self {
        Self(None)
    }

    /// A body of so many bytes, where that is known.
    pub(crate) fn streamed(pieces: mpsc::Receiver<Piece>, length: Option<u64>) -> Self {
        Self(Some(Arc::new(Mutex::new(Source {
            pieces,
            length,
            attempt: 0,
            kept: VecDeque::new(),
            kept_bytes: 0,
            read: 0,
            keeps: true,
            state: State::Coming,
        }))))
    }

    /// The body from its beginning; one that was given before has nothing more.
    pub(crate) fn body(&self) -> RequestBody {
        RequestBody(self.0.as_ref().map(|shared| {
            let mut source = lock(shared);
            source.attempt += 1;
            source.read = 0;
            Streamed {
                source: shared.clone(),
                attempt: source.attempt,
                left: source.length,
            }
        }))
    }

    /// Whether [`Self::body`] can give all of it once more.
    pub(super) fn can_be_sent_again(&self) -> bool {
        let again = |shared: &Arc<_>| lock(shared).keeps;
        self.0.as_ref().is_none_or(again)
    }

    /// Whether kas broke it off.
    pub(super) fn is_cut_short(&self) -> bool {
        let cut = |shared: &Arc<_>| lock(shared).state == State::CutShort;
        self.0.as_ref().is_some_and(cut)
    }

    /// There is an answer: nothing is kept any more.
    pub(super) fn forget(&self) {
        if let Some(shared) = &self.0 {
            lock(shared).forget();
        }
    }
}

impl Source {
    fn poll(
        &mut self,
        attempt: u32,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, CutShort>> {
        if attempt != self.attempt {
            return Poll::Ready(Err(CutShort));
        }
        if let Some(bytes) = self.kept.get(self.read).cloned() {
            self.read += 1;
            if !self.keeps {
                self.forget();
            }
            return Poll::Ready(Ok(Some(bytes)));
        }
        match self.state {
            State::Coming => {}
            State::Whole => return Poll::Ready(Ok(None)),
            State::CutShort => return Poll::Ready(Err(CutShort)),
        }
        Poll::Ready(match ready!(self.pieces.poll_recv(cx)) {
            Some(Piece::Data(bytes)) => {
                self.keep(&bytes);
                Ok(Some(bytes))
            }
            Some(Piece::End) => {
                self.state = State::Whole;
                Ok(None)
            }
            None => {
                self.state = State::CutShort;
                Err(CutShort)
            }
        })
    }

    /// Keeps a piece that was just read, or gives up to keep any.
    fn keep(&mut self, bytes: &Bytes) {
        if !self.keeps {
            return;
        }
        if self.kept_bytes + bytes.len() > KEPT_BYTES_PER_REQUEST || !take(bytes.len()) {
            return self.forget();
        }
        self.kept_bytes += bytes.len();
        self.kept.push_back(bytes.clone());
        self.read += 1;
    }

    /// Keeps only what the attempt has not read yet.
    fn forget(&mut self) {
        self.keeps = false;
        for bytes in self.kept.drain(..self.read) {
            self.kept_bytes -= bytes.len();
            KEPT.fetch_sub(bytes.len(), Ordering::Relaxed);
        }
        self.read = 0;
    }
}

impl Drop for Source {
    fn drop(&mut self) {
        KEPT.fetch_sub(self.kept_bytes, Ordering::Relaxed);
    }
}

/// Whether there was room for so many bytes more.
fn take(bytes: usize) -> bool {
    let more = |kept: usize| (kept + bytes <= KEPT_BYTES).then_some(kept + bytes);
    KEPT.fetch_update(Ordering::Relaxed, Ordering::Relaxed, more)
        .is_ok()
}

fn lock(source: &Mutex<Source>) -> MutexGuard<'_, Source> {
    source.lock().unwrap_or_else(PoisonError::into_inner)
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
        let next = lock(&streamed.source).poll(streamed.attempt, cx);
        Poll::Ready(match ready!(next) {
            Ok(Some(bytes)) => {
                if let Some(left) = &mut streamed.left {
                    *left = left.saturating_sub(bytes.len() as u64);
                }
                Some(Ok(Frame::data(bytes)))
            }
            Ok(None) => {
                self.0 = None;
                None
            }
            Err(error) => Some(Err(error)),
        })
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

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn sent(pieces: &[&'static [u8]]) -> Upload {
        let (feed, coming) = mpsc::channel(pieces.len() + 1);
        for piece in pieces {
            let piece = Piece::Data(Bytes::from_static(piece));
            feed.send(piece).await.unwrap();
        }
        feed.send(Piece::End).await.unwrap();
        Upload::streamed(coming, None)
    }

    async fn whole(body: RequestBody) -> Bytes {
        body.collect().await.unwrap().to_bytes()
    }

    #[tokio::test]
    async fn a_body_that_was_sent_in_part_is_sent_again_from_its_beginning() {
        let upload = sent(&[b"one ", b"two ", b"three"]).await;
        let mut first = upload.body();
        first.frame().await.unwrap().unwrap();

        assert!(upload.can_be_sent_again());
        let second = upload.body();
        assert!(first.frame().await.unwrap().is_err(), "it is over");
        assert_eq!(whole(second).await, "one two three");
        assert_eq!(whole(upload.body()).await, "one two three");
    }

    #[tokio::test]
    async fn what_is_longer_than_the_bound_is_sent_once_and_nothing_of_it_is_kept() {
        static LONG: [u8; KEPT_BYTES_PER_REQUEST] = [1; KEPT_BYTES_PER_REQUEST];
        let upload = sent(&[&LONG, b"more", b"and more"]).await;

        let body = whole(upload.body()).await;

        assert_eq!(body.len(), LONG.len() + 12);
        assert!(!upload.can_be_sent_again());
        assert_eq!(lock(upload.0.as_ref().unwrap()).kept_bytes, 0);
    }

    #[tokio::test]
    async fn an_answer_in_the_middle_of_a_second_attempt_loses_nothing_of_the_body() {
        let upload = sent(&[b"one ", b"two ", b"three"]).await;
        assert_eq!(whole(upload.body()).await, "one two three");
        let mut second = upload.body();
        second.frame().await.unwrap().unwrap();

        upload.forget();

        assert_eq!(whole(second).await, "two three");
        assert_eq!(lock(upload.0.as_ref().unwrap()).kept_bytes, 0);
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_no_whole_one() {
        let (feed, coming) = mpsc::channel(1);
        let upload = Upload::streamed(coming, Some(3));
        drop(feed);

        assert!(upload.body().collect().await.is_err());
        assert!(upload.is_cut_short());
    }
}

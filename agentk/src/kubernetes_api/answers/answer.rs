//! One answer of the API server: what has come of it, and who reads it. Pure.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll, Waker},
};

use bytes::{Buf as _, Bytes};
use runtime::shares::Share;
use tokio::{sync::Notify, time::Instant};
use tonic::Status;

/// Bytes of an answer's body that are kept; of a longer one nothing is.
const MAX_KEPT_BYTES: usize = 1 << 20;
/// What a piece costs besides its bytes: an API server may send one by one.
const PIECE_COST: usize = 64;

/// An answer that comes, and is read by one call after the other.
#[derive(Debug)]
pub(super) struct Answer {
    state: Mutex<State>,
    /// Told when a call has passed all of it on.
    passed_on: Notify,
    /// Told when another call reads than the first.
    superseded: Notify,
}

#[derive(Debug)]
struct State {
    /// The encoded message of its head.
    head: Option<Bytes>,
    /// Those of the body that are here, and the number of the first of them.
    pieces: VecDeque<Bytes>,
    first: u64,
    /// Places of the bytes that are kept; none when what was read is not kept.
    kept: Option<Share<u64>>,
    end: Option<Result<(), Status>>,
    /// The newest call that reads. Those before it read no more.
    reader: u64,
    /// Since when it does so no more, and nobody else does.
    unread_since: Option<Instant>,
    /// Pieces that it has read.
    read: u64,
    /// Whoever waits for more.
    waker: Option<Waker>,
    /// It does not come with a call that reads it.
    detached: bool,
    /// Whoever has it come then, and waits for room.
    driver: Option<Waker>,
}

/// A call that reads an answer.
#[derive(Debug)]
pub(super) struct Reader {
    answer: Arc<Answer>,
    number: u64,
    /// The next piece.
    next: u64,
    /// Bytes of the body that it does not need.
    skip: u64,
}

/// What became of the answer is not known here.
pub(super) fn unknown() -> Status {
    Status::not_found("this agent process has no such answer")
}

impl Answer {
    /// None of it has come; its bytes count in `kept`.
    pub(super) fn new(kept: Share<u64>) -> Arc<Self> {
        let state = State {
            head: None,
            pieces: VecDeque::new(),
            first: 0,
            kept: Some(kept),
            end: None,
            reader: 0,
            unread_since: None,
            read: 0,
            waker: None,
            detached: false,
            driver: None,
        };
        Arc::new(Self {
            state: Mutex::new(state),
            passed_on: Notify::new(),
            superseded: Notify::new(),
        })
    }

    /// Has another call read it, behind so many bytes of its body, and no call before it any more.
    pub(super) fn read_by_another(self: &Arc<Self>, skip: u64) -> Reader {
        let mut state = self.state();
        state.reader += 1;
        state.unread_since = None;
        state.read = 0;
        state.wake();
        if state.reader > 1 {
            self.superseded.notify_one();
        }
        Reader {
            answer: self.clone(),
            number: state.reader,
            next: 0,
            skip,
        }
    }

    /// The head has come.
    pub(super) fn begin(&self, head: Bytes) {
        let mut state = self.state();
        state.head = Some(head);
        state.wake();
    }

    /// Waits until more should be read from the API server: all that is here was read, or nobody reads. Is woken for
    /// that only behind [`Self::detach`]; before, whoever reads polls again.
    pub(super) fn poll_room(&self, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        let is_read = state.read >= state.first + state.pieces.len() as u64;
        if is_read || (state.detached && state.unread_since.is_some()) {
            return Poll::Ready(());
        }
        if state.detached {
            state.driver = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Bytes of the body have come. Says whether there is any use in more: not where no call reads it and it cannot be
    /// kept.
    pub(super) fn push(&self, piece: Bytes) -> bool {
        let mut state = self.state();
        if let Some(kept) = &mut state.kept {
            let cost = piece.len() + PIECE_COST;
            let fits = kept.places() + cost <= MAX_KEPT_BYTES;
            if !fits || kept.grow(cost).is_err() {
                state.kept = None;
                state.drop_read();
            }
        }
        let goes_on = state.kept.is_some() || state.unread_since.is_none();
        if goes_on {
            state.pieces.push_back(piece);
        } else {
            state.first += state.pieces.len() as u64;
            state.pieces.clear();
            state.end.get_or_insert(Err(unknown()));
        }
        state.wake();
        goes_on
    }

    /// It is whole, or why it never will be. What was said before counts.
    pub(super) fn end(&self, end: Result<(), Status>) {
        let mut state = self.state();
        state.end.get_or_insert(end);
        state.wake();
    }

    /// Whether all that has come of it can be read again.
    pub(super) fn is_kept(&self) -> bool {
        self.state().kept.is_some()
    }

    /// Since when no call reads it.
    pub(super) fn unread_since(&self) -> Option<Instant> {
        self.state().unread_since
    }

    /// Whether a call reads it that gets all of it.
    pub(super) fn is_read_whole(&self) -> bool {
        let state = self.state();
        state.unread_since.is_none() && state.first == 0
    }

    /// Has it come without the call that reads it. Its bytes are copied, so that they do not keep alive what they were
    /// read into.
    pub(super) fn detach(&self) {
        let mut state = self.state();
        state.detached = true;
        for piece in &mut state.pieces {
            *piece = Bytes::copy_from_slice(piece);
        }
    }

    /// What its body takes of the bytes that are kept.
    pub(super) fn length(&self) -> usize {
        self.state().kept.as_ref().map_or(0, Share::places)
    }

    /// A call has passed all of it on.
    pub(super) fn was_passed_on(&self) {
        self.passed_on.notify_one();
    }

    /// Waits until a call has passed all of it on. Cancel-safe.
    pub(super) async fn passed_on(&self) {
        self.passed_on.notified().await;
    }

    /// Waits until another call reads than the first. Cancel-safe.
    pub(super) async fn superseded(&self) -> Status {
        self.superseded.notified().await;
        superseded()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    fn wake_driver(&mut self) {
        if let Some(driver) = self.driver.take() {
            driver.wake();
        }
    }

    fn drop_read(&mut self) {
        while self.first < self.read && self.pieces.pop_front().is_some() {
            self.first += 1;
        }
    }

    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<Result<T, Status>> {
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Reader {
    /// What it reads.
    pub(super) fn answer(&self) -> &Arc<Answer> {
        &self.answer
    }

    /// Whether a newer call reads.
    pub(super) fn is_superseded(&self) -> bool {
        self.answer.state().reader != self.number
    }

    /// The encoded message of the head.
    pub(super) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        let mut state = self.answer.state();
        if state.reader != self.number {
            return Poll::Ready(Err(superseded()));
        }
        if self.next < state.first {
            return Poll::Ready(Err(unknown()));
        }
        match (&state.head, &state.end) {
            (Some(head), _) => Poll::Ready(Ok(head.clone())),
            (None, Some(Err(status))) => Poll::Ready(Err(status.clone())),
            (None, Some(Ok(()))) => Poll::Ready(Err(unknown())),
            (None, None) => state.wait(cx),
        }
    }

    /// The next piece of the body; none at its end.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Option<Bytes>, Status>> {
        let mut state = self.answer.state();
        if state.reader != self.number {
            return Poll::Ready(Err(superseded()));
        }
        loop {
            let Some(index) = self.next.checked_sub(state.first) else {
                return Poll::Ready(Err(unknown()));
            };
            let index = usize::try_from(index).unwrap_or(usize::MAX);
            let Some(mut piece) = state.pieces.get(index).cloned() else {
                return match &state.end {
                    Some(Ok(())) => Poll::Ready(Ok(None)),
                    Some(Err(status)) => Poll::Ready(Err(status.clone())),
                    None => state.wait(cx),
                };
            };
            self.next += 1;
            state.read = self.next;
            state.wake_driver();
            if state.kept.is_none() {
                state.drop_read();
            }
            let skipped = self.skip.min(piece.len() as u64);
            self.skip -= skipped;
            piece.advance(usize::try_from(skipped).unwrap_or(usize::MAX));
            if !piece.is_empty() {
                return Poll::Ready(Ok(Some(piece)));
            }
        }
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        let mut state = self.answer.state();
        if state.reader == self.number {
            state.unread_since = Some(Instant::now());
            state.wake_driver();
        }
    }
}

fn superseded() -> Status {
    Status::aborted("another call asks for the answer")
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use runtime::shares::{Limits, Shares};

    use super::*;

    fn answer(bytes: usize) -> Arc<Answer> {
        let limits = Limits {
            total: bytes,
            each: bytes,
            reserved: 0,
        };
        Answer::new(Shares::new(limits).take(1, 0).unwrap())
    }

    fn next(reader: &mut Reader) -> Poll<Result<Option<Bytes>, tonic::Code>> {
        let polled = reader.poll_next(&mut Context::from_waker(Waker::noop()));
        polled.map_err(|status| status.code())
    }

    fn has_room(answer: &Answer) -> bool {
        let polled = answer.poll_room(&Context::from_waker(Waker::noop()));
        polled.is_ready()
    }

    fn bytes(text: &'static str) -> Poll<Result<Option<Bytes>, tonic::Code>> {
        Poll::Ready(Ok(Some(Bytes::from_static(text.as_bytes()))))
    }

    #[test]
    fn another_call_reads_behind_what_was_passed_on_and_the_first_reads_no_more() {
        let answer = answer(1000);
        let mut first = answer.read_by_another(0);
        answer.push("one".into());
        assert_eq!(next(&mut first), bytes("one"));

        let mut second = answer.read_by_another(4);
        answer.push("two".into());
        answer.end(Ok(()));

        assert_eq!(
            next(&mut first),
            Poll::Ready(Err(tonic::Code::Aborted)),
            "the first is superseded"
        );
        assert_eq!(next(&mut second), bytes("wo"));
        assert_eq!(next(&mut second), Poll::Ready(Ok(None)));
    }

    #[test]
    fn what_has_no_room_is_passed_on_once() {
        let answer = answer(4);
        let mut first = answer.read_by_another(0);
        for piece in ["one", "two"] {
            answer.push(piece.into());
            assert_eq!(next(&mut first), bytes(piece));
        }

        assert!(!answer.is_kept());
        answer.begin("head".into());
        let mut second = answer.read_by_another(0);
        let head = second.poll_head(&mut Context::from_waker(Waker::noop()));
        assert!(
            matches!(head, Poll::Ready(Err(_))),
            "what follows it is gone"
        );
        assert_eq!(next(&mut second), Poll::Ready(Err(tonic::Code::NotFound)));
    }

    #[test]
    fn what_no_call_reads_and_nobody_keeps_takes_no_memory() {
        let answer = answer(3 * (3 + PIECE_COST));
        let reader = answer.read_by_another(0);
        assert!(answer.push("one".into()));
        answer.detach();
        drop(reader);
        let pushed = (0..10).filter(|_| answer.push("two".into())).count();

        assert_eq!(pushed, 2, "others find no room");
        assert!(answer.state().pieces.is_empty());
        let mut late = answer.read_by_another(0);
        assert_eq!(next(&mut late), Poll::Ready(Err(tonic::Code::NotFound)));
    }

    #[test]
    fn what_is_too_long_to_be_kept_comes_whole_to_who_reads_it() {
        let answer = answer(3 + PIECE_COST);
        drop(answer.read_by_another(0));
        answer.push("one".into());
        answer.detach();
        let mut reader = answer.read_by_another(0);

        for piece in ["one", "two", "six"] {
            assert!(piece == "one" || answer.push(piece.into()));
            assert!(!has_room(&answer), "it is no faster than who reads");
            assert_eq!(next(&mut reader), bytes(piece));
            assert!(has_room(&answer));
        }

        assert!(!answer.is_kept());
        drop(reader);
        assert!(!answer.push("ten".into()), "nobody reads any more");
    }

    #[test]
    fn more_is_read_when_all_was_passed_on_or_nobody_reads() {
        let answer = answer(1000);
        let mut reader = answer.read_by_another(0);
        assert!(has_room(&answer));
        answer.push("one".into());
        assert!(!has_room(&answer));
        assert_eq!(next(&mut reader), bytes("one"));
        assert!(has_room(&answer));
        answer.push("two".into());
        answer.detach();
        drop(reader);
        assert!(has_room(&answer));
    }
}

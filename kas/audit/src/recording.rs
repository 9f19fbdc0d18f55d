//! Recordings of what a terminal showed (asciicast v2): one file a session, in a folder of bounded size.
//!
//! Whoever carries a session gives what it shows to a [`Recording`], which keeps lines in a bounded buffer until a
//! thread of its own has written them. So a disk that hangs delays only those whose session must be recorded.

mod error;
pub mod play;
mod shelf;
mod utf8;
mod writer;

use std::{
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::task::AtomicWaker;
use jiff::Timestamp;
use runtime::{
    shares::{Limits, Share, Shares},
    telemetry::Repeats,
};
use serde::Serialize;
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};

use crate::{Record, config::RecordingSection};
pub use error::RecordingError;
pub(crate) use shelf::{check, hash};
use utf8::Utf8;
pub(crate) use writer::{Note, Writer};

/// Sessions that are recorded at a time, by caller.
const SESSIONS: Limits = Limits {
    total: 512,
    each: 128,
    reserved: 64,
};
/// Jobs that wait. A session has one of each kind at most.
const QUEUE_JOBS: usize = 8 * SESSIONS.total;
/// Bytes of a session that wait to be written.
const BUFFER_BYTES: usize = 128 << 10;
/// How long the last bytes may take at the end of a session, and all of them at the end of the process.
const FINISH_TIMEOUT: Duration = Duration::from_secs(5);
/// Columns and rows, where the size of the terminal is not known yet.
const SIZE: (u16, u16) = (80, 24);
/// How the names of files end.
pub const SUFFIX: &str = ".cast";

/// What is known of a recording, for the audit trail.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Recorded {
    /// Its file in the folder of recordings.
    pub file: String,
    /// Its bytes.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<u64>,
    /// The SHA-256 of these.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<String>,
    /// Bytes of the session that are missing in it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lost_bytes: Option<u64>,
    /// Whether it was removed to make room.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub removed: bool,
    /// Why it is not whole.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Makes recordings. Clones share everything.
#[derive(Debug, Clone)]
pub(crate) struct Recordings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    jobs: mpsc::Sender<Job>,
    places: Shares<Arc<str>>,
    next: AtomicU64,
    records_input: bool,
}

/// What the writer is to do.
#[derive(Debug)]
enum Job {
    /// Begin a file with its first line.
    Open(Arc<State>, String, oneshot::Sender<()>),
    /// Write what waits.
    Write(Arc<State>),
    /// It is over.
    Close(Arc<State>, oneshot::Sender<Recorded>),
    /// Nothing was opened that could be recorded.
    Discard(Arc<State>),
    /// Tell when all that was asked for before is done.
    Flush(oneshot::Sender<()>),
}

/// What a session and the writer share.
#[derive(Debug)]
struct State {
    number: u64,
    file: String,
    caller: Arc<str>,
    request_id: String,
    /// Lines that wait.
    pending: Mutex<String>,
    /// Bytes of the session that are missing.
    lost: AtomicU64,
    failed: OnceLock<RecordingError>,
    waker: AtomicWaker,
}

/// A recording in progress. One that has not [begun](Self::begin) is removed when it is dropped; one that has is
/// closed, and told by a record of its own.
pub struct Recording {
    state: Arc<State>,
    jobs: mpsc::Sender<Job>,
    started: Instant,
    required: bool,
    records_input: bool,
    begun: bool,
    closed: bool,
    output: Utf8,
    errors: Utf8,
    input: Utf8,
    /// Bytes that found no room since the last line.
    missing: usize,
    _place: Share<Arc<str>>,
}

/// The streams of a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stream {
    /// What is typed.
    Input,
    /// What is shown.
    Output,
    /// What is shown as errors.
    Errors,
}

#[derive(Serialize)]
struct Head<'a> {
    version: u8,
    width: u16,
    height: u16,
    timestamp: i64,
    title: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    command: &'a str,
    /// Whose session it is: the fields of its record.
    kas: &'a Record<'a>,
}

impl Recordings {
    /// What makes recordings, and the end of the queue to be written.
    pub(crate) fn new(section: &RecordingSection) -> (Self, Jobs) {
        let (jobs, queue) = mpsc::channel(QUEUE_JOBS);
        let inner = Inner {
            jobs,
            places: Shares::new(SESSIONS),
            next: AtomicU64::new(0),
            records_input: section.stdin,
        };
        (Self(Arc::new(inner)), Jobs(queue))
    }

    /// Begins the recording of a session of this name. What must be recorded waits for the file, others do not.
    pub(crate) async fn open(
        &self,
        (name, request_id): (String, String),
        caller: Arc<str>,
        head: String,
        required: Option<Duration>,
    ) -> Result<Recording, RecordingError> {
        let inner = &self.0;
        let place = inner.places.take(caller.clone(), 1);
        let place = place.map_err(|_| RecordingError::TooMany {
            each: SESSIONS.each,
            total: SESSIONS.total,
        })?;
        let state = Arc::new(State {
            number: inner.next.fetch_add(1, Ordering::Relaxed),
            file: name + SUFFIX,
            caller,
            request_id,
            pending: Mutex::default(),
            lost: AtomicU64::new(0),
            failed: OnceLock::new(),
            waker: AtomicWaker::new(),
        });
        let (told, opened) = oneshot::channel();
        let job = Job::Open(state.clone(), head, told);
        let recording = Recording {
            state,
            jobs: inner.jobs.clone(),
            started: Instant::now(),
            required: required.is_some(),
            records_input: inner.records_input,
            begun: false,
            closed: false,
            output: Utf8::default(),
            errors: Utf8::default(),
            input: Utf8::default(),
            missing: 0,
            _place: place,
        };
        if inner.jobs.try_send(job).is_err() {
            recording.state.fail(RecordingError::Slow);
        }
        if let Some(limit) = required
            && !matches!(timeout(limit, opened).await, Ok(Ok(())))
        {
            let failed = recording.state.failed.get().cloned();
            return Err(failed.unwrap_or(RecordingError::Slow));
        }
        Ok(recording)
    }

    /// Waits until what was to be written is.
    pub(crate) async fn flush(&self) {
        let (told, done) = oneshot::channel();
        // A thread that is gone, or a disk that hangs, has nothing to wait for.
        if self.0.jobs.try_send(Job::Flush(told)).is_ok() {
            let _ = timeout(FINISH_TIMEOUT, done).await;
        }
    }
}

/// The end of the queue to be written.
#[derive(Debug)]
pub(crate) struct Jobs(mpsc::Receiver<Job>);

/// The first line of a recording of the session of a record.
pub(crate) fn head(record: &Record<'_>) -> String {
    let words: Vec<_> = record.command.iter().map(|it| it.0.as_ref()).collect();
    let text =
        |it: &Option<crate::Text<'_>>| it.as_ref().map_or(String::new(), |it| it.0.to_string());
    let agent = record.agent.map_or("", |it| it.name);
    let head = Head {
        version: 2,
        width: SIZE.0,
        height: SIZE.1,
        timestamp: Timestamp::now().as_second(),
        title: format!(
            "{} {} {agent} {}/{} {}",
            text(&record.user),
            text(&record.subresource),
            text(&record.namespace),
            text(&record.name),
            text(&record.container)
        ),
        command: &words.join(" "),
        kas: record,
    };
    let mut line = serde_json::to_string(&head).expect("a record is texts and numbers");
    line.push('\n');
    line
}

impl State {
    /// The first reason counts.
    fn fail(&self, error: RecordingError) {
        static FAILED: Repeats = Repeats::sparse("recordings of sessions failed");
        if self.failed.set(error.clone()).is_ok() && FAILED.admit() {
            tracing::warn!(
                file = self.file,
                caller = &*self.caller,
                error = &error as &dyn std::error::Error,
                "the recording of a session has ended before the session"
            );
        }
        self.waker.wake();
    }

    fn pending(&self) -> MutexGuard<'_, String> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of it while it is written.
    fn recorded(&self) -> Recorded {
        let lost = self.lost.load(Ordering::Relaxed);
        Recorded {
            file: self.file.clone(),
            lost_bytes: (lost > 0).then_some(lost),
            reason: self.failed.get().map(ToString::to_string),
            ..Recorded::default()
        }
    }
}

impl Recording {
    /// Its file in the folder of recordings.
    #[must_use]
    pub fn file(&self) -> &str {
        &self.state.file
    }

    /// Whether the session may not go on without it.
    #[must_use]
    pub fn is_required(&self) -> bool {
        self.required
    }

    /// Whether what is typed is recorded too.
    #[must_use]
    pub fn records_input(&self) -> bool {
        self.records_input
    }

    /// The session was opened.
    pub fn begin(&mut self) {
        self.begun = true;
        self.started = Instant::now();
    }

    /// Ready when the session must end, because it is not recorded any more.
    pub fn poll_failed(&mut self, cx: &Context<'_>) -> Poll<RecordingError> {
        if !self.required {
            return Poll::Pending;
        }
        self.state.waker.register(cx.waker());
        match self.state.failed.get() {
            Some(error) => Poll::Ready(error.clone()),
            None => Poll::Pending,
        }
    }

    /// Ready when there is room for more; at once where the session does not depend on that.
    pub fn poll_room(&mut self, cx: &Context<'_>) -> Poll<()> {
        if !self.required || self.state.pending().len() < BUFFER_BYTES {
            return Poll::Ready(());
        }
        self.state.waker.register(cx.waker());
        // It may have been written meanwhile.
        match self.state.pending().len() < BUFFER_BYTES {
            true => Poll::Ready(()),
            false => Poll::Pending,
        }
    }

    /// What goes on cannot be recorded.
    pub fn fail(&mut self, error: RecordingError) {
        self.state.fail(error);
    }

    /// Bytes that were shown or typed.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) {
        if bytes.is_empty() || self.state.failed.get().is_some() {
            return;
        }
        let (code, part) = match stream {
            Stream::Input if !self.records_input => return,
            Stream::Input => ('i', &mut self.input),
            Stream::Output => ('o', &mut self.output),
            Stream::Errors => ('o', &mut self.errors),
        };
        let text = part.take(bytes);
        if !text.is_empty() && !self.event(code, &text) {
            self.missing += bytes.len();
            let lost = bytes.len() as u64;
            self.state.lost.fetch_add(lost, Ordering::Relaxed);
        }
    }

    /// The terminal has this size now.
    pub fn resize(&mut self, columns: u16, rows: u16) {
        if self.state.failed.get().is_none() {
            self.event('r', &format!("{columns}x{rows}"));
        }
    }

    /// Adds a line, if there is room.
    fn event(&mut self, code: char, text: &str) -> bool {
        let mut pending = self.state.pending();
        // Whoever must be recorded has waited for room before.
        if pending.len() >= BUFFER_BYTES && !self.required {
            return false;
        }
        let is_first = pending.is_empty();
        let seconds = self.started.elapsed().as_secs_f64();
        if self.missing > 0 {
            let gap = format!("{} bytes are missing: the disk was too slow", self.missing);
            line(&mut pending, seconds, 'm', &gap);
            self.missing = 0;
        }
        line(&mut pending, seconds, code, text);
        drop(pending);
        if is_first && self.jobs.try_send(Job::Write(self.state.clone())).is_err() {
            self.state.fail(RecordingError::Slow);
        }
        true
    }

    /// Closes it, and tells what is known of it then.
    pub async fn finish(mut self) -> Recorded {
        let parts = [
            ('o', self.output.rest()),
            ('o', self.errors.rest()),
            ('i', self.input.rest()),
        ];
        for (code, rest) in parts.into_iter().filter(|(_, rest)| !rest.is_empty()) {
            self.event(code, &rest);
        }
        self.closed = true;
        let (told, closed) = oneshot::channel();
        let job = Job::Close(self.state.clone(), told);
        if self.jobs.try_send(job).is_ok()
            && let Ok(Ok(recorded)) = timeout(FINISH_TIMEOUT, closed).await
        {
            return recorded;
        }
        self.state.fail(RecordingError::Slow);
        self.state.recorded()
    }
}

fn line(to: &mut String, seconds: f64, code: char, text: &str) {
    use fmt::Write as _;
    let text = serde_json::Value::from(text);
    // Writing to a string does not fail.
    let _ = writeln!(to, "[{seconds:.6}, \"{code}\", {text}]");
}

impl Drop for Recording {
    fn drop(&mut self) {
        if self.closed {
            return;
        }
        let job = match self.begun {
            true => Job::Close(self.state.clone(), oneshot::channel().0),
            false => Job::Discard(self.state.clone()),
        };
        // What finds no place is found in the folder at the next start.
        let _ = self.jobs.try_send(job);
    }
}

impl fmt::Debug for Recording {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Recording")
            .field("file", &self.state.file)
            .finish_non_exhaustive()
    }
}

//! Has a session recorded whose bytes pass. Others have none.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use audit::{Recorded, Recording, RecordingError};
use http::HeaderMap;

use super::channels::{Channels, Passed, Unreadable};
use crate::{failure::Failure, idle::Idle, scope::not_recorded};

/// How long a session waits for the disk that may not go on without.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);

/// The recording of a session.
#[derive(Debug)]
pub(in crate::kubernetes_api) struct Recorder {
    channels: Channels,
    recording: Box<Recording>,
    stalled: Idle,
}

impl Recorder {
    /// Of a session that was opened with these headers.
    pub(in crate::kubernetes_api) fn new(
        mut recording: Box<Recording>,
        headers: &HeaderMap,
    ) -> Self {
        recording.begin();
        let channels = Channels::of(headers);
        if matches!(channels, Channels::Unknown) {
            recording.fail(RecordingError::Unreadable("its protocol is not known"));
        }
        Self {
            channels,
            recording,
            stalled: Idle::new(DISK_TIMEOUT),
        }
    }

    /// Ready with what the client is told when the session must end, because it is not recorded any more.
    pub(super) fn poll_failed(&mut self, cx: &Context<'_>) -> Poll<Failure> {
        let failed = self.recording.poll_failed(cx);
        failed.map(|error| not_recorded(&error))
    }

    /// Ready when more may pass.
    pub(super) fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.recording.poll_room(cx).is_ready() {
            self.stalled.progress();
            return Poll::Ready(());
        }
        if self.stalled.poll(cx).is_ready() {
            self.recording.fail(RecordingError::Slow);
        }
        Poll::Pending
    }

    /// Notes what the client sent.
    pub(super) fn read_sent(&mut self, bytes: &[u8]) {
        let recording = &mut self.recording;
        let read = self
            .channels
            .read_sent(bytes, &mut |passed| note(recording, passed));
        self.check(read);
    }

    /// Notes what the client is sent.
    pub(super) fn read_answered(&mut self, bytes: &[u8]) {
        let recording = &mut self.recording;
        let read = self
            .channels
            .read_answered(bytes, &mut |passed| note(recording, passed));
        self.check(read);
    }

    fn check(&mut self, read: Result<(), Unreadable>) {
        if let Err(error) = read {
            self.recording.fail(RecordingError::Unreadable(error.0));
            self.channels = Channels::Unknown;
        }
    }

    /// Closes it.
    pub(super) async fn finish(self) -> Recorded {
        self.recording.finish().await
    }
}

fn note(recording: &mut Recording, passed: Passed<'_>) {
    match passed {
        Passed::Bytes(stream, bytes) => recording.write(stream, bytes),
        Passed::Size(columns, rows) => recording.resize(columns, rows),
    }
}

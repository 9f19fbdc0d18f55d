//! The thread that writes all recordings.

use std::{collections::HashMap, fs::File, io::Write as _, sync::Arc, thread};

use sha2::{Digest as _, Sha256};

use super::{Job, Jobs, Recorded, RecordingError, State, shelf::Shelf};
use crate::{OpenError, config::RecordingSection};

/// What the audit trail is to be told apart from the records of sessions.
#[derive(Debug)]
pub(crate) struct Note {
    /// About which recording.
    pub(crate) recorded: Recorded,
    /// Of which request, where that is known.
    pub(crate) request_id: String,
    /// Whose, where that is known.
    pub(crate) caller: Arc<str>,
}

impl Note {
    /// About one of which nothing else is known.
    pub(crate) fn of(recorded: Recorded) -> Self {
        Self {
            recorded,
            request_id: String::new(),
            caller: "".into(),
        }
    }
}

/// Writes recordings.
#[derive(Debug)]
pub(crate) struct Writer {
    shelf: Shelf,
    jobs: Jobs,
    open: HashMap<u64, Open>,
    max_bytes: u64,
}

#[derive(Debug)]
struct Open {
    file: File,
    bytes: u64,
    hasher: Sha256,
}

impl Writer {
    /// Takes the folder. Tells recordings that a process before has not closed.
    pub(crate) fn open(
        section: &RecordingSection,
        jobs: Jobs,
    ) -> Result<(Self, Vec<Recorded>), OpenError> {
        let (shelf, left) = Shelf::open(section)?;
        let writer = Self {
            shelf,
            jobs,
            open: HashMap::new(),
            max_bytes: section.max_bytes.into(),
        };
        Ok((writer, left))
    }

    /// Writes until nobody is left who records. What is told to nobody else `note` takes.
    pub(crate) fn start(mut self, note: impl Fn(Note) + Send + 'static) -> std::io::Result<()> {
        let run = move || {
            while let Some(job) = self.jobs.0.blocking_recv() {
                self.run(job, &note);
            }
        };
        // It ends with the senders, which the sinks' task waits for.
        thread::Builder::new()
            .name("kas-recordings".to_owned())
            .spawn(run)
            .map(drop)
    }

    fn run(&mut self, job: Job, note: &impl Fn(Note)) {
        match job {
            Job::Open(state, head, opened) => match self.create(&state, &head, note) {
                Ok(()) => {
                    // Who did not wait does not hear it.
                    let _ = opened.send(());
                }
                Err(error) => {
                    self.abandon(&state);
                    state.fail(error);
                }
            },
            Job::Write(state) => {
                let lines = std::mem::take(&mut *state.pending());
                let written = self.write(&state, &lines, note);
                match written {
                    Ok(()) => state.waker.wake(),
                    Err(error) => state.fail(error),
                }
            }
            Job::Close(state, told) => {
                let recorded = self.close(&state);
                if let Err(recorded) = told.send(recorded) {
                    note(Note {
                        recorded,
                        request_id: state.request_id.clone(),
                        caller: state.caller.clone(),
                    });
                }
            }
            Job::Discard(state) => self.abandon(&state),
            Job::Flush(told) => {
                // Who has given up does not hear it.
                let _ = told.send(());
            }
        }
    }

    fn create(
        &mut self,
        state: &State,
        head: &str,
        note: &impl Fn(Note),
    ) -> Result<(), RecordingError> {
        let open = Open {
            file: self.shelf.create(&state.file)?,
            bytes: 0,
            hasher: Sha256::new(),
        };
        self.open.insert(state.number, open);
        self.write(state, head, note)
    }

    fn write(
        &mut self,
        state: &State,
        all: &str,
        note: &impl Fn(Note),
    ) -> Result<(), RecordingError> {
        // What has failed has said so.
        let Some(open) = self.open.get_mut(&state.number) else {
            return Ok(());
        };
        if state.failed.get().is_some() || all.is_empty() {
            return Ok(());
        }
        let room = self.max_bytes.saturating_sub(open.bytes);
        // What was shown before the line that is too much is kept, however many lines came at once.
        let lines = match usize::try_from(room) {
            Ok(room) => whole_lines(all, room),
            Err(_) => all,
        };
        let more = lines.len() as u64;
        for file in self.shelf.grow(&state.caller, more)? {
            let recorded = Recorded {
                file,
                removed: true,
                reason: Some("removed to make room".to_owned()),
                ..Recorded::default()
            };
            note(Note::of(recorded));
        }
        if let Err(error) = open.file.write_all(lines.as_bytes()) {
            // What is left of it shows in the hash.
            let _ = open.file.set_len(open.bytes);
            self.shelf.shrink(&state.caller, more);
            return Err(error.into());
        }
        open.bytes += more;
        open.hasher.update(lines);
        if lines.len() < all.len() {
            let max_bytes = self.max_bytes;
            return Err(RecordingError::TooLarge { max_bytes });
        }
        Ok(())
    }

    fn close(&mut self, state: &State) -> Recorded {
        let mut recorded = state.recorded();
        let Some(open) = self.open.remove(&state.number) else {
            return recorded;
        };
        recorded.bytes = Some(open.bytes);
        recorded.sha256 = Some(hex::encode(open.hasher.finalize()));
        let finished = self.shelf.finish(&state.file, &state.caller, open.bytes);
        if let Err(error) = finished {
            let error = RecordingError::from(error);
            recorded.reason.get_or_insert(error.to_string());
        }
        recorded
    }

    fn abandon(&mut self, state: &State) {
        if let Some(open) = self.open.remove(&state.number) {
            self.shelf.discard(&state.file, &state.caller, open.bytes);
        }
    }
}

/// The lines that fit into a number of bytes, none of them in part.
fn whole_lines(text: &str, room: usize) -> &str {
    if text.len() <= room {
        return text;
    }
    let fits = &text.as_bytes()[..room];
    let length = fits.iter().rposition(|it| *it == b'\n');
    &text[..length.map_or(0, |it| it + 1)]
}

#[cfg(test)]
mod tests {
    use anyhow::Result;
    use serde_json::json;

    use super::*;
    use crate::recording::{Recordings, Stream};

    #[test]
    fn what_was_shown_before_the_line_that_is_too_much_is_kept() -> Result<()> {
        let place = tempfile::tempdir()?;
        let folder = place.path().join("recordings");
        let section: RecordingSection =
            serde_json::from_value(json!({"folder": folder, "max_bytes": 100}))?;
        let (recordings, jobs) = Recordings::new(&section);
        let (mut writer, _) = Writer::open(&section, jobs)?;
        let runtime = tokio::runtime::Builder::new_current_thread().build()?;
        let names = ("session.cast".to_owned(), "request".to_owned());

        let opened = recordings.open(names, "eve".into(), "{}\n".to_owned(), None);
        let mut recording = runtime.block_on(opened)?;
        recording.begin();
        // The writer has run at no time between these.
        recording.write(Stream::Output, b"seen");
        recording.write(Stream::Output, &[b'x'; 100]);
        let file = folder.join(recording.file());
        drop(recording);
        drop(recordings);
        while let Some(job) = writer.jobs.0.blocking_recv() {
            writer.run(job, &drop);
        }

        let text = std::fs::read_to_string(file)?;
        assert_eq!(text.lines().count(), 2, "{text}");
        assert!(text.ends_with("\"o\", \"seen\"]\n"), "{text}");
        Ok(())
    }
}

//! Reads recordings.

use std::{
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
    time::Duration,
};

use serde::Deserialize;

use super::SUFFIX;

/// No line is longer: what waits to be written is in lines of this size at most.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// Why a recording cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum PlayError {
    /// The system refuses.
    #[error("cannot read the recording")]
    Io(#[from] io::Error),
    /// It is none.
    #[error("line {line} of the recording is no part of one (asciicast v2)")]
    Malformed {
        /// From 1 on.
        line: u64,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// It has another form.
    #[error("the recording has version {0} of asciicast; only 2 is known")]
    Version(u64),
    /// There is none of the session.
    #[error("there is no recording of a session or request of this id in the folder")]
    NotFound,
}

#[derive(Deserialize)]
struct Head {
    version: u64,
    #[serde(default)]
    kas: Whose,
}

#[derive(Default, Deserialize)]
struct Whose {
    #[serde(default)]
    request_id: String,
}

/// Something that happened in a session.
#[derive(Debug, Clone, PartialEq)]
pub struct Event {
    /// Since its beginning.
    pub at: Duration,
    /// `o` for what was shown, `i` for what was typed, `r` for a size, `m` for a mark.
    pub code: String,
    /// The text.
    pub data: String,
}

/// Calls `each` with what happened, in order. A last line that is not whole, as a crash leaves it, is left out.
///
/// # Errors
/// [`PlayError`], or what `each` gives.
pub fn read<E: From<PlayError>>(
    file: &Path,
    mut each: impl FnMut(Event) -> Result<(), E>,
) -> Result<(), E> {
    let mut reader = BufReader::new(File::open(file).map_err(PlayError::Io)?);
    let mut number = 0;
    while let Some(text) = next_line(&mut reader).map_err(PlayError::Io)? {
        number += 1;
        let malformed = |source| PlayError::Malformed {
            line: number,
            source,
        };
        if number == 1 {
            let head: Head = serde_json::from_slice(&text).map_err(malformed)?;
            if head.version != 2 {
                return Err(PlayError::Version(head.version).into());
            }
            continue;
        }
        let (seconds, code, data): (f64, String, String) =
            serde_json::from_slice(&text).map_err(malformed)?;
        let at = Duration::try_from_secs_f64(seconds).unwrap_or_default();
        each(Event { at, code, data })?;
    }
    Ok(())
}

/// The next whole line.
fn next_line(reader: &mut BufReader<File>) -> io::Result<Option<Vec<u8>>> {
    let mut line = Vec::new();
    reader.take(MAX_LINE_BYTES).read_until(b'\n', &mut line)?;
    Ok(line.pop_if(|last| *last == b'\n').map(|_| line))
}

/// The recording of a session, or of the request that opened it.
///
/// # Errors
/// [`PlayError`]
pub fn find(folder: &Path, id: &str) -> Result<PathBuf, PlayError> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().and_then(|it| it.to_str());
        let Some((name, _)) = name.and_then(|it| it.split_once(SUFFIX)) else {
            continue;
        };
        if name == id || request_id(&path).is_some_and(|it| it == id) {
            return Ok(path);
        }
    }
    Err(PlayError::NotFound)
}

fn request_id(file: &Path) -> Option<String> {
    let mut reader = BufReader::new(File::open(file).ok()?);
    let line = next_line(&mut reader).ok()??;
    let head: Head = serde_json::from_slice(&line).ok()?;
    Some(head.kas.request_id)
}

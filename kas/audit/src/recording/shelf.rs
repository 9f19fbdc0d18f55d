//! The folder of recordings: what is in it, whose it is, and what goes where there is no room.

use std::{
    collections::{BTreeMap, HashMap},
    fs::{DirBuilder, File, OpenOptions},
    io::{self, BufRead as _, BufReader, Read as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use runtime::lock_file::{LockError, LockFile};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::{Recorded, RecordingError, SUFFIX};
use crate::{OpenError, config::RecordingSection};

/// What the name of a file ends in while it is written.
const PART: &str = ".part";
const LOCK: &str = ".lock";
/// A recording's first line is shorter than that.
const HEAD_BYTES: u64 = 64 << 10;
/// For its owner only: it shows what people saw.
const MODE: u32 = 0o600;

/// A folder.
#[derive(Debug)]
pub(super) struct Shelf {
    folder: PathBuf,
    total_bytes: u64,
    /// Recordings that are over, by the names of their files, which are in the order of time.
    finished: BTreeMap<String, Finished>,
    /// Bytes of each caller, with those of sessions in progress.
    bytes: HashMap<Arc<str>, u64>,
    total: u64,
    _lock: LockFile,
}

#[derive(Debug)]
struct Finished {
    caller: Arc<str>,
    bytes: u64,
}

#[derive(Deserialize)]
struct Head {
    kas: Whose,
}

#[derive(Deserialize)]
struct Whose {
    #[serde(default)]
    user: String,
}

/// Whether there is a folder, as far as that is seen without making it.
pub(crate) fn check(section: &RecordingSection) -> Result<(), OpenError> {
    let folder = &section.folder.0;
    match std::fs::metadata(folder) {
        Ok(it) if it.is_dir() => Ok(()),
        Ok(_) => Err(failed(section, io::ErrorKind::NotADirectory.into())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(failed(section, error)),
    }
}

fn failed(section: &RecordingSection, source: io::Error) -> OpenError {
    OpenError::Recordings {
        folder: section.folder.to_path_buf(),
        source,
    }
}

impl Shelf {
    /// Takes the folder, which is made where it is missing. Tells recordings that a process before has not closed.
    pub(super) fn open(section: &RecordingSection) -> Result<(Self, Vec<Recorded>), OpenError> {
        let folder = section.folder.to_path_buf();
        let made = DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&folder);
        made.map_err(|error| failed(section, error))?;
        let lock = LockFile::take(&folder.join(LOCK), Duration::ZERO);
        let lock = lock.map_err(|error| match error {
            LockError::Held => OpenError::RecordingsInUse {
                folder: folder.clone(),
            },
            LockError::Open(source) | LockError::Lock(source) => failed(section, source),
        })?;
        let mut shelf = Self {
            folder,
            total_bytes: section.total_bytes(),
            finished: BTreeMap::new(),
            bytes: HashMap::new(),
            total: 0,
            _lock: lock,
        };
        let left = shelf.scan().map_err(|error| failed(section, error))?;
        Ok((shelf, left))
    }

    fn scan(&mut self) -> io::Result<Vec<Recorded>> {
        let mut left = Vec::new();
        for entry in std::fs::read_dir(&self.folder)? {
            let entry = entry?;
            let Ok(mut name) = entry.file_name().into_string() else {
                continue;
            };
            if let Some(whole) = name.strip_suffix(PART) {
                let whole = whole.to_owned();
                let (bytes, sha256) = (entry.metadata()?.len(), hash(&entry.path())?);
                std::fs::rename(entry.path(), self.folder.join(&whole))?;
                left.push(Recorded {
                    file: whole.clone(),
                    bytes: Some(bytes),
                    sha256: Some(sha256),
                    reason: Some("its replica has ended without closing it".to_owned()),
                    ..Recorded::default()
                });
                name = whole;
            }
            if name.ends_with(SUFFIX) {
                let path = self.folder.join(&name);
                let bytes = path.metadata()?.len();
                let caller = caller(&path)?;
                self.add(&caller, bytes);
                self.finished.insert(name, Finished { caller, bytes });
            }
        }
        Ok(left)
    }

    /// Begins a file.
    pub(super) fn create(&self, file: &str) -> io::Result<File> {
        OpenOptions::new()
            .append(true)
            .create_new(true)
            .mode(MODE)
            .open(self.part(file))
    }

    /// A caller's recording becomes larger: others go where that is needed. Tells which.
    pub(super) fn grow(
        &mut self,
        caller: &Arc<str>,
        bytes: u64,
    ) -> Result<Vec<String>, RecordingError> {
        let no_room = RecordingError::NoRoom {
            total_bytes: self.total_bytes,
        };
        let mut removed = Vec::new();
        loop {
            let own = self.bytes.get(caller).copied().unwrap_or(0);
            let from = if own + bytes > self.total_bytes / 2 {
                Some(caller.clone())
            } else if self.total + bytes > self.total_bytes {
                self.largest()
            } else {
                break;
            };
            let oldest = from.and_then(|from| {
                let mut all = self.finished.iter();
                all.find(|(_, it)| it.caller == from)
                    .map(|(name, _)| name.clone())
            });
            let oldest = oldest.ok_or_else(|| no_room.clone())?;
            match std::fs::remove_file(self.folder.join(&oldest)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                gone => gone?,
            }
            if let Some(gone) = self.finished.remove(&oldest) {
                self.shrink(&gone.caller, gone.bytes);
            }
            removed.push(oldest);
        }
        self.add(caller, bytes);
        Ok(removed)
    }

    /// Of those who have recordings that are over, whoever has most bytes.
    fn largest(&self) -> Option<Arc<str>> {
        let callers = self.finished.values().map(|it| &it.caller);
        let bytes = |caller: &&Arc<str>| self.bytes.get(*caller).copied().unwrap_or(0);
        callers.max_by_key(bytes).cloned()
    }

    fn add(&mut self, caller: &Arc<str>, bytes: u64) {
        *self.bytes.entry(caller.clone()).or_default() += bytes;
        self.total += bytes;
    }

    /// So many bytes of a caller are not there any more.
    pub(super) fn shrink(&mut self, caller: &Arc<str>, bytes: u64) {
        self.total = self.total.saturating_sub(bytes);
        if let Some(own) = self.bytes.get_mut(caller) {
            *own = own.saturating_sub(bytes);
            if *own == 0 {
                self.bytes.remove(caller);
            }
        }
    }

    /// A recording is over.
    pub(super) fn finish(&mut self, file: &str, caller: &Arc<str>, bytes: u64) -> io::Result<()> {
        std::fs::rename(self.part(file), self.folder.join(file))?;
        let caller = caller.clone();
        self.finished
            .insert(file.to_owned(), Finished { caller, bytes });
        Ok(())
    }

    /// A recording is of nothing.
    pub(super) fn discard(&mut self, file: &str, caller: &Arc<str>, bytes: u64) {
        self.shrink(caller, bytes);
        // It is found at the next start.
        let _ = std::fs::remove_file(self.part(file));
    }

    fn part(&self, file: &str) -> PathBuf {
        self.folder.join(format!("{file}{PART}"))
    }
}

/// Whose recording it is; nobody's where it does not say.
fn caller(file: &Path) -> io::Result<Arc<str>> {
    let mut line = Vec::new();
    let mut reader = BufReader::new(File::open(file)?).take(HEAD_BYTES);
    reader.read_until(b'\n', &mut line)?;
    let head = serde_json::from_slice::<Head>(&line);
    Ok(head.map_or_else(|_| "".into(), |it| it.kas.user.into()))
}

/// The SHA-256 of a file, in hexadecimal digits.
pub(crate) fn hash(file: &Path) -> io::Result<String> {
    let mut hasher = Sha256::new();
    io::copy(&mut File::open(file)?, &mut Writing(&mut hasher))?;
    Ok(hex::encode(hasher.finalize()))
}

struct Writing<'a>(&'a mut Sha256);

impl io::Write for Writing<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

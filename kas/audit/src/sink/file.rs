//! A file of JSON lines, and those that it was before.

use std::{
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    io::{self, Read as _, Seek as _, SeekFrom, Write as _},
    os::unix::fs::{MetadataExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use crate::{
    OpenError,
    chain::{self, Link},
    config::FileSection,
};

/// A record is shorter than that.
const TAIL_BYTES: u64 = 512 << 10;
/// For its owner only: it tells who does what.
const MODE: u32 = 0o600;

/// A file that is written.
#[derive(Debug)]
pub(crate) struct FileOutput {
    path: PathBuf,
    file: File,
    length: u64,
    /// Whether there may be half a line behind that.
    torn: bool,
    max_bytes: u64,
    max_files: u32,
    sync: bool,
}

/// What an older process has left.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) link: Option<Link>,
    pub(super) remark: Option<String>,
}

/// Whether it can be opened, as far as that is seen without doing it.
pub(super) fn check(section: &FileSection, at: &str) -> Result<(), OpenError> {
    let folder = match section.path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let there = std::fs::metadata(folder).and_then(|it| match it.is_dir() {
        true => Ok(()),
        false => Err(io::ErrorKind::NotADirectory.into()),
    });
    there.map_err(|source| OpenError::File {
        key: format!("{at}.file"),
        file: section.path.to_path_buf(),
        source,
    })
}

impl FileOutput {
    /// Opens it, and finds where its chain goes on.
    pub(super) fn open(section: &FileSection, at: &str) -> Result<(Self, Found), OpenError> {
        let path = section.path.to_path_buf();
        let (key, file) = (format!("{at}.file"), path.clone());
        let opened = open(&path).map_err(|error| match error {
            TryLockError::WouldBlock => OpenError::InUse { key, file },
            TryLockError::Error(source) => OpenError::File { key, file, source },
        })?;
        let mut output = Self {
            length: 0,
            torn: false,
            file: opened,
            path,
            max_bytes: section.max_bytes.into(),
            max_files: section.max_files.max(1),
            sync: section.sync,
        };
        let found = output.recover().map_err(|source| OpenError::File {
            key: format!("{at}.file"),
            file: output.path.clone(),
            source,
        })?;
        Ok((output, found))
    }

    /// Removes what a crash has left of a line, and reads the last whole one.
    fn recover(&mut self) -> io::Result<Found> {
        let mut found = Found::default();
        let tail = Tail::read(&mut self.file)?;
        self.length = tail.whole;
        if tail.unfinished > 0 {
            self.file.set_len(tail.whole)?;
            found.remark = Some(format!(
                "{} bytes of a record that was not whole were removed from the end of the file",
                tail.unfinished
            ));
        }
        let mut last = tail.last;
        if last.is_none()
            && let Ok(mut before) = File::open(self.numbered(1))
        {
            last = Tail::read(&mut before)?.last;
        }
        if let Some(line) = last {
            match chain::read(&line) {
                Ok(sealed) => found.link = Some(sealed.into()),
                Err(error) => {
                    found.remark = Some(format!(
                        "another chain begins: of the last record in the file, {error}"
                    ));
                }
            }
        }
        Ok(found)
    }

    /// Adds lines: all of them or none.
    pub(super) fn write(&mut self, lines: &[String]) -> io::Result<()> {
        let mut text = String::with_capacity(lines.iter().map(|it| it.len() + 1).sum());
        for line in lines {
            text.push_str(line);
            text.push('\n');
        }
        self.follow()?;
        if self.torn {
            self.file.set_len(self.length)?;
            self.torn = false;
        }
        if self.length > 0 && self.length + text.len() as u64 > self.max_bytes {
            self.rotate()?;
        }
        let written = self.file.write_all(text.as_bytes());
        let written = written.and_then(|()| match self.sync {
            true => self.file.sync_data(),
            false => Ok(()),
        });
        if let Err(error) = written {
            self.torn = self.file.set_len(self.length).is_err();
            return Err(error);
        }
        self.length += text.len() as u64;
        Ok(())
    }

    /// Begins another file where somebody took this one away.
    fn follow(&mut self) -> io::Result<()> {
        let ours = self.file.metadata()?;
        let same = match std::fs::metadata(&self.path) {
            Ok(there) => (there.dev(), there.ino()) == (ours.dev(), ours.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(error) => return Err(error),
        };
        if !same {
            self.file = open(&self.path).map_err(io_error)?;
            self.length = self.file.metadata()?.len();
            self.torn = false;
        }
        Ok(())
    }

    /// Gives each file the next number, and begins another one.
    fn rotate(&mut self) -> io::Result<()> {
        for number in (1..self.max_files).rev() {
            let from = match number {
                1 => self.path.clone(),
                _ => self.numbered(number - 1),
            };
            match std::fs::rename(from, self.numbered(number)) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                renamed => renamed?,
            }
        }
        if self.max_files == 1 {
            std::fs::remove_file(&self.path)?;
        }
        self.follow()
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = OsString::from(&self.path);
        name.push(format!(".{number}"));
        name.into()
    }
}

fn open(path: &Path) -> Result<File, TryLockError> {
    let file = OpenOptions::new()
        .read(true)
        .append(true)
        .create(true)
        .mode(MODE)
        .open(path)
        .map_err(TryLockError::Error)?;
    file.try_lock()?;
    Ok(file)
}

fn io_error(error: TryLockError) -> io::Error {
    match error {
        TryLockError::Error(error) => error,
        TryLockError::WouldBlock => io::Error::other("another process writes it"),
    }
}

/// The end of a file.
#[derive(Debug)]
struct Tail {
    /// The last line that is whole.
    last: Option<String>,
    /// Bytes of all whole lines.
    whole: u64,
    /// Bytes behind them.
    unfinished: u64,
}

impl Tail {
    fn read(file: &mut File) -> io::Result<Self> {
        let length = file.metadata()?.len();
        let from = length.saturating_sub(TAIL_BYTES);
        file.seek(SeekFrom::Start(from))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        let is_end = |byte: &u8| *byte == b'\n';
        let Some(end) = bytes.iter().rposition(is_end) else {
            return Ok(Self {
                last: None,
                // Something else than a record where nothing of this length can be one.
                whole: from,
                unfinished: length - from,
            });
        };
        let begin = bytes[..end].iter().rposition(is_end).map_or(0, |at| at + 1);
        let last = String::from_utf8_lossy(&bytes[begin..end]).into_owned();
        let whole = from + end as u64 + 1;
        Ok(Self {
            last: Some(last),
            whole,
            unfinished: length - whole,
        })
    }
}

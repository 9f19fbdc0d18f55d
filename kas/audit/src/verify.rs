//! Whether files of audit records are as they were written.

use std::{
    collections::BTreeMap,
    fs::File,
    io::{self, BufRead as _, BufReader, Read as _},
    path::{Path, PathBuf},
};

use runtime::jwt::Secret;
use serde::{Deserialize, Serialize};

use crate::{
    chain::{self, ORIGIN, Sealed},
    recording,
};

/// Findings that are told.
const MAX_FINDINGS: usize = 100;
/// No line is longer.
const MAX_LINE_BYTES: u64 = 4 << 20;
/// Lines by which a file's place among others is found.
const SORTED_BY_LINES: usize = 16;

/// What was found out about files.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Lines that were read.
    pub records: u64,
    /// The chains, by id.
    pub chains: Vec<ChainReport>,
    /// Records of which their writer says that they were lost.
    pub dropped: u64,
    /// Recordings of sessions that are as they were written.
    pub recordings: u64,
    /// Recordings that were not looked at, for want of their folder.
    pub unchecked_recordings: u64,
    /// What is wrong; the first hundred.
    pub findings: Vec<Finding>,
    /// How much is wrong.
    pub total_findings: u64,
}

/// A chain in files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ChainReport {
    /// Its id.
    pub chain: String,
    /// The number of its first record there.
    pub first: u64,
    /// The number and the hash of its last one there, which `--last` takes later.
    pub last: String,
}

/// Something that is wrong.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// In which file; none where something is missing in all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<PathBuf>,
    /// In which line, from 1 on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// What.
    pub problem: String,
}

/// A recording as the trail knows it.
#[derive(Debug)]
struct Known {
    file: PathBuf,
    line: u64,
    sha256: String,
}

#[derive(Deserialize)]
struct Ends {
    recording: Option<Told>,
}

#[derive(Deserialize)]
struct Told {
    file: String,
    sha256: Option<String>,
    #[serde(default)]
    removed: bool,
}

#[derive(Debug)]
struct State {
    first: u64,
    last: Sealed,
}

#[derive(Deserialize)]
struct Lost {
    #[serde(default)]
    dropped: u64,
}

/// Reads files in the order of their chains, and the recordings that they tell of, where their folder is given.
///
/// # Errors
/// When one cannot be read.
pub fn verify(
    files: &[PathBuf],
    key: Option<&Secret>,
    last: Option<&str>,
    recordings: Option<&Path>,
) -> Result<Report, (PathBuf, io::Error)> {
    let mut files: Vec<_> = files
        .iter()
        .map(|file| Ok((place(file).map_err(|error| (file.clone(), error))?, file)))
        .collect::<Result<_, (PathBuf, io::Error)>>()?;
    files.sort();
    let mut check = Check {
        key,
        chains: BTreeMap::new(),
        broken: 0,
        last: last.map(|it| (it, false)),
        recordings: BTreeMap::new(),
        report: Report::default(),
    };
    for (_, file) in files {
        let read = each_line(file, |number, line| check.line(file, number, line));
        read.map_err(|error| (file.clone(), error))?;
    }
    check.recordings(recordings)?;
    Ok(check.finish())
}

/// What a file's place among others is found by.
fn place(file: &Path) -> io::Result<(String, u64)> {
    let mut found = None;
    let mut lines = 0;
    let mut reader = BufReader::new(File::open(file)?);
    while found.is_none() && lines < SORTED_BY_LINES {
        let Some(line) = next_line(&mut reader)? else {
            break;
        };
        let sealed = line.and_then(|line| chain::read(&line).ok());
        found = sealed.map(|it| (it.chain, it.seq));
        lines += 1;
    }
    Ok(found.unwrap_or((String::from("~"), 0)))
}

/// Calls `each` with the number and text of each line, `None` for one that is no text.
pub(crate) fn each_line(file: &Path, mut each: impl FnMut(u64, Option<&str>)) -> io::Result<()> {
    let mut reader = BufReader::new(File::open(file)?);
    let mut number = 0;
    while let Some(line) = next_line(&mut reader)? {
        number += 1;
        each(number, line.as_deref());
    }
    Ok(())
}

/// The next line; `Some(None)` if it is none that was written by us.
fn next_line(reader: &mut BufReader<File>) -> io::Result<Option<Option<String>>> {
    let mut bytes = Vec::new();
    let read = reader.by_ref().take(MAX_LINE_BYTES);
    let mut read = read;
    if read.read_until(b'\n', &mut bytes)? == 0 {
        return Ok(None);
    }
    let whole = bytes.pop_if(|byte| *byte == b'\n').is_some();
    Ok(Some(String::from_utf8(bytes).ok().filter(|_| whole)))
}

struct Check<'a> {
    key: Option<&'a Secret>,
    chains: BTreeMap<String, State>,
    /// Lines just before that are not sound.
    broken: u64,
    /// The record that must be there, and whether it was.
    last: Option<(&'a str, bool)>,
    /// By their files; none where it was removed in order.
    recordings: BTreeMap<String, Option<Known>>,
    report: Report,
}

impl Check<'_> {
    fn line(&mut self, file: &Path, number: u64, line: Option<&str>) {
        self.report.records += 1;
        let checked = line.ok_or(chain::Broken::NoHash);
        let checked = checked.and_then(|line| Ok((line, chain::check(line, self.key)?)));
        let (line, sealed) = match checked {
            Ok(sound) => sound,
            Err(error) => {
                self.broken += 1;
                return self.find(Some((file, number)), format!("{error}"));
            }
        };
        if line.contains("\"kind\":\"dropped\"") {
            let lost = serde_json::from_str::<Lost>(line);
            self.report.dropped += lost.map_or(0, |it| it.dropped);
        }
        if line.contains("\"recording\":{") {
            self.tells_of_recording(file, number, line);
        }
        if let Some((wanted, found)) = &mut self.last {
            *found |=
                *wanted == format!("{}:{}", sealed.seq, sealed.hash) || *wanted == sealed.hash;
        }
        let problem = self.link(&sealed);
        self.broken = 0;
        if let Some(problem) = problem {
            self.find(Some((file, number)), problem);
        }
        let (chain, seq) = (sealed.chain.clone(), sealed.seq);
        self.chains
            .entry(chain)
            .and_modify(|state| state.last = sealed.clone())
            .or_insert(State {
                first: seq,
                last: sealed,
            });
    }

    fn tells_of_recording(&mut self, file: &Path, line: u64, text: &str) {
        let Ok(Ends {
            recording: Some(told),
        }) = serde_json::from_str(text)
        else {
            return;
        };
        if told.removed {
            self.recordings.insert(told.file, None);
        } else if let Some(sha256) = told.sha256 {
            let file = file.to_owned();
            let known = Known { file, line, sha256 };
            self.recordings.entry(told.file).or_insert(Some(known));
        }
    }

    /// Compares recordings with what the trail says of them.
    fn recordings(&mut self, folder: Option<&Path>) -> Result<(), (PathBuf, io::Error)> {
        for (name, known) in std::mem::take(&mut self.recordings) {
            let Some(known) = known else {
                continue;
            };
            let Some(folder) = folder else {
                self.report.unchecked_recordings += 1;
                continue;
            };
            // The chain is sound, but a name is joined to a folder only if it is one.
            let is_name = Path::new(&name).file_name() == Some(name.as_ref());
            let path = folder.join(&name);
            let problem = match is_name.then(|| recording::hash(&path)) {
                Some(Ok(hash)) if hash == known.sha256 => {
                    self.report.recordings += 1;
                    continue;
                }
                Some(Ok(_)) => format!("the recording {name} of this record was changed"),
                Some(Err(error)) if error.kind() != io::ErrorKind::NotFound => {
                    return Err((path, error));
                }
                Some(Err(_)) | None => format!(
                    "the recording {name} of this record is missing, and no record says that it was removed"
                ),
            };
            self.find(Some((&known.file, known.line)), problem);
        }
        Ok(())
    }

    /// What is wrong with a record's place behind the one before it.
    fn link(&self, sealed: &Sealed) -> Option<String> {
        let seq = sealed.seq;
        let Some(State { last, .. }) = self.chains.get(&sealed.chain) else {
            let ok = seq > 0 || sealed.prev == ORIGIN;
            return (!ok).then(|| "a chain begins with a link to another record".to_owned());
        };
        let (next, broken) = (last.seq + 1, self.broken);
        if seq < next {
            return Some(format!(
                "record {seq} comes behind record {}: it was moved or repeated",
                last.seq
            ));
        }
        if seq > next + broken {
            let end = seq - 1;
            return Some(format!(
                "records {next} to {end} are missing before record {seq}"
            ));
        }
        if broken == 0 && sealed.prev != last.hash {
            return Some(format!(
                "record {seq} does not follow record {}: that one was replaced",
                last.seq
            ));
        }
        None
    }

    fn find(&mut self, at: Option<(&Path, u64)>, problem: String) {
        self.report.total_findings += 1;
        if self.report.findings.len() < MAX_FINDINGS {
            self.report.findings.push(Finding {
                file: at.map(|(file, _)| file.to_owned()),
                line: at.map(|(_, line)| line),
                problem,
            });
        }
    }

    fn finish(mut self) -> Report {
        if let Some((wanted, false)) = self.last {
            self.find(
                None,
                format!("the record {wanted} is not in these files: their end was cut off"),
            );
        }
        let chains = self.chains.into_iter();
        self.report.chains = chains
            .map(|(chain, state)| ChainReport {
                chain,
                first: state.first,
                last: format!("{}:{}", state.last.seq, state.last.hash),
            })
            .collect();
        self.report
    }
}

//! What the replicas themselves wrote down about the requests: how many waited for a tunnel, or were sent
//! to an agent again.

use std::{collections::BTreeMap, path::Path, time::Duration};

use anyhow::Result;
use serde::Deserialize;

use crate::fleet::{Agent, Kind};

/// A request that waited for a tunnel for longer was held.
const HELD: Duration = Duration::from_millis(50);

/// How long each log was at some moment.
pub(crate) type Mark = BTreeMap<String, usize>;

/// What was noted about requests to agents of one kind.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Noted {
    pub(crate) requests: u64,
    /// Calls that were made again.
    pub(crate) replays: u64,
    /// Requests that waited for a tunnel.
    pub(crate) holds: u64,
    /// The longest wait.
    pub(crate) longest: Duration,
    /// Watches that went on in the middle. A watch is noted when it is over.
    pub(crate) resumes: u64,
}

#[derive(Deserialize)]
struct Line {
    target: String,
    #[serde(rename = "agent.id")]
    agent_id: Option<u64>,
    replays: u64,
    resumes: u64,
    routing_ms: u64,
}

/// How long the logs are now.
pub(crate) fn mark(folder: &Path) -> Result<Mark> {
    let mut mark = Mark::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with("kas-") && name.contains("-run-") {
            mark.insert(name, usize::try_from(entry.metadata()?.len())?);
        }
    }
    Ok(mark)
}

/// What was noted between one mark and the next, for each but the last.
pub(crate) fn read(
    folder: &Path,
    marks: &[Mark],
    agents: &[Agent],
) -> Result<Vec<BTreeMap<Kind, Noted>>> {
    let kinds: BTreeMap<_, _> = agents.iter().map(|it| (it.id.clone(), it.kind)).collect();
    let mut all = Vec::new();
    let mut logs = BTreeMap::new();
    for name in marks.last().into_iter().flat_map(BTreeMap::keys) {
        logs.insert(name, std::fs::read(folder.join(name))?);
    }
    for pair in marks.windows(2) {
        let mut noted = BTreeMap::<Kind, Noted>::new();
        for (name, log) in &logs {
            let at = |mark: &Mark| mark.get(*name).copied().unwrap_or(0).min(log.len());
            let part = log.get(at(&pair[0])..at(&pair[1])).unwrap_or_default();
            for line in String::from_utf8_lossy(part).lines() {
                // Other lines have no such fields; the last one of a killed replica may be cut.
                let line = serde_json::from_str::<Line>(line).ok();
                let Some(line) = line.filter(|line| line.target == "audit") else {
                    continue;
                };
                let id = line.agent_id.map(|id| id.to_string());
                if let Some(kind) = id.and_then(|id| kinds.get(&id)) {
                    noted.entry(*kind).or_default().note(&line);
                }
            }
        }
        all.push(noted);
    }
    Ok(all)
}

impl Noted {
    fn note(&mut self, line: &Line) {
        let waited = Duration::from_millis(line.routing_ms);
        self.requests += 1;
        self.replays += line.replays;
        self.resumes += line.resumes;
        self.holds += u64::from(waited >= HELD);
        self.longest = self.longest.max(waited);
    }

    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.replays += other.replays;
        self.resumes += other.resumes;
        self.holds += other.holds;
        self.longest = self.longest.max(other.longest);
    }
}

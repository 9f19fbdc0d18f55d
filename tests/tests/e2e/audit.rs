//! What the replicas themselves wrote down about the requests: how many were sent to an agent again.

use std::path::{Path, PathBuf};

use anyhow::Result;
use serde::Deserialize;
use serde_json::{Value, json};
use tests::parts::say;

use crate::report::Report;

/// Says how often requests were made again, and writes everything down for programs.
pub(crate) fn write(report: &Report, logs: &Path) -> Result<()> {
    let replays = Replays::read(logs)?;
    say(&replays.text());
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../target/reports");
    std::fs::create_dir_all(&folder)?;
    let json = serde_json::to_string_pretty(&report.json(&replays.json()))?;
    Ok(std::fs::write(folder.join("e2e.json"), json)?)
}

/// Requests that a replica made again, out of all that it noted.
#[derive(Debug, Default)]
struct Replays {
    noted: u64,
    replayed: u64,
    replays: u64,
    most: u64,
}

#[derive(Deserialize)]
struct Line {
    target: String,
    replays: u64,
}

impl Replays {
    /// Reads the logs of all runs of all replicas.
    fn read(folder: &Path) -> Result<Self> {
        let mut all = Self::default();
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with("kas-") && name.contains("-run-") {
                let text = std::fs::read(entry.path())?;
                String::from_utf8_lossy(&text)
                    .lines()
                    .for_each(|line| all.note(line));
            }
        }
        Ok(all)
    }

    fn note(&mut self, line: &str) {
        // Other lines have no such fields; the last one of a killed replica may be cut.
        let Ok(line) = serde_json::from_str::<Line>(line) else {
            return;
        };
        if line.target == "audit" {
            self.noted += 1;
            self.replayed += u64::from(line.replays > 0);
            self.replays += line.replays;
            self.most = self.most.max(line.replays);
        }
    }

    /// One line for people.
    fn text(&self) -> String {
        format!(
            "replays by kas: {} for {} of {} requests, at most {} for one",
            self.replays, self.replayed, self.noted, self.most
        )
    }

    /// The same for programs.
    fn json(&self) -> Value {
        json!({
            "requests_noted": self.noted, "requests_replayed": self.replayed,
            "replays": self.replays, "most_for_one": self.most,
        })
    }
}

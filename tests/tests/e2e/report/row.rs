//! One line of the report.

use std::time::Duration;

use serde_json::{Value, json};

use super::seconds;
use crate::{
    audit::Noted,
    traffic::{Outcome, Sample, What},
};

pub(super) const HEAD: &str = "\
| fault | agents | requests | failed | POST: outcome unknown | asked again by client | lists broken off | replays by kas | holds | longest hold s | longest stall s | events | latest event s | watches resumed by kas | by client |
|---|---|---|---|---|---|---|---|---|---|---|---|---|---|---|";

pub(super) const LEGEND: &str = "\
Held is a request that waited for a tunnel for 50 ms or longer; replays, holds and resumes are from the replicas' own
logs, where a watch stands when it is over. A stall is the time from asking to the whole answer, replays and what the client asked again
included; one request in twenty, whose API thinks for 0.4 s, is not counted there. An event is late by the time since it came to be.
";

/// What happened to the agents of one kind in the time of one fault.
#[derive(Debug, Default, Clone)]
pub(super) struct Row {
    pub(super) requests: usize,
    failed: usize,
    unknown: usize,
    client_retries: u64,
    broke_off: u64,
    pub(super) longest: Duration,
    events: usize,
    latest: Duration,
    begun_again: usize,
    pub(super) noted: Noted,
}

impl Row {
    pub(super) fn count(&mut self, sample: &Sample) {
        self.failed += usize::from(matches!(sample.outcome, Outcome::Failed(_)));
        match sample.what {
            What::Event => {
                self.events += 1;
                self.latest = self.latest.max(sample.took);
                return;
            }
            What::Watch => {
                self.begun_again += 1;
                return;
            }
            What::Get | What::List | What::Post => self.longest = self.longest.max(sample.took),
            What::SlowGet | What::SlowPost => {}
        }
        self.requests += 1;
        self.unknown += usize::from(sample.outcome == Outcome::Unknown);
        self.client_retries += sample.client_retries;
        self.broke_off += sample.broke_off;
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.failed += other.failed;
        self.unknown += other.unknown;
        self.client_retries += other.client_retries;
        self.broke_off += other.broke_off;
        self.longest = self.longest.max(other.longest);
        self.events += other.events;
        self.latest = self.latest.max(other.latest);
        self.begun_again += other.begun_again;
        self.noted.add(other.noted);
    }

    pub(super) fn line(&self, fault: &str, agents: &str) -> String {
        let noted = &self.noted;
        let cells = [
            fault.to_owned(),
            agents.to_owned(),
            self.requests.to_string(),
            self.failed.to_string(),
            self.unknown.to_string(),
            self.client_retries.to_string(),
            self.broke_off.to_string(),
            noted.replays.to_string(),
            noted.holds.to_string(),
            seconds(noted.longest),
            seconds(self.longest),
            self.events.to_string(),
            seconds(self.latest),
            noted.resumes.to_string(),
            self.begun_again.to_string(),
        ];
        format!("| {} |", cells.join(" | "))
    }

    pub(super) fn json(&self, fault: &str, agents: &str) -> Value {
        let noted = &self.noted;
        json!({
            "fault": fault, "agents": agents, "requests": self.requests, "failed": self.failed,
            "outcome_unknown": self.unknown, "client_retries": self.client_retries,
            "lists_broken_off": self.broke_off, "longest_stall_s": self.longest.as_secs_f64(),
            "requests_noted": noted.requests, "replays": noted.replays, "holds": noted.holds,
            "longest_hold_s": noted.longest.as_secs_f64(), "events": self.events,
            "latest_event_s": self.latest.as_secs_f64(), "watches_resumed": noted.resumes,
            "watches_begun_again": self.begun_again,
        })
    }
}

//! What a doctor has found: one line a check, in words.

use std::fmt;

use serde::Serialize;

use super::remedies::{Fault, Remedy};

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// All is well.
    Ok,
    /// It could not be looked at; the text says why.
    NotChecked,
    /// It works, and somebody should look at it.
    Warning,
    /// It does not work.
    Failed,
}

impl Outcome {
    /// In words.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotChecked => "not checked",
            Self::Warning => "warning",
            Self::Failed => "failed",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Check {
    /// Where: a part of the way, or of the configuration.
    pub hop: String,
    /// What was looked at.
    pub check: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What was seen.
    pub seen: String,
    /// What kind of fault it is, if it is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<Fault>,
    /// What mends it, by the program that is configured.
    #[serde(skip_serializing_if = "<[Remedy]>::is_empty")]
    pub remedies: &'static [Remedy],
}

/// What a check saw, before it is known where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    outcome: Outcome,
    seen: String,
    fault: Option<Fault>,
}

impl Finding {
    /// All is well.
    pub fn ok(seen: impl Into<String>) -> Self {
        Self::new(Outcome::Ok, seen.into(), None)
    }

    /// It could not be looked at.
    pub fn not_checked(why: impl Into<String>) -> Self {
        Self::new(Outcome::NotChecked, why.into(), None)
    }

    /// It works, but.
    pub fn warning(fault: Fault, seen: impl Into<String>) -> Self {
        Self::new(Outcome::Warning, seen.into(), Some(fault))
    }

    /// It does not work.
    pub fn failed(fault: Fault, seen: impl Into<String>) -> Self {
        Self::new(Outcome::Failed, seen.into(), Some(fault))
    }

    fn new(outcome: Outcome, seen: String, fault: Option<Fault>) -> Self {
        Self {
            outcome,
            seen,
            fault,
        }
    }

    /// Whether it does not work.
    #[must_use]
    pub fn is_failed(&self) -> bool {
        self.outcome == Outcome::Failed
    }

    /// The kind of fault, if it is one.
    #[must_use]
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }
}

/// All checks, in the order in which they were made.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Report {
    /// The checks.
    pub checks: Vec<Check>,
}

impl Report {
    /// Adds what was found; whether it works.
    pub fn add(&mut self, hop: &str, check: &str, finding: Finding) -> bool {
        let works = !finding.is_failed();
        let Finding {
            outcome,
            seen,
            fault,
        } = finding;
        self.checks.push(Check {
            hop: hop.to_owned(),
            check: check.to_owned(),
            outcome,
            // One line each, whatever a stranger's answer has in it.
            seen: seen.split_whitespace().collect::<Vec<_>>().join(" "),
            fault,
            remedies: fault.map_or(&[], Fault::remedies),
        });
        works
    }

    /// Whether anything does not work.
    #[must_use]
    pub fn has_failed(&self) -> bool {
        self.checks.iter().any(|it| it.outcome == Outcome::Failed)
    }

    /// As JSON.
    ///
    /// # Errors
    /// Never, as long as its parts are texts.
    pub fn json(&self) -> Result<String, serde_json::Error> {
        serde_json::to_string_pretty(self).map(|text| text + "\n")
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for check in &self.checks {
            let outcome = check.outcome.as_str();
            writeln!(
                f,
                "{outcome:<11}  {}: {}: {}",
                check.hop, check.check, check.seen
            )?;
            for Remedy { at, line } in check.remedies {
                writeln!(f, "{:<11}    {at}: {line}", "")?;
            }
        }
        let count = |outcome| {
            self.checks
                .iter()
                .filter(|it| it.outcome == outcome)
                .count()
        };
        writeln!(
            f,
            "{} checks: {} ok, {} warnings, {} failed, {} not checked",
            self.checks.len(),
            count(Outcome::Ok),
            count(Outcome::Warning),
            count(Outcome::Failed),
            count(Outcome::NotChecked),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let mut report = Report::default();
        report.add("kas.example:443", "TCP", Finding::ok("3 ms"));
        let failed = Finding::failed(Fault::StreamTimeout, "cut\nafter 20 s");
        report.add("nginx at kas.example:443", "silent stream", failed);
        report
    }

    #[test]
    fn each_check_is_a_line_and_its_remedies_stand_below() {
        let text = report().to_string();

        let mut lines = text.lines();
        assert_eq!(
            lines.next(),
            Some("ok           kas.example:443: TCP: 3 ms")
        );
        let failed = "failed       nginx at kas.example:443: silent stream: cut after 20 s";
        assert_eq!(lines.next(), Some(failed));
        assert!(text.contains("nginx: grpc_read_timeout 1h"), "{text}");
        assert!(text.ends_with("2 checks: 1 ok, 0 warnings, 1 failed, 0 not checked\n"));
    }

    #[test]
    fn programs_read_the_kind_of_fault() {
        let json: serde_json::Value = serde_json::from_str(&report().json().unwrap()).unwrap();

        assert_eq!(json["checks"][1]["fault"], "stream_timeout");
        assert_eq!(json["checks"][1]["outcome"], "failed");
        assert!(json["checks"][0].get("remedies").is_none());
        assert!(report().has_failed());
    }
}

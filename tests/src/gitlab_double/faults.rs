//! What goes wrong on demand.

use serde::Deserialize;

use super::{Endpoint, Scenario};

/// Something that goes wrong.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fault {
    /// Where; everywhere if not given.
    pub endpoint: Option<Endpoint>,
    /// What.
    pub kind: FaultKind,
    /// How often; for ever if not given.
    pub times: Option<u32>,
}

/// The things that can go wrong.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FaultKind {
    /// The connection is closed without an answer.
    Down,
    /// No answer comes.
    Hang,
    /// The answer comes after so many milliseconds.
    Slow(u64),
    /// This status, with its reason in JSON.
    Status(u16),
    /// 429, and when to come again in seconds.
    Busy(u64),
    /// This status with a page for people, as a proxy in front of GitLab gives it.
    Page(u16),
    /// Success with broken JSON.
    Garbage,
    /// Success with a page for people.
    Html,
    /// Success with far too much.
    Flood,
}

impl Fault {
    /// It goes wrong everywhere and for ever.
    #[must_use]
    pub fn everywhere(kind: FaultKind) -> Self {
        Self {
            endpoint: None,
            kind,
            times: None,
        }
    }

    /// It goes wrong at one endpoint, so many times.
    #[must_use]
    pub fn at(endpoint: Endpoint, kind: FaultKind, times: Option<u32>) -> Self {
        Self {
            endpoint: Some(endpoint),
            kind,
            times,
        }
    }
}

impl Scenario {
    /// What goes wrong with a request; uses up one of its times.
    pub(super) fn fault(&mut self, endpoint: Endpoint) -> Option<FaultKind> {
        let fits = |fault: &&mut Fault| {
            fault.endpoint.is_none_or(|at| at == endpoint) && fault.times != Some(0)
        };
        let fault = self.faults.iter_mut().find(fits)?;
        fault.times = fault.times.map(|times| times - 1);
        Some(fault.kind.clone())
    }
}

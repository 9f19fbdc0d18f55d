//! How often a double was asked what.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The calls it knows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// Whose is an agent's token.
    AgentInfo,
    /// The same, after the renaming.
    NewAgentInfo,
    /// Which agents may a job use.
    AllowedAgents,
    /// May a user use an agent.
    AuthorizeProxyUser,
    /// What does an agent's file say.
    AgentConfiguration,
    /// How is kas used.
    UsageMetrics,
    /// May an agent read a project.
    VerifyProjectAccess,
    /// Which agents wait to be dialled.
    ReceptiveAgents,
    /// What agents' modules ask for.
    Modules,
    /// What happened at kas.
    AgentEvents,
    /// Which job is for a runner.
    JobRequest,
    /// Where does a runner ask for jobs.
    RouterDiscovery,
    /// At which commit is a branch: Gitaly.
    InfoRefs,
    /// What does a file say: Gitaly.
    TreeEntry,
    /// Which files are there: Gitaly.
    TreeEntries,
    /// Anything else.
    Unknown,
}

/// Requests by call and by the status they got; 0 stands for no answer.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counters(BTreeMap<Endpoint, BTreeMap<u16, u64>>);

impl Counters {
    pub(super) fn count(&mut self, endpoint: Endpoint, status: u16) {
        *self
            .0
            .entry(endpoint)
            .or_default()
            .entry(status)
            .or_default() += 1;
    }

    /// All requests of a call.
    #[must_use]
    pub fn of(&self, endpoint: Endpoint) -> u64 {
        self.0.get(&endpoint).map_or(0, |all| all.values().sum())
    }

    /// Those that got a status.
    #[must_use]
    pub fn with(&self, endpoint: Endpoint, status: u16) -> u64 {
        let all = self.0.get(&endpoint);
        all.and_then(|it| it.get(&status))
            .copied()
            .unwrap_or_default()
    }
}

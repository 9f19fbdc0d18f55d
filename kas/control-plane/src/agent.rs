//! What the control plane tells about an agent.

use std::sync::Arc;

use cluster_state::AgentId;
use proto::agent::agentcfg::AgentConfiguration;

/// A registered agent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentInfo {
    /// Its number.
    pub id: AgentId,
    /// Its name, unique within its project.
    pub name: String,
    /// The number of its configuration project, 0 when it has none.
    pub project_id: i64,
    /// The full path of its configuration project, empty when it has none.
    pub project_path: String,
    /// The branch its configuration is read from, empty when it has none.
    pub default_branch: String,
}

/// One state of an agent's configuration.
#[derive(Debug, Clone, PartialEq)]
pub struct AgentConfigurationVersion {
    /// Names the content: equal ids mean equal configurations.
    pub commit_id: String,
    /// What the agent is sent.
    pub configuration: AgentConfiguration,
}

/// What is known of an agent's configuration.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Configuration {
    /// The last good one; none before any is known.
    pub version: Option<Arc<AgentConfigurationVersion>>,
    /// Whether that is known to be the newest: an agent that has another one
    /// keeps it until then.
    pub verified: bool,
    /// What is wrong, so that there is nothing newer.
    pub problem: Option<Problem>,
}

/// What is wrong with an agent's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// The file cannot be used.
    Broken(String),
    /// There is no branch to read it from.
    NoBranch(String),
}

impl Configuration {
    /// A configuration that counts.
    #[must_use]
    pub fn good(version: Arc<AgentConfigurationVersion>) -> Self {
        Self {
            version: Some(version),
            verified: true,
            problem: None,
        }
    }

    /// What an agent is sent that has the version named `known`.
    #[must_use]
    pub fn newer_than(&self, known: &str) -> Option<&Arc<AgentConfigurationVersion>> {
        let counts = |it: &&Arc<AgentConfigurationVersion>| {
            it.commit_id != known && (self.verified || known.is_empty())
        };
        self.version.as_ref().filter(counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_that_has_another_version_keeps_it_until_ours_is_known_to_be_newer() {
        let version = AgentConfigurationVersion {
            commit_id: "b".to_owned(),
            configuration: AgentConfiguration::default(),
        };
        let mut configuration = Configuration::good(Arc::new(version));
        let sent = |it: &Configuration, known| it.newer_than(known).is_some();

        assert!(sent(&configuration, "") && sent(&configuration, "a"));
        assert!(!sent(&configuration, "b"));
        configuration.verified = false;
        assert!(sent(&configuration, "") && !sent(&configuration, "a"));
        assert!(!sent(&Configuration::default(), ""));
    }
}

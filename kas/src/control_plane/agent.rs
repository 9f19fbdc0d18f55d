//! What the control plane tells about an agent.

use proto::agent::agentcfg::AgentConfiguration;
use router::id::AgentId;

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

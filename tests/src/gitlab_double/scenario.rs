//! What a double knows, as its YAML file says.

use std::{collections::BTreeMap, path::Path};

use anyhow::{Context, Result};
use serde::Deserialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use super::Fault;

/// All that a double knows.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Scenario {
    /// Any text; the secret is its SHA-256.
    pub secret_seed: String,
    /// Seconds that its clock is ahead.
    pub clock_ahead: i64,
    /// Which of the two paths of `agent_info` there are.
    pub paths: Paths,
    /// Its Gitaly.
    pub gitaly: Gitaly,
    /// Registered agents.
    pub agents: Vec<Agent>,
    /// People.
    pub users: Vec<User>,
    /// Browser sessions.
    pub sessions: Vec<Session>,
    /// CI jobs.
    pub jobs: Vec<Job>,
    /// Agents that wait to be dialled, as GitLab answers them.
    pub receptive_agents: Vec<Value>,
    /// What agents are told of their workspaces, as GitLab answers it.
    pub workspaces: Vec<Value>,
    /// Runners.
    pub runners: Vec<Runner>,
    /// The URL at which runners ask kas for jobs; nothing: they ask GitLab itself.
    pub job_router: Option<String>,
    /// What goes wrong; the first that fits a request counts.
    pub faults: Vec<Fault>,
}

/// GitLab of what age.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Paths {
    /// As it was.
    #[default]
    Old,
    /// After the renaming.
    New,
}

/// The Gitaly that goes with it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Gitaly {
    /// Where agents' repositories are said to be; the double's own Gitaly if not given.
    pub address: Option<String>,
    /// Its token; empty for none.
    pub token: String,
    /// Features that must come with each call.
    pub features: BTreeMap<String, String>,
}

/// An agent.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Agent {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub name: String,
    /// Its configuration project.
    pub project: Project,
    /// Its good tokens.
    pub tokens: Vec<String>,
    /// Full paths of projects that it may read besides its own.
    #[serde(default)]
    pub reads: Vec<String>,
    /// Whether its file has `user_access`.
    #[serde(default)]
    pub user_access: bool,
}

/// A project.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Project {
    /// Its number.
    pub id: i64,
    /// Its full path.
    pub path: String,
    /// Its default branch.
    #[serde(default = "main_branch")]
    pub default_branch: String,
}

fn main_branch() -> String {
    "main".to_owned()
}

/// A person.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct User {
    /// Its number.
    pub id: i64,
    /// Its name.
    pub username: String,
    /// Personal access tokens.
    #[serde(default)]
    pub tokens: Vec<PersonalToken>,
    /// The agents it may use; `access_as` as GitLab answers it.
    #[serde(default)]
    pub agents: Vec<UserAgent>,
}

/// A personal access token.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PersonalToken {
    /// The token.
    pub token: String,
    /// What it is for.
    #[serde(default)]
    pub scopes: Vec<String>,
}

/// An agent that a user may use.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UserAgent {
    /// The agent.
    pub id: i64,
    /// As GitLab answers it.
    pub access_as: Value,
}

/// A browser session.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Session {
    /// The cookie's unescaped value.
    pub cookie: String,
    /// Its CSRF token.
    pub csrf: String,
    /// Whose; nobody's when signed out.
    pub username: Option<String>,
}

/// A runner.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Runner {
    /// Its token.
    pub token: String,
    /// The job that waits for it.
    pub job: Option<i64>,
}

/// A CI job.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Job {
    /// Its number.
    pub id: i64,
    /// Its token.
    pub token: String,
    /// Whether it is over.
    #[serde(default)]
    pub finished: bool,
    /// Its pipeline.
    pub pipeline: i64,
    /// Its project.
    pub project: i64,
    /// The groups of its project.
    #[serde(default)]
    pub groups: Vec<i64>,
    /// Who started it.
    pub username: String,
    /// Where it deploys to.
    pub environment: Option<Environment>,
    /// The agents it may use; `access_as` as GitLab answers it.
    #[serde(default)]
    pub agents: Vec<JobAgent>,
}

/// Where a job deploys to.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Environment {
    /// Its short name.
    pub slug: String,
    /// Its kind.
    pub tier: String,
}

/// An agent that a job may use.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JobAgent {
    /// The agent.
    pub id: i64,
    /// As GitLab answers it; nothing for the agent itself.
    pub access_as: Option<Value>,
}

impl Scenario {
    /// Reads a scenario.
    ///
    /// # Errors
    /// When it is not one.
    pub fn parse(yaml: &str) -> Result<Self> {
        serde_saphyr::from_str(yaml).context("the scenario of the GitLab double")
    }

    /// A small GitLab with something of everything.
    ///
    /// # Panics
    /// Never: the file is part of the program, and tested.
    #[must_use]
    pub fn sample() -> Self {
        Self::parse(include_str!("sample.yaml")).expect("the sample is a scenario")
    }

    /// Reads a scenario file.
    ///
    /// # Errors
    /// When it is not one.
    pub fn load(file: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
        Self::parse(&text).with_context(|| file.display().to_string())
    }

    /// The secret that kas must sign with.
    #[must_use]
    pub fn secret(&self) -> [u8; 32] {
        Sha256::digest(self.secret_seed.as_bytes()).into()
    }

    pub(super) fn agent(&self, id: i64) -> Option<&Agent> {
        self.agents.iter().find(|agent| agent.id == id)
    }

    pub(super) fn user(&self, name: &str) -> Option<&User> {
        self.users.iter().find(|user| user.username == name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sample_is_a_scenario_and_a_typo_is_none() {
        assert_eq!(Scenario::sample().agents.len(), 3);
        assert!(Scenario::parse("agnets: []").is_err());
        let fault = "faults: [{endpoint: agent_info, kind: {status: 500}, times: 2}, {kind: down}]";
        assert_eq!(Scenario::parse(fault).unwrap().faults.len(), 2);
    }
}

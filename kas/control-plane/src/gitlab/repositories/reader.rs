//! What an agent's file says, or what is wrong with it.

use std::{path::Path, str::Utf8Error, sync::Arc};

use runtime::yaml::{self, YamlError};
use serde_json::Value;

use super::{
    super::{
        super::{
            AgentConfigurationVersion, AgentInfo, Configuration, Problem, agent_file::AgentFile,
        },
        agent_info::RegisteredAgent,
    },
    RepositorySettings,
};

use crate::gitaly::{ErrorKind, GitalyError, RepositoryLocation};

/// What an agent's file says, or what is wrong with it. By default that of a
/// file that is not there: nothing.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Content(Result<ReadFile, AgentFileError>);

/// A file that can be used.
#[derive(Debug, Clone, PartialEq, Default)]
struct ReadFile {
    known: AgentFile,
    /// All of it.
    written: Value,
}

/// Unknown keys of a file that are logged.
const LOGGED_KEYS_MAX: usize = 20;

/// Why an agent's file cannot be used.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(super) enum AgentFileError {
    /// It is no text.
    #[error("{path}: {error}")]
    Utf8 { path: String, error: Utf8Error },
    /// It says something wrong.
    #[error(transparent)]
    Yaml(#[from] YamlError),
    /// It is too big, or no file.
    #[error(transparent)]
    Unusable(#[from] GitalyError),
}

impl Default for Content {
    fn default() -> Self {
        Self(Ok(ReadFile::default()))
    }
}

impl Content {
    /// Puts it in force as of a commit. A broken file leaves the last good one.
    pub(super) fn put_in(&self, configuration: &mut Configuration, commit: &str) {
        let known = configuration.version.as_ref().map(|it| &*it.commit_id);
        match &self.0 {
            Ok(_) if known == Some(commit) => {
                configuration.verified = true;
                configuration.problem = None;
            }
            Ok(file) => {
                *configuration = Configuration::good(Arc::new(AgentConfigurationVersion {
                    commit_id: commit.to_owned(),
                    configuration: file.known.to_message(),
                }));
            }
            Err(why) => {
                configuration.verified = true;
                configuration.problem = Some(Problem::Broken(why.to_string()));
            }
        }
    }

    /// What is sent to GitLab; nothing of a broken file.
    pub(super) fn reported(&self) -> Option<Value> {
        let file = self.0.as_ref().ok()?;
        Some(file.known.told(&file.written))
    }
}

/// Reads an agent's file as of a commit.
pub(super) async fn read(
    settings: &RepositorySettings,
    registered: &RegisteredAgent,
    commit: &str,
    path: &str,
) -> Result<Content, GitalyError> {
    let location = RepositoryLocation {
        server: &registered.gitaly,
        repository: &registered.repository,
    };
    let file = settings
        .gitaly
        .file(location, commit, path, settings.max_file_size);
    let parsed = match file.await {
        Ok(bytes) => parse(&registered.agent, path, &bytes),
        Err(error) => match error.kind {
            ErrorKind::NotFound => Ok(ReadFile::default()),
            ErrorKind::FileTooBig | ErrorKind::UnexpectedTreeEntryType => Err(error.into()),
            ErrorKind::InvalidArgument | ErrorKind::ProtocolError | ErrorKind::RpcError => {
                return Err(error);
            }
        },
    };
    if let Err(error) = &parsed {
        let agent = &registered.agent;
        tracing::error!(
            agent.id = agent.id.0,
            agent.name = agent.name,
            project = agent.project_path,
            path,
            commit,
            %error,
            "the agent's configuration file is invalid; the last valid one stays in force"
        );
    }
    Ok(Content(parsed))
}

/// Keys that are not known here may be known to a newer GitLab: they are logged, and told to it only.
fn parse(agent: &AgentInfo, path: &str, bytes: &[u8]) -> Result<ReadFile, AgentFileError> {
    let text = std::str::from_utf8(bytes).map_err(|error| AgentFileError::Utf8 {
        path: path.to_owned(),
        error,
    })?;
    let written = yaml::read_written(Path::new(path), text)?;
    if written.is_null() {
        return Ok(ReadFile::default());
    }
    let (known, unknown) = yaml::read_noting::<AgentFile>(Path::new(path), text)?;
    for key in unknown.into_iter().take(LOGGED_KEYS_MAX) {
        tracing::warn!(
            agent.id = agent.id.0,
            agent.name = agent.name,
            project = agent.project_path,
            path,
            line = key.line,
            key = key.path,
            reason = key.message,
            "unknown key in the agent's configuration file; GitLab is told of it, the agent is not"
        );
    }
    Ok(ReadFile { known, written })
}

#[cfg(test)]
mod tests {
    use cluster_state::AgentId;

    use super::*;

    fn content(text: &str) -> Content {
        let agent = AgentInfo {
            id: AgentId(1),
            name: "a".into(),
            project_id: 1,
            project_path: "g/p".into(),
            default_branch: "main".into(),
        };
        Content(parse(&agent, "config.yaml", text.as_bytes()))
    }

    #[test]
    fn a_broken_file_leaves_the_last_good_one_until_it_is_mended() {
        let mut configuration = Configuration::default();
        content("observability: {logging: {level: debug}}").put_in(&mut configuration, "1");
        let good = configuration.version.clone();

        content("observability: [").put_in(&mut configuration, "2");

        assert_eq!(configuration.version, good);
        let Some(Problem::Broken(why)) = &configuration.problem else {
            panic!("{configuration:?}");
        };
        assert!(why.starts_with("config.yaml:1:"), "{why}");
        content("").put_in(&mut configuration, "3");
        assert_eq!(configuration.problem, None);
        assert_eq!(configuration.version.unwrap().commit_id, "3");
    }

    #[test]
    fn unknown_keys_do_no_harm_and_are_told_to_gitlab() {
        let reported =
            content("user_access: {access_as: {agent: {}}}\nnew_feature: {a: 1}").reported();

        let told = serde_json::json!({
            "user_access": {"access_as": {"agent": {}}}, "new_feature": {"a": 1},
        });
        assert_eq!(reported, Some(told));
        for nothing in ["", "~", "null", "---\n", "# nothing"] {
            let read = content(nothing);
            assert_eq!(read, Content::default(), "{nothing}");
        }
        assert_eq!(Content::default().reported(), Some(serde_json::json!({})));
        assert_eq!(content("a: [").reported(), None);
    }
}

//! Which of a repository's files are agents' configuration files.

const FILE: &str = "config.yaml";

/// The path of an agent's file, and the agent's name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AgentFileName {
    /// The whole path.
    pub path: String,
    /// The agent's name.
    pub agent: String,
}

impl AgentFileName {
    /// The directory of agents' files.
    pub const DIRECTORY: &str = ".gitlab/agents";

    /// The file of an agent.
    #[must_use]
    pub fn of(agent: &str) -> Self {
        Self {
            path: format!("{}/{agent}/{FILE}", Self::DIRECTORY),
            agent: agent.to_owned(),
        }
    }

    /// Whose file a path is, if it is an agent's.
    #[must_use]
    pub fn parse(path: &[u8]) -> Option<Self> {
        let path = std::str::from_utf8(path).ok()?;
        let rest = path.strip_prefix(Self::DIRECTORY)?.strip_prefix('/')?;
        let agent = rest.strip_suffix(FILE)?.strip_suffix('/')?;
        is_name(agent).then(|| Self::of(agent))
    }
}

fn is_name(text: &str) -> bool {
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = text.as_bytes();
    let ends = [bytes.first(), bytes.last()];
    bytes.iter().all(|b| plain(*b) || *b == b'-')
        && ends.iter().all(|end| end.is_some_and(|b| plain(*b)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_of_agents_count() {
        let agent = |path: &str| AgentFileName::parse(path.as_bytes()).map(|it| it.agent);

        assert_eq!(
            agent(".gitlab/agents/a-1/config.yaml").as_deref(),
            Some("a-1")
        );
        for path in [
            ".gitlab/agents/config.yaml",
            ".gitlab/agents//config.yaml",
            ".gitlab/agents/-a/config.yaml",
            ".gitlab/agents/a-/config.yaml",
            ".gitlab/agents/A/config.yaml",
            ".gitlab/agents/a/b/config.yaml",
            ".gitlab/agents/a/config.yml",
            "x/.gitlab/agents/a/config.yaml",
        ] {
            assert_eq!(agent(path), None, "{path}");
        }
    }
}

//! The agent and the user of `kas up`, in the standalone control plane's file.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use control_plane::{
    Token,
    standalone::{
        access_as::AccessAs,
        change::{CallerKind, ChangeError},
        edit,
        file::{Agents, Rule},
        names::{AgentName, Name},
        tokens::{TokenEntry, TokenKind},
    },
};
use jiff::Timestamp;

use crate::private_file;

/// The agent's name.
pub const AGENT: &str = "demo";
/// The user's name.
pub const USER: &str = "you";

/// The agent and the user.
#[derive(Debug)]
pub struct Accounts {
    /// The control plane's file.
    pub file: PathBuf,
    /// The agent's id.
    pub agent: i64,
    /// The file with the agent's token.
    pub agent_token_file: PathBuf,
    /// The user's token.
    pub user_token: Token,
}

/// Creates the agent and the user unless they exist. Their tokens are kept
/// beside the file, for the next start and for other agents.
///
/// # Errors
/// When a file cannot be read or written, or the control plane's file is not valid.
pub fn prepare(data: &Path) -> anyhow::Result<Accounts> {
    let file = data.join("agents.yaml");
    let agent_token_file = data.join("agent-token");
    let user_token_file = data.join("user-token");
    let agent_token = kept_or_new(&agent_token_file, TokenKind::Agent)?;
    let user_token = kept_or_new(&user_token_file, TokenKind::User)?;
    let now = Timestamp::now();
    let agent = edit(&file, |document| {
        let entry = TokenEntry::new(&agent_token, now);
        let id = match document
            .agent(AGENT)
            .map(|agent| (agent.id, agent.tokens.clone()))
        {
            Err(_) => document.create_agent(AGENT, None, entry)?,
            Ok((id, tokens)) => {
                if !tokens
                    .iter()
                    .any(|token| token.hash == entry.hash && token.is_live(now))
                {
                    document.rotate_agent(AGENT, entry, Duration::ZERO, now)?;
                }
                id
            }
        };
        let entry = TokenEntry::new(&user_token, now);
        match document
            .caller(CallerKind::User, USER)
            .map(|user| user.tokens.clone())
        {
            Err(_) => {
                document.create_caller(CallerKind::User, USER, &[], entry)?;
                document.grant(rule()?)?;
            }
            Ok(tokens)
                if tokens
                    .iter()
                    .any(|token| token.hash == entry.hash && token.is_live(now)) => {}
            Ok(_) => {
                document.rotate_caller(CallerKind::User, USER, entry, Duration::ZERO, now)?;
            }
        }
        Ok::<_, ChangeError>(id)
    })?;
    Ok(Accounts {
        file,
        agent,
        agent_token_file,
        user_token,
    })
}

fn rule() -> Result<Rule, ChangeError> {
    Ok(Rule {
        agents: Agents::Named(vec![AgentName::try_from(AGENT.to_owned())?]),
        users: vec![Name::try_from(USER.to_owned())?],
        services: Vec::new(),
        groups: Vec::new(),
        access_as: AccessAs::Agent,
        expires_at: None,
        record: control_plane::RecordSessions::No,
    })
}

fn kept_or_new(file: &Path, kind: TokenKind) -> anyhow::Result<Token> {
    if let Ok(text) = std::fs::read_to_string(file)
        && !text.trim().is_empty()
    {
        return Ok(Token::new(text.trim()));
    }
    let token = kind
        .generate()
        .context("the operating system gave no random numbers")?;
    private_file::write(file, token.expose())?;
    Ok(token)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_start_finds_what_the_first_made() {
        let data = tempfile::tempdir().unwrap();

        let first = prepare(data.path()).unwrap();
        let second = prepare(data.path()).unwrap();

        assert_eq!(first.agent, second.agent);
        assert_eq!(first.user_token.expose(), second.user_token.expose());
    }

    #[test]
    fn a_lost_token_is_replaced() {
        let data = tempfile::tempdir().unwrap();
        let first = prepare(data.path()).unwrap();
        std::fs::remove_file(data.path().join("user-token")).unwrap();

        let second = prepare(data.path()).unwrap();

        assert_ne!(first.user_token.expose(), second.user_token.expose());
        assert_eq!(first.agent, second.agent);
    }
}

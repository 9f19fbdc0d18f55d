//! The agent and the user of `kas up`, in the standalone control plane's file.

use std::{
    net::SocketAddr,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use jiff::Timestamp;
use playground::private_file;
use router::AgentId;

use crate::cli::Kubeconfig;
use crate::control_plane::{
    AgentInfo, Identity, IdentityKind, Token,
    standalone::{
        access_as::AccessAs,
        change::{CallerKind, ChangeError},
        edit,
        file::{Agents, Rule},
        names::{AgentName, Name},
        tokens::{TokenEntry, TokenKind},
    },
};

/// The agent's name.
pub(super) const AGENT: &str = "demo";
/// The user's name.
const USER: &str = "you";

/// Who takes part.
#[derive(Debug)]
pub(super) struct Accounts {
    /// The control plane's file.
    pub(super) file: PathBuf,
    /// The agent's number.
    pub(super) agent: i64,
    /// Where the agent's token is.
    pub(super) agent_token_file: PathBuf,
    /// The user's token.
    pub(super) user_token: Token,
}

/// Makes sure that the agent and the user are there. Their tokens are kept
/// beside the file, for the next time and for other agents.
pub(super) fn prepare(data: &Path) -> anyhow::Result<Accounts> {
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

/// Writes the kubeconfig by which the user reaches the agent's cluster.
pub(super) fn write_kubeconfig(
    file: &Path,
    server: SocketAddr,
    certificate: &[u8],
    accounts: &Accounts,
) -> anyhow::Result<()> {
    let agent = AgentInfo {
        id: AgentId(accounts.agent),
        name: AGENT.to_owned(),
        project_id: 0,
        project_path: String::new(),
        default_branch: String::new(),
    };
    let kubeconfig = Kubeconfig {
        server: &format!("https://{server}/k8s-proxy/"),
        agent: &agent,
        identity: &Identity {
            kind: IdentityKind::User,
            name: USER.to_owned(),
        },
        token: &accounts.user_token,
        certificate_authority: Some(certificate),
    };
    private_file::write(file, &kubeconfig.to_yaml()?)
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

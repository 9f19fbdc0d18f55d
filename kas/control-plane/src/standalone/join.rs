//! Join tokens: each lets one agentk, once, make a token of its own known as one of its agent.
//!
//! Whoever joins first is written into the file beside the join token, under the lock of the file; so it does not
//! matter which replica is asked, and the same agentk may ask again after a crash.

use std::{io, net::IpAddr, sync::Arc};

use cluster_state::AgentId;
use jiff::Timestamp;

use super::{
    Standalone,
    change::ChangeError,
    edit::{EditError, Editable, edit},
    file::Document,
    join_tokens::{JoinTokenEntry, UsedBy},
    tokens::{MAX_LIVE_TOKENS, TokenEntry, live},
};
use crate::{AgentInfo, JoinError, TokenHash};

impl<C> Document<C> {
    /// Gives an agent a join token; one that nobody has used yet ends. Returns how many these were.
    pub fn add_join_token(
        &mut self,
        name: &str,
        token: JoinTokenEntry,
        now: Timestamp,
    ) -> Result<usize, ChangeError> {
        let agent = self.agent_mut(name)?;
        let name = || name.to_owned();
        if agent.receptive.is_some() {
            return Err(ChangeError::DialledAgentJoins { name: name() });
        }
        if live(&agent.tokens, now) >= MAX_LIVE_TOKENS {
            return Err(ChangeError::NoRoomToJoin { name: name() });
        }
        let open = agent.join_tokens.iter().filter(|it| it.is_open(now));
        let ended = open.count();
        agent
            .join_tokens
            .retain(|it| it.used_by.is_some() && now < it.expires_at);
        agent.join_tokens.push(token);
        Ok(ended)
    }

    /// Takes all join tokens from an agent; returns how many were still good. Whoever has joined stays.
    pub fn revoke_join_tokens(&mut self, name: &str, now: Timestamp) -> Result<usize, ChangeError> {
        let taken = std::mem::take(&mut self.agent_mut(name)?.join_tokens);
        Ok(taken.iter().filter(|it| it.is_open(now)).count())
    }

    /// Makes `own` a token of the agent that the join token is for, unless it is already.
    fn join(&mut self, token: &TokenHash, own: TokenHash, now: Timestamp) -> Result<(), JoinError> {
        let is_known = self.has_token(&own);
        let mut agents = self.agents.iter_mut().map(|it| &mut it.value);
        let found = agents.find_map(|agent| {
            let mut entries = agent.join_tokens.iter_mut();
            let entry = entries.find(|it| it.hash == *token)?;
            Some((agent.name.as_str(), &mut agent.tokens, entry))
        });
        let (name, tokens, entry) = found.ok_or(JoinError::Unknown)?;
        if entry.is_used_by(&own, name, now)? {
            return Ok(());
        }
        if is_known {
            return Err(JoinError::TokenInUse);
        }
        if live(tokens, now) >= MAX_LIVE_TOKENS {
            return Err(JoinError::TooManyTokens {
                agent: name.to_owned(),
            });
        }
        entry.used_by = Some(UsedBy::new(own));
        tokens.push(TokenEntry {
            hash: own,
            created_at: now,
            expires_at: None,
        });
        Ok(())
    }

    fn has_token(&self, token: &TokenHash) -> bool {
        let of_agents = self.agents.iter().map(|it| &it.value);
        let mut joining = of_agents.clone().flat_map(|it| &it.join_tokens);
        let callers = self.users.iter().chain(&self.services);
        let callers = callers.flat_map(|it| &it.value.tokens);
        let mut tokens = of_agents.flat_map(|it| &it.tokens).chain(callers);
        tokens.any(|it| it.hash == *token) || joining.any(|it| it.hash == *token)
    }
}

impl Standalone {
    pub(super) fn find_join_token_now(&self, token: &TokenHash) -> Result<AgentId, JoinError> {
        let ask = || {
            let directory = self.directory.load();
            directory.join_token(token).map(|(agent, _)| *agent)
        };
        ask()
            .or_else(|| {
                // The CLI may have made it just now.
                self.reload_now();
                ask()
            })
            .ok_or(JoinError::Unknown)
    }

    pub(super) async fn join_now(
        &self,
        token: TokenHash,
        own: TokenHash,
        from: IpAddr,
    ) -> Result<Arc<AgentInfo>, JoinError> {
        let now = Timestamp::now();
        let id = self.find_join_token_now(&token)?;
        let agent = self.directory.load().agent(id).ok_or(JoinError::Unknown)?;
        let known = {
            let directory = self.directory.load();
            let entry = directory.join_token(&token).map(|(_, entry)| entry);
            let entry = entry.ok_or(JoinError::Unknown)?;
            entry.is_used_by(&own, &agent.name, now)?
        };
        if known {
            return Ok(agent);
        }
        let file = self.file.clone();
        let writing = move || {
            edit(&file, |document: &mut Editable| {
                document.join(&token, own, now)
            })
        };
        let written = tokio::task::spawn_blocking(writing).await;
        written.map_err(|error| JoinError::NotKept {
            read_only: false,
            error: Box::new(error),
        })??;
        if let Some(changes) = self.changes.get() {
            changes.note_join(&self.file, &agent, (&token, &own), from);
        }
        self.reload_now();
        Ok(agent)
    }
}

impl From<EditError> for JoinError {
    fn from(error: EditError) -> Self {
        use io::ErrorKind::{PermissionDenied, ReadOnlyFilesystem};
        let read_only = matches!(
            &error,
            EditError::Io { source, .. } if matches!(source.kind(), PermissionDenied | ReadOnlyFilesystem)
        );
        Self::NotKept {
            read_only,
            error: Box::new(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Token;

    fn at(minute: i64) -> Timestamp {
        Timestamp::from_second(minute * 60).unwrap()
    }

    fn hash(text: &str) -> TokenHash {
        Token::new(text).hash()
    }

    /// An agent with a join token until minute 30.
    fn document() -> Editable {
        let mut document = Editable::default();
        document
            .create_agent("edge", None, None::<TokenEntry>)
            .unwrap();
        let entry = JoinTokenEntry::new(&Token::new("join"), at(0), at(30));
        assert_eq!(document.add_join_token("edge", entry, at(0)).unwrap(), 0);
        document
    }

    #[test]
    fn the_first_joins_and_may_ask_again_and_nobody_else() {
        let mut document = document();

        document.join(&hash("join"), hash("own"), at(1)).unwrap();
        document.join(&hash("join"), hash("own"), at(99)).unwrap();

        let agent = document.agent("edge").unwrap();
        assert_eq!(agent.tokens.len(), 1);
        assert_eq!(agent.tokens[0].hash, hash("own"));
        let other = document.join(&hash("join"), hash("other"), at(2));
        assert!(matches!(other, Err(JoinError::Used { .. })), "{other:?}");
    }

    #[test]
    fn nobody_joins_by_what_is_over_or_unknown_or_with_a_token_that_is_taken() {
        let mut document = document();

        let late = document.join(&hash("join"), hash("own"), at(30));
        let unknown = document.join(&hash("guess"), hash("own"), at(1));
        let taken = document.join(&hash("join"), hash("join"), at(1));

        assert!(matches!(late, Err(JoinError::Expired { .. })), "{late:?}");
        assert!(matches!(unknown, Err(JoinError::Unknown)), "{unknown:?}");
        assert!(matches!(taken, Err(JoinError::TokenInUse)), "{taken:?}");
        assert!(document.agent("edge").unwrap().tokens.is_empty());
    }

    #[test]
    fn a_new_join_token_ends_the_one_before_and_revoking_ends_all() {
        let mut document = document();
        let next = JoinTokenEntry::new(&Token::new("next"), at(1), at(30));

        assert_eq!(document.add_join_token("edge", next, at(1)).unwrap(), 1);

        let before = document.join(&hash("join"), hash("own"), at(2));
        assert!(matches!(before, Err(JoinError::Unknown)), "{before:?}");
        assert_eq!(document.revoke_join_tokens("edge", at(2)).unwrap(), 1);
        let revoked = document.join(&hash("next"), hash("own"), at(2));
        assert!(matches!(revoked, Err(JoinError::Unknown)), "{revoked:?}");
    }

    #[test]
    fn a_file_that_must_not_be_written_is_told_from_one_that_is_busy() {
        let failed = |kind: io::ErrorKind| {
            JoinError::from(EditError::Io {
                step: "write",
                file: "agents.yaml".into(),
                source: kind.into(),
            })
        };
        let is_final = |error: JoinError| {
            matches!(
                error,
                JoinError::NotKept {
                    read_only: true,
                    ..
                }
            )
        };

        assert!(is_final(failed(io::ErrorKind::ReadOnlyFilesystem)));
        assert!(is_final(failed(io::ErrorKind::PermissionDenied)));
        assert!(!is_final(failed(io::ErrorKind::StorageFull)));
        assert!(!is_final(EditError::Locked("f".into()).into()));
    }

    #[test]
    fn an_agent_with_two_tokens_gets_no_third() {
        let mut document = document();
        for name in ["one", "two"] {
            let entry = TokenEntry::new(&Token::new(name), at(0));
            let grace = std::time::Duration::from_secs(3600);
            document.rotate_agent("edge", entry, grace, at(0)).unwrap();
        }

        let third = document.join(&hash("join"), hash("own"), at(1));

        let refused = matches!(third, Err(JoinError::TooManyTokens { .. }));
        assert!(refused, "{third:?}");
        let entry = JoinTokenEntry::new(&Token::new("next"), at(1), at(30));
        assert!(document.add_join_token("edge", entry, at(1)).is_err());
    }
}

//! The agents that connected lately, with the tokens they did it with.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use proto::agent::agentcfg::AgentConfiguration;
use router::id::AgentId;
use tokio::{sync::watch, time::Instant};

use super::super::{AgentConfigurationVersion, AgentInfo, Token, TokenHash};

/// Agents remembered at most.
const MOST: usize = 200_000;
/// Tokens of one agent remembered at most.
const TOKENS: usize = 8;
/// How long an agent without streams is remembered.
const FORGET: Duration = Duration::from_secs(24 * 3600);
/// What names a configuration that was not read from any commit.
const NO_COMMIT: &str = "0000000000000000000000000000000000000000";

/// The agents that connected lately.
#[derive(Debug, Default)]
pub(super) struct Agents(Mutex<HashMap<AgentId, Entry>>);

#[derive(Debug)]
struct Entry {
    info: Arc<AgentInfo>,
    tokens: Vec<(TokenHash, Token)>,
    configuration: watch::Sender<Arc<AgentConfigurationVersion>>,
    seen: Instant,
}

impl Agents {
    /// An agent showed a good token. Says whether the agent is new here.
    pub(super) fn saw(&self, info: &Arc<AgentInfo>, token: &Token) -> bool {
        let mut agents = self.lock();
        let known = agents.contains_key(&info.id);
        if !known && agents.len() >= MOST {
            agents.retain(|_, entry| entry.is_in_use());
        }
        let entry = agents.entry(info.id).or_insert_with(|| Entry::new(info));
        entry.seen = Instant::now();
        entry.info = info.clone();
        let hash = token.hash();
        if !entry.tokens.iter().any(|(own, _)| *own == hash) {
            if entry.tokens.len() == TOKENS {
                entry.tokens.remove(0);
            }
            entry.tokens.push((hash, token.clone()));
        }
        !known
    }

    /// A token is good no more: without any other, its agent's streams end.
    /// Says whether it was known.
    pub(super) fn lost(&self, agent: AgentId, token: &Token) -> bool {
        let mut agents = self.lock();
        let Some(entry) = agents.get_mut(&agent) else {
            return false;
        };
        let (hash, before) = (token.hash(), entry.tokens.len());
        entry.tokens.retain(|(own, _)| *own != hash);
        let lost = entry.tokens.len() < before;
        if entry.tokens.is_empty() {
            agents.remove(&agent);
        }
        lost
    }

    /// The tokens of the agents that are connected; forgets who is long gone.
    pub(super) fn in_use(&self) -> Vec<(AgentId, Token)> {
        let mut agents = self.lock();
        agents.retain(|_, entry| entry.is_in_use() || entry.seen.elapsed() < FORGET);
        let used = agents.iter().filter(|(_, entry)| entry.is_in_use());
        used.flat_map(|(id, entry)| entry.tokens.iter().map(|(_, token)| (*id, token.clone())))
            .collect()
    }

    pub(super) fn get(&self, id: AgentId) -> Option<Arc<AgentInfo>> {
        self.lock().get(&id).map(|entry| entry.info.clone())
    }

    pub(super) fn all(&self) -> Vec<Arc<AgentInfo>> {
        self.lock()
            .values()
            .map(|entry| entry.info.clone())
            .collect()
    }

    pub(super) fn configuration(
        &self,
        id: AgentId,
    ) -> Option<watch::Receiver<Arc<AgentConfigurationVersion>>> {
        self.lock()
            .get(&id)
            .map(|entry| entry.configuration.subscribe())
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(info: &Arc<AgentInfo>) -> Self {
        let empty = AgentConfigurationVersion {
            commit_id: NO_COMMIT.to_owned(),
            configuration: AgentConfiguration::default(),
        };
        Self {
            info: info.clone(),
            tokens: Vec::new(),
            configuration: watch::Sender::new(Arc::new(empty)),
            seen: Instant::now(),
        }
    }

    fn is_in_use(&self) -> bool {
        self.configuration.receiver_count() > 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(id: i64) -> Arc<AgentInfo> {
        Arc::new(AgentInfo {
            id: AgentId(id),
            name: "a".into(),
            project_id: 1,
            project_path: "g/p".into(),
            default_branch: "main".into(),
        })
    }

    #[test]
    fn an_agent_ends_with_its_last_token() {
        let (agents, one, two) = (Agents::default(), Token::new("1"), Token::new("2"));
        assert!(agents.saw(&info(7), &one));
        assert!(!agents.saw(&info(7), &two));
        let stream = agents.configuration(AgentId(7)).unwrap();
        assert_eq!(agents.in_use().len(), 2);

        assert!(agents.lost(AgentId(7), &one));
        assert!(!agents.lost(AgentId(7), &one), "it is lost once");
        assert!(stream.has_changed().is_ok(), "the other token is good");
        assert!(agents.lost(AgentId(7), &two));

        assert!(stream.has_changed().is_err());
        assert!(agents.configuration(AgentId(7)).is_none());
    }

    #[test]
    fn only_connected_agents_are_in_use() {
        let agents = Agents::default();
        agents.saw(&info(1), &Token::new("1"));
        agents.saw(&info(2), &Token::new("2"));

        let _stream = agents.configuration(AgentId(2));

        let used: Vec<_> = agents.in_use().into_iter().map(|(id, _)| id).collect();
        assert_eq!(used, [AgentId(2)]);
        assert_eq!(agents.all().len(), 2);
    }
}

//! The agents that connected lately, with the tokens they did it with.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use cluster_state::AgentId;
use tokio::{sync::watch, time::Instant};

use super::{
    super::{AgentInfo, Configuration, Token, TokenHash},
    agent_info::RegisteredAgent,
};

/// Agents remembered at most.
const AGENTS_MAX: usize = 200_000;
/// Tokens of one agent remembered at most.
const TOKENS_PER_AGENT_MAX: usize = 8;
/// How long an agent without streams is remembered.
const AGENT_TTL: Duration = Duration::from_secs(24 * 3600);

/// The agents that connected lately.
#[derive(Debug, Default)]
pub(super) struct Agents(Mutex<HashMap<AgentId, Entry>>);

#[derive(Debug)]
struct Entry {
    registered: Arc<RegisteredAgent>,
    tokens: Vec<(TokenHash, Token)>,
    configuration: watch::Sender<Configuration>,
    seen: Instant,
}

/// What a stream for an agent's configuration needs.
#[derive(Debug)]
pub(super) struct Stream {
    pub(super) configuration: watch::Receiver<Configuration>,
    pub(super) registered: Arc<RegisteredAgent>,
    /// Whether the agent has another version than is known here.
    pub(super) unknown_version: bool,
}

impl Agents {
    /// An agent showed a good token.
    pub(super) fn saw(&self, registered: &Arc<RegisteredAgent>, token: &Token) {
        let mut agents = self.lock();
        let id = registered.agent.id;
        if !agents.contains_key(&id) && agents.len() >= AGENTS_MAX {
            agents.retain(|_, entry| entry.is_in_use());
        }
        let entry = agents.entry(id).or_insert_with(|| Entry::new(registered));
        entry.seen = Instant::now();
        entry.registered = registered.clone();
        let hash = token.hash();
        if !entry.tokens.iter().any(|(own, _)| *own == hash) {
            if entry.tokens.len() == TOKENS_PER_AGENT_MAX {
                entry.tokens.remove(0);
            }
            entry.tokens.push((hash, token.clone()));
        }
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
        agents.retain(|_, entry| entry.is_in_use() || entry.seen.elapsed() < AGENT_TTL);
        let used = agents.iter().filter(|(_, entry)| entry.is_in_use());
        used.flat_map(|(id, entry)| entry.tokens.iter().map(|(_, token)| (*id, token.clone())))
            .collect()
    }

    pub(super) fn get(&self, id: AgentId) -> Option<Arc<AgentInfo>> {
        let agents = self.lock();
        agents.get(&id).map(|entry| entry.registered.agent.clone())
    }

    pub(super) fn all(&self) -> Vec<Arc<AgentInfo>> {
        self.lock()
            .values()
            .map(|entry| entry.registered.agent.clone())
            .collect()
    }

    /// What is known of an agent's configuration, for one that has the version
    /// named `has`. If that is another, it keeps it until what is known here
    /// was verified.
    pub(super) fn configuration(&self, id: AgentId, has: &str) -> Option<Stream> {
        let agents = self.lock();
        let entry = agents.get(&id)?;
        let configuration = entry.configuration.subscribe();
        let unknown_version = !has.is_empty() && configuration.borrow().newer_than(has).is_some();
        if unknown_version {
            entry.configuration.send_modify(|it| it.verified = false);
        }
        Some(Stream {
            configuration,
            registered: entry.registered.clone(),
            unknown_version,
        })
    }

    /// An agent that has streams for its configuration.
    pub(super) fn following(&self, id: AgentId) -> Option<Arc<RegisteredAgent>> {
        let agents = self.lock();
        let entry = agents.get(&id).filter(|entry| entry.is_in_use())?;
        Some(entry.registered.clone())
    }

    /// Changes what is known of an agent's configuration.
    pub(super) fn configure(&self, id: AgentId, change: impl FnOnce(&mut Configuration)) {
        if let Some(entry) = self.lock().get(&id) {
            entry.configuration.send_if_modified(|configuration| {
                let before = configuration.clone();
                change(configuration);
                *configuration != before
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<AgentId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    fn new(registered: &Arc<RegisteredAgent>) -> Self {
        Self {
            registered: registered.clone(),
            tokens: Vec::new(),
            configuration: watch::Sender::default(),
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

    fn registered(id: i64) -> Arc<RegisteredAgent> {
        Arc::new(RegisteredAgent {
            agent: Arc::new(AgentInfo {
                id: AgentId(id),
                name: "a".into(),
                project_id: 1,
                project_path: "g/p".into(),
                default_branch: "main".into(),
            }),
            gitaly: Default::default(),
            repository: Default::default(),
        })
    }

    #[test]
    fn an_agent_ends_with_its_last_token() {
        let (agents, one, two) = (Agents::default(), Token::new("1"), Token::new("2"));
        agents.saw(&registered(7), &one);
        agents.saw(&registered(7), &two);
        let stream = agents.configuration(AgentId(7), "").unwrap().configuration;
        assert_eq!(agents.in_use().len(), 2);

        assert!(agents.lost(AgentId(7), &one));
        assert!(!agents.lost(AgentId(7), &one), "it is lost once");
        assert!(stream.has_changed().is_ok(), "the other token is good");
        assert!(agents.lost(AgentId(7), &two));

        assert!(stream.has_changed().is_err());
        assert!(agents.configuration(AgentId(7), "").is_none());
    }

    #[test]
    fn only_connected_agents_are_in_use() {
        let agents = Agents::default();
        agents.saw(&registered(1), &Token::new("1"));
        agents.saw(&registered(2), &Token::new("2"));

        let _stream = agents.configuration(AgentId(2), "");

        let used: Vec<_> = agents.in_use().into_iter().map(|(id, _)| id).collect();
        assert_eq!(used, [AgentId(2)]);
        assert!(agents.following(AgentId(1)).is_none());
        assert_eq!(agents.all().len(), 2);
    }
}

//! A control plane that remembers what another one answered.
//!
//! For one that is asked over a network: many agents that reconnect at once
//! with the same token, good or bad, cost one question. Answers do not outlive
//! the revision they were given in.

use std::sync::Arc;

use futures_util::future::{BoxFuture, FutureExt};
use router::id::AgentId;
use sha2::{Digest, Sha256};
use tokio::sync::watch;

use super::{
    Access, AgentConfigurationVersion, AgentInfo, AuthError, ControlPlane, Credentials, DenyReason,
    Memory, Token, TokenCache, TokenHash,
};

/// Remembers the answers of a control plane.
#[derive(Debug)]
pub struct Cached {
    inner: Arc<dyn ControlPlane>,
    agents: TokenCache<Arc<AgentInfo>, AuthError>,
    permits: TokenCache<Access, DenyReason>,
}

impl Cached {
    /// Remembers agents' tokens, and permissions, each for its own time.
    #[must_use]
    pub fn new(inner: Arc<dyn ControlPlane>, agents: Memory, permits: Memory) -> Self {
        Self {
            inner,
            agents: TokenCache::new(agents),
            permits: TokenCache::new(permits),
        }
    }

    fn now(&self) -> u64 {
        *self.inner.revision().borrow()
    }
}

impl ControlPlane for Cached {
    fn agent_by_token<'a>(
        &'a self,
        token: &'a Token,
    ) -> BoxFuture<'a, Result<Arc<AgentInfo>, AuthError>> {
        let ask = self.inner.agent_by_token(token);
        self.agents
            .get(self.now(), token.hash(), ask, |e| !e.is_retryable())
            .boxed()
    }

    fn agent(&self, id: AgentId) -> BoxFuture<'_, Option<Arc<AgentInfo>>> {
        self.inner.agent(id)
    }

    fn authorize<'a>(
        &'a self,
        credentials: &'a Credentials,
        agent: AgentId,
    ) -> BoxFuture<'a, Result<Access, DenyReason>> {
        let ask = self.inner.authorize(credentials, agent);
        self.permits
            .get(self.now(), key(credentials, agent), ask, |e| {
                !e.is_retryable()
            })
            .boxed()
    }

    fn configuration(
        &self,
        agent: AgentId,
    ) -> Option<watch::Receiver<Arc<AgentConfigurationVersion>>> {
        self.inner.configuration(agent)
    }

    fn revision(&self) -> watch::Receiver<u64> {
        self.inner.revision()
    }

    fn known_agents(&self) -> Vec<Arc<AgentInfo>> {
        self.inner.known_agents()
    }
}

/// A hash of all that a permission depends on. Secrets go in by their hash,
/// whose length is fixed, so that no two questions run together.
fn key(credentials: &Credentials, agent: AgentId) -> TokenHash {
    let mut hash = Sha256::new();
    hash.update(agent.0.to_le_bytes());
    match credentials {
        Credentials::Ci { token } => {
            hash.update(b"c");
            hash.update(token.hash().as_bytes());
        }
        Credentials::Pat { token } => {
            hash.update(b"p");
            hash.update(token.hash().as_bytes());
        }
        Credentials::Session {
            access_key,
            csrf_token,
        } => {
            hash.update(b"s");
            hash.update(access_key.hash().as_bytes());
            hash.update(csrf_token.hash().as_bytes());
        }
    }
    TokenHash::new(hash.finalize().into())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use futures_util::future::ready;

    use super::*;

    /// Refuses everything, and counts how often it was asked.
    #[derive(Debug)]
    struct Counting {
        asked: AtomicU32,
        revision: watch::Sender<u64>,
    }

    impl ControlPlane for Counting {
        fn agent_by_token<'a>(
            &'a self,
            _: &'a Token,
        ) -> BoxFuture<'a, Result<Arc<AgentInfo>, AuthError>> {
            async {
                self.asked.fetch_add(1, Ordering::Relaxed);
                Err(AuthError::UnknownToken)
            }
            .boxed()
        }

        fn agent(&self, _: AgentId) -> BoxFuture<'_, Option<Arc<AgentInfo>>> {
            ready(None).boxed()
        }

        fn authorize<'a>(
            &'a self,
            _: &'a Credentials,
            agent: AgentId,
        ) -> BoxFuture<'a, Result<Access, DenyReason>> {
            async move {
                self.asked.fetch_add(1, Ordering::Relaxed);
                Err(DenyReason::UnknownAgent { agent })
            }
            .boxed()
        }

        fn configuration(
            &self,
            _: AgentId,
        ) -> Option<watch::Receiver<Arc<AgentConfigurationVersion>>> {
            None
        }

        fn revision(&self) -> watch::Receiver<u64> {
            self.revision.subscribe()
        }

        fn known_agents(&self) -> Vec<Arc<AgentInfo>> {
            Vec::new()
        }
    }

    fn cached() -> (Arc<Counting>, Cached) {
        let counting = Arc::new(Counting {
            asked: AtomicU32::new(0),
            revision: watch::Sender::new(0),
        });
        let cached = Cached::new(counting.clone(), Memory::default(), Memory::default());
        (counting, cached)
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_token_is_asked_about_once_until_something_changes() {
        let (counting, cached) = cached();
        let token = Token::new("bad");
        let asked = || counting.asked.load(Ordering::Relaxed);

        for _ in 0..3 {
            assert!(cached.agent_by_token(&token).await.is_err());
        }
        assert_eq!(asked(), 1);
        counting.revision.send_modify(|revision| *revision += 1);
        assert!(cached.agent_by_token(&token).await.is_err());

        assert_eq!(asked(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn permissions_are_told_apart_by_agent_kind_and_token() {
        let (counting, cached) = cached();
        let token = || Token::new("t");
        let questions = [
            (Credentials::Pat { token: token() }, 1),
            (Credentials::Pat { token: token() }, 2),
            (Credentials::Ci { token: token() }, 1),
            (
                Credentials::Session {
                    access_key: token(),
                    csrf_token: token(),
                },
                1,
            ),
        ];

        for _ in 0..2 {
            for (credentials, agent) in &questions {
                let answer = cached.authorize(credentials, AgentId(*agent)).await;
                let agent = AgentId(*agent);
                assert_eq!(answer, Err(DenyReason::UnknownAgent { agent }));
            }
        }

        assert_eq!(counting.asked.load(Ordering::Relaxed), 4);
    }
}

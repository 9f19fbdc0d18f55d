//! Whether connected agents' tokens are still valid: asked periodically, since an idle
//! agent presents its token to nobody.

use std::time::Duration;

use cluster_state::AgentId;
use tokio_util::sync::CancellationToken;

use super::{super::Token, GitLab};

/// The time of a round at least, and where answers are not remembered.
const RECHECK_INTERVAL_MIN: Duration = Duration::from_secs(1);
const RECHECK_INTERVAL_DEFAULT: Duration = Duration::from_secs(300);

impl GitLab {
    /// Asks about the tokens of connected agents, each once in the time that an
    /// answer counts, until `stop`.
    pub async fn recheck_tokens(self, stop: CancellationToken) {
        let round = match self.0.recheck {
            Duration::ZERO => RECHECK_INTERVAL_DEFAULT,
            time => time.max(RECHECK_INTERVAL_MIN),
        };
        while stop.run_until_cancelled(self.round(round)).await.is_some() {}
    }

    /// One round, spread over its time so that GitLab is asked evenly.
    async fn round(&self, time: Duration) {
        let tokens = self.0.agents.in_use();
        let pause = time / u32::try_from(tokens.len() + 1).unwrap_or(u32::MAX);
        for (agent, token) in tokens {
            tokio::time::sleep(pause).await;
            self.recheck(agent, &token).await;
        }
        tokio::time::sleep(pause).await;
    }

    async fn recheck(&self, agent: AgentId, token: &Token) {
        let Err(error) = self.registered(token).await else {
            return;
        };
        if !error.is_retryable() && self.0.agents.lost(agent, token) {
            tracing::info!(agent.id = agent.0, %error, "agent token is no longer valid; its connections are closed");
            self.0.revision.send_modify(|revision| *revision += 1);
        }
    }
}

//! Turns at a limited rate, of which each is waited for.

use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use runtime::metrics::limiters::Limiter;
use tokio::time::Instant;

use super::error::{GitalyError, Rpc};
use crate::{config::RateLimit, token_bucket::TokenBucket};

/// How long a call waits for its turn.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(60);

/// The turns.
#[derive(Debug)]
pub(super) struct Turns {
    bucket: Mutex<TokenBucket>,
    metrics: Limiter,
}

impl Turns {
    /// Those of this rate.
    pub(super) fn new(limit: RateLimit, metrics: Limiter) -> Self {
        Self {
            bucket: Mutex::new(TokenBucket::new(limit, Instant::now())),
            metrics,
        }
    }

    /// Waits for the next one.
    ///
    /// # Errors
    /// UNAVAILABLE where too many wait.
    pub(super) async fn wait(&self, rpc: &Rpc<'_>) -> Result<(), GitalyError> {
        let bucket = self.bucket.lock();
        let turn = bucket
            .unwrap_or_else(PoisonError::into_inner)
            .take(Instant::now(), QUEUE_TIMEOUT);
        let pause = turn.ok_or_else(|| {
            self.metrics.refused();
            rpc.unavailable("too many calls wait for their turn")
        })?;
        tokio::time::sleep(pause).await;
        self.metrics.passed(pause);
        Ok(())
    }
}

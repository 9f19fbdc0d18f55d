//! Resumes a watch: makes its call again until there is a tunnel, or no use in another attempt.

use std::{sync::Arc, time::Duration};

use bytes::{Bytes, BytesMut};
use control_plane::Access;
use http::{HeaderValue, StatusCode, header};
use router::{AgentId, Need, OpenError, Opening, Router};
use runtime::drain::Drain;
use tokio::time::Instant;

use crate::{
    admission::Rights,
    failure::Failure,
    kubernetes_api::{
        exchange::{Ahead, Exchange, Interrupted, Part},
        request_head::{is_on_behalf_of, on_behalf_of},
        response_head::ResponseHeads,
    },
    metrics::Metrics,
    sessions::SessionEnded,
};

/// Bytes of a refusal that are read, at most.
const MAX_REFUSAL_BYTES: usize = 1 << 20;
const RESUME_BACKOFF: Duration = Duration::from_millis(50);
const RESUME_BACKOFF_MAX: Duration = Duration::from_secs(2);

/// What it takes to resume a watch.
#[derive(Debug)]
pub(in crate::kubernetes_api) struct Source {
    /// Finds the agent.
    pub(in crate::kubernetes_api) router: Arc<Router>,
    /// Whom to ask.
    pub(in crate::kubernetes_api) agent: AgentId,
    /// Whether the caller may go on.
    pub(in crate::kubernetes_api) rights: Rights,
    /// What the tunnel must be good for.
    pub(in crate::kubernetes_api) need: Need,
    /// The call that the client's request became.
    pub(in crate::kubernetes_api) opening: Opening,
    /// How long the client may wait.
    pub(in crate::kubernetes_api) hold: Duration,
    /// Reads the heads of answers.
    pub(in crate::kubernetes_api) heads: Arc<ResponseHeads>,
    /// Waits for calls that end in the background.
    pub(in crate::kubernetes_api) drain: Drain,
    /// Where calls are counted.
    pub(in crate::kubernetes_api) metrics: Metrics,
}

/// What became of asking again.
#[derive(Debug)]
pub(super) enum Resumed {
    /// The watch goes on.
    Goes(Box<Exchange>, Ahead),
    /// The cluster says no.
    Refused(StatusCode, Bytes),
    /// The caller may not go on.
    Denied(Failure),
}

/// Why a watch cannot go on.
#[derive(Debug, thiserror::Error)]
pub(super) enum Gone {
    /// There was no tunnel in time.
    #[error("the watch broke, and there was no tunnel to resume it: {0}")]
    NoTunnel(#[from] OpenError),
    /// The exchange broke.
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    /// It was ended in the middle of an event.
    #[error(transparent)]
    Ended(#[from] SessionEnded),
    /// The answer has another content type than before.
    #[error("the watch was resumed with another content type")]
    OtherType,
    /// The list of its objects is another.
    #[error(
        "the watch broke in its list of objects, and some of them were changed or deleted meanwhile"
    )]
    Differs,
}

impl Source {
    /// Makes the call, after `wait`, and again until the hold is over, unless
    /// another try would end as the last one did. Cancel-safe.
    pub(super) async fn resume(
        self: Arc<Self>,
        opening: Opening,
        content_type: HeaderValue,
        wait: Duration,
    ) -> Result<Resumed, Gone> {
        let deadline = Instant::now() + self.hold;
        tokio::time::sleep(wait).await;
        let mut tries = 0;
        loop {
            let attempt = self.attempt(&opening, &content_type, deadline);
            let outcome = tokio::time::timeout_at(deadline, attempt)
                .await
                .unwrap_or(Err(Gone::Interrupted(Interrupted::Silence(self.hold))));
            tries += 1;
            let wait = pause(tries);
            if is_final(&outcome) || Instant::now() + wait >= deadline {
                return outcome;
            }
            tracing::debug!(?outcome, "resuming a watch failed; retrying");
            tokio::time::sleep(wait).await;
        }
    }

    async fn attempt(
        &self,
        opening: &Opening,
        content_type: &HeaderValue,
        deadline: Instant,
    ) -> Result<Resumed, Gone> {
        let mut allowed = self.rights.ask().await;
        let call = loop {
            let (need, opening) = match allowed {
                Ok(access) => self.allowed(&access, opening),
                Err(failure) => return Ok(Resumed::Denied(failure)),
            };
            tokio::select! {
                biased;
                call = self.router.open(self.agent, &need, &opening, deadline) => break call?,
                lapsed = self.rights.lapse(|it| is_on_behalf_of(&opening, it)) => allowed = lapsed,
            }
        };
        let mut exchange = Exchange::new(call, None, self.drain.clone());
        let head = exchange.head().await?;
        let (status, headers) = self.heads.understand(self.agent, head)?;
        if status != StatusCode::OK {
            return Ok(Resumed::Refused(status, refusal(&mut exchange).await?));
        }
        if headers.get(header::CONTENT_TYPE) != Some(content_type)
            || headers.contains_key(header::CONTENT_ENCODING)
        {
            return Err(Gone::OtherType);
        }
        let ahead = exchange.look_ahead()?;
        exchange.count(
            self.router.registry().readers(),
            self.agent,
            &self.need.caller,
        );
        Ok(Resumed::Goes(Box::new(exchange), ahead))
    }

    /// The call as whom the caller is allowed now.
    fn allowed(&self, access: &Access, opening: &Opening) -> (Need, Opening) {
        let impersonation = access.impersonation.as_ref();
        let need = Need {
            impersonation: impersonation.is_some(),
            ..self.need.clone()
        };
        let same = on_behalf_of(opening, impersonation);
        (need, same.unwrap_or_else(|| opening.clone()))
    }
}

/// How long to wait behind so many tries that came to nothing.
pub(super) fn pause(tries: u32) -> Duration {
    let Some(doublings) = tries.checked_sub(1) else {
        return Duration::ZERO;
    };
    let wait = RESUME_BACKOFF.saturating_mul(1 << doublings.min(10));
    wait.min(RESUME_BACKOFF_MAX)
        .mul_f64(0.5 + 0.5 * rand::random::<f64>())
}

fn is_final(outcome: &Result<Resumed, Gone>) -> bool {
    match outcome {
        Ok(Resumed::Goes(..)) => true,
        // What passes soon is not worth the end of a watch.
        Ok(Resumed::Refused(status, _)) => !matches!(status.as_u16(), 429 | 503 | 504),
        // The control plane was not available.
        Ok(Resumed::Denied(failure)) => failure.retry_after.is_none(),
        Err(Gone::NoTunnel(error)) => matches!(
            error,
            OpenError::CannotImpersonate | OpenError::NotOffered | OpenError::NoUpgrades
        ),
        Err(Gone::Interrupted(error)) => !error.is_mendable(),
        Err(Gone::OtherType | Gone::Ended(_) | Gone::Differs) => true,
    }
}

async fn refusal(exchange: &mut Exchange) -> Result<Bytes, Interrupted> {
    let mut body = BytesMut::new();
    loop {
        match std::future::poll_fn(|cx| exchange.poll_part(cx)).await? {
            Part::Data(data) if body.len() + data.len() <= MAX_REFUSAL_BYTES => {
                body.extend_from_slice(&data);
            }
            Part::Data(_) => return Ok(Bytes::new()),
            other => {
                other.expect_trailer()?;
                exchange.complete();
                return Ok(body.freeze());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_limit_and_differ() {
        assert_eq!(pause(0), Duration::ZERO);
        for tries in 1..100 {
            let wait = pause(tries);
            assert!(
                wait >= RESUME_BACKOFF / 2 && wait <= RESUME_BACKOFF_MAX,
                "{wait:?}"
            );
        }
        assert!(pause(50) >= RESUME_BACKOFF_MAX / 2);
    }
}

//! The answer to a request that changes something, and whose call broke: the agent process that carried it is asked for
//! it, through another tunnel, where it keeps answers.

use std::time::Duration;

use proto::agent::grpctool::{KeepOffer, http_request};
use router::OpenError;
use tokio::time::Instant;

use super::{
    exchange::{Exchange, Interrupted},
    further_calls::{Attempts, FurtherCalls, Unmade},
};

/// How long an answer is looked for, at most.
const MAX_TIMEOUT: Duration = Duration::from_secs(30);
/// After this an agent process without tunnels is gone, where others of its agent have some.
const GONE_AFTER: Duration = Duration::from_secs(10);

/// What kas offers with a request that changes something. It is a secret, and has no `Debug`.
pub(super) struct Keep {
    id: [u8; 16],
    /// Tells callers apart.
    caller: u64,
    /// How long the answer is looked for.
    timeout: Duration,
}

impl Keep {
    /// An offer that nobody can guess, for an answer that is looked for as long.
    pub(super) fn new(caller: u64, timeout: Duration) -> Self {
        Self {
            id: rand::random(),
            caller,
            timeout: timeout.min(MAX_TIMEOUT),
        }
    }

    /// The same for another request of the caller.
    pub(super) fn again(&self) -> Self {
        Self::new(self.caller, self.timeout)
    }

    /// As the request says it.
    pub(super) fn first(&self) -> KeepOffer {
        self.behind(0)
    }

    fn behind(&self, received: u64) -> KeepOffer {
        KeepOffer {
            id: self.id.to_vec().into(),
            keep_seconds: u32::try_from(self.timeout.as_secs()).unwrap_or(u32::MAX),
            caller: self.caller,
            received,
        }
    }
}

/// Asks for an answer.
pub(super) struct Recovery {
    calls: FurtherCalls,
    keep: KeepOffer,
    timeout: Duration,
    /// From the first break on.
    attempts: Option<Attempts>,
    /// Since when only other processes of the agent have tunnels.
    alone_since: Option<Instant>,
}

impl Recovery {
    /// Asks for the answer to the request that offered `keep`.
    pub(super) fn new(keep: &Keep, calls: FurtherCalls) -> Self {
        Self {
            calls,
            keep: keep.first(),
            timeout: keep.timeout,
            attempts: None,
            alone_since: None,
        }
    }

    /// A call that brings the answer, behind so many bytes of its body, if its caller may have it still. It may break
    /// as well. Cancel-safe.
    pub(super) async fn ask(&mut self, received: u64) -> Result<Box<Exchange>, Unmade> {
        let timeout = self.timeout;
        let begin = || Attempts::until(Instant::now() + timeout);
        let attempts = self.attempts.get_or_insert_with(begin);
        loop {
            let deadline = attempts.next(&self.calls.ground).await?;
            let keep = KeepOffer {
                received,
                ..self.keep.clone()
            };
            let head = http_request::Header {
                keep: Some(keep),
                ..http_request::Header::default()
            };
            let error = match self.calls.open(head, true, deadline).await {
                Ok(exchange) => {
                    // If there is a next time, this call broke too.
                    attempts.failed("the calls that asked for it broke");
                    return Ok(exchange);
                }
                Err(error) => error,
            };
            if is_gone(&mut self.alone_since, &error) {
                return Err(Unmade::Lost(error.to_string()));
            }
            attempts.failed(error.to_string());
        }
    }

    /// Goes on behind so many bytes of an answer's body whose call broke.
    pub(super) async fn go_on(
        mut self,
        received: u64,
        broke: Interrupted,
    ) -> Result<(Box<Exchange>, Self), Interrupted> {
        loop {
            let mut exchange = match self.ask(received).await {
                Ok(exchange) => exchange,
                Err(Unmade::Denied(failure)) => return Err(Interrupted::Denied(failure)),
                Err(Unmade::Lost(why)) => {
                    tracing::debug!(why, "the rest of an answer was not found");
                    return Err(broke);
                }
            };
            self.calls.count(&mut exchange);
            match exchange.head().await {
                Ok(_) => {
                    self.recovered();
                    return Ok((exchange, self));
                }
                Err(error) if error.is_about_the_path() || error.is_superseded() => {}
                Err(error) => {
                    tracing::debug!(%error, "the agent does not have the rest of an answer");
                    return Err(broke);
                }
            }
        }
    }

    /// The answer goes on.
    pub(super) fn recovered(&self) {
        self.calls.metrics.answer_recovered();
    }
}

/// Whether the agent process is gone, as far as an attempt can tell that failed.
fn is_gone(alone_since: &mut Option<Instant>, error: &OpenError) -> bool {
    if !matches!(error, OpenError::NotOffered) {
        *alone_since = None;
        return false;
    }
    let since = alone_since.get_or_insert_with(Instant::now);
    since.elapsed() >= GONE_AFTER
}

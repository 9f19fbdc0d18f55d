//! Further calls to an agent process for a request whose call broke: they go on with its upgraded connection, or ask for
//! its answer.

use std::{sync::Arc, time::Duration};

use proto::{
    agent::grpctool::{HttpRequest, http_request},
    frame::Payload,
    metadata::Meta,
};
use router::{AgentId, Need, OpenError, Opening, Router};
use runtime::{backoff::Backoff, drain::Drain};
use tokio::time::Instant;

use super::{exchange::Exchange, upload};
use crate::{failure::Failure, metrics::Metrics, sessions::Ground};

/// How long one attempt may take on one decision of the control plane: its tunnel may be dead, or that of the call that
/// broke may seem to live still.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
pub(super) const ATTEMPT_BACKOFF: Duration = Duration::from_millis(25);
pub(super) const ATTEMPT_BACKOFF_MAX: Duration = Duration::from_secs(1);

/// What it takes to make them.
pub(super) struct FurtherCalls {
    /// Finds the agent process.
    pub(super) router: Arc<Router>,
    /// Whose it is.
    pub(super) agent: AgentId,
    /// What the tunnel must be good for, by the method of the agent process.
    pub(super) need: Need,
    /// As whom the request was made.
    pub(super) extra: Option<prost_types::Any>,
    /// Metadata of the calls.
    pub(super) meta: Meta,
    /// Whether the caller may go on.
    pub(super) ground: Ground,
    /// Waits for calls that end in the background.
    pub(super) drain: Drain,
    /// Where they are counted.
    pub(super) metrics: Metrics,
}

impl FurtherCalls {
    /// Opens one that begins with this head. `close` says that nothing follows it.
    pub(super) async fn open(
        &self,
        head: http_request::Header,
        close: bool,
        deadline: Instant,
    ) -> Result<Box<Exchange>, OpenError> {
        let head = http_request::Header {
            request: None,
            extra: self.extra.clone(),
            content_length: Some(0),
            ..head
        };
        let message = Some(http_request::Message::Header(head));
        let head = Payload::message(&HttpRequest { message });
        let opening = Opening {
            method: self.need.method.clone(),
            meta: self.meta.clone(),
            messages: vec![head, upload::trailer()],
            close,
            // Of two calls that ask at once one would be refused.
            safe: false,
            moves: true,
        };
        let opened = self.router.open(self.agent, &self.need, &opening, deadline);
        let exchange = Exchange::new(opened.await?, None, self.drain.clone());
        Ok(Box::new(exchange))
    }

    /// Counts a call that is read at its client's pace.
    pub(super) fn count(&self, exchange: &mut Exchange) {
        let readers = self.router.registry().readers();
        exchange.count(readers, self.agent, &self.need.caller);
    }
}

/// Attempts at a further call, until one takes or the time is up.
pub(super) struct Attempts {
    deadline: Instant,
    backoff: Backoff,
    /// Why the last one failed.
    failed: Option<String>,
}

/// Why there is no further call.
pub(super) enum Unmade {
    /// The caller may not go on.
    Denied(Failure),
    /// There was no tunnel in time, or the agent process does not have what is asked for.
    Lost(String),
}

impl Attempts {
    /// The first is made at once, and none after the deadline.
    pub(super) fn until(deadline: Instant) -> Self {
        Self {
            deadline,
            backoff: Backoff::new(ATTEMPT_BACKOFF, ATTEMPT_BACKOFF_MAX, 2.0),
            failed: None,
        }
    }

    /// Waits until another may be made, on a new decision of the control plane, and says until when it may last.
    ///
    /// # Errors
    /// When there is to be none any more.
    pub(super) async fn next(&mut self, ground: &Ground) -> Result<Instant, Unmade> {
        loop {
            if let Some(why) = &self.failed {
                let pause = self.backoff.next(rand::random());
                if Instant::now() + pause >= self.deadline {
                    return Err(Unmade::Lost(why.clone()));
                }
                tracing::debug!(why, "a further call to the agent failed; retrying");
                tokio::time::sleep(pause).await;
            }
            match tokio::time::timeout_at(self.deadline, ground.ask()).await {
                Err(_) => self.failed("the control plane did not decide in time"),
                // The control plane does not know now.
                Ok(Err(failure)) if failure.retry_after.is_some() => self.failed(failure.message),
                Ok(Err(failure)) => return Err(Unmade::Denied(failure)),
                Ok(Ok(())) => return Ok(self.deadline.min(Instant::now() + ATTEMPT_TIMEOUT)),
            }
        }
    }

    /// The last one failed.
    pub(super) fn failed(&mut self, why: impl Into<String>) {
        self.failed = Some(why.into());
    }
}

//! Attaches calls to an upgraded connection until one takes, or its time is up.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use proto::agent::grpctool::{ResumeOffer, http_request};
use router::OpenError;
use tokio::time::Instant;
use tonic::Code;

use super::over;
use crate::{
    kubernetes_api::{
        exchange::{Exchange, Interrupted},
        further_calls::{ATTEMPT_BACKOFF, ATTEMPT_BACKOFF_MAX, Attempts, FurtherCalls, Unmade},
    },
    places::Resumable,
};

/// How long the agent of a client that has left is looked for, to tell it so.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(10);

/// What kas offers of an upgrade. It is a secret, and has no `Debug`.
pub(in crate::kubernetes_api) struct Offer {
    id: [u8; 16],
    /// How long a connection may be without a call.
    timeout: Duration,
    _place: Resumable,
}

impl Offer {
    /// The attachment of the call that opens the connection.
    pub(super) const FIRST: u64 = 1;

    /// An offer that nobody can guess.
    pub(in crate::kubernetes_api) fn new(timeout: Duration, place: Resumable) -> Self {
        Self {
            id: rand::random(),
            timeout,
            _place: place,
        }
    }

    /// As the call that is to open the connection says it.
    pub(in crate::kubernetes_api) fn first(&self) -> ResumeOffer {
        self.of((Self::FIRST, 0))
    }

    fn of(&self, (attachment, received): (u64, u64)) -> ResumeOffer {
        ResumeOffer {
            id: self.id.to_vec().into(),
            attachment,
            received,
            keep_seconds: u32::try_from(self.timeout.as_secs()).unwrap_or(u32::MAX),
        }
    }
}

/// What it takes to attach calls.
pub(in crate::kubernetes_api) struct Source {
    calls: FurtherCalls,
    /// Names the connection.
    offer: Offer,
}

/// A call that carries the connection.
pub(super) struct Attached {
    pub(super) exchange: Box<Exchange>,
    pub(super) attachment: u64,
    /// What the agent has received lies before.
    pub(super) received: u64,
}

/// Why one try failed.
#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    NoTunnel(#[from] OpenError),
    #[error(transparent)]
    Interrupted(#[from] Interrupted),
    #[error("the agent's answer does not say how far the connection is")]
    NoAnswer,
}

impl Failed {
    /// Whether the agent process does not have the connection.
    fn is_final(&self) -> bool {
        matches!(self, Self::Interrupted(Interrupted::Agent(status)) if status.code == Code::NotFound as i32)
    }
}

impl Source {
    /// Attaches calls to the connection that was offered so.
    pub(in crate::kubernetes_api) fn new(calls: FurtherCalls, offer: Offer) -> Self {
        Self { calls, offer }
    }

    pub(super) fn count_resumed(&self) {
        self.calls.metrics.upgrade_resumed();
    }

    /// Attaches calls, each newer than `attachment`, until one takes. kas has received what lies before `received`.
    /// The last `quick` calls in a row that took broke at once.
    pub(super) async fn attach(
        self: Arc<Self>,
        (mut attachment, received): (u64, u64),
        quick: u32,
    ) -> Result<Attached, Unmade> {
        let mut attempts = Attempts::until(Instant::now() + self.offer.timeout);
        if quick > 0 {
            let pause = ATTEMPT_BACKOFF.saturating_mul(2_u32.saturating_pow(quick));
            tokio::time::sleep(pause.min(ATTEMPT_BACKOFF_MAX)).await;
        }
        loop {
            let deadline = match attempts.next(&self.calls.ground).await {
                Ok(deadline) => deadline,
                Err(unmade) => {
                    if matches!(unmade, Unmade::Denied(_)) {
                        self.abandon((attachment + 1, received));
                    }
                    return Err(unmade);
                }
            };
            attachment += 1;
            let attempt = self.attempt((attachment, received), deadline);
            match tokio::time::timeout_at(deadline, attempt).await {
                Ok(Ok(attached)) => return Ok(attached),
                Ok(Err(failed)) if failed.is_final() => {
                    return Err(Unmade::Lost(failed.to_string()));
                }
                Ok(Err(failed)) => attempts.failed(failed.to_string()),
                Err(_) => attempts.failed("the agent did not answer in time"),
            }
        }
    }

    async fn attempt(
        &self,
        (attachment, received): (u64, u64),
        deadline: Instant,
    ) -> Result<Attached, Failed> {
        let head = http_request::Header {
            resume: Some(self.offer.of((attachment, received))),
            ..http_request::Header::default()
        };
        let mut exchange = self.calls.open(head, false, deadline).await?;
        exchange.head().await?;
        let answer = exchange.take_resume().ok_or(Failed::NoAnswer)?;
        self.calls.count(&mut exchange);
        Ok(Attached {
            exchange,
            attachment,
            received: answer.received,
        })
    }

    /// Looks for the agent once more, in the background, to end what its caller may not go on with.
    fn abandon(self: Arc<Self>, position: (u64, u64)) {
        self.calls.drain.clone().spawn(async move {
            let deadline = Instant::now() + LEAVE_TIMEOUT;
            let attempt = self.attempt(position, deadline);
            if let Ok(Ok(attached)) = tokio::time::timeout_at(deadline, attempt).await {
                leave(attached.exchange).await;
            }
        });
    }

    /// Tells the agent that the connection is over, in the background.
    pub(super) fn leave(&self, exchange: Box<Exchange>) {
        // Without a runtime nobody can wait: the call is cancelled, and the agent gives up after a while.
        if tokio::runtime::Handle::try_current().is_ok() {
            self.calls.drain.spawn(leave(exchange));
        }
    }

    /// The same with a call that is about to be attached.
    pub(super) fn leave_when_attached(
        &self,
        attaching: BoxFuture<'static, Result<Attached, Unmade>>,
    ) {
        if tokio::runtime::Handle::try_current().is_ok() {
            self.calls.drain.spawn(async move {
                if let Ok(Ok(attached)) = tokio::time::timeout(LEAVE_TIMEOUT, attaching).await {
                    leave(attached.exchange).await;
                }
            });
        }
    }
}

async fn leave(mut exchange: Box<Exchange>) {
    let said = exchange.with(|call| {
        // There is room for so little, or the agent hears it later.
        call.start_send(over())?;
        call.close_send()
    });
    if matches!(said, Ok(Ok(()))) {
        exchange.finish().await;
    }
}

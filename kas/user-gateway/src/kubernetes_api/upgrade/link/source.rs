//! Attaches calls to an upgraded connection until one takes, or its time is up.

use std::{sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use proto::{
    agent::grpctool::{HttpRequest, ResumeOffer, http_request},
    frame::Payload,
    metadata::Meta,
};
use router::{AgentId, Need, OpenError, Opening, Router};
use runtime::{backoff::Backoff, drain::Drain};
use tokio::time::Instant;
use tonic::Code;

use super::over;
use crate::{
    failure::Failure,
    kubernetes_api::{
        exchange::{Exchange, Interrupted},
        upload,
    },
    metrics::Metrics,
    places::Resumable,
    sessions::Ground,
};

/// The method by which an agent process is attached to, as far as its name.
const METHOD: &str = "/kas.kubernetes_api.rpc.Resume/";
/// Bytes of the method, at most.
const MAX_METHOD_BYTES: usize = 100;
/// How long one try may take: its tunnel may be dead, or that of the call that broke may seem to live still.
const ATTEMPT_TIMEOUT: Duration = Duration::from_secs(5);
const ATTEMPT_BACKOFF: Duration = Duration::from_millis(25);
const ATTEMPT_BACKOFF_MAX: Duration = Duration::from_secs(1);
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
    /// Finds the agent.
    pub(in crate::kubernetes_api) router: Arc<Router>,
    /// Whom to ask.
    pub(in crate::kubernetes_api) agent: AgentId,
    /// What the tunnel must be good for.
    pub(in crate::kubernetes_api) need: Need,
    /// Names the connection.
    pub(in crate::kubernetes_api) offer: Offer,
    /// As whom it was opened.
    pub(in crate::kubernetes_api) extra: Option<prost_types::Any>,
    /// Metadata of its calls.
    pub(in crate::kubernetes_api) meta: Meta,
    /// Whether its caller may go on.
    pub(in crate::kubernetes_api) ground: Ground,
    /// Waits for calls that end in the background.
    pub(in crate::kubernetes_api) drain: Drain,
    /// Where resumed connections are counted.
    pub(in crate::kubernetes_api) metrics: Metrics,
}

/// A call that carries the connection.
pub(super) struct Attached {
    pub(super) exchange: Box<Exchange>,
    pub(super) attachment: u64,
    /// What the agent has received lies before.
    pub(super) received: u64,
}

/// Why no call carries it.
pub(super) enum Unresumed {
    /// Its caller may not go on.
    Denied(Failure),
    /// There was no tunnel in time, or the agent does not have it.
    Lost(String),
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
    /// The method to attach by, where it is one.
    pub(in crate::kubernetes_api) fn method(answered: &str) -> Option<Arc<str>> {
        let name = answered.strip_prefix(METHOD)?;
        let is_name = name.bytes().all(|byte| byte.is_ascii_alphanumeric());
        (is_name && answered.len() <= MAX_METHOD_BYTES).then(|| answered.into())
    }

    pub(super) fn count_resumed(&self) {
        self.metrics.upgrade_resumed();
    }

    /// Attaches calls, each newer than `attachment`, until one takes. kas has received what lies before `received`.
    /// The last `quick` calls in a row that took broke at once.
    pub(super) async fn attach(
        self: Arc<Self>,
        (mut attachment, received): (u64, u64),
        quick: u32,
    ) -> Result<Attached, Unresumed> {
        let deadline = Instant::now() + self.offer.timeout;
        if quick > 0 {
            let pause = ATTEMPT_BACKOFF.saturating_mul(2_u32.saturating_pow(quick));
            tokio::time::sleep(pause.min(ATTEMPT_BACKOFF_MAX)).await;
        }
        let mut backoff = Backoff::new(ATTEMPT_BACKOFF, ATTEMPT_BACKOFF_MAX, 2.0);
        loop {
            let why = match tokio::time::timeout_at(deadline, self.ground.ask()).await {
                Err(_) => "the control plane did not decide in time".to_owned(),
                // The control plane does not know now.
                Ok(Err(failure)) if failure.retry_after.is_some() => failure.message,
                Ok(Err(failure)) => {
                    self.clone().abandon((attachment + 1, received));
                    return Err(Unresumed::Denied(failure));
                }
                Ok(Ok(())) => {
                    let attempt_deadline = deadline.min(Instant::now() + ATTEMPT_TIMEOUT);
                    attachment += 1;
                    let attempt = self.attempt((attachment, received), attempt_deadline);
                    match tokio::time::timeout_at(attempt_deadline, attempt).await {
                        Ok(Ok(attached)) => return Ok(attached),
                        Ok(Err(failed)) if failed.is_final() => {
                            return Err(Unresumed::Lost(failed.to_string()));
                        }
                        Ok(Err(failed)) => failed.to_string(),
                        Err(_) => "the agent did not answer in time".to_owned(),
                    }
                }
            };
            let pause = backoff.next(rand::random());
            if Instant::now() + pause >= deadline {
                return Err(Unresumed::Lost(why));
            }
            tracing::debug!(why, "resuming an upgraded connection failed; retrying");
            tokio::time::sleep(pause).await;
        }
    }

    async fn attempt(&self, position: (u64, u64), deadline: Instant) -> Result<Attached, Failed> {
        let opening = self.opening(position);
        let opened = self.router.open(self.agent, &self.need, &opening, deadline);
        let mut exchange = Box::new(Exchange::new(opened.await?, None, self.drain.clone()));
        exchange.head().await?;
        let answer = exchange.take_resume().ok_or(Failed::NoAnswer)?;
        let readers = self.router.registry().readers();
        exchange.count(readers, self.agent, &self.need.caller);
        Ok(Attached {
            exchange,
            attachment: position.0,
            received: answer.received,
        })
    }

    fn opening(&self, position: (u64, u64)) -> Opening {
        let header = http_request::Header {
            request: None,
            extra: self.extra.clone(),
            content_length: Some(0),
            resume: Some(self.offer.of(position)),
        };
        let message = Some(http_request::Message::Header(header));
        let header = Payload::message(&HttpRequest { message });
        Opening {
            method: self.need.method.clone(),
            meta: self.meta.clone(),
            messages: vec![header, upload::trailer()],
            close: false,
            safe: false,
            moves: true,
        }
    }

    /// Looks for the agent once more, in the background, to end what its caller may not go on with.
    fn abandon(self: Arc<Self>, position: (u64, u64)) {
        self.drain.clone().spawn(async move {
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
            self.drain.spawn(leave(exchange));
        }
    }

    /// The same with a call that is about to be attached.
    pub(super) fn leave_when_attached(
        &self,
        attaching: BoxFuture<'static, Result<Attached, Unresumed>>,
    ) {
        if tokio::runtime::Handle::try_current().is_ok() {
            self.drain.spawn(async move {
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

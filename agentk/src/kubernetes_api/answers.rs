//! Answers to requests that change something, which outlive the calls that carry them: kas may ask for them.
//!
//! A request that has come whole goes on when its call breaks, and its answer waits for kas, which asks by a method that
//! has the name of this process in its path. A request that kas cancels goes the way of all others.

mod answer;
mod ask;
mod carrier;
mod table;

use std::{
    future::poll_fn,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use prost::Message as _;
use proto::{
    ProcessMethod,
    agent::{grpctool::KeepOffer, kubernetes_api::rpc::ImpersonationConfig},
    google::rpc,
    not_taken as mark,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{Code, Status};

use super::{
    batch::Batch,
    respond::{self, Source},
};
use crate::{
    call::{CallError, Outbound, TunnelError},
    metrics::Metrics,
};
use answer::Reader;
pub(crate) use ask::Ask;
use table::{Id, Table};

/// How long an answer waits for kas, at most, whatever kas says.
const MAX_KEEP_TIMEOUT: Duration = Duration::from_secs(60);
/// How long kas may take to end a call that has nothing more to say.
const END_TIMEOUT: Duration = Duration::from_secs(60);

/// All kept answers of this process. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Answers {
    table: Table,
    /// Requests that go on without their calls.
    detached: TaskTracker,
    force: CancellationToken,
    metrics: Metrics,
    path: Arc<str>,
}

/// A request whose answer is kept if its call breaks.
pub(super) struct Kept {
    id: Id,
    reader: Reader,
    /// How long an answer waits for kas.
    keep: Duration,
    caller: u64,
    answers: Answers,
}

impl Answers {
    /// None yet; what goes on without a call ends with `force`.
    pub(crate) fn new(force: CancellationToken, metrics: Metrics) -> Self {
        let process = format!("{:016x}", rand::random::<u64>());
        Self {
            table: Table::new(),
            detached: TaskTracker::new(),
            force,
            metrics,
            path: ProcessMethod::Answers.of(&process).into(),
        }
    }

    /// The method by which kas asks for them.
    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    /// Waits until no request goes on without its call; none may be begun meanwhile. Cancel-safe.
    pub(crate) async fn finished(&self) {
        self.detached.close();
        self.detached.wait().await;
    }

    /// A request is about to be made; none if its answer cannot be kept. Boxed, since few requests have one.
    ///
    /// # Errors
    /// When kas was told that it would not be.
    pub(super) fn begin(
        &self,
        offer: &KeepOffer,
        identity: Option<ImpersonationConfig>,
    ) -> Result<Option<Box<Kept>>, Status> {
        let begun = self.table.begin(offer, identity)?;
        Ok(begun.map(|(id, reader)| {
            Box::new(Kept {
                id,
                reader,
                keep: Duration::from_secs(offer.keep_seconds.into()).min(MAX_KEEP_TIMEOUT),
                caller: offer.caller,
                answers: self.clone(),
            })
        }))
    }

    /// A request is about to be made whose answer was offered to be kept and is not.
    ///
    /// # Errors
    /// When kas was told that it would not be made.
    pub(super) fn begin_unkept(&self, offer: &KeepOffer) -> Result<(), Status> {
        self.table.begin_unkept(offer)
    }
}

/// Waits until kas has ended the call.
async fn heard(feeding: impl Future<Output = Result<(), CallError>>) -> Result<(), CallError> {
    let silent = || TunnelError::Broken(Status::unavailable("kas did not end the call"));
    let heard = tokio::time::timeout(END_TIMEOUT, feeding).await;
    heard.unwrap_or_else(|_| Err(silent().into()))
}

async fn pass_on(
    carrier: &mut (impl Source + Headed),
    outbound: &mut Outbound,
    metrics: &Metrics,
) -> Result<(), CallError> {
    let head = poll_fn(|cx| carrier.poll_head(cx));
    let head = outbound.unless_reset(head).await??;
    let mut batch = Batch::new();
    batch.encoded_header(outbound, head);
    respond::pass_on(outbound, batch, carrier, metrics).await
}

/// Where an answer's head comes from.
trait Headed {
    /// The encoded message of the head.
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>>;
}

impl Headed for Reader {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        self.poll_head(cx)
    }
}

impl Source for Reader {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        self.poll_next(cx)
    }
}

/// The request never came, and will not be begun.
fn not_taken() -> Status {
    let details = rpc::Status {
        code: Code::NotFound as i32,
        message: "the request did not reach the agent whole".to_owned(),
        details: vec![mark::detail()],
    };
    let encoded = details.encode_to_vec();
    Status::with_details(Code::NotFound, details.message, encoded.into())
}

//! The call that brought a request, which passes its answer on, and what becomes of the request without it.

use std::{
    future::poll_fn,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::Response;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Status};
use tracing::Instrument as _;

use super::{
    Headed, Kept,
    answer::{Answer, unknown},
    heard, pass_on,
};
use crate::{
    call::{CallError, Outbound, TunnelError},
    cluster::AnswerBody,
    kubernetes_api::{
        batch::Batch,
        respond::{self, Pieces, Source},
    },
};

/// How long a request goes on that no call carries, and whose answer no call reads.
const DETACHED_TIMEOUT: Duration = Duration::from_secs(30);

/// Has an answer come while a call passes it on. Dropped before that is over, it has it come without a call.
pub(in crate::kubernetes_api) struct Carrier {
    kept: Kept,
    /// What brings the answer, until it is here.
    coming: Option<BoxFuture<'static, ()>>,
    /// Whether the request has come whole.
    whole: Arc<AtomicBool>,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// The call may have broken.
    Lost,
    /// kas has it.
    PassedOn,
    /// kas does not want it any more.
    Unwanted,
}

impl Kept {
    /// Has a call pass on the answer that `response` brings.
    pub(in crate::kubernetes_api) fn carried(
        self,
        response: impl Future<Output = Result<Response<AnswerBody>, Status>> + Send + 'static,
        whole: Arc<AtomicBool>,
    ) -> Carrier {
        Carrier {
            coming: Some(Box::pin(bring(self.reader.answer().clone(), response))),
            kept: self,
            whole,
            fate: Fate::Lost,
        }
    }
}

impl Carrier {
    /// Passes the answer on, and waits until kas has it; `feeding` brings the rest of the request.
    pub(in crate::kubernetes_api) async fn run(
        mut self,
        feeding: impl Future<Output = Result<(), CallError>>,
        outbound: &mut Outbound,
    ) -> Result<(), CallError> {
        let mut feeding = pin!(feeding);
        let metrics = self.kept.answers.metrics.clone();
        // What kas said last, once it has.
        let mut said = None;
        let answer = self.kept.reader.answer().clone();
        let passed = {
            let passing = async {
                tokio::select! {
                    done = pass_on(&mut self, outbound, &metrics) => done,
                    // The connection may be dead, and what is written to it never leave.
                    status = answer.superseded() => Err(status.into()),
                }
            };
            let mut passing = pin!(passing);
            // What kas has said is before the reset that may have come with it, which says nothing.
            tokio::select! {
                biased;
                fed = &mut feeding => match said.insert(fed) {
                    Ok(()) => passing.await,
                    Err(error) => Err(error.clone()),
                },
                done = &mut passing => done,
            }
        };
        let passed = match passed {
            Err(CallError::Tunnel(error)) => Err(error.into()),
            // Another call asks for the answer: nobody may be there to end this one.
            Err(CallError::Failed(status)) if status.code() == Code::Aborted => Err(status.into()),
            passed => {
                if let Err(CallError::Failed(status)) = &passed {
                    outbound.fail(status);
                }
                let heard = match said {
                    Some(said) => said,
                    None => heard(feeding).await,
                };
                self.fate = match &heard {
                    Ok(()) => Fate::PassedOn,
                    // It broke the protocol.
                    Err(CallError::Failed(_)) => Fate::Unwanted,
                    Err(CallError::Tunnel(_)) => Fate::Lost,
                };
                heard.and(passed)
            }
        };
        if let Err(CallError::Tunnel(error)) = &passed
            && !is_lost(error)
        {
            self.fate = Fate::Unwanted;
        }
        passed
    }

    fn drive(&mut self, cx: &mut Context<'_>) {
        if let Some(coming) = &mut self.coming
            && coming.as_mut().poll(cx).is_ready()
        {
            self.coming = None;
        }
    }
}

impl Headed for Carrier {
    fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<Bytes, Status>> {
        self.drive(cx);
        self.kept.reader.poll_head(cx)
    }
}

impl Source for Carrier {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Bytes>, Status>> {
        self.drive(cx);
        self.kept.reader.poll_next(cx)
    }
}

impl Drop for Carrier {
    fn drop(&mut self) {
        let Kept {
            id,
            reader,
            keep,
            caller,
            answers,
        } = &self.kept;
        let answer = reader.answer();
        let coming = self.coming.take();
        let goes_on = coming.is_none() || self.whole.load(Ordering::Acquire);
        let fate = match self.fate {
            // It was asked for in another way.
            Fate::Unwanted if reader.is_superseded() => Fate::Lost,
            fate => fate,
        };
        let place = match fate {
            Fate::PassedOn => return answers.table.passed_on(*id),
            Fate::Lost if !goes_on || answers.force.is_cancelled() => None,
            Fate::Lost
                if answer.is_kept() || (reader.is_superseded() && answer.is_read_whole()) =>
            {
                answers.table.detach(*caller)
            }
            Fate::Lost | Fate::Unwanted => None,
        };
        let (Some(place), Ok(runtime)) = (place, tokio::runtime::Handle::try_current()) else {
            answer.end(Err(unknown()));
            return answers.table.spend(*id);
        };
        answer.detach();
        answers.metrics.answers_detached.inc();
        tracing::debug!("a request lost its tunnel; its answer waits for kas");
        let (id, answer, keep, answers) = (*id, answer.clone(), *keep, answers.clone());
        // The agent ends when it is here, and does not wait for kas to ask: it offers no tunnels any more.
        let busy = answers.detached.token();
        let waiting = async move {
            if let Some(coming) = coming {
                come(coming, &answer, &answers.force).await;
            }
            drop(busy);
            let passed_on = tokio::time::timeout(keep, answer.passed_on()).await;
            if passed_on.is_err() {
                answers.table.spend(id);
                tracing::debug!("dropped an answer that kas did not ask for in time");
            }
            drop(place);
        };
        runtime.spawn(waiting.in_current_span());
    }
}

/// Has an answer come without the call that brought the request.
async fn come(mut coming: BoxFuture<'static, ()>, answer: &Answer, force: &CancellationToken) {
    let mut deadline = Instant::now() + DETACHED_TIMEOUT;
    loop {
        let came = force.run_until_cancelled(timeout_at(deadline, &mut coming));
        match came.await {
            Some(Ok(())) => return,
            // Whoever reads it has left it long ago, or has not.
            Some(Err(_)) => {
                let now = Instant::now();
                deadline = answer.unread_since().unwrap_or(now) + DETACHED_TIMEOUT;
                if deadline <= now {
                    break;
                }
            }
            None => break,
        }
    }
    answer.end(Err(unknown()));
}

/// Brings an answer, no faster than it is passed on while a call reads it.
async fn bring(
    answer: Arc<Answer>,
    response: impl Future<Output = Result<Response<AnswerBody>, Status>> + Send,
) {
    let response = match response.await {
        Ok(response) => response,
        Err(status) => return answer.end(Err(status)),
    };
    let (head, body) = response.into_parts();
    answer.begin(Batch::encoded(respond::of_response(head)));
    let mut pieces = Pieces::new(body);
    loop {
        // Room is looked for each time: who begins to read has not read what was kept meanwhile.
        let next = poll_fn(|cx| {
            ready!(answer.poll_room(cx));
            pieces.poll_next(cx)
        });
        match next.await {
            Ok(Some(piece)) => {
                if !answer.push(piece) {
                    return;
                }
            }
            Ok(None) => return answer.end(Ok(())),
            Err(status) => return answer.end(Err(status)),
        }
    }
}

/// Whether kas may not have what was sent, and did not say that it does not want it.
fn is_lost(error: &TunnelError) -> bool {
    match error {
        TunnelError::Ended(status) => status.code() != Code::Cancelled,
        TunnelError::Broken(_) => true,
        TunnelError::Protocol(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use runtime::shares::{Limits, Shares};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_request_ends_so_long_after_its_answer_was_read() {
        let limits = Limits {
            total: 10,
            each: 10,
            reserved: 0,
        };
        let answer = Answer::new(Shares::new(limits).take(1, 0).unwrap());
        let reader = answer.read_by_another(0);
        let started = Instant::now();
        let reading = async {
            tokio::time::sleep(Duration::from_secs(100)).await;
            drop(reader);
        };

        let forever = Box::pin(std::future::pending());
        let force = CancellationToken::new();
        tokio::join!(reading, come(forever, &answer, &force));

        assert_eq!(
            started.elapsed().as_secs(),
            100 + DETACHED_TIMEOUT.as_secs()
        );
    }
}

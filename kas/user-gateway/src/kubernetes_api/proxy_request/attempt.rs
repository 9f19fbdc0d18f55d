//! One attempt at the call of a request, up to the beginning of its answer.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use runtime::drain::Drain;

use super::{KubernetesApi, ProxyRequest};
use crate::{
    failure::Failure,
    headers,
    kubernetes_api::{
        exchange::{Ahead, Exchange, Interrupted, LOOK_AHEAD_BYTES},
        upload::Upload,
    },
    scope::Scope,
};

/// How long the head of a short answer waits for its body, which mostly comes with it.
const SHORT_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

/// Status and headers of an answer, the length that they tell, and what is here of the body.
pub(super) type AnswerHead = (StatusCode, HeaderMap, Option<u64>, Ahead);

/// The beginning of an answer.
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    /// What the headers say of the body.
    pub(super) length: Option<u64>,
    pub(super) ahead: Ahead,
    /// Apart, for it is passed from hand to hand.
    pub(super) exchange: Box<Exchange>,
}

/// A call without an answer.
pub(super) struct Broken {
    pub(super) error: Interrupted,
    pub(super) exchange: Box<Exchange>,
    /// Whether its answer had begun.
    pub(super) begun: bool,
}

impl Answered {
    pub(super) fn new(
        (status, headers, length, ahead): AnswerHead,
        exchange: Box<Exchange>,
    ) -> Self {
        Self {
            status,
            headers,
            length,
            ahead,
            exchange,
        }
    }
}

impl KubernetesApi {
    /// Makes it.
    pub(super) async fn attempt(
        &self,
        request: &mut ProxyRequest,
        upload: &mut Option<Upload>,
        (scope, drain): (&mut Scope, &Drain),
    ) -> Result<Result<Answered, Box<Broken>>, Failure> {
        let call = self.open(request, upload.as_mut(), scope).await?;
        let mut exchange = Box::new(Exchange::new(call, upload.take(), drain.clone()));
        let mut begun = false;
        let answer = self.answer(&mut exchange, request, &mut begun).await;
        scope.received = exchange.uploaded();
        Ok(match answer {
            Ok(answer) => Ok(Answered::new(answer, exchange)),
            Err(error) => Err(Box::new(Broken {
                error,
                exchange,
                begun,
            })),
        })
    }

    /// Waits for the beginning of the answer to a call; sets `begun` when something of it came.
    pub(super) async fn answer(
        &self,
        exchange: &mut Exchange,
        request: &ProxyRequest,
        begun: &mut bool,
    ) -> Result<AnswerHead, Interrupted> {
        let limit = self.settings.response_header;
        let head = tokio::time::timeout(limit, exchange.head())
            .await
            .map_err(|_| Interrupted::Silence(limit))??;
        *begun = true;
        let (status, headers) = self.heads.understand(request.agent, head)?;
        if status == StatusCode::SWITCHING_PROTOCOLS && request.upgrade && !exchange.is_uploading()
        {
            return Ok((status, headers, None, Ahead::default()));
        }
        if status.is_informational() {
            return Err(Interrupted::Malformed(format!(
                "a final answer with status {status}"
            )));
        }
        if request.upgrade {
            exchange.close_send()?;
        }
        let length = headers::content_length(&headers);
        let mut ahead = exchange.look_ahead()?;
        let bodyless = is_bodyless(&request.method, status);
        if ahead.whole && !bodyless {
            ahead.expect_length(length)?;
        }
        // So that an answer which breaks off in its body can be asked for again. What is not announced may be a stream.
        if let Some(length) = length
            && !ahead.whole
            && !bodyless
            && !request.upgrade
            && length <= LOOK_AHEAD_BYTES as u64
        {
            let rest = exchange.rest(&mut ahead, length);
            if let Ok(rest) = tokio::time::timeout(SHORT_ANSWER_TIMEOUT, rest).await {
                rest?;
            }
        }
        Ok((status, headers, length, ahead))
    }
}

/// Whether an answer has no body whatever its headers say.
pub(super) fn is_bodyless(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

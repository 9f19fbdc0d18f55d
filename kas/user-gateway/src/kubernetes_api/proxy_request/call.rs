//! The call that a request becomes: it is made until there is the beginning of an answer, and again where that is safe.

use std::time::Duration;

use http::{HeaderMap, Method, StatusCode};
use runtime::drain::Drain;
use tokio::time::Instant;

use super::{KubernetesApi, ProxyRequest, recover::Recovered};
use crate::{
    failure::Failure,
    headers,
    kubernetes_api::{
        exchange::{Ahead, Exchange, Interrupted, LOOK_AHEAD_BYTES},
        failure, replay,
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
struct Broken {
    error: Interrupted,
    exchange: Box<Exchange>,
    /// Whether its answer had begun.
    begun: bool,
}

/// What becomes of a request whose call broke.
enum GoesOn {
    /// Its answer was found.
    With(Answered),
    /// It is to be made again, with this body if it has one.
    Again(Option<Upload>),
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
    /// Makes the call until there is an answer, or another attempt is of no use.
    pub(super) async fn call(
        &self,
        request: &mut ProxyRequest,
        upload: &mut Option<Upload>,
        (scope, drain): (&mut Scope, &Drain),
    ) -> Result<Answered, Failure> {
        let bodyless = upload.is_none();
        if let (Some(upload), Some(_)) = (&mut *upload, &request.keep) {
            upload.keep();
        }
        loop {
            let attempt = self.attempt(request, upload, (&mut *scope, drain));
            let broken = match attempt.await? {
                Ok(answered) => return Ok(answered),
                Err(broken) => broken,
            };
            // Apart, since what is seldom needed is large, and is part of each request.
            let going_on = self.go_on((broken, bodyless), request, (&mut *scope, drain));
            match Box::pin(going_on).await? {
                GoesOn::With(answered) => return Ok(answered),
                GoesOn::Again(body) => *upload = body,
            }
        }
    }

    /// Makes it once.
    async fn attempt(
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

    /// Looks for the answer of a call that broke.
    async fn go_on(
        &self,
        (broken, bodyless): (Box<Broken>, bool),
        request: &mut ProxyRequest,
        (scope, drain): (&mut Scope, &Drain),
    ) -> Result<GoesOn, Failure> {
        let Broken {
            error,
            mut exchange,
            begun,
        } = *broken;
        let broke = (&error, bodyless);
        let recovered = self.recover(broke, &mut exchange, request, (&mut *scope, drain));
        let body = match recovered.await? {
            Recovered::Answer(answered) => return Ok(GoesOn::With(answered)),
            Recovered::NotTaken(body) => body,
            Recovered::Nothing => {
                let kind = (request.opening.safe, begun);
                let again = bodyless
                    && replay::is_allowed(&error, kind, scope.replays)
                    && Instant::now() < scope.deadline;
                if !again {
                    return Err(failure::of_interruption(&error, request.opening.safe));
                }
                None
            }
        };
        self.pause_before_replay(&error, request, scope).await?;
        Ok(GoesOn::Again(body))
    }

    /// What comes between a call that broke and the next one.
    async fn pause_before_replay(
        &self,
        error: &Interrupted,
        request: &mut ProxyRequest,
        scope: &mut Scope,
    ) -> Result<(), Failure> {
        tokio::time::sleep(replay::pause(scope.replays)).await;
        request.renew_rights().await?;
        request.offers_again();
        scope.replays += 1;
        self.metrics.replayed();
        tracing::debug!(%error, replays = scope.replays, "call lost its tunnel; repeating it on another");
        Ok(())
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

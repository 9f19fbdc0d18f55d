//! What becomes of a request when its call breaks. Of one that changes something the answer is asked for, or it is made
//! again where it never reached the agent; an upgraded connection goes on.

use std::sync::Arc;

use http::StatusCode;
use proto::ProcessMethod;
use router::Need;
use runtime::drain::Drain;

use super::{KubernetesApi, ProxyRequest, attempt::Answered};
use crate::{
    failure::Failure,
    kubernetes_api::{
        exchange::{Exchange, Interrupted},
        failure,
        further_calls::{FurtherCalls, Unmade},
        recovery::Recovery,
        replay, request_head, upgrade,
        upload::Upload,
    },
    scope::Scope,
};

/// What was found.
pub(super) enum Recovered {
    /// The answer.
    Answer(Answered),
    /// The request never reached the agent whole, and will not be made: here is its body, if it has one.
    NotTaken(Option<Upload>),
    /// Nothing: the request fails as it did.
    Nothing,
}

impl KubernetesApi {
    /// Looks for the answer to a request whose call broke.
    ///
    /// # Errors
    /// When the caller may not have it any more, or the request was not made and cannot be made again.
    pub(super) async fn recover(
        &self,
        (error, bodyless): (&Interrupted, bool),
        exchange: &mut Exchange,
        request: &ProxyRequest,
        (scope, drain): (&mut Scope, &Drain),
    ) -> Result<Recovered, Failure> {
        if !error.is_about_the_path() {
            return Ok(Recovered::Nothing);
        }
        let Some(mut recovery) = self.recovery(exchange, request, scope, drain) else {
            return Ok(Recovered::Nothing);
        };
        // An agent that refused the tunnel will not make the request either.
        if error.is_before_the_agent() {
            return not_taken(exchange, bodyless, scope);
        }
        tracing::debug!(%error, "a call that changes something lost its tunnel; asking for its answer on another");
        loop {
            let mut asking = match recovery.ask(0).await {
                Ok(asking) => asking,
                Err(Unmade::Denied(mut failure)) => {
                    failure.message.push_str(failure::outcome(false));
                    return Err(failure);
                }
                Err(Unmade::Lost(why)) => {
                    tracing::debug!(why, "the answer to a request was not found");
                    return Ok(Recovered::Nothing);
                }
            };
            match self.answer(&mut asking, request, &mut false).await {
                Ok(answer) => {
                    recovery.recovered();
                    scope.resumes += 1;
                    return Ok(Recovered::Answer(Answered::new(answer, asking)));
                }
                Err(error) if error.is_about_the_path() || error.is_superseded() => {}
                Err(error) if error.is_not_taken() => {
                    return not_taken(exchange, bodyless, scope);
                }
                Err(error) => {
                    tracing::debug!(%error, "the agent does not have the answer to a request");
                    return Ok(Recovered::Nothing);
                }
            }
        }
    }

    /// What it takes to ask for the answer that an exchange brings; none where the agent keeps none.
    pub(super) fn recovery(
        &self,
        exchange: &mut Exchange,
        request: &ProxyRequest,
        scope: &Scope,
        drain: &Drain,
    ) -> Option<Recovery> {
        let keep = request.keep.as_ref()?;
        let method = exchange.answers()?;
        let calls = self.further_calls(method, request, scope, drain)?;
        Some(Recovery::new(keep, calls))
    }

    /// What it takes to resume an upgraded connection by the method that its agent names.
    pub(super) fn resume_source(
        &self,
        request: &mut ProxyRequest,
        method: &str,
        scope: &Scope,
        drain: &Drain,
    ) -> Option<upgrade::Source> {
        let method = ProcessMethod::Resume.is(method).then(|| method.into())?;
        let calls = self.further_calls(method, request, scope, drain)?;
        Some(upgrade::Source::new(calls, request.offer.take()?))
    }

    /// What it takes to make further calls for a request, by a method of the agent process that carries it.
    fn further_calls(
        &self,
        method: Arc<str>,
        request: &ProxyRequest,
        scope: &Scope,
        drain: &Drain,
    ) -> Option<FurtherCalls> {
        let acts_as = request_head::acts_as(&request.opening);
        Some(FurtherCalls {
            router: self.router.clone(),
            agent: request.agent,
            need: Need {
                method,
                ..request.need.clone()
            },
            extra: request_head::acts_as_extra(&request.opening),
            meta: request.opening.meta.clone(),
            ground: scope.ground(request.rights.authority()?, acts_as)?,
            drain: drain.clone(),
            metrics: self.metrics.clone(),
        })
    }
}

/// The request may be made again, unless it was too often.
fn not_taken(exchange: &mut Exchange, bodyless: bool, scope: &Scope) -> Result<Recovered, Failure> {
    let body = exchange.rewind();
    if scope.replays < replay::MAX_REPLAYS && (bodyless || body.is_some()) {
        return Ok(Recovered::NotTaken(body));
    }
    let message = "the tunnel broke before the request had reached the agent whole: nothing was done, try again";
    Err(Failure::retryable(StatusCode::SERVICE_UNAVAILABLE, message))
}

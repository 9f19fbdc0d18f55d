//! The call that a request becomes: it is made until there is the beginning of an answer, and again where that is safe.

use runtime::drain::Drain;
use tokio::time::Instant;

use super::{
    KubernetesApi, ProxyRequest,
    attempt::{Answered, Broken},
    recover::Recovered,
};
use crate::{
    failure::Failure,
    kubernetes_api::{exchange::Interrupted, failure, replay, upload::Upload},
    scope::Scope,
};

/// What becomes of a request whose call broke.
enum GoesOn {
    /// Its answer was found.
    With(Answered),
    /// It is to be made again, with this body if it has one.
    Again(Option<Upload>),
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
}

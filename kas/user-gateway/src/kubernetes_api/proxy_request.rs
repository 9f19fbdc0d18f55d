//! From an admitted request to an answer: what is carried to the agent, the call, and what is made of its answer.

mod attempt;
mod call;
mod recover;
mod tunnel;

use std::hash::BuildHasher as _;

use control_plane::Access;
use http::{Method, StatusCode};
use hyper::upgrade::OnUpgrade;
use router::{AgentId, Need, Opening};
use runtime::drain::Drain;
use tokio::time::Instant;

use super::{
    KubernetesApi,
    exchange::Exchange,
    recovery::Keep,
    request_head::{self, RequestHead, on_behalf_of},
    streamed::Streamed,
    upgrade::{self, Farewell, Link, Offer, Pings, Recorder},
    upload::Upload,
    watch::{self, Position, Source, Watch},
};
use crate::{
    admission::Rights, body::Content, failure::Failure, query::Reencoding, route::Answer,
    scope::Scope, sessions::SessionKind,
};
use attempt::{Answered, is_bodyless};

/// A request that is carried to its agent.
pub(super) struct ProxyRequest {
    agent: AgentId,
    rights: Rights,
    method: Method,
    need: Need,
    opening: Opening,
    upgrade: bool,
    /// Where a watch begins that can be resumed.
    watch: Option<Position>,
    /// What an agent would change that encodes path and query anew.
    reencoding: Option<Reencoding>,
    /// What the agent was offered of an upgrade.
    offer: Option<Offer>,
    /// The same of a request that changes something.
    keep: Option<Keep>,
}

impl ProxyRequest {
    /// Asks for the right once more if it was given a while ago.
    async fn renew_rights(&mut self) -> Result<(), Failure> {
        if self.rights.are_old() {
            let access = self.rights.ask().await?;
            self.act_as(&access);
        }
        Ok(())
    }

    /// The next call is another request to the agent, whose answer is kept as well.
    fn offers_again(&mut self) {
        let Some(keep) = self.keep.as_ref().map(Keep::again) else {
            return;
        };
        if let Some(opening) = request_head::offering(&self.opening, keep.first()) {
            self.opening = opening;
            self.keep = Some(keep);
        }
    }

    /// The call is made as whom the caller is allowed now.
    fn act_as(&mut self, access: &Access) {
        let impersonation = access.impersonation.as_ref();
        self.need.impersonation = impersonation.is_some();
        if let Some(opening) = on_behalf_of(&self.opening, impersonation) {
            self.opening = opening;
        }
    }
}

impl ProxyRequest {
    /// Its answer has begun and goes on.
    fn opens(&self, kind: SessionKind, scope: &mut Scope) {
        let acts_as = request_head::acts_as(&self.opening);
        scope.opens(kind, self.rights.authority(), acts_as);
    }
}

impl KubernetesApi {
    /// Carries a request to the agent and brings the answer.
    pub(super) async fn forward(
        &self,
        mut request: Box<ProxyRequest>,
        upload: &mut Option<Upload>,
        on_upgrade: Option<OnUpgrade>,
        (scope, drain): (&mut Scope, &Drain),
    ) -> Result<Answer, Failure> {
        let called = self.call(&mut request, upload, (&mut *scope, drain));
        let answered = called.await?;
        Ok(match on_upgrade {
            Some(on_upgrade) if answered.status == StatusCode::SWITCHING_PROTOCOLS => {
                let mut exchange = answered.exchange;
                self.count(&mut exchange, &request);
                let kind = SessionKind::of_upgrade(self.path(scope));
                request.opens(kind, scope);
                let farewell = Farewell::of(&answered.headers, kind);
                let pings = Pings::of(&answered.headers);
                let recording = scope.take_recording();
                let recorder = recording.map(|it| Recorder::new(it, &answered.headers));
                let said = (farewell, pings, recorder);
                let span = scope.span().clone();
                let link = Link::new(
                    exchange,
                    |method| self.resume_source(&mut request, &method, scope, drain),
                    &span,
                );
                let upgraded = |scope| Box::pin(upgrade::run(link, on_upgrade, said, scope)) as _;
                Answer::Upgrade(answered.headers, Box::new(upgraded))
            }
            Some(_) | None => self.pass_on(answered, request, scope, drain),
        })
    }

    /// What is carried to the agent for a caller who may use it.
    pub(super) fn plan(
        &self,
        (agent, rights): (AgentId, Rights),
        mut head: RequestHead,
        scope: &mut Scope,
    ) -> Box<ProxyRequest> {
        let watch = watch::prepare(&mut head);
        scope.trace().propagate(&mut head.headers);
        let hold = self.settings.hold;
        let hold =
            request_head::timeout(head.target.query()).map_or(hold, |timeout| timeout.min(hold));
        let moves = watch.is_some();
        let reencoding = head.target.reencoding();
        let keep = self.keep(&head, &rights, scope);
        head.keep = keep.as_ref().map(Keep::first);
        // Whoever goes on is asked about again, which needs credentials.
        let resumes = head.upgrade && !self.settings.resume.is_zero();
        let place = (resumes && rights.credentials().is_some())
            .then(|| self.places.resumable(scope.caller()));
        let offer = place
            .flatten()
            .map(|place| Offer::new(self.settings.resume, place));
        head.resume = offer.as_ref().map(Offer::first);
        let method = match reencoding {
            None => &self.method,
            Some(_) => &self.exact_method,
        };
        scope.deadline = Instant::now() + hold;
        Box::new(ProxyRequest {
            agent,
            rights,
            method: head.method.clone(),
            need: Need {
                method: method.clone(),
                impersonation: head.impersonation.is_some(),
                upgrade: head.upgrade,
                caller: scope.caller(),
            },
            upgrade: head.upgrade,
            watch,
            opening: Opening {
                moves,
                ..head.opening(method, &self.via, scope.id())
            },
            reencoding,
            offer,
            keep,
        })
    }

    /// What is offered of a request that changes something, whose caller can be asked about again.
    fn keep(&self, head: &RequestHead, rights: &Rights, scope: &Scope) -> Option<Keep> {
        let timeout = self.settings.resume;
        let keeps = !head.method.is_safe()
            && !head.upgrade
            // Some ask for an upgrade where there can be none, as HTTP/1.0 does.
            && !head.headers.contains_key(http::header::UPGRADE)
            && !timeout.is_zero()
            && rights.credentials().is_some();
        keeps.then(|| Keep::new(self.callers.hash_one(&*scope.caller()), timeout))
    }

    fn pass_on(
        &self,
        answered: Answered,
        request: Box<ProxyRequest>,
        scope: &mut Scope,
        drain: &Drain,
    ) -> Answer {
        let Answered {
            status,
            headers,
            length,
            ahead,
            mut exchange,
        } = answered;
        let watch = request.watch.clone();
        let watch = watch.and_then(|position| Some((watch::Head::of(status, &headers)?, position)));
        let content = if let Some((head, position)) = watch {
            scope.cut = true;
            self.count(&mut exchange, &request);
            request.opens(SessionKind::Watch, scope);
            let (source, idle) = (self.source(*request, drain), self.settings.idle);
            let watch = Watch::new(head, position, source, (exchange, ahead), idle);
            Content::Stream(Box::new(watch))
        } else if is_bodyless(&request.method, status) || length == Some(0) {
            exchange.complete();
            Content::empty()
        } else if ahead.whole {
            exchange.complete();
            Content::Whole(ahead.chunks)
        } else {
            scope.cut = true;
            self.count(&mut exchange, &request);
            let path = self.path(scope);
            if let Some(kind) = SessionKind::of_stream(path, scope.uri(), scope.watch) {
                request.opens(kind, scope);
            }
            let idle = self.settings.idle;
            let recovery = self.recovery(&mut exchange, &request, scope, drain);
            Content::Stream(Box::new(Streamed::new(
                (exchange, ahead),
                length,
                idle,
                recovery,
            )))
        };
        Answer::new(status, headers, content)
    }

    /// A request's path as the cluster has it.
    fn path<'s>(&self, scope: &'s Scope) -> &'s str {
        let path = scope.uri().path();
        self.settings.prefix.strip(path).unwrap_or(path)
    }

    /// Counts an answer that is read at its client's pace.
    fn count(&self, exchange: &mut Exchange, request: &ProxyRequest) {
        let readers = self.router.registry().readers();
        exchange.count(readers, request.agent, &request.need.caller);
    }

    /// What a watch needs to be asked for again.
    fn source(&self, request: ProxyRequest, drain: &Drain) -> Source {
        Source {
            router: self.router.clone(),
            agent: request.agent,
            rights: request.rights,
            need: request.need,
            opening: request.opening,
            hold: self.settings.hold,
            heads: self.heads.clone(),
            drain: drain.clone(),
            metrics: self.metrics.clone(),
        }
    }
}

//! From an admitted request to an answer: a tunnel is found, the call made, and
//! made again where that is safe.

use std::{pin::pin, time::Duration};

use control_plane::Access;
use http::{HeaderMap, Method, StatusCode};
use hyper::upgrade::OnUpgrade;
use router::{AgentId, Call, Need, OpenError, Opening};
use runtime::{drain::Drain, patience::within};
use tokio::time::Instant;

use super::{
    KubernetesApi,
    exchange::{Ahead, Exchange, Interrupted, LOOK_AHEAD_BYTES},
    failure, replay,
    request_head::{self, RequestHead, is_on_behalf_of, on_behalf_of},
    streamed::Streamed,
    upgrade::{self, Farewell, Link, Offer, Pings, Recorder},
    upload::Upload,
    watch::{self, Position, Source, Watch},
};
use crate::{
    admission::Rights, body::Content, failure::Failure, headers, query::Reencoding, route::Answer,
    scope::Scope, sessions::SessionKind,
};

/// How long a request looks for a tunnel before it counts as queued.
const QUEUED_AFTER: Duration = Duration::from_millis(100);
/// How long the head of a short answer waits for its body, which mostly comes with it.
const SHORT_ANSWER_TIMEOUT: Duration = Duration::from_secs(5);

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

/// The outcome of looking for a tunnel.
enum Search {
    Done(Result<Call, OpenError>),
    /// While the call waited, its caller became this one.
    AllowedAs(Access),
}

/// The beginning of an answer.
struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    /// What the headers say of the body.
    length: Option<u64>,
    ahead: Ahead,
    /// Apart, for it is passed from hand to hand.
    exchange: Box<Exchange>,
}

impl KubernetesApi {
    /// Carries a request to the agent and brings the answer.
    pub(super) async fn forward(
        &self,
        mut request: Box<ProxyRequest>,
        upload: Option<Upload>,
        on_upgrade: Option<OnUpgrade>,
        scope: &mut Scope,
        drain: &Drain,
    ) -> Result<Answer, Failure> {
        let answered = self.call(&mut request, upload, scope, drain).await?;
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
        })
    }

    /// Makes the call until there is an answer, or another attempt is of no use.
    async fn call(
        &self,
        request: &mut ProxyRequest,
        mut upload: Option<Upload>,
        scope: &mut Scope,
        drain: &Drain,
    ) -> Result<Answered, Failure> {
        let bodyless = upload.is_none();
        loop {
            let call = self.open(request, upload.as_mut(), scope).await?;
            let mut exchange = Box::new(Exchange::new(call, upload.take(), drain.clone()));
            let mut begun = false;
            let answer = self.answer(&mut exchange, request, &mut begun).await;
            scope.received = exchange.uploaded();
            match answer {
                Ok((status, headers, length, ahead)) => {
                    return Ok(Answered {
                        status,
                        headers,
                        length,
                        ahead,
                        exchange,
                    });
                }
                Err(error)
                    if bodyless
                        && replay::is_allowed(
                            &error,
                            (request.opening.safe, begun),
                            scope.replays,
                        )
                        && Instant::now() < scope.deadline =>
                {
                    tokio::time::sleep(replay::pause(scope.replays)).await;
                    request.renew_rights().await?;
                    scope.replays += 1;
                    self.metrics.replayed();
                    tracing::debug!(%error, replays = scope.replays, "call lost its tunnel; repeating it on another");
                }
                Err(error) => return Err(failure::of_interruption(&error, request.opening.safe)),
            }
        }
    }

    async fn open(
        &self,
        request: &mut ProxyRequest,
        mut upload: Option<&mut Upload>,
        scope: &mut Scope,
    ) -> Result<Call, Failure> {
        let started = Instant::now();
        let searching = scope.trace().child("tunnel search");
        let opened = loop {
            match self
                .search(request, upload.as_deref_mut(), scope.deadline)
                .await?
            {
                Search::Done(opened) => break opened,
                Search::AllowedAs(access) => request.act_as(&access),
            }
        };
        drop(searching);
        let took = started.elapsed();
        scope.routing += took;
        match opened {
            Ok(call) => {
                self.metrics.routed(took);
                scope.passes(call.peer());
                Ok(call)
            }
            Err(error) => {
                self.metrics.not_routed(took);
                Err(match (&error, request.reencoding) {
                    (OpenError::NotOffered, Some(change)) => failure::of_reencoding(change),
                    _ => failure::of_open(&error),
                })
            }
        }
    }

    /// Looks for a tunnel, as long as the caller may have one.
    async fn search(
        &self,
        request: &ProxyRequest,
        upload: Option<&mut Upload>,
        deadline: Instant,
    ) -> Result<Search, Failure> {
        let open = (self.router).open(request.agent, &request.need, &request.opening, deadline);
        let mut open = pin!(open);
        if let Ok(opened) = within(QUEUED_AFTER, open.as_mut()).await {
            return Ok(Search::Done(opened));
        }
        let _place = self.places.hold(request.need.caller.clone())?;
        tokio::select! {
            biased;
            opened = open => Ok(Search::Done(opened)),
            error = fails_ahead(upload) => Err(failure::of_interruption(&error, true)),
            access = request.rights.lapse(|it| is_on_behalf_of(&request.opening, it)) => access.map(Search::AllowedAs),
        }
    }

    async fn answer(
        &self,
        exchange: &mut Exchange,
        request: &ProxyRequest,
        begun: &mut bool,
    ) -> Result<(StatusCode, HeaderMap, Option<u64>, Ahead), Interrupted> {
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
            && request.opening.safe
            && length <= LOOK_AHEAD_BYTES as u64
        {
            let rest = exchange.rest(&mut ahead, length);
            if let Ok(rest) = tokio::time::timeout(SHORT_ANSWER_TIMEOUT, rest).await {
                rest?;
            }
        }
        Ok((status, headers, length, ahead))
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
            Content::Stream(Box::new(Streamed::new(exchange, ahead, length, idle)))
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

    /// What it takes to resume an upgraded connection by the method that its agent names.
    fn resume_source(
        &self,
        request: &mut ProxyRequest,
        method: &str,
        scope: &Scope,
        drain: &Drain,
    ) -> Option<upgrade::Source> {
        let acts_as = request_head::acts_as(&request.opening);
        Some(upgrade::Source {
            router: self.router.clone(),
            agent: request.agent,
            need: Need {
                method: upgrade::Source::method(method)?,
                ..request.need.clone()
            },
            offer: request.offer.take()?,
            extra: request_head::acts_as_extra(&request.opening),
            meta: request.opening.meta.clone(),
            ground: scope.ground(request.rights.authority()?, acts_as)?,
            drain: drain.clone(),
            metrics: self.metrics.clone(),
        })
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

/// Ends when the client does not send its body.
async fn fails_ahead(upload: Option<&mut Upload>) -> Interrupted {
    match upload {
        Some(upload) => upload.fails_ahead().await.into(),
        None => std::future::pending().await,
    }
}

/// Whether an answer has no body whatever its headers say.
fn is_bodyless(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

//! From an allowed request to an answer: a tunnel is found, the call made, and
//! made again where that is safe.

use std::{pin::pin, sync::Arc, time::Duration};

use http::{HeaderMap, Method, Response, StatusCode};
use hyper::upgrade::OnUpgrade;
use router::{AgentId, Call, Need, OpenError, Opening};
use runtime::drain::Drain;
use tokio::time::Instant;

use super::{
    KubernetesApi, ProxyBody,
    audit::Record,
    exchange::{Ahead, Exchange, Head, Interrupted},
    failure, headers,
    request::{self, Outline},
    response_head::ResponseHeads,
    rights::{self, Rights},
    status::Failure,
    target::Oddity,
    upgrade,
    upload::Upload,
    watch::{self, Position, Source, Watch},
};
use crate::control_plane::Access;

/// How long a request looks for a tunnel before it takes one of the places of those that wait.
const HELD_AFTER: Duration = Duration::from_millis(100);
/// HTTP knows no status beyond.
const HIGHEST_STATUS: u16 = 599;
/// How often a call is made again.
const REPLAYS: u32 = 5;
/// The pause before the second replay; later ones are longer. What cuts one connection of an
/// agent cuts its others too, which may take a moment to show.
const PAUSE: Duration = Duration::from_millis(25);

/// A failure, and the record of the request that failed.
type Failed = (Failure, Box<Record>);

/// A request on its way.
struct Journey {
    agent: AgentId,
    rights: Rights,
    method: Method,
    need: Need,
    opening: Opening,
    deadline: Instant,
    upgrade: bool,
    /// Where a watch begins that can be resumed.
    watch: Option<Position>,
    /// What an agent would change that encodes path and query anew.
    oddity: Option<Oddity>,
}

impl Journey {
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
        if let Some(opening) = rights::on_behalf_of(&self.opening, impersonation) {
            self.opening = opening;
        }
    }
}

/// What became of looking for a tunnel.
enum Looked {
    Over(Result<Call, OpenError>),
    /// While the call waited, its caller became this one.
    As(Access),
}

/// The beginning of an answer.
struct Answered {
    status: StatusCode,
    headers: HeaderMap,
    ahead: Ahead,
    exchange: Exchange,
}

impl KubernetesApi {
    /// Carries a request to the agent and brings the answer.
    pub(super) async fn route(
        &self,
        whose: (AgentId, Rights),
        outline: Outline,
        upload: Option<Upload>,
        on_upgrade: Option<OnUpgrade>,
        mut record: Box<Record>,
        drain: &Drain,
    ) -> Result<Response<ProxyBody>, Failed> {
        let mut journey = self.plan(whose, outline, record.caller());
        let answered = match self.travel(&mut journey, upload, &mut record, drain).await {
            Ok(answered) => answered,
            Err(failure) => return Err((failure, record)),
        };
        record.status = answered.status.as_u16();
        Ok(match on_upgrade {
            Some(on_upgrade) if answered.status == StatusCode::SWITCHING_PROTOCOLS => {
                let mut exchange = answered.exchange;
                self.count(&mut exchange, &journey);
                drain.spawn(upgrade::run(exchange, on_upgrade, record));
                response(answered.status, answered.headers, ProxyBody::empty())
            }
            Some(_) | None => self.pass_on(answered, journey, record, drain),
        })
    }

    fn plan(
        &self,
        (agent, rights): (AgentId, Rights),
        mut outline: Outline,
        caller: Arc<str>,
    ) -> Journey {
        let watch = watch::prepare(&mut outline);
        let hold = self.settings.hold;
        let hold =
            request::timeout(outline.target.query()).map_or(hold, |timeout| timeout.min(hold));
        let moves = watch.is_some();
        let oddity = outline.target.oddity();
        let method = match oddity {
            None => &self.method,
            Some(_) => &self.exact_method,
        };
        Journey {
            agent,
            rights,
            method: outline.method.clone(),
            need: Need {
                method: method.clone(),
                impersonation: outline.impersonation.is_some(),
                upgrade: outline.upgrade,
                caller,
            },
            deadline: Instant::now() + hold,
            upgrade: outline.upgrade,
            watch,
            opening: Opening {
                moves,
                ..outline.opening(method, &self.via)
            },
            oddity,
        }
    }

    /// Makes the call until there is an answer or no sense in another try.
    async fn travel(
        &self,
        journey: &mut Journey,
        mut upload: Option<Upload>,
        record: &mut Record,
        drain: &Drain,
    ) -> Result<Answered, Failure> {
        let bodyless = upload.is_none();
        loop {
            let call = self.open(journey, upload.as_mut(), record).await?;
            let mut exchange = Exchange::new(call, upload.take(), drain.clone());
            let answer = self.answer(&mut exchange, journey).await;
            record.received = exchange.uploaded();
            match answer {
                Ok((status, headers, ahead)) => {
                    return Ok(Answered {
                        status,
                        headers,
                        ahead,
                        exchange,
                    });
                }
                Err(error)
                    if bodyless
                        && (journey.opening.safe || error.is_before_the_agent())
                        && error.is_about_the_path()
                        && record.replays < REPLAYS
                        && Instant::now() < journey.deadline =>
                {
                    tokio::time::sleep(pause(record.replays)).await;
                    journey.renew_rights().await?;
                    record.replays += 1;
                    self.metrics.replayed();
                    tracing::debug!(%error, agent = %journey.agent, "making a call again");
                }
                Err(error) => return Err(failure::of_interruption(&error, journey.opening.safe)),
            }
        }
    }

    async fn open(
        &self,
        journey: &mut Journey,
        mut upload: Option<&mut Upload>,
        record: &mut Record,
    ) -> Result<Call, Failure> {
        let started = Instant::now();
        let opened = loop {
            match self.look(journey, upload.as_deref_mut()).await? {
                Looked::Over(opened) => break opened,
                Looked::As(access) => journey.act_as(&access),
            }
        };
        let took = started.elapsed();
        record.routing += took;
        match opened {
            Ok(call) => {
                self.metrics.routed(took);
                Ok(call)
            }
            Err(error) => {
                self.metrics.not_routed(took);
                Err(match (&error, journey.oddity) {
                    (OpenError::NotOffered, Some(oddity)) => failure::of_oddity(oddity),
                    _ => failure::of_open(&error),
                })
            }
        }
    }

    /// Looks for a tunnel, as long as the caller may have one.
    async fn look(
        &self,
        journey: &Journey,
        upload: Option<&mut Upload>,
    ) -> Result<Looked, Failure> {
        let open = (self.router).open(
            journey.agent,
            &journey.need,
            &journey.opening,
            journey.deadline,
        );
        let mut open = pin!(open);
        tokio::select! {
            biased;
            opened = open.as_mut() => return Ok(Looked::Over(opened)),
            () = tokio::time::sleep(HELD_AFTER) => {}
        }
        let _place = self.places.hold(journey.need.caller.clone())?;
        tokio::select! {
            biased;
            opened = open => Ok(Looked::Over(opened)),
            error = fails_ahead(upload) => Err(failure::of_interruption(&error, true)),
            access = journey.rights.lapse(&journey.opening) => access.map(Looked::As),
        }
    }

    async fn answer(
        &self,
        exchange: &mut Exchange,
        journey: &Journey,
    ) -> Result<(StatusCode, HeaderMap, Ahead), Interrupted> {
        let limit = self.settings.response_header;
        let head = tokio::time::timeout(limit, exchange.head())
            .await
            .map_err(|_| Interrupted::Silence(limit))??;
        let (status, headers) = understand(head, &self.heads)?;
        if status == StatusCode::SWITCHING_PROTOCOLS && journey.upgrade && !exchange.is_uploading()
        {
            return Ok((status, headers, Ahead::default()));
        }
        if status.is_informational() {
            return Err(Interrupted::Malformed(format!(
                "a final answer with status {status}"
            )));
        }
        if journey.upgrade {
            exchange.close_send()?;
        }
        let ahead = exchange.look_ahead()?;
        if ahead.whole && !is_bodyless(&journey.method, status) {
            ahead.expect_length(headers::content_length(&headers))?;
        }
        Ok((status, headers, ahead))
    }

    fn pass_on(
        &self,
        answered: Answered,
        journey: Journey,
        mut record: Box<Record>,
        drain: &Drain,
    ) -> Response<ProxyBody> {
        let Answered {
            status,
            headers,
            ahead,
            mut exchange,
        } = answered;
        let length = headers::content_length(&headers);
        let watch = watch::Head::of(status, &headers).zip(journey.watch.clone());
        let body = if let Some((head, position)) = watch {
            self.count(&mut exchange, &journey);
            let (source, idle) = (self.source(journey, drain), self.settings.idle);
            Watch::new(head, position, source, (exchange, ahead), idle, record).into()
        } else if is_bodyless(&journey.method, status) || length == Some(0) {
            exchange.complete();
            ProxyBody::empty()
        } else if ahead.whole {
            exchange.complete();
            record.sent = ahead.length();
            ProxyBody::whole(ahead.chunks)
        } else {
            record.cut = true;
            self.count(&mut exchange, &journey);
            ProxyBody::streamed(exchange, ahead, length, self.settings.idle, record)
        };
        response(status, headers, body)
    }

    /// Counts an answer that is read at its client's pace.
    fn count(&self, exchange: &mut Exchange, journey: &Journey) {
        let readers = self.router.registry().readers();
        exchange.count(readers, journey.agent, &journey.need.caller);
    }

    /// What a watch needs to be asked for again.
    fn source(&self, journey: Journey, drain: &Drain) -> Source {
        Source {
            router: self.router.clone(),
            agent: journey.agent,
            rights: journey.rights,
            need: journey.need,
            opening: journey.opening,
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

/// The status and headers of an answer as the client gets them.
pub(super) fn understand(
    head: Head,
    heads: &ResponseHeads,
) -> Result<(StatusCode, HeaderMap), Interrupted> {
    let status = u16::try_from(head.status_code)
        .ok()
        .filter(|code| *code <= HIGHEST_STATUS)
        .and_then(|code| StatusCode::from_u16(code).ok())
        .ok_or_else(|| Interrupted::Malformed(format!("status code {}", head.status_code)))?;
    Ok((status, heads.of(status, head.header)))
}

fn response(status: StatusCode, headers: HeaderMap, body: ProxyBody) -> Response<ProxyBody> {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

/// Whether an answer has no body whatever its headers say.
fn is_bodyless(method: &Method, status: StatusCode) -> bool {
    *method == Method::HEAD
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
}

/// How long to wait before a call is made again that was made again so often: first not at all.
fn pause(replays: u32) -> Duration {
    PAUSE * ((1 << replays.min(REPLAYS)) - 1)
}

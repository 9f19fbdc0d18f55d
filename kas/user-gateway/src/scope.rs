//! What a request owns until it is over: its id and span, its audit record, its deadline, and its part of the metrics.

mod audit;
mod errors;

use std::{
    borrow::Cow,
    net::SocketAddr,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use ::audit::Audit;
use control_plane::{Access, Identity};
use http::{HeaderValue, Method, Uri, header, request::Parts};
use proto::agent::kubernetes_api::rpc::ImpersonationConfig;
use router::AgentId;
use runtime::{
    telemetry::{Repeats, Untrusted},
    traces::{self, TraceParent, TraceSpan},
};
use tokio::time::Instant;
use tracing::Span;

use audit::Audited;
pub(crate) use audit::not_recorded;

use crate::{
    failure::Failure,
    in_progress::{Entry, Place},
    load::Ended,
    metrics::{FailureStatus, InFlight, Metrics, Verb},
    places::InProgress,
    request_id::RequestId,
    sessions::{Authority, Ground, NewSession, Session, SessionKind},
};

/// A wait for a tunnel that somebody notices.
const LONG_WAIT: Duration = Duration::from_secs(1);

/// A request in progress. Dropping it ends it: one line in the log (target `audit`), and its numbers in the metrics.
#[derive(Debug)]
pub(crate) struct Scope {
    id: RequestId,
    span: Span,
    trace_parent: TraceParent,
    trace: TraceSpan,
    started: Instant,
    method: Method,
    uri: Uri,
    remote_addr: SocketAddr,
    user_agent: Option<HeaderValue>,
    who: Option<Identity>,
    agent: Option<AgentId>,
    agent_name: String,
    metrics: Metrics,
    _in_flight: InFlight,
    place: Option<InProgress>,
    /// Where it is listed, once it was let in.
    listed: Option<Place>,
    audited: Audited,
    /// What it has become, if it lasts.
    session: Option<Box<Session>>,
    caller: Arc<str>,
    /// Until when it may wait for a tunnel.
    pub(crate) deadline: Instant,
    /// Whether it is a part of a session, and none itself.
    pub(crate) is_part: bool,
    /// Whether it is a Kubernetes watch.
    pub(crate) watch: bool,
    /// The status of the answer, 0 before there is one.
    pub(crate) status: u16,
    /// Whether the answer ended before it was whole.
    pub(crate) cut: bool,
    /// Bytes of the request's body.
    pub(crate) received: u64,
    /// Bytes of the answer's body.
    pub(crate) sent: u64,
    /// How long it waited for tunnels that it looks for no more.
    pub(crate) routing: Duration,
    /// Since when it looks for a tunnel.
    pub(crate) searching: Option<Instant>,
    /// How often the call was made again.
    pub(crate) replays: u32,
    /// How often a watch was resumed.
    pub(crate) resumes: u32,
    /// Why it was refused or failed.
    pub(crate) reason: String,
    /// Whether its agent is at fault that it has no answer.
    failed_at_agent: bool,
    /// Whether it is known whose it is, who were not let in.
    refused: bool,
    /// Whether it was cut because its client left, or because somebody ended the session.
    pub(crate) wanted: bool,
}

impl Scope {
    /// The scope of a request that begins now.
    pub(crate) fn begin(
        head: &Parts,
        remote_addr: SocketAddr,
        metrics: &Metrics,
        audit: &Audit,
    ) -> Box<Self> {
        let id = RequestId::of(&head.headers);
        let span =
            tracing::debug_span!("request", request_id = %id, agent.id = tracing::field::Empty);
        let started = Instant::now();
        Box::new(Self {
            id,
            span,
            trace_parent: TraceParent::of_headers(&head.headers),
            trace: TraceSpan::default(),
            started,
            method: head.method.clone(),
            uri: head.uri.clone(),
            remote_addr,
            user_agent: head.headers.get(header::USER_AGENT).cloned(),
            who: None,
            agent: None,
            agent_name: String::new(),
            metrics: metrics.clone(),
            _in_flight: metrics.begin(),
            place: None,
            listed: None,
            audited: Audited::of(audit),
            session: None,
            caller: Arc::default(),
            deadline: started,
            is_part: false,
            watch: false,
            status: 0,
            cut: false,
            received: 0,
            sent: 0,
            routing: Duration::ZERO,
            searching: None,
            replays: 0,
            resumes: 0,
            reason: String::new(),
            failed_at_agent: false,
            refused: false,
            wanted: false,
        })
    }

    /// Its id.
    pub(crate) fn id(&self) -> &RequestId {
        &self.id
    }

    /// The span of its log lines.
    pub(crate) fn span(&self) -> &Span {
        &self.span
    }

    /// The span of its trace, once it is known whose it is: strangers have none.
    pub(crate) fn trace(&self) -> &TraceSpan {
        &self.trace
    }

    /// It keeps this place until it is over.
    pub(crate) fn admitted(&mut self, place: InProgress) {
        self.place = Some(place);
        if self.listed.is_none()
            && let Some(agent) = self.agent
        {
            let listed = self.metrics.in_progress().insert(Entry {
                id: self.id.clone(),
                caller: self.caller.clone(),
                agent,
                method: self.method.clone(),
                uri: self.uri.clone(),
                started: self.started,
                remote_addr: self.remote_addr,
            });
            self.listed = Some(listed);
        }
    }

    /// It asks for this agent.
    pub(crate) fn asks_for(&mut self, agent: AgentId) {
        self.span.record("agent.id", agent.0);
        self.agent = Some(agent);
    }

    /// It was allowed.
    pub(crate) fn allowed(&mut self, access: &Access) {
        self.agent_name.clone_from(&access.agent.name);
        self.identified(access.identity.clone());
    }

    /// It is known whose it is.
    pub(crate) fn identified(&mut self, who: Identity) {
        if traces::are_on() && !self.trace.is_sampled() {
            let age = self.started.elapsed();
            self.trace = TraceSpan::enter("user request", &self.trace_parent, age);
        }
        self.is_of(who);
    }

    /// It is known whose it is, who may not make it: no more is done for it than for a stranger's.
    pub(crate) fn refused_as(&mut self, who: Identity) {
        self.is_of(who);
        self.refused = true;
    }

    fn is_of(&mut self, who: Identity) {
        self.caller = who.named().into();
        self.who = Some(who);
    }

    /// It is cut because its client left, for this reason.
    pub(crate) fn left(&mut self, reason: impl Into<String>) {
        self.reason = reason.into();
        self.wanted = true;
    }

    /// On what ground it goes on, once it is known whose it is.
    pub(crate) fn ground(
        &self,
        authority: Box<dyn Authority>,
        acts_as: Option<ImpersonationConfig>,
    ) -> Option<Ground> {
        let identity = self.who.clone()?;
        Some(Ground {
            authority,
            identity,
            acts_as,
        })
    }

    /// Its answer has begun and goes on: it is a session from now on, whose caller is asked about again by `authority`,
    /// if that can be.
    pub(crate) fn opens(
        &mut self,
        kind: SessionKind,
        authority: Option<Box<dyn Authority>>,
        acts_as: Option<ImpersonationConfig>,
    ) {
        let (Some(agent), Some(identity), false) = (self.agent, &self.who, self.is_part) else {
            return;
        };
        let ground = authority.map(|authority| Ground {
            authority,
            identity: identity.clone(),
            acts_as,
        });
        let session = self.metrics.sessions().open(NewSession {
            id: self.audited.session_id(),
            kind,
            caller: self.caller.clone(),
            agent,
            path: self.uri.path().to_owned(),
            remote_addr: self.remote_addr.to_string(),
            request_id: self.id.to_string(),
            ground,
        });
        self.session = Some(Box::new(session));
    }

    /// Ready with what its client is told when it is a session that was ended.
    pub(crate) fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        match &mut self.session {
            Some(session) => session.poll_ended(cx),
            None => Poll::Pending,
        }
    }

    /// Waits until it is a session that was ended.
    pub(crate) fn ended(&self) -> impl Future<Output = Failure> + Send + use<> {
        let ended = self.session.as_ref().map(|session| session.ended());
        async move {
            match ended {
                Some(ended) => ended.await,
                None => std::future::pending().await,
            }
        }
    }

    /// There is no answer to it but this one.
    pub(crate) fn failed(&mut self, failure: &Failure) {
        self.status = failure.code.as_u16();
        self.reason.clone_from(&failure.message);
        self.failed_at_agent = failure.of_agent;
    }

    /// It is an upgraded connection that broke, of which its client heard so much.
    pub(crate) fn broke(&self, status: FailureStatus) {
        self.metrics.broke(status);
        tracing::info!(
            parent: &self.span,
            failure_status_sent = status == FailureStatus::Sent,
            error = self.reason,
            "an upgraded connection broke on the way to the cluster"
        );
    }

    /// What was asked for: path and query.
    pub(crate) fn uri(&self) -> &Uri {
        &self.uri
    }

    /// Who asks, as in `user:alice`; empty while that is not known.
    pub(crate) fn caller(&self) -> Arc<str> {
        self.caller.clone()
    }
}

impl Scope {
    /// What it counts for: `status` is 0 without a whole answer.
    fn counted(&self, took: Duration, status: u16) -> Ended {
        Ended {
            took,
            failed: status == 0 || status >= 500,
            unavailable: self.failed_at_agent,
            waited: self.waited() >= LONG_WAIT,
        }
    }

    /// How long it waited for tunnels. A client may have gone while it did.
    fn waited(&self) -> Duration {
        self.routing
            + self
                .searching
                .map_or(Duration::ZERO, |since| since.elapsed())
    }

    fn verb_text(&self) -> &str {
        if self.watch {
            "WATCH"
        } else {
            self.method.as_str()
        }
    }

    fn verb(&self) -> Verb {
        match self.status {
            101 => Verb::Upgrade,
            _ if self.watch => Verb::Watch,
            _ if self.method.is_safe() => Verb::Read,
            _ => Verb::Write,
        }
    }

    fn end_trace(&mut self) {
        let trace = &mut self.trace;
        if !trace.is_sampled() {
            return;
        }
        trace.set("http.request.method", self.method.to_string());
        trace.set("url.path", self.uri.path().to_owned());
        trace.set("http.response.status_code", i64::from(self.status));
        trace.set("request_id", self.id.to_string());
        trace.set("enduser.id", self.caller.to_string());
        if let Some(agent) = self.agent {
            trace.set("agent.id", agent.0);
        }
        for (key, count) in [("replays", self.replays), ("resumes", self.resumes)] {
            if count > 0 {
                trace.set(key, i64::from(count));
            }
        }
        if self.status >= 500 || self.status == 0 {
            trace.fail(&self.reason);
        } else if self.cut {
            trace.fail("the answer ended before it was whole");
        }
    }
}

impl Drop for Scope {
    fn drop(&mut self) {
        let (took, verb) = (self.started.elapsed(), self.verb());
        let whole = if self.cut { 0 } else { self.status };
        if let Some(listed) = self.listed {
            // How long the others last is for their clients to say.
            let counts = matches!(verb, Verb::Read | Verb::Write);
            let in_progress = self.metrics.in_progress();
            in_progress.remove(listed, counts.then(|| self.counted(took, whole)));
        }
        self.metrics.over(whole, self.received, self.sent);
        self.metrics.took(verb, whole, took, self.trace.trace_id());
        self.end_trace();
        self.note_error();
        // Lines of those who are not let in are limited, and their texts cut; those of others are complete.
        static UNAUTHENTICATED: Repeats = Repeats::new("request without valid credentials");
        static REFUSED: Repeats = Repeats::new("request of a caller whom nothing allows the agent");
        let repeats = if self.refused {
            &REFUSED
        } else {
            &UNAUTHENTICATED
        };
        let known = self.who.is_some() && !self.refused;
        if !known && !repeats.admit() {
            return;
        }
        self.record_end();
        let text = |text| -> Cow<'_, str> {
            if known {
                Cow::Borrowed(text)
            } else {
                Untrusted(text).to_string().into()
            }
        };
        let user_agent = self.user_agent.as_ref();
        let user_agent = user_agent.and_then(|value| value.to_str().ok());
        let verb = self.verb_text();
        // It has all fields of the request's span itself.
        tracing::info!(
            target: "audit",
            parent: None,
            request_id = %self.id,
            who = self.who.as_ref().map(tracing::field::display),
            agent.id = self.agent.map(|agent| agent.0),
            agent.name = self.agent_name,
            verb = &*text(verb),
            path = &*text(self.uri.path()),
            status = self.status,
            cut = self.cut || self.status == 0,
            received = self.received,
            sent = self.sent,
            duration_ms = millis(self.started.elapsed()),
            routing_ms = millis(self.waited()),
            replays = self.replays,
            resumes = self.resumes,
            remote_addr = %self.remote_addr,
            user_agent = user_agent.map(text).as_deref(),
            reason = &*text(&self.reason),
            "request"
        );
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

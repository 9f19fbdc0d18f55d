//! One line for every request, when it is over.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use cluster_state::AgentId;
use http::{HeaderValue, Method, Uri, header, request};
use runtime::telemetry::{Repeats, Untrusted};
use tokio::time::Instant;

use super::{
    metrics::{InFlight, Metrics},
    places::InProgress,
};
use crate::control_plane::{Access, Identity};

/// What is remembered of a request until it is over. Dropping it says so: in
/// the log (target `audit`) and in the metrics.
#[derive(Debug)]
pub(super) struct Record {
    started: Instant,
    method: Method,
    uri: Uri,
    peer: SocketAddr,
    user_agent: Option<HeaderValue>,
    who: Option<Identity>,
    agent: Option<AgentId>,
    agent_name: String,
    metrics: Metrics,
    _in_flight: InFlight,
    place: Option<InProgress>,
    caller: Arc<str>,
    /// Whether it is a Kubernetes watch.
    pub(super) watch: bool,
    /// The status of the answer, 0 before there is one.
    pub(super) status: u16,
    /// Whether the answer ended before it was whole.
    pub(super) cut: bool,
    /// Bytes of the request's body.
    pub(super) received: u64,
    /// Bytes of the answer's body.
    pub(super) sent: u64,
    /// How long it waited for tunnels.
    pub(super) routing: Duration,
    /// How often the call was made again.
    pub(super) replays: u32,
    /// How often a watch was resumed.
    pub(super) resumes: u32,
    /// Why it was refused or failed.
    pub(super) reason: String,
}

impl Record {
    /// A request that begins now.
    pub(super) fn begin(head: &request::Parts, peer: SocketAddr, metrics: &Metrics) -> Box<Self> {
        Box::new(Self {
            started: Instant::now(),
            method: head.method.clone(),
            uri: head.uri.clone(),
            peer,
            user_agent: head.headers.get(header::USER_AGENT).cloned(),
            who: None,
            agent: None,
            agent_name: String::new(),
            metrics: metrics.clone(),
            _in_flight: metrics.begin(),
            place: None,
            caller: Arc::default(),
            watch: false,
            status: 0,
            cut: false,
            received: 0,
            sent: 0,
            routing: Duration::ZERO,
            replays: 0,
            resumes: 0,
            reason: String::new(),
        })
    }

    /// It has this place until it is over.
    pub(super) fn admitted(&mut self, place: InProgress) {
        self.place = Some(place);
    }

    /// It asks for this agent.
    pub(super) fn asks_for(&mut self, agent: AgentId) {
        self.agent = Some(agent);
    }

    /// It was allowed.
    pub(super) fn allowed(&mut self, access: &Access) {
        self.who = Some(access.identity.clone());
        self.caller = access.identity.to_string().into();
        self.agent_name.clone_from(&access.agent.name);
    }

    /// Who asks, as in `user:alice`; empty while that is not known.
    pub(super) fn caller(&self) -> Arc<str> {
        self.caller.clone()
    }
}

impl Drop for Record {
    fn drop(&mut self) {
        let whole = if self.cut { 0 } else { self.status };
        self.metrics.over(whole, self.received, self.sent);
        // A stranger's requests are summed up, and their texts cut; a user's are all there.
        static STRANGERS: Repeats = Repeats::new("a request without good credentials");
        let known = self.who.is_some();
        if !known && !STRANGERS.admit() {
            return;
        }
        let text = |text| -> std::borrow::Cow<'_, str> {
            if known {
                std::borrow::Cow::Borrowed(text)
            } else {
                Untrusted(text).to_string().into()
            }
        };
        let agent = self
            .user_agent
            .as_ref()
            .and_then(|value| value.to_str().ok());
        let verb = if self.watch {
            "WATCH"
        } else {
            self.method.as_str()
        };
        tracing::info!(
            target: "audit",
            who = self.who.as_ref().map(tracing::field::display),
            agent_id = self.agent.map(|agent| agent.0),
            agent = self.agent_name,
            verb = &*text(verb),
            path = &*text(self.uri.path()),
            status = self.status,
            cut = self.cut || self.status == 0,
            received = self.received,
            sent = self.sent,
            duration_ms = millis(self.started.elapsed()),
            routing_ms = millis(self.routing),
            replays = self.replays,
            resumes = self.resumes,
            remote = %self.peer,
            user_agent = agent.map(text).as_deref(),
            reason = &*text(&self.reason),
            "request"
        );
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

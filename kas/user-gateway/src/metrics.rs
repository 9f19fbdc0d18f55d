//! Metrics of the users' port.

mod labels;

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{
        counter::Counter,
        exemplar::HistogramWithExemplars,
        family::Family,
        gauge::Gauge,
        histogram::{Histogram, exponential_buckets},
    },
    registry::Registry,
};
use router::AgentId;

use crate::{
    agent_series::AgentSeries,
    caller_series::{CallerCollector, CallerSeries},
    in_progress::{InProgressList, RequestInProgress},
    load::{AgentTraffic, History, MinuteLoad, RecentLoad, Tallies},
    recent_errors::{RecentError, RecentErrors},
    sessions::Sessions,
};
use labels::{CLASSES, LIMITS, OUTCOMES, VERBS, outcome};
pub(crate) use labels::{FailureStatus, Over, Verb};

/// How many callers have metrics of their own, at most, where nothing else is said.
pub(crate) const DEFAULT_CALLER_SERIES: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Code {
    code: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Limit {
    limit: Over,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Told {
    failure_status: FailureStatus,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Outcome {
    status: &'static str,
}

/// The trace that an exemplar leads to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Trace {
    trace_id: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Kind {
    verb: &'static str,
    outcome: &'static str,
}

/// Metrics of the users' port. Clones share them.
#[derive(Debug, Clone)]
pub struct Metrics(Arc<Inner>);

type Durations = HistogramWithExemplars<Trace>;

#[derive(Debug)]
struct Inner {
    requests: Family<Code, Counter>,
    by_class: [Counter; 6],
    in_flight: Gauge,
    held: Gauge,
    over_limit: Family<Limit, Counter>,
    durations: Family<Kind, Durations, fn() -> Durations>,
    by_kind: [[Durations; 4]; 4],
    routing: Family<Outcome, Histogram, fn() -> Histogram>,
    routed: Histogram,
    aborted: Histogram,
    routing_timeout: Counter,
    received: Counter,
    sent: Counter,
    replays: Counter,
    resumes: Counter,
    blocked_headers: Counter,
    broken: Family<Told, Counter>,
    upgrades_resumed: Counter,
    answers_recovered: Counter,
    in_progress: InProgressList,
    callers: CallerSeries,
    load: Mutex<AgentLoads>,
    sessions: Sessions,
    errors: RecentErrors,
}

/// What agents had.
#[derive(Debug, Default)]
struct AgentLoads {
    history: History,
    /// In the minute that is not over, as far as somebody asked.
    minute: Tallies,
    series: AgentSeries,
}

impl AgentLoads {
    /// Reads what was counted since it was read last.
    fn collect(&mut self, list: &InProgressList) {
        let counted = list.take_tallies();
        self.series.add(&counted);
        self.minute.merge(counted);
    }
}

impl AsRef<CallerSeries> for Metrics {
    fn as_ref(&self) -> &CallerSeries {
        &self.0.callers
    }
}

impl AsRef<InProgressList> for Metrics {
    fn as_ref(&self) -> &InProgressList {
        &self.0.in_progress
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(DEFAULT_CALLER_SERIES)
    }
}

impl Metrics {
    /// New ones, in which `max_caller_series` callers have metrics of their own, at most.
    #[must_use]
    pub fn new(max_caller_series: usize) -> Self {
        let requests = Family::<Code, Counter>::default();
        let by_class = CLASSES.map(|code| requests.get_or_create_owned(&Code { code }));
        let new: fn() -> Histogram = || Histogram::new(exponential_buckets(0.001, 2.0, 17));
        let routing = Family::new_with_constructor(new);
        // From 5 ms to 82 s.
        let new: fn() -> Durations = || Durations::new(exponential_buckets(0.005, 2.0, 15));
        let durations = Family::new_with_constructor(new);
        let by_kind = VERBS.map(|verb| {
            OUTCOMES.map(|outcome| durations.get_or_create_owned(&Kind { verb, outcome }))
        });
        let outcome = |status| routing.get_or_create_owned(&Outcome { status });
        // A series that begins with its first event hides it from rates.
        let over_limit = Family::<Limit, Counter>::default();
        for limit in LIMITS {
            let _ = over_limit.get_or_create_owned(&Limit { limit });
        }
        let in_progress = InProgressList::default();
        let callers = CallerSeries::new(max_caller_series, &in_progress);
        let broken = Family::<Told, Counter>::default();
        for failure_status in [FailureStatus::Sent, FailureStatus::NotSent] {
            let _ = broken.get_or_create_owned(&Told { failure_status });
        }
        Self(Arc::new(Inner {
            by_class,
            requests,
            durations,
            by_kind,
            in_flight: Gauge::default(),
            held: Gauge::default(),
            over_limit,
            routed: outcome("success"),
            aborted: outcome("aborted"),
            routing,
            routing_timeout: Counter::default(),
            received: Counter::default(),
            sent: Counter::default(),
            replays: Counter::default(),
            resumes: Counter::default(),
            blocked_headers: Counter::default(),
            broken,
            upgrades_resumed: Counter::default(),
            answers_recovered: Counter::default(),
            in_progress,
            callers,
            load: Mutex::default(),
            sessions: Sessions::default(),
            errors: RecentErrors::default(),
        }))
    }
}

/// Counts a request in as long as it lives.
#[derive(Debug)]
pub(crate) struct InFlight(Metrics);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.0.in_flight.dec();
    }
}

impl Metrics {
    /// Registers them under the names of GitLab's kas where it has them.
    pub fn register(&self, registry: &mut Registry) {
        let inner = &self.0;
        registry.register(
            "k8s_api_proxy_requests",
            "Requests by status class; aborted requests got no response or one that was cut short",
            inner.requests.clone(),
        );
        registry.register(
            "k8s_api_proxy_requests_in_flight",
            "Requests in progress, including upgraded connections",
            inner.in_flight.clone(),
        );
        registry.register(
            "k8s_api_proxy_requests_held",
            "Requests in progress that are queued for a tunnel of their agent",
            inner.held.clone(),
        );
        registry.register(
            "k8s_api_proxy_requests_over_limit",
            "Requests refused with 429, by the limit that was reached: of a caller, of an address, or in total",
            inner.over_limit.clone(),
        );
        registry.register(
            "k8s_api_proxy_routing_duration_seconds",
            "Time from a request to a tunnel of its agent, or to the failure to get one",
            inner.routing.clone(),
        );
        registry.register(
            "k8s_api_proxy_request_duration_seconds",
            "Time from a request's head to the end of its answer, by the kind of request and its outcome: refused is 4xx, failed 5xx, aborted no whole answer",
            inner.durations.clone(),
        );
        registry.register(
            "k8s_api_proxy_routing_timeout",
            "Requests that got no tunnel of their agent",
            inner.routing_timeout.clone(),
        );
        registry.register(
            "k8s_api_proxy_received_bytes",
            "Bytes of request bodies received from clients",
            inner.received.clone(),
        );
        registry.register(
            "k8s_api_proxy_sent_bytes",
            "Bytes of response bodies sent to clients",
            inner.sent.clone(),
        );
        registry.register(
            "k8s_api_proxy_replays",
            "Calls repeated on another tunnel because the first one broke",
            inner.replays.clone(),
        );
        registry.register(
            "k8s_api_proxy_watch_resumes",
            "Kubernetes watches resumed on another tunnel because the first one broke",
            inner.resumes.clone(),
        );
        registry.register(
            "k8s_api_proxy_blocked_response_headers",
            "Headers of clusters' answers that were removed because they are not among those allowed",
            inner.blocked_headers.clone(),
        );
        registry.register(
            "k8s_api_proxy_upgraded_connections_broken",
            "Upgraded connections that broke on the way to the cluster, or whose cluster did not say how the command ended: failure_status is Sent where the client got a Status with the reason, NotSent where it was cut",
            inner.broken.clone(),
        );
        registry.register(
            "k8s_api_proxy_upgraded_connections_resumed",
            "Upgraded connections (exec, attach, port-forward) resumed on another tunnel because theirs broke",
            inner.upgrades_resumed.clone(),
        );
        registry.register(
            "k8s_api_proxy_answers_recovered",
            "Answers to requests that change something, which the agent was asked for through another tunnel because theirs broke",
            inner.answers_recovered.clone(),
        );
        inner.sessions.register(registry);
        registry.register_collector(Box::new(CallerCollector(self.clone())));
    }

    /// Counts a request in.
    pub(crate) fn begin(&self) -> InFlight {
        self.0.in_flight.inc();
        InFlight(self.clone())
    }

    /// Counts one more request that waits for a tunnel, or one less.
    pub(crate) fn held(&self, change: i64) {
        self.0.held.inc_by(change);
    }

    /// Counts a request that is refused because of a limit.
    pub(crate) fn refused(&self, limit: Over) {
        self.0.over_limit.get_or_create(&Limit { limit }).inc();
    }

    /// Requests in progress.
    #[must_use]
    pub fn in_flight(&self) -> i64 {
        self.0.in_flight.get()
    }

    /// The requests that were let in and are not over.
    pub(crate) fn in_progress(&self) -> &InProgressList {
        &self.0.in_progress
    }

    /// What callers have open.
    #[must_use]
    pub fn sessions(&self) -> &Sessions {
        &self.0.sessions
    }

    /// The oldest requests that were let in and are not over, `limit` at most, of one agent or of all; and how many
    /// there are of these.
    #[must_use]
    pub fn oldest_requests(
        &self,
        agent: Option<AgentId>,
        limit: usize,
    ) -> (Vec<RequestInProgress>, usize) {
        self.0.in_progress.oldest(agent, limit)
    }

    /// Where errors of agents' requests are kept.
    pub(crate) fn errors(&self) -> &RecentErrors {
        &self.0.errors
    }

    /// The last errors of requests for an agent, the newest first, a bounded number.
    #[must_use]
    pub fn recent_errors(&self, agent: AgentId) -> Vec<RecentError> {
        self.0.errors.of(agent)
    }

    /// How many requests were let in and are not over.
    #[must_use]
    pub fn admitted_requests(&self) -> usize {
        self.0.in_progress.len()
    }

    /// A minute, counted from 1970, is over: what agents and callers had since the last one belongs to it.
    pub fn end_minute(&self, minute: u64) {
        let mut load = self.load();
        let counted = std::mem::take(&mut load.minute);
        load.history.end(minute, &counted);
        drop(load);
        self.0.callers.end_minute(&self.0.in_progress);
    }

    /// The last minute that is over, counted from 1970, and the reads and writes that each of these agents had in it
    /// and those before, the oldest first; of those that had any.
    #[must_use]
    pub fn loads(&self, agents: &[AgentId]) -> (u64, Vec<(AgentId, Vec<MinuteLoad>)>) {
        let load = self.0.load.lock().unwrap_or_else(PoisonError::into_inner);
        let history = &load.history;
        let loads = agents.iter().filter_map(|id| Some((*id, history.of(*id)?)));
        (history.minute(), loads.collect())
    }

    /// The reads and writes of agents in the last five minutes and in the one that is not over, of those of whose
    /// requests any waited for a tunnel or did not reach the cluster.
    #[must_use]
    pub fn recent_loads(&self) -> Vec<(AgentId, RecentLoad)> {
        let load = self.load();
        load.history.recent(&load.minute)
    }

    /// The reads and writes that each of these agents had, for as long as it is asked for, in their order, and those of
    /// all others.
    #[must_use]
    pub fn agent_traffic(&self, agents: &[AgentId]) -> (Vec<AgentTraffic>, AgentTraffic) {
        self.load().series.read(agents)
    }

    /// With all that was counted until now.
    fn load(&self) -> MutexGuard<'_, AgentLoads> {
        let mut load = self.0.load.lock().unwrap_or_else(PoisonError::into_inner);
        load.collect(&self.0.in_progress);
        load
    }

    /// How many requests are over, and how many of these ended with a status of 500 or more or without a whole answer.
    #[must_use]
    pub fn requests_over(&self) -> (u64, u64) {
        let counts = self.0.by_class.each_ref().map(Counter::get);
        let [aborted, .., failed] = counts;
        (counts.iter().sum(), aborted + failed)
    }

    /// How many calls were made again and how many watches were resumed because a tunnel broke.
    #[must_use]
    pub fn survived(&self) -> (u64, u64) {
        (self.0.replays.get(), self.0.resumes.get())
    }

    pub(crate) fn routed(&self, took: Duration) {
        self.0.routed.observe(took.as_secs_f64());
    }

    pub(crate) fn not_routed(&self, took: Duration) {
        self.0.routing_timeout.inc();
        self.0.aborted.observe(took.as_secs_f64());
    }

    pub(crate) fn replayed(&self) {
        self.0.replays.inc();
    }

    /// Counts an upgraded connection that goes on through another tunnel.
    pub(crate) fn upgrade_resumed(&self) {
        self.0.upgrades_resumed.inc();
    }

    /// Counts an answer that goes on through another tunnel.
    pub(crate) fn answer_recovered(&self) {
        self.0.answers_recovered.inc();
    }

    /// Counts an upgraded connection that broke.
    pub(crate) fn broke(&self, failure_status: FailureStatus) {
        self.0.broken.get_or_create(&Told { failure_status }).inc();
    }

    /// Counts headers of an answer that did not pass.
    pub(crate) fn blocked_headers(&self, headers: u64) {
        self.0.blocked_headers.inc_by(headers);
    }

    /// Headers of answers that did not pass.
    #[must_use]
    pub fn blocked_response_headers(&self) -> u64 {
        self.0.blocked_headers.get()
    }

    pub(crate) fn resumed(&self) {
        self.0.resumes.inc();
    }

    /// How long a request took that ended with this status, 0 without a whole answer.
    pub(crate) fn took(&self, verb: Verb, status: u16, took: Duration, trace_id: Option<String>) {
        let histogram = &self.0.by_kind[verb as usize][outcome(status)];
        let trace = trace_id.map(|trace_id| Trace { trace_id });
        let at = trace.as_ref().map(|_| SystemTime::now());
        histogram.observe(took.as_secs_f64(), trace, at);
    }

    /// Counts a request that is over; status 0 is one without a whole answer.
    pub(crate) fn over(&self, status: u16, received: u64, sent: u64) {
        let class = usize::from(status / 100).min(CLASSES.len() - 1);
        self.0.by_class[class].inc();
        self.0.received.inc_by(received);
        self.0.sent.inc_by(sent);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_in_flight_until_it_is_over() {
        let metrics = Metrics::default();

        let (first, _second) = (metrics.begin(), metrics.begin());
        drop(first);

        assert_eq!(metrics.in_flight(), 1);
    }

    #[test]
    fn the_names_are_those_of_the_runbooks() {
        let (metrics, mut registry) = (Metrics::default(), Registry::default());
        metrics.register(&mut registry);
        metrics.routed(Duration::from_millis(1));
        metrics.not_routed(Duration::from_secs(1));
        metrics.over(204, 1, 2);
        let took = Duration::from_millis(3);
        metrics.took(Verb::Read, 204, took, Some("abc".into()));
        metrics.took(Verb::Watch, 0, took, None);
        metrics.refused(Over::HeldOfCaller);
        metrics.broke(FailureStatus::Sent);

        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();

        for line in [
            "k8s_api_proxy_routing_duration_seconds_count{status=\"success\"} 1",
            "k8s_api_proxy_routing_duration_seconds_count{status=\"aborted\"} 1",
            "k8s_api_proxy_routing_timeout_total 1",
            "k8s_api_proxy_requests_total{code=\"2xx\"} 1",
            "k8s_api_proxy_sent_bytes_total 2",
            "k8s_api_proxy_request_duration_seconds_count{verb=\"watch\",outcome=\"aborted\"} 1",
            "k8s_api_proxy_request_duration_seconds_bucket{le=\"0.005\",verb=\"read\",outcome=\"success\"} 1 # {trace_id=\"abc\"} 0.003",
            "k8s_api_proxy_requests_over_limit_total{limit=\"HeldOfCaller\"} 1",
            "k8s_api_proxy_upgraded_connections_broken_total{failure_status=\"Sent\"} 1",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }
}

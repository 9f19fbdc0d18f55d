//! How a replica drains: the whole policy, phase by phase, with its times.
//!
//! 1. Announce: readiness and the lease say that the replica drains. All goes on for the listen grace period, so that
//!    load balancers and peers send new work elsewhere.
//! 2. Refuse: users, agents and GitLab get no new connections. Agents get GOAWAY one after the other
//!    (`agent_gateway::DrainSettings`).
//! 3. Move: peers are served until the agents have tunnels elsewhere.
//! 4. Finish: requests in progress end by themselves, until the deadline. Shortly before it, watches end in order.
//! 5. Leave: the replica removes itself from the routing table.
//!
//! A forced drain goes from where it is to the last phase, and cuts what is in progress.

use std::{fmt, sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Replica;

/// How often a drain says what it waits for.
const REPORT_INTERVAL: Duration = Duration::from_secs(30);
/// How long before the deadline watches are ended in order; a quarter of the grace period if that is shorter.
const WATCH_END_LEAD_TIME: Duration = Duration::from_secs(5);
/// How long agents' connections may take to close when nothing runs on them.
const AGENTS_CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long GitLab's calls may take to end; each is short.
const GITLAB_CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
/// How long the routing table may take to remove this replica.
const TABLE_LEAVE_TIMEOUT: Duration = Duration::from_secs(5);
const FORCED_TABLE_LEAVE_TIMEOUT: Duration = Duration::from_secs(1);
/// How long connections without requests may take to close in a forced drain.
const FORCED_CLOSE_TIMEOUT: Duration = Duration::from_millis(100);

/// The configured times of a drain.
#[derive(Debug, Clone, Copy)]
pub struct GracePeriods {
    /// How long new connections are still accepted after readiness is gone.
    pub listen: Duration,
    /// How long requests in progress may go on after that.
    pub requests: Duration,
}

/// What was cut when a replica left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Cut {
    /// Connections and requests of users.
    pub users: usize,
    /// Requests that other replicas have forwarded to this one, without those that go on elsewhere, such as watches.
    pub peers: usize,
}

impl Cut {
    /// Whether everything had been finished.
    #[must_use]
    pub fn is_nothing(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Cut {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { users, peers } = self;
        write!(
            f,
            "{users} connections or requests of users, {peers} requests of other replicas"
        )
    }
}

/// What a drain waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Waiting {
    /// Connections of agents that have not moved to another replica.
    agents: usize,
    /// Connections and requests of users.
    users: usize,
    /// Connections of other replicas.
    peers: usize,
    /// Connections and calls of GitLab.
    gitlab: usize,
}

/// Says again and again what is waited for.
async fn report(waiting: impl Fn() -> Waiting) {
    let started = Instant::now();
    loop {
        tokio::time::sleep(REPORT_INTERVAL).await;
        let Waiting {
            agents,
            users,
            peers,
            gitlab,
        } = waiting();
        tracing::info!(
            seconds = started.elapsed().as_secs(),
            agents,
            users,
            peers,
            gitlab,
            "draining: waiting for these connections and requests of agents, users, other replicas and GitLab"
        );
    }
}

impl Replica {
    /// Drains and leaves. `force` ends the drain early.
    pub async fn drain(self, grace: GracePeriods, force: CancellationToken) -> Cut {
        self.announce();
        let draining = async {
            tokio::select! {
                () = self.drain_in_order(grace) => {}
                () = report(|| self.waiting()) => {}
            }
        };
        let drained = force.run_until_cancelled(draining).await;
        let forced = drained.is_none();
        if forced {
            self.close_idle_connections().await;
        }
        let cut = Cut {
            users: self.users.in_progress(),
            peers: self.peer_calls.len(),
        };
        self.leave_table(forced).await;
        self.stop.cancel();
        self.background.close();
        self.background.wait().await;
        cut
    }

    /// The phases between the announcement and the end.
    async fn drain_in_order(&self, grace: GracePeriods) {
        tokio::time::sleep(grace.listen).await;
        let deadline = Instant::now() + grace.requests;
        self.refuse_new_work();
        let finished = async {
            self.move_agents(deadline).await;
            self.finish_requests(deadline).await;
            self.close_agents().await;
        };
        tokio::select! {
            () = finished => {}
            () = self.end_watches(deadline, grace.requests) => {}
        }
    }

    fn waiting(&self) -> Waiting {
        let gateway = self.agent_gateway.as_ref();
        Waiting {
            agents: gateway.map_or(0, |gateway| gateway.agents_here()),
            users: self.users.in_progress(),
            peers: self.peers.in_progress(),
            gitlab: self.gitlab.in_progress(),
        }
    }

    fn announce(&self) {
        self.ready.store(false, Ordering::Relaxed);
        self.table.drain();
        self.users.announce();
    }

    fn refuse_new_work(&self) {
        self.users.start();
        self.gitlab.start();
        if let Some(events) = &self.events {
            events.end_readers();
        }
        self.agents.start();
    }

    /// Peers find this replica as long as agents have not moved.
    async fn move_agents(&self, deadline: Instant) {
        if let Some(gateway) = &self.agent_gateway {
            gateway.agents_moved(left(deadline)).await;
        }
    }

    /// Requests of users and peers need the agents' connections, so these are closed after them.
    async fn finish_requests(&self, deadline: Instant) {
        self.peers.start();
        tokio::join!(
            self.users.finished(left(deadline)),
            self.peers.finished(left(deadline)),
            self.gitlab
                .finished(left(deadline).min(GITLAB_CLOSE_TIMEOUT)),
        );
    }

    async fn close_agents(&self) {
        if !self.agents.finished(AGENTS_CLOSE_TIMEOUT).await {
            tracing::info!(replica = %self.id, "some agent connections did not close in time");
        }
    }

    /// Ends what would go on until the deadline, such as watches, shortly before it. Those that were forwarded by
    /// another replica go on through another owner.
    async fn end_watches(&self, deadline: Instant, grace: Duration) {
        let lead = WATCH_END_LEAD_TIME.min(grace / 4);
        tokio::time::sleep_until(deadline - lead).await;
        self.users.last_call();
        self.peers.last_call();
        std::future::pending().await
    }

    async fn close_idle_connections(&self) {
        for port in [&self.users, &self.peers, &self.agents, &self.gitlab] {
            port.start();
        }
        tokio::join!(
            self.users.finished(FORCED_CLOSE_TIMEOUT),
            self.peers.finished(FORCED_CLOSE_TIMEOUT),
            self.gitlab.finished(FORCED_CLOSE_TIMEOUT),
        );
    }

    async fn leave_table(&self, forced: bool) {
        let limit = if forced {
            FORCED_TABLE_LEAVE_TIMEOUT
        } else {
            TABLE_LEAVE_TIMEOUT
        };
        let left = tokio::time::timeout(limit, self.table.leave()).await;
        if left.is_err() {
            tracing::warn!(
                replica = %self.id,
                "could not remove this replica from the routing store in time; its entries expire by themselves"
            );
        }
    }
}

fn left(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(Instant::now())
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use tracing::{Event, Subscriber, field::Visit};
    use tracing_subscriber::{
        Layer,
        layer::{Context, SubscriberExt},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<String>>>);

    impl<S: Subscriber> Layer<S> for Lines {
        fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
            event.record(&mut self.clone());
        }
    }

    impl Visit for Lines {
        fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn fmt::Debug) {
            let field = field.name();
            self.0.lock().unwrap().push(format!("{field}={value:?}"));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_drain_says_every_half_minute_what_it_waits_for() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::registry().with(lines.clone());
        let _written = tracing::subscriber::set_default(subscriber);
        let waiting = || Waiting {
            agents: 2,
            users: 1,
            ..Waiting::default()
        };

        let limit = Duration::from_secs(70);
        tokio::time::timeout(limit, report(waiting))
            .await
            .unwrap_err();

        let lines = lines.0.lock().unwrap();
        let told = |name: &str| {
            let lines = lines.iter().filter(|it| it.starts_with(name));
            lines.map(String::as_str).collect::<Vec<_>>()
        };
        assert_eq!(told("seconds="), ["seconds=30", "seconds=60"]);
        assert_eq!(told("agents="), ["agents=2", "agents=2"]);
        assert_eq!(told("users="), ["users=1", "users=1"]);
    }
}

//! Keeps tunnels open for kas, each for one call, and opens more as they are used.

mod retiring;
mod slot;
mod tunnel;

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use proto::agent::agentcfg::AgentConfiguration;
use tokio::sync::watch;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use runtime::tunnel::{Pool, framed_descriptor};
use slot::Placement;

use crate::{cluster_facts::ClusterFacts, metrics::Metrics, services::Services, session::Uplink};

/// The most tunnels, idle or not.
const MAX_TUNNELS: usize = 500;

/// All tunnels of this process. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Tunnels(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    uplink: Uplink,
    services: Services,
    facts: ClusterFacts,
    configuration: watch::Receiver<Option<Arc<AgentConfiguration>>>,
    pool: Mutex<Pool>,
    tasks: TaskTracker,
    /// Cancelled when no new calls are taken.
    stop: CancellationToken,
    /// Cancelled when calls in progress are cut.
    force: CancellationToken,
    metrics: Metrics,
    /// The first message of every tunnel, framed.
    descriptor: Bytes,
}

impl Tunnels {
    pub(crate) fn new(
        uplink: Uplink,
        services: Services,
        facts: ClusterFacts,
        configuration: watch::Receiver<Option<Arc<AgentConfiguration>>>,
        metrics: Metrics,
        stop: CancellationToken,
        force: CancellationToken,
    ) -> Self {
        let pool = Mutex::new(Pool::new(uplink.lines(), MAX_TUNNELS));
        Self(Arc::new(Shared {
            uplink,
            descriptor: framed_descriptor(services.descriptor()),
            services,
            facts,
            configuration,
            pool,
            tasks: TaskTracker::new(),
            stop,
            force,
            metrics,
        }))
    }

    /// Opens the first tunnels: one that stays on each line, and what is
    /// missing to the minimum.
    pub(crate) fn start(&self) {
        let count = self.pool().start();
        let lines = self.0.uplink.lines();
        for line in 0..lines {
            let placement = Placement::Line(self.0.uplink.line(line));
            self.0.tasks.spawn(slot::run(self.clone(), placement));
        }
        self.open(count.saturating_sub(lines));
    }

    /// Waits, after the stop, until the last call has ended.
    pub(crate) async fn finished(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    /// The agent's id, once kas has told it.
    fn agent_id(&self) -> Option<i64> {
        let configuration = self.0.configuration.borrow();
        configuration.as_ref().map(|it| it.agent_id)
    }

    fn open(&self, count: usize) {
        for _ in 0..count {
            let placement = Placement::Anywhere(self.0.uplink.clone());
            self.0.tasks.spawn(slot::run(self.clone(), placement));
        }
        self.update_metrics();
    }

    /// A call took a tunnel: others may be needed.
    fn call_began(&self) {
        self.0.metrics.calls.inc();
        let more = self.pool().call_began();
        self.open(more);
    }

    fn call_ended(&self) {
        self.pool().call_ended();
        self.update_metrics();
    }

    /// A call took a retiring tunnel.
    fn uncounted_call_began(&self) {
        self.0.metrics.calls.inc();
        self.pool().uncounted_call_began();
        self.update_metrics();
    }

    fn uncounted_call_ended(&self) {
        self.pool().uncounted_call_ended();
        self.update_metrics();
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.0.pool.lock().unwrap_or_else(|held| held.into_inner())
    }

    fn update_metrics(&self) {
        let (idle, active) = self.pool().counts();
        let gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.0.metrics.tunnels_idle.set(gauge(idle));
        self.0.metrics.tunnels_active.set(gauge(active));
    }
}

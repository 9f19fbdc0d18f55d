//! Keeps tunnels open for kas, each for one call, and opens more as they are used.

mod inbound;
mod linger;
mod outbound;
mod pool;
mod slot;

use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use proto::agent::reverse_tunnel::{
    info::{AgentDescriptor, Method, Service},
    rpc::{ConnectRequest, Descriptor, connect_request::Msg},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub(crate) use inbound::{Inbound, Lost};
pub(crate) use outbound::{Outbound, add_trailer};
use pool::Pool;
use slot::Home;

use crate::{
    graph, graph::Graph, kubernetes_api, kubernetes_api::KubernetesApi, metrics::Metrics,
    session::Uplink,
};

/// All tunnels of this process. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Tunnels(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    uplink: Uplink,
    api: KubernetesApi,
    /// If it is switched on.
    graph: Option<Graph>,
    pool: Mutex<Pool>,
    tasks: TaskTracker,
    /// No new calls.
    stop: CancellationToken,
    /// No calls at all.
    force: CancellationToken,
    metrics: Metrics,
    /// The first message of every tunnel, framed.
    descriptor: Bytes,
}

impl Tunnels {
    pub(crate) fn new(
        uplink: Uplink,
        api: KubernetesApi,
        graph: Option<Graph>,
        metrics: Metrics,
        stop: CancellationToken,
        force: CancellationToken,
    ) -> Self {
        let pool = Mutex::new(Pool::new(uplink.lines()));
        Self(Arc::new(Shared {
            uplink,
            api,
            descriptor: framed_descriptor(graph.is_some()),
            graph,
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
            let home = Home::Line(self.0.uplink.line(line));
            self.0.tasks.spawn(slot::run(self.clone(), home));
        }
        self.open(count.saturating_sub(lines));
    }

    /// Waits, after the stop, until the last call has ended.
    pub(crate) async fn finished(&self) {
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }

    fn open(&self, count: usize) {
        for _ in 0..count {
            let home = Home::Anywhere(self.0.uplink.clone());
            self.0.tasks.spawn(slot::run(self.clone(), home));
        }
        self.show();
    }

    /// A call took a tunnel: others may be needed.
    fn call_began(&self) {
        self.0.metrics.calls.inc();
        let more = self.pool().call_began();
        self.open(more);
    }

    fn call_ended(&self) {
        self.pool().call_ended();
        self.show();
    }

    /// A call took a tunnel that another has replaced already.
    fn extra_began(&self) {
        self.0.metrics.calls.inc();
        self.pool().extra_began();
        self.show();
    }

    fn extra_ended(&self) {
        self.pool().extra_ended();
        self.show();
    }

    fn pool(&self) -> MutexGuard<'_, Pool> {
        self.0.pool.lock().unwrap_or_else(|held| held.into_inner())
    }

    fn show(&self) {
        let (idle, active) = self.pool().counts();
        let gauge = |count| i64::try_from(count).unwrap_or(i64::MAX);
        self.0.metrics.tunnels_idle.set(gauge(idle));
        self.0.metrics.tunnels_active.set(gauge(active));
    }
}

fn framed_descriptor(graph: bool) -> Bytes {
    use bytes::Buf;
    let service = |name: &str, method: &str| Service {
        name: name.to_owned(),
        methods: vec![Method {
            name: method.to_owned(),
        }],
    };
    let mut services = vec![
        service(kubernetes_api::SERVICE, kubernetes_api::METHOD),
        service(kubernetes_api::EXACT_SERVICE, kubernetes_api::METHOD),
    ];
    if graph {
        services.push(service(graph::SERVICE, graph::METHOD));
    }
    let mut frame = proto::frame::Frame::message(&ConnectRequest {
        msg: Some(Msg::Descriptor(Descriptor {
            agent_descriptor: Some(AgentDescriptor { services }),
        })),
    });
    frame.copy_to_bytes(frame.remaining())
}

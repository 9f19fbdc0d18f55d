//! A replica: the router's real parts, with connections as kas drives them.

use std::{cell::Cell, sync::Arc, time::Duration};

use cluster_state::{
    AgentId, Liveness, Owner, PeerProbe, ReplicaId, RoutingTable, SharedTable, TableFuture,
    TableSettings,
};
use futures_util::{StreamExt, stream::FuturesUnordered};
use proto::frame::{Deframer, Encoding};
use router::{
    Registry, Router,
    tunnel::{IdleEnd, IdleWatch, Offer, Stream},
};
use runtime::drain::Drain;
use tokio::{io::DuplexStream, sync::Notify, time::timeout};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{METHOD, store::SimStore, world::World};

/// Operations of agents' records a second that a replica may ask for, and at once.
pub const BUDGET: (u32, u32) = (20, 40);
/// Pings: how often, and how long an answer may take in the idle and with a call.
const PINGS: (Duration, Duration, Duration) = (
    Duration::from_secs(50),
    Duration::from_secs(20),
    Duration::from_secs(5),
);
/// How long calls in progress have when a replica drains.
const FINISH: Duration = Duration::from_secs(8);

/// One run of a replica.
pub struct Replica {
    pub number: usize,
    pub me: Owner,
    pub router: Arc<Router>,
    pub table: Arc<SharedTable>,
    pub store: Arc<SimStore>,
    /// Ends with the run.
    pub stop: CancellationToken,
    pub drain: Drain,
    calls: TaskTracker,
}

thread_local! {
    /// Seconds since 1970 on the simulation's clock; each has a thread to itself.
    pub static UNIX: Cell<u64> = const { Cell::new(0) };
}

fn settings() -> TableSettings {
    TableSettings {
        operations_per_second: BUDGET.0,
        burst: BUDGET.1,
        clock: || UNIX.get(),
        ..TableSettings::default()
    }
}

/// How a replica probes others.
struct Probe(Arc<World>, usize);

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("Probe").field(&self.1).finish()
    }
}

impl PeerProbe for Probe {
    fn probe<'a>(&'a self, replica: &'a Owner) -> TableFuture<'a, Liveness> {
        Box::pin(self.0.probe(self.1, replica))
    }
}

impl Replica {
    /// Starts the `run`th run of a replica.
    pub fn start(world: &Arc<World>, number: usize, run: u32) -> Arc<Self> {
        let me = Owner {
            replica: ReplicaId::new(&format!("r{number}-{run}")),
            url: format!("grpc://r{number}"),
        };
        let store = world.store.client(&me.replica);
        let probe = Arc::new(Probe(world.clone(), number));
        let table = SharedTable::start(store.clone(), probe, me.clone(), "sim", settings());
        let registry = Registry::new(table.clone());
        let stop = CancellationToken::new();
        let peers = world.peers(number, stop.clone());
        let router = Arc::new(Router::new(registry, table.clone(), peers));
        Arc::new(Self {
            number,
            me,
            router,
            table,
            store,
            stop,
            drain: Drain::new(),
            calls: TaskTracker::new(),
        })
    }

    pub fn registry(&self) -> &Arc<Registry> {
        self.router.registry()
    }

    /// Ends the run at once; nothing is told to anybody.
    pub fn crash(&self) {
        self.store.die();
        self.stop.cancel();
    }

    /// Leaves in order.
    pub async fn leave(&self) {
        self.table.drain();
        self.drain.start();
        self.calls.close();
        let _ = timeout(FINISH, self.calls.wait()).await;
        self.table.leave().await;
        self.stop.cancel();
    }

    /// Serves an agent's connection.
    pub async fn serve_agent(self: Arc<Self>, agent: i64, stream: DuplexStream) {
        let stop = self.stop.clone();
        stop.run_until_cancelled(self.agent_connection(agent, stream))
            .await;
    }

    async fn agent_connection(&self, agent: i64, stream: DuplexStream) {
        let offer = Offer {
            agent: AgentId(agent),
            methods: [METHOD.into()].into(),
            impersonates: true,
            upgrades: true,
        };
        let handshake = runtime::grpc::server_settings().handshake(stream);
        let Ok(Ok(mut http2)) = timeout(PINGS.1, handshake).await else {
            return;
        };
        let http2: &mut runtime::grpc::ServerConnection<_> = &mut http2;
        let Some(pings) = http2.ping_pong() else {
            return;
        };
        let probe = Notify::new();
        let mut unanswered = Box::pin(unanswered(pings, &probe));
        let mut idle: FuturesUnordered<IdleWatch> = FuturesUnordered::new();
        let mut leaves = false;
        loop {
            tokio::select! {
                biased;
                accepted = http2.accept() => {
                    let Some(Ok((request, respond))) = accepted else { return };
                    let deframer = Deframer::new(Encoding::Identity);
                    let stream = Stream { recv: request.into_body(), deframer, respond };
                    let watch = self.registry().park(offer.clone(), stream);
                    if leaves {
                        watch.retire(&tonic::Status::ok(""));
                    }
                    idle.push(watch);
                }
                Some(end) = idle.next(), if !idle.is_empty() => {
                    if end == IdleEnd::Taken {
                        probe.notify_one();
                    }
                }
                () = &mut unanswered => return,
                () = self.drain.wait(), if !leaves => {
                    leaves = true;
                    http2.graceful_shutdown();
                    for watch in &idle {
                        watch.retire(&tonic::Status::ok(""));
                    }
                }
            }
        }
    }

    /// Serves a peer's connection.
    pub async fn serve_peer(self: Arc<Self>, stream: DuplexStream) {
        let stop = self.stop.clone();
        let serve = async {
            let handshake = runtime::grpc::server_settings().handshake(stream);
            let Ok(Ok(mut http2)) = timeout(PINGS.1, handshake).await else {
                return;
            };
            while let Some(Ok((request, respond))) = http2.accept().await {
                let (registry, stop) = (self.registry().clone(), self.stop.clone());
                let leaving = self.drain.clone();
                self.calls.spawn(async move {
                    let serve = router::owner::serve(&registry, request, respond, &leaving);
                    stop.run_until_cancelled(serve).await;
                });
            }
        };
        stop.run_until_cancelled(serve).await;
    }
}

async fn unanswered(mut pings: h2::PingPong, probe: &Notify) {
    loop {
        let limit = tokio::select! {
            biased;
            () = probe.notified() => PINGS.2,
            () = tokio::time::sleep(PINGS.0) => PINGS.1,
        };
        match timeout(limit, pings.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => return,
        }
    }
}

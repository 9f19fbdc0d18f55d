//! The replicas of `kas up`, on loopback, and the load balancers before them.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use admin::config::AdminSection;
use agent_gateway::{Clusters, Services, Tracker, config::ReceptiveForm};
use anyhow::Context;
use audit::Audit;
use cluster_state::{
    AgentId, ConnectionLog, Owner, ReplicaId, memory::MemoryStore, redis::RedisOptions,
};
use control_plane::standalone::Standalone;
use playground::balancer::Balancer;
use prometheus_client::registry::Registry as Metrics;
use runtime::{
    connect::ConnectOptions,
    jwt::Secret,
    listen::{AgentAcceptor, AgentAcceptorOptions, PlainAcceptor, bind},
    tls::ServerTls,
};
use tokio::net::TcpListener;
use user_gateway::Graph;

use crate::{
    app,
    private_api::Tokens,
    replica::{AdminPort, PeerSettings, Port, Replica, Setup},
    version,
};

const LOOPBACK: &str = "127.0.0.1:0";
/// The operators' port, as servers have it.
const ADMIN_ADDRESS: &str = "127.0.0.1:8156";

/// Replicas that share a routing table.
#[derive(Debug)]
pub(super) struct Cluster {
    pub(super) replicas: Vec<Replica>,
    store: Store,
    agents: Vec<SocketAddr>,
    users: Vec<SocketAddr>,
    /// Where the page is.
    pub(super) admin: Option<SocketAddr>,
}

/// Where the replicas' routing table is.
#[derive(Debug)]
pub(super) enum Store {
    Memory(MemoryStore),
    Redis(Box<RedisOptions>),
}

impl Cluster {
    /// Starts `count` replicas on free ports.
    pub(super) async fn start(
        count: usize,
        store: Store,
        control_plane: &Arc<Standalone>,
        tls: &ServerTls,
    ) -> anyhow::Result<Self> {
        let secret = Secret::new(rand::random::<[u8; 32]>().to_vec());
        let mut cluster = Self {
            replicas: Vec::new(),
            store,
            agents: Vec::new(),
            users: Vec::new(),
            admin: None,
        };
        for number in 1..=count {
            cluster
                .add(&format!("replica-{number}"), control_plane, tls, &secret)
                .await?;
        }
        Ok(cluster)
    }

    async fn add(
        &mut self,
        name: &str,
        control_plane: &Arc<Standalone>,
        tls: &ServerTls,
        secret: &Secret,
    ) -> anyhow::Result<()> {
        let (agents, users, peers) = (
            bind(LOOPBACK).await?,
            bind(LOOPBACK).await?,
            bind(LOOPBACK).await?,
        );
        self.agents.push(agents.local_addr());
        self.users.push(users.local_addr());
        let url = format!("grpc://{}", peers.local_addr());
        let settings = PeerSettings {
            tokens: Tokens::new(secret.clone()),
            dial: ConnectOptions::default(),
            own: url.clone().into(),
        };
        let mut metrics = Metrics::default();
        let (me, shared) = match &self.store {
            Store::Memory(store) => {
                let me = owner(name, url);
                let shared = app::routing::Shared::alone(store, &me);
                (me, shared)
            }
            Store::Redis(options) => {
                // Others may use the same Redis, or may have used it before.
                let name = format!("{name}-{:016x}", rand::random::<u64>());
                let me = owner(&name, url);
                let shared = app::routing::shared(options, &me, &settings, &mut metrics)?;
                (me, shared)
            }
        };
        let log = ConnectionLog::new(shared.records.clone());
        let tracker = Tracker::with_log(shared.table.clone(), log, me.replica.clone());
        let admin = match self.admin {
            // Any replica tells of all.
            Some(_) => None,
            None => Some(
                self.listen_for_operators(tracker.clone(), control_plane.clone())
                    .await?,
            ),
        };
        let services =
            Services::standard(control_plane.clone(), tracker.clone(), String::new(), None);
        let clusters = Clusters::new(shared.pins, shared.pin_changes, tracker, &mut metrics);
        let services = services.with_clusters(clusters);
        self.replicas.push(Replica::start(Setup {
            graph: Graph::default(),
            me,
            control_plane: control_plane.clone(),
            table: shared.table,
            notifications: shared.notifications,
            metrics,
            agents: Port {
                listener: agents.into(),
                acceptor: acceptor(),
                settings: self::settings(services),
            },
            receptive_form: ReceptiveForm::default(),
            users: Some(Port {
                listener: users.into(),
                acceptor: PlainAcceptor::new(Some(tls.clone())),
                settings: user_gateway::Settings {
                    url_path_prefix: "/k8s-proxy/".to_owned(),
                    server: version::server_header(),
                    ..user_gateway::Settings::default()
                },
            }),
            peers: Some(Port {
                listener: peers.into(),
                acceptor: PlainAcceptor::new(None),
                settings,
            }),
            gitlab: None,
            events: None,
            admin,
            max_agent_series: 1000,
            observability: None,
        }));
        Ok(())
    }

    /// The operators' port of the first replica: the usual one, or a free one if that is taken.
    async fn listen_for_operators(
        &mut self,
        tracker: Arc<Tracker>,
        control_plane: Arc<Standalone>,
    ) -> anyhow::Result<AdminPort> {
        let listener = match bind(ADMIN_ADDRESS).await {
            Err(_) => bind(LOOPBACK).await?,
            Ok(listener) => listener,
        };
        self.admin = Some(listener.local_addr());
        Ok(AdminPort {
            listener: listener.into(),
            acceptor: PlainAcceptor::new(None),
            settings: admin::Settings::new(&AdminSection::default())?,
            audit: Audit::default(),
            tracker,
            standalone: Some(control_plane),
        })
    }

    /// The replicas that hold the agent.
    pub(super) fn holders(&self, agent: AgentId) -> Vec<String> {
        let holds = |replica: &&Replica| replica.registry().tunnels(agent).alive > 0;
        let holders = self.replicas.iter().filter(holds);
        holders.map(|replica| replica.id().to_string()).collect()
    }

    /// A load balancer for agents.
    pub(super) async fn balance_agents(
        &self,
        port: u16,
        drop_every: Option<Duration>,
    ) -> anyhow::Result<(Balancer, SocketAddr)> {
        let (listener, address) = front(port, 8150, "--agent-port").await?;
        Ok((
            Balancer::new(listener, self.agents.clone(), drop_every),
            address,
        ))
    }

    /// A load balancer for users. It never cuts: that would cut kubectl itself.
    pub(super) async fn balance_users(&self, port: u16) -> anyhow::Result<(Balancer, SocketAddr)> {
        let (listener, address) = front(port, 8154, "--api-port").await?;
        Ok((Balancer::new(listener, self.users.clone(), None), address))
    }
}

/// The port that was asked for; any free one if that is the usual one and taken.
async fn front(port: u16, usual: u16, flag: &str) -> anyhow::Result<(TcpListener, SocketAddr)> {
    let listener = match TcpListener::bind(("127.0.0.1", port)).await {
        Err(_) if port == usual => TcpListener::bind(LOOPBACK).await,
        asked => asked,
    };
    let listener = listener.with_context(|| {
        format!("cannot listen on 127.0.0.1:{port}; choose another port with {flag}")
    })?;
    let address = listener.local_addr()?;
    Ok((listener, address))
}

fn owner(name: &str, url: String) -> Owner {
    Owner {
        replica: ReplicaId::new(name),
        url,
    }
}

fn acceptor() -> AgentAcceptor {
    AgentAcceptor::new(AgentAcceptorOptions {
        ping_interval: Some(agent_gateway::WEBSOCKET_PING_INTERVAL),
        server: version::server(),
        ..AgentAcceptorOptions::default()
    })
}

fn settings(services: Services) -> agent_gateway::Settings {
    agent_gateway::Settings::new(services)
}

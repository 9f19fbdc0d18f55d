//! Replicas with a shared routing table behind load balancers, and an agent.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use kas::{
    agent_api::{self, Leaving},
    control_plane::standalone::{
        Standalone,
        access_as::AccessAs,
        change::{CallerKind, ChangeError},
        edit,
        file::{Agents, Rule},
        names::{AgentName, Name},
        tokens::{TokenEntry, TokenKind},
    },
    kubernetes_api,
    notifications::Notifications,
    private_api::Tokens,
    replica::{Cut, Graces, PeerSettings, Port, Replica, Setup},
    tracker::Tracker,
};
use prometheus_client::registry::Registry as Metrics;
use router::{AgentId, Owner, Registry, ReplicaId, store::memory::MemoryStore};
use runtime::{
    connect::ConnectOptions,
    jwt::Secret,
    listen::{AgentAcceptor, AgentAcceptorOptions, PlainAcceptor, bind},
    telemetry,
};
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::level_filters::LevelFilter;

use crate::{agent::Agent, api::Api, front::Front};

const AGENT: AgentId = AgentId(1);
/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);
const GRACES: Graces = Graces {
    listen: Duration::from_millis(300),
    requests: Duration::from_secs(50),
};

pub(crate) struct Site {
    pub(crate) api: Api,
    agents: Front,
    users: Front,
    store: MemoryStore,
    control_plane: Arc<Standalone>,
    secret: Secret,
    bearer: String,
    replicas: Mutex<Vec<Member>>,
    number: AtomicUsize,
    _agent: Agent,
    _folder: tempfile::TempDir,
}

pub(crate) struct Member {
    replica: Replica,
    registry: Arc<Registry>,
    agents: SocketAddr,
    users: SocketAddr,
}

impl Site {
    /// So many replicas, and an agent.
    pub(crate) async fn start(replicas: usize) -> Self {
        if std::env::var_os("RUST_LOG").is_some() {
            telemetry::start(LevelFilter::INFO, telemetry::Format::Json);
        }
        let folder = tempfile::tempdir().unwrap();
        let (agent_token, user_token) = (
            TokenKind::Agent.generate().unwrap(),
            TokenKind::User.generate().unwrap(),
        );
        let file = folder.path().join("agents.yaml");
        let now = jiff::Timestamp::now();
        edit(&file, |document| {
            document.create_agent("test", Some(AGENT.0), TokenEntry::new(&agent_token, now))?;
            let entry = TokenEntry::new(&user_token, now);
            document.create_caller(CallerKind::User, "ana", &[], entry)?;
            document.grant(Rule {
                agents: Agents::Named(vec![AgentName::try_from("test".to_owned())?]),
                users: vec![Name::try_from("ana".to_owned())?],
                services: Vec::new(),
                groups: Vec::new(),
                access_as: AccessAs::Agent,
            })?;
            Ok::<_, ChangeError>(())
        })
        .unwrap();
        let api = Api::start().await;
        let agents = Front::start().await;
        let token = folder.path().join("token");
        std::fs::write(&token, agent_token.expose()).unwrap();
        let agent = Agent::start(agents.address, &token, &api.url, folder.path());
        let site = Self {
            api,
            agents,
            users: Front::start().await,
            store: MemoryStore::default(),
            control_plane: Arc::new(Standalone::open(&file).unwrap()),
            secret: Secret::new(vec![7; 32]),
            bearer: format!("Bearer pat:{}:{}", AGENT.0, user_token.expose()),
            replicas: Mutex::default(),
            number: AtomicUsize::new(0),
            _agent: agent,
            _folder: folder,
        };
        for _ in 0..replicas {
            site.add().await;
        }
        site
    }

    /// One replica more, behind the load balancers.
    pub(crate) async fn add(&self) {
        let local = "127.0.0.1:0";
        let (agents, users, peers) = (
            bind(local).await.unwrap(),
            bind(local).await.unwrap(),
            bind(local).await.unwrap(),
        );
        let (agents_at, users_at) = (agents.local_addr(), users.local_addr());
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let me = Owner {
            replica: ReplicaId::new(&format!("replica-{number}")),
            url: format!("grpc://{}", peers.local_addr()),
        };
        let table = Arc::new(self.store.table(me.clone()));
        let replica = Replica::start(Setup {
            tracker: Tracker::new(table.clone()),
            table,
            notifications: Notifications::new(None),
            metrics: Metrics::default(),
            me,
            control_plane: self.control_plane.clone(),
            agents: Port {
                listener: agents,
                acceptor: AgentAcceptor::new(AgentAcceptorOptions::default()),
                settings: agent_api::Settings {
                    max_connection_age: Duration::from_secs(7200),
                    connections_per_token_per_minute: 40_000,
                    leaving: Leaving::default(),
                    external_url: String::new(),
                    events: None,
                },
            },
            users: Some(Port {
                listener: users,
                acceptor: PlainAcceptor::new(None),
                settings: kubernetes_api::Settings::default(),
            }),
            peers: Some(Port {
                listener: peers,
                acceptor: PlainAcceptor::new(None),
                settings: PeerSettings {
                    tokens: Tokens::new(self.secret.clone()),
                    dial: ConnectOptions::default(),
                },
            }),
            gitlab: None,
            events: None,
            observability: None,
        });
        self.agents.add(agents_at);
        self.users.add(users_at);
        let member = Member {
            registry: replica.registry().clone(),
            replica,
            agents: agents_at,
            users: users_at,
        };
        self.replicas.lock().unwrap().push(member);
    }

    pub(crate) fn remove_oldest(&self) -> Member {
        self.replicas.lock().unwrap().remove(0)
    }

    /// Lets a replica leave, out of whose way the load balancers go as soon as
    /// it is ready no more.
    pub(crate) async fn leave(&self, member: Member, force: CancellationToken) -> Cut {
        self.agents.remove(member.agents);
        self.users.remove(member.users);
        member.replica.leave(GRACES, force).await
    }

    /// Resets all of the agent's connections.
    pub(crate) fn reset_agents(&self) {
        self.agents.reset();
    }

    /// Waits until the agent is connected.
    pub(crate) async fn connected(&self) {
        let mut changes = self.store.changes(AGENT);
        let there = changes.wait_for(|_| !self.store.owners(AGENT).is_empty());
        within(there).await.unwrap();
    }

    /// Whether the agent waits for calls at the newest replica, and nowhere else.
    pub(crate) fn only_newest_has_idle_tunnels(&self) -> bool {
        let owners = self.store.owners(AGENT);
        let replicas = self.replicas.lock().unwrap();
        let newest = replicas.last().unwrap();
        let there = owners
            .iter()
            .any(|owner| &owner.replica == newest.replica.id());
        there && newest.registry.presence(AGENT).idle >= 2
    }

    /// A request through the load balancer, on a connection of its own.
    pub(crate) async fn request(&self, method: &str, path: &str) -> (u16, String) {
        let response = self.send(self.users.address, method, path).await;
        let status = response.status().as_u16();
        let body = within(response.into_body().collect()).await.unwrap();
        (
            status,
            String::from_utf8_lossy(&body.to_bytes()).into_owned(),
        )
    }

    /// A stream that comes in at this replica.
    pub(crate) async fn stream_at(&self, replica: usize) -> Stream {
        let users = self.replicas.lock().unwrap()[replica].users;
        let response = self.send(users, "GET", "/stream").await;
        assert_eq!(response.status(), 200);
        let mut stream = Stream {
            body: response.into_body(),
            failed: false,
        };
        assert!(within(stream.line()).await.is_some());
        stream
    }

    async fn send(&self, to: SocketAddr, method: &str, path: &str) -> http::Response<Incoming> {
        let socket = TcpStream::connect(to).await.unwrap();
        let (mut send, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
        tokio::spawn(connection);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "kas")
            .header("connection", "close")
            .header("authorization", &self.bearer)
            .body(Empty::<Bytes>::new())
            .unwrap();
        within(send.send_request(request)).await.unwrap()
    }
}

/// A response that goes on.
pub(crate) struct Stream {
    body: Incoming,
    failed: bool,
}

impl Stream {
    /// The next piece; none at the end, be it good or bad.
    pub(crate) async fn line(&mut self) -> Option<Bytes> {
        match self.body.frame().await? {
            Ok(frame) => frame.into_data().ok(),
            Err(_) => {
                self.failed = true;
                None
            }
        }
    }

    pub(crate) fn ended_well(&self) -> bool {
        !self.failed
    }
}

pub(crate) async fn within<T>(wait: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, wait)
        .await
        .expect("it took too long")
}

/// Waits for a condition.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    within(async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}

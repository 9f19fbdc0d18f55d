//! Replicas with a shared routing table behind load balancers, and an agent.

use std::{
    net::SocketAddr,
    sync::{
        Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cluster_state::{AgentId, memory::MemoryStore};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use kas::replica::{Cut, GracePeriods};
use runtime::telemetry;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;

use crate::{
    agent::Agent,
    api::Api,
    front::Front,
    replica::{self, Serving},
};

const AGENT: AgentId = AgentId(1);
/// Longer than anything takes.
const LONG: Duration = Duration::from_secs(60);
const GRACES: GracePeriods = GracePeriods {
    listen: Duration::from_millis(300),
    requests: Duration::from_secs(50),
};

pub(crate) struct Site {
    pub(crate) api: Api,
    agents: Front,
    users: Front,
    store: MemoryStore,
    shared: replica::Site,
    bearer: String,
    replicas: Mutex<Vec<Serving>>,
    number: AtomicUsize,
    _agent: Agent,
    _folder: tempfile::TempDir,
}

impl Site {
    /// So many replicas, and an agent.
    pub(crate) async fn start(replicas: usize) -> Self {
        if std::env::var_os("RUST_LOG").is_some() {
            telemetry::start(telemetry::LogLevel::Info, telemetry::Format::Json);
        }
        let folder = tempfile::tempdir().unwrap();
        let shared = replica::Site::with_agents(1, folder.path());
        let api = Api::start().await;
        let agents = Front::start().await;
        let token = folder.path().join("token");
        std::fs::write(&token, shared.agents[0].expose()).unwrap();
        let agent = Agent::start(agents.address, &token, &api.url, folder.path());
        let site = Self {
            api,
            agents,
            users: Front::start().await,
            store: MemoryStore::default(),
            bearer: format!("Bearer pat:{}:{}", AGENT.0, shared.user.expose()),
            shared,
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
        let number = self.number.fetch_add(1, Ordering::Relaxed);
        let serving = replica::start(number, &self.shared, &self.store).await;
        self.agents.add(serving.agents);
        self.users.add(serving.users);
        self.replicas.lock().unwrap().push(serving);
    }

    pub(crate) fn remove_oldest(&self) -> Serving {
        self.replicas.lock().unwrap().remove(0)
    }

    /// Lets a replica leave, out of whose way the load balancers go as soon as
    /// it is ready no more.
    pub(crate) async fn leave(&self, member: Serving, force: CancellationToken) -> Cut {
        self.agents.remove(member.agents);
        self.users.remove(member.users);
        member.replica.drain(GRACES, force).await
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
        there && newest.replica.registry().tunnels(AGENT).idle >= 2
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

//! A proxy on a loopback port, and clients of it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use cluster_state::{AgentId, Owner, ReplicaId, memory::MemoryStore};
use control_plane::{
    Access, AgentInfo, AuthError, Basis, Configuration, ControlPlane, Credentials, DenyReason,
    Identity, IdentityKind, Token,
};
use futures_util::future::BoxFuture;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, combinators::BoxBody};
use hyper::{body::Incoming, client::conn::http1};
use hyper_util::rt::TokioIo;
use proto::agent::kubernetes_api::rpc::ImpersonationConfig;
use router::{Registry, Router, peers::Peers};
use runtime::{drain::Drain, io::ByteStream};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_util::sync::CancellationToken;
use user_gateway::{Metrics, Settings, UserGateway};

pub(crate) const AGENT: i64 = 7;
/// Longer than anything takes; a test that waits so long has failed.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) type Body = BoxBody<Bytes, std::io::Error>;

pub(crate) struct Proxy {
    pub(crate) registry: Arc<Registry>,
    pub(crate) address: SocketAddr,
    pub(crate) drain: Drain,
    pub(crate) metrics: Metrics,
}

impl Proxy {
    pub(crate) async fn start() -> Self {
        Self::with(Settings::default()).await
    }

    pub(crate) async fn with(settings: Settings) -> Self {
        let me = Owner {
            replica: ReplicaId::new("test"),
            url: "grpc://test".into(),
        };
        let table = Arc::new(MemoryStore::default().table(me));
        let registry = Registry::new(table.clone());
        let nobody: router::peers::Dial = Arc::new(|_| {
            Box::pin(async { Err::<ByteStream, _>(std::io::Error::other("no peers")) })
        });
        let peers = Peers::new(nobody, Arc::new(()), CancellationToken::new());
        let router = Arc::new(Router::new(registry.clone(), table, peers));
        let metrics = Metrics::default();
        let gateway = UserGateway::new(
            settings,
            router,
            Arc::new(Tokens::default()),
            metrics.clone(),
        );
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let drain = Drain::new();
        let leave = drain.clone();
        tokio::spawn(async move {
            while let Ok((socket, peer)) = listener.accept().await {
                socket.set_nodelay(true).unwrap();
                let connection =
                    gateway
                        .clone()
                        .serve_connection(socket.into(), peer, leave.clone());
                leave.spawn(connection);
            }
        });
        Self {
            registry,
            address,
            drain,
            metrics,
        }
    }

    pub(crate) async fn client(&self) -> Client {
        let socket = TcpStream::connect(self.address).await.unwrap();
        let (send, connection) = http1::handshake(TokioIo::new(socket)).await.unwrap();
        let connection = tokio::spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Client { send, connection }
    }

    /// Waits until nothing is in progress.
    pub(crate) async fn quiet(&self) {
        until(|| self.metrics.in_flight() == 0).await;
    }
}

/// Waits for a condition.
pub(crate) async fn until(condition: impl Fn() -> bool) {
    tokio::time::timeout(LONG, async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    })
    .await
    .expect("the condition never came true");
}

/// One connection of HTTP/1.1.
pub(crate) struct Client {
    send: http1::SendRequest<Body>,
    connection: tokio::task::JoinHandle<()>,
}

impl Client {
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Response<Incoming> {
        self.send.ready().await.unwrap();
        tokio::time::timeout(LONG, self.send.send_request(request))
            .await
            .unwrap()
            .unwrap()
    }

    pub(crate) async fn try_send(
        &mut self,
        request: Request<Body>,
    ) -> hyper::Result<Response<Incoming>> {
        self.send.ready().await.unwrap();
        tokio::time::timeout(LONG, self.send.send_request(request))
            .await
            .unwrap()
    }

    pub(crate) async fn get(&mut self, path: &str) -> Response<Incoming> {
        self.send(request("GET", path, "good", empty())).await
    }

    /// Disappears, in the middle of whatever goes on.
    pub(crate) fn vanish(self) {
        self.connection.abort();
    }
}

pub(crate) fn request(method: &str, path: &str, token: &str, body: Body) -> Request<Body> {
    Request::builder()
        .method(method)
        .uri(path)
        .header("host", "kas.example.com")
        .header("authorization", format!("Bearer pat:{AGENT}:{token}"))
        .body(body)
        .unwrap()
}

pub(crate) fn empty() -> Body {
    Empty::new().map_err(|never| match never {}).boxed()
}

pub(crate) fn full(bytes: impl Into<Bytes>) -> Body {
    Full::new(bytes.into())
        .map_err(|never| match never {})
        .boxed()
}

pub(crate) async fn collect(response: Response<Incoming>) -> hyper::Result<Bytes> {
    let body = tokio::time::timeout(LONG, response.into_body().collect())
        .await
        .unwrap();
    Ok(body?.to_bytes())
}

/// Status and message of an error.
pub(crate) async fn failure(response: Response<Incoming>) -> (StatusCode, String) {
    let code = response.status();
    let body: serde_json::Value =
        serde_json::from_slice(&collect(response).await.unwrap()).unwrap();
    assert_eq!(body["kind"], "Status");
    assert_eq!(body["code"], code.as_u16());
    (code, body["message"].as_str().unwrap().to_owned())
}

/// Lets tokens in by their names.
#[derive(Debug)]
struct Tokens {
    changes: watch::Sender<u64>,
    /// Whether the token `once` was let in.
    spent: AtomicBool,
}

impl Default for Tokens {
    fn default() -> Self {
        Self {
            changes: watch::Sender::new(0),
            spent: AtomicBool::new(false),
        }
    }
}

impl ControlPlane for Tokens {
    fn agent_by_token<'a>(
        &'a self,
        _: &'a Token,
    ) -> BoxFuture<'a, Result<Arc<AgentInfo>, AuthError>> {
        Box::pin(async { Err(AuthError::UnknownToken) })
    }

    fn agent(&self, _: AgentId) -> BoxFuture<'_, Option<Arc<AgentInfo>>> {
        Box::pin(async { None })
    }

    fn authorize<'a>(
        &'a self,
        credentials: &'a Credentials,
        agent: AgentId,
    ) -> BoxFuture<'a, Result<Access, DenyReason>> {
        Box::pin(async move {
            let token = match credentials {
                Credentials::Ci { token }
                | Credentials::Pat { token }
                | Credentials::Oidc { token } => token,
                Credentials::Session { access_key, .. } => access_key,
            };
            let impersonation = match token.expose() {
                "good" => None,
                "once" if !self.spent.swap(true, Ordering::Relaxed) => None,
                "joe" => Some(ImpersonationConfig {
                    username: "joe".into(),
                    ..Default::default()
                }),
                "stranger" => {
                    let who = Identity {
                        kind: IdentityKind::User,
                        name: "stranger".into(),
                    };
                    let agent = "agent-7".into();
                    return Err(DenyReason::NotAllowed { who, agent });
                }
                "lost" => return Err(DenyReason::UnknownAgent { agent }),
                "late" => return Err(DenyReason::Unavailable("asleep".into())),
                _ => return Err(DenyReason::BadToken),
            };
            let agent = AgentInfo {
                id: agent,
                name: format!("agent-{agent}"),
                project_id: 0,
                project_path: String::new(),
                default_branch: String::new(),
            };
            let identity = Identity {
                kind: IdentityKind::User,
                name: token.expose().to_owned(),
            };
            Ok(Access {
                agent: Arc::new(agent),
                identity,
                user_id: 0,
                impersonation,
                basis: Basis::default(),
            })
        })
    }

    fn configuration(&self, _: AgentId, _: &str) -> Option<watch::Receiver<Configuration>> {
        None
    }

    fn revision(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn known_agents(&self) -> Vec<Arc<AgentInfo>> {
        Vec::new()
    }
}

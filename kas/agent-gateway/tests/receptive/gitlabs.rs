//! GitLab's form of receptive agents from both ends, as far as it is known: an agent that knows tunnels only, sound or
//! hostile, and a kas that opens them and does not know our own form.

use std::{
    path::Path,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, HeaderValue, Request, Uri, header};
use proto::{
    agent::{
        prototool::Values,
        reverse_tunnel::{
            info::{AgentDescriptor, Method, Service},
            rpc::{self, ConnectResponse, RequestInfo, connect_response::Msg},
        },
    },
    frame::{Frame, FrameBuilder, Payload},
    metadata::Meta,
};
use runtime::{
    grpc::{
        SendRequest, SendResponse, ServerConnection, client_settings, deframer, first_message,
        message, refuse, response_headers, server_settings,
    },
    io::ByteStream,
    jwt::{CheckingKey, SigningKey},
    tunnel::{framed_descriptor, open},
};
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use tonic::Status;

pub(crate) const CONNECT: &str = runtime::tunnel::PATH;
const CONFIGURATION: &str =
    "/gitlab.agent.agent_configuration.rpc.AgentConfiguration/GetConfiguration";
const KUBERNETES_API: &str = "/gitlab.agent.kubernetes_api.rpc.KubernetesApi/MakeRequest";
/// Tunnels that a hostile agent sees before it has tried enough.
const ENOUGH: usize = 40;
/// How long one that ends tunnels is watched.
const WATCHED: Duration = Duration::from_secs(5);

/// What an agent does with tunnels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Behaviour {
    /// Opens a tunnel of its own through each of the first two.
    Sound,
    EndsAtOnce,
    CallsNonsense,
    /// Begins calls whose messages never come.
    TakesAll,
    HugeMetadata,
}

/// An agent that waits for tunnels.
pub(crate) struct AgentDouble {
    seen: Arc<Seen>,
    _running: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Seen {
    attaches: AtomicUsize,
    tunnels: AtomicUsize,
    open: AtomicUsize,
    most: AtomicUsize,
    done: AtomicBool,
}

impl AgentDouble {
    pub(crate) async fn start(
        port: u16,
        token: &str,
        public_key: &Path,
        behaviour: Behaviour,
    ) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", port)).await.unwrap();
        let key = std::fs::read_to_string(public_key).unwrap();
        let key = Arc::new(CheckingKey::parse(&key).unwrap());
        let seen = Arc::new(Seen::default());
        let (token, shared) = (token.to_owned(), seen.clone());
        let running = async move {
            let mut connections = JoinSet::new();
            loop {
                let (socket, _) = listener.accept().await.unwrap();
                let io = ByteStream::from(socket);
                let (token, key) = (token.clone(), key.clone());
                connections.spawn(converse(io, token, key, shared.clone(), behaviour));
            }
        };
        if behaviour == Behaviour::EndsAtOnce {
            let seen = seen.clone();
            tokio::spawn(async move {
                tokio::time::sleep(WATCHED).await;
                seen.done.store(true, Relaxed);
            });
        }
        Self {
            seen,
            _running: AbortOnDropHandle::new(tokio::spawn(running)),
        }
    }

    /// How often it was asked for our own form.
    pub(crate) fn attaches(&self) -> usize {
        self.seen.attaches.load(Relaxed)
    }

    pub(crate) fn tunnels(&self) -> usize {
        self.seen.tunnels.load(Relaxed)
    }

    pub(crate) fn most_tunnels(&self) -> usize {
        self.seen.most.load(Relaxed)
    }

    /// Whether it has tried enough.
    pub(crate) fn is_done(&self) -> bool {
        self.seen.done.load(Relaxed)
    }
}

async fn converse(
    io: ByteStream,
    token: String,
    key: Arc<CheckingKey>,
    seen: Arc<Seen>,
    behaviour: Behaviour,
) {
    let mut http2: ServerConnection<_> = server_settings().handshake(io).await.unwrap();
    let mut tunnels = JoinSet::new();
    while let Some(Ok((request, respond))) = http2.accept().await {
        if request.uri().path() != CONNECT {
            seen.attaches.fetch_add(1, Relaxed);
            let unknown = Status::unimplemented("unknown service");
            drop(refuse(respond, &unknown));
            continue;
        }
        let shown = runtime::grpc::bearer(request.headers()).unwrap();
        key.verify(shown, "gitlab-kas", "gitlab-agent").unwrap();
        let number = seen.tunnels.fetch_add(1, Relaxed);
        let (token, seen) = (token.clone(), seen.clone());
        tunnels.spawn(async move {
            let open = seen.open.fetch_add(1, Relaxed) + 1;
            seen.most.fetch_max(open, Relaxed);
            serve(request, respond, &token, number, &seen, behaviour).await;
            seen.open.fetch_sub(1, Relaxed);
        });
    }
}

async fn serve(
    request: Request<h2::RecvStream>,
    mut respond: SendResponse,
    token: &str,
    number: usize,
    seen: &Seen,
    behaviour: Behaviour,
) {
    let (head, mut recv) = request.into_parts();
    let mut deframer = deframer(&head.headers, 1 << 20).unwrap();
    let descriptor = first_message(&mut recv, &mut deframer).await.unwrap();
    let offered = runtime::tunnel::methods(descriptor).unwrap();
    assert!(offered.iter().any(|it| it == CONFIGURATION), "{offered:?}");
    if behaviour == Behaviour::EndsAtOnce {
        // A call by the first shows who it is; after that it wants none.
        if number > 0 {
            return drop(refuse(respond, &Status::ok("")));
        }
    }
    if behaviour == Behaviour::Sound && number >= 2 {
        std::future::pending::<()>().await;
    }
    let mut meta = Meta::from([(
        "authorization".to_owned(),
        values(format!("Bearer {token}")),
    )]);
    let method = match behaviour {
        Behaviour::CallsNonsense if number > 0 => "no path \u{1}",
        Behaviour::TakesAll if number > 0 => CONFIGURATION,
        _ => CONNECT,
    };
    if behaviour == Behaviour::HugeMetadata && number > 0 {
        meta.insert("x".to_owned(), values("v".repeat(1 << 20)));
    }
    let Ok(mut send) = respond.send_response(response_headers(), false) else {
        return;
    };
    let info = ConnectResponse {
        msg: Some(Msg::RequestInfo(RequestInfo {
            method_name: method.to_owned(),
            meta,
        })),
    };
    let mut frame = FrameBuilder::default().message(&info);
    if method == CONNECT {
        let mut framed = framed_descriptor(descriptor_of(&[KUBERNETES_API]));
        let body = framed.split_off(5);
        let payload = Payload {
            head: Bytes::new(),
            body,
        };
        frame = frame.nested(&[2, 1], payload);
    }
    if send.send_data(frame.build(), false).is_err() {
        return;
    }
    if number >= ENOUGH {
        seen.done.store(true, Relaxed);
    }
    // To the tunnel's end.
    while let Ok(Some(_)) = message(&mut recv, &mut deframer).await {}
}

fn values(value: String) -> Values {
    Values { value: vec![value] }
}

fn descriptor_of(paths: &[&str]) -> AgentDescriptor {
    let services = paths.iter().map(|path| {
        let (service, method) = path.rsplit_once('/').unwrap_or((path, "m"));
        Service {
            name: service.trim_start_matches('/').to_owned(),
            methods: vec![Method {
                name: method.to_owned(),
            }],
        }
    });
    AgentDescriptor {
        services: services.collect(),
    }
}

/// A kas that opens tunnels to an agent, and knows tunnels of agents only.
pub(crate) struct KasDouble {
    heard: Arc<Heard>,
    gone: CancellationToken,
    end: CancellationToken,
    running: AbortOnDropHandle<()>,
}

#[derive(Debug, Default)]
struct Heard {
    open: Mutex<Vec<String>>,
    tokens: Mutex<Vec<String>>,
    calls: AtomicUsize,
    refused: AtomicUsize,
    idle: AtomicUsize,
}

struct Dialled {
    requests: SendRequest,
    key: SigningKey,
    descriptor: Bytes,
    heard: Arc<Heard>,
    gone: CancellationToken,
    end: CancellationToken,
}

impl KasDouble {
    pub(crate) async fn dial(port: u16, private_key: &Path) -> Self {
        Self::offering(
            port,
            private_key,
            [CONNECT, CONFIGURATION].map(str::to_owned).to_vec(),
        )
        .await
    }

    /// The same, where other methods can be called.
    pub(crate) async fn offering(port: u16, private_key: &Path, methods: Vec<String>) -> Self {
        let socket = tests::wait::until("the listener", Duration::from_secs(60), async || {
            tokio::net::TcpStream::connect(("127.0.0.1", port))
                .await
                .ok()
        });
        let io = ByteStream::from(socket.await.unwrap());
        let (requests, http2) = client_settings().handshake(io).await.unwrap();
        let key = std::fs::read_to_string(private_key).unwrap();
        let methods: Vec<_> = methods.iter().map(String::as_str).collect();
        let dialled = Arc::new(Dialled {
            requests,
            key: SigningKey::parse(&key).unwrap(),
            descriptor: framed_descriptor(descriptor_of(&methods)),
            heard: Arc::default(),
            gone: CancellationToken::new(),
            end: CancellationToken::new(),
        });
        let (heard, gone, end) = (
            dialled.heard.clone(),
            dialled.gone.clone(),
            dialled.end.clone(),
        );
        let running = async move {
            let mut tunnels = JoinSet::new();
            for _ in 0..12 {
                tunnels.spawn(dialled.clone().tunnels());
            }
            let _ = http2.await;
        };
        Self {
            heard,
            gone,
            end,
            running: AbortOnDropHandle::new(tokio::spawn(running)),
        }
    }

    /// Calls of a method that are open.
    pub(crate) fn open(&self, method: &str) -> usize {
        let open = self.heard.open.lock().unwrap();
        open.iter().filter(|it| *it == method).count()
    }

    /// Calls that came.
    pub(crate) fn calls(&self) -> usize {
        self.heard.calls.load(Relaxed)
    }

    /// Tunnels that the agent did not take.
    pub(crate) fn refused(&self) -> usize {
        self.heard.refused.load(Relaxed)
    }

    /// What the agent showed.
    pub(crate) fn tokens(&self) -> Vec<String> {
        self.heard.tokens.lock().unwrap().clone()
    }

    /// Ends idle tunnels and opens no more; calls go on.
    pub(crate) fn let_go(&self) {
        self.gone.cancel();
    }

    /// Ends the calls.
    pub(crate) fn end_calls(&self) {
        self.end.cancel();
    }

    /// Waits until all tunnels are idle.
    pub(crate) async fn settled(&self) {
        let settled = async || (self.heard.idle.load(Relaxed) == 12).then_some(());
        let settled = tests::wait::until("idle tunnels", Duration::from_secs(60), settled);
        settled.await.unwrap();
        assert!(!self.running.is_finished());
    }
}

impl Dialled {
    /// Opens tunnels, one after the other.
    fn tunnels(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        async move {
            while !self.gone.is_cancelled() {
                self.tunnel().await;
            }
        }
        .boxed()
    }

    async fn tunnel(&self) {
        let token = self.key.sign("gitlab-kas", "gitlab-agent").unwrap();
        let bearer = HeaderValue::from_str(&format!("Bearer {token}")).unwrap();
        let metadata = HeaderMap::from_iter([(header::AUTHORIZATION, bearer)]);
        let origin = Uri::from_static("http://agent/");
        let (requests, descriptor) = (self.requests.clone(), self.descriptor.clone());
        let Ok((mut inbound, mut outbound)) = open(requests, &origin, metadata, descriptor).await
        else {
            return std::future::pending().await;
        };
        self.heard.idle.fetch_add(1, Relaxed);
        let call = tokio::select! {
            call = inbound.next() => call,
            () = self.gone.cancelled() => return outbound.refuse(),
        };
        self.heard.idle.fetch_sub(1, Relaxed);
        let Ok(Some(Msg::RequestInfo(info))) = call else {
            self.heard.refused.fetch_add(1, Relaxed);
            return tokio::task::yield_now().await;
        };
        self.heard.calls.fetch_add(1, Relaxed);
        let token = info.meta["authorization"].value.join(",");
        self.heard.tokens.lock().unwrap().push(token);
        self.heard
            .open
            .lock()
            .unwrap()
            .push(info.method_name.clone());
        if info.method_name == CONNECT {
            let header = rpc::ConnectRequest {
                msg: Some(rpc::connect_request::Msg::Header(rpc::Header::default())),
            };
            let _ = outbound.send(Frame::message(&header)).await;
            tokio::select! {
                () = async { while let Ok(Some(_)) = inbound.next().await {} } => {}
                () = self.end.cancelled() => {}
            }
        }
        outbound.fail(&Status::unimplemented("not here"));
        let mut open = self.heard.open.lock().unwrap();
        let at = open.iter().position(|it| *it == info.method_name).unwrap();
        open.remove(at);
    }
}

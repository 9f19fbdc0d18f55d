//! Replicas in one process, joined by pipes, and an agent that echoes.

use std::{
    collections::HashMap,
    future::poll_fn,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use cluster_state::{AgentId, Owner, ReplicaId, memory::MemoryStore};
use futures_util::{StreamExt, stream::FuturesUnordered};
use http::Request;
use prost::Message as _;
use proto::{
    agent::reverse_tunnel::rpc::{
        ConnectRequest, ConnectResponse, Header, Message, Trailer, connect_request::Msg,
        connect_response,
    },
    frame::{Deframer, Encoding, Frame, Payload},
};
use router::{
    Call, Need, OpenError, Opening, Registry, Router,
    peers::Peers,
    tunnel::{Offer, Stream},
};
use runtime::{drain::Drain, io::ByteStream};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

pub const METHOD: &str = "/test.Echo/Echo";

type Doors = Arc<Mutex<HashMap<String, Door>>>;

/// Where a replica is dialled, and how often it was.
struct Door {
    sender: mpsc::Sender<tokio::io::DuplexStream>,
    dials: usize,
}

pub struct Replicas {
    pub all: Vec<Replica>,
    pub store: MemoryStore,
    doors: Doors,
}

#[derive(Clone)]
pub struct Replica {
    router: Arc<Router>,
    /// How it leaves its peers.
    drain: Drain,
}

pub fn need() -> Need {
    Need {
        method: METHOD.into(),
        impersonation: false,
        upgrade: false,
        caller: "".into(),
    }
}

pub fn opening(messages: &[&'static [u8]], close: bool) -> Opening {
    let payload = |body: &&'static [u8]| Payload {
        head: Bytes::new(),
        body: Bytes::from_static(body),
    };
    let messages = messages.iter().map(payload).collect();
    Opening {
        method: METHOD.into(),
        meta: HashMap::new(),
        messages,
        close,
        safe: false,
        moves: false,
    }
}

impl Replicas {
    pub fn start(count: usize) -> Self {
        let (store, doors) = (MemoryStore::default(), Doors::default());
        let all = (0..count)
            .map(|n| Replica::start(n, &store, &doors))
            .collect();
        Self { all, store, doors }
    }
}

impl Replicas {
    /// Connections to the replicas, of one who is none.
    pub fn stranger(&self) -> Peers {
        Peers::new(
            dial(self.doors.clone()),
            Arc::new(()),
            CancellationToken::new(),
        )
    }

    /// How often a replica was dialled.
    pub fn dials(&self, number: usize) -> usize {
        self.doors.lock().unwrap()[&url(number)].dials
    }
}

/// Where a replica is reached.
pub fn url(number: usize) -> String {
    format!("grpc://replica-{number}")
}

impl Replica {
    fn start(number: usize, store: &MemoryStore, doors: &Doors) -> Self {
        let url = url(number);
        let me = Owner {
            replica: ReplicaId::new(&format!("replica-{number}")),
            url: url.clone(),
        };
        let table = Arc::new(store.table(me));
        let registry = Registry::new(table.clone());
        let (sender, visitors) = mpsc::channel(8);
        let door = Door { sender, dials: 0 };
        doors.lock().unwrap().insert(url, door);
        let drain = Drain::new();
        tokio::spawn(answer_peers(registry.clone(), visitors, drain.clone()));
        let peers = Peers::new(dial(doors.clone()), Arc::new(()), CancellationToken::new());
        let router = Arc::new(Router::new(registry, table, peers));
        Self { router, drain }
    }

    pub fn registry(&self) -> &Arc<Registry> {
        self.router.registry()
    }

    pub fn drain(&self) -> &Drain {
        &self.drain
    }

    pub async fn open(
        &self,
        agent: AgentId,
        opening: Opening,
        deadline: Instant,
    ) -> Result<Call, OpenError> {
        self.router.open(agent, &need(), &opening, deadline).await
    }

    pub async fn open_as(
        &self,
        agent: AgentId,
        need: &Need,
        opening: Opening,
        deadline: Instant,
    ) -> Result<Call, OpenError> {
        self.router.open(agent, need, &opening, deadline).await
    }

    /// Waits for a tunnel of the agent that has nothing to do.
    pub async fn until_idle(&self, agent: AgentId) {
        let deadline = Instant::now() + Duration::from_secs(60);
        while self.registry().tunnels(agent).idle == 0 {
            assert!(Instant::now() < deadline, "no tunnel became idle");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn dial(doors: Doors) -> router::peers::Dial {
    Arc::new(move |url| {
        let mut doors = doors.lock().unwrap();
        let door = doors.get_mut(&url).map(|door| {
            door.dials += 1;
            door.sender.clone()
        });
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(256 << 10);
            let door = door.ok_or_else(|| std::io::Error::other("no such replica"))?;
            door.send(theirs).await.map_err(std::io::Error::other)?;
            Ok(ByteStream::boxed(ours))
        })
    })
}

async fn answer_peers(
    registry: Arc<Registry>,
    mut visitors: mpsc::Receiver<tokio::io::DuplexStream>,
    drain: Drain,
) {
    while let Some(stream) = visitors.recv().await {
        let (registry, drain) = (registry.clone(), drain.clone());
        tokio::spawn(async move {
            let mut http2 = runtime::grpc::peer_settings()
                .handshake(stream)
                .await
                .unwrap();
            while let Some(Ok((request, respond))) = http2.accept().await {
                let (registry, drain) = (registry.clone(), drain.clone());
                tokio::spawn(async move {
                    router::owner::serve(&registry, request, respond, &drain).await
                });
            }
        });
    }
}

/// What an agent offers that can do everything.
pub fn offer(agent: AgentId) -> Offer {
    Offer {
        agent,
        methods: [METHOD.into()].into(),
        impersonates: true,
        upgrades: true,
    }
}

/// An agent that echoes the messages of a call.
pub struct Agent {
    ends: tokio::sync::Mutex<mpsc::Receiver<String>>,
    connection: tokio::task::JoinHandle<()>,
}

impl Agent {
    pub async fn connect(replica: &Replica, agent: AgentId, tunnels: usize) -> Self {
        let offer = offer(agent);
        Self::offering(replica, offer, tunnels).await
    }

    pub async fn connect_old(replica: &Replica, agent: AgentId, tunnels: usize) -> Self {
        let offer = Offer {
            impersonates: false,
            ..offer(agent)
        };
        Self::offering(replica, offer, tunnels).await
    }

    pub async fn offering(replica: &Replica, offer: Offer, tunnels: usize) -> Self {
        let (ours, theirs) = tokio::io::duplex(256 << 10);
        let agent = offer.agent;
        let registry = replica.registry().clone();
        tokio::spawn(serve_agent(registry.clone(), offer, theirs));
        let (send, connection) = runtime::grpc::client_settings()
            .handshake(ours)
            .await
            .unwrap();
        let connection = tokio::spawn(async move {
            let _ = connection.await;
        });
        let (end, ends) = mpsc::channel(16);
        for _ in 0..tunnels {
            tokio::spawn(echo(send.clone(), end.clone()));
        }
        // A tunnel that somebody waits for may be used up already.
        while registry.tunnels(agent).alive < tunnels && registry.tunnels(agent).last_seen.is_none()
        {
            tokio::task::yield_now().await;
        }
        Self {
            ends: tokio::sync::Mutex::new(ends),
            connection,
        }
    }

    pub async fn next_end(&self) -> String {
        self.ends.lock().await.recv().await.unwrap()
    }

    pub fn cut(&self) {
        self.connection.abort();
    }
}

async fn serve_agent(registry: Arc<Registry>, offer: Offer, stream: tokio::io::DuplexStream) {
    let mut http2: runtime::grpc::ServerConnection<_> = runtime::grpc::server_settings()
        .handshake(stream)
        .await
        .unwrap();
    let mut idle = FuturesUnordered::new();
    loop {
        tokio::select! {
            accepted = http2.accept() => {
                let Some(Ok((request, respond))) = accepted else { break };
                let deframer = Deframer::new(Encoding::Identity);
                let stream = Stream { recv: request.into_body(), deframer, respond };
                idle.push(registry.park(offer.clone(), stream));
            }
            Some(_) = idle.next(), if !idle.is_empty() => {}
        }
    }
}

async fn echo(send: runtime::grpc::SendRequest, end: mpsc::Sender<String>) {
    let mut send = send.ready().await.unwrap();
    let request = Request::post("http://kas/Connect").body(()).unwrap();
    let (response, mut stream) = send.send_request(request, false).unwrap();
    let Ok(response) = response.await else { return };
    let mut recv = response.into_body();
    let mut deframer = Deframer::new(Encoding::Identity);
    loop {
        while let Some(message) = deframer.next_message().unwrap() {
            match ConnectResponse::decode(message).unwrap().msg.unwrap() {
                connect_response::Msg::RequestInfo(info) => {
                    assert_eq!(info.method_name, METHOD);
                    let meta = proto::metadata::raw(info.meta);
                    say(&mut stream, Msg::Header(Header { meta })).await;
                }
                connect_response::Msg::Message(message) => {
                    say(&mut stream, Msg::Message(Message { data: message.data })).await;
                }
                connect_response::Msg::CloseSend(_) => {
                    say(&mut stream, Msg::Trailer(Trailer::default())).await;
                    let _ = stream.send_data(Frame::default(), true);
                }
            }
        }
        match poll_fn(|cx| recv.poll_data(cx)).await {
            Some(Ok(data)) => {
                let _ = recv.flow_control().release_capacity(data.len());
                deframer.push(data);
            }
            Some(Err(_)) => break,
            None => {
                let trailers = recv.trailers().await.ok().flatten().unwrap_or_default();
                let status = tonic::Status::from_header_map(&trailers).map(|status| status.code());
                let text = if status == Some(tonic::Code::Ok) {
                    "ok"
                } else {
                    "cancelled"
                };
                let _ = end.send(text.to_owned()).await;
                return;
            }
        }
    }
    let _ = end.send("broken".to_owned()).await;
}

async fn say(stream: &mut runtime::grpc::SendStream, msg: Msg) {
    let frame = Frame::message(&ConnectRequest { msg: Some(msg) });
    let _ = runtime::grpc::send_frame(stream, frame).await;
}

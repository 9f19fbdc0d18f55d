//! One peer without tunnels, that can be told to refuse, freeze or leave.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicUsize, Ordering},
};

use cluster_state::{AgentId, Owner, ReplicaId, memory::MemoryStore};
use router::{
    Need, Opening, Registry,
    peers::{Peers, TunnelReply, TunnelRequest},
};
use runtime::{drain::Drain, io::ByteStream};
use tokio::{io::DuplexStream, sync::watch, time::Instant};
use tokio_util::sync::CancellationToken;
use tonic::Status;

pub const URL: &str = "grpc://peer:8155";
const AGENT: AgentId = AgentId(42);

/// How the peer behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mood {
    Serves,
    /// Nobody listens.
    Refuses,
    /// Connections are accepted by its kernel, and that is all.
    Frozen,
}

pub struct Peer {
    mood: watch::Sender<Mood>,
    /// Tells the connections of now to send GOAWAY.
    goaway: Mutex<CancellationToken>,
    /// Cuts the connections of now.
    cut: Mutex<CancellationToken>,
    pub dials: AtomicUsize,
    pub open: AtomicUsize,
    registry: Arc<Registry>,
}

impl Peer {
    pub fn start(mood: Mood) -> Arc<Self> {
        let me = Owner {
            replica: ReplicaId::new("peer"),
            url: URL.to_owned(),
        };
        Arc::new(Self {
            mood: watch::Sender::new(mood),
            goaway: Mutex::default(),
            cut: Mutex::default(),
            dials: AtomicUsize::new(0),
            open: AtomicUsize::new(0),
            registry: Registry::new(Arc::new(MemoryStore::default().table(me))),
        })
    }

    pub fn becomes(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    /// Every connection of now is told to end.
    pub fn go_away(&self) {
        std::mem::take(&mut *self.goaway.lock().unwrap()).cancel();
    }

    /// Every connection of now breaks.
    pub fn cut(&self) {
        std::mem::take(&mut *self.cut.lock().unwrap()).cancel();
    }

    pub fn dials(&self) -> usize {
        self.dials.load(Ordering::SeqCst)
    }

    pub fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }

    /// Connections to it.
    pub fn pool(self: &Arc<Self>) -> Peers {
        let peer = self.clone();
        let dial: router::peers::Dial = Arc::new(move |_| {
            let peer = peer.clone();
            Box::pin(async move { peer.dialled() })
        });
        Peers::new(dial, Arc::new(()), CancellationToken::new())
    }

    fn dialled(self: Arc<Self>) -> std::io::Result<ByteStream> {
        self.dials.fetch_add(1, Ordering::SeqCst);
        if *self.mood.borrow() == Mood::Refuses {
            return Err(std::io::Error::other("connection refused"));
        }
        let (theirs, ours) = tokio::io::duplex(256 << 10);
        tokio::spawn(self.connection(ours));
        Ok(ByteStream::boxed(theirs))
    }

    async fn connection(self: Arc<Self>, stream: DuplexStream) {
        let mut mood = self.mood.subscribe();
        let cut = self.cut.lock().unwrap().clone();
        let serving = self.clone().serve(stream);
        let mut serving = std::pin::pin!(serving);
        loop {
            let now = *mood.borrow_and_update();
            tokio::select! {
                biased;
                () = cut.cancelled() => return,
                () = &mut serving, if now != Mood::Frozen => return,
                _ = mood.changed() => {}
            }
        }
    }

    async fn serve(self: Arc<Self>, stream: DuplexStream) {
        let goaway = self.goaway.lock().unwrap().clone();
        let settings = runtime::grpc::peer_settings();
        let Ok(mut http2) = settings.handshake(stream).await else {
            return;
        };
        self.open.fetch_add(1, Ordering::SeqCst);
        let mut leaving = false;
        loop {
            tokio::select! {
                accepted = http2.accept() => {
                    let Some(Ok((request, respond))) = accepted else { break };
                    let registry = self.registry.clone();
                    tokio::spawn(async move { router::owner::serve(&registry, request, respond, &Drain::new()).await });
                }
                () = goaway.cancelled(), if !leaving => {
                    leaving = true;
                    http2.graceful_shutdown();
                }
            }
        }
        self.open.fetch_sub(1, Ordering::SeqCst);
    }
}

fn need(caller: usize) -> Need {
    Need {
        method: "/test.Echo/Echo".into(),
        impersonation: false,
        upgrade: false,
        caller: format!("user:{caller}").into(),
    }
}

/// A request to the peer that stays open, since it has no tunnel.
pub async fn ask(pool: &Peers, caller: usize) -> Result<TunnelRequest, Status> {
    let need = need(caller);
    let opening = Opening {
        method: need.method.clone(),
        meta: Default::default(),
        messages: Vec::new(),
        close: false,
        safe: false,
        moves: false,
    };
    let mut asked = pool.request_tunnel(URL, AGENT, &need, &opening).await?;
    assert_eq!(asked.reply().await?, TunnelReply::NoneYet);
    Ok(asked)
}

/// Waits for something that must come.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let deadline = Instant::now() + std::time::Duration::from_secs(60);
    while !condition() {
        assert!(Instant::now() < deadline, "{what} did not come");
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

//! An agent: tunnels that reconnect as GitLab's agentk does, or as ours.

use std::{
    future::poll_fn,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::Request;
use prost::Message as _;
use proto::{
    agent::reverse_tunnel::rpc::{
        ConnectRequest, ConnectResponse, Header, Message, Trailer, connect_request::Msg,
        connect_response,
    },
    frame::{Deframer, Encoding, Frame},
};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use runtime::grpc::{SendRequest, SendStream};
use tokio::time::{sleep, timeout};

use crate::{
    net::{Link, Place},
    world::World,
};

/// How long dialling may take.
const DIAL: Duration = Duration::from_secs(10);
/// Messages of a big answer, and the size of each.
const BIG: (usize, usize) = (64, 32 << 10);

/// How an agent behaves when it loses a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// One connection; each tunnel backs off for itself, from 1 s to 20 s.
    Go,
    /// Two connections; comes back at once.
    Ours,
}

/// One agent.
pub struct Agent {
    pub id: i64,
    kind: Kind,
    world: Arc<World>,
    rng: Mutex<StdRng>,
}

/// One connection, dialled when it is needed.
struct Channel {
    agent: Arc<Agent>,
    number: usize,
    open: Arc<tokio::sync::Mutex<Option<Open>>>,
    failures: AtomicUsize,
}

#[derive(Clone)]
struct Open {
    send: SendRequest,
    /// Which run of which replica it leads to.
    run: String,
}

/// How a tunnel ended.
enum End {
    /// It carried a call, and another one took its place.
    Served,
    /// It was ended idle.
    InOrder,
    Lost,
}

impl Agent {
    /// An agent that connects and stays.
    pub fn start(world: &Arc<World>, id: i64, kind: Kind, tunnels: usize, seed: u64) {
        let agent = Arc::new(Self {
            id,
            kind,
            world: world.clone(),
            rng: Mutex::new(StdRng::seed_from_u64(seed)),
        });
        let channels = match kind {
            Kind::Go => 1,
            Kind::Ours => 2,
        };
        for number in 0..channels {
            let channel = Arc::new(Channel {
                agent: agent.clone(),
                number,
                open: Arc::default(),
                failures: AtomicUsize::new(0),
            });
            for _ in 0..tunnels.div_ceil(channels) {
                tokio::spawn(channel.clone().tunnel());
            }
        }
    }

    fn backoff(&self, failures: u32) -> Duration {
        let random = self.rng.lock().unwrap().random_range(0.8..1.2);
        match self.kind {
            Kind::Go => {
                let growing = 1.6_f64.powi(i32::try_from(failures).unwrap().min(10));
                Duration::from_secs_f64(growing.min(20.0) * random)
            }
            Kind::Ours => {
                let growing = 50 << failures.min(6);
                Duration::from_millis(growing).mul_f64(random)
            }
        }
    }
}

impl Channel {
    /// Keeps one tunnel idle.
    async fn tunnel(self: Arc<Self>) {
        let mut failures = 0;
        loop {
            let end = match self.connection().await {
                Some(open) => {
                    let channel = self.clone();
                    let taken = move || drop(tokio::spawn(channel.next_tunnel()));
                    self.agent.run_tunnel(open, taken).await
                }
                None => End::Lost,
            };
            match end {
                End::Served => return,
                End::InOrder => failures = 0,
                End::Lost => {
                    sleep(self.agent.backoff(failures)).await;
                    failures += 1;
                }
            }
        }
    }

    /// Another one in the place of one that carries a call.
    fn next_tunnel(self: Arc<Self>) -> std::pin::Pin<Box<dyn Future<Output = ()> + Send>> {
        Box::pin(self.tunnel())
    }

    async fn connection(&self) -> Option<Open> {
        let mut open = self.open.lock().await;
        if let Some(open) = &*open {
            return Some(open.clone());
        }
        let dialled = timeout(DIAL, self.dial()).await.ok().flatten();
        if dialled.is_none() {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        open.clone_from(&dialled);
        dialled
    }

    async fn dial(&self) -> Option<Open> {
        let world = &self.agent.world;
        let random = self.agent.rng.lock().unwrap().random();
        let replica = world.balance(random, true)?;
        let (me, there) = (Place::Agent(self.agent.id), Place::Replica(replica.number));
        let (ours, theirs, link) = world.net.connect(me, there).await;
        // Whoever is there now; it may be another run.
        if replica.stop.is_cancelled() {
            link.cut();
            return None;
        }
        let run = replica.me.replica.to_string();
        tokio::spawn(replica.serve_agent(self.agent.id, theirs));
        let handshake = runtime::grpc::client_settings().handshake(ours);
        let (send, connection) = handshake.await.ok()?;
        world.log(format!(
            "agent {} connects to {run} ({})",
            self.agent.id, self.number
        ));
        tokio::spawn(drive(
            connection,
            self.open.clone(),
            link,
            self.agent.clone(),
        ));
        Some(Open { send, run })
    }
}

async fn drive(
    mut connection: h2::client::Connection<tokio::io::DuplexStream, Frame>,
    open: Arc<tokio::sync::Mutex<Option<Open>>>,
    link: Arc<Link>,
    agent: Arc<Agent>,
) {
    let (every, limit) = match agent.kind {
        Kind::Go => (Duration::from_secs(50), Duration::from_secs(20)),
        Kind::Ours => (Duration::from_secs(10), Duration::from_secs(5)),
    };
    if let Some(mut pings) = connection.ping_pong() {
        tokio::select! {
            biased;
            _ = connection => {}
            () = async {
                loop {
                    sleep(every).await;
                    if !matches!(timeout(limit, pings.ping(h2::Ping::opaque())).await, Ok(Ok(_))) {
                        return;
                    }
                }
            } => {}
        }
    }
    link.cut();
    agent.world.disturbed_agent(agent.id, "lost a connection");
    *open.lock().await = None;
}

impl Agent {
    async fn run_tunnel(&self, open: Open, taken: impl FnOnce()) -> End {
        let mut taken = Some(taken);
        let Ok(mut send) = open.send.ready().await else {
            return End::Lost;
        };
        let request = Request::post("http://kas/Connect").body(()).unwrap();
        let Ok((response, mut stream)) = send.send_request(request, false) else {
            return End::Lost;
        };
        drop(send);
        let Ok(response) = response.await else {
            return End::Lost;
        };
        if response.body().is_end_stream() {
            return End::InOrder;
        }
        let mut recv = response.into_body();
        let mut deframer = Deframer::new(Encoding::Identity);
        loop {
            while let Some(message) = deframer.next_message().unwrap() {
                match ConnectResponse::decode(message).unwrap().msg.unwrap() {
                    connect_response::Msg::RequestInfo(_) => {
                        if let Some(taken) = taken.take() {
                            taken();
                        }
                    }
                    connect_response::Msg::Message(message) => {
                        if self
                            .answer(&mut stream, &message.data, &open.run)
                            .await
                            .is_none()
                        {
                            return lost(&taken);
                        }
                    }
                    connect_response::Msg::CloseSend(_) => {}
                }
            }
            match poll_fn(|cx| recv.poll_data(cx)).await {
                Some(Ok(data)) => {
                    let _ = recv.flow_control().release_capacity(data.len());
                    deframer.push(data);
                }
                Some(Err(_)) => return lost(&taken),
                None if taken.is_some() && recv.trailers().await.is_ok() => return End::InOrder,
                None => return lost(&taken),
            }
        }
    }

    /// Answers a request: `<number> <milliseconds> <big or not>`.
    async fn answer(&self, stream: &mut SendStream, data: &[u8], run: &str) -> Option<()> {
        let text = String::from_utf8_lossy(data).into_owned();
        let mut words = text.split(' ');
        let number: usize = words.next()?.parse().ok()?;
        let millis = words.next()?.parse().ok()?;
        let big = words.next()? == "big";
        self.world.delivered(number, self.id, run);
        sleep(Duration::from_millis(millis)).await;
        say(stream, Msg::Header(Header::default())).await?;
        let (count, size) = if big { BIG } else { (1, 16) };
        for _ in 0..count {
            let data = Bytes::from(vec![b'x'; size]);
            say(stream, Msg::Message(Message { data })).await?;
        }
        say(stream, Msg::Trailer(Trailer::default())).await?;
        stream.send_data(Frame::default(), true).ok()
    }
}

/// Who was called has a successor already.
fn lost<T>(taken: &Option<T>) -> End {
    if taken.is_some() {
        End::Lost
    } else {
        End::Served
    }
}

async fn say(stream: &mut SendStream, msg: Msg) -> Option<()> {
    let frame = Frame::message(&ConnectRequest { msg: Some(msg) });
    runtime::grpc::send_frame(stream, frame).await.ok()
}

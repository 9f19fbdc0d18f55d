//! Users: requests at a steady rate, whatever becomes of the earlier ones, and what became of each.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tests::counting_api::CountingApi;
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};

use crate::fleet::{Agent, Kind};

/// One request in so many is a POST, to an agent whose API counts.
const POST_EACH: u64 = 10;
/// Requests that may be under way; more than the longest hold can gather.
const AT_ONCE: usize = 30_000;
/// How long one request may take: longer than kas holds it.
const LIMIT: Duration = Duration::from_secs(90);
/// How often a GET goes to another replica when its own connection broke before an answer.
const CLIENT_TRIES: u64 = 5;
const BODY: usize = 4096;

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// As it should be.
    Good,
    /// A POST that may or may not have been carried out, and says so.
    Unknown,
    /// Anything else.
    Failed(String),
}

/// One request that is over.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) started: Instant,
    pub(crate) took: Duration,
    pub(crate) kind: Kind,
    pub(crate) safe: bool,
    /// How often the client itself had to ask another replica, since its own connection broke.
    pub(crate) client_retries: u64,
    pub(crate) outcome: Outcome,
}

/// Users that go on until they are told to stop.
#[derive(Debug)]
pub(crate) struct Traffic {
    shared: Arc<Shared>,
    stop: watch::Sender<bool>,
    running: tokio::task::JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    client: Client<HttpConnector, Full<Bytes>>,
    users: Vec<u16>,
    agents: Vec<Agent>,
    counting: Vec<usize>,
    bearer: String,
    api: Arc<CountingApi>,
    turn: AtomicU64,
    samples: Mutex<Vec<Sample>>,
    room: Arc<Semaphore>,
}

impl Traffic {
    /// Starts sending `rate` requests a second to all agents through all replicas.
    pub(crate) fn start(
        rate: u32,
        users: Vec<u16>,
        agents: Vec<Agent>,
        user_token: &str,
        api: Arc<CountingApi>,
    ) -> Self {
        let counting = (0..agents.len()).filter(|index| agents[*index].kind.counts());
        let shared = Arc::new(Shared {
            client: Client::builder(TokioExecutor::new()).build_http(),
            counting: counting.collect(),
            users,
            agents,
            bearer: user_token.to_owned(),
            api,
            turn: AtomicU64::new(0),
            samples: Mutex::default(),
            room: Arc::new(Semaphore::new(AT_ONCE)),
        });
        let (stop, stopped) = watch::channel(false);
        let running = tokio::spawn(shared.clone().run(rate, stopped));
        Self {
            shared,
            stop,
            running,
        }
    }

    /// Requests that are over so far.
    pub(crate) fn over(&self) -> usize {
        self.shared.lock().len()
    }

    /// Stops sending, waits for what is under way, and gives all that became of it.
    pub(crate) async fn stop(self) -> Vec<Sample> {
        self.stop.send_replace(true);
        self.running.await.expect("no request panics");
        std::mem::take(&mut *self.shared.lock())
    }
}

impl Shared {
    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>, rate: u32, mut stopped: watch::Receiver<bool>) {
        let mut ticks = interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
        let mut requests = JoinSet::new();
        loop {
            tokio::select! {
                _ = ticks.tick() => {
                    let Ok(room) = self.room.clone().try_acquire_owned() else { continue };
                    let shared = self.clone();
                    requests.spawn(async move {
                        shared.one().await;
                        drop(room);
                    });
                }
                Some(over) = requests.join_next(), if !requests.is_empty() => over.expect("no request panics"),
                _ = stopped.changed() => break,
            }
        }
        while let Some(over) = requests.join_next().await {
            over.expect("no request panics");
        }
    }

    async fn one(&self) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let started = Instant::now();
        let (kind, safe, client_retries, outcome) =
            if turn.is_multiple_of(POST_EACH) && !self.counting.is_empty() {
                let index = (turn / POST_EACH) as usize % self.counting.len();
                let agent = &self.agents[self.counting[index]];
                (agent.kind, false, 0, self.post(agent, turn).await)
            } else {
                let agent = &self.agents[turn as usize % self.agents.len()];
                let (retries, outcome) = self.get(agent, turn).await;
                (agent.kind, true, retries, outcome)
            };
        let took = started.elapsed();
        self.lock().push(Sample {
            started,
            took,
            kind,
            safe,
            client_retries,
            outcome,
        });
    }

    /// A GET; asked again elsewhere when the client's own connection broke before an answer.
    async fn get(&self, agent: &Agent, turn: u64) -> (u64, Outcome) {
        let path = format!("/json/{BODY}");
        let mut retries = 0;
        loop {
            let outcome = match self.send(Method::GET, agent, &path, turn + retries).await {
                Ok((StatusCode::OK, body)) => check(agent.kind, &body),
                Ok((status, body)) => answer(status, &body),
                Err(Broken::BeforeAnswer(_)) if retries < CLIENT_TRIES => {
                    retries += 1;
                    continue;
                }
                Err(Broken::BeforeAnswer(why) | Broken::InAnswer(why)) => Outcome::Failed(why),
            };
            return (retries, outcome);
        }
    }

    /// A POST, which is never sent twice.
    async fn post(&self, agent: &Agent, turn: u64) -> Outcome {
        let path = format!("/once/{turn}");
        match self
            .send(Method::POST, agent, &path, turn / POST_EACH)
            .await
        {
            Ok((StatusCode::OK, _)) if self.api.posted(&path) == 1 => Outcome::Good,
            Ok((StatusCode::OK, _)) => Outcome::Failed(format!(
                "it was carried out {} times",
                self.api.posted(&path)
            )),
            // The client cannot know, when its connection breaks or kas says so.
            Ok((StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT, body))
                if String::from_utf8_lossy(&body).contains("outcome is unknown") =>
            {
                Outcome::Unknown
            }
            Ok((status, body)) => answer(status, &body),
            Err(_) => Outcome::Unknown,
        }
    }

    async fn send(
        &self,
        method: Method,
        agent: &Agent,
        path: &str,
        turn: u64,
    ) -> Result<(StatusCode, Bytes), Broken> {
        let port = self.users[turn as usize % self.users.len()];
        let request = Request::builder()
            .method(method)
            .uri(format!("http://127.0.0.1:{port}/k8s-proxy{path}"))
            .header(
                "authorization",
                format!("Bearer pat:{}:{}", agent.id, self.bearer),
            )
            .body(Full::default())
            .expect("its parts are valid");
        let exchange = async {
            let answered = self.client.request(request).await;
            let answered = answered.map_err(|error| Broken::BeforeAnswer(chain(&error)))?;
            let status = answered.status();
            let body = answered.into_body().collect().await;
            let body = body.map_err(|error| Broken::InAnswer(chain(&error)))?;
            Ok((status, body.to_bytes()))
        };
        match timeout(LIMIT, exchange).await {
            Ok(answer) => answer,
            Err(_) => Err(Broken::InAnswer(format!("no answer within {LIMIT:?}"))),
        }
    }
}

/// Whether a body is whole, and from this kind of agent.
fn check(kind: Kind, body: &[u8]) -> Outcome {
    let right = if kind.counts() {
        body.iter().all(|byte| *byte == b'x')
    } else {
        serde_json::from_slice(body).is_ok_and(|body: serde_json::Value| body["kind"] == "LoadTest")
    };
    if right && body.len() == BODY {
        return Outcome::Good;
    }
    Outcome::Failed(format!("{} bytes of a wrong body", body.len()))
}

/// The client's own connection, not the agent's.
enum Broken {
    BeforeAnswer(String),
    InAnswer(String),
}

fn answer(status: StatusCode, body: &[u8]) -> Outcome {
    let text = String::from_utf8_lossy(&body[..body.len().min(300)]).into_owned();
    Outcome::Failed(format!("{status}: {text}"))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

//! Users: requests at a steady rate, whatever becomes of the earlier ones, watches besides, and what
//! became of each.

mod ask;
mod follow;

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval},
};

use crate::fleet::{Agent, Apis, Kind};

/// Requests that may be under way, as those of so many seconds: more than gather in any fault that stops all. What a
/// busy machine does not manage is not asked, or it would pile up until kas refuses what is more than one caller's.
const AT_ONCE_SECONDS: usize = 16;
/// Separate users: each has connections of its own.
const USERS: usize = 8;
/// Agents of each kind that are watched all the time.
const WATCHED: usize = 4;

/// What is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum What {
    /// A short answer.
    Get,
    /// The same, but the API takes its time.
    SlowGet,
    /// An answer of several pieces.
    List,
    /// What must happen once.
    Post,
    /// The same, but the API takes its time.
    SlowPost,
    /// An event of a watch that goes on all the time.
    Event,
    /// A watch that the client had to begin again, where it was.
    Watch,
}

impl What {
    /// How requests are mixed.
    fn of(turn: u64) -> Self {
        match turn % 100 {
            0 => Self::SlowPost,
            post if post % 10 == 0 => Self::Post,
            slow if slow % 20 == 5 => Self::SlowGet,
            list if list % 25 == 7 => Self::List,
            _ => Self::Get,
        }
    }

    pub(crate) fn is_post(self) -> bool {
        matches!(self, Self::Post | Self::SlowPost)
    }
}

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

/// One request that is over, or an event that came.
#[derive(Debug, Clone)]
pub(crate) struct Sample {
    pub(crate) started: Instant,
    pub(crate) took: Duration,
    pub(crate) kind: Kind,
    pub(crate) what: What,
    /// How often the client itself had to ask again, since its own connection broke before an answer.
    pub(crate) client_retries: u64,
    /// How often the client had to ask again for a long answer that broke off, and said so.
    pub(crate) broke_off: u64,
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
    clients: Vec<Client<HttpConnector, Full<Bytes>>>,
    port: u16,
    agents: Vec<Agent>,
    bearer: String,
    apis: Apis,
    turn: AtomicU64,
    samples: Mutex<Vec<Sample>>,
    room: Arc<Semaphore>,
}

impl Traffic {
    /// Starts sending `rate` requests a second to all agents, by this port.
    pub(crate) fn start(
        rate: u32,
        port: u16,
        agents: Vec<Agent>,
        user_token: &str,
        apis: Apis,
    ) -> Self {
        let client = || Client::builder(TokioExecutor::new()).build_http();
        let shared = Arc::new(Shared {
            clients: (0..USERS).map(|_| client()).collect(),
            port,
            agents,
            bearer: user_token.to_owned(),
            apis,
            turn: AtomicU64::new(0),
            samples: Mutex::default(),
            room: Arc::new(Semaphore::new(rate as usize * AT_ONCE_SECONDS)),
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
        let samples = self.shared.samples();
        samples.iter().filter(|it| it.what != What::Event).count()
    }

    /// Stops sending, waits for what is under way, and gives all that became of it.
    pub(crate) async fn stop(self) -> Vec<Sample> {
        self.stop.send_replace(true);
        self.running.await.expect("no request panics");
        std::mem::take(&mut *self.shared.samples())
    }
}

impl Shared {
    fn samples(&self) -> std::sync::MutexGuard<'_, Vec<Sample>> {
        self.samples.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn run(self: Arc<Self>, rate: u32, mut stopped: watch::Receiver<bool>) {
        let mut ticks = interval(Duration::from_secs(1) / rate);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut requests = JoinSet::new();
        for agent in self.watched() {
            requests.spawn(self.clone().follow(agent, stopped.clone()));
        }
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

    /// The last agents of each kind: the first get more pods, which is another matter.
    fn watched(&self) -> Vec<Agent> {
        let of = |kind| self.agents.iter().rev().filter(move |it| it.kind == kind);
        let kinds = Kind::all().into_iter();
        kinds
            .flat_map(|kind| of(kind).take(WATCHED).cloned())
            .collect()
    }

    async fn one(&self) {
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let what = What::of(turn);
        // Each agent is asked everything in the course of time.
        let index = (turn + turn / 100) as usize % self.agents.len();
        let started = Instant::now();
        let sample = self.ask(&self.agents[index], what, turn, started).await;
        self.samples().push(sample);
    }
}

/// Causes of causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

//! Everything in one simulation, and what is known to be true in it.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash as _, Hasher as _},
    sync::{Arc, Mutex},
    time::Duration,
};

use cluster_state::{Liveness, Owner};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use router::peers::Peers;
use runtime::io::ByteStream;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{
    net::{Net, Place},
    replica::Replica,
    store::SimServer,
};

/// One simulation.
pub struct World {
    pub net: Arc<Net>,
    pub store: Arc<SimServer>,
    pub start: Instant,
    rng: Arc<Mutex<StdRng>>,
    runs: Mutex<BTreeMap<usize, Run>>,
    truth: Mutex<Truth>,
}

/// Who is at a replica's place.
struct Run {
    replica: Arc<Replica>,
    /// Whether the load balancer sends new connections to it.
    serving: bool,
}

/// What really happened.
#[derive(Default)]
struct Truth {
    trace: Vec<String>,
    violations: Vec<String>,
    /// Who got which request, through which replica.
    delivered: BTreeMap<usize, Vec<String>>,
    /// When something that matters to all, or to an agent, last went wrong.
    disturbed: Option<Instant>,
    disturbed_agents: BTreeMap<i64, Instant>,
    /// Faults that last.
    ongoing: usize,
    ongoing_agents: BTreeMap<i64, usize>,
}

impl World {
    pub fn new(seed: u64, slowest: u64) -> Arc<Self> {
        Arc::new(Self {
            net: Net::new(seed ^ 1, slowest),
            store: SimServer::new(),
            start: Instant::now(),
            rng: Arc::new(Mutex::new(StdRng::seed_from_u64(seed ^ 2))),
            runs: Mutex::default(),
            truth: Mutex::default(),
        })
    }

    /// Notes what happens.
    pub fn log(&self, text: impl std::fmt::Display) {
        let millis = self.start.elapsed().as_millis();
        let line = format!("{:>7}.{:03} {text}", millis / 1000, millis % 1000);
        self.truth.lock().unwrap().trace.push(line);
    }

    /// Notes that what must not be is.
    pub fn violation(&self, text: impl std::fmt::Display) {
        self.log(format!("VIOLATION: {text}"));
        self.truth.lock().unwrap().violations.push(text.to_string());
    }

    pub fn violations(&self) -> Vec<String> {
        self.truth.lock().unwrap().violations.clone()
    }

    pub fn trace(&self) -> Vec<String> {
        self.truth.lock().unwrap().trace.clone()
    }

    /// The same for two runs only if the same happened in them.
    pub fn fingerprint(&self) -> u64 {
        let mut hasher = DefaultHasher::new();
        self.truth.lock().unwrap().trace.hash(&mut hasher);
        hasher.finish()
    }

    /// Puts a run at its place.
    pub fn install(&self, replica: Arc<Replica>) {
        self.log(format!("{} starts", replica.me.replica));
        let serving = true;
        let number = replica.number;
        self.runs
            .lock()
            .unwrap()
            .insert(number, Run { replica, serving });
    }

    pub fn replica(&self, number: usize) -> Option<Arc<Replica>> {
        let runs = self.runs.lock().unwrap();
        runs.get(&number).map(|run| run.replica.clone())
    }

    /// The runs that have not ended.
    pub fn living(&self) -> Vec<Arc<Replica>> {
        let runs = self.runs.lock().unwrap();
        let living = runs.values().filter(|run| !run.replica.stop.is_cancelled());
        living.map(|run| run.replica.clone()).collect()
    }

    /// The load balancer stops sending to a replica.
    pub fn take_out(&self, number: usize) {
        if let Some(run) = self.runs.lock().unwrap().get_mut(&number) {
            run.serving = false;
        }
    }

    /// Whom the load balancer chooses. It may not have noticed yet who is gone.
    pub fn balance(&self, random: u64, sloppy: bool) -> Option<Arc<Replica>> {
        let runs = self.runs.lock().unwrap();
        let sloppy = sloppy && random.is_multiple_of(16);
        let choice: Vec<_> = runs
            .values()
            .filter(|run| sloppy || (run.serving && !run.replica.stop.is_cancelled()))
            .collect();
        let index = usize::try_from(random / 16).unwrap_or(0) % choice.len().max(1);
        choice.get(index).map(|run| run.replica.clone())
    }

    /// What a probe by `me` finds at the address of this run of another replica.
    pub async fn probe(self: &Arc<Self>, me: usize, other: &Owner) -> Liveness {
        let number = number(&other.url);
        let (_, _, link) = self
            .net
            .connect(Place::Replica(me), Place::Replica(number))
            .await;
        link.cut();
        let there = self.replica(number);
        match there {
            Some(it) if it.me.replica == other.replica && !it.stop.is_cancelled() => {
                Liveness::Alive
            }
            Some(_) | None => Liveness::Gone,
        }
    }

    /// The connections of a replica to the others.
    pub fn peers(self: &Arc<Self>, me: usize, stop: CancellationToken) -> Peers {
        let world = self.clone();
        let rng = self.rng.clone();
        let dial = move |url: String| {
            let world = world.clone();
            let number = number(&url);
            let dialled = async move {
                let ends = (Place::Replica(me), Place::Replica(number));
                let (ours, theirs, link) = world.net.connect(ends.0, ends.1).await;
                match world.replica(number) {
                    Some(replica) if !replica.stop.is_cancelled() => {
                        tokio::spawn(replica.serve_peer(theirs));
                        Ok(ByteStream::boxed(ours))
                    }
                    _ => {
                        link.cut();
                        Err(std::io::ErrorKind::ConnectionRefused.into())
                    }
                }
            };
            Box::pin(dialled) as std::pin::Pin<Box<dyn Future<Output = _> + Send>>
        };
        Peers::new(Arc::new(dial), Arc::new(()), stop)
            .with_random(Arc::new(move || rng.lock().unwrap().random()))
    }

    /// An agent got a request.
    pub fn delivered(&self, request: usize, agent: i64, run: &str) {
        self.log(format!(
            "request {request} reaches agent {agent} through {run}"
        ));
        let mut truth = self.truth.lock().unwrap();
        truth
            .delivered
            .entry(request)
            .or_default()
            .push(run.to_owned());
    }

    pub fn deliveries(&self, request: usize) -> usize {
        let truth = self.truth.lock().unwrap();
        truth.delivered.get(&request).map_or(0, Vec::len)
    }

    /// Something that concerns all went wrong, or just healed.
    pub fn disturbed(&self) {
        self.truth.lock().unwrap().disturbed = Some(Instant::now());
    }

    pub fn disturbed_agent(&self, agent: i64, what: &str) {
        self.log(format!("agent {agent} {what}"));
        let mut truth = self.truth.lock().unwrap();
        truth.disturbed_agents.insert(agent, Instant::now());
    }

    /// A fault that lasts begins (+1) or ends (-1).
    pub fn lasting(&self, begins: bool) {
        self.disturbed();
        let mut truth = self.truth.lock().unwrap();
        truth.ongoing = if begins {
            truth.ongoing + 1
        } else {
            truth.ongoing - 1
        };
    }

    pub fn lasting_for(&self, agent: i64, begins: bool) {
        let mut truth = self.truth.lock().unwrap();
        truth.disturbed_agents.insert(agent, Instant::now());
        let ongoing = truth.ongoing_agents.entry(agent).or_default();
        *ongoing = if begins { *ongoing + 1 } else { *ongoing - 1 };
    }

    /// For how long nothing went wrong that concerns requests to the agent.
    pub fn calm(&self, agent: i64) -> Duration {
        let holes = self.net.links_of(Place::Agent(agent));
        let truth = self.truth.lock().unwrap();
        let ongoing = truth.ongoing + truth.ongoing_agents.get(&agent).copied().unwrap_or(0);
        if ongoing > 0 || holes.iter().any(|link| link.is_hole()) {
            return Duration::ZERO;
        }
        let last = truth.disturbed.into_iter();
        let last = last
            .chain(truth.disturbed_agents.get(&agent).copied())
            .max();
        last.unwrap_or(self.start).elapsed()
    }
}

/// The number in a replica's URL.
fn number(url: &str) -> usize {
    url.trim_start_matches("grpc://r").parse().unwrap()
}

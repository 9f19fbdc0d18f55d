//! One simulation from its seed to its verdict.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use cluster_state::{AgentId, ReplicaId, RoutingTable as _};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, sleep_until},
};

use crate::{
    agent::{Agent, Kind},
    faults::{self, Fault, Planned},
    net::Place,
    replica::{BUDGET, Replica, UNIX},
    request::Request,
    store::Mood,
    world::World,
};

/// Faults strike between these times after the start.
const STORM: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(45));
/// Requests come until then.
const REQUESTS: Duration = Duration::from_secs(120);
/// How long after all that the table may take to be true.
const SETTLE: Duration = Duration::from_secs(120);
/// How long a replica may be taken for an owner after its end: until its lease
/// has expired for all readers, and the store was read again.
const FORGOTTEN: Duration = Duration::from_secs(40);
/// How long a replica may know nothing of another's lease.
const UNJUDGED: Duration = Duration::from_secs(12);
const REQUESTS_EACH: std::ops::Range<usize> = 40..100;

/// What a seed stands for.
#[derive(Debug, Clone)]
pub struct Scenario {
    pub seed: u64,
    pub replicas: usize,
    pub agents: Vec<(Kind, usize)>,
    pub slowest: u64,
    pub faults: Vec<Planned>,
    pub requests: Vec<Request>,
}

/// How a simulation went.
pub struct Verdict {
    pub fingerprint: u64,
    pub violations: Vec<String>,
    pub trace: Vec<String>,
}

impl Scenario {
    pub fn draw(seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let replicas = rng.random_range(3..=5);
        let count = rng.random_range(2..=6);
        let agents: Vec<_> = (0..count)
            .map(|_| {
                let kind = if rng.random() { Kind::Go } else { Kind::Ours };
                (kind, rng.random_range(2..=4))
            })
            .collect();
        let slowest = if rng.random() { 3 } else { 60 };
        let faults = faults::plan(&mut rng, replicas, count, STORM);
        let number = rng.random_range(REQUESTS_EACH);
        let requests = (0..number)
            .map(|number| Request::draw(&mut rng, number, count, REQUESTS))
            .collect();
        Self {
            seed,
            replicas,
            agents,
            slowest,
            faults,
            requests,
        }
    }

    /// Runs it, in a runtime of its own.
    pub fn run(&self) -> Verdict {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(self.play())
    }

    async fn play(&self) -> Verdict {
        let world = World::new(self.seed, self.slowest);
        let clock = tokio::spawn(tick(world.clone()));
        for number in 0..self.replicas {
            world.install(Replica::start(&world, number, 0));
        }
        for (index, (kind, tunnels)) in self.agents.iter().enumerate() {
            let id = i64::try_from(index).unwrap() + 1;
            Agent::start(
                &world,
                id,
                *kind,
                *tunnels,
                self.seed ^ (100 + index as u64),
            );
        }
        let mut tasks = JoinSet::new();
        for request in &self.requests {
            tasks.spawn(request.run(world.clone()));
        }
        for (at, fault) in &self.faults {
            tasks.spawn(strike(world.clone(), *at, *fault));
        }
        while let Some(ended) = tasks.join_next().await {
            if let Err(error) = ended {
                world.violation(format!("a task panicked: {error}"));
            }
        }
        sleep_until(world.start + REQUESTS).await;
        self.settle(&world).await;
        clock.abort();
        Verdict {
            fingerprint: world.fingerprint(),
            violations: world.violations(),
            trace: world.trace(),
        }
    }

    /// Waits until the store's table is the truth.
    async fn settle(&self, world: &World) {
        let deadline = Instant::now() + SETTLE;
        loop {
            // Dead replicas' entries go when somebody asks for the agent.
            for replica in world.living() {
                for agent in self.agent_ids() {
                    replica.table.owners(AgentId(agent)).await;
                }
            }
            sleep(Duration::from_secs(2)).await;
            let Some(wrong) = self.wrong(world) else {
                return;
            };
            if Instant::now() >= deadline {
                return world.violation(format!("the table is not the truth: {wrong}"));
            }
        }
    }

    fn wrong(&self, world: &World) -> Option<String> {
        let contents = world.store.contents();
        let living = world.living();
        let ids: BTreeSet<_> = living.iter().map(|it| it.me.replica.clone()).collect();
        let leases: BTreeSet<ReplicaId> = contents.leases.keys().cloned().collect();
        if leases != ids {
            return Some(format!("leases of {leases:?}, and {ids:?} live"));
        }
        for agent in self.agent_ids().map(AgentId) {
            let holds = living
                .iter()
                .filter(|it| it.registry().tunnels(agent).alive > 0);
            let truth: BTreeSet<_> = holds.map(|it| it.me.replica.clone()).collect();
            let record = contents.records.get(&agent);
            let owners = record.iter().flat_map(|record| &record.owners);
            let owners: BTreeSet<_> = owners.map(|owner| owner.replica.clone()).collect();
            if owners != truth {
                return Some(format!(
                    "agent {agent} is said to be at {owners:?} and is at {truth:?}"
                ));
            }
        }
        None
    }

    fn agent_ids(&self) -> impl Iterator<Item = i64> {
        1..=i64::try_from(self.agents.len()).unwrap()
    }
}

/// Each second: the clock goes on, and what must hold at all times is checked.
async fn tick(world: Arc<World>) {
    let mut ended: BTreeMap<ReplicaId, Instant> = BTreeMap::new();
    let mut known = BTreeSet::new();
    let mut seen = BTreeMap::new();
    let mut cut = BTreeMap::new();
    for second in 0.. {
        UNIX.set(1_000_000 + second);
        let living = world.living();
        let ids: BTreeSet<_> = living.iter().map(|it| it.me.replica.clone()).collect();
        for id in known.difference(&ids) {
            ended.entry(ReplicaId::clone(id)).or_insert(Instant::now());
        }
        known.extend(ids);
        let mut named = BTreeSet::new();
        for replica in &living {
            check_budget(&world, replica);
            if !world.store.is_reached_by(&replica.me.replica) {
                cut.insert(replica.me.replica.clone(), Instant::now());
            }
            let forgotten = ended.iter().filter(|(_, at)| at.elapsed() > FORGOTTEN);
            let forgotten: BTreeSet<_> = forgotten.map(|(id, _)| id.clone()).collect();
            // One that could not read the leases does not know who is gone.
            let last = cut.get(&replica.me.replica);
            let reads = last.is_none_or(|at: &Instant| at.elapsed() > FORGOTTEN);
            if !forgotten.is_empty() && world.calm(0) > FORGOTTEN && reads {
                for dead in named_dead(replica, &forgotten).await {
                    let since = *seen.entry(dead.clone()).or_insert_with(Instant::now);
                    check_epoch(&world, &dead, since);
                    named.insert(dead);
                }
            }
        }
        seen.retain(|dead, _| named.contains(dead));
        sleep_until(world.start + Duration::from_secs(second + 1)).await;
    }
}

/// Who names whom for an owner of which agent.
type Named = (ReplicaId, ReplicaId, i64);

async fn named_dead(replica: &Replica, forgotten: &BTreeSet<ReplicaId>) -> BTreeSet<Named> {
    let mut named = BTreeSet::new();
    for agent in 1..=6 {
        let owners = replica.table.owners(AgentId(agent)).await;
        let owners = owners.into_iter().map(|owner| owner.replica);
        let dead = owners.filter(|owner| forgotten.contains(owner));
        named.extend(dead.map(|dead| (replica.me.replica.clone(), dead, agent)));
    }
    named
}

/// What a replica reads first it cannot judge until it has read the leases again: it may name the dead for so long,
/// without a break.
fn check_epoch(world: &World, (me, dead, agent): &Named, since: Instant) {
    if since.elapsed() > UNJUDGED {
        world.violation(format!(
            "{me} takes {dead}, which is dead, for an owner of agent {agent}"
        ));
    }
}

/// In no span of time may there be more than the burst and the rate allow.
fn check_budget(world: &World, replica: &Replica) {
    let operations = replica.store.operations();
    let span = operations
        .iter()
        .rev()
        .take_while(|at| at.elapsed() <= Duration::from_secs(10));
    let (count, allowed) = (span.count(), (BUDGET.0 * 10 + BUDGET.1) as usize);
    if count > allowed {
        world.violation(format!(
            "{} asked the store {count} times in 10 s",
            replica.me.replica
        ));
    }
}

async fn strike(world: Arc<World>, at: Duration, fault: Fault) {
    sleep(at).await;
    world.log(format!("fault: {fault:?}"));
    match fault {
        Fault::CutAgent(agent) => cut(&world, agent),
        Fault::CutSome(every) => {
            let agents = (1..=6).flat_map(|agent| world.net.links_of(Place::Agent(agent)));
            agents.step_by(every).for_each(|link| link.cut());
        }
        Fault::SwallowAgent(agent) => {
            let links = world.net.links_of(Place::Agent(agent));
            links.iter().for_each(|link| link.swallow());
            world.disturbed_agent(agent, "is behind a black hole");
        }
        Fault::SwallowPeers(a, b) => {
            let links = world.net.links_of(Place::Replica(a));
            let between = links.iter().filter(|link| link.touches(Place::Replica(b)));
            between.for_each(|link| link.swallow());
            world.disturbed();
        }
        Fault::AgentAway(agent, millis) => {
            world.lasting_for(agent, true);
            hold(&world, Place::Agent(agent), Place::Agent(agent), millis).await;
            world.lasting_for(agent, false);
        }
        Fault::Partition(a, b, millis) => {
            let held = hold(&world, Place::Replica(a), Place::Replica(b), millis);
            lasting(&world, held).await;
        }
        Fault::Crash(number, millis) => {
            lasting(&world, restart(&world, number, millis, End::Crash)).await;
        }
        Fault::Vanish(number, millis) => {
            lasting(&world, restart(&world, number, millis, End::Vanish)).await;
        }
        Fault::Drain(number, millis) => {
            lasting(&world, restart(&world, number, millis, End::Drain)).await;
        }
        Fault::Freeze(number, millis) => lasting(&world, freeze(&world, number, millis)).await,
        Fault::StoreStalls(millis) => moody(&world, Mood::Stalls, millis).await,
        Fault::StoreRefuses(millis) => moody(&world, Mood::Refuses, millis).await,
        Fault::StoreSlow(each, millis) => moody(&world, Mood::Slow(each), millis).await,
        Fault::StoreFailsOver(lost) => world.store.fail_over(Duration::from_millis(lost)),
        Fault::StoreEmptied => world.store.empty(),
        Fault::StoreCut(number, millis) => store_cut(&world, number, millis).await,
        Fault::StoreDeaf(number, millis) => lasting(&world, deaf(&world, number, millis)).await,
    }
    world.log(format!("over: {fault:?}"));
}

fn cut(world: &World, agent: i64) {
    let links = world.net.links_of(Place::Agent(agent));
    links.iter().for_each(|link| link.cut());
}

/// Something during which not every request can succeed.
async fn lasting(world: &World, what: impl Future<Output = ()>) {
    world.lasting(true);
    what.await;
    world.lasting(false);
}

async fn hold(world: &World, a: Place, b: Place, millis: u64) {
    world.net.hold(a, b, true);
    sleep(Duration::from_millis(millis)).await;
    world.net.hold(a, b, false);
}

/// The store is never in the way of requests to replicas that are known.
async fn moody(world: &World, mood: Mood, millis: u64) {
    world.store.set_mood(mood);
    sleep(Duration::from_millis(millis)).await;
    world.store.set_mood(Mood::Well);
}

async fn store_cut(world: &World, number: usize, millis: u64) {
    let Some(replica) = world.replica(number) else {
        return;
    };
    world.store.partition(&replica.me.replica, true);
    sleep(Duration::from_millis(millis)).await;
    world.store.partition(&replica.me.replica, false);
}

async fn deaf(world: &World, number: usize, millis: u64) {
    let Some(replica) = world.replica(number) else {
        return;
    };
    world.store.deafen(&replica.me.replica, true);
    sleep(Duration::from_millis(millis)).await;
    world.store.deafen(&replica.me.replica, false);
}

async fn freeze(world: &World, number: usize, millis: u64) {
    let place = Place::Replica(number);
    tokio::join!(
        hold(world, place, place, millis),
        store_cut(world, number, millis)
    );
}

/// How a run ends.
#[derive(PartialEq)]
enum End {
    Crash,
    Vanish,
    Drain,
}

async fn restart(world: &Arc<World>, number: usize, millis: u64, end: End) {
    let others = world
        .living()
        .iter()
        .any(|it| it.number != number && !it.drain.started());
    let Some(replica) = world.replica(number) else {
        return;
    };
    if replica.stop.is_cancelled() || replica.drain.started() || !others {
        return;
    }
    world.take_out(number);
    let links = world.net.links_of(Place::Replica(number));
    match end {
        End::Drain => replica.leave().await,
        End::Vanish => links.iter().for_each(|link| link.swallow()),
        End::Crash => {}
    }
    replica.crash();
    if end != End::Vanish {
        let links = world.net.links_of(Place::Replica(number));
        links.iter().for_each(|link| link.cut());
    }
    world.log(format!("{} has ended", replica.me.replica));
    sleep(Duration::from_millis(millis)).await;
    let run: u32 = replica
        .me
        .replica
        .to_string()
        .rsplit('-')
        .next()
        .unwrap()
        .parse()
        .unwrap();
    world.install(Replica::start(world, number, run + 1));
}

//! What goes wrong, and when: a plan drawn from the seed, which can be made smaller.

use std::time::Duration;

use rand::{Rng as _, rngs::StdRng, seq::IndexedRandom as _};

/// One fault. Those that last heal by themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The load balancer resets all connections of an agent.
    CutAgent(i64),
    /// It resets one in so many of all connections of agents.
    CutSome(usize),
    /// It forgets an agent's connections without telling anybody.
    SwallowAgent(i64),
    /// It forgets those between two replicas.
    SwallowPeers(usize, usize),
    /// An agent reaches no replica.
    AgentAway(i64, u64),
    /// Two replicas do not reach each other.
    Partition(usize, usize, u64),
    StoreStalls(u64),
    StoreRefuses(u64),
    StoreSlow(u64, u64),
    /// A failover loses what was written in the last milliseconds.
    StoreFailsOver(u64),
    StoreEmptied,
    /// A replica does not reach the store.
    StoreCut(usize, u64),
    /// A replica loses the store's reports, and is told so in the end.
    StoreDeaf(usize, u64),
    /// A replica ends at once and is back as another run.
    Crash(usize, u64),
    /// The same with its machine: nobody is told.
    Vanish(usize, u64),
    /// Nothing comes from or to a replica; then all of it.
    Freeze(usize, u64),
    /// A replica leaves in order and is back as another run.
    Drain(usize, u64),
}

/// When a fault strikes, after the start.
pub type Planned = (Duration, Fault);

/// Draws a plan for these numbers of replicas and agents. Faults strike within
/// the `storm`.
pub fn plan(
    rng: &mut StdRng,
    replicas: usize,
    agents: i64,
    storm: (Duration, Duration),
) -> Vec<Planned> {
    let count = rng.random_range(1..=8);
    let kinds: Vec<u32> = (0..rng.random_range(1..=5))
        .map(|_| rng.random_range(0..17))
        .collect();
    let mut plan: Vec<_> = (0..count)
        .map(|_| {
            let at = rng.random_range(storm.0..storm.1);
            let kind = *kinds.choose(rng).unwrap();
            (at, draw(rng, kind, replicas, agents))
        })
        .collect();
    plan.sort_by_key(|(at, _)| *at);
    plan
}

fn draw(rng: &mut StdRng, kind: u32, replicas: usize, agents: i64) -> Fault {
    let agent = rng.random_range(1..=agents);
    let a = rng.random_range(0..replicas);
    let b = (a + rng.random_range(1..replicas)) % replicas;
    let millis = rng.random_range(200..20_000);
    match kind {
        0 => Fault::CutAgent(agent),
        1 => Fault::CutSome(rng.random_range(1..4)),
        2 => Fault::SwallowAgent(agent),
        3 => Fault::SwallowPeers(a, b),
        4 => Fault::AgentAway(agent, millis),
        5 => Fault::Partition(a, b, millis),
        6 => Fault::StoreStalls(millis),
        7 => Fault::StoreRefuses(millis),
        8 => Fault::StoreSlow(rng.random_range(100..2500), millis),
        9 => Fault::StoreFailsOver(rng.random_range(10..2500)),
        10 => Fault::StoreEmptied,
        // Longer than a request is held, so that others must look whether it lives.
        11 => Fault::StoreCut(a, 5 * millis),
        12 => Fault::StoreDeaf(a, millis),
        13 => Fault::Crash(a, millis),
        14 => Fault::Vanish(a, millis),
        15 => Fault::Freeze(a, millis),
        _ => Fault::Drain(a, millis),
    }
}

//! The router under simulated faults, deterministically: what happens follows
//! from the seed alone.
//!
//! `make sim` runs many seeds; CONTRIBUTING.md says how to replay one.

#![allow(
    unreachable_pub,
    clippy::print_stderr,
    clippy::unwrap_used,
    reason = "a test, which reports to whoever runs it"
)]

mod agent;
mod faults;
#[cfg(test)]
mod known;
mod net;
mod replica;
mod request;
mod run;
mod store;
mod world;

use std::sync::atomic::{AtomicU64, Ordering};

use run::{Scenario, Verdict};
use tokio::time::Instant;

const METHOD: &str = "/test.Sim/Do";
/// Seeds that run where nobody asks for more.
const FEW: u64 = 12;

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{name} is no number: {text}")),
    )
}

#[test]
fn requests_find_their_agents_whatever_breaks() {
    if let Some(seed) = number("SIM_SEED") {
        return replay(seed);
    }
    let (first, count) = (
        number("SIM_FIRST").unwrap_or(1),
        number("SIM_SEEDS").unwrap_or(FEW),
    );
    let started = Instant::now();
    let next = AtomicU64::new(first);
    let workers = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let mut failed = Vec::new();
    let mut requests = 0;
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..workers)
            .map(|_| scope.spawn(|| work(&next, first + count)))
            .collect();
        for worker in workers {
            let (seeds, made) = worker.join().expect("a simulation panicked");
            failed.extend(seeds);
            requests += made;
        }
    });
    failed.sort_unstable();
    let seconds = started.elapsed().as_secs_f32();
    eprintln!(
        "simulated {count} seeds from {first} with {requests} requests in {seconds:.1} s: {} failed",
        failed.len()
    );
    if let Some(seed) = failed.first() {
        report(&shrink(Scenario::draw(*seed)));
        panic!("failed seeds: {failed:?}; replay one with: SIM_SEED={seed} make sim");
    }
}

#[test]
fn a_seed_says_all_that_happens() {
    for seed in 1..=3 {
        let runs = [(); 2].map(|()| Scenario::draw(seed).run());
        if runs[0].fingerprint != runs[1].fingerprint {
            let lines = runs[0].trace.iter().zip(&runs[1].trace);
            let differs = lines.enumerate().find(|(_, (a, b))| a != b);
            panic!("seed {seed} differs from itself: {differs:?}");
        }
    }
}

/// Runs seeds until none is left; gives those that failed, and the number of
/// requests made.
fn work(next: &AtomicU64, end: u64) -> (Vec<u64>, usize) {
    let (mut failed, mut requests) = (Vec::new(), 0);
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= end {
            return (failed, requests);
        }
        let scenario = Scenario::draw(seed);
        requests += scenario.requests.len();
        let verdict = scenario.run();
        if !verdict.violations.is_empty() {
            eprintln!("seed {seed}: {}", verdict.violations.join("; "));
            failed.push(seed);
        }
    }
}

/// Runs one seed and shows all of it.
fn replay(seed: u64) {
    let scenario = Scenario::draw(seed);
    let verdict = scenario.run();
    if verdict.violations.is_empty() {
        verdict.trace.iter().for_each(|line| eprintln!("{line}"));
        eprintln!("seed {seed}: nothing is wrong");
        return;
    }
    report(&shrink(scenario));
    panic!("seed {seed}: {}", verdict.violations.join("; "));
}

fn report((scenario, verdict): &(Scenario, Verdict)) {
    eprintln!(
        "The shortest trace of seed {}, with {} faults and {} requests:",
        scenario.seed,
        scenario.faults.len(),
        scenario.requests.len()
    );
    verdict.trace.iter().for_each(|line| eprintln!("{line}"));
}

/// Leaves out faults and requests as long as something is wrong without them.
fn shrink(scenario: Scenario) -> (Scenario, Verdict) {
    let verdict = scenario.run();
    let mut best = (scenario, verdict);
    for index in (0..best.0.faults.len()).rev() {
        let mut less = best.0.clone();
        less.faults.remove(index);
        keep_worse(&mut best, less);
    }
    let mut part = best.0.requests.len() / 2;
    while part > 0 {
        let mut index = 0;
        while index < best.0.requests.len() {
            let mut less = best.0.clone();
            less.requests
                .drain(index..(index + part).min(less.requests.len()));
            if !keep_worse(&mut best, less) {
                index += part;
            }
        }
        part /= 2;
    }
    best
}

fn keep_worse(best: &mut (Scenario, Verdict), less: Scenario) -> bool {
    let verdict = less.run();
    let wrong = !verdict.violations.is_empty();
    if wrong {
        *best = (less, verdict);
    }
    wrong
}

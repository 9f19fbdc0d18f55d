//! What a kas allocates: for each request that it carries, and for each agent that idles on it. Counted, so that
//! the limits hold on any machine, however busy. All that is new with a change shows here before it shows in time.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod counted;
#[path = "../parts/replica.rs"]
mod replica;

use counted::{Count, Fleet, Server, get};

/// Requests of which each count is the difference to fewer: so many that what is spent once, such as some 100 KiB for the
/// connections between two replicas, does not matter.
const REQUESTS: u64 = 4_000;
const FEW: u64 = 50;
const AGENTS: usize = 60;

/// For each request that enters by replica `entry`, when replica 0 owns the agent.
fn per_request(replicas: usize, entry: usize) -> Count {
    let server = Server::start(replicas, 1);
    let (_fleet, _) = server.count(|site| Fleet::connect(site, 0..1));
    server.idle(1);
    server.count(|site| get(site, entry, 1, FEW));
    let (_, few) = server.count(|site| get(site, entry, 1, FEW));
    let (_, many) = server.count(|site| get(site, entry, 1, FEW + REQUESTS));
    many.since(few).for_each(REQUESTS)
}

#[test]
fn a_request_through_the_owner_costs_few_allocations() {
    let each = per_request(1, 0);

    println!("a request of 4 KiB through the owner: {each}");
    assert!(each.made <= 80.0, "{each}");
    assert!(each.bytes <= 25_000.0, "{each}");
    assert!(each.held.abs() < 64.0, "something grows: {each}");
}

#[test]
fn a_forwarded_request_costs_both_replicas_few_allocations() {
    let each = per_request(2, 1);

    println!("a request of 4 KiB through another replica: {each}");
    assert!(each.made <= 180.0, "{each}");
    assert!(each.bytes <= 50_000.0, "{each}");
    assert!(each.held.abs() < 64.0, "something grows: {each}");
}

#[test]
fn an_idle_agent_holds_little() {
    let server = Server::start(1, 2 * AGENTS);
    let (_some, _) = server.count(|site| Fleet::connect(site, 0..AGENTS));
    server.idle(AGENTS);

    let (_more, connected) = server.count(|site| Fleet::connect(site, AGENTS..2 * AGENTS));
    let settled = server.idle(2 * AGENTS);
    let fresh = connected.and(settled).for_each(AGENTS as u64);
    let (_, used) = server.count(|site| get(site, 0, 2 * AGENTS, 8 * AGENTS as u64));
    let settled = server.idle(2 * AGENTS);
    let used = used.and(settled).for_each(2 * AGENTS as u64);

    println!("an idle agent: {fresh}; what four requests add: {used}");
    assert!(fresh.held <= 55_000.0, "{fresh}");
    assert!(used.held <= 20_000.0, "{used}");
}

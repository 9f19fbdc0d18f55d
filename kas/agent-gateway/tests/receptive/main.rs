//! Agents that kas dials, with real agents in this process: who is dialled, by
//! whom, and what happens to wrong ones.

#![allow(clippy::unwrap_used, reason = "a test that fails may panic")]

mod gitlabs;
mod pods;
mod site;
mod tunnels;
mod wrong;

use std::time::Duration;

use control_plane::standalone::{EditError, edit};
use router::{AgentId, ReplicaId, RoutingTable};
use site::{Proof, Site, until};
use tests::ports;
use tokio_util::task::AbortOnDropHandle;

const AGENT: AgentId = AgentId(1);
const OTHER: AgentId = AgentId(2);

#[tokio::test]
async fn agents_are_dialled_over_every_transport() {
    let site = Site::new();
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let replica = site.replica("a");
    for (scheme, proof) in [
        ("grpc", Proof::Jwt),
        ("ws", Proof::Jwt),
        ("grpcs", Proof::Jwt),
        ("wss", Proof::Jwt),
        ("grpcs", Proof::Certificate),
        ("wss", Proof::Certificate),
    ] {
        let tls = scheme.ends_with('s') && scheme != "ws";
        let agent = site.waiting(&token, &public, tls, proof);
        let url = format!("{scheme}://localhost:{}/a/path", agent.port);

        site.dial(AGENT, url, &private, proof);

        until(scheme, || {
            replica.holds(AGENT) && replica.shows(AGENT, "connected")
        })
        .await;
        drop(agent);
        until("its end", || !replica.holds(AGENT)).await;
    }
}

#[tokio::test]
async fn an_agent_that_comes_back_is_dialled_again_and_one_that_is_not_listed_any_more_is_let_go() {
    let site = Site::new();
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let replica = site.replica("a");
    let nobody = ports::free();
    site.dial(
        AGENT,
        format!("ws://127.0.0.1:{nobody}"),
        &private,
        Proof::Jwt,
    );
    until("the reason", || replica.shows(AGENT, "unreachable")).await;

    let agent = site.waiting(&token, &public, false, Proof::Jwt);
    site.dial(
        AGENT,
        format!("ws://127.0.0.1:{}", agent.port),
        &private,
        Proof::Jwt,
    );
    until("the agent", || replica.holds(AGENT)).await;

    edit(&site.path("agents.yaml"), |document| {
        document.agents[0].value.receptive = None;
        Ok::<_, EditError>(())
    })
    .unwrap();
    until("its end", || {
        !replica.holds(AGENT) && !replica.shows(AGENT, "connected")
    })
    .await;
}

#[tokio::test]
async fn an_agent_moves_to_the_replica_that_joins_without_a_gap() {
    let site = Site::new();
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let first = site.replica("a");
    let agent = site.waiting(&token, &public, false, Proof::Jwt);
    site.dial(
        AGENT,
        format!("grpc://127.0.0.1:{}", agent.port),
        &private,
        Proof::Jwt,
    );
    until("the agent", || first.holds(AGENT)).await;
    let mut changes = site.store.changes(AGENT);
    let store = site.store.clone();
    let watching = AbortOnDropHandle::new(tokio::spawn(async move {
        loop {
            assert!(!store.owners(AGENT).is_empty(), "nobody holds the agent");
            changes.changed().await.unwrap();
        }
    }));

    // The ring decides who has the duty: replicas join until it moves.
    let table = site.table("a");
    let mut joined = Vec::new();
    while table.ring().assignee(AGENT) == Some(&ReplicaId::new("a")) {
        joined.push(site.replica(&format!("b{}", joined.len())));
    }
    let second = joined.last().unwrap();

    until("the move", || second.holds(AGENT) && !first.holds(AGENT)).await;
    assert!(!watching.is_finished());
    assert_eq!(site.store.owners(AGENT).len(), 1);
    assert!(second.shows(AGENT, "connected") && !first.shows(AGENT, "connected"));
}

#[tokio::test]
async fn a_replica_that_drains_lets_its_agents_go_to_another() {
    let site = Site::new();
    let token = site.agent(AGENT);
    let (private, public) = site.keys("keys");
    let first = site.replica("a");
    let agent = site.waiting(&token, &public, false, Proof::Jwt);
    site.dial(
        AGENT,
        format!("ws://127.0.0.1:{}", agent.port),
        &private,
        Proof::Jwt,
    );
    until("the agent", || first.holds(AGENT)).await;

    site.table("a").leave().await;
    let second = site.replica("b");
    first.drain.start();

    until("the move", || second.holds(AGENT) && !first.holds(AGENT)).await;
    assert!(first.drain.finished(Duration::from_secs(60)).await);
}

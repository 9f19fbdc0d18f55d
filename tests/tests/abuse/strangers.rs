//! Calls without a good token, and of agents that share a connection with others, as through a load balancer.

use std::{io::Write, time::Duration};

use anyhow::{Context, Result, ensure};
use flate2::{Compression, write::GzEncoder};
use prost::Message;
use proto::agent::{
    agent_registrar::rpc::RegisterRequest,
    reverse_tunnel::{
        info::{AgentDescriptor, Method, Service},
        rpc::{ConnectRequest, Descriptor, connect_request::Msg},
    },
};
use tests::{kas::Options, rig::Rig, wait::until};
use tokio::task::JoinSet;
use tonic::{Code, Status};

use crate::{
    memory::{keeps_nothing, peak_kib, resident_kib},
    wire::{Call, Wire, framed},
};

const REGISTER: &str = "/gitlab.agent.agent_registrar.rpc.AgentRegistrar/Register";
const CONNECT: &str = "/gitlab.agent.reverse_tunnel.rpc.ReverseTunnel/Connect";
const REPORT: &str = "/gitlab.agent.kas_events.rpc.Collector/Report";
/// A busy machine takes longer than a second.
const SOON: Duration = Duration::from_secs(60);
/// What no attack may add to memory, at its height.
const ADDED_KIB: u64 = 64 << 10;

/// A process of an agent says that it is there.
async fn register(wire: &Wire, token: &str, pod_id: i64) -> Result<Status> {
    let request = RegisterRequest {
        pod_id,
        ..RegisterRequest::default()
    };
    wire.ask(REGISTER, token, &request.encode_to_vec()).await
}

/// The first message of a tunnel that offers so many methods of a service.
fn descriptor(service: &str, methods: usize) -> Vec<u8> {
    let method = |number| Method {
        name: format!("m{number}"),
    };
    let service = Service {
        name: service.to_owned(),
        methods: (0..methods).map(method).collect(),
    };
    let agent_descriptor = Some(AgentDescriptor {
        services: vec![service],
    });
    let msg = Some(Msg::Descriptor(Descriptor { agent_descriptor }));
    ConnectRequest { msg }.encode_to_vec()
}

/// A tunnel, idle from now on unless it is refused.
async fn tunnel(wire: &Wire, token: &str, descriptor: &[u8]) -> Result<Call> {
    let mut call = wire.call(CONNECT, token).await?;
    // Refused before it is sent is as good.
    let _ = call.send.send_data(framed(false, descriptor), false);
    Ok(call)
}

/// A tunnel as any agent opens it.
async fn usual_tunnel(wire: &Wire, token: &str) -> Result<Call> {
    tunnel(wire, token, &descriptor("service", 3)).await
}

fn check_peak(rig: &Rig, before: u64) -> Result<()> {
    let peak = peak_kib(&rig.kas.process)?;
    ensure!(
        peak < before + ADDED_KIB,
        "{before} KiB before, {peak} KiB then"
    );
    Ok(())
}

/// Calls with made-up tokens, each holding most of a message of 4 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn a_made_up_token_holds_no_memory() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("bystander").await?;
    let before = resident_kib(&rig.kas.process)?;

    let wires = made_up(&rig, 30).await?;

    check_peak(&rig, before)?;
    ensure!(
        !wires.iter().all(Wire::is_closed),
        "refusing a call does not need the connection"
    );
    drop(wires);
    keeps_nothing(&rig, &agent, async || made_up(&rig, 2).await.map(drop)).await
}

async fn made_up(rig: &Rig, connections: usize) -> Result<Vec<Wire>> {
    let mut wires = Vec::new();
    for number in 0..connections {
        let wire = Wire::open(rig.kas.agents).await?;
        let mut calls = Vec::new();
        for call in 0..10 {
            let mut call = wire
                .call(REGISTER, &format!("made-up-{number}-{call}"))
                .await?;
            let mut most = framed(false, &vec![0; 4 << 20]);
            most.truncate(4 << 20);
            // Refused before it is sent is as good.
            let _ = call.send.send_data(most, false);
            calls.push(call);
        }
        for call in calls {
            let status = tokio::time::timeout(SOON, call.status()).await?;
            // A stream that was reset is a refusal too.
            ensure!(status.is_err() || status.is_ok_and(|status| status.code() != Code::Ok));
        }
        wires.push(wire);
    }
    Ok(wires)
}

/// 4 KiB that inflate to more than two million empty events.
#[tokio::test(flavor = "multi_thread")]
async fn a_report_that_inflates_to_millions_of_events_takes_no_memory() -> Result<()> {
    let rig = Rig::start_with_options(Options {
        agent: "events: {}",
        ..Options::default()
    })
    .await?;
    let agent = rig.agent("bystander").await?;
    let before = resident_kib(&rig.kas.process)?;
    let mut gzip = GzEncoder::new(Vec::new(), Compression::best());
    gzip.write_all(&[0x0a, 0].repeat(2_097_000))?;
    let gzip = gzip.finish()?;
    ensure!(gzip.len() < 5 << 10, "{} bytes", gzip.len());

    let wire = Wire::open(rig.kas.agents).await?;
    keeps_nothing(&rig, &agent, async || {
        for (token, code) in [
            ("made-up", Code::Unauthenticated),
            (&*agent.token, Code::ResourceExhausted),
        ] {
            let asked = wire.ask_gzip(REPORT, token, &gzip);
            let status = tokio::time::timeout(SOON, asked).await??;
            ensure!(status.code() == code, "{status:?}");
        }
        Ok(())
    })
    .await?;
    check_peak(&rig, before)
}

/// 1.7 MB of which 3 TB of strings could be made.
#[tokio::test(flavor = "multi_thread")]
async fn a_long_descriptor_is_refused_before_anything_is_made_of_it() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("bystander").await?;
    let before = resident_kib(&rig.kas.process)?;
    let long = descriptor(&"n".repeat(1_000_000), 80_000);

    keeps_nothing(&rig, &agent, async || {
        let wire = Wire::open(rig.kas.agents).await?;
        let refused = tunnel(&wire, &agent.token, &long).await?.status();
        let refused = tokio::time::timeout(SOON, refused).await??;
        ensure!(refused.code() == Code::ResourceExhausted, "{refused:?}");
        Ok(())
    })
    .await?;
    check_peak(&rig, before)
}

/// Thousands of tunnels of one good token, each of which offers something else within the rules.
#[tokio::test(flavor = "multi_thread")]
async fn different_descriptors_of_one_token_hold_little_memory() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("bystander").await?;
    let before = resident_kib(&rig.kas.process)?;

    different_descriptors(&rig, &agent.token, 5).await?;

    check_peak(&rig, before)?;
    keeps_nothing(&rig, &agent, async || {
        different_descriptors(&rig, &agent.token, 1).await
    })
    .await
}

async fn different_descriptors(rig: &Rig, token: &str, connections: usize) -> Result<()> {
    const TUNNELS: usize = 490;
    let mut wires = Vec::new();
    let mut refused = JoinSet::new();
    for number in 0..connections {
        let wire = Wire::open(rig.kas.agents).await?;
        for tunnel_number in 0..TUNNELS {
            let service = format!("{number:0>64}{tunnel_number:0>64}");
            let call = tunnel(&wire, token, &descriptor(&service, 256)).await?;
            refused.spawn(call.status());
        }
        wires.push(wire);
    }
    // A few of each connection stay.
    for _ in 0..connections * (TUNNELS - 10) {
        let next = tokio::time::timeout(SOON, refused.join_next()).await?;
        let status = next.context("more are refused")???;
        ensure!(status.code() == Code::ResourceExhausted, "{status:?}");
    }
    Ok(())
}

/// 10,100 made-up tokens on the connection of a load balancer, and then the file changes.
#[tokio::test(flavor = "multi_thread")]
async fn made_up_tokens_end_no_connection_that_others_share() -> Result<()> {
    let rig = Rig::start().await?;
    let elsewhere = rig.agent("elsewhere").await?;
    let marker = rig.kas.create_agent("marker").await?;
    let bystander = rig.kas.create_agent("bystander").await?;
    let wire = Wire::open(rig.kas.agents).await?;
    gets_in(&wire, &marker).await?;
    gets_in(&wire, &bystander).await?;

    for round in 0..101 {
        let mut calls = Vec::new();
        for number in 0..100 {
            let token = format!("made-up-{round}-{number}");
            calls.push(wire.call(REGISTER, &token).await?);
        }
        for call in calls {
            let status = tokio::time::timeout(SOON, call.status()).await??;
            ensure!(status.code() == Code::Unauthenticated, "{status:?}");
        }
    }
    let marked = usual_tunnel(&wire, &marker).await?;
    let mut theirs = usual_tunnel(&wire, &bystander).await?;
    let new = rig.kas.create_agent("new").await?;
    rig.kas.cli(&["agent", "revoke", "marker"]).await?;
    // From then on everybody was asked about again.
    let _ = tokio::time::timeout(SOON, marked.status()).await?;

    gets_in(&wire, &new).await?;
    ensure!(register(&wire, &bystander, 2).await?.code() == Code::Ok);
    ensure!(
        theirs.is_unanswered(),
        "the tunnel of another agent was ended"
    );
    ensure!(!wire.is_closed());
    rig.check_serves(&elsewhere).await
}

/// Waits until an agent is known on a connection.
async fn gets_in(wire: &Wire, token: &str) -> Result<()> {
    let known = async || {
        let status = register(wire, token, 1).await.ok()?;
        (status.code() == Code::Ok).then_some(())
    };
    until("an agent to get in", SOON, known).await
}

/// 400 calls of one token that never send their message, on a connection that another agent shares.
#[tokio::test(flavor = "multi_thread")]
async fn silent_calls_leave_places_to_others_on_their_connection() -> Result<()> {
    let rig = Rig::start().await?;
    let elsewhere = rig.agent("elsewhere").await?;
    let silent = rig.kas.create_agent("silent").await?;
    let bystander = rig.kas.create_agent("bystander").await?;
    let wire = Wire::open(rig.kas.agents).await?;
    gets_in(&wire, &silent).await?;
    gets_in(&wire, &bystander).await?;

    let mut calls = Vec::new();
    for _ in 0..400 {
        calls.push(wire.call(REGISTER, &silent).await?);
    }
    let mut theirs = usual_tunnel(&wire, &bystander).await?;
    ensure!(register(&wire, &bystander, 2).await?.code() == Code::Ok);

    let (mut over, mut late) = (0, 0);
    for call in calls {
        let status = tokio::time::timeout(SOON, call.status()).await??;
        over += usize::from(status.code() == Code::ResourceExhausted);
        late += usize::from(status.code() == Code::DeadlineExceeded);
    }
    ensure!((over, late) == (200, 200), "{over} over, {late} late");
    ensure!(register(&wire, &silent, 3).await?.code() == Code::Ok);
    ensure!(
        theirs.is_unanswered(),
        "the tunnel of another agent was ended"
    );
    rig.check_serves(&elsewhere).await
}

#[tokio::test(flavor = "multi_thread")]
async fn revoking_one_agent_ends_nothing_of_another_on_its_connection() -> Result<()> {
    let rig = Rig::start().await?;
    let elsewhere = rig.agent("elsewhere").await?;
    let revoked = rig.kas.create_agent("revoked").await?;
    let bystander = rig.kas.create_agent("bystander").await?;
    let wire = Wire::open(rig.kas.agents).await?;
    gets_in(&wire, &revoked).await?;
    gets_in(&wire, &bystander).await?;
    let mut ends = JoinSet::new();
    let mut stay = Vec::new();
    for _ in 0..20 {
        ends.spawn(usual_tunnel(&wire, &revoked).await?.status());
        stay.push(usual_tunnel(&wire, &bystander).await?);
    }
    ensure!(register(&wire, &bystander, 2).await?.code() == Code::Ok);

    rig.kas.cli(&["agent", "revoke", "revoked"]).await?;
    while let Some(ended) = tokio::time::timeout(SOON, ends.join_next()).await? {
        // In order, or cut.
        let _ = ended?;
    }

    let refused = register(&wire, &revoked, 2).await?;
    ensure!(refused.code() == Code::Unauthenticated, "{refused:?}");
    ensure!(register(&wire, &bystander, 3).await?.code() == Code::Ok);
    ensure!(stay.iter_mut().all(Call::is_unanswered));
    rig.check_serves(&elsewhere).await
}

#[tokio::test(flavor = "multi_thread")]
async fn registrations_have_a_rate_and_an_agent_a_hundred_processes() -> Result<()> {
    let rig = Rig::start().await?;
    let elsewhere = rig.agent("elsewhere").await?;
    let greedy = rig.kas.create_agent("greedy").await?;
    let bystander = rig.kas.create_agent("bystander").await?;
    let wire = Wire::open(rig.kas.agents).await?;
    gets_in(&wire, &greedy).await?;

    let mut refused = 0;
    for _ in 0..20 {
        let status = register(&wire, &greedy, 1).await?;
        refused += usize::from(status.code() == Code::ResourceExhausted);
    }
    // A busy machine may need seconds for them, and gets one more each.
    ensure!(refused >= 10, "{refused} of 20 of one process were refused");
    let mut refused = 0;
    for pod in 2..=120 {
        let status = register(&wire, &greedy, pod).await?;
        refused += usize::from(status.code() == Code::ResourceExhausted);
    }
    ensure!(refused == 20, "{refused} processes were refused");

    gets_in(&wire, &bystander).await?;
    rig.check_serves(&elsewhere).await
}

//! Calls without a good token.

use std::time::Duration;

use anyhow::{Result, ensure};
use tests::rig::Rig;

use crate::{
    memory::{given_back, peak_kib, resident_kib},
    wire::{Wire, framed},
};

const REGISTER: &str = "/gitlab.agent.agent_registrar.rpc.AgentRegistrar/Register";

/// Calls with made-up tokens, each holding most of a message of 4 MiB.
#[tokio::test(flavor = "multi_thread")]
async fn a_made_up_token_holds_no_memory() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("bystander").await?;
    let before = resident_kib(&rig.kas.process)?;

    let mut wires = Vec::new();
    for number in 0..30 {
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
            let status = tokio::time::timeout(Duration::from_secs(20), call.status()).await?;
            // A stream that was reset is a refusal too.
            ensure!(status.is_err() || status.is_ok_and(|status| status.code() != tonic::Code::Ok));
        }
        wires.push(wire);
    }

    let peak = peak_kib(&rig.kas.process)?;
    ensure!(
        peak < before + (64 << 10),
        "{before} KiB before, {peak} KiB then"
    );
    ensure!(
        !wires.iter().all(Wire::is_closed),
        "refusing a call does not need the connection"
    );
    given_back(&rig.kas.process, before).await?;
    rig.check_serves(&agent).await
}

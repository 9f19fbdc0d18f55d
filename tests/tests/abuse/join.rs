//! Guesses of join tokens: those of one address are bounded, and nobody else notices.

use std::time::Duration;

use anyhow::{Result, ensure};
use prost::Message;
use proto::join::rpc::JoinRequest;
use tests::{rig::Rig, wait::until};
use tonic::Code;

use crate::wire::{Wire, framed};

const JOIN: &str = "/gitlab.agent.kas_join.rpc.Joiner/Join";
const SOON: Duration = Duration::from_secs(60);
/// What an address may guess at once.
const BURST: usize = 10;
const GUESSES: usize = 60;

fn request(token_sha256: Vec<u8>) -> Vec<u8> {
    let token_sha256 = token_sha256.into();
    JoinRequest { token_sha256 }.encode_to_vec()
}

#[tokio::test(flavor = "multi_thread")]
async fn many_guesses_of_join_tokens_are_refused_and_others_join_meanwhile() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("bystander").await?;

    let mut looked_for = 0;
    for round in 0..GUESSES / 6 {
        // A connection ends after some calls with bad tokens.
        let wire = Wire::open_from("127.0.0.3", rig.kas.agents).await?;
        for number in 0..6 {
            let guess = format!("kasjoin-{round}-{number}");
            let status = wire.ask(JOIN, &guess, &request(vec![7; 32])).await?;
            match status.code() {
                Code::Unauthenticated => looked_for += 1,
                Code::ResourceExhausted => {}
                _ => anyhow::bail!("{status:?}"),
            }
        }
    }
    ensure!(looked_for >= BURST, "{looked_for} guesses were looked for");
    ensure!(looked_for < GUESSES, "all guesses were looked for");

    // Whoever has a good one joins, from that address too.
    let token = rig.kas.cli(&["cluster", "add", "edge"]).await?;
    for address in ["127.0.0.4", "127.0.0.3"] {
        let joined = async || {
            let wire = Wire::open_from(address, rig.kas.agents).await.ok()?;
            let status = wire.ask(JOIN, &token, &request(vec![1; 32])).await.ok()?;
            (status.code() == Code::Ok).then_some(())
        };
        until("the agent to join", SOON, joined).await?;
    }
    let wire = Wire::open(rig.kas.agents).await?;
    let other = wire.ask(JOIN, &token, &request(vec![2; 32])).await?;
    ensure!(other.code() == Code::PermissionDenied, "{other:?}");
    let short = wire.ask(JOIN, &token, &request(vec![1; 31])).await?;
    ensure!(short.code() == Code::InvalidArgument, "{short:?}");
    let long = wire.ask(JOIN, &token, &request(vec![1; 4096])).await?;
    ensure!(long.code() == Code::ResourceExhausted, "{long:?}");
    rig.check_serves(&agent).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_read_of_who_has_no_join_token() -> Result<()> {
    let rig = Rig::start().await?;
    let agent = rig.agent("bystander").await?;

    let wire = Wire::open(rig.kas.agents).await?;
    let mut call = wire.call(JOIN, "made-up").await?;
    // Its message never ends.
    let _ = call
        .send
        .send_data(framed(false, &[0; 100]).slice(..50), false);
    let status = tokio::time::timeout(SOON, call.status()).await??;

    ensure!(status.code() == Code::Unauthenticated, "{status:?}");
    let told = status.message();
    ensure!(told.contains("the join token is not known"), "{told}");
    rig.check_serves(&agent).await
}

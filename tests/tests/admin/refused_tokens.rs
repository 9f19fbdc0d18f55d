//! An agent with a token that was taken away, or that has ended, is recorded as what it is: with the agent whose token it
//! was and a fingerprint, and never with the token.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tests::{
    agentk::{Agentk, Links},
    kas::Kas,
    stub_api::StubApi,
    wait::until,
};

use super::{LIMIT, ask, kas};

/// Waits for the record that this token was refused, among those of the agent.
async fn refused(kas: &Kas, admin: u16, agent: &str, token: &str) -> Result<Value> {
    let fingerprint = hex::encode(Sha256::digest(token));
    let recorded = async || {
        let records = ask(admin, &format!("/v1/agents/{agent}/records")).await;
        let records = records.ok()?["records"].as_array()?.clone();
        records.into_iter().find(|it| {
            let told = it["token"].as_str().filter(|it| it.len() >= 8);
            it["event"] == "refused" && told.is_some_and(|it| fingerprint.starts_with(it))
        })
    };
    let recorded = until(&format!("{agent} to be refused"), LIMIT, recorded).await;
    recorded.with_context(|| kas.process.tail())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revoked_and_an_expired_token_are_recorded_with_their_agent_and_never_told() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    let (kas, admin) = kas("", folder.path()).await?;
    let stub = StubApi::start().await?;
    let links = Links {
        kas: format!("ws://127.0.0.1:{}/", kas.agents),
        ca: None,
        kubeconfig: stub.kubeconfig(folder.path())?,
    };
    let mut agents = Vec::new();
    for name in ["revoked", "expired"] {
        let token = kas.create_agent(name).await?;
        let agentk = Agentk::start(name, &links, &token, folder.path())?;
        let connected = async || {
            let told = ask(admin, &format!("/v1/agents/{name}")).await.ok()?;
            (told["agent"]["state"] == "connected").then_some(())
        };
        let connected = until(&format!("{name} to be connected"), LIMIT, connected).await;
        connected.with_context(|| kas.process.tail())?;
        agents.push((name, token, agentk));
    }

    kas.cli(&["agent", "revoke", "revoked"]).await?;
    kas.cli(&["agent", "rotate-token", "expired", "--grace", "1s"])
        .await?;

    for (name, token, _agentk) in &agents {
        let record = refused(&kas, admin, name, token).await?;
        let from = record["remote_addr"].as_str().unwrap_or_default();
        ensure!(from.starts_with("127.0.0.1:"), "{record:#}");
        ensure!(record["scheme"] == "ws", "{record:#}");
        let all = ask(admin, &format!("/v1/agents/{name}/records")).await?;
        let strangers = ask(admin, "/v1/records").await?;
        ensure!(
            strangers["records"] == serde_json::json!([]),
            "{strangers:#}"
        );
        for (place, written) in [
            ("the records", all.to_string()),
            ("the log", kas.process.output()),
        ] {
            ensure!(!written.contains(&**token), "{place} have the token");
        }
    }
    let reason = refused(&kas, admin, "expired", &agents[1].1).await?["reason"].clone();
    let reason = reason.as_str().unwrap_or_default();
    ensure!(reason.contains("expired"), "{reason}");
    Ok(())
}

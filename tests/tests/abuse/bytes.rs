//! What is sent arrives as it was sent, or is refused with words.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tests::{
    parts::{Part, skipped},
    rig::Rig,
};

use crate::{
    http1::{authorization, send},
    old_agent::OldAgent,
    raw_api::{RawApi, ok},
    site::Site,
};

/// Well within the time for which a request is held.
const BEFORE_THE_HOLD_ENDS: Duration = Duration::from_secs(40);

/// Says what it was asked for.
fn target(target: &str, _: &[String]) -> Vec<u8> {
    ok(&serde_json::json!({"target": target}).to_string())
}

/// Characters that no URI has: the parser would refuse them, or cut the target without a word.
#[tokio::test(flavor = "multi_thread")]
async fn a_target_is_never_cut_and_never_refused_without_words() -> Result<()> {
    let rig = Rig::start().await?;
    let bystander = rig.agent("bystander").await?;
    let api = RawApi::start(&rig, "raw", target).await?;
    let who = authorization(&api.bearer);

    for (character, words) in [
        ("\"", "a raw `\"`"),
        ("<", "a raw `<`"),
        (">", "a raw `>`"),
        ("`", "a raw backtick"),
        ("#", "a raw `#`"),
    ] {
        for target in [
            format!("/api/a{character}b"),
            format!("/api?a={character}b&c"),
        ] {
            let first = format!("GET /k8s-proxy{target} HTTP/1.1");
            let answered = send(rig.kas.users, &first, &who, b"").await?;
            if answered.code == 200 {
                let arrived: serde_json::Value = serde_json::from_str(&answered.body)?;
                ensure!(
                    arrived["target"] == target.as_str(),
                    "{target} became {arrived}"
                );
            } else {
                answered.says(400, words)?;
            }
        }
    }
    for target in [
        "/a%2Fb/%2e%2e/c|{x}?a;b&a=%zz&a=%FF&a&a=&&z=1&b",
        "/a//b/../c/./?",
    ] {
        let first = format!("GET /k8s-proxy{target} HTTP/1.1");
        let answered = send(rig.kas.users, &first, &who, b"").await?;
        let arrived: serde_json::Value = serde_json::from_str(&answered.body)?;
        ensure!(arrived["target"] == target, "{target} became {arrived}");
    }
    rig.check_serves(&bystander).await
}

/// What hyper answers itself, with an empty body.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_request_is_refused_with_words() -> Result<()> {
    let rig = Rig::start().await?;
    let bystander = rig.agent("bystander").await?;
    let long = "x".repeat(70_000);

    for (first, lines, code, words) in [
        ("GET /a b HTTP/1.1", "", 400, "request line"),
        ("GET /a HTTP/9.9", "", 400, "request line"),
        ("HELLO", "", 400, "request line"),
        ("GET /a HTTP/1.1", "a b: c\r\n", 400, "header line"),
        ("GET /a HTTP/1.1", "no colon\r\n", 400, "header line"),
        (
            "POST /a HTTP/1.1",
            "content-length: many\r\n",
            400,
            "Content-Length",
        ),
        (
            "POST /a HTTP/1.1",
            "transfer-encoding: gzip\r\n",
            501,
            "chunked",
        ),
        (&format!("GET /{long} HTTP/1.1"), "", 414, "65,534 bytes"),
    ] {
        send(rig.kas.users, first, lines, b"")
            .await?
            .says(code, words)?;
    }
    rig.check_serves(&bystander).await
}

/// GitLab's agentk takes path and query apart and encodes them again.
#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_would_change_is_refused_at_every_replica() -> Result<()> {
    if skipped("what_an_agent_would_change_is_refused", &[Part::Redis]) {
        return Ok(());
    }
    let site = Site::start(2).await?;
    let port = site.replicas.members[0].agents;
    let bystander = site.agent("bystander", port).await?;
    let crowd = site.crowd(&site.bearer(&bystander.id));
    let (id, token) = site.register("encodes-anew").await?;
    let method = (
        "gitlab.agent.kubernetes_api.rpc.KubernetesApi",
        "MakeRequest",
    );
    let _agent = OldAgent::connect(port, &token, "v17.0.0", method).await?;
    let who = authorization(&site.bearer(&id));

    for (target, words) in [
        ("/a%2Fb", "would become a slash"),
        ("/a/%2e%2e/b", "dot segment"),
        ("/a?b=%FF", "not UTF-8"),
        ("/a?b;c", "left out"),
    ] {
        for replica in [0, 1] {
            let port = site.replicas.members[replica].users;
            let first = format!("GET /k8s-proxy{target} HTTP/1.1");
            let asked = send(port, &first, &who, b"");
            let answered = tokio::time::timeout(BEFORE_THE_HOLD_ENDS, asked).await;
            let answered = answered.with_context(|| format!("{target} at {replica}: held"))??;
            answered
                .says(400, words)
                .with_context(|| format!("{target} at {replica}"))?;
        }
    }
    crowd.end().await.with_context(|| site.tails())?;
    Ok(())
}

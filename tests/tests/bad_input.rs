//! What is wrong gets a clear answer, frees what it held, and disturbs nobody else.

use std::{sync::atomic::Ordering, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Response, StatusCode};
use serde_json::Value;
use tests::{
    agentk::{Agentk, Links},
    certs::Certs,
    http::Socket,
    kas::{Kas, Options},
    ports,
    process::Process,
    programs,
    rig::Rig,
    wait::until,
};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_agent_token_is_refused_by_name() -> Result<()> {
    let rig = Rig::start().await?;
    let good = rig.agent("good").await?;

    let mut stranger = rig.agentk("stranger", "not-a-token-of-this-kas")?;
    stranger.process.wait_for("nauthenticated", SOON).await?;

    ensure!(
        !rig.kas.process.output().contains("not-a-token-of-this-kas"),
        "the token is in kas's log"
    );
    ensure!(
        !stranger
            .process
            .output()
            .contains("not-a-token-of-this-kas"),
        "the token is in agentk's log"
    );
    rig.check_serves(&good).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revoked_agent_is_served_no_longer() -> Result<()> {
    let rig = Rig::start().await?;
    let (good, leaving) = (rig.agent("good").await?, rig.agent("leaving").await?);

    rig.kas.cli(&["agent", "revoke", "leaving"]).await?;
    let refused = async || {
        rig.get(&leaving, "/version")
            .await
            .ok()
            .filter(|it| !it.status().is_success())
    };
    let answer = until("the end of the revoked agent", SOON, refused).await?;

    check_status(&answer)?;
    ensure!(
        !rig.kas.process.output().contains(&leaving.token),
        "the token is in kas's log"
    );
    rig.check_serves(&good).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_authority_is_named_by_the_agent() -> Result<()> {
    let rig = Rig::start_with(true).await?;
    let other = Certs::create(&rig.folder().join("other"))?;
    let token = rig.kas.create_agent("distrustful").await?;
    let links = Links {
        kas: format!("wss://localhost:{}/", rig.kas.agents),
        ca: Some(other.ca),
        kubeconfig: rig.stub.kubeconfig(rig.folder())?,
    };

    let mut agentk = Agentk::start("distrustful", &links, &token, rig.folder())?;

    agentk.process.wait_for("certificate", SOON).await?;
    ensure!(
        agentk.process.is_running(),
        "it gives up: {}",
        agentk.process.tail()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_and_absent_agents_are_told_apart() -> Result<()> {
    let rig = Rig::start().await?;
    rig.kas.create_agent("absent").await?;
    let absent = rig.bearer(&rig.kas.agent_id("absent").await?);

    let unknown = rig.get_as(&rig.bearer("424242"), "/version").await?;
    let stranger = rig.get_as("pat:1:no-such-token", "/version").await?;
    let malformed = rig.get_as("gibberish", "/version").await?;
    let never = rig.get_as(&absent, "/version").await?;

    ensure!(unknown.status().is_client_error(), "{unknown:?}");
    check_status(&unknown)?;
    ensure!(
        stranger.status() == StatusCode::UNAUTHORIZED,
        "{stranger:?}"
    );
    ensure!(
        malformed.status() == StatusCode::UNAUTHORIZED,
        "{malformed:?}"
    );
    ensure!(never.status().is_server_error(), "{never:?}");
    let reason = check_status(&never)?;
    ensure!(reason.contains("connected"), "{reason}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_value_in_the_configuration_is_found_by_line_and_column() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("kas.yaml");
    std::fs::write(
        &file,
        "standalone: {file: agents.yaml}\nagent:\n  listen:\n    websocket: maybe\n",
    )?;
    let mut command = Command::new(programs::kas()?);
    command.arg("--configuration-file").arg(&file);

    let mut kas = Process::spawn("kas", &mut command, folder.path())?;
    let status = kas.ended(SOON).await?;

    let said = kas.output();
    ensure!(!status.success(), "{said}");
    ensure!(said.contains("kas.yaml:4:16: websocket"), "{said}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typo_in_the_configuration_is_a_warning_with_its_place_and_what_was_meant() -> Result<()>
{
    let folder = tempfile::tempdir()?;
    let options = Options {
        agent_listen: "adress: nowhere",
        ..Options::default()
    };

    let kas = Kas::start(options, folder.path()).await?;

    let said = kas.process.output();
    let warned = said
        .lines()
        .find(|line| line.contains("agent.listen.adress"));
    let warned = warned.with_context(|| said.clone())?;
    ensure!(
        warned.contains("6:5: ")
            && warned.contains("did you mean `address`?")
            && warned.to_lowercase().contains("warn"),
        "{warned}"
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_typo_in_the_agents_file_changes_nothing_and_is_found_by_line() -> Result<()> {
    let mut rig = Rig::start().await?;
    let good = rig.agent("good").await?;
    let file = rig.folder().join("agents.yaml");
    let text = std::fs::read_to_string(&file)?;

    std::fs::write(&file, format!("agnets: []\n{text}"))?;
    rig.kas.process.wait_for("agnets", SOON).await?;
    rig.check_serves(&good).await?;
    std::fs::write(&file, text)?;

    let token = rig.agent("later").await?.token;
    ensure!(!token.is_empty(), "no token");
    rig.check_serves(&good).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_file_that_vanishes_ends_nothing() -> Result<()> {
    let rig = Rig::start().await?;
    let mut good = rig.agent("good").await?;

    std::fs::remove_file(&good.agentk.token_file)?;

    rig.check_serves(&good).await?;
    ensure!(
        good.agentk.process.is_running(),
        "{}",
        good.agentk.process.tail()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_without_its_token_file_says_which() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let mut command = Command::new(programs::agentk()?);
    command
        .args([
            "--kas-address",
            &format!("ws://127.0.0.1:{}", ports::free()),
        ])
        .args(["--token-file", "/no/such/token-file"])
        .args(["--observability-listen-address", "127.0.0.1:0"])
        .env("POD_NAMESPACE", "default")
        .env("POD_NAME", "lost");

    let mut agentk = Process::spawn("lost", &mut command, folder.path())?;
    let status = agentk.ended(SOON).await?;

    ensure!(!status.success(), "{}", agentk.output());
    ensure!(
        agentk.output().contains("/no/such/token-file"),
        "{}",
        agentk.output()
    );
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_on_the_agents_port_is_shown_the_door() -> Result<()> {
    let rig = Rig::start().await?;
    let good = rig.agent("good").await?;
    let upgrade = "GET / HTTP/1.1\r\nHost: kas\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\
                   Sec-WebSocket-Protocol: ws-tunnel\r\n\r\n";
    let garbage: [(&str, Vec<u8>); 6] = [
        ("noise", vec![0xa5; 4096]),
        (
            "a TLS hello on a plain port",
            [&[0x16, 3, 1, 2, 0, 1][..], &[7; 600]].concat(),
        ),
        (
            "HTTP/2 and then noise",
            [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0xff; 600]].concat(),
        ),
        (
            "no upgrade",
            b"GET / HTTP/1.1\r\nHost: kas\r\nConnection: close\r\n\r\n".to_vec(),
        ),
        (
            "unmasked WebSocket frames",
            [upgrade.as_bytes(), &[0x82, 3, 1, 2, 3]].concat(),
        ),
        (
            "a huge WebSocket frame",
            [upgrade.as_bytes(), &[0x82, 0xff, 0x7f], &[0xff; 11]].concat(),
        ),
    ];

    for (what, bytes) in garbage {
        let mut socket = Socket::open(rig.kas.agents).await?;
        socket.write(&bytes).await?;
        let (answer, closed) = socket.read_to_end(SOON).await;
        ensure!(closed, "{what}: kept open after {answer:?}");
    }

    rig.check_serves(&good).await
}

#[tokio::test(flavor = "multi_thread")]
async fn headers_over_the_limit_are_refused() -> Result<()> {
    let rig = Rig::start().await?;
    let good = rig.agent("good").await?;
    let head = format!(
        "GET /version HTTP/1.1\r\nHost: kas\r\nX-Large: {}\r\n\r\n",
        "x".repeat(3 << 20)
    );

    for port in [rig.kas.users, rig.kas.agents] {
        let mut socket = Socket::open(port).await?;
        // The server may answer and close before it has read all.
        socket.write(head.as_bytes()).await.ok();
        let (answer, closed) = socket.read_to_end(SOON).await;
        ensure!(closed, "kept open after {answer:?}");
        ensure!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{answer}"
        );
    }

    rig.check_serves(&good).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_disappears_mid_body_frees_the_tunnel() -> Result<()> {
    let rig = Rig::start().await?;
    let good = rig.agent("good").await?;
    let bearer = rig.bearer_for(&good);
    let head = format!(
        "POST /k8s-proxy/echo HTTP/1.1\r\nHost: kas\r\nAuthorization: Bearer {bearer}\r\nContent-Length: 10000000\r\n\r\n"
    );

    for _ in 0..20 {
        let mut socket = Socket::open(rig.kas.users).await?;
        socket.write(head.as_bytes()).await?;
        socket.write(&[7; 100_000]).await?;
        let started = async || (rig.stub.seen().open.load(Ordering::Relaxed) > 0).then_some(());
        until("the request at the cluster", SOON, started).await?;
        drop(socket);
        let ended = async || (rig.stub.seen().open.load(Ordering::Relaxed) == 0).then_some(());
        until("the end of the request at the cluster", SOON, ended).await?;
    }

    ensure!(
        rig.stub.seen().broken.load(Ordering::Relaxed) == 20,
        "a cut body looked complete"
    );
    rig.check_serves(&good).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_never_ends_its_head_is_cut() -> Result<()> {
    let rig = Rig::start().await?;
    let good = rig.agent("good").await?;

    let mut slow = Socket::open(rig.kas.users).await?;
    slow.write(b"GET /k8s-proxy/version HTTP/1.1\r\nHost:")
        .await?;
    let (answer, closed) = slow.read_to_end(SOON).await;

    ensure!(closed, "kept open after {answer:?}");
    rig.check_serves(&good).await
}

/// The answer is a Kubernetes Status of its own code; gives its message.
fn check_status(answer: &Response<Bytes>) -> Result<String> {
    let status: Value = serde_json::from_slice(answer.body())?;
    ensure!(
        status["kind"] == "Status" && status["status"] == "Failure",
        "{status}"
    );
    ensure!(
        status["code"] == answer.status().as_u16(),
        "{status} comes with {}",
        answer.status()
    );
    let message = status["message"].as_str().unwrap_or_default().to_owned();
    ensure!(!message.is_empty(), "{status}");
    Ok(message)
}

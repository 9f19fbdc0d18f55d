//! kas against the genuine grpc-go, in all four schemes (`tests/interop`).

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use tests::{
    certs::Certs,
    go, http as client,
    kas::{Kas, Options},
    parts::{Part, skipped},
    payload,
    process::Process,
};
use tokio::process::Command;

const SOON: Duration = Duration::from_secs(60);
const LARGE: usize = 5 << 20;

#[tokio::test(flavor = "multi_thread")]
async fn grpc_go_over_ws() -> Result<()> {
    check("ws", "/-/kubernetes-agent/").await
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_go_over_wss() -> Result<()> {
    check("wss", "/a/b/c").await
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_go_over_grpc() -> Result<()> {
    check("grpc", "").await
}

#[tokio::test(flavor = "multi_thread")]
async fn grpc_go_over_grpcs() -> Result<()> {
    check("grpcs", "").await
}

async fn check(scheme: &str, path: &str) -> Result<()> {
    if skipped(&format!("grpc_go_over_{scheme}"), &[Part::Go]) {
        return Ok(());
    }
    let program = go::build("interop").await?;
    let folder = tempfile::tempdir()?;
    let certs = Certs::create(folder.path())?;
    let agent_tls = matches!(scheme, "wss" | "grpcs").then_some(&certs);
    let kas = Kas::start(
        Options {
            agent_tls,
            ..Options::default()
        },
        folder.path(),
    )
    .await?;
    let token = kas.create_agent("interop").await?;
    let user = kas.create_user("tester", "interop", &["agent"]).await?;
    let bearer = format!("pat:{}:{user}", kas.agent_id("interop").await?);

    let address = format!("{scheme}://localhost:{}{path}", kas.agents);
    let mut agent = start(&program, &address, &token, &certs, folder.path())?;
    let served = serve(&kas, &bearer, &mut agent).await;
    served.with_context(|| format!("{}\n{}", agent.tail(), kas.process.tail()))?;
    let status = agent.end_by("TERM", SOON).await?;

    ensure!(
        status.success() && agent.output().contains("PASS"),
        "{}\n{}",
        agent.tail(),
        kas.process.tail()
    );
    Ok(())
}

fn start(
    program: &Path,
    address: &str,
    token: &str,
    certs: &Certs,
    folder: &Path,
) -> Result<Process> {
    let token_file = folder.join("interop.token");
    std::fs::write(&token_file, token)?;
    let mut command = Command::new(program);
    command
        .args(["-kas-address", address, "-ca-cert-file"])
        .arg(&certs.ca)
        .arg("-token-file")
        .arg(token_file);
    Process::spawn("interop", &mut command, folder)
}

/// Requests of every shape, all through the same few tunnels.
async fn serve(kas: &Kas, bearer: &str, agent: &mut Process) -> Result<()> {
    agent.wait_for("TUNNEL", SOON).await?;
    agent.wait_for("CONFIGURED", SOON).await?;
    let url = format!("http://127.0.0.1:{}/k8s-proxy", kas.users);

    passes_the_head(&url, bearer).await?;
    passes_bodies(&url, bearer).await?;
    passes_failures(&url, bearer).await?;
    for _ in 0..20 {
        let answer = client::get(&format!("{url}/again"), bearer).await?;
        ensure!(answer.status() == StatusCode::OK, "{answer:?}");
    }
    switches_protocols(kas.users, bearer).await
}

async fn passes_the_head(url: &str, bearer: &str) -> Result<()> {
    let request = Request::get(format!(
        "{url}/api/v1/some%20pods?limit=1&label=a%3Db&label=c"
    ))
    .header("authorization", format!("Bearer {bearer}"))
    .header("accept", "application/json")
    .header("x-custom", "one")
    .header("x-custom", "two");

    let answer = client::send(request.body(Bytes::new())?).await?;

    ensure!(answer.status() == StatusCode::OK, "{answer:?}");
    ensure!(seen(&answer, "method") == ["GET"], "{answer:?}");
    ensure!(seen(&answer, "path") == ["/api/v1/some pods"], "{answer:?}");
    ensure!(
        seen(&answer, "query") == ["label=a%3Db&label=c&limit=1"],
        "{answer:?}"
    );
    ensure!(seen(&answer, "x-custom") == ["one", "two"], "{answer:?}");
    ensure!(
        seen(&answer, "accept") == ["application/json"],
        "{answer:?}"
    );
    ensure!(
        seen(&answer, "via").iter().any(|via| via.contains("kas")),
        "{answer:?}"
    );
    Ok(())
}

async fn passes_bodies(url: &str, bearer: &str) -> Result<()> {
    let body = payload::bytes(5, LARGE);
    let request =
        Request::post(format!("{url}/upload")).header("authorization", format!("Bearer {bearer}"));

    let echoed = client::send(request.body(Bytes::from(body.clone()))?).await?;
    let made = client::get(&format!("{url}/download?bytes={LARGE}"), bearer).await?;

    ensure!(
        echoed.body() == &body,
        "{} of {LARGE} bytes came back",
        echoed.body().len()
    );
    let expected: Vec<u8> = (0..LARGE).map(|i| (i % 251) as u8).collect();
    ensure!(
        made.body() == &expected,
        "{} of {LARGE} bytes came",
        made.body().len()
    );
    Ok(())
}

async fn passes_failures(url: &str, bearer: &str) -> Result<()> {
    let answer = client::get(&format!("{url}/fail"), bearer).await?;

    ensure!(answer.status().is_server_error(), "{answer:?}");
    let status: serde_json::Value = serde_json::from_slice(answer.body())?;
    ensure!(status["kind"] == "Status", "{status}");
    ensure!(
        status["message"]
            .to_string()
            .contains("interop fails on request"),
        "{status}"
    );
    Ok(())
}

async fn switches_protocols(port: u16, bearer: &str) -> Result<()> {
    let request = format!(
        "GET /k8s-proxy/upgrade HTTP/1.1\r\nHost: kas\r\nAuthorization: Bearer {bearer}\r\n\
         Connection: Upgrade\r\nUpgrade: echo\r\n\r\n"
    );
    let mut socket = client::Socket::open(port).await?;

    socket.write(request.as_bytes()).await?;
    let head = socket.read_until("\r\n\r\n", SOON).await?;
    socket.write(b"there and back").await?;
    let echo = socket.read_until("there and back", SOON).await?;

    ensure!(head.starts_with("HTTP/1.1 101"), "{head}");
    ensure!(echo == "there and back", "{echo}");
    Ok(())
}

fn seen<'a>(answer: &'a Response<Bytes>, name: &str) -> Vec<&'a str> {
    let values = answer.headers().get_all(format!("x-seen-{name}"));
    values
        .iter()
        .filter_map(|value| value.to_str().ok())
        .collect()
}

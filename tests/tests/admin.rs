//! The operator's API: any replica tells of all, a store that is away is no secret, nobody without a proof of who they
//! are is told anything, and those who ask much are in nobody's way.

#[path = "admin/access.rs"]
mod access;
#[path = "admin/authentication.rs"]
mod authentication;
#[path = "admin/broken.rs"]
mod broken;
#[path = "admin/browsers.rs"]
mod browsers;
#[path = "admin/degraded.rs"]
mod degraded;
#[path = "admin/errors.rs"]
mod errors;
#[path = "admin/flapping.rs"]
mod flapping;
#[path = "admin/forged.rs"]
mod forged;
#[path = "admin/outage.rs"]
mod outage;
#[path = "admin/page.rs"]
mod page;
#[path = "admin/refused_tokens.rs"]
mod refused_tokens;
#[path = "admin/registration.rs"]
mod registration;
#[path = "admin/roles.rs"]
mod roles;
#[path = "admin/sessions.rs"]
mod sessions;
#[path = "admin/unfinished.rs"]
mod unfinished;

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Request, Response};
use serde_json::Value;
use tempfile::TempDir;
use tests::{
    agentk::{Agentk, Links},
    chaos::Mode,
    http::{self as client, Socket},
    kas::{Kas, Options},
    parts::{Part, skipped},
    ports, programs,
    replicas::Replicas,
    stub_api::StubApi,
    wait::until,
};
use tokio::{
    process::Command,
    time::{Instant, sleep},
};

const LIMIT: Duration = Duration::from_secs(60);
const TOKEN: &str = "0123456789abcdef0123456789abcdef";

/// Two replicas, an agent at the first of them only, and a user.
struct Site {
    folder: TempDir,
    replicas: Replicas,
    stub: StubApi,
    bearer: String,
    agent: Agentk,
}

impl Site {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let replicas = Replicas::start(2, folder.path()).await?;
        let token = replicas.cli(&["agent", "create", "prod"]).await?;
        let user = replicas.cli(&["user", "create", "ana"]).await?;
        let grant = ["access", "grant", "--agent", "*", "--user", "ana"];
        replicas
            .cli(&[&grant[..], &["--as", "agent"]].concat())
            .await?;
        let stub = StubApi::start().await?;
        let links = Links {
            kas: format!("grpc://127.0.0.1:{}", replicas.members[0].agents),
            ca: None,
            kubeconfig: stub.kubeconfig(folder.path())?,
        };
        let site = Self {
            agent: Agentk::start("agentk", &links, &token, folder.path())?,
            bearer: format!("pat:2:{user}"),
            folder,
            replicas,
            stub,
        };
        for number in [0, 1] {
            let listed = async || {
                let agent = site.ask(number, "/v1/agents/prod").await.ok()?;
                let complete = agent["coverage"]["complete"] == true;
                (complete && agent["agent"]["state"] == "connected").then_some(())
            };
            let listed = until("the agent to be listed", LIMIT, listed).await;
            listed.with_context(|| site.tails())?;
            let both = async || {
                let replicas = site.ask(number, "/v1/replicas").await.ok()?;
                let replicas = replicas["replicas"].as_array()?;
                let answered = replicas.iter().filter(|it| it["details"].is_object());
                (answered.count() == 2).then_some(())
            };
            let both = until("replicas to know each other", LIMIT, both).await;
            both.with_context(|| site.tails())?;
        }
        Ok(site)
    }

    async fn ask(&self, number: usize, path: &str) -> Result<Value> {
        ask(self.replicas.members[number].admin, path).await
    }

    /// Runs a command against the second replica.
    async fn cli(&self, args: &[&str]) -> Result<String> {
        let port = self.replicas.members[1].admin;
        let mut command = Command::new(programs::kas()?);
        command
            .args(args)
            .args(["--server", &format!("http://127.0.0.1:{port}")]);
        let output = tokio::time::timeout(LIMIT, command.output()).await??;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{args:?}: {said}");
        Ok(String::from_utf8(output.stdout)?)
    }

    fn tails(&self) -> String {
        let tails = self.replicas.members.iter().map(|it| it.process.tail());
        tails.collect()
    }
}

/// Waits until a check finds nothing wrong: on a busy machine a replica may not answer another within the second that it
/// has, and then its part is missing.
async fn holds(check: impl AsyncFn() -> Result<()>) -> Result<()> {
    let end = Instant::now() + LIMIT;
    loop {
        match check().await {
            Err(_) if Instant::now() < end => sleep(Duration::from_millis(100)).await,
            checked => return checked,
        }
    }
}

/// The configuration of an admin API of this machine; `keys` are further ones of its listener.
fn admin_section(port: u16, keys: &str) -> String {
    format!("admin: {{listen: {{address: '127.0.0.1:{port}', {keys}}}}}\n")
}

/// A kas with such an admin API, and where that is.
async fn kas(keys: &str, folder: &Path) -> Result<(Kas, u16)> {
    let port = ports::free();
    let section = admin_section(port, keys);
    let options = Options {
        more: &section,
        ..Options::default()
    };
    Ok((Kas::start(options, folder).await?, port))
}

async fn ask(port: u16, path: &str) -> Result<Value> {
    let answer = client::get(&format!("http://127.0.0.1:{port}{path}"), "").await?;
    ensure!(answer.status().is_success(), "{answer:?}");
    Ok(serde_json::from_slice(answer.body())?)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn any_replica_tells_of_all_agents_replicas_and_requests() -> Result<()> {
    const NAME: &str = "any_replica_tells_of_all_agents_replicas_and_requests";
    if skipped(NAME, &[Part::Redis]) {
        return Ok(());
    }
    let site = Site::start().await?;
    let url = format!(
        "http://127.0.0.1:{}/k8s-proxy/hold?secret=x",
        site.replicas.members[1].users
    );
    let bearer = site.bearer.clone();
    let held = tokio::spawn(async move { client::get(&url, &bearer).await });
    let seen = site.stub.seen();
    let arrived = async || (seen.held.load(Ordering::Relaxed) > 0).then_some(());
    until("the request to arrive", LIMIT, arrived).await?;

    let told = async || {
        let replicas = site.ask(0, "/v1/replicas").await?;
        let told = replicas["replicas"].as_array().context("a list")?;
        ensure!(told.len() == 2, "{replicas:#}");
        ensure!(
            told.iter().all(|it| it["details"].is_object()),
            "{replicas:#}"
        );
        let holder = told.iter().find(|it| it["details"]["agents"] == 1);
        let holder = &holder.with_context(|| format!("{replicas:#}"))?["id"];
        for number in [0, 1] {
            let agents = site.ask(number, "/v1/agents?name=PROD").await?;
            let [agent] = &agents["agents"].as_array().context("a list")?[..] else {
                anyhow::bail!("{agents:#}");
            };
            ensure!(agent["id"] == 2 && agent["state"] == "connected");
            ensure!(&agent["replicas"][0] == holder, "{agents:#} {holder}");
            ensure!(agent["processes"][0]["pod"].is_string(), "{agents:#}");
            let requests = site.ask(number, "/v1/requests?agent_id=2").await?;
            let [request] = &requests["requests"].as_array().context("a list")?[..] else {
                anyhow::bail!("{requests:#}");
            };
            ensure!(request["caller"] == "user:ana", "{requests:#}");
            ensure!(request["path"] == "/k8s-proxy/hold", "{requests:#}");
            ensure!(request["agent"]["name"] == "prod", "{requests:#}");
            ensure!(&request["replica"] != holder, "{requests:#}");
            let status = site.ask(number, "/v1/status").await?;
            ensure!(status["agents"] == 2 && status["agents_connected"] == 1);
            ensure!(status["disconnected"][0]["name"] == "first", "{status:#}");
            ensure!(status["replicas"] == 2 && status["replicas_silent"] == 0);
            ensure!(status["requests_in_progress"] == 1, "{status:#}");
        }
        let here = site.ask(0, "/v1/agents/prod/explain").await?;
        ensure!(here["routable"] == true, "{here:#}");
        let verdict = here["verdict"].as_str().unwrap_or_default();
        ensure!(verdict.contains("of this replica"), "{here:#}");
        let there = site.ask(1, "/v1/agents/2/explain").await?;
        let verdict = there["verdict"].as_str().unwrap_or_default();
        ensure!(verdict.contains("forwarded at once"), "{there:#}");
        ensure!(&there["candidates"][1]["replica"] == holder, "{there:#}");
        anyhow::Ok(())
    };
    holds(told).await.with_context(|| site.tails())?;
    // Until the replicas have had time to write their entries, nothing is known of who is not there.
    let never = async || {
        let never = site.ask(1, "/v1/agents/first/explain").await.ok()?;
        let refusal = never["refusal"].as_str()?.to_owned();
        refusal.contains("never connected").then_some(())
    };
    until("the other agent to be known to be absent", LIMIT, never).await?;

    site.stub.seen().release.cancel();
    ensure!(held.await??.status().is_success());
    let over = async || {
        let requests = site.ask(0, "/v1/requests").await.ok()?;
        (requests["total"] == 0).then_some(())
    };
    until("the request to be over", LIMIT, over).await?;
    // It is told with its minute, at the replica that did not carry it too.
    for number in [0, 1] {
        let counted = async || {
            let loads = site.ask(number, "/v1/loads?agents=1,2").await.ok()?;
            let [load] = &loads["loads"].as_array()?[..] else {
                return None;
            };
            let requests = load["requests"].as_array()?.iter();
            let sum: u64 = requests.filter_map(Value::as_u64).sum();
            (load["agent_id"] == 2 && sum == 1).then_some(())
        };
        let counted = until("the request to be counted", 2 * LIMIT, counted).await;
        counted.with_context(|| site.tails())?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_command_line_asks_it_and_changes_are_told_as_they_happen() -> Result<()> {
    const NAME: &str = "the_command_line_asks_it_and_changes_are_told_as_they_happen";
    if skipped(NAME, &[Part::Redis]) {
        return Ok(());
    }
    let site = Site::start().await?;
    let port = site.replicas.members[1].admin;

    let told = async || {
        let list = site.cli(&["agent", "list", "-o", "wide"]).await?;
        ensure!(
            list.contains("prod") && list.contains("disconnected (never connected)"),
            "{list}"
        );
        let names = site
            .cli(&["agent", "list", "-o", "name", "--state", "connected"])
            .await?;
        ensure!(names.trim() == "prod", "{names}");
        let shown = site.cli(&["agent", "show", "2", "-o", "json"]).await?;
        let shown: Value = serde_json::from_str(&shown)?;
        ensure!(shown["name"] == "prod", "{shown:#}");
        let why = site.cli(&["explain", "prod"]).await?;
        ensure!(
            why.contains("forwarded at once") && why.contains("connected now"),
            "{why}"
        );
        anyhow::Ok(())
    };
    holds(told).await.with_context(|| site.tails())?;
    let kept = async || {
        let records = site.ask(1, "/v1/agents/prod/records?limit=5").await.ok()?;
        let first = records["records"].get(0)?.clone();
        (first["event"] == "connected" && first["scheme"] == "grpc").then_some(())
    };
    let kept = until("the connect to be kept", LIMIT, kept).await;
    kept.with_context(|| site.tails())?;
    let records = site.cli(&["agent", "records", "prod"]).await?;
    ensure!(records.contains("connected"), "{records}");
    let told = async || {
        let replicas = site.cli(&["replica", "list", "-o", "name"]).await?;
        ensure!(replicas.lines().count() == 2, "{replicas}");
        let level = site.cli(&["log-level", "debug"]).await?;
        ensure!(
            level.lines().filter(|it| it.contains("debug")).count() == 2,
            "{level}"
        );
        let told = site.ask(0, "/v1/replicas").await?;
        ensure!(
            told["replicas"][0]["details"]["log_level"] == "debug",
            "{told:#}"
        );
        anyhow::Ok(())
    };
    holds(told).await.with_context(|| site.tails())?;

    let mut events = Socket::open(port).await?;
    let asked = format!("GET /v1/events HTTP/1.1\r\nHost: localhost:{port}\r\n\r\n");
    events.write(asked.as_bytes()).await?;
    events.read_until(": listening\n\n", LIMIT).await?;
    site.agent.process.signal("TERM").await?;
    let event = events.read_until("\"missed\":0}\n\n", LIMIT).await?;
    ensure!(event.contains("event: agent.disconnected"), "{event}");
    ensure!(event.contains("\"name\":\"prod\""), "{event}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_the_store_it_says_so_and_tells_what_this_replica_knows() -> Result<()> {
    const NAME: &str = "without_the_store_it_says_so_and_tells_what_this_replica_knows";
    if skipped(NAME, &[Part::Redis]) {
        return Ok(());
    }
    let site = Site::start().await?;

    site.replicas.members[0].to_redis.set(Mode::BlackHole);

    let told = async || {
        let agents = site.ask(0, "/v1/agents?state=connected").await.ok()?;
        let problem = agents["coverage"]["problem"].as_str()?.to_owned();
        (agents["coverage"]["complete"] == false).then_some((agents["total"].clone(), problem))
    };
    let told = until("an answer without the store", LIMIT, told).await;
    let (total, problem) = told.with_context(|| site.tails())?;
    ensure!(total == 1, "its own agent is known: {total}");
    let here = site.ask(0, "/v1/status").await?;
    ensure!(here["coverage"]["scope"] == "replica", "{here:#}");
    ensure!(
        here["agents_unknown"] == 1 && here["disconnected"] == serde_json::json!([]),
        "of the other agent nothing is known: {here:#}"
    );
    ensure!(problem.contains("routing store"), "{problem}");
    let unavailable = async || {
        let status = site.ask(0, "/v1/status").await.ok()?;
        (status["store"] == "unavailable").then_some(())
    };
    let unavailable = until("the store to be noticed", LIMIT, unavailable).await;
    unavailable.with_context(|| site.tails())?;
    ensure!(site.folder.path().exists());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_document_names_every_route_and_what_is_no_route_says_where_it_is() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let (kas, port) = kas("", folder.path()).await?;

    let document = ask(port, "/openapi.json").await?;

    let paths = document["paths"].as_object().context("paths")?;
    for (path, methods) in paths {
        // What changes something, and what does not end, is asked for elsewhere.
        if path == "/v1/events" || methods.get("get").is_none() {
            continue;
        }
        ensure!(methods["get"]["responses"]["200"].is_object(), "{path}");
        let path = path.replace("{agent}", "first");
        let answer = get(port, &path).await?;
        ensure!(answer.status() == 200, "{path}: {answer:?}");
        ensure!(answer.headers()["content-type"] == "application/json");
        ensure!(answer.headers()["cache-control"] == "no-store");
    }
    ensure!(paths.len() >= 6, "{paths:?}");
    let elsewhere = get(port, "/v2/agents").await?;
    ensure!(elsewhere.status() == 404 && text(&elsewhere).contains("/openapi.json"));
    let leaked = get(port, &format!("/v1/agents?access_token={TOKEN}")).await?;
    ensure!(leaked.status() == 400 && text(&leaked).contains("Authorization"));
    ensure!(!kas.process.output().contains(TOKEN));
    for wrong in [r#"{"level": "loud"}"#, "{", ""] {
        let put = Request::put(format!("http://127.0.0.1:{port}/v1/log-level"));
        let put = put.header("content-type", "application/json");
        let refused = client::send(put.body(Bytes::from(wrong))?).await?;
        ensure!(refused.status() == 400, "{wrong}: {refused:?}");
    }
    let page = Request::get(format!("http://127.0.0.1:{port}/v1/status"));
    let page = page.header("origin", "https://evil.example");
    let refused = client::send(page.body(Bytes::new())?).await?;
    ensure!(refused.status() == 403, "{refused:?}");
    Ok(())
}

async fn get(port: u16, path: &str) -> Result<Response<Bytes>> {
    client::get(&format!("http://127.0.0.1:{port}{path}"), "").await
}

fn text(answer: &Response<Bytes>) -> String {
    String::from_utf8_lossy(answer.body()).into_owned()
}

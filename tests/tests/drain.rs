//! Replicas end by SIGTERM, as a rolling restart does it, and nobody notices.
//!
//! `AGENTK_BIN` puts another agent in the place of ours.

use std::{
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{Method, Request, Response};
use tests::{
    agentk::{Agentk, Links},
    http as client,
    parts::{Part, skipped},
    pod_set::{PodSet, Settings},
    stub_api::StubApi,
    wait::until,
};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(60);
/// How often nothing new is seen of a stream that has stopped.
const LOOKS: usize = 20;
const NEEDS: &[Part] = &[Part::Haproxy, Part::Redis];

/// Replicas with an agent, and a user.
struct Site {
    replicas: PodSet,
    stub: StubApi,
    bearer: String,
    _agent: Agentk,
}

impl Site {
    async fn start(replicas: usize) -> Result<Self> {
        let replicas = PodSet::start(replicas).await?;
        let agents = replicas.agents;
        Self::of(replicas, agents).await
    }

    /// The same with an agent that connects at one port.
    async fn of(replicas: PodSet, agents: u16) -> Result<Self> {
        let token = replicas.cli(&["agent", "create", "test"]).await?;
        let user = replicas.cli(&["user", "create", "ana"]).await?;
        let grant = ["access", "grant", "--agent", "*", "--user", "ana"];
        replicas
            .cli(&[&grant[..], &["--as", "agent"]].concat())
            .await?;
        let stub = StubApi::start().await?;
        let links = Links {
            kas: format!("ws://127.0.0.1:{agents}/"),
            ca: None,
            kubeconfig: stub.kubeconfig(replicas.folder())?,
        };
        let site = Self {
            _agent: Agentk::start("agentk", &links, &token, replicas.folder())?,
            bearer: format!("pat:2:{user}"),
            replicas,
            stub,
        };
        let served = async || {
            let answer = send(&site.request(site.replicas.users, Method::GET, "/version")).await;
            answer.ok().filter(|answer| answer.status().is_success())
        };
        let served = until("the agent", LIMIT, served).await;
        served.with_context(|| site.replicas.tails())?;
        Ok(site)
    }

    fn request(&self, port: u16, method: Method, path: &str) -> Request<Bytes> {
        let url = format!("http://127.0.0.1:{port}/k8s-proxy{path}");
        let request = Request::builder().method(method).uri(url);
        request
            .header("authorization", format!("Bearer {}", self.bearer))
            .body(Bytes::new())
            .expect("it is well-formed")
    }

    /// A request that is in progress until the stub lets it go.
    async fn held(&self, port: u16) -> Result<tokio::task::JoinHandle<Result<Response<Bytes>>>> {
        let before = self.stub.seen().held.load(Ordering::Relaxed);
        let request = self.request(port, Method::GET, "/hold");
        let held = tokio::spawn(async move { send(&request).await });
        let open = async || {
            let open = self.stub.seen().held.load(Ordering::Relaxed);
            (open > before || held.is_finished()).then_some(())
        };
        until("the request to arrive", LIMIT, open).await?;
        if held.is_finished() {
            bail!("{:?}\n{}", held.await?, self.replicas.tails());
        }
        Ok(held)
    }
}

async fn send(request: &Request<Bytes>) -> Result<Response<Bytes>> {
    client::send(request.clone()).await
}

/// Sends a request again and again until `stop`; gives how many were sent that
/// must not be done twice.
async fn traffic(request: Request<Bytes>, stop: CancellationToken) -> Result<usize> {
    let mut sent = 0;
    while !stop.is_cancelled() {
        sent += 1;
        let answer = send(&request).await?;
        ensure!(answer.status().is_success(), "{answer:?}");
    }
    Ok(if request.method() == Method::POST {
        sent
    } else {
        0
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rolling_restart_loses_and_repeats_no_request() -> Result<()> {
    if skipped("a_rolling_restart_loses_and_repeats_no_request", NEEDS) {
        return Ok(());
    }
    let mut site = Site::start(3).await?;
    let stop = CancellationToken::new();
    let mut clients = JoinSet::new();
    for method in [Method::GET, Method::GET, Method::POST, Method::POST] {
        let request = site.request(site.replicas.users, method, "/echo");
        clients.spawn(traffic(request, stop.clone()));
    }

    for number in 0..3 {
        let before = site.stub.seen().posted.load(Ordering::Relaxed);
        site.replicas.signal(number, "TERM").await?;
        let status = site.replicas.ended(number).await?;
        ensure!(status.success(), "{status}\n{}", site.replicas.tails());
        site.replicas.restart(number).await?;
        let more = async || {
            let now = site.stub.seen().posted.load(Ordering::Relaxed);
            (now > before + 100).then_some(())
        };
        let more = until("more requests", LIMIT, more).await;
        more.with_context(|| site.replicas.tails())?;
    }

    stop.cancel();
    let mut sent = 0;
    while let Some(client) = clients.join_next().await {
        sent += client?.with_context(|| site.replicas.tails())?;
    }
    let came = site.stub.seen().posted.load(Ordering::Relaxed);
    ensure!(came == sent, "{sent} POSTs were sent and {came} came");
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_in_progress_are_finished_by_all_who_carry_them() -> Result<()> {
    if skipped(
        "requests_in_progress_are_finished_by_all_who_carry_them",
        NEEDS,
    ) {
        return Ok(());
    }
    let mut site = Site::start(3).await?;
    // Wherever the agent is, one of these is passed on.
    let mut held = Vec::new();
    for number in [0, 1] {
        held.push(site.held(site.replicas.replica(number).users).await?);
    }

    for number in [0, 1] {
        site.replicas.signal(number, "TERM").await?;
    }
    // New requests go through the third replica, where the agent moves to.
    let served = async || {
        let request = site.request(site.replicas.replica(2).users, Method::GET, "/version");
        send(&request)
            .await
            .ok()
            .filter(|it| it.status().is_success())
    };
    until("the agent at the third replica", LIMIT, served).await?;
    ensure!(held.iter().all(|held| !held.is_finished()));
    site.stub.seen().release.cancel();

    for held in held {
        let answer = held.await?.with_context(|| site.replicas.tails())?;
        ensure!(answer.status().is_success(), "{answer:?}");
    }
    for number in [0, 1] {
        let status = site.replicas.ended(number).await?;
        ensure!(status.success(), "{status}\n{}", site.replicas.tails());
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_cuts_what_is_in_progress_and_the_exit_code_says_so() -> Result<()> {
    if skipped(
        "a_second_signal_cuts_what_is_in_progress_and_the_exit_code_says_so",
        NEEDS,
    ) {
        return Ok(());
    }
    let mut site = Site::start(1).await?;
    let held = site.held(site.replicas.replica(0).users).await?;
    let logged = async |site: &Site, text: &str| {
        let look = async || site.replicas.output(0).contains(text).then_some(());
        until(text, LIMIT, look).await
    };

    site.replicas.signal(0, "TERM").await?;
    logged(&site, "send the signal again to exit immediately").await?;
    // Process managers send it to a whole group: the next one is the same request still.
    site.replicas.signal(0, "TERM").await?;
    logged(&site, "signal ignored").await?;
    ensure!(!held.is_finished(), "{}", site.replicas.tails());
    // Later ones count, whose process is gone with the first that does.
    let cut = async || {
        site.replicas.signal(0, "TERM").await.ok();
        held.is_finished().then_some(())
    };
    until("the cut", LIMIT, cut).await?;

    let status = site.replicas.ended(0).await?;
    ensure!(status.code().is_some_and(|code| code != 0), "{status}");
    let output = site.replicas.output(0);
    ensure!(output.contains("cut: 1 connections"), "{output}");
    ensure!(held.await?.is_err());
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forwarded_watch_that_nobody_reads_is_no_reason_to_fail() -> Result<()> {
    if skipped(
        "a_forwarded_watch_that_nobody_reads_is_no_reason_to_fail",
        NEEDS,
    ) {
        return Ok(());
    }
    let replicas = PodSet::with(
        2,
        &Settings {
            grace: Duration::from_secs(6),
            ..Settings::default()
        },
    )
    .await?;
    let agents = replicas.replica(0).agents;
    let mut site = Site::of(replicas, agents).await?;
    // The agent is at the first replica only, so this goes through both.
    let path = "/api/v1/pods?watch=true&resourceVersion=1";
    let request = site.request(site.replicas.replica(1).users, Method::GET, path);
    let watch = client::open(request).await?;
    ensure!(watch.status().is_success(), "{watch:?}");
    // More than all buffers on the way hold: from here on it is stuck behind its client.
    let (last, same) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let stuck = async || {
        let now = site.stub.seen().sent.load(Ordering::Relaxed);
        if now == 0 || now != last.swap(now, Ordering::Relaxed) {
            same.store(0, Ordering::Relaxed);
        }
        (same.fetch_add(1, Ordering::Relaxed) > LOOKS).then_some(())
    };
    until("the watch to be stuck", LIMIT, stuck).await?;

    site.replicas.signal(0, "TERM").await?;
    let status = site.replicas.ended(0).await?;

    ensure!(status.success(), "{status}\n{}", site.replicas.tails());
    drop(watch);
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hangup_reloads_what_can_change_and_says_what_cannot() -> Result<()> {
    if skipped(
        "a_hangup_reloads_what_can_change_and_says_what_cannot",
        NEEDS,
    ) {
        return Ok(());
    }
    let mut replicas = PodSet::start(1).await?;
    let (file, agents) = (replicas.configuration(0).to_owned(), replicas.agents_file());
    let (text, known) = (
        std::fs::read_to_string(&file)?,
        std::fs::read_to_string(&agents)?,
    );
    let hangup = async |replicas: &PodSet, said: &str| {
        let before = replicas.output(0).len();
        replicas.signal(0, "HUP").await?;
        let look = async || replicas.output(0)[before..].contains(said).then_some(());
        let said = until(said, LIMIT, look).await;
        said.with_context(|| replicas.tails())
    };
    let refused = async |replicas: &PodSet, file: &std::path::Path| -> Result<bool> {
        let name = format!(
            "config_last_reload_successful{{file=\"{}\"}} 0",
            file.display()
        );
        Ok(replicas.metrics(0).await?.contains(&name))
    };

    let quiet = text.replace("level: debug", "level: warn");
    std::fs::write(
        &file,
        quiet.replace("listen_grace_period: 1s", "listen_grace_period: 2s"),
    )?;
    hangup(&replicas, "agent.listen.listen_grace_period").await?;
    let before = replicas.output(0).len();
    for _ in 0..3 {
        replicas.metrics(0).await?;
        client::get(
            &format!("http://127.0.0.1:{}/nothing", replicas.replica(0).users),
            "",
        )
        .await?;
    }
    let since = replicas.output(0)[before..].to_owned();
    ensure!(!since.contains("\"level\":\"INFO\""), "{since}");

    std::fs::write(&file, "agent: [")?;
    std::fs::write(&agents, "agents: 1")?;
    hangup(
        &replicas,
        "configuration is invalid; the running one stays in force",
    )
    .await?;
    ensure!(refused(&replicas, &file).await? && refused(&replicas, &agents).await?);
    ensure!(
        replicas
            .output(0)
            .contains("the last valid one stays in force")
    );

    std::fs::write(&file, &text)?;
    std::fs::write(&agents, &known)?;
    hangup(&replicas, "configuration reloaded").await?;
    ensure!(!refused(&replicas, &file).await? && !refused(&replicas, &agents).await?);
    replicas.signal(0, "TERM").await?;
    let status = replicas.ended(0).await?;
    ensure!(status.success(), "{status}\n{}", replicas.tails());
    Ok(())
}

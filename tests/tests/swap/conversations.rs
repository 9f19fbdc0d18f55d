//! What is under way while replicas give way: connections that are kept, by HTTP/1.1 and HTTP/2, slow answers, what
//! must happen once, watches, and logs that are followed.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use tests::{
    certs::Certs,
    counting_api::CountingApi,
    mixed_set::{Kind, MixedSet},
    parts::say,
    wait::until,
};
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    DEADLINE, LIMIT, MOST_TOLD, QUIET,
    connection::{Connection, Dialer, Sent},
};

/// How long a replica that leaves lets go on what is under way.
const SHUTDOWN: &str = "8s";
/// When Kubernetes kills it. GitLab's kas 16.5 waits for watches that pass its agents' tunnels, whoever asked for them,
/// which have no end.
const GRACE: Duration = Duration::from_secs(25);
/// How long the cluster takes for a slow answer, which is less than that.
const SLOW_MS: u64 = 1500;
/// Between two requests of one caller.
const PACE: Duration = Duration::from_millis(20);
/// How often a caller connects again for one request: each waits `PACE`.
const TRIES: usize = 250;
/// How long a watch may say nothing, which has an event every 200 ms.
const SILENCE: Duration = Duration::from_secs(20);
const WATCH: &str = "/api/v1/namespaces/default/configmaps?watch=true&resourceVersion=";
const LOG: &str = "/api/v1/namespaces/default/pods/box/log?follow=true";

/// What came of the requests of one kind.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    kind: String,
    sent: usize,
    /// Asked again: the connection ended before an answer, or within what goes on without end.
    again: usize,
    /// What must happen once, of which nobody knows whether it did.
    unknown: usize,
    /// What must happen once, and was refused.
    refused: Vec<String>,
    pub(crate) failed: Vec<String>,
}

impl fmt::Display for Tally {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            to,
            "{}: {} asked, {} again, {} unknown, {} refused, {} failed",
            self.kind,
            self.sent,
            self.again,
            self.unknown,
            self.refused.len(),
            self.failed.len()
        )
    }
}

/// Whoever asks.
#[derive(Clone)]
struct Caller {
    protocol: &'static str,
    dialer: Dialer,
    api: Arc<CountingApi>,
    agents: Vec<i64>,
    /// Of all callers, so that each asks something else.
    turn: Arc<AtomicU64>,
    stop: CancellationToken,
}

/// Three of the first kind give way to three of the second while all this goes on.
pub(crate) async fn swap(from: Kind, to: Kind) -> Result<Vec<Tally>> {
    let swapped = timeout(DEADLINE, swap_within(from, to)).await;
    swapped.with_context(|| format!("it takes over {DEADLINE:?}"))?
}

async fn swap_within(from: Kind, to: Kind) -> Result<Vec<Tally>> {
    let mut set = MixedSet::prepare(&[from, from, from, to, to, to]).await?;
    let certs = Certs::create(&set.folder().join("certs"))?;
    let (certificate, key) = (certs.certificate.display(), certs.key.display());
    set.users_listen = format!(
        "shutdown_grace_period: {SHUTDOWN}, certificate_file: {certificate}, key_file: {key}"
    );
    for number in 0..3 {
        set.start(number).await?;
    }
    let api = Arc::new(CountingApi::start(b'c').await?);
    set.start_agents_of(api.kubeconfig(set.folder())?)?;
    let stop = CancellationToken::new();
    let turn = Arc::<AtomicU64>::default();
    let mut callers = Vec::new();
    for (protocol, offers) in [
        ("HTTP/1.1", &["http/1.1"][..]),
        ("HTTP/2 where there is", &["h2", "http/1.1"]),
    ] {
        callers.push(Caller {
            protocol,
            dialer: Dialer::new(set.users, &certs, offers)?,
            api: api.clone(),
            agents: set.agents.clone(),
            turn: turn.clone(),
            stop: stop.clone(),
        });
    }
    for caller in &callers {
        for agent in &set.agents {
            let what = format!("agent {agent} by {}", caller.protocol);
            let answers = until(&what, LIMIT, async || caller.answers(*agent).await.ok());
            answers.await.with_context(|| set.tails())?;
        }
    }
    let mut under_way = JoinSet::new();
    for caller in callers {
        for slow in [None, Some(SLOW_MS)] {
            for method in [Method::GET, Method::POST] {
                under_way.spawn(caller.clone().keep_asking(method, slow));
            }
        }
        // One of each kind of agents.
        let ends = [caller.agents.first(), caller.agents.last()];
        for agent in ends.into_iter().flatten() {
            under_way.spawn(caller.clone().stay(What::Watch, *agent));
            under_way.spawn(caller.clone().stay(What::Log, *agent));
        }
    }
    let swapped = replace(&mut set, from, to).await;
    stop.cancel();
    let tallies = under_way.join_all().await;
    for tally in &tallies {
        say(&format!("{from:?} to {to:?}: {tally}"));
        for told in [&tally.refused, &tally.failed] {
            for one in told.iter().take(MOST_TOLD) {
                say(&format!("  {one}"));
            }
        }
    }
    if let Some(folder) = std::env::var_os("SWAP_LOGS") {
        set.keep_logs(folder.as_ref())?;
    }
    swapped?;
    let twice = api.duplicates();
    ensure!(twice.is_empty(), "happened more than once: {twice:#?}");
    Ok(tallies)
}

async fn replace(set: &mut MixedSet, from: Kind, to: Kind) -> Result<()> {
    for number in 0..3 {
        tokio::time::sleep(QUIET).await;
        set.start(number + 3).await?;
        let stopping = Instant::now();
        let by_itself = set.stop_within(number, GRACE).await?;
        let how = if by_itself { "has ended" } else { "was killed" };
        say(&format!(
            "{from:?} kas-{number} {how}, {:.1} s after SIGTERM; kas-{} ({to:?}) is in its place",
            stopping.elapsed().as_secs_f64(),
            number + 3,
        ));
        ensure!(
            by_itself || from == Kind::GitLabs,
            "it had to be killed: {}",
            set.tails()
        );
    }
    tokio::time::sleep(QUIET).await;
    Ok(())
}

/// What has no end of its own.
#[derive(Debug, Clone, Copy)]
enum What {
    Watch,
    Log,
}

impl Caller {
    async fn answers(&self, agent: i64) -> Result<()> {
        let mut connection = self.dialer.connect().await?;
        let Sent::Answered(answer) = connection.send(Method::GET, agent, "/bytes/1").await? else {
            bail!("no answer");
        };
        ensure!(answer.status() == StatusCode::OK, "{answer:?}");
        Ok(())
    }

    /// Asks by one connection, one request after the other, and makes another one only when that has ended.
    async fn keep_asking(self, method: Method, slow: Option<u64>) -> Tally {
        let speed = slow.map_or("", |_| ", slow");
        let kind = format!("{method} by {}{speed}", self.protocol);
        let mut tally = Tally {
            kind,
            ..Tally::default()
        };
        let mut connection = None;
        let mut ticks = interval(PACE);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while !self.stop.is_cancelled() {
            ticks.tick().await;
            let turn = self.turn.fetch_add(1, Ordering::Relaxed);
            let agent = self.agents[turn as usize % self.agents.len()];
            let slow = slow.map_or_else(String::new, |it| format!("?slow={it}"));
            tally.sent += 1;
            if method == Method::POST {
                let path = format!("/once/{turn}");
                let asked = self.post(&mut connection, agent, &path, &slow).await;
                tally.posted(asked, self.api.posted(&path));
            } else {
                let path = format!("/bytes/1000{slow}");
                if let Err(why) = self.get(&mut connection, agent, &path, &mut tally).await {
                    tally.failed.push(format!("agent {agent}: {why:#}"));
                }
            }
        }
        tally
    }

    /// A GET is asked again when its connection ends before an answer, as clients do.
    async fn get(
        &self,
        connection: &mut Option<Connection>,
        agent: i64,
        path: &str,
        tally: &mut Tally,
    ) -> Result<()> {
        loop {
            match self.send(connection, Method::GET, agent, path).await? {
                Sent::Answered(answer) => {
                    let (status, body) = whole(answer).await.context("within an answer")?;
                    let right = status == StatusCode::OK && *body == [b'c'; 1000];
                    ensure!(right, "{status}: {}", String::from_utf8_lossy(&body));
                    return Ok(());
                }
                Sent::Unsent | Sent::Broken => tally.again += 1,
            }
        }
    }

    /// A POST is sent once; what came of it.
    async fn post(
        &self,
        connection: &mut Option<Connection>,
        agent: i64,
        path: &str,
        query: &str,
    ) -> Result<Option<(StatusCode, Bytes)>> {
        let path = format!("{path}{query}");
        match self.send(connection, Method::POST, agent, &path).await? {
            Sent::Answered(answer) => Ok(whole(answer).await.ok()),
            Sent::Unsent | Sent::Broken => Ok(None),
        }
    }

    /// Sends by the connection that there is, or by another. What has not left is sent again.
    async fn send(
        &self,
        connection: &mut Option<Connection>,
        method: Method,
        agent: i64,
        path: &str,
    ) -> Result<Sent> {
        let mut why = None;
        for _ in 0..TRIES {
            let usable = match connection {
                Some(open) => open.is_usable().await,
                None => false,
            };
            if !usable {
                match self.dialer.connect().await {
                    Ok(new) => *connection = Some(new),
                    Err(error) => {
                        why = Some(error);
                        tokio::time::sleep(PACE).await;
                        continue;
                    }
                }
            }
            let open = connection.as_mut().context("no connection")?;
            match timeout(LIMIT, open.send(method.clone(), agent, path)).await {
                Ok(sent) => match sent? {
                    Sent::Unsent => *connection = None,
                    broken @ Sent::Broken => {
                        *connection = None;
                        return Ok(broken);
                    }
                    answered @ Sent::Answered(_) => return Ok(answered),
                },
                Err(_) => bail!("no answer within {LIMIT:?}"),
            }
        }
        Err(why
            .context("nothing can be sent")?
            .context("nobody can be reached"))
    }

    /// Reads what goes on without end, and begins again behind it when it ends.
    async fn stay(self, what: What, agent: i64) -> Tally {
        let mut tally = Tally {
            kind: format!("{what:?} by {}", self.protocol),
            ..Tally::default()
        };
        let mut last = self.api.version();
        while !self.stop.is_cancelled() {
            tally.sent += 1;
            let path = match what {
                What::Watch => format!("{WATCH}{last}"),
                What::Log => LOG.to_owned(),
            };
            match self.read_on(what, agent, &path, &mut last).await {
                Ok(()) => tally.again += usize::from(!self.stop.is_cancelled()),
                Err(why) => tally.failed.push(format!("agent {agent}: {why:#}")),
            }
            tokio::time::sleep(PACE).await;
        }
        tally
    }

    async fn read_on(&self, what: What, agent: i64, path: &str, last: &mut u64) -> Result<()> {
        let sent = self.send(&mut None, Method::GET, agent, path).await?;
        let Sent::Answered(answer) = sent else {
            return Ok(());
        };
        let status = answer.status();
        let mut body = answer.into_body();
        if status != StatusCode::OK {
            let body = body.collect().await.map(|it| it.to_bytes());
            bail!("{status}: {:?}", body.unwrap_or_default());
        }
        let (mut pending, mut first) = (Vec::new(), true);
        loop {
            let frame = tokio::select! {
                frame = timeout(SILENCE, body.frame()) => frame.context("it says nothing")?,
                () = self.stop.cancelled() => return Ok(()),
            };
            // However it ends.
            let Some(Ok(frame)) = frame else {
                return Ok(());
            };
            pending.extend_from_slice(&frame.into_data().unwrap_or_default());
            while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = pending.drain(..=end).collect();
                let number = number(what, &line)
                    .with_context(|| String::from_utf8_lossy(&line).into_owned())?;
                let follows = match (what, first) {
                    (What::Log, true) => number >= *last,
                    _ => number == *last + 1,
                };
                ensure!(follows, "behind {last} came {number}");
                (*last, first) = (number, false);
            }
        }
    }
}

impl Tally {
    /// A POST was answered so, or not at all, and has been carried out so often.
    fn posted(&mut self, asked: Result<Option<(StatusCode, Bytes)>>, times: u32) {
        match asked {
            Ok(Some((StatusCode::OK, _))) if times == 1 => {}
            Ok(Some((StatusCode::OK, _))) => {
                self.failed
                    .push(format!("OK, but it happened {times} times"));
            }
            Ok(Some((status, body))) => {
                let words = String::from_utf8_lossy(&body);
                self.refused
                    .push(format!("{status}, and it happened {times} times: {words}"));
            }
            Ok(None) => self.unknown += 1,
            Err(why) => self.failed.push(format!("{why:#}")),
        }
    }
}

fn number(what: What, line: &[u8]) -> Option<u64> {
    match what {
        What::Log => std::str::from_utf8(line).ok()?.trim().parse().ok(),
        What::Watch => {
            let event: serde_json::Value = serde_json::from_slice(line).ok()?;
            let version = event["object"]["metadata"]["resourceVersion"].as_str();
            version?.parse().ok()
        }
    }
}

async fn whole(answer: http::Response<Incoming>) -> Result<(StatusCode, Bytes)> {
    let status = answer.status();
    let body = timeout(LIMIT, answer.into_body().collect()).await??;
    Ok((status, body.to_bytes()))
}

//! kas and an agent against a direct connection: what arrives is what was sent, both ways, or the
//! request is refused with a reason.
//!
//! The agent is ours, or the one that `AGENTK_BIN` names, of which equal meaning is asked.
//! `DIFFERENTIAL_SEED` repeats a run, `DIFFERENTIAL_CASE` one case of it.

#![allow(
    clippy::print_stdout,
    reason = "a run is repeated by the seed that it printed"
)]

mod generate;
mod http1;
mod http2;
mod meaning;
mod recorder;

use std::{ops::Range, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use generate::Request;
use recorder::{CASE, Came, Recorder};
use tests::{
    agentk::{Agentk, Links},
    http as client,
    kas::{Kas, Options},
    programs,
    wait::until,
};

const CASES: u64 = 1_200;
/// With an agent that encodes anew: what that would change is refused after 2 s each.
const CASES_ENCODED_ANEW: u64 = 300;
const LANES: u64 = 8;
const LANES_ENCODED_ANEW: u64 = 48;
/// As many of what is wrong are told.
const MOST_TOLD: usize = 20;
const PREFIX: &str = "/k8s-proxy";
const CONNECT: Duration = Duration::from_secs(60);
const CASE_TIMEOUT: Duration = Duration::from_secs(30);

/// An answer as the client got it; text stands for bytes.
#[derive(Debug)]
struct Got {
    status: u16,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
}

/// kas, an agent, and its cluster.
struct Site {
    seed: u64,
    kas: Kas,
    recorder: Recorder,
    bearer: String,
    agentk: Agentk,
    _folder: tempfile::TempDir,
}

/// A client of kas.
enum Client {
    Http1(http1::Client),
    Http2(Option<Box<http2::Client>>),
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_over_http1_is_what_was_sent() -> Result<()> {
    compare(0, |port| Client::Http1(http1::Client::new(port, PREFIX))).await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_arrives_over_http2_is_what_was_sent() -> Result<()> {
    compare(1_000_000, |_| Client::Http2(None)).await
}

/// Makes as many requests as there are cases from `first` on, both ways.
async fn compare(first: u64, client: impl Fn(u16) -> Client) -> Result<()> {
    let site = Arc::new(Site::start().await?);
    let (cases, lanes) = plan(first)?;
    let count = cases.end - cases.start;
    let mut running = Vec::new();
    for lane in 0..lanes {
        let (site, client) = (site.clone(), client(site.kas.users));
        let cases = cases.clone().filter(move |case| case % lanes == lane);
        running.push(tokio::spawn(site.lane(cases, client)));
    }
    let (mut refused, mut wrong) = (0, Vec::new());
    for lane in running {
        let (of_lane, wrong_ones) = lane.await?;
        refused += of_lane;
        wrong.extend(wrong_ones);
    }
    println!("{refused} of {count} requests were refused");
    let some = wrong[..wrong.len().min(MOST_TOLD)].join("\n");
    let tail = || site.agentk.process.tail();
    ensure!(
        wrong.is_empty(),
        "{} are wrong, such as\n{some}\n{}",
        wrong.len(),
        tail()
    );
    ensure!(refused <= count / 3, "{refused} of {count} were refused");
    Ok(())
}

fn plan(first: u64) -> Result<(Range<u64>, u64)> {
    if let Ok(case) = std::env::var("DIFFERENTIAL_CASE") {
        let case = case.parse().context("DIFFERENTIAL_CASE")?;
        return Ok((case..case + 1, 1));
    }
    Ok(match programs::other_agentk() {
        None => (first..first + CASES, LANES),
        Some(_) => (first..first + CASES_ENCODED_ANEW, LANES_ENCODED_ANEW),
    })
}

impl Site {
    async fn start() -> Result<Self> {
        let seed = match std::env::var("DIFFERENTIAL_SEED") {
            Ok(seed) => seed.parse().context("DIFFERENTIAL_SEED")?,
            Err(_) => std::time::UNIX_EPOCH.elapsed()?.as_secs(),
        };
        println!("DIFFERENTIAL_SEED={seed}");
        let folder = tempfile::tempdir()?;
        let kas = Kas::start(Options::default(), folder.path()).await?;
        let recorder = Recorder::start(seed).await?;
        let token = kas.create_agent("agent").await?;
        let user = kas.create_user("tester", "*", &["agent"]).await?;
        let links = Links {
            kas: format!("ws://127.0.0.1:{}/", kas.agents),
            ca: None,
            kubeconfig: recorder.kubeconfig(folder.path())?,
        };
        let agentk = Agentk::start("agent", &links, &token, folder.path())?;
        let bearer = format!("pat:{}:{user}", kas.agent_id("agent").await?);
        let url = format!("http://127.0.0.1:{}{PREFIX}/version", kas.users);
        let connected = async || {
            let answer = client::get(&url, &bearer).await.ok()?;
            answer.status().is_success().then_some(())
        };
        until("the agent", CONNECT, connected).await?;
        Ok(Self {
            seed,
            kas,
            recorder,
            bearer,
            agentk,
            _folder: folder,
        })
    }

    /// Checks cases one after the other; how many were refused, and what is wrong.
    async fn lane(
        self: Arc<Self>,
        cases: impl Iterator<Item = u64>,
        mut client: Client,
    ) -> (u64, Vec<String>) {
        let mut direct = http1::Client::new(self.recorder.port, "");
        let (mut refused, mut wrong) = (0, Vec::new());
        for case in cases {
            let request = generate::request(self.seed, case);
            let check = self.check(case, &request, &mut direct, &mut client);
            let checked = tokio::time::timeout(CASE_TIMEOUT, check).await;
            let what = || {
                let (seed, method, target) = (self.seed, request.method, &request.target);
                format!("DIFFERENTIAL_SEED={seed} DIFFERENTIAL_CASE={case}: {method} {target:?}")
            };
            match checked {
                Ok(Ok(was_refused)) => refused += u64::from(was_refused),
                Ok(Err(error)) => wrong.push(format!("{}: {error:#}", what())),
                Err(_) => wrong.push(format!("{}: it takes too long", what())),
            }
        }
        (refused, wrong)
    }

    /// Sends a request both ways; whether it was refused.
    async fn check(
        &self,
        case: u64,
        request: &Request,
        direct: &mut http1::Client,
        client: &mut Client,
    ) -> Result<bool> {
        let number = (CASE, case.to_string());
        let given = direct.send(request, std::slice::from_ref(&number)).await;
        let given = given.context("directly")?;
        let sent = self.one(case).context("directly")?;
        let who = ("authorization", format!("Bearer {}", self.bearer));
        let more = [number, who];
        let got = match client {
            Client::Http1(client) => client.send(request, &more).await?,
            Client::Http2(client) => {
                let mut open = match client.take() {
                    Some(open) => open,
                    None => Box::new(http2::Client::open(self.kas.users).await?),
                };
                let got = open.send(PREFIX, request, &more).await?;
                *client = Some(open);
                got
            }
        };
        if self.recorder.came_not(case) {
            says_why(request.method, &got)?;
            return Ok(true);
        }
        same_request(&sent, &self.one(case)?)?;
        same_answer(&given, &got)?;
        Ok(false)
    }

    fn one(&self, case: u64) -> Result<Came> {
        let mut came = self.recorder.take(case);
        let one = came.pop().context("nothing came")?;
        ensure!(came.is_empty(), "it came more than once");
        Ok(one)
    }
}

fn same_request(sent: &Came, came: &Came) -> Result<()> {
    ensure!(
        sent.method == came.method,
        "{} became {}",
        sent.method,
        came.method
    );
    let same = if programs::other_agentk().is_some() {
        meaning::of(&sent.target) == meaning::of(&came.target)
    } else {
        sent.target == came.target
    };
    ensure!(same, "{:?} became {:?}", sent.target, came.target);
    let (before, after) = (
        meaning::headers(&sent.headers),
        meaning::headers(&came.headers),
    );
    ensure!(before == after, "{before:?} became {after:?}");
    ensure!(sent.body == came.body, "the body was changed");
    Ok(())
}

fn same_answer(given: &Got, got: &Got) -> Result<()> {
    ensure!(
        got.status == given.status,
        "status {} became {}: {:?}",
        given.status,
        got.status,
        String::from_utf8_lossy(&got.body)
    );
    let (before, mut after) = (
        meaning::headers(&given.headers),
        meaning::headers(&got.headers),
    );
    let id = after.remove("x-request-id");
    ensure!(id.is_some(), "an answer has no request id");
    ensure!(before == after, "{before:?} became {after:?}");
    ensure!(
        got.body == given.body,
        "a body of {} bytes became one of {}",
        given.body.len(),
        got.body.len()
    );
    if let (Some(before), Some(after)) = (length(given), length(got)) {
        ensure!(before == after, "a length of {before} became {after}");
    }
    Ok(())
}

fn length(of: &Got) -> Option<&str> {
    let all = &mut of.headers.iter();
    all.find_map(|(name, value)| (name == "content-length").then_some(value.as_str()))
}

/// A refusal is a `Status` of Kubernetes' with a message.
fn says_why(method: &str, got: &Got) -> Result<()> {
    let what = || {
        let body = String::from_utf8_lossy(&got.body);
        format!("refused with {} and {body:?}", got.status)
    };
    ensure!((400..502).contains(&got.status), "{}", what());
    if method == "HEAD" {
        return Ok(());
    }
    let status: serde_json::Value = serde_json::from_slice(&got.body).with_context(what)?;
    let message = status["message"].as_str().unwrap_or_default();
    ensure!(
        status["kind"] == "Status" && message.len() > 30,
        "{}",
        what()
    );
    Ok(())
}

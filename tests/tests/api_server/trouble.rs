//! What an API server may do to a connection, one thing after the other.

use std::{path::Path, sync::atomic::Ordering, time::Duration};

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use http::{Method, Request, Response};
use tempfile::TempDir;
use tests::{
    agentk::{Agentk, Links},
    http as client,
    kas::{Kas, Options},
    programs,
    wait::until,
};
use tokio::task::JoinSet;

use crate::double::Double;

const SOON: Duration = Duration::from_secs(60);
/// Bytes that no window takes at once.
const LARGE: usize = 2 << 20;
/// Requests that wait at the same time, and how often they are given up: far more than a server of Go's lets pass.
const WAITING: usize = 200;
const ROUNDS: usize = 6;

struct Site {
    api: Double,
    kas: Kas,
    bearer: String,
    _agent: Agentk,
    _folder: TempDir,
}

impl Site {
    async fn start() -> Result<Self> {
        let folder = tempfile::tempdir()?;
        let api = Double::start(folder.path()).await?;
        let kas = Kas::start(Options::default(), folder.path()).await?;
        let token = kas.create_agent("site").await?;
        let user = kas.create_user("ana", "site", &["agent"]).await?;
        let bearer = format!("pat:{}:{user}", kas.agent_id("site").await?);
        let agent = own_agent(&kas, &api, &token, folder.path())?;
        let site = Self {
            api,
            kas,
            bearer,
            _agent: agent,
            _folder: folder,
        };
        let serves = async || {
            let answer = site.ask(Method::GET, "/hello", Bytes::new()).await.ok()?;
            answer.status().is_success().then_some(())
        };
        until("the agent", SOON, serves).await?;
        Ok(site)
    }

    fn request(&self, method: Method, path: &str, body: Bytes) -> Result<Request<Bytes>> {
        let url = format!("http://127.0.0.1:{}/k8s-proxy{path}", self.kas.users);
        let request = Request::builder().method(method).uri(url);
        let request = request.header("authorization", format!("Bearer {}", self.bearer));
        Ok(request.body(body)?)
    }

    async fn ask(&self, method: Method, path: &str, body: Bytes) -> Result<Response<Bytes>> {
        client::send(self.request(method, path, body)?).await
    }
}

fn own_agent(kas: &Kas, api: &Double, token: &str, folder: &Path) -> Result<Agentk> {
    let links = Links {
        kas: format!("ws://127.0.0.1:{}/", kas.agents),
        ca: None,
        kubeconfig: api.kubeconfig(folder)?,
    };
    Agentk::run(programs::own_agentk()?, "agentk", &links, token, folder)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_whose_stream_is_refused_is_made_again_with_its_body() -> Result<()> {
    let site = Site::start().await?;
    for method in [Method::POST, Method::PATCH, Method::DELETE, Method::GET] {
        let path = format!("/refused-once/{method}");
        let body = match method {
            Method::GET | Method::DELETE => Bytes::new(),
            _ => vec![b'x'; LARGE].into(),
        };
        let expected = format!("{} bytes", body.len());

        let answer = site.ask(method, &path, body).await?;

        ensure!(answer.status() == 200, "{path}: {answer:?}");
        ensure!(*answer.body() == expected, "{path}: {answer:?}");
        ensure!(site.api.seen.served(&path) == 1, "{path}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_lost_with_its_connection_is_made_again_only_if_it_changes_nothing() -> Result<()>
{
    let site = Site::start().await?;

    let got = site
        .ask(Method::GET, "/lost-once/get", Bytes::new())
        .await?;
    ensure!(got.status() == 200, "{got:?}");
    ensure!(site.api.seen.served("/lost-once/get") == 2);

    let posted = site.ask(Method::POST, "/lost-once/post", Bytes::from("x"));
    let posted = posted.await?;
    ensure!(posted.status() == 502, "{posted:?}");
    ensure!(site.api.seen.served("/lost-once/post") == 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_cannot_be_reached_is_said_to_have_taken_nothing() -> Result<()> {
    let mut site = Site::start().await?;
    let other = tempfile::tempdir()?;
    site.api = Double::start(other.path()).await?;
    let down = async || {
        let answer = site.ask(Method::GET, "/hello", Bytes::new()).await.ok()?;
        (!answer.status().is_success()).then_some(())
    };
    until("the end of the API server", SOON, down).await?;

    let posted = site.ask(Method::POST, "/x", Bytes::from("x")).await?;

    ensure!(posted.status() == 503, "{posted:?}");
    ensure!(posted.headers().contains_key("retry-after"), "{posted:?}");
    let text = String::from_utf8_lossy(posted.body()).into_owned();
    ensure!(text.contains("has not taken the request"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_are_given_up_cost_others_no_connection() -> Result<()> {
    let site = Site::start().await?;
    let seen = &site.api.seen;

    for round in 1..=ROUNDS {
        let mut waiting = JoinSet::new();
        for _ in 0..WAITING {
            let request = site.request(Method::GET, "/wait", Bytes::new())?;
            waiting.spawn(async move { drop(client::open(request).await) });
        }
        let all = async || (seen.waiting.load(Ordering::Relaxed) == WAITING).then_some(());
        until("requests that wait", SOON, all).await?;
        waiting.shutdown().await;
        for number in 0..20 {
            let path = format!("/short/{round}-{number}");
            let answer = site.ask(Method::GET, &path, Bytes::new()).await?;
            ensure!(answer.status() == 200, "{path}: {answer:?}");
            ensure!(seen.served(&path) == 1, "{path} was lost");
        }
        let reset = async || (seen.reset.load(Ordering::Relaxed) == round * WAITING).then_some(());
        let reset = until("resets of what was given up", SOON, reset).await;
        reset.with_context(|| site.kas.process.tail())?;
    }

    ensure!(seen.calmed.load(Ordering::Relaxed) == 0, "too many resets");
    Ok(())
}

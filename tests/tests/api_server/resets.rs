//! A balancer between agents and kas that resets all connections each second, and short answers.

use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::{StreamExt, stream::FuturesUnordered};
use tests::{
    agentk::{Agentk, Links},
    chaos::Chaos,
    http as client,
    kas::{Kas, Options},
    parts::say,
    programs,
    stub_api::StubApi,
    wait::until,
};
use tokio::time::{Instant, MissedTickBehavior, interval};

use crate::number;

const SOON: Duration = Duration::from_secs(60);
/// Requests a second.
const RATE: u64 = 50;

/// What became of the GETs.
#[derive(Debug, Default)]
struct Outcomes {
    asked: usize,
    failed: Vec<String>,
    cut: Vec<String>,
}

#[tokio::test(flavor = "multi_thread")]
async fn short_answers_are_whole_while_connections_are_reset() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let folder = folder.path();
    let stub = StubApi::start().await?;
    let kas = Kas::start(Options::default(), folder).await?;
    let way = Chaos::start(&[kas.agents]).await?;
    let token = kas.create_agent("site").await?;
    let user = kas.create_user("ana", "site", &["agent"]).await?;
    let bearer = format!("pat:{}:{user}", kas.agent_id("site").await?);
    let links = Links {
        kas: format!("ws://127.0.0.1:{}/", way.port()),
        ca: None,
        kubeconfig: stub.kubeconfig(folder)?,
    };
    let _agent = Agentk::start("agentk", &links, &token, folder)?;
    let url = format!("http://127.0.0.1:{}/k8s-proxy/echo", kas.users);
    let serves = async || {
        let answer = client::get(&url, &bearer).await.ok()?;
        answer.status().is_success().then_some(())
    };
    until("the agent", SOON, serves).await?;

    let seconds = number("API_SERVER_RESET_SECONDS", 10) as u64;
    let outcomes = through_resets(&way, &url, &bearer, Duration::from_secs(seconds)).await;

    let (failed, cut) = (outcomes.failed.len(), outcomes.cut.len());
    say(&format!(
        "{seconds} resets: {} GETs, {failed} failed, {cut} cut",
        outcomes.asked
    ));
    if programs::other_agentk().is_none() {
        ensure!(failed + cut == 0, "{outcomes:#?}\n{}", kas.process.tail());
    }
    Ok(())
}

async fn through_resets(way: &Chaos, url: &str, bearer: &str, length: Duration) -> Outcomes {
    let (mut outcomes, mut asking) = (Outcomes::default(), FuturesUnordered::new());
    let mut requests = interval(Duration::from_millis(1000 / RATE));
    requests.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut resets = interval(Duration::from_secs(1));
    let end = Instant::now() + length;
    while Instant::now() < end || !asking.is_empty() {
        tokio::select! {
            _ = requests.tick(), if Instant::now() < end => {
                outcomes.asked += 1;
                asking.push(client::get(url, bearer));
            }
            _ = resets.tick(), if Instant::now() < end => way.cut(),
            Some(answer) = asking.next() => match answer {
                Ok(answer) if answer.status() != 200 => {
                    let text = String::from_utf8_lossy(answer.body());
                    outcomes.failed.push(format!("{}: {text}", answer.status()));
                }
                Ok(answer) => {
                    let whole = serde_json::from_slice::<serde_json::Value>(answer.body());
                    outcomes.cut.extend(whole.err().map(|error| error.to_string()));
                }
                Err(error) => outcomes.cut.push(format!("{error:#}")),
            },
            else => break,
        }
    }
    outcomes
}

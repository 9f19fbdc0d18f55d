//! GitLab's kas 16.5 and ours in one set, and the way from one to the other.
//!
//! `GO_KAS` names GitLab's kas, and `AGENTK_BIN` its agentk; without the former nothing here can run. `SWAP_LOGS` names
//! a folder in which the logs of the last swap are kept.

mod connection;
mod conversations;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context, Result, ensure};
use proto::agent::agent_tracker::rpc::get_connected_agents_request::Request as By;
use tests::{
    mixed_set::{Kind, MixedSet, get},
    parts::{Part, say, skipped},
    programs,
    wait::until,
};
use tokio::{
    sync::Semaphore,
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;

const LIMIT: Duration = Duration::from_secs(60);
/// How long all of one swap may take: nine times what it does. Each of its steps alone may take a minute.
const DEADLINE: Duration = Duration::from_secs(900);
/// Requests a second.
const RATE: u32 = 100;
/// Of these at once, as many as gather in sixteen seconds: what a busy machine does not manage is not asked.
const AT_ONCE: usize = 16 * RATE as usize;
/// How long traffic goes on before the first replica and after the last one is swapped, and between two.
const QUIET: Duration = Duration::from_secs(5);
/// Gives the URLs in all records of 16.5 that say which replica holds an agent.
const OWNERS: &str = "local all = {} for _, key in ipairs(redis.call('keys', 'gitlab-kas:tunnel_tracker2:*')) do \
    for _, url in ipairs(redis.call('hkeys', key)) do all[#all + 1] = url end end return all";
/// What takes longer is told.
const SLOW: Duration = Duration::from_millis(500);
/// As many of what failed, and of what was slow, are told.
const MOST_TOLD: usize = 10;

/// Whether a test cannot run here, which is said aloud.
fn cannot(test: &str) -> Result<bool> {
    if programs::go_kas()?.is_none() {
        say(&format!(
            "SKIPPED: {test} needs GitLab's kas 16.5: GO_KAS=/path/to/kas AGENTK_BIN=/path/to/agentk make e2e-swap"
        ));
        return Ok(true);
    }
    if programs::other_agentk().is_none() {
        say(&format!(
            "{test}: WITHOUT GitLab's agentk, which AGENTK_BIN would name; all agents are ours"
        ));
    }
    Ok(skipped(test, &[Part::Haproxy, Part::Redis]))
}

/// What came of the requests.
#[derive(Debug, Default)]
struct Outcome {
    sent: usize,
    failed: Vec<String>,
    slowest: Duration,
    /// Requests that took more than half a second.
    slow: Vec<String>,
}

/// Sends requests to all agents in turns until `stop`, each at its time whatever became of those before, as far as
/// the machine manages them.
async fn traffic(users: u16, agents: Vec<i64>, stop: CancellationToken) -> Outcome {
    let began = Instant::now();
    let mut ticks = interval(Duration::from_secs(1) / RATE);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let room = Arc::new(Semaphore::new(AT_ONCE));
    let mut open = JoinSet::new();
    let mut outcome = Outcome::default();
    for agent in agents.into_iter().cycle() {
        tokio::select! {
            biased;
            () = stop.cancelled() => break,
            _ = ticks.tick() => {}
        }
        let Ok(place) = room.clone().try_acquire_owned() else {
            continue;
        };
        outcome.sent += 1;
        open.spawn(async move {
            let _place = place;
            let started = Instant::now();
            let got = get(users, agent).await;
            let (at, took) = ((started - began).as_secs_f64(), started.elapsed());
            let what = format!("agent {agent} at {at:.2} s after {took:?}");
            let failed = got.err().map(|error| format!("{what}: {error:#}"));
            (failed, took, what)
        });
    }
    while let Some(done) = open.join_next().await {
        let Ok((failed, took, what)) = done else {
            outcome.failed.push("it panicked".to_owned());
            continue;
        };
        outcome.slowest = outcome.slowest.max(took);
        if took > SLOW {
            outcome.slow.push(what);
        }
        outcome.failed.extend(failed);
    }
    outcome
}

/// Three of the first kind give way to three of the second, one after the other, under load.
async fn swap(from: Kind, to: Kind) -> Result<Outcome> {
    let swapped = timeout(DEADLINE, swap_within(from, to)).await;
    swapped.with_context(|| format!("it takes over {DEADLINE:?}"))?
}

async fn swap_within(from: Kind, to: Kind) -> Result<Outcome> {
    let mut set = MixedSet::prepare(&[from, from, from, to, to, to]).await?;
    for number in 0..3 {
        set.start(number).await?;
    }
    set.start_agents()?;
    set.all_answer().await?;
    let stop = CancellationToken::new();
    let load = tokio::spawn(traffic(set.users, set.agents.clone(), stop.clone()));
    let began = Instant::now();
    let swapped = async {
        for number in 0..3 {
            tokio::time::sleep(QUIET).await;
            set.start(number + 3).await?;
            let stopping = Instant::now();
            set.stop(number).await?;
            say(&format!(
                "at {:.1} s: {from:?} kas-{number} has ended, {:.1} s after SIGTERM; kas-{} ({to:?}) is in its place",
                began.elapsed().as_secs_f64(),
                stopping.elapsed().as_secs_f64(),
                number + 3,
            ));
        }
        tokio::time::sleep(QUIET).await;
        set.all_answer().await
    };
    let swapped = swapped.await;
    stop.cancel();
    let outcome = load.await.context("the load")?;
    swapped.with_context(|| format!("{outcome:?}"))?;
    say(&format!(
        "{from:?} to {to:?}: {} of {} requests failed; the slowest took {:?}, {} more than {SLOW:?}",
        outcome.failed.len(),
        outcome.sent,
        outcome.slowest,
        outcome.slow.len(),
    ));
    for what in [&outcome.failed, &outcome.slow] {
        for one in what.iter().take(MOST_TOLD) {
            say(&format!("  {one}"));
        }
    }
    if let Some(folder) = std::env::var_os("SWAP_LOGS") {
        set.keep_logs(folder.as_ref())?;
    }
    Ok(outcome)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_swap_from_gitlabs_kas_to_ours_loses_no_request() -> Result<()> {
    if cannot("a_rolling_swap_from_gitlabs_kas_to_ours_loses_no_request")? {
        return Ok(());
    }
    let outcome = swap(Kind::GitLabs, Kind::Ours).await?;
    ensure!(outcome.failed.is_empty(), "{:#?}", outcome.failed);
    Ok(())
}

/// The last step of the way. Needs nothing of GitLab's.
#[tokio::test(flavor = "multi_thread")]
async fn the_keys_for_a_mixed_set_are_removed_without_losing_a_request() -> Result<()> {
    let test = "the_keys_for_a_mixed_set_are_removed_without_losing_a_request";
    if skipped(test, &[Part::Haproxy, Part::Redis]) {
        return Ok(());
    }
    let outcome = swap(Kind::Ours, Kind::OursAlone).await?;
    ensure!(outcome.failed.is_empty(), "{:#?}", outcome.failed);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_swap_back_is_counted() -> Result<()> {
    if cannot("a_rolling_swap_back_is_counted")? {
        return Ok(());
    }
    swap(Kind::Ours, Kind::GitLabs).await.map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rolling_restart_of_gitlabs_kas_is_counted_for_comparison() -> Result<()> {
    if cannot("a_rolling_restart_of_gitlabs_kas_is_counted_for_comparison")? {
        return Ok(());
    }
    swap(Kind::GitLabs, Kind::GitLabs).await.map(drop)
}

/// What is under way goes on, or is begun again by whoever asked: no short answer is lost, nothing that must happen
/// once happens twice, and watches miss and repeat nothing.
async fn nothing_of_it_is_lost(from: Kind, to: Kind) -> Result<()> {
    let tallies = conversations::swap(from, to).await?;
    let failed: Vec<_> = tallies.iter().flat_map(|it| &it.failed).collect();
    ensure!(failed.is_empty(), "{failed:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_outlast_a_rolling_swap_from_gitlabs_kas_to_ours() -> Result<()> {
    if cannot("conversations_outlast_a_rolling_swap_from_gitlabs_kas_to_ours")? {
        return Ok(());
    }
    nothing_of_it_is_lost(Kind::GitLabs, Kind::Ours).await
}

/// Needs nothing of GitLab's.
#[tokio::test(flavor = "multi_thread")]
async fn conversations_outlast_the_removal_of_the_keys_for_a_mixed_set() -> Result<()> {
    let test = "conversations_outlast_the_removal_of_the_keys_for_a_mixed_set";
    if skipped(test, &[Part::Haproxy, Part::Redis]) {
        return Ok(());
    }
    nothing_of_it_is_lost(Kind::Ours, Kind::OursAlone).await
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_in_a_rolling_swap_back_are_counted() -> Result<()> {
    if cannot("conversations_in_a_rolling_swap_back_are_counted")? {
        return Ok(());
    }
    conversations::swap(Kind::Ours, Kind::GitLabs)
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn conversations_in_a_rolling_restart_of_gitlabs_kas_are_counted_for_comparison() -> Result<()>
{
    if cannot("conversations_in_a_rolling_restart_of_gitlabs_kas_are_counted_for_comparison")? {
        return Ok(());
    }
    conversations::swap(Kind::GitLabs, Kind::GitLabs)
        .await
        .map(drop)
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_mixed_set_each_agent_answers_through_each_replica_and_gitlab_hears_of_all()
-> Result<()> {
    let test = "in_a_mixed_set_each_agent_answers_through_each_replica_and_gitlab_hears_of_all";
    if cannot(test)? {
        return Ok(());
    }
    let kinds = [Kind::GitLabs, Kind::GitLabs, Kind::GitLabs, Kind::Ours];
    let mut set = MixedSet::prepare(&kinds).await?;
    for number in 0..kinds.len() {
        set.start(number).await?;
    }
    set.start_agents()?;

    set.all_answer().await?;

    // Agents that are held by GitLab's kas, and some that are by ours, are known to GitLab through each.
    for seat in &set.seats {
        let connected = async || {
            let rails = set.double.rails(seat.api).await.ok()?;
            let known = rails.connected(Some(By::ProjectId(3))).await.ok()?;
            let mut pods = BTreeMap::new();
            for it in known {
                *pods.entry(it.agent_id).or_insert(0) += 1;
            }
            let all = set.agents.iter().all(|agent| pods.contains_key(agent));
            all.then_some(pods)
        };
        let what = format!("GitLab to hear of all agents from {:?}", seat.kind);
        let pods = until(&what, LIMIT, connected).await;
        let pods = pods.with_context(|| set.tails())?;
        if seat.kind == Kind::Ours {
            let once = pods.values().all(|pods| *pods == 1);
            ensure!(once, "each process is listed once: {pods:?}");
        }
    }
    // So that they were asked for from the other side at all.
    let owners = set.redis(&["eval", OWNERS, "0"]).await?;
    for (number, seat) in set.seats.iter().enumerate() {
        let holds = owners.contains(&seat.url());
        ensure!(
            holds,
            "kas-{number} ({:?}) holds no agent: {owners}",
            seat.kind
        );
    }
    Ok(())
}

//! Agents are told of pushes, as processes: told to one replica, a push reaches
//! the stream on another through Redis, once, if its agent may read the project.

mod cluster;
mod gitlabs;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use proto::agent::flux::rpc::{
    Project, ReconcileProjectsRequest, ReconcileProjectsResponse,
    git_lab_flux_client::GitLabFluxClient,
};
use tests::{
    gitlab_double::{Endpoint, Fault, FaultKind, Rails},
    gitlab_member::Member,
    gitlab_site::GitLabSite,
    parts::{Part, say, skipped},
    wait::until,
};
use tokio::time::{Instant, timeout};
use tonic::{Code, Status, Streaming};

const LIMIT: Duration = Duration::from_secs(60);
const TOLD: &str = "git_push_notifications";

type Pushes = Streaming<ReconcileProjectsResponse>;

/// Asks a replica for pushes, as an agent.
async fn subscribe(agent: &Rails, projects: &[&str]) -> Result<Pushes, Status> {
    let project = |id: &&str| Project {
        id: (*id).to_owned(),
    };
    let request = ReconcileProjectsRequest {
        project: projects.iter().map(project).collect(),
    };
    let mut client = GitLabFluxClient::new(agent.caller());
    Ok(client.reconcile_projects(request).await?.into_inner())
}

/// Waits until a stream's replica hears pushes, and says how many it was told
/// of: who subscribes to Redis hears only what comes later, so it is told again
/// until it does.
async fn hears(gitlab: &Rails, stream: &mut Pushes) -> Result<u64> {
    tokio::select! {
        told = told(stream) => told?,
        failed = push_again(gitlab) => return failed,
    };
    gitlab.push(7, "group/app").await?;
    let mut count = 2;
    while told(stream).await? != "group/app" {
        count += 1;
    }
    Ok(count)
}

async fn push_again(gitlab: &Rails) -> Result<u64> {
    loop {
        gitlab.push(4, "other/config").await?;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The next project that an agent is told of.
async fn told(stream: &mut Pushes) -> Result<String> {
    let message = timeout(LIMIT, stream.message())
        .await
        .context("no push")??;
    let project = message.context("the stream ended")?.project;
    Ok(project.context("no project")?.id)
}

/// Waits until a counter is this high, and no higher.
async fn counts(member: &Member, name: &str, expected: u64) -> Result<()> {
    let line = format!("flux_{name}_total ");
    let reached = async || member.sample(&line).await.filter(|it| *it >= expected);
    let count = until(name, LIMIT, reached).await?;
    ensure!(count == expected, "{name}: {count}, not {expected}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_push_told_to_one_replica_reaches_the_stream_on_another_once() -> Result<()> {
    if skipped("a_push_reaches_another_replica_once", &[Part::Redis]) {
        return Ok(());
    }
    let site = GitLabSite::start(2).await?;
    let gitlab = site.double.rails(site.members[0].api).await?;
    let agent = Rails::connect(site.members[1].agents, Some("agent-7")).await?;
    let projects = ["group/app", "group/secret", "other/config"];
    let mut stream = subscribe(&agent, &projects).await?;
    let before = hears(&gitlab, &mut stream).await?;

    gitlab.push(8, "group/secret").await?;
    gitlab.push(9, "group/unasked").await?;
    let began = Instant::now();
    gitlab.push(7, "group/app").await?;
    let first = told(&mut stream).await?;
    let took = began.elapsed();
    gitlab.push(4, "other/config").await?;
    let second = told(&mut stream).await?;

    ensure!(
        [&*first, &*second] == ["group/app", "other/config"],
        "{first} {second}"
    );
    counts(&site.members[1], TOLD, before + 2).await?;
    let reported = async || {
        let reports = site.double.usage();
        let report = reports
            .iter()
            .find(|it| it["unique_counters"]["flux_git_push_notified_unique_projects"].is_array());
        report.map(|it| it["counters"]["flux_git_push_notifications_total"].clone())
    };
    until("usage to be reported", LIMIT, reported).await?;
    say(&format!(
        "a push told to one replica reached the stream on another after {took:?}"
    ));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn while_gitlab_is_slow_a_repeated_push_waits_once_and_too_many_are_dropped() -> Result<()> {
    if skipped("too_many_pushes_are_dropped", &[Part::Redis]) {
        return Ok(());
    }
    let site = GitLabSite::start(1).await?;
    let member = &site.members[0];
    let gitlab = site.double.rails(member.api).await?;
    let agent = Rails::connect(member.agents, Some("agent-7")).await?;
    let names: Vec<_> = (0..12).map(|it| format!("group/{it}")).collect();
    let mut projects: Vec<_> = names.iter().map(String::as_str).collect();
    projects.extend(["group/app", "other/config"]);
    let mut stream = subscribe(&agent, &projects).await?;
    let before = hears(&gitlab, &mut stream).await?;
    let questions = || site.double.counters().of(Endpoint::VerifyProjectAccess);
    let asked = questions();
    let slow = Fault::at(Endpoint::VerifyProjectAccess, FaultKind::Hang, Some(1));
    site.double.change(|it| it.faults = vec![slow]);

    gitlab.push(100, "group/0").await?;
    let asks = async |count| {
        let enough = async || (questions() >= asked + count).then_some(());
        until("GitLab to be asked", LIMIT, enough).await
    };
    asks(1).await?;
    gitlab.push(7, "group/app").await?;
    gitlab.push(7, "group/app").await?;
    for (id, name) in (101..).zip(&names[1..]) {
        gitlab.push(id, name).await?;
    }

    counts(member, "dropped_git_push_notifications", 2).await?;
    ensure!(told(&mut stream).await? == "group/app");
    asks(10).await?;
    counts(member, TOLD, before + 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_and_empty_names_are_refused() -> Result<()> {
    if skipped("strangers_and_empty_names_are_refused", &[Part::Redis]) {
        return Ok(());
    }
    let site = GitLabSite::start(1).await?;
    let port = site.members[0].agents;
    let stranger = Rails::connect(port, Some("nobody")).await?;
    let agent = Rails::connect(port, Some("agent-7")).await?;

    let refused = subscribe(&stranger, &["group/app"]).await;
    let empty = subscribe(&agent, &["group/app", ""]).await;

    let code = |answer: Result<_, Status>| answer.err().map(|status| status.code());
    ensure!(code(refused) == Some(Code::Unauthenticated));
    ensure!(code(empty) == Some(Code::InvalidArgument));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_leaves_ends_its_streams_in_order() -> Result<()> {
    if skipped(
        "a_replica_that_leaves_ends_its_streams_in_order",
        &[Part::Redis],
    ) {
        return Ok(());
    }
    let site = GitLabSite::start(1).await?;
    let agent = Rails::connect(site.members[0].agents, Some("agent-7")).await?;
    let mut stream = subscribe(&agent, &["group/app"]).await?;

    site.members[0].process.signal("TERM").await?;

    let ended = timeout(LIMIT, stream.message()).await??;
    ensure!(ended.is_none(), "{ended:?}");
    Ok(())
}
